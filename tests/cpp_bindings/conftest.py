"""Builds of the C++ library, each made once per test run, in a temporary folder. Tests skip where a tool is missing."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "cpp_bindings"
ENGINE = ROOT / "runtime" / "assets" / "edge.onnx"
FACE_MODEL = ROOT / "runtime" / "assets" / "face_model.safetensors"
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
# CMake and Ninja may come as wheels: their programs then lie beside Python, whose folder need not be on the path.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def run(*command, check=True, **options):
    options |= {"capture_output": True, "text": True, "timeout": 600, "env": os.environ | {"PATH": PATH}}
    result = subprocess.run([str(part) for part in command], check=False, **options)
    assert not check or result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


def has_tool(name):
    return shutil.which(name, path=PATH) is not None


def require(*, tools=("cmake", "c++"), modules=()):
    for name in tools:
        if not has_tool(name):
            pytest.skip(f"{name} is not installed")
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the Python package {name} is not installed")


def has_doctest():
    said = run("c++", "-x", "c++", "-E", "-", check=False, input="#include <doctest/doctest.h>\n")
    return said.returncode == 0


def require_doctest():
    if not has_doctest():
        pytest.skip("doctest's header is not installed (Debian: doctest-dev)")


def build(folder, *options, target="all"):
    """Configures and builds the library with warnings as errors; returns what CMake said."""
    generator = ["-G", "Ninja"] if has_tool("ninja") else []
    said = run("cmake", *generator, "-S", SOURCE, "-B", folder, "-DCLN_WERROR=ON", *options).stdout
    parallel = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "1")
    run("cmake", "--build", folder, "--target", target, "--parallel", parallel)
    return said


@pytest.fixture(scope="session")
def gcc_build(tmp_path_factory):
    """The whole library with the system's compiler, optimised, with OpenVINO where its wheel is installed."""
    require()
    folder = tmp_path_factory.mktemp("gcc")
    tests, openvino = ("ON" if found else "OFF" for found in (has_doctest(), HAS_OPENVINO))
    options = [f"-DCLN_BUILD_TESTS={tests}", f"-DCLN_OPENVINO={openvino}", f"-DPython3_EXECUTABLE={sys.executable}"]
    said = build(folder, *options)
    assert f"Engine OpenVINO: {'found' if HAS_OPENVINO else 'off'}" in said
    return folder


@pytest.fixture(scope="session")
def demo(gcc_build):
    """The example program, where it has an engine."""
    if not HAS_OPENVINO:
        pytest.skip("openvino is not installed")
    return gcc_build / "cln_demo"


@pytest.fixture(scope="session")
def cln_cpp(tmp_path_factory):
    """The Python binding, built as a wheel is and imported from a temporary folder (or the one that is installed)."""
    require(modules=("nanobind", "scikit_build_core", "pip"))
    folder = tmp_path_factory.mktemp("binding")
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--disable-pip-version-check", "--no-index"]
    run(sys.executable, "-m", "pip", "install", *options, "--target", folder, SOURCE)
    sys.path.insert(0, str(folder))
    try:
        import cln_cpp
    finally:
        sys.path.remove(str(folder))
    return cln_cpp

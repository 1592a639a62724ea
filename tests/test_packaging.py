"""What an install of the package gets, by pyproject.toml."""

import importlib
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def names(requirements):
    return {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}


def test_onnx_runtime_comes_from_the_extras_cpu_and_gpu_alone():
    """Two builds of it in one environment overwrite each other's files, whatever else is installed with them."""
    extras = {extra: names(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
    carriers = {extra: sorted(found & set(ONNX_RUNTIMES)) for extra, found in extras.items()}
    assert {extra: found for extra, found in carriers.items() if found} == {
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu"],
    }


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_each_console_script_names_a_function(target):
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))

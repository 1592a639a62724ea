"""The C++ library itself: its own tests, sanitizers, the installed package, and the example against Python."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from runtime import Reconstructor, load_face_model, read_image
from runtime.files import sha256
from runtime.manifest import Manifest, Parity
from tests.cpp_bindings.conftest import ENGINE, FACE_MODEL, ROOT, build, has_tool, require, require_doctest, run

BOXES = [(172, 68.5, 105, 105), (100, 50, 300, 300)]  # the second is large enough to be averaged first

CONSUMER_CMAKE = """
cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES C CXX)
find_package(cln 0.1 REQUIRED)
add_executable(uses_cpp uses_cpp.cpp)
target_link_libraries(uses_cpp PRIVATE cln::cln cln::engines)
add_executable(uses_c uses_c.c)
target_link_libraries(uses_c PRIVATE cln::c)
"""
CONSUMER_CPP = """
#include <cln/cln.hpp>
#include <cstdio>
int main(int, char** argv) {
  try {
    cln::load_engine("none.engine");
  } catch (const cln::Error&) {
    std::printf("%zu", cln::FaceModel::load(argv[1]).vertex_count());
  }
}
"""
CONSUMER_C = """
#include <cln/cln.h>
#include <stdio.h>
#include <stdlib.h>
/* FACE_MODEL: its number of vertices; FACE_MODEL ENGINE BGR_FILE SIDE [again]: landmarks in a square image */
int main(int argc, char** argv) {
  cln_error error = {""};
  cln_face_model* model = NULL;
  cln_reconstructor* reconstructor = NULL;
  if (argc < 2 || cln_face_model_load(argv[1], &model, &error) != CLN_OK) return 1;
  if (argc == 2) printf("%zu", cln_face_model_vertex_count(model));
  if (argc >= 5) {
    int32_t side = atoi(argv[4]);
    uint8_t* pixels = malloc((size_t)side * side * 3);
    FILE* file = fopen(argv[3], "rb");
    if (!pixels || !file || fread(pixels, 3, (size_t)side * side, file) != (size_t)side * side) return 2;
    cln_image image = {pixels, side, side, side * 3, 3};
    cln_box box = {172, 68.5, 105, 105, 0};
    float landmarks[68 * 3];
    cln_status (*look)(cln_reconstructor*, const cln_image*, const cln_box*, size_t, float*, float*, cln_pose*, float*,
                       cln_error*) = argc == 6 ? cln_reconstruct_detected : cln_reconstruct;
    if (cln_reconstructor_create(argv[2], model, 1, &reconstructor, &error) != CLN_OK ||
        look(reconstructor, &image, &box, 1, landmarks, NULL, NULL, NULL, &error) != CLN_OK) {
      fprintf(stderr, "%s\\n", error.message);
      return 3;
    }
    for (int i = 0; i < 68 * 3; ++i) printf("%f ", landmarks[i]);
    fclose(file);
    free(pixels);
  }
  cln_reconstructor_free(reconstructor);
  cln_face_model_free(model);
  return 0;
}
"""


def test_unit_tests(gcc_build, tmp_path):
    require_doctest()
    assert "SUCCESS" in run(gcc_build / "tests" / "cln_tests", cwd=tmp_path).stdout


def test_unit_tests_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    require()
    require_doctest()
    compiler = "clang++" if has_tool("clang++") else "c++"  # clang: a second opinion on warnings too
    options = ["-DCLN_BUILD_TESTS=ON", "-DCLN_OPENVINO=OFF", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"]
    folder = tmp_path / "build"
    said = build(folder, f"-DCMAKE_CXX_COMPILER={compiler}", "-DCLN_SANITIZE=address,undefined", *options)
    assert "Engine OpenVINO: off" in said and re.search(r"Engine TensorRT-RTX: (not )?found", said)
    assert "SUCCESS" in run(folder / "tests" / "cln_tests", cwd=tmp_path).stdout


@pytest.fixture(scope="module")
def consumer(gcc_build, tmp_path_factory):
    """A project of somebody else's, built against the installed package."""
    folder = tmp_path_factory.mktemp("consumer")
    run("cmake", "--install", gcc_build, "--prefix", folder / "prefix")
    for name, text in (("CMakeLists.txt", CONSUMER_CMAKE), ("uses_cpp.cpp", CONSUMER_CPP), ("uses_c.c", CONSUMER_C)):
        (folder / name).write_text(text)
    run("cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}")
    run("cmake", "--build", folder / "build")
    return folder / "build"


def test_find_package_works_from_an_installed_tree(consumer):
    expected = str(len(load_face_model().mean))
    assert [run(consumer / name, FACE_MODEL).stdout for name in ("uses_cpp", "uses_c")] == [expected] * 2


def test_the_c_api_gives_pythons_landmarks(consumer, demo, tmp_path):
    image = np.ascontiguousarray(read_image(ROOT / "examples" / "astronaut.jpg")[:500, :500])
    (tmp_path / "image.bgr").write_bytes(image.tobytes())
    command = [consumer / "uses_c", FACE_MODEL, ENGINE, tmp_path / "image.bgr", len(image)]
    said = [run(*command, *more).stdout for more in ((), ("again",))]
    once, again = (np.array(text.split(), dtype=float).reshape(68, 3) for text in said)
    with Reconstructor(threads=1) as reconstruct:
        prepared = reconstruct.prepare(image, BOXES[:1])
        (face,), (better,) = reconstruct.reconstruct([prepared, dataclasses.replace(prepared, frame=image)])
    assert np.abs(once - face.landmarks).max() < 0.05
    assert np.abs(again - better.landmarks).max() < 0.05 < np.abs(better.landmarks - face.landmarks).max()


def test_nothing_but_the_c_functions_leaves_the_c_library(gcc_build):
    if not has_tool("nm"):
        pytest.skip("nm is not installed")
    lines = run("nm", "-D", "--defined-only", gcc_build / "libcln_c.so").stdout.splitlines()
    names = [line.split()[-1] for line in lines if " T " in line]
    assert names and all(name.startswith("cln_") for name in names), names


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.ppm"
    assert cv2.imwrite(str(path), read_image(ROOT / "examples" / "astronaut.jpg"))
    return path


def call_demo(demo, photo, *, engine=ENGINE, face_model=FACE_MODEL, boxes=BOXES, more=()):
    text = ";".join(",".join(map(str, box)) for box in boxes)
    command = [demo, "--engine", engine, "--face-model", face_model, photo, "--boxes", text, "--threads", "1", *more]
    return run(*command, check=False)


def read_demo(text):
    """The lines' words, and the landmarks (F, 68, 3)."""
    lines = [line.split() for line in text.splitlines()]
    points = [line[3:] for line in lines if line[0] == "landmark"]
    return lines, np.array(points, dtype=float).reshape(-1, 68, 3)


def test_the_example_gives_pythons_landmarks_pose_and_mesh(demo, photo, tmp_path):
    said = call_demo(demo, photo, more=["-o", tmp_path / "face.obj"])
    assert said.returncode == 0, said.stderr
    with Reconstructor(threads=1) as reconstruct:
        faces = reconstruct(read_image(ROOT / "examples" / "astronaut.jpg"), boxes=BOXES)
    lines, landmarks = read_demo(said.stdout)
    angles = np.array([line[3::2] for line in lines if line[0] == "face"], dtype=float)
    for face, points, own in zip(faces, landmarks, angles, strict=True):
        assert np.abs(points - face.landmarks).max() < 0.05
        assert np.abs(own - [face.pose.yaw, face.pose.pitch, face.pose.roll]).max() < 0.1
    assert lines[-1][0] == "time"
    faces[0].save_obj(tmp_path / "python.obj")
    ours, pythons = (read_obj(tmp_path / name) for name in ("face.obj", "python.obj"))
    assert np.abs(ours["v"] - pythons["v"]).max() < 0.1
    assert np.array_equal(ours["f"], pythons["f"]) and np.array_equal(ours["vt"], pythons["vt"])


def test_further_looks_are_pythons(demo, photo):
    # As the face asks for; off; far off; so far that a second region is, too
    boxes = [(173, 85, 98, 98), (165, 72, 105, 105), (150, 40, 150, 150), (173, 10, 100, 100), (60, 0, 300, 300)]
    said = call_demo(demo, photo, boxes=boxes, more=["--looks", "4"])
    assert said.returncode == 0, said.stderr
    _, landmarks = read_demo(said.stdout)
    image = read_image(ROOT / "examples" / "astronaut.jpg")
    with Reconstructor(threads=1) as reconstruct:
        prepared = reconstruct.prepare(image, boxes)
        first = reconstruct.reconstruct([prepared])[0]
        faces = reconstruct.reconstruct([dataclasses.replace(prepared, frame=image)])[0]
    moved = [np.abs(face.landmarks - before.landmarks).max() for face, before in zip(faces, first, strict=True)]
    assert moved[0] == 0 and min(moved[1:]) > 0.2  # pixels: the others were seen again
    for face, points in zip(faces, landmarks, strict=True):
        assert np.abs(points - face.landmarks).max() < 0.05


def read_obj(path):
    rows = {"v": [], "vt": [], "f": []}
    for line in path.read_text().splitlines():
        kind, *values = line.replace("/", " ").split()
        rows[kind].append([float(value) for value in values])
    return {kind: np.array(values) for kind, values in rows.items()}


@pytest.mark.parametrize("part", ["photo", "face_model", "engine", "manifest", "box", "missing"])
def test_the_example_refuses_what_is_damaged_with_one_line(demo, photo, tmp_path, part):
    parts, boxes = {"photo": photo, "face_model": FACE_MODEL, "engine": ENGINE}, BOXES
    if part == "manifest":
        parts["engine"] = tmp_path / "damaged.onnx"
        parts["engine"].write_bytes(ENGINE.read_bytes().replace(b'"input_size": 128', b'"input_size": "8"'))
    elif part == "box":
        boxes = [(1, 2, 0, 4)]
    elif part == "missing":
        parts["face_model"] = tmp_path / "none.safetensors"
    else:
        data = parts[part].read_bytes()
        parts[part] = tmp_path / f"damaged{parts[part].suffix}"
        parts[part].write_bytes(data[: len(data) // 2])
    said = call_demo(demo, parts["photo"], engine=parts["engine"], face_model=parts["face_model"], boxes=boxes)
    assert said.returncode == 2
    assert re.fullmatch(r"error: .*expected .*got .*\n|error: .*expected .*found none; .*\n", said.stderr), said.stderr


def test_an_engine_for_another_face_model_is_refused(demo, photo, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(FACE_MODEL.read_bytes().replace(b"makehuman-cc0", b"makehuman-cc1"))
    said = call_demo(demo, photo, face_model=other)
    assert said.returncode == 2 and "built for face model" in said.stderr


def test_every_field_of_pythons_manifest_is_known(demo, photo, tmp_path):
    # A plan can't be run here; that its engine is said to be missing shows that its manifest was read and accepted.
    plan = tmp_path / "x.engine"
    plan.write_bytes(b"plan")
    values = {"builder": "tensorrt", "plan_sha256": sha256(b"plan"), "batch_range": (1, 8), "figures": {"nme": 4.0}}
    samples = {"int": 1, "str": "x", "float": 1.0, "str | None": "x", "float | None": 1.0, "tuple[str, ...]": ("8.0+",)}

    def filled(cls, **given):
        free = [f for f in dataclasses.fields(cls) if f.name not in ("format", "version", *given)]
        return cls(**given, **{f.name: samples[f.type] for f in free})

    manifest = filled(Manifest, parity=(filled(Parity),), **values)
    (tmp_path / "x.engine.json").write_text(manifest.to_json())
    said = call_demo(demo, photo, engine=plan)
    assert said.returncode == 2 and "one of 'tensorrt'" in said.stderr, said.stderr
    (tmp_path / "x.engine.json").write_text(json.dumps(dataclasses.asdict(manifest) | {"more": 1}))
    assert "unknown field 'more'" in call_demo(demo, photo, engine=plan).stderr

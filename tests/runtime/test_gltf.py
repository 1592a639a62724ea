"""`.glb` files, read again with pygltflib and trimesh, and by Khronos' validator where npm has put it."""

import io
import json
import os
import shutil
import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import EngineUnavailableError, InvalidInputError, gltf
from runtime.gltf import check_size, to_glb
from tests.runtime.faces import MODEL, posed

pygltflib = pytest.importorskip("pygltflib")
IMAGE = np.random.default_rng(0).integers(60, 200, size=(200, 220, 3), dtype=np.uint8)
COEFFICIENTS = np.concatenate([np.linspace(-1, 1, 40), np.linspace(1.5, -1.5, 10)])


@pytest.fixture(scope="module")
def glb():
    return to_glb(posed(20, coefficients=COEFFICIENTS), IMAGE)


def accessor(document, number):
    """An accessor's values as floats, sparse ones too."""
    blob, one = document.binary_blob(), document.accessors[number]
    kind = {5126: "<f4", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4"}
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[one.type]

    def read(view, dtype, count, width):
        view = document.bufferViews[view]
        start, step = view.byteOffset or 0, view.byteStride or np.dtype(dtype).itemsize * width
        raw = np.frombuffer(blob[start : start + view.byteLength], np.uint8)
        rows = [raw[i * step : i * step + np.dtype(dtype).itemsize * width] for i in range(count)]
        return np.stack(rows).copy().view(dtype).reshape(count, width)

    if one.bufferView is not None:
        values = read(one.bufferView, kind[one.componentType], one.count, width).astype(float)
    else:
        values = np.zeros((one.count, width))
        at = read(one.sparse.indices.bufferView, kind[one.sparse.indices.componentType], one.sparse.count, 1)[:, 0]
        values[at] = read(one.sparse.values.bufferView, kind[one.componentType], one.sparse.count, width)
    scale = {5121: 255, 5122: 32767}[one.componentType] if one.normalized else 1
    return values / scale


def test_the_neutral_face_and_the_expression_are_both_in_the_file(glb):
    face = posed(20, coefficients=COEFFICIENTS)
    document = pygltflib.GLTF2.load_from_bytes(glb)
    (mesh,) = document.meshes
    (primitive,) = mesh.primitives
    neutral = accessor(document, primitive.attributes.POSITION)
    assert neutral == pytest.approx(
        posed(coefficients=COEFFICIENTS * (np.arange(50) < 40)).model_vertices / 1000, abs=1e-6
    )
    assert mesh.extras["targetNames"] == [f"expression_{k}" for k in range(10)] and len(primitive.targets) == 10
    assert mesh.weights == pytest.approx(COEFFICIENTS[40:], abs=1e-6)
    moves = [
        accessor(document, target["POSITION"] if isinstance(target, dict) else target.POSITION)
        for target in primitive.targets
    ]
    posed_mesh = neutral + sum(weight * move for weight, move in zip(mesh.weights, moves, strict=True))
    assert np.abs(posed_mesh - face.model_vertices / 1000).max() < 5e-4  # metres
    assert np.array_equal(accessor(document, primitive.indices).reshape(-1, 3), MODEL.triangles)
    normals = accessor(document, primitive.attributes.NORMAL)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert normals[neutral[:, 2].argmax(), 2] > 0.7  # the tip of the nose looks along +z
    seen = accessor(document, primitive.attributes._SEEN)[:, 0]
    assert set(seen) == {0, 1} and seen[MODEL.mean[:, 0] > 30].mean() > seen[MODEL.mean[:, 0] < -30].mean()
    assert document.images[0].mimeType == "image/jpeg" and len(glb) < 600_000


def test_trimesh_opens_it(glb):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.load(io.BytesIO(glb), file_type="glb")
    (mesh,) = scene.geometry.values()
    assert len(mesh.vertices) == len(MODEL.mean) and (scene.extents > 0.15).all() and (scene.extents < 0.3).all()
    assert mesh.visual.material.baseColorTexture.size == (512, 512)
    outward = np.einsum("tc,tc->t", mesh.face_normals, mesh.triangles_center - [0, 0, -0.06])
    assert (outward > 0).mean() > 0.9


def test_khronos_validator_finds_nothing(glb, tmp_path):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed")
    where = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "face.glb").write_bytes(glb)
    (tmp_path / "plain.glb").write_bytes(to_glb(posed()))
    code = """
        const validator = require('gltf-validator'), fs = require('fs');
        const issues = async (file) => (await validator.validateBytes(new Uint8Array(fs.readFileSync(file)))).issues;
        (async () => { for (const file of process.argv.slice(1)) console.log(JSON.stringify(await issues(file))); })();
    """
    files = [str(tmp_path / name) for name in ("face.glb", "plain.glb")]
    done = subprocess.run(
        ["node", "-e", code, *files], capture_output=True, text=True, env=os.environ | {"NODE_PATH": where}
    )
    if "Cannot find module" in done.stderr:
        pytest.skip("gltf-validator is not installed: npm install -g gltf-validator")
    issues = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(issues) == 2 and all(i["numErrors"] == i["numWarnings"] == 0 for i in issues), issues


def test_the_header_is_a_glbs(glb):
    magic, version, length = struct.unpack("<4sII", glb[:12])
    assert (magic, version, length) == (b"glTF", 2, len(glb))


def test_meshes_beyond_the_index_type_are_refused():
    check_size(2**32 - 2, 1000)
    for vertices, triangles in ((2**32 - 1, 1), (3, 2**31)):
        with pytest.raises(InvalidInputError, match=r"glb: expected at most .*32-bit numbers hold"):
            check_size(vertices, triangles)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pygltflib", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'cln\[glb\]'"):
        to_glb(posed())


def test_many_vertices_get_wider_indices():
    buffer = gltf._Buffer(pygltflib)
    buffer.add_moves(np.full((70_000, 3), 1e-3, np.float32))
    (moves,) = buffer.accessors
    assert moves.sparse.indices.componentType == 5125 and moves.sparse.count == moves.count == 70_000
    assert SimpleNamespace(**vars(moves)).max == [33, 33, 33]

"""The whole chain on a small network: what is written, what is in it, and what makes it refuse."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from export.build_engine import main  # noqa: E402
from export.layer_types import onnx_layer_types  # noqa: E402
from runtime.engines.cuda import Cuda  # noqa: E402
from runtime.engines.onnx import OnnxEngine  # noqa: E402
from runtime.engines.plans import read_plan_manifest  # noqa: E402
from runtime.engines.tensorrt import TensorRTEngine  # noqa: E402
from runtime.errors import EngineUnavailableError  # noqa: E402
from runtime.files import sha256  # noqa: E402
from tests.export.conftest import blobs  # noqa: E402

NAMES = ["small.engine", "small.engine.json", "small.fp16.onnx", "small.onnx"]


def no_gpu() -> str:
    try:
        Cuda()
    except EngineUnavailableError as error:
        return str(error)
    return ""


def run(sources, checkpoint: Path, out: Path, *options: str) -> int:
    return main([str(checkpoint), "--out", str(out), "--face-model", str(sources.face_model_path), *options])


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    """One build, as most tests look at it: (folder, what was printed)."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.sources.rendered_faces", blobs)
        assert run(sources, sources.save(sources.network), folder / "small.engine", "--fp16-onnx") == 0
    return folder


def test_files_and_manifest(built, sources):
    assert sorted(path.name for path in built.iterdir()) == NAMES
    plan = (built / "small.engine").read_bytes()
    manifest = read_plan_manifest(built / "small.engine", plan)
    assert manifest.precision == "fp16-mixed"
    assert (manifest.builder, manifest.compute_capabilities) == ("tensorrt_rtx", ("8.0+",))
    assert (manifest.input_size, manifest.num_params, manifest.batch_range) == (64, 62, (1, 64))
    assert manifest.face_model_sha256 == sources.face_model.sha256
    assert manifest.checkpoint_sha256 == sha256((sources.folder / "small.pth").read_bytes())
    assert manifest.onnx_sha256 == sha256((built / "small.fp16.onnx").read_bytes())
    assert manifest.figures == {"nme/mean": 3.5}
    steps = ["reparameterized", "ONNX float32", "float16-mixed", "ONNX float16-mixed"]
    assert [parity.step for parity in manifest.parity[:4]] == steps
    assert 0 < manifest.parity[0].max_landmark_px < 1e-3 < manifest.parity[2].max_landmark_px


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_gives_what_the_network_gives(built, sources, batch):
    crops = np.random.default_rng(batch).integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = sources.network(torch.from_numpy(crops)).numpy()
    with OnnxEngine(built / "small.onnx") as engine, OnnxEngine(built / "small.fp16.onnx") as mixed:
        assert engine.manifest.precision == "fp32"
        assert mixed.manifest.precision == "fp16-mixed"
        np.testing.assert_allclose(engine(crops), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mixed(crops), expected, rtol=2e-2, atol=2e-2)


def test_mixed_graph_is_half_in_the_streams_and_float_at_its_ends(built):
    model = onnx.shape_inference.infer_shapes(onnx.load(built / "small.fp16.onnx"))
    nodes = model.graph.node
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    convolutions = [kinds[node.output[0]] for node in nodes if node.op_type == "Conv"]
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert convolutions[:-1] == [half] * (len(convolutions) - 1)
    assert convolutions[-1] == single  # the last linear layer
    assert [kinds[node.output[0]] for node in nodes if node.op_type == "LayerNormalization"] == [single, single]
    assert [node.op_type for node in nodes if "crops" in node.input] == ["Cast"]  # all that TensorRT does with uint8
    scale, shift = nodes[-2], nodes[-1]  # the de-whitening
    assert [scale.op_type, shift.op_type] == ["Mul", "Add"]
    assert kinds[scale.output[0]] == kinds[shift.output[0]] == single
    assert shift.output[0] == "params"


def test_graph_tells_nothing_of_the_machine_that_made_it(built):
    for name in ("small.onnx", "small.fp16.onnx"):
        data = (built / name).read_bytes()
        assert b".py" not in data
        assert str(Path.cwd()).encode() not in data


def test_float32_plan_is_named_so_and_built_from_the_onnx_beside_it(sources, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "exact.engine"
    assert run(sources, sources.save(sources.network), out, "--precision", "fp32", "--max-batch", "2") == 0
    manifest = read_plan_manifest(out, out.read_bytes())
    assert manifest.precision == "fp32"
    assert manifest.batch_range == (1, 2)
    assert manifest.onnx_sha256 == sha256((tmp_path / "exact.onnx").read_bytes())


def test_mixed_plan_serves_turing_by_name(built, sources, tmp_path):
    from export.plan import build_plan

    graph = (built / "small.fp16.onnx").read_bytes()
    plan = build_plan(
        graph, builder="tensorrt_rtx", input_size=64, max_batch=4, compute_capabilities=("7.5", "8.9", "12.0")
    )
    assert plan.compute_capabilities == ("7.5", "8.9", "12.0")
    assert plan.precision == "fp16-mixed"
    assert sum(plan.layer_types.values()) == sum(onnx_layer_types(graph).values())


def test_onnx_only_needs_no_tensorrt(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    checkpoint, out = sources.save(sources.network), tmp_path / "small.engine"
    assert run(sources, checkpoint, out) == 2
    message = capsys.readouterr().err
    assert "pip install 'cln[gpu]'" in message
    assert "--onnx-only" in message
    assert run(sources, checkpoint, out, "--onnx-only") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def _infinite(network):
    network.global_stream[0].conv3.weight.data[0, 0, 0, 0] = float("inf")


def _beyond_half(network):
    """The first block a million times larger, the second made to undo it: float32 carries that, float16 doesn't."""
    first, second = network.global_stream[0], network.global_stream[1]
    for norm in (first.norm3, first.norm1):
        norm.weight.data *= 1e6
        norm.bias.data *= 1e6
    for convolution in (second.conv3, second.conv1):
        convolution.weight.data *= 1e-6


@pytest.mark.parametrize(
    ("spoil", "message"), [(_infinite, "got NaN or infinity"), (_beyond_half, "float16's largest number")]
)
def test_failed_check_leaves_no_files(sources, tmp_path, capsys, spoil, message):
    pytest.importorskip("tensorrt_rtx")
    network = copy.deepcopy(sources.network)
    spoil(network)
    assert run(sources, sources.save(network, "spoilt.pth"), tmp_path / "spoilt.engine") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("missing", [], "found none"),
        ("truncated", [], "can't be read"),
        ("foreign face model", [], "face model 'points'"),
        ("good", ["--max-batch", "0"], "--max-batch"),
        ("good", ["--out", "plan.trt"], ".engine"),
        ("good", ["--compute-capability", "6.1"], "expected some of 7.5"),
        ("good", ["--precision", "fp32", "--compute-capability", "7.5"], "no float32 matrix product"),
        ("good", ["--precision", "fp32", "--fp16-onnx"], "--fp16-onnx"),
        ("good", ["--precision", "int8", "--fp16-onnx"], "--fp16-onnx"),
        ("good", ["--precision", "int8", "--compute-capability", "8.9"], "makes an ONNX file for CPUs"),
        ("good", ["--onnx-only", "--crops", "."], "no image"),
    ],
)
def test_errors_are_one_line_and_status_2(sources, tmp_path, monkeypatch, capsys, case, options, message):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    good = sources.save(sources.network)
    cut = sources.folder / "cut.pth"
    cut.write_bytes(good.read_bytes()[:5000])
    checkpoint = {
        "missing": tmp_path / "none.pth",
        "truncated": cut,
        "foreign face model": sources.save(sources.network, "foreign.pth", face_model_sha256="0" * 64),
        "good": good,
    }[case]
    assert run(sources, checkpoint, tmp_path / "x.engine", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(bool(no_gpu()), reason=no_gpu())
def test_plan_runs_as_the_onnx_does(built):
    steps = [
        parity.step
        for parity in read_plan_manifest(built / "small.engine", (built / "small.engine").read_bytes()).parity
    ]
    assert steps[-1] == "plan in the runtime"
    crops = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    with TensorRTEngine(built / "small.engine") as engine, OnnxEngine(built / "small.onnx") as reference:
        for batch in (0, 1, 3, 70):  # 70 is beyond the plan's largest
            np.testing.assert_allclose(engine(crops[:batch]), reference(crops[:batch]), rtol=2e-2, atol=2e-2)

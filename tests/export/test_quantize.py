"""INT8: which layers it takes, which it leaves out, and that it says so when it may not pass."""

import contextlib
import copy
import io
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime.quantization")

from export import parity, quantize  # noqa: E402
from export.build_engine import main  # noqa: E402
from export.comparison import FLOAT32_GATE, Comparison, Gate, onnx_run  # noqa: E402
from export.equalization import equalized  # noqa: E402
from export.errors import ParityError  # noqa: E402
from export.faces import ParityCrops, noise_crops  # noqa: E402
from export.first_mismatch import exporter_mismatch, graph_mismatch, torch_mismatch  # noqa: E402
from export.onnx_graph import export_graph  # noqa: E402
from export.precision import to_mixed  # noqa: E402
from runtime.engines.onnx import OnnxEngine  # noqa: E402
from runtime.files import sha256  # noqa: E402
from training.model import reparameterize  # noqa: E402


def compare(sources, network, **changes):
    noise = noise_crops(64, 16)
    return Comparison(network, ParityCrops(faces=noise[8:], noise=noise[:4], **changes), sources.face_model)


@pytest.fixture(scope="module")
def mixed_graph(sources):
    return export_graph(to_mixed(reparameterize(sources.network)))


@pytest.fixture
def exported(graph, mixed_graph, monkeypatch):
    """The exporter's answers, kept: it takes seconds, and has its own tests."""
    kept = {torch.float32: graph, torch.float16: mixed_graph}
    monkeypatch.setattr("export.onnx_graph.export_graph", lambda model: kept[model.fusion.weight.dtype])


def stretched(network, factor=1e4):
    """One channel of a block `factor` times as large, and the next block made to undo it: float32 carries that.

    The range of the tensor between is then that channel's alone, and the other channels' values fall into one step.
    """
    spread = copy.deepcopy(network)
    first, second = spread.global_stream[1], spread.global_stream[2]
    for norm in (first.norm3, first.norm1, first.norm0):
        if norm is not None:
            norm.weight.data[0] *= factor
            norm.bias.data[0] *= factor
    for convolution in (second.conv3, second.conv1):
        convolution.weight.data[:, 0] /= factor
    return spread


def with_dead_channel(network, weight=1e8):
    """One channel of a block is always zero, and the next block's weights of it are huge: 127 steps reach to them."""
    dead = copy.deepcopy(network)
    first, second = dead.global_stream[1], dead.global_stream[2]
    for norm in (first.norm3, first.norm1, first.norm0):
        if norm is not None:
            norm.weight.data[0], norm.bias.data[0] = 0.0, -1.0
    second.conv3.weight.data[:, 0] = weight
    return dead


def test_int8_file(sources, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "INT8_GATE", Gate(delta_nme=20.0))  # a random network has no robust answer
    options = ["--face-model", str(sources.face_model_path), "--precision", "int8"]
    assert main([str(sources.save(sources.network)), "--out", str(tmp_path / "small.onnx"), *options]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.int8.onnx", "small.onnx"]
    with OnnxEngine(tmp_path / "small.int8.onnx") as int8, OnnxEngine(tmp_path / "small.onnx") as exact:
        manifest = int8.manifest
        assert (manifest.precision, exact.manifest.precision) == ("int8", "fp32")
        assert manifest.onnx_sha256 == sha256((tmp_path / "small.onnx").read_bytes())
        assert [parity.step for parity in manifest.parity] == ["reparameterized", "ONNX float32", "ONNX INT8"]
        figures = manifest.parity[-1]
        assert figures.max_landmark_px > figures.p99_landmark_px > figures.mean_landmark_px > 0.01
        assert 0 < figures.delta_nme < 20
        crops = noise_crops(64)[4:]
        difference = np.abs(int8(crops) - exact(crops))
        assert 0 < difference.max() <= figures.max_params
    model = onnx.load(tmp_path / "small.int8.onnx")
    done = quantize.quantized_layers(model.SerializeToString())
    assert manifest.figures["int8/layers"] == len(done) > 5
    assert manifest.figures["int8/jitter_ratio"] > 0
    printed = capsys.readouterr()
    assert printed.out.count("layers in INT8") == 1
    assert "layers in INT8" not in printed.err  # as it would be, were the quantizer to set up logging


def test_streams_and_fusion_run_in_int8_and_all_else_in_float32(sources, graph, tmp_path):
    calibration = compare(sources, sources.network)
    plain = quantize._Candidates(graph)
    assert not [name for name in plain.candidates if name.startswith(("cat.", "head"))]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    data = plain.quantize(list(plain.candidates), calibration)
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    blocks = len(sources.network.global_stream) + len(sources.network.local_stream)
    assert kinds["QLinearConv"] == blocks + 1  # the thumbnail's means too
    assert kinds["QGemm"] == 1
    assert kinds["Conv"] == kinds["QuantizeLinear"] == kinds["Cast"] == 0  # bytes until the fusion, never re-quantized


def test_channels_of_unequal_ranges_are_made_alike_and_the_float32_graph_stays_the_same(sources):
    network = stretched(sources.network)
    data = export_graph(reparameterize(network))
    calibration = compare(sources, network).with_own_labels()
    even = equalized(data, calibration.crops.faces)
    streams = (network.global_stream, network.local_stream)
    assert len(even.ranges) == sum(len(stream) - 1 for stream in streams) + 1  # the fusion, of both streams' channels
    crops = noise_crops(64, 16)[4:]
    expected, got = (onnx_run(graph, "float32")(crops) for graph in (data, even.data))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    kernels = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(even.data).graph.initializer}
    sizes = np.abs(kernels["global_stream.1.0.weight"]).max(axis=(1, 2, 3))
    assert sizes[0] < 100 * np.median(sizes)  # of the 10,000
    moved = []
    for graph in (quantize._Candidates(data), quantize._Candidates(even.data, even.ranges)):
        int8 = graph.quantize(list(graph.candidates), calibration)
        moved.append(calibration.landmark_px(onnx_run(int8, "all layers")).mean())
    assert moved[1] < moved[0] / 3


def test_the_layer_that_int8_spoils_is_left_out(sources, monkeypatch, caplog):
    network = with_dead_channel(sources.network)
    data = export_graph(reparameterize(network))
    calibration = compare(sources, network).with_own_labels()
    even = equalized(data, calibration.crops.faces)
    plain = quantize._Candidates(even.data, even.ranges)
    spoilt = calibration.delta_nme(onnx_run(plain.quantize(list(plain.candidates), calibration), "all layers"))
    monkeypatch.setattr(quantize, "INT8_GATE", Gate(delta_nme=spoilt))
    monkeypatch.setattr(quantize, "_LARGEST_SHARE", 0.9)
    with caplog.at_level("INFO", logger="export"):
        result = quantize.quantize(data, calibration)
    assert result.excluded[0] == "global_stream.2.0"  # whose huge weights leave no step to the others
    assert caplog.text.count("stays float32") == len(result.excluded) < len(plain.candidates)
    assert abs(result.delta_nme) <= spoilt / 2
    monkeypatch.setattr(quantize, "_LARGEST_SHARE", 0.0)
    with pytest.raises(ParityError, match="with the 0 most sensitive layers in float32"):
        quantize.quantize(data, calibration)


@pytest.mark.parametrize(
    ("jitters", "excluded"),
    [
        ([1.0, 1.1], []),  # float32's, and with all layers in INT8: steady enough
        # With one stream's first layer in float32, with the other's, with each pair of layers from the image on:
        ([1.0, 1.5, 1.495, 1.6, 1.5, 1.495, 1.5], []),  # hardly steadier
        ([1.0, 1.5, 1.1, 1.3], ["global_stream.0.0.wide"]),
        ([1.0, 1.5, 1.6, 1.5, 1.5, 1.1, 1.5], ["global_stream.0.0.wide", "global_stream.1.0"]),
        ([1.0, 1.5, 1.4, 1.45, 1.6, 1.3, 1.3, 1.3, *[1.3] * 3], ["global_stream.0.0.wide", "global_stream.1.0"]),
    ],
)
def test_the_first_layers_stay_float32_while_that_keeps_a_face_stiller(sources, monkeypatch, jitters, excluded):
    monkeypatch.setattr(quantize, "INT8_GATE", Gate(delta_nme=20.0))  # a random network has no robust answer
    calibration = compare(sources, sources.network).with_own_labels()
    values = iter(jitters)
    monkeypatch.setattr(Comparison, "jitter", lambda *_: next(values))
    result = quantize.quantize(export_graph(reparameterize(sources.network)), calibration)
    assert list(result.excluded) == excluded
    assert set(result.layers).isdisjoint(excluded) and next(values, None) is None


def test_jitter_is_the_mean_length_of_the_second_difference(sources):
    comparison = compare(sources, sources.network)
    still = np.zeros((2, 4, 64, 64, 3), np.uint8)
    still[:, 2] = 1  # one frame of each face is out of line by a pixel

    def run(crops):
        params = np.zeros((len(crops), 62), np.float32)
        params[:, [0, 5, 10]] = 1.0, 1.0, 1.0
        params[:, 3] = crops[:, 0, 0, 0]  # moves all landmarks by so many pixels
        return params

    assert comparison.jitter(run, still) == pytest.approx(1.5)  # 0, 0, 1, 0: second differences 1 and -2


def test_a_failed_gate_names_the_first_module_that_differs(sources, tmp_path, monkeypatch, capsys):
    spoilt = reparameterize(sources.network)
    with torch.no_grad():
        spoilt.local_stream[2][0].bias += 0.1
    monkeypatch.setattr("training.model.reparameterize", lambda model: spoilt)
    checkpoint = sources.save(sources.network)
    status = main([str(checkpoint), "--out", str(tmp_path / "x.engine"), "--face-model", str(sources.face_model_path)])
    assert status == 1
    error = capsys.readouterr().err
    assert "reparameterized: expected landmarks as the network's (max < 0.001 px)" in error
    assert "tensors that differs is local_stream.2 " in error


def test_the_first_tensor_that_differs_is_found_in_every_form(sources, graph, mixed_graph):
    """In torch, between torch and ONNX, and between two ONNX graphs, where a tensor is named with its layer."""
    fused, crops = reparameterize(sources.network), noise_crops(64)[:2]
    assert "none of" in torch_mismatch(fused, to_mixed(fused), crops, 0.05)
    assert "none of" in exporter_mismatch(fused, graph, crops, 1e-4)
    assert "none of" in exporter_mismatch(fused, mixed_graph, crops, 0.05)
    assert "none of" in graph_mismatch(graph, graph, crops, 1e-4)
    spoilt = onnx.load_model_from_string(graph)
    bias = next(t for t in spoilt.graph.initializer if t.name == "local_stream.2.0.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.1, bias.name))
    data = spoilt.SerializeToString()
    assert "differs is local_stream.2.0 (by" in exporter_mismatch(fused, data, crops, 1e-3)
    assert graph_mismatch(graph, data, crops, 1e-3).endswith("(of local_stream.2.0)")
    assert "no tensor could be compared" in graph_mismatch(graph, _renamed(graph), crops, 1e-3)


def _renamed(data):
    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name and name != "crops":
                    names[place] = f"other_{name}"
    for tensor in (*model.graph.initializer, *model.graph.output):
        tensor.name = f"other_{tensor.name}"
    del model.graph.value_info[:]
    return model.SerializeToString()


def test_a_quantized_tensor_is_compared_as_the_next_layer_sees_it(sources, graph):
    """The quantizer drops a ReLU where integers from zero on do its work: the tensor before them is another one."""
    plain = quantize._Candidates(graph)
    data = plain.quantize(list(plain.candidates), compare(sources, sources.network))
    crops = noise_crops(64, 16)[8:]
    assert "none of" in graph_mismatch(graph, data, crops, 0.5)
    assert "differs is" in graph_mismatch(graph, data, crops, 1e-4)


def test_delta_nme_is_of_the_labelled_faces(sources, graph):
    network = sources.network
    labels = np.zeros((2, 62), np.float32)
    labels[:, [0, 6, 9]] = 0.3, 20.0, 0.0
    labels[:, [5, 10]] = -0.3, 0.3
    comparison = compare(sources, network, labels=labels)
    run = onnx_run(graph, "graph")

    def moved(crops):
        return run(crops) + np.float32(5) * (np.arange(62) == 3).astype(np.float32)

    figures = comparison.measure("moved", moved, Gate())
    assert figures.crops == 8
    assert abs(figures.delta_nme) > 0.1
    assert figures.delta_nme == pytest.approx(comparison.delta_nme(moved))
    with pytest.raises(ParityError, match=r"\|ΔNME\| < 0\.1 %"):
        comparison.measure("moved", moved, Gate(delta_nme=0.1))
    assert compare(sources, network).measure("same", run, FLOAT32_GATE).delta_nme is None


def test_parity_command_prints_a_table_and_fails_with_a_gate(sources, exported, monkeypatch, capsys):
    checkpoint = str(sources.save(sources.network))
    monkeypatch.setattr(quantize, "INT8_GATE", Gate(delta_nme=20.0))
    assert parity.main([checkpoint, "--face-model", str(sources.face_model_path)]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    steps = ["reparameterized", "ONNX float32", "float16-mixed", "ONNX float16-mixed", "ONNX INT8"]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:7]] == steps
    monkeypatch.setattr(quantize, "INT8_GATE", Gate(delta_nme=1e-6))
    assert parity.main([checkpoint, "--face-model", str(sources.face_model_path)]) == 1
    captured = capsys.readouterr()
    assert "ONNX float16-mixed" in captured.out.split("Each step")[1]
    assert "ONNX INT8" not in captured.out.split("Each step")[1]
    assert captured.err.startswith("error: INT8: expected NME to move by at most 1e-06 %")
    assert parity.main(["none.pth"]) == 2


def test_text_that_the_terminal_lacks_stops_nothing(sources, exported, tmp_path):
    """What is printed never decides what is done: "Δ" is in no Windows code page of the west."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with contextlib.redirect_stdout(stream):
        options = ["--face-model", str(sources.face_model_path), "--onnx-only", "--out", str(tmp_path / "x.onnx")]
        assert main([str(sources.save(sources.network)), *options]) == 0
    assert (tmp_path / "x.onnx").is_file()

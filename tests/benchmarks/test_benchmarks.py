"""The benchmarks' commands on a tiny engine: what they write, and what they refuse."""

import json
import sys

import numpy as np
import pytest

from benchmarks import accuracy, footprint, latency, outputs, peers
from tests.runtime.conftest import make_manifest, write_engine


@pytest.fixture
def engine_file(tmp_path):
    return write_engine(tmp_path / "mean_face.onnx", make_manifest())


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "mobilenet.onnx"
    assert peers.main([str(path)]) == 0
    return path


def test_latency_writes_figures_a_table_and_a_plot(engine_file, mobilenet, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    options = ["--engine", str(engine_file), "--batch", "1", "3", "--threads", "1", "2", "--quick"]
    files = ["--json", str(out / "l.json"), "--markdown", str(out / "l.md"), "--plot", str(out / "l.png")]
    assert latency.main([*options, *files, "--peer", f"{mobilenet}:120"]) == 0
    values = json.loads((out / "l.json").read_text())
    assert set(values) == {"device", "versions", "results"}
    assert "onnxruntime" in values["versions"] and "core" in values["device"]
    rows = values["results"]
    assert [(row["engine"], row["threads"], row["batch"]) for row in rows] == [
        (name, threads, batch) for threads in (1, 2) for batch in (1, 3) for name in (engine_file.name, mobilenet.name)
    ]
    for row in rows:
        assert set(row) == {*("engine", "precision", "batch", "threads"), "faces_per_second"} | {
            f"p{q}_ms" for q in (50, 95, 99)
        }
        stages = ["detect"] * (row["batch"] == 1) + ["crop", "network", "decode", "end_to_end"]
        expected = stages if row["engine"] == engine_file.name else ["network"]
        for stage in expected:
            assert 0 < row["p50_ms"][stage] <= row["p95_ms"][stage] <= row["p99_ms"][stage]
        assert list(row["p50_ms"]) == expected
        whole = row["p50_ms"][expected[-1]]
        assert row["faces_per_second"] == pytest.approx(1000 * row["batch"] / whole, rel=0.01)
    table = (out / "l.md").read_text()
    first, *_, last = [row for row in rows if row["engine"] == engine_file.name]
    ratios = f"| {last['p50_ms']['end_to_end'] / last['p50_ms']['network']:.2f} | {last['faces_per_second']:.0f} | "
    alone = next(row for row in rows if (row["engine"], row["threads"]) == (first["engine"], 2))
    assert f"{ratios}{last['faces_per_second'] / alone['faces_per_second']:.2f} |" in table
    assert table.count("\n| mean_face.onnx |") == table.count("\n| mobilenet.onnx |") == 4
    assert table.strip() in capsys.readouterr().out
    assert (out / "l.png").read_bytes().startswith(b"\x89PNG")


def test_latency_takes_a_checkpoint_in_pytorch_as_a_baseline(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    from training.config import CLNConfig, StreamConfig
    from training.model import CLN

    stream = StreamConfig(widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
    config = CLNConfig(input_size=64, global_stream=stream, local_stream=stream, fusion_width=16, heads=2)

    class Kept:
        def model(self):
            return CLN(config).eval()

    monkeypatch.setattr("training.checkpoint.load_checkpoint", lambda path: Kept())
    (case,) = latency.torch_cases(tmp_path / "edge.pth", 1, torch.get_num_threads(), compiled=False)
    case.measure(1, keep=True)
    assert "PyTorch eager" in case.name and list(case.result()["p50_ms"]) == ["network"]


def test_an_engine_that_tells_its_stages_apart_is_asked(engine_file, monkeypatch):
    from runtime.engines.onnx import OnnxEngine

    stages = {"host_to_device": 1.0, "network": 2.0, "device_to_host": 4.0}
    monkeypatch.setattr(OnnxEngine, "timed", lambda self, crops: stages, raising=False)
    case = latency.engine_case(engine_file, 2, 1, np.zeros((1080, 1920, 3), np.uint8))
    case.measure(1, keep=False)
    case.measure(2, keep=True)
    found = case.result()["p50_ms"]
    assert {name: found[name] for name in stages} == stages
    assert set(found) == {*stages, "crop", "decode", "end_to_end"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "from 1 on"),
        (["--peer", "none.onnx:120"], "expected FILE.onnx:SIZE"),
        (["--peer", "{mobilenet}:112"], r"expected an input of float32"),
        (["--engine", "none.onnx"], "expected an engine file"),
    ],
)
def test_latency_refuses_in_one_line(engine_file, mobilenet, capsys, options, message):
    given = [option.format(mobilenet=mobilenet) for option in options]
    assert latency.main(["--engine", str(engine_file), "--quick", *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_mobilenet_has_its_published_size():
    _, multiply_adds = peers.mobilenet_graph()
    assert multiply_adds == pytest.approx(46e6, rel=0.02)


def test_footprint_of_a_process_of_its_own(engine_file, capsys):
    found = footprint.footprint(engine_file, faces=150)
    assert 0 < found.first_face_seconds < 60
    if sys.platform == "linux":
        assert 30 < found.resident_mb < 300
        assert found.growth_mb < 1
    assert footprint.main([str(engine_file.with_name("none.onnx"))]) == 2
    assert "expected an engine file" in capsys.readouterr().err


def test_memory_grows_where_it_is_held(engine_file, monkeypatch):
    """The growth must be able to show."""
    from runtime import Reconstructor

    held = []
    run = Reconstructor.reconstruct
    monkeypatch.setattr(
        Reconstructor, "reconstruct", lambda *given, **options: held.append(np.ones(125_000)) or run(*given, **options)
    )
    found = footprint.measure(engine_file, 1, 200)
    if found.growth_mb is not None:
        assert found.growth_mb > 50  # of 100 MB


def test_accuracy_compares_engines_on_the_same_faces(engine_file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from training.evaluation import report
    from training.evaluation.accuracy import Accuracy
    from training.evaluation.metrics import YawBins

    def fixed(predict, size, face_model, data):
        mean = 3.0 if predict(np.zeros((1, size, size, 3), np.uint8)).shape == (1, 62) else 0.0
        bins = YawBins(bins=(mean, None, 2 * mean), mean=1.5 * mean)
        return Accuracy(nme=bins, zero_coefficients=bins, faces=7)

    monkeypatch.setattr(report, "evaluate_data", fixed)
    names = ["--engine", str(engine_file), str(engine_file), "--data", "synthetic:7"]
    assert accuracy.main([*names, "--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["results"][0] == {
        "engine": "mean_face.onnx",
        "precision": "fp32",
        "data": "synthetic:7",
        "faces": 7,
        "nme": {"bins": [3.0, None, 6.0], "mean_of_bins": 4.5},
    }
    line = "| mean_face.onnx | fp32 | synthetic:7 | 7 | 3.000 | – | 6.000 | 4.500 | +0.000 |"
    assert (tmp_path / "a.md").read_text().splitlines()[2:] == [line, line]
    assert accuracy.main(["--engine", "none.onnx", "--data", "synthetic:7"]) == 2
    assert "expected an engine file" in capsys.readouterr().err


def test_outputs_measures_every_row(tmp_path, capsys):
    pytest.importorskip("numba")
    pytest.importorskip("pygltflib")
    file = tmp_path / "o.json"
    options = ["--rounds", "1", "--photos", "2", "--faces", "12", "--poses", "2", "--json", str(file)]
    assert outputs.main(options) == 0
    values = json.loads(file.read_text())
    figures = {name: value for name, value in values.items() if isinstance(value, float)}
    assert len(figures) == 30 and all(np.isfinite(list(figures.values()))), figures
    assert figures["folder: faces"] == 7 and figures["visibility, true parameters, agreement, %"] > 80

"""The checks of the export must be able to fail: ranges, precision names, parity gates."""

import contextlib
import json
import types
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export import faces, plan, rehearsal  # noqa: E402
from export.comparison import FLOAT32_GATE, HALF_GATE, Comparison, torch_run  # noqa: E402
from export.errors import ParityError, PrecisionError  # noqa: E402
from export.faces import ParityCrops  # noqa: E402
from export.half_range import half_range  # noqa: E402
from export.layer_types import inspected_precision, inspected_types, precision_of  # noqa: E402
from export.plan import Plan, polygraphy_for  # noqa: E402
from export.precision import to_mixed  # noqa: E402
from export.rehearsal import check_inspected  # noqa: E402
from runtime import Roi, crop, read_image  # noqa: E402
from runtime.engines.cuda import Cuda  # noqa: E402
from runtime.engines.plans import PlanRefusedError  # noqa: E402
from runtime.errors import EngineUnavailableError  # noqa: E402
from runtime.face_model import load_face_model  # noqa: E402
from tests.export.conftest import blobs  # noqa: E402
from tests.runtime.conftest import make_manifest  # noqa: E402
from training.model import reparameterize  # noqa: E402

T_X = 3  # column 3 of the first row of the pose matrix


@pytest.fixture(scope="module")
def crops():
    noise = faces.noise_crops(64)
    return ParityCrops(faces=noise[4:], noise=noise)


@pytest.fixture(scope="module")
def comparison(sources, crops):
    return Comparison(sources.network, crops, sources.face_model)


def off_by(network, pixels):
    run = torch_run(network)
    return lambda crops: run(crops) + np.float32(pixels) * (np.arange(62) == T_X).astype(np.float32)


@pytest.mark.parametrize(
    ("pixels", "gate", "passes"),
    [(0.0, FLOAT32_GATE, True), (0.002, FLOAT32_GATE, False), (0.1, HALF_GATE, True), (0.2, HALF_GATE, False)],
)
def test_gates(sources, comparison, pixels, gate, passes):
    run = off_by(sources.network, pixels)
    if passes:
        figures = comparison.measure("shifted", run, gate)
        assert figures.max_landmark_px == pytest.approx(pixels, abs=1e-4)
        assert figures.max_params == pytest.approx(pixels, abs=1e-4)
        assert figures.crops == 4
    else:
        with pytest.raises(ParityError, match=rf"shifted: .* max {pixels:g} px"):
            comparison.measure("shifted", run, gate)


def test_infinity_on_noise_alone_fails(sources, comparison):
    run = torch_run(sources.network)

    def breaks_on_noise(crops):
        return run(crops) * (np.float32("nan") if len(crops) == 8 else np.float32(1))

    with pytest.raises(ParityError, match="NaN or infinity"):
        comparison.measure("noise", breaks_on_noise, HALF_GATE)


def test_noise_is_gated_where_there_are_no_faces(sources):
    noise = faces.noise_crops(64)
    figures = Comparison(sources.network, ParityCrops(faces=noise[:0], noise=noise), sources.face_model).measure(
        "same", torch_run(sources.network), FLOAT32_GATE
    )
    assert figures.crops == len(noise)


def test_mixed_network_leaves_the_original_alone_and_rounds(sources, crops):
    fused = reparameterize(sources.network)
    before = torch_run(fused)(crops.faces)
    mixed = torch_run(to_mixed(fused))(crops.faces)
    np.testing.assert_array_equal(torch_run(fused)(crops.faces), before)
    assert mixed.dtype == np.float32
    assert 0 < np.abs(mixed - before).max() < 0.1


@pytest.mark.parametrize("kind", ["weight", "output"])
def test_range_sees_overflow(sources, crops, kind):
    fused = reparameterize(sources.network)
    found = half_range(fused, crops.faces)
    assert 0 < found.largest_weight < 100
    assert 0 < found.largest_activation < 1000
    assert 0 <= found.subnormal_share < 0.1
    if kind == "weight":
        fused.global_stream[1][0].weight.data[0, 0, 0, 0] = 1e5
    else:  # weights within the range, their sums beyond it
        fused.global_stream[1][0].bias.data[0] = 4e4
        fused.global_stream[1][0].weight.data[0] = 3e4
    with pytest.raises(PrecisionError, match=rf"{kind} of 'global_stream\.1\.0.*float16's largest number"):
        half_range(fused, crops.faces)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ({("Conv", "FLOAT"): 5, ("Gemm", "FLOAT"): 1}, "fp32"),
        ({("Conv", "FLOAT16"): 5, ("Conv", "FLOAT"): 1}, "fp16-mixed"),
        ({("CONVOLUTION", "HALF"): 5, ("CONVOLUTION", "FLOAT"): 1}, "fp16-mixed"),
        ({("Conv", "FLOAT16"): 5}, None),  # the last layer has lost its float32
        ({("Conv", "FLOAT16"): 5, ("Conv", "FLOAT"): 2}, None),  # a silent float32 layer
        ({("Conv", "BFLOAT16"): 5, ("Conv", "FLOAT"): 1}, None),
        ({}, None),
    ],
)
def test_precision_is_read_from_the_layers(types, expected):
    if expected is not None:
        assert precision_of(types) == expected
    else:
        with pytest.raises(PrecisionError, match="expected float32 throughout"):
            precision_of(types)


def layers(*outputs):
    """An inspector's JSON of layers (name, type of the output)."""
    described = [{"Name": name, "LayerType": "kgen", "Outputs": [{"Format/Datatype": kind}]} for name, kind in outputs]
    return json.dumps({"Layers": ["a name alone", {"Name": "no outputs"}, *described]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (layers(("conv2d_1 + relu_1", "Half"), ("matmul", "Half"), ("conv2d_9", "Float")), "fp16-mixed"),
        (layers(("conv2d_1", "Channel major FP16 format"), ("reformat", "Row major linear FP32")), "fp16-mixed"),
        (layers(("conv2d_1", "Float"), ("conv2d_2", "Float"), ("gemm", "Half")), "fp32"),  # a silent float32 engine
        (layers(("conv2d_1", "Float"), ("cast to half", "Half")), "fp32"),
        (layers(("cast", "Half")), None),
        ("{}", None),
    ],
)
def test_the_inspector_s_answer(text, expected):
    assert inspected_precision(inspected_types(text)) == expected


def test_a_plan_that_is_not_what_was_asked_for_fails():
    given = Plan(
        data=b"",
        onnx=b"",
        builder="tensorrt_rtx",
        builder_version="1",
        compute_capabilities=(),
        max_batch=1,
        layer_types=Counter({("CONVOLUTION", "HALF"): 5, ("CONVOLUTION", "FLOAT"): 1}),
    )
    check_inspected(given, layers(("conv2d_1", "Half")))
    check_inspected(given, "{}")  # an inspector that tells nothing contradicts nothing
    with pytest.raises(PrecisionError, match="by its inspector: expected precision fp16-mixed, got fp32"):
        check_inspected(given, layers(("conv2d_1", "Float")))


class Rehearsed:
    """A GPU, Polygraphy's runner and the runtime's engine, which all give what the network gives, moved by `pixels`."""

    def __init__(self, network, monkeypatch, *, text="{}", pixels=0.0, library=True):
        self.run, self.batches, self.library = off_by(network, pixels), [], library
        engine = types.SimpleNamespace(create_engine_inspector=lambda: self, get_engine_information=lambda kind: text)
        self.get_engine_information = engine.get_engine_information
        gpu = types.SimpleNamespace(compute_capability=lambda: (8, 9))
        monkeypatch.setattr(rehearsal, "Cuda", lambda: gpu)
        with polygraphy_for("tensorrt_rtx"):  # settles for which library its part for them is imported
            pass
        monkeypatch.setattr("polygraphy.backend.trt.engine_from_bytes", lambda data: engine)
        monkeypatch.setattr("polygraphy.backend.trt.TrtRunner", self.runner)
        monkeypatch.setattr(rehearsal, "TensorRTEngine", lambda path: contextlib.nullcontext(self.run))

    def runner(self, engine):
        if not self.library:
            raise OSError("libcudart.so: cannot open shared object file")
        return contextlib.nullcontext(self)

    def refuse(self, path):
        raise PlanRefusedError(f"{path}: no kernel for this GPU; or load an .onnx file")

    def infer(self, feed):
        self.batches.append(len(feed["crops"]))
        return {"params": self.run(feed["crops"])}


def rehearse(sources, comparison):
    kinds = Counter({("CONVOLUTION", "HALF"): 5, ("CONVOLUTION", "FLOAT"): 1})
    manifest = make_manifest(input_size=64)
    given = Plan(
        **{"data": b"plan", "onnx": b"", "builder": "tensorrt_rtx", "builder_version": "1", "max_batch": 3},
        compute_capabilities=("8.0+",),
        layer_types=kinds,
    )
    return rehearsal.rehearse(given, comparison, manifest)


def test_a_plan_is_run_by_polygraphy_and_by_the_runtime_where_a_gpu_is(sources, comparison, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    gpu = Rehearsed(sources.network, monkeypatch)
    assert [p.step for p in rehearse(sources, comparison).parity] == ["plan", "plan in the runtime"]
    assert max(gpu.batches) == 3  # the plan's largest
    Rehearsed(sources.network, monkeypatch, library=False)
    assert [p.step for p in rehearse(sources, comparison).parity] == ["plan in the runtime"]
    Rehearsed(sources.network, monkeypatch, pixels=1.0)
    with pytest.raises(ParityError, match="plan: expected landmarks"):
        rehearse(sources, comparison)
    Rehearsed(sources.network, monkeypatch, text=layers(("conv2d_1", "Float")))
    with pytest.raises(PrecisionError, match="by its inspector"):
        rehearse(sources, comparison)
    gpu = Rehearsed(sources.network, monkeypatch, library=False)
    monkeypatch.setattr(rehearsal, "TensorRTEngine", gpu.refuse)
    assert not rehearse(sources, comparison).parity  # a GPU that the library does not serve is no failure of the plan
    monkeypatch.undo()
    assert no_gpu() and not rehearse(sources, comparison).parity


def no_gpu():
    try:
        Cuda()
    except EngineUnavailableError:
        return True
    pytest.skip("a GPU is here")


def test_rendered_faces():
    pytest.importorskip("numba")
    images, labels = faces.rendered_faces(64, load_face_model(), range(2))
    assert labels.shape == (2, 62)
    points = load_face_model().landmarks(labels)[..., :2]
    low, high = points.min(axis=1), points.max(axis=1)
    np.testing.assert_allclose((high - low).max(axis=1) * np.sqrt(2), 64, atol=2)  # cut as the landmark-box rule says
    assert images.shape == (2, 64, 64, 3)
    assert images.dtype == np.uint8
    assert np.abs(images[0].astype(int) - images[1]).mean() > 5


def test_photographs_give_their_faces(sources):
    whole = faces.faces_of(np.full((90, 60, 3), 128, np.uint8), 64)  # no face: all of it, as for crops made before
    assert whole.shape == (1, 64, 64, 3)
    crops = faces.parity_crops(64, blobs(64, sources.face_model, range(4)), Path("examples"))
    (face,) = crops.faces[4:]
    photo = read_image("examples/astronaut.jpg")
    height, width = photo.shape[:2]
    side = float(min(height, width))
    middle = crop(photo, [Roi(center_x=(width - 1) / 2, center_y=(height - 1) / 2, side=side)], 64)[0]
    assert np.abs(face.astype(int) - middle).mean() > 20


def test_a_plan_s_float32_is_not_tf32(monkeypatch):
    trt = pytest.importorskip("polygraphy.backend.trt")
    cleared, names = [], SimpleNamespace(TF32="TF32", DETAILED="DETAILED")
    config = SimpleNamespace(clear_flag=cleared.append)
    monkeypatch.setattr(trt, "create_config", lambda *_, **__: config)
    library = SimpleNamespace(BuilderFlag=names, ProfilingVerbosity=names)
    assert plan._configured(library, [], (), None, None) is config and cleared == ["TF32"]

"""The model repository, read back with Triton's own schema."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

import runtime
from runtime.files import sha256
from runtime.manifest import Manifest
from serving import triton
from serving.protocol import OUTPUTS
from tests.runtime.conftest import SIZE, make_manifest, write_engine

PLAN = b"a plan" * 100


def write_plan(folder, builder):
    manifest = make_manifest(builder=builder, precision="fp16-mixed", batch_range=(1, 16), plan_sha256=sha256(PLAN))
    path = folder / "cln.engine"
    path.write_bytes(PLAN)
    (folder / "cln.engine.json").write_text(manifest.to_json())
    return path


def parse(path):
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(), model_config.ModelConfig()), model_config


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", "KIND_AUTO"), ("fp16-mixed", "KIND_AUTO"), ("int8", "KIND_CPU")]
)
def test_onnx(tmp_path, precision, kind):
    engine = write_engine(tmp_path / "cln.int8.onnx", make_manifest(precision=precision))
    assert triton.main([str(engine), str(tmp_path / "models")]) == 0
    folder = tmp_path / "models" / "cln"
    assert (folder / "1" / "model.onnx").read_bytes() == engine.read_bytes()
    assert Manifest.from_json((folder / "manifest.json").read_text(), name="m").precision == precision
    config, schema = parse(folder / "config.pbtxt")
    assert (config.name, config.platform, config.max_batch_size) == ("cln", "onnxruntime_onnx", 64)
    assert config.default_model_filename == "model.onnx"
    (crops,), (params,) = config.input, config.output
    assert (crops.name, crops.data_type, list(crops.dims)) == ("crops", schema.TYPE_UINT8, [SIZE, SIZE, 3])
    assert (params.name, params.data_type, list(params.dims)) == ("params", schema.TYPE_FP32, [62])
    assert config.HasField("dynamic_batching") and config.dynamic_batching.max_queue_delay_microseconds > 0
    (group,) = config.instance_group
    assert group.kind == schema.ModelInstanceGroup.Kind.Value(kind)


def test_faces(tmp_path):
    engine = write_engine(tmp_path / "cln.onnx", make_manifest())
    own = tmp_path / "own.safetensors"
    own.write_bytes((Path(runtime.__file__).parent / "assets" / "face_model.safetensors").read_bytes())
    assert triton.main([str(engine), str(tmp_path / "models"), "--face-model", str(own), "--instances", "3"]) == 0
    folder = tmp_path / "models" / "faces"
    assert sorted(file.name for file in (folder / "1").iterdir()) == ["cln.onnx", "model.py", "own.safetensors"]
    assert (folder / "1" / "own.safetensors").read_bytes() == own.read_bytes()
    config, schema = parse(folder / "config.pbtxt")
    assert (config.backend, config.instance_group[0].count) == ("python", 3)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert values["engine_sha256"] == sha256(engine.read_bytes())
    assert (values["engine"], values["face_model"], values["input_size"]) == ("cln.onnx", "own.safetensors", str(SIZE))
    outputs = {output.name: list(output.dims) for output in config.output}
    assert set(outputs) == set(OUTPUTS) and outputs["params"] == [-1, 62]


def test_faces_with_a_plan_takes_its_companions_along(tmp_path):
    plan = write_plan(tmp_path, "tensorrt_rtx")
    write_engine(tmp_path / "cln.onnx", make_manifest())
    assert triton.main([str(plan), str(tmp_path / "models")]) == 0
    version = tmp_path / "models" / "faces" / "1"
    assert sorted(f.name for f in version.iterdir()) == ["cln.engine", "cln.engine.json", "cln.onnx", "model.py"]
    config, schema = parse(version.parent / "config.pbtxt")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, schema.ModelInstanceGroup.KIND_GPU)


def test_plan_of_tensorrt(tmp_path):
    plan = write_plan(tmp_path, "tensorrt")
    assert triton.main([str(plan), str(tmp_path / "models"), "--name", "net"]) == 0
    folder = tmp_path / "models" / "net"
    assert (folder / "1" / "model.plan").read_bytes() == PLAN
    config, schema = parse(folder / "config.pbtxt")
    assert (config.name, config.platform, config.max_batch_size) == ("net", "tensorrt_plan", 16)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU


def test_plan_of_tensorrt_rtx_gives_way_to_the_onnx_beside_it(tmp_path, capsys):
    plan = write_plan(tmp_path, "tensorrt_rtx")
    assert triton.main([str(plan), str(tmp_path / "models")]) == 2
    assert "no cln.onnx beside it" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
    onnx = write_engine(tmp_path / "cln.onnx", make_manifest())
    assert triton.main([str(plan), str(tmp_path / "models")]) == 0
    assert "the .onnx beside it goes in its place" in capsys.readouterr().out
    assert (tmp_path / "models" / "cln" / "1" / "model.onnx").read_bytes() == onnx.read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.onnx", [], "found none"),
        ("cln.trt", [], "expected an engine file ending in"),
        ("cln.engine", [], "one of them is truncated"),
        ("cln.onnx", ["--name", "a/b"], "--name"),
        ("cln.onnx", ["--name", "faces"], "--name"),
        ("cln.onnx", ["--instances", "0"], "--instances"),
        ("other.onnx", [], "made for face model"),
    ],
)
def test_refusals_are_one_line(tmp_path, capsys, name, options, message):
    write_plan(tmp_path, "tensorrt").write_bytes(PLAN[:-1])
    write_engine(tmp_path / "cln.onnx", make_manifest())
    write_engine(tmp_path / "other.onnx", make_manifest(face_model_sha256="1" * 64))
    assert triton.main([str(tmp_path / name), str(tmp_path / "models"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "models").exists()

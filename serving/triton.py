"""`python -m serving.triton X.engine MODELS`: a model repository for NVIDIA's Triton Inference Server.

    MODELS/NAME/config.pbtxt          input crops uint8 (S, S, 3), output params float32 (62); dynamic batching
    MODELS/NAME/1/model.plan or .onnx the engine, as it is
    MODELS/NAME/manifest.json         what the engine is: clients need its face model to decode params

Triton's TensorRT backend loads plans of TensorRT, not of TensorRT-RTX: in place of such a plan goes the .onnx beside it
(Triton runs it in ONNX Runtime). Decoding is the client's: `FaceModel.landmarks(params)`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.engines.base import SUFFIXES
from runtime.engines.onnx import OnnxEngine
from runtime.engines.plans import read_plan_manifest
from runtime.errors import ClnError, InvalidInputError
from runtime.files import write_atomically
from runtime.manifest import INPUT, OUTPUT, Manifest

QUEUE_DELAY_MICROSECONDS = 500  # how long a request may wait for others to share a batch with: about one network call


@dataclass(frozen=True, kw_only=True)
class Served:
    """An engine file as Triton takes it."""

    data: bytes
    manifest: Manifest
    platform: str  # Triton's name for the backend and format
    file_name: str
    kind: str  # of device: Triton's KIND_CPU, KIND_GPU or KIND_AUTO


def served(path: Path) -> Served:
    """The engine at `path`, or the ONNX file that stands in for a TensorRT-RTX plan.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is damaged, or its manifest is not its own.
        InvalidInputError: another suffix, or a TensorRT-RTX plan without an .onnx beside it.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidInputError(f"{path}: expected an engine file ending in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected an engine file, found none; build it with python -m export.build_engine"
        )
    data = path.read_bytes()
    if path.suffix == ".onnx":
        with OnnxEngine(path, providers=["CPUExecutionProvider"], threads=1) as engine:
            manifest = engine.manifest
        # INT8 graphs are made for CPUs; Triton decides for the others, by what the server has.
        kind = "KIND_CPU" if manifest.precision == "int8" else "KIND_AUTO"
        return Served(data=data, manifest=manifest, platform="onnxruntime_onnx", file_name="model.onnx", kind=kind)
    manifest = read_plan_manifest(path, data)
    if manifest.builder == "tensorrt":
        return Served(data=data, manifest=manifest, platform="tensorrt_plan", file_name="model.plan", kind="KIND_GPU")
    beside = path.with_suffix(".onnx")
    if not beside.is_file():
        raise InvalidInputError(
            f"{path}: expected a plan that Triton can load, got one of TensorRT-RTX and no {beside.name} beside it; "
            "build it with --builder tensorrt on the server's GPU, or give an .onnx file"
        )
    return served(beside)


def config_text(name: str, engine: Served, *, queue_delay: int = QUEUE_DELAY_MICROSECONDS) -> str:
    """The model's `config.pbtxt` (Triton's `ModelConfig` as protobuf text); shapes are without the batch."""
    manifest = engine.manifest
    size = manifest.input_size
    return f"""\
name: "{name}"
platform: "{engine.platform}"
default_model_filename: "{engine.file_name}"
max_batch_size: {manifest.batch_range[1]}
input [
  {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }}
]
output [
  {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {manifest.num_params} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {queue_delay} }}
instance_group [
  {{ count: 1 kind: {engine.kind} }}
]
version_policy {{ latest {{ num_versions: 1 }} }}
"""


def write_repository(path: Path, models: Path, *, name: str | None = None) -> list[Path]:
    """Writes the model's folder; its files' paths.

    Args:
        path: an engine file.
        models: the repository's folder; it is made where there is none.
        name: of the model in Triton; default: the file's, up to the first dot.

    Raises:
        ClnError, OSError: as `served` does, a name that Triton would not take, or a folder that cannot be written.
    """
    model = path.name.split(".")[0] if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", model):
        raise InvalidInputError(f"--name: expected letters, digits, '_' and '-', got '{model}'; give another")
    engine = served(path)
    folder = models / model
    files: dict[Path, bytes | str] = {
        folder / "1" / engine.file_name: engine.data,
        folder / "manifest.json": engine.manifest.to_json(),
        folder / "config.pbtxt": config_text(model, engine),  # last: a server that polls takes it for complete
    }
    for target, content in files.items():
        write_atomically(target, content)
    return list(files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.triton", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("engine", type=Path, help=".engine (with its .json beside it) or .onnx file")
    parser.add_argument("models", type=Path, help="Triton's model repository")
    parser.add_argument("--name", help="the model's name in Triton (default: the file's, up to the first dot)")
    options = parser.parse_args(arguments)
    try:
        files = write_repository(options.engine, options.models, name=options.name)
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.engine.suffix == ".engine" and files[0].suffix == ".onnx":
        print(
            f"{options.engine}: a plan of TensorRT-RTX, which Triton cannot load; the .onnx beside it goes in its place"
        )
    for file in files:
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m serving.triton X.engine MODELS`: a model repository for NVIDIA's Triton Inference Server.

    MODELS/NAME/config.pbtxt           the network alone: crops uint8 (S, S, 3) in, params float32 (62) out
    MODELS/NAME/1/model.plan or .onnx  the engine, as it is
    MODELS/NAME/manifest.json          what the engine is: clients need its face model to decode params
    MODELS/faces/config.pbtxt          photographs in, faces out (`serving.protocol`), in Triton's Python backend
    MODELS/faces/1/model.py            imports this package, which the server's Python must have
    MODELS/faces/1/X.onnx or .engine   the engine that it runs; the face model beside it where it isn't the bundled one

Both batch over the requests that wait. Triton's TensorRT backend loads plans of TensorRT, not of TensorRT-RTX: in place
of such a plan goes the .onnx beside it (Triton runs it in ONNX Runtime), for the network alone; `faces` runs the plan.
Decoding the network's params is the client's: `FaceModel.landmarks(params)`; `faces` decodes them (`serving.client`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import command
from runtime.cores import usable_cores
from runtime.engines.load import SUFFIXES
from runtime.engines.onnx import OnnxEngine
from runtime.engines.plans import read_plan_manifest
from runtime.errors import InvalidInputError, MismatchError
from runtime.face_model import load_face_model
from runtime.files import sha256, write_atomically
from runtime.manifest import INPUT, OUTPUT, Manifest
from serving.protocol import BOXES, IMAGE, LANDMARKS, MODEL, PIXELS

QUEUE_DELAY_MICROSECONDS = 500  # how long a request may wait for others to share a batch with: about one network call

MAX_REQUESTS = 32  # that share a batch of `faces`

_MODEL_PY = '''"""The model `faces`; the package `cln` must be installed in the server's Python."""

from serving.faces_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


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


def faces_config(engine: str, face_model: str, manifest: Manifest, engine_sha256: str, *, instances: int) -> str:
    """The `config.pbtxt` of `faces`: inputs may be missing and of any size, and requests still share a batch."""
    values = {
        "engine": engine,
        "engine_sha256": engine_sha256,
        "face_model": face_model,  # empty: the bundled one
        "face_model_sha256": manifest.face_model_sha256,
        "input_size": str(manifest.input_size),
    }
    parameters = "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()
    )
    kind = "KIND_GPU" if engine.endswith(".engine") else "KIND_CPU"
    return f"""\
name: "{MODEL}"
backend: "python"
max_batch_size: {MAX_REQUESTS}
input [
  {{ name: "{IMAGE}" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "{PIXELS}" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true allow_ragged_batch: true }},
  {{ name: "{BOXES}" data_type: TYPE_FP64 dims: [ -1, 4 ] optional: true allow_ragged_batch: true }}
]
output [
  {{ name: "boxes" data_type: TYPE_FP64 dims: [ -1, 4 ] }},
  {{ name: "scores" data_type: TYPE_FP64 dims: [ -1 ] }},
  {{ name: "rois" data_type: TYPE_FP64 dims: [ -1, 4 ] }},
  {{ name: "params" data_type: TYPE_FP32 dims: [ -1, {manifest.num_params} ] }},
  {{ name: "landmarks" data_type: TYPE_FP32 dims: [ -1, {LANDMARKS}, 3 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}
instance_group [
  {{ count: {instances} kind: {kind} }}
]
{parameters}
version_policy {{ latest {{ num_versions: 1 }} }}
"""


def faces_files(
    path: Path, models: Path, *, face_model: Path | None = None, instances: int | None = None
) -> dict[Path, bytes | str]:
    """The folder of `faces`: contents by path.

    Args:
        path: an engine file; a plan's manifest and the .onnx beside it go along.
        models: the repository's folder.
        face_model: the engine's face model; default: the bundled one.
        instances: processes that serve it; default: one a core, or one for a GPU.

    Raises:
        MismatchError: the engine was made for another face model.
        ClnError, OSError: as `served` does.
    """
    if instances is not None and instances < 1:
        raise InvalidInputError(f"--instances: expected at least 1, got {instances}")
    is_plan = path.suffix == ".engine"
    data = path.read_bytes()
    manifest = read_plan_manifest(path, data) if is_plan else served(path).manifest
    model = load_face_model(face_model)
    if model.sha256 != manifest.face_model_sha256:
        raise MismatchError(
            f"{path}: made for face model '{manifest.face_model}' ({manifest.face_model_sha256[:12]}…), got "
            f"'{model.name}' ({model.sha256[:12]}…); give the right one with --face-model"
        )
    beside = [path.with_name(path.name + ".json"), path.with_suffix(".onnx")] if is_plan else []
    companions = [file for file in beside if file.is_file()] + ([] if face_model is None else [face_model])
    folder = models / MODEL
    text = faces_config(
        path.name,
        "" if face_model is None else face_model.name,
        manifest,
        sha256(data),
        instances=instances or (1 if is_plan else usable_cores()),
    )
    return {
        folder / "1" / path.name: data,
        **{folder / "1" / file.name: file.read_bytes() for file in companions},
        folder / "1" / "model.py": _MODEL_PY,
        folder / "config.pbtxt": text,  # last: a server that polls takes it for complete
    }


def network_files(path: Path, models: Path, *, name: str | None = None) -> dict[Path, bytes | str]:
    """The folder of the network alone: contents by path.

    Args:
        path: an engine file.
        models: the repository's folder.
        name: of the model in Triton; default: the file's, up to the first dot.

    Raises:
        ClnError, OSError: as `served` does, or a name that Triton would not take.
    """
    model = path.name.split(".")[0] if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", model):
        raise InvalidInputError(f"--name: expected letters, digits, '_' and '-', got '{model}'; give another")
    if model == MODEL:
        raise InvalidInputError(f"--name: '{MODEL}' is the model that takes photographs; give another")
    engine = served(path)
    folder = models / model
    return {
        folder / "1" / engine.file_name: engine.data,
        folder / "manifest.json": engine.manifest.to_json(),
        folder / "config.pbtxt": config_text(model, engine),
    }


def write_repository(
    path: Path,
    models: Path,
    *,
    name: str | None = None,
    face_model: Path | None = None,
    instances: int | None = None,
) -> list[Path]:
    """Writes both models (see `network_files` and `faces_files`); their files' paths.

    Raises:
        ClnError, OSError: as they do, before anything is written; or a folder that cannot be written.
    """
    files = network_files(path, models, name=name)
    files |= faces_files(path, models, face_model=face_model, instances=instances)
    for target, content in files.items():
        write_atomically(target, content)
    return list(files)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.triton", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("engine", type=Path, help=".engine (with its .json beside it) or .onnx file")
    parser.add_argument("models", type=Path, help="Triton's model repository")
    parser.add_argument("--name", help="the network's name in Triton (default: the file's, up to the first dot)")
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    parser.add_argument("--instances", type=int, metavar="N", help="processes of `faces` (default: one a core)")
    options = parser.parse_args(arguments)
    files = write_repository(
        options.engine,
        options.models,
        name=options.name,
        face_model=options.face_model,
        instances=options.instances,
    )
    if options.engine.suffix == ".engine" and files[0].suffix == ".onnx":
        print(
            f"{options.engine}: a plan of TensorRT-RTX, which only 'faces' can run; "
            "for the network alone, the .onnx beside it goes in its place"
        )
    for file in files:
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

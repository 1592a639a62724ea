"""`python -m export.build_engine CKPT.pth`: a checkpoint becomes X.onnx, X.engine and X.engine.json, each step checked.

X.onnx is the float32 network for ONNX Runtime, its manifest in its metadata. X.engine is a TensorRT-RTX (or TensorRT)
plan, float16 through the streams unless --precision fp32 is asked for; its manifest is X.engine.json. The order is:
checkpoint and face model belong together -> reparameterised -> ONNX -> float16 range -> float16-mixed -> plan -> types
of its layers -> (with a GPU) the plan itself. Files are written last, when all that has passed.

Exit status: 0; 1 where a check failed (the figures are in the message); 2 for anything else, in one line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runtime.errors import ClnError, EngineUnavailableError, InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.files import sha256, write_atomically
from runtime.manifest import Manifest, Parity

if TYPE_CHECKING:
    from export.parity import Comparison, ParityCrops
    from export.plan import Plan
    from training.checkpoint import Checkpoint
    from training.model import CLN

Precision = Literal["fp16", "fp32"]
MAX_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build from which checkpoint. `out` is the plan's path; the other files are named after it."""

    checkpoint: Path
    out: Path
    precision: Precision = "fp16"
    compute_capabilities: tuple[str, ...] = ()
    max_batch: int = MAX_BATCH
    builder: str | None = None
    onnx_only: bool = False
    fp16_onnx: bool = False
    face_model: Path | None = None
    crops: Path | None = None

    def __post_init__(self) -> None:
        suffixes = (".engine", ".onnx") if self.onnx_only else (".engine",)
        if self.out.suffix not in suffixes:
            raise InvalidInputError(f"--out: expected a path ending in {' or '.join(suffixes)}, got {self.out}")
        if self.max_batch < 1:
            raise InvalidInputError(f"--max-batch: expected at least 1, got {self.max_batch}")
        if self.fp16_onnx and self.precision != "fp16":
            raise InvalidInputError("--fp16-onnx: expected --precision fp16 with it, got fp32; leave one of them out")
        if self.precision == "fp32" and "7.5" in self.compute_capabilities and not self.onnx_only:
            raise InvalidInputError(
                "--precision fp32: TensorRT-RTX has no float32 matrix product on 7.5 (Turing); use fp16 there"
            )


def build(options: BuildOptions) -> list[Path]:
    """Runs all steps and writes the files; their paths.

    Raises:
        ParityError, PrecisionError: a check failed.
        ClnError, OSError: a file, a library or an option is not as it must be.
    """
    from export.plan import choose_builder

    builder = None if options.onnx_only else choose_builder(options.builder, options.compute_capabilities)
    started = time.perf_counter()
    if not options.checkpoint.is_file():
        raise FileNotFoundError(f"{options.checkpoint}: expected a checkpoint, found none; train or fetch one")
    from training.checkpoint import load_checkpoint

    face_model = load_face_model(options.face_model)
    checkpoint = load_checkpoint(options.checkpoint, face_model)
    _check_counts(checkpoint, face_model)
    base = _base_manifest(options, checkpoint, face_model)
    _say("checkpoint", f"{options.checkpoint}, {base.input_size} px, face model '{face_model.name}'", started)

    graphs = _Graphs(checkpoint.model(), face_model, options)
    graphs.export_float32()
    if options.precision == "fp16" and (builder or options.fp16_onnx):
        graphs.export_mixed()
    files = {options.out.with_suffix(".onnx"): graphs.float32_file(base)}
    if options.fp16_onnx:
        files[options.out.with_suffix(".fp16.onnx")] = graphs.mixed_file(base)
    if builder:
        onnx = graphs.mixed_file(base) if options.precision == "fp16" else graphs.float32_file(base)
        plan, manifest = _build_plan(options, builder, onnx, base, graphs)
        files[options.out.with_suffix(".engine.json")] = manifest.to_json().encode()
        files[options.out] = plan.data
    for path, data in files.items():
        write_atomically(path, data)
        _say("written", f"{path}, {len(data) / 1e3:,.1f} kB")
    return list(files)


class _Graphs:
    """The network on its way: eval -> fused -> ONNX, and the parity figures collected on it."""

    def __init__(self, model: CLN, face_model: FaceModel, options: BuildOptions) -> None:
        from export.parity import Comparison, parity_crops
        from training.model import reparameterize

        started = time.perf_counter()
        self.crops: ParityCrops = parity_crops(model.config.input_size, options.crops)
        self.comparison: Comparison = Comparison(model, self.crops, face_model)
        counts = f"{len(self.crops.faces)} of faces, {len(self.crops.noise)} of noise"
        _say("crops", counts if len(self.crops.faces) else f"{counts}: noise is gated, for want of faces", started)
        self.fused = reparameterize(model)
        self.parity: tuple[Parity, ...] = ()

    def measure(self, step: str, run: Any, gate: Any) -> Parity:
        """Compares a step with the network and says how near it is."""
        from export.parity import parity_text

        started = time.perf_counter()
        parity = self.comparison.measure(step, run, gate)
        _say(step, parity_text(parity), started)
        return parity

    def export_float32(self) -> None:
        """Fused and exported in float32."""
        from export.onnx_graph import export_graph
        from export.parity import FLOAT32_GATE, onnx_run, torch_run

        first = self.measure("reparameterized", torch_run(self.fused), FLOAT32_GATE)
        self.float32 = self._exported("ONNX float32", export_graph, self.fused, expected="fp32")
        second = self.measure("ONNX float32", onnx_run(self.float32, "float32 graph"), FLOAT32_GATE)
        self.parity = (first, second)

    def export_mixed(self) -> None:
        """Checked for float16's range, converted and exported."""
        from export.onnx_graph import export_graph
        from export.parity import HALF_GATE, onnx_run, torch_run
        from export.precision import half_range, to_mixed

        started = time.perf_counter()
        found = half_range(self.fused, self.crops.gated)
        _say(
            "float16 range",
            f"weights up to {found.largest_weight:.3g} ({found.weight_name}), "
            f"{found.subnormal_share:.2%} below 6.1e-5; "
            f"activations up to {found.largest_activation:.3g} ({found.activation_name})",
            started,
        )
        mixed = to_mixed(self.fused)
        first = self.measure("float16-mixed", torch_run(mixed), HALF_GATE)
        self.mixed = self._exported("ONNX float16-mixed", export_graph, mixed, expected="fp16-mixed")
        second = self.measure("ONNX float16-mixed", onnx_run(self.mixed, "float16-mixed graph"), HALF_GATE)
        self.mixed_parity = (*self.parity, first, second)

    def _exported(self, step: str, export_graph: Any, model: CLN, *, expected: str) -> bytes:
        from export.precision import layer_types_text, onnx_layer_types, precision_of

        started = time.perf_counter()
        data: bytes = export_graph(model)
        types = onnx_layer_types(data)
        _require_precision(step, precision_of(types), expected)
        _say(step, f"{len(data) / 1e6:.2f} MB, {layer_types_text(types)}", started)
        return data

    def float32_file(self, base: Manifest) -> bytes:
        """X.onnx."""
        from export.onnx_graph import embed_manifest

        return embed_manifest(self.float32, replace(base, precision="fp32", parity=self.parity))

    def mixed_file(self, base: Manifest) -> bytes:
        """X.fp16.onnx, which the plan is built from."""
        from export.onnx_graph import embed_manifest

        return embed_manifest(self.mixed, replace(base, precision="fp16-mixed", parity=self.mixed_parity))


def _build_plan(
    options: BuildOptions, builder: str, onnx: bytes, base: Manifest, graphs: _Graphs
) -> tuple[Plan, Manifest]:
    from export.plan import build_plan, inspect_plan
    from export.precision import layer_types_text, precision_of

    expected = "fp16-mixed" if options.precision == "fp16" else "fp32"
    started = time.perf_counter()
    plan = build_plan(
        onnx,
        builder=builder,
        input_size=base.input_size,
        max_batch=options.max_batch,
        compute_capabilities=options.compute_capabilities,
    )
    precision = precision_of(plan.layer_types)
    _require_precision("plan", precision, expected)
    _say(
        "plan",
        f"{plan.builder} {plan.builder_version} for {', '.join(plan.compute_capabilities)}, "
        f"{len(plan.data) / 1e6:.2f} MB, {precision}: {layer_types_text(plan.layer_types)}",
        started,
    )
    if inspected := inspect_plan(plan):
        _say("plan's inspector", ", ".join(f"{count} {kind}" for kind, count in sorted(inspected.items())))
    manifest = replace(
        base,
        precision=precision,
        builder=plan.builder,
        builder_version=plan.builder_version,
        compute_capabilities=plan.compute_capabilities,
        onnx_sha256=sha256(onnx),
        plan_sha256=sha256(plan.data),
        parity=graphs.mixed_parity if options.precision == "fp16" else graphs.parity,
    )
    return plan, _rehearse(plan, manifest, graphs)


def _rehearse(plan: Plan, manifest: Manifest, graphs: _Graphs) -> Manifest:
    """Loads the plan as a user would and runs it where a GPU is there; the manifest with its figures."""
    from export.parity import HALF_GATE, PLAN_FLOAT32_GATE
    from runtime.engines.tensorrt import TensorRTEngine

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.engine"
        path.write_bytes(plan.data)
        path.with_suffix(".engine.json").write_text(manifest.to_json(), encoding="utf-8")
        try:
            engine = TensorRTEngine(path)
        except EngineUnavailableError as error:
            _say("plan not run", str(error).removeprefix(f"{path}: ").split(";")[0])
            return manifest
        with engine:
            gate = HALF_GATE if manifest.precision == "fp16-mixed" else PLAN_FLOAT32_GATE
            parity = graphs.measure("plan", engine, gate)
    return replace(manifest, parity=(*manifest.parity, parity))


def _base_manifest(options: BuildOptions, checkpoint: Checkpoint, face_model: FaceModel) -> Manifest:
    """The manifest of an ONNX file; a plan's replaces what differs."""
    import torch

    return Manifest(
        input_size=checkpoint.config.input_size,
        shape_count=checkpoint.config.shape_count,
        expression_count=checkpoint.config.expression_count,
        face_model=face_model.name,
        face_model_sha256=face_model.sha256,
        precision="fp32",
        builder="onnx",
        builder_version=f"torch {torch.__version__}",
        batch_range=(1, options.max_batch),
        checkpoint_sha256=sha256(options.checkpoint.read_bytes()),
        figures=_figures(checkpoint.test),
    )


def _check_counts(checkpoint: Checkpoint, face_model: FaceModel) -> None:
    got = (checkpoint.config.shape_count, checkpoint.config.expression_count)
    expected = (face_model.shape_count, face_model.expression_count)
    if got != expected:
        raise InvalidInputError(
            f"checkpoint: expected {expected} shape and expression coefficients, as face model "
            f"'{face_model.name}' has, got {got}; train it with that face model"
        )


def _figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested mapping under joined names: {"nme": {"mean": 3.5}} -> {"nme/mean": 3.5}."""
    figures: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            figures.update(_figures(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures[f"{prefix}{key}"] = float(value)
    return figures


def _require_precision(step: str, found: str, expected: str) -> None:
    if found != expected:
        from export.precision import PrecisionError

        raise PrecisionError(f"{step}: expected precision {expected}, got {found}; the exporter has changed: report it")


def _say(step: str, text: str, started: float | None = None) -> None:
    seconds = "" if started is None else f" ({time.perf_counter() - started:.1f} s)"
    print(f"{step + ':':<20} {text}{seconds}", flush=True)


def _parse(arguments: Sequence[str] | None) -> BuildOptions:
    parser = argparse.ArgumentParser(prog="python -m export.build_engine", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("checkpoint", type=Path, help="the .pth file that python -m training.train wrote")
    add("--out", type=Path, help="path of the plan, X.engine; names the other files too (default: beside CKPT)")
    add("--precision", choices=("fp16", "fp32"), default="fp16", help="of the plan; X.onnx is float32 (default: fp16)")
    add(
        "--compute-capability",
        action="append",
        default=[],
        metavar="7.5",
        help="GPU that the plan is for; may be given several times (default: 8.0 and later; 7.5 only by name)",
    )
    add("--max-batch", type=int, default=MAX_BATCH, help=f"largest batch of the plan (default: {MAX_BATCH})")
    add("--builder", choices=("tensorrt_rtx", "tensorrt"), help="default: the first of them that is installed")
    add("--onnx-only", action="store_true", help="write X.onnx alone; needs no TensorRT")
    add("--fp16-onnx", action="store_true", help="also write X.fp16.onnx, what the plan is built from, for trtexec")
    add("--face-model", type=Path, help="the face model of the checkpoint (default: the bundled one)")
    add("--crops", type=Path, help="folder of face crops to check with, beside the synthetic ones")
    values = parser.parse_args(arguments)
    capabilities = tuple(dict.fromkeys(values.compute_capability))
    plain = {key: value for key, value in vars(values).items() if key not in ("compute_capability", "out")}
    out = values.out or values.checkpoint.with_suffix(".engine")
    return BuildOptions(out=out, compute_capabilities=capabilities, **plain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    try:
        build(_parse(arguments))
    except (ClnError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if _is_failed_check(error) else 2
    return 0


def _is_failed_check(error: Exception) -> bool:
    if "export.precision" not in sys.modules:
        return False
    from export.parity import ParityError
    from export.precision import PrecisionError

    return isinstance(error, ParityError | PrecisionError)


if __name__ == "__main__":
    sys.exit(main())

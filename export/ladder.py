"""The steps of the export, one after the other, each measured against the trained network.

`Ladder` makes the graphs that `export.build_engine` writes; `main` (`python -m export.parity CKPT.pth`) climbs all of
it, without writing anything, and prints one table.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import ClnError, EngineUnavailableError, InvalidInputError
from runtime.face_model import FaceModel, load_face_model
from runtime.files import sha256
from runtime.manifest import Manifest, Parity

if TYPE_CHECKING:
    from export.parity import Comparison, Gate, LabelledFaces, ParityCrops, Run
    from export.plan import Plan
    from export.quantize import Quantized
    from training.checkpoint import Checkpoint
    from training.model import CLN

CALIBRATION, HELD_OUT = 64, 160  # faces for INT8: ranges and choice of layers; the figure that the gate looks at
_CALIBRATION_START = 10_000  # index of the first calibration face, far from the held-out ones
_LIMITS = {"float32": 1e-4, "float16": 2e-2, "INT8": 0.1}  # of a layer's departure, where it is searched for
_SEARCH = 4  # crops, to find the layer that departs


def say(step: str, text: str, started: float | None = None) -> None:
    """Prints one step of a command."""
    seconds = "" if started is None else f" ({time.perf_counter() - started:.1f} s)"
    print(f"{step + ':':<20} {text}{seconds}", flush=True)


class Ladder:
    """The network on its way: eval -> fused -> ONNX -> float16-mixed, INT8; and the parity figures collected on it."""

    def __init__(self, model: CLN, face_model: FaceModel, crops: Path | None = None) -> None:
        """Renders the faces and runs the network on them; `crops` is a folder with more of them."""
        from export.parity import FACES, Comparison, parity_crops
        from training.model import reparameterize

        started = time.perf_counter()
        self._model, self._face_model = model, face_model
        self._rendered = self._render(range(FACES))
        self.crops: ParityCrops = parity_crops(model.config.input_size, self._rendered, crops)
        self.comparison: Comparison = Comparison(model, self.crops, face_model)
        counts = f"{len(self.crops.faces)} of faces, {len(self.crops.noise)} of noise"
        say("crops", counts if len(self.crops.faces) else f"{counts}: noise is gated, for want of faces", started)
        self.fused = reparameterize(model)
        self.parity: tuple[Parity, ...] = ()
        self.mixed_parity: tuple[Parity, ...] = ()
        self.int8_parity: tuple[Parity, ...] = ()

    def export_float32(self) -> None:
        """Fused and exported in float32."""
        from export.onnx_graph import export_graph
        from export.parity import FLOAT32_GATE, onnx_run, torch_run

        where = functools.partial(self._departure, self._model, self.fused, "float32")
        first = self.measure("reparameterized", torch_run(self.fused), FLOAT32_GATE, where)
        self.float32 = self._exported("ONNX float32", export_graph, self.fused, expected="fp32")
        where = functools.partial(self._departure, self.fused, self.float32, "float32")
        second = self.measure("ONNX float32", onnx_run(self.float32, "float32 graph"), FLOAT32_GATE, where)
        self.parity = (first, second)

    def export_mixed(self) -> None:
        """Checked for float16's range, converted and exported."""
        from export.onnx_graph import export_graph
        from export.parity import HALF_GATE, onnx_run, torch_run
        from export.precision import half_range, to_mixed

        started = time.perf_counter()
        found = half_range(self.fused, self.crops.gated)
        say(
            "float16 range",
            f"weights up to {found.largest_weight:.3g} ({found.weight_name}), "
            f"{found.subnormal_share:.2%} below 6.1e-5; "
            f"activations up to {found.largest_activation:.3g} ({found.activation_name})",
            started,
        )
        mixed = to_mixed(self.fused)
        where = functools.partial(self._departure, self.fused, mixed, "float16")
        first = self.measure("float16-mixed", torch_run(mixed), HALF_GATE, where)
        self.mixed = self._exported("ONNX float16-mixed", export_graph, mixed, expected="fp16-mixed")
        where = functools.partial(self._departure, self.fused, self.mixed, "float16")
        second = self.measure("ONNX float16-mixed", onnx_run(self.mixed, "float16-mixed graph"), HALF_GATE, where)
        self.mixed_parity = (*self.parity, first, second)

    def quantize(self) -> None:
        """Quantized on calibration faces, measured on held-out ones."""
        from export.parity import FACES, onnx_run
        from export.quantize import INT8_GATE, quantize

        started = time.perf_counter()
        first = _CALIBRATION_START
        calibration = self._compare(self._render(range(first, first + CALIBRATION)))
        held_out = self._compare(self._rendered, self._render(range(FACES, HELD_OUT)))
        say("INT8 faces", f"{CALIBRATION} to calibrate, {HELD_OUT} held out, NME {held_out.nme or 0.0:.3f} %", started)
        started = time.perf_counter()
        self.quantized: Quantized = quantize(self.float32, calibration, say=lambda text: say("INT8 sensitivity", text))
        kept = ", ".join(self.quantized.excluded) or "none"
        layers = f"{len(self.quantized.layers)} layers in INT8, left out by measurement: {kept}"
        say("ONNX INT8", f"{len(self.quantized.data) / 1e6:.2f} MB, {layers}", started)
        where = functools.partial(self._departure, self.fused, self.quantized.data, "INT8")
        run = onnx_run(self.quantized.data, "INT8 graph")
        self.int8_parity = (*self.parity, self.measure("ONNX INT8", run, INT8_GATE, where, held_out))

    def measure(
        self,
        step: str,
        run: Run,
        gate: Gate,
        departure: Callable[[], str] | None = None,
        comparison: Comparison | None = None,
    ) -> Parity:
        """Compares a step with the network and says how near it is."""
        from export.parity import parity_text

        started = time.perf_counter()
        parity = (comparison or self.comparison).measure(step, run, gate, departure)
        say(step, parity_text(parity), started)
        return parity

    def _render(self, indices: range) -> LabelledFaces:
        from export.parity import synthetic_faces

        return synthetic_faces(self._model.config.input_size, self._face_model, indices)

    def _compare(self, *rendered: LabelledFaces) -> Comparison:
        """The network on rendered faces, its own answers for labels where there are none."""
        from export.parity import Comparison, ParityCrops

        faces, labels = (np.concatenate(arrays) for arrays in zip(*rendered, strict=True))
        if not len(faces):
            raise InvalidInputError(
                "--precision int8: expected rendered faces to calibrate with, but training.synthetic or numba is "
                "missing; run: pip install 'cln[cpu,export]'"
            )
        crops = ParityCrops(faces=faces, noise=self.crops.noise, labels=labels)
        return Comparison(self._model, crops, self._face_model).with_own_labels()

    def _departure(self, reference: CLN, step: CLN | bytes, kind: str) -> str:
        from export.departure import first_departure, onnx_outputs, torch_outputs

        crops = self.crops.gated[:_SEARCH]
        outputs = onnx_outputs(step, crops) if isinstance(step, bytes) else torch_outputs(step, crops)
        return first_departure(torch_outputs(reference, crops), outputs, _LIMITS[kind])

    def _exported(self, step: str, export_graph: Any, model: CLN, *, expected: str) -> bytes:
        from export.precision import layer_types_text, onnx_layer_types, precision_of

        started = time.perf_counter()
        data: bytes = export_graph(model)
        types = onnx_layer_types(data)
        _require_precision(step, precision_of(types), expected)
        say(step, f"{len(data) / 1e6:.2f} MB, {layer_types_text(types)}", started)
        return data

    def float32_file(self, base: Manifest) -> bytes:
        """X.onnx."""
        from export.onnx_graph import embed_manifest

        return embed_manifest(self.float32, replace(base, precision="fp32", parity=self.parity))

    def mixed_file(self, base: Manifest) -> bytes:
        """X.fp16.onnx, which the plan is built from."""
        from export.onnx_graph import embed_manifest

        return embed_manifest(self.mixed, replace(base, precision="fp16-mixed", parity=self.mixed_parity))

    def int8_file(self, base: Manifest) -> bytes:
        """X.int8.onnx."""
        from export.onnx_graph import embed_manifest
        from runtime.engines.onnx import import_onnxruntime

        layers, kept = len(self.quantized.layers), len(self.quantized.excluded)
        manifest = replace(
            base,
            precision="int8",
            builder_version=f"{base.builder_version}, onnxruntime {import_onnxruntime().__version__}",
            parity=self.int8_parity,
            figures={**base.figures, "int8/layers": float(layers), "int8/excluded_layers": float(kept)},
        )
        return embed_manifest(self.quantized.data, manifest)

    def build_plan(
        self, base: Manifest, *, builder: str, precision: str, compute_capabilities: tuple[str, ...]
    ) -> tuple[Plan, Manifest]:
        """The plan, its precision read back, and its manifest; run, too, where a GPU is there.

        Args:
            base: its largest batch is the plan's.
            builder: `tensorrt_rtx` or `tensorrt`.
            precision: `fp16-mixed` or `fp32`.
            compute_capabilities: such as "8.9"; none for a portable plan.
        """
        from export.plan import build_plan

        started = time.perf_counter()
        onnx = self.mixed_file(base) if precision == "fp16-mixed" else self.float32_file(base)
        plan = build_plan(
            onnx,
            builder=builder,
            input_size=base.input_size,
            max_batch=base.batch_range[1],
            compute_capabilities=compute_capabilities,
        )
        _read_back(plan, precision, started)
        manifest = replace(
            base,
            precision=precision,
            builder=plan.builder,
            builder_version=plan.builder_version,
            compute_capabilities=plan.compute_capabilities,
            onnx_sha256=sha256(onnx),
            plan_sha256=sha256(plan.data),
            parity=self.mixed_parity if precision == "fp16-mixed" else self.parity,
        )
        return plan, self._rehearse(plan, manifest)

    def _rehearse(self, plan: Plan, manifest: Manifest) -> Manifest:
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
                say("plan not run", str(error).removeprefix(f"{path}: ").split(";")[0])
                return manifest
            with engine:
                gate = HALF_GATE if manifest.precision == "fp16-mixed" else PLAN_FLOAT32_GATE
                parity = self.measure("plan", engine, gate)
        return replace(manifest, parity=(*manifest.parity, parity))


def _read_back(plan: Plan, expected: str, started: float) -> None:
    from export.plan import inspect_plan
    from export.precision import layer_types_text, precision_of

    precision = precision_of(plan.layer_types)
    _require_precision("plan", precision, expected)
    say(
        "plan",
        f"{plan.builder} {plan.builder_version} for {', '.join(plan.compute_capabilities)}, "
        f"{len(plan.data) / 1e6:.2f} MB, {precision}: {layer_types_text(plan.layer_types)}",
        started,
    )
    if inspected := inspect_plan(plan):
        say("plan's inspector", ", ".join(f"{count} {kind}" for kind, count in sorted(inspected.items())))


def load(path: Path, face_model_path: Path | None, max_batch: int) -> tuple[Checkpoint, FaceModel, Manifest]:
    """A checkpoint, the face model it belongs to, and the manifest that all its files start from.

    Raises:
        ClnError, FileNotFoundError: a file is missing, damaged, or does not belong to the other.
    """
    started = time.perf_counter()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a checkpoint, found none; train or fetch one")
    from training.checkpoint import load_checkpoint

    face_model = load_face_model(face_model_path)
    checkpoint = load_checkpoint(path, face_model)
    _check_counts(checkpoint, face_model)
    base = _base_manifest(path, max_batch, checkpoint, face_model)
    say("checkpoint", f"{path}, {base.input_size} px, face model '{face_model.name}'", started)
    return checkpoint, face_model, base


def _base_manifest(path: Path, max_batch: int, checkpoint: Checkpoint, face_model: FaceModel) -> Manifest:
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
        batch_range=(1, max_batch),
        checkpoint_sha256=sha256(path.read_bytes()),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `python -m export.parity`; its exit status: 0, 1 where a gate failed, 2 for anything else."""
    from export.plan import choose_builder

    options = _parser().parse_args(arguments)
    try:
        checkpoint, face_model, base = load(options.checkpoint, options.face_model, max_batch=64)
        ladder = Ladder(checkpoint.model(), face_model, options.crops)
        steps = (ladder.export_float32, ladder.export_mixed, ladder.quantize)
        failures = [failure for step in steps if (failure := _climb(step))]
        plan: tuple[Parity, ...] = ()
        if ladder.mixed_parity:
            try:
                builder = choose_builder(None, ())
                _, manifest = ladder.build_plan(base, builder=builder, precision="fp16-mixed", compute_capabilities=())
                plan = manifest.parity[len(ladder.mixed_parity) :]
            except EngineUnavailableError as error:
                say("plan not built", str(error))
    except (ClnError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if is_failed_check(error) else 2
    print(_table(ladder.comparison.nme, (*(ladder.mixed_parity or ladder.parity), *ladder.int8_parity[-1:], *plan)))
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def is_failed_check(error: Exception) -> bool:
    """Whether an error is a gate that failed, and no fault of a file or an option."""
    if "export.precision" not in sys.modules:
        return False
    from export.parity import ParityError
    from export.precision import PrecisionError

    return isinstance(error, ParityError | PrecisionError)


def _climb(step: Callable[[], None]) -> str | None:
    """Takes a step; the message where its gate failed, so that the other steps are still measured."""
    try:
        step()
    except ClnError as error:
        if is_failed_check(error):
            return str(error)
        raise
    return None


def _table(nme: float | None, parities: Sequence[Parity]) -> str:
    """The ladder in Markdown, each step against the network in eval mode."""
    start = "" if nme is None else f", whose NME is {nme:.3f} % on rendered faces"
    lines = [f"Each step against PyTorch in eval mode{start}:", ""]
    lines += ["| step | landmarks mean, px | 99 %, px | max, px | \\|Δparams\\| mean | max | ΔNME, % | crops |"]
    lines += ["| --- " * 8 + "|"]
    for p in parities:
        delta = "–" if p.delta_nme is None else f"{p.delta_nme:+.5f}"
        lines.append(
            f"| {p.step} | {p.mean_landmark_px:.2g} | {p.p99_landmark_px:.2g} | {p.max_landmark_px:.2g} "
            f"| {p.mean_params:.2g} | {p.max_params:.2g} | {delta} | {p.crops} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.parity",
        description="Measures each step of the export against the trained network; writes nothing.",
    )
    parser.add_argument("checkpoint", type=Path, help="the .pth file that python -m training.train wrote")
    parser.add_argument("--face-model", type=Path, help="the face model of the checkpoint (default: the bundled one)")
    parser.add_argument(
        "--crops", type=Path, help="folder of photographs or face crops to compare on, beside the rendered ones"
    )
    return parser

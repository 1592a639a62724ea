"""`python -m export.build_engine CKPT.pth`: a checkpoint becomes X.onnx, X.engine and X.engine.json, each step checked.

X.onnx is the float32 network for ONNX Runtime, its manifest in its metadata. X.engine is a TensorRT-RTX (or TensorRT)
plan, float16 through the streams unless --precision fp32 is asked for; its manifest is X.engine.json. The order is:
checkpoint and face model belong together -> reparameterised -> ONNX -> float16 range -> float16-mixed -> types of the
layers given to the builder -> plan -> (with a GPU) what the plan's inspector says, and the plan itself. With
--precision int8, X.int8.onnx, for CPUs, takes the plan's place, the manifest in its metadata. Files are written last,
when all that has passed.

Exit status: 0; 1 where a check failed (the figures are in the message); 2 for anything else, in one line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from export.console import progress_bar, report_step, show_steps
from export.errors import FailedCheckError
from export.sources import compare_on_faces, load_sources
from runtime.command import Exit, command, print_error
from runtime.errors import InvalidInputError
from runtime.files import write_atomically

if TYPE_CHECKING:
    from export.comparison import Comparison
    from export.onnx_graph import Float32Graph
    from export.plan import Plan
    from export.precision import MixedGraph
    from runtime.manifest import Manifest

Precision = Literal["fp16", "fp32", "int8"]
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
        suffixes = (".engine", ".onnx") if self.onnx_only or self.precision == "int8" else (".engine",)
        if self.out.suffix not in suffixes:
            raise InvalidInputError(f"--out: expected a path ending in {' or '.join(suffixes)}, got {self.out}")
        if self.max_batch < 1:
            raise InvalidInputError(f"--max-batch: expected at least 1, got {self.max_batch}")
        if self.fp16_onnx and self.precision != "fp16":
            raise InvalidInputError(
                f"--fp16-onnx: expected --precision fp16 with it, got {self.precision}; omit one of them"
            )
        if self.precision == "int8" and (self.onnx_only or self.builder or self.compute_capabilities):
            raise InvalidInputError(
                "--precision int8: makes an ONNX file for CPUs and no plan; omit --onnx-only, --builder and "
                "--compute-capability"
            )
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
    from export.onnx_graph import float32_graph
    from export.plan import choose_builder

    planned = not options.onnx_only and options.precision != "int8"
    builder = choose_builder(options.builder, options.compute_capabilities) if planned else None
    sources = load_sources(options.checkpoint, options.face_model, max_batch=options.max_batch)
    rendering = progress_bar("rendering", "face")
    comparison = compare_on_faces(sources, options.crops, rendering)
    base, out = sources.manifest, options.out
    exact = float32_graph(sources.model, comparison)
    files = {out.with_suffix(".onnx"): exact.file(base)}
    mixed = None
    if options.precision == "fp16" and (builder or options.fp16_onnx):
        from export.precision import mixed_graph

        mixed = mixed_graph(exact, comparison)
    if mixed and options.fp16_onnx:
        files[out.with_suffix(".fp16.onnx")] = mixed.file(base)
    if options.precision == "int8":
        from export.quantize import int8_graph

        int8 = int8_graph(sources, exact, comparison, progress_bar("INT8", "step"))
        files[out.with_suffix(".int8.onnx")] = int8.file(base, files[out.with_suffix(".onnx")])
    if builder:
        plan = planned_from(mixed or exact, comparison, base, builder, options.compute_capabilities)
        files[out.with_suffix(".engine.json")] = plan.file(base).to_json().encode()
        files[out] = plan.data
    for path, data in files.items():
        write_atomically(path, data)
        report_step("written", f"{path}, {len(data) / 1e3:,.1f} kB")
    return list(files)


def planned_from(
    graph: Float32Graph | MixedGraph,
    comparison: Comparison,
    base: Manifest,
    builder: str,
    compute_capabilities: tuple[str, ...] = (),
) -> Plan:
    """A plan of a graph, and, where a GPU is there, its figures."""
    from export.plan import build_plan
    from export.rehearsal import rehearse

    plan = build_plan(
        graph.file(base),
        builder=builder,
        input_size=base.input_size,
        max_batch=base.batch_range[1],
        compute_capabilities=compute_capabilities,
        parity=graph.parity,
    )
    return rehearse(plan, comparison, base)


def _parse(arguments: Sequence[str] | None) -> BuildOptions:
    parser = argparse.ArgumentParser(prog="python -m export.build_engine", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("checkpoint", type=Path, help="the .pth file that python -m training.train wrote")
    add("--out", type=Path, help="path of the plan, X.engine; names the other files too (default: beside CKPT)")
    add(
        "--precision",
        choices=("fp16", "fp32", "int8"),
        default="fp16",
        help="of the plan (default: fp16); X.onnx is float32; int8 writes X.int8.onnx in the plan's place",
    )
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
    add("--crops", type=Path, help="folder of photographs or face crops to check with, beside the rendered ones")
    values = parser.parse_args(arguments)
    capabilities = tuple(dict.fromkeys(values.compute_capability))
    plain = {key: value for key, value in vars(values).items() if key not in ("compute_capability", "out")}
    out = values.out or values.checkpoint.with_suffix(".engine")
    return BuildOptions(out=out, compute_capabilities=capabilities, **plain)


@command(interrupted="nothing was written")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    show_steps()
    try:
        build(_parse(arguments))
    except FailedCheckError as error:
        print_error(error)
        return Exit.SKIPPED
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())

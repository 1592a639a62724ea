"""`python -m export.parity CKPT.pth`: how far each step of the export departs from the trained network in eval mode.

Steps, in order; nothing is written, and a step whose gate fails doesn't keep the others from being measured:

    PyTorch eval -> reparameterized -> ONNX float32 -> float16-mixed in PyTorch -> ONNX float16-mixed -> INT8 (-> plan)

The float16 step is run in PyTorch as well, because ONNX Runtime's CPU kernels compute float16 graphs in float32: they
show that the graph is right, but neither rounding between layers nor overflow.

Exit status: 0; 1 where a gate failed (the figures are in the message); 2 for anything else, in one line.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from export.build_engine import MAX_BATCH, planned_from
from export.console import progress_bar, report_step, show_steps
from export.errors import FailedCheckError
from export.sources import compare_on_faces, load_sources
from runtime.command import Exit, command, print_error
from runtime.errors import EngineUnavailableError

if TYPE_CHECKING:
    from export.plan import Plan
    from runtime.manifest import Parity

T = TypeVar("T")


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    options = _parser().parse_args(arguments)
    show_steps()
    failures: list[str] = []
    try:
        nme, parities = measure(options.checkpoint, options.face_model, options.crops, failures)
    except FailedCheckError as error:
        print_error(error)
        return Exit.SKIPPED
    print(table(nme, parities))
    for failure in failures:
        print_error(failure)
    return Exit.SKIPPED if failures else Exit.DONE


def measure(
    checkpoint: Path, face_model: Path | None, folder: Path | None, failures: list[str]
) -> tuple[float | None, list[Parity]]:
    """The network's own NME, and the figures of each step; messages of gates that failed are added to `failures`.

    Raises:
        ParityError: the float32 graph departs too far: no other step would mean anything.
        ClnError, OSError: a file or a library is not as it must be.
    """
    from export.onnx_graph import float32_graph
    from export.precision import mixed_graph
    from export.quantize import int8_graph

    sources = load_sources(checkpoint, face_model, max_batch=MAX_BATCH)
    comparison = compare_on_faces(sources, folder, progress_bar("rendering", "face"))
    exact = float32_graph(sources.model, comparison)
    parities = list(exact.parity)
    mixed = _attempt(functools.partial(mixed_graph, exact, comparison), failures)
    if mixed:
        parities = list(mixed.parity)
    quantized = functools.partial(int8_graph, sources, exact, comparison, progress_bar("INT8", "step"))
    if int8 := _attempt(quantized, failures):
        parities += int8.parity[len(exact.parity) :]
    if mixed:
        build = functools.partial(planned_from, mixed, comparison, sources.manifest)
        if plan := _attempt(functools.partial(_plan, build), failures):
            parities += plan.parity[len(mixed.parity) :]
    return comparison.nme, parities


def table(nme: float | None, parities: Sequence[Parity]) -> str:
    """The steps in Markdown, each against the network in eval mode."""
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


def _plan(build: Callable[[str], Plan]) -> Plan | None:
    from export.plan import choose_builder

    try:
        return build(choose_builder(None, ()))
    except EngineUnavailableError as error:
        report_step("plan not built", str(error))
        return None


def _attempt(step: Callable[[], T], failures: list[str]) -> T | None:
    """A step's result, or None and its message where its gate failed, so that the other steps are still measured."""
    try:
        return step()
    except FailedCheckError as error:
        failures.append(str(error))
        return None


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


if __name__ == "__main__":
    sys.exit(main())

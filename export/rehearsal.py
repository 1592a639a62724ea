"""A plan on the GPU, before its files are written: what its own inspector says, and how near it is to the network.

Polygraphy runs the plan alone; the runtime's engine runs it as a user's program will.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.comparison import BATCH, HALF_GATE, PLAN_FLOAT32_GATE, Comparison, in_batches
from export.console import report_step
from export.errors import PlanError
from export.layer_types import inspected_precision, inspected_types, require_precision
from export.plan import Plan, polygraphy_for
from runtime.engines.cuda import Cuda
from runtime.engines.plans import check_compute_capability, import_library
from runtime.engines.tensorrt import TensorRTEngine
from runtime.errors import EngineUnavailableError
from runtime.manifest import INPUT, OUTPUT, Manifest


def rehearse(plan: Plan, comparison: Comparison, base: Manifest) -> Plan:
    """The plan with the figures of its runs; as it was where no GPU is there that can run it.

    Raises:
        PrecisionError: the plan's inspector tells another precision than that of the network given to the builder.
        ParityError: the plan departs too far.
    """
    try:
        check_compute_capability(Cuda().compute_capability(), plan.compute_capabilities)
    except EngineUnavailableError as error:
        report_step("plan not run", str(error).split(";")[0])
        return plan
    gate = HALF_GATE if plan.precision == "fp16-mixed" else PLAN_FLOAT32_GATE
    parity = list(plan.parity)
    try:
        with polygraphy_for(plan.builder):
            from polygraphy.backend.trt import TrtRunner, engine_from_bytes

            loaded = engine_from_bytes(plan.data)
            check_inspected(plan, inspect(plan.builder, loaded))
            with TrtRunner(loaded) as runner:

                def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
                    return np.array(runner.infer({INPUT: crops})[OUTPUT], dtype=np.float32)

                parity.append(comparison.measure("plan", in_batches(run, min(BATCH, plan.max_batch)), gate))
    except (PlanError, OSError) as error:  # CUDA's runtime library, which our own engine doesn't need, may be missing
        report_step("plan in Polygraphy", f"not run: {error}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.engine"
        path.write_bytes(plan.data)
        path.with_suffix(".engine.json").write_text(plan.file(base).to_json(), encoding="utf-8")
        try:
            engine = TensorRTEngine(path)
        except EngineUnavailableError as error:  # a GPU that the library doesn't serve, such as 9.0
            report_step("plan in the runtime", f"not run: {str(error).removeprefix(f'{path}: ').split(';')[0]}")
            return replace(plan, parity=tuple(parity))
        with engine as ours:
            parity.append(comparison.measure("plan in the runtime", ours, gate))
    return replace(plan, parity=tuple(parity))


def inspect(builder: str, engine: Any) -> str:
    """What an engine's inspector says of its layers, as JSON text."""
    kind = import_library(builder).LayerInformationFormat.JSON
    return str(engine.create_engine_inspector().get_engine_information(kind))


def check_inspected(plan: Plan, text: str) -> None:
    """Holds the inspector's JSON text against the precision of the network given to the builder.

    Raises:
        PrecisionError: they differ.
    """
    types = inspected_types(text)
    told = inspected_precision(types)
    if told is None:
        report_step("plan's inspector", "tells no layer's type")
        return
    require_precision("plan, by its inspector", told, plan.precision)
    counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(types.items()))
    report_step("plan's inspector", f"{told}: outputs of layers that compute, {counts}")

"""Prices many cases at once, for many sets of constants; a fit does that a thousand times.

The cost formula is not repeated here. The cases become one `ForwardWork` of arrays over the cases,
the constants of each case become one `Engine` of arrays, and `cost.forward_time` prices them
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import Floats
from specsim.cost import forward_time
from specsim.evidence.validation.cases import Case
from specsim.hardware import (
    CEILINGS,
    Accelerator,
    Engine,
    System,
    catalog_engine,
    engine_row,
    entry,
)
from specsim.operators import (
    ForwardWork,
    Operator,
    Precision,
    Sharding,
    forward_work,
    precision,
)

Place = tuple[str, str, str | None]  # engine, field, and the key if the field is a table

CONSTANTS = (*(field.name for field in fields(Engine) if field.type is not str), *CEILINGS)
ABOUT = (
    *("name", "source", "confidence", "head_sharded", "fuses", "formats", "attention_tables"),
    *("error", "verification_error", "speedup_low", "speedup_high"),
)
COUNTS = tuple(
    field.name for field in fields(Operator) if field.name not in ("name", "kind", "math")
)
UNSET = Engine("")  # what a constant is that no row of engines.toml names
OF_EACH_CASE = Precision("of each case", np.nan, "")


@dataclass(frozen=True, slots=True)
class CaseStack:
    """Cases as arrays over the cases.

    `places` says, for each constant, where its value in engines.toml comes from; `measured_s` are
    the measured seconds.
    """

    cases: tuple[Case, ...]
    work: ForwardWork
    accelerators: Accelerator
    places: Mapping[str, tuple[Place, ...]]
    values: Mapping[str, Floats]
    measured_s: Floats
    stages: Floats
    batch: Floats
    passes: Floats

    def seconds(self, values: Mapping[str, Floats]) -> Floats:
        """Predicted seconds, (…, cases); `values` replace some constants, each (…, cases)."""
        constants = {**self.values, **values}
        for ceiling, efficiency in CEILINGS.items():
            limit = constants.pop(ceiling) / self.accelerators.bandwidth_bytes_per_s
            constants[efficiency] = np.minimum(constants[efficiency], limit)
        engine = Engine("of each case", **constants)  # type: ignore[arg-type]
        system = System(self.accelerators, engine, OF_EACH_CASE)
        pass_s = forward_time(self.work, system).total_s
        logits = self.passes * self.work.logits
        return self.passes * pass_s + outside_the_pass(engine, self.stages, self.batch, logits)


def outside_the_pass(
    engine: Engine, stages: Floats | int, batch: Floats | float, logits: Floats | float
) -> Floats:
    """Seconds of a step, or of a prompt, outside its passes: the host, and transfers from device to
    device."""
    host_s = engine.cycle_overhead_s + engine.sequence_overhead_s * batch
    transfer_s = (stages - 1) * engine.stage_overhead_s
    return np.asarray(host_s + engine.logit_overhead_s * logits + transfer_s)


def stack_cases(cases: Sequence[Case], engines: catalog.Table) -> CaseStack:
    """The cases as arrays, with the constants in `engines` for each case."""
    work, accelerators = stacked_work(cases, engines)
    places, values = {}, {}
    for field in CONSTANTS:
        if field not in ABOUT:
            found = [_find(case, field, engines) for case in cases]
            places[field] = tuple(place for place, _ in found)
            values[field] = np.array([value for _, value in found], float)
    numbers = _arrays(
        {
            "measured_s": [case.seconds for case in cases],
            "stages": [case.stages for case in cases],
            "batch": [case.batch for case in cases],
            "passes": [case.passes for case in cases],
        }
    )
    return CaseStack(tuple(cases), work, accelerators, places, values, **numbers)


def _find(case: Case, field: str, engines: catalog.Table) -> tuple[Place, float]:
    """Place and value of a constant: in the engine's row, or in that of the one it is `like`."""
    owner = case.engine
    while field not in engines[owner] and "like" in engines[owner]:
        owner = engines[owner]["like"]
    value = engines[owner].get(field, np.inf if field in CEILINGS else getattr(UNSET, field))
    if not isinstance(value, Mapping):
        return (owner, field, None), value
    key = entry(value, case.accelerator, case.precision)
    return (owner, field, key), value[key]


def stacked_work(cases: Sequence[Case], engines: catalog.Table) -> tuple[ForwardWork, Accelerator]:
    """One ForwardWork and one Accelerator of arrays over the cases.

    The cases differ in their arithmetic too. So the arithmetic of an operator gets the operator's
    name, and its FLOP/s are those of each case's accelerator.
    """
    works = [work_of(case, engines) for case in cases]
    accelerators: dict[str, Any] = {
        "bandwidth_bytes_per_s": [case.accelerator.bandwidth_bytes_per_s for case in cases],
        "link_bytes_per_s": [case.accelerator.link_rate for case in cases],
        "link_latency_s": [case.accelerator.link_latency_s for case in cases],
    }
    columns: dict[str, Any] = {
        "layers": [work.layers for work in works],
        "launched": [
            work.layers if engine_row(case.engine, engines).get("fuses") else work.launched
            for case, work in zip(cases, works, strict=True)
        ],
        "rows": [float(work.rows) for work in works],
        "logits": [float(work.logits) for work in works],
    }
    named = [{operator.name: operator for operator in work} for work in works]
    operators = _stacked(named)
    rates = {
        name: [
            case.accelerator.rate(work[name].math) if name in work else np.inf
            for case, work in zip(cases, named, strict=True)
        ]
        for name in (operator.name for operator in operators)
    }
    rates[OF_EACH_CASE.activation_math] = [case.accelerator.rate("bf16") for case in cases]
    return (
        ForwardWork(operators, precision=OF_EACH_CASE, **_arrays(columns)),
        Accelerator(OF_EACH_CASE.name, flops_per_s=_arrays(rates), **_arrays(accelerators)),
    )


def work_of(case: Case, engines: catalog.Table) -> ForwardWork:
    """The work of one case's pass."""
    engine = catalog_engine(case.engine, case.precision, case.accelerator, engines)
    return forward_work(
        case.architecture,
        case.workload,
        precision(case.precision),
        Sharding(case.tensor_parallel, engine.head_sharded),
    )


def _arrays(columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: np.array(values, float) for name, values in columns.items()}


def _stacked(works: Sequence[Mapping[str, Operator]]) -> tuple[Operator, ...]:
    """The operators of all cases; an operator counts zero in a case that lacks it."""
    kinds = {name: operator.kind for work in works for name, operator in work.items()}
    operators = []
    for name, kind in kinds.items():
        columns = {
            count: [float(getattr(work[name], count)) if name in work else 0.0 for work in works]
            for count in COUNTS
        }
        operators.append(Operator(name, kind, **_arrays(columns), math=name))
    return tuple(operators)

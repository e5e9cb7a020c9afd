"""Many cases priced at once, for many sets of constants: what a fit calls a thousand times.

The formula is not repeated here. The cases' works are laid side by side as one `ForwardWork` whose
scenarios are the cases, the constants that hold for each become one `Engine` of arrays, and
`cost.forward_time` prices them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import Floats
from specsim.cost import forward_time
from specsim.evidence.validation.cases import Case
from specsim.hardware import CEILINGS, Accelerator, Engine, System, catalog_engine, entry
from specsim.operators import (
    ForwardWork,
    Operator,
    Precision,
    Sharding,
    Workload,
    forward_work,
    precision,
)

Place = tuple[str, str, str | None]  # engine, field, and the key where the field is a table

CONSTANTS = (*(field.name for field in fields(Engine) if field.type is not str), *CEILINGS)
ABOUT = ("name", "source", "confidence", "error", "head_sharded")
COUNTS = tuple(
    field.name for field in fields(Operator) if field.name not in ("name", "kind", "math")
)
EACH_ITS_OWN = Precision("each its own", np.nan, "")


@dataclass(frozen=True, slots=True)
class Side:
    """Cases side by side; all arrays are over the cases."""

    cases: tuple[Case, ...]
    work: ForwardWork
    chips: Accelerator
    places: Mapping[str, tuple[Place, ...]]  # of each constant: where its value comes from
    values: Mapping[str, Floats]

    @property
    def measured_s(self) -> Floats:
        return np.array([case.seconds for case in self.cases])

    def seconds(self, values: Mapping[str, Floats]) -> Floats:
        """Of a step, (…, cases), where some constants have other `values`, each (…, cases)."""
        constants = {**self.values, **values}
        for ceiling, efficiency in CEILINGS.items():
            limit = constants.pop(ceiling) / self.chips.bandwidth_bytes_per_s
            constants[efficiency] = np.minimum(constants[efficiency], limit)
        engine = Engine("side by side", **constants)  # type: ignore[arg-type]
        machine = System(self.chips, engine, EACH_ITS_OWN)
        pass_s = forward_time(self.work, machine).total_s
        stages = np.array([case.stages for case in self.cases])
        batch = np.array([case.batch for case in self.cases])
        return pass_s + beyond_the_pass(engine, stages, batch, self.work.logits)


def beyond_the_pass(
    engine: Engine, stages: Floats | int, batch: Floats | float, logits: Floats | float
) -> Floats:
    """Seconds of a plain step beside its pass: the host, and handing rows from device to device."""
    host_s = engine.cycle_overhead_s + engine.sequence_overhead_s * batch
    handing_s = (stages - 1) * engine.stage_overhead_s
    return np.asarray(host_s + engine.logit_overhead_s * logits + handing_s)


def side_by_side(cases: Sequence[Case], engines: catalog.Table) -> Side:
    """The cases with the constants of `engines` that hold for each."""
    work, chips = stack(cases, engines)
    places, values = {}, {}
    for field in CONSTANTS:
        if field not in ABOUT:
            found = [_find(case, field, engines) for case in cases]
            places[field] = tuple(place for place, _ in found)
            values[field] = np.array([value for _, value in found], float)
    return Side(tuple(cases), work, chips, places, values)


def _find(case: Case, field: str, engines: catalog.Table) -> tuple[Place, float]:
    """Whose row gives the constant: the engine's own, or that of the relative it is `like`."""
    owner = case.engine
    while field not in engines[owner] and "like" in engines[owner]:
        owner = engines[owner]["like"]
    value = engines[owner].get(field, np.inf if field in CEILINGS else getattr(Engine(""), field))
    if not isinstance(value, Mapping):
        return (owner, field, None), value
    key = entry(value, case.chip, case.precision)
    return (owner, field, key), value[key]


def stack(cases: Sequence[Case], engines: catalog.Table) -> tuple[ForwardWork, Accelerator]:
    """One work whose scenarios are the cases, and the chips they ran on.

    The cases' arithmetic differs too, so each operator's is called as the operator itself is, and
    its rate is that of every case's chip for it.
    """
    works = [work_of(case, engines) for case in cases]
    chips: dict[str, Any] = {
        "bandwidth_bytes_per_s": [case.chip.bandwidth_bytes_per_s for case in cases],
        "link_bytes_per_s": [case.chip.link_rate for case in cases],
        "link_latency_s": [case.chip.link_latency_s for case in cases],
    }
    columns: dict[str, Any] = {
        "layers": [work.layers for work in works],
        "rows": [float(work.rows) for work in works],
        "logits": [float(work.logits) for work in works],
    }
    named = [{operator.name: operator for operator in work} for work in works]
    operators = _stacked(named)
    rates = {
        name: [
            case.chip.rate(work[name].math) if name in work else np.inf
            for case, work in zip(cases, named, strict=True)
        ]
        for name in (operator.name for operator in operators)
    }
    return (
        ForwardWork(operators, precision=EACH_ITS_OWN, **_arrays(columns)),
        Accelerator(EACH_ITS_OWN.name, flops_per_s=_arrays(rates), **_arrays(chips)),
    )


def work_of(case: Case, engines: catalog.Table) -> ForwardWork:
    driver = catalog_engine(case.engine, case.precision, case.chip, engines)
    return forward_work(
        case.architecture,
        Workload(
            batch=case.batch,
            rows=case.rows,
            context=case.context,
            allocated_context=case.allocated_context,
        ),
        precision(case.precision),
        Sharding(case.tensor_parallel, driver.head_sharded),
    )


def _arrays(columns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: np.array(values, float) for name, values in columns.items()}


def _stacked(works: Sequence[Mapping[str, Operator]]) -> tuple[Operator, ...]:
    """The operators over all cases, with nothing to do in those that lack them."""
    kinds = {name: operator.kind for work in works for name, operator in work.items()}
    operators = []
    for name, kind in kinds.items():
        columns = {
            count: [float(getattr(work[name], count)) if name in work else 0.0 for work in works]
            for count in COUNTS
        }
        operators.append(Operator(name, kind, **_arrays(columns), math=name))
    return tuple(operators)

"""Many cases priced at once, for many sets of constants: what a fit calls a thousand times.

The formula is not repeated here. The cases' works are laid side by side as one `ForwardWork` whose
scenarios are the cases, the constants that hold for each become one `Engine` of arrays, and
`cost.forward_time` prices them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from specsim import catalog
from specsim.cost import forward_time
from specsim.system import CEILINGS, Accelerator, Engine, System, entry
from specsim.validation.cases import Case
from specsim.work import ForwardWork, Operator, Precision, forward_work, precision

Floats = NDArray[np.float64]
Place = tuple[str, str, str | None]  # engine, field, and the key where the field is a table

CONSTANTS = (*(field.name for field in fields(Engine) if field.type is not str), *CEILINGS)
ABOUT = ("name", "source", "confidence", "error")


@dataclass(frozen=True, slots=True)
class Side:
    """Cases side by side; all arrays are over the cases."""

    cases: tuple[Case, ...]
    work: ForwardWork
    chips: Accelerator
    arithmetic: Precision
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
        machine = System(self.chips, engine, self.arithmetic)
        pass_s = forward_time(self.work, machine).total_s
        devices = np.array([case.devices for case in self.cases])
        batch = np.array([case.batch for case in self.cases])
        return pass_s + beyond_the_pass(engine, devices, batch, self.work.logits)


def beyond_the_pass(
    engine: Engine, devices: Floats | int, batch: Floats | float, logits: Floats | float
) -> Floats:
    """Seconds of a plain step beside its pass: the host, and handing rows from device to device."""
    host_s = engine.cycle_overhead_s + engine.sequence_overhead_s * batch
    handing_s = (devices - 1) * engine.stage_overhead_s
    return np.asarray(host_s + engine.logit_overhead_s * logits + handing_s)


def side_by_side(cases: Sequence[Case], engines: catalog.Table) -> Side:
    """The cases with the constants of `engines` that hold for each."""
    work, chips, arithmetic = stack(cases)
    places, values = {}, {}
    for field in CONSTANTS:
        if field not in ABOUT:
            found = [_find(case, field, engines) for case in cases]
            places[field] = tuple(place for place, _ in found)
            values[field] = np.array([value for _, value in found], float)
    return Side(tuple(cases), work, chips, arithmetic, places, values)


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


def stack(cases: Sequence[Case]) -> tuple[ForwardWork, Accelerator, Precision]:
    """One work whose scenarios are the cases, the chips they ran on, and their arithmetic."""
    works = [
        forward_work(
            case.architecture,
            precision(case.precision),
            batch=case.batch,
            rows=case.rows,
            context=case.context,
            allocated_context=case.allocated_context,
        )
        for case in cases
    ]
    arithmetic = Precision("each its own", np.nan, "linear")
    rates = {
        "linear": np.array([case.chip.rate(precision(case.precision).math) for case in cases]),
        "bf16": np.array([case.chip.rate("bf16") for case in cases]),  # attention's
    }
    bandwidth = np.array([case.chip.bandwidth_bytes_per_s for case in cases], float)
    work = ForwardWork(
        operators=_merged([{operator.name: operator for operator in work} for work in works]),
        layers=np.array([work.layers for work in works], float),  # type: ignore[arg-type]
        rows=np.array([float(work.rows) for work in works]),
        logits=np.array([float(work.logits) for work in works]),
        precision=arithmetic,
    )
    return work, Accelerator("each its own", bandwidth, rates), arithmetic  # type: ignore[arg-type]


def _merged(works: Sequence[Mapping[str, Operator]]) -> tuple[Operator, ...]:
    """The operators over all cases; those with the same intensity in each are bound alike: one."""
    merged: dict[tuple[str, bytes], Operator] = {}
    for name, kind in {name: o.kind for work in works for name, o in work.items()}.items():
        counts = {
            count: np.array([float(getattr(work[name], count)) if name in work else 0.0
                             for work in works])
            for count in ("flops", "weight_bytes", "kv_bytes", "activation_bytes")
        }  # fmt: skip
        stream = counts["weight_bytes"] + counts["kv_bytes"]
        intensity = np.round(stream / np.maximum(counts["flops"], 1.0), 12).tobytes()
        if same := merged.get((kind, intensity)):
            counts = {count: value + getattr(same, count) for count, value in counts.items()}
            name = f"{same.name}, {name}"
        merged[kind, intensity] = Operator(name, kind, **counts)
    return tuple(merged.values())

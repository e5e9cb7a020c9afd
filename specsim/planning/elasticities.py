"""Which input moves the answer most."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks.limits import LIMITS
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.speculation import predict


def sensitivity(
    target: Architecture,
    drafter: Drafter,
    system: System,
    *,
    gamma: int,
    step: float = 0.01,
    **scenario: Any,
) -> dict[str, float]:
    """Elasticities of the speedup at a fixed gamma: by how many per cent it moves when an input
    moves by one, the largest first. Central differences of `step`, in logarithms.

    Only inputs that are above 0 and single numbers; gamma is a choice, not an input.
    """
    chip, engine = system.accelerator, system.engine

    def speedup(system: System = system, **changes: Any) -> float:
        return float(predict(target, drafter, system, gamma=gamma, **(scenario | changes)).speedup)

    def elasticity(at: Any, value: float, most: float = np.inf) -> float:
        high, low = min(value * (1 + step), most), value * (1 - step)
        return float(np.log(at(high) / at(low)) / np.log(high / low))

    moves: dict[str, float] = {}
    for name, default in (("alpha", None), ("batch", 1), ("context", 1024)):
        value = scenario.get(name, default)
        if value is None or value <= 0 or (name != "alpha" and value * (1 - step) < 1):
            continue
        most = 1.0 if name == "alpha" else float(LIMITS[name].most)
        moves[name] = elasticity(lambda v, name=name: speedup(**{name: v}), value, most)

    def with_bandwidth(v: float) -> float:
        return speedup(system.with_bandwidth(v))

    def with_rates(v: float) -> float:
        rates = {name: rate * v for name, rate in chip.flops_per_s.items()}
        return speedup(replace(system, accelerator=replace(chip, flops_per_s=rates)))

    moves["bandwidth"] = elasticity(with_bandwidth, float(chip.bandwidth_bytes_per_s))
    if (host := system.host) is not None:

        def with_host(v: float) -> float:
            faster = replace(host, bandwidth_bytes_per_s=v)
            return speedup(replace(system, host=faster))

        moves["host bandwidth"] = elasticity(with_host, float(host.bandwidth_bytes_per_s))
    moves["arithmetic rate"] = elasticity(with_rates, 1.0)
    for field in fields(engine):
        value = getattr(engine, field.name)
        if field.name == "error" or not isinstance(value, float) or not 0 < value < np.inf:
            continue
        moves[field.name] = elasticity(
            lambda v, name=field.name: speedup(
                replace(system, engine=replace(engine, **{name: v}))
            ),
            value,
        )
    cycle = predict(target, drafter, system, gamma=gamma, **scenario)
    moves["drafting time"] = -float(cycle.draft_s / cycle.cycle_s)
    return dict(sorted(moves.items(), key=lambda move: -abs(move[1])))

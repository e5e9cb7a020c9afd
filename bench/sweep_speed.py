"""Scenarios per second on one core: Llama-3.1-8B, with Llama-3.2-1B as its draft.

Times a list of unrelated (batch, context, gamma, alpha), streamed in chunks, and speedup maps over
nine gammas, which share factors along their axes. NumPy's element-wise arithmetic is
single-threaded, so this uses one core. Each time is printed next to the time of the same scenarios
priced in full: all hundred operations of each pass, as `cost.step_time` does for one scenario.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import specsim
from specsim.cost import passes
from specsim.planning.sweep import speedup_map, speedups

PAIR = (
    specsim.model("llama-3.1-8b"),
    specsim.DraftModel(specsim.model("llama-3.2-1b")),
    specsim.system("h200-sxm"),
)
GAMMAS = range(9)
GOALS = {"list": ("million/s", 2.0), "map 40": ("ms", 8.0), "map 200": ("ms", 200.0)}


def best_s(call: Callable[[], Any], repeats: int) -> float:
    """The fastest of `repeats` runs: other processes can only add time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def in_full(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call with every scenario priced by `cost.step_time`."""

    def priced_in_full() -> Any:
        few, passes.FEW = passes.FEW, 2**62
        try:
            return call()
        finally:
            passes.FEW = few

    return priced_in_full


def a_list(many: int) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    scenarios = {
        "batch": rng.integers(1, 257, many),
        "context": rng.integers(1, 32_769, many),
        "gamma": rng.integers(0, 9, many),
        "alpha": rng.random(many),
    }
    return lambda: speedups(*PAIR, **scenarios)


def a_map(side: int, y: str) -> Callable[[], Any]:
    values = {"alpha": np.linspace(0.0, 0.99, side), "context": np.linspace(1, 32_768, side)}
    fixed = {} if y == "alpha" else {"alpha": 0.8}
    batch = np.arange(1, side + 1)
    return lambda: speedup_map(*PAIR, x=("batch", batch), y=(y, values[y]), gammas=GAMMAS, **fixed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", type=int, default=2_000_000, help="length of the list")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for name, call, many in (
        ("list", a_list(options.scenarios), options.scenarios),
        ("map 40, batch x alpha", a_map(40, "alpha"), 40 * 40 * 9),
        ("map 40, batch x context", a_map(40, "context"), 40 * 40 * 9),
        ("map 200, batch x alpha", a_map(200, "alpha"), 200 * 200 * 9),
        ("map 200, batch x context", a_map(200, "context"), 200 * 200 * 9),
    ):
        call()
        fast, full = best_s(call, options.repeats), best_s(in_full(call), 1)
        unit, goal = GOALS[name.split(",")[0]]
        reached = many / fast / 1e6 if unit == "million/s" else fast * 1e3
        met = reached >= goal if unit == "million/s" else reached <= goal
        rows.append(
            {
                "name": name,
                "scenarios": many,
                "seconds": fast,
                "seconds_in_full": full,
                "million_per_s": many / fast / 1e6,
                "goal": f"{goal:g} {unit}",
                "met": bool(met),
            }
        )
        print(
            f"{name:26s}{many:10,d} scenarios {fast * 1e3:9.2f} ms {many / fast / 1e6:7.2f} M/s"
            f"   goal {goal:g} {unit}: {'met' if met else 'MISSED'}   in full {full * 1e3:9.1f} ms"
        )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()

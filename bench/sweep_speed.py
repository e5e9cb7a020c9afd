"""Scenarios per second: arrays on one core, and a sweep of simulations on one and two processes.

    python bench/sweep_speed.py [--simulations 10000] [--only arrays|simulations]

The pair is Llama-3.1-8B, with Llama-3.2-1B as its draft.

Times a list of unrelated (batch, context, gamma, alpha), streamed in chunks, and speedup maps over
nine gammas, which share factors along their axes. NumPy's element-wise arithmetic is
single-threaded, so this uses one core. Each time is printed next to the time of the same scenarios
priced in full: all hundred operations of each pass, as `cost.step_time` does for one scenario.

The simulations are small servers, each another seed, stored point by point as `specsim sweep` does.
Beside their rate: the memory of this process after a tenth of the points and at the end.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import specsim
from specsim.cost import passes
from specsim.planning.sweep import speedup_map, speedups
from specsim.scenario.sweeping import plan_of, process_pool, run_sweep

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


LEAST_GAIN = 1.6  # of two processes over one, on two idle cores
SERVED = {
    "target": "llama-3.1-8b", "draft": "llama-3.2-1b", "accelerator": "h200-sxm", "alpha": 0.8,
    "rate": 10.0, "requests": 20, "output": "20", "policy": "fixed:2",
}  # fmt: skip


def memory_bytes() -> int:
    """What this process holds now, where the system tells; else 0."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def simulated(points: int, workers: int) -> dict[str, Any]:
    """A sweep of simulations: seconds from its first finished point to its last, and the memory."""
    plan = plan_of("serve-sim", SERVED, {"seed": {"from": 0, "to": points - 1, "steps": points}})
    times, held = [], []

    def watch(progress: Any, *_: Any) -> None:
        if progress.computed in (1, points // 10, points):
            times.append(time.perf_counter())
            held.append(memory_bytes())

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        store = Path(folder) / "x.jsonl"
        done = run_sweep(plan, process_pool(workers), store, watch=watch)
        stored = store.stat().st_size
    assert (done.progress.computed, done.progress.errors) == (points, 0)
    return {
        "workers": workers,
        "points": points,
        "seconds": times[-1] - times[0],  # workers import specsim before the first
        "seconds_with_start": times[-1] - begun,
        "points_per_s": (points - 1) / (times[-1] - times[0]),
        "computing_s_per_point": done.progress.seconds / points,
        "bytes_per_point": stored / points,
        "memory_bytes_at_a_tenth": held[-2],
        "memory_bytes_at_the_end": held[-1],
    }


def simulations(points: int) -> dict[str, Any]:
    """One process and two."""
    one, two = simulated(points, 1), simulated(points, 2)
    gain = two["points_per_s"] / one["points_per_s"]
    for each in (one, two):
        print(
            f"{each['workers']} process(es) {each['points']:10,d} simulations "
            f"{each['seconds']:8.1f} s {each['points_per_s']:8.1f} /s; memory "
            f"{each['memory_bytes_at_a_tenth'] / 1e6:.0f} MB after a tenth, "
            f"{each['memory_bytes_at_the_end'] / 1e6:.0f} MB at the end"
        )
    print(
        f"two over one: {gain:.2f}   goal {LEAST_GAIN}: {'met' if gain >= LEAST_GAIN else 'MISSED'}"
    )
    return {"one": one, "two": two, "gain": gain, "met": bool(gain >= LEAST_GAIN)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", type=int, default=2_000_000, help="length of the list")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--simulations", type=int, default=10_000, help="points of each sweep")
    parser.add_argument("--only", choices=("arrays", "simulations"))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.only != "simulations":
        found["rows"] = arrays(options.scenarios, options.repeats)
    if options.only != "arrays":
        found["simulations"] = simulations(options.simulations)
    print(json.dumps(found))


def arrays(scenarios: int, repeats: int) -> list[dict[str, Any]]:
    """The list and the maps."""
    rows = []
    for name, call, many in (
        ("list", a_list(scenarios), scenarios),
        ("map 40, batch x alpha", a_map(40, "alpha"), 40 * 40 * 9),
        ("map 40, batch x context", a_map(40, "context"), 40 * 40 * 9),
        ("map 200, batch x alpha", a_map(200, "alpha"), 200 * 200 * 9),
        ("map 200, batch x context", a_map(200, "context"), 200 * 200 * 9),
    ):
        call()
        fast, full = best_s(call, repeats), best_s(in_full(call), 1)
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
    return rows


if __name__ == "__main__":
    main()

"""The fit of what speculation costs an engine beside its passes: `..._overhead_s` in engines.toml.

A cycle's seconds are a straight line in these constants, so a case needs a few predictions only:

    cycle = passes + Σ constant x how often the cycle pays it

    minimise   Σ huber(log(predicted / published speedup) / NOISE)
             + Σ (log(constant / centre) / spread)²

The centres say what is assumed of an engine before any of its rows is seen. They differ by what
runs the host's part of a cycle: a serving engine's scheduler and captured graphs, PyTorch that
launches kernel by kernel, or a local engine that samples on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import Booleans, Floats
from specsim.evidence.validation.speedups import SpeculationCase
from specsim.hardware import accelerator

NOISE = 0.03  # relative error of a speedup above which a row counts by its error, not its square
STEPS = 40  # of the search; it takes about ten

# (centre in seconds, spread of its logarithm)
SERVED = {
    "speculation_overhead_s": (1e-3, 1.0),  # scheduling, metadata and one synchronisation more
    "verified_row_overhead_s": (2e-6, 1.5),  # a row of logits more to compare: a few passes over it
    "drafted_row_overhead_s": (2e-6, 1.5),  # the same for a node of a tree
    "draft_model_overhead_s": (0.3e-3, 1.0),  # a second model runner, a pass at a time
}
# Kernel by kernel: the launches of about 150 kernels a cycle and 45 a draft pass, at the 13 us each
# that a layer of about 40 takes in eager mode (arXiv:2402.01528: 0.55 ms).
EAGER = {
    "speculation_overhead_s": (2.0e-3, 0.7),
    "sampling_overhead_s": (0.6e-3, 0.7),
}
# One core sorts or sums the logits of a row: a vocabulary of 128,000 at a few ns each.
LOCAL = {
    "sampling_overhead_s": (0.8e-3, 0.7),
    "verified_row_overhead_s": (0.8e-3, 0.7),
}
CENTRES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "vllm": SERVED,
    "sglang": SERVED,
    "tensorrt-llm": SERVED,
    "transformers": EAGER,
    "llama.cpp": LOCAL,
    "mlx": LOCAL,
}


@dataclass(frozen=True, slots=True)
class PricedCycles:
    """Cases of one engine as arrays over the cases: what their cycles take without the constants,
    and how often each constant is paid."""

    engine: str
    names: tuple[str, ...]
    passes_s: Floats  # (cases,)
    paid: Floats  # (cases, constants)
    gained: Floats  # (cases,): tokens per cycle x plain step, seconds
    published: Floats  # (cases,)

    def speedups(self, constants: Floats) -> Floats:
        """Predicted speedups, (cases,), with the constants in seconds."""
        return self.gained / (self.passes_s + self.paid @ constants)


def cycles_of(
    engine: str, cases: Sequence[SpeculationCase], engines: catalog.Table
) -> PricedCycles:
    """The cases, all of one engine, priced without and with each constant."""
    names = tuple(CENTRES.get(engine, ()))
    # priced without any constant, then with one after the other
    one_each = dict(zip(names, np.eye(len(names), 1 + len(names), 1), strict=True))
    priced: dict[Any, tuple[float, float, list[float]]] = {}
    for case in cases:
        if case.cycle not in priced:
            found_s = case.predicted(engines, **one_each)
            passes_s, *with_one = np.ravel(found_s.cycle_s).tolist()
            paid = [seconds - passes_s for seconds in with_one]
            priced[case.cycle] = (passes_s, float(np.ravel(found_s.step_s)[0]), paid)
    found = [priced[case.cycle] for case in cases]
    tokens = np.array([case.tokens_per_cycle for case in cases])
    return PricedCycles(
        engine,
        names,
        passes_s=np.array([passes_s for passes_s, _, _ in found]),
        paid=np.reshape([paid for _, _, paid in found], (len(cases), len(names))),
        gained=tokens * np.array([step_s for _, step_s, _ in found]),
        published=np.array([case.speedup for case in cases]),
    )


def assumed(engine: str) -> Floats:
    """The constants before any row is seen, in seconds."""
    return np.array([centre for centre, _ in CENTRES[engine].values()])


def fitted_overheads(cycles: PricedCycles, train: Booleans) -> Floats:
    """The constants in seconds, from the cases where `train` is true and no others."""
    centre = np.log(assumed(cycles.engine))
    spread = np.array([width for _, width in CENTRES[cycles.engine].values()])
    theta, measured = centre.copy(), np.log(cycles.published[train])
    if not train.any():
        return np.exp(theta)
    paid, passes = cycles.paid[train], cycles.passes_s[train]
    for _ in range(STEPS):
        constants = np.exp(theta)
        cycle = passes + paid @ constants
        miss = (np.log(cycles.gained[train] / cycle) - measured) / NOISE
        slope = -(paid * constants) / cycle[:, None] / NOISE  # (cases, constants)
        weight = 1 / np.maximum(np.abs(miss), 1.0)
        curvature = (slope.T * weight) @ slope + np.diag(1 / spread**2)
        gradient = slope.T @ (weight * miss) + (theta - centre) / spread**2
        step = np.linalg.solve(curvature, gradient)
        theta = theta - np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-4:
            break
    return np.exp(theta)


def with_overheads(
    engines: Mapping[str, Mapping[str, Any]], cases: Sequence[SpeculationCase]
) -> dict[str, dict[str, Any]]:
    """The table of engines with these constants fitted to the cases marked `fitted`."""
    found = {name: dict(row) for name, row in engines.items()}
    for engine in CENTRES:
        mine = [case for case in cases if case.engine == engine]
        cycles = cycles_of(engine, mine, engines)
        constants = fitted_overheads(cycles, np.array([case.fitted for case in mine], bool))
        found[engine] |= dict(zip(cycles.names, map(float, constants), strict=True))
    return found


def speculated_on(cases: Sequence[SpeculationCase], engine: str) -> list[str]:
    """The kinds of machine that an engine's published speedups are from: engines.toml."""
    return sorted({str(accelerator(c.accelerator).kind) for c in cases if c.engine == engine})

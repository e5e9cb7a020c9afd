"""Errors of predicted speedups, also with some rows left out of the fit, and the bands from them.

Each case is predicted with the constants of engines.toml, with constants fitted without any row of
its paper (passes and speedups), and without any row of its engine at all: then what its overheads
are assumed to be, and the pass constants of the engine that it is `like`. An engine whose rows are
all of one paper is predicted the second way in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from specsim import catalog
from specsim.checks import Floats
from specsim.evidence.validation.cases import Case, passes
from specsim.evidence.validation.fitting import GROUPS, Fit
from specsim.evidence.validation.overheads import PricedCycles, cycles_of, fitted_overheads
from specsim.evidence.validation.speedups import SpeculationCase
from specsim.hardware import engine_row

TAILS = (0.1, 0.9)  # of the ratios published / predicted, the ends of an 80 % band


@dataclass(frozen=True, slots=True)
class ScoredSpeedup:
    """A case and its predicted speedups; `ideal` is the roofline's, without any overhead."""

    case: SpeculationCase
    ideal: float
    predicted: float
    without_source: float
    without_engine: float
    low: float  # relative widths of the 80 % band below and above
    high: float

    def error(self, of: str = "predicted") -> float:
        """The relative error of "ideal", "predicted", "without_source" or "without_engine"."""
        return float(getattr(self, of)) / self.case.speedup - 1

    def within_band(self, of: str) -> bool:
        """Whether the published speedup lies in the 80 % band around one of the predictions."""
        speedup = getattr(self, of)
        return bool(speedup / (1 + self.low) <= self.case.speedup <= speedup * (1 + self.high))


def scored_speedups(
    cases: Sequence[SpeculationCase], engines: catalog.Table | None = None
) -> list[ScoredSpeedup]:
    """All cases with their predictions, in the given order; `engines` replaces the catalog's."""
    engines = catalog.load("engines") if engines is None else engines
    of_passes = passes()[0]
    ideal = of_roofline(cases, engines)
    predicted = by_constants(cases, engines)
    without = {
        kind: left_out_speedups(cases, of_passes, engines, kind) for kind in ("source", "engine")
    }
    return [
        ScoredSpeedup(
            case,
            float(ideal[i]),
            float(predicted[i]),
            float(without["source"][i]),
            float(without["engine"][i]),
            engines[case.engine].get("speedup_low", 0.0),
            engines[case.engine].get("speedup_high", 0.0),
        )
        for i, case in enumerate(cases)
    ]


def of_roofline(cases: Sequence[SpeculationCase], engines: catalog.Table) -> Floats:
    """Speedups with the datasheet's rates and no overhead, (cases,)."""
    return cycles_of("ideal", [replace(case, engine="ideal") for case in cases], engines).speedups(
        np.zeros(0)
    )


def by_constants(cases: Sequence[SpeculationCase], engines: catalog.Table) -> Floats:
    """Speedups with the constants of a table of engines, (cases,)."""
    speedups = np.zeros(len(cases))
    for engine in dict.fromkeys(case.engine for case in cases):
        mine = np.array([case.engine == engine for case in cases])
        cycles = cycles_of(engine, [case for case in cases if case.engine == engine], engines)
        constants = np.array([engine_row(engine, engines).get(name, 0.0) for name in cycles.names])
        speedups[mine] = cycles.speedups(constants)
    return speedups


def left_out_speedups(
    cases: Sequence[SpeculationCase],
    of_passes: Sequence[Case],
    engines: catalog.Table,
    kind: str,
) -> Floats:
    """Predicted speedups of each case with constants fitted without rows of the same `kind`,
    "source" or "engine"."""
    speedups = np.zeros(len(cases))
    keys = np.array([f"{case.engine}: {case.paper if kind == 'source' else ''}" for case in cases])
    engine_of = np.array([case.engine for case in cases])
    usable = np.array([case.fitted for case in cases])
    shipped: dict[str, PricedCycles] = {}  # by engine: where no pass was left out
    for key in np.unique(keys):
        out = keys == key
        engine = str(engine_of[out][0])
        mine = engine_of == engine
        papers = {case.paper for case, left in zip(cases, out, strict=True) if left}
        table = passes_without(of_passes, engines, engine, papers if kind == "source" else None)
        if table is not engines or engine not in shipped:
            cycles = cycles_of(engine, [cases[int(i)] for i in np.flatnonzero(mine)], table)
            if table is engines:
                shipped[engine] = cycles
        else:
            cycles = shipped[engine]
        constants = fitted_overheads(cycles, (usable & ~out)[mine])
        speedups[out] = cycles.speedups(constants)[out[mine]]
    return speedups


def passes_without(
    of_passes: Sequence[Case], engines: catalog.Table, engine: str, papers: set[str] | None
) -> catalog.Table:
    """The table of engines with the pass constants of one fitted without its rows of some papers
    (None: without any of its rows); the same table where that leaves out nothing."""
    group = next((group for group in GROUPS if engine in group), None)
    if group is None:
        return engines
    rows = [case for case in of_passes if case.engine in group]
    out = np.array(
        [
            case.engine == engine and (papers is None or case.source.split(" Table")[0] in papers)
            for case in rows
        ]
    )
    fit = Fit(rows, group, engines)
    if not np.any(out & fit.usable):
        return engines
    found = fit.engines_with(fit.search(fit.usable & ~out))
    return dict(engines) | {engine: found[engine]}


def speedup_bands(rows: Sequence[ScoredSpeedup]) -> dict[str, tuple[float, float]]:
    """The widths of the 80 % band of a speedup, (below, above), of each engine with rows, and of
    "assumed": an engine without rows, from what leaving out whole engines gives.

    They come from predictions without the row's paper, and are no narrower than the assumed ones:
    rows of one or two papers vary less than those of all.
    """
    by_engine: dict[str, list[ScoredSpeedup]] = {}
    for row in rows:
        by_engine.setdefault(row.case.engine, []).append(row)
    # an engine counts once, however many rows it has
    weighted = [(row, 1 / len(mine)) for mine in by_engine.values() for row in mine]
    assumed = widths(
        [row.case.speedup / row.without_engine for row, _ in weighted],
        [weight for _, weight in weighted],
    )
    bands = {"assumed": assumed}
    for engine, mine in by_engine.items():
        own = widths([row.case.speedup / row.without_source for row in mine])
        bands[engine] = (max(own[0], assumed[0]), max(own[1], assumed[1]))
    return bands


def widths(ratios: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """(below, above): 80 % of published / predicted lie between 1 / (1 + below) and 1 + above."""
    logs = np.log(ratios)
    order = np.argsort(logs)
    shares = np.ones(len(logs)) if weights is None else np.asarray(weights)[order]
    places = (np.cumsum(shares) - shares / 2) / shares.sum()
    low, high = np.interp(TAILS, places, logs[order])
    return float(max(np.expm1(-low), 0.0)), float(max(np.expm1(high), 0.0))

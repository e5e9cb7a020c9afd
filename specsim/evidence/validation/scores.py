"""Errors of predictions against published measurements, also with some rows left out of the fit.

Each case is predicted in four ways: by the roofline (`ideal`), with the constants of engines.toml,
with constants fitted without any row of its accelerator, and without any row of its source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from specsim import catalog
from specsim.checks import Floats
from specsim.cost import step_time
from specsim.evidence.validation.cases import Case
from specsim.evidence.validation.fitting import GROUPS, Fit
from specsim.evidence.validation.pricing import outside_the_pass
from specsim.hardware import System, catalog_engine
from specsim.operators import precision

FEW = 10  # an engine with fewer rows has no band of its own


@dataclass(frozen=True, slots=True)
class Scored:
    """A case and its predictions, in seconds; `band` is the engine's relative 80 % half-width."""

    case: Case
    ideal_s: float
    predicted_s: float
    without_chip_s: float
    without_source_s: float
    band: float

    @property
    def scores(self) -> bool:
        """Whether it counts in its engine's medians: a verified step of plain decoding."""
        return self.case.plain and self.case.verified

    def error(self, of: str = "predicted") -> float:
        """The relative error of "ideal", "predicted", "without_chip" or "without_source"."""
        return float(getattr(self, f"{of}_s")) / self.case.seconds - 1

    def within_band(self, of: str) -> bool:
        """Whether the measured time lies in the 80 % band around one of the predictions."""
        return abs(np.log1p(self.error(of))) <= np.log1p(self.band)


def scored(cases: Sequence[Case], engines: catalog.Table | None = None) -> list[Scored]:
    """All cases with their predictions, in the given order; `engines` replaces the catalog's."""
    engines = catalog.load("engines") if engines is None else engines
    without = {kind: left_out(cases, kind, engines) for kind in ("chip", "source")}
    return [
        Scored(
            case=case,
            ideal_s=step_s(case, "ideal", engines),
            predicted_s=step_s(case, case.engine, engines),
            without_chip_s=without["chip"][i],
            without_source_s=without["source"][i],
            band=engines[case.engine]["error"],
        )
        for i, case in enumerate(cases)
    ]


def step_s(case: Case, engine: str, engines: catalog.Table) -> float:
    """Predicted seconds of the case's step, or prompt, with one engine of a table of engines."""
    constants = catalog_engine(engine, case.precision, case.accelerator, engines)
    forward = step_time(
        case.architecture,
        System(case.accelerator, constants, precision(case.precision), case.tensor_parallel),
        case.workload,
    )
    rows = case.rows if case.logit_rows is None else case.logit_rows
    logits = case.passes * case.batch * rows * case.architecture.vocab_size
    outside_s = outside_the_pass(constants, case.stages, case.batch, logits)
    return float(case.passes * forward.total_s + outside_s)


def left_out(cases: Sequence[Case], kind: str, engines: catalog.Table) -> Floats:
    """Predicted seconds of each case with constants fitted without some of the rows.

    `kind` is "chip" (without the rows of the case's accelerator) or "source". The constants of an
    engine that is not fitted do not change.
    """
    seconds = np.array([step_s(case, case.engine, engines) for case in cases])
    groups_of = np.array([c.accelerator.name if kind == "chip" else c.source for c in cases])
    for group in GROUPS:
        mine = np.array([i for i, case in enumerate(cases) if case.engine in group])
        if not len(mine):
            continue
        fit = Fit([cases[int(i)] for i in mine], group, engines)
        of_all = None  # where a left out group has no row that is fitted
        for name in np.unique(groups_of[mine]):
            out = groups_of[mine] == name
            if np.any(fit.usable & out):
                constants = fit.search(fit.usable & ~out)
            else:
                constants = of_all = fit.search(fit.usable) if of_all is None else of_all
            seconds[mine[out]] = np.exp(fit.log_seconds(constants)[out])
    return seconds


def half_width(ratios: Iterable[float]) -> float:
    """The e for which 80 % of predicted / measured lie between 1 / (1 + e) and 1 + e."""
    off = np.abs(np.log(list(ratios)))
    return float(np.expm1(np.quantile(off, 0.8))) if len(off) else 0.0


def bands(rows: Sequence[Scored]) -> Mapping[str, float]:
    """The `error` of each engine, from both ways to leave rows out.

    An engine with fewer than FEW rows gets at least the half-width over all engines.
    """
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.scores:
            both = (row.error("without_chip"), row.error("without_source"))
            ratios.setdefault(row.case.engine, []).extend(1 + error for error in both)
    pooled = half_width(ratio for found in ratios.values() for ratio in found)
    return {
        engine: half_width(found) if len(found) >= 2 * FEW else max(half_width(found), pooled)
        for engine, found in ratios.items()
    }


def verification_bands(rows: Sequence[Scored]) -> Mapping[str, float]:
    """The `verification_error` of each engine with passes of several rows, in the same way."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.case.verified and row.case.kind == "verification":
            both = (row.error("without_chip"), row.error("without_source"))
            ratios.setdefault(row.case.engine, []).extend(1 + error for error in both)
    return {engine: half_width(found) for engine, found in ratios.items()}

"""The comparison with all published rows, as plain data."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from specsim import catalog
from specsim.catalog import published
from specsim.evidence.validation.cases import Case, Skip, passes
from specsim.evidence.validation.fitting import FITTED
from specsim.evidence.validation.formulas import PublishedResult, results
from specsim.evidence.validation.overheads import CENTRES
from specsim.evidence.validation.scores import Scored, scored
from specsim.evidence.validation.speculation_scores import ScoredSpeedup, scored_speedups
from specsim.evidence.validation.speedups import published_speedups

KINDS = ("ideal", "predicted", "without_chip", "without_source")
SPEEDUP_KINDS = ("ideal", "predicted", "without_engine", "without_source")
# Tables without a predicted row, and why.
ELSEWHERE = {
    "acceptance_rates": "acceptance: an input, not a speed",
    "accelerators": "datasheets: the catalog's accelerators",
    "achieved_bandwidth": "implied by rows of decode_speed",
    "serving_throughput": "largest batch that fits: needs prefill and KV capacity",
}


# Passes that are predicted but do not count in the medians of the engines.
UNSCORED: dict[str, Callable[[Case], bool]] = {
    "several rows per sequence": lambda case: case.kind == "verification",
    "prompts": lambda case: case.prompt,
    "not verified at the source": lambda case: not case.verified,
}


def report() -> dict[str, Any]:
    """All published rows, predicted or skipped with the reason, as a JSON document.

    `engines`: medians of |relative error| over plain steps; `average`: the mean of these medians;
    `kinds`: median and 90th percentile for each engine's plain steps, verifications (passes of
    several rows), prompts ("prefill") and speedups; `unscored`: the medians of the passes that do
    not count in the engines' ones; `coverage`: the share of rows inside their 80 % bands, of plain
    steps and of speedups, and the bands' median half-widths; `constants`: how many constants each
    engine's rows determine; `rows`: steps and verifications, `prompts` and `speedups`, the largest
    error first; `speculation`: speedups, cycle times and formulas by set; `skipped`: the reasons;
    `tables`: the numbers of rows, predicted and skipped, of each published table.
    """
    return document_of(scored(passes()[0]), scored_speedups(published_speedups()[0]))


def document_of(passed: Sequence[Scored], sped_up: Sequence[ScoredSpeedup]) -> dict[str, Any]:
    """The same of scored passes and speedups."""
    rows = sorted(passed, key=lambda row: -abs(row.error()))
    speedups = sorted(sped_up, key=lambda row: -abs(row.error()))
    others = results()
    skips = [*passes()[1], *published_speedups()[1]] + [
        Skip(table, line, reason)
        for table, reason in ELSEWHERE.items()
        for line, _ in enumerate(published.rows(table), start=2)
    ]
    plain = [row for row in rows if row.scores]
    engines = [engine_row(name, plain) for name in catalog.load("engines")]
    used = [engine for engine in engines if engine["rows"]]
    reasons = Counter((skip.table, skip.reason) for skip in skips)
    predicted = {(row.case.table, row.case.line) for row in rows}
    predicted |= {(row.case.table, row.case.line) for row in speedups}
    predicted |= {(result.table, result.line) for result in others}
    return {
        "engines": engines,
        "average": {kind: float(np.mean([engine[kind] for engine in used])) for kind in KINDS},
        "kinds": [*kinds_of_passes(rows), *kinds_of_speedups(speedups)],
        "coverage": coverage(plain, speedups),
        "constants": {
            name: free_constants(name, {row.case.engine for row in speedups})
            for name in catalog.load("engines")
        },
        "unscored": {
            what: summary([row for row in rows if choose(row.case)])
            for what, choose in UNSCORED.items()
        },
        "rows": [pass_row(row) for row in rows if not row.case.prompt],
        "prompts": [pass_row(row) for row in rows if row.case.prompt],
        "speedups": [speedup_row(row) for row in speedups],
        "speculation": sorted(
            [speculation_row(result) for result in others]
            + [speculation_row(as_result(row)) for row in speedups],
            key=lambda row: -abs(row["error"]),
        ),
        "skipped": [
            {"table": table, "reason": reason, "rows": count}
            for (table, reason), count in sorted(reasons.items(), key=lambda item: -item[1])
        ],
        "tables": {
            table: {
                "rows": len(published.rows(table)),
                "predicted": sum(name == table for name, _ in predicted),
                "skipped": sum(skip.table == table for skip in skips),
            }
            for table in published.TABLES
        },
    }


def coverage(plain: Sequence[Scored], speedups: Sequence[ScoredSpeedup]) -> dict[str, float]:
    """Shares of rows inside their bands, and the bands' median half-widths.

    The half-width of a speedup's band is half of what it spans, relative to the speedup.
    """
    spans = [(1 + row.high - 1 / (1 + row.low)) / 2 for row in speedups]
    return {
        **{
            kind: float(np.mean([row.within_band(kind) for row in plain]))
            for kind in ("without_chip", "without_source")
        },
        **{
            f"speedups_{kind}": float(np.mean([row.within_band(kind) for row in speedups]))
            for kind in ("without_source", "without_engine")
        },
        "half_width": float(np.median([row.band for row in plain])),
        "speedups_half_width": float(np.median(spans)),
    }


def free_constants(engine: str, measured: set[str]) -> dict[str, int]:
    """How many numbers the rows of an engine determine: of its passes, and of speculation where it
    is among those `measured`."""
    row = catalog.load("engines")[engine]
    fields = [row[name] for name in FITTED.get(engine, ())]
    passes = sum(len(field) if hasattr(field, "keys") else 1 for field in fields)
    return {"passes": passes, "speculation": len(CENTRES[engine]) if engine in measured else 0}


def kinds_of_passes(rows: Sequence[Scored]) -> list[dict[str, Any]]:
    """Errors of each engine's plain steps, of its passes of several rows and of its prompts."""
    found = []
    for name in catalog.load("engines"):
        mine = [row for row in rows if row.case.engine == name and row.case.verified]
        for kind in ("plain", "verification", "prefill"):
            of_kind = [row for row in mine if row.case.kind == kind]
            if of_kind:
                sources = {row.case.source for row in of_kind}
                errors = {key: [row.error(key) for row in of_kind] for key in KINDS}
                found.append(kind_row(name, kind, sources, errors))
    return found


def kinds_of_speedups(rows: Sequence[ScoredSpeedup]) -> list[dict[str, Any]]:
    """Errors of each engine's speedups, and of all together."""
    found = []
    for name in (*catalog.load("engines"), "all"):
        mine = [row for row in rows if name in (row.case.engine, "all")]
        if mine:
            sources = {row.case.paper for row in mine}
            errors = {key: [row.error(key) for row in mine] for key in SPEEDUP_KINDS}
            found.append(kind_row(name, "speculation", sources, errors))
    return found


def kind_row(
    engine: str, kind: str, sources: set[str], errors: dict[str, list[float]]
) -> dict[str, Any]:
    """One line: the median and the 90th percentile of |error| for each way to predict."""
    sizes = {key: np.abs(values) for key, values in errors.items()}
    return {
        "engine": engine,
        "kind": kind,
        "rows": len(next(iter(sizes.values()))),
        "sources": len(sources),
        "median": {key: float(np.median(each)) for key, each in sizes.items()},
        "p90": {key: float(np.quantile(each, 0.9)) for key, each in sizes.items()},
        "bias": float(np.median(errors["without_source"])),
    }


def speedup_row(row: ScoredSpeedup) -> dict[str, Any]:
    """One predicted speedup as plain data."""
    case = row.case
    return {
        "table": case.table,
        "line": case.line,
        "engine": case.engine,
        "case": case.label,
        "fitted": case.fitted,
        "published": case.speedup,
        "predicted": row.predicted,
        "band": [row.predicted / (1 + row.low), row.predicted * (1 + row.high)],
        "ideal": row.ideal,
        "without_source": row.without_source,
        "without_engine": row.without_engine,
        "error": row.error(),
        "error_without_source": row.error("without_source"),
        "error_without_engine": row.error("without_engine"),
        "source": case.source,
    }


def as_result(row: ScoredSpeedup) -> PublishedResult:
    """A scored speedup as one published number beside its prediction."""
    case = row.case
    return PublishedResult(case.table, case.line, case.set, case.label, row.predicted, case.speedup)


def engine_row(name: str, plain: Sequence[Scored]) -> dict[str, Any]:
    """One engine: medians of |relative error|, numbers of rows, accelerators and sources."""
    mine = [row for row in plain if row.case.engine == name]
    constants = catalog.lookup("engines", name)
    return {
        "engine": name,
        "chips": len({row.case.accelerator.name for row in mine}),
        "sources": len({row.case.source for row in mine}),
        "confidence": constants["confidence"],
        "band": constants["error"],
        "worst": max((row.error() for row in mine), key=abs, default=None),
        **summary(mine),
    }


def summary(rows: Sequence[Scored]) -> dict[str, Any]:
    """The number of rows, and the median |relative error| of each way to predict them."""
    return {"rows": len(rows), **{kind: median(row.error(kind) for row in rows) for kind in KINDS}}


def median(errors: Iterable[float]) -> float | None:
    """The median absolute error; None without errors."""
    sizes = [abs(error) for error in errors]
    return float(np.median(sizes)) if sizes else None


def pass_row(row: Scored) -> dict[str, Any]:
    """One predicted pass as plain data."""
    case = row.case
    return {
        "table": case.table,
        "line": case.line,
        "engine": case.engine,
        "case": case.label,
        "scored": row.scores,
        "fitted": case.fitted and catalog.lookup("engines", case.engine)["confidence"] == "fitted",
        "measured_s": case.seconds,
        "predicted_s": row.predicted_s,
        "ideal_s": row.ideal_s,
        "error": row.error(),
        "error_ideal": row.error("ideal"),
        "error_without_chip": row.error("without_chip"),
        "error_without_source": row.error("without_source"),
        "source": case.source,
    }


def speculation_row(result: PublishedResult) -> dict[str, Any]:
    """One predicted result of speculation as plain data."""
    return {
        "table": result.table,
        "line": result.line,
        "set": result.set,
        "case": result.label,
        "predicted": result.predicted,
        "published": result.published,
        "error": result.error,
        "within_rounding": result.within_rounding,
    }

"""The comparison with all published rows, as plain data."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from specsim import catalog
from specsim.catalog import published
from specsim.evidence.validation.cases import Case, Skip, passes
from specsim.evidence.validation.scores import Scored, scored
from specsim.evidence.validation.speculative import PublishedResult, results

KINDS = ("ideal", "predicted", "without_chip", "without_source")
# Tables without a predicted row, and why.
ELSEWHERE = {
    "acceptance_rates": "acceptance: an input, not a speed",
    "accelerators": "datasheets: the catalog's accelerators",
    "achieved_bandwidth": "implied by rows of decode_speed",
    "serving_throughput": "largest batch that fits: needs prefill and KV capacity",
}


# Passes that are predicted but do not count in the medians of the engines.
UNSCORED: dict[str, Callable[[Case], bool]] = {
    "several rows per sequence": lambda case: not case.plain,
    "not verified at the source": lambda case: not case.verified,
}


def report() -> dict[str, Any]:
    """All published rows, predicted or skipped with the reason, as a JSON document.

    `engines`: medians of |relative error| over plain steps; `average`: the mean of these medians;
    `unscored`: the medians of the passes that do not count in them; `coverage`: the share of rows
    inside their 80 % bands; `rows`: all passes, the largest error first; `speculation`: the same
    for published speedups and cycles; `skipped`: the reasons; `tables`: the numbers of rows,
    predicted and skipped, of each published table.
    """
    cases, skips = passes()
    rows = sorted(scored(cases), key=lambda row: -abs(row.error()))
    speculation, more = results()
    skips += more + [
        Skip(table, line, reason)
        for table, reason in ELSEWHERE.items()
        for line, _ in enumerate(published.rows(table), start=2)
    ]
    plain = [row for row in rows if row.scores]
    engines = [engine_row(name, plain) for name in catalog.load("engines")]
    used = [engine for engine in engines if engine["rows"]]
    reasons = Counter((skip.table, skip.reason) for skip in skips)
    predicted = {(row.case.table, row.case.line) for row in rows}
    predicted |= {(result.table, result.line) for result in speculation}
    return {
        "engines": engines,
        "average": {kind: float(np.mean([engine[kind] for engine in used])) for kind in KINDS},
        "coverage": {
            kind: float(np.mean([row.within_band(kind) for row in plain]))
            for kind in ("without_chip", "without_source")
        },
        "unscored": {
            what: summary([row for row in rows if choose(row.case)])
            for what, choose in UNSCORED.items()
        },
        "rows": [pass_row(row) for row in rows],
        "speculation": [
            speculation_row(result)
            for result in sorted(speculation, key=lambda result: -abs(result.error))
        ],
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

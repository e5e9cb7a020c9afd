"""The report as text: engines, kinds, the largest errors, speculation, skipped rows."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

import numpy as np

COLUMNS = ("ideal", "predicted", "without_chip", "without_source")
HEADING = """\
Plain decoding compared with published rows: the median |error| of a step. The
columns: the roofline (ideal), the engine's constants (fitted), constants that
were fitted without any row of the same accelerator (no acc.), or of the same
source (no src.). A * marks constants that are assumed, not fitted. Bands are
of 80 %.

engine         rows accel. sources  ideal fitted no acc. no src.   worst   band"""
KINDS = """
Plain steps, passes of several rows (verification), prompts (prefill: nothing
was fitted to them) and speedups (speculation): median |error|; the 90th
percentile and the bias of predictions without the row's source (no src.); how
many sources (srcs.). Without: the row's accelerator, or all rows of the engine
of a speedup, whose overheads are then assumed.

engine         kind         rows srcs.  ideal fitted without no src.   p90  bias"""


def render(document: Mapping[str, Any], worst: int = 12) -> str:
    """`report()` as text, with the `worst` passes by name."""
    parts = (
        engines(document),
        kinds(document),
        passes(document, "rows", "passes", worst),
        passes(document, "prompts", "prompts", worst),
        speedups(document, worst),
        speculation(document),
        skipped(document),
    )
    return "\n".join(line for part in parts for line in part)


def engines(document: Mapping[str, Any]) -> Iterator[str]:
    """One line for each engine, then the average and the unscored passes."""
    yield HEADING
    for engine in document["engines"]:
        if not engine["rows"]:
            yield f"{engine['engine']:14s}    -  {engine['confidence']}: no published row"
            continue
        counts = f"{engine['rows']:5d} {engine['chips']:6d} {engine['sources']:7d}"
        note = "" if engine["confidence"] == "fitted" else "*"
        band = f"±{engine['band']:.0%}"
        yield (
            f"{engine['engine']:14s}{counts} {medians(engine)} {engine['worst']:+7.1%}"
            f"{band:>7s}{note}"
        )
    yield f"{'average':35s}{medians(document['average'])}"
    for what, row in document["unscored"].items():
        yield f"{what:30s}{row['rows']:4d} {medians(row)}"


def kinds(document: Mapping[str, Any]) -> Iterator[str]:
    """One line for each engine and kind, the coverage of the bands, and the free constants."""
    yield KINDS
    for row in document["kinds"]:
        median, p90 = row["median"], row["p90"]
        left_out = median.get("without_chip", median.get("without_engine"))
        yield (
            f"{row['engine']:14s} {row['kind']:12s} {row['rows']:4d} {row['sources']:5d} "
            f"{median['ideal']:6.1%} {median['predicted']:6.1%} {left_out:7.1%} "
            f"{median['without_source']:7.1%} {p90['without_source']:5.0%} {row['bias']:+5.0%}"
        )
    held = document["coverage"]
    said = (
        f"The 80 % bands contain {held['without_chip']:.0%} of the plain steps that are predicted "
        f"without their accelerator, {held['without_source']:.0%} without their source "
        f"(half-width, median: {held['half_width']:.0%}); of the speedups "
        f"{held['speedups_without_source']:.0%} without their source, "
        f"{held['speedups_without_engine']:.0%} without any row of their engine "
        f"(half-width {held['speedups_half_width']:.0%})."
    )
    yield "\n".join(wrap(said, 80))
    free = document["constants"].items()
    told = (f"{name} {c['passes']} + {c['speculation']}" for name, c in free if any(c.values()))
    yield "Fitted constants of an engine, of passes + of speculation:"
    yield "\n".join(wrap(", ".join(told) + ".", 80))


def medians(row: Mapping[str, float]) -> str:
    """The median errors of one line, a column for each way to predict."""
    widths = (6, 6, 7, 7)
    return " ".join(f"{row[of]:{w}.1%}" for of, w in zip(COLUMNS, widths, strict=True))


def passes(document: Mapping[str, Any], key: str, what: str, worst: int) -> Iterator[str]:
    """The passes, or prompts, with the largest errors, one line for each."""
    rows = document[key]
    yield f"\nThe {min(worst, len(rows))} largest errors of {len(rows)} {what}"
    for row in rows[:worst]:
        yield (
            f"{row['error']:+7.1%} of {row['measured_s'] * 1e3:7.2f} ms  {row['engine']}: "
            f"{row['case']}  ({row['table']}.csv, line {row['line']})"
        )


def speedups(document: Mapping[str, Any], worst: int) -> Iterator[str]:
    """The speedups with the largest errors, one line for each."""
    rows = document["speedups"]
    yield f"\nThe {min(worst, len(rows))} largest errors of {len(rows)} speedups"
    for row in rows[:worst]:
        yield (
            f"{row['error']:+7.1%} of {row['published']:5.2f}x  {row['engine']}: "
            f"{row['case']}  ({row['table']}.csv, line {row['line']})"
        )


def speculation(document: Mapping[str, Any]) -> Iterator[str]:
    """The median and the largest error of each set of speculation results."""
    yield "\nSpeculation: median and largest |error|"
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["speculation"]:
        sets.setdefault(row["set"], []).append(row)
    for name, rows in sets.items():
        sizes = [abs(row["error"]) for row in rows]
        rounding = [row["within_rounding"] for row in rows if row["within_rounding"] is not None]
        note = f", {sum(rounding)} within the rounding of the printed numbers" if rounding else ""
        yield f"{np.median(sizes):7.1%} {max(sizes):7.1%}  {name}: {len(rows)} rows{note}"


def skipped(document: Mapping[str, Any]) -> Iterator[str]:
    """How many rows are predicted, and why the others are not."""
    tables = document["tables"].values()
    total, predicted = (sum(table[key] for table in tables) for key in ("rows", "predicted"))
    yield f"\nPredicted {predicted} of {total} published rows. The others are skipped:"
    for skip in document["skipped"]:
        yield f"{skip['rows']:5d}  {skip['table']}: {skip['reason']}"

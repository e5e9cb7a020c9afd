"""The report as text: engines, kinds, the largest errors, speculation, skipped rows."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

COLUMNS = ("ideal", "predicted", "without_chip", "without_source")
HEADING = """\
Plain decoding compared with published rows: the median |error| of a step. The columns: the roofline
(ideal), the engine's constants (fitted), constants fitted without any row of the same accelerator,
constants fitted without any row of the same source.

engine           rows accel. sources   ideal  fitted no accel.  no source    worst  80 % band"""
KINDS = """
Plain steps, passes of several rows (verification), prompts (prefill: no constant was fitted to one)
and speedups (speculation): median |error|, the 90th percentile and the bias of predictions without
the row's source. "Left out": the row's accelerator, or all rows of the engine of a speedup, whose
overheads are then assumed.

engine           kind           rows sources   ideal  fitted  left out  no source     p90    bias"""


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
            yield f"{engine['engine']:16s}    -  {engine['confidence']}: no published row"
            continue
        counts = f"{engine['rows']:5d} {engine['chips']:6d} {engine['sources']:7d}"
        note = "" if engine["confidence"] == "fitted" else f"  {engine['confidence']}"
        yield (
            f"{engine['engine']:16s}{counts} {medians(engine)}"
            f"  {engine['worst']:+7.1%}  ±{engine['band']:.0%}{note}"
        )
    yield f"{'average':37s}{medians(document['average'])}"
    for what, row in document["unscored"].items():
        yield f"{what:31s}{row['rows']:5d} {medians(row)}"


def kinds(document: Mapping[str, Any]) -> Iterator[str]:
    """One line for each engine and kind, the coverage of the bands, and the free constants."""
    yield KINDS
    for row in document["kinds"]:
        median, p90 = row["median"], row["p90"]
        left_out = median.get("without_chip", median.get("without_engine"))
        yield (
            f"{row['engine']:16s} {row['kind']:13s} {row['rows']:5d} {row['sources']:7d} "
            f"{median['ideal']:7.1%} {median['predicted']:7.1%} {left_out:9.1%} "
            f"{median['without_source']:10.1%} {p90['without_source']:7.1%} {row['bias']:+7.1%}"
        )
    held = document["coverage"]
    yield (
        f"The 80 % bands contain {held['without_chip']:.0%} of the plain steps that are predicted "
        f"without their accelerator, {held['without_source']:.0%} without their\nsource "
        f"(half-width, median: {held['half_width']:.0%}); of the speedups "
        f"{held['speedups_without_source']:.0%} without their source, "
        f"{held['speedups_without_engine']:.0%} without any row of their\nengine "
        f"(half-width {held['speedups_half_width']:.0%})."
    )
    free = document["constants"].items()
    told = (f"{name} {c['passes']} + {c['speculation']}" for name, c in free if any(c.values()))
    yield "Fitted constants of an engine, of passes + of speculation:\n" + ", ".join(told) + "."


def medians(row: Mapping[str, float]) -> str:
    """The median errors of one line, a column for each way to predict."""
    widths = (7, 7, 9, 10)
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

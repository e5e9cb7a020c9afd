"""Tables in plain text, in lines of at most 80 columns, one function for each table. Nothing is
computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specsim.checks.columns import fit, wrap
from specsim.evidence.calibration import STABLE, Calibration
from specsim.evidence.comparison import (
    Comparison,
    Summary,
    best_measured,
    median_errors,
    misses,
    regrets,
    summarise,
)
from specsim.evidence.measurement import Point
from specsim.hardware import EfficiencyTable
from specsim.prediction import QUANTITIES, Prediction, limit_sentence, waterfall_spans

COLUMNS = {
    name: f"{title} (ms)" if name.endswith("_s") else title
    for name, title in QUANTITIES.items()
    if name != "step_s"
}


def calibration_table(calibration: Calibration) -> list[str]:
    """The fitted constants in common units, and the error of the fit."""
    system, engine = calibration.system, calibration.system.engine
    table = engine.weight_efficiency
    assert isinstance(table, EfficiencyTable)
    achieved = table.values[:, 0] * system.bandwidth_bytes_per_s / 1e9
    speeds = ", ".join(
        f"{size / 1e6:.3g} MB {speed:.0f}"
        for size, speed in zip(table.pass_bytes, achieved, strict=True)
    )
    cache = engine.kv_efficiency
    share = float(cache.values.max()) if isinstance(cache, EfficiencyTable) else cache
    kv = share * system.bandwidth_bytes_per_s / 1e9
    rate = system.accelerator.rate(system.precision.math) / 1e9

    def us(seconds: float) -> str:
        return f"{seconds * 1e6:.0f} us"

    def refilled(seconds: float, by: str) -> str:
        return f", up to {us(seconds)} more {by}" if seconds else ""

    overhead = (
        f"{us(engine.layer_overhead_s)} per layer"
        f"{refilled(engine.layer_refill_s, 'if its weights empty the caches')}, "
        f"{us(engine.pass_overhead_s)} per pass"
    )
    if engine.layer_launch_s or engine.pass_launch_s:
        overhead = (
            f"the larger of its work and its launches, {us(engine.layer_launch_s)} per layer and "
            f"{us(engine.pass_launch_s)} per pass"
        )
    rows = {
        "weights, one row": f"GB/s by size of the {table.of}: {speeds}",
        "KV cache": f"{kv:.1f} GB/s",
        "arithmetic": f"{rate:.0f} GFLOP/s",
        "pass": overhead,
        "drafting": f"{us(engine.drafting_overhead_s)} per cycle, "
        f"{us(engine.sampling_overhead_s)} per drawn token",
        "sampling and host": f"{us(engine.cycle_overhead_s)} per step"
        f"{refilled(engine.cycle_refill_s, 'after a large pass')}, "
        f"{us(engine.speculation_overhead_s)} more to accept drafts, "
        f"{engine.logit_overhead_s * 1e9:.1f} ns per logit, "
        f"{engine.drawing_overhead_s * 1e9:.1f} ns more where a token is drawn",
        **stability(calibration),
        "fit": f"median error {calibration.median_error:.1%}, worst "
        f"{calibration.worst_error:.1%} over {len(calibration.residuals)} timings; "
        f"80 % band {engine.band}",
    }
    return [
        "calibration on probe models (no model that is predicted below is among them)",
        *(line for label, text in rows.items() for line in wrap(text, f"  {label:19s}")),
    ]


def stability(calibration: Calibration) -> dict[str, str]:
    """How much the constants changed between the two halves of the timings, as a label and a text;
    empty where nobody knows."""
    if not calibration.changes:
        return {}
    moved = {name: change for name, change in calibration.changes.items() if change > STABLE}
    if not moved:
        most = max(calibration.changes.values())
        return {"stability": f"no constant changed by more than {most:.0%} meanwhile"}
    named = sorted(moved, key=lambda name: -moved[name])
    told = ", ".join(f"{words_of(name)} {moved[name]:.0%}" for name in named)
    return {"NOT STABLE": f"between the two halves of the timings changed: {told}"}


def words_of(name: str) -> str:
    """The name of an engine's constant without its unit."""
    return name.removesuffix("_s").replace("_", " ")


def prediction_table(prediction: Prediction) -> list[str]:
    """A row for each gamma of a one-dimensional prediction, and the best gamma with its ties."""
    p = prediction
    low, high = p.band["speedup"]
    lines = [
        "predicted",
        " γ  draft (ms)  verify (ms)  cycle (ms)  tokens/cycle  speedup (80 % band)",
    ]
    for i, gamma in enumerate(p.gamma):
        times = (p.draft_step_s[i], p.verify_step_s[i], p.cycle_s[i])
        draft, verify, cycle = (1e3 * seconds for seconds in times)
        lines.append(
            f"{gamma:2d} {draft:11.2f} {verify:12.2f} {cycle:11.2f} {p.tokens_per_cycle[i]:13.2f} "
            f"{p.speedup[i]:8.2f} ({low[i]:.2f} to {high[i]:.2f})"
        )
    ties = p.ties()
    tie = f"; γ = {ties[0]} to {ties[-1]} are within 2 % of it" if len(ties) > 1 else ""
    step = 1e3 * p.step_s.flat[0]
    lines.append(f"plain step {step:.2f} ms; best γ = {p.gamma[p.best()]}{tie}")
    return lines


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Predicted, measured and error of every part, a row for each gamma. The first is gamma = 0."""
    step, errors = comparisons[0], median_errors(comparisons)
    tokens = [c.point.tokens_per_cycle_error or 0.0 for c in comparisons if c.gamma]
    names = list(COLUMNS)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    lines = ["measured, as predicted / measured / error"]
    for half in halves:
        lines.append(" γ " + "".join(f"{COLUMNS[name]:^22s}" for name in half).rstrip())
        lines += [
            f"{c.gamma:2d} " + "".join(cell(c, name) for name in half).rstrip() for c in comparisons
        ]
    return [
        *lines,
        f"plain step (ms) {cell(step, 'step_s').strip()}",
        f"standard error of the measured tokens per cycle: {min(tokens):.2f} to {max(tokens):.2f}",
        *wrap(
            ", ".join(f"{QUANTITIES[name]} {error:.1%}" for name, error in errors.items()),
            "median |error|: ",
        ),
        *drift_lines(comparisons),
    ]


def drift_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """How much the speed of the computer changed after the calibration, and the errors of times
    without that change."""
    if comparisons[0].point.drift is None:
        return []
    errors = median_errors(comparisons, drift_divided=True)
    rest = ", ".join(
        f"{QUANTITIES[name]} {error:.1%}" for name, error in errors.items() if name.endswith("_s")
    )
    return wrap(
        f"fixed tasks take {comparisons[0].drift:.2f}x as long as during the calibration; "
        f"errors without this drift: {rest}",
        "drift: ",
    )


def cell(comparison: Comparison, name: str) -> str:
    """One quantity: predicted, measured, error."""
    part = comparison.parts.get(name)
    if part is None:
        return f"{'-':^22s}"
    scale = 1e3 if name.endswith("_s") else 1.0
    return f"{part.predicted * scale:8.2f} {part.measured * scale:6.2f} {part.error:+5.0%} "


def waterfall_table(prediction: Prediction, comparisons: Sequence[Comparison]) -> list[str]:
    """What reduces the ideal gamma + 1 at the best measured gamma, and what limits the speedup."""
    found = best_measured(comparisons)
    best = found.point
    at = int(np.flatnonzero(prediction.gamma == best.gamma)[0])
    shape = prediction.speedup.shape
    falls = {
        name: float(np.broadcast_to(factor, shape)[at])
        for name, factor in prediction.waterfall().items()
    }
    lines = [f"what reduces the ideal {falls['ideal']:.0f}x of γ = {best.gamma}, as predicted:"]
    spans = waterfall_spans(falls)
    for name, factor in falls.items():
        lines.append(f"  {name:20s} x {factor:4.2f}  ->  {spans[name][1]:4.2f}x")
    speedup = best.parts["speedup"]
    parts = " x ".join(f"{factor:.3f} ({name})" for name, factor in best.factors.items())
    error = "" if found.error is None else f" ± {found.error:.2f}"
    tied = ""
    if found.tied_gammas:
        others = ", ".join(str(gamma) for gamma in found.tied_gammas)
        tied = f" (γ = {others}: no difference beyond the noise of the counted tokens)"
    return [
        *lines,
        *fit(
            [
                f"measured ÷ predicted there: {speedup.measured / speedup.predicted:.3f} = {parts}",
                f"Best measured: {speedup.measured:.2f}x{error} at γ = {best.gamma}{tied}; "
                f"predicted there: {speedup.predicted:.2f}x. {limit_sentence(falls)}",
            ]
        ),
    ]


# The table of `specsim compare`


def rows_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each part of each point: predicted, measured, error."""
    lines: list[str] = []
    last = None
    for row in rows:
        unit, scale = ("ms", 1e3) if row["part"].endswith("_s") else ("", 1.0)
        over = row["tensor_parallel"]
        devices = f" on {over} devices" if over > 1 else ""
        named = row["name"] or f"{row['target']} gamma {row['gamma']}{devices}"
        if named != last:
            lines.append(f"  {named}")
            last = named
        lines.append(
            f"    {row['part']:17s} predicted {row['predicted'] * scale:9.3f} {unit:2s} "
            f"measured {row['measured'] * scale:9.3f} {unit:2s} {row['error']:+6.1%}"
        )
    return lines


def parts_of(comparisons: Sequence[Comparison]) -> list[str]:
    """The parts of a suite that have points, in the order of appearance."""
    return list(dict.fromkeys(c.point.part or "measured" for c in comparisons))


def suite_table(
    every: Mapping[str, Sequence[Comparison]], peers: Sequence[Point] = ()
) -> list[str]:
    """The errors of each predictor by part and quantity, for all points and for reserved points;
    then signs, best gammas, the largest errors, and the peers (other decoders, same run)."""
    calibrated = every["calibrated"]
    lines = [
        "",
        "|error| of each predictor, median and 95th percentile; and of the first one the",
        "share of points in the 80 % band, and the median without the computer's drift",
        f"{'':20s}{'points':>6s}"
        + "".join(f"{name:>13s}" for name in every)
        + f"{'in band':>9s}{'no drift':>10s}",
    ]
    for part in parts_of([c for comparisons in every.values() for c in comparisons]):
        for title, chosen in ((part, None), (f"{part}, reserved", True)):
            by_predictor = {
                name: summarise(
                    [
                        c
                        for c in comparisons
                        if (c.point.part or "measured") == part
                        and (chosen is None or c.point.reserved)
                    ]
                )
                for name, comparisons in every.items()
            }
            if found := quantity_lines(by_predictor):
                lines += [title, *found]
    lines += ["", *verdict_lines(calibrated), "", *miss_lines(calibrated)]
    if peers:
        lines += ["", *peer_lines(peers)]
    return lines


def quantity_lines(by_predictor: Mapping[str, Summary]) -> list[str]:
    """A line for each quantity of the points of one part."""
    lines = []
    first = next(
        (summary for summary in by_predictor.values() if summary.errors), Summary({}, 0, 0, 0, 0, 0)
    )
    for name, errors in first.errors.items():
        cells = ""
        for summary in by_predictor.values():
            other = summary.errors.get(name)
            cells += f"{'-':>13s}" if other is None else f"{other.median:8.1%}{other.tail:5.0%}"
        covered = "-" if errors.covered is None else f"{errors.covered:.0%}"
        without = f"{errors.drift_divided:.1%}" if name.endswith("_s") else "-"
        head = f"  {QUANTITIES[name]:18s}{errors.count:6d}"
        lines.append(f"{head}{cells}{covered:>9s}{without:>10s}")
    return lines


def verdict_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """How often the prediction is right on whether speculation pays, and on the best gamma."""
    lines = []
    for title, chosen in (
        ("all points", comparisons),
        ("reserved", [c for c in comparisons if c.point.reserved]),
    ):
        summary = summarise(chosen)
        if summary.signs:
            lines.append(
                f"does it pay, {title}: right in {summary.right_signs} of {summary.signs} points "
                "with |speedup - 1| > 3 %"
            )
        if summary.tokens:
            lines.append(
                f"tokens per cycle, {title}: within 3 % or two standard errors in "
                f"{summary.right_tokens} of {summary.tokens} points"
            )
    found = regrets(comparisons)
    if found:
        worst = max(found, key=lambda regret: regret.lost)
        lines.append(
            f"best gamma: within 2 % of the best measured in {sum(r.is_tie for r in found)} of "
            f"{len(found)} scenarios; worst: {worst.lost:.1%} lost with γ = "
            f"{worst.predicted_gamma} for {worst.measured_gamma} ({worst.scenario})"
        )
    return lines


def miss_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """The largest errors, and for each the largest factor of measured ÷ predicted."""
    lines = ["the largest errors, and the factor that contributes most to each"]
    for miss in misses(comparisons):
        factor = miss["factors"].get(miss["factor"], 1 / (1 + miss["error"]))
        quantity = QUANTITIES[miss["quantity"]]
        lines += [
            f"  {miss['error']:+6.1%} {quantity:16s} by {miss['factor']} (x {factor:.3f}) in",
            f"         {miss['name']}",
        ]
    return lines


def peer_lines(peers: Sequence[Point]) -> list[str]:
    """Peers (other decoders that were timed in the same run) and our own plain decoding."""
    lines = ["peers in the same run"]
    for point in peers:
        assert point.step_s is not None
        assert point.cycle_s is not None
        ours, theirs = 1e3 * point.step_s.median, 1e3 * point.cycle_s.median
        lines += [
            f"  {point.name}",
            f"    {theirs:.3f} ms per token, our plain decoding {ours:.3f} ms: "
            f"{theirs / ours:.2f}x",
        ]
    return lines

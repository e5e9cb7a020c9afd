"""Tables for a person to read: plain text, one function a table, nothing computed here."""

from collections.abc import Sequence

import numpy as np

from specsim.calibration import Calibration
from specsim.comparison import Comparison, median_errors
from specsim.speculation import Prediction
from specsim.system import EfficiencyTable

COLUMNS = {
    "draft_step_s": "draft step (ms)",
    "verify_step_s": "verification (ms)",
    "overhead_s": "overhead (ms)",
    "cycle_s": "cycle (ms)",
    "tokens_per_cycle": "tokens per cycle",
    "speedup": "speedup",
}
REASONS = {
    "acceptance": "the draft is wrong too often",
    "drafting": "drafting takes too long beside a step of the target",
    "wider verification": "verifying several tokens takes longer than one step",
    "overhead": "the work around the passes is not negligible",
}


def calibration_table(calibration: Calibration) -> list[str]:
    """The fitted constants in the units people think in, and the fit error."""
    system, engine = calibration.system, calibration.system.engine
    table = engine.weight_efficiency
    assert isinstance(table, EfficiencyTable)
    achieved = table.values[:, 0] * system.bandwidth_bytes_per_s / 1e9
    speeds = ", ".join(
        f"{size / 1e6:.3g} MB {speed:.0f}"
        for size, speed in zip(table.pass_bytes, achieved, strict=True)
    )
    kv = engine.kv_efficiency * system.bandwidth_bytes_per_s / 1e9
    rate = system.accelerator.rate(system.precision.math) / 1e9

    def us(seconds: float) -> str:
        return f"{seconds * 1e6:.0f} us"

    return [
        "calibration on probe shapes (none of them a shape that is predicted below)",
        f"  weights, one row   GB/s by size of the pass: {speeds}",
        f"  KV cache           {kv:.1f} GB/s",
        f"  arithmetic         {rate:.0f} GFLOP/s",
        f"  a pass             {us(engine.layer_overhead_s)} a layer, {us(engine.pass_overhead_s)}",
        f"  drafting           {us(engine.drafting_overhead_s)} a cycle, "
        f"{us(engine.sampling_overhead_s)} a draw",
        f"  sampling and host  {us(engine.cycle_overhead_s)} a step, "
        f"{us(engine.speculation_overhead_s)} more to accept, "
        f"{engine.logit_overhead_s * 1e9:.1f} ns a logit",
        f"  fit                median error {calibration.median_error:.1%}, worst "
        f"{calibration.worst_error:.1%} over {len(calibration.residuals)} laps; "
        f"80 % band ±{engine.error:.0%}",
    ]


def prediction_table(prediction: Prediction) -> list[str]:
    """A row per gamma of a one-dimensional prediction, and the best gamma with its ties."""
    p = prediction
    low, high = p.band["speedup"]
    lines = ["predicted, ms   γ   draft   verify    cycle   tokens/cycle   speedup (80 % band)"]
    for i, gamma in enumerate(p.gamma):
        times = (p.draft_step_s[i], p.verify_step_s[i], p.cycle_s[i])
        draft, verify, cycle = (1e3 * seconds for seconds in times)
        lines.append(
            f"{gamma:17d} {draft:7.2f} {verify:8.2f} {cycle:8.2f} {p.tokens_per_cycle[i]:14.2f} "
            f"{p.speedup[i]:9.2f}  ({low[i]:.2f} to {high[i]:.2f})"
        )
    ties = p.ties()
    tie = f"; γ = {ties[0]} to {ties[-1]} are within 2 % of it" if len(ties) > 1 else ""
    step = 1e3 * p.step_s.flat[0]
    lines.append(f"plain step {step:.2f} ms; best γ = {p.gamma[p.best()]}{tie}")
    return lines


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Predicted, measured and error of every part, a row per gamma; the first is gamma = 0."""
    step, errors = comparisons[0], median_errors(comparisons)
    tokens = [c.point.tokens_per_cycle_error or 0.0 for c in comparisons if c.gamma]
    named = {"step_s": "plain step"} | COLUMNS
    return [
        "measured, as predicted / measured / error",
        " γ " + "".join(f"{title:^22s}" for title in COLUMNS.values()),
        *(f"{c.gamma:2d} " + "".join(cell(c, name) for name in COLUMNS) for c in comparisons),
        f"plain step (ms) {cell(step, 'step_s').strip()}",
        f"standard error of the measured tokens per cycle: {min(tokens):.2f} to {max(tokens):.2f}",
        "median |error|: "
        + ", ".join(f"{named[name].split(' (')[0]} {error:.1%}" for name, error in errors.items()),
    ]


def cell(comparison: Comparison, name: str) -> str:
    """One quantity: predicted, measured, error."""
    part = comparison.parts.get(name)
    if part is None:
        return f"{'-':^22s}"
    scale = 1e3 if name.endswith("_s") else 1.0
    return f"{part.predicted * scale:8.2f} {part.measured * scale:6.2f} {part.error:+5.0%} "


def waterfall_table(prediction: Prediction, comparisons: Sequence[Comparison]) -> list[str]:
    """Where the ideal gamma + 1 went at the gamma measured best, and what limits the speedup."""
    drafting = [comparison for comparison in comparisons if comparison.gamma]
    best = max(drafting, key=lambda comparison: comparison.parts["speedup"].measured)
    at = int(np.flatnonzero(prediction.gamma == best.gamma)[0])
    shape = prediction.speedup.shape
    falls = {
        name: float(np.broadcast_to(factor, shape)[at])
        for name, factor in prediction.waterfall().items()
    }
    lines = [f"where the ideal {falls['ideal']:.0f}x of γ = {best.gamma} goes, as predicted:"]
    left = 1.0
    for name, factor in falls.items():
        left *= factor
        lines.append(f"  {name:20s} x {factor:4.2f}  ->  {left:4.2f}x")
    speedup = best.parts["speedup"]
    parts = " x ".join(f"{factor:.3f} ({name})" for name, factor in best.factors.items())
    limit = min((name for name in falls if name != "ideal"), key=lambda name: falls[name])
    lines += [
        f"measured ÷ predicted there: {speedup.measured / speedup.predicted:.3f} = {parts}",
        f"Measured best: {speedup.measured:.2f}x at γ = {best.gamma}; {speedup.predicted:.2f}x was "
        f"predicted there. What limits it most is {limit}: {REASONS[limit]}.",
    ]
    return lines

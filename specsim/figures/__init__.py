"""One function a figure, one style, one colour per concept: predicted is a line, measured is a
marker with its spread.

    sheet, axes = figures.sheet()
    figures.speedup_vs_gamma(axes, prediction)
    sheet                                         # a notebook shows it

| file | draws |
|---|---|
| `style` | the sheet, the colours and the type that all share |
| `gammas` | speedup, tokens, times and a cycle's parts against gamma |
| `rooflines` | passes on the roofline; a pass's time against its width |
| `curves` | any predicted lines with measured markers |
| `bars` | what a pass waits for, what a change buys, where the ideal goes |
| `maps` | the speedup over two axes |
| `drafts` | drafted tokens, cycle by cycle, by what became of them |
| `laws` | how kept drafts and residual draws add up to p, and rules whose sum is another law |
| `methods` | a number for each drafting method, predicted and measured |
| `comparisons` | measured points of a suite beside their predictions |
"""

from specsim.figures.bar_charts import bars, gains, step_shares, waterfall
from specsim.figures.comparisons import error_budget, parity, speedup_by_batch, verify_curve
from specsim.figures.drafts import DraftedCycle, drafted_cycles
from specsim.figures.gammas import (
    cycle_parts,
    predicted_and_measured,
    speedup_vs_gamma,
    times_vs_gamma,
    tokens_vs_gamma,
)
from specsim.figures.laws import coupling, law_errors
from specsim.figures.line_charts import Curve, curves
from specsim.figures.maps import speedup_map
from specsim.figures.methods import Row, by_method
from specsim.figures.rooflines import Spot, roofline, spot, times_vs_width
from specsim.figures.style import COLOURS, STYLE, Sheet, png, shades, sheet, styled

__all__ = [
    "COLOURS",
    "STYLE",
    "Curve",
    "DraftedCycle",
    "Row",
    "Sheet",
    "Spot",
    "bars",
    "by_method",
    "coupling",
    "curves",
    "cycle_parts",
    "drafted_cycles",
    "error_budget",
    "gains",
    "law_errors",
    "parity",
    "png",
    "predicted_and_measured",
    "roofline",
    "shades",
    "sheet",
    "speedup_by_batch",
    "speedup_map",
    "speedup_vs_gamma",
    "spot",
    "step_shares",
    "styled",
    "times_vs_gamma",
    "times_vs_width",
    "tokens_vs_gamma",
    "verify_curve",
    "waterfall",
]

"""One function for each figure, one style, one colour for each concept. A predicted value is a
line; a measured value is a marker with its spread.

    figure, axes = figures.subplots()
    figures.speedup_vs_gamma(axes, prediction)
    figure                                        # a notebook shows it

| file | draws |
|---|---|
| `style` | the empty figure, the colours and the font sizes that all figures share |
| `gammas` | speedup, tokens, times and the parts of a cycle against gamma |
| `rooflines` | passes on the roofline; the time of a pass against its width |
| `line_charts` | any predicted lines with measured markers |
| `bar_charts` | what a pass waits for, what a change gains, what reduces the ideal γ + 1 |
| `maps` | the speedup over two axes |
| `layers` | one layer as boxes with shapes |
| `drafts` | drafted tokens, cycle by cycle, and what happened to each |
| `distributions` | kept drafts and residual draws, which add up to p; rules that are not exact |
| `methods` | one number for each drafting method, predicted and measured |
| `comparisons` | measured points of a suite against their predictions |
| `timelines` | requests in flight over time; gaps between the tokens of a stream |
| `serving` | policies of a server under load: good requests by rate, gains by requests in flight |
| `sweeps` | a metric along the axes of a sweep |
| `validations` | published passes and speedups against their predictions |
"""

from specsim.checks.extras import needed

with needed("specsim.figures"):
    from specsim.figures.bar_charts import bars, gains, step_shares, waterfall
    from specsim.figures.comparisons import error_budget, parity, speedup_by_batch, verify_curve
    from specsim.figures.distributions import coupling, distribution_errors
    from specsim.figures.drafts import DraftedCycle, drafted_cycles
    from specsim.figures.gammas import (
        cycle_parts,
        predicted_and_measured,
        speedup_vs_gamma,
        times_vs_gamma,
        tokens_vs_gamma,
    )
    from specsim.figures.layers import layer_shapes
    from specsim.figures.line_charts import Curve, curves
    from specsim.figures.maps import speedup_map, where_memory_ends
    from specsim.figures.methods import Row, by_method
    from specsim.figures.rooflines import OperatingPoint, operating_point, roofline, times_vs_width
    from specsim.figures.serving import under_load
    from specsim.figures.style import (
        COLOURS,
        CONCEPTS,
        STYLE,
        NotebookFigure,
        png,
        shades,
        styled,
        subplots,
    )
    from specsim.figures.sweeps import swept
    from specsim.figures.timelines import in_flight, requests_over_time, token_gaps
    from specsim.figures.validations import published

__all__ = [
    "COLOURS",
    "CONCEPTS",
    "STYLE",
    "Curve",
    "DraftedCycle",
    "NotebookFigure",
    "OperatingPoint",
    "Row",
    "bars",
    "by_method",
    "coupling",
    "curves",
    "cycle_parts",
    "distribution_errors",
    "drafted_cycles",
    "error_budget",
    "gains",
    "in_flight",
    "layer_shapes",
    "operating_point",
    "parity",
    "png",
    "predicted_and_measured",
    "published",
    "requests_over_time",
    "roofline",
    "shades",
    "speedup_by_batch",
    "speedup_map",
    "speedup_vs_gamma",
    "step_shares",
    "styled",
    "subplots",
    "swept",
    "times_vs_gamma",
    "times_vs_width",
    "token_gaps",
    "tokens_vs_gamma",
    "under_load",
    "verify_curve",
    "waterfall",
    "where_memory_ends",
]

"""A server under load: what policies make of it at every rate, and what they gain by its batch."""

from collections.abc import Sequence

from specsim.figures.line_charts import Curve, curves
from specsim.figures.style import NotebookFigure, styled, subplots


@styled
def under_load(
    goodput: Sequence[Curve], gains: Sequence[Curve], *, slo: str, titles: tuple[str, str]
) -> NotebookFigure:
    """A panel of good requests per second against the rate at which requests come, a line for each
    policy; and one of the gain over no speculation against requests in flight, with published
    points. `slo` says what is good."""
    figure, (load, gain) = subplots(2, height=3.4)
    curves(
        load, goodput, "requests come (1/s)", f"good requests (1/s)\n{slo}", doubling=False,
        title=titles[0],
    )  # fmt: skip
    curves(
        gain, gains, "requests in flight (sequences)", "tokens per second (× plain)",
        unit_line=True, title=titles[1],
    )  # fmt: skip
    return figure

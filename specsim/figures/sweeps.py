"""A metric along one axis of a sweep, or over two."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from specsim.checks import ArrayLike
from specsim.figures.line_charts import Curve, curves
from specsim.figures.style import NotebookFigure, styled, subplots

MOST_CURVES = 6  # more values of the second axis are a map


@styled
def swept(
    axes: Mapping[str, tuple[Any, ...]], values: ArrayLike, metric: str, title: str = ""
) -> NotebookFigure:
    """The metric at the values of one or two axes: curves along an axis of numbers, one for each
    value of the other; a map where these are many; marks where the values are not numbers.

    `values` has the shape of the axes' lengths; NaN where there is nothing.
    """
    values = np.asarray(values, float)
    names = list(axes)
    if len(names) == 2 and not _numeric(axes[names[0]]) and _numeric(axes[names[1]]):
        names, values = names[::-1], values.T  # numbers go along x
    x = axes[names[0]]
    others = axes[names[1]] if len(names) == 2 else (None,)
    values = values.reshape(len(x), len(others))
    figure, place = subplots()
    if len(others) > MOST_CURVES:
        mesh = place.pcolormesh(
            np.arange(len(x)), np.arange(len(others)), values.T, cmap="viridis", shading="nearest"
        )
        figure.colorbar(mesh, ax=place, label=metric)
        _name_places(place.xaxis, x)
        _name_places(place.yaxis, others)
        place.set_xlabel(_title(names[0]))
        place.set_ylabel(_title(names[1]))
        place.set_title(title)
        return figure
    numeric = _numeric(x)
    along = [float(each) for each in x] if numeric else [float(at) for at in range(len(x))]
    order = np.argsort(along)
    lines = [
        Curve(
            metric if other is None else f"{_title(names[1])} {_said(other)}",
            [along[at] for at in order], values[order, column],
        )
        for column, other in enumerate(others)
        if not np.isnan(values[:, column]).all()
    ]  # fmt: skip
    doubling = numeric and min(along) > 0 and max(along) >= 8 * min(along)
    curves(place, lines, _title(names[0]), metric, doubling=doubling, title=title)
    for drawn in place.get_lines():
        drawn.set_marker("o")
        drawn.set_markersize(3)
    if not numeric:
        _name_places(place.xaxis, x)
    return figure


def _numeric(values: tuple[Any, ...]) -> bool:
    return all(isinstance(each, int | float) and np.isfinite(each) for each in values)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    text = "best" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"


def _name_places(axis: Any, values: tuple[Any, ...]) -> None:
    """Ticks with the values' names, ten at most."""
    step = -(-len(values) // 10)
    axis.set_ticks(range(0, len(values), step), [_said(each) for each in values[::step]])

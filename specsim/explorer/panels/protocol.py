"""A panel, as a canvas sees it."""

from collections.abc import Sequence
from typing import Protocol

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specsim.explorer.setting import Scenario


class Panel(Protocol):
    """`freeze` draws the axes and makes the artists in `moving`; `move` gives them a scenario's
    data; `holds` says whether the frozen axes still suit a scenario."""

    moving: Sequence[Artist]

    @property
    def title(self) -> str: ...

    def freeze(self, figure: Figure, scenario: Scenario) -> None: ...

    def move(self, scenario: Scenario) -> None: ...

    def holds(self, scenario: Scenario) -> bool: ...


def axes_of(figure: Figure, title: str, left: float = 0.13, right: float = 0.97) -> Axes:
    """One axes with margins that never change, its title at the left."""
    axes = figure.add_axes((left, 0.16, right - left, 0.72))
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_axisbelow(True)
    return axes

"""What a figure canvas needs of a panel."""

from collections.abc import Sequence
from typing import Protocol

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specsim.explorer.scenarios import PredictedScenario


class Panel(Protocol):
    """`freeze` draws the axes and makes the artists in `moving`; `move` gives them the data of a
    scenario; `holds` says whether the axes as drawn still suit a scenario."""

    moving: Sequence[Artist]

    @property
    def title(self) -> str: ...

    def freeze(self, figure: Figure, shown: PredictedScenario) -> None: ...

    def move(self, shown: PredictedScenario) -> None: ...

    def holds(self, shown: PredictedScenario) -> bool: ...


def axes_of(figure: Figure, title: str, left: float = 0.13, right: float = 0.97) -> Axes:
    """An axes with fixed margins and its title at the left."""
    axes = figure.add_axes((left, 0.16, right - left, 0.72))
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_axisbelow(True)
    return axes

"""A word that moves with a point but never changes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

POINTS = 72.0  # points of type per inch
MARKER_PT = 8.0  # the size of a marker


class MovingLabel(PathPatch):
    """The outline of a word, filled: a tenth of the time that a text takes, which is shaped and
    rendered anew at every move."""

    def __init__(self, axes: Axes, words: str, away: tuple[float, float], **look: Any) -> None:
        """`away`: where the word begins (or ends, to the left of its point) and its upper (or
        lower) edge lies, in points of type from the point that it names."""
        size = FontProperties(size="medium").get_size_in_points()
        outline = TextPath((0, 0), words, size=size, prop=FontProperties(weight="bold"))
        super().__init__(outline, linewidth=0, transform=Affine2D(), **look)
        box = outline.get_extents()
        self._corner = (
            away[0] - (box.x0 if away[0] > 0 else box.x1),
            away[1] - (box.y1 if away[1] < 0 else box.y0),
        )
        self._width = away[0] + box.width
        self.axes_of_point, self.words = axes, words

    def place(
        self, point: tuple[float, float], clear_of: tuple[float, float] | None = None
    ) -> None:
        """Put it next to a point, in data coordinates; not shown where that is outside the axes.
        A marker at `clear_of` that would lie on the word moves it further to the right."""
        figure = self.axes_of_point.figure
        assert figure is not None
        scale = figure.dpi / POINTS
        x, y = self.axes_of_point.transData.transform(point)
        self.set_visible(self.axes_of_point.bbox.contains(x, y))
        if clear_of is not None:
            other_x, other_y = self.axes_of_point.transData.transform(clear_of)
            right, below = (other_x - x) / scale, (y - other_y) / scale
            if 0 < right < self._width + MARKER_PT and 0 < below < 2.5 * MARKER_PT:
                x = other_x
        self.set_transform(Affine2D().translate(*self._corner).scale(scale).translate(x, y))

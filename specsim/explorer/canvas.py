"""A picture that is cheap to change: drawn once, blitted ever after, a PNG without a file.

The figure, its axes and everything that stands still are drawn when the canvas is frozen. A move
restores that background, draws the few artists that move over it, and encodes the buffer: nothing
is laid out again and no figure is made.
"""

from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from specsim.explorer.panels import Panel
from specsim.explorer.setting import Scenario
from specsim.figures import STYLE

WIDTH, HEIGHT = 480, 340  # CSS pixels of a picture shown at its own size
SHARPNESS = 1.5  # device pixels to one of them
FONT_PT = 9.0  # 12 CSS pixels; 9 are left of them on a telephone's screen
FASTEST = 1  # zlib's level: pictures this empty hardly shrink further

# the explorer's own departures from the course's style: margins stand still, as axes do
FROZEN: dict[str, Any] = dict(STYLE) | {
    "font.size": FONT_PT,
    "axes.titlesize": FONT_PT,
    "legend.fontsize": FONT_PT - 1,
    "figure.constrained_layout.use": False,
    "path.simplify": True,
}


class Canvas:
    """One panel on one persistent Agg figure.

    `png(scenario)` is the picture; it freezes by itself the first time, and again where the panel
    says that the scenario has left its axes. `frozen` counts how often it did.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.frozen = 0
        with matplotlib.rc_context(FROZEN):
            self.figure = Figure(figsize=(WIDTH / 96, HEIGHT / 96), dpi=96 * SHARPNESS)
            self.agg = FigureCanvasAgg(self.figure)
        self._background: Any = None

    def freeze(self, scenario: Scenario) -> None:
        """Draw what stands still, for the axes' limits of this scenario."""
        with matplotlib.rc_context(FROZEN):
            self.figure.clear()
            self.panel.freeze(self.figure, scenario)
            for artist in self.panel.moving:
                artist.set_animated(True)
            self.agg.draw()
        self._background = self.agg.copy_from_bbox(self.figure.bbox)
        self.frozen += 1

    def png(self, scenario: Scenario, freeze: bool = False) -> bytes:
        """The picture of a scenario, encoded."""
        if freeze or self._background is None or not self.panel.holds(scenario):
            self.freeze(scenario)
        self.panel.move(scenario)
        self.agg.restore_region(self._background)
        for artist in self.panel.moving:
            if artist.get_visible():
                self.figure.draw_artist(artist)
        return encode(self.agg)

    def blank(self) -> bytes:
        """The axes alone: what there is to see of a setting that names no scenario."""
        if self._background is None:
            self.agg.draw()
        else:
            self.agg.restore_region(self._background)
        return encode(self.agg)


def encode(agg: FigureCanvasAgg) -> bytes:
    """The buffer as an opaque PNG."""
    picture = Image.frombuffer(
        "RGBA", agg.get_width_height(), agg.buffer_rgba(), "raw", "RGBA", 0, 1
    )
    out = BytesIO()
    picture.convert("RGB").save(out, "PNG", compress_level=FASTEST)
    return out.getvalue()

"""A picture that is cheap to change: one figure per panel, drawn once and then only updated.

`freeze` draws the axes and everything else that does not move, and keeps the result as a
background. A move restores that background, draws the few moving artists over it (blitting) and
encodes the buffer as a PNG: there is no new layout and no new figure.
"""

import struct
import zlib
from typing import Any

import numpy as np

from specsim.checks.extras import needed
from specsim.explorer.panels import Panel
from specsim.explorer.scenarios import PredictedScenario
from specsim.figures import STYLE

with needed("the explorer", "notebooks"):
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 480, 340  # CSS pixels of a picture shown at its own size
SHARPNESS = 1.5  # device pixels for each CSS pixel
FONT_PT = 9.0  # 12 CSS pixels; about 9 after scaling to the width of a telephone
FASTEST = 1  # zlib's level: such pictures hardly get smaller at a higher one

# the style of the figures, but with fixed margins: axes must not move
FROZEN: dict[str, Any] = dict(STYLE) | {
    "font.size": FONT_PT,
    "axes.titlesize": FONT_PT,
    "legend.fontsize": FONT_PT - 1,
    "figure.constrained_layout.use": False,
    "path.simplify": True,
}


class FigureCanvas:
    """One panel on one persistent Agg figure.

    `png(shown)` is the picture. It freezes by itself the first time, and again where the panel says
    that the scenario no longer suits its axes. `frozen` counts the freezes.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.frozen = 0
        with matplotlib.rc_context(FROZEN):
            self.figure = Figure(figsize=(WIDTH / 96, HEIGHT / 96), dpi=96 * SHARPNESS)
            self.agg = FigureCanvasAgg(self.figure)
        self._background: Any = None

    def freeze(self, shown: PredictedScenario) -> None:
        """Draw what does not move, with axes limits for this scenario."""
        with matplotlib.rc_context(FROZEN):
            self.figure.clear()
            self.panel.freeze(self.figure, shown)
            for artist in self.panel.moving:
                artist.set_animated(True)
            self.agg.draw()
        self._background = self.agg.copy_from_bbox(self.figure.bbox)
        self.frozen += 1

    def png(self, shown: PredictedScenario, freeze: bool = False) -> bytes:
        """The picture of a scenario as a PNG."""
        if freeze or self._background is None or not self.panel.holds(shown):
            self.freeze(shown)
        self.panel.move(shown)
        self.agg.restore_region(self._background)
        for artist in self.panel.moving:
            if artist.get_visible():
                self.figure.draw_artist(artist)
        return encode(self.agg)

    def blank(self) -> bytes:
        """The axes alone, for a scenario that cannot be predicted."""
        if self._background is None:
            self.agg.draw()
        else:
            self.agg.restore_region(self._background)
        return encode(self.agg)


def encode(agg: FigureCanvasAgg) -> bytes:
    """The buffer as an opaque PNG.

    Pillow tries five filters on every row; flat areas need none, and without them this takes a
    third of the time, for a file of the same size.
    """
    pixels = np.asarray(agg.buffer_rgba())  # (height, width, RGBA)
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter, 0: none
    for channel in range(3):
        rows[:, 1 + channel :: 3] = pixels[:, :, channel]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.data, FASTEST)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

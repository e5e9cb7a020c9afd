"""The panels one at a time, for a tutorial: a picture, the controls it is to follow, a sentence.

    explorer.speedup_vs_gamma(preset="moe", controls=("batch", "alpha"))

Each takes the settings that `Explorer` takes. Without controls it is a picture that its writer
moves: `piece.show(setting)`. `piece.png` holds the picture's bytes, for a page without widgets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specsim.explorer.board import Board
from specsim.explorer.measured import markers_in
from specsim.explorer.panels import Panel, Roofline, SpeedupMap, SpeedupVsGamma, Waterfall
from specsim.explorer.presets import preset as preset_named
from specsim.explorer.setting import Setting, changed


class Piece(Board):
    """One panel with some controls."""

    def __init__(
        self,
        panel: Panel,
        setting: Setting,
        controls: Sequence[str],
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(setting, urgent=(panel,), controls=controls, folder=folder)
        self.panel = panel

    @property
    def png(self) -> bytes:
        """The picture as it stands."""
        return bytes(self.images[self.panel].value)


def roofline(
    setting: Setting | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "gamma"),
    preset: str | None = None,
    **changes: Any,
) -> Piece:
    """Plain, draft and verification passes below the roof."""
    return Piece(Roofline(), _start(setting, preset, changes), controls)


def speedup_vs_gamma(
    setting: Setting | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "alpha"),
    preset: str | None = None,
    measurements: str | Path | None = "measurements",
    **changes: Any,
) -> Piece:
    """Speedup against gamma in its band, with what was measured in the folder `measurements`."""
    panel = SpeedupVsGamma(markers_in(measurements))
    return Piece(panel, _start(setting, preset, changes), controls, measurements)


def speedup_map(
    setting: Setting | None = None,
    *,
    over: str = "context",
    controls: Sequence[str] = ("batch", "context", "alpha"),
    preset: str | None = None,
    **changes: Any,
) -> Piece:
    """Speedup over batch and context, or with `over="gamma"` over batch and gamma."""
    return Piece(SpeedupMap(over), _start(setting, preset, changes), controls)


def waterfall(
    setting: Setting | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "gamma", "alpha"),
    preset: str | None = None,
    **changes: Any,
) -> Piece:
    """Where the ideal gamma + 1 goes."""
    return Piece(Waterfall(), _start(setting, preset, changes), controls)


def _start(setting: Setting | None, preset: str | None, changes: dict[str, Any]) -> Setting:
    return changed(preset_named(preset).setting if preset else setting, **changes)

"""Single-panel widgets, for a tutorial: one picture, some controls, a sentence.

    explorer.speedup_vs_gamma(preset="moe", controls=("batch", "alpha"))

Each takes the values that `Explorer` takes. Without controls the author moves the picture, with
`widget.show(scenario)`. `widget.png` holds the bytes of the picture, for a page without widgets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specsim.explorer.live_view import LiveView
from specsim.explorer.measured import markers_in
from specsim.explorer.panels import (
    Panel,
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.presets import preset as preset_named
from specsim.explorer.scenarios import ExplorerScenario, changed


class SinglePanel(LiveView):
    """One panel with some controls."""

    def __init__(
        self,
        panel: Panel,
        scenario: ExplorerScenario,
        controls: Sequence[str],
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(scenario, urgent=(panel,), controls=controls, folder=folder)
        self.panel = panel

    @property
    def png(self) -> bytes:
        """The picture that is shown."""
        return bytes(self.images[self.panel].value)


def roofline(
    scenario: ExplorerScenario | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "gamma"),
    preset: str | None = None,
    **changes: Any,
) -> SinglePanel:
    """Plain, draft and verification passes below the roof."""
    return SinglePanel(RooflinePanel(), starting_at(scenario, preset, changes), controls)


def speedup_vs_gamma(
    scenario: ExplorerScenario | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "alpha"),
    preset: str | None = None,
    measurements: str | Path | None = "measurements",
    **changes: Any,
) -> SinglePanel:
    """Speedup against gamma with its band, and the points measured in the folder `measurements`."""
    panel = SpeedupVsGammaPanel(markers_in(measurements))
    return SinglePanel(panel, starting_at(scenario, preset, changes), controls, measurements)


def speedup_map(
    scenario: ExplorerScenario | None = None,
    *,
    over: str = "context",
    controls: Sequence[str] = ("batch", "context", "alpha"),
    preset: str | None = None,
    **changes: Any,
) -> SinglePanel:
    """Speedup over batch and context, or with `over="gamma"` over batch and gamma."""
    return SinglePanel(SpeedupMapPanel(over), starting_at(scenario, preset, changes), controls)


def waterfall(
    scenario: ExplorerScenario | None = None,
    *,
    controls: Sequence[str] = ("batch", "context", "gamma", "alpha"),
    preset: str | None = None,
    **changes: Any,
) -> SinglePanel:
    """What reduces the ideal gamma + 1."""
    return SinglePanel(WaterfallPanel(), starting_at(scenario, preset, changes), controls)


def starting_at(
    scenario: ExplorerScenario | None, preset: str | None, changes: dict[str, Any]
) -> ExplorerScenario:
    """The preset of that name, or else the scenario, with changes."""
    return changed(preset_named(preset).scenario if preset else scenario, **changes)

"""The explorer: predictions that follow a slider, in a notebook or in a browser.

    from specsim import explorer
    explorer.Explorer()                                    # everything; `specsim explore` opens it
    explorer.speedup_vs_gamma(preset="moe", controls=("batch", "alpha"))         # one live picture
    explorer.sweep(lambda s: s.speedup, {"alpha": [0.6, 0.8], "batch": [1, 8, 64]}).values

| read | for |
|---|---|
| `scenarios`, `presets` | what can be set, and its prediction; six scenarios that tell a story |
| `panels/`, `figure_canvas` | what is drawn, and why a move takes only a few milliseconds |
| `sentences`, `cards` | the same in words and in numbers |
| `under_load`, `load_card`, `load_view` | many users: what is simulated, said and shown |
| `measured` | markers of measured speedups |
| `controls`, `grouping`, `finding` | widgets; groups and search; a model of your own |
| `tasks`, `task_control` | published acceptance |
| `live_view`, `frames`, `hover` | what is redrawn when one moves; values under the pointer |
| `comparing`, `memory_bar`, `streaming` | A beside B; what is held; tokens as they would come |
| `single_panel`, `widget` | one picture with a few controls; the whole explorer |
| `sweeping`, `sweep_view` | any function, over axes; the same as a widget |
| `static_view`, `taking` | the same without a kernel; files to download |
| `copying`, `page` | code, commands and links to copy; the page that `specsim explore` opens |

Scenarios, presets and sweeps need NumPy alone; pictures also need matplotlib and Pillow, and live
widgets also ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specsim.checks.extras import needed
from specsim.explorer.presets import PRESETS, Preset, preset
from specsim.explorer.scenarios import ExplorerScenario, PredictedScenario, predict_scenario
from specsim.explorer.sweeping import Sweep, sweep

if TYPE_CHECKING:
    from specsim.explorer.load_view import ManyUsers, many_users
    from specsim.explorer.single_panel import (
        SinglePanel,
        roofline,
        speedup_map,
        speedup_vs_gamma,
        waterfall,
    )
    from specsim.explorer.widget import Explorer

__all__ = [
    "PRESETS",
    "Explorer",
    "ExplorerScenario",
    "ManyUsers",
    "PredictedScenario",
    "Preset",
    "SinglePanel",
    "Sweep",
    "many_users",
    "predict_scenario",
    "preset",
    "roofline",
    "speedup_map",
    "speedup_vs_gamma",
    "sweep",
    "waterfall",
]

_LIVE = {
    "Explorer": "widget",
    "ManyUsers": "load_view",
    "many_users": "load_view",
    "SinglePanel": "single_panel",
    "roofline": "single_panel",
    "speedup_map": "single_panel",
    "speedup_vs_gamma": "single_panel",
    "waterfall": "single_panel",
}


def __getattr__(name: str) -> Any:
    """A live widget, imported when it is asked for. Raises SpecsimError without its extra."""
    if name not in _LIVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed("the explorer", "notebooks"):
        return getattr(import_module(f"{__name__}.{_LIVE[name]}"), name)

"""The explorer: predictions that follow a slider, in a notebook or in a browser.

    from specsim import explorer
    explorer.Explorer()                                    # everything; `specsim explore` opens it
    explorer.speedup_vs_gamma(preset="moe", controls=("batch", "alpha"))         # one live picture
    explorer.sweep(lambda s: s.speedup, {"alpha": [0.6, 0.8], "batch": [1, 8, 64]}).values

| read | for |
|---|---|
| `setting`, `presets` | what can be set, and the scenario it names; six that tell a story |
| `panels/`, `canvas` | what is drawn, and how a move costs a few milliseconds |
| `sentences`, `cards` | the same in words and in numbers |
| `measured` | markers of what was run |
| `controls`, `board` | widgets, and what follows when one moves |
| `pieces`, `widget` | a picture with a few controls; all of it |
| `sweeping` | any function of a scenario |
| `copying`, `page` | code, flags and links to take along; the page that `specsim explore` opens |

Settings, presets and sweeps need NumPy alone; pictures need matplotlib and Pillow, and what is live
needs ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specsim.checks import SpecsimError
from specsim.explorer.presets import PRESETS, Preset, preset
from specsim.explorer.setting import Scenario, Setting, scenario_of
from specsim.explorer.sweeping import Sweep, sweep

if TYPE_CHECKING:
    from specsim.explorer.pieces import Piece, roofline, speedup_map, speedup_vs_gamma, waterfall
    from specsim.explorer.widget import Explorer

__all__ = [
    "PRESETS",
    "Explorer",
    "Piece",
    "Preset",
    "Scenario",
    "Setting",
    "Sweep",
    "preset",
    "roofline",
    "scenario_of",
    "speedup_map",
    "speedup_vs_gamma",
    "sweep",
    "waterfall",
]

_LIVE = {
    "Explorer": "widget",
    "Piece": "pieces",
    "roofline": "pieces",
    "speedup_map": "pieces",
    "speedup_vs_gamma": "pieces",
    "waterfall": "pieces",
}


def __getattr__(name: str) -> Any:
    """What is live, loaded when it is asked for. Raises SpecsimError where its extra is missing."""
    if name not in _LIVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LIVE[name]}"), name)
    except ModuleNotFoundError as missing:
        raise SpecsimError(
            f"the explorer needs {missing.name}: pip install 'specsim-llm[notebooks]'"
        ) from None

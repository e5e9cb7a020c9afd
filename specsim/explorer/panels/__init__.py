"""The panels: each draws its axes once, and moves a few artists for each scenario.

| panel | question |
|---|---|
| `RooflinePanel` | do bytes or FLOPs limit a plain step, the drafting and a verification? |
| `SpeedupVsGammaPanel` | how many drafts are best, and how sure is that? |
| `SpeedupMapPanel` | where is it faster, over batch and context or batch and gamma? |
| `WaterfallPanel` | what reduces the ideal gamma + 1? |

For any other function of a scenario there is `explorer.sweep`.
"""

from specsim.checks.extras import needed

with needed("the explorer", "notebooks"):
    from specsim.explorer.panels.protocol import Panel
    from specsim.explorer.panels.roofline import RooflinePanel
    from specsim.explorer.panels.speedup_map import SpeedupMapPanel
    from specsim.explorer.panels.speedup_vs_gamma import SpeedupVsGammaPanel
    from specsim.explorer.panels.waterfall import WaterfallPanel

__all__ = ["Panel", "RooflinePanel", "SpeedupMapPanel", "SpeedupVsGammaPanel", "WaterfallPanel"]

"""What can be looked at: each panel is what stands still, what moves, and how it moves.

| panel | question |
|---|---|
| `Roofline` | where do a plain step, a draft and a verification stand between bytes and FLOPs? |
| `SpeedupVsGamma` | how many drafts are best, and how sure is that? |
| `SpeedupMap` | where does it pay, over batch and context or batch and gamma? |
| `Waterfall` | where did the ideal gamma + 1 go? |

A function of a scenario that none of them shows is for `explorer.sweep`.
"""

from specsim.explorer.panels.protocol import Panel
from specsim.explorer.panels.roofline import Roofline
from specsim.explorer.panels.speedup_map import SpeedupMap
from specsim.explorer.panels.speedup_vs_gamma import SpeedupVsGamma
from specsim.explorer.panels.waterfall import Waterfall

__all__ = ["Panel", "Roofline", "SpeedupMap", "SpeedupVsGamma", "Waterfall"]

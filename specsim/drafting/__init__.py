"""What a drafting method costs per cycle, what it does to survival, and what overlaps.

| method | drafting per cycle | survival | file |
|---|---|---|---|
| `draft-model` | gamma passes of a smaller model | as measured | `models` |
| `early-exit` | gamma passes of the target's first layers | high | `models` |
| `quantised-self` | gamma passes of the target, smaller format | very high | `models` |
| `n-gram` `suffix` | a search on the host | hit x alpha^k | `lookup` |
| `medusa` | a head per position | decays steeply; lossy unless told not to be | `heads` |
| `eagle` `eagle-3` `mtp` | gamma passes: a layer, an LM head | decays, EAGLE-3 mildly | `heads` |
| `p-eagle` `dflash` | one pass of gamma rows | decays along the block | `heads` |
| `tree` `eagle-2` | a pass per depth, wider and wider | the most from gamma nodes | `trees` |
| `pearl` `ssd` | during the verification, on another device | as drafted | `overlapped` |
| `cascade`, ensembles | drafters that have drafters | the middle's; the mixture's | `combined` |

A head with a config of its own is a `TrainedHead`, whatever its method.
`method(name, target, draft)` builds one with the catalog's parameters (`catalog/methods.toml`).
gamma is the number of drafted tokens per cycle in every method: in a tree it counts nodes.
"""

from specsim.drafting.combined import Cascade, Ensemble
from specsim.drafting.drafter import Drafter, Mixed, candidates
from specsim.drafting.heads import Eagle, Medusa, ParallelBlock, TrainedHead
from specsim.drafting.lookup import Lookup
from specsim.drafting.methods import method
from specsim.drafting.models import CATCH_UPS, DraftModel, EarlyExit, QuantisedSelf
from specsim.drafting.overlapped import SSD, Pearl
from specsim.drafting.trees import DynamicTree, StaticTree

__all__ = [
    "CATCH_UPS",
    "SSD",
    "Cascade",
    "DraftModel",
    "Drafter",
    "DynamicTree",
    "Eagle",
    "EarlyExit",
    "Ensemble",
    "Lookup",
    "Medusa",
    "Mixed",
    "ParallelBlock",
    "Pearl",
    "QuantisedSelf",
    "StaticTree",
    "TrainedHead",
    "candidates",
    "method",
]

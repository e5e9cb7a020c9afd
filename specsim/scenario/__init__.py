"""One scenario for the command line, the explorer and its links: plain data, and what it names.

    found = resolve(Scenario(target="llama-3.1-8b", draft="llama-3.2-1b", accelerator="h200-sxm",
                             gamma=4, alpha=0.8))
    found.predict(gamma=4).speedup

A `Scenario` holds names and numbers, by the names of the command line's options. `resolve` looks
the names up, in one place, and refuses what does not go together in the words of the command line.

| file | holds |
|---|---|
| `scenario` | `Scenario`, and the limits of its numbers |
| `resolved` | `resolve`: models, system and drafter of a scenario |
| `server_load` | `ServerLoad`: a server and the requests that come to it |
| `files` | scenarios in TOML files: `read_scenario` |
| `sweeping/` | many scenarios, here or on a cluster: `run_sweep` |

The last three are imported by their own names: few commands need them.
"""

from specsim.scenario.resolved import (
    ACCEPTANCES,
    Resolved,
    draft_precision_of,
    drafter_of,
    head_of,
    method_of,
    predictions,
    resolve,
    system_of,
)
from specsim.scenario.scenario import Scenario, require_sound

__all__ = [
    "ACCEPTANCES",
    "Resolved",
    "Scenario",
    "draft_precision_of",
    "drafter_of",
    "head_of",
    "method_of",
    "predictions",
    "require_sound",
    "resolve",
    "system_of",
]

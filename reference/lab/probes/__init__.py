"""The probes that calibrate a System: small kernels and small random transformers, timed here.

| module | what is timed |
|---|---|
| `products` | stacks of matrix products, by bytes, rows and format of the weights |
| `attention` | attention over caches that lie in memory, by context and rows |
| `stages` | the stages of decoding cycles of small random pairs |
| `running` | all of them, round by round, so that a change of the machine affects them alike |
| `choice` | the dtype in which this machine decodes faster |

No probe has the shape of a model that is predicted from the calibration.
"""

from reference.lab.probes.choice import fastest_dtype
from reference.lab.probes.running import run_probes

__all__ = ["fastest_dtype", "run_probes"]

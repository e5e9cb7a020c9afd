"""The kernels of a GPU, timed one by one: products, attention, reads, and small fixed costs.

Each kernel is captured in a CUDA graph that runs it many times, over buffers that together are
larger than the caches. So a kernel is timed between two others, as in a decoded cycle, and its
launch gap is included. On a CPU the same probes run without graphs, which only serves to test them.
No probe has the shape of a model that is predicted from the calibration.

| module | content |
|---|---|
| `grid` | what is probed: the sizes of matrices, KV caches, reads and random pairs |
| `timer` | the seconds of one call among many |
| `probes` | the probes, and the run through all of them |
| `chunks` | the window from which attention is faster in chunks |
"""

from reference.lab.kernels.grid import GPU, Grid
from reference.lab.kernels.probes import run_kernel_probes
from reference.lab.kernels.timer import Timer

__all__ = ["GPU", "Grid", "Timer", "run_kernel_probes"]

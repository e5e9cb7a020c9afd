"""A server whose engine is known by its plain runs alone -> a System that predicts its speculation.

The kernels of the machine are known from probes. What a server adds is what its host does for each
step and for each sequence of it: scheduling, sampling, HTTP. Two plain loads tell the two:

    seconds between tokens with B streams = pass with B rows + o_cycle + o_sequence x B

Plain runs do not tell what the host does only where it speculates: it prepares the passes of the
draft, compares, and takes back. Here a cycle with drafts is assumed to take the host's time of a
step once more, and each drafted token that is verified that of a sequence: a rule that was chosen
after one run of vLLM on a CPU had been seen. What is left out are kernels that are faster or slower
than those of the probes (either way).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import SpecsimError, quoted
from specsim.evidence.calibration.regression import non_negative_fit
from specsim.hardware import System
from specsim.speculation import predict


def fitted_to_server(
    machine: System, target: Architecture, plain_s: Mapping[int, float], context: int
) -> System:
    """The system of a server that runs `target` on `machine`.

    Arguments: `machine`, whose passes are known, as from a calibration; `plain_s`, by the number of
    streams, the mean seconds between the tokens of a stream without speculation (vLLM's TPOT), at
    two loads or more; `context`, tokens of a sequence, on average. No constant is negative: where
    the server is faster than the machine's own passes, the passes stay as they are (pessimistic).

    Raises SpecsimError for fewer than two loads, and for seconds that are not above 0.
    """
    if len(plain_s) < 2:
        raise SpecsimError(f"a server is fitted to two plain loads or more, got {len(plain_s)}")
    for streams, seconds in plain_s.items():
        if not (streams >= 1 and 0 < seconds < np.inf):
            raise SpecsimError(
                f"a load needs streams and seconds above 0, got {quoted(streams)}: "
                f"{quoted(seconds)}"
            )
    bare = replace(
        machine.engine, cycle_overhead_s=0.0, sequence_overhead_s=0.0, cycle_refill_s=0.0
    )
    system = replace(machine, engine=bare)
    streams, seconds = np.array(sorted(plain_s.items()), float).T
    passes = predict(target, None, system, gamma=0, batch=streams, context=context).step_s
    columns = np.stack([np.ones_like(streams), streams], axis=1)
    host_s, sequence_s = non_negative_fit(columns / seconds[:, None], 1 - passes / seconds)
    engine = replace(
        bare, cycle_overhead_s=host_s, sequence_overhead_s=sequence_s,
        speculation_overhead_s=host_s, verified_row_overhead_s=sequence_s,
    )  # fmt: skip
    return replace(machine, engine=engine)

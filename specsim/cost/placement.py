"""The time of one pass, whether all layers lie on the accelerator or the first ones on a host.

    pass = offloaded layers at the host's rates + one transfer of the hidden states
         + all other layers and the LM head at the accelerator's

Two memories in series: while one computes, the other waits. A step reads the host's layers at the
host's bandwidth, a tenth of an accelerator's, so a few layers there take most of the time. A wide
pass soon computes there: a CPU has no matrix units, and every row after the first computes again.

Optimistic: the host does nothing else; few rows reach the arithmetic rate that was measured on
512, and their loads and arithmetic overlap as on an accelerator. Pessimistic: from 32 rows on
llama.cpp copies weights to the accelerator and multiplies there, which is not priced (long
prompts, large batches).
"""

from dataclasses import replace

import numpy as np

from specsim.architecture import Architecture
from specsim.cost.roofline import ForwardTime, Term, forward_time
from specsim.hardware import PCIE_BYTES_PER_S, PCIE_LATENCY_S, System
from specsim.operators import PLAIN_STEP, ForwardWork, Workload, forward_work

TABLES = ("embedding", "LM head", "logit soft-cap")  # operators that no layer has
ELSEWHERE = "other projections"  # nor these, which a model that is cut does not have either


def step_time(
    model: Architecture,
    system: System,
    workload: Workload = PLAIN_STEP,
    norm: float | None = None,
) -> ForwardTime:
    """The time of one pass of `workload` (by default a plain step of one sequence): count the work,
    then price it where it is done.

    Raises SpecsimError where the system's devices cannot share the model's heads evenly, and where
    more layers are offloaded than the model has.
    """
    system = system.storing(model)
    work = forward_work(model, workload, system.precision, system.sharding)
    return placed_time(work, model, system, workload, norm)


def placed_time(
    work: ForwardWork,
    model: Architecture,
    system: System,
    workload: Workload,
    norm: float | None = None,
) -> ForwardTime:
    """The same of `work`, which is that of the whole pass; `norm` is that of `forward_time`."""
    if not system.offloaded_layers:
        return forward_time(work, system, norm)
    system.require_layers_of(model)
    on_host = forward_time(offloaded_work(model, system, workload), system.on_host, norm)
    left = remaining_work(work, model, system, workload)
    rest = forward_time(left, system.on_accelerator, norm)
    bytes_sent = work.rows * model.hidden_size * system.precision.activation_bytes
    sending_s = PCIE_LATENCY_S + bytes_sent / (0.5 * PCIE_BYTES_PER_S)  # of both directions, one
    nothing = np.zeros_like(sending_s)
    terms = (
        *(replace(term, name=f"host: {term.name}") for term in on_host.terms if term.operator),
        Term("host to accelerator", None, sending_s, nothing, "overhead"),
        *rest.terms,
    )
    return ForwardTime(terms, rest.launch_s)


def offloaded_work(model: Architecture, system: System, workload: Workload) -> ForwardWork:
    """What the host does of a pass: the first layers, without tables and LM head (and one norm
    more, the last)."""
    first = model.first_layers(system.offloaded_layers)
    work = forward_work(first, workload, system.precision)
    inside = tuple(each for each in work if each.name not in TABLES)
    return replace(work, operators=inside)


def remaining_work(
    work: ForwardWork, model: Architecture, system: System, workload: Workload
) -> ForwardWork:
    """What the accelerator does of a pass, which is `work` as a whole: the other layers, and what
    lies outside of all layers."""
    left = model.num_layers - system.offloaded_layers
    outside = tuple(each for each in work if each.name in (*TABLES, ELSEWHERE))
    if not left:
        return replace(work, operators=outside, layers=0.0, launched=0.0)
    last = forward_work(model.last_layers(left), workload, system.precision)
    elsewhere = tuple(each for each in work if each.name == ELSEWHERE)
    return replace(last, operators=(*last.operators, *elsewhere))

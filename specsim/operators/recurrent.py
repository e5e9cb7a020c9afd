"""Layers with a state of constant size: projections, and the state that is read and written."""

from collections.abc import Iterator

from specsim.architecture import Architecture, Recurrent, mixers_of
from specsim.operators.counting import Pass
from specsim.operators.work import ATTENTION, Operator

FLOPS_PER_ELEMENT = 6.0  # of the state, per token: decay, add an outer product, multiply and sum


def recurrent_operators(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """The operators of linear attention and state-space layers, in the order in which they run."""
    kinds = [(m, count) for m, count in mixers_of(model) if isinstance(m, Recurrent)]
    hidden, weight = model.hidden_size, asked.precision.bytes_per_recurrent_weight
    for kind, layers in kinds:
        name = kind.label or kind.kind
        columns = kind.columns / asked.devices
        yield asked.linear(f"{name} projections", hidden, columns, layers, weight)
        for rows, out in kind.low_rank:
            yield asked.linear(f"{name} {rows} x {out} projection", rows, out, layers, weight)
        yield over_the_state(f"{name} state", asked, kind, layers)
        width = kind.width / asked.devices
        yield asked.linear(f"{name} output projection", width, hidden, layers, weight)


def over_the_state(name: str, asked: Pass, kind: Recurrent, layers: int) -> Operator:
    """The recurrence: the state is read once per sequence and written `states` times, once for each
    row of a verification, since any of them may be the last that is accepted.

    Engines that keep the inputs of the rows and compute the state again write less (pessimistic).
    """
    held = kind.held_bytes(asked.precision.activation_bytes) / asked.devices
    return asked.other(
        name,
        ATTENTION,
        flops=FLOPS_PER_ELEMENT * asked.tokens * kind.state_elements / asked.devices * layers,
        kv_bytes=held * layers * asked.batch * (1.0 + asked.states),
        activation_bytes=2.0 * asked.tokens * kind.width * asked.precision.activation_bytes
        / asked.devices * layers,
        kernels=layers,
        streams=asked.batch * max(1, kind.heads // asked.devices),
        math=asked.precision.activation_math,
    )  # fmt: skip

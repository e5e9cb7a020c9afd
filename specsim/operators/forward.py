"""One pass, counted: embedding, the operators of `attention` and `experts`, and the LM head."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import (
    Architecture,
    Layer,
    Mlp,
    Recurrent,
    halves_of,
    kinds_of,
)
from specsim.checks import ArrayLike, Floats
from specsim.operators.attention import attention_operators
from specsim.operators.counting import Pass
from specsim.operators.experts import mlp_operators
from specsim.operators.formats import Precision
from specsim.operators.launches import head_norms, launched_layers
from specsim.operators.recurrent import recurrent_operators
from specsim.operators.sharding import (
    WHOLE,
    Sharding,
    all_reduces,
    kv_heads_held,
    require_even_split,
)
from specsim.operators.work import COLLECTIVE, ELEMENTWISE, HEAD, ForwardWork, Operator
from specsim.operators.workload import Workload


def forward_work(
    model: Architecture,
    workload: Workload,
    precision: Precision,
    sharding: Sharding = WHOLE,
) -> ForwardWork:
    """Count one pass of `workload` through `model`: FLOPs and bytes, an operator at a time.

    Weights are counted once per pass, keys and values once per sequence, FLOPs once per row. Bytes
    moved, not bytes needed: where the workload says that an attention kernel reads its whole
    buffer, it is charged so. Under tensor parallelism, `Sharding(devices)`, the counts are those of
    one device.

    Returns counts as arrays of the workload's broadcast shape. Raises SpecsimError where the
    devices cannot share the heads evenly.
    """
    asked = in_arrays(workload, precision, sharding.devices)
    logits = logits_of(workload, asked)
    return ForwardWork(
        tuple(operators_of(model, workload, asked, sharding)),
        halves_of(model) / 2,
        launched_layers(model),
        asked.spread(asked.tokens),
        asked.spread(logits * model.vocab_size),
        precision,
        sharding.devices,
        float(model.hidden_size),
        head_norms(model),
    )


def in_arrays(workload: Workload, precision: Precision, devices: int) -> Pass:
    """The workload's numbers as arrays that broadcast together."""
    sequences, width, read = (
        np.asarray(value, float) for value in (workload.batch, workload.rows, workload.context)
    )
    if workload.allocated_context is not None:
        read = np.maximum(read, np.asarray(workload.allocated_context, float))
    states = width if workload.states is None else np.asarray(workload.states, float)
    shapes = [np.shape(sequences), np.shape(width), np.shape(read), np.shape(states)]
    shapes += [
        np.shape(x) for x in (workload.logit_rows, workload.routing_correlation) if x is not None
    ]
    shape = np.broadcast_shapes(*shapes)
    tokens = sequences * width
    return Pass(sequences, width, read, tokens, states, shape, precision, devices)


def logits_of(workload: Workload, asked: Pass) -> Floats:
    """Rows that go through the LM head, over all sequences."""
    if workload.logit_rows is None:
        return asked.tokens
    return asked.batch * np.asarray(workload.logit_rows, float)


def operators_of(
    model: Architecture, workload: Workload, asked: Pass, sharding: Sharding
) -> Iterator[Operator]:
    """The operators in the order in which they run."""
    require_even_split(model, sharding.devices)
    vocab, logits = model.vocab_size, logits_of(workload, asked)
    columns = -(-vocab // sharding.devices) if sharding.head_sharded else vocab
    per_weight = asked.precision.bytes_per_head_weight
    yield embedding(asked, model)
    yield from attention_operators(asked, model)
    yield from recurrent_operators(asked, model)
    yield from mlp_operators(asked, model, workload.routing_correlation)
    yield from further_matrices(asked, model)
    yield elementwise(asked, model)
    # a pass of which no row goes through the LM head does not read it
    head = {"visits": logits, "copies": np.minimum(logits, 1.0)}
    yield asked.linear(HEAD, model.hidden_size, columns, 1, per_weight, **head)
    yield from soft_cap(asked, model, logits * columns)
    yield from collectives(asked, model)


def embedding(asked: Pass, model: Architecture) -> Operator:
    """A row of the table per token is gathered; the table is not streamed."""
    moved = 2.0 * asked.tokens * model.hidden_size * asked.precision.activation_bytes
    return asked.other("embedding", ELEMENTWISE, activation_bytes=moved)


def further_matrices(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """Matrices of layers that are neither attention nor MLP, and those outside of all layers."""
    weight = asked.precision.weight_bytes
    found: dict[tuple[int, int], int] = {}
    for layer, count in kinds_of(model):
        for shape in layer.matrices:
            found[shape] = found.get(shape, 0) + count
    for (rows, columns), layers in found.items():
        yield asked.linear(f"{rows} x {columns} projection", rows, columns, layers, weight)
    if model.other_parameters:
        wide = model.other_parameters / model.hidden_size
        yield asked.linear("other projections", model.hidden_size, wide, 1, weight)


def elementwise(asked: Pass, model: Architecture) -> Operator:
    """Norms, rotary embedding, activation and residual sums of every layer, and the last norm: each
    reads and writes its rows (pessimistic for engines that fuse them)."""
    touched: float = 0.0
    for layer, count in kinds_of(model):
        touched += count * touched_in(layer, model, asked.devices)
    touched += 2 * model.hidden_size
    return asked.other(
        "norms and elementwise",
        ELEMENTWISE,
        flops=asked.tokens * touched,
        activation_bytes=asked.tokens * touched * asked.precision.activation_bytes,
    )


def touched_in(layer: Layer, model: Architecture, devices: int) -> float:
    """Elements that the elementwise work of a layer reads and writes, per token."""
    hidden, mlp = model.hidden_size, layer.mlp
    sums = 3 * hidden * layer.streams * (len(layer.mixers) + (mlp is not None))
    touched: float = 2 * layer.norms * hidden + sums
    for mixer in layer.mixers:
        if isinstance(mixer, Recurrent):
            touched += 2 * (mixer.columns + mixer.width) / devices  # convolution, gate and norm
        elif model.learned_positions:
            pass
        elif mixer.latent is not None:
            touched += 2 * (mixer.num_heads / devices + 1) * mixer.latent.rope_size
        else:
            keys = 0 if mixer.shares_cache else kv_heads_held(mixer, devices)
            touched += 2 * (mixer.query_size / devices + keys * mixer.head_dim)
    if isinstance(mlp, Mlp):
        touched += (3 if mlp.gated else 2) * mlp.width / devices  # two in and one out, or one in
    elif mlp is not None:
        width = mlp.per_token * mlp.intermediate_size + mlp.shared_size
        summed = mlp.per_token - 1 + (1 if mlp.shared_size else 0)
        touched += (3 if mlp.gated else 2) * width / devices + 2 * summed * hidden
    return touched


def soft_cap(asked: Pass, model: Architecture, logits: ArrayLike) -> Iterator[Operator]:
    """Gemma 2's tanh over the logits, in 32 bits; that over the scores stays in the kernel."""
    if model.logit_softcap:
        logits = np.asarray(logits)
        yield asked.other("logit soft-cap", ELEMENTWISE, flops=logits, activation_bytes=8 * logits)


def collectives(asked: Pass, model: Architecture) -> Iterator[Operator]:
    """The all-reduces of the hidden states; a device sends 2 (n-1)/n of each (ring). The all-reduce
    after a split embedding and the gathering of the logits, one each per pass, are left out
    (optimistic)."""
    if asked.devices > 1:
        count = all_reduces(model)
        message = asked.tokens * model.hidden_size * asked.precision.activation_bytes
        sent = 2.0 * (asked.devices - 1) / asked.devices * message * count
        yield asked.other("all-reduce", COLLECTIVE, link_bytes=sent, kernels=count)

"""One pass, counted: embedding, the operators of `attention` and `experts`, and the LM head."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats
from specsim.operators.attention import attention_operators
from specsim.operators.counting import Pass
from specsim.operators.experts import mlp
from specsim.operators.formats import Precision
from specsim.operators.sharding import (
    WHOLE,
    Sharding,
    all_reduces_per_layer,
    kv_heads_held,
    require_even_split,
)
from specsim.operators.work import COLLECTIVE, ELEMENTWISE, ForwardWork, Operator
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
        model.num_layers,
        asked.spread(asked.tokens),
        asked.spread(logits * model.vocab_size),
        precision,
        sharding.devices,
    )


def in_arrays(workload: Workload, precision: Precision, devices: int) -> Pass:
    """The workload's numbers as arrays that broadcast together."""
    sequences, width, read = (
        np.asarray(value, float) for value in (workload.batch, workload.rows, workload.context)
    )
    if workload.allocated_context is not None:
        read = np.maximum(read, np.asarray(workload.allocated_context, float))
    shapes = [np.shape(sequences), np.shape(width), np.shape(read)]
    shapes += [
        np.shape(x) for x in (workload.logit_rows, workload.routing_correlation) if x is not None
    ]
    shape = np.broadcast_shapes(*shapes)
    return Pass(sequences, width, read, sequences * width, shape, precision, devices)


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
    yield from mlp(asked, model, workload.routing_correlation)
    yield elementwise(asked, model)
    yield asked.linear("LM head", model.hidden_size, columns, 1, per_weight, visits=logits)
    yield from soft_cap(asked, model, logits * columns)
    yield from collectives(asked, model)


def embedding(asked: Pass, model: Architecture) -> Operator:
    """A row of the table per token is gathered; the table is not streamed."""
    moved = 2.0 * asked.tokens * model.hidden_size * asked.precision.activation_bytes
    return asked.other("embedding", ELEMENTWISE, activation_bytes=moved)


def elementwise(asked: Pass, model: Architecture) -> Operator:
    """Norms, rotary embedding, activation and residual sums of every layer, and the last norm: each
    reads and writes its rows (pessimistic for engines that fuse them)."""
    hidden, devices = model.hidden_size, asked.devices
    if model.learned_positions:
        rotated = 0.0
    elif model.latent is not None:
        rotated = (model.num_heads / devices + 1) * model.latent.rope_size
    else:
        rotated = model.query_size / devices + kv_heads_held(model, devices) * model.head_dim
    per_layer = 2 * model.norms_per_layer * hidden + 2 * rotated + 2 * 3 * hidden
    passes = 3 if model.gated_mlp else 2  # two in and one out, or one in
    dense = model.num_layers - model.expert_layers
    touched = model.num_layers * per_layer + dense * passes * model.intermediate_size / devices
    if (experts := model.experts) is not None:
        width = experts.per_token * experts.intermediate_size + experts.shared_size
        summed = experts.per_token - 1 + (1 if experts.shared_size else 0)
        touched += model.expert_layers * (passes * width / devices + 2 * summed * hidden)
    touched += 2 * hidden
    return asked.other(
        "norms and elementwise",
        ELEMENTWISE,
        flops=asked.tokens * touched,
        activation_bytes=asked.tokens * touched * asked.precision.activation_bytes,
    )


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
        count = all_reduces_per_layer(model) * model.num_layers
        message = asked.tokens * model.hidden_size * asked.precision.activation_bytes
        sent = 2.0 * (asked.devices - 1) / asked.devices * message * count
        yield asked.other("all-reduce", COLLECTIVE, link_bytes=sent, kernels=count)

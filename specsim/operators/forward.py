"""One pass, counted: the operators of `attention` and `experts` between embedding and LM head."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from specsim.architecture import Architecture
from specsim.operators.attention import attention
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
from specsim.operators.workload import Pass


def forward_work(
    model: Architecture,
    precision: Precision,
    sharding: Sharding = WHOLE,
    /,
    *,
    batch: ArrayLike = 1,
    rows: ArrayLike = 1,
    context: ArrayLike = 1024,
    allocated_context: ArrayLike | None = None,
    logit_rows: ArrayLike | None = None,
    routing_correlation: ArrayLike | None = None,
) -> ForwardWork:
    """Count one pass of `rows` tokens for each of `batch` sequences with `context` tokens cached.

    `allocated_context` is what the attention kernel really reads per sequence, where that is more
    than the context: masked kernels read the whole buffer (bytes moved, not bytes needed).
    `logit_rows` of the rows go through the LM head (all, unless said otherwise: a prefill needs the
    last one's logits alone). `routing_correlation` overrides the model's own. All of these
    broadcast together.

    Under tensor parallelism, `Sharding(devices)`, the counts are those of one device. Raises
    SpecsimError where the devices cannot share the heads evenly.
    """
    devices = sharding.devices
    require_even_split(model, devices)
    sequences, width, read = (np.asarray(value, float) for value in (batch, rows, context))
    if allocated_context is not None:
        read = np.maximum(read, np.asarray(allocated_context, float))
    tokens = sequences * width
    logits = tokens if logit_rows is None else sequences * np.asarray(logit_rows, float)
    alike = np.shape(0.0 if routing_correlation is None else routing_correlation)
    shape = np.broadcast_shapes(tokens.shape, read.shape, logits.shape, alike)
    asked = Pass(sequences, width, read, tokens, shape, precision, devices)

    hidden, vocab = model.hidden_size, model.vocab_size
    columns = -(-vocab // devices) if sharding.head_sharded else vocab
    head = asked.linear(
        "LM head", hidden, columns, 1, precision.bytes_per_head_weight, visits=logits
    )
    operators = (
        embedding(asked, model),
        *attention(asked, model),
        *mlp(asked, model, routing_correlation),
        elementwise(asked, model),
        head,
        *soft_cap(asked, model, logits * columns),
        *collectives(asked, model),
    )
    return ForwardWork(
        operators,
        model.num_layers,
        asked.spread(tokens),
        asked.spread(logits * vocab),
        precision,
        devices,
    )


def embedding(asked: Pass, model: Architecture) -> Operator:
    """A row of the table per token is gathered; the table is not streamed."""
    moved = 2.0 * asked.tokens * model.hidden_size * asked.precision.activation_bytes
    return asked.other("embedding", ELEMENTWISE, activation_bytes=moved)


def elementwise(asked: Pass, model: Architecture) -> Operator:
    """Norms, rotary embedding, activation and residual sums of every layer, and the last norm: each
    reads and writes its rows (punishes engines that fuse them)."""
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
    """The all-reduces of the hidden states; a device sends 2 (n-1)/n of each (ring). That of a
    split embedding and the gathering of the logits, one each per pass, are left out (flatters)."""
    if asked.devices > 1:
        count = all_reduces_per_layer(model) * model.num_layers
        message = asked.tokens * model.hidden_size * asked.precision.activation_bytes
        sent = 2.0 * (asked.devices - 1) / asked.devices * message * count
        yield asked.other("all-reduce", COLLECTIVE, link_bytes=sent, kernels=count)

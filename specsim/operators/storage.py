"""What one device stores of a model: its weights, every expert among them, and its cache.

Bytes *stored*, for memory; what a pass *reads* is counted in `forward`.
"""

from functools import reduce

import numpy as np

from specsim.architecture import Architecture, Recurrent, mixers_of
from specsim.checks import ArrayLike, Floats
from specsim.operators.formats import Precision
from specsim.operators.forward import in_arrays, operators_of
from specsim.operators.sharding import WHOLE, Sharding, kv_heads_held, require_even_split
from specsim.operators.workload import Workload

ONE_BYTE_EACH = Precision("count", 1.0, "none", kv_bytes=1.0, activation_bytes=1.0)
# so many tokens in a pass that no expert is unread
READS_ALL = Workload(batch=1e12, context=0, routing_correlation=0)


def stored_weight_bytes(
    model: Architecture, stored: Precision, sharding: Sharding = WHOLE
) -> float:
    """Bytes of all weights on one device: matrices in their format, with every expert, an untied
    embedding in its own; norms, biases and positions in that of activations, in full on every
    device."""

    once = model.with_layers(tuple(layer for layer in model.layers if not layer.shared))

    def matrices(stored: Precision, sharding: Sharding) -> float:
        asked = in_arrays(READS_ALL, stored, sharding.devices)
        operators = operators_of(once, READS_ALL, asked, sharding)
        return float(reduce(np.add, (each.weight_bytes for each in operators)))

    table = 0 if model.tied_head else model.embedding_parameters
    small = model.parameters - matrices(ONE_BYTE_EACH, WHOLE) - table
    held = table / sharding.devices if sharding.head_sharded else table
    embedding = stored.bytes_per_table_entry * held
    return matrices(stored, sharding) + embedding + stored.activation_bytes * small


def first_layers_bytes(model: Architecture, stored: Precision, layers: int) -> float:
    """Bytes of the weights of the first `layers`, without tables and LM head (and one norm more,
    the last)."""
    return body_bytes(model.first_layers(layers), stored) if layers else 0.0


def body_bytes(model: Architecture, stored: Precision, sharding: Sharding = WHOLE) -> float:
    """Bytes of the weights on one device without the embedding and the LM head."""
    table, head = stored.bytes_per_table_entry, stored.bytes_per_head_weight
    tables = (head if model.tied_head else head + table) * model.embedding_parameters
    devices = sharding.devices if sharding.head_sharded else 1
    return stored_weight_bytes(model, stored, sharding) - tables / devices


def cache_bytes(
    model: Architecture,
    stored: Precision,
    *,
    batch: ArrayLike,
    slots: ArrayLike,
    tensor_parallel: int = 1,
    states: ArrayLike = 1,
) -> Floats:
    """Bytes on one device of what `batch` sequences remember: keys and values, or latents, of
    `slots` tokens each, and `states` recurrent states each (gamma + 1 where drafts are verified).

    Layers with a window or a chunk keep that much alone. A latent, and KV heads fewer than the
    devices, are held by each device.
    """
    require_even_split(model, tensor_parallel)
    length = np.asarray(slots, dtype=float)
    total: Floats = np.zeros_like(length)
    for mixer, layers in mixers_of(model):
        if isinstance(mixer, Recurrent):
            state = mixer.held_bytes(stored.activation_bytes) / tensor_parallel
            total = total + layers * state * np.asarray(states, float)
            continue
        kept = length if mixer.reach is None else np.minimum(length, mixer.reach)
        entries, unfinished = length, 0.0
        if mixer.compressed is not None:
            entries = length / mixer.compressed.rate
            kept = kept + entries
            unfinished = 4.0 * mixer.compressed.unfinished(mixer.head_dim)
        held = kv_heads_held(mixer, tensor_parallel) / mixer.num_kv_heads
        per_token = mixer.cached * (1.0 if mixer.latent else held)
        total = total + layers * (kept * per_token * stored.kv_bytes + unfinished)
        if mixer.indexer is not None:
            total = total + layers * entries * mixer.indexer.key_bytes
    return np.asarray(batch) * total

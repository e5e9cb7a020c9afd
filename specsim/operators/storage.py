"""What one device stores of a model: its weights, every expert among them, and its cache.

Bytes *stored*, for memory; what a pass *reads* is counted in `forward`.
"""

from functools import reduce

import numpy as np

from specsim.architecture import Architecture
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

    def matrices(stored: Precision, sharding: Sharding) -> float:
        asked = in_arrays(READS_ALL, stored, sharding.devices)
        operators = operators_of(model, READS_ALL, asked, sharding)
        return float(reduce(np.add, (each.weight_bytes for each in operators)))

    table = 0 if model.tied_head else model.embedding_parameters
    small = model.parameters - matrices(ONE_BYTE_EACH, WHOLE) - table
    held = table / sharding.devices if sharding.head_sharded else table
    embedding = stored.bytes_per_table_entry * held
    return matrices(stored, sharding) + embedding + stored.activation_bytes * small


def cache_bytes(
    model: Architecture,
    stored: Precision,
    *,
    batch: ArrayLike,
    slots: ArrayLike,
    tensor_parallel: int = 1,
) -> Floats:
    """Bytes of KV on one device for `slots` tokens of each of `batch` sequences; sliding layers
    keep their window alone. A latent, and KV heads fewer than the devices, are held by each."""
    require_even_split(model, tensor_parallel)
    length = np.asarray(slots, dtype=float)
    windowed = np.minimum(length, model.sliding_window or np.inf)
    sliding = len(model.sliding_layers)
    token_layers = (model.num_layers - sliding) * length + sliding * windowed
    held = kv_heads_held(model, tensor_parallel) / model.num_kv_heads
    per_token_layer = model.kv_elements_per_layer * (1.0 if model.latent else held)
    return np.asarray(batch) * token_layers * per_token_layer * stored.kv_bytes

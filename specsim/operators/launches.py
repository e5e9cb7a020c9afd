"""The kernels that one pass launches, counted from the structure of every layer.

An ordinary layer of attention and a dense MLP launches nine: norm, query-key-value projection,
rotation (with the norms of queries and keys) that writes the cache, attention, output projection;
norm, gate and up projection, activation, down projection. Other layers launch more, and the small
kernels between the large ones take about as long each, whatever they compute. So an engine's
overhead, which is measured on dense layers, is charged per kernel: `launched_layers` counts in
dense layers.

Counted as serving engines launch them, with projections of one input fused (optimistic for eager
code, which launches several kernels for one of these).
"""

from functools import lru_cache

from specsim.architecture import Architecture, Attention, Experts, Layer, Mixer, Recurrent, kinds_of

DENSE_LAYER = 9  # kernels of an ordinary layer


@lru_cache(maxsize=64)
def launched_layers(model: Architecture) -> float:
    """Kernels of one pass, in those of an ordinary dense layer."""
    return sum(count * kernels_of(layer) for layer, count in kinds_of(model)) / DENSE_LAYER


@lru_cache(maxsize=64)
def head_norms(model: Architecture) -> int:
    """Layers of attention that normalise their queries and keys."""
    return sum(
        count
        for layer, count in kinds_of(model)
        if any(isinstance(mixer, Attention) and mixer.norm_elements for mixer in layer.mixers)
    )


def kernels_of(layer: Layer) -> int:
    """Kernels that a layer launches."""
    norms = max(layer.norms, 1)
    mixing = sum(mixer_kernels(mixer) for mixer in layer.mixers)
    return norms + mixing + mlp_kernels(layer) + len(layer.matrices)


def mixer_kernels(mixer: Mixer) -> int:
    """Kernels of what mixes tokens, without the norm in front."""
    if isinstance(mixer, Recurrent):
        # projection in, convolution, gates, update of the state, gated norm, projection out
        return 6 + len(mixer.low_rank)
    kernels = 4 + len(mixer.outputs(1)) - 1  # projection in, rotation, attention, projection out
    if mixer.latent is not None:
        # its latent and the norm of it, and two products that absorb what a cache would hold
        kernels += 4 + (2 if mixer.latent.query_rank else 0)
    kernels += 2 if mixer.query_rank else 0  # queries through a narrow middle, with its norm
    kernels += 1 if mixer.gate_columns else 0
    kernels += 5 if mixer.indexer is not None else 0  # queries, keys, rotation, scores, the best k
    kernels += 2 if mixer.compressed is not None else 0
    return kernels


def mlp_kernels(layer: Layer) -> int:
    """Kernels of a dense MLP or of a mixture of experts, without the norm in front."""
    mlp = layer.mlp
    if mlp is None:
        return 0
    if not isinstance(mlp, Experts):
        return 3  # in, activation, out
    # router, the best k, counting and sorting the tokens by expert, in, activation, out, their sum
    kernels = 8
    kernels += 4 if mlp.shared_size else 0  # in, activation, out, added
    kernels += 2 if mlp.shared_gate else 0
    return kernels + (2 if mlp.latent_size else 0)

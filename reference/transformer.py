"""A Llama-family transformer in one readable forward pass.

The same pass serves training (no cache), prefill, a decode step and verification: only the number
of tokens differs. It does not know how long a sequence is: it writes keys and values at the given
positions, and the caller decides afterwards which of them count. Letters in the shape comments:
B batch, T tokens in this pass, S cached slots attended, H query heads, K key-value heads,
G = H / K, D head size, C hidden size, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from reference.activations import rms_norm, swiglu
from reference.attention import attend, attention_bias, bias_of
from reference.cache import KVCache
from reference.experts import Mixture
from reference.memory import memory_for
from reference.sequences import Sequences
from reference.trees import Branches
from specsim.architecture import Architecture

MAX_GAMMA = 64  # drafts may stand this far past the end of the context; there they are discarded


class Layer(nn.Module):
    """Weights of one block. Projections that read the same input are fused into one matrix
    product."""

    def __init__(self, shape: Architecture, index: int = 0):
        super().__init__()
        hidden, heads = shape.hidden_size, shape.query_size
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Linear(hidden, heads + 2 * shape.kv_size, bias=shape.qkv_bias)
        self.query_norm = nn.Parameter(torch.ones(shape.head_dim)) if shape.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(shape.head_dim)) if shape.qk_norm else None
        self.output = nn.Linear(heads, hidden, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.experts = None
        if shape.experts and index not in shape.experts.dense_layers:
            self.experts = Mixture(hidden, shape.experts)
        else:
            self.gate_up = nn.Linear(hidden, 2 * shape.intermediate_size, bias=False)
            self.down = nn.Linear(shape.intermediate_size, hidden, bias=False)


class Transformer(nn.Module):
    """A model of the Llama family. Raises SpecsimError for an architecture that is not."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        # what this process holds; `whole` is another where devices share it (`tensor_parallel`)
        self.architecture = self.whole = architecture.require_llama_shape()
        self.stop_ids: frozenset[int] = frozenset()  # the checkpoint's end-of-text tokens
        self.precision: str | None = None  # of quantised weights; None: the dtype's own
        self.reads_prompts = True  # False: prefill writes noise, to time steps at long contexts
        table = torch.empty(architecture.vocab_size, architecture.hidden_size)
        # of a model without values nothing is drawn: PyTorch would load a compiler, for seconds
        self.embedding = nn.Embedding(*table.shape, _weight=table if table.is_meta else None)
        self.layers = nn.ModuleList(
            Layer(architecture, index) for index in range(architecture.num_layers)
        )
        self.norm = nn.Parameter(torch.ones(architecture.hidden_size))
        self.head = nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        if architecture.tied_head:
            self.head.weight = self.embedding.weight
        self.register_buffer("rotary", rotary_table(architecture), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of norms, activations and cache; quantised weights have fewer bits."""
        return self.norm.dtype

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        window: int | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of `tokens` (B, T).

        With a cache, token t of row b stands at `positions[b, t]`: its keys and values are written
        there, and it attends to slots 0 … positions[b, t]. The pass reads the first `window` slots
        of the cache (default: all), however long the sequences are. Where several tokens stand at
        one position, `branches` gives their slots and what they see. Without a cache the rows are
        whole sequences.
        """
        return self.head(self.hidden(tokens, positions, cache, window, branches))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        window: int | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """The normalised hidden states (B, T, C) that the head multiplies."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        return self.through_layers(self.embedding(tokens), positions, cache, window, None, branches)

    def through_layers(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KVCache | None = None,
        window: int | None = None,
        bias: Tensor | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """The layers and the last norm, applied to `x` (B, T, C); the rest as in `forward`. With a
        cache, `bias` may replace the causal mask (see `attention_bias`)."""
        shape = self.architecture
        cos, sin = self.rotary[positions].chunk(2, dim=-1)  # (B, T, 1, D) each
        if cache is not None:
            window = cache.capacity if window is None else window
            groups = shape.num_heads // shape.num_kv_heads
            if branches is not None:
                bias = bias_of(~branches.visible[:, None], groups, self.dtype)
            elif bias is None:
                bias = attention_bias(positions, window, groups, self.dtype)
        slots = positions if branches is None else branches.slots
        batch, rows, _ = x.shape
        for index, layer in enumerate(self.layers):
            h = rms_norm(x, layer.attention_norm, shape.norm_eps)
            heads = layer.qkv(h).view(batch, rows, -1, shape.head_dim)  # (B, T, H + 2K, D)
            qk, values = heads.split_with_sizes(
                (shape.num_heads + shape.num_kv_heads, shape.num_kv_heads), dim=2
            )
            if layer.query_norm is not None:
                qk = normalise_heads(qk, layer, shape)
            # rotary embedding of queries and keys at once: `roll` exchanges the halves of a head,
            # and the sign of the rotated half is in the sine table
            qk = torch.addcmul(qk * cos, qk.roll(shape.head_dim // 2, -1), sin)
            queries, keys = qk.split_with_sizes((shape.num_heads, shape.num_kv_heads), dim=2)
            if cache is not None:
                cache.write(index, slots, keys, values)
                keys, values = cache.read(index, window)
            x = x + layer.output(attend(queries, keys, values, bias))
            h = rms_norm(x, layer.mlp_norm, shape.norm_eps)
            x = x + (layer.experts(h) if layer.experts else layer.down(swiglu(layer.gate_up(h))))
        return rms_norm(x, self.norm, shape.norm_eps)


def normalise_heads(qk: Tensor, layer: Layer, shape: Architecture) -> Tensor:
    """RMSNorm over each head of the queries and of the keys (Qwen3)."""
    queries, keys = qk.split((shape.num_heads, shape.num_kv_heads), dim=2)
    queries = rms_norm(queries, layer.query_norm, shape.norm_eps)
    keys = rms_norm(keys, layer.key_norm, shape.norm_eps)
    return torch.cat((queries, keys), dim=2)


def rotary_table(shape: Architecture) -> Tensor:
    """Cosine and signed sine of every position's angles, (max_context + MAX_GAMMA, 1, 2D).

    RoPE (Su et al., arXiv:2104.09864) in the half-split layout of Hugging Face checkpoints.
    Rotating half a head is [-x2, x1], the halves exchanged and the first negated; the negation is
    folded into the sine table. Raises SpecsimError for more positions than fit into memory.
    """
    count = shape.max_context + MAX_GAMMA
    nbytes = 16.0 * shape.head_dim * count  # the table, and what it is made of
    what = f"the rotary angles of {count:,} positions of {shape.name}"
    with memory_for(what, nbytes, torch.device("cpu")):
        return _rotary_table(shape, count)


def _rotary_table(shape: Architecture, count: int) -> Tensor:
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    frequencies = shape.rope_theta ** (-half / shape.head_dim)  # (D/2,)
    if scaling := shape.rope_scaling:
        # Llama 3.1: long wavelengths are stretched by `factor`, short ones are kept, and those
        # between are blended
        turns = scaling.original_context * frequencies / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (
            scaling.high_freq_factor - scaling.low_freq_factor
        )
        blend = blend.clamp(0, 1)
        frequencies = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    positions = torch.arange(count, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)  # (max_context + MAX_GAMMA, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos, -sin, sin), dim=1)[:, None]


@torch.inference_mode()
def prefill(model: Transformer, sequences: Sequences, cache: KVCache) -> tuple[Tensor, Tensor]:
    """Write the keys and values of every prompt except its last token, which stays pending.

    Returns the hidden states (B, T, C) and their positions (B, T), where T is that of the longest
    prompt, or 0 if nothing was read.
    """
    read = sequences.longest if model.reads_prompts else 0
    if not model.reads_prompts:
        cache.fill_with_noise(sequences.longest)
    tokens = sequences.tokens[:, :read]
    positions = torch.arange(read, device=tokens.device).expand(tokens.shape)
    if read == 0:
        size = model.architecture.hidden_size
        return tokens.new_empty((*tokens.shape, size), dtype=model.dtype), positions
    return model.hidden(tokens, positions, cache, read), positions

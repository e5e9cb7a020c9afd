"""A Llama-family transformer in one readable forward pass.

The same pass serves training (no cache), prefill, a decode step and verification: only the number
of tokens differs. It does not know how long a sequence is: it writes keys and values at the given
positions, and the caller decides afterwards which of them count. Letters in the shape comments:
B batch, T tokens in this pass, S cached slots attended, H query heads, K key-value heads,
G = H / K, D head size, C hidden size, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from reference import fused
from reference.activations import rms_norm, swiglu
from reference.attention import attend, attention_bias, bias_of
from reference.cache import KVCache
from reference.details import Details
from reference.experts import Mixture
from reference.rotary import MAX_GAMMA, rotary_table  # noqa: F401
from reference.sequences import Sequences
from reference.trees import Branches
from specsim.architecture import Architecture


class Pass(NamedTuple):
    """What the layers of one kind share in a pass: where they write, and what they may see."""

    cache: KVCache | None
    positions: Tensor  # (B, T)
    slots: Tensor  # (B, T), where keys and values are written
    window: int | None  # slots that attention reads; 0: the pass's own keys and values instead
    bias: Tensor | None  # (B, 1, G·T, S); None: causal
    cos: Tensor | None = None  # (B, T, 1, D)
    sin: Tensor | None = None  # (B, T, 1, D), signed
    branches: Branches | None = None  # of a tree, where `slots` are not the positions
    fused: str = ""  # what of it Triton kernels compute, which read no bias (see `fused`)
    nodes: Tensor | None = None  # (B, T, W), of a tree, for these (see `Branches.bits`)


class Layer(nn.Module):
    """One block: attention, then an MLP or experts. Projections that read the same input are fused
    into one matrix product."""

    kind = 0  # which of a pass's views it takes
    activate, attend = staticmethod(swiglu), staticmethod(attend)

    def __init__(self, shape: Architecture, index: int = 0):
        super().__init__()
        self.shape, hidden, heads = shape, shape.hidden_size, shape.query_size
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Linear(hidden, heads + 2 * shape.kv_size, bias=shape.qkv_bias)
        self.query_norm = nn.Parameter(torch.ones(shape.head_dim)) if shape.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(shape.head_dim)) if shape.qk_norm else None
        self.output = nn.Linear(heads, hidden, bias=shape.output_bias)
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.experts = None
        if shape.experts and index not in shape.experts.dense_layers:
            self.experts = Mixture(hidden, shape.experts)
        else:
            width, copies = shape.intermediate_size, 2 if shape.gated_mlp else 1
            self.gate_up = nn.Linear(hidden, copies * width, bias=shape.mlp_bias)
            self.down = nn.Linear(width, hidden, bias=shape.mlp_bias)

    def forward(self, x: Tensor, index: int, view: Pass) -> Tensor:
        """The hidden states (B, T, C) after this block, layer `index` of the cache."""
        x = x + self.mix(rms_norm(x, self.attention_norm, self.shape.norm_eps), index, view)
        return x + self.feed(rms_norm(x, self.mlp_norm, self.shape.norm_eps))

    def mix(self, h: Tensor, index: int, view: Pass) -> Tensor:
        """Attention of `h` (B, T, C) to itself and to what is cached."""
        return self.output(self.attended(self.qkv(h), index, view))

    def attended(self, qkv: Tensor, index: int, view: Pass) -> Tensor:
        """The values that each head has looked up, (B, T, H·D)."""
        shape, (batch, rows, _) = self.shape, qkv.shape
        if view.fused:
            return fused.attended(self, qkv.flatten(0, 1), index, view).view(batch, rows, -1)
        heads = qkv.view(batch, rows, -1, shape.head_dim)  # (B, T, H + 2K, D)
        parts = shape.num_heads + shape.num_kv_heads, shape.num_kv_heads
        qk, values = heads.split_with_sizes(parts, dim=2)
        if self.query_norm is not None:
            qk = self.normalise(qk)
        # rotary embedding of queries and keys at once: `roll` exchanges the halves of a head,
        # and the sign of the rotated half is in the sine table
        qk = torch.addcmul(qk * view.cos, qk.roll(shape.head_dim // 2, -1), view.sin)
        queries, keys = qk.split_with_sizes((shape.num_heads, shape.num_kv_heads), dim=2)
        if view.cache is not None:
            view.cache.write(index, view.slots, keys, values)
            if view.window != 0:
                keys, values = view.cache.read(index, view.window)
        return self.attend(queries, keys, values, view.bias)

    def normalise(self, qk: Tensor) -> Tensor:
        """RMSNorm over each head of the queries and of the keys (Qwen3)."""
        queries, keys = qk.split((self.shape.num_heads, self.shape.num_kv_heads), dim=2)
        queries = rms_norm(queries, self.query_norm, self.shape.norm_eps)
        return torch.cat((queries, rms_norm(keys, self.key_norm, self.shape.norm_eps)), dim=2)

    def feed(self, h: Tensor) -> Tensor:
        """The MLP, or the experts, of `h` (B, T, C)."""
        return self.experts(h) if self.experts else self.down(self.activate(self.gate_up(h)))


class Transformer(nn.Module):
    """A model of the Llama shape, or of a family that departs from it by `details`. Raises
    SpecsimError for another architecture."""

    def __init__(self, architecture: Architecture, details: Details | None = None):
        super().__init__()
        # what this process holds; `whole` is another where devices share it (`tensor_parallel`)
        self.architecture = architecture if details else architecture.require_llama_shape()
        self.whole, self.details = architecture, details
        self.stop_ids: frozenset[int] = frozenset()  # the checkpoint's end-of-text tokens
        self.precision: str | None = None  # of quantised weights; None: the dtype's own
        self.notes: tuple[str, ...] = ()  # sentences on what was changed at load
        self.reads_prompts = True  # False: prefill writes noise, to time steps at long contexts
        table = torch.empty(architecture.vocab_size, architecture.hidden_size)
        # of a model without values nothing is drawn: PyTorch would load a compiler, for seconds
        self.embedding = nn.Embedding(*table.shape, _weight=table if table.is_meta else None)
        make = details.layer if details else Layer
        self.layers = nn.ModuleList(
            make(architecture, index) for index in range(architecture.num_layers)
        )
        self.norm = nn.Parameter(torch.ones(architecture.hidden_size))
        self.head = nn.Linear(architecture.hidden_size, architecture.vocab_size, bias=False)
        self.tie()
        ropes = details.ropes if details else ()
        self.register_buffer("rotary", rotary_table(architecture, ropes), persistent=False)

    def tie(self) -> None:
        """Let the LM head use the embedding's weights, where the model says so."""
        if self.architecture.tied_head:
            self.head.weight = self.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of norms, activations and cache; quantised weights have fewer bits."""
        return self.norm.dtype

    def forward(self, tokens: Tensor, *where, **options) -> Tensor:
        """Logits (B, T, V) of `tokens` (B, T); the further arguments are those of `hidden`."""
        return self.head(self.hidden(tokens, *where, **options))

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        window: int | None = None,
        branches: Branches | None = None,
    ) -> Tensor:
        """The normalised hidden states (B, T, C) that the head multiplies.

        With a cache, token t of row b stands at `positions[b, t]`: its keys and values are written
        there, and it attends to slots 0 … positions[b, t]. The pass reads the first `window` slots
        of the cache (default: all), however long the sequences are; with a window of 0 the tokens
        are the first of each sequence, and see each other only. Where several tokens stand at one
        position, `branches` gives their slots and what they see. Without a cache the rows are whole
        sequences.
        """
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
        """The layers and the last norm, applied to `x` (B, T, C); the rest as in `hidden`. With a
        cache, `bias` may replace the causal mask (see `attention_bias`)."""
        window = cache.capacity if cache is not None and window is None else window
        slots = positions if branches is None else branches.slots
        views = self.views(Pass(cache, positions, slots, window, bias, branches=branches))
        if views[0].fused:
            return fused.run(self.layers, x, views[0], self.norm)
        for index, layer in enumerate(self.layers):
            x = layer(x, index, views[layer.kind])
        return rms_norm(x, self.norm, self.architecture.norm_eps)

    def views(self, asked: Pass) -> tuple[Pass, ...]:
        """What the layers of each kind see in a pass: in the Llama shape all are of one kind."""
        bias, groups = asked.bias, self.architecture.num_heads // self.architecture.num_kv_heads
        what = fused.in_use and fused.fitting(self.layers, asked)
        tree, nodes = asked.branches, None
        if what:
            nodes = tree.bits() if tree is not None else None
        elif tree is not None:
            bias = bias_of(~tree.visible(asked.window)[:, None], groups, self.dtype)
        elif asked.cache is not None and asked.window != 0 and bias is None:
            bias = attention_bias(asked.positions, asked.window, groups, self.dtype)
        cos, sin = self.rotary[asked.positions].chunk(2, dim=-1)  # (B, T, 1, D) each
        return (asked._replace(bias=bias, cos=cos, sin=sin, fused=what, nodes=nodes),)

    def new_cache(self, batch: int, capacity: int, width: int, again: int = 1) -> KVCache:
        """A cache for `batch` sequences of `capacity` tokens, of which a pass drafts or verifies up
        to `width` that may be rejected; a cycle may read `again` tokens before them once more."""
        return KVCache(self.architecture, batch, capacity, self.dtype, self.device)


@torch.inference_mode()
def prefill(model: Transformer, sequences: Sequences, cache: KVCache) -> tuple[Tensor, Tensor]:
    """Write the keys and values of every prompt except its last token, which stays pending.

    Returns the hidden states (B, T, C) and their positions (B, T), where T is that of the longest
    prompt, or 0 if nothing was read.
    """
    read = sequences.longest if model.reads_prompts else 0
    cache.counted, cache.ends[:] = sequences.lengths, sequences.lengths + 1 + sequences.remaining
    if not model.reads_prompts:
        cache.fill_with_noise(sequences.longest)
    tokens = sequences.tokens[:, :read]
    positions = torch.arange(read, device=tokens.device).expand(tokens.shape)
    if read == 0:
        size = model.architecture.hidden_size
        return tokens.new_empty((*tokens.shape, size), dtype=model.dtype), positions
    return model.hidden(tokens, positions, cache, 0), positions

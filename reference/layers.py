"""Layers and models of the families near the Llama shape: the pass of `transformer`, with options.

Nothing here runs for a model of the Llama shape. Letters as in `transformer`.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.activations import rms_norm, swiglu
from reference.attention import attention_bias, bias_of
from reference.cache import KVCache
from reference.delta_net import DeltaNet, StateCache
from reference.details import Details
from reference.transformer import Layer, Pass, Transformer
from reference.trees import Branches
from specsim.architecture import Architecture


class VariedLayer(Layer):
    """A block with the options of `Details`: norms elsewhere, other activations, soft caps."""

    def __init__(self, shape: Architecture, index: int, details: Details):
        super().__init__(shape, index)
        self.kind, self.residual_scale = details.kind_of[index], details.residual_scale
        self.activate = ACTIVATIONS[details.activation, shape.gated_mlp]
        if shape.attention_softcap:
            self.attend = partial(attend_capped, cap=shape.attention_softcap)
        if details.wide_norms:
            self.query_norm = nn.Parameter(torch.ones(shape.query_size))
            self.key_norm = nn.Parameter(torch.ones(shape.kv_size))
            self.normalise = self.normalise_all
        if details.norms == "after":
            self.attention_norm = self.mlp_norm = None
        after = details.norms != "before"
        self.attention_post = nn.Parameter(torch.ones(shape.hidden_size)) if after else None
        self.mlp_post = nn.Parameter(torch.ones(shape.hidden_size)) if after else None

    def forward(self, x: Tensor, index: int, view: Pass) -> Tensor:
        h = self.mix(self.normed(x, self.attention_norm), index, view)
        x = x + self.residual_scale * self.normed(h, self.attention_post)
        h = self.feed(self.normed(x, self.mlp_norm))
        return x + self.residual_scale * self.normed(h, self.mlp_post)

    def normed(self, h: Tensor, weight: Tensor | None) -> Tensor:
        """RMSNorm of `h`, where there is a norm."""
        return h if weight is None else rms_norm(h, weight, self.shape.norm_eps)

    def normalise_all(self, qk: Tensor) -> Tensor:
        """RMSNorm over all heads of the queries, and over all heads of the keys (OLMo 2)."""
        shape = self.shape
        queries, keys = qk.flatten(2).split((shape.query_size, shape.kv_size), dim=2)
        queries = rms_norm(queries, self.query_norm, shape.norm_eps)
        keys = rms_norm(keys, self.key_norm, shape.norm_eps)
        return torch.cat((queries, keys), dim=2).view_as(qk)


class GatedLayer(VariedLayer):
    """Attention whose output passes a sigmoid gate, made from the same input (Qwen3-Next)."""

    def __init__(self, shape: Architecture, index: int, details: Details):
        super().__init__(shape, index, details)
        rows = 2 * shape.query_size + 2 * shape.kv_size  # queries, keys, values, gate
        self.qkv = nn.Linear(shape.hidden_size, rows, bias=shape.qkv_bias)

    def mix(self, h: Tensor, index: int, view: Pass) -> Tensor:
        size = self.shape.query_size + 2 * self.shape.kv_size
        qkv, gate = self.qkv(h).split((size, self.shape.query_size), dim=-1)
        return self.output(self.attended(qkv, index, view) * gate.sigmoid())


class DeltaLayer(VariedLayer):
    """A block whose mixer is a gated DeltaNet."""

    def __init__(self, shape: Architecture, index: int, details: Details):
        super().__init__(shape, index, details)
        self.qkv = self.output = self.query_norm = self.key_norm = None
        self.delta = DeltaNet(shape, details.delta)

    def mix(self, h: Tensor, index: int, view: Pass) -> Tensor:
        return self.delta(h, index, view.positions, view.cache)


def gated(activation, gate_up: Tensor) -> Tensor:
    """activation(gate) * up of the two halves of `gate_up` (..., 2I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return activation(gate) * up


def relu2(x: Tensor) -> Tensor:
    """The square of what is above 0 (So et al., arXiv:2109.08668)."""
    return F.relu(x).square()


gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS = {
    ("silu", True): swiglu,
    ("gelu", True): partial(gated, F.gelu),
    ("gelu_tanh", True): partial(gated, gelu_tanh),
    ("relu2", True): partial(gated, relu2),
    ("silu", False): F.silu,
    ("gelu", False): F.gelu,
    ("gelu_tanh", False): gelu_tanh,
    ("relu2", False): relu2,
}


def attend_capped(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, cap: float
) -> Tensor:
    """`attention.attend` with the scores limited to `cap` by a tanh (Gemma 2)."""
    batch, rows, heads, size = queries.shape
    kv_heads = keys.shape[2]
    groups = heads // kv_heads
    if bias is None:
        positions = torch.arange(rows, device=queries.device)[None]
        bias = attention_bias(positions, rows, groups, queries.dtype)
    queries = queries.view(batch, rows, kv_heads, groups, size).permute(0, 2, 3, 1, 4).flatten(2, 3)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)  # (B, K, S, D)
    scores = cap * (queries @ keys.mT / (math.sqrt(size) * cap)).tanh() + bias  # (B, K, G·T, S)
    mixed = scores.softmax(-1) @ values
    mixed = mixed.view(batch, kv_heads, groups, rows, size).permute(0, 3, 1, 2, 4)
    return mixed.reshape(batch, rows, heads * size)


class ScaledEmbedding(nn.Embedding):
    """An embedding times a factor (Gemma, Granite)."""

    scale = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.scale


class ScaledHead(nn.Module):
    """The LM head `linear`, whose logits are scaled (Granite) or limited by a tanh (Gemma 2)."""

    def __init__(self, linear: nn.Module, scale: float, cap: float | None):
        super().__init__()
        self.linear, self.scale, self.cap = linear, scale, cap

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.linear(hidden) * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


class VariedTransformer(Transformer):
    """A model with `details`, whose layers are of several kinds."""

    def __init__(self, architecture: Architecture, details: Details):
        super().__init__(architecture, details)
        self.long_ropes = {
            index: details.ropes.index(rope.for_long_texts)
            for index, rope in enumerate(details.ropes)
            if rope.kind == "longrope" and not rope.is_long
        }
        cap = architecture.logit_softcap
        if details.embedding_scale != 1:
            self.embedding = ScaledEmbedding(architecture.vocab_size, architecture.hidden_size)
            # as in the checkpoint's own code, the factor has the precision of the weights
            self.embedding.scale = details.embedding_scale
        if details.logit_scale != 1 or cap:
            self.head = ScaledHead(self.head, details.logit_scale, cap)
        self.tie()

    def tie(self) -> None:
        """Let the LM head use the embedding's weights, where the model says so."""
        if self.architecture.tied_head:
            head = self.head.linear if isinstance(self.head, ScaledHead) else self.head
            head.weight = self.embedding.weight

    def views(self, asked: Pass) -> tuple[Pass, ...]:
        branches = asked.branches
        if branches is not None and isinstance(asked.cache, StateCache):
            asked = asked._replace(cache=asked.cache.along(branches, asked.window))
        positions, cached = asked.positions, asked.cache is not None and asked.window != 0
        reads = asked.window if cached else positions.shape[1]
        factors, made, views = self.query_factors(positions), {}, []
        for kind in self.details.kinds:
            angles = self.angles(kind.rope, positions, asked.cache)
            cos, sin = (angles if factors is None else angles * factors).chunk(2, dim=-1)
            if kind.window not in made:
                made[kind.window] = asked.bias
                if asked.bias is None and (cached or kind.window is not None):
                    made[kind.window] = self.mask(positions, reads, kind.window, branches)
            views.append(asked._replace(bias=made[kind.window], cos=cos, sin=sin))
        return tuple(views)

    def angles(self, rope: int, positions: Tensor, cache: KVCache | None) -> Tensor:
        """Cosine and signed sine (B, T, 1, 2D) of `positions` (B, T). Of longrope those for the
        longest text that a sequence may become."""
        angles = self.rotary[rope][positions]
        if (long := self.long_ropes.get(rope)) is None:
            return angles
        long_angles = self.rotary[long][positions]
        original = self.details.ropes[rope].original
        if cache is None:
            return long_angles if positions.shape[1] > original else angles
        return long_angles.where((cache.ends > original)[:, None, None, None], angles)

    def mask(
        self, positions: Tensor, reads: int, window: int | None, branches: Branches | None
    ) -> Tensor:
        """What `attention_bias` gives, without the slots before the `window`. In a tree a node's
        slot lies at or after its position, so a window longer than the tree hides no node."""
        slots = torch.arange(reads, device=positions.device)
        at = positions[:, None, :, None]
        hidden = slots > at if branches is None else ~branches.visible(reads)[:, None]
        if window is not None:
            hidden = hidden | (slots <= at - window)
        return bias_of(hidden, self.architecture.num_heads // self.architecture.num_kv_heads,
                       self.dtype)  # fmt: skip

    def query_factors(self, positions: Tensor) -> Tensor | None:
        """What queries (of H + K heads) are multiplied with, (B, T, H + K, 1), or (H + K, 1)."""
        shape, scale, growth = self.architecture, self.details.query_scale, self.details.growth
        if scale == 1 and growth is None:
            return None
        factors = torch.ones(shape.num_heads + shape.num_kv_heads, 1, device=positions.device)
        factors[: shape.num_heads] = scale
        if growth is not None:
            beta, tokens = growth
            grown = 1 + beta * (1 + (positions / tokens).floor()).log()  # (B, T)
            queries = torch.arange(len(factors), device=positions.device) < shape.num_heads
            factors = factors * torch.where(queries[:, None], grown[..., None, None], 1.0)
        return factors.to(self.dtype)

    def new_cache(self, batch: int, capacity: int, width: int, again: int = 1) -> KVCache:
        if self.details.delta is None:
            return super().new_cache(batch, capacity, width)
        return StateCache(self.architecture, self.details, batch, capacity, width, self.dtype,
                          self.device, again)  # fmt: skip


def model_of(architecture: Architecture, details: Details | None) -> Transformer:
    """The model of these sizes and details, without values."""
    return VariedTransformer(architecture, details) if details else Transformer(architecture)

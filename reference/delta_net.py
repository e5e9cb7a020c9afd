"""Gated DeltaNet: layers with a state of constant size (Yang et al., arXiv:2412.06464; Qwen3-Next,
Qwen3.5), and how a rejected draft is undone in them.

A layer keeps, for every value head, a matrix S of keys x values. A token decays it, corrects what
it answers for the token's key by a step beta, and reads it with the token's query:

    S <- exp(g) S;   S <- S + beta k (v - S^T k)^T;   output = S^T q

In front of that stands a convolution over the last `kernel` tokens. Keys and values of attention
are one slot a token, so that a smaller length takes tokens back. Here every token changes all of
the state, and no length undoes it. So states are kept *by position*, like keys: a token at position
p reads the state after p tokens, and writes the state after p + 1 tokens into a ring with one place
for each position that may still be asked for. A cycle that accepts k drafts goes on at the position
after them, and so from the state after them. Nothing is copied back, nothing depends on how many
were accepted, and shapes are fixed, as a CUDA graph needs them.

In a tree several tokens stand at a position, and each node has a slot of its own. There states are
kept *by slot*: a node reads the state that its parent left, and leaves its own. The states of the
accepted path are then moved to the positions of a chain, as its keys and values are.

Letters: B batch, T tokens of a pass, R places of the ring, N value heads, E key size, F value size,
M channels of the convolution, L tokens that a token looks back at, itself included.
"""

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.activations import rms_norm
from reference.cache import KVCache
from reference.details import DeltaSizes, Details
from reference.memory import memory_for
from reference.trees import Branches
from specsim.architecture import Architecture

CHUNK = 32  # tokens of a prompt that are taken together; sums of decays lose digits in long ones


class StateCache(KVCache):
    """Keys and values of the attention layers; of the recurrent ones, rings of states
    (B, R, N, E, F) and of the convolution's inputs (B, R, M).

    A pass reads at most `width` + 1 tokens that may be rejected. R covers them, the `again` tokens
    before them, which a draft model reads again, and the inputs that its convolution looks back at.
    """

    seen: Tensor | None = None  # (B, T, L), in a pass over a tree: what `slots_seen` gives

    def __init__(
        self,
        architecture: Architecture,
        details: Details,
        batch: int,
        capacity: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        again: int = 1,
    ):
        sizes, device = details.delta, torch.device(device)
        assert sizes is not None
        self.size = (architecture, batch, capacity, dtype, device)
        self.capacity, self.width, self.again = capacity, width, again
        self.ends = torch.full((batch,), capacity, device=device)
        self.ring, self.look_back = width + 1 + again + sizes.kernel, max(sizes.kernel, 2)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        recurrent = details.recurrent[: architecture.num_layers]
        kv = batch, capacity, architecture.num_kv_heads, architecture.head_dim
        state = batch, self.ring, sizes.value_heads, sizes.key_size, sizes.value_size
        inputs = batch, self.ring, sizes.channels
        count, rows = sum(recurrent), batch * self.ring
        nbytes = 2 * (len(recurrent) - count) * kv[0] * kv[1] * kv[2] * kv[3] * dtype.itemsize
        nbytes += count * rows * sizes.values * sizes.key_size * wide.itemsize
        nbytes += count * rows * sizes.channels * dtype.itemsize
        what = f"the keys, values and states of {batch} x {capacity} tokens in {architecture.name}"

        def zeros(shape: tuple[int, ...], there: bool, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape if there else (batch, 0), dtype=dtype, device=device)

        with memory_for(what, nbytes, device):
            self.keys = [zeros(kv, not each, dtype) for each in recurrent]
            self.values = [zeros(kv, not each, dtype) for each in recurrent]
            self.states = [zeros(state, each, wide) for each in recurrent]
            self.inputs = [zeros(inputs, each, dtype) for each in recurrent]
        self._rows = torch.arange(batch, device=device)[:, None]

    def state_at(self, layer: int, positions: Tensor) -> Tensor:
        """A copy of the states (B, N, E, F) after `positions` (B,) tokens; what it holds after none
        does not count."""
        return self.at(self.states[layer], self._rows[:, 0], positions)

    def keep_state(self, layer: int, positions: Tensor, state: Tensor) -> None:
        """Store the states (B, N, E, F) after `positions` (B,) tokens."""
        self.states[layer].index_put_((self._rows[:, 0], positions % self.ring), state)

    def inputs_at(self, layer: int, positions: Tensor) -> Tensor:
        """The convolution's inputs at `positions` (B, ...), (B, ..., M); zeros before the text."""
        rows = self._rows.view(-1, *[1] * (positions.ndim - 1))
        return self.at(self.inputs[layer], rows, positions).where(positions[..., None] >= 0, 0.0)

    def at(self, kept: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """What is `kept` (B, R, ...) of `rows` at `positions`. On a CPU `index_select` copies
        faster than indexing does, and a scan takes 10 to 29 % less time."""
        places = rows * kept.shape[1] + positions % self.ring
        found = kept.flatten(0, 1).index_select(0, places.flatten())
        return found.view(*places.shape, *kept.shape[2:])

    def keep_inputs(self, layer: int, positions: Tensor, inputs: Tensor) -> None:
        """Store the convolution's inputs (B, T, M) at `positions` (B, T), T at most R."""
        self.inputs[layer].index_put_((self._rows, positions % self.ring), inputs)

    def along(self, branches: Branches, window: int) -> "StateCache":
        """This cache in a pass over a tree, in which a node follows its parent."""
        view = copy(self)
        view.seen = last_seen(branches.visible(window), self.look_back)
        return view

    def slots_seen(self, positions: Tensor) -> Tensor:
        """The slots (B, T, L) of the tokens at `positions` (B, T), and of those that each follows,
        the latest first; below 0 before the text. A token in slot s leaves the state after s + 1
        tokens."""
        if self.seen is not None:
            return self.seen
        return positions[..., None] - torch.arange(self.look_back, device=positions.device)

    def move(self, source: Tensor, destination: Tensor) -> None:
        """Copy what tokens in slots `source` have left to slots `destination`, (B, T) each: keys
        and values, or inputs and the state after the token."""
        for tensors, after, places in (
            (self.keys, 0, self.capacity), (self.values, 0, self.capacity),
            (self.inputs, 0, self.ring), (self.states, 1, self.ring),
        ):  # fmt: skip
            taken, put = (source + after) % places, (destination + after) % places
            for tensor in tensors:
                if tensor.numel():
                    tensor.index_put_((self._rows, put), tensor[self._rows, taken])

    def tensors(self) -> list[Tensor]:
        return [*super().tensors(), *self.states, *self.inputs]

    def rows(self, rows: slice) -> "StateCache":
        view = super().rows(rows)
        assert isinstance(view, StateCache)
        view.states = [states[rows] for states in self.states]
        view.inputs = [inputs[rows] for inputs in self.inputs]
        return view

    def fill_with_noise(self, slots: int, seed: int = 0) -> None:
        super().fill_with_noise(slots, seed)
        for layer, pair in enumerate(zip(self.states, self.inputs, strict=True)):
            generator = torch.Generator(self._rows.device).manual_seed(seed + layer)
            for tensor in pair:
                tensor.normal_(generator=generator)


class DeltaNet(nn.Module):
    """The mixer of one layer. `project` makes queries, keys and values, which are convolved, and
    then the output gate, the steps and the decays."""

    def __init__(self, shape: Architecture, sizes: DeltaSizes):
        super().__init__()
        self.sizes, self.eps = sizes, shape.norm_eps
        columns = sizes.channels + sizes.values + 2 * sizes.value_heads
        self.project = nn.Linear(shape.hidden_size, columns, bias=False)
        self.kernel = nn.Parameter(torch.ones(sizes.channels, 1, sizes.kernel))
        self.decay_bias = nn.Parameter(torch.ones(sizes.value_heads))
        self.log_decay = nn.Parameter(torch.zeros(sizes.value_heads))
        self.norm = nn.Parameter(torch.ones(sizes.value_size))
        self.output = nn.Linear(sizes.values, shape.hidden_size, bias=False)

    def forward(self, h: Tensor, index: int, positions: Tensor, cache: StateCache | None) -> Tensor:
        """What the layer adds for `h` (B, T, C) at `positions` (B, T). A pass of more tokens than
        may be rejected is the reading of a prompt, whose positions follow each other."""
        sizes, (batch, rows, _) = self.sizes, h.shape
        parts = sizes.channels, sizes.values, sizes.value_heads, sizes.value_heads
        inputs, gate, step, decay = self.project(h).split(parts, dim=-1)
        whole = cache is None or rows > cache.width + 1
        convolve, scan = (self.whole_inputs, whole_scan) if whole else (self.few_inputs, few_scan)
        x = F.silu(convolve(inputs, index, positions, cache))
        queries, keys, values = x.split((sizes.keys, sizes.keys, sizes.values), dim=-1)
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        repeats = sizes.value_heads // sizes.key_heads
        queries, keys = (
            unit(y.reshape(batch, rows, -1, sizes.key_size).to(wide)).repeat_interleave(repeats, 2)
            for y in (queries, keys)
        )  # (B, T, N, E)
        values = values.reshape(batch, rows, -1, sizes.value_size).to(wide)
        rate = self.log_decay.to(wide).exp()
        tokens = Tokens(
            queries / sizes.key_size**0.5,
            keys,
            values,
            -rate * F.softplus((decay + self.decay_bias).to(wide)),
            step.sigmoid().to(wide),
        )
        mixed = scan(tokens, index, positions, cache).to(h.dtype)  # (B, T, N, F)
        gate = F.silu(gate.to(wide)).to(h.dtype)
        return self.output(rms_norm(mixed, self.norm, self.eps).flatten(2) * gate)

    def few_inputs(
        self, inputs: Tensor, index: int, positions: Tensor, cache: StateCache
    ) -> Tensor:
        """The convolution (B, T, M), each token by what it follows. Two rows at one position (a
        draft model's, after a prompt of one token) see the same."""
        slots = cache.slots_seen(positions)
        cache.keep_inputs(index, slots[..., 0], inputs)
        seen = cache.inputs_at(index, slots[..., : self.sizes.kernel])  # (B, T, kernel, M)
        return (seen * self.kernel[:, 0].T.flip(0)).sum(2)

    def whole_inputs(
        self, inputs: Tensor, index: int, positions: Tensor, cache: StateCache | None
    ) -> Tensor:
        """The convolution over a prompt; of each row the last inputs that count are kept."""
        batch, rows, channels = inputs.shape
        size = self.sizes.kernel
        if cache is None:
            before = inputs.new_zeros(batch, size - 1, channels)
        else:
            back = torch.arange(1 - size, 0, device=positions.device)
            before = cache.inputs_at(index, positions[:, :1] + back)
            first, ends = bounds(positions, cache)
            last = ends[:, None] - 1 - torch.arange(cache.ring, device=positions.device)
            place = (last - first[:, None]).clamp(0, rows - 1)  # where it is in this pass
            kept = inputs.gather(1, place[..., None].expand(-1, -1, channels))
            older = cache.inputs_at(index, last)
            cache.keep_inputs(
                index, last, kept.where(last[..., None] >= first[:, None, None], older)
            )
        seen = torch.cat((before, inputs), dim=1).transpose(1, 2)  # (B, M, T + kernel - 1)
        return F.conv1d(seen, self.kernel, groups=channels).transpose(1, 2)


class Tokens:
    """What the scan reads of T tokens: queries and keys (B, T, N, E), values (B, T, N, F), decays
    g <= 0 and steps beta (B, T, N)."""

    def __init__(
        self, queries: Tensor, keys: Tensor, values: Tensor, decays: Tensor, steps: Tensor
    ):
        self.queries, self.keys, self.values = queries, keys, values
        self.decays, self.steps = decays, steps

    def masked(self, counts: Tensor) -> "Tokens":
        """The same, where tokens that do not count, by (B, T), leave the state as it is."""
        counts = counts[..., None]
        decays, steps = self.decays.where(counts, 0.0), self.steps.where(counts, 0.0)
        return Tokens(self.queries, self.keys, self.values, decays, steps)

    def at(self, places: Tensor) -> "Tokens":
        """One token of each row, (B,): T = 1."""
        rows = torch.arange(len(places), device=places.device)
        fields = self.queries, self.keys, self.values, self.decays, self.steps
        return Tokens(*(x[rows, places][:, None] for x in fields))


def unit(x: Tensor) -> Tensor:
    """`x` over its length, as the checkpoints' own code does it."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def last_seen(visible: Tensor, count: int) -> Tensor:
    """Of each token the `count` last slots that it sees, of `visible` (B, T, S): its own, its
    parent's, and so on up to the text before the tree, for a parent's slot comes before those of
    its children. -1 where there are no more."""
    slots = torch.arange(visible.shape[-1], device=visible.device).where(visible, -1)
    return F.pad(slots, (count, 0), value=-1).topk(count, dim=-1).values


def bounds(positions: Tensor, cache: StateCache) -> tuple[Tensor, Tensor]:
    """The first position of each row of a prompt, and the position after its last token that
    counts, (B,) each."""
    first, ends = positions[:, 0], positions[:, -1] + 1
    return first, ends if cache.counted is None else torch.minimum(ends, cache.counted)


def one_step(tokens: Tokens, t: int, state: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The output (B, N, F) of token `t`, and `state` after it, which is changed in place. `after`
    (B,): whether there are tokens before it."""
    query, key, value = (x[:, t, :, None] for x in (tokens.queries, tokens.keys, tokens.values))
    decay, step = (x[:, t, :, None, None] for x in (tokens.decays, tokens.steps))
    state.mul_(decay.exp() * after[:, None, None, None])
    change = (value - key @ state) * step  # (B, N, 1, F)
    state.addcmul_(key.mT, change)
    return (query @ state)[:, :, 0], state


def few_scan(tokens: Tokens, index: int, positions: Tensor, cache: StateCache) -> Tensor:
    """The outputs (B, T, N, F) of a few tokens, each from the state after the token that it
    follows: the one before it, or in a tree its parent, which has an earlier row."""
    own, parent = cache.slots_seen(positions)[..., :2].unbind(-1)  # (B, T) each
    outputs = []
    for t in range(positions.shape[1]):
        before = cache.state_at(index, parent[:, t] + 1)
        output, state = one_step(tokens, t, before, parent[:, t] >= 0)
        cache.keep_state(index, own[:, t] + 1, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


def whole_scan(tokens: Tokens, index: int, positions: Tensor, cache: StateCache | None) -> Tensor:
    """The outputs of a prompt. Kept are the states before each of the last `again` tokens that
    count, for a draft model reads these tokens again, and after them."""
    batch, rows, heads, size = tokens.values.shape
    if cache is None:
        state = tokens.values.new_zeros(batch, heads, tokens.keys.shape[-1], size)
        return in_chunks(tokens, state)[0]
    first, ends = bounds(positions, cache)
    all_but_last = tokens.masked(positions < ends[:, None] - cache.again)
    before = cache.state_at(index, first) * (first > 0)[:, None, None, None]
    outputs, state = in_chunks(all_but_last, before)

    def keep(places: Tensor, reads: Tensor) -> None:
        kept = state.where(reads[:, None, None, None], cache.state_at(index, places))
        cache.keep_state(index, places, kept)

    for back in range(cache.again, 0, -1):
        place = ends - back - first
        reads = place >= 0  # else the token is of an earlier piece, or the prompt is shorter
        keep(ends - back, reads)
        last = tokens.at(place.clamp(min=0)).masked(reads[:, None])
        output, state = one_step(last, 0, state, torch.ones_like(reads))
        at = torch.arange(rows, device=positions.device) == place[:, None]
        outputs = output[:, None].where(at[..., None, None], outputs)
    keep(ends, ends > first)  # not a row whose prompt has ended before
    return outputs


def in_chunks(tokens: Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs (B, T, N, F) of many tokens from `state` on, and the state after them.

    Within a chunk the corrections depend on each other through a triangular system, which is solved
    at once (the WY form; Yang et al., arXiv:2406.06484).
    """
    outputs = []
    fields = tokens.queries, tokens.keys, tokens.values, tokens.decays, tokens.steps
    for chunk in zip(*(x.transpose(1, 2).split(CHUNK, dim=2) for x in fields), strict=True):
        queries, keys, values, decays, steps = chunk  # (B, N, c, ...) and (B, N, c)
        log_decay = decays.cumsum(-1)
        between = (log_decay[..., :, None] - log_decay[..., None, :]).tril().exp().tril()
        stepped = keys * steps[..., None]
        system = (stepped @ keys.mT * between).tril(-1)
        decay = log_decay.exp()[..., None]
        right = torch.cat((values * steps[..., None], stepped * decay), dim=-1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        new, old = solved.split((values.shape[-1], keys.shape[-1]), dim=-1)
        change = new - old @ state  # (B, N, c, F)
        outputs.append(queries * decay @ state + (queries @ keys.mT * between) @ change)
        left = (log_decay[..., -1:] - log_decay).exp()[..., None]
        state = state * decay[..., -1:, :] + (keys * left).mT @ change
    return torch.cat(outputs, dim=2).transpose(1, 2), state

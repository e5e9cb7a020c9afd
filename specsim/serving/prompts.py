"""What reading prompts in chunks takes, beside decoding: the price of a mixed pass.

The rows of a pass share one read of the weights, whoever they belong to; each sequence attends to
its own context. So tokens of a prompt that ride in a decoding pass cost

    linear layers at (decoded rows + chunk) - linear layers at the decoded rows
    + attention of the chunk to what its own sequence has cached

and in a pass of their own the linear layers in full. A chunk attends to its cache and, on average,
to half of itself, as in `planning.prefill`. The drafter reads the chunks of a step together, in a
pass of its own (pessimistic: engines that merge it with the first draft pass read the draft's
weights once less).

Pessimistic: attention of chunks and of decoding are added, as two kernels one after the other.
Optimistic: no padding, no tile that is half full. With routing that is correlated, the experts of a
mixed pass are counted as those of one text (optimistic).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Floats
from specsim.cost import Entry, Ledger, ModelPass
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.operators import ATTENTION, Workload
from specsim.serving.surface import contexts_upto


@dataclass(frozen=True, slots=True)
class _Attention:
    """One attention operator of one sequence's chunk: t tokens that see x tokens on average."""

    memory_t: Floats  # (T+1,) seconds where x is 1
    memory_x: Floats  # (X+1,) and its rise with x, from a long chunk
    compute_t: Floats  # (T+1,) seconds where x is the most
    compute_x: Floats  # (X+1,) as a share of those
    floor_s: float
    bytes_t: Floats
    bytes_x: Floats
    flops_t: Floats

    def at(self, tokens: int, seen: int) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of a chunk."""
        share = self.compute_x.item(seen)
        memory = self.memory_t.item(tokens) + self.memory_x.item(seen)
        seconds = max(memory, self.compute_t.item(tokens) * share, self.floor_s)
        moved = self.bytes_t.item(tokens) + self.bytes_x.item(seen)
        return seconds, moved, self.flops_t.item(tokens) * share


@dataclass(frozen=True, slots=True)
class _Reader:
    """One entry of the passes that read chunks: T tokens in all; nothing for no tokens."""

    linear_s: Floats  # (T+1,)
    launch_s: float
    bytes_moved: Floats  # (T+1,)
    flops: Floats  # (T+1,)
    attention: tuple[_Attention, ...]

    def attends(self, chunks: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of the attention of chunks of (tokens, cached)."""
        seconds = moved = flops = 0.0
        for tokens, cached in chunks:
            seen = cached + (tokens + 1) // 2
            for one in self.attention:
                more_s, more_bytes, more_flops = one.at(tokens, seen)
                seconds, moved, flops = seconds + more_s, moved + more_bytes, flops + more_flops
        return seconds, moved, flops


def _readers(ledger_at: "_Ledger", most_tokens: int, most_context: int) -> tuple[_Reader, ...]:
    """The entries of a ledger as functions of the tokens, and of what they see."""
    tokens, seen = np.arange(1.0, most_tokens + 1.0), contexts_upto(most_context)
    long = float(most_tokens)
    by_token, first = ledger_at(tokens, float(most_context)), ledger_at(tokens, 1.0)
    by_seen = ledger_at(long, seen)
    found = []
    for (times, over_t), (_, at_one), (_, over_x) in zip(
        by_token.entries, first.entries, by_seen.entries, strict=True
    ):
        many = float(np.max(times))
        if many:
            found.append(_reader(many, over_t, at_one, over_x, most_tokens, most_context))
    return tuple(found)


class _Ledger:
    """The pass that reads chunks: a model's, or a drafter's."""

    def __init__(self, reader: Architecture | Drafter, system: System, logits: float) -> None:
        self.reader, self.system, self.logits = reader, system, logits

    def __call__(self, tokens: Floats | float, seen: Floats | float) -> Ledger:
        asked = Workload(1, tokens, seen, logit_rows=self.logits, states=1.0)
        if isinstance(self.reader, Drafter):
            return self.reader.prompt_pass(self.system, asked)
        return Ledger.of(ModelPass(self.reader, self.system, asked))


def _reader(
    many: float, over_t: Entry, at_one: Entry, over_x: Entry, tokens: int, seen: int
) -> _Reader:
    def led(value: Floats | float, length: int = tokens) -> Floats:
        full = np.broadcast_to(np.asarray(value, float), (length,))
        return many * np.concatenate([np.zeros(1), full])

    known = contexts_upto(seen)

    def everywhere(value: Floats | float) -> Floats:
        full = np.broadcast_to(np.asarray(value, float), known.shape)
        return full if len(known) == seen else np.interp(np.arange(1.0, seen + 1.0), known, full)

    if not isinstance(over_t, ModelPass):
        return _Reader(led(over_t.seconds), 0.0, led(over_t.bytes_moved), led(over_t.flops), ())
    assert isinstance(at_one, ModelPass)
    assert isinstance(over_x, ModelPass)
    linear: Floats = np.zeros(())
    attention, read, computed = [], np.zeros(()), np.zeros(())
    devices = over_t.work.devices
    for term, alone, along in zip(
        over_t.time.terms, at_one.time.terms, over_x.time.terms, strict=True
    ):
        operator = term.operator
        if operator is None or operator.kind != ATTENTION:
            linear = linear + term.seconds
            continue
        assert alone.operator is not None
        assert along.operator is not None
        most = along.compute_s[-1] if np.ndim(along.compute_s) else along.compute_s
        share = everywhere(along.compute_s / most if most else 1.0)
        memory, kv = everywhere(along.memory_s), everywhere(along.operator.kv_bytes)
        attention.append(
            _Attention(
                memory_t=led(alone.memory_s),
                memory_x=led(memory - memory[0], seen),
                compute_t=led(term.compute_s),
                compute_x=np.concatenate([np.zeros(1), share]),
                floor_s=many * float(np.max(term.floor_s)),
                bytes_t=led(devices * alone.operator.kv_bytes),
                bytes_x=led(devices * (kv - kv[0]), seen),
                flops_t=led(devices * operator.flops),
            )
        )
        read = read + devices * operator.kv_bytes
        computed = computed + devices * operator.flops
    return _Reader(
        linear_s=led(linear),
        launch_s=many * float(np.max(over_t.time.launch_s)),
        bytes_moved=led(over_t.bytes_moved - read),
        flops=led(over_t.flops - computed),
        attention=tuple(attention),
    )


class PromptPrice:
    """Seconds, bytes and FLOPs of the chunks that are read in a step."""

    def __init__(
        self,
        target: Architecture,
        drafter: Drafter | None,
        system: System,
        *,
        most_tokens: int,
        most_context: int,
        most_sequences: int,
    ) -> None:
        own = system.storing(target)
        context = max(most_context, 2)
        (self.target,) = _readers(_Ledger(target, own, 0.0), most_tokens, context)
        self.drafter: tuple[_Reader, ...] = ()
        if drafter is not None:
            self.drafter = _readers(
                _Ledger(drafter, system.on_accelerator, 1.0), most_tokens, context
            )
        # the LM head, beside as many tokens as a pass may have
        logits = np.arange(1.0, most_sequences + 1.0)
        with_head, without = (
            ModelPass(target, own, Workload(1, float(most_tokens), 1.0, logit_rows=rows, states=1))
            for rows in (logits, 0.0)
        )
        more = np.asarray(with_head.time.device_s - without.time.device_s, float)
        self.head_s = np.concatenate([np.zeros(1), np.broadcast_to(more, logits.shape)])
        engine = system.engine
        self.empty_s = float(np.max(engine.cycle_overhead_s))
        first_token_s = own.sampling_s(1, 1, target.vocab_size)
        first_token_s = first_token_s + engine.checking_overhead_s * target.vocab_size
        self.each_s = float(np.max(engine.sequence_overhead_s + first_token_s))

    def linear_s(self, decoding: float, added: int, logits: float, added_logits: int) -> float:
        """Seconds that `added` tokens add to the linear layers of a pass of `decoding` rows."""
        table, head = self.target.linear_s, self.head_s
        seconds = _between(table, decoding + added) - _between(table, decoding)
        return seconds + _between(head, logits + added_logits) - _between(head, logits)

    def moved(self, decoding: float, added: int) -> tuple[float, float]:
        """Bytes and FLOPs that `added` tokens add to those linear layers."""
        moved, flops = self.target.bytes_moved, self.target.flops
        return (
            _between(moved, decoding + added) - _between(moved, decoding),
            _between(flops, decoding + added) - _between(flops, decoding),
        )

    def attention(self, chunks: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of the target's attention: chunks of (tokens, cached)."""
        return self.target.attends(chunks)

    def drafted(self, chunks: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of the drafter's own pass over the chunks."""
        seconds = moved = flops = 0.0
        together = sum(tokens for tokens, _ in chunks)
        for reader in self.drafter if together else ():
            more_s, more_bytes, more_flops = reader.attends(chunks)
            seconds += max(reader.linear_s.item(together) + more_s, reader.launch_s)
            moved += more_bytes + reader.bytes_moved.item(together)
            flops += more_flops + reader.flops.item(together)
        return seconds, moved, flops


def _between(table: Floats, at: float) -> float:
    """A table at a number that need not be whole."""
    below = int(at)
    if below >= len(table) - 1:
        return float(table[-1] + (table[-1] - table[-2]) * (at - (len(table) - 1)))
    low = table.item(below)
    share = at - below
    return low + share * (table.item(below + 1) - low) if share else low

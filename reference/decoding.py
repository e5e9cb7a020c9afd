"""The loop: draft, verify, decide. Plain autoregressive decoding is the same loop with no drafts.

Each cycle the target reads its weights once, for the pending token and gamma drafts together. It
emits between 1 and gamma + 1 tokens, whose distribution is the target's own (see `verification`). A
bad draft makes decoding slow, never wrong. What the three stages do is in `cycle`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from reference.artefacts import are_kept
from reference.cycle import Cycle
from reference.drafters import Drafter, NoDrafter
from reference.graphs import Recordings, kept_by, window_of
from reference.kept import anything_is_kept
from reference.sampling import SamplingParameters
from reference.sequences import AsyncCopy, CycleResult
from reference.settings import (
    RunSettings,
    check_run,
    check_seed,
    checked_prompts,
    checked_survival,
    mode_for,
)
from reference.statistics import Statistics, Stopwatch
from reference.transformer import Transformer
from reference.tree_cycle import TreeCycle
from specsim.checks import SpecsimError
from specsim.checks.shown import Shown


@dataclass(slots=True, repr=False)
class Generation(Shown):
    """New token ids, a list for one prompt and a list of lists for a batch; and the statistics of
    the cycles."""

    tokens: list
    statistics: Statistics

    def _facts(self) -> dict[str, Any]:
        is_batch = bool(self.tokens) and isinstance(self.tokens[0], list)
        return {"sequences": len(self.tokens) if is_batch else 1, "statistics": self.statistics}


class Decoder:
    """Decodes `batch` sequences of up to `capacity` tokens at a time.

    It owns the buffers of its cycle and the recordings of its stages; both are freed with it.
    """

    def __init__(
        self,
        target: Transformer,
        drafter: Drafter,
        batch: int,
        capacity: int,
        settings: RunSettings,
    ):
        on_cuda = target.device.type == "cuda"
        self.lag = int(on_cuda)  # cycles in flight while the host reads a result
        records = settings.mode != "eager"
        # by torch's kernels an eager run on a GPU reads the windows that graphs would read
        self.rounds_windows = on_cuda or records
        capacity = window_of(capacity) if self.rounds_windows else capacity
        cycle = Cycle if drafter.nodes is None else TreeCycle
        self.cycle = cycle(target, drafter, batch, capacity, settings)
        self.recordings = Recordings(self.cycle) if records else None

    @torch.inference_mode()
    def cycles(
        self,
        prompts: list[list[int]],
        remaining: list[int],
        seed: int,
        statistics: Statistics,
        choose_gamma: Callable[[Statistics], int],
    ) -> Iterator[list[list[int]]]:
        """Decode cycle by cycle; yields the new tokens of every sequence, none for one that ended.

        On a GPU the host reads results one cycle late, so it sizes each cycle by an upper bound on
        the lengths. One extra, idle cycle runs at the end.
        """
        cycle, sequences = self.cycle, self.cycle.sequences
        watch, in_flight = Stopwatch(cycle.target.device), deque()
        cycle.begin(prompts, remaining, seed)
        if self.recordings is not None:
            self.recordings.drop_if_moved()
        running = True
        while running:
            cycle.gamma = min(max(choose_gamma(statistics), 0), cycle.drafter.gamma)
            unread = len(in_flight) * (cycle.drafter.gamma + 1)
            sequences.window = self.window(sequences.longest + unread + cycle.width + 1)
            watch.stop()
            recordings = self.recordings
            stages = cycle.stages if recordings is None else recordings.stages(statistics)
            watch.start()
            cycle.noise.refresh()
            for stage in stages:
                stage()
                watch.mark()
            in_flight.append((AsyncCopy(cycle.result), watch.marks))
            if len(in_flight) > self.lag:
                copy, marks = in_flight.popleft()
                results = copy.read()
                require_finite(results, cycle.target.architecture.name)
                sequences.longest = max(result.length for result in results)
                running = any(result.remaining for result in results)
                whole = [result for result in results if result.is_whole]
                accepted, drafted = [r.accepted for r in whole], [r.drafted for r in whole]
                statistics.add_cycle(accepted, drafted, watch.seconds(marks))
                yield [result.emitted for result in results]

    def window(self, slots: int) -> int:
        """How many slots of the cache a pass reads so that the first `slots` are among them."""
        if self.rounds_windows:
            slots = window_of(slots, on_cpu=self.cycle.target.device.type == "cpu")
        return min(slots, self.cycle.cache.capacity)


_in_use: set[int] = set()  # the drafters of runs that have not ended


@contextmanager
def alone_with(drafter: Drafter) -> Iterator[None]:
    """Within, no other run may use this drafter, whose buffers belong to one run at a time; those
    that have none may be shared. Raises SpecsimError if it is in use."""
    if type(drafter).start is Drafter.start:
        yield
        return
    if id(drafter) in _in_use:
        raise SpecsimError(
            f"this {type(drafter).__name__} drafts for another run, which has not ended; give each "
            "run a drafter of its own"
        )
    _in_use.add(id(drafter))
    try:
        yield
    finally:
        _in_use.discard(id(drafter))


@contextmanager
def decoder_for(
    target: Transformer,
    drafter: Drafter,
    batch: int,
    capacity: int,
    settings: RunSettings,
) -> Iterator[Decoder]:
    """A decoder with at least `capacity` tokens per sequence: a new one, or in the modes that
    record, one that `target` keeps from its last two kinds of run.

    A decoder that is in use is not among the kept ones, so runs at the same time share no buffers.
    """
    if settings.mode == "eager":
        drafter.release()
        yield Decoder(target, drafter, batch, capacity, settings)
        return
    kept = kept_by(target)
    kind = (drafter, drafter.gamma, batch, settings, target.device, target.dtype)
    decoder = kept.pop(kind, None)
    if decoder is None or decoder.cycle.cache.capacity < capacity:
        decoder = None  # its memory is given back before more is allocated
        drafter.release()
        kept.make_space()
        decoder = Decoder(target, drafter, batch, capacity, settings)
    try:
        yield decoder
    except SpecsimError:  # its cache may hold NaN
        decoder = None
        raise
    finally:
        if decoder is not None:
            kept[kind] = decoder


def stream(
    target: Transformer,
    drafter: Drafter,
    prompt: Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    rule: str = "token",
    stop_ids: Iterable[int] = (),
    seed: int = 0,
    mode: str | None = None,
    choose_gamma: Callable[[Statistics], int] | None = None,
    survival: Sequence[float] | None = None,
    statistics: Statistics | None = None,
) -> Iterator[list]:
    """Continue `prompt` with speculative decoding, yielding each cycle's new tokens as they are
    decoded.

    Arguments: `prompt` is token ids, or a list of such prompts for a batch; each cycle then yields
    a list per sequence, empty once that sequence has ended. A sequence ends at one of `stop_ids` or
    the target's own end-of-text ids (included in the tokens), after `max_new_tokens`, or where the
    target's context is full. `temperature` 0 is greedy; for it and the filters see
    `SamplingParameters`. `rule` is token, block, match or typical; typical is lossy (see
    `verification`). `mode` is eager, cuda-graphs (the default on a CUDA device), fused (the
    products as Triton kernels too, see `fused`) or compiled (see `graphs`). On a CPU the default is
    eager, but stages that were compiled and kept are loaded (see `artefacts`). `choose_gamma`
    returns, from the statistics so far, how many tokens the next cycle drafts, at most the
    drafter's gamma (see `adaptive`). With `survival`, (s_1, …, s_gamma), the number of accepted
    drafts is drawn from it, which is LOSSY; the work is the same. `statistics` are filled if they
    are given.

    Raises SpecsimError for an empty prompt, ids outside the vocabulary, a prompt that fills the
    context, a draft with another vocabulary, an unknown rule or mode, or an invalid survival
    vector.
    """
    prompts, is_batch = checked_prompts(prompt, target.architecture)
    chain_only = choose_gamma is not None or survival is not None
    check_run(drafter, max_new_tokens, temperature, rule, chain_only)
    check_seed(seed)
    settings = RunSettings(
        SamplingParameters(temperature, top_k, top_p, min_p, repetition_penalty),
        rule,
        frozenset(stop_ids) | target.stop_ids,
        None if survival is None else checked_survival(survival, drafter.gamma),
        mode_for(target.device, mode),
    )
    if mode is None and anything_is_kept() and are_kept(target, drafter, len(prompts), settings):
        settings = replace(settings, mode="kept")
    context = target.architecture.max_context
    remaining = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    ends = max(len(prompt) + new for prompt, new in zip(prompts, remaining, strict=True))
    width = drafter.gamma if drafter.nodes is None else drafter.nodes
    capacity = ends + width + 1  # a sequence that has ended still drafts while others go on
    statistics = Statistics(drafter.gamma) if statistics is None else statistics
    statistics.synthetic_acceptance |= survival is not None

    def steps() -> Iterator[list[list[int]]]:
        asked = target, drafter, len(prompts), capacity, settings
        with alone_with(drafter), decoder_for(*asked) as decoder:
            choose = choose_gamma or (lambda _: drafter.gamma)
            yield from decoder.cycles(prompts, remaining, seed, statistics, choose)

    return steps() if is_batch else (step[0] for step in steps())


def speculate(
    target: Transformer,
    drafter: Drafter,
    prompt: Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    **options,
) -> Generation:
    """Continue `prompt` with speculative decoding. The tokens have the distribution of plain
    decoding, except with rule="typical" or `survival`.

    Arguments, options and errors are those of `stream`: top_k, top_p, min_p, repetition_penalty,
    rule, stop_ids, seed, mode, choose_gamma, survival. Returns a `Generation`.
    """
    statistics = Statistics(drafter.gamma)
    arguments = target, drafter, prompt, max_new_tokens, temperature
    steps = list(stream(*arguments, statistics=statistics, **options))
    if isinstance(steps[0][0], list):
        return Generation([list(chain(*row)) for row in zip(*steps, strict=True)], statistics)
    return Generation(list(chain(*steps)), statistics)


def generate(
    target: Transformer, prompt, max_new_tokens: int = 256, temperature: float = 0.0, **options
) -> Generation:
    """Plain autoregressive decoding: `speculate` with no drafts; same arguments, same kernels."""
    return speculate(target, NoDrafter(), prompt, max_new_tokens, temperature, **options)


def require_finite(results: list[CycleResult], name: str) -> None:
    """SpecsimError, with the position, if a token was chosen from logits that are not finite."""
    for row, result in enumerate(results):
        if result.finite < len(result.emitted):
            position = result.length - len(result.emitted) + 1 + result.finite
            raise SpecsimError(
                f"the logits for position {position} of sequence {row} are not finite, in {name} "
                "or its draft: weights are corrupt, or too large for their dtype (try bf16 or fp32)"
            )

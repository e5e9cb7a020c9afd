"""The loop: draft, verify, accept, commit. Autoregressive decoding is the same loop with nothing
drafted.

Per cycle the target reads its weights once, for the pending token and gamma drafts together, and
emits between 1 and gamma + 1 tokens whose law is the target's own (see `verification`). The draft's
quality decides how fast, never what.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.noise import FreshNoise, SharedNoise
from reference.sampling import Sampling
from reference.sequences import Sequences
from reference.statistics import Statistics, Stopwatch
from reference.transformer import MAX_GAMMA, Transformer, prefill
from reference.verification import RULES, Verdict, verify_greedy
from specsim.architecture import Architecture
from specsim.catalog import SpecsimError


@dataclass(slots=True)
class Generation:
    """New token ids: a list for one prompt, a list of lists for a batch; and what the cycles
    did."""

    tokens: list
    statistics: Statistics


class NoDrafter(Drafter):
    """Drafts nothing: plain autoregressive decoding as the gamma = 0 case of speculation."""

    gamma = 0

    def propose(self, sequences: Sequences, sampling: Sampling, uniforms: Tensor) -> Proposal:
        return Proposal(sequences.tokens[:, :0], None)


@torch.inference_mode()
def cycles(
    target: Transformer,
    drafter: Drafter,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: frozenset[int],
    seed: int,
    statistics: Statistics,
    rule: str = "token",
) -> Iterator[list[list[int]]]:
    """Decode cycle by cycle; yields the new tokens of every sequence, none for one that has
    ended."""
    gamma, device = drafter.gamma, target.device
    context = target.architecture.max_context
    room = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    # the longest prompt has the least room, and no sequence ends behind it
    sequences = Sequences.from_prompts(prompts, min(room) + gamma + 1, device)
    batch, capacity = sequences.tokens.shape
    cache = KVCache(target.architecture, batch, capacity, target.dtype, device)
    is_match = rule == "match" and not sampling.greedy
    vocab_size = target.architecture.vocab_size
    noise = SharedNoise(seed, vocab_size) if is_match else FreshNoise(seed, device)
    watch = Stopwatch(device)
    watch.start()
    hidden, positions = prefill(target, sequences, cache)
    drafter.start(sequences, target, cache)
    if positions.numel():
        drafter.observe(hidden, positions)
    watch.lap()
    while any(room):
        active = torch.tensor([places > 0 for places in room], device=device)
        positions = sequences.positions(gamma + 1)
        sequences.window = sequences.longest + gamma + 1
        to_draft, to_decide = noise.uniforms(positions + 1)
        watch.start()
        drafted, draft_probs = drafter.propose(sequences, sampling, to_draft)
        watch.lap()
        tokens = torch.cat((sequences.pending, drafted), dim=1)  # (B, G+1)
        hidden = target.hidden(tokens, positions, cache, sequences.window)
        logits = sampling.penalise(target.head(hidden), sequences, drafted)
        drafter.observe(hidden, positions)
        watch.lap()
        accepted, next_token = accept(sampling, logits, draft_probs, drafted, to_decide, rule)
        emitted = sequences.commit(drafted, accepted, next_token, active)
        accepted, emitted = sequences.read(accepted, emitted)  # the cycle's one read by the host
        watch.lap()
        kept = [cut(row, places, stop_ids) for row, places in zip(emitted, room, strict=True)]
        whole = [n for n, row in zip(accepted, kept, strict=True) if len(row) == n + 1]
        statistics.add_cycle(whole, watch.seconds())
        room = [
            0 if stop_ids.intersection(row) else places - len(row)
            for row, places in zip(kept, room, strict=True)
        ]
        yield kept


def accept(
    sampling: Sampling,
    logits: Tensor,
    draft_probs: Tensor | None,
    drafted: Tensor,
    uniforms: Tensor,
    rule: str = "token",
) -> Verdict:
    """Apply the accept rule to the target's logits (B, G+1, V); greedy decoding has but one."""
    if sampling.greedy:
        return verify_greedy(logits.argmax(-1), drafted)
    return RULES[rule](sampling.probabilities(logits), draft_probs, drafted, uniforms)


def cut(emitted: list[int], room: int, stop_ids: frozenset[int]) -> list[int]:
    """What of one cycle's tokens is kept: up to the first stop token, which is included, and the
    room that is left."""
    for index, token in enumerate(emitted[:room]):
        if token in stop_ids:
            return emitted[: index + 1]
    return emitted[:room]


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
    statistics: Statistics | None = None,
) -> Iterator[list]:
    """Continue `prompt` with speculative decoding, yielding each cycle's new tokens as they are
    decoded.

    Arguments: `prompt` is token ids, or a list of such prompts for a batch, where every cycle gives
    a list per sequence, empty once it has ended. `stop_ids` end a sequence and are included in it
    (besides the target's own end-of-text ids); sequences also end after `max_new_tokens` or where
    the target's context is full. `temperature` 0 is greedy; for the filters see `Sampling`. `rule`
    is token, block, match or typical, the last of which is lossy (see `verification`). A
    `statistics` that is given is filled.

    Raises SpecsimError for an empty prompt, ids outside the vocabulary, a prompt that fills the
    context, a draft whose vocabulary is not the target's, or an unknown rule.
    """
    prompts, is_batch = checked_prompts(prompt, target.architecture)
    if max_new_tokens < 1:
        raise SpecsimError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if not 0 <= drafter.gamma <= MAX_GAMMA:
        raise SpecsimError(f"gamma must be between 0 and {MAX_GAMMA}, not {drafter.gamma}")
    if rule not in RULES:
        raise SpecsimError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops = frozenset(stop_ids) | target.stop_ids
    statistics = Statistics(drafter.gamma) if statistics is None else statistics
    steps = cycles(
        target, drafter, prompts, max_new_tokens, sampling, stops, seed, statistics, rule
    )
    return steps if is_batch else (step[0] for step in steps)


def speculate(
    target: Transformer,
    drafter: Drafter,
    prompt: Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    **options,
) -> Generation:
    """Continue `prompt` with speculative decoding; the tokens have the law of plain decoding, but
    for rule="typical".

    Arguments, options and what is raised are those of `stream`: top_k, top_p, min_p,
    repetition_penalty, rule, stop_ids, seed.
    """
    statistics = Statistics(drafter.gamma)
    steps = list(
        stream(
            target, drafter, prompt, max_new_tokens, temperature, statistics=statistics, **options
        )
    )
    if isinstance(steps[0][0], list):
        return Generation([list(chain(*row)) for row in zip(*steps, strict=True)], statistics)
    return Generation(list(chain(*steps)), statistics)


def generate(
    target: Transformer, prompt, max_new_tokens: int = 256, temperature: float = 0.0, **options
) -> Generation:
    """Plain autoregressive decoding: `speculate` with nothing drafted; same arguments, same
    kernels."""
    return speculate(target, NoDrafter(), prompt, max_new_tokens, temperature, **options)


def checked_prompts(prompt, architecture: Architecture) -> tuple[list[list[int]], bool]:
    """The prompts as lists of ids, and whether there was a batch of them."""
    if isinstance(prompt, str):
        raise SpecsimError("the prompt must be token ids; encode the text with the tokenizer first")
    prompt = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
    is_batch = len(prompt) > 0 and not isinstance(prompt[0], Integral)
    prompts = [[int(token) for token in row] for row in (prompt if is_batch else [prompt])]
    for row in prompts:
        if not row:
            raise SpecsimError("the prompt is empty: give at least one token")
        if len(row) >= architecture.max_context:
            raise SpecsimError(
                f"the prompt has {len(row)} tokens, which leaves no room in the context of "
                f"{architecture.max_context} of {architecture.name}"
            )
        if not 0 <= min(row) <= max(row) < architecture.vocab_size:
            raise SpecsimError(
                f"the prompt has token ids from {min(row)} to {max(row)}; the vocabulary of "
                f"{architecture.name} is 0 to {architecture.vocab_size - 1}"
            )
    return prompts, is_batch

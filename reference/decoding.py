"""The loop: draft, verify, decide. Autoregressive decoding is the same loop with nothing drafted.

Per cycle the target reads its weights once, for the pending token and gamma drafts together, and
emits between 1 and gamma + 1 tokens whose law is the target's own (see `verification`). The draft's
quality decides how fast, never what. What the three stages do is in `cycle`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from numbers import Integral

import torch

from reference.cycle import NoDrafter, Settings
from reference.drafters import Drafter
from reference.graphs import Runner, mode_for, runner_for
from reference.sampling import Sampling
from reference.sequences import Mail, Report
from reference.statistics import Statistics, Stopwatch
from reference.transformer import MAX_GAMMA, Transformer
from reference.tree_verification import TREE_RULES
from reference.verification import RULES
from specsim.architecture import Architecture
from specsim.checks import SpecsimError


@dataclass(slots=True)
class Generation:
    """New token ids: a list for one prompt, a list of lists for a batch; and what the cycles
    did."""

    tokens: list
    statistics: Statistics


@torch.inference_mode()
def cycles(
    runner: Runner,
    prompts: list[list[int]],
    room: list[int],
    seed: int,
    statistics: Statistics,
    choose_gamma: Callable[[Statistics], int],
) -> Iterator[list[list[int]]]:
    """Decode cycle by cycle; yields the new tokens of every sequence, none for one that has ended.

    On a GPU a cycle is under way while the host reads the one before: what that one needs, the
    host must know without it, and knows a bound on the lengths. The cycle that is under way when
    all sequences turn out to have ended is an idle one, and nobody reads it.
    """
    cycle, sequences = runner.cycle, runner.cycle.sequences
    watch, under_way = Stopwatch(cycle.target.device), deque()
    runner.begin(prompts, room, seed)
    running = True
    while running:
        cycle.gamma = min(max(choose_gamma(statistics), 0), cycle.drafter.gamma)
        unread = len(under_way) * (cycle.drafter.gamma + 1)
        sequences.window = runner.window(sequences.longest + unread + cycle.drafted + 1)
        watch.stop()
        stages = runner.stages()
        watch.start()
        cycle.noise.refresh()
        for stage in stages:
            stage()
            watch.lap()
        under_way.append((Mail(cycle.report), watch.marks))
        if len(under_way) > runner.lag:
            mail, marks = under_way.popleft()
            reports = [Report.of_row(row) for row in mail.read()]
            require_numbers(reports, cycle.target.architecture.name)
            sequences.longest = max(report.length for report in reports)
            running = any(report.room for report in reports)
            whole = [report for report in reports if report.is_whole]
            accepted, drafted = ([report[i] for report in whole] for i in (3, 2))
            statistics.add_cycle(accepted, drafted, watch.seconds(marks))
            yield [report.emitted for report in reports]


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

    Arguments: `prompt` is token ids, or a list of such prompts for a batch, where every cycle gives
    a list per sequence, empty once it has ended. `stop_ids` end a sequence and are included in it
    (besides the target's own end-of-text ids); sequences also end after `max_new_tokens` or where
    the target's context is full. `temperature` 0 is greedy; for the filters see `Sampling`. `rule`
    is token, block, match or typical, the last of which is lossy (see `verification`). `mode` is
    eager, cuda-graphs (the default on a CUDA device) or compiled (see `graphs`). `choose_gamma`
    says from the statistics so far how many tokens the next cycle drafts, the drafter's gamma at
    most (see `adaptive`). With `survival`, (s_1, …, s_gamma), the number of accepted drafts is
    drawn from it while all the work is done, LOSSY. A `statistics` that is given is filled.

    Raises SpecsimError for an empty prompt, ids outside the vocabulary, a prompt that fills the
    context, a draft whose vocabulary is not the target's, an unknown rule or mode, or a survival
    vector that is none.
    """
    prompts, is_batch = checked_prompts(prompt, target.architecture)
    if max_new_tokens < 1:
        raise SpecsimError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if not 0 <= drafter.gamma <= MAX_GAMMA:
        raise SpecsimError(f"gamma must be between 0 and {MAX_GAMMA}, not {drafter.gamma}")
    if rule not in RULES:
        raise SpecsimError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if drafter.nodes is not None:
        if temperature > 0 and rule not in TREE_RULES:
            known = ", ".join(TREE_RULES)
            raise SpecsimError(f"{rule!r} is a rule of chains; those of trees: {known}")
        if choose_gamma is not None or survival is not None:
            raise SpecsimError("choose_gamma and survival are of chains, not of trees")
    settings = Settings(
        Sampling(temperature, top_k, top_p, min_p, repetition_penalty),
        rule,
        frozenset(stop_ids) | target.stop_ids,
        None if survival is None else checked_survival(survival, drafter.gamma),
    )
    mode = mode_for(target.device, mode)
    context = target.architecture.max_context
    room = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
    ends = max(len(prompt) + places for prompt, places in zip(prompts, room, strict=True))
    statistics = Statistics(drafter.gamma) if statistics is None else statistics
    statistics.synthetic_acceptance |= survival is not None

    def steps() -> Iterator[list[list[int]]]:
        drafted = drafter.gamma if drafter.nodes is None else drafter.nodes
        capacity = ends + drafted + 1  # a sequence that waits for others still drafts
        with runner_for(target, drafter, len(prompts), capacity, settings, mode) as runner:
            choose = choose_gamma or (lambda _: drafter.gamma)
            yield from cycles(runner, prompts, room, seed, statistics, choose)

    return steps() if is_batch else (step[0] for step in steps())


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
    repetition_penalty, rule, stop_ids, seed, mode, choose_gamma, survival.
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


def require_numbers(reports: list[Report], name: str) -> None:
    """SpecsimError if a token was chosen from logits that are no numbers, saying where."""
    for row, report in enumerate(reports):
        if report.numbers < len(report.emitted):
            place = report.length - len(report.emitted) + 1 + report.numbers
            raise SpecsimError(
                f"the logits for place {place} of sequence {row} are not finite, in {name} or its "
                "draft: weights are corrupt, or too large for their dtype (try bf16 or fp32)"
            )


def checked_survival(survival: Sequence[float], gamma: int) -> tuple[float, ...]:
    """The survival vector of `gamma` places; SpecsimError if it is shorter or none."""
    vector = tuple(map(float, survival))
    falls = all(a >= b for a, b in pairwise((1.0, *vector, 0.0)))
    if len(vector) < gamma or not falls:
        raise SpecsimError(
            f"survival must be {gamma} falling probabilities, one per drafted token, not {vector}"
        )
    return vector[:gamma]


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

"""The variants of a comparison, timed in turn: changes of the machine's speed slow them alike.

A variant is one way to decode a point's scenario, for example plain decoding or decoding with the
point's drafter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.decoding import speculate
from reference.drafters import Drafter, NoDrafter, Proposal
from reference.drafters.draft_model import DraftModel
from reference.drafters.early_exit import EarlyExit
from reference.drafters.n_gram import NGram
from reference.lab.suites.counting import whole_cycles
from reference.lab.suites.models import Models
from reference.lab.suites.points import PlannedPoint
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.statistics import Statistics

Variant = Callable[[int, int], Statistics]  # (cycles, seed) -> accept counts and stage times
MORE_DRAWN, SHORT = 4, 16  # times as many texts, of so many tokens, to count drawn accept counts
DISTURBED = 1.2  # a slower round than this many times the variant's fastest one is disturbed


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Each variant is timed for about `seconds`, in `rounds` rounds through all variants. In addition
    `counted` sequences are decoded at once for `counted_cycles` cycles each, only to count what is
    accepted.
    """

    seconds: float
    rounds: int
    fewest_cycles: int
    most_cycles: int
    counted: int
    counted_cycles: int
    calibration_prompts: int
    calibration_tokens: int


EFFORTS = {
    "cuda": Effort(0.3, 3, 4, 48, 32, 12, 16, 48),
    "cpu": Effort(0.7, 3, 3, 40, 16, 8, 12, 32),
}


class FixedDrafts(Drafter):
    """Drafts that cost nothing: the pending token, gamma times.

    This measures a verification pass of gamma + 1 rows. It is the method "given" of the suites.
    """

    def __init__(self, gamma: int):
        self.gamma = gamma

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        """The pending token of each sequence, as every draft."""
        return Proposal(sequences.pending.expand(-1, self.gamma), None)


def drafter_of(point: PlannedPoint, models: Models) -> Drafter:
    """The drafter of a point's cycles."""
    gamma = point.gamma
    if gamma == 0:
        return NoDrafter()
    if point.method == "given":
        return FixedDrafts(gamma)
    if point.method == "n-gram":
        return NGram(gamma)
    if point.method == "early-exit":
        return EarlyExit(point.draft_layers, gamma)
    return DraftModel(models.draft, gamma)


def variant_of(
    point: PlannedPoint,
    models: Models,
    drafter: Drafter,
    tokens_per_cycle: float,
    survival: list[float] | None = None,
) -> Variant:
    """Decoding of a point's scenario with `drafter`.

    With `survival`, accept counts are drawn from it. Texts end at the point's context, so a window
    of that many slots holds them.
    """

    def run(cycles: int, seed: int) -> Statistics:
        tokens = max(2, round(cycles * tokens_per_cycle))
        if models.texts is not None:  # other texts in every round
            texts = models.texts["timed"]
            prompts = [texts[(seed * point.batch + i) % len(texts)] for i in range(point.batch)]
        else:
            length = prompt_length(point, tokens)
            prompts = models.prompts("timed", point.batch, length)
        return speculate(
            models.target,
            drafter,
            prompts,
            tokens,
            point.temperature,
            seed=seed,
            mode=point.mode,
            survival=survival,
        ).statistics

    return run


def prompt_length(point: PlannedPoint, tokens: int) -> int:
    """The length of a prompt that reaches the point's context after `tokens` new tokens and the
    drafts of the two cycles that may be in progress."""
    return max(1, point.context - tokens - 3 * (point.gamma + 1))


def counted(
    point: PlannedPoint,
    models: Models,
    drafter: Drafter,
    effort: Effort,
    survival: list[float] | None = None,
) -> Statistics:
    """Decode one more batch, only to count what is accepted.

    A median time needs few cycles; an acceptance rate needs many. With `survival`, accept counts
    are drawn, which depend on no text: so many short ones are decoded.
    """
    many, length = effort.counted, point.context
    if survival is not None:
        many, length = MORE_DRAWN * many, min(length, SHORT)
    prompts = models.prompts("counted", many, length)
    return whole_cycles(
        models.target, drafter, prompts, effort.counted_cycles, temperature=point.temperature,
        seed=1000, mode="eager", survival=survival,
    )  # fmt: skip


def interleaved(
    variants: Mapping[str, Variant], effort: Effort, between: Callable[[], None]
) -> tuple[dict[str, Statistics], int, int]:
    """Run every variant in every round.

    A first short run of each variant warms it up, and tells how many cycles take the wanted
    seconds. A round is left out for all variants if one variant was disturbed in it (see
    `undisturbed`). Then more rounds follow, up to three times `effort.rounds`. `between` is called
    before each round.

    Returns the statistics of each variant, the number of rounds in them, and how many rounds were
    left out.
    """
    cycles = {}
    for name, run in variants.items():
        run(2, 0)
        took = run(effort.fewest_cycles, 0).cycle_s or effort.seconds
        wanted = int(effort.seconds / effort.rounds / max(took, 1e-9))
        cycles[name] = min(max(wanted, effort.fewest_cycles), effort.most_cycles)
    rounds: list[dict[str, Statistics]] = []
    kept: list[dict[str, Statistics]] = []
    while len(kept) < effort.rounds and len(rounds) < 3 * effort.rounds:
        between()
        rounds.append({name: run(cycles[name], len(rounds) + 1) for name, run in variants.items()})
        kept = undisturbed(rounds)
    totals = {name: Statistics(statistics.gamma) for name, statistics in kept[0].items()}
    for each in kept:
        for name, statistics in each.items():
            totals[name].extend(statistics)
    return totals, len(kept), len(rounds) - len(kept)


def undisturbed(rounds: Sequence[dict[str, Statistics]]) -> list[dict[str, Statistics]]:
    """The rounds in which no variant took more than DISTURBED times its fastest round.

    A longer time means that other work was running on the machine. If there is no such round, the
    last round is returned.
    """
    fastest = {name: min(each[name].cycle_s or 0.0 for each in rounds) for name in rounds[0]}
    return [
        each
        for each in rounds
        if all(
            (statistics.cycle_s or 0.0) <= DISTURBED * fastest[name]
            for name, statistics in each.items()
        )
    ] or [rounds[-1]]


def effort_on(device: torch.device) -> Effort:
    """The usual effort on a kind of device."""
    return EFFORTS["cuda" if device.type == "cuda" else "cpu"]

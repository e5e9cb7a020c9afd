"""Arms of a comparison, timed in turn: a machine that drifts slows all of them alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.decoding import speculate
from reference.drafters import Drafter, NoDrafter, Proposal
from reference.drafters.draft_model import DraftModel
from reference.drafters.early_exit import EarlyExit
from reference.drafters.n_gram import NGram
from reference.lab.suites.models import Models
from reference.lab.suites.points import PlannedPoint
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.statistics import Statistics

Arm = Callable[[int, int], Statistics]  # (cycles, seed) -> what they did and took
DISTURBED = 1.2  # times an arm's fastest round


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: seconds timed of each arm, over so many rounds through all arms, and
    cycles per sequence that are decoded besides for what they accept, `counted` sequences at
    once."""

    seconds: float
    rounds: int
    fewest_cycles: int
    most_cycles: int
    counted: int
    counted_cycles: int
    calibration_prompts: int
    calibration_tokens: int


EFFORTS = {
    "cuda": Effort(0.6, 3, 4, 64, 32, 20, 24, 64),
    "cpu": Effort(0.7, 3, 3, 40, 16, 8, 12, 32),
}


class Given(Drafter):
    """Drafts are given, at no cost: the pending token, over and over. What is measured is a pass of
    gamma + 1 rows."""

    def __init__(self, gamma: int):
        self.gamma = gamma

    def propose(
        self, sequences: Sequences, sampling: SamplingParameters, uniforms: Tensor
    ) -> Proposal:
        return Proposal(sequences.pending.expand(-1, self.gamma), None)


def drafter_of(point: PlannedPoint, models: Models) -> Drafter:
    """What drafts in a point's cycles."""
    gamma = point.gamma
    if gamma == 0:
        return NoDrafter()
    if point.method == "given":
        return Given(gamma)
    if point.method == "n-gram":
        return NGram(gamma)
    if point.method == "early-exit":
        return EarlyExit(point.draft_layers, gamma)
    return DraftModel(models.draft, gamma)


def arm(
    point: PlannedPoint,
    models: Models,
    drafter: Drafter,
    tokens_per_cycle: float,
    survival: list[float] | None = None,
) -> Arm:
    """Decoding of a point's scenario with `drafter`; accept counts are drawn from `survival` if it
    is given.

    Texts end where the point's context does, so that a window of so many slots holds them.
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
    """So long that `tokens` more, and what two cycles may have under way, end at the context."""
    return max(1, point.context - tokens - 3 * (point.gamma + 1))


def counted(point: PlannedPoint, models: Models, drafter: Drafter, effort: Effort) -> Statistics:
    """More cycles, as one batch, for what they accept alone: a median of times needs few cycles, an
    acceptance many."""
    prompts = models.prompts("counted", effort.counted, point.context)
    tokens = effort.counted_cycles * 2
    return speculate(
        models.target, drafter, prompts, tokens, point.temperature, seed=1000, mode="eager"
    ).statistics


def interleaved(
    arms: Mapping[str, Arm], effort: Effort, between: Callable[[], None]
) -> tuple[dict[str, Statistics], int, int]:
    """Every arm in every round; what they did, in how many rounds, and how many were left out.

    `between` is called before each round. A first short run of each arm warms up and says how many
    cycles the asked seconds are. A round in which an arm took much longer than in its fastest one
    met other work on the machine, and is left out for all arms; more rounds are then run, up to
    three times as many.
    """
    cycles = {}
    for name, run in arms.items():
        run(2, 0)
        took = run(effort.fewest_cycles, 0).cycle_s or effort.seconds
        wanted = int(effort.seconds / effort.rounds / max(took, 1e-9))
        cycles[name] = min(max(wanted, effort.fewest_cycles), effort.most_cycles)
    rounds: list[dict[str, Statistics]] = []
    kept: list[dict[str, Statistics]] = []
    while len(kept) < effort.rounds and len(rounds) < 3 * effort.rounds:
        between()
        rounds.append({name: run(cycles[name], len(rounds) + 1) for name, run in arms.items()})
        kept = undisturbed(rounds)
    totals = {name: Statistics(laps.gamma) for name, laps in kept[0].items()}
    for each in kept:
        for name, laps in each.items():
            totals[name].extend(laps)
    return totals, len(kept), len(rounds) - len(kept)


def undisturbed(rounds: Sequence[dict[str, Statistics]]) -> list[dict[str, Statistics]]:
    """The rounds in which no arm took more than DISTURBED times its fastest round."""
    fastest = {name: min(each[name].cycle_s or 0.0 for each in rounds) for name in rounds[0]}
    return [
        each
        for each in rounds
        if all((laps.cycle_s or 0.0) <= DISTURBED * fastest[name] for name, laps in each.items())
    ] or [rounds[-1]]


def effort_on(device: torch.device) -> Effort:
    return EFFORTS["cuda" if device.type == "cuda" else "cpu"]

"""A run one cycle at a time, with all data of each decision: for reading, not for speed.

    for cycle in slow_motion.cycles(target, DraftModel(draft, 4), prompt, temperature=1.0):
        print(cycle.drafted, cycle.accepted, cycle.next_token)

It runs the stages of the decoder, so the tokens are those of `speculate` with the same seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.cycle import Cycle, Settings
from reference.decoding import checked_prompts
from reference.drafters import Drafter
from reference.sampling import Sampling
from reference.sequences import FACTS, Report
from reference.transformer import Transformer


@dataclass(frozen=True, slots=True, eq=False)
class SeenCycle:
    """One cycle of one sequence: the drafts, how many were accepted, and the token after them.

    `target_probs` (G+1, V) are the target's distributions at the drafted positions and after them.
    `draft_probs` (G, V) are the distributions that the drafts were drawn from, None if they were
    not drawn at random. `emitted` ends where the text ends.
    """

    drafted: list[int]
    accepted: int
    next_token: int
    emitted: list[int]
    target_probs: Tensor
    draft_probs: Tensor | None

    @property
    def has_bonus(self) -> bool:
        """Whether all drafts were accepted, so that the last token is the target's bonus token."""
        return self.accepted == len(self.drafted)


@torch.inference_mode()
def cycles(
    target: Transformer,
    drafter: Drafter,
    prompts: Sequence[int] | Sequence[Sequence[int]],
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    *,
    rule: str = "token",
    seed: int = 0,
) -> Iterator[SeenCycle | list[SeenCycle]]:
    """Continue `prompts`, one prompt or a batch, as `speculate` does with the same seed.

    Yields each cycle, for a batch a list with one item per sequence, until all texts have ended.
    It cannot show tree drafters. Raises SpecsimError for invalid prompts, as `speculate` does.
    """
    rows, is_batch = checked_prompts(prompts, target.architecture)
    context = target.architecture.max_context
    room = [min(max_new_tokens, context - len(row)) for row in rows]
    capacity = max(len(row) + places for row, places in zip(rows, room, strict=True))
    capacity += drafter.gamma + 1
    settings = Settings(Sampling(temperature), rule, target.stop_ids)
    cycle = Cycle(target, drafter, len(rows), capacity, settings)
    cycle.begin(rows, room, seed)
    while bool(cycle.sequences.room.any()):
        cycle.sequences.window = int(cycle.sequences.lengths.max()) + drafter.gamma + 1
        cycle.noise.refresh()
        for stage in cycle.stages:
            stage()
        seen = seen_by_row(cycle)
        yield seen if is_batch else seen[0]


def seen_by_row(cycle: Cycle) -> list[SeenCycle]:
    """The results of the cycle that has just run, for each sequence."""
    laws, proposal = cycle.settings.sampling.probabilities(cycle.logits), cycle.proposal
    drafted, reported = proposal.tokens.tolist(), proposal.probabilities
    chosen = cycle.report[:, FACTS:].tolist()  # the kept drafts, then the token that follows
    reports = [Report.of_row(row) for row in cycle.report.tolist()]
    return [
        SeenCycle(
            drafted=drafted[row],
            accepted=report.accepted,
            next_token=chosen[row][report.accepted],
            emitted=report.emitted,
            target_probs=laws[row],
            draft_probs=None if reported is None else reported[row],
        )
        for row, report in enumerate(reports)
    ]

"""A run one cycle at a time, with everything that its rule decided by: for reading, not for speed.

    for cycle in slow_motion.cycles(target, DraftModel(draft, 4), prompt, temperature=1.0):
        print(cycle.drafted, cycle.accepted, cycle.next_token)

The stages are the decoder's own, so with the same seed the tokens are those of `speculate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.cycle import Cycle
from reference.drafters import Drafter
from reference.sampling import SamplingParameters
from reference.sequences import COUNTS, CycleResult
from reference.settings import RunSettings, checked_prompts
from reference.transformer import Transformer


@dataclass(frozen=True, slots=True, eq=False)
class SeenCycle:
    """One cycle of one sequence: the drafts, how many were accepted, and the token after them."""

    drafted: list[int]
    accepted: int
    next_token: int
    emitted: list[int]  # fewer than accepted + 1 where the text ends
    target_probs: Tensor  # (G+1, V), the target's distributions at the drafts and after them
    draft_probs: Tensor | None  # (G, V), what the drafts were drawn from; None if not drawn


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

    Yields what every cycle did, for a batch a list per cycle, until all texts have ended. For
    drafters of chains, not of trees. Raises SpecsimError for an invalid prompt.
    """
    rows, is_batch = checked_prompts(prompts, target.architecture)
    context = target.architecture.max_context
    remaining = [min(max_new_tokens, context - len(row)) for row in rows]
    capacity = max(len(row) + new for row, new in zip(rows, remaining, strict=True))
    capacity += drafter.gamma + 1
    settings = RunSettings(SamplingParameters(temperature), rule, target.stop_ids)
    cycle = Cycle(target, drafter, len(rows), capacity, settings)
    cycle.begin(rows, remaining, seed)
    while bool(cycle.sequences.remaining.any()):
        cycle.sequences.window = int(cycle.sequences.lengths.max()) + drafter.gamma + 1
        cycle.noise.refresh()
        for stage in cycle.stages:
            stage()
        seen = seen_by_row(cycle)
        yield seen if is_batch else seen[0]


def seen_by_row(cycle: Cycle) -> list[SeenCycle]:
    """What the cycle that has just run did to each sequence."""
    proposal = cycle.drafted.proposal
    target_probs = cycle.settings.sampling.probabilities(cycle.verified.logits)
    drafted, draft_probs = proposal.tokens.tolist(), proposal.probabilities
    chosen = cycle.result[:, COUNTS:].tolist()  # the accepted drafts, then the token after them
    results = [CycleResult.of_row(row) for row in cycle.result.tolist()]
    return [
        SeenCycle(
            drafted=drafted[row],
            accepted=result.accepted,
            next_token=chosen[row][result.accepted],
            emitted=result.emitted,
            target_probs=target_probs[row],
            draft_probs=None if draft_probs is None else draft_probs[row],
        )
        for row, result in enumerate(results)
    ]

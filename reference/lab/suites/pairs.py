"""Scenarios -> measured points: plain and speculative decoding of one pair, interleaved.

Every prompt is decoded with every gamma before the next prompt begins, so a machine that drifts
slows the baseline and the speculation alike. Times are medians over cycles; prefill and warm-up are
not in them.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

from reference.decoding import generate, speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.lab.drift import DriftProbe
from reference.machine import PRECISION_OF
from reference.sampling import SamplingParameters
from reference.statistics import Statistics
from reference.transformer import Transformer
from specsim.evidence.measurement import MeasuredRun, Point, Timing


def measure_pair(
    target: Transformer,
    draft: Transformer,
    prompts: Sequence[Sequence[int]],
    gammas: Iterable[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    counted_prompts: Sequence[Sequence[int]] = (),
    counted_runs: int = 0,
    drift: DriftProbe | None = None,
    calibration_lap: float | None = None,
) -> list[Point]:
    """A point for every gamma, batch 1; gamma 0 is plain decoding and every other's `step_s`.

    A median of times needs few cycles, an acceptance many: `counted_prompts` are decoded besides,
    as one batch, `counted_runs` times with other seeds, for their counts alone. With `drift`, its
    laps are taken between the prompts and compared with `calibration_lap` seconds.
    """
    gammas = sorted({0, *gammas})
    drafters = {gamma: DraftModel(draft, gamma) if gamma else NoDrafter() for gamma in gammas}
    totals = {gamma: Statistics(gamma) for gamma in gammas}
    for gamma in gammas:  # warm up: allocator, kernel selection
        speculate(target, drafters[gamma], prompts[0], min(16, max_new_tokens), temperature)
    rounds = len(prompts) * len(gammas) + counted_runs * (len(gammas) - 1)
    bar = tqdm(total=rounds, desc="measuring", leave=False)
    laps = [drift.lap()] if drift else []
    for index, prompt in enumerate(prompts):
        for gamma in gammas:
            run = speculate(
                target, drafters[gamma], prompt, max_new_tokens, temperature, seed=seed + index
            )
            totals[gamma].extend(run.statistics)
            bar.update()
        laps += [drift.lap()] if drift else []
    for turn in range(counted_runs):
        for gamma in gammas[1:]:
            run = speculate(
                target,
                drafters[gamma],
                counted_prompts,
                max_new_tokens,
                temperature,
                seed=seed + 1000 + turn,
            )
            totals[gamma].extend_counts(run.statistics)
            bar.update()
    bar.close()
    context = round(sum(map(len, prompts)) / len(prompts) + max_new_tokens / 2)
    plain = Timing.of(totals[0].cycle_times)
    drifted = statistics.median(laps) / calibration_lap if laps and calibration_lap else None
    return [
        Point(
            scenario=MeasuredRun(
                target=target.architecture,
                draft=draft.architecture if gamma else None,
                precision=target.precision or PRECISION_OF[target.dtype],
                method="draft-model" if gamma else "plain",
                gamma=gamma,
                rule="greedy" if temperature == 0 else "token",
                temperature=temperature,
                batch=1,
                context=context,
                allocated_context=context,
                mode="eager",
                seed=seed,
            ),
            step_s=plain,
            draft_step_s=Timing.of([s / gamma for s in total.draft_times]) if gamma else None,
            verify_step_s=Timing.of(total.verify_times),
            cycle_s=Timing.of(total.cycle_times),
            host_s=Timing.of(total.host_times),
            survival=total.survival,
            accepted_histogram=total.accepted_histogram,
            tokens_per_cycle=total.tokens_per_cycle,
            tokens_per_cycle_error=total.tokens_per_cycle_error,
            tokens_per_s=total.tokens_per_cycle / total.cycle_s if total.cycle_s else None,
            drift=drifted,
        )
        for gamma, total in totals.items()
    ]


@torch.inference_mode()
def text_trace(
    target: Transformer,
    draft: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> tuple[list[list[float]], list[list[float]]]:
    """What the draft would have kept of text that the target wrote: the input of
    `specsim.acceptance.TextTrace`.

    The target continues each prompt by itself; then one pass of each model over the finished text
    gives p and q at every new token x: the probability min(1, q(x) / p(x)) that x was an accepted
    draft, and the overlap sum min(p, q) there. No cycle is run, so one trace serves every gamma.
    """
    sampling = SamplingParameters(temperature)
    written = generate(target, prompts, max_new_tokens, temperature, seed=seed).tokens
    kept, overlaps = [], []
    for prompt, new in zip(prompts, written, strict=True):
        text = torch.tensor([*prompt, *new], device=target.device)[None]
        here = slice(len(prompt) - 1, -1)  # the positions whose laws the new tokens were drawn from
        p, q = (sampling.probabilities(model(text)[0, here]) for model in (target, draft))
        chosen = text[0, len(prompt) :, None]
        # where rounding hides from p the token that the target chose, q alone decides
        p_chosen, q_chosen = (law.gather(1, chosen).squeeze(1) for law in (p, q))
        ratio = q_chosen / torch.where(p_chosen > 0, p_chosen, 1.0)
        kept.append(ratio.clamp(max=1).tolist())
        overlaps.append(torch.minimum(p, q).sum(-1).clamp(max=1).tolist())
    return kept, overlaps


class Parting(NamedTuple):
    """Where two greedy continuations part, and by how much the target's best logit there exceeds
    its second."""

    index: int
    gap: float


@torch.inference_mode()
def parting(
    target: Transformer, prompt: Sequence[int], one: list[int], other: list[int]
) -> Parting | None:
    """None if two greedy continuations of `prompt` are equal, else where they part."""
    if one == other:
        return None
    index = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    text = torch.tensor([*prompt, *one[:index]], device=target.device)[None]
    best, second = target(text)[0, -1].float().topk(2).values.tolist()
    return Parting(index, best - second)


def first_difference(
    target: Transformer, prompt: Sequence[int], one: list[int], other: list[int]
) -> str | None:
    """None if two greedy continuations are equal; else, in words, where they part, and how close
    the target's choice was."""
    found = parting(target, prompt, one, other)
    if found is None:
        return None
    return f"they part at token {found.index}, where the two best logits differ by {found.gap:.2g}"

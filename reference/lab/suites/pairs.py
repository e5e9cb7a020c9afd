"""Scenarios -> measured points: plain and speculative decoding of one pair, in turn.

Every prompt is decoded with every gamma before the next prompt begins. So a change of the machine's
speed slows plain and speculative decoding alike. Times are medians over cycles, without prefill and
warm-up.
"""

import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from tqdm import tqdm

from reference.decoding import generate, speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.fused import reads_to_the_end
from reference.graphs import window_of
from reference.lab.drift import DriftProbe
from reference.lab.suites.counting import until_tokens, whole_cycles
from reference.machine import PRECISION_OF
from reference.sampling import SamplingParameters
from reference.settings import mode_for
from reference.statistics import Statistics
from reference.transformer import Transformer
from specsim.acceptance import TextTrace
from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.evidence.measurement import Point, RunConditions, Timing


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
    drift: DriftProbe | None = None,
    calibration_drift_s: float | None = None,
    mode: str | None = None,
) -> list[Point]:
    """Measure a point for every gamma, at batch 1.

    Gamma 0 is plain decoding; its time is the `step_s` of every point. A median time needs few
    cycles, an acceptance rate needs many: so `counted_prompts` are also decoded as one batch, with
    another seed, for up to as many tokens each, only to count what is accepted. `drift` is timed
    between the prompts, and compared with `calibration_drift_s`, its seconds at calibration.
    `mode`: as in `stream`.
    """
    gammas, mode = sorted({0, *gammas}), mode_for(target.device, mode)
    drafters = {gamma: DraftModel(draft, gamma) if gamma else NoDrafter() for gamma in gammas}
    totals = {gamma: Statistics(gamma) for gamma in gammas}
    for gamma in gammas:  # warm up, in two cycles or more: allocator, kernel selection
        tokens = min(max(gamma, 0) + 2, max_new_tokens)  # a gamma below 0: the decoder refuses it
        speculate(target, drafters[gamma], prompts[0], tokens, temperature, mode=mode)
    counted_gammas = gammas[1:] if counted_prompts else []
    rounds = len(prompts) * len(gammas) + len(counted_gammas)
    bar = tqdm(total=rounds, desc="measuring", leave=False)
    probed = [drift.now_s()] if drift else []
    for index, prompt in enumerate(prompts):
        for gamma in gammas:
            timed = until_tokens(
                target, drafters[gamma], prompt, max_new_tokens, temperature=temperature,
                seed=seed + index, mode=mode,
            )  # fmt: skip
            totals[gamma].extend(timed)
            bar.update()
        probed += [drift.now_s()] if drift else []
    # as many cycles for each gamma: the larger it is, the more their tokens differ
    most = max(total.tokens_per_cycle or 1.0 for total in totals.values())
    cycles = max(1, round(max_new_tokens / most))
    for gamma in counted_gammas:
        counted = whole_cycles(
            target, drafters[gamma], counted_prompts, cycles, temperature=temperature,
            seed=seed + 1000, mode=mode,
        )  # fmt: skip
        totals[gamma].extend_counts(counted)
        bar.update()
    bar.close()
    length = sum(map(len, prompts)) / len(prompts)
    context, most = round(length + max_new_tokens / 2), length + max_new_tokens
    plain = Timing.of(totals[0].cycle_times)
    drifted = None
    if probed and calibration_drift_s:
        drifted = statistics.median(probed) / calibration_drift_s
    return [
        Point(
            scenario=RunConditions(
                target=target.whole,
                draft=draft.whole if gamma else None,
                precision=target.precision or PRECISION_OF[target.dtype],
                method="draft-model" if gamma else "plain",
                gamma=gamma,
                rule="greedy" if temperature == 0 else "token",
                temperature=temperature,
                batch=1,
                context=context,
                allocated_context=attended(
                    target.architecture, target.device, context, most, gamma, mode
                ),
                mode=mode,
                seed=seed,
                tensor_parallel=devices_of(target),
                draft_tensor_parallel=devices_of(draft) if gamma else 1,
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


def attended(
    target: Architecture, device: torch.device, context: int, most: float, gamma: int, mode: str
) -> int:
    """The slots that a pass reads of each sequence: up to its last token, or, by torch's kernels on
    a GPU, the window, a power of two, of texts of up to `most` tokens."""
    if device.type != "cuda" or reads_to_the_end(target, gamma + 1, mode, device):
        return context + gamma + 1
    return window_of(round(most) + 2 * (gamma + 1))


def devices_of(model: Transformer) -> int:
    """Over how many devices a model is split."""
    return model.whole.num_heads // model.architecture.num_heads


def with_survival(points: Sequence[Point], trace: TextTrace) -> list[Point]:
    """The points with the survival, and the error of its tokens per cycle, that `trace`, of other
    prompts, predicts for their gammas. Points stay as they are at gamma 0, and where fewer than two
    texts of the trace are as long as gamma."""
    made = []
    for point in points:
        with suppress(SpecsimError):
            if gamma := point.scenario.gamma:
                survival = [float(s) for s in trace.at(gamma).vector]
                error = float(trace.tokens_error(gamma))
                point = replace(point, calibration_survival=survival, tokens_error=error)
        made.append(point)
    return made


@torch.inference_mode()
def text_trace(
    target: Transformer,
    draft: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    mode: str | None = None,
) -> tuple[list[list[float]], list[list[float]]]:
    """The input of `specsim.acceptance.TextTrace`, from text that the target writes.

    The target continues each prompt without a draft. Then each model reads the finished text in one
    pass, which gives the distributions p (target) and q (draft) at every new token x. No cycle is
    run, so one trace serves every gamma.

    Returns two lists for each text, with a value for each new token: min(1, q(x) / p(x)), the
    probability that x was an accepted draft, and sum min(p, q), the overlap at this position.
    """
    sampling, mode = SamplingParameters(temperature), mode_for(target.device, mode)
    written = generate(target, prompts, max_new_tokens, temperature, seed=seed, mode=mode).tokens
    kept, overlaps = [], []
    for prompt, new in zip(prompts, written, strict=True):
        text = torch.tensor([*prompt, *new], device=target.device)[None]
        here = slice(len(prompt) - 1, -1)  # the positions that the new tokens were drawn at
        p, q = (sampling.probabilities(model(text)[0, here]) for model in (target, draft))
        chosen = text[0, len(prompt) :, None]
        # p can be 0 for the chosen token, through rounding: then q alone decides
        p_chosen, q_chosen = (probs.gather(1, chosen).squeeze(1) for probs in (p, q))
        ratio = q_chosen / torch.where(p_chosen > 0, p_chosen, 1.0)
        kept.append(ratio.clamp(max=1).tolist())
        overlaps.append(torch.minimum(p, q).sum(-1).clamp(max=1).tolist())
    return kept, overlaps


class Divergence(NamedTuple):
    """The first token in which two greedy continuations differ, and the target's margin there: how
    much its best logit exceeds its second best."""

    index: int
    gap: float


@torch.inference_mode()
def divergence(
    target: Transformer, prompt: Sequence[int], one: list[int], other: list[int]
) -> Divergence | None:
    """The first difference of two greedy continuations of `prompt`; None if they are equal."""
    if one == other:
        return None
    index = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    text = torch.tensor([*prompt, *one[:index]], device=target.device)[None]
    best, second = target(text)[0, -1].float().topk(2).values.tolist()
    return Divergence(index, best - second)


def first_difference(
    target: Transformer, prompt: Sequence[int], one: list[int], other: list[int]
) -> str | None:
    """The same in words; None if the two continuations are equal."""
    found = divergence(target, prompt, one, other)
    if found is None:
        return None
    return (
        f"they differ from token {found.index} on, where the two best logits differ by "
        f"{found.gap:.2g}"
    )

"""One planned point -> one measured point."""

from collections.abc import Mapping

import torch

from reference.chunked_attention import chunked_from
from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.drafters.early_exit import first_layers
from reference.lab.drift import DriftProbe
from reference.lab.suites.models import Models
from reference.lab.suites.pairs import attended, text_trace
from reference.lab.suites.points import PlannedPoint
from reference.lab.suites.variants import (
    Effort,
    Variant,
    counted,
    drafter_of,
    interleaved,
    prompt_length,
    variant_of,
)
from reference.statistics import Statistics
from specsim.acceptance import Z80_SHORT, TextTrace
from specsim.evidence.measurement import Point, RunConditions, Timing

ACCEPTING = ("draft-model", "early-exit", "n-gram")  # methods whose acceptance is measured


class Measurer:
    """Measures points on one device, and keeps the traces from which acceptance is predicted.

    `calibration_drift_s` is the time of the drift probe at calibration by mode, in seconds, where
    it is known.
    """

    def __init__(
        self, device: torch.device, effort: Effort, calibration_drift_s: Mapping[str, float]
    ):
        self.device, self.effort, self.calibration_drift_s = device, effort, calibration_drift_s
        self.probe = DriftProbe(device)
        self._traces: dict[tuple, TextTrace] = {}

    @torch.inference_mode()
    def measure(self, point: PlannedPoint, models: Models) -> Point:
        """Time plain decoding and the point's own method, in turn."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        survival, tokens_error = self.calibrated(point, models)
        expected = 1.0 + sum(survival or ())
        drafter = drafter_of(point, models)
        variants: dict[str, Variant] = {"plain": variant_of(point, models, NoDrafter(), 1.0)}
        if point.gamma:
            drawn = survival if point.synthetic else None
            variants["speculative"] = variant_of(point, models, drafter, expected, drawn)
        probed: list[float] = []
        totals, rounds, left_out = interleaved(
            variants, self.effort, lambda: probed.append(self.probe.now_s(point.mode))
        )
        probed.append(self.probe.now_s(point.mode))
        total = totals.get("speculative", totals["plain"])
        timed = len(total.cycle_times)
        if point.gamma and point.method in ACCEPTING:
            drawn = survival if point.synthetic else None
            more = counted(point, models, drafter, self.effort, drawn)
            total.extend_counts(more)
        return Point(
            scenario=scenario(point, models, total, rounds),
            step_s=Timing.of(totals["plain"].cycle_times),
            draft_step_s=draft_step(point, total),
            verify_step_s=Timing.of(total.verify_times),
            cycle_s=Timing.of(total.cycle_times),
            host_s=Timing.of(total.host_times),
            survival=total.survival,
            accepted_histogram=total.accepted_histogram,
            tokens_per_cycle=total.tokens_per_cycle,
            tokens_per_cycle_error=total.tokens_per_cycle_error,
            tokens_per_s=throughput(point, total),
            calibration_survival=survival,
            tokens_error=tokens_error,
            peak_memory_bytes=self.peak_memory(),
            synthetic_acceptance=point.synthetic,
            notes=f"{models.note}; {timed} cycles timed in {rounds} rounds, {left_out} disturbed"
            + self.reading(),
            name=point.name,
            part=point.part,
            reserved=point.reserved,
            drift=self.drift(probed, point.mode),
        )

    def drift(self, probed: list[float], mode: str) -> float | None:
        """Time of the drift probe over its time at calibration; None if that is not known.

        `probed` holds its seconds during the measurement.
        """
        if mode not in self.calibration_drift_s:
            return None
        return sorted(probed)[len(probed) // 2] / self.calibration_drift_s[mode]

    def reading(self) -> str:
        """A note on how a GPU reads its KV caches. A CPU reads them whole and needs no note."""
        if self.device.type != "cuda":
            return ""
        return f"; windows of {chunked_from()} slots and more read in chunks"

    def peak_memory(self) -> int | None:
        """Most bytes of GPU memory in use since `measure` began; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device)

    def calibrated(self, point: PlannedPoint, models: Models) -> tuple[list[float] | None, float]:
        """The survival for the prediction, from other prompts than the timed ones.

        Returns it with the relative half-width of the 80 % band of its tokens per cycle.
        """
        if point.gamma == 0 or point.method not in ACCEPTING:
            return None, 0.0
        if point.synthetic:
            assert point.alpha is not None
            return [point.alpha**k for k in range(1, point.gamma + 1)], 0.0
        effort = self.effort
        prompts = models.prompts("calibration", effort.calibration_prompts, point.context)
        if point.method == "n-gram":  # it drafts without a distribution, so no trace exists
            run = speculate(
                models.target, drafter_of(point, models), prompts,
                2 * effort.calibration_tokens, point.temperature, seed=2000,
            ).statistics  # fmt: skip
            assert run.survival is not None
            spread = Z80_SHORT * (run.tokens_per_cycle_error or 0.0) / (run.tokens_per_cycle or 1.0)
            return run.survival, spread
        key = (*point.pair, point.method, point.temperature, point.context)
        if key not in self._traces:
            if self._traces and next(iter(self._traces))[:4] != point.pair:
                self._traces.clear()
            draft = models.draft
            if point.method == "early-exit":
                draft = first_layers(models.target, point.draft_layers)
            self._traces[key] = TextTrace(
                *text_trace(
                    models.target,
                    draft,
                    prompts,
                    max_new_tokens=effort.calibration_tokens,
                    temperature=point.temperature,
                )
            )
        trace = self._traces[key]
        vector = [float(s) for s in trace.at(point.gamma).vector]
        return vector, float(trace.tokens_error(point.gamma))


def draft_step(point: PlannedPoint, total: Statistics) -> Timing | None:
    """The time of one draft pass of a cycle; None if drafting computes nothing."""
    if point.gamma == 0 or point.method == "given":
        return None
    return Timing.of([seconds / point.gamma for seconds in total.draft_times])


def throughput(point: PlannedPoint, total: Statistics) -> float | None:
    """Tokens per second of the whole batch; None if no whole cycle was timed."""
    if not total.cycle_s or total.tokens_per_cycle is None:
        return None
    return point.batch * total.tokens_per_cycle / total.cycle_s


def scenario(point: PlannedPoint, models: Models, total: Statistics, rounds: int) -> RunConditions:
    """What was run, in the form of the measured files.

    The context is the mean over the cycles: the prompt and half of the new tokens.
    """
    target, draft = models.target.architecture, models.draft
    if point.method == "early-exit":
        drafting = target.first_layers(point.draft_layers)
    else:
        drafting = draft.architecture if point.method == "draft-model" else None
    written = len(total.cycle_times) / rounds * (total.tokens_per_cycle or 1.0)
    if models.texts is None:
        length = prompt_length(point, round(written))
    else:
        lengths = [len(text) for text in models.texts["timed"]]
        length = sum(lengths) / len(lengths)
    context = round(length + written / 2)
    return RunConditions(
        target=target,
        draft=drafting,
        precision=point.precision,
        method=point.method,
        gamma=point.gamma,
        rule="greedy" if point.temperature == 0 else "token",
        temperature=point.temperature,
        batch=point.batch,
        context=context,
        allocated_context=attended(
            target, models.target.device, context, length + written, point.gamma, point.mode
        ),
        mode=point.mode,
        seed=1,
    )

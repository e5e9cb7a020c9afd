"""Timings of probes -> a System, with its fit error.

Probes are matrix products, attention products and the decoding cycles of small random pairs of
models, all timed on this machine. No probe has the sizes of a model that is predicted afterwards.
The constants are fitted in this order:

1. stacks of matrix products   the time of a product beyond reading its bytes, and the bandwidth
                               that it reaches, by bytes and rows
2. attention                   the slope over cached tokens: with one row (bytes), with many (FLOPs)
3. stages of cycles            the draft, verify and host times, less the times of 1 and 2: seconds
                               per layer, pass, activation byte, draw, logit and cycle, in one fit

The stages are timed inside the decoder's own loop, where the weights of one model push those of the
other out of the processor's caches. All fits minimise relative errors. The 80 % band of the System
is the 80th percentile of its errors on the stages that run passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Floats
from specsim.cost import forward_time
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import ELEMENTWISE, Workload, forward_work, precision

# The first guess of the stages that wait for the host: those that take this many times the time of
# their work on the device.
WAITS = 1.1
ROUNDS = 8  # how often that guess is improved, at most
SMALLEST_ERROR = 0.05  # the least 80 % band: timings change by as much from minute to minute


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A stack of `kernels` matrix products, `weight_bytes` in all, of `rows` rows: `seconds`."""

    weight_bytes: float
    kernels: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AttentionProbe:
    """One attention product of `rows` query rows over `context` cached tokens."""

    context: int
    rows: int
    kv_bytes: float
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class StageProbe:
    """The seconds of one stage of a decoding cycle of a probe pair, with `gamma` drafted tokens.

    `stage` is "draft" (gamma passes of the draft, the first of two rows, and gamma draws), "verify"
    (one pass of the target, gamma + 1 rows) or "host" (the rest of the cycle). `architecture` is
    the model that runs in this stage.
    """

    stage: str
    architecture: Architecture
    gamma: int
    context: int
    seconds: float
    batch: int = 1

    @property
    def passes(self) -> list[int]:
        """The rows of each pass in this stage."""
        if self.stage == "verify":
            return [self.gamma + 1]
        return [2] + [1] * (self.gamma - 1) if self.stage == "draft" else []


@dataclass(frozen=True, slots=True)
class Probes:
    """All timings of one machine; `flops_per_s`, `bandwidth_bytes_per_s`: the highest reached."""

    machine: str
    precision: str
    bandwidth_bytes_per_s: float
    flops_per_s: float
    linear: tuple[LinearProbe, ...]
    attention: tuple[AttentionProbe, ...]
    stages: tuple[StageProbe, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted System with its errors on the probes.

    `residuals` are predicted / measured - 1 of every draft and verify stage that was fitted.
    """

    system: System
    residuals: tuple[float, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median_error(self) -> float:
        """The median of the absolute residuals."""
        return float(np.median(np.abs(self.residuals)))

    @property
    def worst_error(self) -> float:
        """The largest of the absolute residuals."""
        return float(np.max(np.abs(self.residuals)))


def fit(probes: Probes, environment: Mapping[str, Any] | None = None) -> Calibration:
    """The System that fits the probes with the smallest relative errors; no constant is negative.

    Arguments: `probes`; `environment`, plain data that is written into the calibration file.
    """
    stored = precision(probes.precision)
    bandwidth, rate = probes.bandwidth_bytes_per_s, probes.flops_per_s
    weights = weight_efficiency(probes.linear, kernel_overhead(probes.linear), bandwidth)
    kv_bytes_per_s, attention_flops_per_s = attention_rates(probes.attention)
    products_only = Engine(
        name="calibrated",
        weight_efficiency=weights,
        compute_efficiency=1.0,
        kv_efficiency=kv_bytes_per_s / bandwidth,
        attention_compute_efficiency=attention_flops_per_s / rate,
        source="probes on this machine",
        confidence="measured",
    )
    rates = {stored.math: rate, "bf16": rate, "fp32": rate}  # attention multiplies activations
    system = System(Accelerator(probes.machine, bandwidth, rates), products_only, stored)
    return with_overheads(system, probes.stages, environment)


def with_overheads(
    products_only: System,
    stages: Sequence[StageProbe],
    environment: Mapping[str, Any] | None = None,
    host_ahead: bool = False,
) -> Calibration:
    """The System with overheads that fit the stages; no constant is negative.

    Arguments: `products_only`, a System with the times of matrix products and attention; `stages`,
    the timings. `host_ahead`: the host launches kernels one by one and runs ahead of the device. A
    pass then takes the longer of its work and its launches, and a stage tells only about the longer
    one.
    """
    explanations = [explained(probe, products_only) for probe in stages]
    known = np.array([seconds for seconds, *_ in explanations])
    counts = np.array([row for _, *row in explanations])
    measured = np.array([probe.seconds for probe in stages])
    of_passes = np.array([probe.stage != "host" for probe in stages])
    waiting = host_ahead & of_passes & (measured > WAITS * known)
    for _ in range(ROUNDS if host_ahead else 1):
        visible = counts.copy()
        if host_ahead:
            visible[~waiting, :2] = 0.0  # the device's work hides the launches
            visible[waiting, 2] = 0.0  # the launches hide the device's work
        device_s = np.where(waiting, 0.0, known)
        constants = np.array(non_negative_fit(visible / measured[:, None], 1 - device_s / measured))
        launching, working = counts[:, :2] @ constants[:2], known + counts[:, 2] * constants[2]
        again = host_ahead & of_passes & (launching > working)
        if np.array_equal(again, waiting):
            break
        waiting = again
    passing = np.maximum(launching, working) if host_ahead else launching + working
    residuals = ((passing + counts[:, 3:] @ constants[3:]) / measured - 1)[of_passes]
    layer_s, pass_s, activation_s, drafting_s, sampling_s, cycle_s, speculation_s, logit_s = (
        constants.tolist()
    )
    each = ("layer_launch_s", "pass_launch_s")
    if not host_ahead:
        each = ("layer_overhead_s", "pass_overhead_s")
    engine = replace(
        products_only.engine,
        activation_efficiency=1
        / max(activation_s * float(products_only.bandwidth_bytes_per_s), 1e-12),
        drafting_overhead_s=drafting_s,
        sampling_overhead_s=sampling_s,
        cycle_overhead_s=cycle_s,
        speculation_overhead_s=speculation_s,
        logit_overhead_s=logit_s,
        error=max(SMALLEST_ERROR, float(np.quantile(np.abs(residuals), 0.8))),
        **dict(zip(each, (layer_s, pass_s), strict=True)),
    )
    return Calibration(
        replace(products_only, engine=engine), tuple(residuals.tolist()), environment or {}
    )


def explained(probe: StageProbe, system: System) -> tuple[float, ...]:
    """The seconds of a stage's products and attention, and the counts that overheads multiply.

    The counts are: layers, passes, activation bytes, starts of drafting, draws, cycles, cycles with
    drafts, and logits turned into distributions.
    """
    seconds, activations = 0.0, 0.0
    for rows in probe.passes:
        work = forward_work(
            probe.architecture,
            Workload(batch=probe.batch, rows=rows, context=probe.context),
            system.precision,
        )
        for term in forward_time(work, system).terms:
            if term.operator is None:
                continue
            if term.operator.kind == ELEMENTWISE:
                activations += float(term.operator.activation_bytes)
            else:
                seconds += float(term.seconds)
    passes, gamma = len(probe.passes), probe.gamma
    vocab = probe.batch * probe.architecture.vocab_size
    layers = passes * probe.architecture.num_layers
    if probe.stage == "draft":
        return seconds, layers, passes, activations, 1, gamma, 0, 0, gamma * vocab
    if probe.stage == "verify":
        return seconds, layers, passes, activations, 0, 0, 0, 0, 0
    return seconds, 0, 0, 0, 0, 0, 1, float(gamma > 0), (gamma + 1) * vocab


def kernel_overhead(probes: Sequence[LinearProbe]) -> float:
    """Seconds per matrix product beyond reading its bytes.

    Taken from the probe with the fewest bytes per product, whose own reading is neglected. That
    errs high.
    """
    smallest = min(probes, key=lambda probe: probe.weight_bytes / probe.kernels)
    group = [p for p in probes if p.weight_bytes == smallest.weight_bytes and p.rows == 1]
    return min(probe.seconds / probe.kernels for probe in group)


def weight_efficiency(
    probes: Sequence[LinearProbe], kernel_s: float, bandwidth: float
) -> EfficiencyTable:
    """Achieved / peak bandwidth, by bytes of the pass and rows, without the time per product."""
    smallest = min(probe.weight_bytes / probe.kernels for probe in probes)
    kept = [probe for probe in probes if probe.weight_bytes / probe.kernels > smallest]
    sizes = sorted({probe.weight_bytes for probe in kept})
    rows = sorted({probe.rows for probe in kept})
    seconds = {(probe.weight_bytes, probe.rows): probe for probe in kept}
    values = np.empty((len(sizes), len(rows)))
    for i, size in enumerate(sizes):
        for j, width in enumerate(rows):
            probe = seconds[size, width]
            # moving the bytes is assumed to have taken at least a tenth of the time
            moving = max(probe.seconds - probe.kernels * kernel_s, 0.1 * probe.seconds)
            values[i, j] = size / moving / bandwidth
    return EfficiencyTable(np.array(sizes), np.array(rows, float), values)


def attention_rates(probes: Sequence[AttentionProbe]) -> tuple[float, float]:
    """KV bytes/s with one row, and attention FLOP/s with the most rows: slopes over the context."""

    def slope(rows: int, quantity: str) -> float:
        chosen = sorted((p for p in probes if p.rows == rows), key=lambda probe: probe.context)
        first, last = chosen[0], chosen[-1]
        seconds = max(last.seconds - first.seconds, 0.02 * last.seconds)
        return (getattr(last, quantity) - getattr(first, quantity)) / seconds

    widest = max(probe.rows for probe in probes)
    return slope(1, "kv_bytes"), slope(widest, "flops")


def non_negative_fit(columns: Floats, target: Floats) -> list[float]:
    """The coefficients >= 0 with the least sum of absolute errors.

    Absolute errors, not squares: a few probes that other work on the machine disturbed must not
    move the fit.
    """
    weights = np.ones(len(target))
    solution = np.zeros(columns.shape[1])
    for _ in range(30):  # iteratively reweighted least squares
        solution = non_negative_least_squares(columns * weights[:, None], target * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(columns @ solution - target), 0.01))
    return solution.tolist()


def non_negative_least_squares(columns: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0.

    While a coefficient is negative, the most negative one is set to 0 and the rest is fitted again.
    """
    active = list(range(columns.shape[1]))
    result = np.zeros(columns.shape[1])
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    while active:
        solution = np.linalg.lstsq(columns[:, active] / scale[active], target, rcond=None)[0]
        if np.all(solution >= 0):
            result[active] = solution / scale[active]
            break
        active.pop(int(np.argmin(solution)))
    return result

"""Probe timings -> a System, with its fit error.

Probes are matrix products, attention products and decoding cycles of small random pairs, timed on
this machine; none has the shape of a model that is predicted afterwards. The constants are found in
this order:

1. linear stacks    what a matrix product costs beyond its bytes, and the bandwidth it reaches by
                    bytes and rows
2. attention        the slope in cached tokens, with one row (bytes) and with many (FLOPs)
3. laps of cycles   what is left of draft, verify and host time once 1 and 2 are taken off, as
                    seconds per layer, pass, activation byte, draw, logit and cycle, in one fit

Laps are timed inside the decoder's own loop, where one model's weights push the other's out of the
caches. Everything is fitted in relative error. The band of the System is what it misses the laps of
passes by.
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

WAITS = (
    1.1  # a lap that takes so many times its device's work is taken, at first, to wait for the host
)
ROUNDS = 8  # of deciding which laps do
SMALLEST_ERROR = 0.05  # no machine repeats itself better than this from one minute to the next


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A stack of matrix products: `weight_bytes` in `kernels` products, each with `rows` rows, took
    `seconds`."""

    weight_bytes: float
    kernels: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AttentionProbe:
    """One attention product over `context` cached tokens with `rows` query rows."""

    context: int
    rows: int
    kv_bytes: float
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LapProbe:
    """One lap of a decoding cycle of a probe pair with `gamma` drafts.

    `lap` is "draft" (gamma passes of the draft, the first of two rows, and as many draws), "verify"
    (one pass of the target, gamma + 1 rows) or "host" (the rest); `architecture` is the model that
    the lap runs.
    """

    lap: str
    architecture: Architecture
    gamma: int
    context: int
    seconds: float
    batch: int = 1

    @property
    def passes(self) -> list[int]:
        """The rows of each pass in the lap."""
        if self.lap == "verify":
            return [self.gamma + 1]
        return [2] + [1] * (self.gamma - 1) if self.lap == "draft" else []


@dataclass(frozen=True, slots=True)
class Probes:
    """Everything that was timed, and where. `flops_per_s` and `bandwidth_bytes_per_s` are the best
    seen."""

    machine: str
    precision: str
    bandwidth_bytes_per_s: float
    flops_per_s: float
    linear: tuple[LinearProbe, ...]
    attention: tuple[AttentionProbe, ...]
    laps: tuple[LapProbe, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted System and how well it reproduces the passes it was fitted to: relative residuals,
    one per lap of passes."""

    system: System
    residuals: tuple[float, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median_error(self) -> float:
        return float(np.median(np.abs(self.residuals)))

    @property
    def worst_error(self) -> float:
        return float(np.max(np.abs(self.residuals)))


def fit(probes: Probes, environment: Mapping[str, Any] | None = None) -> Calibration:
    """The System that explains the probes, by least squares in relative error; no constant is
    negative."""
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
    machine = System(Accelerator(probes.machine, bandwidth, rates), products_only, stored)
    return with_overheads(machine, probes.laps, environment)


def with_overheads(
    products_only: System,
    laps: Sequence[LapProbe],
    environment: Mapping[str, Any] | None = None,
    host_ahead: bool = False,
) -> Calibration:
    """The System that explains laps, given what products and attention take; no constant is
    negative.

    `host_ahead`: kernels are launched one by one by a host that runs ahead of the device, so a pass
    takes the longer of its work and its launches, and each lap tells of one of them alone.
    """
    explanations = [explained(probe, products_only) for probe in laps]
    known = np.array([seconds for seconds, *_ in explanations])
    counts = np.array([row for _, *row in explanations])
    measured = np.array([probe.seconds for probe in laps])
    of_passes = np.array([probe.lap != "host" for probe in laps])
    waiting = host_ahead & of_passes & (measured > WAITS * known)
    for _ in range(ROUNDS if host_ahead else 1):
        told = counts.copy()
        if host_ahead:
            told[~waiting, :2] = 0.0  # where the device works, launching is hidden
            told[waiting, 2] = 0.0  # and where it waits, its own work is
        device_s = np.where(waiting, 0.0, known)
        constants = np.array(non_negative_fit(told / measured[:, None], 1 - device_s / measured))
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


def explained(probe: LapProbe, system: System) -> tuple[float, ...]:
    """Seconds of a lap that its products explain, and the counts that the overheads are charged by.

    The counts: layers, passes, activation bytes, times drafting began, draws, cycles, cycles that
    drafted, and logits made into laws.
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
    if probe.lap == "draft":
        return seconds, layers, passes, activations, 1, gamma, 0, 0, gamma * vocab
    if probe.lap == "verify":
        return seconds, layers, passes, activations, 0, 0, 0, 0, 0
    return seconds, 0, 0, 0, 0, 0, 1, float(gamma > 0), (gamma + 1) * vocab


def kernel_overhead(probes: Sequence[LinearProbe]) -> float:
    """Seconds per matrix product beyond its bytes: where the fewest bytes per product are moved,
    that is all there is."""
    smallest = min(probes, key=lambda probe: probe.weight_bytes / probe.kernels)
    group = [p for p in probes if p.weight_bytes == smallest.weight_bytes and p.rows == 1]
    return min(probe.seconds / probe.kernels for probe in group)


def weight_efficiency(
    probes: Sequence[LinearProbe], kernel_s: float, bandwidth: float
) -> EfficiencyTable:
    """Achieved over peak bandwidth by bytes of the pass and rows, once the overhead per product is
    taken off."""
    smallest = min(probe.weight_bytes / probe.kernels for probe in probes)
    kept = [probe for probe in probes if probe.weight_bytes / probe.kernels > smallest]
    sizes = sorted({probe.weight_bytes for probe in kept})
    rows = sorted({probe.rows for probe in kept})
    seconds = {(probe.weight_bytes, probe.rows): probe for probe in kept}
    values = np.empty((len(sizes), len(rows)))
    for i, size in enumerate(sizes):
        for j, width in enumerate(rows):
            probe = seconds[size, width]
            # a tenth of the time is the least that moving the bytes can have taken
            moving = max(probe.seconds - probe.kernels * kernel_s, 0.1 * probe.seconds)
            values[i, j] = size / moving / bandwidth
    return EfficiencyTable(np.array(sizes), np.array(rows, float), values)


def attention_rates(probes: Sequence[AttentionProbe]) -> tuple[float, float]:
    """KV bytes per second with one row, and attention FLOPs per second with the most rows: slopes
    in the context."""

    def slope(rows: int, quantity: str) -> float:
        chosen = sorted((p for p in probes if p.rows == rows), key=lambda probe: probe.context)
        first, last = chosen[0], chosen[-1]
        seconds = max(last.seconds - first.seconds, 0.02 * last.seconds)
        return (getattr(last, quantity) - getattr(first, quantity)) / seconds

    widest = max(probe.rows for probe in probes)
    return slope(1, "kv_bytes"), slope(widest, "flops")


def non_negative_fit(columns: Floats, target: Floats) -> list[float]:
    """The coefficients >= 0 with the least absolute error: a burst of other work on the machine
    spoils few probes."""
    weights = np.ones(len(target))
    solution = np.zeros(columns.shape[1])
    for _ in range(30):  # iteratively reweighted least squares
        solution = non_negative_least_squares(columns * weights[:, None], target * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(columns @ solution - target), 0.01))
    return solution.tolist()


def non_negative_least_squares(columns: Floats, target: Floats) -> Floats:
    """Least squares where the most negative coefficient is set to zero and the rest fitted again,
    until none is."""
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

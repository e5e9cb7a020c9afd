"""Probe timings -> a System, with its fit error.

Probes are small kernels and small random transformers, timed on this machine; none has the shape of a model that is
predicted afterwards. Each constant comes from the probe that isolates it, in this order:

1. linear stacks        what a matrix product costs beyond its bytes, and the bandwidth it reaches by (bytes, rows)
2. attention            the slope in cached tokens, with one row (bytes) and with many (FLOPs)
3. whole passes         what is left once 1 and 2 are taken off, as seconds per layer, per pass and per activation byte
4. decoding cycles      sampling, the accept rule, and the host

Everything is fitted in relative error. The band of the System is what whole passes miss by.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.architecture import Architecture
from specsim.catalog import SpecsimError
from specsim.system import Accelerator, EfficiencyTable, Engine, System
from specsim.work import ATTENTION, LINEAR, forward_work, precision

Floats = NDArray[np.float64]

SMALLEST_ERROR = 0.05  # no machine repeats itself better than this from one minute to the next


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A stack of matrix products: `weight_bytes` in `kernels` products, each with `rows` rows, took `seconds`."""

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
class PassProbe:
    """A forward pass of a whole probe transformer."""

    architecture: Architecture
    rows: int
    context: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CycleProbe:
    """What a decoding cycle spends outside its passes: per draft pass, and at its end. Seconds."""

    vocab_size: int
    gamma: int
    sampling_s: float
    host_s: float


@dataclass(frozen=True, slots=True)
class Probes:
    """Everything that was timed, and where. `flops_per_s` and `bandwidth_bytes_per_s` are the best seen."""

    machine: str
    precision: str
    bandwidth_bytes_per_s: float
    flops_per_s: float
    linear: tuple[LinearProbe, ...]
    attention: tuple[AttentionProbe, ...]
    passes: tuple[PassProbe, ...]
    cycles: tuple[CycleProbe, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted System and how well it reproduces the passes it was fitted to: relative residuals, one per pass probe."""

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
    """The System that explains the probes, by least squares in relative error; no constant is negative."""
    stored = precision(probes.precision)
    bandwidth, rate = probes.bandwidth_bytes_per_s, probes.flops_per_s
    kernel_s = kernel_overhead(probes.linear)
    weights = weight_efficiency(probes.linear, kernel_s, bandwidth)
    kv_bytes_per_s, attention_flops_per_s = attention_rates(probes.attention)

    # what the linear and attention terms leave of a pass, explained by layers, passes and activation bytes
    left, known, columns = [], [], []
    for probe in probes.passes:
        work = forward_work(
            probe.architecture, stored, rows=probe.rows, context=probe.context
        )
        linear_bytes = sum(float(o.weight_bytes) for o in work if o.kind == LINEAR)
        linear_flops = sum(float(o.flops) for o in work if o.kind == LINEAR)
        attention = [o for o in work if o.kind == ATTENTION]
        seconds = max(
            linear_bytes / (bandwidth * float(weights.at(linear_bytes, probe.rows))),
            linear_flops / rate,
        ) + sum(
            max(float(o.kv_bytes) / kv_bytes_per_s, float(o.flops) / attention_flops_per_s)
            for o in attention
        )
        activations = sum(float(o.activation_bytes) for o in work if o.kind not in (LINEAR, ATTENTION))
        known.append(seconds)
        left.append(probe.seconds - seconds)
        columns.append((probe.architecture.num_layers, 1.0, activations))
    measured = np.array([probe.seconds for probe in probes.passes])
    layer_s, pass_s, activation_s_per_byte = non_negative_fit(
        np.array(columns) / measured[:, None], np.array(left) / measured
    )
    fitted = np.array(known) + np.array(columns) @ (layer_s, pass_s, activation_s_per_byte)
    residuals = fitted / measured - 1
    cycle_s, speculation_s, sampling_s, logit_s = cycle_overheads(probes.cycles)
    engine = Engine(
        name="calibrated",
        weight_efficiency=weights,
        compute_efficiency=1.0,
        kv_efficiency=kv_bytes_per_s / bandwidth,
        attention_compute_efficiency=attention_flops_per_s / rate,
        activation_efficiency=1 / max(activation_s_per_byte * bandwidth, 1e-12),
        layer_overhead_s=layer_s,
        pass_overhead_s=pass_s,
        cycle_overhead_s=cycle_s,
        speculation_overhead_s=speculation_s,
        sampling_overhead_s=sampling_s,
        logit_overhead_s=logit_s,
        error=max(SMALLEST_ERROR, float(np.quantile(np.abs(residuals), 0.8))),
        source="probes on this machine",
        confidence="measured",
    )
    math = {stored.math: rate}
    # attention multiplies 16-bit activations in whatever the weights are stored
    machine = Accelerator(probes.machine, bandwidth, math | {"bf16": rate, "fp32": rate})
    return Calibration(System(machine, engine, stored), tuple(residuals.tolist()), environment or {})


def kernel_overhead(probes: Sequence[LinearProbe]) -> float:
    """Seconds per matrix product beyond its bytes: where the fewest bytes per product are moved, that is all there is."""
    smallest = min(probes, key=lambda probe: probe.weight_bytes / probe.kernels)
    group = [p for p in probes if p.weight_bytes == smallest.weight_bytes and p.rows == 1]
    return min(probe.seconds / probe.kernels for probe in group)


def weight_efficiency(
    probes: Sequence[LinearProbe], kernel_s: float, bandwidth: float
) -> EfficiencyTable:
    """Achieved over peak bandwidth by bytes of the pass and rows, once the overhead per product is taken off."""
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
    """KV bytes per second with one row, and attention FLOPs per second with the most rows: slopes in the context."""

    def slope(rows: int, quantity: str) -> float:
        chosen = sorted((p for p in probes if p.rows == rows), key=lambda probe: probe.context)
        first, last = chosen[0], chosen[-1]
        seconds = max(last.seconds - first.seconds, 0.02 * last.seconds)
        return (getattr(last, quantity) - getattr(first, quantity)) / seconds

    widest = max(probe.rows for probe in probes)
    return slope(1, "kv_bytes"), slope(widest, "flops")


def cycle_overheads(probes: Sequence[CycleProbe]) -> tuple[float, float, float, float]:
    """Seconds per plain step, more when something was drafted, per draft pass, and per logit turned into a law."""
    rows, values = [], []
    for probe in probes:
        drafting = float(probe.gamma > 0)
        rows.append((1.0, drafting, 0.0, probe.vocab_size * (probe.gamma + 1)))
        values.append(probe.host_s)
        if probe.gamma:
            rows.append((0.0, 0.0, 1.0, probe.vocab_size))
            values.append(probe.sampling_s)
    scale = np.array(values)
    cycle, speculation, sampling, logit = non_negative_fit(
        np.array(rows) / scale[:, None], np.ones(len(scale))
    )
    return cycle, speculation, sampling, logit


def non_negative_fit(columns: Floats, target: Floats) -> list[float]:
    """Least squares with no negative coefficient: the worst offender is set to zero and the rest fitted again."""
    active = list(range(columns.shape[1]))
    while active:
        scale = np.linalg.norm(columns[:, active], axis=0)
        scale[scale == 0] = 1.0
        solution = np.linalg.lstsq(columns[:, active] / scale, target, rcond=None)[0] / scale
        if np.all(solution >= 0):
            break
        active.pop(int(np.argmin(solution * scale)))
    result = [0.0] * columns.shape[1]
    for index, value in zip(active, solution if active else (), strict=True):
        result[index] = float(value)
    return result


# A calibration as a file


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Plain data that `from_json` reads back."""
    system, engine = calibration.system, calibration.system.engine
    table = engine.weight_efficiency
    assert isinstance(table, EfficiencyTable)
    constants = {
        name: value
        for name in Engine.__dataclass_fields__
        if isinstance(value := getattr(engine, name), float | str)
    }
    return {
        "schema_version": 1,
        "kind": "calibration",
        "accelerator": asdict(system.accelerator),
        "precision": asdict(system.precision),
        "engine": constants
        | {
            "weight_efficiency": {
                "pass_bytes": table.pass_bytes.tolist(),
                "rows": table.rows.tolist(),
                "values": table.values.tolist(),
            }
        },
        "residuals": list(calibration.residuals),
        "environment": dict(calibration.environment),
    }


def from_json(data: Mapping[str, Any], name: str = "calibration") -> Calibration:
    """Raises SpecsimError, naming the file, where `data` is not a calibration."""
    try:
        engine = dict(data["engine"])
        table = engine.pop("weight_efficiency")
        arrays = (np.asarray(table[key], float) for key in ("pass_bytes", "rows", "values"))
        stored = type(precision("bf16"))(**data["precision"])
        return Calibration(
            System(
                Accelerator(**data["accelerator"]),
                Engine(weight_efficiency=EfficiencyTable(*arrays), **engine),
                stored,
            ),
            tuple(data["residuals"]),
            data.get("environment", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpecsimError(f"{name} is not a calibration file: {error!r}") from None


def load(path: str | Path) -> Calibration:
    """Read a calibration file; SpecsimError if there is none or it is not one."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecsimError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise SpecsimError(f"{path} is not valid JSON: {error}") from None
    return from_json(data, str(path))

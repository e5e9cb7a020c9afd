"""Timings of probes -> a System, with its fit error.

Probes are matrix products, attention products and the decoding cycles of small random pairs of
models, all timed on this machine. No probe has the sizes of a model that is predicted afterwards.
The constants are fitted in this order:

1. stacks of matrix products   the bandwidth that a product reaches, by bytes of its matrix and rows
2. attention                   seconds per byte of the cache and per FLOP, which add
3. stages of cycles            all that is neither: see `overheads`
4. weights in fewer bits       their own products, and the small kernels of passes with them

The 80 % band of the System is the 80th percentile of its errors on the stages that run passes, and
of how much the times it predicts for them changed between the two halves of the timings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from specsim.evidence.calibration.overheads import (
    ACTIVATION,
    COUNTS,
    OF_ROWS,
    Calibration,
    explained,
    with_overheads,
)
from specsim.evidence.calibration.probes import AttentionProbe, LinearProbe, Probes
from specsim.evidence.calibration.regression import non_negative_fit
from specsim.hardware import Accelerator, EfficiencyTable, Engine, FormatConstants, System
from specsim.operators import precision

STABLE = 0.1  # relative: constants that change more between the halves of the timings are named
CELLS = 0.9  # of a table, whose change is the table's


def fit(probes: Probes, environment: Mapping[str, Any] | None = None) -> Calibration:
    """The System that fits the probes with the smallest relative errors; no constant is negative.

    Arguments: `probes`; `environment`, plain data that is written into the calibration file. Where
    the probes hold the halves of the timings, the calibration says how much each constant changed
    from one to the other, and the band is so much wider.
    """
    fitted = fit_once(probes, environment)
    if not probes.halves:
        return fitted
    first, second = (fit_once(half) for half in probes.halves)
    changes = changes_between(first.system.engine, second.system.engine)
    # a residual is predicted / measured - 1
    drift = [(1 + b) * t / (1 + a) - 1 for a, b, t in zip(
        first.residuals, second.residuals, _stretch(probes.halves), strict=True)]  # fmt: skip
    error = float(np.hypot(fitted.system.engine.error, np.quantile(np.abs(drift), 0.8) / 2))
    engine = replace(fitted.system.engine, error=error)
    return replace(fitted, system=replace(fitted.system, engine=engine), changes=changes)


def _stretch(halves: Sequence[Probes]) -> list[float]:
    """Measured seconds of the second half over the first's, for every stage with passes."""
    pairs = zip(*(half.of_format("").stages for half in halves), strict=True)
    return [second.seconds / first.seconds for first, second in pairs if first.passes]


def fit_once(probes: Probes, environment: Mapping[str, Any] | None = None) -> Calibration:
    """The same of one set of timings, whatever their halves say."""
    own, stored = probes.of_format(""), precision(probes.precision)
    bandwidth, rate = probes.bandwidth_bytes_per_s, probes.flops_per_s
    kv_bytes_per_s, attention_flops_per_s = attention_rates(own.attention)
    products_only = Engine(
        name="calibrated",
        weight_efficiency=weight_efficiency(own.linear, bandwidth),
        compute_efficiency=1.0,
        kv_efficiency=kv_bytes_per_s / bandwidth,
        attention_compute_efficiency=attention_flops_per_s / rate,
        attention_overlap=1.0,
        sorted_at_once=float(probes.sorted_at_once),
        source="probes on this machine",
        confidence="measured",
    )
    rates = {stored.math: rate, "bf16": rate, "fp32": rate}  # attention multiplies activations
    system = System(Accelerator(probes.machine, bandwidth, rates), products_only, stored)
    found = with_overheads(system, own.stages, environment, shares_caches=True)
    formats = constants_of_formats(probes, found.system)
    engine = replace(found.system.engine, formats=formats)
    return replace(found, system=replace(found.system, engine=engine))


def constants_of_formats(probes: Probes, system: System) -> tuple[FormatConstants, ...]:
    """What differs for weights in other formats on a fitted `system`, and the system's own: the
    products, attention where its cache is in another format too, and the small kernels of a pass.

    Attention and small kernels see activations alone. So the probes of one format tell them for all
    formats beside which activations are of one kind.
    """
    timed = next((probe.format for probe in probes.stages if probe.format), None)
    if not probes.formats or timed is None:
        return ()
    bandwidth, engine = float(system.bandwidth_bytes_per_s), system.engine
    tables = {}
    for name in probes.formats:
        linear = probes.of_format(name).linear
        tables[name] = weight_efficiency(linear, bandwidth)
    rates = (engine.kv_efficiency, engine.attention_compute_efficiency)
    if attention := probes.of_format(timed).attention:
        kv_bytes_per_s, flops_per_s = attention_rates(attention)
        rates = (kv_bytes_per_s / bandwidth, flops_per_s / probes.flops_per_s)
    attending: dict[str, Any] = dict(
        zip(("kv_efficiency", "attention_compute_efficiency"), rates, strict=True)
    )
    of_format = replace(engine, weight_efficiency=tables[timed], **attending)
    stored = replace(system, engine=of_format, precision=precision(timed))
    sampled = np.array([getattr(engine, name) for name in COUNTS[ACTIVATION + 1 :]])
    columns, target = [], []
    of_a_cpu = np.isin(np.arange(ACTIVATION + 1), OF_ROWS, invert=True)
    for probe in probes.of_format(timed).stages:
        known, counts = explained(probe, stored)
        left = probe.seconds - known - np.array(counts[ACTIVATION + 1 :]) @ sampled
        columns.append(np.array(counts[: ACTIVATION + 1]) * of_a_cpu / probe.seconds)
        target.append(left / probe.seconds)
    small: dict[str, Any] = dict(
        zip(COUNTS, non_negative_fit(np.array(columns), np.array(target)), strict=False)
    )
    for name in ("layer_element_s", "head_norm_overhead_s"):  # of a GPU
        del small[name]
    small["activation_efficiency"] = 1 / max(small.pop("activation_s") * bandwidth, 1e-12)
    own: dict[str, Any] = {
        each.name: getattr(engine, each.name) for each in fields(FormatConstants)[1:]
    }
    return (
        FormatConstants(probes.precision, **own),
        *(FormatConstants(name, table, **attending, **small) for name, table in tables.items()),
    )


def changes_between(first: Engine, second: Engine) -> dict[str, float]:
    """By constant, how much it differs between two fits: |difference| / the larger; of a table, at
    its ninth cell of ten."""
    changes = {}
    for each in fields(Engine):
        one, other = (getattr(engine, each.name) for engine in (first, second))
        if isinstance(one, EfficiencyTable):
            one, other = one.values, other.values
        elif not isinstance(one, float) or each.name == "error" or not np.isfinite(one + other):
            continue
        largest = np.maximum(one, other)
        if np.all(largest > 0):
            changes[each.name] = float(np.quantile(np.abs(one - other) / largest, CELLS))
    return {name: change for name, change in changes.items() if change > 0}


def weight_efficiency(probes: Sequence[LinearProbe], bandwidth: float) -> EfficiencyTable:
    """Achieved / peak bandwidth, by bytes of a matrix and rows, from the whole time of a product:
    what it takes to begin is in it."""
    seconds = {(p.weight_bytes / p.kernels, p.rows): p.seconds / p.kernels for p in probes}
    sizes = sorted({size for size, _ in seconds})
    rows = sorted({width for _, width in seconds})
    values = [[size / seconds[size, width] / bandwidth for width in rows] for size in sizes]
    return EfficiencyTable(np.array(sizes), np.array(rows), np.array(values), of="matrix")


def attention_rates(probes: Sequence[AttentionProbe]) -> tuple[float, float]:
    """KV bytes/s and attention FLOP/s, whose seconds add: kernels of a processor load a block of
    keys, multiply, and load the next. What a call takes beside them is left to the layers."""
    seconds = np.array([probe.seconds for probe in probes])
    counts = np.array([(probe.kv_bytes, probe.flops, 1.0) for probe in probes])
    byte_s, flop_s, _ = non_negative_fit(counts / seconds[:, None], np.ones(len(seconds)))
    return 1 / max(byte_s, 1e-15), 1 / max(flop_s, 1e-18)

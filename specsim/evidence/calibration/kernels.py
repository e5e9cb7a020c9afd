"""Timings of a GPU's kernels, one by one -> a System.

On a GPU the bandwidth of a matrix product depends on its own matrix and rows, and the bandwidth of
attention on the number of caches that it reads at once. Neither depends on the size of the pass. So
both become tables over kernels:

1. products     time per byte, by bytes of the matrix and rows; matrices with the same bytes and
                different sides are averaged geometrically
2. attention    time per byte, by bytes of one stream (the cache of one key-value head of one
                sequence) and number of streams: a table for each size of heads and each number of
                rows, which holds the arithmetic too
3. stages       of decoding cycles, in the mode that is calibrated: the remaining time, fitted as in
                `overheads`; in eager mode the launches, where they take longer than the kernels

Weights in fewer bits have a table of products of their own. Each kernel is timed inside a CUDA
graph of many, so its time includes the gap between two launches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specsim.checks import Booleans, Floats, SpecsimError
from specsim.cost import ModelPass
from specsim.evidence.calibration.overheads import Calibration, explained, with_overheads
from specsim.evidence.calibration.probes import StageProbe
from specsim.hardware import (
    Accelerator,
    AttentionTable,
    EfficiencyTable,
    Engine,
    FormatConstants,
    System,
)
from specsim.operators import Workload, precision

HEAD_SIZE = 128  # of the heads whose attention stands for all
KERNEL_ERROR = 0.02  # the least band of passes that are all kernels which were timed one by one
PRODUCTS = 4  # of a layer: matrices of different sides
TILE = 8.0  # rows that a product's kernel computes at least


@dataclass(frozen=True, slots=True)
class ProductProbe:
    """(rows, inputs) times an (inputs, outputs) matrix of `weight_bytes`, in `seconds`. `format` is
    that of weights in fewer bits; empty for the models' own."""

    inputs: int
    outputs: int
    rows: int
    weight_bytes: float
    seconds: float
    format: str = ""


@dataclass(frozen=True, slots=True)
class CacheProbe:
    """Attention of `rows` per sequence over `streams` caches of `context` tokens, in `seconds`;
    `is_fused`: by the kernels that recorded modes take where they fit."""

    streams: int
    context: int
    rows: int
    kv_bytes: float
    flops: float
    seconds: float
    head_size: int = HEAD_SIZE
    is_fused: bool = False


@dataclass(frozen=True, slots=True)
class KernelProbes:
    """All timings of one GPU.

    `reads` holds (bytes, seconds) of reading one buffer again and again. `small` holds seconds by
    name: launch gaps, sampling, the host's round trip. `stages` holds the cycles' stages by mode.
    `drawn_in_blocks_from`: so many probabilities of several sequences are drawn from in two steps.
    `chunked_from` is the shortest window by mode, in slots, that attention read in chunks in
    `stages` (in `caches`, that of the first mode): the decoder that is predicted must read in
    chunks from there too.
    """

    machine: str
    precision: str
    reads: tuple[tuple[float, float], ...]
    products: tuple[ProductProbe, ...]
    caches: tuple[CacheProbe, ...]
    stages: Mapping[str, tuple[StageProbe, ...]]
    small: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: float | None = None
    host_ahead: bool = False  # the device is not the host: eager launches run ahead of the device
    chunked_from: Mapping[str, int] = field(default_factory=dict)
    drawn_in_blocks_from: float = 0.0


def fit_kernels(
    probes: KernelProbes, mode: str, environment: Mapping[str, Any] | None = None
) -> Calibration:
    """The System that fits the probes in `mode`; SpecsimError if that mode was not timed."""
    if mode not in probes.stages:
        raise SpecsimError(
            f"no cycles were timed in mode {mode!r}; choose one of {', '.join(probes.stages)}"
        )
    stored = precision(probes.precision)
    bandwidth = sustained(probes.reads)
    own = [probe for probe in probes.products if not probe.format]
    attention = caches_of(probes.caches, mode)
    caches = [probe for probe in attention if probe.head_size == HEAD_SIZE]
    rate = max(2.0 * p.rows * p.inputs * p.outputs / p.seconds for p in own)
    packed = {probe.format for probe in probes.products} - {""}
    engine = Engine(
        name="calibrated",
        weight_efficiency=product_table(own, bandwidth),
        compute_efficiency=1.0,
        kv_efficiency=cache_table([p for p in caches if p.rows == 1], bandwidth),
        attention_compute_efficiency=max(p.flops / p.seconds for p in caches) / rate,
        attention_tables=attention_tables(attention, bandwidth),
        formats=tuple(
            FormatConstants(
                name, product_table([p for p in probes.products if p.format == name], bandwidth)
            )
            for name in sorted(packed)
        ),
        wide_rows=TILE,
        block_draw_from=probes.drawn_in_blocks_from,
        source="probes on this machine",
        confidence="measured",
    )
    rates = {stored.math: rate, "bf16": rate, "fp32": rate}  # attention multiplies activations
    gpu = Accelerator(probes.machine, bandwidth, rates, probes.memory_bytes)
    ahead, stages = probes.host_ahead and mode == "eager", probes.stages[mode]
    products_only = System(gpu, engine, stored)
    fitted = with_overheads(products_only, stages, environment, ahead)
    if found := errors_on_others(products_only, stages, ahead, error_of_sides(own)):
        engine = replace(fitted.system.engine, error=found[0], overhead_error=found[1])
        fitted = replace(fitted, system=replace(fitted.system, engine=engine))
    return fitted


def caches_of(probes: Sequence[CacheProbe], mode: str) -> list[CacheProbe]:
    """The probes of the kernels that attention takes in `mode`: the fused ones where they were
    timed, except eagerly."""
    found = {(p.head_size, p.rows, p.context, p.streams): p for p in probes if not p.is_fused}
    if mode != "eager":
        found |= {(p.head_size, p.rows, p.context, p.streams): p for p in probes if p.is_fused}
    return list(found.values())


def errors_on_others(
    products_only: System, stages: Sequence[StageProbe], ahead: bool, least: float = KERNEL_ERROR
) -> tuple[float, float] | None:
    """How far a fit is from passes of a model that it has not seen: each model's stages are
    predicted by a fit to those of the others. None where fewer than three models were timed.

    Returns two relative errors: of all a pass takes, and, added to it as independent ones add, of
    its overheads alone, which a fit knows less well than the kernels that were timed one by one.
    With both 80 % of the errors are explained, among the passes that have few overheads and among
    those that have many. The first is no less than `least`.
    """
    names = {stage.architecture.name for stage in stages}
    if len(names) < 3:
        return None
    errors, shares = [], []
    for name in names:
        others = [stage for stage in stages if stage.architecture.name != name]
        system = with_overheads(products_only, others, None, ahead).system
        for stage in stages:
            if stage.architecture.name == name and stage.passes:
                errors.append(stage_s(stage, system) / stage.seconds - 1)
                shares.append(1 - explained(stage, products_only)[0] / stage.seconds)
    return two_errors(np.abs(errors), np.clip(shares, 0.01, 1.0), least)


def two_errors(errors: Floats, shares: Floats, least: float = KERNEL_ERROR) -> tuple[float, float]:
    """The `a`, no less than `least`, and `b` for which hypot(a, b * share) is 80 % of the errors,
    of the half with the smaller shares and of the half with the larger ones."""
    few, a, b = shares <= np.median(shares), least, 0.0
    many = ~few if not few.all() else few

    def beyond(known: Floats | float, half: Booleans) -> Floats:
        return np.sqrt(np.maximum(errors**2 - np.asarray(known) ** 2, 0.0))[half]

    for _ in range(20):
        b = float(np.quantile(beyond(a, many) / shares[many], 0.8))
        a = max(least, float(np.quantile(beyond(b * shares, few), 0.8)))
    return a, b


def error_of_sides(probes: Sequence[ProductProbe]) -> float:
    """How far a layer's products are from a table that knows bytes and rows alone, by matrices of
    the same bytes and other sides: 80 % of what each differs from their mean. A layer multiplies
    PRODUCTS of them, whose differences are independent. No less than KERNEL_ERROR.
    """
    logs: dict[tuple[float, int], list[float]] = {}
    for p in probes:
        logs.setdefault((p.weight_bytes, p.rows), []).append(np.log(p.seconds))
    found = [np.abs(np.array(s) - np.mean(s)) for s in logs.values() if len(s) > 1]
    if not found:
        return KERNEL_ERROR
    return max(KERNEL_ERROR, float(np.quantile(np.concatenate(found), 0.8)) / PRODUCTS**0.5)


def stage_s(stage: StageProbe, system: System) -> float:
    """The seconds of a draft or verify stage on a fitted system."""
    model, vocab = stage.architecture, stage.architecture.vocab_size
    passes = [
        ModelPass(model, system, Workload(stage.batch, rows, stage.context))
        for rows in stage.passes
    ]
    seconds = sum(float(each.seconds) for each in passes)
    if stage.stage == "draft":
        engine, system = system.engine, replace(system, greedy=stage.greedy)
        seconds += engine.drafting_overhead_s + stage.gamma * (
            engine.sampling_overhead_s + float(system.sampling_s(stage.batch, stage.batch, vocab))
        )
    return seconds


def sustained(reads: Sequence[tuple[float, float]]) -> float:
    """Bytes per second of the largest reads, which are too large for every cache."""
    largest = max(size for size, _ in reads)
    return max(size / seconds for size, seconds in reads if size >= largest / 4)


def product_table(probes: Sequence[ProductProbe], bandwidth: float) -> EfficiencyTable:
    """Achieved / sustained bandwidth, by bytes of the matrix and rows."""
    sizes = sorted({p.weight_bytes for p in probes})
    rows = sorted({p.rows for p in probes})
    logs: dict[tuple[float, int], list[float]] = {}
    for p in probes:
        logs.setdefault((p.weight_bytes, p.rows), []).append(np.log(p.weight_bytes / p.seconds))
    values = np.array([[np.exp(np.mean(logs[size, row])) for row in rows] for size in sizes])
    return EfficiencyTable(np.array(sizes), np.array(rows, float), values / bandwidth, of="matrix")


def attention_tables(probes: Sequence[CacheProbe], bandwidth: float) -> tuple[AttentionTable, ...]:
    """A table for each size of heads and number of rows."""
    kinds = sorted({(p.head_size, p.rows) for p in probes})
    found = []
    for size, rows in kinds:
        here = [p for p in probes if (p.head_size, p.rows) == (size, rows)]
        first = here[0]
        each = 4.0 * first.streams * first.context * first.head_size  # FLOPs of one query
        queries = first.flops / each
        found.append(AttentionTable(size, rows, queries, cache_table(here, bandwidth)))
    return tuple(found)


def cache_table(probes: Sequence[CacheProbe], bandwidth: float) -> EfficiencyTable:
    """Achieved / sustained bandwidth of probes with the same rows, by bytes of a stream and number
    of streams.

    Where streams x context did not fit into memory, the rate of the longest context that did fit is
    used.
    """
    narrow = {(p.context, p.streams): p for p in probes}
    contexts = sorted({context for context, _ in narrow})
    streams = sorted({count for _, count in narrow})
    values = np.empty((len(contexts), len(streams)))
    stream_bytes = []
    for i, context in enumerate(contexts):
        row = [narrow[context, count] for count in streams if (context, count) in narrow]
        stream_bytes.append(row[0].kv_bytes / row[0].streams)
        for j, count in enumerate(streams):
            probe = narrow.get((context, count))
            values[i, j] = values[i - 1, j] if probe is None else probe.kv_bytes / probe.seconds
    return EfficiencyTable(
        np.array(stream_bytes), np.array(streams, float), values / bandwidth, of="stream"
    )

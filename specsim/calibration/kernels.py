"""A GPU's kernels, probed one by one -> a System.

On a GPU what a product reaches depends on its own matrix and rows, and what attention reaches on
how many caches it reads at once, not on the size of the pass. So both become tables of kernels:

1. products     time per byte by bytes of the matrix and rows; matrices of equal bytes and different
                form are averaged geometrically
2. attention    time per byte by bytes of one stream (the cache of one key-value head of one
                sequence) and streams, at one row; what wide passes take beyond it is arithmetic
3. laps         of decoding cycles, in the mode that is calibrated: what is left, as in `laps`; in
                eager mode the launches instead, where they take longer than the kernels

The times of kernels are those of a kernel within a CUDA graph of many, launch gap included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from specsim.calibration.laps import Calibration, LapProbe, with_overheads
from specsim.catalog import SpecsimError
from specsim.system import Accelerator, EfficiencyTable, Engine, System
from specsim.work import precision

WIDE = 17  # rows from which attention's arithmetic shows


@dataclass(frozen=True, slots=True)
class ProductProbe:
    """(rows, inputs) times an (inputs, outputs) matrix of `weight_bytes` took `seconds`."""

    inputs: int
    outputs: int
    rows: int
    weight_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheProbe:
    """Attention of `rows` per sequence over `context` tokens of `streams` caches took `seconds`."""

    streams: int
    context: int
    rows: int
    kv_bytes: float
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class KernelProbes:
    """Everything that was timed on a GPU. `reads` are (bytes, seconds) of reading a buffer over and
    over; `small` are seconds by name: launch gaps, sampling, the host's round trip. `laps` are by
    mode. `chunked_from` is the shortest window, in slots, that attention read in chunks in
    `caches` and `laps`: the decoder that is predicted must read in chunks from there too."""

    machine: str
    precision: str
    reads: tuple[tuple[float, float], ...]
    products: tuple[ProductProbe, ...]
    caches: tuple[CacheProbe, ...]
    laps: Mapping[str, tuple[LapProbe, ...]]
    small: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: float | None = None
    host_ahead: bool = False  # the device is not the host: eager launches run ahead of it
    chunked_from: int | None = None


def fit_kernels(
    probes: KernelProbes, mode: str, environment: Mapping[str, Any] | None = None
) -> Calibration:
    """The System that explains the probes in `mode`; SpecsimError if its laps were not timed."""
    if mode not in probes.laps:
        raise SpecsimError(f"no laps in mode {mode!r}; there are: {', '.join(probes.laps)}")
    stored = precision(probes.precision)
    bandwidth = sustained(probes.reads)
    rate = max(2.0 * p.rows * p.inputs * p.outputs / p.seconds for p in probes.products)
    engine = Engine(
        name="calibrated",
        weight_efficiency=product_table(probes.products, bandwidth),
        compute_efficiency=1.0,
        kv_efficiency=cache_table(probes.caches, bandwidth),
        attention_compute_efficiency=attention_rate(probes.caches) / rate,
        source="probes on this machine",
        confidence="measured",
    )
    rates = {stored.math: rate, "bf16": rate, "fp32": rate}  # attention multiplies activations
    chip = Accelerator(probes.machine, bandwidth, rates, probes.memory_bytes)
    ahead = probes.host_ahead and mode == "eager"
    return with_overheads(System(chip, engine, stored), probes.laps[mode], environment, ahead)


def sustained(reads: Sequence[tuple[float, float]]) -> float:
    """Bytes per second of the largest reads: those that no cache holds."""
    largest = max(size for size, _ in reads)
    return max(size / seconds for size, seconds in reads if size >= largest / 4)


def product_table(probes: Sequence[ProductProbe], bandwidth: float) -> EfficiencyTable:
    """Achieved over sustained bandwidth by bytes of the matrix and rows."""
    sizes = sorted({p.weight_bytes for p in probes})
    rows = sorted({p.rows for p in probes})
    logs: dict[tuple[float, int], list[float]] = {}
    for p in probes:
        logs.setdefault((p.weight_bytes, p.rows), []).append(np.log(p.weight_bytes / p.seconds))
    values = np.array([[np.exp(np.mean(logs[size, row])) for row in rows] for size in sizes])
    return EfficiencyTable(np.array(sizes), np.array(rows, float), values / bandwidth, of="matrix")


def cache_table(probes: Sequence[CacheProbe], bandwidth: float) -> EfficiencyTable:
    """Achieved over sustained bandwidth by bytes of a stream and streams, at one row.

    Where streams times context did not fit, the rate of the longest context that did holds.
    """
    narrow = {(p.context, p.streams): p for p in probes if p.rows == 1}
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


def attention_rate(probes: Sequence[CacheProbe]) -> float:
    """FLOP/s of attention where many rows make it wait for arithmetic: the median over the probes
    of WIDE rows and more that take longer than one row does; the best rate seen where none does."""
    narrow = {(p.context, p.streams): p.seconds for p in probes if p.rows == 1}
    wide = [
        p.flops / p.seconds
        for p in probes
        if p.rows >= WIDE and p.seconds > 1.1 * narrow.get((p.context, p.streams), np.inf)
    ]
    return float(np.median(wide)) if wide else max(p.flops / p.seconds for p in probes)


def probes_to_json(probes: KernelProbes) -> dict[str, Any]:
    """Plain data, so that a machine's timings can be fitted again without the machine."""
    return {"schema_version": 1, "kind": "kernel-probes"} | asdict(probes)

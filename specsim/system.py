"""A machine as software drives it: Accelerator (datasheet) x Engine (what arrives of it) = System.

The datasheet says what the chip could do, the engine which fraction of it arrives and what every
layer, pass and cycle costs on top. Never one "utilisation" for everything: bandwidth, arithmetic
and attention have an efficiency each, and the overheads are seconds, not per cent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim import catalog
from specsim.catalog import SpecsimError
from specsim.work import (
    PRECISIONS,
    ForwardWork,
    Operator,
    Precision,
    Sharding,
    require_positive,
)
from specsim.work import precision as precision_named

Floats = NDArray[np.float64]


PCIE_LATENCY_S = 20e-6  # of an all-reduce, where the catalog knows no link

# A model whose weights fill no more than this share of the last cache is read from there when a
# pass follows its own. Both numbers are assumed: the cache is shared with activations and KV, and
# published microbenchmarks of A100 and H100 put its read bandwidth at two to three times the
# memory's.
CACHED_SHARE = 0.5
CACHE_SPEEDUP = 2.0


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Datasheet values: bytes, bytes per second, dense FLOP per second by the arithmetic's name.

    `None` or absent is unknown. The bandwidth may be an array, as everything that is asked may be.
    """

    name: str
    bandwidth_bytes_per_s: float | Floats
    flops_per_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: float | None = None
    confidence: str = "measured"
    family: str | None = None  # "hopper", "apple": what an engine's constants may depend on
    kind: str | None = None  # "datacentre-gpu", "edge"
    link_bytes_per_s: float | None = None  # to its peers, both directions together
    link_latency_s: float = 5e-6  # of an all-reduce of a few bytes
    l2_bytes: float | None = None  # the last cache before the memory

    def __post_init__(self) -> None:
        require_positive(f"{self.name}: bandwidth_bytes_per_s", self.bandwidth_bytes_per_s)
        for math, rate in self.flops_per_s.items():
            require_positive(f"{self.name}: flops_per_s of {math}", rate)
        for name in ("memory_bytes", "link_bytes_per_s", "l2_bytes"):
            if getattr(self, name) is not None:
                require_positive(f"{self.name}: {name}", getattr(self, name))
        require_positive(f"{self.name}: link_latency_s", self.link_latency_s, or_zero=True)

    def rate(self, math: str) -> float:
        """Dense FLOP/s of the arithmetic called `math`; infinite, never the bound, if unknown."""
        # a chip without a unit for a format converts the operands to the next wider one it has
        wider = ("fp4", "fp8", "bf16", "fp16", "bf16", "fp32")
        candidates = wider[wider.index(math) :] if math in wider else (math,)
        known = (self.flops_per_s[name] for name in candidates if name in self.flops_per_s)
        return next(known, float("inf"))


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name` in the catalog; SpecsimError with the nearest names if none."""
    row = catalog.lookup("accelerators", name)
    return Accelerator(
        name=catalog.resolve("accelerators", name),
        bandwidth_bytes_per_s=row["bandwidth_bytes_per_s"],
        flops_per_s=dict(row.get("flops_per_s", {})),
        memory_bytes=row.get("memory_bytes"),
        confidence=row["confidence"],
        family=row.get("family"),
        kind=row.get("kind"),
        link_bytes_per_s=row.get("link_bytes_per_s"),
        link_latency_s=row.get("link_latency_s", PCIE_LATENCY_S),
        l2_bytes=row.get("l2_bytes"),
    )


@dataclass(frozen=True, slots=True, eq=False)
class EfficiencyTable:
    """A fraction of the peak by the bytes that a pass streams and by its rows: kernels switch.

    `values[i, j]` holds at `pass_bytes[i]` and `rows[j]`, both rising; between, it is interpolated
    in log bytes and in rows, and beyond the table its edge holds. One size or one row count is
    enough: then it holds for all.

    `of` says whose bytes they are: those of a "pass"; of the "matrix" of one product, whose time,
    the reciprocal, is what is interpolated between rows (past the ridge it rises in a straight
    line); or of one "stream" of attention, the cache of one key-value head of one sequence, with
    the number of streams in the place of rows.
    """

    pass_bytes: Floats
    rows: Floats
    values: Floats
    of: str = "pass"

    def __post_init__(self) -> None:
        for name in ("pass_bytes", "rows", "values"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=float))
        for name in ("pass_bytes", "rows"):
            grid = getattr(self, name)
            if grid.ndim != 1 or not len(grid) or grid[0] <= 0 or np.any(np.diff(grid) <= 0):
                raise SpecsimError(f"{name} of an efficiency table must rise from above 0: {grid}")
        expected = (len(self.pass_bytes), len(self.rows))
        if self.values.shape != expected or not np.all(self.values > 0):
            raise SpecsimError(
                f"an efficiency table must hold {expected} values above 0, "
                f"got shape {self.values.shape} with minimum {self.values.min(initial=1):g}"
            )

    def at(self, pass_bytes: ArrayLike, rows: ArrayLike) -> Floats:
        size, small, large = _locate(np.log(self.pass_bytes), np.log(np.maximum(pass_bytes, 1.0)))
        width, few, many = _locate(self.rows, np.asarray(rows, dtype=float))
        is_time = self.of == "matrix"
        values = 1 / self.values if is_time else self.values
        below = _mix(values[small, few], values[small, many], width)
        above = _mix(values[large, few], values[large, many], width)
        return _mix(1 / below, 1 / above, size) if is_time else _mix(below, above, size)


def _locate(grid: Floats, value: Floats) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Where `value` lies: its share of the way between two grid points, and their indices."""
    upper = np.clip(
        np.searchsorted(grid, value, side="right"), min(1, len(grid) - 1), len(grid) - 1
    )
    lower = np.maximum(upper - 1, 0)
    gap = np.where(upper > lower, grid[upper] - grid[lower], 1.0)
    return np.clip((value - grid[lower]) / gap, 0.0, 1.0), lower, upper


def _mix(a: Floats, b: Floats, share: Floats) -> Floats:
    return a + (b - a) * share


@dataclass(frozen=True, slots=True)
class Engine:
    """What software makes of a chip: efficiencies are fractions of its peak, overheads seconds.

    | field | errs when assumed constant |
    |---|---|
    | `weight_efficiency` | flatters small matrices and odd widths: a table where it was measured |
    | `compute_efficiency` | flatters passes between one row and full tiles |
    | `kv_efficiency`, `attention_compute_efficiency` | flatter short contexts and few KV heads |
    | `layer_overhead_s`, `pass_overhead_s` | punish where launches hide behind long kernels |
    | `cycle_overhead_s` | the host's part of a plain step: sampling and reading the token |
    | `sequence_overhead_s` | the same for every sequence of the batch: scheduling, bookkeeping |
    | `speculation_overhead_s` | what the accept rule and roll-back add where there are drafts |
    | `drafting_overhead_s` | what beginning to draft costs, per cycle that drafts |
    | `sampling_overhead_s` | drawing a drafted token from its logits, per draft pass |
    | `stage_overhead_s` | handing a row to the next device of a layer split, per further device |
    | `kernel_floor_s`, `attention_floor_s` | no product, no attention of a layer takes less |
    | `head_sharded` | whether tensor parallelism splits the LM head too |
    """

    name: str
    weight_efficiency: float | EfficiencyTable = 1.0
    compute_efficiency: float = 1.0
    kv_efficiency: float | EfficiencyTable = 1.0
    attention_compute_efficiency: float = 1.0
    activation_efficiency: float = float("inf")
    layer_overhead_s: float = 0.0
    pass_overhead_s: float = 0.0
    cycle_overhead_s: float = 0.0
    sequence_overhead_s: float = 0.0
    speculation_overhead_s: float = 0.0
    drafting_overhead_s: float = 0.0
    sampling_overhead_s: float = 0.0
    stage_overhead_s: float = 0.0
    kernel_floor_s: float = 0.0
    attention_floor_s: float = 0.0
    head_sharded: bool = True
    logit_overhead_s: float = 0.0  # per logit, wherever a law is made of logits
    error: float = 0.0  # relative half-width of the 80 % band on a pass
    source: str = ""
    confidence: str = "assumed"

    def __post_init__(self) -> None:
        for constant in fields(self):
            value = getattr(self, constant.name)
            if constant.name.endswith("efficiency") and not isinstance(value, EfficiencyTable):
                require_positive(f"engine {self.name}: {constant.name}", value)
            if constant.name.endswith("_s") or constant.name == "error":
                require_positive(f"engine {self.name}: {constant.name}", value, or_zero=True)

    def weight_efficiency_at(self, pass_bytes: ArrayLike, rows: ArrayLike) -> Floats:
        if isinstance(self.weight_efficiency, EfficiencyTable):
            return self.weight_efficiency.at(pass_bytes, rows)
        return np.asarray(self.weight_efficiency)

    def product_efficiency(self, operator: Operator, work: ForwardWork) -> Floats:
        """Of the bandwidth, for one kind of product in a pass, by a table of kernels."""
        return self.weight_efficiency_at(operator.weight_bytes / operator.kernels, work.rows)

    def attention_efficiency(self, operator: Operator) -> Floats:
        """Of the bandwidth, for reading the cache."""
        table = self.kv_efficiency
        if not isinstance(table, EfficiencyTable):
            return np.asarray(table)
        streams = np.maximum(operator.streams, 1.0)
        return table.at(operator.kv_bytes / (np.maximum(operator.kernels, 1.0) * streams), streams)


# What a row of engines.toml says about itself, and is no constant of an Engine.
_ABOUT = ("aliases", "notes", "like", "points", "fit_error")
CEILINGS = {  # bytes per second a kernel never exceeds -> the efficiency that it caps
    "weight_ceiling_bytes_per_s": "weight_efficiency",
    "kv_ceiling_bytes_per_s": "kv_efficiency",
}


def entry(constant: Mapping[str, float], chip: Accelerator | None, precision: str) -> str:
    """The key of a tabled constant that holds for this chip and format; the most special first.

    `"hopper q8_0"`, then `"hopper"`, then `"q8_0"`, then `"default"`; a chip's kind ("edge") goes
    before its family.
    """
    places = [] if chip is None else [place for place in (chip.kind, chip.family) if place]
    special = [key for place in places for key in (f"{place} {precision}", place)]
    return next(key for key in (*special, precision, "default") if key in constant)


def engine_row(name: str, rows: catalog.Table | None = None) -> dict[str, Any]:
    """The constants of an engine, those of the relative it is `like` where it has none of its own.

    Arguments: `rows`, the table of engines (the catalog's).
    """
    row = dict((catalog.load("engines") if rows is None else rows)[name])
    if "like" in row:
        about = (*_ABOUT, "source", "confidence", "error")
        relative = engine_row(row["like"], rows)
        row = {key: value for key, value in relative.items() if key not in about} | row
    return row


def catalog_engine(
    name: str, precision: str, chip: Accelerator | None = None, rows: catalog.Table | None = None
) -> Engine:
    """The engine called `name`, with the constants of its kernels for `precision` on `chip`.

    A ceiling in bytes per second becomes the fraction of the chip's bandwidth that it is. Without
    a chip, or on one of a family that no row names, an engine's defaults hold.
    """
    key = catalog.resolve("engines", name) if rows is None else name
    row = {
        field: value[entry(value, chip, precision)] if isinstance(value, Mapping) else value
        for field, value in engine_row(key, rows).items()
        if field not in _ABOUT
    }
    for ceiling, efficiency in CEILINGS.items():
        limit = row.pop(ceiling, None)
        if limit is not None and chip is not None:
            fraction = np.minimum(row.get(efficiency, 1.0), limit / chip.bandwidth_bytes_per_s)
            row[efficiency] = float(fraction) if np.ndim(fraction) == 0 else fraction
    return Engine(name=key, **row)


@dataclass(frozen=True, slots=True)
class System:
    """One device, or `tensor_parallel` of them, driven by one engine, holding weights in one
    precision."""

    accelerator: Accelerator
    engine: Engine
    precision: Precision
    tensor_parallel: int = 1

    @property
    def bandwidth_bytes_per_s(self) -> float | Floats:
        return self.accelerator.bandwidth_bytes_per_s

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.tensor_parallel, self.engine.head_sharded)

    def after_own_pass(self, weight_bytes: float) -> "System":
        """The System that a pass sees which follows a pass of the same model: weights that fit in
        the last cache are still there.

        `weight_bytes` are what one device streams. A measured efficiency, a table, has the cache in
        it already and stays; so does everything where the cache's size is unknown.
        """
        cache, efficiency = self.accelerator.l2_bytes, self.engine.weight_efficiency
        if isinstance(efficiency, EfficiencyTable):
            return self
        if cache is None or weight_bytes > CACHED_SHARE * cache:
            return self
        return replace(
            self, engine=replace(self.engine, weight_efficiency=CACHE_SPEEDUP * efficiency)
        )

    @property
    def ridge(self) -> float | Floats:
        """FLOP per byte of weights at which loads and arithmetic take as long as each other.

        Of what arrives: the engine's efficiencies count, those of a large pass of one row.
        """
        streaming = self.engine.weight_efficiency_at(1e12, 1.0) * self.bandwidth_bytes_per_s
        computing = self.engine.compute_efficiency * self.accelerator.rate(self.precision.math)
        return computing / streaming

    @property
    def ridge_rows(self) -> float | Floats:
        """Query rows of a pass, over all sequences, beyond which linear layers compute: F b / (2
        BW), two FLOPs and b bytes per weight. A batch of B that verifies gamma drafts has
        B (gamma + 1) rows."""
        return self.ridge * self.precision.weight_bytes / 2.0

    def with_precision(self, name: str) -> "System":
        """The same machine and engine with weights stored in another precision.

        A weight efficiency that is the catalog's becomes the catalog's for the other format; one
        that was measured or set by hand stays. So does a KV format that was chosen.
        """
        precision, engine = precision_named(name), self.engine
        if self.precision.kv_bytes != PRECISIONS.get(self.precision.name, precision).kv_bytes:
            precision = replace(precision, kv_bytes=self.precision.kv_bytes)
        if engine.name in catalog.load("engines"):
            stored, chip = self.precision.name, self.accelerator
            here = catalog_engine(engine.name, stored, chip).weight_efficiency
            if _alike(engine.weight_efficiency, here):
                there = catalog_engine(engine.name, name, chip).weight_efficiency
                engine = replace(engine, weight_efficiency=there)
        return replace(self, precision=precision, engine=engine)

    def with_bandwidth(self, bandwidth_bytes_per_s: float | Floats) -> "System":
        """The same machine and engine with another memory, or with several: an array.

        Where the catalog caps the engine's kernels in bytes per second, the efficiency becomes what
        the cap leaves of the new bandwidth; one that was measured or set by hand stays.
        """
        chip = replace(self.accelerator, bandwidth_bytes_per_s=bandwidth_bytes_per_s)
        engine, stored = self.engine, self.precision.name
        if engine.name in catalog.load("engines"):
            here, there = (
                catalog_engine(engine.name, stored, each) for each in (self.accelerator, chip)
            )
            capped: dict[str, Any] = {
                name: getattr(there, name)
                for name in CEILINGS.values()
                if _alike(getattr(engine, name), getattr(here, name))
            }
            engine = replace(engine, **capped)
        return replace(self, accelerator=chip, engine=engine)


def _alike(one: object, other: object) -> bool:
    """Equal, whether numbers, arrays of them, or one and the same table."""
    return np.array_equal(np.asarray(one), np.asarray(other))


def system(
    accelerator_name: str,
    engine: str = "cuda-graphs",
    precision: str = "bf16",
    kv_precision: str | None = None,
    tensor_parallel: int = 1,
) -> System:
    """The System of a catalog accelerator, or of several, under a catalog engine.

    Raises SpecsimError for an unknown name, with the nearest known ones.
    """
    stored = precision_named(precision)
    if kv_precision is not None:
        stored = replace(stored, kv_bytes=precision_named(kv_precision).weight_bytes)
    chip = accelerator(accelerator_name)
    return System(chip, catalog_engine(engine, precision, chip), stored, tensor_parallel)

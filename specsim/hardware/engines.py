"""The software: which fraction of an accelerator it reaches, and its overheads in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import ArrayLike, Floats, require_flags, require_positive, require_text
from specsim.checks.shown import Shown
from specsim.hardware.accelerators import Accelerator
from specsim.hardware.efficiency import AttentionTable, EfficiencyTable, measured_attention
from specsim.operators import ForwardWork, Operator

# Bytes of a processor's last cache, assumed for every CPU: they have 8 to 64 MB for a few cores.
LAST_CACHE = 32e6


def emptied(weight_bytes: ArrayLike) -> Floats:
    """The share of a processor's caches that is lost to so many bytes of weights, read in between:
    half for as many as the last cache holds, nearly all for ten times as many."""
    nbytes = np.asarray(weight_bytes, float)
    return np.asarray(nbytes / (nbytes + LAST_CACHE))


@dataclass(frozen=True, slots=True)
class FormatConstants:
    """What a calibration measured anew for weights in another `format`; the fields are `Engine`'s,
    and None is what the engine has for its own format.

    On a CPU models with such weights also compute in another format, so their attention and their
    small kernels differ too.
    """

    format: str
    weight_efficiency: EfficiencyTable
    kv_efficiency: float | None = None
    attention_compute_efficiency: float | None = None
    activation_efficiency: float | None = None
    layer_overhead_s: float | None = None
    wide_layer_overhead_s: float | None = None
    pass_overhead_s: float | None = None
    layer_refill_s: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Engine(Shown):
    """What software reaches of an accelerator: efficiencies are fractions of its peak, overheads
    are seconds.

    | field | errs when assumed constant |
    |---|---|
    | `weight_efficiency` | optimistic for small matrices, odd widths; a table where measured |
    | `compute_efficiency` | optimistic between one row and full tiles |
    | `kv_efficiency`, `attention_compute_efficiency` | optimistic: short contexts, few KV heads |
    | `overlap` | how loads and arithmetic of a product overlap: infinite perfectly, 2 or 1 less |
    | `attention_overlap` | the same of attention |
    | `vector_efficiency` | of the 16-bit rate, for kernels of few rows: see `vector_rows` |
    | `layer_overhead_s`, `pass_overhead_s` | the device's gaps; pessimistic after long kernels |
    | `wide_layer_overhead_s` | a layer's more in passes of more than `wide_rows` rows: a CPU's |
    | | threads wake up from two on, a GPU's tiles of eight are full |
    | `layer_refill_s`, `cycle_refill_s` | of a CPU: small kernels and the host's code come back |
    | | into caches that weights have emptied: times `emptied`, twice in a cycle with drafts |
    | `layer_element_s` | a layer's more for each element of a row: of a GPU, whose small kernels |
    | | read a row by one block of threads, and a hundred rows in the same time |
    | `vocabulary_overhead_s` | the same of making distributions, for each token of the vocabulary |
    | `head_norm_overhead_s` | a layer's more where norms of heads are kernels of their own; in |
    | | engines they are part of the rotation: 0 |
    | `layer_launch_s`, `pass_launch_s` | the host's, which runs ahead: a pass takes the longer |
    | `head_norm_launch_s` | the host's too, as `head_norm_overhead_s` |
    | `begin_overhead_s` | beginning a cycle that drafts nothing, or copies drafts: random numbers |
    | `lookup_overhead_s` | finding drafts in the text on the device, where that was timed |
    | `cycle_overhead_s` | the host's part of a plain step: sampling and reading the token |
    | `sequence_overhead_s` | the same for every sequence of the batch: scheduling, bookkeeping |
    | `speculation_overhead_s` | what the accept rule and roll-back add where there are drafts |
    | `verified_row_overhead_s` | the same for every drafted row that is verified |
    | `drafting_overhead_s` | what beginning to draft costs, per cycle that drafts |
    | `sampling_overhead_s` | drawing a drafted token from its logits, per draft pass |
    | `drafted_row_overhead_s` | the same for every row of a draft pass |
    | `draft_model_overhead_s` | one pass of a draft model of its own, beside the pass |
    | `stage_overhead_s` | handing a row to the next device of a layer split, per further device |
    | `kernel_floor_s`, `attention_floor_s` | no product, no attention of a layer takes less |
    | `head_sharded` | whether tensor parallelism splits the LM head too |

    Overheads of a layer are those of an ordinary dense one; other layers count by the kernels that
    they launch (`operators.launches`), unless a compiler `fuses` the small ones. The devices of a
    split model agree on drafts and on what is accepted in rounds, so `speculation_overhead_s`
    counts 1 + log2(devices) times.

    Up to `vector_rows` rows, products of quantised weights run in kernels without matrix units,
    which unpack the weights for every row; beyond, in others that work on tiles of `tile_rows`.

    Launching is optimistic where it counts: the host is taken to be a whole pass ahead when a pass
    begins.
    """

    name: str
    weight_efficiency: float | EfficiencyTable = 1.0
    compute_efficiency: float = 1.0
    kv_efficiency: float | EfficiencyTable = 1.0
    attention_compute_efficiency: float = 1.0
    activation_efficiency: float = float("inf")
    overlap: float = float("inf")
    attention_overlap: float = float("inf")
    vector_efficiency: float = float("inf")
    vector_rows: float = 0.0
    tile_rows: float = 1.0
    layer_overhead_s: float = 0.0
    wide_layer_overhead_s: float = 0.0
    wide_rows: float = 1.0
    pass_overhead_s: float = 0.0
    layer_refill_s: float = 0.0
    layer_element_s: float = 0.0
    head_norm_overhead_s: float = 0.0
    layer_launch_s: float = 0.0
    head_norm_launch_s: float = 0.0
    pass_launch_s: float = 0.0
    begin_overhead_s: float = 0.0
    lookup_overhead_s: float = 0.0
    cycle_overhead_s: float = 0.0
    cycle_refill_s: float = 0.0
    sequence_overhead_s: float = 0.0
    speculation_overhead_s: float = 0.0
    verified_row_overhead_s: float = 0.0
    drafting_overhead_s: float = 0.0
    sampling_overhead_s: float = 0.0
    drafted_row_overhead_s: float = 0.0
    draft_model_overhead_s: float = 0.0
    stage_overhead_s: float = 0.0
    kernel_floor_s: float = 0.0
    attention_floor_s: float = 0.0
    head_sharded: bool = True
    fuses: bool = False
    distribution_overhead_s: float = 0.0  # making distributions, once for all of a batch, and
    rule_overhead_s: float = 0.0  # deciding by them on drafts: neither where decoding is greedy
    likeliest_overhead_s: float = 0.0  # there, per token of the vocabulary, once for a batch
    checking_overhead_s: float = 0.0  # per token of it, once a cycle: whether logits are finite
    block_draw_overhead_s: float = 0.0  # of drawing in two steps, a block of tokens and a token,
    block_draw_from: float = 0.0  # from so many probabilities of several rows on
    vocabulary_overhead_s: float = 0.0  # per token of it, once for all distributions of a batch
    logit_overhead_s: float = 0.0  # per logit, wherever logits become probabilities
    drawing_overhead_s: float = 0.0  # per logit of a distribution that a token is drawn from
    sorting_overhead_s: float = 0.0  # per logit more, where only the likeliest are kept (top-p),
    sorted_at_once: float = 1.0  # of so many distributions at a time
    attention_tables: tuple[AttentionTable, ...] = ()  # in place of `kv_efficiency`, where timed
    formats: tuple[FormatConstants, ...] = ()  # of weights that a calibration timed beside its own
    error: float = 0.0  # relative half-width of the 80 % band on a pass
    overhead_error: float = 0.0  # the same of overheads alone, beside `error`, where both are known
    verification_error: float = 0.0  # the same on a pass of several rows, where that is wider
    # of the 80 % band on a speedup, below and above; None: from the error of a pass
    speedup_low: float | None = None
    speedup_high: float | None = None
    source: str = ""
    confidence: str = "assumed"

    def __post_init__(self) -> None:
        for name in ("name", "source", "confidence"):
            require_text(f"engine: {name}", getattr(self, name))
        for name in ("speedup_low", "speedup_high"):
            if getattr(self, name) is not None:
                require_positive(f"engine {self.name}: {name}", getattr(self, name), or_zero=True)
        require_flags(f"engine {self.name}", head_sharded=self.head_sharded, fuses=self.fuses)
        for constant in fields(self):
            value = getattr(self, constant.name)
            if constant.name.endswith("efficiency") and not isinstance(value, EfficiencyTable):
                require_positive(f"engine {self.name}: {constant.name}", value)
            if constant.name in ("overlap", "attention_overlap", "tile_rows", "sorted_at_once"):
                require_positive(f"engine {self.name}: {constant.name}", value)
            if constant.name.endswith("_s") or constant.name in (
                "error",
                "verification_error",
                "overhead_error",
                "vector_rows",
                "wide_rows",
                "block_draw_from",
            ):
                require_positive(f"engine {self.name}: {constant.name}", value, or_zero=True)

    def storing(self, format: str) -> "Engine":
        """The engine for weights in `format`: with its own constants where they were measured."""
        for own in self.formats:
            if own.format == format:
                measured: dict[str, Any] = {
                    each.name: value
                    for each in fields(own)[1:]
                    if (value := getattr(own, each.name)) is not None
                }
                return replace(self, **measured)
        return self

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
        streams = np.maximum(operator.streams, 1.0)
        stream_bytes = operator.kv_bytes / (np.maximum(operator.kernels, 1.0) * streams)
        if self.attention_tables and operator.head_size:
            return measured_attention(
                self.attention_tables, operator.head_size, stream_bytes, streams, operator.rows,
                operator.queries,
            )  # fmt: skip
        if not isinstance(table, EfficiencyTable):
            return np.asarray(table)
        return table.at(stream_bytes, streams)

    @property
    def band(self) -> str:
        """How well a pass is predicted, in words: the half-width of its 80 % band."""
        overheads = f" and ±{self.overhead_error:.0%} of its overheads"
        return f"±{self.error:.0%}" + (overheads if self.overhead_error else "")

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "confidence": self.confidence,
            "step band": self.band,
            "source": self.source,
        }


# What a row of engines.toml says about itself, and is no constant of an Engine.
_ABOUT = ("aliases", "notes", "like", "points", "fit_error", "fitted_on", "speculated_on")
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
        about = (*_ABOUT, "source", "confidence", "error", "speedup_low", "speedup_high")
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

"""One accelerator, or several, driven by one engine, with weights in one format."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats, SpecsimError
from specsim.checks.shown import Shown, short
from specsim.hardware.accelerators import Accelerator, accelerator
from specsim.hardware.efficiency import EfficiencyTable
from specsim.hardware.engines import CEILINGS, Engine, catalog_engine
from specsim.hardware.offloading import (
    host_engine,
    host_named,
    require_offloadable,
    vector_host,
)
from specsim.operators import AUTO, PRECISIONS, Precision, Sharding, precision_of
from specsim.operators import precision as precision_named

# A model whose weights fill no more than this share of the last cache is read from there when a
# pass follows its own. Both numbers are assumed: the cache is shared with activations and KV, and
# published microbenchmarks of A100 and H100 put its read bandwidth at two to three times the
# memory's.
CACHED_SHARE = 0.5
CACHE_SPEEDUP = 2.0
BY_FORMAT = ("weight_efficiency", "vector_efficiency")  # depend on the format of the weights


@dataclass(frozen=True, slots=True, repr=False)
class System(Shown):
    """One device, or `tensor_parallel` of them, driven by one engine, holding weights in one
    precision; or, where that is "auto", every model in that of its own checkpoint (`storing`).

    The target's first `offloaded_layers`, with their cache, lie in the memory of a `host`, a CPU
    that computes them (llama.cpp's `-ngl`; None: an assumed desktop). Its LM head, and a draft,
    stay on the accelerator. Where tokens are `filtered` (top-p), every distribution
    is sorted; where decoding is `greedy`, there are no distributions. Raises SpecsimError where
    layers cannot be offloaded.
    """

    accelerator: Accelerator
    engine: Engine
    precision: Precision
    tensor_parallel: int = 1
    offloaded_layers: int = 0
    host: Accelerator | None = None
    filtered: bool = False
    greedy: bool = False
    # what `storing` has found: every pass of a prediction asks for it
    _stored: dict[Architecture, "System"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        require_offloadable(
            self.offloaded_layers, self.accelerator, self.engine, self.tensor_parallel, self.host
        )
        if self.offloaded_layers and self.host is None:
            object.__setattr__(self, "host", host_named(None))

    @property
    def on_accelerator(self) -> "System":
        """The same with nothing on the host, as a draft sees it."""
        return replace(self, offloaded_layers=0, host=None) if self.offloaded_layers else self

    @property
    def on_host(self) -> "System":
        """The CPU that computes the offloaded layers, as llama.cpp uses it.

        Raises SpecsimError where no layer is offloaded.
        """
        if self.host is None:
            raise SpecsimError(f"no layer is left to a host of {self.accelerator.name}")
        engine = host_engine(self.engine.name, self.precision.name, self.engine)
        return System(vector_host(self.host), engine, self.precision)

    def require_layers_of(self, model: Architecture) -> None:
        """SpecsimError where more layers are offloaded than `model` has."""
        if self.offloaded_layers > model.num_layers:
            raise SpecsimError(
                f"{model.name} has {model.num_layers} layers; {self.offloaded_layers} cannot be "
                "left to the host"
            )

    def sampling_s(self, distributions: ArrayLike, drawn: ArrayLike, vocab: int) -> Floats:
        """Seconds in which logits over `vocab` tokens become so many distributions, whose likeliest
        tokens are sorted where they are filtered, and a token is drawn from so many of them; or in
        which the likeliest tokens are found. Drawing in two steps is charged for every vocabulary
        (pessimistic for one that cannot be cut into blocks)."""
        engine, many = self.engine, np.asarray(distributions, float)
        if self.greedy:
            return np.zeros_like(many) + engine.likeliest_overhead_s * vocab
        seconds = engine.logit_overhead_s * (many * vocab) + engine.vocabulary_overhead_s * vocab
        seconds = seconds + engine.distribution_overhead_s
        drawing = np.asarray(drawn, float)
        seconds = seconds + engine.drawing_overhead_s * (drawing * vocab)
        in_blocks = (drawing > 1) & (drawing * vocab >= engine.block_draw_from)
        seconds = seconds + engine.block_draw_overhead_s * in_blocks
        if not self.filtered:
            return np.asarray(seconds)
        turns = np.ceil(many / engine.sorted_at_once - 1e-9)
        return np.asarray(seconds + engine.sorting_overhead_s * (turns * vocab))

    @property
    def bandwidth_bytes_per_s(self) -> float | Floats:
        return self.accelerator.bandwidth_bytes_per_s

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.tensor_parallel, self.engine.head_sharded)

    def after_own_pass(self, weight_bytes: float) -> "System":
        """The System for a pass that follows a pass of the same model: weights that fit in the last
        cache are still there.

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
        """Query rows of a pass, over all sequences, beyond which linear layers are compute-bound:
        F b / (2 BW), with two FLOPs and b bytes per weight. A batch of B that verifies gamma drafts
        has B (gamma + 1) rows."""
        return self.ridge * self.precision.weight_bytes / 2.0

    def storing(self, model: Architecture) -> "System":
        """The system as it holds `model`: in the precision of the model's own checkpoint where that
        of the system is "auto", else itself.

        Raises SpecsimError where the checkpoint's quantisation cannot be read.
        """
        if self.precision.name != AUTO:
            return self
        if model not in self._stored:
            self._stored[model] = self.with_precision(precision_of(model))
        return self._stored[model]

    def with_precision(self, name: str | Precision) -> "System":
        """The same accelerator and engine with weights stored in another precision, by its name or
        with bytes of its own.

        A weight or vector efficiency that is the catalog's becomes the catalog's for the other
        format; one that was measured becomes what was measured of the other format, if that
        was timed too. One that was set by hand stays. So does a KV format that was chosen.
        """
        precision = name if isinstance(name, Precision) else precision_named(name)
        engine, chosen = self.engine.storing(precision.name), self.precision.kv_bytes
        usual = PRECISIONS.get(self.precision.name, precision).kv_bytes
        if chosen != usual and np.isfinite(chosen):
            precision = replace(precision, kv_bytes=self.precision.kv_bytes)
        if engine.name in catalog.load("engines"):
            here, there = (
                catalog_engine(engine.name, name, self.accelerator)
                for name in (self.precision.name, precision.name)
            )
            of_format: dict[str, Any] = {
                name: getattr(there, name)
                for name in BY_FORMAT
                if _alike(getattr(engine, name), getattr(here, name))
            }
            engine = replace(engine, **of_format)
        return replace(self, precision=precision, engine=engine)

    def with_bandwidth(self, bandwidth_bytes_per_s: float | Floats) -> "System":
        """The same accelerator and engine with another memory bandwidth, or with several: an array.

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

    def _facts(self) -> dict[str, Any]:
        return {
            "accelerator": self.accelerator.name,
            "devices": self.tensor_parallel,
            "engine": self.engine.name,
            "precision": self.precision.name,
            "bandwidth": f"{short(np.asarray(self.accelerator.bandwidth_bytes_per_s) / 1e9)} GB/s",
            "step band": self.engine.band,
        }


def _alike(one: object, other: object) -> bool:
    """Equal, whether numbers, arrays of them, or one and the same table."""
    return np.array_equal(np.asarray(one), np.asarray(other))


def system(
    accelerator_name: str,
    engine: str = "cuda-graphs",
    precision: str = "bf16",
    kv_precision: str | None = None,
    tensor_parallel: int = 1,
    offloaded_layers: int = 0,
    host: str | None = None,
) -> System:
    """The System of a catalog accelerator, or of several, under a catalog engine.

    `precision` is the format of the weights; "auto" prices every model as its own checkpoint stores
    it, bf16 where that says nothing. `kv_precision` is that of the KV cache (None and "auto": the
    default of `precision`). `offloaded_layers` of the target lie in the memory of `host`, a CPU of
    the catalog (None: an assumed desktop), and are computed there.

    Raises SpecsimError for an unknown name, with the nearest known ones, and for an engine or an
    accelerator that leaves no layers to a host.
    """
    stored = precision_named(precision)
    if kv_precision is not None and kv_precision != AUTO:
        stored = replace(stored, kv_bytes=precision_named(kv_precision).weight_bytes)
    chip = accelerator(accelerator_name)
    cpu = None if host is None else host_named(host)
    constants = catalog_engine(engine, precision, chip)
    return System(chip, constants, stored, tensor_parallel, offloaded_layers, cpu)

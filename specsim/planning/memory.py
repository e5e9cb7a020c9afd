"""Does it fit? What one device must hold of weights, caches and logits, and what would make it fit.

    stored weights + KV of every token + the draft's weights and KV + logits  <=  memory

Unlike a pass, memory holds the embedding and every expert. All bytes are of the fullest device, but
for those of layers that are left to a host; the embedding stays on the device (pessimistic for
llama.cpp, which keeps it on the host). Not
counted: activations of a long prefill, the allocator's slack, the CUDA context (optimistic, by a
gigabyte or two; a `usable` below 1 leaves memory for them). A gigabyte of a datasheet counts as
1e9 bytes, and drivers report 7 % more (pessimistic).

Commands, explorer and sweeps ask whether `MEMORY_SHARE` of the memory suffices: engines such as
vLLM fill no more by default. llama.cpp does: 14 published runs of it took more, so `verdict` tells
that from what no device can hold.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Booleans, Floats, SpecsimError
from specsim.checks.shown import Shown, gigabytes
from specsim.drafting import Drafter
from specsim.hardware import OFFLOADING, System
from specsim.operators import (
    PRECISIONS,
    Precision,
    cache_bytes,
    first_layers_bytes,
    stored_weight_bytes,
)

MEMORY_SHARE = 0.9  # of a device that engines fill by default: vLLM's gpu_memory_utilization
FITS, TOO_LARGE = "fits", "does not fit"
NARROWER = ("fp8", "int8", "int4")
OWN_NARROWER = {  # of engines with formats of their own
    "llama.cpp": ("q8_0", "q4_k_m"), "llama.cpp-2024": ("q8_0", "q4_k_m"),
    "mlx": ("mlx-8bit", "mlx-4bit"),
}  # fmt: skip
CLEARLY = 0.9  # a format is narrower if it takes no more than so much of the other's bytes
MOST_DEVICES = 128
MOST_SEQUENCES = 1e9


@dataclass(frozen=True, slots=True, repr=False)
class Footprint(Shown):
    """Bytes on the fullest device, by what they hold. `capacity_bytes` is what may be filled of the
    `device_bytes` that are there; both are None where unknown.

    `host_weight_bytes` and `host_kv_bytes` lie in host memory instead, of `host_capacity_bytes`.
    """

    weight_bytes: Floats
    kv_bytes: Floats
    draft_weight_bytes: Floats
    draft_kv_bytes: Floats
    logit_bytes: Floats
    capacity_bytes: float | None
    host_weight_bytes: Floats | float = 0.0
    host_kv_bytes: Floats | float = 0.0
    host_capacity_bytes: float | None = None
    device_bytes: float | None = None

    @property
    def host_bytes(self) -> Floats:
        """Weights and cache of the layers that are left to the host."""
        return np.asarray(self.host_weight_bytes + self.host_kv_bytes)

    @property
    def total_bytes(self) -> Floats:
        target = self.weight_bytes + self.kv_bytes + self.logit_bytes
        return target + self.draft_weight_bytes + self.draft_kv_bytes

    @property
    def spare_bytes(self) -> Floats:
        """What is left; negative where it does not fit, infinite where nobody knows."""
        capacity = np.inf if self.capacity_bytes is None else self.capacity_bytes
        return capacity - self.total_bytes

    @property
    def fits(self) -> Booleans:
        there = np.inf if self.host_capacity_bytes is None else self.host_capacity_bytes
        return np.asarray((self.spare_bytes >= 0) & (self.host_bytes <= there))

    @property
    def verdict(self) -> str:
        """Of one scenario: "fits", "over 90 % of the memory" where a larger share would hold it, or
        "does not fit"."""
        if np.all(self.fits):
            return FITS
        whole, usable = self.device_bytes, self.capacity_bytes
        if whole is None or usable is None or not np.all(replace(self, capacity_bytes=whole).fits):
            return TOO_LARGE
        return f"over {100 * usable / whole:.3g} % of the memory"

    def _facts(self) -> dict[str, Any]:
        return {
            "total": gigabytes(self.total_bytes),
            "weights": gigabytes(self.weight_bytes),
            "KV cache": gigabytes(self.kv_bytes),
            "draft": gigabytes(self.draft_weight_bytes + self.draft_kv_bytes),
            "logits": gigabytes(self.logit_bytes),
            "capacity": "unknown"
            if self.capacity_bytes is None
            else gigabytes(self.capacity_bytes),
            "fits": str(self.fits),
        }


def footprint(
    target: Architecture,
    system: System,
    *,
    batch: ArrayLike = 1,
    context: ArrayLike = 1024,
    gamma: ArrayLike = 0,
    drafter: Drafter | None = None,
    usable: float = 1.0,
) -> Footprint:
    """What the fullest device of `system` must hold to decode `batch` sequences of `context` tokens
    with `gamma` drafts in flight.

    The numeric arguments broadcast. The weights and caches of a `drafter` are added to the
    target's, unless it has a device of its own. `usable` is the share of the memory that may be
    filled. Layers that are left to a host count there, with their cache.

    Raises SpecsimError where more layers are left to the host than the target has.
    """
    drafting_system, system = system.on_accelerator, system.storing(target)
    system.require_layers_of(target)
    stored, devices = system.precision, system.tensor_parallel
    capacity = system.accelerator.memory_bytes
    slots = np.asarray(context, float) + np.asarray(gamma, float)
    in_flight = np.asarray(gamma, float) + 1.0
    draft_weights: ArrayLike = 0.0
    draft_kv: ArrayLike = 0.0
    if drafter is not None:
        draft_weights, draft_kv = drafter.held_bytes(
            drafting_system, batch=batch, slots=slots, states=in_flight
        )
    cached = {"batch": batch, "slots": slots, "tensor_parallel": devices, "states": in_flight}
    weights = stored_weight_bytes(target, stored, system.sharding)
    caches = cache_bytes(target, stored, **cached)
    offloaded, host = system.offloaded_layers, system.host
    there_kv = np.zeros_like(caches)
    if offloaded:
        there_kv = cache_bytes(target.first_layers(offloaded), stored, **cached)
    there = first_layers_bytes(target, stored, offloaded)
    return Footprint(
        weight_bytes=np.asarray(weights - there),
        kv_bytes=caches - there_kv,
        draft_weight_bytes=np.asarray(draft_weights),
        draft_kv_bytes=np.asarray(draft_kv),
        logit_bytes=4.0 * np.asarray(batch, float) * in_flight * target.vocab_size,
        capacity_bytes=None if capacity is None else capacity * usable,
        host_weight_bytes=np.asarray(there),
        host_kv_bytes=there_kv,
        host_capacity_bytes=None if host is None else host.memory_bytes,
        device_bytes=capacity,
    )


def remedies(target: Architecture, system: System, **scenario: object) -> tuple[str, ...]:
    """What, each alone, would make a scenario fit that does not; empty where it does.

    Arguments: those of `footprint`, each a single number. The answers are an equal system with more
    devices (where they can be linked: cards, not phones), layers left to the host (where the engine
    can), a narrower format (which leaves the LM head in 16 bits), a smaller batch or context, or no
    draft.
    """

    system = system.storing(target)

    def spare(machine: System = system, /, **changes: object) -> float:
        found = footprint(target, machine, **(scenario | changes))  # type: ignore[arg-type]
        if np.ndim(found.spare_bytes):
            raise SpecsimError("remedies are for one scenario at a time, not for an array")
        return float(found.spare_bytes) if found.fits or found.spare_bytes < 0 else -1.0

    if spare() >= 0:
        return ()
    found = []
    most = MOST_DEVICES if system.accelerator.has_peers else system.tensor_parallel
    for devices in range(system.tensor_parallel + 1, most + 1):
        try:
            fits = spare(replace(system, tensor_parallel=devices)) >= 0
        except SpecsimError:  # the heads of the target, or of its draft, do not divide
            continue
        if fits:
            found.append(f"tensor_parallel = {devices}")
            break
    found += _offloading(target, system, lambda machine: spare(machine) >= 0)
    for name, narrow in _narrower(system):
        if spare(replace(system, precision=narrow)) >= 0:
            found.append(f"weights in {name}")
            break
    for name in ("batch", "context"):
        if most := _largest(name, lambda change: spare(**change) >= 0):
            found.append(f"{name} of at most {most}")
    if scenario.get("drafter") is not None and spare(drafter=None) >= 0:
        found.append("no drafter")
    return tuple(found)


def _narrower(system: System) -> Iterator[tuple[str, Precision]]:
    """The formats that take clearly less than the weights do, the widest first. The LM head and the
    embedding stay in 16 bits, as in the files of AWQ and GPTQ, but for an engine's own formats."""
    own = OWN_NARROWER.get(system.engine.name)
    for name in own or NARROWER:
        narrow = replace(PRECISIONS[name], kv_bytes=system.precision.kv_bytes)
        if own is None:
            narrow = replace(narrow, head_bytes=2.0, table_bytes=2.0)
        if narrow.weight_bytes <= CLEARLY * system.precision.weight_bytes:
            yield name, narrow


def _offloading(
    target: Architecture, system: System, fits: Callable[[System], bool]
) -> Iterator[str]:
    """The fewest layers that the host must hold for a scenario to fit, where the engine can."""
    if system.engine.name not in OFFLOADING:
        return
    for layers in range(system.offloaded_layers + 1, target.num_layers + 1):
        try:
            there = replace(system, offloaded_layers=layers)
        except SpecsimError:  # of an accelerator with one memory, or split
            return
        if fits(there):
            yield f"offloaded_layers = {layers}"
            return


def largest_batch(target: Architecture, system: System, **scenario: object) -> int | None:
    """The most sequences that fit, 0 if not even one; None where no number is too many or the
    memory is unknown.

    Arguments: those of `footprint` but `batch`, each a single number.
    """
    if system.accelerator.memory_bytes is None:
        return None

    def fits(change: dict[str, object]) -> bool:
        return bool(footprint(target, system, **(scenario | change)).fits)  # type: ignore[arg-type]

    return None if fits({"batch": MOST_SEQUENCES}) else _largest("batch", fits)


def largest_batches(target: Architecture, system: System, **scenario: object) -> Floats | None:
    """How many sequences fill the memory, as real numbers; negative where the weights alone do not
    fit, None where the memory is unknown.

    (memory - weights) / (KV and logits of a sequence). Arguments: those of `footprint` but `batch`;
    they broadcast. It draws the line where memory ends; for one scenario see `largest_batch`.
    """
    if system.accelerator.memory_bytes is None:
        return None
    none, one = (
        footprint(target, system, **(scenario | {"batch": batch}))  # type: ignore[arg-type]
        for batch in (0, 1)
    )
    with np.errstate(divide="ignore"):  # a model without a cache
        return np.asarray(none.spare_bytes / (one.total_bytes - none.total_bytes))


def _largest(name: str, fits: Callable[[dict[str, object]], bool]) -> int:
    """The largest whole number that fits, where some large one does not; 0 if none does."""
    low, high = 0, 1
    while fits({name: high}):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits({name: middle}) else (low, middle)
    return low


def capacity_words(found: Footprint, system: System) -> str:
    """How much memory may be filled, and of how much: "72.0 GB (90 % of 80)"."""
    whole, usable = system.accelerator.memory_bytes, found.capacity_bytes
    if whole is None or usable is None:
        return "unknown memory"
    said = f"{usable / 1e9:.1f} GB"
    return said if usable == whole else f"{said} ({100 * usable / whole:.3g} % of {whole / 1e9:g})"


def shortage(
    found: Footprint, target: Architecture, system: System, **scenario: object
) -> str | None:
    """A sentence on what does not fit, by how much, and what would help; None where it fits.

    `found` is the footprint of the other arguments, each a single number.
    """
    if np.all(found.fits):
        return None
    assert found.capacity_bytes is not None
    ways = remedies(target, system, **scenario)
    held = {
        "weights": found.weight_bytes,
        "KV cache": found.kv_bytes,
        "the draft": found.draft_weight_bytes + found.draft_kv_bytes,
        "logits": found.logit_bytes,
    }
    parts = ", ".join(f"{name} {float(size) / 1e9:.1f}" for name, size in held.items() if size)
    accelerator, devices = system.accelerator.name, system.tensor_parallel
    several = f" (each of {devices})" if devices > 1 else ""
    if found.verdict != TOO_LARGE and found.device_bytes is not None:
        share = np.ceil(100 * float(found.total_bytes) / found.device_bytes) / 100
        ways = (f"memory_share = {share:g}", *ways)
    return (
        f"{target.name} needs {float(found.total_bytes) / 1e9:.1f} GB ({parts}) on a {accelerator}"
        f"{several} with {capacity_words(found, system)}; "
        f"what would make it fit: {'; or '.join(ways) or 'nothing alone'}"
    )

"""Tensor parallelism: what one of several devices holds of a layer (Megatron, arXiv:1909.08053).

Heads, the MLP's width and every expert's width are split evenly. Each device computes a part of
every layer's two sums, which an all-reduce completes. Every device holds norms, the router and the
latent of MLA in full, and a copy of a KV head where the devices are more than the KV heads: what is
not split does not get faster.
"""

from dataclasses import dataclass

from specsim.architecture import (
    Architecture,
    Attention,
    Mixer,
    Recurrent,
    halves_of,
    kinds_of,
    mixers_of,
)
from specsim.checks import SpecsimError
from specsim.checks.limits import require_limit


@dataclass(frozen=True, slots=True)
class Sharding:
    """How many devices share a pass, and whether they share the LM head too (gpt-fast's do not)."""

    devices: int = 1
    head_sharded: bool = True


WHOLE = Sharding()


def require_even_split(model: Architecture, devices: int) -> None:
    """SpecsimError unless `devices` can share the heads of every layer evenly."""
    require_limit("tensor_parallel", devices)
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise SpecsimError(f"tensor_parallel must be a whole number >= 1, not {devices!r}")
    if not splits_evenly(model, devices):
        possible = [n for n in range(1, model.num_heads + 1) if splits_evenly(model, n)]
        kv = "" if model.latent else f" and {model.num_kv_heads} KV heads"
        raise SpecsimError(
            f"{model.name}: {devices} devices cannot share {model.num_heads} heads{kv} evenly; "
            f"tensor_parallel may be {', '.join(map(str, possible))}"
        )


def splits_evenly(model: Architecture, devices: int) -> bool:
    """Whether `devices` can share the heads of every layer evenly."""
    return all(_splits(mixer, devices) for mixer, _ in mixers_of(model))


def _splits(mixer: Mixer, devices: int) -> bool:
    if isinstance(mixer, Recurrent):
        return mixer.heads % devices == 0
    if mixer.num_heads % devices:
        return False
    kv_heads = mixer.num_kv_heads
    return bool(mixer.latent) or kv_heads % devices == 0 or devices % kv_heads == 0


def kv_heads_held(attention: Attention, devices: int) -> int:
    """KV heads of one device: at least one, a copy, where the devices are more than the heads."""
    return max(1, attention.num_kv_heads // devices)


def all_reduces(model: Architecture) -> int:
    """In a pass: one after every mixer and every MLP; one where both feed the same sum."""
    together = sum(
        count
        for layer, count in kinds_of(model)
        if layer.norms == 1 and layer.mixers and layer.mlp is not None
    )
    return halves_of(model) - together

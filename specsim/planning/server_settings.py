"""What else a server is started with: its cache, its memory, its limits, in its engine's words.

Nothing is set that was not asked for, so that an engine's own defaults hold.
"""

from dataclasses import dataclass

from specsim.architecture import Architecture
from specsim.operators import AUTO, PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a plan was priced with beside its drafts; None is the default, which nobody is told.

    Arguments: `kv_precision`, the format of the KV cache; `memory_share`, of a device that may be
    filled, and `free_share`, how much of what the weights leave free that is (None: unknown);
    `max_seqs`, requests at a time; `max_batched_tokens`, tokens of a pass; `kv_tokens`, of the
    whole cache.
    """

    kv_precision: str | None = None
    memory_share: float | None = None
    free_share: float | None = None
    max_seqs: int | None = None
    max_batched_tokens: int | None = None
    kv_tokens: int | None = None


# Words of a command, and what TensorRT-LLM takes from its file alone. Sources: docs.vllm.ai,
# cli/serve; docs.sglang.io, advanced_features/server_arguments; TensorRT-LLM, commands/serve.py and
# KvCacheConfig.
CACHES = {"vllm": {"fp8": "fp8"}, "sglang": {"fp8": "fp8_e5m2"}, "tensorrt-llm": {"fp8": "fp8"}}
OPTIONS = {
    "vllm": {
        "kv_precision": "--kv-cache-dtype",
        "memory_share": "--gpu-memory-utilization",
        "max_seqs": "--max-num-seqs",
        "max_batched_tokens": "--max-num-batched-tokens",
    },
    "sglang": {
        "kv_precision": "--kv-cache-dtype",
        "memory_share": "--mem-fraction-static",
        "max_seqs": "--max-running-requests",
        "max_batched_tokens": "--chunked-prefill-size",
        "kv_tokens": "--max-total-tokens",
    },
    "tensorrt-llm": {
        "kv_precision": "dtype",
        "free_share": "free_gpu_memory_fraction",
        "max_seqs": "--max_batch_size",
        "max_batched_tokens": "--max_num_tokens",
        "kv_tokens": "max_tokens",
    },
}
NOTES = {
    "--mem-fraction-static": "is of weights and KV cache alone: activations and CUDA graphs come "
    "on top",
    "--chunked-prefill-size": "limits the passes that read prompts, not those that decode",
    "free_gpu_memory_fraction": "is the cache's share of what the weights leave free",
}


@dataclass(frozen=True, slots=True)
class EngineWords:
    """How an engine is told: `words` of its command, `lines` of its file, and `notes`, on what it
    has no option for, and on what an option leaves open."""

    words: tuple[str, ...]
    lines: tuple[str, ...]
    notes: tuple[str, ...]


def told(
    engine: str, settings: ServerSettings, target: Architecture, precision: str | None
) -> EngineWords:
    """How `engine` is told what was asked for.

    Arguments: `precision`, that of the target's weights (None and "auto": its checkpoint's).
    """
    known, words, lines, notes = OPTIONS[engine], list[str](), list[str](), list[str]()
    share = "memory_share"
    if share not in known and settings.free_share is not None:
        share = "free_share"
    for name, called in (
        ("kv_precision", "KV cache in {}"),
        (share, "memory share {:.4g}"),
        ("max_seqs", "{} requests at a time"),
        ("max_batched_tokens", "{} tokens of a pass"),
        ("kv_tokens", "KV cache of {} tokens"),
    ):
        value, option = getattr(settings, name), known.get(name)
        if value is None or (name == "kv_precision" and is_usual(value, target, precision)):
            continue
        if option is None or (name == "kv_precision" and value not in CACHES[engine]):
            notes.append(f"{called.format(value)}: no option of {engine} for it is known here")
            continue
        said = CACHES[engine][value] if name == "kv_precision" else f"{value:.4g}"
        said = str(value) if isinstance(value, int) else said
        if option.startswith("--"):
            words += [option, said]
        else:
            lines.append(f"  {option}: {said}")
        notes += [f"{option} {NOTES[option]}"] if option in NOTES else []
    head = ("kv_cache_config:",) if lines else ()
    return EngineWords(tuple(words), (*head, *lines), tuple(notes))


def is_usual(cache: str, target: Architecture, precision: str | None) -> bool:
    """Whether a KV cache in this format is what a server has by default."""
    stored, own = target.stored, precision in (None, AUTO)
    if cache == AUTO:
        return True
    if own and stored is not None and stored.kv_bits is not None:
        return 8 * PRECISIONS[cache].weight_bytes == stored.kv_bits
    usual = PRECISIONS.get(precision or AUTO, PRECISIONS["bf16"])
    return PRECISIONS[cache].weight_bytes == usual.kv_bytes

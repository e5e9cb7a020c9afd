"""What a serving engine does with memory and time: paging, chunks of prompts, promises of speed."""

import numpy as np

from specsim.course.quiz.kinds import Question
from specsim.course.quiz.models import BF16, GB, H100, LLAMA_8B, plain, streamed_bytes
from specsim.operators import cache_bytes
from specsim.planning.memory import footprint, largest_batch
from specsim.planning.prefill import prefill_s

SECTION = "Engines"
USABLE = 0.9  # of the memory: what engines fill by default
PAGED = "PagedAttention, arXiv:2309.06180"
SARATHI = "Sarathi-Serve, arXiv:2403.02310"


def token_bytes() -> float:
    """Bytes that one more token of a sequence takes in the cache of the 8B model."""
    two, one = (float(cache_bytes(LLAMA_8B, BF16, batch=1, slots=n)) for n in (2, 1))
    return two - one


def paged_cache() -> dict[str, float]:
    """How many requests fit if the cache is paged, and if each reserves the longest length."""
    held = footprint(LLAMA_8B, H100, batch=1, context=1, usable=USABLE)
    assert held.capacity_bytes is not None
    weights, memory = float(held.weight_bytes), held.capacity_bytes
    spare, token = memory - weights, token_bytes()
    mean, longest = 1024, 8192
    return {
        "paged": spare / token / mean,
        "reserved": spare / token / longest,
        "without_weights": memory / token / mean,
        "query_heads": spare / token / mean * LLAMA_8B.num_kv_heads / LLAMA_8B.num_heads,
        "spare_gb": spare / GB,
        "tokens": spare / token,
        "unused_percent": 100.0 * (1.0 - mean / longest),
    }


def chunked_prefill() -> dict[str, float]:
    """How long a prompt keeps the others waiting, in one pass and in chunks."""
    prompt = 8192
    step = plain(LLAMA_8B, H100, batch=32, context=1024)
    numbers: dict[str, float] = {
        f"pass_{chunk}_ms": 1e3 * float(prefill_s(LLAMA_8B, H100, prompt=prompt, chunk=chunk))
        for chunk in (128, 512, prompt)
    }
    return numbers | {
        "whole_ms": numbers["pass_8192_ms"],
        "chunk_ms": numbers["pass_512_ms"] / (prompt / 512),
        "step_ms": 1e3 * float(step.step_s),
        "weights_ms": 1e3 * float(streamed_bytes(LLAMA_8B) / H100.bandwidth_bytes_per_s),
        "as_steps_ms": 1e3 * prompt * float(plain(LLAMA_8B, H100).step_s),
        "small_chunks": numbers["pass_128_ms"] / numbers["pass_8192_ms"],
        "large_chunks": numbers["pass_512_ms"] / numbers["pass_8192_ms"],
    }


def users_at_a_speed() -> dict[str, float]:
    """The largest batch that keeps a promise of 20 ms per token."""
    promised_s, context = 20e-3, 2048
    fits = largest_batch(LLAMA_8B, H100, context=context)
    assert fits is not None
    batch = np.arange(1, fits + 1)
    step_s = plain(LLAMA_8B, H100, batch=batch, context=context).step_s
    alone_s = float(step_s[0])
    kept = int(batch[step_s <= promised_s].max())
    return {
        "users": float(kept),
        "memory": float(fits),
        "shared": promised_s / alone_s,
        "alone_ms": 1e3 * alone_s,
        "cache_gb": kept * context * token_bytes() / GB,
        "weight_gb": streamed_bytes(LLAMA_8B) / GB,
    }


def cache_or_weights() -> dict[str, float]:
    """The cached tokens at which the cache is as large as the weights that a pass reads."""
    tokens = streamed_bytes(LLAMA_8B) / token_bytes()
    return {
        "tokens": tokens,
        "keys_only": 2.0 * tokens,
        "query_heads": tokens * LLAMA_8B.num_kv_heads / LLAMA_8B.num_heads,
        "stored": 2.0 * LLAMA_8B.parameters / token_bytes(),
        "batch_at_2048": tokens / 2048,
        "saved_gb": streamed_bytes(LLAMA_8B) / 2.0 / GB,
    }


QUESTIONS = (
    Question(
        id="paged-cache",
        section=SECTION,
        prompt=(
            "A server fills 90 % of an H100 with 80 GB with Llama-3-8B in bf16 and its cache. A "
            "request may have 8192 tokens, and has 1024 on average. The cache is paged. How many "
            "requests does it hold?"
        ),
        answer="paged",
        unit="requests",
        tolerance=0.05,
        mistakes={
            "you reserve the longest length for every request": "reserved",
            "you forget that the weights are in the same memory": "without_weights",
            "you count the query heads": "query_heads",
        },
        worked=paged_cache,
        in_short=(
            "{paged:.0f}. With a reservation of 8192 tokens each it is {reserved:.0f}, and "
            "{unused_percent:.0f} % of the reserved memory stays empty. Paging buys batch, and the "
            "batch buys tokens per second."
        ),
        sources=(PAGED, "NVIDIA H100 datasheet", "Llama-3-8B config.json"),
    ),
    Question(
        id="chunked-prefill",
        section=SECTION,
        prompt=(
            "On an ideal H100, 32 users of Llama-3-8B decode at 1024 tokens of context. A prompt "
            "of 8192 tokens arrives and is read in one pass. How many ms does this pass keep the "
            "others waiting?"
        ),
        answer="whole_ms",
        unit="ms",
        mistakes={
            "you take a pass of any width for a decode step": "step_ms",
            "you count the bytes of the weights, but a wide pass waits for arithmetic": (
                "weights_ms"
            ),
            "you read the prompt a token at a time": "as_steps_ms",
            "you answer for a chunk of 512 tokens": "chunk_ms",
        },
        worked=chunked_prefill,
        in_short=(
            "{whole_ms:.0f} ms in one pass, against steps of {step_ms:.1f} ms. In chunks of 512 "
            "each pass takes {chunk_ms:.0f} ms, and the prompt takes {large_chunks:.2f} times as "
            "long in all; in chunks of 128, below the ridge, {small_chunks:.2f} times as long."
        ),
        sources=(SARATHI, "NVIDIA H100 datasheet"),
    ),
    Question(
        id="users-at-a-speed",
        section=SECTION,
        prompt=(
            "Every user of Llama-3-8B on an ideal H100 is promised a token every 20 ms, at 2048 "
            "tokens of context. How many users can decode at a time?"
        ),
        answer="users",
        unit="users",
        tolerance=0.05,
        mistakes={
            "you divide the speed of one user among them (but they share the weights)": "shared",
            "you only ask how many fit into the memory": "memory",
        },
        worked=users_at_a_speed,
        in_short=(
            "{users:.0f}: in 20 ms the H100 reads {weight_gb:.0f} GB of weights once and "
            "{cache_gb:.0f} GB of caches. The memory would hold {memory:.0f}, so here the promise "
            "is the limit."
        ),
        sources=("NVIDIA H100 datasheet", "Llama-3-8B config.json"),
    ),
    Question(
        id="cache-or-weights",
        section=SECTION,
        prompt=(
            "You may store either the weights or the KV cache of Llama-3-8B in fp8 instead of "
            "bf16. From how many cached tokens on, all sequences together, does the cache save "
            "more bytes per step?"
        ),
        answer="tokens",
        unit="tokens",
        tolerance=0.03,
        mistakes={
            "you count only the keys": "keys_only",
            "you count the query heads": "query_heads",
            "you count the embedding table, of which a pass reads one row": "stored",
        },
        worked=cache_or_weights,
        in_short=(
            "{tokens:,.0f} tokens, such as {batch_at_2048:.0f} sequences of 2048: there both save "
            "{saved_gb:.1f} GB per step. Few or short sequences: quantise the weights."
        ),
        sources=("KIVI, arXiv:2402.02750", "Llama-3-8B config.json"),
    ),
)

"""The probes of kernels and of whole cycles, and the run through all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from reference.attention import attend, attention_bias
from reference.chunked_attention import read_in_chunks_from
from reference.decoding import speculate
from reference.drafters import Drafter, NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.drafters.n_gram import NGram
from reference.fused import look_up, may_fuse, queries_fit, reads_to_the_end
from reference.graphs import window_of
from reference.lab.dialled import UNHEARD, random_model
from reference.lab.kernels.chunks import chunk_limit, chunk_probes
from reference.lab.kernels.grid import GPU, GROUPS, HEAD_SIZE, KV_HEADS, Cycles, Grid, RandomPair
from reference.lab.kernels.timer import Timer
from reference.machine import PRECISION_OF, environment
from reference.quantization import QuantizedLinear, has_kernel
from reference.sampling import LARGE, SamplingParameters, draw
from reference.statistics import Statistics
from specsim.architecture import Architecture
from specsim.evidence.calibration import CacheProbe, KernelProbes, ProductProbe, StageProbe
from specsim.operators import precision


@torch.inference_mode()
def run_kernel_probes(
    device: torch.device,
    modes: Sequence[str],
    grid: Grid = GPU,
    pace: Callable[[], float] | None = None,
) -> KernelProbes:
    """Time everything in the grid, in about a minute on a large GPU.

    `modes` are the modes in which cycles are timed. `pace` tells in seconds how slow the host is
    now: eager cycles, which wait for it, are timed as at its median (`small["host_pace"]`).
    """
    dtype, timer = torch.bfloat16, Timer(device)
    with tqdm(total=4 + len(modes), desc="probing", leave=False) as bar:

        def step(result):
            bar.update()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            return result

        reads = step(read_probes(timer, grid))
        products = step(product_probes(timer, grid, dtype))
        products += packed_probes(timer, grid, device)
        small = step(small_probes(timer, grid, dtype))
        chunks, limits = chunk_probes(timer, grid, dtype), {}
        for mode in modes:  # an eager one launches more kernels where it reads in chunks
            eagerly = mode == "eager" and timer.on_cuda
            found = chunk_probes(timer, grid, dtype, True) if eagerly else chunks
            limits[mode] = chunk_limit(found, grid.contexts)
            small |= {f"{name}_eager": value for name, value in found.items()} if eagerly else found
        with read_in_chunks_from(limits[modes[0]]):  # as the decoder does when it is measured
            caches = step(cache_probes(timer, grid, dtype, HEAD_SIZE, grid.widths))
            caches += cache_probes(timer, grid, dtype, HEAD_SIZE // 2, grid.small_heads)
            if may_fuse(device):  # as the recorded modes do
                caches += cache_probes(timer, grid, dtype, HEAD_SIZE, grid.widths, True)
                caches += cache_probes(timer, grid, dtype, HEAD_SIZE // 2, grid.small_heads, True)
        stages = {}
        for mode in modes:
            with read_in_chunks_from(limits[mode]):
                timed = step(stage_probes(device, grid, dtype, mode, pace))
            stages[mode], usual = timed
            small |= {} if usual is None else {"host_pace": usual}
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    return KernelProbes(
        machine=environment(device).device,
        precision=PRECISION_OF[dtype],
        reads=reads,
        products=products,
        caches=caches,
        stages=stages,
        small=small,
        memory_bytes=memory,
        host_ahead=device.type != "cpu",
        chunked_from=limits,
        drawn_in_blocks_from=float(LARGE),
    )


def read_probes(timer: Timer, grid: Grid) -> tuple[tuple[float, float], ...]:
    """(bytes, seconds) of reading one buffer repeatedly, by its size.

    A buffer that is larger than the last cache is read at the rate of the memory.
    """
    probes = []
    for size in grid.read_bytes:
        buffer = torch.ones(size // 4, device=timer.device)
        calls = [buffer.sum] * max(2, min(64, int(2e9 / size)))
        probes.append((float(size), timer.each(calls)))
        del buffer, calls
    return tuple(probes)


def product_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> tuple[ProductProbe, ...]:
    """Time every matrix with every number of rows, each call with another copy of the matrix."""
    probes = []
    for inputs, outputs in grid.matrices:
        size = inputs * outputs * dtype.itemsize
        count = max(1, min(64, -(-int(grid.rotated_bytes) // size)))
        weights = [
            torch.randn(outputs, inputs, device=timer.device, dtype=dtype) for _ in range(count)
        ]
        calls_at_least = 4 if timer.on_cuda else 1
        repeated = weights * -(-calls_at_least // count)
        for rows in grid.rows:
            x = torch.randn(rows, inputs, device=timer.device, dtype=dtype)
            seconds = timer.each([lambda w=w, x=x: F.linear(x, w) for w in repeated])
            probes.append(ProductProbe(inputs, outputs, rows, float(size), seconds))
        del weights, repeated, x
    return tuple(probes)


def packed_probes(timer: Timer, grid: Grid, device: torch.device) -> tuple[ProductProbe, ...]:
    """The same of the decoder's own int4 products, where torch has a kernel for them."""
    if not (timer.on_cuda and has_kernel(device, "int4")):
        return ()
    probes = []
    for inputs, outputs in grid.packed:
        size = inputs * outputs * precision("int4").weight_bytes
        count = max(1, min(64, -(-int(grid.rotated_bytes) // int(size))))
        weight = torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16)
        layer = QuantizedLinear(weight, "int4")
        layers = [layer, *(deepcopy(layer) for _ in range(count - 1))]
        repeated = layers * -(-4 // count)
        for rows in grid.packed_rows:
            x = torch.randn(rows, inputs, device=device, dtype=torch.bfloat16)
            seconds = timer.each([lambda layer=layer, x=x: layer(x) for layer in repeated])
            probes.append(ProductProbe(inputs, outputs, rows, float(size), seconds, "int4"))
        del weight, layer, layers, repeated
    return tuple(probes)


def cache_probes(
    timer: Timer,
    grid: Grid,
    dtype: torch.dtype,
    head_size: int,
    widths: Sequence[int],
    is_fused: bool = False,
) -> tuple[CacheProbe, ...]:
    """Time the decoder's own attention for every number and length of KV caches, at every width:
    torch's kernels, or the `fused` ones where they can be had."""
    probes, element = [], precision(PRECISION_OF[dtype]).kv_bytes
    for streams in grid.streams:
        batch = streams // KV_HEADS
        for context in grid.contexts:
            size = 2 * streams * context * head_size * element
            if size > grid.most_cache_bytes:
                continue
            count = max(1, min(16, -(-int(grid.rotated_bytes) // int(size))))
            shape = (batch, context, KV_HEADS, head_size)
            caches = [
                tuple(torch.randn(shape, device=timer.device, dtype=dtype) for _ in range(2))
                for _ in range(count)
            ]
            for rows in widths:
                if is_fused and not queries_fit(rows * GROUPS, head_size):
                    continue
                positions = torch.arange(context - rows, context, device=timer.device)
                seconds = timer.each(calls_of_attention(caches, positions, is_fused))
                flops = 4.0 * batch * rows * context * KV_HEADS * GROUPS * head_size
                probes.append(
                    CacheProbe(streams, context, rows, size, flops, seconds, head_size, is_fused)
                )
            del caches
    return tuple(probes)


def calls_of_attention(
    caches: Sequence[tuple[Tensor, Tensor]], positions: Tensor, is_fused: bool
) -> list[Callable[[], Tensor]]:
    """One call for each of `caches` (B, S, KV, D), of tokens at `positions` (T,) of every sequence,
    with GROUPS query heads to a key-value head."""
    (batch, slots, kv_heads, size), rows = caches[0][0].shape, len(positions)
    like = {"device": positions.device, "dtype": caches[0][0].dtype}
    positions, heads = positions.expand(batch, -1), kv_heads * GROUPS
    if is_fused:
        qkv = torch.randn(batch * rows, (heads + 2 * kv_heads) * size, **like)
        return [partial(look_up, qkv, positions, *pair, slots) for pair in caches]
    queries = torch.randn(batch, rows, heads, size, **like)
    bias = attention_bias(positions, slots, GROUPS, like["dtype"])
    return [partial(attend, queries, *pair, bias) for pair in caches]


def small_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of fixed costs, which do not follow from bytes, by name.

    They are a tiny kernel (in a graph, and launched by the host), sampling (from logits to a
    distribution to a token), and a round trip of the host.
    """
    device, small = timer.device, {}
    tiny = torch.zeros(256, device=device)
    calls = [lambda: tiny.add_(1.0)] * 100
    small["tiny_kernel"] = timer.each(calls)
    small["tiny_kernel_eager"] = timer.eagerly(calls)
    sampling = SamplingParameters(1.0)
    for rows in (1, 16):
        logits = torch.randn(rows, grid.vocab_size, device=device, dtype=dtype)
        uniforms = torch.rand(rows, device=device)

        def sample(logits=logits, uniforms=uniforms):
            return draw(sampling.probabilities(logits), uniforms)

        small[f"sampling_{rows}_rows"] = timer.each([sample] * 4)
    trips = []
    for _ in range(50):
        begun = time.perf_counter()
        tiny.add_(1.0)[0].item()
        trips.append(time.perf_counter() - begun)
    small["host_round_trip"] = statistics.median(trips)
    return small


def probe_architecture(hidden: int, layers: int, pair: RandomPair) -> Architecture:
    """A model of a probe's pair, from its hidden size and its number of layers."""
    heads = max(1, hidden // pair.head_size)
    shared = (k for k in range(max(1, heads // 3), 0, -1) if heads % k == 0)
    return Architecture(
        name=f"probe-{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=heads,
        num_kv_heads=next(shared), head_dim=pair.head_size if hidden >= pair.head_size else 16,
        intermediate_size=hidden * 11 // 4, vocab_size=pair.vocab_size, max_context=4096,
        qk_norm=pair.head_norms,
    )  # fmt: skip


def stage_probes(
    device: torch.device,
    grid: Grid,
    dtype: torch.dtype,
    mode: str,
    pace: Callable[[], float] | None = None,
) -> tuple[tuple[StageProbe, ...], float | None]:
    """Time the cycles of random pairs in `mode`: the median of each stage, by gamma, batch and
    context; and the median of the `pace` next to them, where the mode is eager.

    A shared host changes its speed from second to second, by a third or more. Each eager cycle is
    timed between two readings of the pace, and what it took is divided by their mean and multiplied
    by the median of all.
    """
    probes: list[StageProbe] = []
    paces: list[float] = []  # of each probe
    pace = pace if mode == "eager" else None
    for pair in grid.pairs:
        target, draft = (
            random_model(probe_architecture(*size, pair), dtype, device, seed)
            for seed, size in enumerate((pair.target, pair.draft))
        )
        target.reads_prompts = draft.reads_prompts = False
        target.stop_ids = UNHEARD
        for cycles in grid.cycles:
            if mode == "eager" and not cycles.eagerly:
                continue
            for gamma in cycles.gammas:
                drafter: Drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
                drafter = NGram(gamma) if cycles.lookup else drafter
                timed, prompts = Statistics(gamma), [[1] * cycles.prompt] * cycles.batch
                heat = 0.0 if cycles.greedy else 1.0
                tokens = 12 if mode == "eager" else 24
                before = pace() if pace else 0.0
                for turn in range(grid.rounds + 1):
                    run = speculate(target, drafter, prompts, tokens, heat, seed=turn, mode=mode)
                    if turn:  # the first round warms up
                        timed.extend(run.statistics)
                found = stages_of(timed, target, drafter, cycles, mode)
                probes += found
                paces += [(before + pace()) / 2] * len(found) if pace else []
        del target, draft, drafter
    if not paces:
        return tuple(probes), None
    usual = statistics.median(paces)
    return tuple(
        replace(probe, seconds=probe.seconds * usual / now)
        for probe, now in zip(probes, paces, strict=True)
    ), usual


def stages_of(timed: Statistics, target, drafter, cycles: Cycles, mode: str) -> list[StageProbe]:
    """The probes of one run's stages. Their context is what a pass reads: by torch's kernels on a
    GPU, the window."""
    model, gamma, context = target.architecture, timed.gamma, cycles.prompt + 8
    device = target.device
    if device.type == "cuda" and not reads_to_the_end(model, gamma + 1, mode, device):
        context = window_of(cycles.prompt + 12 + 2 * (gamma + 1))
    assert timed.verify_s is not None
    assert timed.host_s is not None
    where, about = (gamma, context), {"batch": cycles.batch, "greedy": cycles.greedy}
    assert timed.draft_s is not None
    if cycles.lookup:
        return [StageProbe("lookup", model, *where, timed.draft_s, **about)]
    found = [
        StageProbe("verify", model, *where, timed.verify_s, **about),
        StageProbe("host", model, *where, timed.host_s, **about),
    ]
    if gamma:
        draft = drafter.model.architecture
        found.append(StageProbe("draft", draft, *where, timed.draft_s, **about))
    else:
        found.append(StageProbe("begin", model, *where, timed.draft_s, **about))
    return found

"""A GPU's kernels timed one by one: products, attention, reads, and what is small but not nothing.

Each is captured in a CUDA graph that runs it many times over buffers larger together than the
caches, and the graph is replayed: what is measured is a kernel between two others, as in a decoded
cycle, its launch gap included. On a CPU the same probes run uncaptured, which is good for testing
them and little else. No probe has the shape of a model that is predicted from them.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from tqdm import tqdm

from reference.attention import attend, attention_bias, chunks_to_fill, read_in_chunks_from
from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.graphs import SMALLEST_WINDOW, power_of_two, side_stream
from reference.lab.dialled import random_model
from reference.machine import PRECISION_OF, environment
from reference.sampling import SamplingParameters, draw
from reference.statistics import Statistics
from specsim.architecture import Architecture
from specsim.evidence.calibration import CacheProbe, KernelProbes, ProductProbe, StageProbe
from specsim.operators import precision


@dataclass(frozen=True, slots=True)
class Grid:
    """What is probed. `matrices` are (inputs, outputs); `pairs` are (hidden size, layers) of target
    and draft, and the vocabulary."""

    matrices: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    streams: tuple[int, ...]
    contexts: tuple[int, ...]
    widths: tuple[int, ...]
    read_bytes: tuple[int, ...]
    pairs: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]
    batches: tuple[int, ...]
    gammas: tuple[int, ...]
    prompts: tuple[int, ...]
    rounds: int
    rotated_bytes: float  # buffers that take turns, so that no cache holds the next
    most_cache_bytes: float
    vocab_size: int = 100_096


GPU = Grid(
    matrices=(
        (704, 704), (1408, 1408),
        (1408, 5632), (2816, 2816), (5632, 1408),
        (3328, 6656), (6656, 3328),
        (3328, 13312), (13312, 3328),
        (3840, 30720), (15360, 7680),
        (1664, 110592), (3328, 110592),
    ),
    rows=(1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256,
          320, 512, 640, 1024, 2112, 4224),
    streams=(4, 8, 16, 32, 64, 128, 256, 512, 1024),
    contexts=(256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    widths=(1, 2, 5, 9, 17, 33),
    read_bytes=tuple(2**k for k in range(20, 33)),
    pairs=(
        ((1536, 12), (768, 3), 50_048),
        ((2304, 20), (1280, 2), 100_096),
        ((3328, 8), (3328, 1), 130_048),
    ),
    batches=(1, 16),
    gammas=(0, 1, 3, 7),
    prompts=(200,),
    rounds=2,
    rotated_bytes=240e6,
    most_cache_bytes=9e9,
)  # fmt: skip

SMALL = Grid(
    matrices=((64, 64), (64, 256), (256, 64)),
    rows=(1, 2, 8),
    streams=(4, 8),
    contexts=(64, 256, 512),
    widths=(1, 17),
    read_bytes=(2**16, 2**20),
    pairs=(((96, 2), (48, 1), 500),),
    batches=(1, 2),
    gammas=(0, 2),
    prompts=(20,),
    rounds=1,
    rotated_bytes=1e5,
    most_cache_bytes=1e7,
    vocab_size=1000,
)

KV_HEADS, GROUPS, HEAD_SIZE = 4, 5, 128  # of the attention that is probed
REPLAYS = 5
HEAD_START = 1_000_000  # clock cycles, half a millisecond, in which the host launches a graph


class Timer:
    """Seconds of one call among many in a row: replayed as a graph on a GPU, called elsewhere."""

    def __init__(self, device: torch.device):
        self.device, self.on_cuda = device, device.type == "cuda"

    def each(self, calls: Sequence[Callable[[], object]]) -> float:
        """The median over replays of all calls in turn, divided by their number.

        The device is kept busy until the host has launched the replay: an idle one would start the
        clock at once, and the launch would be counted among the kernels.
        """
        if not self.on_cuda:
            return self._median(lambda: [call() for call in calls]) / len(calls)
        with side_stream(self.device) as side:
            for call in calls[:2]:  # library handles and kernel choice are not to be captured
                call()
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            for call in calls:
                call()
        return self._median(graph.replay, HEAD_START) / len(calls)

    def eagerly(self, calls: Sequence[Callable[[], object]]) -> float:
        """The same, launched one by one."""
        return self._median(lambda: [call() for call in calls]) / len(calls)

    def _median(self, run: Callable[[], object], busy: int = 0) -> float:
        run()
        return statistics.median(self._once(run, busy) for _ in range(REPLAYS))

    def _once(self, run: Callable[[], object], busy: int) -> float:
        if self.on_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if busy:
                torch.cuda._sleep(busy)
            start.record()
            run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun


@torch.inference_mode()
def run_kernel_probes(device: torch.device, modes: Sequence[str], grid: Grid = GPU) -> KernelProbes:
    """Time everything in the grid; about a minute and a half on a large GPU."""
    dtype, timer = torch.bfloat16, Timer(device)
    with tqdm(total=4 + len(modes), desc="probing", leave=False) as bar:

        def step(result):
            bar.update()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            return result

        reads = step(read_probes(timer, grid))
        products = step(product_probes(timer, grid, dtype))
        small = step(small_probes(timer, grid, dtype) | chunk_probes(timer, grid, dtype))
        chunked_from = chunk_limit(small, grid.contexts)
        with read_in_chunks_from(chunked_from):  # as all that is predicted from them
            caches = step(cache_probes(timer, grid, dtype))
            laps = {mode: step(lap_probes(device, grid, dtype, mode)) for mode in modes}
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    return KernelProbes(
        machine=environment(device).device,
        precision=PRECISION_OF[dtype],
        reads=reads,
        products=products,
        caches=caches,
        stages=laps,
        small=small,
        memory_bytes=memory,
        host_ahead=device.type != "cpu",
        chunked_from=chunked_from,
    )


def read_probes(timer: Timer, grid: Grid) -> tuple[tuple[float, float], ...]:
    """Reading one buffer over and over, by its bytes: where it outgrows the last cache, the rate
    falls to the memory's."""
    probes = []
    for size in grid.read_bytes:
        buffer = torch.ones(size // 4, device=timer.device)
        calls = [buffer.sum] * max(2, min(64, int(2e9 / size)))
        probes.append((float(size), timer.each(calls)))
        del buffer, calls
    return tuple(probes)


def product_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> tuple[ProductProbe, ...]:
    """Every matrix at every number of rows, each time from another copy of it."""
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


def cache_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> tuple[CacheProbe, ...]:
    """The decoder's own attention over caches of every number and length, at every width."""
    probes, element = [], precision(PRECISION_OF[dtype]).kv_bytes
    for streams in grid.streams:
        batch = streams // KV_HEADS
        for context in grid.contexts:
            size = 2 * streams * context * HEAD_SIZE * element
            if size > grid.most_cache_bytes:
                continue
            count = max(1, min(16, -(-int(grid.rotated_bytes) // int(size))))
            shape = (batch, context, KV_HEADS, HEAD_SIZE)
            caches = [
                tuple(torch.randn(shape, device=timer.device, dtype=dtype) for _ in range(2))
                for _ in range(count)
            ]
            for rows in grid.widths:
                queries = torch.randn(
                    batch, rows, KV_HEADS * GROUPS, HEAD_SIZE, device=timer.device, dtype=dtype
                )
                positions = torch.arange(context - rows, context, device=timer.device)
                bias = attention_bias(positions.expand(batch, -1), context, GROUPS, dtype)
                seconds = timer.each(
                    [lambda k=k, v=v, q=queries, b=bias: attend(q, k, v, b) for k, v in caches]
                )
                flops = 4.0 * batch * rows * context * KV_HEADS * GROUPS * HEAD_SIZE
                probes.append(CacheProbe(streams, context, rows, size, flops, seconds))
            del caches, queries, bias
    return tuple(probes)


FEW = (1, 4)  # sequences; a model's eight key-value heads lie between their four and sixteen


def chunk_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of attention by few sequences, whole and in chunks, in every window that can be
    divided: what `chunk_limit` goes by."""
    seconds = {}
    for batch, context in itertools.product(FEW, grid.contexts):
        shape = (batch, context, KV_HEADS, HEAD_SIZE)
        caches = [
            [torch.randn(shape, device=timer.device, dtype=dtype) for _ in range(2)]
            for _ in range(8)
        ]
        chunks = chunks_to_fill(caches[0][0], GROUPS)
        if chunks == 1:
            continue
        queries = torch.randn(shape, device=timer.device, dtype=dtype)[:, :1].repeat(
            1, 1, GROUPS, 1
        )
        positions = torch.full((batch, 1), context - 1, device=timer.device)
        bias = attention_bias(positions, context, GROUPS, dtype)
        for name, count in (("whole", 1), ("in_chunks", chunks)):
            calls = [partial(attend, queries, *pair, bias, count) for pair in caches]
            seconds[f"attention_{batch}x{context}_{name}"] = timer.each(calls)
    return seconds


def chunk_limit(seconds: Mapping[str, float], contexts: Sequence[int]) -> int:
    """The shortest probed window from which on reading in chunks is faster; twice the longest where
    it is slower even there.

    In one window it is faster where the product of its times for one and for four sequences is
    smaller, which is the geometric middle of four and sixteen key-value heads.
    """
    limit = 2 * max(contexts)
    for context in sorted(contexts, reverse=True):
        ratios = [
            seconds[f"attention_{batch}x{context}_in_chunks"]
            / seconds[f"attention_{batch}x{context}_whole"]
            for batch in FEW
            if f"attention_{batch}x{context}_in_chunks" in seconds
        ]
        if not ratios or math.prod(ratios) >= 1:
            break
        limit = context
    return limit


def small_probes(timer: Timer, grid: Grid, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of what no bytes explain: a tiny kernel in a graph and launched alone, making a law
    of logits and drawing from it, the host's round trip."""
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


def probe_architecture(hidden: int, layers: int, vocab_size: int) -> Architecture:
    heads = max(1, hidden // HEAD_SIZE)
    return Architecture(
        name=f"probe-{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=heads,
        num_kv_heads=max(1, heads // 3), head_dim=HEAD_SIZE if hidden >= HEAD_SIZE else 16,
        intermediate_size=hidden * 11 // 4, vocab_size=vocab_size, max_context=4096,
    )  # fmt: skip


def lap_probes(
    device: torch.device, grid: Grid, dtype: torch.dtype, mode: str
) -> tuple[StageProbe, ...]:
    """Cycles of random pairs in `mode`: the median of every lap by gamma, batch and context."""
    probes = []
    for target_size, draft_size, vocab_size in grid.pairs:
        target, draft = (
            random_model(probe_architecture(*size, vocab_size), dtype, device, seed)
            for seed, size in enumerate((target_size, draft_size))
        )
        target.reads_prompts = draft.reads_prompts = False
        for batch in grid.batches:
            for length in grid.prompts:
                for gamma in grid.gammas:
                    drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
                    laps, prompts = Statistics(gamma), [[1] * length] * batch
                    for turn in range(grid.rounds + 1):
                        run = speculate(target, drafter, prompts, 12, 1.0, seed=turn, mode=mode)
                        if turn:  # the first round warms up
                            laps.extend(run.statistics)
                    probes += laps_of(laps, target, drafter, length, batch, device)
        del target, draft, drafter
    return tuple(probes)


def laps_of(
    laps: Statistics, target, drafter, length: int, batch: int, device: torch.device
) -> list[StageProbe]:
    """The three laps of one arm; the context is what its passes read: a GPU's window."""
    context = length + 6
    if device.type == "cuda":
        context = power_of_two(max(length + 12 + 2 * (laps.gamma + 1), SMALLEST_WINDOW))
    shape, gamma = target.architecture, laps.gamma
    assert laps.verify_s is not None
    assert laps.host_s is not None
    found = [
        StageProbe("verify", shape, gamma, context, laps.verify_s, batch),
        StageProbe("host", shape, gamma, context, laps.host_s, batch),
    ]
    if gamma:
        assert laps.draft_s is not None
        draft = drafter.model.architecture
        found.append(StageProbe("draft", draft, gamma, context, laps.draft_s, batch))
    return found

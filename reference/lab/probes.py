"""The probes that calibrate a System: small kernels and small random transformers, timed here.

No probe has the shape of a model that is predicted from the calibration. All probes of a kind are
timed in turn, round by round, so a change of the machine's speed affects them alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from reference.attention import attend, attention_bias
from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.lab.dialled import random_model
from reference.machine import PRECISION_OF, environment
from reference.packing import pack
from reference.statistics import Statistics
from specsim.architecture import Architecture
from specsim.evidence.calibration import AttentionProbe, LinearProbe, Probes, StageProbe
from specsim.operators import precision

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9)
# (hidden size, layers) of the linear stacks: from a few hundred kB to a few hundred MB
STACKS = ((64, 6), (160, 1), (224, 2), (320, 4), (448, 6), (672, 5), (896, 8), (1152, 10))
MOST_VISITS = 4  # of a stack; fewer are enough once two of them agree
AGREEMENT = 1.12  # two times agree below this ratio of the slower to the faster
LARGE = 5e7  # bytes of a stack that takes long
MATRICES = 4  # of a layer
LIMIT_S = 30.0  # no visit and no round of cycles begins later, if what must be timed has been


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_in_turn(
    actions: Sequence[Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_ups: int | None = None,
) -> list[list[float]]:
    """The seconds of each action in each of `rounds` rounds through all actions.

    The first `warm_ups` actions (None: all) run once before, untimed.
    """
    for action in actions[:warm_ups]:
        action()
    samples: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, samples, strict=True):
            synchronise(device)
            started = time.perf_counter()
            action()
            synchronise(device)
            times.append(time.perf_counter() - started)
    return samples


def round_robin(
    actions: Sequence[Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_ups: int | None = None,
) -> list[float]:
    """The median seconds of each action over `rounds` rounds, after `warm_ups`, as above."""
    samples = timed_in_turn(actions, rounds, device, warm_ups)
    return [statistics.median(times) for times in samples]


def probe_architecture(hidden: int, layers: int, vocab_size: int = 1536) -> Architecture:
    """The model of a probe, from its hidden size and its number of layers."""
    heads = max(1, hidden // 64)
    return Architecture(
        name=f"probe-{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=heads,
        num_kv_heads=heads // 2 if heads % 2 == 0 else 1, head_dim=64,
        intermediate_size=hidden * 11 // 4, vocab_size=vocab_size, max_context=4096,
    )  # fmt: skip


@torch.inference_mode()
def run_probes(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int = 7,
    between: Callable[[], object] = lambda: None,
    widest: float = math.inf,
) -> Probes:
    """Time every probe.

    `rounds` is the number of times that each is timed, at most: on a slow machine, after half a
    minute (LIMIT_S), no further round of cycles begins. `between` is called several times during
    the run, for example to time a drift probe. Stacks and targets of a hidden size above `widest`
    are left out: that is for a quick trial, as a calibration should reach the sizes it predicts.
    """
    until = time.perf_counter() + LIMIT_S
    with tqdm(total=3, desc="calibrating", leave=False) as bar:
        between()
        linear, bandwidth, flops = linear_probes(device, dtype, rounds, until, widest)
        bar.update()
        between()
        attention = attention_probes(device, dtype, rounds)
        bar.update()
        stages = stage_probes(device, dtype, rounds, between, until, widest)
        bar.update()
    return Probes(
        machine=environment(device).device,
        precision=PRECISION_OF[dtype],
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=flops,
        linear=linear,
        attention=attention,
        stages=stages,
    )


def linear_stack(
    hidden: int, layers: int, device: torch.device, dtype: torch.dtype
) -> list[torch.nn.Linear]:
    """The matrices of `layers` layers, packed as in the decoder."""
    shapes = [
        (hidden, 2 * hidden),
        (hidden, hidden),
        (hidden, 5 * hidden),
        (5 * hidden // 2, hidden),
    ]
    stack = torch.nn.ModuleList(
        torch.nn.Linear(fan_in, fan_out, bias=False, device=device, dtype=dtype)
        for _ in range(layers)
        for fan_in, fan_out in shapes
    )
    return list(pack(stack))


def linear_probes(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    until: float = math.inf,
    widest: float = math.inf,
) -> tuple[tuple[LinearProbe, ...], float, float]:
    """Time linear stacks of every size, up to the hidden size `widest`, with every number of rows.

    `until` is the time, of `time.perf_counter`, after which no stack gets a third visit.

    Returns the probes, the best bandwidth in bytes per second, and the rate of a wide product in
    FLOP/s.
    """
    size_of = precision(PRECISION_OF[dtype]).weight_bytes
    sizes = [(hidden, layers) for hidden, layers in STACKS if hidden <= widest]
    stacks = [linear_stack(hidden, layers, device, dtype) for hidden, layers in sizes]
    weight_bytes = [
        size_of * sum(layer.in_features * layer.out_features for layer in stack) for stack in stacks
    ]
    widths = {layer.in_features for stack in stacks for layer in stack}
    inputs = {
        (rows, width): torch.randn(rows, width, device=device, dtype=dtype)
        for rows in ROWS
        for width in widths
    }

    def run(stack: list[torch.nn.Linear], rows: int) -> None:
        for layer in stack:
            layer(inputs[rows, layer.in_features])

    for stack in stacks:
        for rows in ROWS:
            run(stack[:MATRICES], rows)  # a kernel is chosen when its sizes are first met
    visits: list[list[list[float]]] = [[] for _ in stacks]
    while pending := [i for i, seen in enumerate(visits) if not settled(seen)]:
        if visits[0][1:] and time.perf_counter() > until:
            break
        for i in pending:
            actions = [lambda s=stacks[i], r=rows: run(s, r) for rows in ROWS]
            turns = rounds * (2 if weight_bytes[i] < LARGE else 1)
            # one reading brings back into the caches what they can hold
            visits[i].append(round_robin(actions, turns, device, warm_ups=1))
    probes = [
        LinearProbe(weight_bytes[i], len(stack), rows, statistics.mean(sorted(times)[:2]))
        for i, stack in enumerate(stacks)
        for rows, times in zip(ROWS, zip(*visits[i], strict=True), strict=True)
    ]
    largest = max(probe.weight_bytes for probe in probes)
    bandwidth = max(
        probe.weight_bytes / probe.seconds for probe in probes if probe.weight_bytes == largest
    )
    wide = torch.nn.Linear(2048, 2048, bias=False, device=device, dtype=dtype)
    x = torch.randn(1024, 2048, device=device, dtype=dtype)
    multiply = pack(torch.nn.ModuleList([wide]))[0]
    (seconds,) = round_robin([lambda: multiply(x)], rounds, device)
    return tuple(probes), bandwidth, 2 * 1024 * 2048 * 2048 / seconds


def settled(visits: Sequence[Sequence[float]]) -> bool:
    """Whether a stack has been visited often enough. A visit holds a time for every width (rows).

    Other work on the machine can slow a whole visit down; the median within the visit does not
    remove that, and the width would look like one with a slow kernel. So the two fastest visits
    must agree at every width.
    """
    if len(visits) < 2:
        return False
    fastest = [sorted(times)[:2] for times in zip(*visits, strict=True)]
    return len(visits) == MOST_VISITS or all(b < AGREEMENT * a for a, b in fastest)


def attention_probes(
    device: torch.device, dtype: torch.dtype, rounds: int
) -> tuple[AttentionProbe, ...]:
    """Time attention of one layer with 6 heads and 3 key-value heads, at two contexts and two
    widths (rows)."""
    heads, kv_heads, size = 6, 3, 64
    element = precision(PRECISION_OF[dtype]).kv_bytes
    actions, shapes = [], []
    for context in (256, 2048):
        for rows in (1, ROWS[-1]):
            keys = torch.randn(1, context, kv_heads, size, device=device, dtype=dtype)
            queries = torch.randn(1, rows, heads, size, device=device, dtype=dtype)
            positions = torch.arange(context - rows, context, device=device)[None]
            bias = attention_bias(positions, context, heads // kv_heads, dtype)
            actions.append(lambda q=queries, k=keys, b=bias: attend(q, k, k, b))
            shapes.append((context, rows))
    seconds = round_robin(actions, rounds * 10, device)
    return tuple(
        AttentionProbe(
            context=context,
            rows=rows,
            kv_bytes=2 * context * kv_heads * size * element,
            flops=4 * rows * context * heads * size,
            seconds=s,
        )
        for (context, rows), s in zip(shapes, seconds, strict=True)
    )


# pairs whose cycles are timed: (hidden size, layers) of target and draft, and the vocabulary
PAIRS = (
    ((192, 6), (128, 1), 1024),
    ((384, 10), (192, 2), 2560),
    ((320, 3), (320, 1), 6144),
    ((640, 6), (448, 1), 1024),
    ((896, 9), (896, 1), 6144),
)
# (prompt length, gammas) of a pair. Reading a prompt takes longer than the cycles after it, and
# tells nothing: so prompts are short, and only one pair has a long one too.
SHORT, LONG = (24, (0, 1, 3, 8)), (400, (0, 8))
WITH_LONG = (384, 10)  # the target of that pair


def stage_probes(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    between: Callable[[], object],
    until: float = math.inf,
    widest: float = math.inf,
) -> tuple[StageProbe, ...]:
    """Time the cycles of random pairs at temperature 1: the median of each stage, by gamma and
    context. A pair whose target has a hidden size above `widest` is left out.

    `until` is the time, of `time.perf_counter`, after which no round begins, except the first.
    """
    cases = []
    for target_size, draft_size, vocab_size in PAIRS:
        if target_size[0] > widest:
            continue
        target, draft = (
            pack(random_model(probe_architecture(*size, vocab_size), dtype, device, seed=seed))
            for seed, size in enumerate((target_size, draft_size))
        )
        for prompt_length, gammas in (SHORT, LONG) if target_size == WITH_LONG else (SHORT,):
            for gamma in gammas:
                drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
                cases.append((target, drafter, prompt_length, Statistics(gamma)))
    for target, drafter, prompt_length, _ in cases:  # warm up
        speculate(target, drafter, [1] * prompt_length, 1, temperature=1.0)
    for turn in range(rounds):
        if turn and time.perf_counter() > until:
            break
        between()
        for target, drafter, prompt_length, timed in cases:
            # most drafts of an unrelated model are rejected, so five tokens are a few cycles
            run = speculate(target, drafter, [1] * prompt_length, 5, temperature=1.0, seed=turn)
            timed.extend(run.statistics)
    probes = []
    for target, drafter, prompt_length, timed in cases:
        gamma, context = timed.gamma, prompt_length + 3
        probes.append(StageProbe("verify", target.architecture, gamma, context, timed.verify_s))
        probes.append(StageProbe("host", target.architecture, gamma, context, timed.host_s))
        if gamma:
            draft = drafter.model.architecture
            probes.append(StageProbe("draft", draft, gamma, context, timed.draft_s))
    return tuple(probes)


# A short text, in passes: a prompt, then cycles of one row and of several.
TEXT = {1: 16, ROWS[-1]: 16, 96: 1}  # rows -> passes


@torch.inference_mode()
def fastest_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """bf16 or fp32, whichever decodes a short text faster on this machine, and the reason in words.

    A CPU without units for bf16 may read its weights faster than those of fp32, and still multiply
    several rows, or a prompt, many times slower.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        stack = linear_stack(448, 4, device, dtype)
        actions = []
        for rows in TEXT:
            inputs = [torch.randn(rows, f.in_features, device=device, dtype=dtype) for f in stack]
            actions.append(
                lambda s=stack, x=inputs: [f(each) for f, each in zip(s, x, strict=True)]
            )
        each_s = round_robin(actions, 9, device)
        seconds[dtype] = sum(n * s for n, s in zip(TEXT.values(), each_s, strict=True))
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    if ratio > 1.1:
        return torch.bfloat16, f"bf16, which decodes {ratio:.1f}x as fast as fp32 here"
    return torch.float32, f"fp32, because bf16 is only {ratio:.1f}x as fast here"

"""How the stages of a cycle are run: as they are written, recorded as CUDA graphs, or compiled.

A small model's kernels take less time than launching them. A CUDA graph launches a whole stage at
once; in exchange every address and every shape in it is frozen. The addresses are those of the
cycle's buffers, which stay where they are, and of the models' weights and the drafter's own
buffers, which are compared before each run: what has moved is recorded anew. There is one graph
per stage, gamma and window, the windows being powers of two, recorded when it is first needed.

Compiled for a CPU, the stages are fewer and longer kernels, about a third faster for a small model
after some ten seconds a stage; the compiler packs the weights as `packing` does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import cache
from types import FunctionType, ModuleType

import torch
from torch import Tensor

from reference.cycle import Cycle, Settings
from reference.drafters import Drafter
from reference.packing import PackedLinear
from reference.transformer import Transformer
from specsim.catalog import SpecsimError

MODES = ("eager", "cuda-graphs", "compiled")
SMALLEST_WINDOW = 256  # slots that are attended at least, where windows are powers of two
WARM_UPS = 3
KEPT = 2

Stages = Sequence[Callable[[], None]]


class Runner:
    """A cycle and the way in which its stages are run."""

    def __init__(self, cycle: Cycle, mode: str):
        self.cycle, self.mode = cycle, mode
        self.on_cuda = cycle.target.device.type == "cuda"
        self.lag = int(self.on_cuda)  # cycles that are under way while the host reads a result
        self.recorded: dict[tuple[int, int], Stages] = {}
        self.addresses: list[tuple] = []
        self.packs = False  # the compiler may take the weights for constants and pack them
        # cycles never overlap, so all graphs share their memory
        self.pool = torch.cuda.graph_pool_handle() if self.on_cuda else None

    def begin(self, prompts: list[list[int]], room: list[int], seed: int) -> None:
        """As `Cycle.begin`; forgets what was recorded if anything it reads has moved since."""
        self.cycle.begin(prompts, room, seed)
        if self.mode != "eager":
            models = self.cycle.target, self.cycle.drafter
            if self.mode == "compiled":
                self.packs = show_plain(*models)
            found = addresses(*models)
            if found != self.addresses:
                self.recorded.clear()
            self.addresses = found

    def window(self, slots: int) -> int:
        """The slots to attend so that `slots` are: exactly these on a CPU that compiles nothing."""
        if self.on_cuda or self.mode != "eager":
            slots = power_of_two(max(slots, SMALLEST_WINDOW))
        return min(slots, self.cycle.cache.capacity)

    def stages(self) -> Stages:
        """The stages for the cycle's present gamma and window."""
        if self.mode == "eager":
            return self.cycle.stages
        key = self.cycle.gamma, self.cycle.sequences.window
        if key not in self.recorded:
            stages, weights = self.cycle.stages, nullcontext()
            if self.mode == "compiled":
                stages = [torch.compile(stage, dynamic=False) for stage in stages]
                weights = compiler(packs=self.packs)
            with weights:
                self.recorded[key] = record(stages, self.cycle.sequences.room, self.pool)
        return self.recorded[key]


@contextmanager
def compiler(packs: bool) -> Iterator[None]:
    """Where torch.compile may take weights for constants, and pack them, and is not tired of
    compiling one function for many cycles; what fails is said."""
    from torch import _dynamo, _inductor  # seconds, which only those who compile pay
    from torch._dynamo.exc import TorchDynamoException

    often = {"recompile_limit": 1 << 10, "accumulated_recompile_limit": 1 << 12}
    try:
        with _dynamo.config.patch(often), _inductor.config.patch(freezing=packs):
            yield
    except TorchDynamoException as error:
        reason = str(error).splitlines()[0]
        raise SpecsimError(f"torch.compile fails here: {reason}; use another mode") from error


def show_plain(*models: object) -> bool:
    """Lay plain weights beside the packed ones, for a compiler to see; whether there are any."""
    packed = [thing for thing in reachable(*models) if isinstance(thing, PackedLinear)]
    for linear in packed:
        linear.show_plain()
    return bool(packed)


class Kept(dict):
    """Runners by the kind of run, oldest first. A copy of a model starts with none: what was
    recorded reads the original."""

    def __deepcopy__(self, memo: dict) -> "Kept":
        return Kept()


def record(stages: Stages, room: Tensor, pool: tuple[int, int] | None) -> Stages:
    """Run the stages a few times to warm up, every sequence being idle meanwhile; then, on a GPU,
    capture each in memory of the `pool`."""
    saved = room.clone()
    room.zero_()  # an idle cycle changes nothing that counts
    if pool is None:
        for stage in stages:
            stage()
        room.copy_(saved)
        return stages
    with side_stream(room.device) as side:
        for _ in range(WARM_UPS):
            for stage in stages:
                stage()
    graphs = []
    for stage in stages:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool, stream=side):
            stage()
    room.copy_(saved)
    return [graph.replay for graph in graphs]


@contextmanager
def side_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Within, work is launched on the one stream for all warm-ups and captures, after what was
    launched before and before what is launched next.

    cuBLAS allocates a workspace for each stream that it meets. A capture on a stream that was not
    warmed up would allocate another one, in the memory of its graph.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    side, main = stream_of(index), torch.cuda.current_stream(index)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield side
    main.wait_stream(side)


@cache
def stream_of(index: int) -> torch.cuda.Stream:
    """The stream of `side_stream` on the CUDA device `index`: one for the life of the process."""
    return torch.cuda.Stream(index)


@contextmanager
def runner_for(
    target: Transformer, drafter: Drafter, batch: int, capacity: int, settings: Settings, mode: str
) -> Iterator[Runner]:
    """A runner whose cycle has room for `capacity` tokens per sequence.

    What was recorded is kept with the target for the next prompt: of the last two kinds of run, so
    that plain decoding and speculation may take turns. Runs at the same time share nothing.
    """
    if mode == "eager":
        if target.device.type == "cuda":  # the windows, and so the kernels, that graphs would have
            capacity = power_of_two(max(capacity, SMALLEST_WINDOW))
        yield Runner(Cycle(target, drafter, batch, capacity, settings), mode)
        return
    kind = (drafter, drafter.gamma, batch, settings, mode, target.device, target.dtype)
    kept = vars(target).setdefault("kept_runners", Kept())
    runner = kept.pop(kind, None)
    if runner is None or runner.cycle.cache.capacity < capacity:
        runner = None
        while len(kept) >= KEPT:  # the oldest first, before others are allocated
            del kept[next(iter(kept))]
        capacity = power_of_two(max(capacity, SMALLEST_WINDOW))
        runner = Runner(Cycle(target, drafter, batch, capacity, settings), mode)
    try:
        yield runner
    except SpecsimError:  # numbers that are none may lie in its cache
        runner = None
        raise
    finally:
        if runner is not None:
            kept[kind] = runner


def forget(target: Transformer) -> None:
    """Give back what was recorded for runs of `target`, its caches among it."""
    vars(target).pop("kept_runners", None)


def mode_for(device: torch.device, mode: str | None) -> str:
    """The mode that is asked for, by default CUDA graphs on a CUDA device and eager elsewhere.

    Raises SpecsimError for an unknown one, or one that the device does not have.
    """
    if mode is None:
        return "cuda-graphs" if device.type == "cuda" else "eager"
    if mode not in MODES:
        raise SpecsimError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if mode == "cuda-graphs" and device.type != "cuda":
        raise SpecsimError(f"CUDA graphs need a CUDA device, not {device}; use mode='eager'")
    return mode


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()


def addresses(*things: object) -> list[tuple]:
    """Where the tensors lie that can be reached from `things`, and their shapes: what a recorded
    graph takes for granted."""
    return [
        (id(thing), tuple(thing.shape), thing.dtype)  # packed ones do not say where they lie
        if thing.is_mkldnn
        else (thing.data_ptr(), tuple(thing.shape), thing.stride(), thing.dtype)
        for thing in reachable(*things)
        if isinstance(thing, Tensor) and not hasattr(thing, "__tensor_flatten__")
    ]


def reachable(*things: object) -> Iterator[object]:
    """All that `things` hold, themselves first, each once: modules, tensors and what they are made
    of, but no runners."""
    seen, to_visit = set(), list(things)
    while to_visit:
        thing = to_visit.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, Runner)):
            continue
        seen.add(id(thing))
        yield thing
        if hasattr(thing, "__tensor_flatten__"):  # a quantised tensor is made of others
            to_visit += [getattr(thing, name) for name in thing.__tensor_flatten__()[0]]
        elif isinstance(thing, Tensor):
            continue
        elif isinstance(thing, dict):
            to_visit += thing.values()
        elif isinstance(thing, (list, tuple)):
            to_visit += thing
        elif hasattr(thing, "__dict__"):
            to_visit += vars(thing).values()
        elif is_dataclass(thing):  # with slots
            to_visit += [getattr(thing, field.name) for field in fields(thing)]

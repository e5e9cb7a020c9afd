"""How the stages of a cycle are run faster: recorded as CUDA graphs, or compiled.

The kernels of a small model take less time than launching them. A CUDA graph launches a whole stage
at once, but it freezes every address and every shape in it. The cycle's buffers keep their
addresses. The weights and the drafter's buffers may move, and nothing in Python tells when they do:
a graph would go on reading memory that now belongs to something else. So before each run their
addresses are compared, and after a move the stages are recorded again. There is one graph per
stage, gamma and window; windows are powers of two, so that there are few; each is recorded when it
is first needed. What lies between the products of a layer is recorded as Triton kernels where they
fit, and in the mode "fused" whole layers are (see `fused`).

Compiled for a CPU, the stages are fewer and longer kernels. Compiling takes some 10 to 25 seconds a
stage, so they are kept on disk (see `artefacts`). What cannot be kept is compiled in memory, where
the compiler packs the weights as constants.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from types import FunctionType, ModuleType

import torch
from torch import Tensor

from reference.artefacts import Found, stages_for
from reference.cycle import Cycle
from reference.fused import LAYERS, fusing, may_fuse
from reference.packing import PackedLinear
from reference.statistics import Statistics
from reference.transformer import Transformer
from specsim.checks import SpecsimError

SMALLEST_WINDOW = 256  # slots that are read at least, where windows are powers of two
WARM_UPS = 3
KEPT = 2  # decoders that a target keeps: plain decoding and speculation may take turns

Stages = Sequence[Callable[[], None]]


class Recordings:
    """The stages of one cycle, recorded or compiled, by gamma and window."""

    def __init__(self, cycle: Cycle):
        self.cycle, self.mode = cycle, cycle.settings.mode
        self.recorded: dict[tuple[int, int], Stages] = {}
        self.found: dict[tuple[int, int], Found] = {}  # on disk, on a CPU
        self.addresses: list[tuple] = []
        self.fixed: dict[str, object] = {}  # values of the drafter that are recorded as they are
        self.in_memory = self.mode == "compiled" and cycle.target.device.type != "cpu"
        self.packs = False  # whether the compiler may treat weights as constants and pack them
        # cycles never overlap, so all graphs share their memory
        on_cuda = cycle.target.device.type == "cuda"
        self.pool = torch.cuda.graph_pool_handle() if on_cuda else None

    def drop_if_moved(self) -> None:
        """Drop all recordings if a tensor that they read has moved, or another value of the drafter
        has changed; once a run, after `begin`."""
        models = self.cycle.target, self.cycle.drafter
        if self.in_memory:
            self.packs = show_plain(*models)
        found, fixed = addresses(*models), plain_values(self.cycle.drafter)
        if found != self.addresses or fixed != self.fixed:
            self.recorded.clear()
            self.found.clear()
        self.addresses, self.fixed = found, fixed

    @property
    def key(self) -> tuple[int, int]:
        """What a recording is made for: the cycle's present gamma and window."""
        return self.cycle.gamma, self.cycle.sequences.window

    def stages(self, statistics: Statistics | None = None) -> Stages:
        """The stages for the cycle's present gamma and window; `statistics` count a cycle of them
        if they are compiled, and say where compiled stages come from, or why there are none."""
        if self.key not in self.recorded:
            self.recorded[self.key] = self.made()
        if statistics is not None and self.mode in ("compiled", "kept"):
            found = self.found.get(self.key)
            statistics.compiled_cycles += self.mode == "compiled" or found.stages is not None
            statistics.notes = [found.note for found in self.found.values()]
        return self.recorded[self.key]

    def made(self) -> Stages:
        """The stages of the mode: recorded, loaded, compiled, or as they are written."""
        stages, weights = self.cycle.stages, nullcontext()
        models = self.cycle.target, self.cycle.drafter
        if self.mode in ("compiled", "kept") and not self.in_memory:
            with idle(self.cycle.sequences.remaining):
                found = stages_for(self.cycle, may_compile=self.mode == "compiled")
            self.found[self.key] = found
            self.addresses = addresses(*models)  # weights may lie in lanes now
            if found.stages is not None or self.mode == "kept":
                return found.stages or stages
            self.in_memory = True
            self.packs = show_plain(*models)
            self.addresses = addresses(*models)
        if self.in_memory:
            stages = [torch.compile(stage, dynamic=False) for stage in stages]
            weights = compiler(packs=self.packs)
        recorded = may_fuse(self.cycle.target.device) if self.mode == "cuda-graphs" else ""
        with weights, fusing(LAYERS if self.mode == "fused" else recorded):
            return record(stages, self.cycle.sequences.remaining, self.pool)


@contextmanager
def idle(remaining: Tensor) -> Iterator[None]:
    """Let every sequence be idle meanwhile: a cycle then changes nothing that counts."""
    saved = remaining.clone()
    remaining.zero_()
    try:
        yield
    finally:
        remaining.copy_(saved)


@contextmanager
def compiler(packs: bool) -> Iterator[None]:
    """Let torch.compile compile one function for many cycles, and with `packs` treat the weights as
    constants. Raises SpecsimError where it fails."""
    from torch import _dynamo, _inductor  # takes seconds, so only where it is used
    from torch._dynamo.exc import TorchDynamoException

    often = {"recompile_limit": 1 << 10, "accumulated_recompile_limit": 1 << 12}
    try:
        with _dynamo.config.patch(often), _inductor.config.patch(freezing=packs):
            yield
    except TorchDynamoException as error:
        reason = str(error).splitlines()[0]
        raise SpecsimError(f"torch.compile fails here: {reason}; use another mode") from error


def show_plain(*models: object) -> bool:
    """Give packed layers a plain copy of their weights for the compiler; whether there are any."""
    packed = [thing for thing in reachable(*models) if isinstance(thing, PackedLinear)]
    for linear in packed:
        if linear.plain is None:
            linear.plain = linear.packed.to_dense()
    return bool(packed)


def record(stages: Stages, remaining: Tensor, pool: tuple[int, int] | None) -> Stages:
    """Run the stages a few times to warm up, every sequence being idle meanwhile; then, on a GPU,
    capture each in memory of the `pool`."""
    with idle(remaining):
        if pool is None:
            for stage in stages:
                stage()
            return stages
        with side_stream(remaining.device) as side:
            for _ in range(WARM_UPS):
                for stage in stages:
                    stage()
        graphs = []
        for stage in stages:
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1], pool=pool, stream=side):
                stage()
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


class KeptDecoders(dict):
    """The last decoders of one target by kind of run, oldest first.

    They are an attribute of the target, because they refer to it: in a table elsewhere they would
    keep it alive. A copy of a model starts with none, because a recording reads the original.
    """

    def __deepcopy__(self, memo: dict) -> "KeptDecoders":
        return KeptDecoders()

    def make_space(self) -> None:
        """Drop the oldest, so that one more may be kept."""
        while len(self) >= KEPT:
            del self[next(iter(self))]


def kept_by(target: Transformer) -> KeptDecoders:
    """The decoders that `target` keeps for the next prompt."""
    return vars(target).setdefault("kept_decoders", KeptDecoders())


def forget(target: Transformer) -> None:
    """Give back the decoders that `target` keeps: their caches and what they have recorded."""
    vars(target).pop("kept_decoders", None)


def window_of(slots: int, on_cpu: bool = False) -> int:
    """The window that holds so many slots, where windows are powers of two. The smallest is half as
    large `on_cpu`, where every slot of it is read and nothing is as dear as reading."""
    return power_of_two(max(slots, SMALLEST_WINDOW // 2 if on_cpu else SMALLEST_WINDOW))


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()


def addresses(*things: object) -> list[tuple]:
    """The addresses and shapes of all tensors that `things` refer to: while these stay the same, a
    recording is valid. A tensor that wraps others has no memory of its own; those that it wraps
    count."""
    return [
        (id(thing), tuple(thing.shape), thing.dtype)  # a packed tensor does not tell its address
        if thing.is_mkldnn
        else (thing.data_ptr(), tuple(thing.shape), thing.stride(), thing.dtype)
        for thing in reachable(*things)
        if isinstance(thing, Tensor) and not hasattr(thing, "__tensor_flatten__")
    ]


def plain_values(thing: object) -> dict[str, object]:
    """The numbers and words among the attributes of `thing`, by name."""
    held = getattr(thing, "__dict__", {})
    return {name: x for name, x in held.items() if isinstance(x, bool | int | float | str)}


def reachable(*things: object) -> Iterator[object]:
    """All objects that `things` hold, themselves first, each once; without classes, modules and
    functions, which everything shares, and without the decoders that a target keeps.

    It asks the garbage collector, which knows the content of every kind of object: a drafter of
    one's own needs no list of its tensors, and cannot forget one.
    """
    seen: dict[int, object] = {}  # holds what was seen, so that no id is used twice
    to_visit = list(things)
    while to_visit:
        thing = to_visit.pop()
        shared = isinstance(thing, (type, ModuleType, FunctionType, KeptDecoders))
        if id(thing) not in seen and not shared:
            seen[id(thing)] = thing
            yield thing
            to_visit += gc.get_referents(thing)

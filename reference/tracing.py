"""A stage of a cycle -> its operators -> a shared library, by PyTorch's own compiler (AOTInductor).

A library holds kernels, and no tensors. Every tensor that a stage reads or writes is an argument,
known by its place in the cycle (see `places`): the caches, which it changes, and the weights, which
are those that `packing` laid out. Everything else is a constant of the trace.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reference.cycle import Cycle
from reference.places import held_by, is_tensor, leaves, parts

FLOWS = {"draft": "drafted", "verify": "verified"}  # what a stage leaves in the cycle
# what the host counts for itself, and what says how the stages are run
UNREAD = ("sequences.longest", "sequences.ends", "settings.mode", *FLOWS.values())


class Unusable(Exception):
    """Why what is on disk is not loaded, or why nothing can be kept there."""


def warm_up(cycle: Cycle) -> None:
    """Run the stages once as they are written: what flows between them is then there as an example.

    Unusable if a stage keeps a tensor elsewhere than in the cycle's flows: a compiled stage would
    not.
    """
    before = {place: thing for place, thing in leaves(cycle, skip=UNREAD) if is_tensor(thing)}
    for stage in cycle.stages:
        stage()
    after = {place: thing for place, thing in leaves(cycle, skip=UNREAD) if is_tensor(thing)}
    for place in {**before, **after}:
        if before.get(place) is not after.get(place):
            raise Unusable(f"a stage replaces the tensor {place}")


def named_tensors(cycle: Cycle) -> dict[str, Tensor]:
    """Every tensor of the cycle by its place, those that flow between its stages among them."""
    return {place: thing for place, thing in leaves(cycle) if is_tensor(thing)}


def flow_of(stage: Callable) -> str | None:
    """The attribute of the cycle that a stage leaves its tensors in, if it leaves any."""
    return FLOWS.get(stage.__name__)


def trace(cycle: Cycle, stage: Callable) -> tuple[torch.fx.GraphModule, list[str]]:
    """The operators of a `stage`, as a function of the tensors in the returned places; it returns
    what the stage leaves. Unusable if the stage reads another tensor."""
    from torch.fx.experimental.proxy_tensor import make_fx

    held, flow = named_tensors(cycle), flow_of(stage)
    places = {id(tensor): place for place, tensor in held.items()}

    def run() -> list[Tensor]:
        stage()
        return list(tensors_in(getattr(cycle, flow))) if flow else []

    with compiling(), kept_as_it_is(cycle):
        module = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)()
    read = {}
    first = next(node for node in module.graph.nodes if node.op != "get_attr")
    for node in list(module.graph.find_nodes(op="get_attr")):
        place = places.get(id(getattr(module, node.target)))
        if place is None:
            raise Unusable(
                f"the stage {stage.__name__} reads a tensor that the cycle does not hold"
            )
        if place not in read:
            with module.graph.inserting_before(first):
                read[place] = module.graph.placeholder(f"input_{len(read)}")
        node.replace_all_uses_with(read[place])
        module.graph.erase_node(node)
    for name in [*dict(module.named_buffers()), *dict(module.named_parameters())]:
        delattr(module, name)
    module.recompile()
    return module, list(read)


@contextmanager
def compiling() -> Iterator[None]:
    """Let the code take the paths that a compiler takes: see `torch.compiler.is_compiling`."""
    from torch._export.utils import _compiling_state_context

    with _compiling_state_context():
        yield


@contextmanager
def kept_as_it_is(cycle: Cycle) -> Iterator[None]:
    """Undo what a trace leaves in the attributes of the cycle: tensors without values."""
    things = [x for x in held_by(cycle) if not isinstance(x, tuple | list | Mapping)]
    saved = [(x, parts(x)) for x in things]
    try:
        yield
    finally:
        for thing, before in saved:
            for name, part in (before or {}).items():
                if isinstance(part, Tensor | tuple) and getattr(thing, name, None) is not part:
                    setattr(thing, name, part)


def tensors_in(flow: Any) -> Iterator[Tensor]:
    """The tensors in a tuple and the tuples in it, in the order that `refilled` takes them."""
    if is_tensor(flow):
        yield flow
    elif isinstance(flow, tuple):
        for part in flow:
            yield from tensors_in(part)


def refilled(example: Any, tensors: Iterator[Tensor]) -> Any:
    """A tuple like `example`, with other tensors."""
    if is_tensor(example):
        return next(tensors)
    if isinstance(example, tuple):
        parts = [refilled(part, tensors) for part in example]
        return type(example)(*parts) if hasattr(example, "_fields") else tuple(parts)
    return example


def compile_library(
    module: torch.fx.GraphModule, tensors: list[Tensor], folder: Path, name: str
) -> Path:
    """Compile a traced stage into the library `name` in `folder`, and nothing elsewhere."""
    from torch import _inductor  # takes seconds
    from torch._inductor.utils import fresh_cache

    with tempfile.TemporaryDirectory(dir=folder) as scratch, fresh_cache(dir=scratch):
        quiet = warnings.catch_warnings(action="ignore")  # about torch's own code
        with packed_products(), fused_sums(), quiet:
            made = Path(_inductor.aot_compile(module, without_values(tensors)))
        for suffix in (".so", ".json"):  # the second is there where operators run by name
            if made.with_suffix(suffix).exists():
                shutil.copy(made.with_suffix(suffix), folder / (name + suffix))
    return folder / f"{name}.so"


def fused_sums() -> AbstractContextManager:
    """Let the compiler multiply and add in one instruction, which rounds once and not twice."""
    from torch import _inductor

    return _inductor.config.patch({"cpp.enable_floating_point_contract_flag": "fast"})


def without_values(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Tensors of the same shapes, strides and dtypes, as examples for the compiler."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as fake:
        return tuple(
            torch.empty(x.shape, dtype=x.dtype) if x.is_mkldnn else fake.from_tensor(x)
            for x in tensors
        )


@contextmanager
def packed_products() -> Iterator[None]:
    """Let the compiler take packed weights as arguments. Of itself it takes them as constants only,
    and would store them in every library."""
    from torch._inductor import mkldnn_ir, mkldnn_lowerings  # noqa: F401  (the second registers)
    from torch._inductor.ir import TensorBox
    from torch._inductor.lowering import lowerings

    operators = torch.ops.mkldnn._linear_pointwise
    nodes = {operators.default: mkldnn_ir.LinearUnary, operators.binary: mkldnn_ir.LinearBinary}
    before = {operator: lowerings[operator] for operator in nodes}

    def lowering(node: Any) -> Callable[..., TensorBox]:
        return lambda *arguments: TensorBox.create(node.create(*arguments))

    lowerings.update({operator: lowering(node) for operator, node in nodes.items()})
    try:
        yield
    finally:
        lowerings.update(before)

"""What an object holds, by its place in it, such as `target.layers.0.qkv.packed`."""

from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def leaves(thing: Any, place: str = "", skip: tuple[str, ...] = (), seen=None) -> Iterator[tuple]:
    """Every tensor and every plain value that `thing` holds, with its place, each object once."""
    seen = {} if seen is None else seen
    if place in skip or id(thing) in seen:
        return
    if thing is None or isinstance(thing, (bool, int, float, str, torch.dtype, torch.device)):
        yield place, thing
        return
    seen[id(thing)] = thing
    within = parts(thing)
    if within is None:
        yield place, thing
        return
    if isinstance(thing, FunctionType):
        yield place, thing
    elif not isinstance(thing, tuple | list | set | frozenset | Mapping):
        yield f"{place}:", type(thing)
    for name, part in within.items():
        yield from leaves(part, f"{place}.{name}" if place else str(name), skip, seen)


def held_by(thing: Any) -> list[Any]:
    """`thing` and all objects that it holds which hold something themselves, or are tensors."""
    seen: dict[int, Any] = {}
    for _ in leaves(thing, seen=seen):
        pass
    return list(seen.values())


def parts(thing: Any) -> dict[str, Any] | None:
    """What an object holds, by name; None for a tensor, and for what has no attributes."""
    if isinstance(thing, Tensor | type):
        return None
    if isinstance(thing, FunctionType):
        cells = enumerate(thing.__closure__ or ())
        return {str(index): cell.cell_contents for index, cell in cells} or None
    if isinstance(thing, MethodType):
        return {"self": thing.__self__, "function": thing.__func__}
    if isinstance(thing, partial):
        return {"function": thing.func, "first": thing.args, "named": thing.keywords}
    if isinstance(thing, nn.Module):
        own = {name: x for name, x in vars(thing).items() if name not in OF_EVERY_MODULE}
        own.pop("kept_decoders", None)
        return {**own, **thing._parameters, **thing._buffers, **thing._modules}
    if isinstance(thing, Mapping):
        return {str(name): part for name, part in thing.items()}
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return thing._asdict()
    if isinstance(thing, set | frozenset):
        return {str(index): part for index, part in enumerate(sorted(thing, key=repr))}
    if isinstance(thing, tuple | list):
        return {str(index): part for index, part in enumerate(thing)}
    slots = [s for kind in type(thing).__mro__ for s in getattr(kind, "__slots__", ())]
    held = {s: getattr(thing, s) for s in slots if hasattr(thing, s)} | getattr(
        thing, "__dict__", {}
    )
    held.pop("_hash", None)  # an architecture's own, which is another in every process
    return held or None


def plain(thing: Any) -> Any:
    """A value of a key, in JSON: a tensor is its shape, strides and dtype."""
    if isinstance(thing, Tensor):
        packed = thing.is_mkldnn or hasattr(thing, "__tensor_flatten__")
        layout = type(thing).__name__ + str(thing.layout) if packed else list(thing.stride())
        return [list(thing.shape), layout, str(thing.dtype)]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, type) or callable(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, torch.dtype | torch.device):
        return str(thing)
    return (
        {place: plain(part) for place, part in leaves(thing)} if parts(thing) else str(type(thing))
    )


def is_tensor(thing: Any) -> bool:
    """Whether it is a tensor."""
    return isinstance(thing, Tensor)

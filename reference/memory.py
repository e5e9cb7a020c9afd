"""How much memory is free, and an error in words where it is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from specsim.checks import SpecsimError


class DoesNotFit(SpecsimError):
    """More memory is needed than is free."""


@contextmanager
def memory_for(what: str, nbytes: float, device: torch.device) -> Iterator[None]:
    """Allocate `what`, of `nbytes`, inside this context; raises DoesNotFit where that fails.

    It is refused before the first byte where the free memory is known, because an operating system
    hands out more memory than it has.
    """
    free = free_bytes(device)
    if nbytes > free:
        raise DoesNotFit(f"{what} need {in_bytes(nbytes)} of memory; {in_bytes(free)} are free")
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DoesNotFit(
                f"{what} need {in_bytes(nbytes)}, and {device} is out of memory"
            ) from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error of torch or Python means that a device is out of memory."""
    words = str(error).lower()
    known = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(phrase in words for phrase in known)


def in_bytes(count: float) -> str:
    """1.5 GB for 1.5e9."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def free_bytes(device: torch.device) -> float:
    """Bytes that may be allocated now without swapping; infinite where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            sizes = {line.split(":")[0]: line.split()[1] for line in lines}
        return 1024.0 * float(sizes["MemAvailable"])
    except (OSError, KeyError):
        return float("inf")

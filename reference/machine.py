"""The machine at hand: its device, its dtypes, and what a measurement says of it."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import torch

from specsim.checks import SpecsimError
from specsim.evidence.measurement import Environment

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISION_OF = {dtype: name for name, dtype in DTYPES.items()}


def device_named(name: str | None) -> torch.device:
    """The torch device called `name`; by default the GPU where there is one, else the CPU.

    Raises SpecsimError for a device that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise SpecsimError(f"device {name!r} cannot be used here: {reason}") from None
    return torch.device(name)


def dtype_named(name: str) -> torch.dtype:
    """fp32, bf16 or fp16; SpecsimError for another name."""
    if name not in DTYPES:
        raise SpecsimError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


class DoesNotFit(SpecsimError):
    """What was asked for is more than there is memory."""


@contextmanager
def memory_for(what: str, nbytes: float, device: torch.device) -> Iterator[None]:
    """Allocate within: where `what` does not fit, DoesNotFit says so, with the bytes asked for.

    It is refused before the first byte where that is known, because a CPU's system hands out more
    than it has.
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
    """Whether torch (or Python) means by it that memory has run out, on whatever device."""
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
    """What may be allocated now, without swapping; infinite where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            sizes = {line.split(":")[0]: line.split()[1] for line in lines}
        return 1024.0 * float(sizes["MemAvailable"])
    except (OSError, KeyError):
        return float("inf")


def environment(device: torch.device) -> Environment:
    on_gpu = device.type == "cuda"
    return Environment(
        device=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        torch=torch.__version__,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        date=date.today().isoformat(),
        driver=str(torch.version.cuda) if on_gpu else None,
    )


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, platform.processor() or platform.machine())
    except OSError:
        return platform.processor() or platform.machine()

"""The device and dtype of a run, by name, and the environment that a measurement records."""

import platform
from datetime import date

import torch

from specsim.checks import SpecsimError
from specsim.evidence.measurement import Environment

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISION_OF = {dtype: name for name, dtype in DTYPES.items()}


def device_named(name: str | None) -> torch.device:
    """The torch device called `name`; by default the GPU if there is one, else the CPU.

    Raises SpecsimError for a device that cannot be used.
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


def environment(device: torch.device) -> Environment:
    """What was measured on: device, torch, Python, threads and today's date."""
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
    """The processor's name, if the operating system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, platform.processor() or platform.machine())
    except OSError:
        return platform.processor() or platform.machine()

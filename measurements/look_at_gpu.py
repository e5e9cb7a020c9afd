"""Describe a machine and time its rates, in half a minute, before anything else is measured on it.

    python measurements/look_at_gpu.py [--device cuda] [--json FILE]

Prints a table: versions, the kernel that torch chooses for attention with a mask, and rates that
limit decoding. --json writes the same as one JSON document. A plain step of a model cannot be
faster than its bytes at `read_bytes_per_s`. `linear_bytes_per_s` shows how close the matrices of an
8B model come to this rate, by their rows. On a CPU all sizes are small; this only tests the script.
"""

import argparse
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from reference.attention import attend, attention_bias
from reference.chunked_attention import chunked_from
from reference.lab.kernels import Timer
from reference.machine import device_named, environment
from specsim.architecture import Architecture, model
from specsim.checks.files import write_json


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read, multiplied and launched. `rows` are tokens per pass."""

    read_bytes: int
    side: int
    rotated_bytes: float  # of matrix copies used in turn, so that no cache holds the next one
    launches: int
    model: Architecture
    rows: tuple[int, ...]


GPU = Sizes(2**31, 8192, 3e8, 500, model("llama-3.1-8b"), (1, 2, 5, 9, 16))
SMALL = Sizes(2**22, 128, 1e6, 50, Architecture("small", 64, 2, 4, 2, 16, 128, 512), (1, 5))
DTYPE = torch.bfloat16


def about(device: torch.device) -> dict:
    """Versions and sizes of the device, and the settings that choose its attention kernel."""
    found = asdict(environment(device)) | {"platform": platform.platform()}
    found["cudnn_attention"] = torch.backends.cuda.cudnn_sdp_enabled()
    found["attention_choice"] = attention_choice(device)
    found["chunked_from"] = chunked_from()
    for name in ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "LD_LIBRARY_PATH"):
        found[name] = os.environ.get(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "processors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def attention_choice(device: torch.device) -> str:
    """The kernel that torch chooses for the attention of a verification pass, which has a mask."""
    queries = torch.randn(1, 8, 4, 128, device=device, dtype=DTYPE)
    keys = torch.randn(1, 8, 512, 128, device=device, dtype=DTYPE)
    bias = torch.zeros(1, 1, 4, 512, device=device, dtype=DTYPE)
    return SDPBackend(torch._fused_sdp_choice(queries, keys, keys, bias)).name


def new_shape_s(device: torch.device) -> float:
    """Seconds of the slowest first call of attention in a new window.

    It is long if a library plans its kernel anew for every shape.
    """
    slowest = 0.0
    for window in (264, 272, 280, 288):
        queries = torch.randn(1, 1, 32, 128, device=device, dtype=DTYPE)
        keys = torch.randn(1, window, 8, 128, device=device, dtype=DTYPE)
        bias = attention_bias(torch.tensor([[window - 1]], device=device), window, 4, DTYPE)
        begun = time.perf_counter()
        attend(queries, keys, keys, bias).sum().item()
        if window > 264:  # the first one loads the kernel
            slowest = max(slowest, time.perf_counter() - begun)
    return slowest


def rates(timer: Timer, sizes: Sizes) -> dict[str, float]:
    """Bytes per second of a large read and a copy, FLOP/s of a square product, seconds of a tiny
    kernel."""
    device = timer.device
    one, other = (torch.randn(sizes.read_bytes // 4, device=device) for _ in range(2))
    found = {
        "read_bytes_per_s": sizes.read_bytes / timer.each([one.sum, other.sum]),
        "copy_bytes_per_s": 2 * sizes.read_bytes / timer.each([lambda: one.copy_(other)] * 2),
    }
    a, b = (torch.randn(sizes.side, sizes.side, device=device, dtype=DTYPE) for _ in range(2))
    found["matmul_flops_per_s"] = 2 * sizes.side**3 / timer.each([lambda: a @ b] * 3)
    small = torch.zeros(256, device=device)
    found["tiny_kernel_s"] = timer.each([lambda: small.add_(1.0)] * sizes.launches)
    return found


def matrices(model: Architecture) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the matrices of a layer, and of the LM head."""
    hidden, width = model.hidden_size, model.intermediate_size
    return {
        "qkv": (hidden, model.query_size + 2 * model.kv_size),
        "output": (model.query_size, hidden),
        "gate_up": (hidden, 2 * width),
        "down": (width, hidden),
        "head": (hidden, model.vocab_size),
    }


def linear_rates(timer: Timer, sizes: Sizes) -> dict[str, dict[int, float]]:
    """Weight bytes per second by matrix and rows. Each call reads another copy of the matrix."""
    found: dict[str, dict[int, float]] = {}
    for name, (inputs, outputs) in matrices(sizes.model).items():
        nbytes = inputs * outputs * DTYPE.itemsize
        weights = [
            torch.randn(outputs, inputs, device=timer.device, dtype=DTYPE)
            for _ in range(max(2, int(sizes.rotated_bytes / nbytes)))
        ]
        for rows in sizes.rows:
            x = torch.randn(rows, inputs, device=timer.device, dtype=DTYPE)
            seconds = timer.each([lambda w=w, x=x: F.linear(x, w) for w in weights])
            found.setdefault(name, {})[rows] = nbytes / seconds
    return found


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--json", type=Path, help="a file to write the same document to")
    options = parser.parse_args()
    device = device_named(options.device)
    sizes, timer = (GPU if device.type == "cuda" else SMALL), Timer(device)
    found = about(device) | {"new_shape_s": new_shape_s(device)} | rates(timer, sizes)
    for name, value in found.items():
        print(f"{name:<32} {value:.4g}" if isinstance(value, float) else f"{name:<32} {value}")
    found["linear_bytes_per_s"] = linear_rates(timer, sizes)
    for name, by_rows in found["linear_bytes_per_s"].items():
        print(f"{name:<10}", *(f"{rows} rows {r / 1e12:.3f} TB/s" for rows, r in by_rows.items()))
    if options.json:
        write_json(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

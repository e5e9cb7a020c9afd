"""Time one model in every mode of the decoder, beside the rate of a plain read.

    python measurements/modes.py [--device cuda] [--modes eager cuda-graphs …] [--json FILE]

Plain steps and cycles with a draft model run on random weights; accept counts are drawn. A plain
step cannot be faster than its bytes at the rate of a read, and `share` says how close it comes. In
the mode `compiled` only plain steps are timed: compiling four draft passes too takes minutes. On a
CPU the models are small; this only tests the script.
"""

import argparse
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from reference import Drafter, DraftModel, NoDrafter, speculate
from reference.fused import missing
from reference.graphs import forget
from reference.lab.dialled import architecture_named, random_model
from reference.lab.kernels import Timer
from reference.machine import device_named, environment
from reference.transformer import Transformer
from specsim.architecture import Architecture
from specsim.checks.files import write_json
from specsim.operators import Workload, forward_work, precision

SMALL = Architecture("small", 64, 2, 4, 2, 16, 128, 512, max_context=4096)
MODES = ("eager", "cuda-graphs", "fused", "compiled")
DTYPE = torch.bfloat16
GAMMA, ALPHA, CONTEXT, TOKENS, ROUNDS = 4, 0.8, 400, 48, 3
READ_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Timed:
    """The medians of a mode; seconds, or None if it was not timed."""

    mode: str
    gamma: int
    cycle_s: float
    draft_s: float | None
    verify_s: float
    host_s: float
    tokens_per_cycle: float
    first_run_s: float  # with recording or compiling


def timed(target: Transformer, drafter: Drafter, mode: str) -> Timed:
    """Decode a few times in a mode."""
    gamma = drafter.gamma
    survival = [ALPHA**k for k in range(1, gamma + 1)] if gamma else None

    def run(seed: int):
        prompt = [1] * CONTEXT
        return speculate(
            target, drafter, prompt, TOKENS, 1.0, seed=seed, mode=mode, survival=survival
        ).statistics

    begun = time.perf_counter()
    run(0)
    first_run_s = time.perf_counter() - begun
    runs = [run(seed) for seed in range(ROUNDS)]
    forget(target)

    def median(name: str) -> float | None:
        found = [value for one in runs if (value := getattr(one, name)) is not None]
        return statistics.median(found) if found else None

    tokens = statistics.mean(one.tokens_per_cycle or 1.0 for one in runs)
    return Timed(
        mode, gamma, median("cycle_s"), median("draft_s"), median("verify_s"), median("host_s"),
        tokens, first_run_s,
    )  # fmt: skip


def step_bytes(model: Architecture) -> float:
    """Bytes of weights and KV cache that a plain step reads, up to its token."""
    workload = Workload(batch=1, rows=1, context=CONTEXT + TOKENS // 2)
    work = forward_work(model, workload, precision("bf16"))
    return float(work.weight_bytes + work.kv_bytes)


def read_rate(device: torch.device) -> float:
    """Bytes per second of summing a buffer that is larger than every cache."""
    size = READ_BYTES if device.type == "cuda" else 2**24
    buffers = [torch.ones(size // 4, device=device) for _ in range(2)]
    return size / Timer(device).each([buffer.sum for buffer in buffers])


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--modes", nargs="+", default=None, help=f"default: {' '.join(MODES)}")
    parser.add_argument("--json", type=Path, help="a file to write the same document to")
    options = parser.parse_args()
    device = device_named(options.device)
    on_cuda = device.type == "cuda"
    shapes = [architecture_named(name) for name in ("8b", "1b")] if on_cuda else [SMALL, SMALL]
    rate, nbytes = read_rate(device), step_bytes(shapes[0])
    target, draft = (random_model(shape, DTYPE, device, seed) for seed, shape in enumerate(shapes))
    target.reads_prompts = draft.reads_prompts = False
    print(f"a read {rate / 1e12:.3f} TB/s; a step of {shapes[0].name} {nbytes / 1e9:.2f} GB")
    found = []
    for mode in options.modes or (MODES if on_cuda else ("eager",)):
        if mode == "fused" and (lacks := missing(device)):
            print(f"fused: skipped, it needs {lacks}")
            continue
        drafters = [NoDrafter()] if mode == "compiled" else [NoDrafter(), DraftModel(draft, GAMMA)]
        step_s = 0.0
        for drafter in drafters:
            row = timed(target, drafter, mode)
            step_s = step_s or row.cycle_s
            found.append(row)
            words = (
                f"{row.tokens_per_cycle * step_s / row.cycle_s:.2f}x of plain steps, "
                f"{row.tokens_per_cycle:.2f} tokens"
                if row.gamma
                else f"{nbytes / row.cycle_s / rate:.1%} of the read"
            )
            print(
                f"{mode:12} gamma {row.gamma}: {1e3 * row.cycle_s:8.3f} ms a cycle "
                f"(verify {1e3 * row.verify_s:.3f}), {words}; first run {row.first_run_s:.1f} s",
                flush=True,
            )
    if options.json:
        about = {"read_bytes_per_s": rate, "step_bytes": nbytes, "context": CONTEXT}
        models = {"target": shapes[0].name, "draft": shapes[1].name, "alpha": ALPHA}
        document = {"environment": asdict(environment(device))} | about | models
        write_json(options.json, document | {"modes": [asdict(row) for row in found]})
    return 0


if __name__ == "__main__":
    sys.exit(main())

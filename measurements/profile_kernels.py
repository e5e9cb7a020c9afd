"""List the kernels of a decoding cycle, and how long each of them takes.

    python measurements/profile_kernels.py [--device cuda] [--shape 8b] [--json FILE]

Profiles plain steps, and verification of four fixed drafts, in a short and a long window, on random
weights. The stage times come from a run without the profiler: a cycle minus the sum of its kernels
is the time in which no kernel runs. `calls` are those of the CUDA runtime, per cycle: the host
launches three graphs, and waits once, for the result of the cycle before. On a CPU the model is
small, and operators are listed instead of kernels.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from reference import NoDrafter, speculate
from reference.drafters import Drafter
from reference.lab.dialled import architecture_named, random_model
from reference.lab.suites.variants import FixedDrafts
from reference.machine import device_named
from reference.transformer import Transformer
from specsim.architecture import Architecture
from specsim.checks.files import write_json

SMALL = Architecture("small", 64, 2, 4, 2, 16, 128, 512, max_context=4096)
CONTEXTS = (400, 1950)  # windows of 512 and 2048 slots
TOKENS = 24
GAMMA = 4
MOST = 14  # kernels in the table of a cycle


def profiled(target: Transformer, drafter: Drafter, context: int) -> dict:
    """The stage times of a cycle in seconds, its kernels, the longest first, and its calls."""
    prompt, on_cuda = [1] * context, target.device.type == "cuda"

    def run():
        return speculate(target, drafter, prompt, TOKENS, 1.0).statistics

    run()  # warms up and captures graphs
    timed = run()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=kinds) as seen:
        cycles = max(1, len(run().cycle_times))

    def seconds(event) -> float:
        return (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / 1e6

    everything = list(seen.key_averages())
    where = DeviceType.CUDA if on_cuda else DeviceType.CPU
    calls = {
        event.key: event.count / cycles
        for event in everything
        if event.device_type == DeviceType.CPU and event.key.startswith("cuda")
    }
    events = [event for event in everything if event.device_type == where]
    events.sort(key=seconds, reverse=True)
    return {
        "gamma": drafter.gamma,
        "context": context,
        "cycle_s": timed.cycle_s,
        "draft_s": timed.draft_s,
        "verify_s": timed.verify_s,
        "host_s": timed.host_s,
        "kernels_s": sum(map(seconds, events)) / cycles,
        "calls": calls,
        "kernels": [
            {"name": event.key, "count": event.count / cycles, "seconds": seconds(event) / cycles}
            for event in events
        ],
    }


def text(found: dict) -> str:
    """A table of a cycle's kernels, in microseconds."""
    cycle = 1e6 * (found["cycle_s"] or 0.0)
    lines = [
        f"gamma {found['gamma']}, context {found['context']}: a cycle of {cycle:.0f} us, "
        f"its kernels {1e6 * found['kernels_s']:.0f} us (the start of the run included)"
    ]
    lines += [
        f"{1e6 * kernel['seconds']:10.1f} us {kernel['count']:8.1f} x  {kernel['name'][:90]}"
        for kernel in found["kernels"][:MOST]
    ]
    if found["calls"]:
        each = ", ".join(f"{count:.1f} {name}" for name, count in found["calls"].items())
        lines.append(f"calls per cycle: {each}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--shape", help="1b, 8b, a preset or a config.json; default: 8b on a GPU")
    parser.add_argument("--json", type=Path, help="a file to write every kernel to")
    options = parser.parse_args()
    device = device_named(options.device)
    name = options.shape or ("8b" if device.type == "cuda" else None)
    target = random_model(architecture_named(name) if name else SMALL, torch.bfloat16, device, 0)
    target.reads_prompts = False
    found = []
    for drafter in (NoDrafter(), FixedDrafts(GAMMA)):
        for context in CONTEXTS:
            found.append(profiled(target, drafter, context))
            print(text(found[-1]), flush=True)
    if options.json:
        write_json(options.json, {"shape": target.architecture.name, "cycles": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

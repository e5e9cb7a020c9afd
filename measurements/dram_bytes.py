"""Count the bytes that a GPU reads from its memory for every emitted token, beside the prediction.

    python measurements/dram_bytes.py [--gammas 0 2 4] [--cycles 16] [--json FILE]

Nsight Compute (`ncu`) runs this script again, and reads the counters of the memory
(`dram__bytes_read.sum`, `dram__bytes_write.sum`) for a number of whole cycles: a Llama 3.1 8B shape
in bf16 with a draft of Llama 3.2 1B's shape, random weights, drawn accept counts, batch 1. The
caches are left as they are, so what the second-level cache keeps from one kernel to the next is not
read again. With `--graphs graph` a CUDA graph is one measurement, with `node` each of its kernels
is (slower, and it lists them); `--mode eager` measures the kernels without graphs.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from reference import DraftModel, NoDrafter
from reference.decoding import stream
from reference.graphs import forget
from reference.lab.dialled import architecture_named, random_model
from reference.machine import device_named, environment
from specsim.acceptance import PerPosition
from specsim.checks import SpecsimError
from specsim.checks.files import write_json
from specsim.drafting import DraftModel as DraftModelCost
from specsim.hardware import system
from specsim.speculation import predict

METRICS = {"read": "dram__bytes_read.sum", "written": "dram__bytes_write.sum"}
ALPHA, CONTEXT, WARM_UP = 0.8, 360, 3
MARKER = "spin_kernel"  # of torch.cuda._sleep: a gamma begins
UNITS = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}


def survival(gamma: int) -> list[float]:
    """P(at least k drafts are accepted), k = 1 … gamma."""
    return [ALPHA**k for k in range(1, gamma + 1)]


def predicted(gamma: int, context: float) -> dict[str, float]:
    """Bytes of a cycle and of an emitted token, by the model: they depend on no constant."""
    target, draft = architecture_named("8b"), architecture_named("1b")
    answer = predict(
        target,
        DraftModelCost(draft, catch_up="row") if gamma else None,
        system("h100-sxm", "ideal", "bf16"),
        gamma=gamma,
        acceptance=PerPosition(survival(gamma)) if gamma else None,
        context=context,
    )
    nbytes = float(answer.verification.bytes_moved + answer.drafting.bytes_moved)
    return {"cycle": nbytes, "tokens_per_cycle": float(answer.tokens_per_cycle)}


def counted(gammas: list[int], cycles: int, mode: str) -> list[dict[str, float]]:
    """Decode with each gamma; the profiler counts a marker, then `cycles` whole cycles. What they
    emitted, and the mean context of their passes."""
    device, found = device_named("cuda"), []
    target = random_model(architecture_named("8b"), torch.bfloat16, device, 0)
    draft = random_model(architecture_named("1b"), torch.bfloat16, device, 1)
    target.reads_prompts = draft.reads_prompts = False
    for gamma in gammas:
        drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
        tokens = (cycles + WARM_UP + 4) * (gamma + 1)

        def steps(drafter=drafter, gamma=gamma, tokens=tokens):
            return stream(
                target, drafter, [1] * CONTEXT, tokens, 1.0, mode=mode, seed=1,
                survival=survival(gamma) if gamma else None,
            )  # fmt: skip

        list(steps())  # records
        begun = emitted = 0
        for index, new in enumerate(steps()):
            if index == WARM_UP:
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStart()
                torch.cuda._sleep(1000)
            elif index > WARM_UP:
                emitted += len(new)
            begun += len(new) if index <= WARM_UP else 0
            if index == WARM_UP + cycles:
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStop()
                break
        context = CONTEXT + begun + emitted / 2
        found.append({"gamma": gamma, "emitted": emitted, "cycles": cycles, "context": context})
        forget(target)
    return found


def number(text: str) -> float:
    """A number as ncu writes it."""
    return float(text.replace(",", ""))


def read_counters(text: str) -> list[dict[str, dict[str, float]]]:
    """The counters by kernel after each marker, from ncu's raw page as CSV: a row of names, a row
    of units, then a row for each kernel or graph."""
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    if len(rows) < 3:
        raise SpecsimError("ncu counted nothing; its log ends: " + text.strip()[-300:])
    names, units = rows[0], rows[1]
    found: list[dict[str, dict[str, float]]] = []
    for row in rows[2:]:
        kernel = row[names.index("Kernel Name")]
        if MARKER in kernel:
            found.append({})
            continue
        counts = found[-1].setdefault(kernel, dict.fromkeys(("count", *METRICS), 0.0))
        counts["count"] += 1
        for name, metric in METRICS.items():
            at = names.index(metric)
            counts[name] += number(row[at]) * UNITS[units[at]]
    return found


def profiled(options: argparse.Namespace) -> list[dict]:
    """All gammas, in one process under ncu."""
    with tempfile.TemporaryDirectory() as folder:
        log, said = Path(folder) / "ncu.csv", Path(folder) / "said.json"
        command = [
            options.ncu, "--profile-from-start", "off", "--graph-profiling", options.graphs,
            "--cache-control", "none", "--clock-control", "none",
            "--metrics", ",".join(METRICS.values()), "--csv", "--page", "raw",
            "--print-units", "base", "--log-file", str(log),
            sys.executable, __file__, "--child", "--gammas", *map(str, options.gammas),
            "--cycles", str(options.cycles), "--mode", options.mode, "--json", str(said),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        if run.returncode or not said.is_file():
            ends = (run.stderr or run.stdout or text).strip().splitlines()[-8:]
            raise SpecsimError(f"ncu ended with status {run.returncode}: " + " / ".join(ends))
        children = json.loads(said.read_text(encoding="utf-8"))
    counters = read_counters(text)
    if len(counters) != len(children):
        raise SpecsimError(f"ncu counted {len(counters)} runs, not {len(children)}")
    return [result(child, found) for child, found in zip(children, counters, strict=True)]


def result(child: dict, kernels: dict[str, dict[str, float]]) -> dict:
    """What one gamma read and wrote, beside what the model expects."""
    expected = predicted(child["gamma"], child["context"])
    cycles, tokens = child["cycles"], child["emitted"]
    read, written = (sum(found[name] for found in kernels.values()) for name in METRICS)
    most = sorted(kernels.items(), key=lambda item: -item[1]["read"])[:12]
    return child | {
        "read_per_cycle": read / cycles,
        "written_per_cycle": written / cycles,
        "read_per_token": read / tokens,
        "predicted_per_cycle": expected["cycle"],
        "predicted_per_token": expected["cycle"] * cycles / tokens,
        "expected_tokens_per_cycle": expected["tokens_per_cycle"],
        "kernels": [{"name": name[:120]} | found for name, found in most],
    }


def line(found: dict) -> str:
    """A gamma in one line."""
    ratio = found["read_per_cycle"] / found["predicted_per_cycle"]
    return (
        f"gamma {found['gamma']}: {found['emitted'] / found['cycles']:.2f} tokens per cycle, read "
        f"{found['read_per_cycle'] / 1e9:.3f} GB a cycle ({found['predicted_per_cycle'] / 1e9:.3f} "
        f"predicted, ratio {ratio:.3f}), {found['read_per_token'] / 1e9:.3f} GB a token "
        f"({found['predicted_per_token'] / 1e9:.3f}); written "
        f"{found['written_per_cycle'] / 1e9:.3f} GB a cycle"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gammas", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--cycles", type=int, default=16)
    parser.add_argument("--graphs", choices=("graph", "node"), default="graph")
    parser.add_argument("--mode", default="cuda-graphs", help="a mode of the decoder")
    parser.add_argument("--ncu", default=shutil.which("ncu") or "ncu")
    parser.add_argument("--json", type=Path, help="a file to write the same document to")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        write_json(options.json, counted(options.gammas, options.cycles, options.mode))
        return 0
    try:
        found = profiled(options)
    except (SpecsimError, OSError, ValueError) as error:
        print(f"dram_bytes: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(line, found)))
    if options.json:
        about = {"environment": asdict(environment(device_named("cuda")))}
        about |= {"target": "llama-3.1-8b", "draft": "llama-3.2-1b", "alpha": ALPHA}
        write_json(options.json, about | {"mode": options.mode, "gammas": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Our server, vLLM's and the decoder itself: tokens per second of 1, 2, 4 and 8 streams, measured
and predicted, on one machine in one run.

    python bench/versus_servers.py [--vllm PYTHON] [--rounds 3] [--streams 1 2 4 8] [--out FILE]

The bundled pair, greedy, six prompts a stream, the same weights and dtype everywhere; plain and with
a draft model. The loads are sent in turn to every server, round after round; a server that is not
asked waits. The decoder decodes the same prompts as one ragged batch of that size. Predicted are our
server, from this machine's probes, and vLLM, whose engine is fitted to its own plain runs at the
fewest and the most streams, with the probes' kernels. `make bench-servers` installs vLLM into an
environment of its own; without it the rest is measured.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import reference
from reference.lab.probes import fastest_dtype, run_probes
from reference.machine import PRECISION_OF, dtype_named, environment
from specsim import serving
from specsim.checks.files import write_json
from specsim.demo import served
from specsim.demo.processes import free_port, running
from specsim.evidence import client
from specsim.evidence.calibration import fit, to_json
from specsim.evidence.comparison.fitted import fitted_to_server

ROOT = Path(__file__).parent.parent
VLLM = ROOT / ".servers" / "vllm" / "bin" / "python"
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # vLLM's names
PER_STREAM, ANSWER, PROMPT = 6, 96, 32


def vllm_server(python: str, gamma: int, dtype: str):
    """vLLM with the bundled pair, as a context that gives its address."""
    port, pair = free_port(), ROOT / "reference" / "pair"
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(pair / "target"),
        "--served-model-name", "bundled", "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", "512", "--max-num-seqs", "16", "--enforce-eager",
        "--no-enable-prefix-caching", "--dtype", DTYPES[dtype],
    ]  # fmt: skip
    if gamma:
        drafting = {"model": str(pair / "draft"), "method": "draft_model",
                    "num_speculative_tokens": gamma}  # fmt: skip
        command += ["--speculative-config", json.dumps(drafting)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return running(command, port, environment=VLLM_SETTINGS | threads)


def traffic(streams: int) -> serving.Traffic:
    """A closed loop."""
    return serving.traffic(
        concurrency=streams, requests=PER_STREAM * streams, prompt=serving.Lengths(PROMPT),
        output=serving.Lengths(ANSWER),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", default=str(VLLM), metavar="PYTHON", help="of its environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=list(served.STREAMS))
    parser.add_argument("--gamma", type=int, default=served.GAMMA)
    parser.add_argument("--dtype", choices=DTYPES, help="default: the faster one here")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cpu = torch.device("cpu")
    dtype = dtype_named(options.dtype) if options.dtype else fastest_dtype(cpu)[0]
    name = PRECISION_OF[dtype]
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    prompts = [list(text[:PROMPT]) for text in reference.prompts("timed") if len(text) >= PROMPT]
    prompts = prompts * (PER_STREAM * max(options.streams) // len(prompts) + 1)
    written = [client.Written(tuple(prompt)) for prompt in prompts]
    gammas = (0, options.gamma)
    about = asdict(environment(cpu))
    print(f"{about['device']}, {name}; probing …", flush=True)
    calibration = fit(run_probes(cpu, dtype), about)
    makers = {
        ("ours", gamma): served.our_server(gamma, name, max(options.streams)) for gamma in gammas
    }
    if Path(options.vllm).exists():
        makers |= {("vLLM", gamma): vllm_server(options.vllm, gamma, name) for gamma in gammas}
    else:
        print(f"no vLLM at {options.vllm}: make servers.ready installs it", flush=True)
    speeds: dict[tuple[str, int, int], list[float]] = {}
    tpot_s: dict[int, list[float]] = {}
    lengths: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        servers = {key: stack.enter_context(maker) for key, maker in makers.items()}
        print("servers are up", flush=True)
        for turn in range(options.rounds + 1):
            for count in options.streams:
                for gamma in gammas:
                    for who in ("decoder", "ours", "vLLM"):
                        key = (who, gamma, count)
                        if who == "decoder":
                            speed = decoded(
                                target, draft, gamma, prompts[: count * PER_STREAM], count
                            )
                        elif (who, gamma) in servers:
                            run = client.measure_server(
                                servers[who, gamma], traffic(count), prompts=written,
                                temperature=0.0, ignore_eos=True, overhead=False,
                            )  # fmt: skip
                            assert run.completed.all(), run.failures
                            speed = float(run.summary["output_throughput"])
                            if turn and gamma and run.counters is not None:
                                lengths.setdefault((who, count), []).append(
                                    run.counters.tokens_per_cycle
                                )
                            if turn and who == "vLLM" and not gamma:
                                tpot_s.setdefault(count, []).append(
                                    run.summary["mean_tpot_ms"] / 1e3
                                )
                        else:
                            continue
                        if turn:  # the first round warms up
                            speeds.setdefault(key, []).append(speed)
            print(f"round {turn} of {options.rounds}", flush=True)
    systems = {"ours": calibration.system}
    if tpot_s:
        ends = {n: statistics.median(tpot_s[n]) for n in (min(tpot_s), max(tpot_s))}
        systems["vLLM"] = fitted_to_server(
            calibration.system, target.architecture, ends, PROMPT + ANSWER // 2
        )
    rows = []
    for (who, gamma, count), each in speeds.items():
        row = {"who": who, "gamma": gamma, "streams": count, "tokens_per_s": statistics.median(each),
               "low": min(each), "high": max(each)}  # fmt: skip
        if who in systems:
            found = lengths.get((who, count))
            row["tokens_per_cycle"] = statistics.median(found) if found else None
            row["predicted"] = predicted(
                systems[who], target, draft, gamma, count, row["tokens_per_cycle"]
            )
        rows.append(row)
    document = {"environment": about, "dtype": name, "gamma": options.gamma, "rounds": options.rounds,
                "answer_tokens": ANSWER, "prompt_tokens": PROMPT, "rows": rows}  # fmt: skip
    report(rows, options.gamma)
    if options.out:
        write_json(options.out, document | {"calibration": to_json(calibration)})
    return 0


def decoded(target, draft, gamma: int, prompts: list[list[int]], batch: int) -> float:
    """Tokens per second of the decoder's own ragged batches."""
    drafter = reference.DraftModel(draft, gamma) if gamma else reference.NoDrafter()
    begun, tokens = time.perf_counter(), 0
    for start in range(0, len(prompts), batch):
        found = reference.speculate(target, drafter, prompts[start : start + batch], ANSWER)
        tokens += sum(map(len, found.tokens))
    return tokens / (time.perf_counter() - begun)


def predicted(system, target, draft, gamma: int, streams: int, tokens: float | None) -> float:
    """Tokens per second of the simulated server, with the measured tokens per cycle: what is tried
    here is the time."""
    from specsim import DraftModel
    from specsim.acceptance import IID, alpha_from_tokens_per_cycle

    server = serving.Server(
        target=target.architecture, drafter=DraftModel(draft.architecture) if gamma else None,
        system=system, max_seqs=streams, kv_tokens=1 << 20,
    )  # fmt: skip
    acceptance = {}
    if gamma and tokens is not None:
        alpha = alpha_from_tokens_per_cycle(tokens, gamma)
        acceptance = {"acceptance": serving.Accepting(IID(alpha), of_cycles=True)}
    found = serving.simulate(server, traffic(streams), policy=f"fixed:{gamma}", **acceptance)
    return float(found.summary["output_throughput"])


def report(rows: list[dict], gamma: int) -> None:
    """The table, and the ratios that are asked for."""
    of = {(row["who"], row["gamma"], row["streams"]): row for row in rows}
    streams = sorted({row["streams"] for row in rows})
    print(f"\n{'tokens/s':22}" + "".join(f"{n:>12}" for n in streams))
    for who in ("decoder", "ours", "vLLM"):
        for drafted in (0, gamma):
            if (who, drafted, streams[0]) not in of:
                continue
            name = f"{who}, gamma {drafted}" if drafted else f"{who}, plain"
            cells = [of[who, drafted, n] for n in streams]
            print(f"{name:22}" + "".join(f"{cell['tokens_per_s']:12.0f}" for cell in cells))
            if "predicted" in cells[0]:
                print(
                    f"{'  predicted':22}" + "".join(f"{cell['predicted']:12.0f}" for cell in cells)
                )
    for one, other in (("ours", "decoder"), ("ours", "vLLM")):
        ratios = [
            of[one, g, n]["tokens_per_s"] / of[other, g, n]["tokens_per_s"]
            for g in (0, gamma) for n in streams if (other, g, n) in of
        ]  # fmt: skip
        if ratios:
            print(f"{one} / {other}: " + " ".join(f"{ratio:.2f}" for ratio in ratios)
                  + f"; geometric mean {np.exp(np.mean(np.log(ratios))):.2f}")  # fmt: skip
    for who in ("ours", "vLLM"):
        errors = [
            abs(row["predicted"] / row["tokens_per_s"] - 1) for row in rows if row["who"] == who
        ]
        if errors:
            print(
                f"predicted {who}: median |error| {np.median(errors):.1%}, worst {max(errors):.1%}"
            )
        gains = {n: [of[who, gamma, n][k] / of[who, 0, n][k] for k in ("predicted", "tokens_per_s")]
                 for n in streams if (who, gamma, n) in of}  # fmt: skip
        for n, (one, other) in gains.items():
            print(f"  speedup of {who} at {n} streams: predicted {one:.2f}, measured {other:.2f}")


if __name__ == "__main__":
    sys.exit(main())

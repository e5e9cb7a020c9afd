"""Our server, vLLM's and the decoder itself: tokens per second of 1, 2, 4 and 8 streams, measured
and predicted, on one machine in one run.

    python bench/versus_servers.py [--vllm PYTHON] [--rounds 3] [--streams 1 2 4 8] [--out FILE]
                                   [--compile] [--servers-only]

The bundled pair, greedy, three texts a stream, the same weights and dtype everywhere; plain and
with a draft model. The loads are sent in turn to every server, round after round, while the others
stand still (SIGSTOP). The decoder decodes the same prompts as one ragged batch of that size.

Predicted are our server, from probes of this machine and a probe pair that it serves, and vLLM,
whose engine is fitted to its own plain runs at the fewest and the most streams, with the probes'
kernels. Tokens per cycle are those
that were counted: what is tried is the time. `make bench-servers` installs vLLM into an environment
of its own; without it the rest is measured.

With `--compile` our server and the decoder run compiled stages, which are compiled first where they
are not kept on disk: about a minute for each number of rows. Probes and prediction are of stages as
they are written, so nothing is predicted then.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import reference
from reference.lab.drift import DriftProbe
from reference.lab.probes import fastest_dtype, run_probes
from reference.machine import PRECISION_OF, dtype_named, environment
from specsim import serving
from specsim.checks.files import write_json
from specsim.demo import served
from specsim.demo.host import HostCost, cost_of_serving
from specsim.demo.processes import free_port, our_server, running, waiting
from specsim.evidence import client
from specsim.evidence.calibration import fit, to_json
from specsim.evidence.comparison.fitted import fitted_to_server

ROOT = Path(__file__).parent.parent
VLLM = ROOT / ".servers" / "vllm" / "bin" / "python"
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_TARGET_DEVICE": "cpu",
}  # fmt: skip
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # vLLM's names
PER_STREAM, ANSWER, PROMPT = 3, 96, 32  # texts of a stream; tokens
LONGEST = 256  # tokens of a text of a server with compiled stages: one window


def vllm_server(python: str, gamma: int, dtype: str):
    """vLLM with the bundled pair, as a context."""
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


def traffic(streams: int, texts: int = PER_STREAM) -> serving.Traffic:
    """A closed loop; each stream asks for so many texts, one after the other."""
    return serving.traffic(
        concurrency=streams, requests=texts * streams, prompt=serving.Lengths(PROMPT),
        output=serving.Lengths(ANSWER),
    )  # fmt: skip


@dataclass
class Measured:
    """What one load came to, round by round."""

    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cycle: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)


Loads = dict[tuple[str, int, int], Measured]  # by who, gamma and streams


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", default=str(VLLM), metavar="PYTHON", help="of its environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=list(served.STREAMS))
    parser.add_argument("--gamma", type=int, default=served.GAMMA)
    parser.add_argument("--dtype", choices=DTYPES, help="default: the faster one here")
    parser.add_argument("--compile", action="store_true", help="ours runs compiled stages")
    parser.add_argument("--servers-only", action="store_true", help="leave out the decoder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    cpu = torch.device("cpu")
    dtype = dtype_named(options.dtype) if options.dtype else fastest_dtype(cpu)[0]
    name, about = PRECISION_OF[dtype], asdict(environment(cpu))
    print(f"{about['device']}, {name}", flush=True)
    calibration = host = None
    drift, probed, loaded = DriftProbe(cpu), [], []
    if options.compile:
        print("compiled stages: the prediction is of eager ones, so nothing is predicted; what is "
              "not kept is compiled, for minutes …", flush=True)  # fmt: skip
    else:
        print("probing …", flush=True)
        probes = run_probes(cpu, dtype, between=lambda: probed.append(drift.now_s()))
        calibration = fit(probes, about)
        host = cost_of_serving(options.gamma, name, max(options.streams))
        print(*host.lines(), sep="\n", flush=True)
    compiled_for = LONGEST if options.compile else None
    makers = {
        ("ours", gamma): our_server(gamma, name, max(options.streams), compiled_for=compiled_for)
        for gamma in (0, options.gamma)
    }
    if Path(options.vllm).exists():
        for gamma in (0, options.gamma):
            makers["vLLM", gamma] = vllm_server(options.vllm, gamma, name)
    else:
        print(f"no vLLM at {options.vllm}: make servers.ready installs it", flush=True)
    pair = reference.load_pair("bundled", dtype=dtype)[:2]
    with ExitStack() as stack:
        servers = {key: stack.enter_context(maker) for key, maker in makers.items()}
        mode = "compiled" if options.compile else "eager"
        decodes = None if options.servers_only else mode
        found = measure(
            pair, servers, options.streams, options.gamma, options.rounds, decodes,
            lambda: loaded.append(drift.now_s()),
        )  # fmt: skip
    systems = {} if host is None else systems_of(found, pair, calibration.system, host)
    rows = with_predictions(found, pair, systems)
    slower = statistics.median(loaded) / statistics.median(probed) if probed else None
    report(rows, options.gamma, slower)
    if options.out:
        document = {
            "environment": about, "dtype": name, "gamma": options.gamma, "rounds": options.rounds,
            "answer_tokens": ANSWER, "prompt_tokens": PROMPT, "mode": mode, "rows": rows,
        }  # fmt: skip
        if host is not None:
            document |= {"serving_adds": asdict(host), "calibration": to_json(calibration)}
            document["drift"] = slower
        write_json(options.out, document)
    return 0


def measure(
    pair, servers: dict, streams: list[int], gamma: int, rounds: int, mode: str | None,
    between: Callable[[], object],
) -> Loads:  # fmt: skip
    """Every load on every server and, in a `mode`, on the decoder, in turn, `rounds` times after a
    warm-up; `between` is called before each load, while the servers stand still."""
    prompts = [list(text[:PROMPT]) for text in reference.prompts("timed") if len(text) >= PROMPT]
    written = [client.Written(tuple(prompt)) for prompt in prompts]
    found: Loads = {}
    for turn in range(rounds + 1):
        texts = PER_STREAM if turn else 1
        for count, drafted in ((count, g) for count in streams for g in (0, gamma)):
            with waiting(servers.values()):
                between()
            if mode is not None:
                with waiting(servers.values()):
                    speed = decoded(*pair, drafted, prompts, count, texts, mode)
                keep(found, ("decoder", drafted, count), Measured([speed]), turn)
            for who in ("ours", "vLLM"):
                if (who, drafted) not in servers:
                    continue
                with servers[who, drafted].alone(servers.values()) as url:
                    run = client.measure_server(
                        url, traffic(count, texts), prompts=written, temperature=0.0,
                        ignore_eos=True, overhead=False,
                    )  # fmt: skip
                assert run.completed.all(), run.failures
                seen = Measured([run.summary["output_throughput"]])
                seen.tpot_s.append(run.summary["mean_tpot_ms"] / 1e3)
                length = run.summary.get("spec_decode_acceptance_length")
                seen.tokens_per_cycle += [] if length is None else [length]
                keep(found, (who, drafted, count), seen, turn)
        print(f"round {turn} of {rounds}", flush=True)
    return found


def keep(found: Loads, key: tuple[str, int, int], seen: Measured, turn: int) -> None:
    """Add what was seen, but for the first round, which warms up."""
    if turn:
        kept = found.setdefault(key, Measured())
        for name, values in vars(seen).items():
            getattr(kept, name).extend(values)


def systems_of(found: Loads, pair, machine, host: HostCost) -> dict:
    """The servers that can be predicted, by name."""
    target = pair[0].architecture
    systems = {"ours": host.added_to(machine)}
    plain = {
        count: statistics.median(seen.tpot_s)
        for (who, gamma, count), seen in found.items() if who == "vLLM" and not gamma
    }  # fmt: skip
    if len(plain) > 1:
        ends = {count: plain[count] for count in (min(plain), max(plain))}
        systems["vLLM"] = fitted_to_server(machine, target, ends, PROMPT + ANSWER // 2)
    return systems


def with_predictions(found: Loads, pair, systems: dict) -> list[dict]:
    """A row for each load; of the servers among `systems` with what was predicted."""
    rows = []
    for (who, gamma, count), seen in found.items():
        speeds, cycles = seen.tokens_per_s, seen.tokens_per_cycle
        row = {"who": who, "gamma": gamma, "streams": count, "low": min(speeds),
               "high": max(speeds), "tokens_per_s": statistics.median(speeds)}  # fmt: skip
        if who != "decoder":
            row["tokens_per_cycle"] = statistics.median(cycles) if cycles else None
        if who in systems:
            row["predicted"] = predicted(systems[who], *pair, gamma, count, row["tokens_per_cycle"])
        rows.append(row)
    return rows


def decoded(
    target, draft, gamma: int, prompts: list[list[int]], batch: int, texts: int, mode: str
) -> float:
    """Tokens per second of the decoder's own ragged batches, as many as a stream asks texts."""
    drafter = reference.DraftModel(draft, gamma) if gamma else reference.NoDrafter()
    begun, tokens = time.perf_counter(), 0
    for turn in range(texts):
        asked = [prompts[(turn * batch + row) % len(prompts)] for row in range(batch)]
        run = reference.speculate(target, drafter, asked, ANSWER, mode=mode)
        tokens += sum(map(len, run.tokens))
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


def report(rows: list[dict], gamma: int, slower: float | None = None) -> None:
    """The table, and the ratios that are asked for; `slower`, how many times as long the machine
    took for fixed tasks between the loads as between the probes."""
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
            abs(row["predicted"] / row["tokens_per_s"] - 1)
            for row in rows
            if row["who"] == who and "predicted" in row
        ]
        if errors:
            print(
                f"predicted {who}: median |error| {np.median(errors):.1%}, worst {max(errors):.1%}"
            )
        if errors and who == "ours" and slower is not None:
            without = [
                abs(row["predicted"] / slower / row["tokens_per_s"] - 1)
                for row in rows
                if row["who"] == who
            ]
            print(
                f"  fixed tasks took {slower:.2f}x as long as during the probes; with that taken "
                f"out: median {np.median(without):.1%}, worst {max(without):.1%}"
            )
        for n in (n for n in streams if (who, gamma, n) in of):
            gains = {
                said: of[who, gamma, n][key] / of[who, 0, n][key]
                for key, said in (("predicted", "predicted"), ("tokens_per_s", "measured"))
                if key in of[who, 0, n]
            }
            words = ", ".join(f"{said} {gain:.2f}" for said, gain in gains.items())
            print(f"  speedup of {who} at {n} streams: {words}")


if __name__ == "__main__":
    sys.exit(main())

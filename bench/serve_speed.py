"""Tokens per second through the server's HTTP, compared with the decoder's own ragged batch.

    python bench/serve_speed.py [--json] [--streams 1 2 4 8] [--gamma 0 2] [--rounds 3]
    python bench/serve_speed.py --compile --max-model-len 256 --tokens 160

For every number of streams the two are timed in turn, in one process tree: the server is a process
of its own, this one is the client, and both share the machine's cores; the decoder runs here while
the server waits. Greedy, the bundled pair, prompts of several lengths, prefill included. Medians
over rounds; the ratio is that of the medians. The decoder and the server run their stages as they
are written. With `--compile` a second server, which runs compiled stages, takes its turn too; what
is not kept on disk is compiled first, for minutes.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import torch

import reference
from reference.lab.probes import fastest_dtype
from reference.machine import DTYPES, PRECISION_OF


async def stream(host: str, port: int, body: dict) -> int:
    """One streamed completion; returns the tokens in its usage."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    data = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    tail = b""
    while part := await reader.read(1 << 16):
        tail = (tail + part)[-2000:]
    writer.close()
    if b'"usage": ' not in tail:
        raise SystemExit(f"the server answered: {tail.decode(errors='replace')[-500:]}")
    return json.loads(tail.split(b'"usage": ')[1].split(b"}")[0] + b"}")["completion_tokens"]


def start_server(
    gamma: int, dtype: str, slots: int, longest: int | None, compiled: bool
) -> tuple[subprocess.Popen, int]:
    """A server of the bundled pair on a free port."""
    command = [sys.executable, "-m", "reference", "serve", "--port", "0", "--gamma", str(gamma)]
    command += ["--dtype", dtype, "--slots", str(slots)]
    command += [] if longest is None else ["--max-model-len", str(longest)]
    command += ["--compile"] if compiled else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {} if compiled else {"SPECSIM_COMPILED": "off"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    if "http://" not in line:
        raise SystemExit("the server did not start")
    return server, int(line.split(" at http://")[1].split(" ")[0].rsplit(":", 1)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--gamma", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--compile", action="store_true", help="also a server of compiled stages")
    parser.add_argument("--max-model-len", type=int, metavar="N", help="of the servers")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="default: the faster one here")
    options = parser.parse_args()
    if options.dtype:
        dtype, why = DTYPES[options.dtype], options.dtype
    else:
        dtype, why = fastest_dtype(torch.device("cpu"))
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    texts = reference.prompts("timed")
    prompts = [texts[index % len(texts)][: 16 + 8 * index] for index in range(max(options.streams))]
    rows = []
    for gamma in options.gamma:
        drafter = reference.DraftModel(draft, gamma) if gamma else reference.NoDrafter()
        slots, longest = max(8, *options.streams), options.max_model_len
        ways = {"server": False, "compiled": True} if options.compile else {"server": False}
        servers = {
            name: start_server(gamma, PRECISION_OF[dtype], slots, longest, compiled)
            for name, compiled in ways.items()
        }

        def together(count: int, drafter=drafter) -> int:
            # ids end no text early: every text has as many tokens here as there
            result = reference.speculate(
                target, drafter, prompts[:count], options.tokens, mode="eager"
            )
            return sum(map(len, result.tokens))

        async def served(count: int, port: int) -> int:
            bodies = [
                {"prompt": prompt, "max_tokens": options.tokens, "temperature": 0}
                for prompt in prompts[:count]
            ]
            return sum(await asyncio.gather(*(stream("127.0.0.1", port, body) for body in bodies)))

        try:
            for count in options.streams:
                speeds: dict[str, list[float]] = {"decoder": [], **{name: [] for name in servers}}
                for turn in range(options.rounds + 1):
                    started = time.perf_counter()
                    tokens = together(count)
                    seconds = {"decoder": time.perf_counter() - started}
                    counts = {"decoder": tokens}
                    for name, (_, port) in servers.items():
                        started = time.perf_counter()
                        counts[name] = asyncio.run(served(count, port))
                        seconds[name] = time.perf_counter() - started
                    for name in speeds if turn else ():  # the first round warms up
                        speeds[name].append(counts[name] / seconds[name])
                medians = {name: statistics.median(each) for name, each in speeds.items()}
                ratio = medians["server"] / medians["decoder"]
                rows.append({"gamma": gamma, "streams": count, **medians, "ratio": ratio})
                more = ""
                if options.compile:
                    gain = rows[-1]["gain"] = medians["compiled"] / medians["server"]
                    more = f"; compiled {medians['compiled']:.0f}: {gain:.2f}x"
                if not options.json:
                    print(
                        f"gamma {gamma}, {count} streams: decoder {medians['decoder']:.0f}, "
                        f"server {medians['server']:.0f} tokens/s: {ratio:.2f}x{more}", flush=True,
                    )  # fmt: skip
        finally:
            for server, _ in servers.values():
                server.send_signal(signal.SIGTERM)
                if server.wait(60):
                    print(f"the server ended with {server.returncode}", file=sys.stderr)
    if options.json:
        print(json.dumps({"dtype": str(dtype), "tokens": options.tokens, "rows": rows}))
    else:
        print(f"bundled pair, greedy, {options.tokens} tokens a text, {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

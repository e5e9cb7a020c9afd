"""Mixed traffic on one server for minutes: is anything lost, leaked, or counted wrongly?

    python bench/serve_soak.py [--json] [--minutes 5] [--streams 200] [--slots 8] [--gamma 2]

Starts a server of the bundled pair and keeps that many clients busy on loopback: streams and whole
answers, greedy and sampled, chats, stop strings, several texts, slow readers, clients that leave in
the middle, prompts that are too long, malformed JSON, unknown models, unicode, and one client
process that is killed. At the end it compares the server's counters with the sum of the answers'
`usage`, looks at the server's memory and slots, and sends SIGTERM while texts are being written.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from specsim.evidence.served.prometheus import pages

HOST = "127.0.0.1"
WORDS = ["def fibonacci(n):", "import os\n", "class Tree:", "é😀日本 = ", "# \u00df\n", "x = [1, 2"]


class Client:
    """Many coroutines that ask and check; what came is counted by kind."""

    def __init__(self, port: int, until: float):
        self.port, self.until = port, until
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []
        self.usage: Counter[str] = Counter()

    async def exchange(self, body: bytes, path: str, leave_after: int = 0, pause: float = 0.0):
        """One request; status and body. With `leave_after` the client leaves after so many bytes;
        with `pause` it sleeps between reads."""
        reader, writer = await asyncio.open_connection(HOST, self.port, limit=1 << 16)
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            found = b""
            while part := await asyncio.wait_for(reader.read(512 if pause else 1 << 16), 300):
                found += part
                if leave_after and len(found) > leave_after:
                    return 0, found
                if pause:
                    await asyncio.sleep(pause)
            head, _, rest = found.partition(b"\r\n\r\n")
            return int(head.split(b" ")[1]), rest
        finally:
            writer.close()

    async def one(self, rng: random.Random) -> None:
        """One request of a random kind, and a check of its answer."""
        kind = rng.choices(
            ["stream", "whole", "chat", "slow", "leave", "long", "malformed", "unknown"],
            [8, 4, 3, 1, 2, 1, 1, 1],
        )[0]
        body: dict = {
            "prompt": rng.choice(WORDS) * rng.randint(1, 4), "max_tokens": rng.randint(1, 60),
            "temperature": rng.choice([0, 0.8, 1.0]), "top_p": rng.choice([1, 0.9]),
            "ignore_eos": rng.random() < 0.5, "stream": kind in ("stream", "slow", "leave"),
            "stream_options": {"include_usage": True}, "n": rng.choice([1, 1, 1, 2]),
        }  # fmt: skip
        if rng.random() < 0.2:
            body["stop"] = rng.choice(["\n\n", "return", "é"])
        path, wanted = "/v1/completions", 200
        if kind == "chat":
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
            path = "/v1/chat/completions"
        if kind == "long":
            body["prompt"], wanted = "word " * 2000, 400
        if kind == "unknown":
            body["model"], wanted = "gpt-9", 404
        data = json.dumps(body).encode()
        if kind == "malformed":
            data, wanted = data[: rng.randint(0, len(data) - 1)], 400
        leave, pause = (rng.randint(1, 1500) if kind == "leave" else 0), 0.05 * (kind == "slow")
        status, found = await self.exchange(data, path, leave, pause)
        self.seen[kind] += 1
        if kind == "leave" and not status:
            self.seen["left"] += 1
        elif status == 429:
            self.seen["refused (429)"] += 1
        elif status != wanted:
            self.faults.append(f"{kind}: {status} {found[:200]!r}")
        elif status == 200:
            self.add_usage(kind, body, found)

    def add_usage(self, kind: str, body: dict, found: bytes) -> None:
        """Count an answer's usage; a fault if it is not whole."""
        text = found.decode()
        if body["stream"]:
            if "data: [DONE]" not in text or '"usage": ' not in text:
                self.faults.append(f"{kind}: a stream without its end: {text[-200:]!r}")
                return
            text = text.split('"usage": ')[1].split("}")[0] + "}"
            usage = json.loads(text)
        else:
            usage = json.loads(text)["usage"]
        self.usage["texts"] += body["n"]
        for name in ("prompt_tokens", "completion_tokens"):
            self.usage[name] += usage[name]
        if usage["completion_tokens"] > body["max_tokens"] * body["n"]:
            self.faults.append(f"{kind}: too many tokens: {usage}")

    async def keep_asking(self, number: int) -> None:
        """One client, until the time is up."""
        rng = random.Random(number)
        while time.monotonic() < self.until:
            try:
                await self.one(rng)
            except (OSError, TimeoutError, ValueError, IndexError) as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.1)


def scrape(port: int) -> dict[str, float]:
    """The server's counters, and how many requests run and wait."""
    from urllib.request import urlopen

    with urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as answer:
        page = pages(answer.read().decode())["vllm"]
    names = ("prompt_tokens_total", "generation_tokens_total", "request_success_total")
    found = {name: page.total(name) or 0.0 for name in names}
    found |= page.by_label("request_success_total", "finished_reason")
    for name in ("num_requests_running", "num_requests_waiting"):
        found[name] = page.gauge(name)[0]
    return found


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def flood(port: int, count: int) -> None:
    """A client process that is killed: it opens streams and never ends."""

    async def run() -> None:
        client = Client(port, time.monotonic() + 3600)
        body = {"prompt": "x = ", "max_tokens": 400, "ignore_eos": True, "stream": True}
        data = json.dumps(body).encode()
        await asyncio.gather(
            *(client.exchange(data, "/v1/completions", pause=1.0) for _ in range(count))
        )

    asyncio.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--gamma", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    options = parser.parse_args()
    command = [sys.executable, "-m", "reference", "serve", "--port", "0", "--dtype", options.dtype]
    command += ["--gamma", str(options.gamma), "--slots", str(options.slots)]
    command += ["--max-queue", str(4 * options.streams)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline().split(" at http://")[1].split(" ")[0].rsplit(":", 1)[1])
    client = Client(port, time.monotonic() + 60 * options.minutes)
    memory: list[float] = []

    async def watch() -> None:
        while time.monotonic() < client.until:
            memory.append(resident_mb(server.pid))
            await asyncio.sleep(5)

    async def kill_a_client() -> None:
        await asyncio.sleep(30 * options.minutes)
        process = multiprocessing.get_context("spawn").Process(target=flood, args=(port, 20))
        process.start()
        await asyncio.sleep(min(5, 10 * options.minutes))
        process.kill()

    async def run() -> None:
        await asyncio.gather(
            watch(), kill_a_client(), *(client.keep_asking(n) for n in range(options.streams))
        )

    asyncio.run(run())
    for _ in range(600):
        counted = scrape(port)
        if not counted["num_requests_running"] and not counted["num_requests_waiting"]:
            break
        time.sleep(0.1)

    async def terminate() -> int:
        body = {"prompt": "x = ", "max_tokens": 200, "ignore_eos": True, "stream": True}
        asking = [
            asyncio.create_task(client.exchange(json.dumps(body).encode(), "/v1/completions"))
            for _ in range(options.slots)
        ]
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        return sum(not isinstance(each, BaseException) and b"[DONE]" in each[1] for each in answers)

    ended = asyncio.run(terminate())
    status = server.wait(120)
    late = memory[len(memory) // 2 :] or [0.0]
    report = {
        "minutes": options.minutes, "streams": options.streams, "requests": dict(client.seen),
        "faults": client.faults[:10], "fault_count": len(client.faults),
        "usage": dict(client.usage), "metrics": counted,
        "memory_mb": {"first": memory[:1], "middle": late[0], "last": late[-1], "most": max(late)},
        "ended_after_sigterm": ended, "slots": options.slots, "status": status,
    }  # fmt: skip
    # the texts of clients that left are in the counters, and not in any usage that was read
    finished = counted["stop"] + counted["length"]
    checks = {
        "nothing lost": not client.faults,
        "no slot leaked": not counted["num_requests_running"],
        "finished texts are at least those with usage": finished >= client.usage["texts"],
        "generated tokens are at least those of usage":
            counted["generation_tokens_total"] >= client.usage["completion_tokens"],
        "texts in writing ended after SIGTERM": ended == options.slots,
        "exit status 0": status == 0,
    }  # fmt: skip
    report["checks"] = checks
    print(json.dumps(report, indent=None if options.json else 1))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

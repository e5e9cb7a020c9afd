"""A scripted server of the tests: every answer byte by byte.

The clock of the client is replaced where times are compared: the server sets it before it sends a
chunk, and waits until the client has read that chunk. No test depends on how fast anything is.
localhost.pem is a certificate of its own, with its key, that guards nothing.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specsim import serving
from specsim.evidence import client
from specsim.evidence.client import measure_server

ROOT = Path(__file__).parents[2]
PEM = Path(__file__).with_name("localhost.pem")
SMALL = ("--concurrency", "1", "--requests", "2", "--prompt", "16", "--output", "4",
         "--no-overhead")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the server got it; `number` counts those for completions, from 0."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    number: int


Send = Callable[[bytes], Awaitable[None]]
Script = Callable[[Asked, Send], Awaitable[Any]]


@dataclass(slots=True)
class Scripted:
    """A server in a thread of its own. A script that returns False ends its connection."""

    script: Script
    metrics: Callable[[int], bytes | None] = lambda _: None
    asked: list[Asked] = field(default_factory=list)
    scrapes: int = 0
    open: int = 0
    most_open: int = 0
    url: str = ""
    site: bytes | None = None  # what a server of something else answers to everything

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while first := await reader.read(1):
                if first == b"\x16":  # a handshake of TLS
                    await send(whole(b"", 400))
                    break
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                path = head[0].split()[1]
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self.answer(path, headers, content, send):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, path: str, headers: dict[str, str], content: bytes, send: Send) -> bool:
        if self.site is not None:
            await send(self.site)
        elif path.endswith("/models"):
            await send(whole({"data": [{"id": "served"}]}))
        elif path.endswith("/metrics"):
            page = self.metrics(self.scrapes)
            self.scrapes += 1
            await send(whole(b"", 404) if page is None else whole(page, kind="text/plain"))
        else:
            asked = Asked(path, headers, json.loads(content), len(self.asked))
            self.asked.append(asked)
            return await self.script(asked, send) is not False
        return True


def whole(body: Any, status: int = 200, kind: str = "application/json", more: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\n{more}"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def part(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(message: Any) -> bytes:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return b"data: " + data + b"\n\n"


def word(text: str | None = " w", finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more}


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def usage(output: int, prompt: int = 16) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def read_of(asked: Asked) -> int:
    """Tokens of the prompt, as the server of the tests counts them: ids, or words."""
    prompt = asked.body.get("prompt") or asked.body["messages"][0]["content"]
    return len(prompt) if isinstance(prompt, list) else len(prompt.split())


def limit_of(asked: Asked) -> int:
    return int(asked.body.get("max_tokens") or asked.body["max_completion_tokens"])


async def plain(asked: Asked, send: Send, told: int | None = None) -> None:
    """An answer of a chunk for each token, of full length."""
    count = limit_of(asked)
    events = [event(word(" w", "length" if k == count - 1 else None)) for k in range(count)]
    events += [event(usage(count if told is None else told, read_of(asked))), event(b"[DONE]")]
    await send(CHUNKED + b"".join(map(part, events)) + LAST)


async def spaced(asked: Asked, send: Send) -> None:
    """As `plain`, with time between the chunks."""
    count = limit_of(asked)
    await send(CHUNKED)
    for _ in range(count):
        await send(part(event(word())))
        await asyncio.sleep(0.001)
    await send(part(event(usage(count, read_of(asked)))) + part(event(b"[DONE]")) + LAST)


@contextmanager
def served(
    script: Script = plain,
    tls: bool = False,
    metrics: Callable[[int], bytes | None] = lambda _: None,
) -> Iterator[Scripted]:
    """A scripted server. The first request, which tells the client what is understood, is answered
    by `plain` unless the script does it itself (`probed`)."""
    found = Scripted(script, metrics)
    loop = asyncio.new_event_loop()
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PEM)

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=context, backlog=1000)

    server = loop.run_until_complete(begin())
    port = server.sockets[0].getsockname()[1]
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:

        async def end() -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def after_probe(script: Script) -> Script:
    """The script, from the second request on: the first is the client's own short one."""

    async def answer(asked: Asked, send: Send) -> Any:
        return await (plain if asked.number == 0 else script)(asked, send)

    return answer


def load(requests: int = 3, **changes: Any) -> serving.Traffic:
    given = {"concurrency": 1, "prompt": serving.Lengths(16), "output": serving.Lengths(4)}
    return serving.traffic(requests=requests, **(given | changes))


def measured(script: Script = plain, requests: int = 3, **changes: Any) -> client.ServerRun:
    """A run against a server that answers all but the first request by the script."""
    of_load = {k: changes.pop(k) for k in ("concurrency", "rate", "output", "prompt")
               if k in changes}  # fmt: skip
    with served(after_probe(script)) as server:
        given = {"overhead": False, "timeout_s": 20.0} | changes
        return measure_server(server.url, load(requests, **of_load), **given)


class FakeClock(client.Clock):
    """Says what it is told; counts how often it is asked."""

    def __init__(self) -> None:
        self.time, self.calls = 100.0, 0

    def now(self) -> float:
        self.calls += 1
        return self.time

    async def sleep(self, seconds: float) -> None:
        for _ in range(5):  # whoever was waked before sees the time of before
            await asyncio.sleep(0)
        self.time += seconds


def scheduled(clock: FakeClock, times: list[float], output: int, **more: Any) -> Script:
    """Chunks at these times after the request; `output` tokens by usage."""

    async def answer(asked: Asked, send: Send) -> None:
        begun = clock.time
        await send(CHUNKED)
        for k, at in enumerate(times):
            clock.time = begun + at
            calls = clock.calls
            finish = "length" if k == len(times) - 1 else None
            await send(part(event(word(" two words", finish, **more))))
            while clock.calls == calls:
                await asyncio.sleep(0)
        await send(part(event(usage(output))) + part(event(b"[DONE]")) + LAST)

    return answer


async def in_pieces(send: Send, content: bytes, size: int) -> None:
    for at in range(0, len(content), size):
        await send(content[at : at + size])
        await asyncio.sleep(0)


def stream(events: list[bytes], split: int = 0) -> bytes:
    """Events as a chunked body, each in one chunk, or all in chunks of `split` bytes."""
    if not split:
        return b"".join(map(part, events)) + LAST
    body = b"".join(events)
    return b"".join(part(body[a : a + split]) for a in range(0, len(body), split)) + LAST


SAID = ["Grüße ", "🙂", " 你好", "!"]
EVENTS = [event(json.dumps(word(text), ensure_ascii=False).encode()) for text in SAID]
ENDED = [event(word("", "stop")), event(usage(4)), event(b"[DONE]")]


def answering(content: bytes) -> Script:
    async def script(_: Asked, send: Send) -> bool:
        await send(content)
        return False

    return script

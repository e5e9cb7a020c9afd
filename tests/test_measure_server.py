"""specsim measure-server against a scripted server of the tests: every answer byte by byte.

The clock of the client is replaced where times are compared: the server sets it before it sends a
chunk, and waits until the client has read that chunk. No test depends on how fast anything is.
tests/measure_server/localhost.pem is a certificate of its own, with its key, that guards nothing.
"""

import asyncio
import gzip
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim import cli, serving
from specsim.checks import SpecsimError
from specsim.evidence import client
from specsim.evidence.client import Key, measure_server
from specsim.evidence.measurement import Measurement
from specsim.evidence.served import read_runs

ROOT = Path(__file__).parent.parent
PEM = ROOT / "tests" / "measure_server" / "localhost.pem"
SECRET = "sk-a-secret-of-this-test"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPECSIM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------- the scripted server


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


# --------------------------------------------------------------------- times, to the last digit


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


def test_a_known_schedule_gives_exactly_its_latencies() -> None:
    clock, at = FakeClock(), [0.5, 0.75, 1.25, 2.0]
    run = measured(scheduled(clock, at, output=7), requests=2, clock=clock)
    assert run.ttft_s.tolist() == [0.5, 0.5]
    assert [gaps.tolist() for gaps in run.itl_s] == [[0.25, 0.5, 0.75]] * 2
    assert run.e2el_s.tolist() == [2.0, 2.0]
    # tokens are those of usage, not chunks; gaps are those of chunks, not tokens
    assert run.tokens.tolist() == [7, 7]
    assert run.tpot_s.tolist() == [1.5 / 6] * 2
    assert run.summary["mean_itl_ms"] == 500.0
    assert run.summary["total_output_tokens"] == 14
    assert run.sent_s.tolist() == [0.0, 2.0]
    assert run.duration_s == 4.0
    assert run.summary["output_throughput"] == 3.5
    assert any("carries 1.75 tokens" in each for each in run.findings)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    clock = FakeClock()
    run = measured(scheduled(clock, [0.25], output=1), requests=2, clock=clock,
                   slo={"tpot": 1, "ttft": 300})  # fmt: skip
    assert np.isnan(run.tpot_s).all()
    assert run.summary["mean_tpot_ms"] is None
    assert run.summary["mean_itl_ms"] is None
    assert run.summary["request_goodput"] == run.summary["request_throughput"]  # as in vLLM


def test_the_goodput_counts_what_keeps_to_every_limit() -> None:
    clock = FakeClock()
    slow = scheduled(clock, [0.5, 1.0, 4.0, 5.0], output=4)
    fast = scheduled(clock, [0.25, 0.5, 0.75, 1.0], output=4)

    async def script(asked: Asked, send: Send) -> None:
        await (slow if asked.number == 2 else fast)(asked, send)

    run = measured(script, requests=4, clock=clock, slo={"ttft": 300, "tpot": 300})
    assert run.good.tolist() == [True, False, True, True]
    assert run.summary["request_goodput"] == 3 / run.duration_s


def test_requests_are_sent_when_they_are_due() -> None:
    clock = FakeClock()
    run = measured(requests=20, clock=clock, rate=4.0, concurrency=None)
    assert run.waited_s.tolist() == [0.0] * 20
    assert run.sent_s == pytest.approx(load(20, rate=4.0, concurrency=None).arrival_s)
    assert run.duration_s == pytest.approx(5.0)
    assert run.summary["request_rate"] == 4.0
    assert run.summary["max_concurrency"] is None


# --------------------------------------------------------------------- what a stream may look like


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


@pytest.mark.parametrize(
    "body",
    [
        CHUNKED + stream([*EVENTS, *ENDED]),
        CHUNKED + stream([*EVENTS, *ENDED], split=7),
        CHUNKED + stream([*EVENTS, *ENDED], split=1),
        CHUNKED + stream([b"".join(EVENTS + ENDED).replace(b"\n", b"\r\n")], split=0),
        CHUNKED + stream([b"".join(EVENTS + ENDED).replace(b"\n", b"\r\n")], split=0)[:-5]
        + b"0;x=y\r\nTrailer: of the body\r\n\r\n",
        CHUNKED + stream([b"".join(EVENTS + ENDED).replace(b"\n", b"\r")]),
        CHUNKED + stream([b": a comment\n\n", b"event: message\nid: 7\nretry: 10\n" + EVENTS[0],
                          *EVENTS[1:3], b":ping\n", EVENTS[3], *ENDED]),
        CHUNKED + stream([b"data:" + each[6:] for each in [*EVENTS, *ENDED]]),
        CHUNKED + stream([b"\xef\xbb\xbf" + EVENTS[0], *EVENTS[1:], *ENDED[:2],
                          b"data: [DONE]\n"]),  # no empty line at the end
        STREAM + b"Connection: close\r\n\r\n" + b"".join(EVENTS + ENDED),
        STREAM + b"Content-Length: %d\r\n\r\n" % len(b"".join(EVENTS + ENDED))
        + b"".join(EVENTS + ENDED),
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + stream([*EVENTS, *ENDED]),
        b"HTTP/1.0 200 OK\nContent-Type: text/event-stream\n\n" + b"".join(EVENTS + ENDED),
        STREAM + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        + stream([gzip.compress(b"".join(EVENTS + ENDED), mtime=0)], split=11),
        CHUNKED + stream([event('{"choices":\ndata: [{"text": "Grüße "}]}'.encode()),
                          *EVENTS[1:], *ENDED]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [10**6, 13])
def test_a_stream_is_read_whatever_its_pieces(body: bytes, size: int) -> None:
    async def script(_: Asked, send: Send) -> bool:
        await in_pieces(send, body, size)
        return b"chunked" in body or b"Content-Length" in body

    run = measured(script, requests=2)
    assert run.failures == {}
    assert [each.text for each in run.answers] == ["".join(SAID)] * 2
    assert run.tokens.tolist() == [4, 4]
    assert run.chunks.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([delta(role="assistant", content=None), delta(content="a"), delta(content="b")], "ab"),
        ([delta(reasoning_content="think"), delta(content=" say")], "think say"),
        ([delta(reasoning="think", reasoning_content="think"), delta(content=None)], "think"),
        ([delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]),
          delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x":1}'}}])], 'f{"x":1}'),
        ([delta(refusal="no")], "no"),
        ([{"choices": [{"index": 0, "delta": None, "finish_reason": None}]}, delta(content="c")],
         "c"),
    ],
)  # fmt: skip
def test_all_that_a_chat_writes_is_text(events: list[dict[str, Any]], text: str) -> None:
    async def script(_: Asked, send: Send) -> None:
        ended = [event(delta("stop")), event(usage(9)), event(b"[DONE]")]
        await send(CHUNKED + stream([*map(event, events), *ended]))

    async def by_chat(asked: Asked, send: Send) -> None:
        assert asked.path == "/v1/chat/completions"
        await (script if asked.number > 1 else plain)(asked, send)

    with served(by_chat) as server:
        run = measure_server(server.url, load(), chat=True, overhead=False)
    assert {each.text for each in run.answers} == {text}
    assert run.tokens.tolist() == [9, 9, 9]
    assert run.summary["completed"] == 3


def test_a_first_chunk_without_text_is_said() -> None:
    clock = FakeClock()

    async def script(_: Asked, send: Send) -> None:
        await send(CHUNKED)
        for wait, text in ((0.25, ""), (1.0, "a"), (0.5, "b")):
            clock.time += wait
            calls = clock.calls
            await send(part(event(word(text))))
            while clock.calls == calls:
                await asyncio.sleep(0)
        await send(part(event(usage(2))) + part(event(b"[DONE]")) + LAST)

    run = measured(script, clock=clock)
    assert run.ttft_s.tolist() == [0.25] * 3  # vLLM's convention
    assert run.first_text_s.tolist() == [1.25] * 3
    assert any("begin with a chunk without text" in each for each in run.findings)


def test_usage_in_each_chunk_counts_as_its_last() -> None:
    async def script(_: Asked, send: Send) -> None:
        events = [event(word("ab", usage={"prompt_tokens": 16, "completion_tokens": 3 * k}))
                  for k in (1, 2)]  # fmt: skip
        await send(CHUNKED + stream([*events, event(word("", "stop")), event(b"[DONE]")]))

    run = measured(script)
    assert run.tokens.tolist() == [6, 6, 6]
    assert run.usage.tolist() == [6, 6, 6]
    assert run.counted_by == "usage"


def test_without_usage_chunks_are_counted_and_that_is_said() -> None:
    async def script(_: Asked, send: Send) -> None:
        await send(CHUNKED + stream([*EVENTS, event(b"[DONE]")]))

    run = measured(script)
    assert run.counted_by == "chunks"
    assert run.tokens.tolist() == [4, 4, 4]
    assert any("sends no usage" in each for each in run.findings)
    assert run.token_counts["usage"] is None


class Letters:
    """A tokenizer of one token a character."""

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        return type("Encoded", (), {"ids": list(text)})

    def get_vocab_size(self) -> int:
        return 4000


def test_a_wrong_usage_is_found_and_replaced() -> None:
    """As the server of transformers has been seen to do: 9 where 24 chunks carry text."""

    async def script(asked: Asked, send: Send) -> None:
        await plain(asked, send, told=9)

    run = measured(script, output=serving.Lengths(24))
    assert run.counted_by == "chunks"
    assert run.tokens.tolist() == [24, 24, 24]
    assert run.token_counts == {"usage": 27, "chunks": 72, "text": None, "server": None}
    assert "usage is wrong: it counts 27 tokens in answers of which 72 chunks" in run.findings[0]
    again = measured(script, output=serving.Lengths(24), tokenizer=client.Tokenizer(Letters()))
    assert again.counted_by == "text"
    assert again.tokens.tolist() == [48, 48, 48]  # " w"


def test_a_usage_that_counts_chunks_is_found_by_a_tokenizer() -> None:
    """As transformers 5.23 with prompt lookup: 75 where six texts have 144 tokens in 75 chunks."""
    run = measured(output=serving.Lengths(24), tokenizer=client.Tokenizer(Letters()))
    assert run.counted_by == "text"
    assert run.tokens.tolist() == [48, 48, 48]
    assert "counts 72 tokens in texts in which the tokenizer counts 144" in run.findings[0]


def test_counts_that_differ_are_said() -> None:
    """Hidden tokens are in the usage alone."""

    async def script(asked: Asked, send: Send) -> None:
        await plain(asked, send, told=60)

    run = measured(script, output=serving.Lengths(24), tokenizer=client.Tokenizer(Letters()))
    assert run.counted_by == "usage"
    assert run.tokens.tolist() == [60, 60, 60]
    assert any("180 by the server's usage, 144 in the text" in each for each in run.findings)


def test_a_server_that_does_not_stream_is_measured_and_said() -> None:
    async def script(_: Asked, send: Send) -> None:
        message = word("a whole answer", "stop") | {"usage": usage(3)["usage"]}
        await send(whole(message))

    run = measured(script)
    assert run.tokens.tolist() == [3, 3, 3]
    assert run.ttft_s.tolist() == run.e2el_s.tolist()
    assert any("does not stream" in each for each in run.findings)


# --------------------------------------------------------------------------------- what fails


async def cut(_: Asked, send: Send) -> bool:
    await send(CHUNKED + part(EVENTS[0]))
    return False


async def error_in_the_middle(_: Asked, send: Send) -> None:
    await send(CHUNKED + stream([*EVENTS, event({"error": {"message": "out of\nmemory"}}),
                                 event(b"[DONE]")]))  # fmt: skip


def answering(content: bytes) -> Script:
    async def script(_: Asked, send: Send) -> bool:
        await send(content)
        return False

    return script


FAILURES = {
    "HTTP 429: slow down": answering(whole({"error": {"message": "slow\ndown"}}, 429)),
    "HTTP 500: Said": answering(whole(b"<html>no</html>", 500, "text/html")),
    "HTTP 503": answering(b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n"),
    "HTTP 400: too long": answering(whole({"object": "error", "message": "too long"}, 400)),
    "HTTP 422: wrong field": answering(whole({"detail": [{"msg": "wrong field"}]}, 422)),
    "HTTP 302: redirects to http://192.0.2.1/x, which is not followed: give it as --url":
        answering(whole(b"", 302, more="Location: http://192.0.2.1/x\r\n")),
    "error in the stream: out of memory": error_in_the_middle,
    "connection closed in the middle of the answer": cut,
    "the answer holds no chunk": answering(CHUNKED + stream([event(b"[DONE]")])),
    "the stream ended without [DONE] and without a finish_reason":
        answering(CHUNKED + stream(EVENTS)),
    "malformed stream: an event is no JSON: '{\"choices\": ['":
        answering(CHUNKED + stream([EVENTS[0], event(b'{"choices": [')])),
    "malformed stream: an event is no object: '[1]'": answering(CHUNKED + stream([event([1])])),
    "malformed stream: an event is not text in UTF-8":
        answering(CHUNKED + stream([b'data: {"a": "\xff"}\n\n'])),
    "malformed stream: a choice is no object":
        answering(CHUNKED + stream([event({"choices": ["x"]})])),
    "malformed stream: a line that is no event: '{\"a\": 1}'":
        answering(CHUNKED + stream([b'{"a": 1}\n\n'])),
    "malformed HTTP: a chunk without its size": answering(CHUNKED + b"xyz\r\n"),
    "malformed HTTP: a chunk is longer than its size": answering(CHUNKED + b"2\r\nabcd\r\n"),
    "malformed HTTP: this is no web server": answering(b"220 mail ready\r\n\r\n"),
    "malformed HTTP: a header without a colon": answering(b"HTTP/1.1 200 OK\r\nx y\r\n\r\n"),
    "malformed HTTP: a Content-Length that is no number":
        answering(STREAM + b"Content-Length: -5\r\n\r\n"),
    "malformed HTTP: the packed answer is damaged":
        answering(STREAM + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
    "the answer is packed by 'br', though it was asked for unpacked":
        answering(STREAM + b"Content-Encoding: br\r\nContent-Length: 4\r\n\r\nabcd"),
    "the answer is text/html, not a stream of events": answering(whole(b"<p>", kind="text/html")),
    "the answer is no JSON, though it says so": answering(whole(b"{")),
}  # fmt: skip


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failed_request_has_a_reason_and_is_in_no_mean(reason: str) -> None:
    clock = FakeClock()

    async def script(asked: Asked, send: Send) -> Any:
        if asked.number == 2:
            clock.time += 1000.0  # would ruin any mean that it were in
            return await FAILURES[reason](asked, send)
        return await scheduled(clock, [0.5, 0.75], output=2)(asked, send)

    run = measured(script, requests=4, clock=clock)
    assert run.failures == {reason: 1}
    assert run.errors == ["", reason, "", ""]
    assert run.completed.tolist() == [True, False, True, True]
    summary = run.summary
    assert (summary["completed"], summary["failed"]) == (3, 1)
    assert (summary["mean_ttft_ms"], summary["mean_itl_ms"]) == (500.0, 250.0)
    assert (summary["mean_e2el_ms"], summary["mean_tpot_ms"]) == (750.0, 250.0)
    assert (summary["total_output_tokens"], summary["total_input_tokens"]) == (6, 48)
    assert any(f"1 of them by {reason}" in each for each in run.findings)
    assert run.served_run.failed == 1


def test_a_storm_of_429_is_counted_and_not_repeated() -> None:
    refused = answering(whole({"error": {"message": "busy"}}, 429))

    async def script(asked: Asked, send: Send) -> Any:
        return await (plain if asked.number % 4 == 0 else refused)(asked, send)

    with served(script) as server:
        run = measure_server(server.url, load(40, concurrency=8), overhead=False)
        assert len(server.asked) == 41
    assert run.failures == {"HTTP 429: busy": 30}
    assert run.summary["completed"] == 10
    assert run.stopped is None


def test_what_takes_too_long_is_a_failure() -> None:
    async def script(asked: Asked, send: Send) -> None:
        if asked.number != 2:
            await plain(asked, send)
            return
        await send(CHUNKED + part(EVENTS[0]))
        await asyncio.sleep(60)

    run = measured(script, timeout_s=0.4)
    assert run.failures == {"timeout: no end within 0.4 s": 1}
    assert run.completed.tolist() == [True, False, True]


def test_a_server_that_dies_leaves_a_partial_result() -> None:
    """It ends its connections at its fifth request, and takes no new one."""
    with served() as server:
        dead = threading.Event()

        async def script(asked: Asked, send: Send) -> Any:
            if asked.number >= 5:
                dead.set()
                return False
            return await plain(asked, send)

        server.script = script

        original = asyncio.open_connection

        async def open_connection(*where: Any, **how: Any) -> Any:
            if dead.is_set():
                raise ConnectionRefusedError
            return await original(*where, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "open_connection", open_connection)
            run = measure_server(server.url, load(500, concurrency=2), overhead=False)
    assert run.stopped is not None
    assert "10 requests in a row got: connection refused" in run.stopped
    assert 3 <= run.summary["completed"] <= 4
    assert run.summary["unsent"] > 400
    assert "Partial" in run.findings[0]


# ------------------------------------------------------------------- what is asked, and by whom


def test_a_connection_that_ended_meanwhile_is_replaced_once() -> None:
    """A server may end an idle connection at any time; the client notices as it asks."""

    async def script(asked: Asked, send: Send) -> Any:
        return await plain(asked, send) if asked.number % 3 else False

    with served(after_probe(script)) as server:
        run = measure_server(server.url, load(6), overhead=False)
        assert len(server.asked) == 1 + 6 + 2
    assert run.failures == {}
    run = measured(answering(b""))
    assert run.failures == {"connection closed without an answer": 3}


def test_connections_are_kept() -> None:
    with served() as server:
        measure_server(server.url, load(30, concurrency=3), overhead=False)
        assert server.most_open <= 4


def test_prompts_are_token_ids_of_exact_length_and_share_no_beginning() -> None:
    with served() as server:
        run = measure_server(server.url, load(5, prompt=serving.Lengths(50)), overhead=False)
        prompts = [asked.body["prompt"] for asked in server.asked[1:]]
    assert [len(each) for each in prompts] == [50] * 5
    assert len({tuple(each[:3]) for each in prompts}) == 5
    assert run.prompts == "token ids"
    body = server.asked[1].body
    assert body["max_tokens"] == 4
    assert body["stream_options"] == {"include_usage": True}
    assert "temperature" not in body
    assert "ignore_eos" not in body


def test_a_server_that_takes_no_ids_gets_words() -> None:
    async def script(asked: Asked, send: Send) -> Any:
        if isinstance(asked.body["prompt"], list):
            return await send(whole({"error": {"message": "prompt must be a string"}}, 400))
        count = limit_of(asked)
        read = 3 + 2 * len(asked.body["prompt"].split())  # two tokens a word, three around them
        events = [event(word())] * count + [event(usage(count, read)), event(b"[DONE]")]
        return await send(CHUNKED + stream(events))

    with served(script) as server:
        run = measure_server(server.url, load(3, prompt=serving.Lengths(103)), overhead=False)
    assert run.prompts == "words"
    assert run.input_tokens.tolist() == [103, 103, 103]
    assert any("takes no token ids" in each for each in run.findings)


def test_a_field_that_is_refused_is_left_out_and_that_is_said() -> None:
    async def script(asked: Asked, send: Send) -> Any:
        for name in ("stream_options", "max_completion_tokens"):
            if name in asked.body:
                said = {"detail": f"Unsupported fields in the request: {{'{name}'}}"}
                return await send(whole(said, 422))
        return await plain(asked, send)

    with served(script) as server:
        run = measure_server(server.url, load(), chat=True, overhead=False)
        body = server.asked[-1].body
    assert run.summary["completed"] == 3
    assert body["max_tokens"] == 4
    assert "stream_options" not in body
    assert sum("The server takes no" in each for each in run.findings) == 2


def test_options_go_into_the_request() -> None:
    with served() as server:
        measure_server(server.url + "/v1/", load(), model="mine", temperature=0.5,
                       ignore_eos=True, warmup=2, overhead=False)  # fmt: skip
        assert len(server.asked) == 6  # the short one, two that warm up, three
        body = server.asked[-1].body
    assert (body["model"], body["temperature"], body["ignore_eos"]) == ("mine", 0.5, True)
    assert body["stream"] is True


def test_the_prompts_of_a_file_are_asked_in_their_order(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "one two"}, {"prompt": [5, 6, 7], "output_tokens": 2}, {"text": "three"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    with served() as server:
        words = ["measure-server", "--url", server.url, "--concurrency", "1", "--prompt", str(file),
                 "--output", "4", "--json", "--no-overhead"]  # fmt: skip
        assert cli.main(words) == 0
        asked = [(a.body["prompt"], limit_of(a)) for a in server.asked[1:]]
    assert asked == [("one two", 4), ([5, 6, 7], 2), ("three", 4)]
    assert json.loads(capsys.readouterr().out)["prompts"] == "of a file"


# ------------------------------------------------------------------------------ what is refused


def refused(capsys: Any, *words: str) -> str:
    assert cli.main(["measure-server", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return str(captured.err)


SMALL = ("--concurrency", "1", "--requests", "2", "--prompt", "16", "--output", "4",
         "--no-overhead")  # fmt: skip


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (answering(whole({"error": {"message": "no key"}}, 401)), "HTTP 401: no key (no key is in"),
        (answering(whole({"detail": "Not Found"}, 404)), "HTTP 404: Not Found (model 'served'"),
        (answering(whole(b"", 301, more="Location: https://192.0.2.1/\r\n")), "redirects to https"),
        (answering(whole(b"<p>", kind="text/html")), "is text/html, not a stream"),
        (answering(b""), "connection closed without an answer"),
    ],
)
def test_a_server_that_refuses_the_first_request_is_one_line(
    capsys: Any, script: Script, said: str
) -> None:
    with served(script) as server:
        assert said in refused(capsys, "--url", server.url, *SMALL)


def test_a_server_of_something_else_is_one_line(capsys: Any) -> None:
    with served() as server:
        server.site = whole(b"<html>", 200, "text/html")
        said = refused(capsys, "--url", server.url, *SMALL)
    assert "lists no model: is it a server of the OpenAI protocol?" in said
    assert "connection refused; is it running?" in refused(capsys, "--url", server.url, *SMALL)


def test_a_certificate_that_nobody_trusts_is_refused(capsys: Any) -> None:
    with served(tls=True) as server:
        assert "is not trusted" in refused(capsys, "--url", server.url, *SMALL)
        assert server.asked == []
        trust = ssl.create_default_context(cafile=str(PEM))
        run = measure_server(server.url, load(), overhead=False, tls=trust)
        assert run.summary["completed"] == 3
    with served() as server:
        url = server.url.replace("http:", "https:")
        assert "does not speak TLS" in refused(capsys, "--url", url, *SMALL)


def test_the_key_is_sent_and_written_nowhere(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server repeats it in an answer and in an error."""
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("SPECSIM_API_KEY", SECRET)

    async def script(asked: Asked, send: Send) -> Any:
        key = asked.headers["authorization"].removeprefix("Bearer ")
        assert key == SECRET
        if asked.number == 1:
            return await send(whole({"error": {"message": f"{key} is slow"}}, 429))
        return await send(CHUNKED + stream([event(word(key)), *ENDED]))

    out, file = tmp_path / "out.json", tmp_path / "measured.json"
    with served(script) as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--out", str(out), "--json",
                 "--save-detailed", "--measurement", str(file), "--device", "a100",
                 "--target", "llama-3.1-8b"]  # fmt: skip
        assert cli.main(words) == 0
    captured = capsys.readouterr()
    shown = [captured.out, captured.err, out.read_text(), file.read_text()]
    assert not any(SECRET in text for text in shown)
    assert "[key] is slow" in captured.out
    assert SECRET not in repr(Key(SECRET))
    always = answering(whole({"error": {"message": f"wrong key {SECRET}"}}, 401))
    with served(always) as server:
        said = refused(capsys, "--url", server.url, *SMALL)
    assert SECRET not in said
    assert "wrong key [key] (the key in the environment" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--url", "x"), "must be an address"),
        (("--url", "ftp://x"), "must be an address"),
        (("--url", "http://a:b@x"), "must not hold a key"),
        (("--url", "http://x/v1?key=1"), "before any ?"),
        (("--url", "http://x:99999"), "is no address"),
        (("--url", "http://x\r\nA: b"), "is no address"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "nan"), "--timeout"),
        (("--temperature", "-1"), "--temperature"),
        (("--warmup", "-1"), "--warmup"),
        (("--rate", "1,2"), "one rate"),
        (("--requests", "0"), "--requests"),
        (("--slo", "itl:5"), "--slo takes"),
        (("--save-detailed",), "--save-detailed needs"),
        (("--measurement", "x.json"), "needs --device and --target"),
        (("--device", "x"), "has a use with --measurement"),
        (("--out", "/nowhere/\0"), "cannot write"),
        (("--tokenizer", "nowhere.json"), "no such file"),
        (("--prompt", "nowhere.txt"), "no such file"),
        (("--model", " "), "--model must be a name"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_contacted(
    capsys: Any, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("contacted")

    monkeypatch.setattr(asyncio, "open_connection", never)
    assert said in refused(capsys, "--url", "http://127.0.0.1:9", *SMALL, *words)
    assert "give the arrivals" in refused(capsys, "--url", "http://127.0.0.1:9")
    monkeypatch.setenv("SPECSIM_API_KEY", "a\nb")
    assert "no header can" in refused(capsys, "--url", "http://127.0.0.1:9", *SMALL)


# ------------------------------------------------------------------- counters, files, comparison


def page(drafts: int, accepted: int, tokens: int) -> bytes:
    name = 'vllm:spec_decode_num_{}_total{{engine="0",model_name="served"}} {}.0\n'
    counts = {"drafts": drafts, "draft_tokens": 2 * drafts, "accepted_tokens": accepted}
    text = "".join(name.format(*each) for each in counts.items())
    text += f'vllm:generation_tokens_total{{engine="0",model_name="served"}} {tokens}.0\n'
    return text.encode()


def test_the_counters_of_the_run_are_the_difference(tmp_path: Path, capsys: Any) -> None:
    pages = [page(1000, 700, 5000), page(1040, 728, 5080)]
    out, file = tmp_path / "out.json", tmp_path / "measured.json"
    with served(spaced, metrics=lambda k: pages[k]) as server:
        words = ["measure-server", "--url", server.url, "--concurrency", "4", "--requests", "20",
                 "--prompt", "16", "--output", "4", "--no-overhead", "--out", str(out),
                 "--measurement", str(file), "--device", "a100", "--target", "llama-3.1-8b",
                 "--draft", "llama-3.2-1b"]  # fmt: skip
        assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{server.url}/v1/completions, model served (vllm)"
    assert printed.splitlines()[1] == "20 requests, 4 at a time"
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    said = "1.700 tokens per cycle, 35.0 % of drafted tokens accepted, 40 drafts"
    assert said in " ".join(printed.split())
    found = json.loads(out.read_text())
    assert found["spec_decode_num_drafts"] == 40
    assert found["spec_decode_acceptance_length"] == pytest.approx(1.7)
    assert found["token_counts"] == {"usage": 80, "chunks": 80, "text": None, "server": 80}
    (run,) = read_runs(out.read_text(), "out.json")
    assert (run.tool, run.engine, run.completed) == ("specsim measure-server", "vllm", 20)
    assert run.latencies["chunk_gap"].called == "ITL"
    (point,) = Measurement.read(file).points
    assert (point.scenario.gamma, point.scenario.mode) == (2, "served")
    assert point.tokens_per_cycle == pytest.approx(1.7)
    assert point.cycle_s is not None

    words = ["compare", "--results", str(out), "--target", "llama-3.1-8b", "--accelerator",
             "h100-sxm", "--draft", "llama-3.2-1b", "--json"]  # fmt: skip
    assert cli.main(words) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    rows = {row["metric"]: row for row in told["rows"]}
    assert set(rows) == {"mean_ttft_s", "mean_tpot_s", "mean_chunk_gap_s", "mean_e2e_s",
                         "output_tokens_per_s", "tokens_per_cycle"}  # fmt: skip
    for row in rows.values():
        assert row["measured"] > 0
        assert row["predicted"] > 0
        assert row["simulated"] > 0
    assert told["predicted_as"]["gamma"] == 2


def test_an_idle_drafter_has_no_acceptance() -> None:
    with served(metrics=lambda _: page(1000, 700, 5000)) as server:
        run = measure_server(server.url, load(), overhead=False)
    assert run.counters is None
    assert run.engine == "vllm"
    assert "spec_decode_num_drafts" not in run.summary


def test_others_that_use_the_server_meanwhile_are_noticed() -> None:
    pages = [page(10, 7, 100), page(50, 35, 400)]
    with served(metrics=lambda k: pages[k]) as server:
        run = measure_server(server.url, load(), overhead=False)
    assert any("own counter grew by 300 tokens" in each for each in run.findings)


def test_the_lists_of_each_request_are_vllms(tmp_path: Path, capsys: Any) -> None:
    with served() as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--save-detailed", "--json"]
        assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    golden = json.loads((ROOT / "tests" / "results" / "vllm-bench.json").read_text())
    missing = golden.keys() - found.keys() - {"rtfx"}
    assert {name for name in missing if not name.startswith("spec_decode")} == set()
    assert found["output_lens"] == [4, 4]
    assert [len(gaps) for gaps in found["itls"]] == [3, 3]
    assert found["generated_texts"] == [" w" * 4] * 2


# ------------------------------------------------------------------------ many streams, Ctrl-C


def test_four_hundred_streams_are_held_at_a_time() -> None:
    """The server answers none before all have asked."""
    streams = 400
    everybody = asyncio.Event()

    async def script(asked: Asked, send: Send) -> None:
        if asked.number == 0:
            await plain(asked, send)
            return
        if asked.number == streams:
            everybody.set()
        await send(CHUNKED)
        await everybody.wait()
        count = limit_of(asked)
        for _ in range(count):
            await send(part(event(word())))
            await asyncio.sleep(0)
        await send(part(event(usage(count))) + part(event(b"[DONE]")) + LAST)

    from specsim.cli.measure_server import open_many_files

    open_many_files(2 * streams)  # client and server are one process here
    with served(script) as server:
        run = measure_server(server.url, load(streams, concurrency=None, rate=float("inf")))
        assert server.most_open >= streams
    assert run.summary["completed"] == streams
    assert run.summary["total_output_tokens"] == 4 * streams
    assert run.summary["max_concurrent_requests"] == streams
    assert run.overhead is not None
    assert run.overhead.chunks_per_s > 0
    assert run.overhead.first_s > 0


def test_ctrl_c_leaves_what_was_measured(tmp_path: Path) -> None:
    """A real interrupt of a real process, as soon as five requests have been answered."""
    half = threading.Event()

    async def script(asked: Asked, send: Send) -> None:
        if asked.number <= 5:
            await plain(asked, send)
            return
        await send(CHUNKED + part(EVENTS[0]))
        half.set()
        await asyncio.sleep(60)

    out = tmp_path / "out.json"
    with served(script) as server:
        command = [sys.executable, "-m", "specsim", "measure-server", "--url", server.url,
                   "--concurrency", "1", "--requests", "50", "--prompt", "16", "--output", "4",
                   "--no-overhead", "--out", str(out), "--save-detailed"]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=environment) as process:  # fmt: skip
            assert half.wait(60)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert errors == ""
    assert printed.startswith("PARTIAL RESULT: interrupted\n")
    found = json.loads(out.read_text())
    assert (found["completed"], found["failed"], found["cut_off"]) == (5, 0, 1)
    assert found["unsent"] == 44
    assert found["stopped"] == "interrupted"
    assert found["errors"] == [""] * 5 + ["cut off"]
    (run,) = read_runs(out.read_text(), "out.json")
    assert run.completed == 5
    assert "Partial: interrupted" in run.cautions[0]


def test_nothing_answered_is_a_failure_and_said(capsys: Any, tmp_path: Path) -> None:
    busy = after_probe(answering(whole({"error": {"message": "busy"}}, 503)))
    out = tmp_path / "out.json"
    with served(busy) as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--out", str(out)]
        assert cli.main(words) == 1
    printed = capsys.readouterr().out
    assert "0 completed, 2 failed" in printed
    assert "failed: 2 x HTTP 503: busy" in printed
    assert json.loads(out.read_text())["mean_ttft_ms"] is None
    with pytest.raises(SpecsimError, match="no request of the result succeeded"):
        read_runs(out.read_text(), "out.json")


def test_it_runs_inside_a_running_loop() -> None:
    with served() as server:

        async def cell() -> client.ServerRun:
            return measure_server(server.url, load(), overhead=False)

        run = asyncio.run(cell())
    assert run.summary["completed"] == 3
    assert len(run) == 3


def test_progress_is_told() -> None:
    told: list[tuple[int, int, int]] = []
    held = threading.Event()

    async def script(asked: Asked, send: Send) -> None:
        while asked.number == 3 and not held.is_set():
            await asyncio.sleep(0.005)
        await plain(asked, send)

    def progress(ended: int, total: int, failed: int) -> None:
        told.append((ended, total, failed))
        if ended >= 2:
            held.set()

    measured(script, requests=5, progress=progress)
    assert (2, 5, 0) in told

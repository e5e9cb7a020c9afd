"""A request that fails has a reason, and is in no mean."""

import asyncio
import threading
from typing import Any

import pytest
from scripted import (
    CHUNKED,
    EVENTS,
    STREAM,
    Asked,
    FakeClock,
    Send,
    answering,
    event,
    load,
    measured,
    part,
    plain,
    scheduled,
    served,
    stream,
    whole,
)

from specsim.evidence.client import measure_server


async def cut(_: Asked, send: Send) -> bool:
    await send(CHUNKED + part(EVENTS[0]))
    return False


async def error_in_the_middle(_: Asked, send: Send) -> None:
    await send(CHUNKED + stream([*EVENTS, event({"error": {"message": "out of\nmemory"}}),
                                 event(b"[DONE]")]))  # fmt: skip


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

"""What a stream may look like, and how the tokens in it are counted."""

import asyncio
import gzip
from typing import Any

import pytest
from scripted import (
    CHUNKED,
    ENDED,
    EVENTS,
    LAST,
    SAID,
    STREAM,
    Asked,
    FakeClock,
    Send,
    delta,
    event,
    in_pieces,
    load,
    measured,
    part,
    plain,
    served,
    stream,
    usage,
    whole,
    word,
)

from specsim import serving
from specsim.evidence import client
from specsim.evidence.client import measure_server


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

"""Completions and chats: a body becomes requests of the engine, and their pieces an answer.

A stream is written by plain ASGI messages. Its text comes from the engine's thread through one
queue per body; a client that leaves ends its requests before the next cycle.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from reference.checkpoints import Tokenizer
from reference.serving import chat
from reference.serving.answers import Answer, error_body
from reference.serving.engine import Engine
from reference.serving.protocol import (
    Ask,
    ProtocolError,
    encoded,
    flag,
    prompts_of,
    read_object,
    requests_of,
)
from reference.serving.requests import Piece, Request

BODY_SECONDS = 60  # for which a client may send its body
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take."""

    body_bytes: int = 1 << 20
    queue: int = 256  # requests that wait for a row
    seconds: float = 600.0  # from arrival to the last token
    reading_seconds: float = 60.0  # for which a client may leave its stream unread


@dataclass(slots=True)
class Service:
    """What the paths share."""

    engine: Engine
    tokenizer: Tokenizer
    render: chat.Render
    model: str
    root: str
    created: int
    limits: Limits
    closing: bool = False

    @property
    def context(self) -> int:
        """Tokens of the longest text, prompt included."""
        return self.engine.slots.context

    @property
    def vocab_size(self) -> int:
        """Of the target."""
        return self.engine.slots.target.architecture.vocab_size

    def ask(self, body: dict, is_chat: bool) -> Ask:
        """What a body asks for."""
        model = body.get("model")
        if model is not None and model not in (self.model, self.root):
            raise ProtocolError(
                404, f"the model {model!r:.100} does not exist; this is {self.model!r}", "model"
            )
        if is_chat:
            text = self.render(chat.messages_of(body))
            prompts = [encoded(text, self.tokenizer.encode)]
        else:
            prompts = prompts_of(body, self.tokenizer.encode, self.vocab_size)
        requests = requests_of(
            body, prompts, self.context, self.vocab_size, is_chat, self.limits.seconds
        )
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise ProtocolError(400, "stream_options must be an object", "stream_options")
        always = flag(options, "continuous_usage_stats")
        usage = flag(options, "include_usage") or always
        return Ask(requests, flag(body, "stream"), usage, always, is_chat, self.model)

    def submit(self, ask: Ask) -> asyncio.Queue:
        """Start the requests; the queue receives (index, piece)."""
        if self.closing:
            raise ProtocolError(503, "the server is shutting down")
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        for index, request in enumerate(ask.requests):
            request.put = lambda piece, index=index: pieces.put_nowait((index, piece))
        if not self.engine.submit(ask.requests, self.limits.queue):
            if self.engine.failure:
                raise ProtocolError(503, f"the engine has failed: {self.engine.failure}")
            raise ProtocolError(429, f"{self.limits.queue} requests wait already; try again later")
        return pieces


def hand_over(loop: asyncio.AbstractEventLoop) -> Callable[[list[tuple[Request, Piece]]], None]:
    """The engine's `post`: all pieces of a cycle in one call of the event loop."""

    def put(outbox: list[tuple[Request, Piece]]) -> None:
        for request, piece in outbox:
            request.put(piece)

    return lambda outbox: loop.call_soon_threadsafe(put, outbox) and None


class Completions:
    """POST /v1/completions and /v1/chat/completions, as an ASGI application."""

    def __init__(self, service: Service, is_chat: bool):
        self.service, self.is_chat = service, is_chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await error_response(405, "use POST")(scope, receive, send)
            return
        service = self.service
        try:
            body = await read_body(scope, receive, service.limits.body_bytes)
            ask = service.ask(read_object(body), self.is_chat)
            pieces = service.submit(ask)
        except ClientDisconnect:
            return
        except ProtocolError as error:
            await error_response(error.status, str(error), error.field)(scope, receive, send)
            return
        answer = self.stream if ask.streams else self.whole
        watch = asyncio.create_task(disconnected(receive))
        work = asyncio.create_task(answer(ask, pieces, scope, receive, send))
        try:
            await asyncio.wait((watch, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except (TimeoutError, OSError):
            pass  # the client does not read, or is gone
        finally:
            for request in ask.requests:  # no effect on those that have ended
                service.engine.cancel(request)
            watch.cancel()
            work.cancel()

    async def stream(self, ask: Ask, pieces: asyncio.Queue, scope, receive, send: Send) -> None:
        """Send each piece as it comes, then the usage, then [DONE]."""
        answer, left, total = Answer(ask), len(ask.requests), 0
        limit = self.service.limits.reading_seconds
        started = False
        while left:
            index, piece = await pieces.get()
            if piece.error and not started:
                await self.failure(piece.error)(scope, receive, send)
                return
            if not started:
                headers = {"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS}
                await send(headers)
                started = True
                if ask.chat:
                    await send_text(send, answer.first(), limit)
            if piece.error:
                event = json.dumps(error_body(500, piece.error))
                await send_text(send, f"data: {event}\n\n", limit)
            text = ""
            if piece.text or piece.finish or ask.usage_always:
                text = answer.chunk(index, piece.text, piece.finish, piece.tokens)
            if piece.finish:
                left, total = left - 1, total + piece.tokens
                text += "" if left else answer.last(total)
            if text:
                await send_text(send, text, limit)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, ask: Ask, pieces: asyncio.Queue, scope, receive, send: Send) -> None:
        """Send one JSON object when all texts have ended."""
        count = len(ask.requests)
        texts, finishes, total, left = [""] * count, [""] * count, 0, count
        while left:
            index, piece = await pieces.get()
            if piece.error:
                await self.failure(piece.error)(scope, receive, send)
                return
            texts[index] += piece.text
            if piece.finish:
                finishes[index], total, left = piece.finish, total + piece.tokens, left - 1
        await JSONResponse(Answer(ask).whole(texts, finishes, total))(scope, receive, send)

    def failure(self, message: str) -> Response:
        """The answer to a request that the engine ended with an error."""
        status = 503 if self.service.engine.failure else 504 if "time is up" in message else 500
        return error_response(status, message)


async def send_text(send: Send, text: str, seconds: float) -> None:
    """One message of a stream. Raises TimeoutError if the client leaves it unread for so long."""
    message: Message = {"type": "http.response.body", "body": text.encode(), "more_body": True}
    async with asyncio.timeout(seconds):
        await send(message)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The body of a request, of at most so many bytes."""
    sizes = [value for name, value in scope["headers"] if name == b"content-length"]
    if sizes and sizes[0].isdigit() and int(sizes[0]) > most:
        raise ProtocolError(413, f"the body has {int(sizes[0])} bytes; at most {most} are read")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > most:
                    raise ProtocolError(413, f"the body has more than {most} bytes")
    except TimeoutError:
        raise ProtocolError(408, f"the body did not come within {BODY_SECONDS} s") from None
    return bytes(body)


def error_response(status: int, message: str, field: str | None = None) -> Response:
    """An error as JSON; the connection is closed where the body may not have been read."""
    headers = {"connection": "close"} if status == 413 else None
    if status == 429:
        headers = {"retry-after": "1"}
    return JSONResponse(error_body(status, message, field), status, headers)

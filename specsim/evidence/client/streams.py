"""One request, from its first byte to the last chunk of its answer."""

import asyncio
import json

from specsim.evidence.client.answers import StreamedAnswer, refusal
from specsim.evidence.client.clock import Clock
from specsim.evidence.client.events import Events
from specsim.evidence.client.http1 import Connections, Failure, Response

MOST_REFUSAL, MOST_WHOLE = 2**20, 2**26  # bytes of what does not stream


async def ask(
    pool: Connections, message: bytes, answer: StreamedAnswer, clock: Clock, timeout_s: float
) -> bool:
    """Send a request and fill its answer in; whether the server could be reached.

    The time of sending is before the connection is opened, as in vLLM's benchmark. What fails is
    the answer's `error`, never an exception; a request that is cancelled is ended.
    """
    answer.sent_s = clock.now()
    try:
        async with asyncio.timeout(timeout_s):
            connection, response = await pool.ask(message)
            try:
                await read(response, answer, clock)
            except BaseException:
                connection.end()
                raise
            pool.give_back(connection, response)
    except TimeoutError:
        answer.error = f"timeout: no end within {timeout_s:g} s"
    except Failure as failure:
        answer.error = pool.key.hide(str(failure)) or "connection reset"
        return not failure.unreachable
    return True


async def read(response: Response, answer: StreamedAnswer, clock: Clock) -> None:
    """Read an answer to its end. Raises Failure."""
    if response.status != 200:
        content = await response.content(MOST_REFUSAL)
        where = response.headers.get("location")
        raise Failure(refusal(response.status, response.reason, content, where))
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        await _whole(response, answer, clock)
        return
    if kind not in ("text/event-stream", "", "text/plain", "application/octet-stream"):
        raise Failure(f"the answer is {kind[:40]}, not a stream of events")
    events, now = Events(), clock.now
    async for piece in response.pieces():
        came = now()
        for name, data in events.feed(piece):
            answer.take(name, data, came)
    came = now()
    for name, data in events.end():
        answer.take(name, data, came)
    answer.end()


async def _whole(response: Response, answer: StreamedAnswer, clock: Clock) -> None:
    """An answer in one piece, of a server that does not stream."""
    content = await response.content(MOST_WHOLE)
    came = clock.now()
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise Failure("the answer is no JSON, though it says so") from None
    answer.streamed = False
    answer.take_message(message, came)
    answer.done = True
    answer.end()

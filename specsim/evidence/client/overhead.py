"""What the client itself takes, measured on this machine: a server that answers at once.

The server runs in the same thread, so its own work is in the numbers: they are upper bounds of the
client's time, and lower bounds of what it can take.
"""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass

from specsim.evidence.client.address import Address, Key
from specsim.evidence.client.answers import StreamedAnswer
from specsim.evidence.client.clock import Clock
from specsim.evidence.client.http1 import Connections
from specsim.evidence.client.streams import ask

ALONE, STREAMS, CHUNKS = 20, 8, 200  # requests one by one; streams at a time, chunks of each
CHUNK = json.dumps(
    {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": "none",
     "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}]}
)  # fmt: skip
EVENT = f"data: {CHUNK}\n\n".encode()
PART = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds to the first chunk of a server that answers at once, and chunks per second over
    several streams, client and server together."""

    first_s: float
    chunks_per_s: float

    @property
    def chunk_s(self) -> float:
        """Seconds of a chunk."""
        return 1.0 / self.chunks_per_s


async def overhead(
    streams: int = STREAMS, chunks: int = CHUNKS, alone: int = ALONE
) -> Overhead | None:
    """Measure it; None where no local server can be opened."""
    clock = Clock()
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                count = int(await reader.readline())
                writer.write(HEAD + PART)
                for _ in range(count - 1):
                    await asyncio.sleep(0)  # a write of its own for each chunk
                    writer.write(PART)
                    await writer.drain()
                writer.write(END)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            handlers.discard(task)

    try:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
    except OSError:
        return None
    port = server.sockets[0].getsockname()[1]
    pool = Connections(Address(False, "127.0.0.1", port, "", "/v1", None), Key(None))

    async def asked(count: int) -> StreamedAnswer:
        answer = StreamedAnswer(0)
        message = pool.message("POST", "/v1/completions", b"%d\n" % count)
        await ask(pool, message, answer, clock, 30.0)
        return answer

    try:
        await asked(2)  # the connection, and what is computed once
        firsts = [await asked(1) for _ in range(alone)]
        begun = time.perf_counter()
        many = await asyncio.gather(*(asked(chunks) for _ in range(streams)))
        seconds = time.perf_counter() - begun
    finally:
        pool.end()
        server.close()
        if handlers:  # each ends with its connection
            await asyncio.wait(handlers, timeout=1.0)
    if not all(each.completed for each in (*firsts, *many)):
        return None
    first = statistics.median(each.at_s[0] - each.sent_s for each in firsts)
    return Overhead(first, sum(len(each.at_s) for each in many) / seconds)

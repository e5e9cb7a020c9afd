"""Sends the requests of a load when they are due, and collects their answers.

Open loop: each request is sent at its time, however many are on their way. With a concurrency, so
many users take the next request in order, wait until it is due, and send it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from specsim.checks import Floats, Integers
from specsim.evidence.client.answers import StreamedAnswer
from specsim.evidence.client.clock import Clock

DEAD = 10  # requests in a row that cannot connect: the server is gone


class ClientLoad(Protocol):
    """When requests are sent, and how long they are; `specsim.serving.traffic` makes one."""

    @property
    def arrival_s(self) -> Floats:
        """Seconds from the start of the run, an entry for each request, rising."""

    @property
    def input_tokens(self) -> Integers:
        """Tokens of each prompt."""

    @property
    def output_tokens(self) -> Integers:
        """Tokens of each answer."""

    @property
    def concurrency(self) -> int | None:
        """The most on their way at a time; None: no limit."""

    @property
    def rate(self) -> float:
        """Requests per second that the times were drawn with; infinite: all at once."""

    @property
    def burstiness(self) -> float:
        """The shape of the gaps between them, as in vLLM."""

    @property
    def seed(self) -> int:
        """What they were drawn from."""


class Sender:
    """Sends requests and holds their answers, in the order in which they were sent.

    `send` sends one request, fills its answer in and says whether the server could be reached.
    """

    def __init__(self, load: ClientLoad, send: Callable[[StreamedAnswer], Awaitable[bool]],
                 clock: Clock) -> None:  # fmt: skip
        self.load, self.clock, self._send = load, clock, send
        self.answers: list[StreamedAnswer] = []
        self.begun_s = self.ended_s = clock.now()
        self.ended = self.failed = self._unreached = self._next = 0
        self.stopped: str | None = None
        self._halt = asyncio.Event()

    def stop(self, why: str) -> None:
        """End the run early, with a reason in words; answers that are on their way are cut."""
        if self.stopped is None:
            self.stopped = why
        self._halt.set()

    async def run(self) -> None:
        """Send all requests; ends when all are answered, or at `stop`."""
        self.begun_s = self.clock.now()
        sending = asyncio.create_task(self._users() if self.load.concurrency else self._open())
        halted = asyncio.create_task(self._halt.wait())
        try:
            await asyncio.wait({sending, halted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, halted):
                task.cancel()
            results = await asyncio.gather(sending, halted, return_exceptions=True)
            self.ended_s = self.clock.now()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _open(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(self.load.arrival_s)):
                await self._until(number)
                if self._halt.is_set():
                    return
                group.create_task(self._one(number))

    async def _users(self) -> None:
        users = min(self.load.concurrency or 1, len(self.load.arrival_s))
        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(self._user())

    async def _user(self) -> None:
        while self._next < len(self.load.arrival_s) and not self._halt.is_set():
            number = self._next
            self._next += 1
            await self._until(number)
            await self._one(number)

    async def _until(self, number: int) -> None:
        due = self.begun_s + float(self.load.arrival_s[number])
        while (wait := due - self.clock.now()) > 0:
            await self.clock.sleep(wait)

    async def _one(self, number: int) -> None:
        load = self.load
        answer = StreamedAnswer(
            number,
            due_s=self.begun_s + float(load.arrival_s[number]),
            asked_input=int(load.input_tokens[number]),
            asked_output=int(load.output_tokens[number]),
        )
        self.answers.append(answer)
        reached = await self._send(answer)
        self.ended += 1
        self.failed += not answer.completed
        self._unreached = 0 if reached else self._unreached + 1
        if self._unreached >= DEAD:
            self.stop(f"the server is gone: {DEAD} requests in a row got: {answer.error}")

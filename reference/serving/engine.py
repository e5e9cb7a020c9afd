"""The loop of the server: admit, read prompts, run a cycle, emit.

It runs on one thread, which alone touches the model. Requests come in through `submit` and `cancel`
from the event loop's thread; all that a cycle emits goes out in one call of `post`, on this one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

import torch

from reference.sequences import CycleResult
from reference.serving.metrics import Metrics
from reference.serving.requests import Piece, Request, TextStream
from reference.serving.slots import Slots

Post = Callable[[list[tuple[Request, Piece]]], None]


class Engine:
    """Serves requests in the rows of `slots`.

    Arguments: `decode` makes text of ids. `prompt_tokens` are read between two cycles at most, so
    that a long prompt does not stall the others. `post` hands out what a cycle emitted.
    """

    def __init__(
        self,
        slots: Slots,
        decode: Callable[[list[int]], str],
        metrics: Metrics,
        post: Post,
        prompt_tokens: int = 256,
    ):
        self.slots, self.decode, self.metrics, self.post = slots, decode, metrics, post
        self.prompt_tokens = prompt_tokens
        self.waiting: deque[Request] = deque()
        self.outbox: list[tuple[Request, Piece]] = []
        self.changed = threading.Condition()  # guards `waiting`, `closing`, and what is cancelled
        self.closing = False
        self.failure: str | None = None

    def submit(self, requests: list[Request], queue: int) -> bool:
        """Queue requests, all or none; False if more than `queue` would wait for a row, or if the
        engine has failed."""
        with self.changed:
            free = self.slots.requests.count(None)
            if self.failure or len(self.waiting) + len(requests) > queue + free:
                return False
            self.waiting.extend(requests)
            self.changed.notify()
            return True

    def cancel(self, request: Request) -> None:
        """End a request; its row is free before the next cycle."""
        request.cancelled = True

    def close(self) -> None:
        """End the loop once no request is left."""
        with self.changed:
            self.closing = True
            self.changed.notify()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and those that wait."""
        return len(self.slots.used), len(self.waiting)

    @torch.inference_mode()
    def run(self) -> None:
        """The loop, until `close`."""
        try:
            while self.wait_for_work():
                self.end_cancelled()
                self.admit()
                self.read_prompts()
                if len(self.slots.reading) < len(self.slots.used):
                    emitted = self.slots.run_cycle()
                    now = time.monotonic()
                    for row, request, result in emitted:
                        self.emit(row, request, result, now)
                self.hand_out()
        except Exception as error:  # a defect, or no memory: nothing can be served any more
            self.fail(error)
            raise

    def wait_for_work(self) -> bool:
        """Wait until there is a request; False once the server closes and none is left."""
        with self.changed:
            while not self.waiting and not self.slots.used:
                if self.closing:
                    return False
                self.changed.wait()
        return True

    def end_cancelled(self) -> None:
        """Free the rows of those whose client left, or whose time is up."""
        now = time.monotonic()
        for row, request in self.slots.used:
            if request.cancelled or now > request.deadline:
                self.slots.leave(row)
                self.finish(request, "abort", "" if request.cancelled else "the time is up", now)
        with self.changed:
            over = [r for r in self.waiting if r.cancelled or now > r.deadline]
            for request in over:
                self.waiting.remove(request)
        for request in over:
            self.finish(request, "abort", "" if request.cancelled else "the time is up", now)

    def admit(self) -> None:
        """Give free rows to those that wait, first come, first served."""
        while self.waiting and (row := self.slots.free_row()) is not None:
            with self.changed:
                request = self.waiting.popleft()
                request.text = TextStream(self.decode, request.stops)
                request.admitted = time.monotonic()
                self.slots.admit(row, request)

    def read_prompts(self) -> None:
        """Read the next pieces of the prompts, at most `prompt_tokens` in all."""
        left = self.prompt_tokens
        while left > 0 and self.slots.reading:
            left -= max(1, self.slots.read_pieces(self.slots.rows_to_read(left), left))

    def emit(self, row: int, request: Request, result: CycleResult, now: float) -> None:
        """Add what a cycle emitted to its request, and free the row if the text has ended."""
        if result.finite < len(result.emitted):
            self.slots.leave(row)
            self.finish(request, "error", "the logits are not finite: weights are corrupt", now)
            return
        text = request.text
        assert text is not None
        piece = text.push(result.emitted)
        self.metrics.add_cycle(request, result, len(text.tokens) - request.emitted, now)
        request.emitted = len(text.tokens)
        if text.stopped or not result.remaining:
            self.slots.leave(row)
            at_end = text.tokens[-1] in self.slots.stops_of(request)
            finish = "stop" if text.stopped or at_end else "length"
            self.finish(request, finish, None, now, piece + text.rest())
        else:
            self.outbox.append((request, Piece(piece, request.emitted)))

    def finish(
        self, request: Request, finish: str, error: str | None, now: float, text: str = ""
    ) -> None:
        """The last piece of a request, and its place in the metrics."""
        self.metrics.add_request(request, finish, now)
        self.outbox.append((request, Piece(text, request.emitted, finish, error)))

    def hand_out(self) -> None:
        """Give everything that was emitted to the event loop, in one call."""
        if self.outbox:
            outbox, self.outbox = self.outbox, []
            self.post(outbox)

    def fail(self, error: Exception) -> None:
        """End every request with the error's first line."""
        now = time.monotonic()
        with self.changed:
            self.failure = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            left = [*(request for _, request in self.slots.used), *self.waiting]
            self.waiting.clear()
        for request in left:
            self.finish(request, "error", f"the engine has failed: {self.failure}", now)
        self.hand_out()

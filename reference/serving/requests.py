"""A request: what it asks for, and how its text grows from tokens to final pieces."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from reference.sampling import SamplingParameters
from reference.streaming import UNFINISHED, held_back

NUMBERS = count()


class Piece(NamedTuple):
    """What one cycle added to one request's text."""

    text: str
    tokens: int  # emitted so far, of the request
    finish: str | None = None  # stop, length, abort or error, in its last piece
    error: str | None = None


class TextStream:
    """Text of tokens that come one by one, each piece final; ends before the first stop string.

    A character or a stop string may span several tokens. Only the tokens since the last whole
    character are decoded again, so a token costs the same at any length of the text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: tuple[str, ...] = ()):
        self.decode, self.stops = decode, stops
        self.tokens: list[int] = []
        self.begin = 0  # the first token that is decoded together with the next ones
        self.told = 0  # the first token whose text is not told
        self.held = ""  # text that may be the start of a stop string
        self.stopped = False

    def push(self, tokens: list[int]) -> str:
        """Take tokens and return the text that is final now. After a stop string `stopped` is
        true, and `tokens` ends with the token that completed it."""
        if not self.stops:
            return self._grown(tokens)
        final = ""
        for token in tokens:
            self.held += self._grown([token])
            places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
            if places:
                self.stopped = True
                final, self.held = final + self.held[: min(places)], ""
                break
            whole = len(self.held) - held_back(self.held, self.stops)
            final, self.held = final + self.held[:whole], self.held[whole:]
        return final

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        if self.stopped:
            return ""
        before = self.decode(self.tokens[self.begin : self.told])
        return self.held + self.decode(self.tokens[self.begin :])[len(before) :]

    def _grown(self, tokens: list[int]) -> str:
        self.tokens += tokens
        before = self.decode(self.tokens[self.begin : self.told])
        now = self.decode(self.tokens[self.begin :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return ""
        self.begin, self.told = self.told, len(self.tokens)
        return now[len(before) :]


@dataclass(slots=True, eq=False)
class Request:
    """One text to write: the prompt's ids, how it is sampled and when it ends.

    `put` receives the pieces, on the thread of the server's event loop.
    """

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()  # besides the model's own
    ignores_end: bool = False  # the model's own
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    copy: int = 0  # which of the n texts of its prompt
    deadline: float = float("inf")  # of time.monotonic
    put: Callable[[Piece], None] = lambda piece: None
    text: TextStream | None = None
    emitted: int = 0  # tokens that count
    cancelled: bool = False
    number: int = field(default_factory=lambda: next(NUMBERS))
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_at: float = 0.0  # when its first token was emitted
    last_at: float = 0.0

"""The sequences that decode: arrays of rows, the first `batch` of which are in use.

What each of them emits in its next cycles is drawn a window of steps at a time. All of them advance
by one cycle in every step, so a step is one column of the window.
"""

import numpy as np

from specsim.checks import Array, Booleans, Integers
from specsim.serving.accepting import Noise

WINDOW = 32  # steps whose draws are made together


class Slots:
    """Sequences that decode, in the order in which they began.

    `limits` are, by gamma, the draws below which at least k drafts are accepted: (classes, gamma).
    """

    def __init__(self, most: int, noise: Noise, limits: dict[int, Integers]) -> None:
        self.noise, self.limits = noise, limits
        self.batch, self.gamma, self.at = 0, 0, 0  # `at` is the column of the next step
        self.tokens = 0  # cached by all of them together
        self.ids, self.left, self.whole, self.start, self.kind = (
            np.zeros(most, dtype=np.int64) for _ in range(5)
        )
        self.keys = np.zeros(most, dtype=np.uint64)
        self.drafted = np.zeros(most, dtype=bool)  # whether drafts are made for it
        self.window = np.ones((most, WINDOW), dtype=np.int16)
        self.step = 0
        self.fresh = 0  # the first row that has no draws yet

    @property
    def context(self) -> Integers:
        """Tokens that each sequence holds."""
        return self.whole[: self.batch] - self.left[: self.batch]

    def add(self, request: int, kind: int, held: int, left: int, drafted: bool) -> None:
        """A sequence that holds `held` tokens, of an acceptance class, with `left` to write."""
        slot = self.batch
        self.ids[slot], self.kind[slot], self.keys[slot] = request, kind, self.noise.keys[request]
        self.left[slot], self.whole[slot] = left, held + left
        self.start[slot] = held - self.step
        self.drafted[slot] = drafted
        self.tokens += held
        self.batch += 1

    def keep(self, kept: Booleans) -> None:
        """Drop all rows but those of this mask, which keep their order."""
        context, batch = self.context, self.batch
        self.tokens -= int(np.add.reduce(context[~kept]))
        first, count = int(kept.argmin()), int(np.add.reduce(kept))
        stay = kept[first:]
        for array in (self.ids, self.left, self.whole, self.start, self.kind, self.keys,
                      self.drafted, self.window):  # fmt: skip
            array[first:count] = array[first:batch][stay]
        self.batch, self.fresh = count, min(self.fresh, count)

    def emits(self, gamma: int, steps: int) -> Array:
        """Tokens that each sequence emits in each of the next steps, (batch, steps), of which there
        may be fewer than asked: to the end of the window."""
        if gamma != self.gamma or self.at == WINDOW:
            self.gamma, self.at, self.fresh = gamma, self.at % WINDOW, 0
        if self.fresh < self.batch:
            self._draw(self.fresh, self.batch)
            self.fresh = self.batch
        return self.window[: self.batch, self.at : self.at + steps]

    def advance(self, steps: int, emitted: Integers, total: int) -> None:
        """Go on by so many steps, in which the sequences emitted so many tokens, `total` in all.
        An answer ends with the token that it lacked: `left` may fall below 0."""
        self.left[: self.batch] -= emitted
        self.tokens += total
        self.at += steps
        self.step += steps

    def _draw(self, first: int, last: int) -> None:
        """Draw what these rows emit from the next step on."""
        if not self.gamma:
            self.window[first:last, self.at :] = 1
            return
        ahead = np.arange(WINDOW - self.at) + self.step
        cycles = self.start[first:last, None] + ahead
        draws = self.noise.draws(self.keys[first:last, None], cycles)
        limits = self.limits[self.gamma]
        if len(limits) == 1:  # how many of the falling limits lie above the draw
            deep = limits.shape[1]
            accepted: Integers = deep - limits[0, ::-1].searchsorted(draws, "right")
        else:
            of_row = limits[self.kind[first:last]][:, None]
            accepted = (draws[..., None] < of_row).sum(axis=-1)
        self.window[first:last, self.at :] = 1 + accepted * self.drafted[first:last, None]

"""Accounts of acceptance: what one line, block or record counts, checked against itself.

An engine prints the same cycles several times over: as counts, as a mean length, as rates. An
account holds them with the precision in which they are printed, so that a contradiction is seen
and rounding is not taken for one.
"""

from dataclasses import dataclass
from functools import lru_cache

from specsim.checks.limits import require_limit

MOST = 1e15  # tokens: no server counts more


@dataclass(frozen=True, slots=True)
class Printed:
    """A number as printed, and half a unit of its last digit."""

    value: float
    half: float

    def agrees(self, value: float, more: float = 0.0) -> bool:
        """Whether `value` would be printed like this, rounded or cut, give or take `more`."""
        return abs(self.value - value) <= 2.02 * self.half + more + 1e-9 * abs(value)


ONE = Printed(1.0, 0.0005)


def _sum(numbers: tuple[Printed, ...]) -> tuple[float, float]:
    """The sum, and how much of it may be rounding."""
    total = half = 0.0
    for number in numbers:
        total += number.value
        half += number.half
    return total, half


@lru_cache(maxsize=1 << 16)  # a log prints few different numbers
def printed(text: str, unit: float = 1.0) -> Printed:
    """The number that `text` spells, times `unit`."""
    digits = text.lower().partition("e")[0].partition(".")[2]
    return Printed(float(text) * unit, 0.5 * 10.0 ** -len(digits) * unit)


def printed_list(text: str) -> tuple[Printed, ...] | None:
    """The numbers of a comma-separated list; None if it is empty, or cut within its last number."""
    parts = [part for part in text.strip(" []()").replace(" ", "").split(",") if part]
    require_limit("gamma", len(parts), "the number of positions in the log")
    try:
        numbers = tuple(printed(part) for part in parts)
    except ValueError:
        return None
    if not numbers or numbers[-1].half > numbers[0].half:
        return None
    return numbers


DRAFTS_MISSING = (
    "The drafted tokens are missing: as many are assumed per cycle as positions are listed, and "
    "the last of them may be lost."
)


def checked_positions(
    positions: tuple[Printed, ...],
    accepted: float | None,
    drafted: float | None,
    cycles: float | None,
    length: float | None,
) -> tuple[tuple[Printed, ...], bool]:
    """Rates per position of a list whose lines may be lost, and whether they are all.

    They are all if there are as many as drafts per cycle; where those are not known, if they add up
    to the accepted drafts per cycle. Else nothing tells how many are missing, and they are dropped.
    """
    if cycles and drafted is not None:
        return positions, len(positions) >= drafted / cycles - 1e-9
    made = accepted / cycles if accepted is not None and cycles else None
    if made is None and length is not None:
        made = length - 1.0
    total, half = _sum(positions)
    if made is not None and abs(total - made) <= 0.006 + 1.02 * half:
        return positions, True
    return (), False


@dataclass(frozen=True, slots=True)
class Account:
    """One account. `positions` are rates per position: all of them if `whole`."""

    accepted: float | None = None
    drafted: float | None = None
    cycles: float | None = None
    length: Printed | None = None
    rate: Printed | None = None
    positions: tuple[Printed, ...] | None = None
    whole: bool = True

    @property
    def idle(self) -> bool:
        """Whether nothing was drafted in it."""
        return not self.accepted and (self.drafted == 0 or (self.cycles == 0 and not self.drafted))

    @property
    def told(self) -> int:
        """Which things it tells, as bits."""
        return (
            (self.accepted is not None)
            + 2 * (self.drafted is not None)
            + 4 * (self.cycles is not None)
            + 8 * (self.length is not None)
            + 16 * (self.rate is not None)
            + 32 * bool(self.positions)
        )

    @property
    def counted_cycles(self) -> float | None:
        """The cycles: as counted, or else as accepted tokens and the mean length imply."""
        if self.cycles is not None or self.accepted is None or not 0 <= self.accepted <= MOST:
            return self.cycles
        if self.positions and self.whole and self.accepted == 0:
            return None if self.drafted is None else self.drafted / len(self.positions)
        per_cycle, half = 0.0, 0.0
        if self.positions and self.whole:
            per_cycle, half = _sum(self.positions)
        elif self.length is not None:
            per_cycle, half = self.length.value - 1.0, self.length.half
        if per_cycle <= 0:
            return None
        cycles = self.accepted / per_cycle
        off = cycles * half / per_cycle  # what the rounding of the mean leaves open
        if self.positions and self.whole and self.drafted is not None:
            full = self.drafted / len(self.positions)  # if each drafts as many tokens as any
            if full.is_integer() and abs(full - cycles) <= off:
                return full
        # the cycles are a whole number; take it where the printed digits allow it
        nearest = float(round(cycles) or 1)
        return nearest if abs(nearest - cycles) <= off else cycles

    def doubt(self, cycles: float | None) -> str | None:
        """What contradicts itself, in words; None if nothing does. `cycles`: `counted_cycles`."""
        for name, value in (
            ("accepted", self.accepted), ("drafted", self.drafted), ("drafts", self.cycles),
        ):  # fmt: skip
            if value is not None and not 0 <= value <= MOST:
                return f"{name} must be a count >= 0, got {value:g}"
        if self.accepted is not None and self.drafted is not None and self.accepted > self.drafted:
            return (
                f"accepted must be at most drafted, got {self.accepted:g} accepted of "
                f"{self.drafted:g} drafted"
            )
        if self.cycles == 0:
            return "tokens were drafted, but in no cycle"
        if self.length is not None and not self.length.value >= 1.0 - self.length.half:
            return f"a mean length of {self.length.value:g}: every cycle emits at least 1 token"
        if self.rate is not None and not -1e-9 <= self.rate.value <= 1.0 + self.rate.half:
            return f"an acceptance rate of {self.rate.value:g}"
        return self._doubt_of_positions() or self._doubt_of_ratios(cycles)

    def _doubt_of_positions(self) -> str | None:
        if not self.positions:
            return None
        before = ONE
        for rate in self.positions:
            if not 0 <= rate.value <= 1.0005:
                return f"a rate per position of {rate.value:g}"
            if rate.value > before.value + before.half + rate.half:
                return f"rates per position that rise, from {before.value:g} to {rate.value:g}"
            before = rate
        return None

    def _doubt_of_ratios(self, cycles: float | None) -> str | None:
        accepted, drafted = self.accepted, self.drafted
        made = None if accepted is None or not cycles else accepted / cycles
        # cycles that are not counted are rounded to whole ones, which moves a mean by a cycle
        slack = 0.0 if self.cycles is not None or not cycles else (1.0 + (made or 0.0)) / cycles
        if self.rate is not None and accepted is not None and drafted:
            share = accepted / drafted
            if not self.rate.agrees(share):
                return (
                    f"a rate of {self.rate.value:.4g}, but {accepted:g} accepted of {drafted:g} "
                    f"drafted are {share:.4g}"
                )
        told = self.length
        if told is not None and made is not None and not told.agrees(1.0 + made, slack):
            return (
                f"a mean length of {told.value:g}, but {accepted:g} accepted tokens in {cycles:g} "
                f"cycles make it {1 + made:.3f}"
            )
        return self._doubt_of_sum(cycles, made, slack) if self.positions else None

    def _doubt_of_sum(self, cycles: float | None, made: float | None, slack: float) -> str | None:
        """A doubt about the sum of the rates per position: the accepted drafts per cycle, or less
        where only the first positions are known."""
        assert self.positions is not None
        total, half = _sum(self.positions)
        if made is None and self.length is not None:
            made, slack = self.length.value - 1.0, self.length.half
        if made is not None:
            off, most = total - made, 1.02 * (half + slack) + 1e-9
            if off > most or (self.whole and off < -most):
                return (
                    f"rates per position that add up to {total:.3f}, but {made:.3f} drafts were "
                    "accepted per cycle"
                )
        places = len(self.positions)
        drafted = self.drafted if self.whole and cycles else None
        if drafted is not None and cycles and drafted > places * (1.01 * cycles + 1.0):
            return f"{drafted / cycles:.3g} drafts per cycle, but only {places} positions"
        return None

"""Adds accounts by their cycles, without those that are idle or damaged."""

from dataclasses import dataclass, field
from itertools import pairwise

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, Printed, printed

FEW = 0.05  # share of the accounts in a log that may be damaged and are left out
PLAIN = Account(0, 0, None, printed("1"), printed("0"), (printed("0"),)).told


@dataclass(slots=True)
class Sums:
    """The sums of accounts that tell the same things. A mean is weighted by cycles where they are
    known, else by `weight`."""

    accounts: int = 0
    accepted: float | None = None
    drafted: float | None = None
    cycles: float | None = None
    weight: float = 0.0
    lengths: float | None = None
    rates: float | None = None
    positions: list[float] | None = None
    fewest_positions: int = 0

    def add(self, account: Account, cycles: float | None, weight: float) -> None:
        """Add one account of these things."""
        self.accounts += 1
        self.weight += weight
        if account.accepted is not None:
            self.accepted = (self.accepted or 0.0) + account.accepted
        if account.drafted is not None:
            self.drafted = (self.drafted or 0.0) + account.drafted
        if cycles is not None:
            self.cycles = (self.cycles or 0.0) + cycles
        if account.length is not None:
            self.lengths = (self.lengths or 0.0) + account.length.value * weight
        if account.rate is not None:
            self.rates = (self.rates or 0.0) + account.rate.value * weight
        if account.positions:
            self.add_positions([p.value * weight for p in account.positions])

    def add_positions(self, rates: list[float]) -> None:
        """Add rates per position; a position that is absent counts as 0."""
        if self.positions is None:
            self.positions, self.fewest_positions = rates, len(rates)
            return
        self.fewest_positions = min(self.fewest_positions, len(rates))
        missing = len(rates) - len(self.positions)
        if missing > 0:
            self.positions += [0.0] * missing
        for place, rate in enumerate(rates):
            self.positions[place] += rate

    def merge(self, other: "Sums") -> None:
        """Add the sums of other accounts; what only one of both tells is not known of all."""
        self.accounts += other.accounts
        self.weight += other.weight
        for name in ("accepted", "drafted", "cycles", "lengths", "rates"):
            one, two = getattr(self, name), getattr(other, name)
            setattr(self, name, None if one is None or two is None else one + two)
        if self.positions is None or other.positions is None:
            self.positions = None
        else:
            fewest = min(self.fewest_positions, other.fewest_positions)
            self.add_positions(other.positions)
            self.fewest_positions = fewest


@dataclass(slots=True)
class Tally:
    """Adds the accounts of one kind; `kind` names them in a message.

    Idle accounts don't count. A damaged account, cut or contradictory, is left out; if more than
    one in twenty is damaged, `total` raises SpecsimError with the first doubt. One that is cut is
    left out of however few.
    """

    kind: str
    engine: str | None
    idle: int = 0
    damaged: int = 0
    cut: int = 0
    first_doubt: str = ""
    sums: dict[int, Sums] = field(default_factory=dict)  # by which things their accounts tell
    cautions: list[str] = field(default_factory=list)

    @property
    def accounts(self) -> int:
        """The accounts that count."""
        return sum(sums.accounts for sums in self.sums.values())

    def add(self, account: Account, weight: float = 1.0) -> None:
        """Add one account; `weight` is its share of the cycles where they are not counted."""
        if account.idle:
            self.idle += 1
            return
        cycles = account.counted_cycles
        doubt = account.doubt(cycles)
        if doubt is not None:
            self.leave_out(doubt)
            return
        told = account.told
        if told not in self.sums:
            self.sums[told] = Sums()
        self.sums[told].add(account, cycles, weight if cycles is None else cycles)

    def add_plain(
        self, accepted: float, drafted: float, length: float, rate: Printed, positions: list[float]
    ) -> bool:
        """Add an account that tells all of these and is plainly right, and say whether it is.

        `Account` checks the same, in several times the time, and a log has hundreds of thousands.
        `length` is printed with two decimals, `positions` with three.
        """
        total = sum(positions)
        if not accepted or not total or positions[0] > 1.0 or accepted > drafted:
            return False
        full = drafted / len(positions)  # the cycles, if each drafted as many tokens as any
        near = full.is_integer() and abs(full * total - accepted) <= 0.0005 * drafted
        cycles = full if near else float(round(accepted / total))
        made = accepted / (cycles or 1.0)
        if (
            abs(total - made) > 0.0005 * len(positions)
            or abs(length - 1.0 - made) > 0.0051
            or not rate.agrees(accepted / drafted)
            or drafted > len(positions) * cycles
            or any(after > before for before, after in pairwise(positions))
        ):
            return False
        sums = self.sums.setdefault(PLAIN, Sums())
        sums.accounts += 1
        sums.weight += cycles
        sums.accepted = (sums.accepted or 0.0) + accepted
        sums.drafted = (sums.drafted or 0.0) + drafted
        sums.cycles = (sums.cycles or 0.0) + cycles
        sums.lengths = (sums.lengths or 0.0) + length * cycles
        sums.rates = (sums.rates or 0.0) + rate.value * cycles
        sums.add_positions([each * cycles for each in positions])
        return True

    def leave_out(self, doubt: str, cut: bool = False) -> None:
        """Count an account that cannot be right, or that is `cut`."""
        self.damaged += 1
        self.cut += cut
        self.first_doubt = self.first_doubt or doubt

    def total(self) -> Counters | None:
        """The sum; None if there was no account at all.

        Raises SpecsimError if all were idle, or if too many are damaged.
        """
        seen = self.accounts + self.damaged
        if not seen:
            if self.idle:
                raise SpecsimError(
                    f"no tokens were drafted in {self.idle} of {self.kind}: the server was idle, "
                    "or it did not speculate"
                )
            return None
        most = max(FEW * seen, min(self.cut, 1))
        if self.damaged > most or not self.accounts:
            raise SpecsimError(
                f"{self.kind} contradict themselves or are cut ({self.damaged} of {seen}): "
                f"{self.first_doubt}; give a part of the log that is whole"
            )
        if self.damaged:
            self.cautions.append(
                f"{self.damaged} of {seen} of {self.kind} are left out, because they contradict "
                f"themselves or are cut: {self.first_doubt}."
            )
        sums = self._whole()
        places = 0 if sums.positions is None else len(sums.positions)
        if sums.fewest_positions < places:
            self.cautions.append(
                f"The number of positions changes, from {sums.fewest_positions} to {places}: "
                "several servers or settings. The averages are over all of them."
            )
        counted = sums.accepted is not None and sums.drafted is not None
        return Counters(
            engine=self.engine,
            accepted=sums.accepted,
            drafted=sums.drafted,
            cycles=sums.cycles,
            accepted_per_drafted=None if counted else _mean(sums.rates, sums.weight),
            tokens_per_cycle=_mean(sums.lengths, sums.weight),
            survival=(
                None
                if sums.positions is None
                else tuple(min(1.0, round(total / sums.weight, 12)) for total in sums.positions)
            ),
            cautions=tuple(self.cautions),
            source=self.kind,
        )

    def _whole(self) -> Sums:
        """The sums of the accounts that tell most, if few tell less: those are cut. Else of all."""
        best = max(self.sums, key=lambda told: (self.sums[told].accounts, told))
        fullest = max(self.sums, key=int.bit_count)
        others = self.accounts - self.sums[fullest].accounts
        if others and others <= max(1.0, FEW * self.accounts):
            self.cautions.append(
                f"{others} of {self.accounts} of {self.kind} are left out, because they tell less "
                "than the others: they are cut."
            )
            return self.sums[fullest]
        first, *rest = sorted(self.sums, key=lambda told: told != best)
        if rest:
            self.cautions.append(
                f"Some of {self.kind} tell more than others: they are of several versions or "
                "servers. Their counts are added."
            )
        for told in rest:
            self.sums[first].merge(self.sums[told])
        return self.sums[first]


def _mean(total: float | None, weight: float) -> float | None:
    return None if total is None or not weight else round(total / weight, 9)

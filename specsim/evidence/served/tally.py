"""Adds accounts by their cycles, without those that are idle or damaged."""

from dataclasses import dataclass, field

from specsim.checks import SpecsimError
from specsim.checks.limits import LIMITS
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, Printed

FEW = 0.05  # share of the accounts in a log that may be damaged and are left out
MANY_POSITIONS = LIMITS["gamma"].most


@dataclass(slots=True)
class Tally:
    """Adds the accounts of one kind; `kind` names them in a message.

    Idle accounts don't count. A damaged account, cut or contradictory, is left out; if more than
    one in twenty is damaged, `total` raises SpecsimError with the first doubt.
    """

    kind: str
    engine: str | None
    accounts: int = 0
    idle: int = 0
    damaged: int = 0
    first_doubt: str = ""
    accepted: float = 0.0
    drafted: float = 0.0
    cycles: float = 0.0
    with_accepted: int = 0
    with_drafted: int = 0
    with_cycles: int = 0
    weight: float = 0.0
    lengths: float = 0.0
    with_length: int = 0
    rates: float = 0.0
    with_rate: int = 0
    with_positions: int = 0
    positions: list[float] = field(default_factory=list)
    fewest_positions: int = MANY_POSITIONS
    cautions: list[str] = field(default_factory=list)

    def add(self, account: Account, weight: float | None = None) -> None:
        """Add one account; `weight` is its share of the cycles where they are not counted."""
        if account.idle:
            self.idle += 1
            return
        doubt = account.doubt()
        if doubt is not None:
            self.leave_out(doubt)
            return
        self.accounts += 1
        cycles = account.counted_cycles
        weigh = cycles if cycles is not None else weight if weight is not None else 1.0
        if account.accepted is not None:
            self.accepted, self.with_accepted = (
                self.accepted + account.accepted,
                self.with_accepted + 1,
            )
        if account.drafted is not None:
            self.drafted, self.with_drafted = self.drafted + account.drafted, self.with_drafted + 1
        if cycles is not None:
            self.cycles, self.with_cycles = self.cycles + cycles, self.with_cycles + 1
        self.weight += weigh
        if account.length is not None:
            self.lengths += account.length.value * weigh
            self.with_length += 1
        if account.rate is not None:
            self.rates += account.rate.value * weigh
            self.with_rate += 1
        if account.positions:
            self._add_positions(account.positions, weigh)

    def _add_positions(self, positions: tuple[Printed, ...], weight: float) -> None:
        self.with_positions += 1
        self.fewest_positions = min(self.fewest_positions, len(positions))
        if len(positions) > len(self.positions):
            self.positions += [0.0] * (len(positions) - len(self.positions))
        for place, rate in enumerate(positions):  # a position that is absent counts as 0
            self.positions[place] += min(rate.value, 1.0) * weight

    def leave_out(self, doubt: str) -> None:
        """Count an account that cannot be right."""
        self.damaged += 1
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
        if self.damaged > FEW * seen:
            raise SpecsimError(
                f"{self.kind} contradict themselves or are cut ({self.damaged} of {seen}): "
                f"{self.first_doubt}; give a part of the log that is whole"
            )
        cautions = list(self.cautions)
        if self.damaged:
            cautions.append(
                f"{self.damaged} of {seen} of {self.kind} are left out, because they contradict "
                f"themselves or are cut: {self.first_doubt}."
            )
        whole_survival = self.with_positions == self.accounts
        if whole_survival and self.fewest_positions < len(self.positions):
            cautions.append(
                f"The number of positions changes, from {self.fewest_positions} to "
                f"{len(self.positions)}: several servers or settings. The averages are over all of "
                "them."
            )
        everything = self.accounts
        counted = self.with_accepted == self.with_drafted == everything
        return Counters(
            engine=self.engine,
            accepted=self.accepted if self.with_accepted == everything else None,
            drafted=self.drafted if self.with_drafted == everything else None,
            cycles=self.cycles if self.with_cycles == everything else None,
            accepted_per_drafted=(
                self.rates / self.weight if self.with_rate == everything and not counted else None
            ),
            tokens_per_cycle=(
                self.lengths / self.weight if self.with_length == everything else None
            ),
            survival=(
                tuple(round(total / self.weight, 12) for total in self.positions)
                if whole_survival
                else None
            ),
            cautions=tuple(cautions),
            source=self.kind,
        )

"""The counters of a speculative decoder, whatever engine counted them: plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of an engine; None for a counter that its log lacks.

    `accepted` and `drafted` are tokens, `cycles` verifications of one sequence each.
    `tokens_per_cycle` includes the bonus token. `survival` is the acceptance rate per position; it
    may hold only the first positions. `gamma` is the engine's setting. `cautions` are sentences on
    what is doubtful in the place where the counters were read, which `source` names.
    """

    engine: str | None = None
    accepted: float | None = None
    drafted: float | None = None
    cycles: float | None = None
    gamma: float | None = None
    accepted_per_drafted: float | None = None
    tokens_per_cycle: float | None = None
    survival: tuple[float, ...] | None = None
    cautions: tuple[str, ...] = ()
    source: str | None = None

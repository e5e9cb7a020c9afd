"""The statistics of this project's own decoder, as JSON (`python -m reference generate --json`)."""

from collections.abc import Iterable

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import float_of

ANSWERS = ("accepted", "drafted", "cycles", "tokens_per_cycle", "accepted_per_drafted")


def statistics(records: Iterable[dict[str, str]]) -> Counters | None:
    """Statistics of runs, added. Without cycles the names are anybody's, and nothing is read."""
    tally = Tally("the statistics of the decoder", None)
    for record in records:
        accepted, drafted, cycles = (float_of(record, name) for name in ANSWERS[:3])
        length, rate = record.get("tokens_per_cycle"), record.get("accepted_per_drafted")
        if cycles is not None and accepted is not None and drafted is not None:
            tally.add(Account(accepted, drafted, cycles))
        elif cycles and length and rate and float(rate) > 0:
            accepted = cycles * (float(length) - 1.0)
            drafted = accepted / float(rate)
            tally.add(Account(accepted, drafted, cycles, length=printed(length)))
    return tally.total()

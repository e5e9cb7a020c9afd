"""Runs of llama.cpp: the summaries of its examples, the timings in its answers, the table of
mtp-bench.py.

In all of them cycles = generated - accepted tokens. Sources: examples/speculative, tools/server
(`timings`), and the gist of llama.cpp PR #22673.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import DIGITS, NUMBER, float_of, groups, segments

SUMMARY = re.compile(
    rf"\b(n_draft|n_predict|n_drafted|n_accept|accept)\s{{0,9}}=\s{{0,9}}([-+]?{DIGITS}(?:\.\d{{1,9}})?)(?=[%\s]|$)"
)


def example_summaries(text: str) -> Counters | None:
    """The summary of an example: cycles = n_predict - n_accept. `n_draft` is only the limit."""
    if "n_drafted" not in text:
        return None
    tally = Tally("the summaries of llama.cpp's examples", "llama.cpp")
    for record in groups(SUMMARY, text.replace("n_accepted", "n_accept")):
        accepted, drafted = float_of(record, "n_accept"), float_of(record, "n_drafted")
        if accepted is None and drafted is None:
            continue
        if accepted is None or drafted is None:
            tally.leave_out("a summary has only one of n_drafted and n_accept", cut=True)
            continue
        predicted = float_of(record, "n_predict")
        percent = record.get("accept", "")
        tally.add(
            Account(
                accepted=accepted,
                drafted=drafted,
                cycles=_cycles(predicted, accepted),
                rate=printed(percent, 0.01) if "." in percent and drafted else None,
            )
        )
    total = tally.total()
    if total is not None and tally.accounts > 1:
        said = f"The text holds the summaries of {tally.accounts} runs. Their counts are added."
        total = replace(total, cautions=(*total.cautions, said))
    return total


def _cycles(predicted: float | None, accepted: float | None) -> float | None:
    if predicted is None or accepted is None or predicted <= 0:
        return None
    return predicted - accepted  # negative: the account is refused


ANSWERS = ("draft_n", "draft_n_accepted", "predicted_n")


def answers(records: Iterable[dict[str, str]]) -> Counters | None:
    """The `timings` of answers, added: cycles = predicted_n - draft_n_accepted."""
    tally = Tally("the timings in llama.cpp's answers", "llama.cpp")
    for record in records:
        accepted, drafted = float_of(record, "draft_n_accepted"), float_of(record, "draft_n")
        if accepted is None and drafted is None:
            continue  # a request without speculation
        if accepted is None or drafted is None:
            tally.leave_out("an answer has only one of draft_n and draft_n_accepted", cut=True)
            continue
        cycles = _cycles(float_of(record, "predicted_n"), accepted)
        tally.add(Account(accepted=accepted, drafted=drafted, cycles=cycles))
    return tally.total()


ROW = re.compile(
    rf"pred=\s{{0,9}}({DIGITS})\s{{1,9}}draft=\s{{0,9}}({DIGITS})\s{{1,9}}acc=\s{{0,9}}({DIGITS})\s"
    rf"{{1,9}}rate=\s{{0,9}}({NUMBER}|n/a)(?=\s|$)"
)


def bench_table(text: str) -> Counters | None:
    """The rows of mtp-bench.py: cycles = pred - acc. A row without drafts doesn't count."""
    tally = Tally("the rows of mtp-bench", "llama.cpp")
    for segment, _ in segments("pred=", text):
        match = ROW.match(segment)
        if match is None:
            tally.leave_out("a row is cut", cut=True)
            continue
        accepted, drafted = float(match[3]), float(match[2])
        tally.add(
            Account(
                accepted=accepted,
                drafted=drafted,
                cycles=float(match[1]) - accepted,
                rate=printed(match[4]) if drafted and match[4] != "n/a" else None,
            )
        )
    return tally.total()

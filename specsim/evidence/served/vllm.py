"""What vLLM prints: the lines of its log, its example script, its answers in JSON.

Sources: vllm/v1/spec_decode/metrics.py (a line per interval, counts of that interval), examples/
offline_inference/spec_decode.py, and the field `speculative_decoding` of an answer's metrics.
"""

import re
from collections.abc import Iterable

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import (
    DRAFTS_MISSING,
    Account,
    checked_positions,
    printed,
    printed_list,
)
from specsim.evidence.served.json_records import histogram_of
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import DIGITS, NUMBER, float_of, groups, segments

MARK = "SpecDecoding metrics"
FIELDS = re.compile(
    r"(Mean acceptance length|Accepted|Drafted|Per-position acceptance rate|Draft acceptance rate)"
    r": ([^A-Za-z:%]{0,20000})(%| ?tokens?\b(?!/))?"
)
WHOLE = re.compile(  # a line of the latest format, which most are
    r"SpecDecoding metrics: Mean acceptance length: (\d{1,4}\.\d\d), Accepted throughput: "
    r"[\d.]{1,20} tokens/s, Drafted throughput: [\d.]{1,20} tokens/s, Accepted: (\d{1,12}) tokens, "
    r"Drafted: (\d{1,12}) tokens, Per-position acceptance rate: "
    r"(\d\.\d{3}(?:, \d\.\d{3}){0,1023}), (?:Avg )?Draft acceptance rate: (\d{1,3}\.\d)%"
)
PROCESS = re.compile(r"pid=(\d{1,9})")


def interval_lines(text: str) -> Counters | None:
    """Lines of `SpecDecoding metrics`, each of an interval: their counts are added."""
    tally = Tally("vLLM's lines of 'SpecDecoding metrics'", "vllm")
    processes: set[str] = set()
    for segment, before in segments(MARK, text):
        whole = WHOLE.match(segment)
        if whole is None or not _add_at_once(tally, whole):
            account = _interval(segment)
            if account is None:
                tally.leave_out("a line lacks some of the expected numbers", cut=True)
                continue
            tally.add(account)
        at = before.find("pid=")
        if at >= 0 and len(processes) < 100 and (found := PROCESS.match(before, at)):
            processes.add(found[1])
    if len(processes) > 1:
        tally.cautions.append(
            f"The lines are of {len(processes)} processes. Their counts are added: if they are of "
            "different servers, give the log of one."
        )
    return tally.total()


def _add_at_once(tally: Tally, line: "re.Match[str]") -> bool:
    """Add a line of the latest format that is plainly right, and say whether it was."""
    length, accepted, drafted = (float(line[k]) for k in (1, 2, 3))
    positions = [float(part) for part in line[4].split(", ")]
    return tally.add_plain(accepted, drafted, length, printed(line[5], 0.01), positions)


def _interval(segment: str) -> Account | None:
    """The account in one line; None if it has no number, or its numbers are cut."""
    found: dict[str, tuple[str, str]] = {}
    for name, value, unit in FIELDS.findall(segment):
        found.setdefault(name, (value.strip(" ,"), unit.strip()))
    counts = {}
    for name in ("Accepted", "Drafted"):
        value, unit = found.get(name, ("", ""))
        if unit.startswith("token") and _is_number(value):
            counts[name] = float(value)
    length = found.get("Mean acceptance length", ("", ""))[0]
    rate, percent = found.get("Draft acceptance rate", ("", ""))
    listed = found.get("Per-position acceptance rate", ("", ""))[0]
    idle = counts.get("Drafted") == 0
    positions = printed_list(listed) if listed and not idle else None
    if listed and not idle and positions is None:
        return None  # the list is cut
    if len(counts) == 1 or not (counts or positions or _is_rounded(length)):
        return None
    return Account(
        accepted=counts.get("Accepted"),
        drafted=counts.get("Drafted"),
        length=printed(length) if _is_rounded(length) and not idle else None,
        rate=printed(rate, 0.01) if percent and _is_number(rate) and not idle else None,
        positions=positions,
    )


NUMERIC = re.compile(NUMBER)
ROUNDED = re.compile(rf"{DIGITS}\.\d\d+")


def _is_number(text: str) -> bool:
    return NUMERIC.fullmatch(text) is not None


def _is_rounded(text: str) -> bool:
    """Whether a number has its two decimals; one that is cut has fewer."""
    return ROUNDED.fullmatch(text) is not None


SCRIPT = re.compile(
    r"\b(num_drafts|num_draft_tokens|num_accepted_tokens|mean acceptance length|"
    rf"acceptance at token \d{{1,4}}): ?({NUMBER})(?=[\s,]|$)"
)


def example_script(text: str) -> Counters | None:
    """What vLLM's example script prints after a run; several runs are added."""
    if "mean acceptance length: " not in text and "num_accepted_tokens: " not in text:
        return None
    tally = Tally("the runs of vLLM's example script", "vllm")
    for record in groups(SCRIPT, text):
        rates = {
            int(name.rpartition(" ")[2]): printed(value)
            for name, value in record.items()
            if name.startswith("acceptance at token")
        }
        positions = tuple(rates[k] for k in range(len(rates)) if k in rates)
        length = record.get("mean acceptance length", "")
        cycles = float_of(record, "num_drafts")
        drafted = float_of(record, "num_draft_tokens")
        if len(positions) != len(rates):
            tally.cautions.append("Some of the rates per token are missing; they are left out.")
            positions = ()
        accepted = float_of(record, "num_accepted_tokens")
        mean = float(length) if _is_rounded(length) else None
        positions, whole = checked_positions(positions, accepted, drafted, cycles, mean)
        if positions and drafted is None:
            tally.cautions.append(DRAFTS_MISSING)
        tally.add(
            Account(
                accepted=accepted,
                drafted=drafted,
                cycles=cycles,
                length=printed(length) if _is_rounded(length) else None,
                positions=positions or None,
                whole=whole,
            )
        )
    return tally.total()


ANSWERS = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens",
           "mean_acceptance_length", "draft_acceptance_rate", "acceptance_histogram")  # fmt: skip


def answers(records: Iterable[dict[str, str]]) -> Counters | None:
    """The records of speculation in vLLM's answers, one a request; they are added."""
    tally = Tally("vLLM's records of requests", "vllm")
    for record in records:
        if "num_accepted_draft_tokens" not in record and "mean_acceptance_length" not in record:
            continue
        cycles = float_of(record, "num_spec_steps")
        accepted = float_of(record, "num_accepted_draft_tokens")
        positions, doubt = histogram_of(record.get("acceptance_histogram"), cycles, accepted)
        if doubt:
            tally.cautions.append(doubt)
        length, rate = record.get("mean_acceptance_length"), record.get("draft_acceptance_rate")
        tally.add(
            Account(
                accepted=accepted,
                drafted=float_of(record, "num_draft_tokens"),
                cycles=cycles,
                length=printed(length) if length else None,
                rate=printed(rate) if rate else None,
                positions=positions,
                whole=False,
            )
        )
    return tally.total()

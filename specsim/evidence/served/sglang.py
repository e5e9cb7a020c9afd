"""What SGLang prints: the lines of its decode batches, and the records in its answers.

Sources: python/sglang/srt/observability/scheduler_metrics_mixin.py (a line every 40 decode steps),
tokenizer_manager.py (`meta_info`), and `/get_server_info` (`internal_states`).
"""

import re
from collections.abc import Iterable

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed
from specsim.evidence.served.json_records import histogram_of
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import NUMBER, float_of, segments

LENGTH = re.compile(rf"ccept len(?:gth)?\s{{0,40}}[:=]\s{{0,40}}({NUMBER})(?![\w.])")
RATE = re.compile(rf"[Aa]ccept rate\s{{0,4}}[:=]\s{{0,4}}({NUMBER})(?![\w.])")
RUNNING = re.compile(r"#running-req: (\d{1,9})")


def batch_lines(text: str) -> Counters | None:
    """Lines of decode batches: means over the same number of steps, weighted by the sequences that
    ran. A line of no sequence, with a length of 0, is idle."""
    tally = Tally("SGLang's lines with an accept length", "sglang")
    for segment, before in segments("ccept len", text):
        length = LENGTH.match(segment)
        if length is None:
            continue
        if float(length[1]) == 0:
            tally.idle += 1
            continue
        rate, running = RATE.search(segment), RUNNING.search(before)
        tally.add(
            Account(
                length=printed(length[1]),
                rate=printed(rate[1]) if rate else None,
            ),
            weight=max(1.0, float(running[1])) if running else 1.0,
        )
    return tally.total()


ANSWERS = (
    "spec_accept_rate", "spec_accept_length", "spec_verify_ct", "completion_tokens",
    "spec_accept_token_num", "spec_num_correct_drafts", "spec_accepted_drafts",
    "spec_draft_token_num", "spec_num_proposed_drafts", "spec_proposed_drafts",
    "spec_accept_histogram", "spec_correct_drafts_histogram", "avg_spec_accept_length",
)  # fmt: skip


def answers(records: Iterable[dict[str, str]]) -> Counters | None:
    """The `meta_info` of requests, added, or the mean length in the state of a server."""
    tally = Tally("SGLang's records of requests", "sglang")
    for record in records:
        length = record.get("spec_accept_length", record.get("avg_spec_accept_length"))
        cycles = float_of(record, "spec_verify_ct")
        accepted = float_of(
            record, "spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num"
        )
        if length is None and (cycles is None or accepted is None):
            continue
        if length is not None and float(length) == 0:
            tally.idle += 1
            continue
        histogram = record.get("spec_correct_drafts_histogram", record.get("spec_accept_histogram"))
        positions, doubt = histogram_of(histogram, cycles, accepted)
        if doubt and doubt not in tally.cautions:
            tally.cautions.append(doubt)
        drafted = float_of(
            record, "spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num"
        )
        rate = record.get("spec_accept_rate")
        # beside counts the rate is the same number again, in one of its two meanings
        told = rate is not None and (accepted is None or drafted is None)
        tally.add(
            Account(
                accepted=accepted,
                drafted=drafted,
                cycles=cycles,
                length=printed(length) if length else None,
                rate=printed(rate) if told and rate is not None else None,
                positions=positions,
                whole=False,
            )
        )
    return tally.total()

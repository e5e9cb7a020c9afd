"""What SGLang prints: the lines of its decode batches, and the records in its answers.

Sources: python/sglang/srt/observability/scheduler_metrics_mixin.py (a line every 40 decode steps),
tokenizer_manager.py (`meta_info`), and `/get_server_info` (`internal_states`).
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, Printed, printed
from specsim.evidence.served.json_records import histogram_of
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import NUMBER, float_of, segments

# A number that is cut is followed by nothing, and lacks its second decimal.
ROUNDED = rf"({NUMBER}(?=,)|{NUMBER}(?<=\.\d\d)(?![\w.]))"
LENGTH = re.compile(rf"ccept len(?:gth)?\s{{0,40}}[:=]\s{{0,40}}{ROUNDED}")
RATE = re.compile(rf"[Aa]ccept rate\s{{0,4}}[:=]\s{{0,4}}{ROUNDED}")
RUNNING = re.compile(r"#running-req: (\d{1,9})")


def batch_lines(text: str) -> Counters | None:
    """Lines of decode batches: means over the same number of steps, weighted by the sequences that
    ran. A line of no sequence, with a length of 0, is idle."""
    tally = Tally("SGLang's lines with an accept length", "sglang")
    drafts = _Drafts()
    for segment, before in segments("ccept len", text):
        length = LENGTH.match(segment)
        if length is None:
            continue
        if float(length[1]) == 0:
            tally.idle += 1
            continue
        rate, running = RATE.search(segment), RUNNING.search(before)
        account = Account(length=printed(length[1]), rate=printed(rate[1]) if rate else None)
        tally.add(account, weight=max(1.0, float(running[1])) if running else 1.0)
        if account.length is not None and account.rate is not None:
            drafts.see(account.length, account.rate)
    total = tally.total()
    return total if total is None or total.accepted_per_drafted is None else drafts.told(total)


class _Drafts:
    """Which whole numbers of drafts fit every line, under each meaning of the rate: accepted over
    drafted tokens, or mean length over verified rows (PR #13212)."""

    def __init__(self) -> None:
        self.over_drafts = set(range(1, 129))
        self.over_rows = set(range(1, 129))

    def see(self, length: Printed, rate: Printed) -> None:
        """Keep the numbers that fit one line."""
        kept, more = length.value - 1.0, 2.02 * length.half + 1e-9
        self.over_drafts = {
            g for g in self.over_drafts
            if abs(kept - g * rate.value) <= more + 2.02 * g * rate.half
        }  # fmt: skip
        self.over_rows = {
            g for g in self.over_rows
            if abs(length.value - (g + 1) * rate.value) <= more + 2.02 * (g + 1) * rate.half
        }  # fmt: skip

    def told(self, total: Counters) -> Counters:
        """The counters with the number of drafts, where only one fits; else with a doubt."""
        assert total.tokens_per_cycle is not None
        found = len(self.over_drafts), len(self.over_rows)
        if found == (1, 0):
            (gamma,) = self.over_drafts
            rate = (total.tokens_per_cycle - 1.0) / gamma
            return replace(total, gamma=float(gamma), accepted_per_drafted=rate)
        if found == (0, 1):
            return replace(total, gamma=float(*self.over_rows))
        if found == (0, 0):
            said = "No whole number of drafts fits all lines: they are of several settings."
        else:
            numbers = sorted(self.over_drafts | self.over_rows)
            shown = f"{numbers[0]} … {numbers[-1]}" if len(numbers) > 3 else numbers
            said = f"The lines fit several numbers of drafts ({shown}): --gamma decides."
        return replace(total, cautions=(*total.cautions, said))


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
        if rate and accepted is not None and drafted and cycles:
            # the rate is the same number again, in one of its two meanings
            over_drafts, over_rows = accepted / drafted, (accepted + cycles) / (drafted + cycles)
            if not any(printed(rate).agrees(share) for share in (over_drafts, over_rows)):
                tally.leave_out(f"a rate of {rate:.6}, but {accepted:g} of {drafted:g} drafts")
                continue
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

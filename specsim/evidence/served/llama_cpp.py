"""What llama.cpp prints: its server's lines, its examples' summaries, its answers in JSON, and the
table of mtp-bench.py.

Sources: tools/server (`print_timing`, `timings`), common/speculative.cpp (`statistics`, counts
since the start, one line per drafter), examples/speculative, and the gist of llama.cpp PR #22673.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed, printed_list
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import DIGITS, NUMBER, float_of, groups, segments

EVALUATED = re.compile(rf" eval time =\s{{0,20}}{NUMBER} ms /\s{{0,20}}({DIGITS}) tokens")
ACCEPTED = re.compile(
    rf"draft acceptance(?: rate)?\s{{0,4}}=\s{{0,4}}({NUMBER}) \(\s{{0,20}}({NUMBER}) accepted"
    rf"\s{{0,4}}/\s{{0,20}}({NUMBER}) generated\s{{0,4}}\)"
)
WHOLE = re.compile(  # a line of the latest format
    r"draft acceptance = (\d\.\d{5}) \( {0,9}(\d{1,12}) accepted / {0,9}(\d{1,12}) generated\), "
    r"mean acceptance length = {1,9}(\d{1,4}\.\d\d), acceptance rate per position = "
    r"\((\d\.\d{3}(?:, \d\.\d{3}){0,1023})\)"
)
LENGTH = re.compile(rf"mean (?:acceptance length|acc len)\s{{0,4}}=\s{{0,4}}({NUMBER})(?![\w.])")
POSITIONS = re.compile(
    r"(?:acceptance rate per position|acc rate/pos)\s{0,4}=\s{0,4}\(([\d., ]{0,20000})\)"
)
STATISTICS = re.compile(
    rf"#(gen drafts|acc drafts|gen tokens|acc tokens)\s{{0,4}}=\s{{0,20}}(-?{DIGITS})(?=[,\s])"
)
CALLS = re.compile(rf"#calls\(b,g,a\)\s{{0,4}}=\s{{0,20}}{DIGITS}\s{{1,20}}({DIGITS})\s")


def server_lines(text: str) -> Counters | None:
    """The server's log: its lines of requests, and its statistics since the start.

    Both count the same drafts. The statistics count cycles too, and are taken unless the requests
    count more than they do.
    """
    requests, statistics = _requests(text), _statistics(text)
    if requests is None or statistics is None:
        return statistics or requests
    assert requests.accepted is not None
    assert requests.drafted is not None
    assert statistics.accepted is not None
    assert statistics.drafted is not None
    if requests.accepted > statistics.accepted or requests.drafted > statistics.drafted:
        raise SpecsimError(
            f"the log contradicts itself: its requests accepted {requests.accepted:g} of "
            f"{requests.drafted:g} drafted tokens, but its statistics since the start only "
            f"{statistics.accepted:g} of {statistics.drafted:g}: they are of several servers or "
            "drafters; give the lines of one kind"
        )
    if any("fell" in caution for caution in statistics.cautions) and requests.cycles:
        return requests
    if requests.drafted < 0.98 * statistics.drafted:
        said = (
            f"The requests in the log drafted {requests.drafted:g} tokens, the statistics count "
            f"{statistics.drafted:g}: the numbers are those since the start of the server."
        )
        return replace(statistics, cautions=(*statistics.cautions, said))
    return statistics


def _requests(text: str) -> Counters | None:
    """The lines of requests. Cycles are those of the mean length where it is printed, else the
    generated tokens less the accepted ones."""
    tally = Tally("llama.cpp's lines of requests", "llama.cpp")
    at, end_of_last = -1, 0
    for segment, _ in segments("draft acceptance", text):
        at = text.find("draft acceptance", at + 1)
        whole = WHOLE.match(segment)
        if whole is not None:
            accepted, drafted, length = (float(whole[k]) for k in (2, 3, 4))
            positions = [float(part) for part in whole[5].split(", ")]
            if tally.add_plain(accepted, drafted, length, printed(whole[1]), positions):
                end_of_last = at
                continue
        match = ACCEPTED.match(segment)
        evaluated = _evaluated(text, max(end_of_last, at - 1500), at)
        end_of_last = at
        if match is None:
            tally.leave_out("a line has no counts of accepted and generated drafts", cut=True)
        elif evaluated is not None and evaluated <= float(match[2]):
            tally.leave_out(f"{match[2]} accepted of {evaluated:g} generated tokens")
        else:
            tally.add(_request(segment, match, evaluated))
    return tally.total()


def _evaluated(text: str, start: int, end: int) -> float | None:
    """The tokens that a request generated, from the lines of its timings between two places."""
    at = text.rfind(" eval time =", start, end)
    while at >= 0:
        if text[at - 6 : at] != "prompt":
            match = EVALUATED.match(text, at)
            return float(match[1]) if match else None
        at = text.rfind(" eval time =", start, at)
    return None


def _request(segment: str, match: "re.Match[str]", evaluated: float | None) -> Account:
    accepted, drafted = float(match[2]), float(match[3])
    length, listed = LENGTH.search(segment), POSITIONS.search(segment)
    return Account(
        accepted=accepted,
        drafted=drafted,
        cycles=None if evaluated is None or length else evaluated - accepted,
        length=printed(length[1]) if length and drafted else None,
        rate=printed(match[1]) if drafted else None,
        positions=printed_list(listed[1]) if listed and drafted else None,
    )


def _require_order(record: dict[str, str]) -> None:
    """SpecsimError if the counts of a drafter cannot be: a draft has a token at least, and so has
    a draft that is accepted."""
    drafts, accepted_drafts, drafted, accepted = (
        float(record[name]) for name in ("gen drafts", "acc drafts", "gen tokens", "acc tokens")
    )
    if not 0 <= accepted_drafts <= min(drafts, accepted) or not max(drafts, accepted) <= drafted:
        raise SpecsimError(
            f"llama.cpp's statistics contradict themselves or are cut: {drafts:g} drafts of "
            f"{drafted:g} tokens, {accepted_drafts:g} accepted drafts of {accepted:g} tokens"
        )


@dataclass(frozen=True, slots=True)
class _Count:
    """The counts of one drafter since the start of its server."""

    account: Account
    calls: float | None


def _statistics(text: str) -> Counters | None:
    """The last line of each drafter, in each life of the server."""
    lives: dict[str, list[_Count]] = {}
    falls = 0
    for segment, _ in segments("statistics ", text):
        name = segment[len("statistics ") :].partition(":")[0].strip()[:40]
        record = dict(STATISTICS.findall(segment + " "))
        if len(record) < 4:
            continue
        _require_order(record)
        length, listed = LENGTH.search(segment), POSITIONS.search(segment)
        account = Account(
            accepted=float_of(record, "acc tokens"),
            drafted=float_of(record, "gen tokens"),
            cycles=float_of(record, "gen drafts"),
            length=printed(length[1]) if length else None,
            positions=printed_list(listed[1]) if listed else None,
            whole=False,  # positions that no draft reached are not printed
        )
        calls = CALLS.search(segment)
        count = _Count(account, float(calls[1]) if calls else None)
        known = lives.setdefault(name, [])
        if known:
            if account.continues(known[-1].account):
                known.pop()
            else:
                falls += 1
        known.append(count)
    if not lives:
        return None
    tally = Tally("llama.cpp's lines of 'statistics'", "llama.cpp")
    counts = [count for known in lives.values() for count in known]
    for count in counts:
        tally.add(count.account)
    total = tally.total()
    assert total is not None
    cautions = list(total.cautions)
    if falls:
        cautions.append(
            f"The counts since the start of the server fell {falls} times: it was restarted, or "
            "several servers are mixed. The counts of all are added."
        )
    cautions += _plain_passes(counts, total)
    return replace(total, cautions=tuple(cautions))


def _plain_passes(counts: list[_Count], total: Counters) -> list[str]:
    """A sentence on passes without a draft, as lookup drafters have."""
    calls = [count.calls for count in counts]
    if len(counts) != 1 or calls[0] is None or not total.cycles or total.accepted is None:
        return []
    if calls[0] <= 1.05 * total.cycles:
        return []
    mean = (calls[0] + total.accepted) / calls[0]
    return [
        f"Only {total.cycles:g} of {calls[0]:g} passes had a draft. The tokens per cycle are of "
        f"those; over all passes they are {mean:.3f}."
    ]


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

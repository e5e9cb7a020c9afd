"""The log of llama.cpp's server: a line for each request, and statistics since the start.

Sources: tools/server (`print_timing`) and common/speculative.cpp (`statistics`, counts since the
start, one line per drafter).
"""

import re
from dataclasses import dataclass, field, replace

from specsim.checks import SpecsimError
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed, printed_list
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import DIGITS, NUMBER, segments

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
LENGTH = re.compile(  # a length that is cut lacks its second decimal
    rf"mean (?:acceptance length|acc len)\s{{0,4}}=\s{{0,4}}({DIGITS}\.\d\d)(?![\w.])"
)
POSITIONS = re.compile(
    r"(?:acceptance rate per position|acc rate/pos)\s{0,4}=\s{0,4}\(([\d., ]{0,20000})\)"
)
STATISTICS = re.compile(
    rf"#(gen drafts|acc drafts|gen tokens|acc tokens)\s{{0,4}}=\s{{0,20}}(-?{DIGITS})(?=[,\s])"
)
COUNTED = ("gen drafts", "acc drafts", "gen tokens", "acc tokens")
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


@dataclass(slots=True)
class _Lives:
    """The last line of one drafter in each life of its server, and the counts in it."""

    lines: list[str] = field(default_factory=list)
    counts: tuple[float, ...] = ()
    falls: int = 0

    def see(self, line: str, counts: tuple[float, ...]) -> None:
        """Take the next line; counts that cannot continue those before begin another life."""
        if self.lines:
            drafts, _, drafted, accepted = (
                now - before for now, before in zip(counts, self.counts, strict=True)
            )
            if min(drafts, drafted, accepted) >= 0 and max(drafts, accepted) <= drafted:
                self.lines.pop()
            else:
                self.falls += 1
        self.lines.append(line)
        self.counts = counts


def _statistics(text: str) -> Counters | None:
    """The last line of each drafter, in each life of the server."""
    drafters: dict[str, _Lives] = {}
    for segment, _ in segments("statistics ", text):
        counts = _counts(segment)
        if counts is not None:
            name = segment[len("statistics ") :].partition(":")[0].strip()[:40]
            drafters.setdefault(name, _Lives()).see(segment, counts)
    if not drafters:
        return None
    tally = Tally("llama.cpp's lines of 'statistics'", "llama.cpp")
    lines = [line for lives in drafters.values() for line in lives.lines]
    for line in lines:
        tally.add(_account(line))
    total = tally.total()
    assert total is not None
    cautions = list(total.cautions)
    falls = sum(lives.falls for lives in drafters.values())
    if falls:
        cautions.append(
            f"The counts since the start of the server fell {falls} times: it was restarted, or "
            "several servers are mixed. The counts of all are added."
        )
    if len(lines) == 1:
        cautions += _plain_passes(lines[0], total)
    return replace(total, cautions=tuple(cautions))


def _counts(line: str) -> tuple[float, ...] | None:
    """Drafts, accepted drafts, drafted and accepted tokens of a line; None if one is missing.

    Raises SpecsimError if they cannot be: a draft has a token at least, and so has an accepted one.
    """
    record = dict(STATISTICS.findall(line + " "))
    if len(record) < len(COUNTED):
        return None
    drafts, accepted_drafts, drafted, accepted = counts = tuple(float(record[n]) for n in COUNTED)
    if not 0 <= accepted_drafts <= min(drafts, accepted) or not max(drafts, accepted) <= drafted:
        raise SpecsimError(
            f"llama.cpp's statistics contradict themselves or are cut: {drafts:g} drafts of "
            f"{drafted:g} tokens, {accepted_drafts:g} accepted drafts of {accepted:g} tokens"
        )
    return counts


def _account(line: str) -> Account:
    drafts, _, drafted, accepted = _counts(line) or (0.0, 0.0, 0.0, 0.0)
    length, listed = LENGTH.search(line), POSITIONS.search(line)
    return Account(
        accepted=accepted,
        drafted=drafted,
        cycles=drafts,
        length=printed(length[1]) if length else None,
        positions=printed_list(listed[1]) if listed else None,
        whole=False,  # positions that no draft reached are not printed
    )


def _plain_passes(line: str, total: Counters) -> list[str]:
    """A sentence on passes without a draft, as lookup drafters have."""
    found = CALLS.search(line)
    if found is None or not total.cycles or total.accepted is None:
        return []
    calls = float(found[1])
    if calls <= 1.05 * total.cycles:
        return []
    return [
        f"Only {total.cycles:g} of {calls:g} passes had a draft. The tokens per cycle are of "
        f"those; over all passes they are {(calls + total.accepted) / calls:.3f}."
    ]

"""Finds numbers in text, in time proportional to the text, one very long line included.

Digits are bounded, and nothing that repeats can begin again inside what it has read.
"""

import re
from collections.abc import Iterator

from specsim.checks.limits import require_limit

DIGITS = r"\d{1,40}"
NUMBER = rf"[-+]?(?:{DIGITS}(?:\.\d{{0,40}})?|\.{DIGITS})(?:[eE][-+]?\d{{1,3}})?"
LONGEST = 30_000  # characters of one account: 1,024 positions of a list are fewer


def segments(mark: str, text: str) -> Iterator[tuple[str, str]]:
    """What follows each `mark` up to the end of its line or the next mark, and what precedes it in
    its line, shortened. A line may hold several marks."""
    count, line_end = 0, -1
    at = text.find(mark)
    while at >= 0:
        count += 1
        if count % 10_000 == 0:
            require_limit("log_lines", count, f"the lines with {mark!r}")
        if line_end < at:
            line_end = text.find("\n", at)
            line_end = len(text) if line_end < 0 else line_end
        following = text.find(mark, at + len(mark))
        end = line_end if following < 0 else min(line_end, following)
        before = text[max(0, at - 300) : at]
        yield text[at : min(end, at + LONGEST)], before[before.rfind("\n") + 1 :]
        at = following


def groups(pattern: "re.Pattern[str]", text: str) -> Iterator[dict[str, str]]:
    """The (name, value) pairs that `pattern` finds, as records: a name that comes again begins a
    new one. The first group of the pattern is the name, the second the value."""
    record: dict[str, str] = {}
    count = 0
    for match in pattern.finditer(text):
        name, value = match[1], match[2]
        if name in record:
            count += 1
            if count % 10_000 == 0:
                require_limit("log_lines", count, "the records in the log")
            yield record
            record = {}
        record[name] = value
    if record:
        yield record


def float_of(record: dict[str, str], *names: str) -> float | None:
    """The number under the first of `names` that the record has."""
    for name in names:
        if name in record:
            return float(record[name])
    return None

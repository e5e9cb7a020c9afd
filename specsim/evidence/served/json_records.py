"""Numbers under known names in JSON, wherever it stands in a text, whole or cut, nested or not."""

import re
from collections.abc import Iterable, Iterator

from specsim.checks.limits import require_limit
from specsim.evidence.served.accounts import Printed
from specsim.evidence.served.text import DIGITS, NUMBER, groups

COUNT = re.compile(rf"\s{{0,200}}{DIGITS}(?:\.0)?\s{{0,200}}")
PAIR = re.compile(rf"[\"']?(\d{{1,9}})[\"']?\s{{0,9}}:\s{{0,9}}({DIGITS})(?=[\s,}}])")


def records_of(text: str, names: Iterable[str]) -> Iterator[dict[str, str]]:
    """The numbers, flags, lists and flat objects under `names` in `text`, as records: a name that
    comes again begins a new one. Python's spelling, with single quotes, is read as well."""
    if not any(name in text for name in names):
        return
    # a number that is cut is not followed by what follows a number in JSON
    value = rf"{NUMBER}(?=\s{{0,200}}[,}}\])])|\{{[^{{}}]{{0,20000}}\}}|\[[^\[\]]{{0,20000}}\]"
    pattern = re.compile(rf"[\"']({'|'.join(names)})[\"']\s{{0,8}}:\s{{0,8}}({value})")
    yield from groups(pattern, text)


def histogram_of(
    text: str | None, cycles: float | None, accepted: float | None
) -> tuple[tuple[Printed, ...] | None, str]:
    """Rates per position from a histogram of cycles by their accepted drafts, and a doubt.

    `text` is a JSON list or object of counts; its sums must be `cycles` and `accepted`, else it is
    left out and the doubt says so.
    """
    if text is None:
        return None, ""
    if text[0] == "[":
        counts = text.strip("[] \n").split(",")
        by_accepted = {k: float(n) for k, n in enumerate(counts) if COUNT.fullmatch(n)}
        if len(by_accepted) != len(counts):
            return None, ""
    else:
        by_accepted = {int(k): float(n) for k, n in PAIR.findall(text)}
        if len(by_accepted) != text.count(":"):
            return None, ""
    if not by_accepted:
        return None, ""
    most = max(by_accepted)
    require_limit("gamma", most, "a position in the histogram")
    all_cycles = sum(by_accepted.values())
    all_accepted = sum(place * count for place, count in by_accepted.items())
    if not 0 < all_cycles < 1e15:
        return None, ""
    for name, told, summed in (
        ("cycles", cycles, all_cycles), ("accepted drafts", accepted, all_accepted),
    ):  # fmt: skip
        if told is not None and abs(told - summed) > 0.5:
            return None, (
                f"The histogram counts {summed:g} {name}, the record itself {told:g}: the "
                "histogram is left out."
            )
    reached, above = [], 0.0
    for k in range(most, 0, -1):
        above += by_accepted.get(k, 0.0)
        reached.append(Printed(above / all_cycles, 0.0))
    return tuple(reversed(reached)) or None, ""

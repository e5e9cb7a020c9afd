"""Text for people in lines of at most 80 columns."""

import re
import textwrap
from collections.abc import Iterable, Iterator

WIDTH = 80
INDENT = "  "


def wrap(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """The lines of a sentence: `first` begins the first one, `rest` the others. A word that is
    longer than a line stays whole, since names are copied."""
    rest = " " * len(first) if rest is None else rest
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]  # fmt: skip


def fit(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they are where they fit, else wrapped, the further ones further in; those of an item
    of a list stand under its first word."""
    for line in lines:
        for part in line.split("\n"):
            if len(part) <= WIDTH:
                yield part
                continue
            start = re.match(r"\s*(?:- )?", part)
            margin = start[0] if start else ""
            further = "" if margin.endswith("- ") else INDENT
            yield from wrap(part.strip().removeprefix("- "), margin, " " * len(margin) + further)

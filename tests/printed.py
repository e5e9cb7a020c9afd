"""What the text of every command is checked for: lines of at most 80 columns, what it is about in
the first of them, and no number without its unit.

A test that has a command's text calls `check`. Most commands are run by `test_commands.py`, which
proves that none is missing; `ELSEWHERE` says which tests have the text of the others at hand.
"""

import re

WIDTH = 80  # said here once more: the commands' own constant may be wrong
ELSEWHERE = {  # the file of tests that checks a command's text
    "demo": "test_demo.py", "validate": "test_validation.py",
    "measure-server": "measure_server/test_results.py",
}  # fmt: skip
BEGINS = {  # the first line: what is priced, measured, read or listed
    **dict.fromkeys(("predict", "plan", "rank", "serve-sim", "tune"), r"target {7}\S"),
    **dict.fromkeys(("models", "accelerators", "engines", "methods"), r"name {3,}\S"),
    "acceptance": r"published acceptance of \S",
    "compare": r"\S+: (\d+ points on |vllm bench serve, model |guidellm, model )",
    "demo": r"machine {6}\S", "demo --serve": r"machine {6}\S",
    "diagnose": r"(counters as given|\S+: )", "explore": r"explorer  http://127\.0\.0\.1:\d+/",
    "measure-server": r"http://\S+, (model \S|\d+ requests?\b)",
    "sweep": r"[\d,]+ points of \S+ over \S",
    "validate": r"Plain decoding compared with published rows: ",
}  # fmt: skip
NUMBER = re.compile(r"(?<![\w.])(?<!\w-)\d+\.\d+(?![\w.])(?!-\w)")  # in no name: llama-3.1-8b
JOINED = r"(?:,|and|to|of)"  # several numbers with one name or one unit
UNITS = (
    r"(?:ms|us|ns|s|x|%|[BMT]|MB|GB|GB/s|J|USD|tokens/s|tokens per|tokens|users|sequences"
    r"|requests/s|billion|bits|per drafted token|of a draft step)\b|%"
)
NAMES = re.compile(  # what may stand before a number that has no unit: a ratio, a count, a share
    r"(?:alpha|alpha is|alpha dialled to|gamma|gamma =|batch|context|x|±|->|survival"
    r"|hysteresis|hyst\.|s_\d =|keeps|memory_share =|accepted / drafted|tokens per cycle"
    r"|tokens per cycle of a sequence|output tokens per second"
    r"|predicted there:|there: \d+\.\d+ =|measured tokens per cycle:)$"
)


def check(command: str, text: str) -> None:
    """Assert all three of the text of a command."""
    assert not (found := too_wide(text)), f"too wide: {found}"
    assert re.match(BEGINS[command], text), f"begins with {text[:200]!r}"
    assert not (found := without_unit(prose(text))), f"without a unit: {found}"


def too_wide(text: str) -> list[str]:
    """Lines of more than 80 columns; a single word that is longer cannot be broken."""
    return [line for line in text.splitlines() if len(line) > WIDTH and len(line.split()) > 2]


def prose(text: str) -> str:
    """A text without the rows of its tables, whose titles have the units, and without what a model
    wrote and what is to be pasted."""
    lines = []
    for line in text.splitlines():
        quoted = line.startswith(("  |", "  -", "#", "vllm serve", "python -m", "trtllm-serve"))
        if not quoted and not is_row(line):
            lines.append(line)
    return "\n".join(lines)


def is_row(line: str) -> bool:
    """Whether a line is one of a table: two decimal numbers, and wide gaps between the cells."""
    return len(re.findall(r"\d+\.\d+", line)) > 1 and re.search(r"\d%?x? {2,}\S", line) is not None


def without_unit(text: str) -> list[str]:
    """Decimal numbers of prose that neither a unit follows nor a name precedes."""
    flat = re.sub(r"\([^()]*\)", "", " ".join(text.split()))
    bare = []
    for found in NUMBER.finditer(flat):
        after, before = flat[found.end() :], flat[: found.start()].rstrip()
        after = re.sub(rf"^(?:\s*{JOINED}\s*\d+\.\d+)+", "", after)  # the last has the unit,
        before = re.sub(
            rf"(?:\d+\.\d+\s*{JOINED}\s*)+$", "", f"{before} "
        ).rstrip()  # the first a name
        if not NAMES.search(before) and not re.match(rf"\s*(?:{UNITS})", after):
            bare.append(flat[max(0, found.start() - 20) : found.end() + 12])
    return bare

"""ARCHITECTURE.md says where each of the twenty traps is shown: the tests it names exist, and those
that belong nowhere else are here. And the decoder's path stays as long as one reads in an evening.
"""

import io
import re
import tokenize
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reference import DraftModel, NoDrafter, speculate
from reference.cache import KVCache

ROOT = Path(__file__).parents[2]
PATH = (
    "transformer",
    "attention",
    "cache",
    "sampling",
    "verification",
    "cycle",
    "decoding",
    "statistics",
)
PROMPT = [9, 9, 30, 2, 55]


def trap_rows() -> dict[int, list[str]]:
    """The cells of each row of the table, by its number."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {int(row[0]): row for row in rows if row and row[0].isdigit() and len(row) == 3}


def names_of(cell: str) -> list[str]:
    return re.findall(r"`(test_\w+)`", cell)


def known_tests() -> dict[str, str]:
    """The source of every test, by name."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        for match in re.finditer(
            r"((?:^@.*\n(?:^[ )].*\n)*)*)^def (test_\w+)", source, re.MULTILINE
        ):
            found[match[2]] = match[1]
    return found


def test_every_trap_has_a_row_that_names_tests_that_exist() -> None:
    rows, there = trap_rows(), known_tests()
    assert sorted(rows) == [*range(1, 21)]
    for number, row in rows.items():
        names = names_of(row[2])
        assert names or number in (13, 14, 18), f"trap {number} names no test"
        assert set(names) <= set(there), f"trap {number}: {set(names) - set(there)} not found"
    for number in (15, 16):
        marked = [name for name in names_of(rows[number][2]) if "mark.gpu" in there[name]]
        assert marked, f"trap {number} has no test marked gpu"


def test_a_practice_is_named_by_a_bench_that_exists() -> None:
    for number in (13, 14, 18):
        benches = re.findall(r"`(bench/\w+\.py)`", trap_rows()[number][2])
        assert benches, f"trap {number} names no bench"
        assert all((ROOT / bench).exists() for bench in benches)


# Traps 6, 10: what the target reads


@pytest.fixture
def passes(tiny, perturbed, monkeypatch):
    """A pair, and the tokens of every pass of its target."""
    target = tiny(2)
    read: list[list[int]] = []
    hidden = target.hidden

    def recorded(tokens: Tensor, *arguments) -> Tensor:
        read.append(tokens[0].tolist())
        return hidden(tokens, *arguments)

    monkeypatch.setattr(target, "hidden", recorded)
    return target, perturbed(target, 0.15), read


@pytest.mark.parametrize("gamma", [0, 1, 4])
def test_a_cycle_is_one_pass_that_begins_with_the_pending_token(passes, gamma: int) -> None:
    target, draft, read = passes
    drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
    run = speculate(target, drafter, PROMPT, 20)
    prefilled, *cycles = read
    assert prefilled == PROMPT[:-1], "the last token of the prompt stays pending"
    assert len(cycles) == len(run.statistics.cycle_times)
    text, at = PROMPT + run.tokens, len(PROMPT) - 1
    for tokens, accepted in zip(cycles, run.statistics.accepted_counts, strict=False):
        assert len(tokens) == gamma + 1
        assert tokens[: accepted + 1] == text[at : at + accepted + 1]
        at += accepted + 1


# Trap 17: what attention reads


def test_slots_beyond_the_window_are_not_read(tiny) -> None:
    target = tiny(2)
    cache = KVCache(target.architecture, 1, 64, target.dtype)
    tokens, places = torch.tensor([PROMPT]), torch.arange(len(PROMPT))[None]
    expected = target(tokens, places, cache, 8)
    for tensor in (*cache.keys, *cache.values):
        tensor[:, 8:] = torch.nan
    assert torch.equal(target(tokens, places, cache, 8), expected)
    assert target(tokens, places, cache, 9).isnan().any(), "a slot that is read is multiplied"


# Its length


def lines_of_code(path: Path) -> int:
    """Lines that hold code: not blank, no comment, no docstring."""
    source = path.read_text(encoding="utf-8")
    lines, fresh = set(), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            fresh = True
        elif token.type == tokenize.STRING and fresh:
            fresh = False  # a statement that is a string and nothing else
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
            fresh = False
    return len(lines)


def test_the_decoders_path_is_a_thousand_lines_at_most() -> None:
    files = [ROOT / "reference" / f"{name}.py" for name in PATH]
    files.append(ROOT / "reference" / "drafters" / "draft_model.py")
    counts = {path.stem: lines_of_code(path) for path in files}
    assert 500 < sum(counts.values()) <= 1000, counts
    assert max(len(line) for path in files for line in path.read_text().splitlines()) <= 100


def test_the_loop_fits_on_a_screen() -> None:
    source = (ROOT / "reference" / "decoding.py").read_text(encoding="utf-8")
    body = source[source.index("def cycles(") :]
    body = body[: body.index("\n\n\ndef ")]
    assert len(body.splitlines()) <= 50
    assert "for stage in stages" in body

"""docs/traps.md says where each of the twenty traps is shown: the tests it names exist, and those
that belong nowhere else are here. And the decoder's path stays as long as one reads in an evening.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reference import DraftModel, NoDrafter, load_pair, speculate
from reference.cache import KVCache

ROOT = Path(__file__).parents[2]
PROMPT = [9, 9, 30, 2, 55]


def trap_rows() -> dict[int, list[str]]:
    """The cells of each row of the table, by its number."""
    text = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
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


# The length of the path


LINES_OF_THE_PATH = 1300
LINES_OF_THE_LOOP = 45


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


def files_entered(run: Callable[[], object], *folders: Path) -> dict[str, int]:
    """Every file below `folders` of which `run` enters a function, with its lines of code."""
    entered: set[str] = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: entered.add(frame.f_code.co_filename))
    try:
        run()
    finally:
        sys.setprofile(before)
    files = [Path(name) for name in sorted(entered)]
    return {
        str(file): lines_of_code(file)
        for file in files
        if any(file.is_relative_to(folder) for folder in folders)
    }


def require_short(counts: dict[str, int]) -> None:
    total = sum(counts.values())
    assert total <= LINES_OF_THE_PATH, f"the path is {total} lines of code: {counts}"


def loop_of(source: str) -> int:
    """The lines of `Decoder.cycles`, from its `def` to its end."""
    (loop,) = (
        function
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Decoder"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "cycles"
    )
    assert loop.end_lineno is not None
    return loop.end_lineno - loop.lineno + 1


@pytest.fixture(scope="module")
def runs() -> list[Callable[[], object]]:
    """Chain speculation by the bundled pair on a CPU, greedy and sampled through every filter."""
    target, draft, tokenizer = load_pair("bundled")
    prompt, drafter = tokenizer.encode("def fibonacci(n):"), DraftModel(draft, 4)
    every = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "rule": "token"}
    return [
        lambda: speculate(target, drafter, prompt, 12),
        lambda: speculate(target, drafter, prompt, 12, repetition_penalty=1.2, **every),
    ]


def test_the_path_of_chain_speculation_is_short(runs) -> None:
    """All files that a run enters are counted, whether or not they are thought of as the path."""
    counts = files_entered(lambda: [run() for run in runs], ROOT / "reference", ROOT / "specsim")
    print(f"\n{len(counts)} files, {sum(counts.values())} lines of code: {counts}")
    names = {Path(name).stem for name in counts}
    assert {"decoding", "cycle", "verification", "transformer", "draft_model", "noise"} <= names
    assert not names & {"tree_cycle", "trees", "tree_verification"}, "trees are on the chain's path"
    families = {"layers", "delta_net", "details", "families", "rotary", "mtp", "refusals"}
    assert not names & families, "other families are on Llama's path"
    require_short(counts)
    for name in counts:
        assert max(map(len, Path(name).read_text(encoding="utf-8").splitlines())) <= 100


def test_a_long_path_is_caught(tmp_path: Path, runs) -> None:
    """One more file is entered, which has as many lines as were allowed."""
    long = tmp_path / "long.py"
    lines = [f"    x = {n}" for n in range(LINES_OF_THE_PATH)]
    long.write_text("\n".join(["def planted():", '    """No code."""', *lines]))
    loaded: dict = {}
    exec(compile(long.read_text(), str(long), "exec"), loaded)
    counts = files_entered(lambda: (runs[0](), loaded["planted"]()), ROOT / "reference", tmp_path)
    assert counts[str(long)] == LINES_OF_THE_PATH + 1
    with pytest.raises(AssertionError, match="lines of code"):
        require_short(counts)


def test_the_loop_fits_on_a_screen() -> None:
    source = (ROOT / "reference" / "decoding.py").read_text(encoding="utf-8")
    assert 20 < loop_of(source) <= LINES_OF_THE_LOOP
    assert "for stage in stages" in source


def test_a_long_loop_is_caught() -> None:
    planted = "\n".join(f"        x = {n}" for n in range(LINES_OF_THE_LOOP))
    loop = loop_of(f"class Decoder:\n    def cycles(self):\n{planted}\n")
    assert loop == LINES_OF_THE_LOOP + 1

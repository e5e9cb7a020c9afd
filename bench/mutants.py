"""Plant defects at random and see whether the tests catch them.

    python bench/mutants.py --count 100 --seed 1             plant 100 defects, one at a time
    python bench/mutants.py --count 100 --seed 1 --part 1/2  half of them; the other half is 2/2

A defect is one change of one line of specsim/ or reference/: a comparison, an arithmetic operator,
a number off by one, a dropped term, two swapped arguments, another axis, another unit, a negated
condition. For each, the test files that may see it run, the likeliest first, until one fails. What
survives is printed with its change; the seed and the number plant it again (`--only 17`). A
survivor changes nothing, or names a missing test, or is seen by a file that was left out: then
`--only 17 --files 0` says which.

A test file that passes also tells which functions it enters. Later defects in other functions are
not shown to it, so that its turn costs nothing. The draw is even over files, then over the places
of a file. Docstrings, annotations and messages are no places. The copy is a temporary folder; the
working copy is not touched.
"""

import argparse
import ast
import contextlib
import importlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("specsim", "reference")
SLOW = ("test_demo", "test_notebooks", "test_training", "test_graphs")
BROKEN = 99  # exit status of a fork that could not run its tests
ENTERED = "entered.txt"  # what the last tests entered
LIMIT_S = 900  # for one test file under one defect: longer counts as caught (an endless loop)

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


SYMMETRIC = {"min", "max", "minimum", "maximum", "add", "multiply", "gcd"}
SYMMETRIC |= {"allclose", "isclose", "array_equal"}  # but for rounding


# ------------------------------------------------------------------------------ the defects


@dataclass(frozen=True, slots=True)
class Defect:
    """One change: `after` replaces the expression from (line, column) to its end."""

    file: str
    function: str
    line: int
    start: int  # offsets in the text of the file
    end: int
    kind: str
    before: str
    after: str

    def __str__(self) -> str:
        return (
            f"{self.file}:{self.line} {self.function}  {self.kind}: {self.before} -> {self.after}"
        )


class Places(ast.NodeVisitor):
    """Every place of a file where a defect can be planted."""

    def __init__(self, file: str, text: str):
        self.file, self.text, self.found = file, text, list[Defect]()
        self.lines = [0]
        for line in text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line.encode()))
        self.names: list[str] = []
        self.visit(ast.parse(text))

    def plant(self, node: ast.expr, kind: str, after: str) -> None:
        start = self.lines[node.lineno - 1] + node.col_offset
        end = self.lines[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = self.text.encode()[start:end].decode()
        function = ".".join(self.names) or "<module>"
        self.found.append(
            Defect(self.file, function, node.lineno, start, end, kind, before, f"({after})")
        )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names.append(node.name)
        for each in node.body:  # neither decorators nor annotations nor defaults
            self.visit(each)
        self.names.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.names.append(node.name)
        for each in node.body:
            self.visit(each)
        self.names.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is no place."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nor is any text."""

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not isinstance(node.test, ast.Compare):
            self.plant(node.test, "negated condition", f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            changed = ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
            self.plant(node, "comparison", ast.unparse(changed))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.plant(node, "and/or", ast.unparse(ast.BoolOp(other, node.values)))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(n, ast.JoinedStr) or is_text(n) for n in ast.walk(node))
        if type(node.op) in ARITHMETIC and not texts:
            changed = ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
            self.plant(node, "arithmetic", ast.unparse(changed))
            if isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
                self.plant(node, "dropped term", ast.unparse(node.left))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        plain = [a for a in node.args if isinstance(a, ast.Name | ast.Attribute)]
        if len(node.args) >= 2 and plain[:2] == node.args[:2]:
            args = [node.args[1], node.args[0], *node.args[2:]]
            name = ast.unparse(node.func).rpartition(".")[2]
            same = ast.unparse(args[0]) == ast.unparse(args[1])
            if not same and name != "isinstance" and name not in SYMMETRIC:
                changed = ast.Call(node.func, args, node.keywords)
                self.plant(node, "swapped arguments", ast.unparse(changed))
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg in ("axis", "dim"):
            self.plant(node.value, "wrong axis", "0" if ast.unparse(node.value) != "0" else "-1")
        else:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return
        if isinstance(node.value, int):
            self.plant(node, "off by one", str(node.value + 1))
        elif node.value != 0:
            self.plant(node, "wrong unit", repr(node.value * 1000.0))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def drawn(count: int, seed: int) -> list[Defect]:
    """`count` defects: a file at random, then a place of it; none twice."""
    dice = random.Random(seed)
    places = {}
    for path in sources():
        name = str(path.relative_to(ROOT))
        if found := Places(name, path.read_text(encoding="utf-8")).found:
            places[name] = found
    chosen: dict[str, Defect] = {}
    while len(chosen) < count:
        defect = dice.choice(places[dice.choice(sorted(places))])
        chosen[str(defect)] = defect
    return list(chosen.values())


# ---------------------------------------------------------------------- which tests may see it


def tests_of(defect: Defect) -> list[str]:
    """The test files that may see a defect, the likeliest first: those named as the changed file or
    a folder of it, those that import its module, those that import its package. Files that take
    minutes come last, unless they are named as the changed file or import it."""
    parts = Path(defect.file).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    names = {part.rstrip("s") for part in parts[1:] if part != "__init__"}
    found = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if "browser" in file.parts:
            continue
        text = file.read_text(encoding="utf-8")
        named = any(name and name in file.stem for name in names)
        about = parts[0] == "reference"
        mine = ("reference" in file.parts) == about
        score = 4 * named + 3 * (module in text) + 2 * (module.rpartition(".")[0] in text) + mine
        if score:
            name = str(file.relative_to(ROOT))
            found.append((file.stem in SLOW and score < 4, -score, file.stat().st_size, name))
    return [name for *_, name in sorted(found)]


# ------------------------------------------------------------------------------ planting them


Reach = dict[str, set[str]]  # "file function" of all that a test file enters, where it is known


def caught_by(defect: Defect, room: Path, most: int | None, reach: Reach) -> str | None:
    """The test that fails with the defect planted in the copy `room`; None if it survives the
    likeliest `most` test files (None: all that may see it). What passes is added to `reach`."""
    file = room / defect.file
    whole = file.read_bytes()
    file.write_bytes(whole[: defect.start] + defect.after.encode() + whole[defect.end :])
    try:
        place = f"{defect.file} {defect.function}"
        may_see = (test for test in tests_of(defect) if place in reach.get(test, {place}))
        for test in itertools.islice(may_see, most):
            status, told = run_tests(test, room, watched=test not in reach)
            if status == str(BROKEN):
                raise RuntimeError(f"the tests did not start: {told}")
            if status == "no end":
                return f"{test} (no end)"
            if status not in ("0", "5"):  # 5: every test of the file was deselected
                failed = [
                    line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))
                ]
                return failed[0].split(" - ")[0] if failed else f"{test} (exit {status})"
            if test not in reach and "subprocess" not in (room / test).read_text(encoding="utf-8"):
                reach[test] = set((room / ENTERED).read_text(encoding="utf-8").splitlines())
    finally:
        file.write_bytes(whole)
    return None


def run_tests(test: str, room: Path, watched: bool = True) -> tuple[str, str]:
    """The exit status of one test file in `room`, until its first failure, and what was printed.

    The tests run in a fork of this process, which has imported the slow libraries already and
    nothing of the project. Those that are `watched` take twice as long.
    """
    log, entered = room / "out.log", set[CodeType]()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        entered.add(frame.f_code)

    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(room)
            sys.path.insert(0, str(room))
            os.environ["PYTHONPATH"] = str(room)
            arguments = [
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow and not browser and not servers",
            ]
            if watched:
                threading.settrace(enter)
                sys.settrace(enter)
            status = int(pytest.main([*arguments, test]))
            sys.settrace(None)
            tell_entered(entered, room)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)  # nothing of the parent's is cleaned up here
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status)), log.read_text(errors="replace")
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "no end", ""


def tell_entered(entered: set[CodeType], room: Path) -> None:
    """Write the functions of the project among `entered`, named as those of defects are."""
    places = {
        f"{Path(code.co_filename).relative_to(room)} {code.co_qualname.replace('.<locals>', '')}"
        for code in entered.copy()  # other threads may still run
        if Path(code.co_filename).is_relative_to(room)
    }
    (room / ENTERED).write_text("\n".join(places), encoding="utf-8")


def preload() -> None:
    """Import what is slow to import, once."""
    for name in ("numpy", "torch", "scipy.stats", "matplotlib.pyplot", "ipywidgets",
                 "tokenizers", "safetensors.torch"):  # fmt: skip
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", metavar="N,N,…", help="plant these alone")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th, from the K-th on")
    parser.add_argument("--files", type=int, default=20, help="how many test files, 0: all")
    parser.add_argument("--list", action="store_true", help="print the defects and stop")
    options = parser.parse_args()
    defects = list(enumerate(drawn(options.count, options.seed)))
    part, parts = map(int, options.part.split("/"))
    if options.only:
        defects = [defects[int(number)] for number in options.only.split(",")]
    defects = defects[part - 1 :: parts]
    print(f"seed {options.seed}: {len(defects)} defects", flush=True)
    if options.list:
        for number, defect in defects:
            print(f"{number:4d}  {defect}")
        return
    preload()
    survivors, reach = [], Reach()
    above = Path(tempfile.mkdtemp(prefix="mutants-"))  # not one that a fork removes when it ends
    try:
        room = above / "project"
        left = shutil.ignore_patterns(".venv", ".git", "out", "__pycache__")
        shutil.copytree(ROOT, room, ignore=left)
        for number, defect in defects:
            test = caught_by(defect, room, options.files or None, reach)
            told = f"caught by {test}" if test else "SURVIVED"
            print(f"{number:4d}  {defect}\n      {told}", flush=True)
            if test is None:
                survivors.append((number, defect))
    finally:
        shutil.rmtree(above)
    print(f"\ncaught {len(defects) - len(survivors)} of {len(defects)}; survivors:")
    for number, defect in survivors:
        print(f"{number:4d}  {defect}")


if __name__ == "__main__":
    main()

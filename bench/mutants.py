"""Plant defects at random and see whether the tests catch them.

    python bench/mutants.py --map                which tests enter which functions: once, 20 minutes
    python bench/mutants.py --count 100 --seed 1 plant 100 defects, one at a time, in a copy

A defect is one change of one line of specsim/ or reference/: a comparison, an arithmetic operator,
a number off by one, a dropped term, two swapped arguments, another axis, another unit, a negated
condition. For each, the test files that enter the changed function run until one fails. What
survives is printed with its change; the seed and the number plant it again (`--only 17`). A
survivor changes nothing, or names a missing test.

The draw is even over files, then over the places of a file. Docstrings, annotations and messages
are no places. The copy is a temporary folder; the working copy is not touched.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("specsim", "reference")
MAP = ROOT / "out" / "mutants" / "tests-by-function.json"
LIMIT_S = 900  # for one test file under one defect: longer counts as caught (an endless loop)

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


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
            if ast.unparse(args[0]) != ast.unparse(args[1]) and "isinstance" not in ast.unparse(
                node.func
            ):
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
        else:
            factor = 1000.0 if node.value != 0 else 1.0
            self.plant(node, "wrong unit", repr(node.value * factor))


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


# ------------------------------------------------------------------- which tests enter what

TRACER = """
import json, sys, threading
from pathlib import Path
ROOT = {root!r}
entered = {{}}
now = ["<collection>"]

def trace(frame, event, arg):
    code = frame.f_code
    name = code.co_filename
    if name.startswith(ROOT):
        entered.setdefault(now[0], set()).add((name[len(ROOT) + 1:], code.co_qualname))
    return None

def pytest_runtest_protocol(item, nextitem):
    now[0] = str(item.path)[len(ROOT) + 1:]

def pytest_configure(config):
    sys.settrace(trace)
    threading.settrace(trace)

def pytest_unconfigure(config):
    sys.settrace(None)
    out = {{test: sorted(map(list, where)) for test, where in entered.items()}}
    Path({out!r}).write_text(json.dumps(out))
"""


def map_tests(files: list[Path]) -> None:
    """Run every test file by itself and write which functions it enters, and how long it took."""
    known = json.loads(MAP.read_text()) if MAP.exists() else {}
    MAP.parent.mkdir(parents=True, exist_ok=True)

    def one(file: Path) -> None:
        name = str(file.relative_to(ROOT))
        with tempfile.TemporaryDirectory() as room:
            out = Path(room) / "entered.json"
            plugin = Path(room) / "which_functions.py"
            plugin.write_text(TRACER.format(root=str(ROOT), out=str(out)))
            began = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-q", "-p", "which_functions", name]
            subprocess.run(
                [*command, "-m", "not slow and not browser", "-p", "no:cacheprovider"],
                cwd=ROOT, env=environment(ROOT, room), capture_output=True, check=False,
            )  # fmt: skip
            entered = json.loads(out.read_text()) if out.exists() else {}
        took = time.monotonic() - began
        where = {tuple(each) for parts in entered.values() for each in parts}
        known[name] = {"seconds": took, "functions": sorted(map(list, where))}
        MAP.write_text(json.dumps(known))
        print(f"{took:7.1f} s  {len(where):5d} functions  {name}", flush=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, files))


def tests_of(defect: Defect, known: dict) -> list[str]:
    """The test files that enter the changed function, the quickest first. What is changed outside a
    function concerns every test file that enters the module."""
    function = defect.function

    def enters(where: list[list[str]]) -> bool:
        return any(
            file == defect.file
            and (function == "<module>" or name.replace(".<locals>", "").startswith(function))
            for file, name in where
        )

    found = [(told["seconds"], name) for name, told in known.items() if enters(told["functions"])]
    return [name for _, name in sorted(found)]


# ------------------------------------------------------------------------------ planting them


def environment(root: Path, *others: str) -> dict[str, str]:
    path = os.pathsep.join([str(root), *others])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def caught_by(defect: Defect, room: Path, known: dict) -> str | None:
    """The test that fails with the defect planted in the copy `room`; None if it survives."""
    file = room / defect.file
    whole = file.read_bytes()
    file.write_bytes(whole[: defect.start] + defect.after.encode() + whole[defect.end :])
    try:
        for test in tests_of(defect, known):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
            try:
                done = subprocess.run(
                    [*command, "-m", "not slow and not browser"], cwd=room,
                    env=environment(room), capture_output=True, text=True, timeout=LIMIT_S,
                    check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"{test} (no end)"
            if done.returncode not in (0, 5):  # 5: every test of the file was deselected
                failed = [
                    line
                    for line in done.stdout.splitlines()
                    if line.startswith(("FAILED", "ERROR"))
                ]
                return failed[0].split(" - ")[0] if failed else f"{test} (exit {done.returncode})"
    finally:
        file.write_bytes(whole)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", nargs="*", metavar="TEST", help="map all test files, or these")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", type=int, metavar="N", help="plant this one alone")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the defects and stop")
    options = parser.parse_args()
    if options.map is not None:
        every = sorted((ROOT / "tests").rglob("test_*.py"))
        map_tests(
            [ROOT / name for name in options.map] or [f for f in every if "browser" not in f.parts]
        )
        return
    defects = list(enumerate(drawn(options.count, options.seed)))
    if options.only is not None:
        defects = [defects[options.only]]
    print(f"seed {options.seed}: {len(defects)} defects", flush=True)
    if options.list:
        for number, defect in defects:
            print(f"{number:4d}  {defect}")
        return
    known = json.loads(MAP.read_text())
    survivors = []
    with tempfile.TemporaryDirectory() as above:
        rooms = [Path(above) / str(n) for n in range(options.processes)]
        for room in rooms:
            shutil.copytree(
                ROOT, room, ignore=shutil.ignore_patterns(".venv", ".git", "out", "__pycache__")
            )

        def plant(numbered: tuple[int, Defect]) -> tuple[int, Defect, str | None]:
            room = rooms.pop()
            try:
                return *numbered, caught_by(numbered[1], room, known)
            finally:
                rooms.append(room)

        with ThreadPoolExecutor(options.processes) as pool:
            for number, defect, test in pool.map(plant, defects):
                print(f"{number:4d}  {'caught  ' if test else 'SURVIVED'}  {defect}", flush=True)
                print(f"                by {test}" if test else "", flush=True)
                if test is None:
                    survivors.append((number, defect))
    print(f"\ncaught {len(defects) - len(survivors)} of {len(defects)}; survivors:")
    for number, defect in survivors:
        print(f"{number:4d}  {defect}")


if __name__ == "__main__":
    main()

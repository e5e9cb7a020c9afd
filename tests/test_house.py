"""The arrows of the house point downwards, and `import specsim` stays light.

The imports are read from the source with `ast`, wherever they stand (inside a function too), so a
forbidden arrow is found without running anything. Every rule is also shown a small planted house
that breaks it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the cellar up. A module may import from any lower floor; on its own floor too, as long as
# the arrows make no circle. "specsim" is the façade, specsim/__init__.py.
FLOORS = (
    ("catalog",),
    ("architecture",),
    ("system", "work"),
    ("cost", "calibration", "measurement"),
    (
        "acceptance",
        "memory",
        "passes",
        "ledger",
        "prefill",
        "trees",
        "drafting",
        "latency",
        "requests",
        "leviathan",
    ),
    ("prediction", "speculation"),
    ("sweep", "planning", "economics", "counters", "diagnosis", "validation", "comparison"),
    ("specsim",),
    ("course", "explorer", "figures", "quiz", "tables"),
    ("cli", "demo", "__main__"),
)
FLOOR_OF = {module: height for height, floor in enumerate(FLOORS) for module in floor}

# What the decoder may share with the model: nouns. A verb would let it lean on what it is to test.
NOUNS = {
    "catalog", "architecture", "system", "work", "acceptance", "measurement", "calibration"
}  # fmt: skip
CALLS_THE_REFERENCE = {"cli", "demo"}
# These may load what they draw with at once; in return everyone else loads them late.
DRAWS = {"explorer", "figures"}

HEAVY = {
    "torch",
    "matplotlib",
    "PIL",
    "tokenizers",
    "safetensors",
    "transformers",
    "huggingface_hub",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One name imported: the room `importer` names `package_named`.`room_named`."""

    importer: str
    package_named: str
    room_named: str
    at_once: bool  # runs when the importer is imported: not in a function or under TYPE_CHECKING
    place: str


def imports_of(root: Path, package: str) -> Iterator[Import]:
    """Every import in root/package; a file in a sub-folder belongs to the folder's room."""
    for path in sorted((root / package).rglob("*.py")):
        dotted = path.relative_to(root).with_suffix("").parts
        inside = dotted[:-1]  # the package that relative imports start from
        room = package if dotted == (package, "__init__") else dotted[1]
        for node, at_once in statements(ast.parse(path.read_text(encoding="utf-8"))):
            for name in names_imported(node, inside):
                yield Import(
                    importer=room,
                    package_named=name[0],
                    room_named=room_of(root, name),
                    at_once=at_once,
                    place=f"{path.relative_to(root)}:{node.lineno}",
                )


def statements(node: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Import statements below `node`, each with whether it runs at import time."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_once
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, at_once=False)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from statements(ast.Module(child.body, []), at_once=False)
            yield from statements(ast.Module(child.orelse, []), at_once)
        else:
            yield from statements(child, at_once)


def names_imported(node: ast.stmt, inside: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The dotted names of one statement, made absolute: `from ..x import y` is (…, x, y)."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = inside[: len(inside) - node.level + 1] if node.level else ()
        source = start + tuple((node.module or "").split(".") if node.module else ())
        yield from ((*source, alias.name) for alias in node.names)


def room_of(root: Path, name: tuple[str, ...]) -> str:
    """`cost` for specsim.cost and all below it; the package's own name for a name of its façade."""
    package, *rest = name
    if not rest:
        return package
    is_module = (root / package / rest[0]).is_dir() or (root / package / f"{rest[0]}.py").is_file()
    return rest[0] if is_module or rest[0] in FLOOR_OF else package


def complaints(root: Path) -> list[str]:
    """What in root/specsim and root/reference breaks the house's rules, a sentence each."""
    specsim = list(imports_of(root, "specsim"))
    files = (path.relative_to(root / "specsim") for path in (root / "specsim").rglob("*.py"))
    rooms = {path.parts[0].removesuffix(".py") for path in files} - {"__init__"}
    found = [
        f"specsim/{room} is on no floor: add it to FLOORS in tests/test_house.py"
        for room in sorted(rooms - FLOOR_OF.keys())
    ]
    found += filter(None, map(complaint_about_specsim, specsim))
    found += filter(None, map(complaint_about_reference, imports_of(root, "reference")))
    return found + circles(specsim)


def complaint_about_specsim(found: Import) -> str | None:
    importer, named = found.importer, found.room_named
    if found.package_named == "specsim":
        if importer not in FLOOR_OF or named not in FLOOR_OF or importer == named:
            return None
        if FLOOR_OF[named] > FLOOR_OF[importer]:
            return f"{found.place}: {importer} imports {named}, which is above it"
        if found.at_once and named in DRAWS and importer not in DRAWS:
            return f"{found.place}: {importer} imports {named} at once; do it where it is called"
        return None
    if found.package_named == "reference":
        if importer not in CALLS_THE_REFERENCE:
            return f"{found.place}: only {sorted(CALLS_THE_REFERENCE)} may call the reference"
        if found.at_once:
            return f"{found.place}: {importer} imports reference at once; do it where it is called"
        return None
    light = found.package_named in {"numpy", *sys.stdlib_module_names}
    if found.at_once and not light and importer not in DRAWS:
        return (
            f"{found.place}: {importer} imports {found.package_named} at once; "
            "specsim loads NumPy alone"
        )
    if found.at_once and importer in DRAWS and found.package_named == "torch":
        return f"{found.place}: {importer} draws, and needs no torch for it"
    return None


def complaint_about_reference(found: Import) -> str | None:
    if found.package_named == "specsim" and found.room_named not in NOUNS:
        return (
            f"{found.place}: reference imports {found.room_named}, "
            f"and may import only specsim's nouns {sorted(NOUNS)}"
        )
    return None


def circles(imports: list[Import]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for found in imports:
        if found.package_named == "specsim" and found.importer != found.room_named:
            graph.setdefault(found.importer, set()).add(found.room_named)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists each node as a predecessor of the next, so the arrows run backwards.
        return ["a circle of imports: " + " → ".join(reversed(error.args[1]))]
    return []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def test_every_arrow_points_downwards() -> None:
    assert list(imports_of(ROOT, "specsim")), "no imports found: is the checker looking elsewhere?"
    assert complaints(ROOT) == []


@pytest.mark.parametrize(
    "source",
    [
        "import specsim.speculation",
        "import numpy, specsim.speculation as s",
        "from specsim import speculation",
        "from specsim.speculation import predict",
        "from . import speculation",
        "from .speculation import predict",
        "def f():\n    from specsim import speculation",
        "if True:\n    import specsim.speculation",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import specsim.speculation",
    ],
)
def test_an_upward_import_is_caught_however_it_is_written(tmp_path: Path, source: str) -> None:
    plant(tmp_path, {"specsim/cost.py": source, "specsim/speculation.py": ""})
    (sentence,) = complaints(tmp_path)
    assert "cost imports speculation, which is above it" in sentence
    assert sentence.startswith("specsim/cost.py:")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"specsim/catalog/rows.py": "from ..cost import price"}, "catalog imports cost"),
        ({"specsim/catalog/__init__.py": "from .. import cost"}, "catalog imports cost"),
        (
            {"specsim/cost.py": "from specsim import predict"},
            "cost imports specsim, which is above",
        ),
        ({"specsim/helpers.py": ""}, "specsim/helpers is on no floor"),
        ({"specsim/odd/inner.py": ""}, "specsim/odd is on no floor"),
        (
            {"specsim/work.py": "import specsim.system", "specsim/system.py": "from . import work"},
            "a circle of imports",
        ),
        ({"specsim/cost.py": "import torch"}, "cost imports torch at once"),
        ({"specsim/__init__.py": "import torch.nn as nn"}, "specsim imports torch at once"),
        ({"specsim/cost.py": "class A:\n    from scipy import stats"}, "imports scipy at once"),
        ({"specsim/figures/style.py": "import torch"}, "figures draws, and needs no torch"),
        ({"specsim/cli.py": "from specsim import figures"}, "cli imports figures at once"),
        ({"specsim/cli.py": "import reference"}, "cli imports reference at once"),
        ({"specsim/quiz.py": "def f():\n    import reference"}, "may call the reference"),
        ({"reference/probes.py": "from specsim.cost import price"}, "reference imports cost"),
        ({"reference/drafters/head.py": "import specsim.drafting"}, "reference imports drafting"),
        ({"reference/decoding.py": "import specsim"}, "reference imports specsim"),
        ({"reference/decoding.py": "from specsim import predict"}, "reference imports specsim"),
    ],
)
def test_each_other_rule_can_fail(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    plant(tmp_path, files)
    (sentence,) = complaints(tmp_path)
    assert expected in sentence


def test_what_the_rules_allow_passes(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "specsim/__init__.py": "from .speculation import predict\nfrom specsim import work",
            "specsim/speculation.py": "import json\nimport numpy as np\nfrom .cost import price",
            "specsim/cost.py": "from specsim import system, work\nfrom .catalog import rows",
            "specsim/catalog/__init__.py": "from .rows import ROWS",
            "specsim/planning.py": "from specsim.sweep import grid",
            "specsim/figures/style.py": "import matplotlib\nimport specsim",
            "specsim/explorer.py": "import ipywidgets\nfrom specsim import figures",
            "specsim/demo.py": "def main():\n    import reference\n    from . import figures",
            "reference/decoding.py": "import torch\nfrom specsim.architecture import Architecture",
            "reference/suites.py": "from specsim import measurement",
        },
    )
    assert complaints(tmp_path) == []


def heavy_modules_loaded_by_specsim(where: Path) -> set[str]:
    """What of HEAVY a fresh interpreter in the folder `where` holds after `import specsim`."""
    code = "import sys, specsim; print(specsim.__file__, *sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True
    )
    origin, *modules = run.stdout.splitlines()
    assert Path(origin).is_relative_to(where), f"imported another specsim: {origin}"
    return HEAVY & set(modules)


def test_import_specsim_is_light() -> None:
    assert heavy_modules_loaded_by_specsim(ROOT) == set()


def test_the_lightness_test_can_fail(tmp_path: Path) -> None:
    plant(tmp_path, {"torch.py": "", "specsim/__init__.py": "import torch"})
    assert heavy_modules_loaded_by_specsim(tmp_path) == {"torch"}

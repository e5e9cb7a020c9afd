"""The structure that ARCHITECTURE.md draws, read from the source with `ast`, and shown to be able
to fail.

| rule | why |
|---|---|
| an import points to a lower layer | a prediction cannot lean on what is built on it |
| no two files import each other, even through others | a reader can start at the bottom |
| no public function has its module's name | `import a.b as x` gives the module that it names |
| no two public classes of a package share a name | one word, one thing |
| every public name has a docstring | the reader needs no other file to use it |
| `reference` imports types of `specsim` alone | what is measured cannot lean on what predicts it |
| `import specsim` loads NumPy alone | a notebook without PyTorch can predict |

Imports count wherever they stand: also inside a function, or under TYPE_CHECKING.
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
PACKAGES = ("specsim", "reference")

# From the bottom up: a module may import from any layer before its own. "specsim" is the package's
# own __init__.py, which exports what most users need.
LAYERS = (
    "checks", "catalog", "architecture", "operators", "hardware", "cost", "acceptance", "drafting",
    "prediction", "speculation",
    "planning", "evidence", "serving",
    "specsim", "scenario",
    "figures", "explorer", "course", "demo", "cli", "__main__",
)  # fmt: skip

# What the decoder may share with the model: types. A decision would let it lean on what it tests.
SHARED = (
    "specsim.checks", "specsim.catalog", "specsim.architecture", "specsim.operators",
    "specsim.hardware", "specsim.acceptance",
    "specsim.evidence.measurement", "specsim.evidence.calibration",
)  # fmt: skip
CALLS_THE_REFERENCE = {"cli", "demo"}
# These may load what they draw with at once; all others load it where it is called.
DRAWS = {"explorer", "figures"}
HEAVY = {
    "torch", "matplotlib", "PIL", "tokenizers", "safetensors", "transformers", "huggingface_hub",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the module `importer` names `named`, both as dotted names of files."""

    importer: str
    named: str
    at_once: bool  # runs when the importer is imported: not in a function or under TYPE_CHECKING
    place: str


def sources(root: Path, package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name; a folder's __init__.py has the folder's."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / package).rglob("*.py"))
    }


def imports_of(root: Path, package: str) -> Iterator[Import]:
    """Every import in root/package."""
    modules = {name for each in PACKAGES for name in sources(root, each)}
    for importer, path in sources(root, package).items():
        dotted = path.relative_to(root).with_suffix("").parts
        for node, at_once in statements(ast.parse(path.read_text(encoding="utf-8"))):
            for parts in names_imported(node, dotted[:-1]):
                name = ".".join(parts)
                if isinstance(node, ast.ImportFrom) and name not in modules:
                    name = ".".join(parts[:-1])  # a name that is defined in the module
                place = f"{path.relative_to(root)}:{node.lineno}"
                yield Import(importer, name, at_once, place)


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


def layer_of(module: str) -> str:
    """`cost` for specsim.cost and all below it; "specsim" for the package's own __init__.py."""
    return module.split(".")[1] if "." in module else module


def complaints(root: Path) -> list[str]:
    """What in root/specsim and root/reference breaks the rules, a sentence each."""
    specsim, reference = (list(imports_of(root, package)) for package in PACKAGES)
    found = [
        f"{module} is in no layer: add it to LAYERS in tests/test_layers.py"
        for module in sources(root, "specsim")
        if layer_of(module) not in LAYERS
    ]
    found += filter(None, map(complaint_about_specsim, specsim))
    found += filter(None, map(complaint_about_reference, reference))
    for package, imports in zip(PACKAGES, (specsim, reference), strict=True):
        found += circles(imports, package)
        found += complaints_about_names(root, package)
    return found


def complaint_about_specsim(found: Import) -> str | None:
    package = found.named.split(".")[0]
    importer, named = layer_of(found.importer), layer_of(found.named)
    if package == "specsim":
        if importer not in LAYERS or named not in LAYERS or importer == named:
            return None
        if LAYERS.index(named) > LAYERS.index(importer):
            return f"{found.place}: {importer} imports {named}, which is above it"
        if found.at_once and named in DRAWS and importer not in DRAWS:
            return f"{found.place}: {importer} imports {named} at once; do it where it is called"
        return None
    if package == "reference":
        if importer not in CALLS_THE_REFERENCE:
            return f"{found.place}: only {sorted(CALLS_THE_REFERENCE)} may call the reference"
        if found.at_once:
            return f"{found.place}: {importer} imports reference at once; do it where it is called"
        return None
    light = package in {"numpy", *sys.stdlib_module_names}
    if found.at_once and not light and importer not in DRAWS:
        return f"{found.place}: {importer} imports {package} at once; specsim loads NumPy alone"
    if found.at_once and importer in DRAWS and package == "torch":
        return f"{found.place}: {importer} draws, and needs no torch for it"
    return None


def complaint_about_reference(found: Import) -> str | None:
    inside = any(found.named == each or found.named.startswith(f"{each}.") for each in SHARED)
    if found.named.split(".")[0] == "specsim" and not inside:
        return f"{found.place}: reference imports {found.named}, which is not one of {SHARED}"
    to_lab = found.named.startswith("reference.lab")
    from_lab = found.importer.startswith("reference.lab")
    # the command line starts the laboratory, where it is called
    started = found.importer == "reference.__main__" and not found.at_once
    if to_lab and not from_lab and not started:
        return f"{found.place}: the decoder imports {found.named}, of the laboratory"
    return None


def circles(imports: list[Import], package: str) -> list[str]:
    graph: dict[str, set[str]] = {}
    for found in imports:
        if found.named.split(".")[0] == package and found.importer != found.named:
            graph.setdefault(found.importer, set()).add(found.named)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists each node as a predecessor of the next, so the arrows run backwards.
        return ["a circle of imports: " + " → ".join(reversed(error.args[1]))]
    return []


def complaints_about_names(root: Path, package: str) -> Iterator[str]:
    """Functions named as their module, classes defined twice, names without a docstring."""
    classes: dict[str, str] = {}
    for module, path in sources(root, package).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree) and path.name != "__main__.py":
            yield f"{module} has no docstring"
        for name, node in public(tree):
            if isinstance(node, ast.FunctionDef) and name == module.split(".")[-1]:
                yield f"{module}: the function {name} has the name of its module"
            if isinstance(node, ast.ClassDef) and "." not in name:
                if name in classes:
                    yield f"two public classes are called {name}: {classes[name]} and {module}"
                classes[name] = module
            if not ast.get_docstring(node) and not explained_elsewhere(node):
                yield f"{module}: {name} has no docstring"


def public(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield inside + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{inside}{child.name}.")


def explained_elsewhere(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """A method of few words: its class's docstring, or the protocol's, says what it is."""
    return (
        isinstance(node, ast.FunctionDef)
        and bool(node.args.args[:1])
        and (node.args.args[0].arg in ("self", "cls"))
    )


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source if source.startswith('"""') else f'"""D."""\n{source}')


def test_the_structure_is_the_one_that_is_drawn() -> None:
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
        "def _f():\n    from specsim import speculation",
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
        (
            {"specsim/catalog/__init__.py": "from .. import cost", "specsim/cost.py": ""},
            "imports cost",
        ),
        (
            {"specsim/cost.py": "from specsim import predict"},
            "cost imports specsim, which is above",
        ),
        ({"specsim/helpers.py": ""}, "specsim.helpers is in no layer"),
        ({"specsim/odd/inner.py": ""}, "specsim.odd.inner is in no layer"),
        ({"specsim/cost.py": "import torch"}, "cost imports torch at once"),
        ({"specsim/__init__.py": "import torch.nn as nn"}, "specsim imports torch at once"),
        ({"specsim/cost.py": "class _A:\n    from scipy import stats"}, "imports scipy at once"),
        ({"specsim/figures/style.py": "import torch"}, "figures draws, and needs no torch"),
        (
            {"specsim/cli.py": "from specsim import figures", "specsim/figures.py": ""},
            "cli imports figures at once",
        ),
        ({"specsim/cli.py": "import reference"}, "cli imports reference at once"),
        ({"specsim/course.py": "def _f():\n    import reference"}, "may call the reference"),
        ({"reference/probes.py": "from specsim.cost import price"}, "imports specsim.cost"),
        ({"reference/drafters/head.py": "import specsim.drafting"}, "imports specsim.drafting"),
        ({"reference/decoding.py": "import specsim"}, "reference imports specsim"),
        ({"reference/decoding.py": "from specsim import predict"}, "reference imports specsim"),
        (
            {
                "reference/decoding.py": "from reference.lab import probes",
                "reference/lab/probes.py": "",
            },
            "the decoder imports reference.lab.probes",
        ),
    ],
)
def test_each_other_import_rule_can_fail(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    plant(tmp_path, files)
    (sentence,) = complaints(tmp_path)
    assert expected in sentence


@pytest.mark.parametrize("package", ["specsim/cost", "reference/lab"])
def test_a_circle_between_two_files_of_one_folder_is_caught(tmp_path: Path, package: str) -> None:
    name = package.replace("/", ".")
    plant(
        tmp_path,
        {
            f"{package}/first.py": f"from {name}.second import x",
            f"{package}/second.py": f"from {name} import third",
            f"{package}/third.py": f"def _f():\n    import {name}.first",
        },
    )
    (sentence,) = complaints(tmp_path)
    assert sentence.startswith("a circle of imports: ")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"specsim/cost/price.py": 'def price():\n    """P."""'},
            "price has the name of its module",
        ),
        ({"specsim/cost.py": 'def cost():\n    """P."""'}, "cost has the name of its module"),
        (
            {
                "specsim/cost.py": 'class Pass:\n    """P."""',
                "specsim/operators/scenario.py": 'class Pass:\n    """P."""',
            },
            "two public classes are called Pass: specsim.cost and specsim.operators.scenario",
        ),
        (
            {"specsim/cost.py": "def price(x):\n    return x"},
            "specsim.cost: price has no docstring",
        ),
        ({"reference/cycle.py": "class Cycle:\n    x = 1"}, "Cycle has no docstring"),
    ],
)
def test_each_rule_of_names_can_fail(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    plant(tmp_path, files)
    (sentence,) = complaints(tmp_path)
    assert expected in sentence


def test_what_the_rules_allow_passes(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "specsim/__init__.py": "from .speculation import predict\nfrom specsim import cost",
            "specsim/speculation.py": "import json\nimport numpy as np\nfrom .cost import price",
            "specsim/cost.py": "from specsim import hardware\nfrom .catalog import rows",
            "specsim/hardware.py": "",
            "specsim/catalog/__init__.py": "from .rows import ROWS",
            "specsim/catalog/rows.py": "",
            "specsim/planning.py": "from specsim.speculation import predict",
            "specsim/figures/style.py": "import matplotlib\nimport specsim",
            "specsim/explorer.py": "import ipywidgets\nfrom specsim import figures",
            "specsim/demo/decoding.py": 'def main():\n    """M."""\n    import reference',
            "specsim/evidence/measurement.py": "",
            "reference/decoding.py": "import torch\nfrom specsim.architecture import Architecture",
            "reference/lab/suites.py": "from specsim.evidence import measurement",
            "reference/__main__.py": "def _measure():\n    from reference.lab import suites",
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

"""Which names the API reference shows, read from the source with `ast`: nothing is imported.

A page for each package (a layer of `specsim`, or `reference`). It shows first the names that the
package exports, then every other public function and class, module by module. A name is public if
it does not begin with an underscore, and neither does its module. So a new module is on its page
without any list to keep; `tests/test_website.py` compares the pages with the packages themselves.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In the order of ARCHITECTURE.md, what most users need first.
PAGES = (
    "specsim",
    "specsim.planning", "specsim.serving", "specsim.evidence", "specsim.acceptance",
    "specsim.drafting", "specsim.architecture", "specsim.operators", "specsim.hardware",
    "specsim.cost", "specsim.catalog", "specsim.scenario", "specsim.figures", "specsim.explorer",
    "specsim.course", "specsim.checks", "specsim.demo", "specsim.cli",
    "reference", "reference.drafters", "reference.lab",
)  # fmt: skip
FIRST = ("predict", "model", "system", "method", "load_pair", "generate", "speculate", "DraftModel")


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: a module, and the names of it that this part shows."""

    module: str
    members: tuple[str, ...]
    exported: bool = False  # what the package offers under its own name


def sections(page: str) -> list[Section]:
    """The parts of the page `page`: what the package exports, then its modules."""
    modules = {name: path for name, path in modules_of(page) if page_of(name) == page}
    exports = exported(page)
    found = [Section(page, tuple(sorted(exports, key=place)), exported=True)]
    shown = set(exports.values())
    for name, path in modules.items():
        members = [each for each in defined(path) if f"{name}.{each}" not in shown]
        if members and not (name == page and set(members) <= set(exports)):
            found.append(Section(name, tuple(members)))
    return [section for section in found if section.members or section.exported]


def place(name: str) -> tuple[bool, int, bool, str]:
    """Where a name stands among those of a package: what most users need, functions, classes,
    constants."""
    order = FIRST.index(name) if name in FIRST else len(FIRST)
    return name.isupper(), order, name[0].isupper(), name


def names(page: str) -> Iterator[str]:
    """The dotted names that the page shows, as they are imported."""
    for section in sections(page):
        yield from (f"{section.module}.{member}" for member in section.members)


def modules_of(package: str) -> list[tuple[str, Path]]:
    """The public modules of a package, itself included, by dotted name."""
    folder = ROOT / Path(*package.split("."))
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def page_of(module: str) -> str:
    """The page that shows a module: that of the innermost package that has one."""
    return max((p for p in PAGES if f"{module}.".startswith(f"{p}.")), key=len)


def defined(path: Path) -> list[str]:
    """The public functions and classes that a file defines, in its order."""
    return [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]


def exported(package: str) -> dict[str, str]:
    """What a package's __init__ exports: each name, and where it is defined.

    `specsim` and `reference` import a name when it is first used; their imports stand under
    TYPE_CHECKING. A package without `__all__` exports what it imports from its own modules under
    TYPE_CHECKING, or nothing."""
    path = ROOT / Path(*package.split(".")) / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places, listed = {}, None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            for alias in node.names:
                places[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = list(ast.literal_eval(node.value))
    if listed is None:
        checked = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n)]
        lazy = [n for each in checked for n in each.body if isinstance(n, ast.ImportFrom)]
        listed = [alias.asname or alias.name for node in lazy for alias in node.names]
        listed = [name for name in listed if name in places]
    return {name: places.get(name, f"{package}.{name}") for name in listed}


def markdown(page: str) -> str:
    """The page for MkDocs: directives that mkdocstrings replaces by the docstrings."""
    lines = [f"# {page}", ""]
    for section in sections(page):
        if not section.exported:
            lines += [f"## Module `{section.module}`", ""]
        lines += [f"::: {section.module}", "    options:", "      show_root_heading: false"]
        lines += [
            "      show_root_toc_entry: false",
            f"      heading_level: {2 if section.exported else 3}",
        ]
        lines += ["      members:"] + [f"        - {member}" for member in section.members]
        lines += [] if section.members else ["        []"]
        lines.append("")
    return "\n".join(lines)

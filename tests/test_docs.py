"""README.md fits on one page; links, names and commands in the documentation exist.

The checks are shown to be able to fail.
"""

import json
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from reference.__main__ import build_parser as decoder_parser
from specsim.checks import SpecsimError
from specsim.cli import build_parser

ROOT = Path(__file__).parent.parent
README_LIMIT = 8192  # bytes: what a visitor reads
PAGES = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md",
    "reference/pair/*.md", "notebooks/*.ipynb",
)  # fmt: skip

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`((?:specsim|reference)(?:\.\w+)+)[`(]")
COMMAND = re.compile(r"^(?:\$ )?specsim +(.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    return [page for pattern in PAGES for page in sorted(root.glob(pattern))]


def broken_links(root: Path) -> list[str]:
    """Every link of root's pages to a file, a folder or a heading that does not exist."""
    found = []
    for page in pages(root):
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue  # another site: not asked here
            name, _, heading = link.partition("#")
            place = page.parent / name if name else page
            if not place.resolve().is_relative_to(root.resolve()) or not place.exists():
                found.append(f"{page.relative_to(root)}: {link}")
            elif heading and place.suffix == ".md" and heading not in anchors(place):
                found.append(f"{page.relative_to(root)}: {link} (no such heading)")
    return found


def links(page: Path) -> list[str]:
    """The links of a page; of a notebook, those of its text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return LINK.findall(FENCED.sub("", text))


def anchors(page: Path) -> set[str]:
    """The names that a code host gives to the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_readme_fits_on_one_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_LIMIT


def test_every_link_leads_to_something_in_the_repository() -> None:
    assert broken_links(ROOT) == []


def reached(root: Path) -> set[Path]:
    """The files that a reader can come to from README.md by links alone."""
    found: set[Path] = set()
    ahead = [root / "README.md"]
    while ahead:
        page = ahead.pop()
        found.add(page)
        if page.suffix == ".md":
            places = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
            ahead += [place for place in places - found if place.is_file()]
    return found


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in reached(ROOT)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# A page, with `code`\n[up](../README.md)\n")
    (tmp_path / "README.md").write_text(
        "[there](docs/page.md#a-page-with-code) [elsewhere](https://example.org/none)\n"
        "[moved](docs/moved.md) ![lost](docs/lost.png) [cut](docs/page.md#other)\n"
        "[outside](../..)\n"
        "```\n[not a link](in/code)\n```\n"
    )
    (tmp_path / "docs" / "course").mkdir()
    (tmp_path / "docs" / "course" / "deep.md").write_text("[up](../page.md) [gone](gone.md)\n")
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "markdown", "source": ["[there](../docs/page.md) ", "[gone](gone.png)"]}
    (tmp_path / "notebooks" / "one.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert broken_links(tmp_path) == [
        "README.md: docs/moved.md",
        "README.md: docs/lost.png",
        "README.md: docs/page.md#other (no such heading)",
        "README.md: ../..",
        "docs/course/deep.md: gone.md",
        "notebooks/one.ipynb: gone.png",
    ]
    assert tmp_path / "docs" / "page.md" in reached(tmp_path)
    assert tmp_path / "docs" / "course" / "deep.md" not in reached(tmp_path)


def text_of_all_pages() -> str:
    """Of every page but the notebooks, whose code has tests of its own."""
    texts = [page for page in pages(ROOT) if page.suffix == ".md"]
    return "\n".join(page.read_text(encoding="utf-8") for page in texts)


def test_every_module_and_function_that_is_named_exists() -> None:
    names = set(NAME.findall(text_of_all_pages()))
    assert "specsim.planning.memory" in names
    assert [name for name in sorted(names) if not exists(name)] == []


def test_a_name_that_does_not_exist_is_found() -> None:
    assert exists("specsim.predict")
    assert not exists("specsim.planning.nothing")


def test_every_command_that_is_shown_parses() -> None:
    blocks = "\n".join(FENCED.findall(text_of_all_pages()))
    commands = [shlex.split(line, comments=True) for line in COMMAND.findall(blocks)]
    assert len(commands) > 5
    for command in commands:
        build_parser(command).parse_args(command)


def test_every_command_of_the_decoder_that_is_shown_parses() -> None:
    blocks = "\n".join(FENCED.findall(text_of_all_pages()))
    commands = re.findall(r"^python -m reference +(.*)$", blocks, re.MULTILINE)
    assert any(command.startswith("serve") for command in commands)
    for command in commands:
        decoder_parser().parse_args(shlex.split(command, comments=True))


def test_a_command_with_an_unknown_option_is_refused() -> None:
    command = ["predict", "--target", "llama-3.1-8b", "--acceptance", "0.8"]
    with pytest.raises((SystemExit, SpecsimError)):
        build_parser(command).parse_args(command)

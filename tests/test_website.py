"""What the site is made of, without building it: the API reference, the navigation, the metadata.

`make site` builds it, and website/check.py then follows every link. Each check is shown to be able
to fail.
"""

import importlib
import inspect
import json
import pkgutil
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import reference
import specsim

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "website"))

import api  # noqa: E402
import check  # noqa: E402

api.defined, api.exported = cache(api.defined), cache(api.exported)  # each file is parsed once
NAV_PAGE = re.compile(r"^ +- (?:.*: )?(\S+\.md)$", re.MULTILINE)


def nav() -> list[str]:
    """The pages that the site's navigation names, in its order."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return NAV_PAGE.findall(text[text.index("\nnav:") :])


def made() -> set[str]:
    """The pages of the site that are no file of docs/."""
    courses = {f"course/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    project = {
        f"project/{name}.md" for name in ("architecture", "contributing", "changelog", "pair")
    }
    return courses | project | {f"api/{page}.md" for page in api.PAGES}


def public(package: str) -> set[str]:
    """Public functions and classes of a package's modules, asked of Python itself."""
    found = set()
    module = importlib.import_module(package)
    walked = pkgutil.walk_packages(module.__path__, f"{package}.")
    names = [package, *(info.name for info in walked if "._" not in info.name)]
    for name in names:
        if name.endswith("__main__"):
            continue
        here = importlib.import_module(name)
        for each, value in vars(here).items():
            defined = inspect.isfunction(value) or inspect.isclass(value)
            if defined and not each.startswith("_") and value.__module__ == name:
                found.add(f"{name}.{value.__qualname__}")
    return found


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """Every name of the API reference, and where the exported ones are defined."""
    found = {name for page in api.PAGES for name in api.names(page)}
    return found | {place for page in api.PAGES for place in api.exported(page).values()}


def test_what_the_packages_export_is_in_the_api_reference(shown: set[str]) -> None:
    assert {f"specsim.{name}" for name in specsim.__all__} <= shown
    assert {f"reference.{n}" for names in reference.PLACES.values() for n in names} <= shown
    for page in api.PAGES:
        exports = getattr(importlib.import_module(page), "__all__", ())
        assert {f"{page}.{name}" for name in exports} <= shown, page


@pytest.mark.parametrize("package", ["specsim.acceptance", "specsim.planning", "specsim.serving"])
def test_every_public_function_and_class_is_in_the_api_reference(
    package: str, shown: set[str]
) -> None:
    assert public(package) - shown == set()


def test_a_name_that_is_left_out_is_found(shown: set[str]) -> None:
    assert public("specsim.cost") - (shown - {"specsim.cost.roofline.Term"}) == {
        "specsim.cost.roofline.Term"
    }


def test_no_function_or_class_has_the_dotted_name_of_a_module() -> None:
    """Of two things with one name the reference would show one."""
    modules = {name for package in ("specsim", "reference") for name, _ in api.modules_of(package)}
    assert {name for page in api.PAGES for name in api.names(page)} & modules == set()


def test_every_package_has_a_page_or_is_on_one() -> None:
    packages = {f"specsim.{path.parent.name}" for path in ROOT.glob("specsim/*/__init__.py")}
    assert packages <= set(api.PAGES)
    assert api.page_of("specsim.acceptance.traces") == "specsim.acceptance"
    assert api.page_of("specsim.speculation") == "specsim"


def test_the_navigation_names_pages_that_exist_once() -> None:
    pages = nav()
    assert len(pages) == len(set(pages)) > 30
    assert [p for p in pages if not (ROOT / "docs" / p).is_file() and p not in made()] == []


def test_the_navigation_has_everything_that_the_site_makes() -> None:
    """Pages of docs/ that it does not name are put into it by website/hooks.py."""
    assert made() - set(nav()) == set()


def test_the_version_and_the_licence_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert project["version"] == specsim.__version__
    assert f"\nversion: {specsim.__version__}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    assert f"## [{specsim.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version {specsim.__version__}" in (ROOT / "docs/stability.md").read_text("utf-8")


def test_the_page_of_promises_names_every_command_and_key(capsys) -> None:
    from specsim.cli import COMMANDS, main

    text = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in text and f" {name}`" not in text] == []
    scenario = "--target llama-3.1-8b --draft llama-3.2-1b --accelerator h200-sxm --alpha 0.8"
    assert main(["predict", *scenario.split(), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    promised = re.search(r"The keys of one prediction:\n\n```\n(.*?)```", text, re.DOTALL)
    assert promised is not None
    assert set(promised[1].split()) - set(answer) == set()


def test_the_workflow_runs_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    targets = re.findall(r"run: make ([\w-]+)", workflow)
    assert {"lint", "test"} <= set(targets)
    assert [name for name in targets if f"\n{name}:" not in makefile] == []
    assert [use for use in re.findall(r"uses: (\S+)", workflow) if "@v" not in use] == []


def test_notebooks_for_browsers_need_no_torch() -> None:
    listed = json.loads((ROOT / "website" / "lite.json").read_text(encoding="utf-8"))["notebooks"]
    for stem in listed:
        source = (ROOT / "notebooks" / f"{stem}.py").read_text(encoding="utf-8")
        assert "torch" not in re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE)
        assert "import reference" not in source


def test_a_broken_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "index.html").write_text('<h1 id="title">Title</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="there/">a</a> <a href="there/#title">b</a> <a href="#">c</a>'
        '<a href="https://example.org/x">d</a> <a href="gone/">e</a> <a href="there/#gone">f</a>'
        '<img src="gone.png"> <script src="https://cdn.example.org/x.js"></script>'
    )
    (tmp_path / "site.css").write_text("@import url(https://fonts.example.org/x.css);")
    assert check.broken(tmp_path) == [
        "index.html: fetches https://cdn.example.org/x.js",
        "index.html: gone.png leads to nothing",
        "index.html: gone/ leads to nothing",
        "index.html: there/#gone leads to no such heading",
        "site.css: fetches from another site",
    ]
    assert len(check.unshown(tmp_path)) > 500

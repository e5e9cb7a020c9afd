"""What the site adds to the pages of docs/: MkDocs calls these functions while it builds.

- `on_config`: pages of docs/ that the navigation does not name go into its section "More".
- `on_files`: adds the course (from the stored .ipynb files), the API reference, ARCHITECTURE.md,
  CONTRIBUTING.md, CHANGELOG.md, and the data files that pages link to.
- `on_page_markdown`: links between files of the repository lead to pages of the site.

So a page is written for readers of the repository, and reads the same on the site. Nothing is
fetched: a notebook is shown as it was stored, formulas become MathML.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import api
import course

ROOT = Path(__file__).resolve().parent.parent
# Files of the repository that are pages of the site, beside docs/ and the notebooks.
PROJECT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "reference/pair/README.md": "project/pair.md",
}
LANGUAGES = {".toml": "toml", ".csv": "text", ".json": "json", ".py": "python", ".txt": "text"}
MORE = "More"  # the section of pages that the navigation does not name

FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
ELSEWHERE = re.compile(r"[a-z]+:|#")  # another site, or another heading of the page

# What the site shows: repository path -> path of the page or file in the site's sources.
_shown: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Put the pages that the navigation does not name into a section of their own."""
    _shown.clear()
    folder = Path(config.docs_dir)
    named = set(paths_of(config.nav))
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    missing = [page for page in pages if page not in named]
    if missing:
        config.nav.append({MORE: missing})
    return config


def paths_of(nav: Any) -> list[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [path for part in parts for path in paths_of(part)]


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in docs/."""
    for file in files:
        _shown[f"docs/{file.src_uri}"] = file.src_uri
    added: dict[str, str | bytes] = {}
    for name, page in PROJECT.items():
        _shown[name] = page
        if page != "index.md":
            added[page] = (ROOT / name).read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _shown[f"notebooks/{path.name}"] = f"course/{path.stem}.md"
        text, images = course.page(path)
        added[f"course/{path.stem}.md"] = text
        for name, data in images.items():
            _shown[f"notebooks/{name}"] = f"course/{name}"
            added[f"course/{name}"] = data
        added[f"course/{path.name}"] = path.read_bytes()
    for page in api.PAGES:
        _shown[f"{page.replace('.', '/')}/__init__.py"] = f"api/{page}.md"
        added[f"api/{page}.md"] = api.markdown(page)
    added["assets/site.css"] = (ROOT / "website" / "site.css").read_text(encoding="utf-8")
    for page, content in added.items():
        files.append(File.generated(config, page, content=content))
    origins = {page: name for name, page in _shown.items()}
    for page in [file for file in files if file.is_documentation_page()]:
        if page.src_uri in origins:
            for target in targets(page.content_string, origins[page.src_uri]):
                add_source(files, config, target)
    return files


def targets(markdown: str, origin: str) -> list[str]:
    """The files and folders of the repository that a page links to, by their paths in it."""
    found = [match[2] for match in LINK.finditer(FENCED.sub("", markdown))]
    return [resolved(link, origin)[0] for link in found if not ELSEWHERE.match(link)]


def resolved(link: str, origin: str) -> tuple[str, str]:
    """The repository path that a link of the file `origin` leads to, and the heading."""
    path, _, heading = link.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)), heading


def add_source(files: Files, config: Any, target: str) -> None:
    """Show a data file of the repository as a page, and a folder as the list of its files."""
    path = ROOT / target
    if target in _shown or not path.exists():
        return  # a link that leads nowhere stays as it is, and the build fails on it
    front = "---\nsearch:\n  exclude: true\n---\n\n"
    if path.is_dir():
        _shown[target] = f"source/{target}/index.md"
        inside = sorted(p for p in path.iterdir() if p.suffix in LANGUAGES or p.is_dir())
        inside = [p for p in inside if not p.name.startswith(("_", "."))]
        lines = [f"- [{p.name}]({p.name}{'.md' if p.is_file() else '/index.md'})" for p in inside]
        title = f"{front}# {target}\n\nFiles of this folder of the repository:\n\n"
        content = title + "\n".join(lines)
        files.append(File.generated(config, _shown[target], content=content))
        for each in inside:
            add_source(files, config, each.relative_to(ROOT).as_posix())
        return
    _shown[target] = f"source/{target}.md"
    text = path.read_text(encoding="utf-8")
    fence = f"````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"
    files.append(File.generated(config, _shown[target], content=f"{front}# {target}\n\n{fence}"))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point every link to where the site has what the repository has there."""
    origins = {shown: name for name, shown in _shown.items() if shown != "index.md"}
    origins["index.md"] = "docs/index.md"
    source = page.file.src_uri
    if source not in origins:
        return markdown  # a page that the site makes: its links are the site's already
    here = posixpath.dirname(source)

    def moved(match: re.Match[str]) -> str:
        link = match[2]
        if ELSEWHERE.match(link) or source.startswith("source/"):
            return match[0]
        target, heading = resolved(link, origins[source])
        if target not in _shown:
            raise PluginError(f"{origins[source]}: the link {link} leads to nothing")
        place = posixpath.relpath(_shown[target], here or ".")
        return f"{match[1]}{place}{'#' + heading if heading else ''}{match[3]}"

    pieces, last = [], 0
    for fence in FENCED.finditer(markdown):  # code stays as it is
        pieces += [LINK.sub(moved, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    text = "".join([*pieces, LINK.sub(moved, markdown[last:])])
    if source == "index.md":
        page.meta["hide"] = ["navigation"]  # nothing but this page would stand there
    if origins[source].endswith(".ipynb"):
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n{course.launch(Path(source).stem)}\n{rest}"
    return text

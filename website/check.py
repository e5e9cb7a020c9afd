"""Check a built site: every internal link resolves, nothing is fetched, every public name is shown.

    python website/check.py site

A link may lead to a file, to a folder with an index.html, or to an id in a page. Links to other
sites are not followed; a script, a style sheet, a font or a picture from another site is an error.
"""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))
import api

LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "object": "data"}
APPLICATIONS = ("lite",)  # built by other tools, which load their files by script
STYLED = re.compile(r"""(?:@import\s+|url\()\s*["']?(https?:)?//""")


class Page(HTMLParser):
    """The links and ids of one page, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.loads.append(values.get("href", ""))
        elif tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])


def broken(site: Path) -> list[str]:
    """What is wrong with the links of a site, a line each."""
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.relative_to(site).parts[0] not in APPLICATIONS
    }
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for load in page.loads:
            if urlsplit(load).netloc:
                found.append(f"{name}: fetches {load}")
        for link in sorted(set(page.links + page.loads)):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(site.resolve()):
                found.append(f"{name}: {link} leads to nothing")
            elif target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{name}: {link} leads to no such heading")
    for path in site.rglob("*.css"):
        inside = path.relative_to(site).parts[0] not in APPLICATIONS
        if inside and STYLED.search(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(site)}: fetches from another site")
    return found


def unshown(site: Path) -> list[str]:
    """The public names that have no entry in the API reference."""
    found = []
    for page in api.PAGES:
        path = site / "api" / page / "index.html"
        ids = Page(path.read_text(encoding="utf-8")).ids if path.is_file() else set()
        found += [f"{page}: {name} is not shown" for name in api.names(page) if name not in ids]
    return found


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site.resolve()
    if not (site / "index.html").is_file():
        print(f"{site} is not a built site: make site", file=sys.stderr)
        return 1
    found = broken(site) + unshown(site)
    for line in found:
        print(line, file=sys.stderr)
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"{pages} pages; {len(found) or 'no'} broken links or missing names")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())

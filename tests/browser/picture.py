"""The picture of the explorer in README.md and docs/: its first scenario, in a real browser.

    python tests/browser/picture.py docs/explorer.png

The page goes on below the four figures; the picture ends under them.
"""

import sys
from pathlib import Path

import driving

WIDTH, MARGIN = 1184, 16  # pixels
BOTTOM = """return Math.ceil(Math.max(...[...document.querySelectorAll("img.specsim-picture")]
  .map((picture) => picture.getBoundingClientRect().bottom + scrollY)))"""


def take(path: Path) -> None:
    """Open the explorer and write what it shows. RuntimeError where there is no browser."""
    if (missing := driving.missing()) is not None:
        raise RuntimeError(missing)
    with driving.served() as address, driving.browser(WIDTH, 900, address) as page:
        page.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driving.visit(page, address)
        driving.settle(page)
        driving.resize(page, WIDTH, page.execute_script(BOTTOM) + MARGIN)
        driving.settle(page)
        driving.resize(page, WIDTH, page.execute_script(BOTTOM) + MARGIN)
        driving.settle(page)
        page.save_screenshot(str(path))


if __name__ == "__main__":
    take(Path(sys.argv[1]))

"""The explorer's page, served and driven: what the browser tests and the latency bench share.

Selenium drives Debian's chromium with its own driver; nothing is fetched from anywhere.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
MAIN = ("roofline-bytes-or-arithmetic", "speedup-against")  # the two panels that follow at once
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1", "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows",
    "--disable-features=PaintHolding,BackForwardCache",
)  # fmt: skip
ATTEMPTS, FIRST_PAGE_S = 5, 40


def missing() -> str | None:
    """What there is not of a browser, its driver and Selenium; None where all are there."""
    try:
        import selenium  # noqa: F401
        import voila  # noqa: F401
    except ModuleNotFoundError as absent:
        return f"{absent.name} is not installed: make test-browser"
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)} here: apt-get install chromium-driver" if absent else None


@contextmanager
def served(most_pages: int | None = None) -> Iterator[str]:
    """`specsim explore`, as a person starts it; yields the address that it says, with its token.
    `most_pages` may be open, if not as many as usual."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "specsim", "explore", "--no-browser"]
    if most_pages is not None:
        fewer = f"page.MOST_PAGES = {most_pages}; page.open_page(browser=False)"
        command = [sys.executable, "-c", f"from specsim.explorer import page; {fewer}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        said = process.stdout.readline() if ready else ""
        if "http://127.0.0.1:" not in said:
            raise RuntimeError(f"specsim explore said no address: {said!r}")
        yield next(word for word in said.split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


@contextmanager
def browser(width: int, height: int, address: str) -> Iterator[Any]:
    """A browser of its own that has begun to show `address`, in a page as wide as asked (a window
    is never so narrow)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profiles:
        driver, group = next(each for each in starts(profiles, address) if each is not None)
        try:
            resize(driver, width, height)
            yield driver
        finally:
            os.killpg(group, signal.SIGKILL)


def starts(profiles: str, address: str) -> Iterator[tuple[Any, int] | None]:
    """Browsers, each with its process group, until one shows the page: now and then a chromium in a
    container hangs at the first page it opens, whichever that is, and None is yielded of it."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    for attempt in range(ATTEMPTS):
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profiles}/{attempt}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(shutil.which("chromedriver"), popen_kw={"start_new_session": True})
        driver = webdriver.Chrome(options, service)
        group = service.process.pid
        try:
            driver.set_page_load_timeout(FIRST_PAGE_S)
            driver.get(address)
        except WebDriverException:
            os.killpg(group, signal.SIGKILL)
            yield None
        else:
            driver.set_page_load_timeout(PATIENCE_S)
            yield driver, group
    raise RuntimeError(f"chromium showed no page in {ATTEMPTS} attempts")


def resize(driver: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def visit(driver: Any, address: str) -> float:
    """Open the page; the seconds until its four pictures and its sentence are there."""
    start = time.monotonic()
    driver.get(address)
    until(lambda: len(pictures(driver)) == 4 and all(pictures(driver).values()))
    until(lambda: len(sentence(driver)) > 40)
    taken_s = time.monotonic() - start
    until(lambda: "vllm serve" in text(driver, ".specsim-take"))  # all is at rest
    return taken_s


def until(true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds; AssertionError if it never does."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("what was waited for did not come")


def settle(driver: Any, still_s: float = 0.6) -> None:
    """Wait until nothing has changed for a while."""
    seen, since = None, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = (pictures(driver), sentence(driver), text(driver, ".specsim-take"))
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > still_s

    until(still)


def pictures(driver: Any) -> dict[str, str]:
    """The address of each picture's data, by its panel; a new picture has a new one."""
    script = """return [...document.querySelectorAll("img.specsim-picture")].map((picture) => [
      [...picture.classList].find((name) => name.startsWith("specsim-panel-")).slice(14),
      picture.complete && picture.naturalWidth ? picture.src : ""])"""
    return dict(driver.execute_script(script))


def sentence(driver: Any) -> str:
    return text(driver, ".specsim-sentence")


def text(driver: Any, selector: str) -> str:
    found: str = driver.execute_script(
        "return document.querySelector(arguments[0])?.textContent ?? ''", selector
    )
    return found


def handle(driver: Any, control: str) -> Any:
    """What a keyboard moves of a slider."""
    return driver.find_element("css selector", f".specsim-{control} .noUi-handle")


def complaints(driver: Any) -> list[str]:
    """Errors on the console since last asked."""
    return [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]


def strangers(driver: Any) -> list[str]:
    """What was asked of any machine but this one since last asked."""
    asked = []
    for line in driver.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    here = (
        "http://127.0.0.1:",
        "ws://127.0.0.1:",
        "data:",
        "blob:",
        "chrome",
        "about:",
        "devtools:",
    )
    return [url for url in asked if not url.startswith(here)]


WATCH = """
window.moves = [];
const waited = new Set();
let started = null;
document.addEventListener("keydown", () => {
  started = performance.now();
  window.panels.forEach((picture) => waited.add(picture));
}, true);
window.panels = arguments[0].map((name) => document.querySelector("img.specsim-panel-" + name));
window.panels.forEach((picture) => picture.addEventListener("load", () => {
  waited.delete(picture);
  if (waited.size || started === null) return;
  const begun = started;
  started = null;
  // the frame that shows the pictures is painted once its own callbacks are done
  requestAnimationFrame(() => setTimeout(() => window.moves.push(performance.now() - begun)));
}));
"""


def latencies_ms(driver: Any, controls: tuple[str, ...], moves: int) -> list[float]:
    """From a key on a slider to the frame with both main pictures, milliseconds, measured inside
    the page; one key at a time."""
    from selenium.webdriver.common.keys import Keys

    if not driver.execute_script("return 'moves' in window"):
        driver.execute_script(WATCH, list(MAIN))
    driver.execute_script("window.moves.length = 0")
    for control in controls:
        slider = handle(driver, control)
        for move in range(moves):
            count = driver.execute_script("return window.moves.length")
            slider.send_keys(Keys.ARROW_RIGHT if move % 12 < 6 else Keys.ARROW_LEFT)
            until(
                lambda count=count: driver.execute_script("return window.moves.length") > count, 20
            )
            time.sleep(0.05)
    found: list[float] = driver.execute_script("return window.moves")
    return found

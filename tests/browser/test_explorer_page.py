"""The explorer as a person meets it: `specsim explore` in a real browser, by keyboard and by mouse.

Screenshots and latencies are left in out/browser/. No time is asserted on: a busy machine is not a
defect; `make bench` says how long a move takes.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import driving
import pytest

from specsim.explorer import PRESETS

OUT = driving.ROOT / "out" / "browser"
WIDE, NARROW = (1280, 900), (390, 844)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(driving.missing() is not None, reason=str(driving.missing())),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with driving.served() as found:
        yield found


@pytest.fixture(scope="module")
def window(address: str) -> Iterator[Any]:
    with driving.browser(*WIDE, address) as opened:
        yield opened


@pytest.fixture(scope="module")
def opened(window: Any, address: str) -> Any:
    """One page for all that only moves what is on it."""
    driving.visit(window, address)
    return window


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """The page at its first scenario, wide; no test may leave an error on its console."""
    driving.resize(opened, *WIDE)
    press(opened, PRESETS[0].key)
    driving.settle(opened)
    yield opened
    assert driving.complaints(opened) == []


def press(page: Any, key: str) -> None:
    name = next(each.name for each in PRESETS if each.key == key)
    page.find_element("css selector", f".specsim-preset-{key}").click()
    driving.until(lambda: driving.text(page, ".specsim-story").startswith(name))


def keep(page: Any, name: str) -> Path:
    """A screenshot of the whole page."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    driving.settle(page)
    size = page.execute_script(
        """return [innerWidth, Math.ceil(40 + Math.max(document.documentElement.scrollHeight,
          document.querySelector(".specsim-explorer").getBoundingClientRect().height))]"""
    )
    before = page.execute_script("return [innerWidth, innerHeight]")
    driving.resize(page, size[0], max(size[1], before[1]))
    driving.settle(page)
    page.save_screenshot(str(path))
    driving.resize(page, *before)
    return path


def test_it_opens_without_an_error_and_asks_nobody_else(page: Any, address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    assert driving.strangers(page) == []
    assert len(driving.pictures(page)) == 4
    assert "is 1." in driving.sentence(page)
    assert keep(page, "wide").stat().st_size > 50_000


@pytest.mark.parametrize("control", ["batch", "context", "gamma", "alpha"])
def test_a_key_on_a_slider_changes_pictures_and_sentence(page: Any, control: str) -> None:
    from selenium.webdriver.common.keys import Keys

    pictures, said = driving.pictures(page), driving.sentence(page)
    slider = driving.handle(page, control)
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    driving.until(lambda: driving.sentence(page) != said)
    panel = driving.MAIN[1]
    driving.until(lambda: driving.pictures(page)[panel] not in ("", pictures[panel]))


def test_a_dragged_slider_changes_them_while_it_is_dragged(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    said, panel = driving.sentence(page), driving.MAIN[0]
    before = driving.pictures(page)[panel]
    drag = ActionChains(page).click_and_hold(driving.handle(page, "batch"))
    for _ in range(6):
        drag = drag.move_by_offset(8, 0).pause(0.1)
    drag.perform()
    driving.until(lambda: driving.pictures(page)[panel] not in ("", before))
    ActionChains(page).release().perform()
    driving.until(lambda: driving.sentence(page) != said)


@pytest.mark.parametrize("told", PRESETS, ids=lambda told: told.key)
def test_every_preset_tells_its_story(page: Any, told: Any) -> None:
    press(page, PRESETS[1].key if told == PRESETS[0] else PRESETS[0].key)
    driving.settle(page)  # a slow machine still shows the scenario before
    said = driving.sentence(page)
    press(page, told.key)
    driving.until(lambda: driving.sentence(page) != said)
    assert told.scenario.target in driving.sentence(page)
    link = f"preset={told.key}"
    driving.until(lambda: driving.text(page, ".specsim-take a[href^='?']") == f"?{link}")
    keep(page, f"preset-{told.key}")


def test_a_preset_is_reached_and_chosen_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    body = page.find_element("css selector", "body")
    body.click()
    for _ in range(40):
        page.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.switch_to.active_element
        if "specsim-preset-moe" in (focused.get_attribute("class") or ""):
            break
    focused.send_keys(Keys.ENTER)
    driving.until(lambda: driving.text(page, ".specsim-story").startswith("MoE"))


def test_a_new_target_takes_a_draft_that_fits(page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    def choice(name: str) -> Any:
        return Select(page.find_element("css selector", f".specsim-{name} select"))

    choice("target").select_by_visible_text("qwen3-8b")
    driving.until(lambda: "drafts: it has the tokenizer of qwen3-8b" in driving.sentence(page))
    assert "No prediction" not in driving.sentence(page)
    offered = {option.text.split()[0] for option in choice("draft").options}
    assert "qwen3-0.6b" in offered
    assert "llama-3.2-1b" not in offered
    keep(page, "another-target")
    choice("target").select_by_visible_text("llama-3.1-8b")
    driving.until(lambda: "tokenizer of llama-3.1-8b" in driving.sentence(page))


def test_the_sentence_lies_in_a_live_region_that_stays(page: Any) -> None:
    script = """return [...document.querySelectorAll("[aria-live]")].map((e) =>
      [e.getAttribute("role"), e.closest(".specsim-sentence") !== null])"""
    assert page.execute_script(script) == [["status", True]]
    page.execute_script("document.querySelector('[aria-live]').kept = true")
    press(page, "laptop")
    driving.until(lambda: "qwen3-8b" in driving.sentence(page))
    assert page.execute_script("return document.querySelector('[aria-live]').kept")
    alts = page.execute_script("return [...document.images].map((picture) => picture.alt)")
    assert all(alts)


AXE = driving.ROOT / "out/axe/node_modules/axe-core/axe.min.js"
NO_AXE = "no axe-core here: npm install --prefix out/axe axe-core"


@pytest.mark.skipif(not AXE.exists(), reason=NO_AXE)
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_an_audit_finds_nothing_serious(page: Any, size: tuple[int, int]) -> None:
    driving.resize(page, *size)
    driving.until(lambda: page.execute_script("return innerWidth") == size[0])
    press_button(page, "keep as A")
    press(page, "moe")
    press_button(page, "stream tokens")
    driving.settle(page)
    keep(page, f"compared-{size[0]}")
    page.execute_script(AXE.read_text(encoding="utf-8"))
    found = page.execute_async_script(
        "axe.run(document).then((found) => arguments[0](found.violations))"
    )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"axe-{size[0]}.json").write_text(json.dumps(found, indent=1))
    serious = [
        (each["id"], [node["target"] for node in each["nodes"]][:3])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    press_button(page, "forget A")
    assert serious == []


def press_button(page: Any, name: str) -> None:
    driving.until(
        lambda: page.find_element("xpath", f"//button[contains(., '{name}')]").is_enabled()
    )
    page.find_element("xpath", f"//button[contains(., '{name}')]").click()


def test_a_slider_has_a_name_and_says_its_value(page: Any) -> None:
    slider = driving.handle(page, "batch")
    driving.until(lambda: slider.get_attribute("aria-label") == "batch")
    press(page, "moe")
    driving.until(lambda: slider.get_attribute("aria-valuetext") == "8")


def test_two_settings_stand_side_by_side(page: Any) -> None:
    press_button(page, "keep as A")
    press(page, "moe")
    driving.until(lambda: "B gives each user" in driving.text(page, ".specsim-say"))
    press_button(page, "swap A and B")
    driving.until(lambda: driving.sentence(page).startswith("llama-3.1-8b"))
    press_button(page, "forget A")
    driving.until(lambda: "B gives each user" not in driving.text(page, ".specsim-say"))


def test_a_pointer_finds_values_over_the_pictures(page: Any) -> None:
    titles = """return [...document.querySelectorAll(".specsim-frame")].map((frame) => {
      const box = frame.querySelector("img").getBoundingClientRect();
      const over = frame.querySelector("svg").getBoundingClientRect();
      const near = Math.max(Math.abs(box.x - over.x), Math.abs(box.y - over.y),
                            Math.abs(box.width - over.width), Math.abs(box.height - over.height));
      return [frame.querySelectorAll("title").length, near]})"""
    for size in (WIDE, NARROW):
        driving.resize(page, *size)
        driving.settle(page)
        found = page.execute_script(titles)
        assert all(count >= 3 for count, _ in found)
        assert all(near < 2 for _, near in found), found


@pytest.mark.parametrize(("size", "seed"), [(WIDE, 7), (NARROW, 8)])
def test_random_clicks_leave_no_error(page: Any, size: tuple[int, int], seed: int) -> None:
    """A walk with the browser's own clicks: no blank picture, no error on the console."""
    import random

    from selenium.webdriver.support.ui import Select

    driving.resize(page, *size)
    driving.until(lambda: page.execute_script("return innerWidth") == size[0])
    chance = random.Random(seed)
    for _ in range(20):
        kind = chance.choice(["preset", "choice", "choice", "slider"])
        if kind == "preset":
            press(page, chance.choice(PRESETS).key)
        elif kind == "slider":
            name = chance.choice(["batch", "context", "gamma", "alpha"])
            driving.handle(page, name).send_keys("\ue00f" if chance.random() < 0.5 else "\ue00e")
        else:
            names = ["target", "method", "draft", "accelerator", "engine"]
            name = chance.choice([*names, "target-group", "accelerator-group"])
            select = Select(page.find_element("css selector", f".specsim-{name} select"))
            if select._el.is_enabled():
                select.select_by_index(chance.randrange(len(select.options)))
        driving.settle(page)
        assert driving.sentence(page)
        assert "No prediction" not in driving.sentence(page)
        assert all(driving.pictures(page).values())
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]


def test_a_keyboard_reaches_and_moves_everything(page: Any) -> None:
    """Tab goes through every control that is enabled, and shows where it is; arrows, letters and
    Enter move what they reach."""
    from selenium.webdriver.common.keys import Keys

    focused = """const e = document.activeElement, control = e.closest(".specsim-control, button");
      const style = getComputedStyle(e), ring = style.outlineStyle !== "none" || style.boxShadow
        !== "none" || e.matches("select, input");
      return [control ? control.className : e.tagName, ring]"""
    page.find_element("css selector", "body").click()
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached, unseen = set(), []
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        names, ring = page.execute_script(focused)
        if names == "BODY":  # after the last
            continue
        reached |= {name for name in names.split() if name.startswith("specsim-")}
        if not ring:
            unseen.append(names)
    assert unseen == []
    wanted = (
        "batch", "context", "gamma", "alpha", "find", "own", "target-group", "target", "method",
        "draft", "accelerator-group", "accelerator", "engine", "precision", "tensor-parallel",
        "survival", "temperature", "price-per-hour", "users", "rate", "prompt", "answer",
        "preset-moe", "task",
    )  # fmt: skip
    disabled = page.execute_script(
        """return [...document.querySelectorAll(".specsim-control")].filter((e) =>
          e.querySelector("select:disabled, input:disabled")).map((e) => e.className).join(" ")"""
    )
    missed = [n for n in wanted if f"specsim-{n}" not in reached and f"-{n} " not in disabled + " "]
    assert missed == []
    select = page.find_element("css selector", ".specsim-target select")
    select.send_keys("qwen3-8b")
    driving.until(lambda: driving.sentence(page).find("qwen3-8b in ") >= 0)


def test_a_group_shortens_a_list_and_keeps_what_is_set(page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    def choice(name: str) -> Any:
        return Select(page.find_element("css selector", f".specsim-{name} select"))

    choice("target-group").select_by_index(0)  # whatever a test before has left
    driving.until(lambda: len(choice("target").options) > 100)
    count = len(choice("target").options)
    group = next(o.text for o in choice("target-group").options if o.text.startswith("Gemma"))
    choice("target-group").select_by_visible_text(group)
    driving.until(lambda: len(choice("target").options) < 20)
    assert choice("target").first_selected_option.text == PRESETS[0].scenario.target
    assert any(option.text == "gemma-2-9b" for option in choice("target").options)
    choice("target-group").select_by_index(0)
    driving.until(lambda: len(choice("target").options) == count)


def test_the_map_can_be_over_gamma(page: Any) -> None:
    before = driving.pictures(page)
    (name,) = [name for name in before if name.startswith("speedup-over")]
    page.find_element("xpath", "//button[contains(., 'batch × γ')]").click()
    driving.until(lambda: driving.pictures(page)[name] not in ("", before[name]))
    keep(page, "map-over-gamma")
    page.find_element("xpath", "//button[contains(., 'batch × context')]").click()


def test_code_is_copied(page: Any) -> None:
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", grant)
    button = page.find_element("css selector", ".specsim-take .specsim-code button")
    button.click()
    driving.until(lambda: button.text == "copied")
    copied = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied.startswith("import specsim\n")


def test_it_fits_a_telephone(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    driving.resize(page, *NARROW)
    driving.until(lambda: page.execute_script("return innerWidth") == NARROW[0])
    widths = page.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth]"
    )
    assert max(widths) <= NARROW[0]
    said = driving.sentence(page)
    driving.handle(page, "alpha").send_keys(Keys.ARROW_LEFT)
    driving.until(lambda: driving.sentence(page) != said)
    keep(page, "narrow")


def test_latencies_are_kept(page: Any) -> None:
    found = driving.latencies_ms(page, ("batch", "context"), 12)
    assert len(found) == 24
    assert all(0 < each < 20_000 for each in found)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "latencies_ms.json").write_text(json.dumps([round(each, 1) for each in found]))


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_page_without_a_kernel_shows_pictures_and_words(
    window: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    """What nbconvert makes of a stored notebook: no widget, no script of ours."""
    import nbformat
    from nbconvert import HTMLExporter

    from specsim import explorer

    swept = explorer.sweep(lambda alpha, batch: alpha / batch, {"alpha": [0.5, 1], "batch": [1, 2]})
    shown = [
        explorer.Explorer(measurements=None),
        explorer.speedup_vs_gamma(preset="moe", measurements=None),
        explorer.many_users(users=8),
    ]
    bundles = [each._repr_mimebundle_() for each in shown] + [swept.view().bundle()]
    outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in bundles]
    cells = [nbformat.v4.new_code_cell("", outputs=[output]) for output in outputs]
    book = nbformat.v4.new_notebook(cells=cells)
    for cell in book.cells:  # as a stored notebook has it
        for output in cell.outputs:
            output.data.pop("application/vnd.jupyter.widget-view+json")
    path = tmp_path / "stored.html"
    path.write_text(HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    driving.resize(window, *size)
    window.get(path.as_uri())
    driving.until(lambda: window.execute_script("return document.readyState") == "complete")
    found = window.execute_script(
        """return [...document.querySelectorAll(".jp-OutputArea-output")].map((e) =>
          [[...e.querySelectorAll("img")].map((i) => [i.naturalWidth, i.alt.length,
            i.getBoundingClientRect().right]), e.textContent.trim().length])"""
    )
    OUT.mkdir(parents=True, exist_ok=True)
    window.save_screenshot(str(OUT / f"static-{size[0]}.png"))
    driving.complaints(window)
    driving.strangers(window)  # of nbconvert's page, not of ours
    assert [len(pictures) for pictures, _ in found] == [4, 1, 0, 1]  # many users: words alone
    for pictures, words in found:
        assert words > 20
        for width, alt, right in pictures:
            assert width > 300
            assert alt > 20
            assert right <= size[0]


def test_a_link_opens_its_scenario(window: Any, address: str) -> None:
    driving.visit(window, address + "&preset=moe&batch=16")
    assert "qwen3-30b-a3b" in driving.sentence(window)
    assert "16 sequences" in driving.sentence(window)
    driving.visit(window, address + "&preset=mow")
    driving.until(lambda: "no preset is called 'mow'" in driving.text(window, ".specsim-story"))
    assert driving.complaints(window) == []
    assert driving.strangers(window) == []


# --- who is let in -----------------------------------------------------------------------------


def reply(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """The status that the server answers to a request which no browser has tidied up, and its text
    where it has too many pages."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        found = connection.getresponse()
        return found.status, found.read().decode() if found.status == 503 else ""
    finally:
        connection.close()


def answer(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """The status of a `reply`."""
    return reply(address, path, method, **headers)[0]


def known(address: str) -> dict[str, str]:
    """What a request carries that knows the token of the address."""
    return {"Authorization": "token " + parse_qs(urlsplit(address).query)["token"][0]}


def origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def kernel(window: Any) -> str:
    found = re.search(r'"kernelId": "([0-9a-f-]{36})"', window.page_source)
    assert found is not None
    return found.group(1)


def test_a_page_that_closes_ends_its_kernel(window: Any, address: str) -> None:
    driving.visit(window, address)
    of_this_page = f"/api/kernels/{kernel(window)}"
    assert answer(address, of_this_page, **known(address)) == 200
    window.get("about:blank")
    driving.until(lambda: answer(address, of_this_page, **known(address)) == 404)


def test_other_pages_are_kept_out(window: Any, address: str) -> None:
    """A name that points here from elsewhere, a request from another page, a file of the folder."""
    driving.visit(window, address)
    ending = f"/voila/api/shutdown/{kernel(window)}"
    assert answer(address, "/", Host="rebound.example:80", **known(address)) == 403
    # with the cookie of a browser that has the page open, as a form of a foreign page sends it
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in window.get_cookies())
    assert answer(address, ending, "POST", Cookie=cookies) == 403
    foreign = {"Origin": "http://rebound.example", "Cookie": cookies}
    assert answer(address, ending, "POST", **foreign) in (403, 404)
    assert answer(address, ending, "POST") == 403
    assert answer(address, ending, "POST", Origin="http://rebound.example") in (403, 404)
    assert answer(address, "/voila/files/docs/demo.png", **known(address)) == 403
    channels = f"/api/kernels/{kernel(window)}/channels"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "c3BlY3NpbSBleHBsb3Jlcg==",
    }
    here, there = (origin(address), "http://rebound.example")
    assert answer(address, channels, **upgrade, Origin=there, Cookie=cookies) == 403
    assert answer(address, channels, **upgrade, Origin=here) == 403
    assert answer(address, channels, **upgrade, Origin=here, **known(address)) == 101
    assert answer(address, f"/api/kernels/{kernel(window)}", **known(address)) == 200  # it lives on


def test_without_the_token_nothing_is_answered(address: str) -> None:
    for path in ("/", "/?preset=moe", "/?token=wrong", "/?token="):
        assert answer(address, path) == 302  # to a page that asks for the token
    for path in ("/api/kernels/00000000-0000-0000-0000-000000000000", "/voila/files/x"):
        assert answer(address, path) in (302, 403)


def test_more_pages_than_the_limit_are_refused_in_words() -> None:
    with driving.served(most_pages=1) as address:
        page = urlsplit(address)
        path = f"{page.path}?{page.query}"
        with ThreadPoolExecutor(3) as pool:  # at the same moment
            asked = [pool.submit(reply, address, path) for _ in range(3)]
            replies = [each.result() for each in asked]
        assert sorted(status for status, _ in replies) == [200, 503, 503]
        said = next(text for status, text in replies if status == 503)
        assert "No more pages of the explorer" in said
        assert "http" not in said  # nothing is fetched from elsewhere

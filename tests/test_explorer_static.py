"""An explorer where no kernel runs: every page shows its pictures and its sentence."""

import base64
import html
import re
from io import BytesIO

import numpy as np
import pytest

pytest.importorskip("ipywidgets")

from IPython.core.formatters import DisplayFormatter
from PIL import Image

from specsim import explorer
from specsim.explorer.scenarios import changed
from specsim.explorer.static_view import VIEW, beside, smaller

SMALL = {"users": 4, "answer": 30, "prompt": 50}


def bundle(widget: object) -> dict[str, object]:
    """What IPython stores of a widget that is shown."""
    found, _ = DisplayFormatter().format(widget)
    return found


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(each))) for each in found]


def drawn(picture: Image.Image) -> bool:
    """Whether there is more than axes: a tenth of a per cent of it has a colour."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return bool((np.ptp(pixels, axis=-1) > 60).mean() > 1e-3)


@pytest.fixture(scope="module")
def shown() -> dict[str, object]:
    return bundle(explorer.Explorer(measurements=None, **SMALL))


def test_a_stored_widget_has_its_pictures_and_its_sentence(shown: dict[str, object]) -> None:
    assert set(shown) == {VIEW, "text/html", "image/png", "text/plain"}
    assert shown["text/plain"].startswith("llama-3.1-8b in bf16")
    page = html.unescape(shown["text/html"])
    assert shown["text/plain"] in page
    assert "4 users" in page  # the card for many users
    found = pictures(shown["text/html"])
    assert len(found) == 4
    assert all(map(drawn, found))
    assert len(re.findall(r'<img alt="[^"]{60,}"', shown["text/html"])) == 4
    whole = Image.open(BytesIO(base64.b64decode(shown["image/png"])))
    assert whole.size == (2 * found[0].width, 2 * found[0].height)
    assert len(shown["text/html"]) < 160_000


def test_a_page_of_nbconvert_shows_them(shown: dict[str, object]) -> None:
    import nbformat  # takes seconds, which collecting the tests of other files should not

    exporters = pytest.importorskip("nbconvert.exporters")
    output = nbformat.v4.new_output("display_data", dict(shown))
    cell = nbformat.v4.new_code_cell("explorer.Explorer()", outputs=[output])
    page, _ = exporters.HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert "a plain step takes" in page
    assert len(pictures(page)) == 4
    assert VIEW not in page


def test_a_single_picture_and_a_refusal_are_stored_too() -> None:
    one = bundle(explorer.speedup_vs_gamma(measurements=None, controls=()))
    assert len(pictures(one["text/html"])) == 1
    none = bundle(explorer.waterfall(changed(draft="qwen3-0.6b"), controls=()))
    assert none["text/plain"].startswith("No prediction: ")
    assert set(none) == {VIEW, "text/html", "text/plain"}
    assert "8 users" in bundle(explorer.many_users(**SMALL | {"users": 8}))["text/html"]


def test_what_waits_is_drawn_before_it_is_stored() -> None:
    """In a kernel three of the pictures wait for the loop: a stored notebook must have them."""
    import asyncio

    async def show() -> dict[str, object]:
        made = explorer.Explorer(measurements=None, under_load=False)
        assert made.words == ""
        found = bundle(made)
        assert made._waiting == []
        return found

    found = asyncio.run(show())
    assert all(map(drawn, pictures(found["text/html"])))
    assert found["text/plain"]


def test_a_page_with_a_kernel_carries_no_copy() -> None:
    found = bundle(explorer.Explorer(measurements=None, under_load=False, linked=True))
    assert set(found) == {VIEW, "text/plain"}


def test_a_smaller_picture_looks_the_same() -> None:
    picture = explorer.roofline(controls=()).png
    before, after = (np.asarray(Image.open(BytesIO(each)).convert("RGB")).astype(int)
                     for each in (picture, smaller(picture)))  # fmt: skip
    assert np.abs(before - after).mean() < 1.5
    assert len(smaller(picture)) < 0.6 * len(picture)
    assert Image.open(BytesIO(beside([picture] * 3))).size == (
        2 * before.shape[1], 2 * before.shape[0],
    )  # fmt: skip

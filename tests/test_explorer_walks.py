"""Random walks through the explorer: whatever is clicked, in whatever order, there is a picture and
a sentence, and no error leaves a widget."""

import random

import pytest

pytest.importorskip("ipywidgets")

import ipywidgets as widgets

from specsim import explorer
from specsim.explorer import Explorer
from specsim.explorer.scenarios import START, changed

CLICKS = 20
NOWHERE = "nowhere.json"  # once a link asked for it, the control of engines offers it
IMPOSSIBLE = (  # what a link, or an author, may ask for
    {"draft": "qwen3-0.6b", "target": "llama-3.1-8b"},
    {"tensor_parallel": 16, "target": "qwen2.5-7b", "draft": "qwen2.5-0.5b"},
    {"target": "llama-3.1-405b", "accelerator": "raspberry-pi-5"},
    {"engine": NOWHERE},
    {"survival": (0.5, 0.9)},
    {"method": "mtp", "target": "gpt2"},
)
TEXTS = ("", "0.8, 0.6", "half", "0.5, 0.9", "1e9", "0.9;0.7;0.2", "nan", "-1", "0.9 0.8")


@pytest.fixture(scope="module")
def live(sketched) -> Explorer:
    return sketched


def click(live: Explorer, chance: random.Random) -> tuple[str, object]:
    """One action of a reader, by any control or button of the page; what it was."""
    made = chance.choice([*live.controls.values(), *buttons(live), None, None])
    if made is None:
        told = chance.choice([*explorer.PRESETS, *IMPOSSIBLE])
        if isinstance(told, dict):
            live.show(changed(**told))
        else:
            live.presets[told.key].click()
        return "show", told
    if isinstance(made, widgets.Button):
        made.click()
        return made.description, "pressed"
    made.value = value_for(made, chance)
    return made.description, made.value


def value_for(made: widgets.Widget, chance: random.Random) -> object:
    if isinstance(made, widgets.Dropdown | widgets.SelectionSlider | widgets.ToggleButtons):
        values = [each[1] if isinstance(each, tuple) else each for each in made.options]
        return chance.choice(values)
    if isinstance(made, widgets.Text):
        return chance.choice(TEXTS)
    return chance.choice([made.min, made.max, chance.uniform(made.min, made.max)])


def buttons(live: Explorer) -> list[widgets.Widget]:
    """Every button and further control below the explorer that is not one of its controls."""
    found, waiting = [], list(live.children)
    while waiting:
        each = waiting.pop()
        waiting += getattr(each, "children", ())
        kinds = widgets.Button | widgets.ToggleButtons | widgets.Text | widgets.Dropdown
        if isinstance(each, kinds) and each not in live.controls.values():
            found.append(each)
    return found


def is_shown(live: Explorer) -> None:
    """A sentence, and pictures with something on them: or the sentence that says why not."""
    assert live.words
    if live.shown is None:
        assert live.words.startswith("No prediction: ")
        assert "Traceback" not in live.words
        return
    assert live.cards.value
    for canvas in (live.urgent | live.other).values():
        assert canvas.figure.axes
    for panel in (*live.urgent, *live.other):
        assert any(artist.get_visible() for artist in panel.moving), type(panel).__name__
    assert all(live.images[panel].value for panel in live.images)


def walk(live: Explorer, seed: int) -> None:
    chance, done, odd = random.Random(seed), [], False
    live.show(START)
    for _ in range(CLICKS):
        try:
            done.append(click(live, chance))
            is_shown(live)
        except Exception as error:
            raise AssertionError(f"walk {seed} after {done[-6:]}: {error!r}") from error
        # only text, or a link, can ask for the impossible; it stays until something else is set
        odd = odd or done[-1][0] in ("show", "survival curve") or done[-1][1] == NOWHERE
        odd = odd and live.shown is None
        assert odd or live.shown is not None, f"walk {seed}: {done[-6:]}: {live.words}"
    # and back
    live.presets[explorer.PRESETS[0].key].click()
    assert live.shown is not None
    is_shown(live)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_a_walk_never_ends_at_a_blank_page(live: Explorer, seed: int) -> None:
    walk(live, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4, 34))
def test_a_walk_with_pictures_and_users(seed: int, pictured: Explorer) -> None:
    walk(pictured, seed)


@pytest.fixture(scope="module")
def pictured() -> Explorer:
    return Explorer(measurements=None)

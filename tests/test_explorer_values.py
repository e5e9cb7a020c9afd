"""Values under the pointer, tokens that stream, a search, a model of the reader's own."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipywidgets")

from specsim import catalog
from specsim.architecture import model
from specsim.explorer import Explorer, grouping, streaming
from specsim.explorer.figure_canvas import HEIGHT, WIDTH
from specsim.explorer.finding import find
from specsim.explorer.hover import Area, areas
from specsim.explorer.panels import (
    Panel,
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.scenarios import PLAIN, START, changed, predict_scenario


@pytest.fixture
def live(sketched: Explorer) -> Explorer:
    sketched.finder.words.value = sketched.finder.own.value = ""
    sketched.show(START)
    return sketched


def panel(live: Explorer, kind: type) -> Panel:
    return next(each for each in (*live.urgent, *live.other) if isinstance(each, kind))


def words(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text))


# under the pointer


def under(found: list[Area], x: float, y: float) -> list[str]:
    """What a pointer at a point says."""
    return [a.text for a in found if a.x <= x < a.x + a.width and a.y <= y < a.y + a.height]


def pixels(axes: object, x: float, y: float) -> tuple[float, float]:
    """The oracle: matplotlib's own pixels, from the bottom of a figure of so many."""
    across, up = axes.transData.transform((x, y))
    width, height = axes.figure.get_size_inches() * axes.figure.dpi
    return across / width * WIDTH, (1 - up / height) * HEIGHT


def test_every_point_of_the_curve_says_its_value(live: Explorer) -> None:
    drawn = panel(live, SpeedupVsGammaPanel)
    found, over = areas(drawn, live.shown), live.shown.over
    assert len(found) == len(over.gamma)
    for gamma, speedup in zip(over.gamma, over.speedup, strict=True):
        (said,) = under(found, *pixels(drawn.axes, gamma, speedup))
        assert said.startswith(f"γ = {gamma}: {speedup:.2f}×")


def test_every_pass_of_the_roofline_says_its_name(live: Explorer) -> None:
    drawn = panel(live, RooflinePanel)
    found = areas(drawn, live.shown)
    for name in ("plain", "draft", "verify"):
        ((x, y),) = drawn.markers[name].get_xydata()
        assert any(
            f"{name}: {x:.3g} FLOP" in each for each in under(found, *pixels(drawn.axes, x, y))
        )


def test_every_bar_of_the_waterfall_says_its_factor(live: Explorer) -> None:
    live.controls["gamma"].value = 4
    drawn = panel(live, WaterfallPanel)
    found, factors = areas(drawn, live.shown), live.shown.waterfall()
    for row, name in enumerate(drawn.bars):
        (said,) = under(found, *pixels(drawn.axes, 1.0, row))
        value = live.shown.speedup if name == "speedup" else factors[name]
        assert said.startswith(name)
        assert f"{value:.0f}×" in said if name == "ideal" else f"{value:.2f}" in said


@pytest.mark.parametrize("over", ["context", "gamma"])
def test_every_place_of_the_map_says_its_speedup(live: Explorer, over: str) -> None:
    live.over.value = over
    drawn = panel(live, SpeedupMapPanel)
    grid, found = drawn.grid(live.shown), areas(drawn, live.shown)
    for column, row in ((3, 2), (40, 5), (60, len(grid.y_values) - 2)):
        x, y = drawn.on_axes(grid.x_values, grid.y_values)
        (said,) = under(found, *pixels(drawn.axes, x[column], y[row]))
        near = grid.speedup[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5]
        told = float(said.split(": ")[1].rstrip("×"))
        assert near.min() - 0.01 <= told <= near.max() + 0.01
    live.over.value = "context"


def test_nothing_lies_over_what_is_not_drawn(live: Explorer) -> None:
    assert all("<title>" in made.value for made in live.values.values())
    live.controls["method"].value = PLAIN
    assert "<title>" not in live.values[panel(live, SpeedupMapPanel)].value
    live.controls["survival"].value = "half"
    live.controls["method"].value = "draft-model"
    assert {made.value for made in live.values.values()} == {""}


# tokens that stream


@pytest.mark.parametrize("changes", [{"alpha": 0.8}, {"alpha": 0.5, "gamma": 7}, {"gamma": 3}])
def test_as_many_tokens_come_in_a_cycle_as_are_predicted(changes: dict[str, float]) -> None:
    shown = predict_scenario(changed(**changes))
    assert 1 + streaming.survival_of(shown).sum() == pytest.approx(shown.of("tokens_per_cycle"))
    rates = []
    for seed in range(200):
        stream = streaming.speculative(shown, seed)
        times = np.unique(stream.seconds)
        np.testing.assert_allclose(np.diff(times), shown.of("cycle_s"))
        counts = [n for n in stream.emitted if n]
        assert sum(counts) == len(streaming.TEXT)
        rates += counts[:-1]  # the last cycle is cut where the text ends
    spread = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - shown.of("tokens_per_cycle")) < 5 * spread
    plain = streaming.plain(shown)
    np.testing.assert_allclose(plain.seconds[-1], len(streaming.TEXT) * shown.of("step_s"))


def test_tokens_stream_when_they_are_asked_for(live: Explorer) -> None:
    assert live.streamed.value == ""
    live.stream.click()
    first = live.streamed.value
    delays = [float(each) for each in re.findall(r"animation-delay:([\d.]+)s", first)]
    count = len(streaming.TEXT)
    assert len(delays) == 2 * count
    shown = live.shown
    slower = delays[count - 1] / (count * shown.of("step_s"))
    assert delays[0] == pytest.approx(slower * shown.of("step_s"), abs=2e-3)
    assert delays[count] == pytest.approx(slower * shown.of("cycle_s"), abs=2e-3)
    live.stream.click()
    assert live.streamed.value != first  # other cycles
    live.controls["batch"].value = 2
    assert live.streamed.value == ""
    live.controls["method"].value = PLAIN
    live.stream.click()
    assert live.streamed.value.count("<b>") == 1


# what is found


@pytest.mark.parametrize(
    ("table", "asked", "expected"),
    [
        ("models", "llama 70b", {"llama-2-70b", "llama-3-70b", "llama-3.1-70b", "llama-3.3-70b",
                                 "deepseek-r1-distill-llama-70b"}),
        ("accelerators", "H200", {"h200-sxm", "h200-nvl"}),
        ("models", "no such thing", set()),
        ("models", " ", set(catalog.load("models"))),
    ],
)  # fmt: skip
def test_words_find_rows(table: str, asked: str, expected: set[str]) -> None:
    found = find(table, asked)
    assert set(found) >= expected
    assert all(all(w.lower() in n for w in asked.split()) for n in expected)
    assert len(found) <= len(expected) + 3
    assert found == [name for name in catalog.load(table) if name in found]


def test_a_search_shortens_the_choices_and_changes_nothing(live: Explorer) -> None:
    before, said = live.scenario, live.words
    live.finder.words.value = "qwen3 8b"
    offered = [value for _, value in live.controls["target"].options]
    assert offered[:2] == ["llama-3.1-8b", "qwen3-8b"]
    assert (live.scenario, live.words) == (before, said)
    assert "0 accelerators" in words(live.finder.said.value)
    assert len(live.controls["accelerator"].options) == len(catalog.load("accelerators"))
    live.controls["target"].value = "qwen3-8b"
    assert "qwen3-8b" in live.words
    live.finder.words.value = ""
    assert len(live.controls["target"].options) == len(catalog.load("models"))
    assert live.controls["target"].value == "qwen3-8b"


@pytest.mark.parametrize("table", ["models", "accelerators"])
def test_groups_hold_every_row_once(table: str) -> None:
    rows, found = list(catalog.load(table)), grouping.groups(table)
    assert sorted(name for names in found.values() for name in names) == sorted(rows)
    assert sorted(grouping.grouped(table)) == sorted(rows)
    assert grouping.grouped(table, rows[:3]) == [
        n for n in grouping.grouped(table) if n in rows[:3]
    ]
    assert len(found) < len(rows) / 5
    assert all(2 <= len(group) <= 30 for group in found)
    if table == "models":
        assert "deepseek-r1-distill-qwen-7b" in found["DeepSeek"]
        assert list(found)[-1] == grouping.OTHERS
    else:
        assert next(iter(found)) == "NVIDIA, data centre"


def test_a_group_shortens_the_choices_and_changes_nothing(live: Explorer) -> None:
    before, said = live.scenario, live.words
    target, accelerator = (live.finder.groups[name] for name in ("target", "accelerator"))
    target.value = "Gemma"
    offered = [value for _, value in live.controls["target"].options]
    assert offered == ["llama-3.1-8b", *grouping.groups("models")["Gemma"]]
    assert (live.scenario, live.words) == (before, said)
    assert "10 models" in words(live.finder.said.value)
    live.finder.words.value = "27b"
    assert len(live.controls["target"].options) == 3
    live.finder.words.value = "apple"  # nothing of both: everything is offered, and that is said
    assert "Found: 0 models" in words(live.finder.said.value)
    assert len(live.controls["target"].options) == len(catalog.load("models"))
    accelerator.value = "Apple, phones"
    assert "a18-pro" in [value for _, value in live.controls["accelerator"].options]
    for each in (target, accelerator, live.finder.words):
        each.value = ""
    assert live.finder.said.value == ""
    assert len(live.controls["accelerator"].options) == len(catalog.load("accelerators"))


def test_methods_say_what_they_need_and_drafts_how_large_they_are(live: Explorer) -> None:
    labels = {value: label for label, value in live.controls["method"].options}
    assert labels["eagle-3"] == "eagle-3 (trained head)"
    assert labels["draft-model"] == "draft-model"
    assert labels["n-gram"] == "n-gram (nothing needed)"
    assert set(labels) == {*catalog.load("methods"), "none"}
    drafts = {value: label for label, value in live.controls["draft"].options}
    assert drafts["llama-3.2-1b"] == "llama-3.2-1b (1.2 billion)"


def plain_config(name: str) -> dict[str, object]:
    def plain(value: object) -> object:
        return {k: plain(v) for k, v in value.items()} if hasattr(value, "items") else value

    return plain(catalog.load("models")[name]["config"])


def test_a_model_of_ones_own_is_predicted(live: Explorer, tmp_path: Path) -> None:
    config = plain_config("qwen3-8b")
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    expected = model("qwen3-8b").parameters
    for text in (str(path), str(path.parent), json.dumps(config | {"num_hidden_layers": 36})):
        live.show(START)
        live.finder.own.value = text
        assert live.shown.target.parameters == expected
        assert f"{expected / 1e9:.2f} billion parameters" in words(live.finder.said.value)
        assert "No prediction" not in live.words
        assert live.shown.drafter is not None
    assert "vocabulary of the size" in words(live.finder.said.value)


@pytest.mark.parametrize(
    "text", ["/nowhere/config.json", "{", '{"model_type": "none"}', "[]", "{}"]
)
def test_what_is_no_model_is_said_and_changes_nothing(live: Explorer, text: str) -> None:
    live.finder.own.value = text
    assert words(live.finder.said.value).strip().startswith("Not a model: ")
    assert live.scenario == START
    assert "No prediction" not in live.words

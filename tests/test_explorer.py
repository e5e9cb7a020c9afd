"""The explorer without a browser: a control is set, and what is drawn is what `predict` says."""

import html
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

import specsim
from specsim import explorer
from specsim.explorer.cards import cards_of, money_and_energy
from specsim.explorer.figure_canvas import HEIGHT, SHARPNESS, WIDTH
from specsim.explorer.panels import (
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.panels.roofline import points
from specsim.explorer.panels.speedup_map import DRAGGING, RESTING
from specsim.explorer.scenarios import (
    PLAIN,
    START,
    ExplorerScenario,
    PredictedScenario,
    changed,
    predict_scenario,
)
from specsim.explorer.sentences import describe
from specsim.explorer.widget import CHOICES, Explorer
from specsim.operators import Workload, forward_work
from specsim.planning.sweep import speedup_map


@pytest.fixture(scope="module")
def live(sketched) -> Explorer:
    """One explorer for all: every test sets what it is about. Its pictures are not rendered."""
    return sketched


@pytest.fixture(scope="module")
def rendered() -> Explorer:
    """One with pictures."""
    return Explorer(measurements=None, under_load=False)


def panel(live: Explorer, kind: type) -> object:
    return next(each for each in (*live.urgent, *live.other) if isinstance(each, kind))


def words(live: Explorer) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", live.sentence.value))


def oracle(scenario: ExplorerScenario, **changes: object) -> specsim.Prediction:
    """The oracle: the façade alone, as a reader of the README would call it."""
    target = specsim.model(scenario.target)
    asked = {"gamma": range(17), "batch": scenario.batch, "context": scenario.context}
    return specsim.predict(
        target,
        specsim.DraftModel(specsim.model(scenario.draft)),
        specsim.system(scenario.accelerator, scenario.engine, scenario.precision),
        **asked | {"alpha": scenario.alpha} | changes,
    )


# What is drawn is what is predicted


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.61), ("batch", 24), ("context", 12288)])
def test_a_moved_slider_moves_the_curve_to_the_prediction(
    live: Explorer, name: str, value: float
) -> None:
    live.show(START)
    before = panel(live, SpeedupVsGammaPanel).curve.get_ydata().copy()
    live.controls[name].value = value
    expected = oracle(changed(**{name: value}))
    drawn = panel(live, SpeedupVsGammaPanel)
    np.testing.assert_array_equal(drawn.curve.get_xdata(), expected.gamma)
    np.testing.assert_allclose(drawn.curve.get_ydata(), expected.speedup, rtol=1e-12)
    assert not np.allclose(before, drawn.curve.get_ydata())
    low, high = expected.band["speedup"]
    (verts,) = [path.vertices for path in drawn.band.get_paths()]
    for gamma, least, most in zip(expected.gamma, low, high, strict=True):
        heights = verts[verts[:, 0] == gamma, 1]
        assert heights.min() == pytest.approx(least)
        assert heights.max() == pytest.approx(most)
    best = int(expected.best())
    assert drawn.best.get_xydata().tolist() == [[best, pytest.approx(expected.speedup[best])]]
    assert f"{expected.speedup[best]:.2f}" in words(live)


def test_gamma_is_shown_where_it_is_set_and_the_best_beside_it(live: Explorer) -> None:
    live.show(START)
    live.controls["gamma"].value = 9
    expected, drawn = oracle(START), panel(live, SpeedupVsGammaPanel)
    assert drawn.shown.get_xydata().tolist() == [[9, pytest.approx(expected.speedup[9])]]
    assert drawn.best.get_xdata() == [expected.best()]
    assert f"the best γ would be {int(expected.best())}" in words(live)


def test_the_roofline_stands_where_work_and_time_put_it(live: Explorer) -> None:
    scenario = changed(batch=16, gamma=4)
    live.show(scenario)
    expected, drawn = oracle(scenario, gamma=4), panel(live, RooflinePanel)
    machine = specsim.system(scenario.accelerator, scenario.engine)
    place = {"batch": 16, "context": scenario.context}
    passes = {
        "plain": (scenario.target, [1], expected.step_s - expected.plain_overhead_s),
        "verify": (scenario.target, [5], expected.verify_step_s),
        "draft": (scenario.draft, [2, 1, 1, 1], expected.draft_s),  # the first pass catches up
    }
    for name, (model, rows, seconds) in passes.items():
        work = forward_work(specsim.model(model), Workload(rows=rows, **place), machine.precision)
        flops, moved = work.flops.sum(), (work.weight_bytes + work.kv_bytes).sum()
        ((x, y),) = drawn.markers[name].get_xydata()
        assert x == pytest.approx(float(flops / moved))
        assert y == pytest.approx(float(flops / seconds))
    roof = drawn.axes.lines[0].get_xydata()
    chip = machine.accelerator
    peak = np.minimum(chip.rate("bf16"), chip.bandwidth_bytes_per_s * roof[:, 0])
    np.testing.assert_allclose(roof[:, 1], peak)


@pytest.mark.parametrize("over", ["context", "gamma"])
def test_the_map_is_the_sweep_with_its_line_at_one(live: Explorer, over: str) -> None:
    scenario = replace(explorer.preset("high-qps-server").scenario, context=512)
    live.over.value = over
    live.show(scenario)
    drawn = panel(live, SpeedupMapPanel)
    grid = drawn.grid(live.shown)
    fixed = {"gamma": scenario.gamma} if over == "context" else {"context": scenario.context}
    oracle = speedup_map(
        specsim.model(scenario.target),
        specsim.DraftModel(specsim.model(scenario.draft)),
        specsim.system(scenario.accelerator, scenario.engine),
        x=("batch", grid.x_values), y=(over, grid.y_values), alpha=scenario.alpha, **fixed,
    )  # fmt: skip
    np.testing.assert_allclose(drawn.image.get_array(), np.log2(oracle.speedup), rtol=1e-12)
    line = np.concatenate([path.vertices for path in drawn.break_even.get_paths()])
    assert len(line) > 3
    on = line[(line[:, 1] > 0.5)]
    y = 2 ** on[:, 1] if over == "context" else np.round(on[:, 1])
    whole = over == "context" or np.isclose(on[:, 1], y, atol=0.02)
    there = speedups_at(scenario, 2 ** on[:, 0], y, over)
    assert np.abs(there - 1)[np.broadcast_to(whole, there.shape)].max() < 0.02
    live.over.value = "context"


def speedups_at(
    scenario: ExplorerScenario, batch: np.ndarray, y: np.ndarray, over: str
) -> np.ndarray:
    changes = {"context": y, "gamma": scenario.gamma} if over == "context" else {"gamma": y}
    return np.asarray(oracle(scenario, batch=batch, **changes).speedup)


def test_the_map_is_coarse_while_dragging_and_fine_at_rest(live: Explorer) -> None:
    live.show(START)
    drawn = panel(live, SpeedupMapPanel)
    assert drawn.image.get_array().shape == (RESTING, RESTING)
    computed = drawn.computed
    live.controls["batch"].value = 32
    assert drawn.computed == computed  # the marker alone has moved
    assert drawn.here.get_xydata().tolist() == [[5.0, 11.0]]
    live.controls["alpha"].value = 0.5
    assert drawn.computed == computed + 2  # coarse, then fine
    assert drawn.image.get_array().shape == (RESTING, RESTING)
    live.shown = predict_scenario(changed(alpha=0.6))
    live.rest_of()  # what a drag does until the slider rests
    assert drawn.image.get_array().shape == (DRAGGING, DRAGGING)
    assert DRAGGING <= 40


def test_the_waterfall_ends_at_the_speedup(live: Explorer) -> None:
    scenario = changed(gamma=6, batch=64)
    live.show(scenario)
    expected, drawn = oracle(scenario, gamma=6), panel(live, WaterfallPanel)
    bars, left = drawn.bars, 7.0
    assert bars["ideal"].get_x() + bars["ideal"].get_width() == pytest.approx(7.0)
    for name, fall in expected.waterfall().items():
        if name == "ideal":
            continue
        ends = sorted((left, left * float(fall)))
        assert bars[name].get_x() == pytest.approx(ends[0])
        assert bars[name].get_x() + bars[name].get_width() == pytest.approx(ends[1])
        assert drawn.labels[name].get_text() == f"× {float(fall):.2f}"
        left *= float(fall)
    for row, (name, bar) in enumerate(bars.items()):
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(row)
        x, y = drawn.labels[name].get_position()
        assert y == row
        assert bar.get_x() + bar.get_width() < x < 1.2 * (bar.get_x() + bar.get_width())
    assert left == pytest.approx(float(expected.speedup))
    assert drawn.labels["speedup"].get_text() == f"{float(expected.speedup):.2f}×"


def test_cards_say_what_is_predicted(live: Explorer) -> None:
    live.show(changed(price_per_hour=2.0, batch=8))
    best = oracle(changed(batch=8))
    at = int(best.best())
    token_s = float(best.cycle_s[at] / best.tokens_per_cycle[at])
    assert f"{token_s * 1e3:.2f} ms" in live.cards.value
    assert f"${2.0 / 3600 * token_s / 8 * 1e6:.2f}" in live.cards.value


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("method", ["draft-model", "pearl"])  # pearl drafts on a device of its own
def test_every_device_is_paid_for(devices: int, method: str) -> None:
    scenario = changed(price_per_hour=2.0, tensor_parallel=devices, method=method)
    money = money_and_energy(predict_scenario(scenario), token_s=5e-3, plain_s=8e-3)[0]
    extra = 1 if method == "pearl" else 0
    per_s = 2.0 / 3600
    assert money.number == f"${per_s * (devices + extra) * 5e-3 * 1e6:.2f}"
    assert money.note == f"plain ${per_s * devices * 8e-3 * 1e6:.2f}"


# Pictures


def test_a_dragged_slider_draws_over_the_same_figure(rendered: Explorer) -> None:
    rendered.show(START)
    canvases = [*rendered.urgent.values(), *rendered.other.values()]
    before = [
        (canvas.frozen, canvas.figure, canvas.figure.axes[0].get_xlim()) for canvas in canvases
    ]
    pictures = [bytes(image.value) for image in rendered.images.values()]
    for alpha in (0.7, 0.78, 0.5):  # far enough for another γ to be the best
        rendered.controls["alpha"].value = alpha
    after = [
        (canvas.frozen, canvas.figure, canvas.figure.axes[0].get_xlim()) for canvas in canvases
    ]
    assert before == after
    assert all(a != bytes(b.value) for a, b in zip(pictures, rendered.images.values(), strict=True))


def test_the_frame_widens_where_a_slider_leaves_it_and_a_preset_makes_it_anew(
    rendered: Explorer,
) -> None:
    rendered.show(changed(alpha=0.3))
    canvas = rendered.urgent[panel(rendered, SpeedupVsGammaPanel)]
    top = canvas.figure.axes[0].get_ylim()[1]
    rendered.controls["alpha"].value = 1.0
    assert canvas.figure.axes[0].get_ylim()[1] > top
    assert max(oracle(changed(alpha=1.0)).band["speedup"][1]) < canvas.figure.axes[0].get_ylim()[1]
    rendered.presets["moe"].click()
    assert canvas.figure.axes[0].get_ylim()[1] < 4


def test_pictures_are_opaque_pngs_of_one_size(rendered: Explorer) -> None:
    for image in rendered.images.values():
        picture = Image.open(BytesIO(bytes(image.value)))
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        assert picture.size == (WIDTH * SHARPNESS, HEIGHT * SHARPNESS)


def test_what_is_blitted_is_what_would_be_drawn(rendered: Explorer) -> None:
    """The oracle of a blit: everything drawn afresh, moving artists included."""
    rendered.show(START)
    rendered.controls["alpha"].value = 0.66
    for each, canvas in (rendered.urgent | rendered.other).items():
        blitted = np.asarray(Image.open(BytesIO(bytes(rendered.images[each].value)))).astype(int)
        for artist in each.moving:
            artist.set_animated(False)
        canvas.agg.draw()
        whole = np.asarray(canvas.agg.buffer_rgba())[..., :3].astype(int)
        for artist in each.moving:
            artist.set_animated(True)
        differing = (np.abs(blitted - whole).max(axis=-1) > 40).mean()
        assert differing < 0.02, type(each).__name__  # the order of overlapping lines may differ


# Settings that name no scenario, and odd ones


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"draft": "llama-3.1-70b"}, "larger than the target"),
        ({"target": "llama-3.1-405b"}, "does not fit"),
        ({"target": "llama-3.1-405b"}, "tensor_parallel ="),
        ({"tensor_parallel": 16, "target": "qwen2.5-7b", "draft": "qwen2.5-0.5b"}, "No prediction"),
        ({"draft": "qwen3-0.6b"}, "share the target's vocabulary"),
        ({"method": "medusa", "gamma": 12}, "at most 4 tokens"),
        ({"survival": (0.5, 0.9)}, "No prediction"),
        ({"survival": (0.9, 0.5), "gamma": 6}, "2 positions are known"),
        ({"alpha": 0.0}, "No γ gains anything"),
        ({"gamma": 0}, "plain decoding"),
        ({"method": PLAIN}, "a plain step takes"),
        ({"method": "medusa"}, "not lossless"),
        ({"engine": "nowhere.json"}, "no such file: nowhere.json"),
        ({"batch": 512, "context": 262144}, "does not fit"),
        ({"target": "qwen3-30b-a3b", "draft": "qwen3-0.6b"}, "activate more experts"),
    ],
)
def test_impossible_combinations_are_said_and_never_raised(
    live: Explorer, changes: dict[str, object], said: str
) -> None:
    live.show(changed(**changes))
    assert said in words(live)


def test_after_a_refusal_it_draws_again(rendered: Explorer) -> None:
    rendered.show(changed(draft="qwen3-0.6b"))
    blank = {panel: bytes(image.value) for panel, image in rendered.images.items()}
    assert rendered.cards.value == rendered.copy.value == ""
    rendered.controls["draft"].value = "llama-3.2-1b"
    assert "No prediction" not in words(rendered)
    assert all(bytes(rendered.images[panel].value) != empty for panel, empty in blank.items())


def test_text_that_is_no_survival_vector_is_said(live: Explorer) -> None:
    live.show(START)
    live.controls["survival"].value = "0.8, half"
    assert "a survival vector is numbers" in words(live)
    assert live.cards.value == ""
    live.controls["survival"].value = "0.8, 0.5, 0.3"
    expected = oracle(START, gamma=range(4), alpha=None, survival=[0.8, 0.5, 0.3])
    drawn = panel(live, SpeedupVsGammaPanel)
    np.testing.assert_allclose(drawn.curve.get_ydata(), expected.speedup)
    assert live.controls["alpha"].disabled


@pytest.mark.parametrize("name", [*specsim.catalog.load("methods"), PLAIN])
def test_every_method_is_shown(live: Explorer, name: str) -> None:
    target = "deepseek-v3" if name == "mtp" else "llama-3.1-8b"
    live.show(changed(target=target, method=name, batch=4))
    assert live.shown is not None, words(live)
    assert live.shown.speedup >= 1.0
    assert set(points(live.shown)) >= {"plain"}


def test_every_accelerator_has_its_words_and_its_points() -> None:
    for name in specsim.catalog.load("accelerators"):
        pair = {"target": "qwen3-4b", "draft": "qwen3-0.6b"}
        scenario = predict_scenario(changed(accelerator=name, engine="ideal", **pair))
        assert "speed of light" in describe(scenario)
        assert cards_of(scenario)
        assert set(points(scenario)) == {"plain", "draft", "verify"}


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        (changed(gamma=5), "nearly free"),
        (changed(gamma=5, batch=64, context=256), "reads weights, while"),
        (changed(gamma=5, batch=256, context=1024), "reads the KV cache, while"),
        (changed(gamma=5, batch=512, context=16), "costs its full time: "),
        (changed(target="qwen3-30b-a3b", draft="qwen3-0.6b", gamma=3), "activate more experts: "),
    ],
)
def test_a_wider_pass_is_called_free_only_where_it_is(
    scenario: ExplorerScenario, says: str
) -> None:
    said = describe(predict_scenario(scenario))
    assert says in said
    found = oracle(scenario, gamma=scenario.gamma)
    ratio = float(found.verify_step_s / found.step_s)
    assert ("times as long" in said) == (ratio > 1.1)
    assert "times as long" not in said or f"takes {ratio:.1f} times as long" in said


@pytest.mark.parametrize("told", explorer.PRESETS, ids=lambda told: told.key)
def test_every_preset_sets_every_control_and_tells_its_story(
    rendered: Explorer, told: explorer.Preset
) -> None:
    rendered.presets[told.key].click()
    assert rendered.scenario == told.scenario
    assert told.name in rendered.story.value
    expected = oracle(told.scenario)
    at = int(expected.best()) if told.scenario.gamma is None else told.scenario.gamma
    assert rendered.shown.speedup == pytest.approx(float(expected.speedup[at]))


def test_the_presets_show_what_they_tell() -> None:
    """Each story's claim, by the model: without this a preset could lose its point unnoticed."""
    told = {each.key: predict_scenario(each.scenario) for each in explorer.PRESETS}
    assert told["chat-at-batch-1"].bound == "weights"
    assert told["high-qps-server"].speedup < 1.0 < told["high-qps-server"].over.speedup.max()
    assert told["128k-context"].bound == "kv"
    assert told["moe"].waterfall()["wider verification"] < 0.75
    assert told["the-launch-bound-draft"].bound == "overhead"
    cured = predict_scenario(replace(told["the-launch-bound-draft"].scenario, engine="cuda-graphs"))
    assert cured.speedup > 1.15 * told["the-launch-bound-draft"].speedup
    assert 1.0 < told["laptop"].speedup < told["chat-at-batch-1"].speedup


# Single panels and widgets


@pytest.mark.parametrize(
    "single",
    [explorer.roofline, explorer.speedup_vs_gamma, explorer.speedup_map, explorer.waterfall],
)
def test_a_single_panel_follows_its_own_controls(single: object) -> None:
    made = single(preset="moe", controls=("batch", "alpha"))
    assert list(made.controls) == ["batch", "alpha"]
    assert made.scenario == explorer.preset("moe").scenario
    before = made.png
    made.controls["batch"].value = 64
    assert made.scenario.batch == 64
    assert made.png != before
    made.controls["alpha"].value = 0.0
    made.show(changed(tensor_parallel=16, target="qwen2.5-7b", draft="qwen2.5-0.5b"))
    assert "No prediction" in words(made)


def test_a_single_panel_without_controls_is_moved_by_its_author() -> None:
    made = explorer.speedup_vs_gamma(controls=(), alpha=0.6)
    before = made.png
    made.show(changed(alpha=0.9))
    assert made.png != before


IN_BOTH_GENERATIONS = (
    widgets.VBox, widgets.Box, widgets.HTML, widgets.Image, widgets.Button, widgets.Dropdown,
    widgets.SelectionSlider, widgets.FloatSlider, widgets.BoundedFloatText, widgets.Text,
    widgets.ToggleButtons,
)  # fmt: skip


def test_widgets_are_those_that_ipywidgets_7_and_8_share(live: Explorer) -> None:
    def below(widget: widgets.Widget) -> list[widgets.Widget]:
        inside = [w for child in getattr(widget, "children", ()) for w in below(child)]
        return [widget, *inside]

    found = below(live)
    assert len(found) > 30
    for widget in found[1:]:
        assert type(widget) in IN_BOTH_GENERATIONS
    for name in CHOICES:
        assert live.controls[name].description
    for slider in ("batch", "context", "gamma", "alpha"):
        assert live.controls[slider].continuous_update


def test_a_control_takes_a_value_that_is_not_among_its_choices(live: Explorer) -> None:
    odd = changed(batch=37, context=5000, tensor_parallel=1, alpha=0.123)
    live.show(odd)
    assert live.scenario == odd
    numbers = [option[1] for option in live.controls["batch"].options]
    assert numbers == sorted(numbers)


# Sweeps


def test_a_sweep_is_any_function_over_the_product_of_its_axes() -> None:
    def latency(shown: PredictedScenario) -> float:
        return shown.of("cycle_s") / shown.of("tokens_per_cycle")

    axes = {"accelerator": ["a100-sxm-80gb", "h200-sxm"], "batch": [1, 8, 64]}
    swept = explorer.sweep(latency, axes, alpha=0.7)
    assert swept.values.shape == (2, 3)
    expected = oracle(changed(accelerator="h200-sxm", batch=8, alpha=0.7))
    at = int(expected.best())
    assert swept.values[1, 1] == pytest.approx(
        float(expected.cycle_s[at] / expected.tokens_per_cycle[at])
    )
    assert swept.rows()[4] == {
        "accelerator": "h200-sxm", "batch": 8, "value": swept.values[1, 1],
    }  # fmt: skip


def test_a_sweep_marks_what_is_no_scenario() -> None:
    swept = explorer.sweep(lambda s: s.speedup, {"draft": ["llama-3.2-1b", "qwen3-0.6b"]})
    assert np.isfinite(swept.values).tolist() == [True, False]
    assert "vocabulary" in swept.problems[("qwen3-0.6b",)]


@pytest.mark.parametrize("axes", [{}, {"bacth": [1]}])
def test_a_sweep_refuses_what_is_no_axis(axes: dict[str, list[int]]) -> None:
    with pytest.raises(specsim.SpecsimError, match="there are: target"):
        explorer.sweep(lambda s: s.speedup, axes)


def test_a_sweep_is_drawn_a_curve_for_each_value_of_its_second_axis() -> None:
    axes = {"batch": [1, 4, 16], "draft": ["llama-3.2-1b", "llama-3.2-3b"]}
    swept = explorer.sweep(lambda s: s.speedup, axes)
    (panel,) = swept.figure("speedup (×)", unit_line=True).axes
    drawn = {line.get_label(): line.get_xydata() for line in panel.lines}
    for place, draft in enumerate(axes["draft"]):
        np.testing.assert_array_equal(drawn[f"draft {draft}"][:, 1], swept.values[:, place])
    assert panel.get_ylabel() == "speedup (×)"
    with pytest.raises(specsim.SpecsimError, match="this sweep is over draft"):
        explorer.sweep(lambda s: s.speedup, {"draft": ["llama-3.2-1b"]}).figure()


def test_unknown_values_and_presets_are_refused_by_name() -> None:
    with pytest.raises(specsim.SpecsimError, match="no setting 'bacth'"):
        changed(bacth=1)
    with pytest.raises(specsim.SpecsimError, match="no preset is called 'mow'"):
        Explorer(preset="mow")


# Without what it draws with

WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from specsim import SpecsimError, explorer
print(explorer.sweep(lambda s: s.speedup, {{"batch": [1]}}).values.shape)
try:
    explorer.Explorer()
except SpecsimError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["ipywidgets", "matplotlib"])
def test_without_its_extra_it_imports_and_says_what_is_missing(missing: str) -> None:
    code = WITHOUT.format(missing=missing)
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    shape, said = run.stdout.splitlines()
    assert shape == "(1,)"
    assert said == f"the explorer needs {missing}: pip install 'specsim-llm[notebooks]'"

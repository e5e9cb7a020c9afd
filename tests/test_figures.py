"""The structure of every figure: labels, units, limits and the data in it. Not its pixels."""

import io
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image

import specsim
from specsim import figures, serving
from specsim.cost import step_time
from specsim.evidence.measurement import Timing
from specsim.operators import Workload
from specsim.planning.memory import MEMORY_SHARE, largest_batch
from specsim.planning.sweep import speedup_map
from specsim.prediction import QUANTITIES

TARGET, DRAFT = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
SYSTEM = specsim.system("h200-sxm")
DRAFTER = specsim.DraftModel(DRAFT)
OVER = specsim.predict(TARGET, DRAFTER, SYSTEM, gamma=range(9), alpha=0.8)
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
CYCLES = [
    figures.DraftedCycle(["def", " ", "main", "(\n"], 2, "f$"),
    figures.DraftedCycle(["a_very_long_name", "\t", "=", "0"], 4, "."),
]
ROWS = [figures.Row("n-gram", 1.1), figures.Row("tree", 1.5, 1.3, 1.7, 1.4, (1.2, 1.5))]
SERVED = serving.simulate(
    serving.Server(target=TARGET, system=SYSTEM, max_seqs=1),
    serving.traffic(
        concurrency=2, requests=4, prompt=serving.Lengths(100), output=serving.Lengths(50)
    ),
    policy="off",
)
UNIT = re.compile(r"\(.+\)|^γ|tokens per cycle|TFLOP/s|what reduces")


def drawn(name: str, point) -> figures.NotebookFigure:
    """The figure called `name`, of a small scenario."""
    figure, axes = figures.subplots()
    batch = np.array([1, 4, 16, 64])
    steps = {
        "plain": step_time(TARGET, SYSTEM),
        "wide": step_time(TARGET, SYSTEM, Workload(rows=512)),
    }
    points = [point(gamma) for gamma in (2, 3)]
    if name == "speedup_vs_gamma":
        figures.speedup_vs_gamma(axes, OVER, points)
    elif name == "tokens_vs_gamma":
        figures.tokens_vs_gamma(axes, OVER, points)
    elif name == "times_vs_gamma":
        figures.times_vs_gamma(axes, OVER, points)
    elif name == "cycle_parts":
        figures.cycle_parts(axes, OVER)
    elif name == "waterfall":
        figures.waterfall(axes, OVER, 4)
    elif name == "roofline":
        figures.roofline(axes, SYSTEM, [figures.operating_point("step", "plain", steps["plain"])])
    elif name == "times_vs_width":
        figures.times_vs_width(axes, batch, 1e-3, 1e-4 * batch, [(1, 2e-3, 1e-3, 3e-3)])
    elif name == "step_shares":
        figures.step_shares(axes, steps)
    elif name == "gains":
        figures.gains(axes, {"a": (1.0, 2.0)}, {"one": "speedup", "all": "tokens"})
    elif name == "drafted_cycles":
        figures.drafted_cycles(axes, CYCLES, "two cycles")
    elif name == "coupling":
        figures.coupling(axes, "abc", P, Q, np.minimum(P, Q), P - np.minimum(P, Q), "γ = 1")
    elif name == "distribution_errors":
        figures.distribution_errors(axes, "abc", P, {"right": P, "wrong": Q}, "two rules")
    elif name == "by_method":
        figures.by_method(axes, ROWS, "speedup", "speedup (×)", "two methods")
    elif name == "bars":
        figures.bars(axes, {"a": (1.0, 20.0)}, {"one": "plain", "two": "speedup"}, x="tokens (1/s)")
    elif name == "requests_over_time":
        figures.requests_over_time(axes, SERVED, title="two users, one place")
    elif name == "token_gaps":
        figures.token_gaps(axes, {"one": ([0.1, 0.2], [0.1, 0.1]), "two": ([0.1, 1.1], [0.1, 1])})
    elif name == "layer_shapes":
        figures.layer_shapes(axes, TARGET, rows=4, title="a layer")
    elif name == "curves":
        line = figures.Curve("γ = 4", batch, 1 / batch, measured=[(4, 0.3), (16, 0.1, 0.05, 0.2)])
        figures.curves(axes, [line], "batch (sequences)", "speedup (×)")
    else:
        around = np.array([1.0, 32.0, 512.0])
        found = speedup_map(
            TARGET, DRAFTER, SYSTEM, x=("batch", around), y=("context", 1024 * around), alpha=0.5
        )
        figures.speedup_map(axes, found)
    return figure


EVERY = (
    "speedup_vs_gamma", "tokens_vs_gamma", "times_vs_gamma", "cycle_parts", "waterfall",
    "roofline", "times_vs_width", "step_shares", "gains", "bars", "curves", "speedup_map",
    "drafted_cycles", "coupling", "distribution_errors", "by_method", "requests_over_time",
    "token_gaps", "layer_shapes",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_axes_have_labels_with_units_inside_the_figure(name: str, point) -> None:
    figure = drawn(name, point)
    axes = figure.axes[0]
    assert UNIT.search(axes.get_xlabel()), axes.get_xlabel()
    if axes.get_ylabel():
        assert UNIT.search(axes.get_ylabel()), axes.get_ylabel()
    else:
        assert all(label.get_text() for label in axes.get_yticklabels())
    assert repr(figure).startswith("figure: ")
    assert axes.get_xlabel() in repr(figure)
    figure.draw_without_rendering()
    page = figure.bbox
    for text in filter(lambda t: t.get_text(), (axes.xaxis.label, axes.yaxis.label, axes.title)):
        box = text.get_window_extent()
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1, "a label runs off the figure"


@pytest.mark.parametrize("name", EVERY)
def test_type_is_large_enough_for_a_phone(name: str, point) -> None:
    """On 390 pixels no text is below 8.5: the figure is 5.2 inches wide."""
    figure = drawn(name, point)
    pixels_per_inch = 390 / figure.get_size_inches()[0]
    sizes = [
        text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()
    ]
    assert min(sizes) / 72 * pixels_per_inch >= 8.5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (n % 3 > 0)) for n, name in enumerate(EVERY)],
)
def test_the_same_figure_is_the_same_file(name: str, point) -> None:
    first, second = (figures.png(drawn(name, point)) for _ in range(2))
    assert first == second
    assert len(first) < 40_000
    with Image.open(io.BytesIO(first)) as picture:
        assert "Software" not in picture.info


def test_a_notebook_shows_a_figure_at_its_size_in_inches(point) -> None:
    data, metadata = drawn("curves", point)._repr_png_()
    assert data.startswith(b"\x89PNG")
    assert metadata == {"width": 520, "height": 330}


def test_the_predicted_line_is_the_prediction_and_the_markers_the_points(point) -> None:
    axes = drawn("speedup_vs_gamma", point).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["predicted, 80 % band"].get_ydata(), OVER.speedup)
    (measured,) = (c for c in axes.containers if c.get_label() == "measured")
    expected = [2.2 * 2.4 / (3.0 + 0.5 * gamma + 0.4) for gamma in (2, 3)]
    np.testing.assert_allclose(measured[0].get_ydata().astype(float), expected)


def test_without_measured_points_nothing_is_called_measured() -> None:
    _, axes = figures.subplots(3)
    for panel, draw in zip(
        axes,
        (figures.speedup_vs_gamma, figures.tokens_vs_gamma, figures.times_vs_gamma),
        strict=True,
    ):
        draw(panel, OVER)
        assert "measured" not in str([t.get_text() for t in panel.get_legend().get_texts()])


def test_the_bars_of_a_cycle_add_up_to_it() -> None:
    _, axes = figures.subplots()
    figures.cycle_parts(axes, OVER)
    tops = np.zeros(9)
    for patch in axes.patches:
        gamma = round(patch.get_x() + patch.get_width() / 2)
        tops[gamma] = max(tops[gamma], patch.get_y() + patch.get_height())
    np.testing.assert_allclose(tops, 1e3 * OVER.cycle_s)


def test_the_waterfall_ends_at_the_speedup() -> None:
    _, axes = figures.subplots()
    figures.waterfall(axes, OVER, 4)
    np.testing.assert_allclose(axes.patches[-1].get_height(), OVER.speedup[4])
    np.testing.assert_allclose(axes.patches[0].get_height(), 5.0)


def test_the_shares_of_a_step_add_up_to_it() -> None:
    _, axes = figures.subplots()
    step = step_time(TARGET, SYSTEM)
    figures.step_shares(axes, {"step": step})
    total = sum(patch.get_width() for patch in axes.patches)
    np.testing.assert_allclose(total, 1e3 * step.total_s)


def test_a_pass_lies_below_the_roof_by_its_overheads() -> None:
    ideal = specsim.system("h200-sxm", engine="ideal")
    roof = ideal.bandwidth_bytes_per_s
    on, below = (
        figures.operating_point("step", "plain", step_time(TARGET, s)) for s in (ideal, SYSTEM)
    )
    np.testing.assert_allclose(on.flops_per_s, roof * on.intensity, rtol=1e-6)
    assert below.intensity == on.intensity
    assert below.flops_per_s < 0.9 * on.flops_per_s


def test_curves_of_one_concept_differ_in_shade_and_dash() -> None:
    _, axes = figures.subplots()
    x = [1, 2, 4]
    figures.curves(axes, [figures.Curve(str(i), x, x) for i in range(4)], "x (1)", "y (1)")
    looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.lines}
    assert len(looks) == 4
    assert len({line.get_color() for line in axes.lines}) == 4


def test_the_map_is_white_where_nothing_is_gained() -> None:
    _, axes = figures.subplots()
    values = np.array([1.0, 2.0])
    found = figures.maps.SpeedupMap("gamma", values, "alpha", values, np.eye(2) + 0.5, np.eye(2))
    mesh = figures.speedup_map(axes, found)
    np.testing.assert_allclose(mesh.to_rgba(1.0)[:3], (1, 1, 1), atol=0.02)


def map_of_batches(most: int) -> figures.maps.SpeedupMap:
    batches, contexts = np.array([8.0, most]), np.array([1e3, 3e4, 1e6])
    values = np.ones((3, 2))
    return figures.maps.SpeedupMap("batch", batches, "context", contexts, values, values)


def test_the_line_on_a_map_is_where_memory_ends() -> None:
    asked = {"drafter": DRAFTER, "gamma": 4}
    found = map_of_batches(4096)
    line = figures.where_memory_ends(found, TARGET, SYSTEM, **asked)
    assert line is not None
    np.testing.assert_array_equal(line[:, 1], found.y_values)
    share = asked | {"usable": MEMORY_SHARE}
    fit = [largest_batch(TARGET, SYSTEM, context=context, **share) for context in found.y_values]
    np.testing.assert_array_equal(np.floor(line[:2, 0]), fit[:2])
    whole = figures.where_memory_ends(found, TARGET, SYSTEM, **asked, usable=1.0)
    assert np.all(whole[:2, 0] > line[:2, 0])
    assert fit[2] < 8 == line[2, 0]  # at the left edge
    # the whole map fits, or nobody knows
    small = replace(map_of_batches(int(fit[1])), y_values=np.array([1e3, 3e4]))
    assert figures.where_memory_ends(small, TARGET, SYSTEM, **asked) is None
    unknown = replace(SYSTEM, accelerator=replace(SYSTEM.accelerator, memory_bytes=None))
    assert figures.where_memory_ends(found, TARGET, unknown, **asked) is None


DOCUMENT = {
    "rows": [
        {"scored": True, "measured_s": 0.01, "error_ideal": -0.5, "error_without_source": 0.1},
        {"scored": False, "measured_s": 9.0, "error_ideal": 0.0, "error_without_source": 0.0},
    ],
    "speedups": [{"published": 0.8, "ideal": 1.6, "without_source": 0.9}],
}


def test_published_numbers_stand_beside_both_predictions() -> None:
    times, gains = figures.published(DOCUMENT).axes
    drawn = [tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in times.lines]
    assert drawn[:2] == [pytest.approx((10.0, 5.0)), pytest.approx((10.0, 11.0))]  # ms, scored only
    drawn = [tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in gains.lines]
    assert drawn[:2] == [(0.8, 1.6), (0.8, 0.9)]
    assert drawn[-1][:2] == drawn[-1][2:]  # the line of right predictions
    assert gains.get_xlim() == gains.get_ylim()


def test_policies_are_lines_over_the_rate_and_published_gains_are_markers() -> None:
    line = figures.Curve("no draft", (1, 2), (1.0, 1.5), "plain")
    tree = figures.Curve("tree", (1, 2), (1.6, 1.2), measured=[(1, 1.7)])
    figure = figures.under_load([line], [tree], slo="TTFT ≤ 1 ms", titles=("one", "two"))
    load, gain = figure.axes
    assert load.lines[0].get_ydata().tolist() == [1.0, 1.5]
    assert all(UNIT.search(axis.get_xlabel()) for axis in (load, gain))
    assert all(UNIT.search(axis.get_ylabel()) for axis in (load, gain))
    assert "measured" in gain.get_legend_handles_labels()[1]


def test_the_readmes_figures_are_made_by_one_command(tmp_path, point, capsys, monkeypatch) -> None:
    from specsim.evidence import validation
    from specsim.figures.__main__ import main

    monkeypatch.setattr(validation, "report", lambda: DOCUMENT)
    main([str(tmp_path / "docs"), "--measured", str(tmp_path), "--requests", "8"])
    names = sorted(file.name for file in (tmp_path / "docs").iterdir())
    assert names == ["published.png", "serving.png", "speedup-map.png"]
    assert "demo.png stays as it is" in capsys.readouterr().out


def test_concepts_differ_for_readers_who_see_no_red_or_no_green() -> None:
    """Lightness alone tells the concepts of one figure apart, or their hue on the blue axis."""

    def seen(colour: str) -> np.ndarray:  # luminance, and blue against yellow
        red, green, blue = matplotlib.colors.to_rgb(colour)
        return np.array([0.3 * red + 0.6 * green + 0.1 * blue, blue - (red + green) / 2])

    cycle = ("draft", "verify", "overhead", "cycle", "plain")
    bounds = ("weights", "kv", "compute", "overhead")
    for together in (cycle, bounds):
        for i, one in enumerate(together):
            for other in together[i + 1 :]:
                gap = np.abs(seen(figures.COLOURS[one]) - seen(figures.COLOURS[other])).max()
                assert gap > 0.12, (one, other)


def test_the_projects_style_leaves_the_callers_alone() -> None:
    with matplotlib.rc_context({"font.size": 23.0}):
        figures.curves(
            figures.subplots()[1], [figures.Curve("a", [1, 2], [1, 2])], "x (1)", "y (1)"
        )
        assert matplotlib.rcParams["font.size"] == 23.0


def test_a_timing_is_a_marker_with_its_spread(point) -> None:
    axes = drawn("times_vs_gamma", point).axes[0]
    cycle = Timing(4.4e-3, 4e-3, 5e-3, 50)
    medians = [c[0].get_ydata() for c in axes.containers]
    assert any(np.isclose(values[0], 1e3 * cycle.median).any() for values in medians)


def test_the_draft_step_is_the_mean_of_a_cycle_as_it_is_measured(point) -> None:
    axes = drawn("times_vs_gamma", point).axes[0]
    (line,) = (each for each in axes.lines if each.get_label() == QUANTITIES["draft_step_s"])
    gamma = np.asarray(OVER.gamma)
    assert gamma[0] == 0
    assert np.isnan(line.get_ydata()[0])
    np.testing.assert_allclose(line.get_ydata()[1:], 1e3 * OVER.draft_s[1:] / gamma[1:])


def test_every_token_of_a_cycle_is_drawn_with_its_fate() -> None:
    first, second = CYCLES
    assert first.fates == ["accepted", "accepted", "rejected", "not judged", "corrected"]
    assert second.fates == ["accepted"] * 4 + ["bonus"]
    _, axes = figures.subplots()
    figures.drafted_cycles(axes, CYCLES)
    assert len(axes.patches) == 10
    texts = {text.get_text(): text.get_position() for text in axes.texts}
    assert texts["f\\$"][0] == 2, "the correction stands where the rejected draft stood"
    assert texts["."][0] == 4, "the bonus stands after the last draft"
    assert texts["·"][1] < texts["f\\$"][1]
    assert "a_very_…ame" in texts
    struck = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert len(struck) == 2, "what is not in the text is struck out"
    legend = [t.get_text() for t in axes.get_legend().get_texts()]
    assert legend == ["accepted", "rejected", "not judged", "corrected", "bonus"]


def test_what_comes_out_is_kept_or_drawn_after_a_rejection() -> None:
    _, axes = figures.subplots()
    kept = np.minimum(P, Q)
    figures.coupling(axes, "abc", P, Q, kept, P - kept)
    tops = {}
    for patch in axes.patches:
        x = round(patch.get_x() + patch.get_width() / 2, 3)
        tops[x] = max(tops.get(x, 0), patch.get_y() + patch.get_height())
    heights = [tops[x] for x in sorted(tops)]
    np.testing.assert_allclose(heights, np.column_stack((Q, P)).ravel())


def test_an_exact_distribution_has_no_error_and_a_wrong_one_its_total_variation() -> None:
    _, axes = figures.subplots()
    figures.distribution_errors(axes, "abc", P, {"right": P, "wrong": Q})
    assert [t.get_text() for t in axes.texts] == ["exact", "0.300", "TV"]
    wrong = [patch.get_width() for patch in axes.patches][1::2]
    np.testing.assert_allclose(wrong, Q - P)


def test_a_method_that_was_not_measured_has_no_marker() -> None:
    _, axes = figures.subplots()
    figures.by_method(axes, ROWS, "speedup", "speedup (×)")
    assert len(axes.containers) == 2, "one band, one marker"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["n-gram", "tree"]


def test_the_bars_of_an_error_budget_add_up_to_the_last() -> None:
    factors = {"tokens per cycle": 0.9, "draft": 1.2, "baseline": 0.5}
    _, axes = figures.subplots()
    figures.error_budget(axes, {"a pair": factors, "another": dict.fromkeys(factors, 1.0)})
    *parts, product = [patch.get_width() for patch in axes.containers[0].patches]
    assert sum(parts) == pytest.approx(product)
    assert np.exp(product) == pytest.approx(0.9 * 1.2 * 0.5)
    assert axes.get_yticklabels()[-1].get_text() == "measured ÷ predicted"
    assert all(patch.get_width() == 0 for patch in axes.containers[1].patches)


def test_requests_in_flight_are_those_of_the_run() -> None:
    """Counted one by one, at a time when both users are there and at one after the end."""
    loop = SERVED.loop
    times = np.array([float(loop.first_s[1]) + 1e-4, float(loop.end_s.max()) + 1.0])
    waiting, decoding = figures.in_flight(SERVED, times)
    for at, number in ((0, 0), (1, 1)):
        sent = loop.sent_s <= times[at]
        began, ended = loop.first_s <= times[at], loop.end_s <= times[at]
        assert waiting[at] == np.sum(sent & ~began)
        assert decoding[at] == np.sum(began & ~ended)
        assert (waiting[at] + decoding[at] == 0) == bool(number)
    _, axes = figures.subplots()
    figures.requests_over_time(axes, SERVED)
    assert "1 place" in [t.get_text() for t in axes.get_legend().get_texts()]


def test_the_longest_gap_is_marked() -> None:
    _, axes = figures.subplots()
    figures.token_gaps(axes, {"a": ([0.1, 0.5, 0.6], [0.1, 0.4, 0.1])})
    assert axes.lines[1].get_xydata().tolist() == [[0.5, 400.0]]


def test_the_boxes_of_a_layer_are_its_weights_and_its_cache():
    from specsim.figures.layers import layer_boxes
    from specsim.operators import PRECISIONS, cache_bytes

    boxes = [box for row in layer_boxes(TARGET, 2048) for box in row]
    weights = sum(box.numbers for box in boxes if box.concept == "weights")
    norms = 2 * TARGET.hidden_size
    tables = 2 * TARGET.vocab_size * TARGET.hidden_size + TARGET.hidden_size
    assert TARGET.num_layers * (weights + norms) + tables == TARGET.parameters
    cached = sum(box.numbers for box in boxes if box.concept == "kv")
    one = cache_bytes(TARGET, PRECISIONS["bf16"], batch=1, slots=2048)
    assert 2 * TARGET.num_layers * cached == float(one)
    with pytest.raises(specsim.SpecsimError, match="a gated MLP, which qwen3-30b-a3b"):
        layer_boxes(specsim.model("qwen3-30b-a3b"), 1)


def test_the_texts_of_a_layer_stay_inside_their_boxes():
    figure, axes = figures.subplots(height=4.4)
    figures.layer_shapes(axes, specsim.model("llama-3-70b"), context=131072)
    figure.draw_without_rendering()
    patches = [patch.get_window_extent() for patch in axes.patches]
    texts = [t.get_window_extent() for t in axes.texts if "\n" in t.get_text()]
    assert len(texts) == len(patches)
    for box, text in zip(patches, texts, strict=True):
        assert box.x0 <= text.x0
        assert text.x1 <= box.x1

"""The listed points: their content, the reserved ones, and invalid files."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest

from reference.lab.probes.products import FORMAT_STACKS, STACKS
from reference.lab.probes.stages import PAIRS, probe_architecture
from reference.lab.suites.points import PARTS, SUITES, PlannedPoint, load_suite
from specsim.checks import SpecsimError

PREDICTED = ("plain", "verify", "speculation", "trained")  # the parts with reserved points
GOOD = '{ name = "a", part = "plain", target = "llama-3.1-8b" }'


@pytest.fixture(params=sorted(SUITES))
def suite(request):
    return load_suite(request.param)


def test_the_gpu_suite_is_as_large_as_announced():
    points = load_suite("gpu").points
    assert 140 <= len(points) <= 170
    assert {point.part for point in points} == set(PARTS) - {"probes"}


def test_a_third_is_reserved_in_every_part_that_is_predicted(suite):
    for part in PREDICTED:
        points = suite.of(part)
        share = sum(point.reserved for point in points) / len(points)
        assert abs(share - 1 / 3) <= 0.5 / len(points) + 1e-12, part
    assert not any(point.reserved for point in suite.of("peer"))


def reserved_names(points: Iterable[PlannedPoint]) -> set[str]:
    """Of every predicted part, the third of its names with the smallest SHA-256."""
    points, reserved = list(points), set()
    for part in PREDICTED:
        names = [point.name for point in points if point.part == part]
        names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        reserved |= set(names[: round(len(names) / 3)])
    return reserved


def test_the_names_alone_decide_which(suite):
    assert {point.name for point in suite.points if point.reserved} == reserved_names(suite.points)
    assert reserved_names(reversed(suite.points)) == reserved_names(suite.points)


def test_reserved_points_are_spread_over_models_and_batches():
    reserved = [point for point in load_suite("gpu").points if point.reserved]
    assert len({point.target for point in reserved}) >= 4
    assert len({point.batch for point in reserved}) >= 4
    assert len({point.gamma for point in reserved}) >= 6


def test_points_that_share_models_stand_together(suite):
    for part in PARTS[1:]:
        pairs = [point.pair for point in suite.of(part)]
        changes = sum(one != other for one, other in pairwise(pairs))
        assert changes == len(set(pairs)) - 1, part


def test_no_probe_has_the_shape_of_a_measured_model(suite):
    probed = {*STACKS, *FORMAT_STACKS}
    probed |= {size for pair in PAIRS for size in (pair.target, pair.draft)}
    models = [suite.architecture(p.target) for p in suite.points if p.target != "trained"]
    models += [
        suite.architecture(p.draft) for p in suite.points if p.draft and p.draft_layers is None
    ]
    assert models
    for model in models:
        assert (model.hidden_size, model.num_layers) not in probed
        for hidden, layers in probed:
            probe = probe_architecture(hidden, layers)
            assert probe.hidden_size != model.hidden_size or probe.num_layers != model.num_layers


def test_each_scenario_is_listed_once(suite):
    scenarios = Counter(
        tuple(getattr(p, f) for f in PlannedPoint.__slots__ if f not in ("name", "reserved"))
        for p in suite.points
    )
    assert max(scenarios.values()) == 1


def test_gammas_of_a_scenario_reach_past_the_best(suite):
    """A best gamma can be judged only where several of one scenario are measured."""
    scenarios = Counter(
        (p.pair, p.alpha, p.batch, p.context, p.temperature, p.mode)
        for p in suite.of("speculation")
    )
    assert max(scenarios.values()) >= 4


def listed(more: str = "", point: str = GOOD) -> str:
    """A file of one point, with more fields."""
    return "points = [" + point.replace(" }", f", {more} }}" if more else " }") + "]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("points = [", "not valid TOML"),
        ("points = []", "must hold shapes and points"),
        (listed() + "\n[others]", "must hold shapes and points"),
        (f"points = [{GOOD}, {GOOD}]", "two points are called 'a'"),
        ('points = [{ part = "plain" }]', "missing"),
        (listed().replace('"plain"', '"plane"'), "part must be one of plain"),
        (listed("batches = 2"), "unknown 'batches'"),
        (listed("batch = 0"), "batch must be a whole number >= 1"),
        (listed("batch = 1.5"), "batch must be a whole number"),
        (listed("gamma = 2"), "gamma = 2 does not go with 'plain'"),
        (listed('mode = "fast"'), "mode must be one of eager"),
        (listed("alpha = 1.5"), "alpha must be inside"),
        (listed('gamma = 2, method = "draft-model"'), "needs a draft and an alpha"),
        (
            listed('gamma = 2, method = "draft-model", draft = "llama-3.2-1b", alpha = 0.7'),
            "set synthetic = true",
        ),
        (listed() + "\n[shapes.x]\nhidden_size = 3", "shape 'x'"),
        ('points = ["a"]', "must hold shapes and points"),
        ("points = 3", "must hold shapes and points"),
        (listed() + "\n[shapes]\nx = 3", "must hold shapes and points"),
        ("a = " + "[" * 9_000, "not valid TOML"),
        ("a = " + "9" * 5_000, "not valid TOML"),
        (listed().replace('"plain"', "3"), "part must be a str, not 3"),
        (listed('alpha = "0.5"'), "alpha must be a float"),
        (listed('reserved = "yes"'), "reserved must be a bool"),
        (listed("batch = true"), "batch must be a whole number"),
        (listed("batch = 1" + "0" * 400), "batch must be at most 1,000,000"),
        (listed("temperature = nan"), "temperature must be a finite number"),
        (listed('draft = "first-x"'), "draft must be first-K"),
    ],
)
def test_a_line_that_cannot_be_measured_is_refused(tmp_path, text, says):
    file = tmp_path / "points.toml"
    file.write_text(text)
    with pytest.raises(SpecsimError, match=says):
        load_suite(file)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "points.toml"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(SpecsimError, match="not valid TOML"):
        load_suite(file)


def test_an_unknown_suite_names_the_known_ones():
    with pytest.raises(SpecsimError, match="known: gpu, cpu"):
        load_suite("tpu")

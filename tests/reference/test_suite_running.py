"""A suite run whole on tiny shapes: every part, interrupted and resumed, skipped and failed."""

import json
from dataclasses import replace

import pytest
import torch

from reference.__main__ import main
from reference.chunked_attention import LONG, chunked_from, read_in_chunks_from
from reference.lab import drift
from reference.lab.drift import DriftProbe
from reference.lab.suites import budget, running
from reference.lab.suites.measuring import Measurer
from reference.lab.suites.points import load_suite
from reference.lab.suites.running import machine_name, run_suite
from reference.lab.suites.variants import MORE_DRAWN, Effort, interleaved
from reference.memory import DoesNotFit
from reference.statistics import Statistics
from specsim.checks import SpecsimError
from specsim.evidence.measurement import Environment, Measurement

POINTS = """
points = [
  { name = "p1", part = "plain", target = "tiny", context = 24 },
  { name = "p3", part = "plain", target = "tiny", batch = 3, context = 16, reserved = true },
  { name = "v4", part = "verify", target = "tiny", method = "given", gamma = 3, context = 24 },
  { name = "d", part = "speculation", target = "tiny", method = "draft-model", draft = "first-1", alpha = 0.6, gamma = 2, batch = 2, context = 20 },
  { name = "t", part = "trained", precision = "fp32", target = "trained", method = "draft-model", gamma = 2, context = 100 },
  { name = "n", part = "trained", precision = "fp32", target = "trained", method = "n-gram", gamma = 2, context = 100, temperature = 0.0 },
  { name = "e", part = "trained", precision = "fp32", target = "trained", method = "early-exit", draft = "first-2", gamma = 1, context = 100 },
]

[shapes.tiny]
hidden_size = 32
num_layers = 3
num_heads = 4
num_kv_heads = 2
head_dim = 8
intermediate_size = 48
vocab_size = 61
max_context = 128
"""  # noqa: E501
EFFORT = Effort(0.002, 2, 2, 4, 3, 4, 4, 8)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def small_drift_probe():
    """A matrix of its usual size takes longer to make than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "SIDE_ELSEWHERE", 256)
        yield


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    file = tmp_path_factory.mktemp("suite") / "points.toml"
    file.write_text(POINTS)
    return load_suite(file)


def run(suite, out, *parts, **options) -> tuple[int, str]:
    said: list[str] = []
    failed = run_suite(
        suite, parts, out, CPU, effort=EFFORT, machine="m", say=said.append, **options
    )
    return failed, "\n".join(said)


def names(file) -> list[str]:
    return [point.name for point in Measurement.read(file).points]


@pytest.fixture(scope="module")
def measured(suite, tmp_path_factory):
    """Every part, run once."""
    out = tmp_path_factory.mktemp("measurements")
    failed, said = run(suite, out, "plain", "verify", "speculation", "trained")
    assert failed == 0, said
    files = [out / "m" / f"{part}.json" for part in ("plain", "verify", "speculation", "trained")]
    return {point.name: point for file in files for point in Measurement.read(file).points}


def test_every_part_is_measured(measured):
    assert list(measured) == ["p1", "p3", "v4", "d", "t", "n", "e"]
    for point in measured.values():
        assert point.step_s is not None
        assert point.step_s.n >= 2
        assert point.cycle_s.p10 <= point.cycle_s.median <= point.cycle_s.p90
        assert point.tokens_per_s > 0
    assert [point.name for point in measured.values() if point.reserved] == ["p3"]


def test_a_plain_point_is_its_own_baseline(measured):
    plain = measured["p1"]
    assert plain.step_s == plain.cycle_s
    assert plain.calibration_survival is None
    assert "noise" in plain.notes


def test_given_drafts_widen_the_pass_and_cost_nothing(measured):
    wide = measured["v4"]
    assert wide.scenario.gamma == 3
    assert wide.scenario.draft is None
    assert wide.draft_step_s is None
    assert wide.calibration_survival is None


def test_acceptance_is_calibrated_on_other_prompts(measured):
    point = measured["d"]
    assert len(point.calibration_survival) == 2
    assert point.tokens_error > 0
    assert point.scenario.draft.num_layers == 1
    counted = sum(point.accepted_histogram)
    assert counted > point.verify_step_s.n  # more cycles are counted than timed
    assert point.tokens_per_cycle == pytest.approx(1 + sum(point.survival))


def test_every_method_of_a_trained_pair(measured):
    assert measured["n"].scenario.draft is None
    assert measured["n"].scenario.rule == "greedy"
    assert measured["e"].scenario.draft.num_layers == 2
    assert measured["t"].scenario.context > 80


def test_what_is_there_is_not_measured_again(suite, tmp_path, monkeypatch):
    run(suite, tmp_path, "plain")
    before = (tmp_path / "m" / "plain.json").read_bytes()
    monkeypatch.setattr(Measurer, "measure", None)  # it would fail if it were called
    failed, said = run(suite, tmp_path, "plain")
    assert failed == 0
    assert "2 points are in" in said
    assert (tmp_path / "m" / "plain.json").read_bytes() == before


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(suite, tmp_path, monkeypatch):
    measure, calls = Measurer.measure, []

    def interrupted(self, point, models):
        calls.append(point.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, point, models)

    monkeypatch.setattr(Measurer, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(suite, tmp_path, "plain")
    file = tmp_path / "m" / "plain.json"
    assert names(file) == ["p1"]
    failed, said = run(suite, tmp_path, "plain")
    assert failed == 0
    assert "1 points are in" in said
    assert names(file) == ["p1", "p3"]
    assert calls == ["p1", "p3", "p3"]
    assert not list(tmp_path.rglob("*.new"))


def test_a_point_that_fails_is_named_and_the_next_is_measured(suite, tmp_path, monkeypatch, capfd):
    measure = Measurer.measure

    def failing(self, point, models):
        if point.name == "p1":
            raise RuntimeError("no kernel image\nfor this device")
        return measure(self, point, models)

    monkeypatch.setattr(Measurer, "measure", failing)
    failed, said = run(suite, tmp_path, "plain")
    assert failed == 1
    assert "p1: failed: RuntimeError: no kernel image" in said
    assert names(tmp_path / "m" / "plain.json") == ["p3"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (DoesNotFit("the keys need 9 GB of memory; 1 GB are free"), "the keys need 9 GB of memory"),
    ],
    ids=["while it runs", "before"],
)
def test_memory_that_runs_out_is_a_skip(suite, tmp_path, monkeypatch, error, sentence):
    def full(self, point, models):
        raise error

    monkeypatch.setattr(Measurer, "measure", full)
    failed, said = run(suite, tmp_path, "plain")
    assert failed == 0
    assert f"p1: skipped: {sentence}" in said


def test_what_does_not_fit_is_skipped_with_a_sentence(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "free_bytes", lambda device: 1e6)
    failed, said = run(suite, tmp_path, "plain")
    assert failed == 0
    assert "p3: skipped: it needs 0.3 GB and 0.0 GB are free" in said
    assert not (tmp_path / "m" / "plain.json").exists()


def test_graphs_without_a_gpu_are_skipped_with_a_sentence(suite, tmp_path):
    points = tuple(replace(point, mode="cuda-graphs") for point in suite.of("plain"))
    failed, said = run(replace(suite, points=points), tmp_path, "plain")
    assert failed == 0
    assert "p1: skipped: CUDA graphs need a CUDA device" in said


def test_a_limit_of_minutes_stops_before_the_point_that_passes_it(suite, tmp_path):
    failed, said = run(suite, tmp_path, "plain", minutes=0.0)
    assert failed == 2, "an incomplete part would look complete"
    assert "stopped after 0.0 minutes with 2 points left" in said
    assert not (tmp_path / "m" / "plain.json").exists()


def test_a_dry_run_plans_and_measures_nothing(suite, tmp_path):
    failed, said = run(suite, tmp_path, "plain", "speculation", dry_run=True)
    assert failed == 0
    assert "p3: about" in said
    assert "reserved" in said
    assert "plain: 2 of 2 points to measure, about" in said
    assert not (tmp_path / "m").exists()


def test_another_machines_file_is_not_added_to(suite, tmp_path, monkeypatch):
    run(suite, tmp_path, "plain")
    file = tmp_path / "m" / "plain.json"
    data = json.loads(file.read_text())
    data["environment"]["device"] = "another machine"
    data["points"].pop()
    file.write_text(json.dumps(data))
    with pytest.raises(SpecsimError, match="was measured on another machine"):
        run(suite, tmp_path, "plain")


def test_a_point_that_another_run_added_is_kept_and_not_measured_again(
    suite, tmp_path, monkeypatch
):
    """Another run measures p3 while this one measures p1."""
    measure, calls = Measurer.measure, []

    def beside(self, point, models):
        calls.append(point.name)
        measured = measure(self, point, models)
        other = Measurement(running.environment(CPU))
        other.add_to(tmp_path / "m" / "plain.json", replace(measured, name="p3"))
        return measured

    monkeypatch.setattr(Measurer, "measure", beside)
    failed, said = run(suite, tmp_path, "plain")
    assert (failed, calls) == (0, ["p1"])
    assert "p3: measured by another run meanwhile" in said
    assert sorted(names(tmp_path / "m" / "plain.json")) == ["p1", "p3"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"environment": 3}', "\xff", '{"environment": {"drift_s": "1"}}',
     '{"environment": {"drift_s": NaN}}'],
)  # fmt: skip
def test_a_broken_calibration_is_named(suite, tmp_path, content):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "calibration.json").write_text(content, encoding="latin-1")
    with pytest.raises(SpecsimError, match=r"calibration\.json") as refused:
        run(suite, tmp_path, "plain")
    assert "\n" not in str(refused.value)


def test_a_place_that_cannot_be_written_is_noticed_before_anything_is_measured(
    suite, tmp_path, monkeypatch
):
    monkeypatch.setattr(Measurer, "measure", None)  # it would fail if it were called
    (tmp_path / "m").write_text("")
    for part in ("plain", "probes"):
        with pytest.raises(SpecsimError, match="cannot write"):
            run(suite, tmp_path, part)


@pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf")])
def test_minutes_that_are_none_are_refused(suite, tmp_path, minutes):
    with pytest.raises(SpecsimError, match="--minutes must be a finite number >= 0"):
        run(suite, tmp_path, "plain", minutes=minutes)


def test_drift_is_relative_to_the_time_at_calibration(suite, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "calibration.json").write_text('{"environment": {"drift_s": 0.1}}')
    monkeypatch.setattr(DriftProbe, "now_s", lambda probe, mode: 0.025)
    run(suite, tmp_path, "plain")
    measurement = Measurement.read(folder / "plain.json")
    assert [point.drift for point in measurement.points] == [0.25, 0.25]
    assert measurement.calibration == "calibration.json"


@pytest.mark.parametrize(
    ("calibration", "limit"),
    [('{"environment": {"chunked_from": 512}}', 512), ('{"environment": {}}', LONG), (None, LONG)],
)
def test_attention_is_read_in_chunks_from_where_the_probes_say(
    suite, tmp_path, monkeypatch, calibration: str | None, limit: int
):
    (tmp_path / "m").mkdir()
    if calibration:
        (tmp_path / "m" / "calibration.json").write_text(calibration)
    measure, limits = Measurer.measure, []

    def seen(self, point, models):
        limits.append(chunked_from())
        return measure(self, point, models)

    monkeypatch.setattr(Measurer, "measure", seen)
    run(suite, tmp_path, "plain")
    assert limits == [limit, limit]
    assert chunked_from() == LONG


def test_a_gpus_points_say_how_they_were_read():
    measurer = Measurer.__new__(Measurer)
    measurer.device = CPU
    assert measurer.reading() == ""
    measurer.device = torch.device("cuda")
    with read_in_chunks_from(512):
        assert measurer.reading() == "; windows of 512 slots and more read in chunks"


def test_an_unknown_part_names_the_known_ones(suite, tmp_path):
    with pytest.raises(SpecsimError, match="known: probes, plain"):
        run(suite, tmp_path, "plane")


def test_machines_have_folders_of_their_own():
    env = Environment("NVIDIA H200", "2.11.0", "3.12.3", 16, "2026-01-01")
    assert machine_name(env, torch.device("cuda")) == "nvidia-h200"
    assert machine_name(replace(env, threads=2), CPU) == "cpu-2core"


def test_a_larger_point_needs_more(suite):
    cache = running.ModelCache(suite, CPU)
    small, large = suite.of("plain")
    large = replace(large, batch=64, context=100)
    needs = [budget.need(point, cache, EFFORT, 1e9, True) for point in (small, large)]
    assert needs[0].memory_bytes < needs[1].memory_bytes
    fresh = budget.need(small, cache, EFFORT, 1e9, False)
    assert fresh.seconds > needs[0].seconds


def test_the_command_line_plans_a_suite(tmp_path, capsys):
    arguments = ["measure", "--suite", "cpu", "--part", "plain", "--dry-run", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "minutes" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path), "--part", "plane"]) == 2
    assert "unknown part 'plane'" in capsys.readouterr().err


def fake_variant(seconds: list[float]):
    """A variant whose rounds take the listed seconds, one after another."""
    left = iter(seconds)

    def run(cycles: int, seed: int) -> Statistics:
        took = next(left) if seed else 1.0
        statistics = Statistics(0)
        statistics.add_cycle([0], [0], [0.0, took, 0.0, 0.0])
        return statistics

    return run


def test_a_disturbed_round_is_left_out_for_every_variant():
    variants = {"a": fake_variant([1.0, 5.0, 1.1]), "b": fake_variant([2.0, 2.0, 2.0])}
    totals, kept, left_out = interleaved(variants, EFFORT, lambda: None)
    assert (kept, left_out) == (2, 1)
    assert totals["a"].verify_times == [1.0, 1.1]
    assert totals["b"].verify_times == [2.0, 2.0]


def test_a_machine_that_never_settles_is_measured_all_the_same():
    variants = {"a": fake_variant([float(2**n) for n in range(10)])}
    totals, kept, left_out = interleaved(variants, EFFORT, lambda: None)
    assert (kept, left_out) == (1, 3 * EFFORT.rounds - 1)
    assert totals["a"].verify_times == [1.0]


@pytest.mark.gpu
def test_on_a_gpu_every_part_runs_in_graphs(suite, tmp_path):
    """In graphs and eagerly, synthetic and real; the points say that windows are powers of two."""
    graphs = [replace(point, mode="cuda-graphs") for point in suite.points]
    drawn = next(point for point in graphs if point.name == "d")
    drawn = replace(drawn, name="drawn", synthetic=True)
    points = (*graphs, drawn, replace(suite.of("plain")[0], name="eager"))
    said: list[str] = []
    parts = ("plain", "verify", "speculation", "trained")
    failed = run_suite(
        replace(suite, points=points), parts, tmp_path, torch.device("cuda"),
        effort=EFFORT, machine="m", say=said.append,
    )  # fmt: skip
    assert failed == 0, "\n".join(said)
    files = [tmp_path / "m" / f"{part}.json" for part in parts]
    measured = {point.name: point for file in files for point in Measurement.read(file).points}
    assert set(measured) == {point.name for point in points}
    for point in measured.values():
        assert point.scenario.allocated_context >= 256
        assert point.peak_memory_bytes > 0
    assert measured["drawn"].synthetic_acceptance


def test_points_that_need_too_long_are_skipped_with_their_seconds(suite, tmp_path) -> None:
    said: list[str] = []
    run_suite(
        suite, ["plain"], tmp_path, CPU, effort=EFFORT, machine="m", say=said.append, longest=0
    )
    assert sum("which is more than 0" in line for line in said) == len(suite.of("plain"))
    assert not (tmp_path / "m" / "plain.json").is_file()
    with pytest.raises(SpecsimError, match="--longest"):
        run_suite(suite, ["plain"], tmp_path, CPU, machine="m", longest=-1)


def test_drawn_accept_counts_are_counted_in_many_short_texts(suite, tmp_path) -> None:
    (drawn,) = (replace(p, synthetic=True) for p in suite.points if p.name == "d")
    assert (
        run_suite(
            replace(suite, points=(drawn,)),
            ["speculation"],
            tmp_path,
            CPU,
            effort=EFFORT,
            machine="m",
        )
        == 0
    )
    (point,) = Measurement.read(tmp_path / "m" / "speculation.json").points
    assert sum(point.accepted_histogram) >= MORE_DRAWN * EFFORT.counted * EFFORT.counted_cycles

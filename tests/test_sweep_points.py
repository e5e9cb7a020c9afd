"""A sweep's file, its points, their keys, and the store of their results."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specsim
from specsim import serving
from specsim.checks import SpecsimError
from specsim.scenario.sweeping import (
    SweepPlan,
    SweepPoint,
    SweepStore,
    metric_named,
    plan_of,
    read_plan,
    run_sweep,
    summarise_sweep,
    usual_metric,
)
from specsim.scenario.sweeping.points import compute_point
from specsim.scenario.sweeping.store import HEADER

PAIR = {"target": "llama-3.1-8b", "draft": "llama-3.2-1b", "accelerator": "h100-sxm"}
LOAD = {"rate": 5.0, "requests": 30, "output": "20", "policy": "fixed:2"}
PLAN = plan_of("predict", PAIR, {"batch": [1, 8], "alpha": [0.5, 0.7, 0.9]})


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "axes.toml"
    path.write_text(text)
    return path


# --------------------------------------------------------------------------------------- axes


def test_axes_are_combined_the_last_one_fastest(tmp_path: Path) -> None:
    path = written(tmp_path, """
        kind = "serve-sim"
        target = "llama-3.1-8b"
        batch = 3                   # of another kind of point: without effect
        [axes]
        policy = ["off", "best"]
        rate = {from = 1, to = 100, steps = 3, log = true}
        max-seqs = {from = 1, to = 4, steps = 9}
        slo = ["ttft:500", ["ttft:500", "tpot:15"]]
        """)  # fmt: skip
    plan = read_plan(path)
    assert plan.axes["rate"] == (1.0, 10.0, 100.0)
    assert plan.axes["max_seqs"] == (1, 2, 3, 4)  # whole: rounded, each once
    assert plan.axes["slo"] == (("ttft:500",), ("ttft:500", "tpot:15"))
    points = list(plan)
    assert len(points) == len(plan) == 2 * 3 * 4 * 2
    assert points[1].settings == {
        "target": "llama-3.1-8b", "policy": "off", "rate": 1.0, "max_seqs": 1,
        "slo": ("ttft:500", "tpot:15"),
    }  # fmt: skip
    assert len({point.key for point in points}) == len(points)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs axes"),
        ("axes = 3", "needs axes"),
        ("[axes]", "needs axes"),
        ("[axes]\nbatch = []", "axis batch is empty"),
        ("[axes]\nbatch = 3", "must be a list, as [1, 8, 64], or a range"),
        ("[axes]\nbatch = [1.5]", "axis batch must be a whole number, not 1.5"),
        ("[axes]\nbatch = [1, 'x']", "must be a whole number, not 'x'"),
        ("[axes]\nbatch = [1, 2, 1]", "axis batch has 1 twice"),
        ("[axes]\nbath = [1]", "unknown key 'bath'; the nearest is 'batch'"),
        ("targt = 'x'\n[axes]\nbatch = [1]", "unknown key 'targt'; the nearest is 'target'"),
        ("batch = 1\n[axes]\nbatch = [1]", "an axis and fixed too"),
        ("[axes]\ntp = [1]\ntensor-parallel = [2]", "two axes are tensor_parallel"),
        ("[axes]\nbatch = {from = 1, to = 9}", "a range needs steps"),
        ("[axes]\nbatch = {from = 1, to = 9, stepz = 3}", "nearest is 'steps'"),
        ("[axes]\nbatch = {from = 1, to = 9, steps = 1}", "at least 2 steps"),
        ("[axes]\nbatch = {from = 1, to = 9, steps = 'x'}", "steps must be a whole number"),
        ("[axes]\nbatch = {from = 1, to = 9, steps = 3, log = 1}", "log must be true or false"),
        ("[axes]\nalpha = {from = 0, to = 1, steps = 3, log = true}", "from and to above 0"),
        ("[axes]\nalpha = {from = 0, to = inf, steps = 3}", "must be finite"),
        ("[axes]\nalpha = {from = 0, to = 1, steps = 99999999999}", "at most 1,000,000"),
        ("[axes]\nalpha = {from = 0, to = 1, steps = 9999}\n"
         "context = {from = 1, to = 2000, steps = 2000}", "points must be at most 10,000,000"),
        ("kind = 'guess'\n[axes]\nbatch = [1]", "kind must be predict, serve-sim, measure"),
        ("kind = 3\n[axes]\nbatch = [1]", "kind must be"),
        ("kind = 'serve-sim'\n[axes]\nbatch = [1]", "batch has no effect in serve-sim"),
        ("kind = 'measure'\n[axes]\nrate = [1]", "unknown key 'rate'"),
        ("[axes", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecsimError) as caught:
        read_plan(written(tmp_path, text))
    assert said in str(caught.value)
    assert "axes.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_million_points_are_made_one_by_one() -> None:
    plan = plan_of("predict", PAIR, {
        "alpha": {"from": 0.0, "to": 0.999, "steps": 1000},
        "context": {"from": 1, "to": 1000, "steps": 1000},
    })  # fmt: skip
    assert len(plan) == 1_000_000
    assert next(iter(plan)).settings["context"] == 1


# ---------------------------------------------------------------------------------- one point


def test_a_point_is_what_the_model_says() -> None:
    (point, outcome), *_ = run_sweep([SweepPoint("predict", PAIR | {"alpha": 0.8})]).rows()
    assert outcome is not None
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    system = specsim.system("h100-sxm", precision="auto").storing(target)
    drafter = specsim.DraftModel(draft, precision="auto")
    over = specsim.predict(target, drafter, system, gamma=drafter.gammas, alpha=0.8)
    assert outcome["result"]["speedup"] == pytest.approx(over.speedup.max())
    assert outcome["result"]["gamma"] == int(over.gamma[over.best()])
    assert point.settings["alpha"] == 0.8

    plain = run_sweep([SweepPoint("predict", {k: v for k, v in PAIR.items() if k != "draft"})])
    ((_, outcome),) = plain.rows()
    assert outcome is not None
    assert outcome["result"]["speedup"] is None
    assert outcome["result"]["step_s"] == pytest.approx(float(over.step_s))


def test_a_simulated_point_is_what_the_simulator_says() -> None:
    ((_, outcome),) = run_sweep([SweepPoint("serve-sim", PAIR | LOAD | {"alpha": 0.8})]).rows()
    assert outcome is not None
    target = specsim.model("llama-3.1-8b")
    server = serving.Server(
        target=target, system=specsim.system("h100-sxm", precision="auto").storing(target),
        drafter=specsim.DraftModel(specsim.model("llama-3.2-1b"), precision="auto"),
    )  # fmt: skip
    load = serving.traffic(rate=5.0, requests=30, prompt=serving.Lengths(400, 0.8),
                           output=serving.Lengths(20))  # fmt: skip
    run = serving.simulate(server, load, policy="fixed:2", alpha=0.8)
    for name in ("output_throughput", "p99_ttft_ms", "duration"):
        assert outcome["result"][name] == run.summary[name]
    assert outcome["result"]["gamma_mostly"] == 2


def key(kind: str = "serve-sim", **changes: Any) -> str:
    settings: Mapping[str, Any] = PAIR | LOAD | {"alpha": 0.8}
    if kind == "predict":
        settings = PAIR | {"alpha": 0.8}
    return SweepPoint(kind, {**settings, **changes}).key


def test_a_key_is_of_the_settings_the_seed_the_version_and_not_of_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = PAIR | LOAD | {"alpha": 0.8}
    turned = dict(reversed(settings.items()))
    assert list(turned) != list(settings)
    assert SweepPoint("serve-sim", turned).key == key()
    assert key(seed=0) == key()  # a default that is written down is the same point
    assert key(kind="predict", batch=1) == key(kind="predict")
    changed = [key(seed=1), key(alpha=0.81), key(rate=6.0), key(slo=("ttft:5",)), key("predict")]
    assert len({key(), *changed}) == 6
    before = key()
    monkeypatch.setattr(specsim, "__version__", "99.0")
    assert key() != before


def test_a_key_is_of_what_is_in_the_files(tmp_path: Path) -> None:
    from specsim.scenario.sweeping import points

    path, found = tmp_path / "lengths.txt", []
    for content in ("10\n20\n", "10\n30\n", "10\n20\n"):
        path.write_text(content)
        points._content.cache_clear()
        found.append(key(output=str(path)))
    assert found[0] == found[2] != found[1]


# ----------------------------------------------------------------------------------- the store


def quick(point: SweepPoint) -> dict[str, Any]:
    """A result as long as that of the model, where it is the store that is put to the test."""
    return {"speedup": 1 + point.settings["alpha"], "text": "x" * 400}


def counted(plan: Any, store: Path | None, compute: Any = quick, **more: Any) -> tuple[int, int]:
    """Points computed, and errors among them."""
    done = run_sweep(plan, store=store, compute=compute, **more)
    return done.progress.computed, done.progress.errors


def test_a_second_run_computes_nothing_and_a_larger_one_what_is_new(tmp_path: Path) -> None:
    store = tmp_path / "x.jsonl"
    assert counted(PLAN, store, compute_point) == (6, 0)
    before = store.read_bytes()
    assert counted(PLAN, store) == (0, 0)
    assert store.read_bytes() == before
    assert counted(plan_of("predict", PAIR, {"alpha": [0.9, 0.95], "batch": [8]}), store) == (1, 0)
    assert counted(PLAN, None) == (6, 0)  # in memory nothing is left
    kept = [outcome["result"] for _, outcome in run_sweep(PLAN, store=store).rows()]
    assert kept == [outcome["result"] for _, outcome in run_sweep(PLAN).rows()]


def test_a_point_that_raises_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    plan = plan_of("predict", PAIR | {"alpha": 0.8}, {"engine": ["ideal", "nope", "vllm"]})
    store = tmp_path / "x.jsonl"
    assert counted(plan, store, compute_point) == (3, 1)
    outcomes = [outcome for _, outcome in run_sweep(plan, store=store).rows()]
    assert "no engine is called 'nope'" in outcomes[1]["error"]
    assert outcomes[2]["result"]["speedup"] > 1
    assert counted(plan, store) == (0, 0)
    assert counted(plan, store, compute_point, retry=True) == (1, 1)

    def mended(point: SweepPoint) -> dict[str, Any]:
        return {"speedup": 2.0, "seen": float("inf")}

    assert counted(plan, store, retry=True, compute=mended) == (1, 0)
    again = run_sweep(plan, store=store)
    assert again.outcome(list(plan)[1])["result"] == {"speedup": 2.0, "seen": "inf"}
    assert counted(plan, store, retry=True) == (0, 0)  # of two lines the later one holds


def test_an_error_of_any_kind_is_a_sentence(tmp_path: Path) -> None:
    def broken(point: SweepPoint) -> dict[str, Any]:
        raise ZeroDivisionError("a\nb")

    ((_, outcome),) = run_sweep([SweepPoint("predict", PAIR)], compute=broken).rows()
    assert outcome["error"] == r"ZeroDivisionError: a\nb"


@pytest.mark.parametrize("left", [1, 40, -1])
def test_half_a_line_at_the_end_is_dropped_and_its_point_computed_again(
    tmp_path: Path, left: int
) -> None:
    store = tmp_path / "x.jsonl"
    counted(PLAN, store)
    whole = store.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    store.write_bytes(whole[: last + left] if left > 0 else whole[:left])
    assert counted(PLAN, store) == (1, 0)
    lines = store.read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    assert all(json.loads(line) and line.endswith(b"\n") for line in lines)
    assert lines[:6] == whole.splitlines(keepends=True)[:6]
    # what a power failure leaves: a line of zeros, with its end
    store.write_bytes(whole[:last] + b"\0" * 100 + b"\n")
    assert counted(PLAN, store) == (1, 0)


@pytest.mark.parametrize("content", [b"", HEADER[:5], HEADER[:-1], HEADER])
def test_a_store_that_was_hardly_begun_is_begun_again(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "x.jsonl"
    store.write_bytes(content)
    assert counted(PLAN, store) == (6, 0)
    assert store.read_bytes().startswith(HEADER + b'{"key":')


@pytest.mark.parametrize("content", [b"my notes", b'{"specsim_sweep":2}\n', b"\n", b"{}\n" * 99])
def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "x.jsonl"
    store.write_bytes(content)
    with pytest.raises(SpecsimError, match="no store of a sweep"):
        run_sweep(PLAN, store=store)
    assert store.read_bytes() == content


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    store = tmp_path / "x.jsonl"
    counted(PLAN, store)
    lines = store.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], b"x" + lines[3], *lines[4:]])
    store.write_bytes(damaged)
    with pytest.raises(SpecsimError, match=r"line 4 of .* is damaged"):
        run_sweep(PLAN, store=store)
    assert store.read_bytes() == damaged


def test_two_sweeps_into_one_file_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "x.jsonl"
    with (
        SweepStore(store).opened(),
        pytest.raises(SpecsimError, match=r"another sweep writes to .*--out"),
    ):
        run_sweep(PLAN, store=store)
    assert counted(PLAN, store) == (6, 0)


@pytest.mark.parametrize("place", ["/dev/full", ".", "\0"])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_computed(place: str) -> None:
    def never(point: SweepPoint) -> dict[str, Any]:
        raise AssertionError

    with pytest.raises(SpecsimError, match="cannot write"):
        run_sweep(PLAN, store=place, compute=never)


def test_a_full_disk_leaves_whole_lines_and_the_sweep_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write, room = tmp_path / "x.jsonl", os.write, [2500]

    def full(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        part = content[: room[0]]
        room[0] -= len(part)
        return write(file, part)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpecsimError, match="No space left on device; the points before are kept"):
        counted(PLAN, store)
    monkeypatch.undo()
    lines = store.read_bytes().splitlines(keepends=True)
    assert 1 < len(lines) < 7
    assert all(json.loads(line) and line.endswith(b"\n") for line in lines)
    assert counted(PLAN, store) == (7 - len(lines), 0)


def test_an_interrupt_loses_the_point_under_way_alone(tmp_path: Path) -> None:
    store = tmp_path / "x.jsonl"

    def interrupted(point: SweepPoint) -> dict[str, Any]:
        if point.settings["batch"] == 8:
            raise KeyboardInterrupt
        return {"speedup": 1.0}

    with pytest.raises(KeyboardInterrupt):
        run_sweep(PLAN, store=store, compute=interrupted)
    assert counted(PLAN, store) == (3, 0)


def test_a_sweep_of_any_length_holds_few_points_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    def quick(point: SweepPoint) -> dict[str, Any]:
        return {"speedup": point.settings["alpha"], "text": "x" * 1000}

    def peak(points: int) -> int:
        plan = plan_of("predict", PAIR, {"alpha": {"from": 0, "to": 0.9, "steps": points}})
        tracemalloc.start()
        done = run_sweep(plan, store=tmp_path / f"{points}.jsonl", compute=quick)
        assert done.progress.computed == points
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(100), peak(1100)
    assert many - few < 1000 * 200  # a result alone has more than a thousand bytes


# ------------------------------------------------------------------------------------ summary


def test_the_best_is_found_over_axes_and_the_seed_is_averaged() -> None:
    def compute(point: SweepPoint) -> dict[str, Any]:
        rate, seed = point.settings["rate"], point.settings["seed"]
        if rate == 3.0 and seed == 1:
            raise SpecsimError("no")
        # a lucky seed at rate 1 has the highest number of all, and not the highest mean
        value = {1.0: (9.0, 1.0), 2.0: (6.0, 6.0), 3.0: (5.5, 0.0)}[rate][seed]
        return {"goodput": value, "mean_ttft_ms": value, "state": "steady", "list": [1.0]}

    plan = plan_of("serve-sim", PAIR, {"rate": [1, 2, 3], "seed": [0, 1], "policy": ["off"]})
    done = run_sweep(plan, compute=compute)
    found = summarise_sweep(done, metric_named("goodput"))
    assert found.best == ({"rate": 2.0, "policy": "off"}, 6.0)
    assert (found.seeds, found.results, found.errors, found.first_error) == (2, 5, 1, "no")
    assert found.columns == ("goodput", "mean_ttft_ms", "state")
    assert found.along(["rate"]).tolist() == [5.0, 6.0, 5.5]
    least = summarise_sweep(done, metric_named("mean_ttft_ms"))
    assert least.best == ({"rate": 1.0, "policy": "off"}, 5.0)
    assert least.along(["policy", "rate"]).tolist() == [[5.0, 6.0, 5.5]]
    assert least.along(["policy"]).tolist() == [5.0]
    nothing = summarise_sweep(done, metric_named("max:state"))
    assert nothing.best is None
    assert np.isnan(nothing.along(["rate"])).all()
    with pytest.raises(SpecsimError, match="no result has 'godput'; near ones are: goodput"):
        summarise_sweep(done, metric_named("godput"))


def test_a_list_of_points_has_one_axis() -> None:
    points = list(PLAN)
    found = summarise_sweep(run_sweep(points), metric_named("speedup"))
    best = summarise_sweep(run_sweep(PLAN), metric_named("speedup")).best
    assert found.best is not None
    assert best is not None
    assert points[found.best[0]["point"]].settings == PAIR | best[0]
    assert isinstance(PLAN, SweepPlan)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speedup", "highest speedup"), ("tokens_per_s", "highest tokens_per_s"),
        ("mean_ttft_ms", "lowest mean_ttft_ms"), ("step_s", "lowest step_s"),
        ("memory_bytes", "lowest memory_bytes"), ("max:step_s", "highest step_s"),
        ("joules_per_token", "lowest joules_per_token"), ("min:speedup", "lowest speedup"),
    ],
)  # fmt: skip
def test_what_is_better_follows_from_the_metric(text: str, said: str) -> None:
    assert str(metric_named(text)) == said


def test_the_usual_metric_follows_from_what_is_asked() -> None:
    assert usual_metric("predict", PAIR).name == "speedup"
    assert usual_metric("predict", {"target": "x"}).name == "tokens_per_s"
    assert usual_metric("serve-sim", PAIR).name == "output_throughput"
    assert usual_metric("serve-sim", {"slo": ("ttft:5",)}).name == "request_goodput"
    with pytest.raises(SpecsimError, match="NAME, min:NAME or max:NAME"):
        metric_named("most:speedup")

"""A sweep on processes and on a Dask cluster: the same results as here, and none lost with a worker
that dies."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from specsim.checks import SpecsimError
from specsim.scenario.sweeping import (
    SweepPoint,
    WorkerPool,
    dask_pool,
    plan_of,
    process_pool,
    run_sweep,
    running,
)

PAIR = {"target": "llama-3.1-8b", "draft": "llama-3.2-1b", "accelerator": "h100-sxm"}
PLAN = plan_of("predict", PAIR, {"alpha": [0.5, 0.6, 0.7, 0.8, 0.9], "batch": [1, 8, 64, 256]})
SLOW = """
import os, time
def compute(point):
    time.sleep(0.02)
    return {"speedup": point.settings["alpha"], "process": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS")}
def deadly(point):
    if point.settings["alpha"] == 0.7 and point.settings["batch"] == 8:
        os._exit(9)
    return compute(point)
def all_deadly(point):
    os._exit(9)
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module that workers can import too: they are told this process's path."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow_points.py").write_text(SLOW)
    sys.path.insert(0, str(folder))
    import slow_points  # type: ignore[import-not-found]

    yield slow_points
    sys.path.remove(str(folder))
    del sys.modules["slow_points"]


def results(done: Any) -> list[Any]:
    return [None if each is None else each.get("result") for _, each in done.rows()]


def watched(pool: WorkerPool, started: list[Executor]) -> WorkerPool:
    """The same pool, which notes every executor that it starts."""

    def start() -> Executor:
        started.append(pool.start())
        return started[-1]

    return WorkerPool(start, pool.stop, pool.workers)


@pytest.fixture(scope="module")
def cluster(slow: Any) -> Iterator[Any]:
    """Two workers of Dask, processes of this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


def test_processes_give_what_this_process_gives(tmp_path: Path) -> None:
    done = run_sweep(PLAN, process_pool(2), tmp_path / "x.jsonl")
    assert results(done) == results(run_sweep(PLAN))
    assert done.progress.computed == len(PLAN)
    again = run_sweep(PLAN, process_pool(2), tmp_path / "x.jsonl")
    assert (again.progress.computed, again.progress.skipped) == (0, len(PLAN))


def test_a_worker_of_processes_that_is_killed_costs_no_point(tmp_path: Path, slow: Any) -> None:
    started: list[Any] = []
    killed: list[int] = []

    def kill(progress: Any, point: SweepPoint, outcome: Any) -> None:
        if not killed and progress.computed == 3:
            killed.append(next(iter(started[-1]._processes)))
            os.kill(killed[-1], signal.SIGKILL)

    store = tmp_path / "x.jsonl"
    done = run_sweep(
        PLAN, watched(process_pool(2), started), store, compute=slow.compute, watch=kill
    )
    assert len(killed) == 1
    assert len(started) >= 2  # a broken pool is replaced
    assert done.progress.errors == 0
    found = results(done)
    assert [each["speedup"] for each in found] == [p.settings["alpha"] for p in PLAN]
    assert {each["threads"] for each in found} == {"1"}
    assert os.getpid() not in {each["process"] for each in found}
    assert len(store.read_bytes().splitlines()) == 1 + len(PLAN)  # no point is stored twice


def test_a_point_that_kills_its_workers_is_found_and_the_rest_goes_on(
    tmp_path: Path, slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "TRIES", 2)
    done = run_sweep(PLAN, process_pool(1), tmp_path / "x.jsonl", compute=slow.deadly)
    wrong = [(point, each) for point, each in done.rows() if each is None or "error" in each]
    ((point, outcome),) = wrong
    assert (point.settings["alpha"], point.settings["batch"]) == (0.7, 8)
    assert outcome is not None
    assert outcome["error"].startswith("its worker ended 2 times: BrokenProcessPool")


@pytest.mark.slow
def test_workers_that_all_die_end_the_sweep(
    tmp_path: Path, slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MOST_LOST", 1)
    monkeypatch.setattr(running, "TRIES", 2)
    with pytest.raises(SpecsimError, match="2 times in a row"):
        run_sweep(PLAN, process_pool(1), tmp_path / "x.jsonl", compute=slow.all_deadly)


@pytest.mark.slow
def test_a_broken_executor_of_the_callers_is_said(tmp_path: Path, slow: Any) -> None:
    from multiprocessing import get_context

    store = tmp_path / "x.jsonl"
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor,
        pytest.raises(SpecsimError, match="the executor is broken"),
    ):
        run_sweep(PLAN, executor, store, compute=slow.deadly)
    done = run_sweep(PLAN, None, store, compute=slow.compute)
    assert done.progress.errors == 0
    assert done.progress.skipped + done.progress.computed == len(PLAN)


def test_few_points_are_under_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    most = [0]

    class Idle(Executor):
        """Two workers, which finish nothing until somebody waits for them."""

        _max_workers = 2

        def submit(self, fn: Any, /, *args: Any, **more: Any) -> Any:
            future = Future[Any]()
            future.points = args[1]  # type: ignore[attr-defined]
            return future

    def finish_one(waiting: Any, **more: Any) -> Any:
        """What `wait` is here: the first chunk is finished, and nothing else."""
        most[0] = max(most[0], sum(len(each.points) for each in waiting))
        first = next(iter(waiting))
        first.set_result([{"seconds": 1.0, "result": {"speedup": 1.0}} for _ in first.points])
        return {first}, set(waiting) - {first}

    monkeypatch.setattr(running, "wait", finish_one)
    plan = plan_of("predict", PAIR, {"context": {"from": 1, "to": 40, "steps": 40}})
    assert run_sweep(plan, Idle()).progress.computed == 40
    assert most[0] == 4  # for each worker one that is computed, and one that waits


def test_threads_serve_too() -> None:
    with ThreadPoolExecutor(2) as executor:
        assert results(run_sweep(PLAN, executor)) == results(run_sweep(PLAN))


def test_a_worker_of_another_version_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from specsim.scenario.sweeping.points import compute_chunk, compute_point

    with pytest.raises(SpecsimError, match=r"a worker has specsim .*, the sweep 99"):
        compute_chunk(compute_point, list(PLAN)[:1], "99")


# --------------------------------------------------------------------------------------- Dask


def test_a_dask_cluster_gives_what_this_process_gives(tmp_path: Path, cluster: Any) -> None:
    with dask_pool(cluster.scheduler_address) as pool:
        done = run_sweep(PLAN, pool, tmp_path / "x.jsonl")
        assert results(done) == results(run_sweep(PLAN))
        assert run_sweep(PLAN, pool, tmp_path / "x.jsonl").progress.computed == 0


def test_a_worker_of_dask_that_is_killed_costs_no_point(
    tmp_path: Path, cluster: Any, slow: Any
) -> None:
    killed: list[int] = []

    def kill(progress: Any, point: SweepPoint, outcome: Any) -> None:
        if not killed:
            killed.append(outcome["result"]["process"])
            os.kill(killed[0], signal.SIGKILL)

    with dask_pool(cluster.scheduler_address) as pool:
        done = run_sweep(PLAN, pool, tmp_path / "x.jsonl", compute=slow.compute, watch=kill)
    assert killed
    assert done.progress.errors == 0
    assert [each["speedup"] for each in results(done)] == [p.settings["alpha"] for p in PLAN]


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("specsim.scenario.sweeping.pools.ANSWERS_S", 0.2)
    for address, said in {
        "tcp://127.0.0.1:9": "no Dask scheduler answers at tcp://127.0.0.1:9",
        "x://y": "no Dask scheduler answers",
        " ": "needs the address of a scheduler",
        "none.json": "no such file: none.json",
    }.items():
        with pytest.raises(SpecsimError, match=said), dask_pool(address):
            pass

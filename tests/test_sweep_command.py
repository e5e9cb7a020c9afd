"""specsim sweep: what it writes, prints and refuses, and what a Ctrl-C or a full disk leaves."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specsim import cli
from specsim.scenario.sweeping import SweepPoint, read_plan

ROOT = Path(__file__).parent.parent
PREDICT = """
target = "llama-3.1-8b"
draft = "llama-3.2-1b"
accelerator = "h100-sxm"
[axes]
engine = ["vllm", "nope"]
batch = [1, 8, 64]
"""
SERVE = """
kind = "serve-sim"
target = "llama-3.1-8b"
draft = "llama-3.2-1b"
accelerator = "h100-sxm"
alpha = 0.75
requests = 60
policy = "fixed:2"
rate = 30
output = 100
[axes]
seed = {from = 0, to = 399, steps = 400}
"""


def call(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> str:
    assert cli.main(["sweep", *map(str, words)]) == status
    printed = capsys.readouterr()
    assert (printed.err == "") == (status == 0)
    return printed.err if status else printed.out


@pytest.fixture
def axes(tmp_path: Path) -> Path:
    path = tmp_path / "axes.toml"
    path.write_text(PREDICT + "alpha = [0.5, 0.8]")
    return path


def test_a_sweep_writes_a_store_a_table_and_a_figure(
    capsys: pytest.CaptureFixture[str], axes: Path
) -> None:
    found = json.loads(call(capsys, axes, "--json"))
    assert (found["points"], found["computed"], found["errors"]) == (12, 12, 6)
    assert "no engine is called 'nope'" in found["first_error"]
    assert found["metric"] == "highest speedup"
    with axes.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["engine"], row["batch"], row["alpha"]) for row in rows[:3]] == [
        ("vllm", "1", "0.5"), ("vllm", "1", "0.8"), ("vllm", "8", "0.5"),
    ]  # fmt: skip
    assert len(rows) == 12
    assert all(bool(row["speedup"]) != bool(row["error"]) for row in rows)
    assert float(rows[1]["speedup"]) == found["best"]["value"] or found["best"]["axes"]["batch"] > 1
    best = max((row for row in rows if row["speedup"]), key=lambda row: float(row["speedup"]))
    assert found["best"]["axes"] == {
        "engine": best["engine"], "batch": int(best["batch"]), "alpha": float(best["alpha"]),
    }  # fmt: skip
    assert found["best"]["result"]["speedup"] == found["best"]["value"]
    assert axes.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    again = json.loads(call(capsys, axes, "--json", "--best", "min:step_s"))
    assert (again["computed"], again["stored_before"]) == (0, 12)
    assert again["best"]["value"] == min(float(r["step_s"]) for r in rows if r["step_s"])
    text = call(capsys, axes, "--retry", "--along", "batch,alpha")
    assert "6 computed, 6 stored before" in text
    assert "(--retry computes them again)" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--best", "speedap"), "no result has 'speedap'; near ones are: speedup"),
        (("--best", "most:speedup"), "NAME, min:NAME or max:NAME"),
        (("--along", "rate"), "no axis is called 'rate'; there are: engine, batch, alpha"),
        (("--along", "batch,batch"), "one axis or two"),
        (("--along", "batch,alpha,engine"), "one axis or two"),
        (("--workers", "0"), "--workers must be a positive integer, not 0"),
        (("--workers", "99999"), "--workers must be at most"),
        (("--out", "/dev/null/x"), "cannot write"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], axes: Path, words: tuple[str, ...], said: str
) -> None:
    message = call(capsys, axes, *words, status=2)
    assert message.count("\n") == 1
    assert said in message


def test_files_that_are_no_sweeps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such file" in call(capsys, tmp_path / "none.toml", status=2)
    assert "folder" in call(capsys, tmp_path, status=2)
    path = tmp_path / "axes.csv"
    path.write_text(PREDICT + "alpha = [0.5]")
    assert "would be overwritten" in call(capsys, path, status=2)
    path = tmp_path / "measure.toml"
    path.write_text('kind = "measure"\n[axes]\ngamma = [1, 2]')
    assert "leave out --workers" in call(capsys, path, "--workers", 2, status=2)
    path = tmp_path / "axes.toml"
    path.write_text("batch = 1\n[axes]\nalpha = [0.5]")
    assert "needs a target" in call(capsys, path, status=2)


def test_without_dask_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], axes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    said = call(capsys, axes, "--dask", "tcp://127.0.0.1:9", status=2)
    assert said == "specsim: --dask needs distributed: pip install 'specsim-llm[dask]'\n"


def test_a_dry_run_only_says_what_it_would_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "million.toml"
    path.write_text(
        PREDICT.replace('"vllm", "nope"', '"vllm"').replace("[1, 8, 64]", "[1, 8]")
        + "alpha = {from = 0, to = 0.9, steps = 1000}\n"
        "context = {from = 1, to = 500, steps = 500}"
    )
    said = call(capsys, path, "--dry-run")
    assert "1,000,000 points of predict over engine (1) x batch (2) x alpha (1,000)" in said
    assert list(tmp_path.iterdir()) == [path]


def test_every_point_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "axes.toml"
    path.write_text(PREDICT.replace('"vllm", "nope"', '"nope"') + "alpha = [0.5]")
    said = call(capsys, path)
    assert "no point has a number for the highest speedup" in said
    assert "no figure" in said


@pytest.mark.slow
def test_measured_points_decode_with_the_pair(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: Callable[..., Any],
) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "axes.toml"
    path.write_text('kind = "measure"\nmax-new-tokens = 4\nprompts = 1\n[axes]\ngamma = [0, 2]')
    asked: list[Any] = []

    def measure_pair(target: Any, draft: Any, prompts: Any, gammas: Any, **more: Any) -> Any:
        asked.append((len(prompts), list(gammas), more))
        return [point(0), *(point(gamma) for gamma in gammas)]

    monkeypatch.setattr("reference.lab.suites.measure_pair", measure_pair)
    found = json.loads(call(capsys, path, "--json"))
    assert found["errors"] == 0
    assert [each[1] for each in asked] == [[0], [2]]
    assert asked[0][0] == 1
    assert asked[0][2]["max_new_tokens"] == 4
    assert found["best"]["axes"] == {"gamma": 2}
    assert found["best"]["value"] == pytest.approx(point(2).speedup.median)


# ------------------------------------------------------------------------- what ends it early


def started(path: Path, *words: str, **more: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "specsim", "sweep", str(path), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, **more,
    )  # fmt: skip


def keys_in(store: Path) -> list[str]:
    """The keys of a store in which every line is whole."""
    content = store.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line)["key"] for line in content.splitlines()[1:]]


@pytest.mark.parametrize("words", [pytest.param((), marks=pytest.mark.slow), ("--workers", "2")])
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, words: tuple[str, ...]) -> None:
    path, store = tmp_path / "axes.toml", tmp_path / "axes.jsonl"
    path.write_text(SERVE)
    process = started(path, *words, start_new_session=True)
    while not store.exists() or store.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "specsim: interrupted\n"
    keys = keys_in(store)
    assert 3 <= len(keys) < 400
    assert len(set(keys)) == len(keys)
    assert set(keys) <= {point.key for point in read_plan(path)}


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path: Path) -> None:
    path, store = tmp_path / "axes.toml", tmp_path / "axes.jsonl"
    path.write_text(SERVE)
    room = 12_345  # bytes that a file may have: the write that passes it is cut short

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    _, said = (process := started(path, preexec_fn=limited)).communicate(timeout=60)
    assert process.returncode == 2
    assert said.count("\n") == 1
    assert "the points before are kept" in said
    assert room - 3000 < store.stat().st_size <= room
    assert len(keys_in(store)) > 3


# --------------------------------------------------------------------------------- in the docs


def test_the_how_to_in_the_docs_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    sweeps = [block for block in blocks if "[axes]" in block]
    assert len(sweeps) >= 2
    for number, block in enumerate(sweeps):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        plan = read_plan(path)
        assert len(plan) > 1
        assert isinstance(next(iter(plan)), SweepPoint)
    found = json.loads(call(capsys, tmp_path / "0.toml", "--json"))
    assert found["errors"] == 0
    assert found["best"]["value"] > 1

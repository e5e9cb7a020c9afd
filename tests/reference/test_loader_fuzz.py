"""A part of `make loader-fuzz`: damaged checkpoints, and a fuzz that sees what it should."""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from specsim.checks import SpecsimError

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "loader_fuzz.py"
SEED, CASES = 7, 60


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loader_fuzz", SCRIPT)
    made = sys.modules["loader_fuzz"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def fuzz(bench, tmp_path_factory) -> Any:
    return bench.Fuzz(SEED, tmp_path_factory.mktemp("fuzz"))


def test_damaged_checkpoints_are_loaded_right_or_refused_in_one_line(bench, fuzz, monkeypatch):
    # the tests before this one may have held more memory than it may
    monkeypatch.setattr(bench, "peak_megabytes", lambda: 0.0)
    cases = [fuzz.run(index) for index in range(CASES)]
    assert [case for case in cases if case.outcome.startswith("fault")] == []
    kinds = {case.kind for case in cases}
    assert kinds == set(fuzz.folders)
    outcomes = [case.outcome for case in cases]
    assert min(map(outcomes.count, ("loaded", "refused"))) > CASES / 8
    assert fuzz.run(3).damages == cases[3].damages, "seed and number repeat a case"


def codes_pass(monkeypatch) -> None:
    floats = ("F64", "F32", "F16", "BF16", "I8", "U8", "I32", "F8_E4M3", "F8_E5M2", "BOOL")
    monkeypatch.setattr("reference.weights.FLOATS", floats)


def another_exception(monkeypatch) -> None:
    monkeypatch.setattr("reference.weights.Safetensors.require", None)


def several_lines(monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise SpecsimError("one\ntwo")

    monkeypatch.setattr("reference.weights.Safetensors.require", fails)


def parts_in_another_order(monkeypatch) -> None:
    def joined(self, groups):
        made = [torch.cat([self[name] for name in reversed(group)]) for group in groups]
        return torch.stack(made) if made[1:] else made[0]

    monkeypatch.setattr("reference.weights.Safetensors.joined", joined)


def waits(monkeypatch) -> None:
    monkeypatch.setattr("reference.checkpoints.stop_ids", lambda *_: time.sleep(30))


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        (codes_pass, "and was loaded"),
        (another_exception, "TypeError"),
        (several_lines, "the message is not one line"),
        (parts_in_another_order, "other numbers than the file's"),
        (waits, "not done after 1 s"),
    ],
)
def test_the_fuzz_sees_a_fault_that_is_planted(bench, fuzz, monkeypatch, plant, named: str) -> None:
    monkeypatch.setattr(bench, "peak_megabytes", lambda: 0.0)
    monkeypatch.setattr(bench, "SECONDS", 1)
    plant(monkeypatch)
    outcomes = (fuzz.run(index).outcome for index in range(400))
    assert named in next(outcome for outcome in outcomes if outcome.startswith("fault"))


def test_memory_beyond_the_limit_is_a_fault(bench, fuzz, monkeypatch) -> None:
    monkeypatch.setattr(bench, "peak_megabytes", lambda: 2001.0)
    assert fuzz.run(0).outcome == "fault: 2001 MB"

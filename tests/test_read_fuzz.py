"""A hundred and fifty of the mutated logs of `make read-fuzz`, the same on every run; and that an
answer from contradictory counters is seen."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from specsim.evidence.served.accounts import Account


def loaded(name: str) -> ModuleType:
    """A script of bench/ as a module."""
    path = Path(__file__).parent.parent / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fuzz = loaded("read_fuzz")
CASES = dict(fuzz.cases(150, seed=5))


@pytest.mark.parametrize("number", CASES)
def test_a_damaged_log_is_read_right_or_doubted(number):
    end, why = fuzz.verdict(CASES[number])
    assert end != "fault", why


def test_every_kind_of_damage_is_drawn():
    said = {case.name.split(", ")[1].split(" with")[0] for case in CASES.values()}
    assert said >= {"cut", "cut lines", "lines lost", "other order", "repeated", "mixed", "noise",
                    "negative", "huge", "changed", "restart", "subtracted"}  # fmt: skip


def test_an_answer_from_contradictory_counters_is_a_fault(monkeypatch):
    monkeypatch.setattr(Account, "doubt", lambda self, cycles: None)
    cases = [fuzz.changed(random.Random(k), "tensorrt") for k in range(20)]
    assert "fault" in {fuzz.verdict(case)[0] for case in cases}

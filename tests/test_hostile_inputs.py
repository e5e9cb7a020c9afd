"""A hundred and fifty of the hostile inputs of `make hostile`, the same on every run; and that what
is wrong with an answer is seen."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from specsim import cli
from specsim.evidence import validation

ROOT = Path(__file__).parent.parent


def loaded(name: str) -> ModuleType:
    """A script of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


hostile = loaded("hostile_inputs")
# those of `starters` may load torch; a validation takes seconds, and has tests of its own
QUICK = [kind for kind in hostile.KINDS if kind != "starters"]
INPUTS = {
    name: asked
    for name, asked in hostile.drawn(160, seed=3, kinds=QUICK)
    if "validate" not in asked.words
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_hostile_input_is_answered_in_one_line_or_well(name: str, tmp_path: Path) -> None:
    answer = hostile.run_here(INPUTS[name], tmp_path)
    assert hostile.faults(answer, INPUTS[name]) == []


def test_all_kinds_are_drawn_and_the_seed_repeats_them() -> None:
    assert len(INPUTS) >= 140
    assert {asked.kind for asked in INPUTS.values()} == set(QUICK)
    again = dict(hostile.drawn(160, seed=3, kinds=QUICK))
    assert all(again[name] == asked for name, asked in INPUTS.items())
    every = {(c, option) for c in hostile.BASES for option in hostile.options_of(c)}
    asked = {
        (each.words[0], word.split("=")[0])
        for _, each in hostile.drawn(len(every), 0, ["options"])
        for word in each.words
    }
    assert every <= asked


def crash(_: Any) -> int:
    raise ZeroDivisionError


def say(out: str = "", err: str = "", status: int = 0) -> Any:
    def run(_: Any) -> int:
        print(out, end="")
        print(err, end="", file=sys.stderr)
        return status

    return run


@pytest.mark.parametrize(
    ("program", "seen"),
    [
        (crash, "ZeroDivisionError"),
        (say(status=1), "exit status 1"),
        (say(err="one\ntwo\n", status=2), "not one line"),
        (say(status=2), "not one line"),
        (say(err="specsim: the memory does not suffice\n", status=2), "out of memory"),
        (say(out='{"a": NaN}'), "not JSON"),
        (say(out='{"a": 1e999}'), "holds inf"),
        (say(out='{"a": 1}\nmore'), "not JSON"),
        (say(out="speedup nan x"), "printed nan"),
        (say(err="warning\n"), "complained"),
    ],
)
def test_what_is_wrong_is_seen(
    program: Any, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hostile.PROGRAMS, "specsim", program)
    asked = hostile.Input("planted", ("predict", "--json"))
    assert seen in "; ".join(hostile.faults(hostile.run_here(asked, tmp_path), asked))


def test_what_takes_too_long_or_dies_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    monkeypatch.setattr(hostile, "MOST_S", -4.9)  # the alarm rings 5 s after it
    doings = [lambda _: time.sleep(9), lambda _: os._exit(7), say("fine")]
    monkeypatch.setitem(hostile.PROGRAMS, "specsim", lambda words: doings[int(words[0])](words))
    inputs = [hostile.Input("planted", (str(k),)) for k in range(3)]
    late, dead, fine = (answer for _, answer in hostile.run_apart(inputs))
    assert "it took more than" in late.failure
    assert "ended with 7" in dead.failure
    assert (fine.status, fine.out) == (0, "fine")


def test_a_limit_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the defect of old: an integer of 400 digits was an OverflowError
    monkeypatch.setattr("specsim.scenario.resolved.require_sound", lambda _: None)
    monkeypatch.setattr("specsim.speculation.require_limit", lambda *_: None)
    monkeypatch.setattr("specsim.speculation.at_least_one", lambda _, value: float(value))
    asked = hostile.Input("planted", ("predict", *hostile.PAIR[:4], "--batch", "9" * 400))
    assert "OverflowError" in hostile.faults(hostile.run_here(asked, tmp_path), asked)[0]
    assert cli.main is hostile.PROGRAMS["specsim"]
    assert validation.report

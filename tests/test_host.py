"""What serving adds to a cycle: made with known costs, found again."""

from dataclasses import replace

import pytest

import specsim
from specsim.demo import processes
from specsim.demo.host import HostCost, fitted, typical

COST = HostCost(cycle_s=1.5e-3, sequence_s=2e-4, speculation_s=4e-4)


def served(here: float, gamma: int, batch: int) -> tuple[float, float]:
    """The seconds of a cycle here, and behind a server of those costs."""
    return here, here + COST.cycle_s + COST.sequence_s * batch + COST.speculation_s * (gamma > 0)


def test_the_costs_come_back():
    cycles = {(0, 1): 4e-3, (0, 8): 6e-3, (2, 1): 7e-3, (2, 8): 9e-3}
    found = fitted({key: served(here, *key) for key, here in cycles.items()})
    assert found.cycle_s == pytest.approx(COST.cycle_s)
    assert found.sequence_s == pytest.approx(COST.sequence_s)
    assert found.speculation_s == pytest.approx(COST.speculation_s)


def test_a_server_that_is_faster_adds_nothing():
    assert fitted({(0, 1): (4e-3, 3e-3), (2, 1): (7e-3, 6e-3)}) == HostCost(0, 0, 0)


def test_a_system_whose_host_serves_predicts_cycles_that_are_longer_by_the_cost():
    target, draft = specsim.model("bundled-target"), specsim.model("bundled-draft")
    alone = specsim.system("m4-max", engine="llama.cpp")
    options = {"batch": 4, "context": 64}
    for gamma in (0, 3):
        drafter = specsim.DraftModel(draft) if gamma else None
        rate = {"alpha": 0.7} if gamma else {}
        one, other = (
            specsim.predict(target, drafter, system, gamma=gamma, **rate, **options)
            for system in (alone, COST.added_to(alone))
        )
        more = COST.cycle_s + 4 * COST.sequence_s
        assert other.step_s - one.step_s == pytest.approx(more)
        if gamma:
            assert other.cycle_s - one.cycle_s == pytest.approx(more + COST.speculation_s)


def test_what_serving_adds_is_said_in_milliseconds():
    assert "1.50 ms a cycle" in " ".join(COST.lines())
    assert all(len(line) <= 80 for line in replace(COST, cycle_s=0.0).lines())


def test_our_server_is_eager_unless_it_is_to_be_compiled(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        processes, "running", lambda command, port, **options: seen.append((command[3:], options))
    )
    processes.our_server(2, "fp32", 8)
    processes.our_server(2, "fp32", 8, compiled_for=256)
    (eager, how), (compiled, patience) = seen
    assert how == {"environment": {"SPECSIM_COMPILED": "off"}}
    assert compiled[-3:] == ["--compile", "--max-model-len", "256"]
    assert eager[3:] == compiled[3:-3]
    assert patience["patience_s"] > 600


def test_a_machine_that_slows_down_between_rounds_changes_no_cost() -> None:
    """Serving takes a quarter more in each round, of which the third runs at half the speed."""
    rounds = [(speed * 8e-3, speed * 10e-3) for speed in (1.0, 1.1, 2.0)]
    here, there = typical(rounds)
    assert there == pytest.approx(11e-3)
    assert here / there == pytest.approx(0.8)

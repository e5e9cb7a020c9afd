"""Probes: what is timed, and that a disturbed visit does not look like a slow kernel."""

import math
import time
from functools import partial

import torch

from reference.lab import probes
from reference.lab.probes import AGREEMENT, MOST_VISITS, settled

CPU = torch.device("cpu")


def test_two_visits_that_agree_at_every_width_are_enough():
    assert not settled([])
    assert not settled([[1.0, 2.0]])
    assert settled([[1.0, 2.0], [1.1, 2.1]])
    assert not settled([[1.0, 2.0], [1.1, 2.0 * AGREEMENT + 0.01]])


def test_a_disturbed_visit_is_outvoted_by_two_that_agree():
    burst = [5.0, 9.0]
    assert settled([burst, [1.0, 2.0], [1.05, 2.05]])
    assert settled([[1.0, 9.0], [5.0, 2.0], [1.05, 2.05]])  # a width each


def test_nobody_visits_for_ever():
    assert settled([[float(10**visit)] for visit in range(MOST_VISITS)])


def test_a_burst_during_one_visit_leaves_no_slow_width(monkeypatch):
    """One visit of the second stack takes ten times as long at one width; its probe does not."""
    monkeypatch.setattr(probes, "STACKS", ((64, 1), (96, 1)))
    calls = []

    def timed(actions, rounds, device, warm_ups=None):
        calls.append(len(actions))
        times = [1.0 + 0.01 * row for row in range(len(actions))]
        if len(calls) == 2:
            times[3] *= 10
        return times

    monkeypatch.setattr(probes, "round_robin", timed)
    found, _, _ = probes.linear_probes(torch.device("cpu"), torch.float32, rounds=1)
    assert len(found) == 2 * len(probes.ROWS)
    assert max(probe.seconds for probe in found) < 1.2
    assert len(calls) == 2 + 2 + 1 + 1  # two visits each, a third for one, the wide product


def test_the_dtype_is_the_one_that_decodes_a_text_faster(monkeypatch):
    """Emulated bf16: twice as fast for one row, seven times slower for a prompt."""
    times = {torch.float32: [1.0, 6.0, 12.0], torch.bfloat16: [0.5, 6.5, 84.0]}
    asked = []

    def timed(actions, rounds, device):
        assert len(actions) == len(probes.TEXT)
        asked.append((torch.float32, torch.bfloat16)[len(asked) % 2])
        return times[asked[-1]]

    monkeypatch.setattr(probes, "round_robin", timed)
    chosen, reason = probes.fastest_dtype(torch.device("cpu"))
    assert (chosen, "fp32, because bf16 is only 0.6x" in reason) == (torch.float32, True)
    times[torch.bfloat16] = [0.5, 3.0, 6.0]
    assert probes.fastest_dtype(torch.device("cpu")) == (
        torch.bfloat16, "bf16, which decodes 2.0x as fast as fp32 here",
    )  # fmt: skip


def test_some_actions_run_once_before_they_are_timed():
    for warm_ups, calls in ((None, "abcabcabc"), (1, "aabcabc"), (0, "abcabc")):
        called = []
        actions = [partial(called.append, name) for name in "abc"]
        times = probes.timed_in_turn(actions, 2, CPU, warm_ups)
        assert "".join(called) == calls
        assert [len(each) for each in times] == [2, 2, 2]


def test_a_slow_machine_gets_no_visit_and_no_round_that_can_be_spared(monkeypatch):
    """Two visits that disagree, and one round of cycles, when the time is over."""
    monkeypatch.setattr(probes, "STACKS", ((64, 1), (96, 1)))
    monkeypatch.setattr(probes, "PAIRS", (((64, 1), (64, 1), 61),))
    calls = []

    def timed(actions, rounds, device, warm_ups=None):
        calls.append(rounds)
        return [2.0 ** len(calls)] * len(actions)

    monkeypatch.setattr(probes, "round_robin", timed)
    for until, visits, rounds in ((time.perf_counter(), 2, 1), (math.inf, MOST_VISITS, 3)):
        calls.clear()
        probes.linear_probes(CPU, torch.float32, 1, until)
        assert len(calls) == 2 * visits + 1  # and the wide product
        turns = []
        probes.stage_probes(CPU, torch.float32, 3, lambda turns=turns: turns.append(1), until)
        assert len(turns) == rounds


def test_a_trial_leaves_out_what_is_wider(monkeypatch):
    monkeypatch.setattr(probes, "STACKS", ((64, 1), (96, 1)))
    monkeypatch.setattr(probes, "PAIRS", (((64, 1), (64, 1), 61), ((128, 1), (64, 1), 61)))
    for widest, stacks, targets in ((95, 1, {64}), (96, 2, {64}), (128, 2, {64, 128})):
        timed = probes.run_probes(CPU, torch.float32, 1, widest=widest)
        assert len(timed.linear) == stacks * len(probes.ROWS)
        assert {p.architecture.hidden_size for p in timed.stages if p.stage == "verify"} == targets


def test_only_one_pair_of_probes_reads_a_long_prompt(monkeypatch):
    monkeypatch.setattr(probes, "PAIRS", (((64, 1), (64, 1), 61), ((64, 2), (64, 1), 61)))
    monkeypatch.setattr(probes, "WITH_LONG", (64, 2))
    found = probes.stage_probes(CPU, torch.float32, 1, lambda: None)
    passes = [(p.architecture.num_layers, p.context, p.gamma) for p in found if p.stage == "verify"]
    short = [(layers, 27, gamma) for layers in (1, 2) for gamma in (0, 1, 3, 8)]
    assert passes == [*short, (2, 403, 0), (2, 403, 8)]

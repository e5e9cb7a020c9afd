"""Probes: what is timed, that it covers what is predicted, and that none is a predicted model."""

import pytest
import torch

from reference.lab.probes import attention, choice, products, running, stages
from reference.lab.probes.stages import Pair
from reference.statistics import Statistics
from specsim.architecture import model
from specsim.demo import DIALLED
from specsim.evidence.calibration import Probes, fit
from specsim.speculation import predict

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """A few small probes of every kind."""
    monkeypatch.setattr(products, "STACKS", ((64, 2), (96, 2), (128, 2)))
    monkeypatch.setattr(products, "FORMAT_STACKS", ((64, 2), (128, 1)))
    monkeypatch.setattr(products, "WIDE_ROWS", (16, 40))
    monkeypatch.setattr(products.WideProduct, "ROWS", 64)
    monkeypatch.setattr(products.WideProduct, "SIDE", 64)
    monkeypatch.setattr(attention, "CONTEXTS", (64, 256))
    monkeypatch.setattr(attention, "READ_BYTES", 1e6)
    monkeypatch.setattr(stages, "PAIRS", (
        Pair((64, 1), (64, 1), 61, ((1, (0, 2)), (3, (1,)))),
        Pair((128, 2), (64, 1), 61, ((1, (0, 2)),), filtered=True),
        Pair((64, 1), (64, 2), 61, ((1, (1, 2)),), quantised=True),
    ))  # fmt: skip


def test_everything_is_timed_and_a_system_comes_out(small):
    between = []
    probes = running.run_probes(CPU, torch.float32, 2, lambda: between.append(1))
    assert len(between) == 2 * 2
    own = [probe for probe in probes.linear if not probe.format]
    assert len(own) == 3 * len({*products.ROWS, 16, 40})
    assert {probe.rows for probe in own} == {*products.ROWS, 16, 40}
    for name in products.FORMATS:
        timed = [probe for probe in probes.linear if probe.format == name]
        assert len(timed) == 2 * len(products.FORMAT_ROWS)
        assert {probe.weight_bytes for probe in timed} != {probe.weight_bytes for probe in own}
    told = [(probe.rows, probe.format) for probe in probes.attention if probe.context == 64]
    assert told == [*((rows, "") for rows in attention.ROWS), (1, "int8"), (2, "int8")]
    assert len(probes.attention) == 2 * len(told)
    told = [(p.stage, p.gamma, p.batch, p.filtered, p.format) for p in probes.stages]
    assert told == [
        ("verify", 0, 1, False, ""), ("host", 0, 1, False, ""), ("begin", 0, 1, False, ""),
        ("verify", 2, 1, False, ""), ("host", 2, 1, False, ""), ("draft", 2, 1, False, ""),
        ("verify", 1, 3, False, ""), ("host", 1, 3, False, ""), ("draft", 1, 3, False, ""),
        ("verify", 0, 1, False, ""), ("host", 0, 1, True, ""), ("begin", 0, 1, False, ""),
        ("verify", 2, 1, False, ""), ("host", 2, 1, True, ""), ("draft", 2, 1, True, ""),
        ("draft", 1, 1, False, "int8"), ("draft", 2, 1, False, "int8"),
    ]  # fmt: skip
    assert min(p.seconds for p in (*probes.linear, *probes.attention, *probes.stages)) > 0
    first, second = probes.halves
    assert [p.architecture for p in first.stages] == [p.architecture for p in probes.stages]
    assert [p.seconds for p in first.linear] != [p.seconds for p in second.linear]
    calibration = fit(probes)
    assert {own.format for own in calibration.system.engine.formats} == {
        "fp32", *products.FORMATS
    }  # fmt: skip
    assert calibration.changes
    step = predict(DIALLED, None, calibration.system).step_s
    assert step > 0


def test_the_median_over_the_rounds_is_the_probe():
    run = object.__new__(running.Run)
    run.device, run.dtype, run.attentions, run.cases = CPU, torch.float32, [], []
    run.stacks, run.wide = [products.ProductStack(64, 1, CPU, torch.float32)], products.WideProduct
    run.wide_s, run.attention_s, run.cycles = [1.0, 3.0, 2.0], [[]] * 3, [[]] * 3
    run.products = [[dict.fromkeys(run.stacks[0].rows, seconds)] for seconds in (5.0, 50.0, 6.0)]
    assert {probe.seconds for probe in run.probes(0, 3).linear} == {6.0}
    assert {probe.seconds for probe in run.probes(0, 1).linear} == {5.0}
    assert {probe.seconds for probe in run.probes(1, 3).linear} == {28.0}
    assert run.probes(0, 3).flops_per_s == products.WideProduct.flops / 2.0


@pytest.mark.parametrize(("limit_s", "rounds"), [(-1.0, 2), (1e6, 8)])
def test_a_slow_machine_gets_two_rounds_and_no_more(small, monkeypatch, limit_s, rounds):
    empty = Probes("a machine", "fp32", 1.0, 1.0, (), (), ())
    spans = []
    monkeypatch.setattr(running, "LIMIT_S", limit_s)
    monkeypatch.setattr(running.Run, "round", lambda self, _: self.wide_s.append(1.0))
    monkeypatch.setattr(running.Run, "probes", lambda self, *span: spans.append(span) or empty)
    assert running.run_probes(CPU, torch.float32, 8).halves == (empty, empty)
    assert spans == [(0, rounds), (0, rounds // 2), (rounds // 2, rounds)]


def test_a_trial_leaves_out_what_is_wider_and_has_no_halves(small):
    for widest, stacks, targets in ((95, 1, {64}), (96, 2, {64}), (128, 3, {64, 128})):
        timed = running.run_probes(CPU, torch.float32, 1, widest=widest)
        own = [probe for probe in timed.linear if not probe.format]
        assert len(own) == stacks * len({*products.ROWS, 16, 40})
        assert {p.architecture.hidden_size for p in timed.stages if p.stage == "verify"} == targets
        assert timed.halves == ()


def test_many_rows_are_timed_on_whole_layers_and_told_for_the_stack(monkeypatch):
    monkeypatch.setattr(products, "WIDE_BYTES", 1.5 * 4 * 8 * 64 * 64)  # a layer and a half
    stack = products.ProductStack(64, 5, CPU, torch.float32)
    assert [stack.first(rows) for rows in (1, 9, 16, 320)] == [20, 20, 8, 8]
    multiplied = []
    monkeypatch.setattr(products, "seconds_of", lambda action, device: action() or 1.0)
    monkeypatch.setattr(
        stack, "run", lambda rows, most=None: multiplied.append(most or stack.first(rows))
    )
    seconds = dict(stack.samples())
    assert (seconds[9], seconds[16]) == (1.0, pytest.approx(2.5))
    # before each timed run one layer alone, where that takes no time
    assert multiplied == [20, *[4, 20] * len(products.ROWS), *[8] * len(products.WIDE_ROWS)]


@pytest.mark.parametrize(("dtype", "format"), [(torch.float32, ""), (torch.bfloat16, "int8")])
def test_stacks_of_large_matrices_are_larger_than_a_last_cache(dtype, format):
    stack = products.ProductStack(products.LARGE, 1, CPU, dtype, format)
    assert sum(stack.nbytes) >= products.LARGE_BYTES
    assert len(stack.matrices) % products.MATRICES == 0


def test_keys_and_values_are_their_own_and_fill_more_than_a_last_cache():
    found = attention.attentions(CPU, torch.bfloat16)
    for each in found:
        tensors = [tensor for pair in each.caches for tensor in pair]
        assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
        assert sum(tensor.nbytes for tensor in tensors) >= attention.READ_BYTES
        assert each.kv_bytes == 2 * each.context * attention.KV_HEADS * attention.SIZE * 2
    assert attention.KV_HEADS % 2 == 0  # cores share them evenly
    probe = found[-1].probe(1.0)
    assert probe.flops == 4 * attention.ROWS[-1] * attention.CONTEXTS[-1] * 12 * 64


def test_no_probe_has_the_shape_of_a_model_that_is_predicted():
    shapes = {size for pair in stages.PAIRS for size in (pair.target, pair.draft)}
    predicted = [DIALLED, *(model(f"bundled-{role}") for role in ("target", "draft"))]
    for shape in predicted:
        assert (shape.hidden_size, shape.num_layers) not in shapes
        assert shape.vocab_size not in {pair.vocab_size for pair in stages.PAIRS}
        assert shape.hidden_size not in {hidden for hidden, _ in products.STACKS}


def test_the_probes_reach_what_is_predicted():
    """Rows of 32 sequences that verify eight drafts, a large vocabulary, a batch, a nucleus."""
    assert max(products.WIDE_ROWS) >= 32 * 9
    assert max(pair.vocab_size for pair in stages.PAIRS) > 60_000
    assert max(batch for pair in stages.PAIRS for batch, _ in pair.runs) > 8
    assert any(pair.filtered for pair in stages.PAIRS)
    assert any(pair.quantised for pair in stages.PAIRS)


def test_a_case_gives_no_stage_that_it_does_not_time():
    pair = Pair((64, 1), (64, 1), 61, ((1, (2,)),), quantised=True)
    case = object.__new__(stages.Case)
    case.pair, case.batch, case.gamma = pair, 1, 2
    case.target = case.draft = type("Model", (), {"architecture": DIALLED})
    timed = Statistics(2)
    timed.add_cycle([1], [2], [0.3, 0.2, 0.1, 0.05])
    (probe,) = case.probes(timed)
    assert (probe.stage, probe.format, probe.seconds) == ("draft", stages.FORMAT, 0.3)


def test_the_dtype_is_the_one_that_decodes_a_text_faster(monkeypatch):
    """Emulated bf16: twice as fast for one row, seven times slower for a prompt."""
    times = {torch.float32: [1.0, 6.0, 12.0], torch.bfloat16: [0.5, 6.5, 84.0]}
    asked = []

    def timed(actions, rounds, device):
        assert len(actions) == len(choice.TEXT)
        asked.append((torch.float32, torch.bfloat16)[len(asked) % 2])
        return times[asked[-1]]

    monkeypatch.setattr(choice, "round_robin", timed)
    chosen, reason = choice.fastest_dtype(CPU)
    assert (chosen, "fp32, because bf16 is only 0.6x" in reason) == (torch.float32, True)
    times[torch.bfloat16] = [0.5, 3.0, 6.0]
    assert choice.fastest_dtype(CPU) == (
        torch.bfloat16, "bf16, which decodes 2.0x as fast as fp32 here",
    )  # fmt: skip


def test_actions_are_timed_in_turn_after_one_run_of_each():
    called = []
    times = choice.round_robin([lambda n=n: called.append(n) for n in "abc"], 2, CPU)
    assert "".join(called) == "abcabcabc"
    assert len(times) == 3
    assert min(times) >= 0

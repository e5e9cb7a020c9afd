"""The server on compiled stages: the texts are the eager server's, and nothing is compiled while
requests wait.

The quick tests imitate the compiler (see `compiled` in conftest.py): they run the traced operators.
What a trace has frozen is frozen there too. The slow one compiles.
"""

import argparse
import contextlib
import shutil
import socket
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_serve_engine import CONTEXT, Served, fresh, mixed

from reference import DraftModel, NoDrafter, __main__, artefacts, graphs, tracing
from reference.artefacts import Found
from reference.packing import pack
from reference.sampling import SamplingParameters
from reference.serving import prepared
from reference.serving.prepared import COMPILED, prepare, variants
from reference.serving.requests import Request
from reference.serving.slots import Slots
from specsim.checks import SpecsimError

PLAIN = SamplingParameters(0.9)


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(3, num_layers=1)
    return target, perturbed(target, 0.3)


@pytest.fixture
def short_windows(monkeypatch) -> None:
    """Windows of 32 tokens and of the context, so that they change in the middle of a text."""
    monkeypatch.setattr(graphs, "SMALLEST_WINDOW", 32)


def asked() -> list[Request]:
    """Requests of many kinds, and three that fill the context, the last of them alone."""
    ways = SamplingParameters(), PLAIN, PLAIN
    first, second, last = (
        Request([7 * i % 61 for i in range(20)], CONTEXT - 20, sampling, seed=seed)
        for seed, sampling in enumerate(ways)
    )
    return [first, second, *mixed(5, 61), last]


def served_texts(served: Served, requests: list[Request]) -> list[tuple]:
    served.run(requests, every=2)
    return [(served.texts[each], *served.ends[each][:2]) for each in requests]


def counting(slots: Slots) -> Counter:
    """How many cycles run each set of the compiled stages."""
    used: Counter = Counter()

    def counted(variant, stage):
        def run() -> None:
            used[variant] += 1
            stage()

        return run

    for variant, stages in slots.compiled.items():
        slots.compiled[variant] = [counted(variant, stages[0]), *stages[1:]]
    return used


def assert_all_kinds_are_in(used: Counter, slots: Slots) -> None:
    """Cycles of every number of rows, every window and both kinds have run compiled."""
    for field in range(3):
        assert {each[field] for each in used} == {each[field] for each in variants(slots)}


def test_texts_are_the_eager_servers(pair, compiled, short_windows) -> None:
    target, draft = pair
    eager = served_texts(Served(target, DraftModel(draft, 1), 2), asked())
    served, lines = Served(target, DraftModel(draft, 1), 2), []
    prepare(served.slots, True, lines.append)
    assert len(compiled) == 3 * len(variants(served.slots)) == 3 * 8
    used = counting(served.slots)
    assert served_texts(served, asked()) == eager
    assert_all_kinds_are_in(used, served.slots)
    compiled.clear()
    again = Served(target, DraftModel(draft, 1), 2)
    prepare(again.slots, False, lines.append)
    assert lines[-1].startswith("8 of 8 sets of compiled stages loaded from ")
    assert served_texts(again, asked()) == eager
    assert not compiled


@pytest.mark.parametrize("frozen", ["noise.seeds", "values.temperature", "sampling.stops"])
def test_planted_a_value_that_the_trace_has_frozen_is_noticed(
    pair, compiled, monkeypatch, frozen: str
) -> None:
    target = pair[0]
    ways = [SamplingParameters(0.5), SamplingParameters(2.0)]
    requests = [
        Request([3, 41], 24, ways[i % 2], seed=i, stop_ids=frozenset(range(8 * (i % 2))))
        for i in range(4)
    ]

    def texts() -> list[tuple]:
        served = Served(target, NoDrafter(), 1)
        prepare(served.slots, True, lambda line: None)
        return served_texts(served, [fresh(each) for each in requests])

    eager = served_texts(Served(target, NoDrafter(), 1), [fresh(each) for each in requests])
    assert texts() == eager
    own = artefacts.named_tensors

    def with_constant(cycle):
        found = own(cycle)
        assert any(place.endswith(frozen) for place in found)
        return {p: x.clone() if p.endswith(frozen) else x for p, x in found.items()}

    monkeypatch.setattr(artefacts, "named_tensors", with_constant)
    assert texts() != eager


@torch.inference_mode()
def test_stages_do_not_depend_on_how_many_slots_there_are(pair, place) -> None:
    target, draft = pair
    few, many = (Slots(target, DraftModel(draft, 2), count, CONTEXT) for count in (2, 4))
    for kind in COMPILED:
        cycles = [slots.cycle(2, kind)[0] for slots in (few, many)]
        for cycle in cycles:
            tracing.warm_up(cycle)
        one, other = map(artefacts.key_of, cycles)
        assert artefacts.difference(one, other) is None
        assert artefacts.folder_of(cycles[0]) == artefacts.folder_of(cycles[1])
    larger = Slots(target, DraftModel(draft, 2), 2, CONTEXT + 1).cycle(2, "plain")[0]
    tracing.warm_up(larger)
    said = str(artefacts.difference(one, artefacts.key_of(larger)))
    assert f"cache.size.2 is {larger.cache.capacity}, " in said


# What is made, and when


class Compiling:
    """In place of `stages_for`: what it was asked for, and eager stages."""

    def __init__(self, note: str = "", stages: bool = True):
        self.asked: list[tuple] = []
        self.note, self.stages = note, stages

    def __call__(self, cycle, may_compile: bool) -> Found:
        kind = cycle.settings.sampling.kind
        rows, window = len(cycle.sequences.lengths), cycle.sequences.window
        self.asked.append((rows, window, kind, may_compile))
        return Found(cycle.stages if self.stages else None, self.note, is_new=may_compile)


@pytest.fixture
def compiling(monkeypatch, place) -> Compiling:
    fake = Compiling()
    monkeypatch.setattr(prepared, "stages_for", fake)
    return fake


def test_everything_is_made_before_the_first_request(pair, compiling, monkeypatch) -> None:
    slots, lines = Slots(pair[0], NoDrafter(), 6, 600), []
    prepare(slots, True, lines.append)
    expected = [
        (rows, window, kind, True)
        for kind in ("greedy", "plain")
        for window in (256, 512, 600)
        for rows in (1, 2, 4, 6)
    ]
    assert compiling.asked == expected
    assert [*slots.compiled] == [each[:3] for each in expected]
    assert lines[0].startswith("24 sets of compiled stages in ")
    assert lines[1].startswith("1 of 24: 1 row, window 256, greedy: compiled in ")
    assert lines[-1].startswith("24 of 24: 6 rows, window 600, plain: compiled in ")
    assert all(request is None for request in slots.requests)


def test_nothing_is_compiled_while_requests_wait(pair, monkeypatch, place) -> None:
    fake = Compiling()
    monkeypatch.setattr(artefacts, "stages_for", fake)
    monkeypatch.setattr(graphs, "stages_for", fake)
    monkeypatch.setattr(prepared, "stages_for", fake)
    served = Served(pair[0], NoDrafter(), 2)
    prepare(served.slots, False, pytest.fail)  # nothing is kept: nothing to say
    served.run(mixed(6, 61))
    assert not fake.asked


def test_what_does_not_fit_any_more_is_said_once(pair, compiling, monkeypatch) -> None:
    compiling.note, compiling.stages = "eager: the code has changed", False
    monkeypatch.setattr(prepared, "is_kept", lambda cycle: len(cycle.sequences.lengths) > 1)
    slots, lines = Slots(pair[0], NoDrafter(), 4, CONTEXT), []
    prepare(slots, False, lines.append)
    assert len(compiling.asked) == 4
    assert not slots.compiled
    assert lines[0].startswith("0 of 6 sets of compiled stages loaded from ")
    assert lines[1:] == ["eager: the code has changed"]


def test_what_cannot_be_compiled_is_an_error_before_the_server_listens(pair, compiling) -> None:
    compiling.note, compiling.stages = "no compiled stages are kept: compiling fails: no g++", False
    with pytest.raises(SpecsimError, match=r"--compile: .* no g\+\+; leave it out to serve eagerl"):
        prepare(Slots(pair[0], NoDrafter(), 2, CONTEXT), True, lambda line: None)


def test_a_window_is_a_power_of_two_or_the_context(pair) -> None:
    for context, windows in ((64, [64]), (256, [256]), (257, [256, 257]), (512, [256, 512])):
        slots = Slots(pair[0], NoDrafter(), 1, context)
        assert slots.windows == windows
        assert {slots.window_for(each) for each in range(1, context + 3)} == set(windows)


# The command


def test_compile_and_eager_exclude_each_other(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        __main__.main(["serve", "--compile", "--eager"])
    assert error.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_compile_is_for_a_cpu() -> None:
    pytest.importorskip("uvicorn", reason="pip install 'specsim-llm[serve]'")
    from reference.serving.command import serve

    target = SimpleNamespace(
        device=torch.device("cuda"), architecture=SimpleNamespace(max_context=99)
    )
    options = argparse.Namespace(compile=True, eager=False, max_model_len=None)
    with pytest.raises(SpecsimError, match="--compile is for a CPU; on cuda the server records"):
        serve(options, target, NoDrafter(), None)


def test_nobody_can_connect_before_the_stages_are_there() -> None:
    pytest.importorskip("uvicorn", reason="pip install 'specsim-llm[serve]'")
    from reference.serving.command import bound

    with contextlib.closing(bound("127.0.0.1", 0)) as waiting:
        port = waiting.getsockname()[1]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1)
        waiting.listen(1)
        socket.create_connection(("127.0.0.1", port), 1).close()


# With the real compiler


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_seeds_and_temperatures_are_each_requests_own_in_compiled_stages(
    tiny, perturbed, place
) -> None:
    target = tiny(3, num_layers=1, hidden_size=32)
    target, draft = (pack(model.float()) for model in (target, perturbed(target, 0.15)))
    ways = [SamplingParameters(), SamplingParameters(0.6), SamplingParameters(1.5)]
    requests = [
        Request([7, i % 3], 12, ways[i % 3], seed=i // 3, stop_ids=frozenset({i} if i > 5 else ()))
        for i in range(12)
    ]
    alike = [replace(each, sampling=PLAIN, seed=9) for each in requests[:3]]
    requests += [*alike, *(fresh(each) for each in alike)]
    eager = served_texts(Served(target, DraftModel(draft, 2), 2), [fresh(x) for x in requests])
    served = Served(target, DraftModel(draft, 2), 2)
    prepare(served.slots, True, print)
    used = counting(served.slots)
    found = served_texts(served, requests)
    assert found == eager
    assert_all_kinds_are_in(used, served.slots)
    assert found[-6:-3] == found[-3:], "the same seed gives another text"
    sampled = [text for (text, *_), each in zip(found, requests, strict=True) if each.seed < 4]
    assert len(set(sampled)) > 6, "seeds or temperatures have no effect"

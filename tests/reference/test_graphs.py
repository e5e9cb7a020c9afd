"""The stages of a cycle never wait for the device, so they may be recorded; and a recording is only
used while everything it reads is where it was."""

import copy
import itertools
import shutil
import weakref
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reference import (
    ConfidenceTree,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    Proposal,
    StaticTree,
    Tree,
    fused,
    generate,
    graphs,
    speculate,
    stream,
)
from reference.cycle import Cycle
from reference.decoding import Decoder
from reference.drafters.head import DraftHead
from reference.graphs import addresses, power_of_two, reachable, window_of
from reference.heads import untrained_head
from reference.packing import can_pack, pack
from reference.sampling import SamplingParameters
from reference.settings import RunSettings
from reference.statistics import Statistics
from specsim.checks import SpecsimError

NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]
HEADS_OF_64 = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 384}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


# Nothing in a stage waits


def refuse(self) -> None:
    raise AssertionError("it waits for the device")


class NothingWaits(TorchDispatchMode):
    """Refuses every operator whose result the host, or the shape of what follows, depends on."""

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in ("tolist", "numpy"):  # these pass the dispatcher by
            self.patch.setattr(torch.Tensor, name, refuse)
        return super().__enter__()

    def __exit__(self, *reason):
        self.patch.undo()
        return super().__exit__(*reason)

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITING) or (
            name.startswith("index") and "Tensor" in func._overloadname and boolean(args)
        ):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def boolean(args) -> bool:
    """Whether a tensor is indexed by a mask: how many it picks only the device knows."""
    return any(index is not None and index.dtype == torch.bool for index in args[1])


def drafters(target, draft):
    return [
        NoDrafter(),
        DraftModel(draft, 3),
        DraftModel(draft, 3, stop_below=0.5),
        NGram(3),
        EarlyExit(1, 3),
        Ensemble(DraftModel(draft, 3, stop_below=0.5)),
        DraftHead(untrained_head(target), 3),
    ]


def cycle_of(target, drafter, settings: RunSettings) -> Cycle:
    return Decoder(target, drafter, len(PROMPTS), 64, settings).cycle


SETTINGS = [
    RunSettings(SamplingParameters(0.0)),
    RunSettings(SamplingParameters(0.0, repetition_penalty=1.3), stop_ids=frozenset({5, 7})),
    RunSettings(SamplingParameters(0.8, 20, 0.9, 0.01, 1.2), stop_ids=frozenset({5})),
    *(RunSettings(SamplingParameters(1.0), rule) for rule in ("block", "match", "typical")),
    RunSettings(SamplingParameters(1.0), survival=(0.9, 0.5, 0.2)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("index", range(7))
@torch.inference_mode()
def test_no_stage_waits_for_the_device(pair, settings: RunSettings, index: int) -> None:
    drafter = drafters(*pair)[index]
    cycle = cycle_of(pair[0], drafter, settings)
    cycle.begin(PROMPTS, [NEW] * len(PROMPTS), seed=1)
    cycle.sequences.window = 40
    before = cycle.sequences.lengths.clone()
    with NothingWaits():
        for _ in range(2):
            cycle.noise.refresh()
            for stage in cycle.stages:
                stage()
    assert (cycle.sequences.lengths > before).all()


def trees(draft):
    return [
        StaticTree(draft, Tree.branching((2, 2, 1))),
        StaticTree(draft, Tree.branching((2, 2, 1)), drawn=True),
        ConfidenceTree(draft, 8, 3, 3),
    ]


OF_TREES = [*SETTINGS[:3], RunSettings(SamplingParameters(1.0), "match")]


@pytest.mark.parametrize("settings", OF_TREES, ids=str)
@pytest.mark.parametrize("index", range(3))
@torch.inference_mode()
def test_no_stage_of_a_tree_waits_for_the_device(pair, settings: RunSettings, index: int) -> None:
    drafter = trees(pair[1])[index]
    cycle = cycle_of(pair[0], drafter, settings)
    cycle.begin(PROMPTS, [NEW] * len(PROMPTS), seed=1)
    cycle.sequences.window = 40
    before = cycle.sequences.lengths.clone()
    with NothingWaits():
        for _ in range(2):
            cycle.noise.refresh()
            for stage in cycle.stages:
                stage()
    assert (cycle.sequences.lengths > before).all()
    found = addresses(pair[0], drafter)
    cycle.begin(PROMPTS[::-1], [NEW] * len(PROMPTS), seed=2)
    assert addresses(pair[0], drafter) == found, "every prompt would be recorded anew"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: bool(x > 0),
        lambda x: x[None].tolist(),
        lambda x: torch.arange(3)[(torch.arange(3) > x)],
        lambda x: x[None].nonzero(),
        lambda x: torch.nn.functional.one_hot(x, 3),  # looks at its argument, on a CPU
    ],
    ids=["item", "branch", "tolist", "mask", "nonzero", "one_hot"],
)
def test_a_stage_that_waits_is_caught(wait) -> None:
    with NothingWaits(), pytest.raises(AssertionError, match="waits for the device"):
        wait(torch.tensor(1))


# The host may read one cycle late


def joined(steps) -> list[list[int]]:
    return [[*itertools.chain(*row)] for row in zip(*steps, strict=True)]


def texts_with_lag(pair, drafter, lag: int, settings: RunSettings, **options):
    statistics = Statistics(drafter.gamma)
    decoder = Decoder(pair[0], drafter, len(PROMPTS), 64, settings)
    decoder.lag = lag
    remaining = [NEW] * len(PROMPTS)
    steps = list(decoder.cycles(PROMPTS, remaining, 3, statistics, lambda _: drafter.gamma))
    return joined(steps), statistics


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("index", [0, 1, 3])
def test_reading_one_cycle_late_changes_nothing(pair, settings: RunSettings, index: int) -> None:
    at_once, counted = texts_with_lag(pair, drafters(*pair)[index], 0, settings)
    late, also = texts_with_lag(pair, drafters(*pair)[index], 1, settings)
    assert late == at_once
    assert also.accepted_counts == counted.accepted_counts, "an idle cycle was counted"
    assert len(also.cycle_times) == len(counted.cycle_times)


@pytest.mark.parametrize("settings", OF_TREES, ids=str)
@pytest.mark.parametrize("index", range(3))
def test_so_it_is_with_trees(pair, settings: RunSettings, index: int) -> None:
    at_once, _ = texts_with_lag(pair, trees(pair[1])[index], 0, settings)
    late, _ = texts_with_lag(pair, trees(pair[1])[index], 1, settings)
    assert late == at_once


# Recordings and what they take for granted


def test_an_idle_cycle_changes_nothing_that_counts(pair) -> None:
    """Warming up before a recording runs cycles in the middle of a text."""
    expected = generate(pair[0], PROMPTS, NEW, 0.9, seed=4).tokens
    settings = RunSettings(SamplingParameters(0.9))
    decoder = Decoder(pair[0], NoDrafter(), len(PROMPTS), 64, settings)
    steps = decoder.cycles(PROMPTS, [NEW] * 5, 4, Statistics(0), lambda _: 0)
    text = [next(steps) for _ in range(3)]
    graphs.record(decoder.cycle.stages, decoder.cycle.sequences.remaining, None)
    text += list(steps)
    assert joined(text) == expected


class Stream:
    """A CUDA stream by its name; `log` says what waited, ran and was captured, and on which."""

    log: ClassVar[list[tuple[str, str]]] = []
    made = 0

    def __init__(self, index: int, name: str | None = None):
        Stream.made += name is None
        self.name = name or f"side {Stream.made}"

    def wait_stream(self, other: "Stream") -> None:
        self.log.append((self.name, f"waits for {other.name}"))


@pytest.fixture
def streams(monkeypatch) -> type[Stream]:
    """A CUDA device's streams and captures, imitated."""
    main, now = Stream(0, "main"), []

    @contextmanager
    def on(stream: Stream, what: str = "runs"):
        now.append((stream.name, what))
        yield
        now.pop()

    def stage() -> None:
        Stream.log.append(now[-1] if now else ("main", "runs"))

    imitations = {
        "Stream": Stream, "stream": on, "current_stream": lambda _: main,
        "current_device": lambda: 0, "CUDAGraph": lambda: SimpleNamespace(replay=stage),
        "graph": lambda _, pool, stream: on(stream, "captures"),
    }  # fmt: skip
    for name, imitation in imitations.items():
        monkeypatch.setattr(torch.cuda, name, imitation)
    monkeypatch.setattr(graphs, "stream_of", cache(graphs.stream_of.__wrapped__))
    Stream.log.clear()
    Stream.made, Stream.stage = 0, staticmethod(stage)
    return Stream


def test_everything_is_warmed_up_and_captured_on_one_stream(streams) -> None:
    """Of the process: a second stream would have a cuBLAS workspace of its own."""
    remaining = torch.ones(2, dtype=torch.long)
    for _ in range(2):
        graphs.record([streams.stage] * 3, remaining, (0, 1))
    assert streams.made == 1
    once = [
        ("side 1", "waits for main"),
        *[("side 1", "runs")] * (3 * graphs.WARM_UPS),
        ("main", "waits for side 1"),
        *[("side 1", "captures")] * 3,
    ]
    assert streams.log == once * 2
    assert remaining.tolist() == [1, 1]


def test_addresses_change_with_whatever_moves(pair, perturbed) -> None:
    target = perturbed(pair[0], 0.1)
    drafter = DraftModel(pair[1], 2)
    found = addresses(target, drafter)
    assert len(found) > len(list(target.parameters()))
    assert addresses(target, drafter) == found
    drafter.start(cycle_of(target, drafter, SETTINGS[0]).sequences, target, None)  # its cache
    with_cache = addresses(target, drafter)
    assert len(with_cache) > len(found)
    target.layers[1].down.weight.data = target.layers[1].down.weight.data.clone()
    assert addresses(target, drafter) != with_cache


class Reads(TorchDispatchMode):
    """Where the tensors lie that a stage takes from outside: what a recording of it would read
    again and again."""

    def __init__(self):
        super().__init__()
        self.outside: set[int] = set()
        self.made: list[torch.Tensor] = []  # kept, so that no address is used twice
        self.own: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tensors_in((args, kwargs)):
            self.outside |= {storage_of(tensor)} - self.own
        made = func(*args, **(kwargs or {}))
        for tensor in tensors_in(made):
            if storage_of(tensor) not in self.outside:
                self.made.append(tensor)
                self.own.add(storage_of(tensor))
        return made


def tensors_in(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.numel()]


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def read_by_a_cycle(cycle: Cycle, prompts) -> set[int]:
    cycle.begin(prompts, [NEW] * len(prompts), seed=1)
    cycle.sequences.window = 40
    with Reads() as reads:
        cycle.noise.refresh()
        for stage in cycle.stages:
            stage()
    return reads.outside


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("index", range(10))
@torch.inference_mode()
def test_whatever_a_recording_reads_stays_or_is_seen_to_move(pair, settings, index: int) -> None:
    """It lies in the cycle, the models or the drafter, and the next prompts find it there."""
    target, drafter = pair[0], [*drafters(*pair), *trees(pair[1])][index]
    if drafter.nodes is not None and settings not in OF_TREES:
        settings = OF_TREES[-1]
    cycle = cycle_of(target, drafter, settings)
    read = read_by_a_cycle(cycle, PROMPTS)
    found = addresses(target, drafter)
    known = {storage_of(thing) for thing in tensors_in([*reachable(target, drafter, cycle)])}
    assert len(read) > 10
    assert read <= known, "something is read that nobody watches"
    assert read_by_a_cycle(cycle, PROMPTS[::-1]) == read
    assert addresses(target, drafter) == found


class Moving(NGram):
    """A drafter whose table is made anew for every prompt, where nobody looks."""

    def start(self, sequences, target, cache) -> None:
        tables.append(torch.zeros(3, dtype=torch.long))

    def propose(self, sequences, sampling, uniforms):
        tokens, distributions, *_ = super().propose(sequences, sampling, uniforms)
        return Proposal(tokens + tables[-1], distributions)


tables: list[torch.Tensor] = []


@torch.inference_mode()
def test_what_nobody_watches_is_caught(pair) -> None:
    cycle = cycle_of(pair[0], Moving(3), SETTINGS[0])
    read = read_by_a_cycle(cycle, PROMPTS)
    known = {storage_of(thing) for thing in tensors_in([*reachable(pair[0], cycle.drafter, cycle)])}
    assert read - known == {storage_of(tables[0])}
    assert read_by_a_cycle(cycle, PROMPTS) - read == {storage_of(tables[1])}


def kept(target) -> Decoder:
    return [*target.kept_decoders.values()][-1]


@pytest.fixture
def imitated(monkeypatch) -> list[tuple[int, int]]:
    """Recording on a CPU: the stages with the gamma and window they were recorded for."""
    recorded = []

    def record(stages, remaining, pool):
        cycle = stages[0].__self__
        frozen = cycle.gamma, cycle.sequences.window
        recorded.append(frozen)

        def replayed(stage):
            def replay() -> None:
                assert (cycle.gamma, cycle.sequences.window) == frozen
                stage()

            return replay

        return [replayed(stage) for stage in stages]

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr("reference.decoding.mode_for", lambda device, mode: mode)
    return recorded


def test_what_was_recorded_serves_the_next_prompt_until_something_moves(
    tiny, perturbed, imitated
) -> None:
    target, draft = tiny(2, max_context=600), perturbed(tiny(2, max_context=600), 0.15)
    drafter = DraftModel(draft, 3)
    plain = NoDrafter()
    for prompt in PROMPTS:
        for each in (plain, drafter):
            tokens = speculate(target, each, prompt, NEW, mode="cuda-graphs").tokens
            assert tokens == generate(target, prompt, NEW, mode="eager").tokens
    assert imitated == [(0, 128), (3, 128)], "recorded anew for another prompt"
    imitated.clear()
    longer = [1, 2, 3] * 84  # needs more slots than were allocated, and then another window
    speculate(target, drafter, longer, 10, mode="cuda-graphs")
    assert imitated == [(3, 256), (3, 512)]
    target.layers[0].down.weight.data = target.layers[0].down.weight.data.clone()
    speculate(target, drafter, PROMPTS[0], NEW, mode="cuda-graphs")
    assert imitated == [(3, 256), (3, 512), (3, 128)]
    decoder = kept(target)
    speculate(target, drafter, PROMPTS[0], NEW, 1.0, mode="cuda-graphs")
    assert kept(target) is not decoder, "sampling is part of a recording"
    assert len(target.kept_decoders) == graphs.KEPT
    assert not copy.deepcopy(target).kept_decoders, "a recording reads the original"


def test_what_is_forgotten_is_given_back_and_recorded_again(pair, imitated) -> None:
    target, _ = pair
    for _ in range(2):
        generate(target, PROMPTS[0], NEW, mode="cuda-graphs")
        cache = weakref.ref(kept(target).cycle.cache)
        graphs.forget(target)
        assert cache() is None, "something else holds its memory"
    assert len(imitated) == 2
    graphs.forget(target)


def test_two_streams_at_a_time_do_not_share_buffers(pair, imitated) -> None:
    target, draft = pair
    first, second = (
        stream(target, DraftModel(draft, 2), prompt, NEW, mode="cuda-graphs")
        for prompt in PROMPTS[3:5]
    )
    texts = [[], []]
    for steps in zip(first, second, strict=False):
        for text, step in zip(texts, steps, strict=True):
            text += step
    for text, prompt in zip(texts, PROMPTS[3:5], strict=True):
        assert text == generate(target, prompt, NEW).tokens[: len(text)]


@pytest.mark.parametrize(("least", "power"), [(1, 1), (2, 2), (3, 4), (256, 256), (257, 512)])
def test_windows_are_powers_of_two(least: int, power: int) -> None:
    assert power_of_two(least) == power


def test_a_cpu_reads_shorter_windows() -> None:
    assert [window_of(slots) for slots in (1, 129, 257)] == [256, 256, 512]
    assert [window_of(slots, on_cpu=True) for slots in (1, 129, 257)] == [128, 256, 512]


def test_modes_that_are_not_there_are_named(pair) -> None:
    with pytest.raises(SpecsimError, match="unknown mode 'fast'; known: eager, cuda-graphs, comp"):
        generate(pair[0], [1], mode="fast")
    with pytest.raises(SpecsimError, match="CUDA graphs need a CUDA device, not cpu"):
        generate(pair[0], [1], mode="cuda-graphs")


# On a GPU


# Compiled for a CPU

COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)


@pytest.mark.slow
@COMPILER
def test_a_cpu_compiles_the_stages_and_packs_their_weights(tiny, perturbed) -> None:
    """Of one layer: a second one would be compiled to the same code, in twice the time."""
    from torch._dynamo.utils import counters

    target = tiny(2, num_layers=1)
    target, draft = (pack(model.float()) for model in (target, perturbed(target, 0.15)))
    before = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(recompile_limit=1):  # past it, a stage runs as it is written
        for drafter in (DraftModel(draft, 2), NoDrafter()):
            for prompt in PROMPTS[:3]:
                expected = speculate(target, drafter, prompt, NEW, mode="eager")
                found = speculate(target, drafter, prompt, NEW, mode="compiled")
                assert found.tokens == expected.tokens
                histogram = found.statistics.accepted_histogram
                assert histogram == expected.statistics.accepted_histogram
    assert counters["stats"]["unique_graphs"] - before == 6  # three stages, two kinds of run
    if can_pack(target.norm):
        assert target.head.plain.shape == (target.head.out_features, target.head.in_features)
        assert kept(target).recordings.packs


@COMPILER
def test_a_cpu_without_a_compiler_is_told_so(pair) -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(SpecsimError, match=r"C\+\+ compiler.*use another mode"),
    ):
        generate(copy.deepcopy(pair[0]), PROMPTS[0], 3, mode="compiled")


@pytest.fixture(scope="module")
def cuda_pair(pair):
    return tuple(copy.deepcopy(model).to("cuda") for model in pair)


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.9}, {"temperature": 0.9, "rule": "match"}]
)
@pytest.mark.parametrize("index", range(7))
def test_replays_are_eager_decoding_token_for_token(cuda_pair, settings, index: int) -> None:
    """And with other prompts and other seeds, nothing is replayed from the last."""
    target, _ = cuda_pair
    drafter = drafters(*cuda_pair)[index]
    for prompts, seed in ((PROMPTS, 0), (PROMPTS[::-1], 0), (PROMPTS, 1), (PROMPTS[2], 2)):
        run = [
            speculate(target, drafter, prompts, NEW, mode=mode, seed=seed, **settings)
            for mode in ("eager", "cuda-graphs")
        ]
        assert run[0].tokens == run[1].tokens
        counts = [statistics.accepted_counts for _, statistics in map(unpack, run)]
        assert counts[0] == counts[1]


def unpack(generation):
    return generation.tokens, generation.statistics


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("length", [40, 2500], ids=["whole", "in chunks"])
@pytest.mark.parametrize("gamma", [0, 3])
@pytest.mark.parametrize("what", ["", fused.BETWEEN, fused.LAYERS], ids=["torch", "between", "all"])
def test_so_they_are_in_the_kernels_that_are_measured(
    tiny, perturbed, monkeypatch, what, gamma, length
) -> None:
    """In bfloat16, with heads of 64: attention and products of 16 bits, by torch's kernels and by
    the fused ones, which the eager run launches one by one."""
    monkeypatch.setattr(graphs, "may_fuse", lambda device: what)
    target = tiny(2, dtype=torch.bfloat16, max_context=4096, **HEADS_OF_64).to("cuda")
    drafter = DraftModel(perturbed(target, 0.15).to("cuda"), gamma) if gamma else NoDrafter()
    prompts = [[(7 * i + row) % 61 for i in range(length - row)] for row in range(3)]
    for settings in ({}, {"temperature": 0.9}):
        with fused.fusing(what):
            eager, replayed = (
                speculate(target, drafter, prompts, NEW, mode=mode, seed=3, **settings)
                for mode in ("eager", "cuda-graphs")
            )
        assert eager.tokens == replayed.tokens
        counts = eager.statistics.accepted_counts
        assert counts == replayed.statistics.accepted_counts


@GPU
@pytest.mark.gpu
def test_graphs_follow_weights_that_have_moved_or_changed(cuda_pair) -> None:
    target, draft = (copy.deepcopy(model) for model in cuda_pair)
    drafter = DraftModel(draft, 3)
    first = speculate(target, drafter, PROMPTS, NEW).tokens
    with torch.no_grad():
        target.head.weight.copy_(target.head.weight.flip(0))  # changed in place
    changed = speculate(target, drafter, PROMPTS, NEW).tokens
    assert changed != first
    assert changed == generate(target, PROMPTS, NEW, mode="eager").tokens
    for layer in target.layers:
        layer.down.weight.data = -layer.down.weight.data  # moved
    moved = speculate(target, drafter, PROMPTS, NEW).tokens
    assert moved != changed
    assert moved == generate(target, PROMPTS, NEW, mode="eager").tokens


@GPU
@pytest.mark.gpu
@pytest.mark.slow
def test_nothing_is_compiled_again_for_another_length(cuda_pair) -> None:
    from torch._dynamo.utils import counters

    target, draft = cuda_pair
    drafter = DraftModel(draft, 3)
    expected = [generate(target, prompt, NEW, mode="eager").tokens for prompt in PROMPTS]
    speculate(target, drafter, PROMPTS[0], NEW, mode="compiled")
    compiled = counters["stats"]["unique_graphs"]
    texts = [speculate(target, drafter, p, NEW, mode="compiled").tokens for p in PROMPTS]
    assert texts == expected
    assert counters["stats"]["unique_graphs"] == compiled

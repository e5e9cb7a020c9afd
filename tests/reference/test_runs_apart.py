"""One run leaves nothing behind that another would notice: neither in a drafter, nor in memory."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from reference import (
    DraftHead,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    QuantisedSelf,
    StaticTree,
    Tree,
    generate,
    speculate,
    stream,
    transformer,
)
from reference.cycle import Cycle
from reference.graphs import Recordings
from reference.heads import untrained_head
from reference.quantization import quantized
from reference.sampling import SamplingParameters
from reference.settings import RunSettings
from specsim.checks import SpecsimError

PROMPT, OTHER, NEW = [3, 1, 4, 1, 5], [9, 2, 6], 24


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


def with_buffers(target, draft):
    return {
        "draft model": DraftModel(draft, 3),
        "early exit": EarlyExit(1, 3),
        "head": DraftHead(untrained_head(target), 3),
        "tree": StaticTree(draft, Tree((0, 0, 1))),
        "ensemble": Ensemble(DraftModel(draft, 3)),
    }


@pytest.mark.parametrize("name", ["draft model", "early exit", "head", "tree", "ensemble"])
def test_a_drafter_drafts_for_one_run_at_a_time(pair, name: str) -> None:
    target, drafter = pair[0], with_buffers(*pair)[name]
    first = stream(target, drafter, PROMPT, NEW)
    begun = next(first)
    with pytest.raises(SpecsimError, match="drafts for another run, which has not ended"):
        speculate(target, drafter, OTHER, NEW)
    text = begun + [token for step in first for token in step]
    assert text == generate(target, PROMPT, NEW).tokens
    assert speculate(target, drafter, OTHER, NEW).tokens == generate(target, OTHER, NEW).tokens
    left = stream(target, drafter, PROMPT, NEW)
    next(left)
    left.close()
    assert speculate(target, drafter, OTHER, NEW).tokens == generate(target, OTHER, NEW).tokens


@pytest.mark.parametrize("drafter", [NoDrafter(), NGram(3)], ids=["plain", "n-gram"])
def test_one_without_buffers_may_be_shared(pair, drafter) -> None:
    target = pair[0]
    streams = [stream(target, drafter, prompt, NEW) for prompt in (PROMPT, OTHER)]
    texts = [next(each) for each in streams]
    for text, each in zip(texts, streams, strict=True):
        text += [token for step in each for token in step]
    assert texts == [generate(target, prompt, NEW).tokens for prompt in (PROMPT, OTHER)]


@pytest.mark.parametrize("pattern", [(4,), (1, 4), (0, 4), (0, 0, 4), (0, 0, 0, 2)])
@pytest.mark.parametrize("kind", ["draft model", "head"])
def test_cycles_without_drafts_leave_no_holes(tiny, pattern, kind: str) -> None:
    """A draft that is the target itself is right, whatever the cycles before it drafted; a head
    drafts what it drafts in a run that reads all of the text at once."""
    target = tiny(2)
    drafter = DraftModel(target, 4) if kind == "draft model" else DraftHead(
        untrained_head(target), 4
    )  # fmt: skip
    turns = iter(pattern * 100)
    run = speculate(target, drafter, PROMPT, 40, choose_gamma=lambda _: next(turns))
    counts = run.statistics
    if kind == "draft model":
        assert counts.accepted_counts == counts.drafted_counts
    cache = drafter.cache
    after = len(PROMPT) + len(run.tokens) - 1
    kept = [keys[0, :after].clone() for keys in cache.keys]
    speculate(target, drafter, PROMPT + run.tokens[:-1], 1)
    for before, keys in zip(kept, drafter.cache.keys, strict=True):
        torch.testing.assert_close(before[: after - 5], keys[0, : after - 5])


def test_a_head_forgets_numbers_that_are_not_finite(pair) -> None:
    target = pair[0]
    drafter = DraftHead(untrained_head(target), 3)
    expected = speculate(target, drafter, PROMPT, NEW, 0.9).tokens
    with torch.inference_mode():
        for tensor in (*drafter.cache.tensors(), drafter.before):
            tensor.fill_(torch.nan)
    assert speculate(target, drafter, PROMPT, NEW, 0.9).tokens == expected


@pytest.mark.parametrize("kind", ["early exit", "quantised self"])
def test_the_targets_cache_is_let_go_before_a_larger_one_is_made(tiny, monkeypatch, kind) -> None:
    dtype = torch.float64 if kind == "early exit" else torch.bfloat16
    target = tiny(2, dtype=dtype, hidden_size=64, head_dim=16, intermediate_size=64)
    drafter = EarlyExit(1, 2) if kind == "early exit" else QuantisedSelf(2, "int8")
    speculate(target, drafter, PROMPT, 4)
    old, alive = weakref.ref(drafter.cache), []
    made = type(target).new_cache

    def new_cache(self, *arguments):
        alive.append(old() is not None)
        return made(self, *arguments)

    monkeypatch.setattr(type(target), "new_cache", new_cache)
    speculate(target, drafter, PROMPT, 40)
    assert alive == [False]


def test_a_value_of_the_drafter_that_changes_is_recorded_anew(pair) -> None:
    target, draft = pair
    drafter = DraftModel(draft, 3)
    cycle = Cycle(target, drafter, 1, 64, RunSettings(SamplingParameters(), mode="compiled"))
    cycle.begin([PROMPT], [NEW], 0)
    recordings = Recordings(cycle)
    recordings.drop_if_moved()
    recordings.recorded[3, 64] = cycle.stages
    recordings.drop_if_moved()
    assert recordings.recorded
    drafter.stop_below = 0.5
    recordings.drop_if_moved()
    assert not recordings.recorded


def test_a_tree_that_is_deeper_than_a_window_is_refused(pair) -> None:
    target, draft = pair
    windowed = SimpleNamespace(kinds=(SimpleNamespace(window=None), SimpleNamespace(window=3)))
    tree = StaticTree(draft, Tree((0, 1, 2)))
    try:
        draft.details = windowed
        with pytest.raises(SpecsimError, match="depth 3 is deeper than a window of tiny, 3 tokens"):
            speculate(target, tree, PROMPT, NEW)
    finally:
        draft.details = None


def test_a_copy_in_fewer_bits_keeps_the_notes(tiny) -> None:
    model = tiny(1)
    model.notes = ("something was changed at load",)
    assert quantized(model, "int8").notes == model.notes


@torch.inference_mode()
def test_a_prompt_is_read_without_a_mask(pair, sequences_of, monkeypatch) -> None:
    """A mask would take memory as the square of the prompt's length. What is cached is the same."""
    target = pair[0]
    cache = target.new_cache(2, 40, 1)
    expected, _ = transformer.prefill(target, sequences_of([PROMPT, OTHER * 5], 4), cache)
    masked = target.new_cache(2, 40, 1)
    tokens = sequences_of([PROMPT, OTHER * 5], 4).tokens[:, : expected.shape[1]]
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    hidden = target.hidden(tokens, positions, masked, tokens.shape[1])
    torch.testing.assert_close(hidden, expected)
    for one, other in zip(cache.tensors(), masked.tensors(), strict=True):
        torch.testing.assert_close(one, other)

    def refuse(*_):
        raise AssertionError("a mask was made")

    monkeypatch.setattr(transformer, "attention_bias", refuse)
    transformer.prefill(target, sequences_of([PROMPT, OTHER * 5], 4), cache)

"""Synthetic pairs with a target acceptance rate: real drafts of real layers reach it."""

from dataclasses import replace

import pytest
import torch

from reference import DraftModel, EarlyExit, speculate
from reference.lab.dialled import (
    LARGEST,
    architecture_named,
    dialled_pair,
    dialled_to,
    random_model,
)
from specsim.architecture import Architecture, Experts, model
from specsim.checks import SpecsimError

SHAPE = Architecture(
    name="small", hidden_size=64, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=16,
    intermediate_size=128, vocab_size=256, max_context=128,
)  # fmt: skip
CONTEXTS = torch.arange(96).view(3, 32)


@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.9])
def test_alpha_is_what_was_asked_for(alpha):
    target, draft, reached = dialled_pair(SHAPE, 2, alpha, dtype=torch.float32)
    assert reached == pytest.approx(alpha, abs=0.02)
    with torch.inference_mode():
        p, q = (model(CONTEXTS).softmax(-1) for model in (target, draft))
    # on contexts that the search for epsilon has not seen
    assert torch.minimum(p, q).sum(-1).mean().item() == pytest.approx(alpha, abs=0.08)


@pytest.mark.parametrize("fall", [lambda e: 1 / (1 + 3 * e), lambda e: 1 - e / 2, lambda e: 0.1**e])
@pytest.mark.parametrize("alpha", [0.5, 0.85, 0.98])
def test_few_passes_find_the_epsilon(alpha, fall):
    tried = []
    reached = dialled_to(alpha, lambda epsilon: tried.append(epsilon) or fall(epsilon))
    assert reached == fall(tried[-1]) == pytest.approx(alpha, abs=0.003)
    assert len(tried) <= 6  # halving the range takes up to nine


def test_an_overlap_that_is_never_so_small_stays_at_the_largest_epsilon():
    tried = []
    assert dialled_to(0.1, lambda epsilon: tried.append(epsilon) or 0.4) == 0.4
    assert tried[-1] == pytest.approx(LARGEST, abs=0.01)


def test_the_draft_is_the_first_layers_of_the_target():
    target, draft, _ = dialled_pair(SHAPE, 2, 0.7, dtype=torch.float32)
    assert draft.architecture.num_layers == len(draft.layers) == 2
    assert all(a is b for a, b in zip(draft.layers, target.layers[:2], strict=True))
    assert draft.embedding is target.embedding
    assert draft.head is target.head


def test_the_target_s_own_cache_gives_the_same_drafts():
    target, draft, _ = dialled_pair(SHAPE, 2, 0.7, dtype=torch.float32)
    runs = [
        speculate(target, drafter, [[1, 2, 3], [4]], 40, 1.0, seed=2)
        for drafter in (DraftModel(draft, 3), EarlyExit(2, 3))
    ]
    assert runs[0].tokens == runs[1].tokens
    assert runs[0].statistics.accepted == runs[1].statistics.accepted


def test_experts_are_dialled_too():
    for experts in (Experts(4, 2, 64), Experts(4, 2, 64, shared_size=64, shared_gate=True)):
        shape = replace(SHAPE, experts=experts)
        assert dialled_pair(shape, 2, 0.7, dtype=torch.float32)[2] == pytest.approx(0.7, abs=0.02)


def test_sizes_have_short_names():
    assert architecture_named("8b").parameters == model("llama-3.1-8b").parameters
    assert architecture_named("1b").tied_head
    assert architecture_named("70b-slice").num_layers == 8
    assert architecture_named("70b-slice").hidden_size == model("llama-3.1-70b").hidden_size
    assert architecture_named("qwen3-0.6b") == model("qwen3-0.6b")
    with pytest.raises(SpecsimError, match="9b"):
        architecture_named("9b")


def test_a_shape_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("reference.memory.free_bytes", lambda device: 1e9)
    with pytest.raises(
        SpecsimError, match=r"the weights of llama-3\.1-8b.* need 16.1 GB of memory"
    ):
        random_model(architecture_named("8b"), torch.bfloat16, "cpu", 0)


def test_the_same_seed_gives_the_same_pair():
    first, second = (dialled_pair(SHAPE, 1, 0.6, dtype=torch.float32, seed=3) for _ in range(2))
    assert first[2] == second[2]
    assert torch.equal(first[0](CONTEXTS), second[0](CONTEXTS))


def test_signals_neither_grow_nor_fade():
    deep = random_model(SHAPE, torch.float32, "cpu", seed=0)
    with torch.inference_mode():
        assert 2.5 < deep(CONTEXTS).std().item() < 5.0


@pytest.mark.parametrize(
    ("layers", "alpha", "named"), [(2, 1.0, "1.0"), (2, 0.0, "0.0"), (6, 0.5, "6"), (7, 0.5, "7")]
)
def test_what_cannot_be_dialled_is_refused(layers, alpha, named):
    with pytest.raises(SpecsimError, match=named):
        dialled_pair(SHAPE, layers, alpha)

"""Dialled pairs: the acceptance that was asked for, by real drafts of real layers."""

import pytest
import torch

from reference.dialled import dialled_pair, random_model
from specsim.architecture import Architecture
from specsim.catalog import SpecsimError

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
    # on contexts that the dial has not seen
    assert torch.minimum(p, q).sum(-1).mean().item() == pytest.approx(alpha, abs=0.08)


def test_the_draft_is_the_first_layers_of_the_target():
    target, draft, _ = dialled_pair(SHAPE, 2, 0.7, dtype=torch.float32)
    assert draft.architecture.num_layers == len(draft.layers) == 2
    assert all(a is b for a, b in zip(draft.layers, target.layers[:2], strict=True))
    assert draft.embedding is target.embedding
    assert draft.head is target.head


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

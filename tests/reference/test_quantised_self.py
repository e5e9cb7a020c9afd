"""The target in fewer bits drafts for itself: nearly always right, and never what is written."""

import pytest
import torch

from reference import QuantisedSelf, generate, speculate
from reference.sampling import SamplingParameters
from specsim.checks import SpecsimError

PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0]]
FIELDS = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "head_dim": 16}
# for many short texts: the smallest that groups of 32 weights divide
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
}


@pytest.mark.parametrize("precision", ["int8", "int4-g32"])
@pytest.mark.parametrize("gamma", [1, 4, 8])
def test_greedy_text_is_that_of_plain_decoding(tiny, precision: str, gamma: int) -> None:
    target = tiny(3, **FIELDS)
    plain = generate(target, PROMPTS, 24).tokens
    run = speculate(target, QuantisedSelf(gamma, precision), PROMPTS, 24)
    assert run.tokens == plain
    assert run.statistics.alpha > {"int8": 0.9, "int4-g32": 0.6}[precision]


def test_a_target_in_bf16_lends_its_keys_and_values(tiny) -> None:
    target = tiny(3, dtype=torch.bfloat16, **FIELDS)
    drafter = QuantisedSelf(4, "int8")
    run = speculate(target, drafter, PROMPTS, 40, temperature=1.0, seed=5)
    assert drafter.rows == 1
    assert run.statistics.alpha > 0.85
    assert all(len(tokens) == 40 for tokens in run.tokens)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_sampled_texts_have_the_targets_distribution(tiny, sampled_texts, dtype) -> None:
    target = tiny(11, dtype=dtype, vocab_size=sampled_texts.SIZE, **SMALL)
    drafter = QuantisedSelf(2, "int4-g32")
    counts = sampled_texts.counts(target, drafter, temperature=0.8)
    distribution = sampled_texts.distribution(target, SamplingParameters(0.8))
    assert sampled_texts.tail(counts, distribution.double()) > 1e-3


def test_the_copy_is_made_once_for_a_target(tiny) -> None:
    drafter = QuantisedSelf(2, "int8")
    one, other = tiny(1), tiny(2)
    speculate(one, drafter, [1], 4)
    copy = drafter.model
    speculate(one, drafter, [2], 4)
    assert drafter.model is copy
    speculate(other, drafter, [2], 4)
    assert drafter.model is not copy


def test_a_target_that_cannot_be_divided_is_refused(tiny) -> None:
    with pytest.raises(SpecsimError, match="cannot be divided by that; int8 has no groups"):
        speculate(tiny(), QuantisedSelf(2), [1], 4)

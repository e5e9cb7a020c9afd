"""Seen one cycle at a time, a run is the run that it is otherwise."""

import itertools

import pytest
import torch

from reference import slow_motion
from reference.decoding import speculate
from reference.drafters.draft_model import DraftModel
from reference.drafters.n_gram import NGram
from reference.sampling import SamplingParameters

PROMPT, NEW = [3, 1, 4, 1], 24


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(0, dtype=torch.float64)
    return target, perturbed(target, 0.1)


@pytest.mark.parametrize("rule", ["token", "block", "match"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_tokens_and_counts_are_those_of_speculate(pair, rule: str, temperature: float) -> None:
    target, draft = pair
    drafter = DraftModel(draft, 3)
    run = speculate(target, drafter, PROMPT, NEW, temperature, rule=rule, seed=5)
    seen = list(slow_motion.cycles(target, drafter, PROMPT, NEW, temperature, rule=rule, seed=5))
    assert list(itertools.chain(*(cycle.emitted for cycle in seen))) == run.tokens
    whole = [cycle for cycle in seen if len(cycle.emitted) == cycle.accepted + 1]
    assert [cycle.accepted for cycle in whole] == run.statistics.accepted_counts
    assert 0 < sum(cycle.accepted == len(cycle.drafted) for cycle in seen) < len(seen)


def test_what_was_emitted_is_what_was_kept_and_what_followed(pair) -> None:
    target, draft = pair
    for cycle in slow_motion.cycles(target, DraftModel(draft, 3), PROMPT, NEW):
        kept = [*cycle.drafted[: cycle.accepted], cycle.next_token]
        assert kept[: len(cycle.emitted)] == cycle.emitted


def test_the_distributions_are_those_of_the_models_reading_the_text_whole(pair) -> None:
    target, draft = pair
    text = list(PROMPT)
    for cycle in slow_motion.cycles(target, DraftModel(draft, 3), PROMPT, NEW, temperature=0.7):
        read = torch.tensor([[*text, *cycle.drafted]])
        with torch.inference_mode():
            distributions = [
                SamplingParameters(0.7).probabilities(m(read)[0, len(text) - 1 :]) for m in pair
            ]
        torch.testing.assert_close(cycle.target_probs, distributions[0])
        torch.testing.assert_close(cycle.draft_probs, distributions[1][:-1])
        text += cycle.emitted


def test_a_batch_is_seen_row_by_row_and_point_masses_have_no_distribution(pair) -> None:
    target, _ = pair
    prompts = [[1, 2, 1, 2], [4, 4]]
    run = speculate(target, NGram(2), prompts, NEW, 1.0, seed=3)
    written: list[list[int]] = [[], []]
    for cycle in slow_motion.cycles(target, NGram(2), prompts, NEW, 1.0, seed=3):
        for text, row in zip(written, cycle, strict=True):
            text += row.emitted
            assert row.draft_probs is None
    assert written == run.tokens

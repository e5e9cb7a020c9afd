"""The bundled pair writes one greedy text, however it is decoded: 50 prompts x gamma = 1 … 8.

In float64 token for token. In float32 up to near-ties: passes of one row and of gamma + 1 rows
round differently, and where two logits are within 1e-4 either may come out on top.
"""

import itertools
from collections.abc import Callable

import pytest
import torch

import reference
from reference.checkpoints import PAIR

NEW = 12
GAMMAS = range(1, 9)
QUICKLY = (1, 4, 8)  # of float32, whose near-ties are looked into one by one
ALONE = (0, 17, 49)  # prompts that are also decoded by themselves
AT_ONCE = 17  # prompts: ones that take equally many cycles do not wait for slower ones
TREES = slice(0, None, 2)  # prompts that are decoded by trees, whose passes are wide

pytestmark = pytest.mark.skipif(
    not (PAIR / "target" / "model.safetensors").exists(), reason="the pair is not trained yet"
)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """50 held-out prompts of 6 to 14 tokens: a ragged batch. To read longer ones takes as long as
    to decode after them."""
    texts = reference.prompts("timed") + reference.prompts("calibration")
    assert len(texts) >= 50
    return [text[: 6 + index % 9] for index, text in enumerate(texts[:50])]


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def pair(request):
    target, draft, _ = reference.load_pair("bundled", dtype=request.param)
    return target, draft


@pytest.fixture(scope="module")
def plain(pair, prompts) -> list[list[int]]:
    return reference.generate(pair[0], prompts, NEW).tokens


@pytest.fixture(scope="module")
def in_groups(pair, prompts, plain) -> Callable[..., list[list[int]]]:
    """Speculates on some of the prompts, AT_ONCE in a batch, those that the draft foretells best
    first."""
    target, draft = pair

    def foretold(index: int) -> int:
        text = torch.tensor([prompts[index] + plain[index]])
        with torch.inference_mode():
            drafted = draft(text)[0, len(prompts[index]) - 1 : -1].argmax(-1)
        return (drafted == text[0, len(prompts[index]) :]).sum().item()

    order = sorted(range(len(prompts)), key=foretold, reverse=True)

    def decode(drafter, part: slice = slice(None)) -> list[list[int]]:
        indices = range(len(prompts))[part]
        chosen, texts, counts = [index for index in order if index in indices], {}, [0, 0]
        for first in range(0, len(chosen), AT_ONCE):
            group = chosen[first : first + AT_ONCE]
            result = reference.speculate(target, drafter, [prompts[i] for i in group], NEW)
            texts.update(zip(group, result.tokens, strict=True))
            counts = [counts[0] + result.statistics.accepted, counts[1] + result.statistics.drafted]
        assert 0 < counts[0] < counts[1], "nothing is put to the test"
        return [texts[index] for index in indices]

    return decode


@pytest.fixture
def agree(pair, first_difference) -> Callable[..., bool]:
    """Whether texts are equal: exactly in float64, up to a near-tie in float32, and that seldom."""

    def compare(prompts, ones, others) -> bool:
        pairs = list(zip(prompts, ones, others, strict=True))
        if pair[0].dtype == torch.float64:
            return ones == others
        near_ties = [(prompt, one, other) for prompt, one, other in pairs if one != other]
        for prompt, one, other in near_ties:
            assert first_difference(pair[0], prompt, one, other) is None
        return len(near_ties) <= len(pairs) // 10

    return compare


def test_the_texts_are_worth_comparing(plain) -> None:
    assert len(set(map(tuple, plain))) > 40
    assert sum(len(set(text)) > 5 for text in plain) > 30


def test_plain_decoding_is_the_naive_loop(pair, prompts, plain, argmax_loop, agree) -> None:
    chosen = [prompts[index] for index in ALONE]
    naive = [argmax_loop(pair[0], prompt, 8) for prompt in chosen]
    assert agree(chosen, naive, [plain[index][:8] for index in ALONE])


def check_greedy_speculation(pair, prompts, plain, agree, in_groups, gamma: int) -> None:
    assert agree(prompts, plain, in_groups(reference.DraftModel(pair[1], gamma)))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_speculation_is_plain_decoding(
    pair, prompts, plain, agree, in_groups, gamma: int
) -> None:
    if pair[0].dtype == torch.float32 and gamma not in QUICKLY:
        pytest.skip("in float32 this gamma is tried by the slow tests")
    check_greedy_speculation(pair, prompts, plain, agree, in_groups, gamma)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [gamma for gamma in GAMMAS if gamma not in QUICKLY])
@pytest.mark.parametrize("pair", [torch.float32], ids=["float32"], indirect=True)
def test_greedy_speculation_in_float32_with_other_gammas(
    pair, prompts, plain, agree, in_groups, gamma: int
) -> None:
    check_greedy_speculation(pair, prompts, plain, agree, in_groups, gamma)


@pytest.mark.parametrize(
    "shape",
    [
        (4, 2, 1),
        "confidence",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ((2,), (1, 1, 2, 2))),
    ],
    ids=str,
)
def test_greedy_trees_write_the_same_text(pair, prompts, plain, agree, in_groups, shape) -> None:
    target, draft = pair
    if shape == "confidence":
        drafter = reference.ConfidenceTree(draft, nodes=16, depth=5, width=4)
    else:
        drafter = reference.StaticTree(draft, reference.Tree.branching(shape))
    assert agree(prompts[TREES], plain[TREES], in_groups(drafter, TREES))
    chosen, expected = ([texts[index] for index in ALONE] for texts in (prompts, plain))
    tokens = [reference.speculate(target, drafter, prompt, NEW).tokens for prompt in chosen]
    assert agree(chosen, expected, tokens)


@pytest.mark.parametrize("gamma", [1, 4, 8])
def test_a_prompt_by_itself_gives_its_text_in_the_batch(
    pair, prompts, plain, agree, gamma: int
) -> None:
    target, draft = pair
    chosen, expected = ([texts[index] for index in ALONE] for texts in (prompts, plain))
    drafter = reference.DraftModel(draft, gamma)
    tokens = [reference.speculate(target, drafter, prompt, NEW).tokens for prompt in chosen]
    assert agree(chosen, expected, tokens)


@pytest.mark.parametrize("gamma", [1, 5])
def test_runs_that_end_on_a_stop_token_or_on_the_limit(
    pair, prompts, plain, agree, gamma: int
) -> None:
    """The stop token is one that ends about half of the texts, each somewhere else."""
    target, draft = pair
    places = {
        token: [text.index(token) for text in plain if token in text]
        for token in {token for text in plain for token in text}
    }
    stop = min(places, key=lambda token: (abs(len(places[token]) - 25), token))
    assert len(set(places[stop])) >= 3
    assert 5 <= len(places[stop]) <= 45
    expected = [text[: text.index(stop) + 1] if stop in text else text for text in plain]
    drafter = reference.DraftModel(draft, gamma)
    result = reference.speculate(target, drafter, prompts, NEW, stop_ids=[stop])
    assert agree(prompts, expected, result.tokens)


def test_a_run_that_ends_with_the_context(pair, prompts, agree) -> None:
    target, draft = pair
    context = target.architecture.max_context
    prompt = list(itertools.chain(*prompts, *prompts))[: context - 11]
    assert len(prompt) == context - 11
    expected = reference.generate(target, prompt, 100).tokens
    assert len(expected) == 11 or expected[-1] in target.stop_ids
    result = reference.speculate(target, reference.DraftModel(draft, 8), prompt, 100)
    assert agree([prompt], [expected], [result.tokens])

"""A stream is the text of `speculate`, told in time; a stop string may straddle tokens."""

import itertools

import pytest

from reference import DraftModel, Statistics, generate, speculate, stream, stream_text
from reference.streaming import held_back, pieces
from specsim.checks import SpecsimError

PROMPTS = [[17], [9, 9, 30, 2, 55]]


class Letters:
    """A tokenizer: token n is the n-th of some scraps of text; a scrap may be half a character."""

    scraps = (b"a", b"b", b"ab", b"ba", b"\n", b"aab", b"\xc3", b"\xa9")

    def encode(self, text: str) -> list[int]:
        return [self.scraps.index(letter.encode()) for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return b"".join(self.scraps[token % 8] for token in tokens).decode(errors="replace")


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2)
    return target, perturbed(target, 0.15)


@pytest.mark.parametrize("gamma", [0, 1, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cycles_of_a_stream_are_the_text(pair, gamma: int, temperature: float) -> None:
    target, draft = pair
    drafter = DraftModel(draft, gamma)
    expected = speculate(target, drafter, PROMPTS, 20, temperature, seed=1)
    statistics = Statistics(gamma)
    steps = [*stream(target, drafter, PROMPTS, 20, temperature, seed=1, statistics=statistics)]
    joined = [list(itertools.chain(*row)) for row in zip(*steps, strict=True)]
    assert joined == expected.tokens
    assert statistics.accepted_counts == expected.statistics.accepted_counts
    one = [*stream(target, drafter, PROMPTS[0], 20, temperature, seed=1)]
    assert all(1 <= len(step) <= gamma + 1 for step in one)
    assert [*itertools.chain(*one)] == speculate(
        target, drafter, PROMPTS[0], 20, temperature, seed=1
    ).tokens


def test_tokens_are_told_as_they_are_decoded(pair) -> None:
    steps = stream(pair[0], DraftModel(pair[0], 3), PROMPTS[0], 60)
    assert next(steps) == generate(pair[0], PROMPTS[0], 4).tokens


def test_a_mistake_is_named_before_the_first_token(pair) -> None:
    with pytest.raises(SpecsimError, match="prompt is empty"):
        stream(pair[0], DraftModel(pair[1], 2), [])
    with pytest.raises(SpecsimError, match="stop string must not be empty"):
        stream_text(pair[0], DraftModel(pair[1], 2), "a", Letters(), stop=["b", ""])


@pytest.mark.parametrize("gamma", [0, 3])
@pytest.mark.parametrize("stop", [(), "aab", ("zz", "\n"), ("bb", "a\n"), "é"])
def test_pieces_joined_are_the_text_up_to_the_first_stop(pair, gamma: int, stop) -> None:
    target, draft = pair
    for prompt in ("a", "ba", "\nb"):
        tokens = generate(target, Letters().encode(prompt), 30).tokens
        text = Letters().decode(tokens)
        stops = (stop,) if isinstance(stop, str) else stop
        places = [place for string in stops if (place := text.find(string)) >= 0]
        drafter = DraftModel(draft, gamma)
        told = [*stream_text(target, drafter, prompt, Letters(), stop=stop, max_new_tokens=30)]
        assert "".join(told) == text[: min(places, default=None)]
        assert "" not in told


def test_every_way_of_cutting_a_text_into_tokens_stops_at_the_same_place() -> None:
    """All texts of four scraps, told one, two or four tokens at a time."""
    stops = ("ba\n", "aba", "é")
    for tokens in itertools.product(range(8), repeat=4):
        text = Letters().decode([*tokens])
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        for width in (1, 2, 4):
            steps = [[*tokens[i : i + width]] for i in range(0, 4, width)]
            told = [*pieces(steps, Letters(), stops)]
            assert "".join(told) == text[: min(places, default=None)]


@pytest.mark.parametrize(
    ("text", "held"),
    [("xab", 2), ("xa", 1), ("abx", 0), ("xb", 0), ("ab\ufffd", 3), ("\ufffd\ufffd", 2), ("", 0)],
)
def test_what_may_begin_a_stop_is_held_back(text: str, held: int) -> None:
    assert held_back(text, ("abc", "ax")) == held

"""Exercises in code: the right function passes, each common mistake is named."""

import numpy as np
import pytest

from specsim.acceptance import overlap, residual
from specsim.checks import SpecsimError
from specsim.course import exercises

draw = exercises.draw


# --- what students write, in their own words -----------------------------------------------------


def mine(p, q, drafted, uniforms):
    """Written another way than the solution: by cumulated products of ratios."""
    ratios = [min(1.0, p[k][x] / q[k][x]) for k, x in enumerate(drafted)]
    accepted = 0
    while accepted < len(drafted) and uniforms[accepted] < ratios[accepted]:
        accepted += 1
    probs = p[accepted] if accepted == len(drafted) else residual(p[accepted], q[accepted])
    return np.int64(accepted), np.searchsorted(np.cumsum(probs), uniforms[-1], side="right")


def from_p(p, q, drafted, uniforms):
    accepted, _ = mine(p, q, drafted, uniforms)
    return accepted, draw(p[accepted], uniforms[-1])


def likely(p, q, drafted, uniforms):
    for k, x in enumerate(drafted):
        if uniforms[k] > p[k, x]:
            missing = np.clip(p[k] - q[k], 0, None)
            return k, draw(missing / missing.sum(), uniforms[-1])
    return len(drafted), draw(p[-1], uniforms[-1])


def greedy_bonus(p, q, drafted, uniforms):
    accepted, following = mine(p, q, drafted, uniforms)
    return accepted, p[-1].argmax() if accepted == len(drafted) else following


def sums_all(p, q, drafted, uniforms):
    kept = [uniforms[k] < p[k, x] / q[k, x] for k, x in enumerate(drafted)]
    first = mine(p, q, drafted, uniforms)[0]
    probs = p[-1] if all(kept) else residual(p[first], q[first])
    return np.sum(kept), draw(probs, uniforms[-1])


def unnormalised(p, q, drafted, uniforms):
    accepted, following = mine(p, q, drafted, uniforms)
    if accepted < len(drafted):
        return accepted, draw(np.clip(p[accepted] - q[accepted], 0, None), uniforms[-1])
    return accepted, following


SAID = [
    ("verify", from_p, "drew from p after a rejection"),
    ("verify", likely, "accepted with probability p"),
    ("verify", greedy_bonus, "likeliest token as the bonus"),
    ("verify", sums_all, "accepted drafts after a rejection"),
    ("verify", unnormalised, "must sum to 1, got 0."),
    ("verify", lambda *_: None, "returns nothing"),
    ("verify", lambda *_: (1, 2, 3), "two whole numbers"),
    ("verify", lambda p, q, drafted, uniforms: (3, 0), "accepted must be 0 to 2"),
    ("verify", lambda p, q, drafted, uniforms: (0, 3), "next_token must be a token"),
    ("verify", lambda p, q: (0, 0), "TypeError"),
    ("verify", lambda p, q, drafted, uniforms: (0, 0), "not have the target's distribution"),
    ("tokens_per_cycle", lambda a, g: (1 - a ** (g + 1)) / (1 - a), "ZeroDivisionError"),
    ("tokens_per_cycle", lambda a, g: a * g, "γα"),
    ("tokens_per_cycle", lambda a, g: sum(a**k for k in range(1, g + 1)), "forgot the bonus"),
    ("tokens_per_cycle", lambda a, g: np.polyval(np.ones(g), a), "one term too early"),
    ("tokens_per_cycle", lambda a, g: ..., "returns nothing"),
    ("tokens_per_cycle", lambda a, g: "many", "one number"),
    ("kv_bytes", lambda m, t, b: m.num_layers * m.num_kv_heads * m.head_dim * t * b, "not both"),
    ("kv_bytes", lambda m, t, b: 2 * m.num_layers * m.num_heads * m.head_dim * t * b, "query"),
    ("kv_bytes", lambda m, t, b: 4 * m.num_layers * m.num_kv_heads * m.head_dim * t, "two bytes"),
    ("kv_bytes", lambda m, t, b: 42.0, "off (by up to"),
    ("pass_seconds", lambda r, w, b, f: 2 * w / b + 2 * w * r / f, "added the two times"),
    ("pass_seconds", lambda r, w, b, f: max(2 * w / b, w * r / f), "one FLOP"),
    ("pass_seconds", lambda r, w, b, f: r * 2 * w / b, "again for every row"),
]
RIGHT = [
    ("verify", mine),
    ("verify", exercises.verify),
    ("tokens_per_cycle", exercises.tokens_per_cycle),
    ("tokens_per_cycle", lambda a, g: np.polyval(np.ones(g + 1), a)),
    ("kv_bytes", exercises.kv_bytes),
    ("pass_seconds", exercises.pass_seconds),
]


@pytest.mark.parametrize(("name", "written"), RIGHT)
def test_a_right_answer_passes(name, written) -> None:
    answer = exercises.check(name, written)
    assert answer, answer.sentence
    assert str(answer) == "Right."


@pytest.mark.parametrize(("name", "written", "said"), SAID)
def test_a_wrong_answer_gets_a_hint_that_names_the_mistake(name, written, said) -> None:
    answer = exercises.check(name, written)
    assert not answer
    assert said in answer.sentence


@pytest.mark.parametrize("each", exercises.EXERCISES, ids=lambda each: each.id)
def test_mistakes_differ_from_the_answer_and_from_each_other(each) -> None:
    """A mistake that does the same as another would be named for it."""
    outcomes = [each.outcome(each.right), *map(each.outcome, each.mistakes.values())]
    assert len(each.mistakes) >= 3
    for i, one in enumerate(outcomes):
        for other in outcomes[:i]:
            assert not each._same(one, other)


def test_the_enumeration_is_exact() -> None:
    """It adds up to 1, finds the target's distribution, and counts the first draft's acceptance."""
    *found, mean = exercises.emitted_distribution(exercises.verify)
    p, q = exercises.P, exercises.Q
    np.testing.assert_allclose(
        np.reshape(found, (3, 3, 3)), np.einsum("a,b,c->abc", *p), atol=1e-12
    )
    both = [float(overlap(p[k], q[k])) for k in range(2)]
    assert mean == pytest.approx(both[0] + both[0] * both[1])
    kept = [
        weight * (exercises.verify(p, exercises.Q, drafted, uniforms)[0] >= 1)
        for drafted, uniforms, weight in exercises.cases()
    ]
    assert sum(kept) == pytest.approx(float(overlap(p[0], exercises.Q[0])))


def test_what_is_no_exercise_and_no_function() -> None:
    with pytest.raises(SpecsimError, match="nearest: verify"):
        exercises.check("verifi", mine)
    with pytest.raises(SpecsimError, match="they are: verify, tokens_per_cycle"):
        exercises.exercise("zzz")
    with pytest.raises(SpecsimError, match="without parentheses"):
        exercises.check("kv_bytes", 3.0)
    with pytest.raises(SpecsimError, match="must sum to 1"):
        draw(np.array([0.5, 0.1]), 0.3)


def test_the_solution_is_folded() -> None:
    shown = exercises.solution("verify")._repr_markdown_()
    assert shown.startswith('<details markdown="1">')
    assert "```python\ndef verify(" in shown
    for each in exercises.EXERCISES:
        assert f"def {each.id}(" in exercises.solution(each.id).text

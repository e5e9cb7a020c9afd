"""A difference in words: its sign, its size, its error, and whether it is more than noise."""

import numpy as np
import pytest

from specsim.checks import SpecsimError
from specsim.course import difference
from specsim.course.differences import student_t

OLD = [2.0, 4.0, 2.5, 3.0]


def changed_by(*percent: float) -> list[float]:
    return [old * (1 + change / 100) for old, change in zip(OLD, percent, strict=True)]


def test_more_fewer_and_noise() -> None:
    """Four runs: the error is the standard deviation over 2, and 3.19 errors are noise."""
    assert str(difference(changed_by(4, 6, 5, 5), OLD, "tokens")) == "5.0 ± 0.4 % more tokens"
    assert str(difference(changed_by(-4, -6, -5, -5), OLD, "tokens")) == "5.0 ± 0.4 % fewer tokens"
    noise = difference(changed_by(-1.2, 5.8, 5.7, 5.2), OLD, "tokens")
    assert str(noise) == "no difference in tokens beyond the noise (3.9 ± 1.7 %)"
    below = difference(changed_by(-1, 1, -3, 1), OLD)
    assert str(below) == "no difference beyond the noise (−0.5 ± 1.0 %)"
    assert str(difference(OLD, OLD, "tokens")).startswith("no difference in tokens")


def test_other_words() -> None:
    words = ("faster", "slower")
    assert str(difference(changed_by(30, 70, 60, 40), OLD, words=words)) == "50.0 ± 9.1 % faster"
    assert str(difference(changed_by(-30, -30.2, -30.1, -29.9), OLD, words=words)) == (
        "30.05 ± 0.06 % slower"
    )
    wide = difference(changed_by(200, 300, 250, 350), OLD, words=words)
    assert str(wide) == "275 ± 32 % faster"


def test_the_numbers() -> None:
    found = difference(changed_by(4, 6, 5, 5), OLD)
    assert found.mean == pytest.approx(0.05)
    assert found.error == pytest.approx(np.std([4, 6, 5, 5], ddof=1) / 2 / 100)
    assert found.runs == 4


@pytest.mark.parametrize("runs", [2, 3, 4, 10, 30])
def test_noise_is_called_a_difference_in_one_case_of_twenty(runs: int) -> None:
    """Runs without a difference, many times: the share of them that are called one is 5 %."""
    random = np.random.default_rng(runs)
    tries = 4000
    called = sum(
        not difference(new, old).is_noise
        for new, old in 1 + 0.01 * random.standard_normal((tries, 2, runs))
    )
    assert abs(called / tries - 0.05) < 4 * np.sqrt(0.05 * 0.95 / tries)


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(0)
    new, old = 1 + 0.01 * random.standard_normal((2, 8))
    assert "more" in str(difference(1.05 * new, old))
    assert "fewer" in str(difference(0.95 * new, old))


@pytest.mark.parametrize(("freedom", "exact"), [(1, 12.706), (3, 3.182), (10, 2.228), (11, 2.201)])
def test_the_quantiles_of_student(freedom: int, exact: float) -> None:
    assert 0 <= student_t(freedom) - exact < 0.01


@pytest.mark.parametrize("new", [[1.0], [], 1.0, [1.0, 2.0, 3.0], [1.0, 0.0], [1.0, np.nan]])
def test_one_run_is_no_difference(new) -> None:
    with pytest.raises(SpecsimError, match="needs"):
        difference(new, [1.0] if np.ndim(new) and len(new) == 1 else [1.0, 1.0])

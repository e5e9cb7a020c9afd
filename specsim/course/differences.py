"""A measured difference in words: its size, its standard error, and whether it is more than noise.

A sentence about a difference must not rest on one run. So `difference` takes several runs, and the
words that it chooses depend on the sign and on the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.checks import ArrayLike, SpecsimError

# Student's t for 95 %, two-sided, of 1, 2, … degrees of freedom (tables; rounded up)
T_95 = (12.71, 4.31, 3.19, 2.78, 2.58, 2.45, 2.37, 2.31, 2.27, 2.23)


def student_t(freedom: int) -> float:
    """How many standard errors hold 95 % of the means of noise, with so many degrees of freedom."""
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    return 1.96 + 2.7 / freedom  # at 11: 2.205, exact 2.201; at 60: 2.005, exact 2.000


@dataclass(frozen=True, slots=True)
class Difference:
    """A relative difference over several runs: `mean` and its standard `error`, as shares.

    Its text is a phrase: "5.1 ± 0.8 % more tokens", "5.1 ± 0.8 % fewer tokens", or "no difference
    in tokens beyond the noise (0.4 ± 0.8 %)".
    """

    mean: float
    error: float
    runs: int
    noun: str = ""
    words: tuple[str, str] = ("more", "fewer")

    @property
    def is_noise(self) -> bool:
        """Whether runs without any difference would give such a mean in one case of twenty or
        more (Student's t)."""
        return abs(self.mean) <= student_t(self.runs - 1) * self.error

    def __str__(self) -> str:
        percent, error = 100 * self.mean, 100 * self.error
        digits = 0 if error >= 10 else 1 if error >= 0.1 or error == 0 else 2
        if self.is_noise:
            of = f" in {self.noun}" if self.noun else ""
            size = f"{percent:.{digits}f} ± {error:.{digits}f} %".replace("-", "−")
            return f"no difference{of} beyond the noise ({size})"
        word = self.words[0] if percent > 0 else self.words[1]
        return f"{abs(percent):.{digits}f} ± {error:.{digits}f} % {word} {self.noun}".rstrip()


def difference(
    new: ArrayLike,
    old: ArrayLike,
    noun: str = "",
    words: Sequence[str] = ("more", "fewer"),
) -> Difference:
    """The mean of new ÷ old − 1 over pairs of runs, with its standard error.

    Arguments: `new` and `old`, (runs,), positive numbers; the two of a pair share what can be
    shared (seed, prompts). `noun`, what is counted; `words`, for a positive and a negative sign.
    Raises SpecsimError for fewer than two pairs, for unequal numbers of runs and for a number that
    is not positive: one run has no error.
    """
    after, before = np.asarray(new, float), np.asarray(old, float)
    if after.ndim != 1 or after.shape != before.shape or len(after) < 2:
        raise SpecsimError(
            f"a difference needs two or more pairs of runs, got {after.shape} and {before.shape}; "
            "repeat both with other seeds"
        )
    if not np.all((after > 0) & (before > 0) & np.isfinite(after) & np.isfinite(before)):
        raise SpecsimError("a relative difference needs positive finite numbers")
    relative = after / before - 1
    error = float(relative.std(ddof=1) / len(relative) ** 0.5)
    positive, negative = words
    return Difference(float(relative.mean()), error, len(relative), noun, (positive, negative))

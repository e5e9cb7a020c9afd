"""A question whose answer is computed, and the wrong answers that common mistakes give.

A `Question` is answered with a number, a `Choice` by picking an option. The right number is
computed when it is asked for, never typed in. The wrong number of each common mistake is computed
too, so that the reply can name the mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from specsim.checks import SpecsimError

# A number; a function that computes it; or the name of one of the question's `worked` numbers.
Value = float | str | Callable[[], float]
Worked = Callable[[], Mapping[str, float]]

LEAST_MISTAKE_TOLERANCE = 0.02  # for recognising a mistake, even where the answer must be exact


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether an answer is right. `sentence` is the reply; `mistake` is the likely common mistake,
    None if none fits; `one_line` is the answer in one sentence, given after a right answer.
    """

    right: bool
    sentence: str
    mistake: str | None = None
    one_line: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return self.sentence

    def _repr_markdown_(self) -> str:
        said = f"\n\n**In one line:** {self.one_line}" if self.one_line else ""
        return f"{'✔' if self.right else '✘'} {self.sentence}{said}"


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A question whose answer is a number.

        Question("Tokens per cycle at alpha 0.8, gamma 4?",
                 answer=lambda: IID(0.8).tokens_per_cycle(4), tolerance=0.02,
                 mistakes={"you forget the bonus token": lambda: IID(0.8).tokens_per_cycle(4) - 1})

    | field | meaning |
    |---|---|
    | `answer` | a number, a function that computes it, or the name of one of the `worked` numbers |
    | `tolerance` | relative: 0.1 accepts an error of 10 %, 0 only the exact number |
    | `mistakes` | a clause after "you get this if", and the number that the mistake gives |
    | `unit` | the unit of the answer; "%" for a percentage |
    | `worked` | computes every number of the worked answer, by name |
    | `in_short` | the answer in one sentence; `{name:.2f}` is filled in with a worked number |
    """

    prompt: str
    answer: Value
    tolerance: float = 0.1
    mistakes: Mapping[str, Value] = field(default_factory=dict)
    unit: str = ""
    worked: Worked = dict
    id: str = ""
    section: str = ""
    in_short: str = ""
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < 1.0:
            raise SpecsimError(f"tolerance must be within [0, 1), got {self.tolerance!r}")

    @property
    def expected(self) -> float:
        """The right answer, computed now."""
        return self._number(self.answer, self.worked())

    def mistake_values(self) -> dict[str, float]:
        """The wrong number that each mistake gives, computed now."""
        numbers = self.worked()
        return {mistake: self._number(value, numbers) for mistake, value in self.mistakes.items()}

    @property
    def one_line(self) -> str:
        """The answer in a sentence, with its numbers computed."""
        return self.in_short.format_map(dict(self.worked()))

    def check(self, value: float | str) -> Answer:
        """Whether `value` is within the tolerance; if not, the likely mistake or how far it is off.

        Where a mistake's number is closer to `value` than the answer, the mistake is named.
        `value` may be text, with or without its unit. Raises SpecsimError if it is not a number.
        """
        given, numbers = self._given(value), self.worked()
        expected = self._number(self.answer, numbers)
        distance = _distance(given, expected)
        mistakes = {mistake: self._number(each, numbers) for mistake, each in self.mistakes.items()}
        near = {mistake: _distance(given, each) for mistake, each in mistakes.items()}
        nearest = min(near, key=lambda mistake: near[mistake], default=None)
        close_enough = max(self.tolerance, LEAST_MISTAKE_TOLERANCE)
        if nearest is not None and near[nearest] < distance and near[nearest] <= close_enough:
            hint = f"Not quite: you get {self.say(given)} if {nearest}."
            return Answer(False, hint, nearest)
        if distance <= self.tolerance:
            exactly = f" (within {100 * self.tolerance:g} %)" if self.tolerance else ""
            said = self.in_short.format_map(dict(numbers))
            return Answer(True, f"Right{exactly}: {self.say(expected)}.", one_line=said)
        return Answer(False, f"No: {self.say(given)} is {_how_far(given, expected)}.")

    def say(self, value: float) -> str:
        """A value with four digits and its unit."""
        text = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        separator = "" if self.unit == "×" else " "
        return text + (separator + self.unit if self.unit else "")

    def _given(self, value: float | str) -> float:
        number: object = value
        if isinstance(value, str):
            text = re.sub(r"\s", "", value).lower()
            text = text.removesuffix(re.sub(r"\s", "", self.unit).lower()).rstrip("x×%")
            if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", text):
                text = text.replace(",", "")  # thousands; a single comma is a decimal point
            number = text.replace(",", ".")
        try:
            given = float(number)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            given = math.nan
        if not math.isfinite(given):
            wanted = f" (in {self.unit})" if self.unit else ""
            raise SpecsimError(f"the answer must be a number{wanted}, got {value!r}")
        return given

    def _number(self, value: Value, numbers: Mapping[str, float]) -> float:
        if callable(value):
            return float(value())
        if not isinstance(value, str):
            return float(value)
        if value not in numbers:
            raise SpecsimError(
                f"question {self.id or self.prompt!r}: no worked number is called {value!r}; "
                f"there are: {', '.join(numbers) or 'none'}"
            )
        return float(numbers[value])


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A question answered by picking one of `options`, a comment on each option by its text.

    `answer` is the text of the right option. An option is picked by its letter (a, b, …) or text.
    """

    prompt: str
    answer: str
    options: Mapping[str, str]
    worked: Worked = dict
    id: str = ""
    section: str = ""
    in_short: str = ""
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.answer not in self.options:
            raise SpecsimError(
                f"answer must be one of the options, got {self.answer!r}; "
                f"they are: {', '.join(map(repr, self.options))}"
            )

    @property
    def letters(self) -> dict[str, str]:
        """Letter -> option."""
        return {chr(ord("a") + i): option for i, option in enumerate(self.options)}

    @property
    def one_line(self) -> str:
        """The answer in a sentence, with its numbers computed."""
        return self.in_short.format_map(dict(self.worked()))

    def check(self, value: str) -> Answer:
        """Whether `value` is the right option, and why.

        Raises SpecsimError if it is not one of the options.
        """
        text = str(value).strip()
        picked = self.letters.get(text.rstrip(").").lower(), text)
        if picked not in self.options:
            raise SpecsimError(
                f"the answer must be one of {', '.join(self.letters)}, or the text of one of "
                f"these options, got {value!r}"
            )
        comment = self.options[picked]
        if picked == self.answer:
            return Answer(True, f"Right: {comment}", one_line=self.one_line)
        return Answer(False, f"No: {comment}", mistake=picked)


AnyQuestion = Question | Choice


def _distance(value: float, other: float) -> float:
    """The distance relative to `other`; absolute if `other` is 0."""
    return abs(value - other) / abs(other) if other else abs(value)


def _how_far(given: float, expected: float) -> str:
    side = "too high" if given > expected else "too low"
    if given * expected > 0.0:
        factor = max(given / expected, expected / given)
        by = f"by a factor of {factor:.3g}" if factor >= 1.5 else f"by {100 * (factor - 1):.2g} %"
        return f"{side} {by}"
    return side

"""Exercises in code: the reader writes a function, and its check names the likely mistake.

    exercises.check("verify", my_verify)       "Not yet: … you draw from p after a rejection …"
    exercises.solution("verify")               a right answer, folded

`verify` is checked by enumeration: every draft and every random number, so what it finds is the
exact distribution of the emitted tokens. The others are compared with what specsim counts. A wrong
result is compared with the results of common mistakes, which are functions below.
"""

import difflib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from specsim.acceptance import IID
from specsim.architecture import model
from specsim.checks import Floats, SpecsimError
from specsim.course.quiz.folding import Folded
from specsim.course.quiz.kinds import Answer
from specsim.operators import PRECISIONS, cache_bytes

Written = Callable[..., Any]
# One row for each position; the drafts are two tokens of three. Into so many cells each random
# number is divided: no decision of the right rule changes inside a cell.
CELLS = (12, 6, 6)
P = np.array([[2, 3, 1], [1, 2, 3], [3, 1, 2]]) / 6
Q = np.array([[1, 1, 4], [3, 2, 1]]) / 6
P.setflags(write=False)
Q.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Exercise:
    """A function to write. `outcome` computes what a function does, as one vector of numbers;
    `mistakes` holds, by a clause after "as if", functions that make them."""

    id: str
    prompt: str
    right: Written
    outcome: Callable[[Written], Floats]
    mistakes: Mapping[str, Written] = field(default_factory=dict)
    tolerance: float = 1e-9  # relative
    what: str = "the results are off"

    def check(self, written: Written) -> Answer:
        """Whether `written` does what the right function does, and if not, the likely mistake.

        What it raises or returns wrongly is part of the reply. Raises SpecsimError if it is not a
        function.
        """
        if not callable(written):
            raise SpecsimError(
                f"the exercise {self.id} checks a function, got {written!r}; "
                f"give its name without parentheses: exercises.check({self.id!r}, {self.id})"
            )
        try:
            found = self.outcome(written)
        except Unusable as problem:
            return Answer(False, f"Not yet: {problem}.")
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            return Answer(False, f"Not yet: your function stopped with {said}.")
        expected = self.outcome(self.right)
        if self._same(found, expected):
            return Answer(True, "Right.", one_line=_first_line(self.right))
        for mistake, wrong in self.mistakes.items():
            if self._same(found, _outcome_of(self.id, mistake, self.outcome, wrong)):
                return Answer(False, f"Not yet: it does the same as if {mistake}.", mistake)
        far = float(np.max(np.abs(found - expected)))
        return Answer(False, f"Not yet: {self.what} (by up to {far:.3g}).")

    def _same(self, found: Floats, expected: Floats) -> bool:
        close = np.isclose(found, expected, rtol=self.tolerance, atol=1e-9, equal_nan=True)
        return found.shape == expected.shape and bool(close.all())


@lru_cache
def _outcome_of(
    _id: str, _mistake: str, outcome: Callable[[Written], Floats], wrong: Written
) -> Floats:
    """What a mistake does, computed once."""
    return outcome(wrong)


class Unusable(Exception):
    """What a function returned cannot be compared; the text says what it was."""


def draw(probs: Floats, uniform: float) -> int:
    """The token that a uniform random number in [0, 1) draws from `probs`, (V,).

    Raises SpecsimError where the probabilities do not sum to 1.
    """
    total = float(np.sum(probs))
    if not math.isclose(total, 1.0, rel_tol=1e-6):
        raise SpecsimError(f"the probabilities must sum to 1, got {total:.4g}: divide by their sum")
    return min(int(np.searchsorted(np.cumsum(probs), uniform, side="right")), len(probs) - 1)


# --- verify --------------------------------------------------------------------------------------


def cases() -> Iterator[tuple[tuple[int, ...], Floats, float]]:
    """Every draft with every cell of the random numbers, and the probability of both."""
    gamma, size = Q.shape
    middles = [(np.arange(cells) + 0.5) / cells for cells in CELLS]
    for drafted in itertools.product(range(size), repeat=gamma):
        weight = float(np.prod([Q[k, x] for k, x in enumerate(drafted)]))
        for uniforms in itertools.product(*middles):
            yield drafted, np.array(uniforms), weight / math.prod(CELLS)


def emitted_distribution(rule: Written) -> Floats:
    """The distribution of the next γ + 1 tokens, (V ** (γ + 1),), if `rule` verifies, and then the
    mean number of accepted drafts.

    A cycle that emits fewer is continued with the target's own distribution, as later cycles would.
    So a rule that leaves out the bonus still has the right distribution; its mean is too low.
    """
    gamma, size = Q.shape
    tokens, mean = np.zeros((size,) * (gamma + 1)), 0.0
    for drafted, uniforms, weight in cases():
        accepted, following = _verdict(rule(P, Q, drafted, uniforms), gamma, size)
        mean += weight * accepted
        rest: Any = weight
        for position in range(accepted + 1, gamma + 1):
            rest = np.multiply.outer(rest, P[position])
        tokens[(*drafted[:accepted], following)] += rest
    return np.append(tokens.ravel(), mean)


def _verdict(returned: Any, gamma: int, size: int) -> tuple[int, int]:
    if returned is None or returned is Ellipsis:
        raise Unusable("it returns nothing; return (accepted, next_token)")
    try:
        accepted, following = (int(value) for value in returned)
    except (TypeError, ValueError):
        raise Unusable(
            f"return two whole numbers, (accepted, next_token); it returned {returned!r}"
        ) from None
    if not 0 <= accepted <= gamma:
        raise Unusable(f"accepted must be 0 to {gamma}, the number of drafts; got {accepted}")
    if not 0 <= following < size:
        raise Unusable(f"next_token must be a token, 0 to {size - 1}; got {following}")
    return accepted, following


def verify(p: Floats, q: Floats, drafted: Sequence[int], uniforms: Floats) -> tuple[int, int]:
    """Accept each draft with probability min(1, p / q); at the first rejection draw from the
    residual, after the last draft from p."""
    for k, x in enumerate(drafted):
        if uniforms[k] * q[k, x] >= p[k, x]:
            residual = np.maximum(p[k] - q[k], 0.0)
            return k, draw(residual / residual.sum(), uniforms[-1])
    return len(drafted), draw(p[-1], uniforms[-1])


def _rule(
    reject: Callable[..., bool] = lambda p, q, x, u: bool(u * q[x] >= p[x]),
    after: Callable[..., Floats] = lambda p, q: np.maximum(p - q, 0.0),
    bonus: Callable[[Floats, float], int] = draw,
    shift: int = 0,
    one_number: bool = False,
) -> Written:
    """The right rule with one part replaced."""

    def rule(p: Floats, q: Floats, drafted: Sequence[int], uniforms: Floats) -> tuple[int, int]:
        for k, x in enumerate(drafted):
            here = p[k + shift]
            if reject(here, q[k], x, uniforms[k]):
                missing = after(here, q[k])
                last = uniforms[k] if one_number else uniforms[-1]
                return k, draw(missing / missing.sum(), last)
        return len(drafted), bonus(p[-1], uniforms[-1])

    return rule


def _goes_on(p: Floats, q: Floats, drafted: Sequence[int], uniforms: Floats) -> tuple[int, int]:
    kept = [uniforms[k] * q[k, x] < p[k, x] for k, x in enumerate(drafted)]
    if all(kept):
        return len(drafted), draw(p[-1], uniforms[-1])
    first = kept.index(False)
    missing = np.maximum(p[first] - q[first], 0.0)
    return sum(kept), draw(missing / missing.sum(), uniforms[-1])


def _no_bonus(p: Floats, q: Floats, drafted: Sequence[int], uniforms: Floats) -> tuple[int, int]:
    accepted, following = verify(p, q, drafted, uniforms)
    return (accepted, following) if accepted < len(drafted) else (accepted - 1, drafted[-1])


VERIFY = Exercise(
    id="verify",
    prompt=(
        "Write `verify(p, q, drafted, uniforms)`. `p` (γ+1, V) and `q` (γ, V) are the "
        "distributions of target and draft, `drafted` the γ tokens, `uniforms` γ + 1 random "
        "numbers in [0, 1): one for each draft, the last for the token that is added. Return how "
        "many drafts are accepted, and that token. `exercises.draw(probs, uniform)` draws a token."
    ),
    right=verify,
    outcome=emitted_distribution,
    what="the emitted tokens do not have the target's distribution, or too few are accepted",
    mistakes={
        "you drew from p after a rejection, and not from the residual max(p − q, 0)": _rule(
            after=lambda p, q: p
        ),
        "you accepted with probability p, and not with min(1, p / q)": _rule(
            reject=lambda p, q, x, u: bool(u >= p[x])
        ),
        "you turned the ratio around: it is p / q": _rule(
            reject=lambda p, q, x, u: bool(u * p[x] >= q[x])
        ),
        "you took the likeliest token as the bonus": _rule(bonus=lambda p, u: int(p.argmax())),
        "you left out the bonus token after the last accepted draft": _no_bonus,
        "you counted accepted drafts after a rejection": _goes_on,
        "you took q − p, or |p − q|, as the residual": _rule(after=lambda p, q: np.abs(p - q)),
        "you drew from q after a rejection": _rule(after=lambda p, q: q),
        "you accepted a draft whenever p ≥ q, without a random number": _rule(
            reject=lambda p, q, x, u: bool(p[x] < q[x])
        ),
        "you read p one position too late: row k is the distribution of draft k": _rule(shift=1),
        "you used the random number of the rejected draft again for the token that is added": _rule(
            one_number=True
        ),
    },
)


# --- formulas ------------------------------------------------------------------------------------


def tokens_per_cycle(alpha: float, gamma: int) -> float:
    """1 + α + α² + … + αᵞ: the k-th draft counts if all before it are accepted too, and every
    cycle adds one token of the target."""
    return float(sum(alpha**k for k in range(gamma + 1)))


def kv_bytes(architecture: Any, tokens: int, bytes_per_number: float = 2.0) -> float:
    """A key and a value for every layer, KV head and token: 2 × layers × KV heads × head size ×
    tokens × bytes."""
    one = 2 * architecture.num_layers * architecture.num_kv_heads * architecture.head_dim
    return float(one * tokens * bytes_per_number)


def pass_seconds(rows: int, weights: float, bytes_per_s: float, flops_per_s: float) -> float:
    """The larger of reading two bytes per weight once and two FLOPs per weight and row."""
    return max(2.0 * weights / bytes_per_s, 2.0 * weights * rows / flops_per_s)


def _numbers(given: Sequence[tuple[Any, ...]]) -> Callable[[Written], Floats]:
    """Calls a function with each of the arguments, and wants a number each time."""

    def outcome(written: Written) -> Floats:
        found = []
        for arguments in given:
            returned = written(*arguments)
            if returned is None or returned is Ellipsis:
                raise Unusable("it returns nothing; return a number")
            try:
                found.append(float(returned))
            except (TypeError, ValueError):
                raise Unusable(f"return one number; it returned {returned!r}") from None
        return np.array(found)

    return outcome


def _by_counting(architecture: Any, tokens: int, bytes_per_number: float) -> float:
    stored = replace(PRECISIONS["bf16"], kv_bytes=bytes_per_number)
    return float(cache_bytes(architecture, stored, batch=1, slots=tokens))


_MODELS = tuple(model(name) for name in ("llama-3-70b", "llama-2-7b", "qwen3-8b"))
EXERCISES = (
    VERIFY,
    Exercise(
        id="tokens_per_cycle",
        prompt=(
            "Write `tokens_per_cycle(alpha, gamma)`: the tokens that a cycle emits on average, if "
            "each of `gamma` drafts is accepted with probability `alpha`, independently. It should "
            "also work for α = 1."
        ),
        right=lambda alpha, gamma: float(IID(alpha).tokens_per_cycle(gamma)),
        outcome=_numbers([(0.8, 4), (0.5, 1), (0.3, 8), (0.0, 3), (1.0, 5), (0.7, 0)]),
        mistakes={
            "you forgot the bonus token, the 1 of the sum": lambda a, g: sum(
                a**k for k in range(1, g + 1)
            ),
            "every draft counted, also those after a rejection: γα": lambda a, g: g * a,
            "every draft counted, also those after a rejection: 1 + γα": lambda a, g: 1 + g * a,
            "the sum went one term too far, to α^(γ+1)": lambda a, g: sum(
                a**k for k in range(g + 2)
            ),
            "the sum ended one term too early: (1 − αᵞ) / (1 − α)": lambda a, g: sum(
                a**k for k in range(g)
            ),
            "γ was infinite: 1 / (1 − α)": lambda a, g: 1 / (1 - a) if a < 1 else math.inf,
        },
    ),
    Exercise(
        id="kv_bytes",
        prompt=(
            "Write `kv_bytes(architecture, tokens, bytes_per_number)`: the bytes of the KV cache "
            "of one sequence. An architecture has `num_layers`, `num_heads`, `num_kv_heads`, "
            "`head_dim` and `hidden_size`."
        ),
        right=_by_counting,
        outcome=_numbers(
            [(each, tokens, b) for each in _MODELS for tokens, b in ((1, 2.0), (8192, 1.0))]
        ),
        mistakes={
            "you counted keys or values, and not both": lambda m, t, b: kv_bytes(m, t, b) / 2,
            "you counted the query heads (or the hidden size), and not the KV heads": (
                lambda m, t, b: kv_bytes(m, t, b) * m.num_heads / m.num_kv_heads
            ),
            "you counted one layer": lambda m, t, b: kv_bytes(m, t, b) / m.num_layers,
            "you counted numbers, and not bytes": lambda m, t, b: kv_bytes(m, t, 1.0),
            "you assumed two bytes per number": lambda m, t, b: kv_bytes(m, t, 2.0),
            "you counted one KV head": lambda m, t, b: kv_bytes(m, t, b) / m.num_kv_heads,
            "you forgot the tokens": lambda m, t, b: kv_bytes(m, 1, b),
        },
    ),
    Exercise(
        id="pass_seconds",
        prompt=(
            "Write `pass_seconds(rows, weights, bytes_per_s, flops_per_s)`: the time of a pass of "
            "`rows` tokens through `weights` bf16 numbers, if reading and arithmetic overlap "
            "perfectly."
        ),
        right=pass_seconds,
        outcome=_numbers([(1, 8e9, 3e12, 1e15), (64, 8e9, 3e12, 1e15), (4096, 1e9, 1e12, 1e14)]),
        mistakes={
            "you added the two times: if they overlap, the longer one counts": (
                lambda r, w, b, f: 2 * w / b + 2 * w * r / f
            ),
            "you counted one FLOP per weight and row; a multiply-add is two": (
                lambda r, w, b, f: max(2 * w / b, w * r / f)
            ),
            "you counted one byte per weight; bf16 has two": (
                lambda r, w, b, f: max(w / b, 2 * w * r / f)
            ),
            "you read the weights again for every row": (
                lambda r, w, b, f: max(2 * w * r / b, 2 * w * r / f)
            ),
            "you took the shorter of the two times": (
                lambda r, w, b, f: min(2 * w / b, 2 * w * r / f)
            ),
            "you forgot the arithmetic": lambda r, w, b, f: 2 * w / b,
            "you forgot the bytes": lambda r, w, b, f: 2 * w * r / f,
        },
    ),
)
_BY_ID = {each.id: each for each in EXERCISES}
_SHOWN: dict[str, Written] = {
    "verify": verify,
    "tokens_per_cycle": tokens_per_cycle,
    "kv_bytes": kv_bytes,
    "pass_seconds": pass_seconds,
}


def exercise(name: str) -> Exercise:
    """The exercise of this name. Raises SpecsimError with the nearest names if there is none."""
    if name not in _BY_ID:
        close = difflib.get_close_matches(str(name), _BY_ID, n=2, cutoff=0.4)
        hint = f"nearest: {', '.join(close)}" if close else f"they are: {', '.join(_BY_ID)}"
        raise SpecsimError(f"no exercise is called {name!r}; {hint}")
    return _BY_ID[name]


def check(name: str, written: Written) -> Answer:
    """Whether the function `written` solves the exercise; see `Exercise.check`."""
    return exercise(name).check(written)


def solution(name: str) -> Folded:
    """A right answer to the exercise, folded."""
    source = inspect.getsource(_SHOWN[exercise(name).id]).rstrip()
    return Folded("Show a solution", f"```python\n{source}\n```")


def _first_line(right: Written) -> str:
    shown = next((each for each in _SHOWN.values() if each is right), None)
    return " ".join((inspect.getdoc(shown) or "").split()) if shown else ""

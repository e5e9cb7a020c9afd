"""How long prompts and answers are: fixed, lognormal, or drawn from measured lengths."""

import csv
import io
import math
from dataclasses import dataclass

import numpy as np

from specsim.checks import Integers, SpecsimError, quoted, whole
from specsim.checks.files import parse_json, read_ascii
from specsim.checks.limits import require_limit

MOST_SIGMA = 5.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt or an answer: lognormal with a `mean` and a `sigma` (of the logarithm; 0
    is a fixed length), or drawn with replacement from `measured`, if there are any.

    Raises SpecsimError for a length below 1 token or beyond the limit.
    """

    mean: float = 1.0
    sigma: float = 0.0
    measured: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_limit("tokens", self.mean, "a length")
        if not self.mean >= 1.0:
            raise SpecsimError(f"a length must be at least 1 token, got {quoted(self.mean)}")
        if not 0.0 <= self.sigma <= MOST_SIGMA:
            raise SpecsimError(
                f"the sigma of a lognormal length must be within 0 and {MOST_SIGMA:g}, got "
                f"{quoted(self.sigma)}"
            )
        if self.measured:
            require_limit("tokens", self.measured, "a length")
            whole("a length", self.measured, low=1)

    def draw(self, count: int, random: np.random.Generator) -> Integers:
        """`count` lengths, each at least 1."""
        if self.measured:
            return random.choice(np.asarray(self.measured, dtype=np.int64), count)
        if not self.sigma:
            return np.full(count, max(1, round(self.mean)), dtype=np.int64)
        centre = math.log(self.mean) - self.sigma**2 / 2
        drawn = np.exp(centre + self.sigma * random.standard_normal(count))
        return np.clip(np.rint(drawn), 1, 10_000_000).astype(np.int64)

    @property
    def average(self) -> float:
        """The mean length."""
        return float(np.mean(self.measured)) if self.measured else self.mean


def lengths_of(option: str, text: str) -> Lengths:
    """Lengths as an option names them: `400`, `400,0.8` (lognormal: mean, sigma), or a file with
    one length per line (or a JSON object whose `lengths` are a list)."""
    words = text.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return _from_file(option, text)
    if len(numbers) > 2 or not all(map(math.isfinite, numbers)):
        raise SpecsimError(f"{option} is MEAN, MEAN,SIGMA or a file of lengths, got {quoted(text)}")
    return Lengths(numbers[0], numbers[1] if len(numbers) > 1 else 0.0)


def _from_file(option: str, path: str) -> Lengths:
    text = read_ascii(path, "log_bytes")
    start = text.lstrip()[:1]
    if start == "{":
        values = parse_json(text, path).get("lengths")
        if not isinstance(values, list):
            raise SpecsimError(f"{path} has no list called lengths")
    else:
        cells = (row[0].strip() for row in csv.reader(io.StringIO(text)) if row)
        values = [cell for cell in cells if cell]
    require_limit("log_lines", len(values), f"the lengths of {option}")
    if not values:
        raise SpecsimError(f"{path} holds no length")
    found = []
    for number, value in enumerate(values, 1):
        try:
            length = float(value)
        except (TypeError, ValueError):
            length = math.nan
        if not (length >= 1.0 and length == int(length) if math.isfinite(length) else False):
            raise SpecsimError(
                f"length {number} of {path} must be a whole number of tokens >= 1, got "
                f"{quoted(value)}"
            )
        found.append(int(length))
    return Lengths(float(np.mean(found)), 0.0, tuple(found))

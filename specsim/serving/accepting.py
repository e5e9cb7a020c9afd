"""How many drafts each request accepts in each of its cycles.

The noise of a cycle is a function of (seed, request, number of the cycle) and of nothing else: a
request meets the same luck under every policy, in whatever batch, in whatever block of steps.
"""

from dataclasses import dataclass

import numpy as np

from specsim.acceptance import IID, Acceptance, per_position
from specsim.checks import Array, Floats, Integers, SpecsimError, quoted
from specsim.drafting import Drafter

CLASSES = 64  # different acceptances among requests
BITS = 53


@dataclass(frozen=True, slots=True)
class Accepting:
    """The acceptance of a chain of drafts: a mean, and how much requests differ.

    `spread` is the standard deviation of alpha over requests (a Beta distribution, in 64 classes of
    equal share); 0 gives all of them the same. `of_cycles`: the acceptance is that of the method's
    cycles already, as counters show it, not that of a chain from which the method makes them.
    """

    acceptance: Acceptance
    spread: float = 0.0
    of_cycles: bool = False

    def __post_init__(self) -> None:
        if not self.spread:
            return
        if not isinstance(self.acceptance, IID) or np.ndim(self.acceptance.alpha):
            raise SpecsimError("a spread of the acceptance over requests needs one alpha")
        mean = float(np.asarray(self.acceptance.alpha))
        most = np.sqrt(mean * (1.0 - mean))
        if not 0.0 < self.spread < most:
            raise SpecsimError(
                f"the spread of alpha over requests must be below {most:.3g} (the standard "
                f"deviation of an alpha that is 0 or 1, {mean:g} on average), got "
                f"{quoted(self.spread)}"
            )

    def of_requests(self) -> tuple[Acceptance, ...]:
        """The acceptance of each class of requests; every class has the same share of them."""
        if not self.spread or not isinstance(self.acceptance, IID):
            return (self.acceptance,)
        mean = float(np.asarray(self.acceptance.alpha))
        concentration = mean * (1.0 - mean) / self.spread**2 - 1.0
        # quantiles of a Beta from a fixed sample: NumPy has no inverse of its distribution
        drawn = np.random.default_rng(20_261_126).beta(
            mean * concentration, (1.0 - mean) * concentration, CLASSES * 2000
        )
        middles = np.sort(drawn).reshape(CLASSES, -1).mean(axis=1)
        alphas = np.clip(middles - (middles.mean() - mean), 0.0, 1.0)
        return tuple(IID(float(alpha)) for alpha in alphas)

    def survival(self, drafter: Drafter, gamma: int) -> Floats:
        """s_1 … s_gamma of each class under a drafting method: (classes, gamma)."""
        found = []
        for chain in self.of_requests():
            cycles = chain if self.of_cycles else drafter.acceptance_of(chain)
            vector = np.asarray(per_position(cycles, gamma).vector)
            found.append(np.broadcast_to(vector, (len(vector),)))
        return np.stack(found)


class Noise:
    """Uniform draws, the same for a (seed, request, cycle) whenever they are asked for."""

    def __init__(self, seed: int, requests: int) -> None:
        numbers = np.arange(requests, dtype=np.uint64)
        start = _mixed(np.full(1, seed, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        self.keys = _mixed(_mixed(numbers + np.uint64(1)) ^ start)

    def draws(self, keys: Array, cycles: Integers) -> Integers:
        """Whole numbers below 2^53 for requests of these keys in their cycles of these numbers."""
        steps = cycles.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(keys + steps) >> np.uint64(64 - BITS)).astype(np.int64)


def thresholds(survival: Floats) -> Integers:
    """The draws below which at least k drafts are accepted: P(draw < threshold) = s_k."""
    return np.rint(survival * 2.0**BITS).astype(np.int64)


def classes_of(seed: int, requests: int, classes: int) -> Integers:
    """The class of each request."""
    return np.random.default_rng([seed, 3]).integers(0, classes, requests)


def _mixed(values: Array) -> Array:
    """The finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        values = values ^ (values >> np.uint64(30))
        values = values * np.uint64(0xBF58476D1CE4E5B9)
        values = values ^ (values >> np.uint64(27))
        values = values * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))

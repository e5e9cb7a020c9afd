"""What a reader sets in the explorer, and the prediction that is shown for it.

An `ExplorerScenario` holds a value for every control: plain data, printable, comparable, the
contents of a link. `predict_scenario` predicts it once, over every gamma that is worth a look; all
that a panel, a card or a sentence says is read from the resulting `PredictedScenario`.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specsim.checks import Integers, SpecsimError, within
from specsim.drafting import StaticTree
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.prediction import Prediction
from specsim.scenario import Resolved, Scenario, require_sound, resolve

PLAIN = "none"  # the method of plain decoding
# What can be set, in the order of a link; each has a control.
NAMES = (
    "target", "method", "draft", "accelerator", "engine", "precision", "batch", "context", "gamma",
    "alpha", "survival", "tensor_parallel", "temperature", "price_per_hour", "users", "rate",
    "prompt", "answer", "ttft_ms", "tpot_ms",
)  # fmt: skip

SPREAD = {"prompt": 0.8, "answer": 0.7}  # sigma of lognormal lengths, as serve-sim has it
# the largest values of the card for many users: its simulation must be done in a moment
MOST_OF_LOAD = {
    "users": 1024, "rate": 1000, "prompt": 32768, "answer": 4096, "ttft_ms": 1e6, "tpot_ms": 1e5,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorerScenario(Scenario):
    """A scenario as the controls hold it, with values that only the explorer has.

    A control keeps its value while it is not used: the draft while the method needs none, `alpha`
    while there is a `survival`; `used` leaves those out. `temperature` is explained in words and
    computes nothing: an acceptance belongs to the temperature at which it was measured.
    `price_per_hour` is the price of one accelerator, given by the reader.

    The others are of the card for many users (`under_load`): `users` who send their next request
    when the last one is answered, or, where it is not 0, a `rate` of requests per second; mean
    tokens of a `prompt` and an `answer`; what each request is promised, `ttft_ms` until its first
    token and `tpot_ms` for each of the others.
    """

    temperature: float = 1.0
    price_per_hour: float = 3.0
    users: int = 20
    rate: float = 0.0
    prompt: int = 400
    answer: int = 200
    ttft_ms: float = 500.0
    tpot_ms: float = 33.3

    def used(self) -> "ExplorerScenario":
        """The same without the values that are not used, as the command line would take it."""
        plain = self.method == PLAIN
        return replace(
            self,
            method=None if plain else self.method,
            draft=self.draft if self.method in NEED_A_DRAFT else None,
            accelerator=None if self.calibrated else self.accelerator,
            gamma=None if plain else self.gamma,
            alpha=None if plain or self.survival else self.alpha,
            survival=() if plain else self.survival,
        )


START = ExplorerScenario(
    target="llama-3.1-8b", method="draft-model", draft="llama-3.2-1b", accelerator="h100-sxm",
    engine="vllm", precision="bf16", context=2048, alpha=0.8,
)  # fmt: skip


def require_settable(scenario: ExplorerScenario) -> None:
    """SpecsimError unless every number is of its kind and in its range."""
    require_sound(scenario)
    within("temperature", scenario.temperature, high=1000.0)
    within("price_per_hour", scenario.price_per_hour, high=1e6)
    for name, most in MOST_OF_LOAD.items():
        within(name, getattr(scenario, name), low=0.0 if name == "rate" else 1.0, high=most)


def changed(scenario: ExplorerScenario | None = None, **changes: Any) -> ExplorerScenario:
    """The scenario (`START` unless given) with some of its values replaced; SpecsimError for an
    unknown name."""
    unknown = sorted(changes.keys() - set(NAMES))
    if unknown:
        raise SpecsimError(f"there is no setting {unknown[0]!r}; there are: {', '.join(NAMES)}")
    return replace(scenario or START, **changes)


@dataclass(frozen=True, slots=True)
class PredictedScenario(Resolved):
    """A scenario that is shown: predicted over `over.gamma`, of which the index `at` is shown.

    `scenario` holds the values that are used.
    """

    scenario: ExplorerScenario
    over: Prediction = field(repr=False)
    at: int

    @property
    def gamma(self) -> int:
        """The gamma that is shown: the one that is set, else the best."""
        return int(self.over.gamma[self.at])

    @property
    def best_gamma(self) -> int:
        """The gamma of the highest speedup."""
        return int(self.over.gamma[self.over.best()])

    @property
    def speedup(self) -> float:
        """Over plain decoding, at the gamma that is shown."""
        return self.of("speedup")

    def of(self, quantity: str) -> float:
        """A quantity of the prediction (`step_s`, `cycle_s`, `tokens_per_cycle`, …) at the gamma
        that is shown."""
        return self.here(getattr(self.over, quantity))

    def band(self, quantity: str) -> tuple[float, float]:
        """The 80 % band of a quantity at the gamma that is shown."""
        low, high = self.over.band[quantity]
        return self.here(low), self.here(high)

    @property
    def drafting_gamma(self) -> int:
        """The gamma that is shown; where that is 0, the best of those that draft, if there are."""
        if self.gamma > 0 or len(self.over.gamma) == 1:
            return self.gamma
        return int(self.over.gamma[1 + int(np.argmax(self.over.speedup[1:]))])

    def waterfall(self, gamma: int | None = None) -> dict[str, float]:
        """The factors whose product is the speedup, at `gamma` (the one that is shown)."""
        at = self.at if gamma is None else int(np.flatnonzero(self.over.gamma == gamma)[0])
        found = self.over.waterfall()
        return {name: self._at(factor, at) for name, factor in found.items()}

    @property
    def bound(self) -> str:
        """What the plain step mostly waits for."""
        return str(np.ravel(self.over.bound)[0])

    @property
    def few_gammas(self) -> Integers:
        """The gammas for a plan or a map to choose from: all of a chain, some of a tree's many."""
        gammas = self.over.gamma
        if isinstance(self.drafter, StaticTree):
            return gammas[np.isin(gammas, (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 63))]
        return gammas

    def here(self, values: Any) -> float:
        """A value at the gamma that is shown, of values over all."""
        return self._at(values, self.at)

    def _at(self, values: Any, at: int) -> float:
        return float(np.broadcast_to(values, self.over.speedup.shape)[at])


def predict_scenario(scenario: ExplorerScenario) -> PredictedScenario:
    """The prediction of a scenario. Raises SpecsimError where nothing can be predicted."""
    used = scenario.used()
    found = resolve(used)
    gammas = found.gammas
    if used.gamma is not None and used.gamma > gammas[-1]:
        gammas = np.arange(used.gamma + 1)
    over = found.predict(gamma=gammas)
    at = int(over.best()) if used.gamma is None else used.gamma
    return PredictedScenario(used, found.target, found.system, found.drafter, over, at)

"""What a reader sets, and the scenario that it names.

A `Setting` is plain data: one value for every control, printable, comparable, a link's contents.
`scenario_of` looks its names up and predicts, once, over every gamma that is worth a look; all that
a panel, a card or a sentence says is read from the resulting `Scenario`.
"""

from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from specsim.architecture import Architecture, model
from specsim.checks import Integers, SpecsimError
from specsim.drafting import Drafter, StaticTree, method
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.evidence import calibration
from specsim.hardware import System, system
from specsim.planning.memory import footprint, shortage
from specsim.prediction import Prediction
from specsim.speculation import predict

PLAIN = "none"  # the method of plain decoding


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for every control, by the names of the command line.

    `engine` is "ideal", another engine of the catalog, or the path of a calibration file, which
    names its own accelerator. `gamma` None is the best; a `survival` vector goes before `alpha`.
    `price_per_hour` is that of one accelerator, the reader's own; `temperature` is told in words
    and computes nothing, since an acceptance belongs to the temperature it was measured at.
    """

    target: str = "llama-3.1-8b"
    method: str = "draft-model"
    draft: str = "llama-3.2-1b"
    accelerator: str = "h100-sxm"
    engine: str = "vllm"
    precision: str = "bf16"
    batch: int = 1
    context: int = 2048
    gamma: int | None = None
    alpha: float = 0.8
    survival: tuple[float, ...] = ()
    tensor_parallel: int = 1
    temperature: float = 1.0
    price_per_hour: float = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "survival", tuple(float(s) for s in self.survival))

    @property
    def calibrated(self) -> bool:
        return self.engine.endswith(".json")

    @property
    def acceptance(self) -> dict[str, Any]:
        """What `predict` takes of it."""
        return {"survival": self.survival} if self.survival else {"alpha": self.alpha}


NAMES = tuple(each.name for each in fields(Setting))


def changed(setting: Setting | None = None, **changes: Any) -> Setting:
    """The setting (or the default one) with some of its values replaced; SpecsimError for a name
    that is none."""
    unknown = sorted(changes.keys() - set(NAMES))
    if unknown:
        raise SpecsimError(f"there is no setting {unknown[0]!r}; there are: {', '.join(NAMES)}")
    return replace(setting or Setting(), **changes)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A setting with its nouns, predicted over `over.gamma`; `at` is the index that is shown."""

    setting: Setting
    target: Architecture
    system: System
    drafter: Drafter | None
    over: Prediction = field(repr=False)
    at: int

    @property
    def gamma(self) -> int:
        return int(self.over.gamma[self.at])

    @property
    def best_gamma(self) -> int:
        return int(self.over.gamma[self.over.best()])

    @property
    def speedup(self) -> float:
        return self.of("speedup")

    def of(self, quantity: str) -> float:
        """A quantity of the prediction (`step_s`, `cycle_s`, `tokens_per_cycle`, …) at the gamma
        shown."""
        return self._here(getattr(self.over, quantity))

    def band(self, quantity: str) -> tuple[float, float]:
        low, high = self.over.band[quantity]
        return self._here(low), self._here(high)

    def waterfall(self) -> dict[str, float]:
        return {name: self._here(factor) for name, factor in self.over.waterfall().items()}

    @property
    def bound(self) -> str:
        """What the plain step mostly waits for."""
        return str(np.ravel(self.over.bound)[0])

    def predict(self, **changes: Any) -> Prediction:
        """The same scenario with other numbers (`batch`, `context`, `gamma`, `alpha`, …), which may
        be arrays."""
        asked: dict[str, Any] = {"gamma": self.gamma, "batch": self.setting.batch}
        asked |= {"context": self.setting.context}
        if self.drafter is not None and not changes.keys() & {"alpha", "survival", "acceptance"}:
            asked |= self.setting.acceptance
        return predict(self.target, self.drafter, self.system, **asked | changes)

    @property
    def gammas(self) -> Integers:
        """The gammas to choose the best from: all of a chain, some of a tree's many."""
        gammas = self.over.gamma
        if isinstance(self.drafter, StaticTree):
            return gammas[np.isin(gammas, (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 63))]
        return gammas

    @property
    def in_memory(self) -> dict[str, Any]:
        """What `memory.footprint` takes besides the target and the system."""
        asked: dict[str, Any] = {"batch": self.setting.batch, "context": self.setting.context}
        return asked | {"gamma": self.gamma, "drafter": self.drafter}

    @property
    def shortage(self) -> str | None:
        """What does not fit, in a sentence."""
        return shortage(self.target, self.system, **self.in_memory)

    def spare_bytes(self, **changes: Any) -> Any:
        """Bytes left on the fullest device, negative where it does not fit."""
        return footprint(self.target, self.system, **self.in_memory | changes).spare_bytes

    def _here(self, values: Any) -> float:
        return float(np.broadcast_to(values, self.over.speedup.shape)[self.at])


def scenario_of(setting: Setting) -> Scenario:
    """The scenario that a setting names. Raises SpecsimError for a setting that names none."""
    target, machine = model_of(setting.target), system_of(setting)
    drafter = drafter_of(setting)
    asked: dict[str, Any] = {"batch": setting.batch, "context": setting.context}
    gammas = np.zeros(1, dtype=np.int64)
    if drafter is not None:
        gammas = drafter.gammas
        if setting.survival:
            gammas = drafter.gammas_within(len(setting.survival))
        if setting.gamma is not None and setting.gamma > gammas[-1]:
            gammas = np.arange(setting.gamma + 1)
        asked |= setting.acceptance
    over = predict(target, drafter, machine, gamma=gammas, **asked)
    at = int(over.best()) if setting.gamma is None or drafter is None else setting.gamma
    if at < 0:
        raise SpecsimError(f"gamma must be a whole number >= 0, got {at}")
    return Scenario(setting, target, machine, drafter, over, at)


model_of = lru_cache(maxsize=32)(model)


def system_of(setting: Setting) -> System:
    """The machine of a setting."""
    if setting.calibrated:
        return _calibrated(setting.engine, setting.precision, setting.tensor_parallel)
    if setting.tensor_parallel < 1:
        raise SpecsimError(f"tensor_parallel must be at least 1, got {setting.tensor_parallel}")
    return _catalog_system(
        setting.accelerator, setting.engine, setting.precision, setting.tensor_parallel
    )


@lru_cache(maxsize=32)
def _catalog_system(accelerator: str, engine: str, precision: str, devices: int) -> System:
    return system(accelerator, engine, precision, tensor_parallel=devices)


@lru_cache(maxsize=8)
def _calibrated(path: str, precision: str, devices: int) -> System:
    if devices > 1:
        raise SpecsimError(f"{path} was measured on one device: set tensor parallelism to 1")
    return calibration.load(path).system.with_precision(precision)


def drafter_of(setting: Setting) -> Drafter | None:
    """How it drafts; None for plain decoding. The draft model is left out where a method has
    none."""
    if setting.method == PLAIN:
        return None
    draft = setting.draft if setting.method in NEED_A_DRAFT else None
    return _drafter(setting.target, setting.method, draft)


@lru_cache(maxsize=32)
def _drafter(target: str, name: str, draft: str | None) -> Drafter:
    return method(name, model_of(target), None if draft is None else model_of(draft))

"""What the names of a scenario mean: its models, its system, its drafter."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture, DraftHead, draft_head, model
from specsim.checks import ArrayLike, Integers, SpecsimError
from specsim.drafting import Drafter, DraftModel, method
from specsim.hardware import System, host_named
from specsim.hardware import system as catalog_system
from specsim.operators import AUTO, precision, require_even_split
from specsim.planning.cautions import Caution, find_cautions
from specsim.planning.memory import MEMORY_SHARE, Footprint, footprint, shortage
from specsim.prediction import Prediction
from specsim.scenario.scenario import Scenario, require_sound
from specsim.speculation import predict

ACCEPTANCES = ("alpha", "survival", "tokens_per_cycle", "acceptance")  # `predict` takes one of them


@dataclass(frozen=True, slots=True)
class Resolved:
    """A scenario with what its names mean; `drafter` is None for plain decoding."""

    scenario: Scenario
    target: Architecture
    system: System
    drafter: Drafter | None

    @property
    def method(self) -> str | None:
        """The drafting method by the catalog's name; None for plain decoding."""
        return method_of(self.scenario)

    @property
    def gammas(self) -> Integers:
        """The gammas to choose the best one from: a survival vector is never extrapolated."""
        if self.drafter is None:
            return np.zeros(1, dtype=np.int64)
        if self.scenario.survival:
            return self.drafter.gammas_within(len(self.scenario.survival))
        return self.drafter.gammas

    def predict(self, *, gamma: ArrayLike, **changes: Any) -> Prediction:
        """`specsim.predict` of the scenario at `gamma`; `changes` replace its other numbers
        (`batch`, `context`, `alpha`, …). All may be arrays."""
        asked: dict[str, Any] = {
            "batch": self.scenario.batch,
            "context": self.scenario.context,
            "routing_correlation": self.scenario.routing_correlation,
        }
        if not changes.keys() & set(ACCEPTANCES):
            asked |= self.scenario.acceptance
        return predict(self.target, self.drafter, self.system, gamma=gamma, **asked | changes)

    def footprint(self, *, gamma: ArrayLike, **changes: Any) -> Footprint:
        """What the fullest device must hold at `gamma`; `changes` replace batch, context and the
        share of the memory that may be filled."""
        asked = {"usable": MEMORY_SHARE} | self._in_memory(gamma) | changes
        return footprint(self.target, self.system, **asked)

    def shortage(self, held: Footprint, *, gamma: int, **changes: Any) -> str | None:
        """A sentence on what does not fit of `held`, the footprint of the same arguments; None
        where it fits."""
        asked = {"usable": MEMORY_SHARE} | self._in_memory(gamma) | changes
        return shortage(held, self.target, self.system, **asked)

    def cautions(self, *, gamma: ArrayLike, **changes: Any) -> list[Caution]:
        """What the catalog says against trusting a prediction in full, guesses first."""
        asked = self._in_memory(gamma) | changes
        return find_cautions(self.target, self.system, asked.pop("drafter"), **asked)

    def _in_memory(self, gamma: ArrayLike) -> dict[str, Any]:
        asked = {"batch": self.scenario.batch, "context": self.scenario.context}
        return asked | {"gamma": gamma, "drafter": self.drafter}


def resolve(scenario: Scenario) -> Resolved:
    """The models, the system and the drafter that a scenario names.

    Raises SpecsimError, in one line, for an unknown name (with the nearest ones), and for what does
    not go together: an acceptance without a draft, a draft without an acceptance, ….
    """
    require_sound(scenario)
    target, system = _model(scenario.target, scenario.like), system_of(scenario)
    system.require_layers_of(target)
    drafter = drafter_of(scenario)
    if scenario.like is not None and not _reads_like(target, drafter):
        raise SpecsimError(f"--like {scenario.like} has no use: every model_type is known")
    if drafter is None and (scenario.acceptance or scenario.gamma):
        raise SpecsimError(
            "an acceptance or a gamma needs a draft: give --draft NAME|config.json or --method NAME"
        )
    if drafter is not None and not scenario.acceptance:
        raise SpecsimError(
            "no acceptance: give --alpha or --survival, or to specsim predict --tokens-per-cycle "
            f"with its --gamma (specsim acceptance {scenario.target} lists the published ones, and "
            "how to measure yours)"
        )
    if scenario.tokens_per_cycle is not None and scenario.gamma is None:
        raise SpecsimError("--tokens-per-cycle needs the whole --gamma that it was measured at")
    return Resolved(scenario, target, system, drafter)


def predictions(found: Resolved) -> tuple[Prediction, Prediction | None]:
    """The prediction that was asked for; and, where the best gamma was asked for, the one over all
    gammas that it was chosen from."""
    gamma = found.scenario.gamma
    if found.drafter is None:
        return found.predict(gamma=0), None
    if gamma is not None:
        return found.predict(gamma=gamma), None
    over = found.predict(gamma=found.gammas)
    return found.predict(gamma=int(over.gamma[over.best()])), over


def _reads_like(target: Architecture, drafter: Drafter | None) -> bool:
    models = [target, drafter.architecture] if isinstance(drafter, DraftModel) else [target]
    return any(each.read_as is not None for each in models)


def system_of(scenario: Scenario) -> System:
    """The System of a scenario's engine, accelerator and formats, and of the host that holds some
    of its layers."""
    system, layers = _all_on_accelerator(scenario), scenario.offload_layers
    if scenario.top_p is not None and scenario.top_p < 1:
        system = replace(system, filtered=True)
    if layers:
        return replace(system, offloaded_layers=layers, host=host_named(scenario.host))
    if scenario.host is not None:
        raise SpecsimError("--host has no use without --offload-layers N")
    return system


def _all_on_accelerator(scenario: Scenario) -> System:
    devices = scenario.tensor_parallel
    if devices < 1:
        raise SpecsimError(f"--tensor-parallel must be at least 1, got {devices}")
    if not scenario.calibrated:
        if scenario.accelerator is None:
            raise SpecsimError(
                "give --accelerator NAME (or --engine calibration.json, which names its own)"
            )
        stored = AUTO if scenario.auto else scenario.precision
        system = _system(
            scenario.accelerator, scenario.engine, stored, scenario.kv_precision, devices
        )
        return system.storing(_model(scenario.target, scenario.like)) if scenario.auto else system
    found = _calibrated(scenario.engine, scenario.precision, scenario.kv_precision)
    if scenario.accelerator:
        raise SpecsimError(
            f"{scenario.engine} was measured on {found.accelerator.name}: leave out --accelerator"
        )
    if devices > 1:
        raise SpecsimError(
            f"{scenario.engine} was measured on one device: leave out --tensor-parallel"
        )
    return found.storing(_model(scenario.target, scenario.like))


def drafter_of(scenario: Scenario) -> Drafter | None:
    """How a scenario drafts; None for plain decoding."""
    devices, all_devices = scenario.draft_tensor_parallel, scenario.tensor_parallel
    stored = draft_precision_of(scenario)
    if devices is not None and not 1 <= devices <= all_devices:
        raise SpecsimError(
            f"--draft-tp must be within 1 and the target's --tensor-parallel {all_devices}, "
            f"got {devices}"
        )
    if scenario.draft is None and scenario.method is None:
        given_precision = scenario.draft_precision
        for option, given in (("--draft-precision", given_precision), ("--draft-tp", devices)):
            if given is not None:
                raise SpecsimError(f"{option} needs a draft: give --draft NAME|config.json")
        return None
    if scenario.draft is not None and devices is None:
        head = head_of(scenario)
        draft = _model(scenario.draft, scenario.like) if head is None else head.body
        try:
            require_even_split(draft, all_devices)
        except SpecsimError as error:
            raise SpecsimError(f"{error} (--draft-tp splits the draft over fewer)") from None
    return _drafter(
        scenario.target, scenario.method, scenario.draft, stored, devices, scenario.like
    )


def head_of(scenario: Scenario) -> DraftHead | None:
    """The trained head that a scenario drafts with; None for a draft model, or none."""
    if scenario.draft is None:
        return None
    return _head(scenario.draft, scenario.target, _canonical(scenario.method), scenario.like)


def method_of(scenario: Scenario) -> str | None:
    """The drafting method of a scenario by the catalog's name: that of a head where its file names
    it, None for plain decoding."""
    if scenario.method is not None:
        return catalog.resolve("methods", scenario.method)
    if scenario.draft is None:
        return None
    head = head_of(scenario)
    return "draft-model" if head is None else head.method


def _canonical(name: str | None) -> str | None:
    return None if name is None else catalog.resolve("methods", name)


def draft_precision_of(scenario: Scenario) -> str | None:
    """The name of the draft's precision: "auto" is that of its own checkpoint, None the target's.

    A precision that is named for the target holds for a draft whose checkpoint says nothing.
    """
    if scenario.draft is None or scenario.draft_precision is not None:
        return scenario.draft_precision
    if head_of(scenario) is not None:
        return AUTO  # a head is trained and served in 16 bits, unless its file says otherwise
    named = not scenario.auto
    return None if named and _model(scenario.draft, scenario.like).stored is None else AUTO


# Looked up once for each name: a slider that moves a number looks nothing up.
_model = lru_cache(maxsize=256)(model)


@lru_cache(maxsize=32)
def _head(draft: str, target: str, method: str | None, like: str | None) -> DraftHead | None:
    return draft_head(draft, _model(target, like), method)


_system = lru_cache(maxsize=32)(catalog_system)


@lru_cache(maxsize=8)
def _calibrated(path: str, stored: str | None, kv: str | None) -> System:
    from specsim.evidence import calibration  # a scenario of the catalog starts sooner without it

    found = calibration.load(path).system
    if stored is not None:
        found = found.with_precision(stored)
    if kv is not None and kv != AUTO:
        kv_bytes = precision(kv).weight_bytes
        found = replace(found, precision=replace(found.precision, kv_bytes=kv_bytes))
    return found


@lru_cache(maxsize=32)
def _drafter(
    target: str,
    name: str | None,
    draft: str | None,
    stored: str | None,
    devices: int | None,
    like: str | None,
) -> Drafter:
    shape: Architecture | DraftHead | None = None
    if draft is not None:
        shape = _head(draft, target, _canonical(name), like) or _model(draft, like)
    if name is None and isinstance(shape, DraftHead):
        name = shape.method
    if name is None:
        assert isinstance(shape, Architecture)
        return DraftModel(shape, precision=stored, tensor_parallel=devices)
    return method(
        name, _model(target, like), shape, draft_precision=stored, draft_tensor_parallel=devices
    )

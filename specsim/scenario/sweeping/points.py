"""One point of a sweep: what is computed, under which key its result is kept, and its numbers."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

import specsim
from specsim import serving
from specsim.checks import SpecsimError, one_line
from specsim.prediction import Prediction
from specsim.scenario.files import kinds_of, load_in, scenario_in
from specsim.scenario.resolved import predictions, resolve
from specsim.scenario.scenario import Scenario
from specsim.scenario.server_load import ServerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPair:
    """A pair of models that `reference` measures on this machine: the options of
    `python -m reference measure`, with one gamma."""

    target: str = "bundled"
    draft: str | None = None
    gamma: int | None = 4
    dtype: str = "fp32"
    device: str | None = None
    temperature: float = 0.0
    max_new_tokens: int = 128
    prompts: int = 8
    dialled: str | None = None
    alpha: float = 0.8
    draft_layers: int | None = None
    seed: int = 0


Compute: TypeAlias = "Callable[[SweepPoint], dict[str, Any]]"
Outcome: TypeAlias = dict[str, Any]  # "seconds", and "result", a table, or "error", a sentence

_SCENARIO = kinds_of(Scenario)
PLAIN = ("step_s", "tokens_per_s")  # of a prediction; the others are null without a draft
DRAFTED = ("draft_step_s", "verify_step_s", "overhead_s", "cycle_s", "tokens_per_cycle")
GAINED = ("speculative_tokens_per_s", "speedup", "speedup_per_device")
NOT_SERVED = ("batch", "context", "gamma")  # under load these follow from requests and policy
KINDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {  # the settings of each kind of point
        "predict": _SCENARIO,
        "serve-sim": {n: kind for n, kind in _SCENARIO.items() if n not in NOT_SERVED}
        | dict(kinds_of(ServerLoad)),
        "measure": kinds_of(MeasuredPair),
    }
)


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One scenario to compute: its `kind`, a key of KINDS, and its settings; what they leave out
    has its default."""

    kind: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What its result is found by: a hash of all its settings, those that are left out too, of
        its seed, of the content of the files that it names, and of the version of specsim.

        The order of the settings does not matter. 16 hexadecimal digits: among a million points,
        two share a key with a probability of 3e-8.
        """
        return _hash(self.kind, self.complete)

    @property
    def complete(self) -> dict[str, Any]:
        """All settings of its kind, with the defaults of those that are left out; of a kind that is
        not in KINDS, those that are given."""
        if self.kind not in KINDS:
            return dict(self.settings)
        if self.kind == "measure":
            return asdict(measured_in(self.settings))
        scenario = asdict(scenario_in(self.settings))
        if self.kind == "serve-sim":
            scenario |= asdict(load_in(self.settings))
        return {name: scenario[name] for name in KINDS[self.kind]}


def measured_in(settings: Mapping[str, Any]) -> MeasuredPair:
    """The pair to measure that the settings name."""
    names = {field.name for field in fields(MeasuredPair)}
    return MeasuredPair(**{name: value for name, value in settings.items() if name in names})


def _hash(kind: str, settings: Mapping[str, Any]) -> str:
    named = {name: _content(value) for name, value in settings.items() if isinstance(value, str)}
    said = {
        "kind": kind,
        "settings": settings,
        "files": {name: digest for name, digest in named.items() if digest},
        "version": specsim.__version__,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1024)
def _content(value: str) -> str | None:
    """The hash of the file, or of the config.json in the folder, that a setting names, if any."""
    path = Path(value.removeprefix("table:"))
    try:
        path = path / "config.json" if path.is_dir() else path
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except (OSError, ValueError):  # not the name of a file at all
        return None


def compute_point(point: SweepPoint) -> dict[str, Any]:
    """The numbers of a predicted or a simulated point, as plain data without nesting but for lists
    of numbers; SpecsimError for what does not go together."""
    if point.kind == "predict":
        return predicted(point.settings)
    if point.kind == "serve-sim":
        return simulated(point.settings)
    raise SpecsimError(f"{point.kind} is computed by specsim sweep, which may call the decoder")


def predicted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that `specsim predict --json` prints for a scenario."""
    found = resolve(scenario_in(settings))
    prediction, _ = predictions(found)
    gamma, drafted = int(prediction.gamma), found.drafter is not None
    told = drafted and not np.any(prediction.cannot_tell)
    held = found.footprint(gamma=gamma)
    values: dict[str, Any] = {}
    for names, known in ((PLAIN, True), (DRAFTED, drafted), (GAINED, told)):
        for name in names:
            values[name] = float(getattr(prediction, name)) if known else None
    values["gamma"] = gamma if drafted else None
    return values | _bands(prediction, told) | {
        "bound": str(prediction.bound),
        "precision": found.system.precision.name,
        "method": found.method,
        "lossless": prediction.lossless if drafted else None,
        "memory_bytes": float(held.total_bytes),
        "fits": None if held.capacity_bytes is None else bool(np.all(held.fits)),
    }  # fmt: skip


def _bands(prediction: Prediction, told: bool) -> dict[str, float | None]:
    band, found = prediction.band, {}
    for name, known in (("step_s", True), ("speedup", told)):
        for end, value in zip(("low", "high"), band[name], strict=True):
            found[f"{name}_{end}"] = float(value) if known else None
    return found


def simulated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that `specsim serve-sim --json` prints for a server under load."""
    load = load_in(settings)
    found = load.resolve(scenario_in(settings), load.policy)
    run = serving.simulate(
        load.server(found), load.traffic(), policy=load.policy, slo=serving.slo_of(list(load.slo)),
        price_per_hour=load.price_per_hour, hysteresis=load.hysteresis, **load.accepting(found),
    )  # fmt: skip
    summary = dict(run.summary)
    shares = summary.pop("gamma_share")
    return summary | {"gamma_mostly": int(max(shares, key=lambda g: shares[g])) if shares else None}


def compute_chunk(compute: Compute, points: Sequence[SweepPoint], version: str) -> list[Outcome]:
    """In a worker: the outcome of each point. Its seconds are those of computing."""
    if version != specsim.__version__:
        raise SpecsimError(f"a worker has specsim {specsim.__version__}, the sweep {version}")
    return [outcome_of(compute, point) for point in points]


def outcome_of(compute: Compute, point: SweepPoint) -> Outcome:
    """The result of one point, or its error in a sentence."""
    begun = time.perf_counter()
    try:
        found: Outcome = {"result": compute(point)}
    except SpecsimError as error:
        found = {"error": one_line(str(error))}
    except Exception as error:
        found = {"error": one_line(f"{type(error).__name__}: {error}")}
    return {"seconds": time.perf_counter() - begun} | found


def plain(value: Any) -> Any:
    """A value as JSON can hold it: what is not finite is text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value

"""The robust fit of an engine's constants to cases; engines.toml holds its result.

It minimises, over the logarithms of the constants:

    Σ huber(log(predicted / measured) / NOISE)  +  Σ ((constant - centre) / spread)²

The second sum is a prior. It decides where few rows, or none, say anything about a constant. The
centre of a constant for one family or format is its engine's default. The centre of an engine's
default is the default of the engine that it is `like`, or else a value from `CENTRES` or `BLIS`,
which do not come from the rows that are predicted.

The keys of engines.toml name the constants. The search starts from the centres, so the values in
that file do not enter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim import catalog
from specsim.checks import Booleans, Floats
from specsim.evidence.validation.cases import Case
from specsim.evidence.validation.pricing import Place, stack_cases

Mask = Booleans

# engines fitted together
GROUPS = (("gpt-fast",), ("vllm",), ("sglang",), ("llama.cpp", "llama.cpp-2024"), ("mlx",))
# The constants that the rows of an engine determine; the others keep their values in engines.toml.
FITTED = {
    "gpt-fast": ("weight_efficiency", "kv_efficiency", "layer_overhead_s"),
    "vllm": (
        "weight_efficiency",
        "kv_efficiency",
        "layer_overhead_s",
        "pass_overhead_s",
        "sequence_overhead_s",
    ),
    "sglang": ("weight_efficiency", "pass_overhead_s"),
    "mlx": ("weight_efficiency", "layer_overhead_s"),
    "llama.cpp": (
        "weight_efficiency",
        "weight_ceiling_bytes_per_s",
        "kv_efficiency",
        "activation_efficiency",
        "compute_efficiency",
        "attention_compute_efficiency",
        "layer_overhead_s",
    ),
    "llama.cpp-2024": ("kv_ceiling_bytes_per_s", "layer_overhead_s", "stage_overhead_s"),
}
# (centre, spread of its logarithm) of an engine's default, before any row is seen: usual orders of
# magnitude (assumed). The centres of the ceilings hardly limit any accelerator.
CENTRES = {
    "weight_efficiency": (0.80, 0.15),
    "weight_ceiling_bytes_per_s": (2e12, 0.7),
    "kv_efficiency": (0.53, 0.4),
    "kv_ceiling_bytes_per_s": (1e12, 1.5),
    "activation_efficiency": (0.1, 1.0),
    "compute_efficiency": (0.75, 0.3),
    "attention_compute_efficiency": (0.5, 0.5),
    "layer_overhead_s": (50e-6, 0.7),
    "stage_overhead_s": (0.1e-3, 1.0),
    "pass_overhead_s": (126e-6, 1.5),
}
# The same for serving engines with CUDA graphs on the H100, from BLIS (inference-sim,
# docs/guide/latency-models.md): weight bytes x 1.4, KV bytes x 1.9, 32 us a layer, 126 us a step.
BLIS = {
    "weight_efficiency": (1 / 1.4, 0.15),
    "kv_efficiency": (1 / 1.9, 0.3),
    "layer_overhead_s": (32e-6, 0.15),
    "pass_overhead_s": (126e-6, 0.15),
    "sequence_overhead_s": (10e-6, 1.0),  # assumed: host work of the order of a kernel launch
}
# Spread of the logarithm of a constant whose centre is another constant.
RELATIVE_SPREAD = {
    "weight_efficiency": 0.1,
    "weight_ceiling_bytes_per_s": 0.3,
    "kv_efficiency": 0.2,
    "kv_ceiling_bytes_per_s": 0.5,
    "layer_overhead_s": 0.4,
}
# Not fitted though its field is: prompts, not steps, determine it (llama.cpp discussion #4167).
PINNED = (("llama.cpp", "compute_efficiency", "apple"),)
# A ceiling that limits nothing has no slope, so the search starts where ceilings do limit.
START = {"weight_ceiling_bytes_per_s": 1e12, "kv_ceiling_bytes_per_s": 1e11}
NOISE = 0.03  # relative error above which a row counts by its error, not by the error's square
PATIENCE = 60  # most steps of the search; it takes about ten
NUDGE = 1e-5  # of the logarithm of a constant, to see what follows


@dataclass(frozen=True, slots=True)
class _Tried:
    """What comes of some constants: the loss, what each case is off (cases,), in units of NOISE,
    and its slope along each constant (constants, cases)."""

    loss: float
    miss: Floats
    slope: Floats


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant to fit; its prior is at `centre`, or at the value of the constant `parent`."""

    place: Place
    centre: float  # the logarithm
    parent: int | None
    spread: float

    @property
    def start(self) -> float:
        """The logarithm that the search starts from."""
        return float(np.log(START[self.place[1]])) if self.place[1] in START else self.centre

    @property
    def is_fraction(self) -> bool:
        """Whether the constant is an efficiency, which is at most 1."""
        return self.place[1].endswith("efficiency")


def constants_of(group: Sequence[str], engines: catalog.Table) -> list[Constant]:
    """The constants of a group of engines; the parent of a constant comes before it."""
    found: list[Constant] = []
    for engine in group:
        relative = str(engines[engine].get("like"))
        for field in FITTED[engine]:
            for key in keys_of(engines[engine][field]):
                if (engine, field, key) in PINNED:
                    continue
                parent: Place | None = None
                if key not in (None, "default"):
                    family = key.split()[0]
                    here = (engine, field, family)
                    known = key != family and any(c.place == here for c in found)
                    parent = here if known else (engine, field, "default")
                elif relative in group and field in FITTED[relative]:
                    parent = (relative, field, keys_of(engines[relative][field])[0])
                if parent is None:
                    centre, spread = (BLIS if engine == "vllm" else CENTRES)[field]
                    found.append(Constant((engine, field, key), np.log(centre), None, spread))
                else:
                    at = [constant.place for constant in found].index(parent)
                    centre = found[at].centre
                    found.append(Constant((engine, field, key), centre, at, RELATIVE_SPREAD[field]))
    return found


def keys_of(value: Any) -> Sequence[Any]:
    """The keys of a constant that is a table, general ones first; [None] for a single number."""
    if not isinstance(value, Mapping):
        return [None]
    return sorted(value, key=lambda key: (key != "default", len(key.split()), key))


class Fit:
    """The cases of one group of engines, and the search for the group's constants."""

    def __init__(self, cases: Sequence[Case], group: Sequence[str], engines: catalog.Table) -> None:
        self.engines = engines
        self.stack = stack_cases(cases, engines)
        self.constants = constants_of(group, engines)
        self.usable = np.array([case.fitted for case in cases])
        self._measured = np.log(self.stack.measured_s)
        index = {constant.place: i for i, constant in enumerate(self.constants)}
        self._at = {
            field: np.array([index.get(place, -1) for place in places])
            for field, places in self.stack.places.items()
            if field in {constant.place[1] for constant in self.constants}
        }
        fields = np.array([constant.place[1] for constant in self.constants])
        nudged = [np.zeros(len(fields), bool), *(fields == field for field in self._at)]
        self._nudges = NUDGE * np.array(nudged)

    def log_seconds(self, theta: Floats) -> Floats:
        """The log of predicted seconds, (…, cases), for log constants `theta`, (…, constants)."""
        caps = np.where([constant.is_fraction for constant in self.constants], 0.0, np.inf)
        numbers = np.exp(np.minimum(theta, caps))
        values = {
            field: np.where(at >= 0, numbers[..., at], self.stack.values[field])
            for field, at in self._at.items()
        }
        return np.log(self.stack.seconds(values))

    def search(self, train: Mask) -> Floats:
        """The logarithms of the constants, from the cases where `train` is true and no others.

        The Levenberg-Marquardt method, with weights that make the squared loss a Huber loss.
        """
        theta = np.array([constant.start for constant in self.constants])
        pull, toward = priors(self.constants)
        damping = 1e-3
        here = self._tried(theta, train, pull, toward)
        for _ in range(PATIENCE):
            weight = 1 / np.maximum(np.abs(here.miss), 1.0)
            curvature = (here.slope * weight) @ here.slope.T + pull.T @ pull
            gradient = here.slope @ (weight * here.miss) + pull.T @ (pull @ theta - toward)
            there = None
            while (there is None or there.loss > here.loss) and damping < 1e8:
                damped = curvature + damping * np.diag(np.diag(curvature))
                new = theta - np.linalg.solve(damped, gradient)
                there = self._tried(new, train, pull, toward)
                damping *= 4 if there.loss > here.loss else 0.2
            if there is None or there.loss > here.loss:
                break
            gained, theta, here = here.loss - there.loss, new, there
            if gained < 1e-4:
                break
        return theta

    def _tried(self, theta: Floats, train: Mask, pull: Floats, toward: Floats) -> "_Tried":
        """The loss with log constants `theta`, and its slopes, by finite differences. A case has
        one constant of a field at most, so all constants of a field are nudged at once."""
        predicted = self.log_seconds(theta + self._nudges)[:, train]  # (1 + fields, cases)
        miss = (predicted[0] - self._measured[train]) / NOISE
        rises = (predicted[1:] - predicted[0]) / (NUDGE * NOISE)
        slope = np.zeros((len(theta), len(miss)))
        for rise, at in zip(rises, self._at.values(), strict=True):
            owned = np.flatnonzero(at[train] >= 0)
            slope[at[train][owned], owned] = rise[owned]
        off = np.abs(miss)
        huber = np.where(off < 1, off**2, 2 * off - 1)
        loss = float(huber.sum() + ((pull @ theta - toward) ** 2).sum())
        return _Tried(loss, miss, slope)

    def engines_with(self, theta: Floats) -> dict[str, dict[str, Any]]:
        """The table of engines with these constants in their places."""
        engines = {name: dict(row) for name, row in self.engines.items()}
        for constant, logarithm in zip(self.constants, theta, strict=True):
            engine, field, key = constant.place
            value = float(np.exp(min(logarithm, 0.0) if constant.is_fraction else logarithm))
            old = engines[engine][field]
            engines[engine][field] = value if key is None else dict(old) | {key: value}
        return engines


def priors(constants: Sequence[Constant]) -> tuple[Floats, Floats]:
    """A matrix and a vector: |matrix @ theta - vector|² is the second sum, the prior."""
    pull, toward = np.zeros((len(constants),) * 2), np.zeros(len(constants))
    for i, constant in enumerate(constants):
        pull[i, i] = 1 / constant.spread
        if constant.parent is None:
            toward[i] = constant.centre / constant.spread
        else:
            pull[i, constant.parent] = -1 / constant.spread
    return pull, toward


def fitted(cases: Sequence[Case], engines: catalog.Table) -> dict[str, dict[str, Any]]:
    """The table of engines with all constants fitted again to the cases marked `fitted`."""
    found = {name: dict(row) for name, row in engines.items()}
    for group in GROUPS:
        fit = Fit([case for case in cases if case.engine in group], group, engines)
        table = fit.engines_with(fit.search(fit.usable))
        found |= {engine: table[engine] for engine in group}
    return found


def fitted_on(cases: Sequence[Case], engine: str) -> dict[str, Any]:
    """The kinds and families of machine of the rows that an engine was fitted to, and the ranges of
    their batch, context and parameters (in billions): `fitted_on` in engines.toml."""
    rows = [case for case in cases if case.engine == engine and case.fitted]

    def span(values: Iterable[float]) -> list[float]:
        held = list(values)
        return [float(f"{end:.3g}") for end in (min(held), max(held))]

    return {
        "kinds": sorted({str(case.accelerator.kind) for case in rows}),
        "families": sorted({str(case.accelerator.family) for case in rows}),
        "batch": span(case.batch for case in rows),
        "context": span(case.context for case in rows),
        "billions": span(case.architecture.parameters / 1e9 for case in rows),
    }

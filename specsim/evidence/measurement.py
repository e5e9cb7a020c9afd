"""The schema of measured files: what ran, on which machine, and how long it took.

A file holds no prediction. It is one JSON object with the keys `schema_version`, `environment`,
`calibration` (a path or null) and `points`. The file is replaced as a whole after every point, so
an interrupted run keeps the points that it has finished. Two runs may add points to one file.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from specsim.architecture import Architecture
from specsim.checks import (
    SpecsimError,
    as_survival,
    build,
    quoted,
    require_flags,
    require_size,
    require_text,
)
from specsim.checks.files import locked, read_json, write_json
from specsim.checks.limits import LIMITS, require_limit
from specsim.checks.shown import Shown

SCHEMA_VERSION = 1
TIMINGS = ("step_s", "draft_step_s", "verify_step_s", "cycle_s", "host_s")
SHORTEST_S, LONGEST_S = 1e-9, 1e6  # of one pass or cycle: no clock is finer, no run is longer
MOST_TOKENS = 1e15
RANGES = {  # of the other numbers of a point
    "tokens_per_cycle": (1.0, LIMITS["gamma"].most + 1.0),
    "tokens_per_cycle_error": (0.0, 1e3),
    "tokens_per_s": (0.0, 1e15),
    "tokens_error": (0.0, 1e3),
    "peak_memory_bytes": (0, 1e18),
    "drift": (1e-3, 1e3),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: the median of `n` samples, and the 10th and 90th percentiles."""

    median: float
    p10: float
    p90: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing | None":
        """The timing of `samples` (seconds); None if there is no sample."""
        if not samples:
            return None
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return cls(statistics.median(samples), tenths[0], tenths[-1], len(samples))


class Spread(NamedTuple):
    """A measured speedup: at the median cycle, at the slow (p90) and at the fast (p10) one."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software. `driver` is None on a machine without a GPU."""

    device: str
    torch: str
    python: str
    threads: int
    date: str
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class RunConditions:
    """What was run: the value of the key `scenario` of a measured point.

    `mode` is "eager", "cuda-graphs", "fused" or "compiled". `context` is the mean number of cached
    tokens over the timed cycles; `allocated_context` is the size of the cache, in tokens. The
    target is split over `tensor_parallel` devices, each with a copy of the LM head; the draft over
    `draft_tensor_parallel` (1: every device has a copy).
    """

    target: Architecture
    draft: Architecture | None
    precision: str
    method: str
    gamma: int
    rule: str
    temperature: float
    batch: int
    context: int
    allocated_context: int
    mode: str
    seed: int
    tensor_parallel: int = 1
    draft_tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Point:
    """One measured run. Times are seconds for one pass, or one cycle, of the whole batch.

    `step_s` is a plain decode step with its sampling. `draft_step_s` is one draft pass.
    `verify_step_s` is the target's pass over gamma + 1 tokens per sequence. `host_s` is the rest of
    a cycle. `tokens_per_cycle_error` is the standard error of `tokens_per_cycle`.

    `calibration_survival` is the survival vector estimated on other prompts. It is an input of a
    prediction. `tokens_error` is the relative half-width of the 80 % band on the tokens per cycle
    that follow from it.

    A point of a suite has a `name` and a `part`. Nobody looks at a `reserved` point while the cost
    model is being changed. `drift` is the time of fixed tasks next to this point, divided by the
    time of the same read at calibration: 1.1 means that the machine had become 10 % slower.
    """

    scenario: RunConditions
    step_s: Timing | None
    draft_step_s: Timing | None
    verify_step_s: Timing | None
    cycle_s: Timing | None
    host_s: Timing | None
    survival: list[float] | None = None
    accepted_histogram: list[int] | None = None
    tokens_per_cycle: float | None = None
    tokens_per_cycle_error: float | None = None
    tokens_per_s: float | None = None
    calibration_survival: list[float] | None = None
    tokens_error: float = 0.0
    peak_memory_bytes: int | None = None
    synthetic_acceptance: bool = False
    notes: str = ""
    name: str = ""
    part: str = ""
    reserved: bool = False
    drift: float | None = None

    @property
    def speedup(self) -> Spread | None:
        """Tokens per cycle x plain step / cycle, over the spread of the cycle times.

        None if a time or the tokens per cycle are missing; at gamma 0 a cycle emits one token.
        """
        tokens = self.tokens_per_cycle if self.scenario.gamma else 1.0
        if tokens is None or self.step_s is None or self.cycle_s is None:
            return None
        gain, cycle = tokens * self.step_s.median, self.cycle_s
        return Spread(gain / cycle.median, gain / cycle.p90, gain / cycle.p10)


@dataclass(slots=True, repr=False)
class Measurement(Shown):
    """The content of one measured file; `calibration` is a path relative to the file."""

    environment: Environment
    points: list[Point] = field(default_factory=list)
    calibration: str | None = None

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all; SpecsimError if it cannot be written."""
        write_json(path, {"schema_version": SCHEMA_VERSION} | asdict(self))

    def add_to(self, path: str | Path, point: Point) -> None:
        """Add a point to the file, and take over the points that are there: another run may have
        added some since this one read it.

        A point of the same name, or of the same conditions if it has no name, is replaced. Raises
        SpecsimError if the file is of another device, is not a measured file, or cannot be written.
        """
        with locked(path):
            if Path(path).exists():
                there = Measurement.read(path)
                there.require_device(self.environment.device, path)
                self.points = there.points
            kept = {each.name or each.scenario: each for each in self.points}
            self.points = list((kept | {point.name or point.scenario: point}).values())
            self.write(path)

    def require_device(self, device: str, path: str | Path) -> None:
        """SpecsimError if the points, read from `path`, are not of this device."""
        if self.environment.device != device:
            raise SpecsimError(
                f"{path} was measured on {self.environment.device}, not on {device}; give another "
                "folder with --machine"
            )

    @classmethod
    def read(cls, path: str | Path) -> "Measurement":
        """Read a file; SpecsimError, with its name, if it is unreadable or not a measured file."""
        data = read_json(path, finite=True)
        if data.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise SpecsimError(
                f"{path} has schema_version {quoted(data['schema_version'])}; this version of "
                f"specsim reads {SCHEMA_VERSION}"
            )
        for key in ("schema_version", "environment", "calibration", "points"):
            if key not in data:
                raise SpecsimError(f"{path} is not a measurement file: it lacks {key!r}")
        try:
            return _measurement(data)
        except SpecsimError as error:
            raise SpecsimError(f"{path} is not a measurement file: {error}") from None

    def _facts(self) -> dict[str, Any]:
        return {
            "device": self.environment.device,
            "points": len(self.points),
            "date": self.environment.date,
        }


# --------------------------------------------------- what was read, each field's kind and range


def _measurement(data: Mapping[str, Any]) -> Measurement:
    environment = build(Environment, data["environment"], "environment")
    for name in ("device", "torch", "python", "date"):
        require_text(f"environment: {name}", getattr(environment, name))
    if environment.driver is not None:
        require_text("environment: driver", environment.driver)
    require_size("environment: threads", environment.threads, least=0)
    if data["calibration"] is not None:
        require_text("calibration", data["calibration"])
    if not isinstance(data["points"], list):
        raise SpecsimError(f"points must be a list, not {quoted(data['points'])}")
    require_limit("values", len(data["points"]), "the number of points")
    points = []
    for index, point in enumerate(data["points"]):
        try:
            points.append(_point(point))
        except SpecsimError as error:
            raise SpecsimError(f"point {index}: {error}") from None
    return Measurement(environment, points, data["calibration"])


def _point(data: Any) -> Point:
    if not isinstance(data, Mapping):
        raise SpecsimError(f"it must be a table of fields, not {quoted(data)}")
    values = dict(data) | {"scenario": _conditions(data.get("scenario"))}
    for name in TIMINGS:
        if values.get(name) is not None:
            values[name] = _timing(values[name], name)
    point = build(Point, values, "a point")
    for name, (low, high) in RANGES.items():
        if getattr(point, name) is not None:
            _number(name, getattr(point, name), low, high)
    for name in ("notes", "name", "part"):
        require_text(name, getattr(point, name))
    require_flags("it", reserved=point.reserved, synthetic_acceptance=point.synthetic_acceptance)
    for name in ("survival", "calibration_survival", "accepted_histogram"):
        if (vector := getattr(point, name)) is not None:
            if not isinstance(vector, list):
                raise SpecsimError(f"{name} must be a list, not {quoted(vector)}")
            require_limit("gamma", len(vector) - 1, f"the number of values in {name}")
            for value in vector:
                _number(name, value, 0, MOST_TOKENS if name == "accepted_histogram" else 1.0)
    if point.calibration_survival is not None:
        try:
            as_survival(point.calibration_survival)
        except SpecsimError as error:
            raise SpecsimError(f"calibration_survival: {error}") from None
    return point


def _conditions(data: Any) -> RunConditions:
    if isinstance(data, Mapping):
        data = dict(data)
        for role in ("target", "draft"):
            if data.get(role) is not None:
                data[role] = Architecture.from_fields(data[role])
    scenario = build(RunConditions, data, "scenario")
    if scenario.target is None:
        raise SpecsimError("scenario lacks a target")
    for name in ("precision", "method", "rule", "mode"):
        require_text(f"scenario: {name}", getattr(scenario, name))
    _number("scenario: temperature", scenario.temperature, 0.0, 1e6)
    for name, limit, least in (("gamma", "gamma", 0), ("batch", "batch", 1),
                               ("context", "context", 0), ("allocated_context", "context", 0),
                               ("seed", "seed", 0), ("tensor_parallel", "tensor_parallel", 1),
                               ("draft_tensor_parallel", "tensor_parallel", 1)):  # fmt: skip
        require_size(f"scenario: {name}", getattr(scenario, name), least)
        require_limit(limit, getattr(scenario, name), f"scenario: {name}")
    return scenario


def _timing(data: Any, name: str) -> Timing:
    timing = build(Timing, data, name)
    for part in ("median", "p10", "p90"):
        _number(f"{name}: {part}", getattr(timing, part), SHORTEST_S, LONGEST_S)
    require_size(f"{name}: n", timing.n)
    return timing


def _number(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise SpecsimError(
            f"{name} must be a number within [{low:g}, {high:g}], not {quoted(value)}"
        )

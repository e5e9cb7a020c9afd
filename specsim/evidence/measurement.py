"""The schema of measured results, and nothing else: what ran where, and what it took. No prediction
inside.

A file is one JSON object: `schema_version`, `environment`, `calibration` (a path or null) and
`points`. It is written whole or not at all, after every point, so an interrupted run keeps what it
has.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from specsim.architecture import Architecture
from specsim.checks import SpecsimError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: the median of `n` samples, and the 10th and 90th percentiles."""

    median: float
    p10: float
    p90: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing | None":
        """None without a sample."""
        if not samples:
            return None
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        tenths = statistics.quantiles(samples, n=10, method="inclusive")
        return cls(statistics.median(samples), tenths[0], tenths[-1], len(samples))


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software; `driver` is None where there is no GPU."""

    device: str
    torch: str
    python: str
    threads: int
    date: str
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was run. `mode` is eager, cuda-graphs or compiled; `context` the mean KV length of the
    timed cycles."""

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


@dataclass(frozen=True, slots=True)
class Point:
    """One scenario, measured. Times are per pass or per cycle of the whole batch.

    `step_s` is a plain decode step including its sampling; `draft_step_s` one draft pass;
    `verify_step_s` the target's pass of gamma + 1 rows; `host_s` the rest of a cycle.
    `calibration_survival` is the survival vector estimated on other prompts: an input of
    predictions, not one of them; `tokens_error` the relative half-width of its 80 % band.

    A point of a suite has its `name` and `part` there, and whether it is `reserved`: not looked at
    while the model of the machine is being changed. `drift` is how long a fixed read took beside
    it, relative to the same read at calibration: 1.1 is a machine that had become 10 % slower.
    """

    scenario: Scenario
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


@dataclass(slots=True)
class Measurement:
    environment: Environment
    points: list[Point] = field(default_factory=list)
    calibration: str | None = None

    def write(self, path: str | Path) -> None:
        write_json(path, {"schema_version": SCHEMA_VERSION} | asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "Measurement":
        """Raises SpecsimError, naming the file, if it cannot be read or is not a measurement."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["schema_version"] != SCHEMA_VERSION:
                raise SpecsimError(
                    f"{path} has schema_version {data['schema_version']}; this specsim reads "
                    f"{SCHEMA_VERSION}"
                )
            points = [_point(point) for point in data["points"]]
            return cls(Environment(**data["environment"]), points, data["calibration"])
        except OSError as error:
            raise SpecsimError(f"cannot read {path}: {error.strerror}") from None
        except json.JSONDecodeError as error:
            raise SpecsimError(f"{path} is not valid JSON: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise SpecsimError(f"{path} is not a measurement file: {error!r}") from None


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file whole or not at all; SpecsimError if the place cannot be written."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise SpecsimError(f"cannot write {path}: {error.strerror}") from None


def _point(data: Mapping[str, Any]) -> Point:
    scenario = dict(data["scenario"])
    for role in ("target", "draft"):
        if (shape := scenario[role]) is not None:
            scenario[role] = Architecture.from_fields(shape)
    timings = ("step_s", "draft_step_s", "verify_step_s", "cycle_s", "host_s")
    values = dict(data) | {"scenario": Scenario(**scenario)}
    values |= {key: None if data[key] is None else Timing(**data[key]) for key in timings}
    return Point(**values)

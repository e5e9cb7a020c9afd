"""A calibration as a JSON file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from specsim.checks import SpecsimError, require_positive
from specsim.checks.files import read_json
from specsim.evidence.calibration.timings import Calibration
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import Precision

TABLES = ("weight_efficiency", "kv_efficiency")  # each may be a table instead of a number


def to_json(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain data, which `from_json` reads back."""
    system, engine = calibration.system, calibration.system.engine
    values = {name: getattr(engine, name) for name in Engine.__dataclass_fields__}
    constants = {
        name: value_to_json(value)
        for name, value in values.items()
        if isinstance(value, float | str | EfficiencyTable)
    }
    return {
        "schema_version": 1,
        "kind": "calibration",
        "accelerator": asdict(system.accelerator),
        "precision": asdict(system.precision),
        "engine": constants,
        "residuals": list(calibration.residuals),
        "environment": dict(calibration.environment),
    }


def value_to_json(value: float | str | EfficiencyTable) -> Any:
    """One constant of an engine as plain data: a table becomes an object of lists."""
    if not isinstance(value, EfficiencyTable):
        return value
    table = {name: getattr(value, name).tolist() for name in ("pass_bytes", "rows", "values")}
    return table | {"of": value.of}


def table_from_json(value: Any) -> Any:
    """A constant as `value_to_json` wrote it: an object becomes a table again."""
    if not isinstance(value, Mapping):
        return value
    pass_bytes, rows, values = (
        np.asarray(value[key], float) for key in ("pass_bytes", "rows", "values")
    )
    return EfficiencyTable(pass_bytes, rows, values, value.get("of", "pass"))


def from_json(data: Mapping[str, Any], name: str = "calibration") -> Calibration:
    """The calibration in `data`; SpecsimError with the file's `name` if `data` is not one."""
    try:
        engine = dict(data["engine"])
        engine |= {name: table_from_json(engine[name]) for name in TABLES}
        stored = Precision(**data["precision"])
        for name_of_bytes in ("weight_bytes", "kv_bytes", "activation_bytes"):
            require_positive(name_of_bytes, getattr(stored, name_of_bytes))
        return Calibration(
            System(
                Accelerator(**data["accelerator"]),
                Engine(**engine),
                stored,
            ),
            tuple(data["residuals"]),
            data.get("environment", {}),
        )
    except SpecsimError as error:
        raise SpecsimError(f"{name}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecsimError(f"{name} is not a calibration file: {error!r}") from None


def load(path: str | Path) -> Calibration:
    """Read a calibration file; SpecsimError if it is missing or is not a calibration."""
    return from_json(read_json(path), str(path))

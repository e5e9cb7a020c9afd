"""A calibration as a JSON file; and a GPU's timings, to which one can be fitted again."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import (
    SpecsimError,
    build,
    quoted,
    require_finite,
    require_positive,
    require_text,
    within,
)
from specsim.checks.files import read_json
from specsim.checks.limits import require_limit
from specsim.evidence.calibration.kernels import CacheProbe, KernelProbes, ProductProbe
from specsim.evidence.calibration.overheads import Calibration
from specsim.evidence.calibration.probes import StageProbe
from specsim.hardware import (
    Accelerator,
    AttentionTable,
    EfficiencyTable,
    Engine,
    FormatConstants,
    System,
)
from specsim.operators import Precision

TABLES = ("weight_efficiency", "kv_efficiency")  # each may be a table instead of a number
ENDLESS = (
    "activation_efficiency",
    "overlap",
    "attention_overlap",
    "vector_efficiency",
)  # may be infinite
SMALLEST, LARGEST = 1e-25, 1e25  # of a number in a file, beyond any unit: products stay finite
Timed = TypeVar("Timed", ProductProbe, CacheProbe, StageProbe)
PROBE_NAMES = {"stages": "laps", "stage": "lap"}  # the keys of a file of probes


def to_json(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain data, which `from_json` reads back."""
    system, engine = calibration.system, calibration.system.engine
    values = {name: getattr(engine, name) for name in Engine.__dataclass_fields__}
    constants = {
        name: value_to_json(value)
        for name, value in values.items()
        if isinstance(value, float | str | EfficiencyTable)
        and not (name in ENDLESS and value == np.inf)  # JSON has no infinity; it is the default
    }
    tables: dict[str, Any] = {}
    if engine.formats:
        tables["formats"] = [
            {key: value_to_json(value) for field in fields(each)
             if (value := getattr(each, key := field.name)) is not None}
            for each in engine.formats
        ]  # fmt: skip
    if engine.attention_tables:
        tables["attention_tables"] = [
            {field.name: value_to_json(getattr(each, field.name)) for field in fields(each)}
            for each in engine.attention_tables
        ]
    return {
        "schema_version": 1,
        "kind": "calibration",
        "accelerator": asdict(system.accelerator),
        "precision": asdict(system.precision),
        "engine": constants | tables,
        "residuals": list(calibration.residuals),
        "changes": dict(calibration.changes),
        "environment": dict(calibration.environment),
    }


def value_to_json(value: float | str | EfficiencyTable) -> Any:
    """One constant of an engine as plain data: a table becomes an object of lists."""
    if not isinstance(value, EfficiencyTable):
        return value
    table = {name: getattr(value, name).tolist() for name in ("pass_bytes", "rows", "values")}
    return table | {"of": value.of}


def table_from_json(value: Any, name: str) -> Any:
    """A constant as `value_to_json` wrote it: an object becomes a table again."""
    if not isinstance(value, Mapping):
        return value
    grids = {}
    for key in ("pass_bytes", "rows", "values"):
        if key not in value:
            raise SpecsimError(f"{name} lacks the field {key!r}")
        grids[key] = within(f"{name}: {key}", value[key], low=SMALLEST, high=LARGEST)
        require_limit("values", grids[key].size, f"the number of {key} in {name}")
    return EfficiencyTable(**grids, of=value.get("of", "pass"))


def from_json(data: Mapping[str, Any], name: str = "calibration") -> Calibration:
    """The calibration in `data`; SpecsimError with the file's `name`, and the field, if `data` is
    not one."""
    for part in ("accelerator", "precision", "engine", "residuals"):
        if part not in data:
            raise SpecsimError(f"{name} is not a calibration file: it lacks {part!r}")
    try:
        for part in ("accelerator", "precision", "engine"):
            require_sizes(data[part], part)
        engine = dict(data["engine"])
        for table in TABLES:
            if table in engine:
                engine[table] = table_from_json(engine[table], table)
        if "formats" in engine:
            engine["formats"] = formats_from_json(engine["formats"])
        if "attention_tables" in engine:
            engine["attention_tables"] = attention_from_json(engine["attention_tables"])
        system = System(
            build(Accelerator, data["accelerator"], "accelerator"),
            build(Engine, engine, "engine"),
            precision_from_json(data["precision"]),
        )
        require_finite("accelerator: bandwidth_bytes_per_s", system.bandwidth_bytes_per_s)
        residuals = within("residuals", data["residuals"], low=-1e6, high=1e6)
        if residuals.ndim != 1:
            raise SpecsimError(f"residuals must be a list of numbers, got {residuals.ndim} axes")
        environment = data.get("environment", {})
        if not isinstance(environment, Mapping):
            raise SpecsimError(f"environment must be a table, not {quoted(environment)}")
        if environment.get("mode") is not None:
            require_text("environment: mode", environment["mode"])
        changes = data.get("changes", {})
        require_sizes(changes, "changes")
        return Calibration(system, tuple(residuals.tolist()), environment, dict(changes))
    except SpecsimError as error:
        raise SpecsimError(f"{name} is not a calibration file: {error}") from None


def formats_from_json(values: Any) -> tuple[FormatConstants, ...]:
    """The constants for weights in other formats; SpecsimError for a field of the wrong kind."""
    if not isinstance(values, list):
        raise SpecsimError(f"formats must be a list, not {quoted(values)}")
    found = []
    for each in values:
        require_sizes(each, "formats")
        table = table_from_json(each.get("weight_efficiency"), "weight_efficiency")
        if not isinstance(table, EfficiencyTable):
            raise SpecsimError("each of the formats needs a table weight_efficiency")
        own = build(FormatConstants, dict(each) | {"weight_efficiency": table}, "formats")
        require_text("formats: format", own.format)
        for field in fields(FormatConstants)[2:]:
            value, name = getattr(own, field.name), f"formats: {field.name}"
            if value is None:
                continue
            if field.name.endswith("_s"):
                require_positive(name, value, or_zero=True)
            else:
                require_finite(name, value)
        found.append(own)
    return tuple(found)


def attention_from_json(values: Any) -> tuple[AttentionTable, ...]:
    """The tables of attention; SpecsimError for a field of the wrong kind."""
    if not isinstance(values, list):
        raise SpecsimError(f"attention_tables must be a list, not {quoted(values)}")
    require_limit("values", len(values), "the number of attention_tables")
    found = []
    for each in values:
        require_sizes(each, "attention_tables")
        table = table_from_json(each.get("table"), "attention_tables: table")
        if not isinstance(table, EfficiencyTable) or table.of != "stream":
            raise SpecsimError("each of the attention_tables needs a table of streams")
        own = build(AttentionTable, dict(each) | {"table": table}, "attention_tables")
        for name in ("head_size", "rows", "queries"):
            require_positive(f"attention_tables: {name}", getattr(own, name))
        found.append(own)
    return tuple(found)


def precision_from_json(data: Any) -> Precision:
    """The number format of a calibration; SpecsimError for a field of the wrong kind."""
    stored = build(Precision, data, "precision")
    for field in ("name", "math"):
        require_text(f"precision: {field}", getattr(stored, field))
    for field in stored.__dataclass_fields__:
        always = ("weight_bytes", "kv_bytes", "activation_bytes")
        if field.endswith("_bytes") and (field in always or getattr(stored, field) is not None):
            require_finite(f"precision: {field}", getattr(stored, field))
    return stored


def require_sizes(values: Any, name: str) -> None:
    """SpecsimError unless every number in a table of fields is 0 or of a size that can be
    multiplied; an efficiency may be infinite."""
    if not isinstance(values, Mapping):
        raise SpecsimError(f"{name} must be a table of fields, not {quoted(values)}")
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in (*TABLES, "table"):
                require_sizes(value, f"{name}: {key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            endless = value == np.inf and key in ENDLESS
            low = 0.0 if key.endswith("_s") or key == "error" else SMALLEST  # what is only added
            if not (value == 0 or endless or low <= value <= LARGEST):
                raise SpecsimError(
                    f"{name}: {key} must be 0 or within [{low:g}, {LARGEST:g}], got {quoted(value)}"
                )


def load(path: str | Path) -> Calibration:
    """Read a calibration file; SpecsimError if it is missing or is not a calibration."""
    return from_json(read_json(path), str(path))


def probes_to_json(probes: KernelProbes) -> dict[str, Any]:
    """All timings of a GPU as plain data, which `probes_from_json` reads back."""

    def named(found: list[tuple[str, Any]]) -> dict[str, Any]:
        return {PROBE_NAMES.get(name, name): value for name, value in found}

    return {"schema_version": 1, "kind": "kernel-probes"} | asdict(probes, dict_factory=named)


def probes_from_json(data: Any, name: str = "probes") -> KernelProbes:
    """The timings in `data`; SpecsimError with the file's `name`, and the field, if it holds
    none."""
    if not isinstance(data, Mapping) or data.get("kind") != "kernel-probes":
        raise SpecsimError(f"{name} is not a file of a GPU's probes: its kind is not kernel-probes")
    found = {key: data[key] for key in data if key not in ("schema_version", "kind", "laps")}
    try:
        reads = within("reads", found.get("reads", []), low=SMALLEST, high=LARGEST)
        if reads.ndim != 2 or reads.shape[1] != 2:
            raise SpecsimError("reads must be pairs of bytes and seconds")
        found["reads"] = tuple(map(tuple, reads.tolist()))
        found["products"] = timings(ProductProbe, found.get("products"), "products")
        found["caches"] = timings(CacheProbe, found.get("caches"), "caches")
        laps = data.get("laps")
        if not isinstance(laps, Mapping):
            raise SpecsimError(f"laps must be a table of modes, not {quoted(laps)}")
        found["stages"] = {mode: stages_from_json(laps[mode], mode) for mode in laps}
        for table in ("small", "chunked_from"):
            require_sizes(found.get(table, {}), table)
        return build(KernelProbes, found, "probes")
    except SpecsimError as error:
        raise SpecsimError(f"{name} is not a file of a GPU's probes: {error}") from None


def timings(kind: type[Timed], values: Any, name: str) -> tuple[Timed, ...]:
    """The probes of one `kind` in a list of tables."""
    if not isinstance(values, list) or not values:
        raise SpecsimError(f"{name} must be a list of timings, not {quoted(values)}")
    require_limit("values", len(values), f"the number of {name}")
    found = []
    for each in values:
        require_sizes(each, name)
        found.append(build(kind, each, name))
        for field in fields(kind):
            if field.type in (int, float):
                value, may_be_0 = getattr(found[-1], field.name), field.name == "gamma"
                require_positive(f"{name}: {field.name}", value, or_zero=may_be_0)
    return tuple(found)


def stages_from_json(values: Any, mode: str) -> tuple[StageProbe, ...]:
    """The stages that were timed in one mode, with the architectures of their models."""
    if not isinstance(values, list):
        raise SpecsimError(f"laps: {mode} must be a list of timings, not {quoted(values)}")
    own = []
    for each in values:
        if not isinstance(each, Mapping) or not {"architecture", "lap"} <= set(each):
            raise SpecsimError(f"each of the laps: {mode} needs an architecture and a lap")
        model = Architecture.from_fields(each["architecture"])
        own.append({**each, "architecture": model, "stage": each["lap"]})
        del own[-1]["lap"]
    return timings(StageProbe, own, f"laps: {mode}")


def load_probes(path: str | Path) -> KernelProbes:
    """Read a GPU's timings, for `fit_kernels`; SpecsimError if the file is missing or holds
    none."""
    return probes_from_json(read_json(path), str(path))

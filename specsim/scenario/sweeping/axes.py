"""A sweep as a TOML file describes it: a kind, fixed settings, and axes whose combinations are its
points.

    kind = "serve-sim"
    target = "llama-3.1-8b"
    accelerator = "h100-sxm"

    [axes]
    rate = {from = 1, to = 32, steps = 6, log = true}
    policy = ["off", "best"]
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from specsim.checks import SpecsimError, quoted
from specsim.checks.limits import require_limit
from specsim.scenario.files import checked, field_of, read_toml, settings_of
from specsim.scenario.sweeping.points import KINDS, NOT_SERVED, SweepPoint

RANGE = ("from", "to", "steps", "log")


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The points of a sweep: every combination of the axes' values, the last axis fastest. They are
    made one by one, so that a million of them take no memory."""

    kind: str
    fixed: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def __iter__(self) -> Iterator[SweepPoint]:
        for place in product(*self.axes.values()):
            here = dict(zip(self.axes, place, strict=True))
            yield SweepPoint(self.kind, {**self.fixed, **here})


def read_plan(path: str | Path) -> SweepPlan:
    """The sweep that a TOML file describes.

    Raises SpecsimError, with the file's name, for an unknown kind or key (with the nearest one), an
    axis without values, a value of another kind, and for too many points.
    """
    table, name = read_toml(path), str(path)
    kind = table.pop("kind", "predict")
    if not isinstance(kind, str) or kind not in KINDS:
        raise SpecsimError(f"{name}: kind must be {', '.join(KINDS)}, not {quoted(kind)}")
    axes = table.pop("axes", None)
    if not isinstance(axes, dict) or not axes:
        raise SpecsimError(
            f"{name} needs axes: a table [axes] with a list or a range for each, as batch = "
            "[1, 8, 64]"
        )
    # one file serves several kinds: what this kind has no use for is fixed without effect
    every = {key: each for known in KINDS.values() for key, each in known.items()}
    known = KINDS[kind]
    fixed = settings_of(table, name, every | dict(known))
    return plan_of(kind, {k: v for k, v in fixed.items() if k in known}, axes, name)


def plan_of(
    kind: str, fixed: Mapping[str, Any], axes: Mapping[str, Any], name: str = "the sweep"
) -> SweepPlan:
    """A sweep of checked settings and of axes as TOML holds them: lists, or tables of a range."""
    known = KINDS[kind]
    found: dict[str, tuple[Any, ...]] = {}
    for key, value in axes.items():
        if kind == "serve-sim" and key in NOT_SERVED:
            raise SpecsimError(
                f"{name}: {key} has no effect in serve-sim, where it follows from the load"
            )
        field = field_of(key, f"{name}: [axes]", known)
        if field in found:
            raise SpecsimError(f"{name}: two axes are {field}")
        if field in fixed:
            raise SpecsimError(f"{name}: {field} is an axis and fixed too; leave one out")
        found[field] = values_of(value, known[field], f"{name}: axis {key}")
    require_limit(
        "sweep_points", math.prod(map(len, found.values())), f"{name}: the number of points"
    )
    return SweepPlan(kind, dict(fixed), found)


def values_of(value: Any, kind: str, name: str) -> tuple[Any, ...]:
    """The values of one axis: each checked, none twice."""
    if isinstance(value, dict):
        value = _range(value, kind in ("whole", "gamma", "size"), name)
    if not isinstance(value, list):
        raise SpecsimError(
            f"{name} must be a list, as [1, 8, 64], or a range, as {{from = 1, to = 64, steps = "
            f"7, log = true}}, not {quoted(value)}"
        )
    if not value:
        raise SpecsimError(f"{name} is empty: a sweep over it has no points")
    require_limit("axis_values", len(value), f"{name}: the number of values")
    found = tuple(checked(kind, each, name) for each in value)
    if len(set(found)) < len(found):
        twice = next(each for at, each in enumerate(found) if each in found[:at])
        raise SpecsimError(f"{name} has {quoted(twice)} twice")
    return found


def _range(table: Mapping[str, Any], whole: bool, name: str) -> list[Any]:
    """The values of a range; whole numbers are rounded, and each kept once."""
    for key in table:
        if key not in RANGE:
            near = get_close_matches(key[:100], RANGE, n=1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise SpecsimError(f"{name}: a range has from, to, steps and log, not {quoted(key)}"
                               f"{hint}")  # fmt: skip
    for key in RANGE[:3]:
        if key not in table:
            raise SpecsimError(f"{name}: a range needs {key}")
    low, high = (checked("number", table[key], f"{name}: {key}") for key in ("from", "to"))
    steps, log = checked("whole", table["steps"], f"{name}: steps"), table.get("log", False)
    if not isinstance(log, bool):
        raise SpecsimError(f"{name}: log must be true or false, not {quoted(log)}")
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        raise SpecsimError(f"{name}: from and to must be finite")
    if steps < 2 or low == high:
        raise SpecsimError(
            f"{name}: a range needs at least 2 steps, and an end other than its start"
        )
    require_limit("axis_values", steps, f"{name}: steps")
    if log and not (low > 0 and high > 0):
        raise SpecsimError(f"{name}: a range in equal factors (log) needs from and to above 0")
    spaced = np.geomspace(low, high, steps) if log else np.linspace(low, high, steps)
    if whole:
        return list(dict.fromkeys(round(each) for each in spaced.tolist()))
    # 12 digits: 0.1 + 0.2 is 0.3, in the file and in the key
    return list(dict.fromkeys(float(f"{each:.12g}") for each in spaced.tolist()))

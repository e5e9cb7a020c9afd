"""The points of a suite: a file lists what is to be measured before anything is measured.

A third of the points of each predicted part is reserved. Nobody looks at these points while the
model of the accelerator is being changed, and the quoted errors are theirs. Their names alone
decide which points are reserved (the third with the smallest SHA-256), so nobody chooses them.

The part `peer` measures the baseline: transformers decodes the same models (see `baseline`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError
from specsim.checks.files import read_bytes
from specsim.checks.limits import require_limit

SUITES = {name: Path(__file__).parent / f"{name}.toml" for name in ("gpu", "cpu")}
PARTS = ("probes", "plain", "verify", "speculation", "trained", "peer")
METHODS = (
    "plain", "given", "draft-model", "early-exit", "n-gram",
    "transformers-generate", "transformers-assisted",
)  # fmt: skip
MODES = ("eager", "cuda-graphs", "fused")
WHOLE = {"gamma": 0, "batch": 1, "context": 1}  # the least of each


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One scenario to measure.

    `target` is a model of the suite's file, a model of the catalog, or "trained" (the pair that the
    run is given). `draft` is "first-K" (the target's first K layers), a model of the suite's file
    or a model of the catalog. If `synthetic`, accept counts are drawn with the acceptance rate
    `alpha`; otherwise `alpha` is the target acceptance rate of a synthetic pair. The method "given"
    has gamma fixed drafts that cost nothing; it measures a pass of gamma + 1 rows.
    """

    name: str
    part: str
    target: str
    method: str = "plain"
    gamma: int = 0
    draft: str | None = None
    alpha: float | None = None
    synthetic: bool = False
    batch: int = 1
    context: int = 512
    temperature: float = 1.0
    precision: str = "bf16"
    mode: str = "eager"
    reserved: bool = False

    @property
    def pair(self) -> tuple[Any, ...]:
        """The models that the point needs. Points with the same value can share them."""
        alpha = None if self.synthetic else self.alpha
        return self.target, self.draft, alpha, self.precision

    @property
    def draft_layers(self) -> int | None:
        """K of "first-K"; None for any other draft."""
        if self.draft is None or not self.draft.startswith("first-"):
            return None
        return int(self.draft.removeprefix("first-"))


@dataclass(frozen=True, slots=True)
class Suite:
    """The points of a suite in the order in which they are measured, and the models of its file."""

    name: str
    points: tuple[PlannedPoint, ...]
    architectures: Mapping[str, Architecture]

    def architecture(self, name: str) -> Architecture:
        """A model of the suite's file, or of the catalog."""
        return self.architectures[name] if name in self.architectures else model(name)

    def of(self, part: str) -> list[PlannedPoint]:
        """The points of one part, in order."""
        return [point for point in self.points if point.part == part]


def load_suite(name_or_path: str | Path) -> Suite:
    """The suite called "gpu" or "cpu", or another file of the same form.

    The file lists `points`; under `shapes` it may define models of its own.
    Raises SpecsimError with the file and the point if a point cannot be measured as it is written.
    """
    path = SUITES.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        known = ", ".join(SUITES)
        raise SpecsimError(f"no suite {str(name_or_path)!r}; known: {known}, or a .toml file")
    try:
        data = tomllib.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of a number's length
        if isinstance(error, SpecsimError):
            raise
        reason = str(error).splitlines()[0]
        raise SpecsimError(f"{path} is not valid TOML: {reason}") from None
    shapes, rows = data.get("shapes", {}), data.get("points")
    tables = isinstance(shapes, dict) and all(isinstance(each, dict) for each in shapes.values())
    listed = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    if data.keys() - {"shapes", "points"} or not (tables and listed):
        raise SpecsimError(
            f"{path} must hold shapes and points, as tables, and nothing else: {sorted(data)}"
        )
    architectures = {
        name: _architecture(f"{path}: shape {name!r}", fields | {"name": name})
        for name, fields in shapes.items()
    }
    points = tuple(_point(str(path), row) for row in rows)
    names = [point.name for point in points]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SpecsimError(f"{path}: two points are called {sorted(twice)[0]!r}")
    return Suite(path.stem, points, architectures)


def _architecture(place: str, values: Mapping[str, Any]) -> Architecture:
    try:
        return Architecture(**values)
    except TypeError as error:
        raise SpecsimError(f"{place}: {error}") from None


def _point(place: str, row: Mapping[str, Any]) -> PlannedPoint:
    place = f"{place}: point {row.get('name', row)!r}"
    types = {field.name: field for field in fields(PlannedPoint)}
    if unknown := row.keys() - types.keys():
        raise SpecsimError(f"{place}: unknown {sorted(unknown)[0]!r}; known: {', '.join(types)}")
    for key, value in row.items():
        wanted = types[key].type
        number = isinstance(value, int) and not isinstance(value, bool)
        known_type = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
        if key not in WHOLE and not known_type and not (number and isinstance(0.0, wanted)):
            words = getattr(wanted, "__name__", str(wanted))
            raise SpecsimError(f"{place}: {key} must be a {words}, not {value!r:.100}")
    try:
        point = PlannedPoint(**row)
    except TypeError as error:
        raise SpecsimError(f"{place}: {error}") from None
    for key, known in (("part", PARTS[1:]), ("method", METHODS), ("mode", MODES)):
        if getattr(point, key) not in known:
            raise SpecsimError(
                f"{place}: {key} must be one of {', '.join(known)}, not {getattr(point, key)!r}"
            )
    for key, least in WHOLE.items():
        value = getattr(point, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SpecsimError(f"{place}: {key} must be a whole number >= {least}, not {value!r}")
        require_limit(key, value, f"{place}: {key}")
    drafts = point.method not in ("plain", "transformers-generate")
    if drafts != (point.gamma > 0):
        raise SpecsimError(f"{place}: gamma = {point.gamma} does not go with {point.method!r}")
    if point.draft and point.draft.startswith("first-") and not point.draft[6:].isdecimal():
        raise SpecsimError(f"{place}: draft must be first-K with a number K, not {point.draft!r}")
    if not 0 <= point.temperature < float("inf"):
        raise SpecsimError(f"{place}: temperature must be a finite number >= 0")
    if point.alpha is not None and not 0 < point.alpha < 1:
        raise SpecsimError(f"{place}: alpha must be inside (0, 1), not {point.alpha}")
    if point.method in ("draft-model", "early-exit") and point.target != "trained":
        if point.draft is None or point.alpha is None:
            raise SpecsimError(f"{place}: {point.method} needs a draft and an alpha")
        if point.draft_layers is None and not point.synthetic:
            raise SpecsimError(
                f"{place}: random weights accept no draft of a separate model; give the draft "
                "first-K, or set synthetic = true"
            )
    return point

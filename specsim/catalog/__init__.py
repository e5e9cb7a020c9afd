"""Facts as data: every table is a TOML file beside this one, every row with its source.

A row is a table whose key is its name, lower-case and hyphenated, the way the hub or the vendor
spells it: `h100-sxm`, `"llama-3.1-8b"` (quoted, for the dot). It says where its numbers come from
(`source`) and how far to trust them (`confidence`); other spellings stand in `aliases`. What is not
known is absent, never guessed, so read optional columns with `row.get(...)`.

This is the bottom layer: it knows nothing of the rest of specsim.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from specsim.checks import SpecsimError

Row = Mapping[str, Any]
Table = Mapping[str, Row]

FEW = 20  # rows of a table that an error can name
_REQUIRED = ("source", "confidence")


def slug(name: str) -> str:
    """A name as the catalog spells it: lower case, letters, digits and dots joined by hyphens.

    `slug("A100-80GB SXM (330W power cap)")` is `"a100-80gb-sxm-330w-power-cap"`. The owner of a
    hub id is dropped: `slug("Qwen/Qwen3-8B")` is `"qwen3-8b"`.
    """
    if hub_id := re.fullmatch(r"[\w.-]+/([\w.-]+)", name):
        name = hub_id[1]
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


@cache
def load(table: str, folder: Path | None = None) -> Table:
    """The rows of one table, `"accelerators"` for accelerators.toml, read once and read-only.

    Arguments: `table`, a file's name without its ending; `folder`, where it lies (the catalog).
    Raises SpecsimError for a table that does not exist, a file that is not TOML, and a row that
    lacks `source` or `confidence`, is misnamed, or has another row's alias.
    """
    place: Traversable = folder or resources.files(__name__)
    file = place / f"{table}.toml"
    if not file.is_file():
        tables = sorted(f.name[: -len(".toml")] for f in place.iterdir() if f.name[-5:] == ".toml")
        raise SpecsimError(f"no catalog table is called {table!r}; there are: {', '.join(tables)}")
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecsimError(f"{file.name} is not valid TOML: {error}") from None
    for name, row in rows.items():
        _check_row(name, row, file.name)
    _names(rows, file.name)
    frozen: Table = _frozen(rows)
    return frozen


def resolve(table: str, name: str, folder: Path | None = None) -> str:
    """The key of the row called `name`, by its own name or an alias, in any case.

    Raises SpecsimError with the nearest names when there is no such row.
    """
    rows = load(table, folder)
    names = _names(rows, f"{table}.toml")
    wanted = slug(name)
    if wanted in names:
        return names[wanted]
    # first what begins so, hyphens and dots aside: "llama3" is llama-3-8b, llama-3.1-8b, …
    begun = [key for key in rows if _letters(wanted) and _letters(key).startswith(_letters(wanted))]
    close = difflib.get_close_matches(wanted, names, n=6, cutoff=0.5)
    nearest = list(dict.fromkeys([*begun, *(names[found] for found in close)]))
    nearest = nearest[: max(3, min(len(begun), 6))]
    hint = f"nearest: {', '.join(nearest)}"
    if not nearest:
        few = len(rows) <= FEW
        hint = f"there are: {', '.join(rows)}" if few else f"see the {len(rows)} in {table}.toml"
    raise SpecsimError(f"no {table.removesuffix('s')} is called {name!r}; {hint}")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def lookup(table: str, name: str, folder: Path | None = None) -> Row:
    """The row called `name`; `lookup("accelerators", "H100 SXM")["bandwidth_bytes_per_s"]`.

    Raises what `resolve` raises.
    """
    return load(table, folder)[resolve(table, name, folder)]


def _check_row(name: str, row: Any, file: str) -> None:
    if not isinstance(row, dict):
        raise SpecsimError(f"{file}: {name!r} is not a row; every top-level key must be a table")
    missing = [key for key in _REQUIRED if not (isinstance(row.get(key), str) and row[key].strip())]
    if missing:
        raise SpecsimError(f"{file}: row {name!r} lacks {' and '.join(missing)}")
    if name != slug(name):
        raise SpecsimError(f"{file}: row {name!r} must be called {slug(name)!r}")


def _names(rows: Table, file: str) -> dict[str, str]:
    """Every spelling, mapped to the key of its row."""
    names = {name: name for name in rows}
    for name, row in rows.items():
        for alias in row.get("aliases", ()):
            other = names.setdefault(slug(alias), name)
            if other != name or alias != slug(alias):
                clash = f"already means {other!r}" if other != name else f"write {slug(alias)!r}"
                raise SpecsimError(f"{file}: alias {alias!r} of row {name!r}: {clash}")
    return names


def _frozen(value: Any) -> Any:
    """The same data, read-only: the tables are shared by everyone who asks."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return tuple(_frozen(inner) for inner in value)
    return value

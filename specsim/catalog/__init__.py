"""Facts as data: every table is a TOML file in this folder, every row with its source.

A row is a table whose key is its name, lower-case and hyphenated, the way the hub or the vendor
spells it: `h100-sxm`, `"llama-3.1-8b"` (quoted, for the dot). It says where its numbers come from
(`source`) and how far to trust them (`confidence`); other spellings stand in `aliases`. What is not
known is absent, never guessed, so read optional columns with `row.get(...)`. That every row keeps
these rules is tested (tests/test_catalog.py), not checked at each start.

This is the bottom layer: it imports nothing of specsim but `checks`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from specsim.checks import SpecsimError

Row = Mapping[str, Any]
Table = Mapping[str, Row]

FEW = 20  # rows of a table that an error can name
LISTED = ("models", "accelerators", "engines", "methods")  # tables that a command lists


class Rows(Mapping[str, Row]):
    """The rows of one table by their names, read-only. A row is parsed when it is first read: most
    programs need few of them."""

    def __init__(self, text: str):
        self._text: dict[str, str] = {}
        self._read: dict[str, Row] = {}
        for part in re.split(r"(?m)^(?=\[)", text)[1:]:  # a row, or a table inside it
            name = re.split(r"[].]", part[1:])[0] if part[1] != '"' else part.split('"')[1]
            self._text[name] = self._text.get(name, "") + part

    def __getitem__(self, name: str) -> Row:
        if name not in self._read:
            self._read[name] = _frozen(tomllib.loads(self._text[name])[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._text)

    def __len__(self) -> int:
        return len(self._text)

    def spellings(self) -> dict[str, str]:
        """Every name and alias, mapped to the name of its row."""
        other = [name for name, text in self._text.items() if "\naliases" in text]
        aliases = {alias: name for name in other for alias in self[name]["aliases"]}
        return aliases | {name: name for name in self._text}


def slug(name: str) -> str:
    """A name as the catalog spells it: lower case, letters, digits and dots joined by hyphens.

    `slug("A100-80GB SXM (330W power cap)")` is `"a100-80gb-sxm-330w-power-cap"`. The owner of a
    hub id is dropped: `slug("Qwen/Qwen3-8B")` is `"qwen3-8b"`.
    """
    if hub_id := re.fullmatch(r"[\w.-]+/([\w.-]+)", name):
        name = hub_id[1]
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


@cache
def load(table: str) -> Rows:
    """The rows of one table, `"accelerators"` for accelerators.toml, read once.

    Raises SpecsimError for a table that does not exist.
    """
    folder = Path(__file__).parent
    file = folder / f"{table}.toml"
    if not file.is_file():
        tables = sorted(f.stem for f in folder.iterdir() if f.suffix == ".toml")
        raise SpecsimError(f"no catalog table is called {table!r}; there are: {', '.join(tables)}")
    return Rows(file.read_text(encoding="utf-8"))


@cache
def resolve(table: str, name: str) -> str:
    """The key of the row called `name`, by its own name or an alias, in any case.

    Raises SpecsimError with the nearest names when there is no such row.
    """
    rows, wanted = load(table), slug(name)
    if wanted in rows:
        return wanted
    names = rows.spellings()
    if wanted in names:
        return names[wanted]
    near, lister = nearest(table, name), f"specsim {table} lists all {len(rows)}"
    if table not in LISTED:
        lister = f"see the {len(rows)} in {table}.toml"
    if near:
        hint = f"nearest: {', '.join(near)}" + (f"; {lister}" if table in LISTED else "")
    else:
        hint = f"there are: {', '.join(rows)}" if len(rows) <= FEW else lister
    raise SpecsimError(f"no {table.removesuffix('s')} is called {name!r}; {hint}")


def nearest(table: str, name: str) -> list[str]:
    """The rows of `table` whose names are like `name`, which is none of them; at most six.

    First those that begin so, hyphens and dots aside: "llama3" is llama-3-8b, llama-3.1-8b, …
    """
    import difflib  # only a wrong name pays for it

    rows, wanted = load(table), slug(name)
    names = rows.spellings()
    begun = [key for key in rows if _letters(wanted) and _letters(key).startswith(_letters(wanted))]
    close = difflib.get_close_matches(wanted, names, n=6, cutoff=0.5)
    found = list(dict.fromkeys([*begun, *(names[each] for each in close)]))
    return found[: max(3, min(len(begun), 6))]


def lookup(table: str, name: str) -> Row:
    """The row called `name`; `lookup("accelerators", "H100 SXM")["bandwidth_bytes_per_s"]`.

    Raises what `resolve` raises.
    """
    return load(table)[resolve(table, name)]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _frozen(value: Any) -> Any:
    """The same data, read-only: the tables are shared by everyone who asks."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return tuple(_frozen(inner) for inner in value)
    return value

"""Scenarios in TOML files: the options' names as keys, in one reader for all commands.

    target = "llama-3.1-8b"
    draft = "llama-3.2-1b"
    accelerator = "h100-sxm"
    alpha = 0.8

A key may be written with hyphens or underscores. One file serves every command: what a command has
no option for (a `rate` in `specsim predict`) has no effect there. Keys are the settings of
`Scenario` and `ServerLoad`, and `OPTIONS`, further options of single commands.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from specsim.checks import SpecsimError, quoted
from specsim.checks.files import read_bytes
from specsim.scenario.scenario import Scenario
from specsim.scenario.server_load import ServerLoad

BEST = "best"  # the gamma that is chosen
ALIASES = {"tp": "tensor_parallel", "draft_tp": "draft_tensor_parallel"}
NOT_SETTINGS = ("kind", "axes")  # keys of a sweep's file

# What a value of each kind is called in an error; the kinds are those of the dataclasses' fields,
# but for the settings in SPECIAL.
WANTED = {
    "text": "text",
    "whole": "a whole number",
    "number": "a number",
    "numbers": "a list of numbers",
    "texts": "text, or a list of texts",
    "gamma": f'a whole number or "{BEST}"',
    "size": 'a whole number or "auto"',
    "length": 'a number or text: 400, or "400,0.8", or a file',
    "list": 'text, or a list: "1,8", or [1, 8]',
    "flag": "true or false",
}
BY_TYPE = {
    str: "text", int: "whole", float: "number", str | None: "text", int | None: "whole",
    float | None: "number", tuple[float, ...]: "numbers", tuple[str, ...]: "texts",
}  # fmt: skip
SPECIAL = {"gamma": "gamma", "kv_tokens": "size", "prompt": "length", "output": "length"}


def kinds_of(*types: Any) -> Mapping[str, str]:
    """The settings that dataclasses hold, each with its kind."""
    return MappingProxyType(
        {
            field.name: SPECIAL.get(field.name) or BY_TYPE[field.type]  # type: ignore[index]
            for each in types
            for field in fields(each)
        }
    )


SETTINGS = kinds_of(Scenario, ServerLoad)
# Options of single commands, which are no settings of a scenario: predict, plan, rank, serve-sim.
OPTIONS = MappingProxyType(
    {
        "users": "whole", "tokens": "whole", "batches": "list", "drafts": "list",
        "methods": "list", "acceptance": "texts", "json": "flag", "out": "text",
        "save_detailed": "flag",
    }
)  # fmt: skip


def read_scenario(path: str | Path) -> dict[str, Any]:
    """The settings in a file by their field's name in `Scenario`, `ServerLoad` and `OPTIONS`.

    Raises SpecsimError, with the file's name, for an unknown key (with the nearest one), a value of
    another kind, and for a sweep's axes.
    """
    table = read_toml(path)
    if "axes" in table:
        raise SpecsimError(f"{path} has axes: it is for specsim sweep, not one scenario")
    known = SETTINGS | OPTIONS
    return settings_of({k: v for k, v in table.items() if k not in NOT_SETTINGS}, str(path), known)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file; SpecsimError if it cannot be read or is no TOML."""
    content = read_bytes(path, "toml_bytes")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SpecsimError(f"{path} is not valid TOML: it is not text in UTF-8") from None
    except RecursionError:
        raise SpecsimError(f"{path} is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecsimError(f"{path} is not valid TOML: {error}") from None
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise SpecsimError(f"{path} is not valid TOML: a number is too long") from None


def settings_of(
    table: Mapping[str, Any], name: str, known: Mapping[str, str] = SETTINGS
) -> dict[str, Any]:
    """The settings of a table, checked; errors call the table `name`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        field = field_of(key, name, known)
        if field in found:
            raise SpecsimError(f"{name} gives {field} twice")
        found[field] = checked(known[field], value, f"{name}: {key}")
    return found


def field_of(key: str, name: str, known: Iterable[str] = SETTINGS) -> str:
    """The field that a key means; SpecsimError, with the nearest key, for an unknown one."""
    field = key.strip().removeprefix("--").replace("-", "_")
    field = ALIASES.get(field, field)
    if field in known:
        return field
    near = get_close_matches(field[:100], [*known, *ALIASES], n=1, cutoff=0.7)
    hint = f"; the nearest is {near[0]!r}" if near else f"; there are: {', '.join(known)}"
    raise SpecsimError(f"{name} has an unknown key {quoted(key)}{hint}")


def checked(kind: str, value: Any, name: str) -> Any:
    """A value of TOML as its field holds it; SpecsimError if it is of another kind."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and (isinstance(value, int) or value.is_integer())
    if kind == "text" and isinstance(value, str):
        return value
    if kind in ("whole", "gamma") and whole:
        return int(value)
    if kind == "gamma" and value == BEST:
        return None
    if kind == "number" and number:
        try:
            return float(value)
        except OverflowError:
            raise SpecsimError(f"{name} must be at most 1e308, got a larger number") from None
    if kind == "numbers" and isinstance(value, list):
        return tuple(checked("number", each, name) for each in value)
    if kind == "texts" and isinstance(value, str):
        return tuple(value.split())
    if kind == "texts" and isinstance(value, list):
        return tuple(checked("text", each, name) for each in value)
    if kind == "size" and (value == "auto" or whole):
        return str(value if isinstance(value, str) else int(value))
    if kind == "length" and (isinstance(value, str) or number):
        return str(value)
    if kind == "flag" and isinstance(value, bool):
        return value
    if kind == "list" and (isinstance(value, str) or whole):
        return str(value)
    if kind == "list" and isinstance(value, list) and value:
        return ",".join(str(checked("list", each, name)) for each in value)
    many = isinstance(value, list) and kind not in ("numbers", "texts", "list")
    hint = "; several values are an axis of specsim sweep" if many else ""
    raise SpecsimError(f"{name} must be {WANTED[kind]}, not {quoted(value)}{hint}")


def scenario_in(settings: Mapping[str, Any]) -> Scenario:
    """The `Scenario` of settings; SpecsimError where they name no target."""
    names = {field.name for field in fields(Scenario)}
    mine = {name: value for name, value in settings.items() if name in names}
    if "target" not in mine:
        raise SpecsimError("a scenario needs a target: specsim models lists them")
    return Scenario(**mine)


def load_in(settings: Mapping[str, Any]) -> ServerLoad:
    """The `ServerLoad` of settings."""
    names = {field.name for field in fields(ServerLoad)}
    return ServerLoad(**{name: value for name, value in settings.items() if name in names})

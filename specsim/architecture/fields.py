"""The values of a config under their names, checked as they are read."""

from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError, require_size

Fields = dict[str, Any]


class Config:
    """The values of a config with their names: what is missing or of the wrong kind is refused."""

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values, self.name = values, name

    def get(self, *keys: str) -> Any:
        """The first of several spellings that is there and not null."""
        return next((self.values[k] for k in keys if self.values.get(k) is not None), None)

    def size(self, *keys: str, default: int | None = None) -> int:
        value = self.get(*keys)
        if value is None:
            if default is None:
                raise SpecsimError(f"{self.name}: config.json lacks the field {keys[0]!r}")
            return default
        require_size(f"{self.name}: {keys[0]}", value)
        return value

    def number(self, *keys: str, default: float) -> float:
        value = self.get(*keys)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise SpecsimError(f"{self.name}: {keys[0]} must be a number above 0, not {value!r}")
        return float(value)

    def count(self, key: str) -> int:
        """How many there are of something that there may be none of."""
        value: int = self.values.get(key) or 0
        require_size(f"{self.name}: {key}", value, least=0)
        return value

    def entries(self, key: str) -> list[Any] | None:
        value = self.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise SpecsimError(f"{self.name}: {key} must be a list, not {value!r}")
        return None if value is None else list(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None else bool(value)

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.get(key) or {}
        if not isinstance(value, Mapping):
            raise SpecsimError(f"{self.name}: {key} must be a table, not {value!r}")
        return value

    def refuse(self, key: str, *allowed: object) -> None:
        """SpecsimError where `key` is set to anything else."""
        if (value := self.values.get(key)) is not None and value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise SpecsimError(f"{self.name}: {key} {value!r} is not supported; known: {known}")

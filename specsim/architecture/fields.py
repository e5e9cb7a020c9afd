"""The values of a config under their names, checked as they are read."""

from collections.abc import Mapping
from typing import Any

from specsim.checks import SpecsimError, quoted, require_finite, require_size
from specsim.checks.limits import require_limit

Fields = dict[str, Any]

# The limit of a size; of those that are not named here, a width.
LIMIT_OF = {
    "num_hidden_layers": "layers",
    "first_k_dense_replace": "layers",
    "max_window_layers": "layers",
    "num_nextn_predict_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "heads",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "context",
    "n_positions": "context",
    "sliding_window": "context",
    "num_experts": "experts",
    "num_local_experts": "experts",
    "n_routed_experts": "experts",
    "n_shared_experts": "experts",
    "num_experts_per_tok": "experts",
}


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
        require_limit(LIMIT_OF.get(keys[0], "width"), value, f"{self.name}: {keys[0]}")
        return value

    def number(self, *keys: str, default: float) -> float:
        value = self.get(*keys)
        value = default if value is None else value
        require_finite(f"{self.name}: {keys[0]}", value)
        return float(value)

    def count(self, *keys: str) -> int:
        """How many there are of something that there may be none of."""
        value: int = 0 if (found := self.get(*keys)) is None else found
        require_size(f"{self.name}: {keys[0]}", value, least=0)
        require_limit(LIMIT_OF.get(keys[0], "width"), value, f"{self.name}: {keys[0]}")
        return value

    def sizes(self, length: int, *keys: str) -> tuple[int, ...]:
        """One for each of `length` layers: a list, or a number that all of them have."""
        value = self.get(*keys)
        if not isinstance(value, list | tuple):
            return (self.size(*keys),) * length
        if len(value) != length:
            raise SpecsimError(
                f"{self.name}: {keys[0]} must have an entry for each of {length} layers, "
                f"not {len(value)}"
            )
        for index, each in enumerate(value):
            require_size(f"{self.name}: {keys[0]}[{index}]", each)
            require_limit(LIMIT_OF.get(keys[0], "width"), each, f"{self.name}: {keys[0]}[{index}]")
        return tuple(value)

    def entries(self, key: str) -> list[Any] | None:
        value = self.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise SpecsimError(f"{self.name}: {key} must be a list, not {quoted(value)}")
        count = 0 if value is None else len(value)
        require_limit("layers", count, f"the number of entries of {self.name}: {key}")
        return None if value is None else list(value)

    def each(self, length: int, key: str) -> list[Any] | None:
        """One entry for each of `length` layers; modules for multi-token prediction may follow."""
        found = self.entries(key)
        if found is not None and len(found) < length:
            raise SpecsimError(
                f"{self.name}: {key} must have an entry for each of {length} layers, "
                f"not {len(found)}"
            )
        return None if found is None else found[:length]

    def inner(self, key: str) -> "Config":
        """A table in the config, to be read in the same way."""
        return Config(self.table(key), self.name)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if value not in (True, False):
            raise SpecsimError(f"{self.name}: {key} must be true or false, not {quoted(value)}")
        return bool(value)

    def table(self, key: str) -> Mapping[str, Any]:
        value = self.get(key)
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise SpecsimError(f"{self.name}: {key} must be a table, not {quoted(value)}")
        return value

    def refuse(self, key: str, *allowed: object) -> None:
        """SpecsimError where `key` is set to anything else."""
        if (value := self.values.get(key)) is not None and value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise SpecsimError(
                f"{self.name}: {key} {quoted(value)} is not supported; known: {known}"
            )

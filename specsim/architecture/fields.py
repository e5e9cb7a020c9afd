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

    def count(self, key: str) -> int:
        """How many there are of something that there may be none of."""
        value: int = 0 if self.values.get(key) is None else self.values[key]
        require_size(f"{self.name}: {key}", value, least=0)
        require_limit(LIMIT_OF.get(key, "width"), value, f"{self.name}: {key}")
        return value

    def entries(self, key: str) -> list[Any] | None:
        value = self.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise SpecsimError(f"{self.name}: {key} must be a list, not {quoted(value)}")
        count = 0 if value is None else len(value)
        require_limit("layers", count, f"the number of entries of {self.name}: {key}")
        return None if value is None else list(value)

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

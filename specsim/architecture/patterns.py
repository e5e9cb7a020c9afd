"""Which modules a list of patterns means, as checkpoints write it.

| pattern | matches |
|---|---|
| `lm_head`, `mlp.gate`, `model.layers.3` | a run of whole parts of the name, anywhere in it |
| `model.layers.0.self_attn*`, `*.attn.*` | the whole name, `*` for anything |
| `re:.*self_attn.*`, `re:…` | a regular expression, from the name's beginning |

The part of a name before the list of layers differs from tool to tool and does not count.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from specsim.architecture.storage import Module

FULL = (
    "", "model.", "language_model.", "model.language_model.", "language_model.model.",
    "backbone.", "transformer.",
)  # fmt: skip
_BEFORE = re.compile(r"^(?:(?:model|language_model|backbone|transformer|decoder|h|llm)\.)+(?=.)")
_INDEX = re.compile(r"layers\.(\d+)(?![\d])")
LONGEST = 2000  # characters of a pattern


class Patterns:
    """A list of patterns, sorted by the layer that each names, if any."""

    def __init__(self, patterns: Iterable[object], expressions: bool = False) -> None:
        """`expressions`: whether all are regular expressions, also without `re:`."""
        self.exact: dict[str, str] = {}  # a run of whole parts -> the pattern
        self.general: list[str] = []
        self.of_layer: dict[int, list[str]] = {}
        for pattern in patterns:
            if not isinstance(pattern, str) or not pattern or len(pattern) > LONGEST:
                continue
            if expressions and not pattern.startswith("re:"):
                pattern = f"re:{pattern}"
            if pattern.startswith("re:"):
                self.general.append(pattern)
            elif not ("*" in pattern or "?" in pattern):
                self.exact[_bare(pattern)] = pattern
            elif named := _INDEX.search(pattern):
                self.of_layer.setdefault(int(named[1]), []).append(pattern)
            else:
                self.general.append(pattern)
        self.lengths = {name.count(".") + 1 for name in self.exact}

    def match(self, module: Module) -> str | None:
        """A pattern that means the module; None if none does."""
        paths = module.paths
        for path in paths if self.exact else ():
            parts = path.split(".")
            for length in self.lengths:
                for start in range(len(parts) - length + 1):
                    run = ".".join(parts[start : start + length])
                    if run in self.exact:
                        return self.exact[run]
        near: list[str] = []
        if module.layer is not None:  # `layers.1*` means layers 10 to 19 too
            digits = str(module.layer)
            for length in range(1, len(digits) + 1):
                near += self.of_layer.get(int(digits[:length]), [])
        if not (near or self.general):
            return None
        bare = _lines(module.names, module.layer, ("", "model."))
        for pattern in (*near, *self.general):
            expression, text = _compiled(pattern), bare
            if pattern.startswith("re:"):
                text = _lines(module.names, module.layer, FULL)
            if expression is not None and expression.search(text):
                return pattern
        return None


@lru_cache(maxsize=512)
def _lines(names: tuple[str, ...], layer: int | None, before: tuple[str, ...]) -> str:
    """Every name of a module with everything that may stand before it, a line each."""
    place = "" if layer is None else f"layers.{layer}."
    return "\n".join(f"{start}{place}{name}" for start in before for name in names)


@lru_cache(maxsize=4096)
def _bare(pattern: str) -> str:
    """Without what stands before the list of layers."""
    return _BEFORE.sub("", pattern)


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """What a line must match, as a whole or, for a glob, in a run of whole parts."""
    if pattern.startswith("re:"):
        expression = f"^(?:{pattern[3:]})"
    else:
        glob = re.escape(_bare(pattern)).replace(r"\*", "*").replace(r"\?", ".")
        whole, parts = glob.replace("*", ".*"), glob.replace("*", "[^.\n]*")
        expression = rf"^{whole}$|(?:^|\.){parts}(?:\.|$)"
    try:
        return re.compile(expression, re.MULTILINE)
    except re.error:
        return None

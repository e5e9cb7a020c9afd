"""What sets each family of models apart: from a config to the fields in which it differs from the
Llama shape. What a hub's file leaves to transformers' defaults is in `DEFAULTS`.

One file for each group of relatives, each with its `FAMILIES` and `DEFAULTS`, by `model_type`.
"""

from specsim.architecture.families import (
    deepseek,
    gemma,
    linear,
    llama,
    mamba,
    openai,
    qwen,
    recurrent,
    sparse,
)
from specsim.architecture.families.common import Defaults, Reader

GROUPS = (llama, qwen, gemma, openai, deepseek, linear, mamba, recurrent, sparse)
FAMILIES: dict[str, Reader] = {}
DEFAULTS: dict[str, Defaults] = {}
for group in GROUPS:
    FAMILIES |= group.FAMILIES
    DEFAULTS |= group.DEFAULTS

"""What sets each family of models apart: from a config to the fields in which it differs from the
Llama shape. What a hub's file leaves to transformers' defaults is in `DEFAULTS`.

One file for each group of relatives, each with its `FAMILIES` and `DEFAULTS`, by `model_type`.
"""

from specsim.architecture.families import deepseek, gemma, llama, openai, qwen
from specsim.architecture.families.common import Reader
from specsim.architecture.fields import Fields

GROUPS = (llama, qwen, gemma, openai, deepseek)
FAMILIES: dict[str, Reader] = {}
DEFAULTS: dict[str, Fields] = {}
for group in GROUPS:
    FAMILIES |= group.FAMILIES
    DEFAULTS |= group.DEFAULTS

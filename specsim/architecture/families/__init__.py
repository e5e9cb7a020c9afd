"""What sets each family of models apart: from a config to the fields in which it differs from the
Llama shape.

One file for each group of relatives, each with its `FAMILIES`, by `model_type`: readers of a
config. A group may have `DEFAULTS`, what a hub's file of old leaves out; and `SPELLINGS`, which say
in the usual names what a family says in its own. What a config is silent about besides is what
transformers takes (catalog/class_defaults.toml).
"""

from types import ModuleType

from specsim.architecture.families import (
    cohere,
    deepseek,
    early,
    falcon,
    gemma,
    glm,
    ibm,
    layerwise,
    linear,
    llama,
    mamba,
    mixtures,
    nvidia,
    olmo,
    openai,
    qwen,
    recurrent,
    sparse,
)
from specsim.architecture.families.common import Defaults, Reader
from specsim.architecture.families.llama import from_params
from specsim.architecture.families.wrappers import TEXT_OF

__all__ = ["DEFAULTS", "FAMILIES", "SPELLINGS", "TEXT_OF", "from_params"]

GROUPS: tuple[ModuleType, ...] = (
    *(llama, qwen, gemma, openai, deepseek, olmo, cohere, glm, ibm, nvidia, mixtures),
    *(layerwise, falcon, early, linear, mamba, recurrent, sparse),
)
FAMILIES: dict[str, Reader] = {}
DEFAULTS: dict[str, Defaults] = {}
SPELLINGS: dict[str, Reader] = {}
for group in GROUPS:
    FAMILIES |= group.FAMILIES
    DEFAULTS |= getattr(group, "DEFAULTS", {})
    SPELLINGS |= getattr(group, "SPELLINGS", {})

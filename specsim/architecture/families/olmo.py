"""OLMo: norms without parameters, later norms over all heads together; dense and with experts."""

from specsim.architecture.families.common import (
    Reader,
    experts,
    llama_biases,
    norms_over_all_heads,
    window,
)
from specsim.architecture.fields import Config, Fields


def _olmo2(c: Config) -> Fields:
    return llama_biases(c) | {"each_layer": norms_over_all_heads(c)}


def _olmo3(c: Config) -> Fields:
    return _olmo2(c) | window(c, lambda index: (index + 1) % 4 > 0)


def _olmoe(c: Config) -> Fields:
    return _olmo2(c) | {"experts": experts(c, intermediate_size=c.size("intermediate_size"))}


FAMILIES: dict[str, Reader] = {
    "olmo": lambda c: llama_biases(c) | {"norm": "none"},
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "olmoe": _olmoe,
    "flex_olmo": _olmoe,
}

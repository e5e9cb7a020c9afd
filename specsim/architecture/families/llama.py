"""Llama and those of its shape: Mistral, Mixtral, Phi-3."""

from specsim.architecture.families.common import Reader, llama_biases, windows_everywhere
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts

DEFAULTS: dict[str, Fields] = {}


def _mixtral(c: Config) -> Fields:
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("intermediate_size"),
    )
    return windows_everywhere(c) | {"experts": experts}


FAMILIES: dict[str, Reader] = {
    "llama": llama_biases,
    "mistral": windows_everywhere,
    "mixtral": _mixtral,
    "phi3": windows_everywhere,
}

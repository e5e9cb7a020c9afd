"""Granite: the Llama shape with multipliers, which have no parameters, dense and with experts."""

from specsim.architecture.families.common import Reader, experts, llama_biases, window
from specsim.architecture.fields import Config, Fields


def _granite_experts(c: Config) -> Fields:
    """Experts as wide as `intermediate_size`, and one that every token visits."""
    width, shared = c.size("intermediate_size"), c.count("shared_intermediate_size")
    return llama_biases(c) | {
        "experts": experts(c, intermediate_size=width, shared_size=shared, dense_layers=())
    }


def _windows(c: Config) -> Fields:
    """Every fourth layer, from the first on, sees everything; all have sinks."""
    return window(c, lambda index: index % 4 > 0) | {"attention_sinks": True}


FAMILIES: dict[str, Reader] = {
    "granite": llama_biases,
    "granitemoe": _granite_experts,
    "granitemoeshared": _granite_experts,
    "granite_swa": lambda c: llama_biases(c) | _windows(c),
    "granitemoe_swa": lambda c: _granite_experts(c) | _windows(c),
}

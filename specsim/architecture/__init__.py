"""The shape of a model: what a `config.json` says, parsed once for cost model and decoder.

An `Architecture` holds sizes only, no weights. Everything that is counted elsewhere (bytes, FLOPs,
kernels) is counted from these numbers, and the decoder builds its layers from the same object, so
the two cannot disagree.
"""

from specsim.architecture.config import from_config, to_config
from specsim.architecture.files import model, read_config
from specsim.architecture.parts import Experts, LatentAttention, Llama3RopeScaling
from specsim.architecture.shape import Architecture

__all__ = [
    "Architecture",
    "Experts",
    "LatentAttention",
    "Llama3RopeScaling",
    "from_config",
    "model",
    "read_config",
    "to_config",
]

"""The shape of a model: what a `config.json` says, parsed once for cost model and decoder.

An `Architecture` holds sizes only, no weights. Everything that is counted elsewhere (bytes, FLOPs,
kernels) is counted from these numbers, and the decoder builds its layers from the same object, so
the two cannot disagree.
"""

from specsim.architecture.config import from_config, language_model, to_config
from specsim.architecture.fields import Config
from specsim.architecture.files import model
from specsim.architecture.heads import HEAD_METHODS, DraftHead, draft_head, head_from_config
from specsim.architecture.layers import halves_of, kinds_of, layers_of, mixers_of, mlps_of
from specsim.architecture.parts import (
    Attention,
    Compressed,
    Experts,
    Indexer,
    LatentAttention,
    Layer,
    Llama3RopeScaling,
    Mixer,
    Mlp,
    Recurrent,
)
from specsim.architecture.paths import read_config
from specsim.architecture.shape import Architecture, billions
from specsim.architecture.storage import Format, Storage
from specsim.architecture.tokenizers import (
    drafts_for,
    require_tokenizer_of,
    shares_tokenizer,
    tokenizer_of,
)

__all__ = [
    "HEAD_METHODS",
    "Architecture",
    "Attention",
    "Compressed",
    "Config",
    "DraftHead",
    "Experts",
    "Format",
    "Indexer",
    "LatentAttention",
    "Layer",
    "Llama3RopeScaling",
    "Mixer",
    "Mlp",
    "Recurrent",
    "Storage",
    "billions",
    "draft_head",
    "drafts_for",
    "from_config",
    "halves_of",
    "head_from_config",
    "kinds_of",
    "language_model",
    "layers_of",
    "mixers_of",
    "mlps_of",
    "model",
    "read_config",
    "require_tokenizer_of",
    "shares_tokenizer",
    "to_config",
    "tokenizer_of",
]

"""The target drafts for itself, its weights in fewer bits (QuantSpec, arXiv:2502.10424).

No second model is trained or found, and nearly every draft is accepted: the two laws differ by the
rounding alone. A draft costs as much as its bytes, a third to a half of a pass in 16 bits, and that
only where a kernel reads them as they are stored (see `quantization.kernel_note`).
"""

from reference.cache import KVCache
from reference.drafters.draft_model import DraftModel
from reference.quantization import quantized
from reference.sequences import Sequences
from reference.transformer import Transformer


class QuantisedSelf(DraftModel):
    """Drafts `gamma` tokens with a copy of the target in int8, int4 or int4-g32, computed in bf16.

    The copy is made at the first start, and held in memory beside the target. A target in bf16
    lends its keys and values: what the verify pass wrote is better than what the draft would have
    written, and there is no second cache, no prefill, and nothing to catch up. A target in another
    dtype cannot, and the draft keeps its own. Raises SpecsimError at the start if the target cannot
    be quantised.
    """

    def __init__(self, gamma: int, precision: str = "int4-g32"):
        self.gamma, self.precision = gamma, precision
        self.target: Transformer | None = None

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        if target is not self.target:
            self.model, self.target = quantized(target, self.precision), target
            self.cache = None  # it may be another target's
        if target.dtype == self.model.dtype:
            self.cache, self.rows = cache, 1
        else:
            self.rows = DraftModel.rows
            super().start(sequences, target, cache)

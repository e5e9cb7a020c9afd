"""The target drafts for itself, with its weights in fewer bits (QuantSpec, arXiv:2502.10424).

No second model is trained or searched for. Nearly every draft is accepted, because the two
distributions differ by rounding only. A draft takes time in proportion to its bytes, a third to a
half of a pass in 16 bits, if a kernel reads the bytes as they are stored (see
`quantization.kernel_note`).
"""

from reference.cache import KVCache
from reference.drafters.draft_model import DraftModel
from reference.quantization import quantized
from reference.sequences import Sequences
from reference.transformer import Transformer


class QuantisedSelf(DraftModel):
    """Drafts `gamma` tokens with a copy of the target in int8, int4 or int4-g32, computed in bf16.

    The copy is made at the first start and stays in memory next to the target. If the target is in
    bf16, the copy uses its keys and values: there is no second cache, no prefill, and nothing to
    catch up. For a target in another dtype the copy has its own cache. Raises SpecsimError at the
    start if the target cannot be quantised.
    """

    def __init__(self, gamma: int, precision: str = "int4-g32"):
        self.gamma, self.precision = gamma, precision
        self.target: Transformer | None = None

    def start(self, sequences: Sequences, target: Transformer, cache: KVCache) -> None:
        if target is not self.target:
            self.model, self.target = quantized(target, self.precision), target
            self.cache = None  # it may belong to another target
        if target.dtype == self.model.dtype:
            self.cache, self.rows = cache, 1
        else:
            self.rows = DraftModel.rows
            super().start(sequences, target, cache)

    def release(self) -> None:
        if self.rows == 1:
            self.cache = None  # the target's

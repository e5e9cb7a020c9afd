"""The decoder's attention over caches that no cache of the processor holds."""

import torch
from torch import Tensor

from reference.attention import attend, attention_bias
from reference.lab.dialled import fill_normal
from reference.lab.probes.timing import seconds_of
from reference.quantization import has_kernel
from specsim.evidence.calibration import AttentionProbe

# An even number of key-value heads, which are divided among the processor's cores.
HEADS, KV_HEADS, SIZE = 12, 4, 64
CONTEXTS = (384, 1536, 3072)
ROWS = (1, 3, 6, 10)
ROWS_OF_DRAFTS = (1, 2)
FORMAT = "int8"  # of drafts, whose passes are timed in `stages`
READ_BYTES = 6.4e7  # of keys and values that are read in turn, more than a last cache holds


class Attention:
    """Layers of one context, each with keys and values of its own, read by `rows` queries.

    As in a pass, the mask is made once for all layers; its time is divided among them.
    """

    def __init__(
        self, context: int, rows: int, caches: list[tuple[Tensor, Tensor]], format: str = ""
    ):
        self.context, self.rows, self.caches, self.format = context, rows, caches, format
        (keys, values), *_ = caches
        device, self.device, self.dtype = keys.device, keys.device, keys.dtype
        self.kv_bytes = keys.nbytes + values.nbytes
        self.queries = torch.randn(1, rows, HEADS, SIZE, device=device, dtype=self.dtype)
        self.positions = torch.arange(context - rows, context, device=device)[None]

    def run(self) -> None:
        """All layers, as in a pass."""
        bias = attention_bias(self.positions, self.context, HEADS // KV_HEADS, self.dtype)
        for keys, values in self.caches:
            attend(self.queries, keys, values, bias)

    def sample(self) -> float:
        """Seconds of one layer."""
        return seconds_of(self.run, self.device) / len(self.caches)

    def probe(self, seconds: float) -> AttentionProbe:
        """The probe of these seconds."""
        flops = 4 * self.rows * self.context * HEADS * SIZE
        return AttentionProbe(self.context, self.rows, self.kv_bytes, flops, seconds, self.format)


def attentions(device: torch.device, dtype: torch.dtype) -> list[Attention]:
    """All contexts and rows; those of one context share their caches.

    Weights in FORMAT have their cache in bf16. Where that is not `dtype`, it is timed too.
    """
    found = of_caches(device, dtype, ROWS)
    if dtype != torch.bfloat16 and has_kernel(device, FORMAT):
        found += of_caches(device, torch.bfloat16, ROWS_OF_DRAFTS, FORMAT)
    return found


def of_caches(
    device: torch.device, dtype: torch.dtype, rows_of: tuple[int, ...], format: str = ""
) -> list[Attention]:
    """The same in one dtype, with so many rows."""
    found = []
    for context in CONTEXTS:
        nbytes = 2 * context * KV_HEADS * SIZE * dtype.itemsize
        shape = (-(-int(READ_BYTES) // nbytes), 1, context, KV_HEADS, SIZE)
        keys, values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        for each in (keys, values):
            fill_normal(each, 1.0)
        caches = list(zip(keys, values, strict=True))
        found += [Attention(context, rows, caches, format) for rows in rows_of]
    return found

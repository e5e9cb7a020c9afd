"""Weights laid out for the CPU's matrix kernels once, instead of at every product.

oneDNN multiplies fastest from a blocked layout. Given an ordinary weight it picks a slower kernel,
or converts the weight on every call; a packed weight is read as it is. On the two-core CPU of
docs/demo.md this halves the time of the bundled target's products in bf16, and makes it independent
of the number of rows. On other devices nothing is done.

A packed product begins 10 to 20 us later than an ordinary one. In fp32, whose ordinary kernel is
good, a small matrix therefore stays as it is: of 0.3 MB, in the cache, an ordinary product of 1 to
40 rows takes 0.5 to 1.1 of the packed one's time; of 0.8 MB 0.7 to 1.8, and 1.2 to 3.1 when it is
read from memory; of 1.6 MB and more 1.5 to 5.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.experts import LinearStack, SeparateLinears
from reference.loops import traced

PACKED_FROM = 1 << 19  # bytes of a matrix in fp32
# For how many rows oneDNN is to choose the layout. For one row of fp32 it chooses none: that is
# 10 % faster in some products of one row, and takes 1.3 to 2.3 times as long from two rows on.
LAID_OUT_FOR = 8


class PackedLinear(nn.Module):
    """A linear layer whose weight has the layout that is read fastest, oneDNN's blocked one or its
    own; for inference only.

    A compiler cannot read a blocked layout. It gets the `plain` weight, which it packs itself, or
    its `lanes` for the products that it writes itself (see `loops`).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight, reorder = weight.detach().contiguous(), torch.ops.mkldnn._reorder_linear_weight
        self.packed = reorder(weight, LAID_OUT_FOR) if gains(weight) else weight
        self.bias = None if bias is None else bias.detach()
        self.register_buffer("plain", None, persistent=False)
        self.register_buffer("lanes", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and (made := traced(self, x)) is not None:
            return made
        if not self.packed.is_mkldnn:
            return F.linear(x, self.packed, self.bias)
        multiply = torch.ops.mkldnn._linear_pointwise.default  # `.default`: no overload resolution
        return multiply(x, self.packed, self.bias, "none", [], "")


def can_pack(weight: Tensor) -> bool:
    """Whether this torch and this CPU have packed kernels for the weight's dtype."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


def gains(weight: Tensor) -> bool:
    """Whether such a weight is multiplied faster from oneDNN's layout."""
    return weight.dtype != torch.float32 or weight.nbytes >= PACKED_FROM


@torch.inference_mode()
def pack(model: nn.Module) -> nn.Module:
    """Replace the linear layers of `model` by packed ones where that is possible, and return it."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear) and can_pack(child.weight):
            setattr(model, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, LinearStack) and can_pack(child.weight):
            setattr(model, name, SeparateLinears(map(PackedLinear, child.weight)))
        else:
            pack(child)
    return model

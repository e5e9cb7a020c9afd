"""The functions between the matrix products of a layer: RMSNorm and SwiGLU."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., C) over the root of its mean square, times `weight` (C,) (Zhang and Sennrich,
    arXiv:1910.07467).

    On a CPU, torch's RMSNorm is a dozen kernels and its LayerNorm is one. LayerNorm of (x, -x) is
    the same function: the mean is 0 and the variance is the mean square. A compiler makes one
    kernel of either. With gradients, torch's own is used, which stores less for the backward pass.
    """
    size = x.shape[-1]
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.rms_norm(x, (size,), weight, eps)
    mirrored = F.layer_norm(torch.cat((x, -x), dim=-1), (2 * size,), eps=eps)
    return mirrored[..., :size] * weight


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, (..., I), of the two halves of `gate_up` (..., 2I) (Shazeer,
    arXiv:2002.05202)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up

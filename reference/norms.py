"""RMSNorm, in as few kernels as the device has for it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., C) over the root of its mean square, times `weight` (C,) (Zhang and Sennrich,
    arXiv:1910.07467).

    On a CPU, torch's RMSNorm is a dozen kernels and its LayerNorm one, which does the same for
    (x, -x): the mean is 0, the variance the mean square. A compiler makes one kernel of either.
    Where gradients are wanted it is torch's own, so that nothing is kept for them twice.
    """
    size = x.shape[-1]
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.rms_norm(x, (size,), weight, eps)
    mirrored = F.layer_norm(torch.cat((x, -x), dim=-1), (2 * size,), eps=eps)
    return mirrored[..., :size] * weight

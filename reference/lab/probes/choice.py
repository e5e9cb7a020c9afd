"""The dtype in which this machine decodes faster."""

import torch

from reference.lab.probes.products import ROWS, ProductStack
from reference.lab.probes.timing import round_robin

# A short text, in passes: a prompt, then cycles of one row and of several.
TEXT = {1: 16, ROWS[-1]: 16, 96: 1}  # rows -> passes


@torch.inference_mode()
def fastest_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """bf16 or fp32, whichever decodes a short text faster on this machine, and the reason in words.

    A CPU without units for bf16 may read its weights faster than those of fp32, and still multiply
    several rows, or a prompt, many times slower.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrices = ProductStack(448, 4, device, dtype).matrices
        actions = []
        for rows in TEXT:
            inputs = [
                torch.randn(rows, f.in_features, device=device, dtype=dtype) for f in matrices
            ]
            actions.append(
                lambda s=matrices, x=inputs: [f(each) for f, each in zip(s, x, strict=True)]
            )
        each_s = round_robin(actions, 5, device)
        seconds[dtype] = sum(n * s for n, s in zip(TEXT.values(), each_s, strict=True))
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    if ratio > 1.1:
        return torch.bfloat16, f"bf16, which decodes {ratio:.1f}x as fast as fp32 here"
    return torch.float32, f"fp32, because bf16 is only {ratio:.1f}x as fast here"

"""Weight-only int8 and int4: weights stored in fewer bits, products in bf16.

int8 keeps a scale per output channel; int4 a scale and a zero per group of 32 or 128 weights, both
in bf16, so a weight takes 1, 0.625 or 0.531 bytes: the formats of `specsim.operators.precision`.
Decoding waits for the bytes of the weights, so fewer bytes take less time, but only where a kernel
reads them as they are stored:

| device | int8 | int4 |
|---|---|---|
| CPU | torch's `_weight_int8pack_mm` | torch's `_weight_int4pack_mm_for_cpu` |
| CUDA from compute capability 8.0 | no fast one in torch | torch's `_weight_int4pack_mm` |
| others | no | no |

Without a kernel the weights are converted to bf16 for every product: that saves memory, not time.
The CPU's kernels take time for every row. They are faster than bf16 at one to three rows, as in
drafting, and slower at the rows of a verification; for many rows int8 weights are converted, and
compiled stages multiply in loops of their own (see `loops`). On the two-core CPU of docs/demo.md a
matrix of 12288 x 4096, read from memory, takes 5.1 ms in bf16, 2.8 in int8 and 1.5 in int4-g32 with
one row; with five rows 4.2, 5.9 and 5.1. Embedding, norms and routers stay in bf16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.experts import LinearStack, SeparateLinears
from reference.layers import model_of
from reference.loops import traced
from reference.packing import PackedLinear, can_pack
from reference.transformer import Transformer
from specsim.checks import SpecsimError

GROUPS = {"int8": None, "int4": 128, "int4-g32": 32}  # weights that share a scale; None: a channel
# Rows from which an int8 weight is converted before a product in bf16, where the CPU has units for
# bf16: the kernel's time grows with the rows, by 2.5 ms a row in a 160M model. With 8 rows
# converting takes 1.1 times as long, with 16 0.8, with 40 half as long.
CONVERTED_FROM = 10
KEPT = ("router", "shared_gate")  # few bytes, and an error would choose another expert


def has_kernel(device: torch.device, precision: str) -> bool:
    """Whether torch has a kernel that reads the stored bytes on this device."""
    if device.type == "cuda":
        return precision != "int8" and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu"


def kernel_note(device: torch.device, precision: str) -> str:
    """What a quantised model gains on this device, in words."""
    if has_kernel(device, precision):
        return f"{precision} weights on {device.type}: read as they are stored, multiplied in bf16"
    return (
        f"{precision} weights on {device.type}: torch has no fast kernel for them, so they are "
        "converted to bf16 for every product; this saves memory, not time"
    )


@torch.inference_mode()
def quantized(model: Transformer, precision: str) -> Transformer:
    """A copy of `model` with its linear layers and head in `precision`, and the rest in bf16.

    Raises SpecsimError for an unknown precision, for a model that is quantised or split over
    devices already, and for layers whose inputs cannot be divided into groups.
    """
    if precision not in GROUPS:
        raise SpecsimError(f"unknown precision {precision!r}; known: {', '.join(GROUPS)}")
    if model.precision in GROUPS:
        raise SpecsimError(f"{model.architecture.name} is quantised already ({model.precision})")
    if model.architecture != model.whole:
        raise SpecsimError(
            f"{model.whole.name} is split over devices, and a part of a model is not quantised; "
            "leave out --tensor-parallel"
        )
    with torch.device("meta"):  # everything is replaced
        copy = model_of(model.architecture, model.details)
    copy.stop_ids, copy.precision, copy.notes = model.stop_ids, precision, model.notes
    copy.rotary = model.rotary.bfloat16()
    for path, old in list(copy.named_modules()):
        name, held = path.rpartition(".")[2], model.get_submodule(path)
        if isinstance(old, nn.Linear):
            weight, bias = dense_weight(held), None if held.bias is None else held.bias.bfloat16()
            new = (
                plain_linear(weight.bfloat16(), bias)
                if name in KEPT
                else QuantizedLinear(weight, precision, bias, path)
            )
            copy.set_submodule(path, new)
        elif isinstance(old, LinearStack):
            weights = map(dense_weight, held) if isinstance(held, SeparateLinears) else held.weight
            each = (QuantizedLinear(weight, precision, None, path) for weight in weights)
            copy.set_submodule(path, SeparateLinears(each))
        else:
            for key, _ in list(old.named_parameters(recurse=False)):
                value = getattr(held, key).detach().bfloat16()
                setattr(old, key, nn.Parameter(value, requires_grad=False))
    return copy.eval()


def dense_weight(module: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer, packed or not."""
    return module.packed.to_dense() if isinstance(module, PackedLinear) else module.weight.detach()


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ordinary linear layer with this weight (out, in)."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


class QuantizedLinear(nn.Module):
    """A linear layer whose weight (out, in) is stored in int8 or int4; for inference, in bf16."""

    def __init__(self, weight: Tensor, precision: str, bias: Tensor | None = None, name: str = ""):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.group, self.bias = GROUPS[precision], bias
        if self.group and self.in_features % self.group:
            raise SpecsimError(
                f"{precision} shares a scale among {self.group} inputs; the {self.in_features} of "
                f"{name or 'this layer'} cannot be divided by that; int8 has no groups"
            )
        device = weight.device
        kernels = has_kernel(device, precision) and self.in_features % 16 == 0
        self.kernel = device.type if kernels else None
        self.register_buffer("lanes", None, persistent=False)
        if self.group is None:
            self.stored, self.scales = to_int8(weight)
            return
        codes, scales, zeros = to_int4(weight, self.group)
        self.scales = torch.stack((scales, zeros), dim=-1)  # (out, groups, 2)
        if self.kernel is None:
            self.stored = codes[:, ::2] << 4 | codes[:, 1::2]  # (out, in / 2), two per byte
            return
        # the kernels need a multiple of 16 rows, and the scales of a group of inputs together
        missing = -self.out_features % 16
        codes = F.pad(codes, (0, 0, 0, missing))
        self.scales = F.pad(self.scales, (0, 0, 0, 0, 0, missing)).transpose(0, 1).contiguous()
        if self.kernel == "cpu":
            self.stored = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        else:
            tiles = next(tiles for tiles in (8, 4, 2) if self.in_features % (16 * tiles) == 0)
            pairs = codes[:, ::2] << 4 | codes[:, 1::2]
            self.stored = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored weight and its scales, without the bias."""
        return self.stored.nbytes + self.scales.nbytes

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and (made := traced(self, x)) is not None:
            return made
        if self.kernel is None:
            return F.linear(x, self.dequantized().to(x.dtype), self.bias)
        rows, stored = x.flatten(0, -2), self.stored
        if self.group is None and len(rows) >= CONVERTED_FROM and can_pack(self.scales):
            y = F.linear(rows, stored.to(rows.dtype)) * self.scales
        elif self.group is None:
            y = torch.ops.aten._weight_int8pack_mm(rows, stored, self.scales)
        elif self.kernel == "cpu":
            multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
            y = multiply(rows, stored, self.group, self.scales)
        else:
            y = torch.ops.aten._weight_int4pack_mm(rows, stored, self.group, self.scales)
        y = y[:, : self.out_features].view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def dequantized(self) -> Tensor:
        """The weight (out, in) in bf16, for a layer without a kernel."""
        if self.group is None:
            return self.stored * self.scales[:, None]
        codes = torch.stack((self.stored >> 4, self.stored & 15), dim=-1).flatten(1)
        return from_int4(codes, *self.scales.unbind(-1))


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (out, in) from -127 to 127 and a scale per output channel (out,), in bf16."""
    weight = weight.float()
    scales = (weight.abs().amax(1) / 127).clamp(min=1e-30).bfloat16()
    codes = (weight / scales.float()[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def to_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (out, in) from 0 to 15, and for every group a scale and a zero (out, groups) in bf16.

    A code c means (c - 8) * scale + zero, the convention of torch's kernels.
    """
    groups = weight.float().view(len(weight), -1, group)
    low, high = groups.aminmax(dim=-1)
    scales = ((high - low) / 15).clamp(min=1e-30).bfloat16()
    zeros = (low + 8 * scales.float()).bfloat16()
    codes = (groups - zeros.float()[..., None]) / scales.float()[..., None]
    codes = (codes.round() + 8).clamp(0, 15)
    return codes.view(weight.shape).to(torch.uint8), scales, zeros


def from_int4(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The weights (out, in) in bf16 that codes, scales and zeros of `to_int4` stand for."""
    groups = codes.view(*scales.shape, -1).to(scales.dtype) - 8
    return (groups * scales[..., None] + zeros[..., None]).view(codes.shape)

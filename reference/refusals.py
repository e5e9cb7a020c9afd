"""What a checkpoint's own files say before a weight is read: that it is no model the decoder can
run, each case in a sentence with the reason; and how 8-bit floats become numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from specsim.architecture import Architecture
from specsim.architecture.heads import SPOKEN, kind_of
from specsim.checks import SpecsimError

HEADS = ("eagle", "eagle-3", "p-eagle", "dflash", "medusa")
FLOAT8 = ("fp8", "compressed-tensors")  # methods of which 8-bit floats are read
SPELLED = {
    "gptq": "GPTQ", "awq": "AWQ", "mlx": "MLX", "bitsandbytes": "bitsandbytes", "hqq": "HQQ",
    "mxfp4": "MXFP4", "modelopt": "ModelOpt", "torchao": "torchao", "fp8": "FP8",
    "compressed-tensors": "compressed-tensors", "fbgemm-fp8": "FBGEMM FP8",
}  # fmt: skip


def require_weights_to_run(folder: Path, config: Mapping[str, Any], shape: Architecture) -> None:
    """SpecsimError for a draft head, and for a quantised checkpoint other than 8-bit floats."""
    storage = shape.stored
    if storage is None or storage.source == "dtype" or reads_float8(config, shape):
        return
    name = SPELLED.get(storage.method, storage.method)
    bits = f", {storage.bits_of('mlp'):g} bits a weight" if storage.formats else ""
    raise SpecsimError(
        f"{folder} is quantised by {name} ({storage.source} in config.json{bits}): the decoder has "
        "no kernels for its codes; load the checkpoint in 16 bits that it was made from, and "
        "quantise that with precision int8 or int4. Its cost can be predicted as it is"
    )


def require_no_head(folder: Path, config: Mapping[str, Any]) -> None:
    """SpecsimError for the folder of a trained draft head, which is no model by itself."""
    if (kind := kind_of(config, str(folder))) in HEADS:
        assert kind is not None
        raise SpecsimError(
            f"{folder} holds {SPOKEN[kind]} weights, a draft head that needs its target's hidden "
            "states: it is no model to decode with. Its cost can be predicted; the decoder runs "
            "heads that it has trained (python -m reference train --part head)"
        )


def reads_float8(config: Mapping[str, Any], shape: Architecture) -> bool:
    """Whether all quantised weights of a checkpoint are 8-bit floats with their scales."""
    storage = shape.stored
    if storage is None or storage.method not in FLOAT8 or storage.refusal:
        return False
    return all(bits == 16 or storage.math_of(kind) == "fp8" for kind, bits, _ in storage.formats)


def block_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale, where a checkpoint has one for each block."""
    found = config.get("quantization_config") or {}
    size = found.get("weight_block_size") if isinstance(found, Mapping) else None
    if isinstance(size, list | tuple) and len(size) == 2 and all(
        isinstance(each, int) and each > 0 for each in size
    ):  # fmt: skip
        return size[0], size[1]
    return 128, 128


def from_float8(weight: Tensor, scale: Tensor, block: tuple[int, int], name: str) -> Tensor:
    """The weight (out, in) in 32 bits, from 8-bit floats and a scale for all, for each row, or for
    each block. The scales multiply, also where a file calls them inverse."""
    weight, scale = weight.float(), scale.float()
    if scale.numel() == 1:
        return weight * scale.flatten()
    if weight.ndim != 2:
        raise SpecsimError(
            f"{name} has shape {tuple(weight.shape)}: 8-bit floats are read matrix by matrix"
        )
    rows, columns = weight.shape
    if scale.numel() == rows:
        return weight * scale.view(rows, 1)
    if scale.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise SpecsimError(
            f"{name} has shape {tuple(weight.shape)} and scales of {tuple(scale.shape)}, which is "
            f"neither one, nor one a row, nor one for each {block[0]} x {block[1]}"
        )
    each = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)
    return weight * each[:, :columns]

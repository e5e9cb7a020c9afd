"""Conversion between the weights of a Hugging Face checkpoint and ours.

Ours are fused: projections that read the same input are one matrix, and the experts of a layer are
one tensor. A checkpoint is read weight by weight, so loading needs memory for the model and one
weight.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from specsim.architecture import Architecture, read_config
from specsim.checks import SpecsimError

# our fused weights, and the weights of a Hugging Face layer that they are made from, in order;
# {e} is the number of the expert
LAYER = {
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "output.weight": ("self_attn.o_proj.weight",),
    "down.weight": ("mlp.down_proj.weight",),
    "attention_norm": ("input_layernorm.weight",),
    "mlp_norm": ("post_attention_layernorm.weight",),
    "query_norm": ("self_attn.q_norm.weight",),
    "key_norm": ("self_attn.k_norm.weight",),
    "experts.router.weight": ("mlp.gate.weight",),
    "experts.gate_up.weight": (
        "mlp.experts.{e}.gate_proj.weight",
        "mlp.experts.{e}.up_proj.weight",
    ),
    "experts.down.weight": ("mlp.experts.{e}.down_proj.weight",),
    "experts.shared_gate_up.weight": (
        "mlp.shared_expert.gate_proj.weight",
        "mlp.shared_expert.up_proj.weight",
    ),
    "experts.shared_down.weight": ("mlp.shared_expert.down_proj.weight",),
    "experts.shared_gate.weight": ("mlp.shared_expert_gate.weight",),
}
MIXTRAL = {
    "experts.router.weight": ("block_sparse_moe.gate.weight",),
    "experts.gate_up.weight": (
        "block_sparse_moe.experts.{e}.w1.weight",
        "block_sparse_moe.experts.{e}.w3.weight",
    ),
    "experts.down.weight": ("block_sparse_moe.experts.{e}.w2.weight",),
}
OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


class Safetensors(Mapping[str, Tensor]):
    """Every tensor of a checkpoint by name, from one file or from the shards that an index lists.
    A tensor is read when it is asked for.

    Raises SpecsimError for a file that is missing, truncated or in another format.
    """

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        names = {"model.safetensors"}
        if index.exists():
            weight_map = read_config(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise SpecsimError(f"{index} must hold a table weight_map: tensor -> file")
            names = set(map(str, weight_map.values()))
        self._files = {}
        for name in sorted(names):
            file = folder / name
            if not file.is_file():
                raise SpecsimError(f"no such file: {file}")
            try:
                opened = safe_open(file, framework="pt")
            except (SafetensorError, OSError, ValueError) as error:
                raise SpecsimError(
                    f"{file} is truncated or not a safetensors file: {error}"
                ) from None
            self._files |= dict.fromkeys(opened.keys(), opened)

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def sources(name: str, shape: Architecture, mixtral: bool) -> list[list[str]]:
    """The checkpoint's weights that our weight `name` is made from: those in one list are
    concatenated, and the lists are stacked."""
    if name == "head.weight" and shape.tied_head:
        name = "embedding.weight"
    if name in OUTER:
        return [[OUTER[name]]]
    _, layer, inner = name.split(".", 2)
    parts = (MIXTRAL if mixtral else {}).get(inner, LAYER[inner])
    copies = range(shape.experts.count) if shape.experts and "{e}" in parts[0] else range(1)
    return [[f"model.layers.{layer}.{part.format(e=e)}" for part in parts] for e in copies]


def our_weights(
    theirs: Mapping[str, Tensor], model: nn.Module, folder: Path, stored_vocab: int
) -> Iterator[tuple[str, Tensor]]:
    """Our weights made from a checkpoint's, with every shape and dtype checked.

    The checkpoint has `stored_vocab` tokens; if the model has fewer, the rows after them are left
    out. Raises SpecsimError for a weight that is missing, left over, or of a wrong shape or dtype.
    """
    shape = model.architecture
    mixtral = any("block_sparse_moe" in name for name in theirs)
    unused = {name for name in theirs if not name.endswith("rotary_emb.inv_freq")}
    unused.discard("lm_head.weight")
    for name, parameter in model.state_dict().items():
        groups = sources(name, shape, mixtral)
        used = [source for group in groups for source in group]
        if missing := [source for source in used if source not in theirs]:
            raise SpecsimError(f"{folder}: the checkpoint lacks {missing[0]}")
        try:
            made = [torch.cat([theirs[source] for source in group]) for group in groups]
            weight = torch.stack(made) if parameter.ndim == 3 else made[0]
        except RuntimeError as error:  # parts that do not fit together
            raise SpecsimError(f"{folder}: {used[0]} and its like: {error}") from None
        if name in ("embedding.weight", "head.weight") and len(weight) == stored_vocab:
            weight = weight[: len(parameter)]
        if weight.shape != parameter.shape:
            raise SpecsimError(
                f"{folder}: {' + '.join(used[:3])} has shape {tuple(weight.shape)}; config.json "
                f"says {tuple(parameter.shape)}"
            )
        if not weight.is_floating_point():
            raise SpecsimError(
                f"{folder}: {used[0]} holds {weight.dtype}, not floating-point numbers: the "
                "decoder quantises by itself (precision='int8'), from a checkpoint that is not"
            )
        unused.difference_update(used)
        yield name, weight
    if unused:
        raise SpecsimError(
            f"{folder}: {min(unused)} has no place in this model; its results would be wrong"
        )


def their_weights(model: nn.Module, model_type: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of `model` under the names of a Hugging Face checkpoint, no longer fused."""
    shape, tensors = model.architecture, {}
    qkv = [shape.query_size, shape.kv_size, shape.kv_size]
    for name, weight in model.state_dict().items():
        if name == "head.weight" and shape.tied_head:
            continue
        weight = weight.detach().to("cpu", dtype)
        groups = sources(name, shape, model_type == "mixtral")
        for group, matrix in zip(groups, weight if weight.ndim == 3 else [weight], strict=True):
            pieces = matrix.split(qkv) if ".qkv." in name else matrix.chunk(len(group))
            for source, piece in zip(group, pieces, strict=True):
                tensors[source] = piece.contiguous()
    return tensors

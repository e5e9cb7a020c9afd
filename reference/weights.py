"""Conversion between the weights of a Hugging Face checkpoint and ours.

Ours are fused: projections that read the same input are one matrix, and the experts of a layer are
one tensor. A checkpoint is read weight by weight, so loading needs memory for the model and one
weight.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reference.details import DeltaSizes
from reference.refusals import from_float8
from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.checks.files import read_json, writing

# our fused weights, and the weights of a Hugging Face layer that they are made from, in order;
# {e} is the number of the expert
LAYER = {
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "output.weight": ("self_attn.o_proj.weight",),
    "output.bias": ("self_attn.o_proj.bias",),
    "gate_up.bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "down.weight": ("mlp.down_proj.weight",),
    "down.bias": ("mlp.down_proj.bias",),
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
STACKS = {
    "experts.gate_up.weight": ("mlp.experts.gate_up_proj",),
    "experts.down.weight": ("mlp.experts.down_proj",),
}
OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


FLOAT8 = "F8_E4M3"
SCALES = ("_scale_inv", "_scale")  # after the name of a weight in 8-bit floats
# where a multimodal model keeps its language model, and what that is called by itself
TEXT = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
}
FLOATS = ("F64", "F32", "F16", "BF16")  # of a safetensors header; other numbers are codes


class Safetensors(Mapping[str, Tensor]):
    """Every tensor of a checkpoint by name, from one file or from the shards that an index lists.
    A tensor is read when it is asked for; its shape and dtype are known before.

    Raises SpecsimError for a file that is missing, truncated, in another format or outside the
    folder, and for an index that does not list what the shards hold.
    """

    def __init__(self, folder: Path, block: tuple[int, int] = (128, 128)):
        self.folder, self.block = folder, block
        index = folder / "model.safetensors.index.json"
        listed = shards_of(index) if index.exists() else {}
        self._files: dict[str, Any] = {}
        for name in sorted(set(listed.values())) or ["model.safetensors"]:
            opened = opened_file(folder / name)
            for tensor in tuple(opened.keys()):
                if listed and listed.get(tensor) != name:
                    raise SpecsimError(
                        f"{folder / name} holds {in_one_line(tensor)}; {index.name} does not say so"
                    )
                self._files[tensor] = opened
        for tensor, name in listed.items():
            if tensor not in self._files:
                raise SpecsimError(
                    f"{folder / name} lacks {in_one_line(tensor)}, which {index.name} lists"
                )

        self._names = {tensor: tensor for tensor in self._files}  # ours -> the file's
        self.scales = self._scales()

    def __getitem__(self, name: str) -> Tensor:
        stored = self._names[name]
        weight = self._files[stored].get_tensor(stored)
        if name not in self.scales:
            return weight
        scale = self.scales[name]
        return from_float8(weight, self._files[scale].get_tensor(scale), self.block, name)

    def _scales(self) -> dict[str, str]:
        """The name of the scale of every weight in 8-bit floats that has one; scales are no longer
        weights of their own."""
        found = {}
        for name in tuple(self._names):
            base = next((name.removesuffix(end) for end in SCALES if name.endswith(end)), None)
            if base in self._files and self.dtype(base) == FLOAT8:
                found[base] = name
                del self._names[name]
        for name in tuple(self._names):  # scales of inputs: products are not quantised here
            matrix, _, end = name.rpartition(".")
            if end in ("input_scale", "activation_scale") and f"{matrix}.weight" in found:
                del self._names[name]
        return found

    def keep_text(self) -> None:
        """Keep the language model's tensors of a multimodal checkpoint alone, under the names that
        they have in a language model's own."""
        if not any(name.startswith((*TEXT,)[:4]) for name in self._names):
            return
        kept: dict[str, str] = {}
        for name, stored in self._names.items():
            for prefix, plain in TEXT.items():
                if name.startswith(prefix):
                    kept[plain + name.removeprefix(prefix)] = stored
                    break
        self._names = kept
        renamed = {stored: name for name, stored in kept.items()}
        self.scales = {renamed[n]: scale for n, scale in self.scales.items() if n in renamed}

    def dtype(self, name: str) -> str:
        """The dtype of a tensor, as its header calls it."""
        stored = self._names.get(name, name)
        return self._files[stored].get_slice(stored).get_dtype()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def require(self, name: str, shape: tuple[int, ...], wants: str) -> None:
        """SpecsimError unless the tensor `name` is there, has this shape and is not in codes. What
        asks for the shape is called `wants`."""
        if name not in self:
            raise SpecsimError(f"{self.folder}: the checkpoint lacks {name}")
        stored = self._names[name]
        found, dtype = tuple(self._files[stored].get_slice(stored).get_shape()), self.dtype(name)
        if found != shape:
            raise SpecsimError(f"{self.folder}: {name} has shape {found}; {wants} {shape}")
        if dtype not in FLOATS and name not in self.scales:
            raise SpecsimError(
                f"{self.folder}: {name} holds {dtype}, not floating-point numbers of 16 bits or "
                "more: the decoder quantises by itself (precision='int8'), from a checkpoint that "
                "is not quantised"
            )

    def joined(self, groups: list[list[str]]) -> Tensor:
        """The tensors of each group concatenated, and the groups, if there are several, stacked."""
        made = [torch.cat([self[name] for name in group]) for group in groups]
        return torch.stack(made) if made[1:] else made[0]


def shards_of(index: Path) -> dict[str, str]:
    """The file of every tensor that an index lists; SpecsimError for a name that leaves the folder.
    The file itself may be a link, as in the hub's cache."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SpecsimError(f"{index} must hold a table weight_map: tensor -> file")
    for tensor, name in weight_map.items():
        plain = isinstance(name, str) and PurePath(name).name == PureWindowsPath(name).name == name
        if not plain or name in ("", "..") or "\0" in name:
            raise SpecsimError(
                f"{index} must name a file of its own folder for {in_one_line(tensor)}, not "
                f"{name!r:.100}"
            )
    return weight_map


def opened_file(file: Path) -> Any:
    """A safetensors file with its header read; SpecsimError if it is not one."""
    if not file.is_file():
        raise SpecsimError(f"no such file: {file}")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise SpecsimError(
            f"{file} is truncated or not a safetensors file: {in_one_line(error)}"
        ) from None


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, whole or not at all; SpecsimError if it cannot be written."""
    with writing(file) as new:
        try:
            save_file(dict(tensors), new, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, too
            raise SpecsimError(f"cannot write {file}: {in_one_line(error)}") from None


def in_one_line(said: object) -> str:
    """What an error of another library says, or a name in a file, in one line of at most 300
    characters that every terminal prints."""
    line = " ".join(str(said).split())[:300] or type(said).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def sources(
    name: str, shape: Architecture, names: Mapping[str, tuple[str, ...]]
) -> list[list[str]]:
    """The checkpoint's weights that our weight `name` is made from: those in one list are
    concatenated, and the lists are stacked. `names` are those that differ from Llama's."""
    name = name.replace("head.linear.", "head.")
    if name == "head.weight" and shape.tied_head:
        name = "embedding.weight"
    if name in OUTER:
        return [[OUTER[name]]]
    _, layer, inner = name.split(".", 2)
    parts = names.get(inner) or LAYER[inner]
    copies = range(shape.experts.count) if shape.experts and "{e}" in parts[0] else range(1)
    return [[f"model.layers.{layer}.{part.format(e=e)}" for part in parts] for e in copies]


def rows_of_parts(
    name: str, shape: Architecture, rows: int, parts: int, delta: DeltaSizes | None = None
) -> list[int]:
    """How many of the `rows` of our weight `name` each of the `parts` that it is made from has."""
    if delta is not None and ".delta.project" in name:
        heads = delta.value_heads
        if parts == 2:
            return [delta.channels + delta.values, 2 * heads]
        return [delta.channels, delta.values, heads, heads]
    if ".qkv." in name and parts == 3:  # the queries' part may hold a gate too
        return [rows - 2 * shape.kv_size, shape.kv_size, shape.kv_size]
    return [rows // parts] * parts


def is_mixtral(theirs: Safetensors) -> bool:
    """Whether a checkpoint has Mixtral's names."""
    return any("block_sparse_moe" in name for name in theirs)


def stacks_of(theirs: Safetensors) -> Mapping[str, tuple[str, ...]]:
    """The names of experts that a checkpoint keeps as one tensor a layer (Qwen3.5); else none."""
    return STACKS if any(name.endswith(".mlp.experts.gate_up_proj") for name in theirs) else {}


def is_stack(name: str, size: torch.Size) -> bool:
    """Whether a weight has a matrix for each expert."""
    return len(size) == 3 and ".experts." in name


def is_table(name: str) -> bool:
    """Whether a weight has a row for each token."""
    return name in ("embedding.weight", "head.weight", "head.linear.weight")


def require_parts(
    theirs: Safetensors,
    name: str,
    groups: list[list[str]],
    shape: Architecture,
    size: torch.Size,
    wants: str = "config.json says",
    delta: DeltaSizes | None = None,
) -> None:
    """SpecsimError unless a checkpoint holds every part, in `groups`, of our weight `name`, and
    each has the shape that belongs to a weight of `size`, and is not in codes."""
    if is_stack(name, size) and len(groups) < size[0]:  # one tensor for all experts
        theirs.require(groups[0][0], tuple(size), wants)
        return
    rows, *columns = size[1:] if is_stack(name, size) else size
    for group in groups:
        parts = rows_of_parts(name, shape, rows, len(group), delta)
        for source, count in zip(group, parts, strict=True):
            theirs.require(source, (count, *columns), wants)


def matched(theirs: Safetensors, model: nn.Module, stored_vocab: int) -> dict[str, list[list[str]]]:
    """The parts of every weight of `model`, as `sources` gives them, with shapes and dtypes
    checked. Nothing is read.

    The checkpoint has `stored_vocab` tokens; the model may have fewer. Raises SpecsimError for a
    weight that is missing, left over, or of a wrong shape or dtype.
    """
    shape, details, parts = model.architecture, model.details, {}
    names = details.names if details else MIXTRAL if is_mixtral(theirs) else {}
    names = {**names, **stacks_of(theirs)}
    delta = details.delta if details else None
    unused = {name for name in theirs if not name.endswith("rotary_emb.inv_freq")}
    unused.discard("lm_head.weight")
    if details and details.delta:  # a module for multi-token prediction, which `mtp` reads
        unused = {name for name in unused if not name.startswith("mtp.")}
    for name, parameter in model.state_dict().items():
        parts[name], size = sources(name, shape, names), parameter.shape
        if is_table(name):
            size = torch.Size((stored_vocab, *size[1:]))
        require_parts(theirs, name, parts[name], shape, size, delta=delta)
        unused.difference_update(source for group in parts[name] for source in group)
    if unused:
        raise SpecsimError(
            f"{theirs.folder}: {in_one_line(min(unused))} has no place in this model; its results "
            "would be wrong"
        )
    return parts


def require_layers(theirs: Safetensors, layers: int) -> None:
    """SpecsimError unless a checkpoint holds weights of every one of so many layers. It is asked
    before a model is made of a number in a file."""
    held = {name.split(".")[2] for name in theirs if name.startswith("model.layers.")}
    if (missing := next((i for i in range(layers) if str(i) not in held), None)) is not None:
        raise SpecsimError(
            f"{theirs.folder}: the checkpoint lacks model.layers.{missing}, and config.json says "
            f"{layers} layers"
        )


def their_weights(model: nn.Module, model_type: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of `model` under the names of a Hugging Face checkpoint, no longer fused."""
    shape, tensors = model.architecture, {}
    for name, weight in model.state_dict().items():
        if name == "head.weight" and shape.tied_head:
            continue
        weight = weight.detach().to("cpu", dtype)
        groups = sources(name, shape, MIXTRAL if model_type == "mixtral" else {})
        for group, matrix in zip(groups, weight if weight.ndim == 3 else [weight], strict=True):
            pieces = matrix.split(rows_of_parts(name, shape, len(matrix), len(group)))
            for source, piece in zip(group, pieces, strict=True):
                tensors[source] = piece.contiguous()
    return tensors

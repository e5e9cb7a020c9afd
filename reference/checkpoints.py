"""Hugging Face checkpoints in and out: config.json, model.safetensors, tokenizer.json. No remote
code, no pickles.

A source is a folder, a hub id (`owner/name`, fetched by huggingface_hub into its own cache), or
`bundled`, the pair that ships with this package.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from reference.packing import PackedLinear, pack
from reference.transformer import Transformer, rotary_tables
from specsim.architecture import Architecture, read_config
from specsim.catalog import SpecsimError

PAIR = Path(__file__).parent / "pair"

# our fused weights, and the weights of a Hugging Face layer that they are made of, in order
FUSED = {
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "output.weight": ("self_attn.o_proj.weight",),
    "down.weight": ("mlp.down_proj.weight",),
    "attention_norm": ("input_layernorm.weight",),
    "mlp_norm": ("post_attention_layernorm.weight",),
    "query_norm": ("self_attn.q_norm.weight",),
    "key_norm": ("self_attn.k_norm.weight",),
}
OUTER = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, file: Path):
        try:
            self._raw = RawTokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise SpecsimError(f"cannot read the tokenizer {file}: {error}") from None

    def encode(self, text: str) -> list[int]:
        return self._raw.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self._raw.decode(tokens, skip_special_tokens=True)

    @property
    def vocabulary(self) -> dict[str, int]:
        return self._raw.get_vocab()


def load_pair(
    source: str | Path = "bundled",
    draft: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Transformer, Transformer, Tokenizer]:
    """Target, draft and their common tokenizer.

    `source` is "bundled" or a folder with `target` and `draft` in it; or the target alone, with
    `draft` beside it. Raises SpecsimError if a part is missing or broken, or if the two do not
    share a vocabulary.
    """
    if draft is None:
        root = PAIR if str(source) == "bundled" else Path(source)
        if not (root / "target").is_dir() or not (root / "draft").is_dir():
            raise SpecsimError(
                f"{source}: not a pair; give 'bundled', a folder holding target/ and draft/, or a "
                "target and a draft"
            )
        source, draft = root / "target", root / "draft"
    folders = resolve(source), resolve(draft)
    target_tokenizer, draft_tokenizer = (Tokenizer(tokenizer_file(folder)) for folder in folders)
    if target_tokenizer.vocabulary != draft_tokenizer.vocabulary:
        raise SpecsimError(
            f"{source} and {draft} have different vocabularies: a draft must speak the "
            "target's tokens"
        )
    target, drafting = (load_checkpoint(folder, dtype=dtype, device=device) for folder in folders)
    sizes = target.architecture.vocab_size, drafting.architecture.vocab_size
    if sizes[0] != sizes[1]:
        raise SpecsimError(
            f"{source} has {sizes[0]} tokens and {draft} has {sizes[1]}: the vocabularies differ"
        )
    return target, drafting, target_tokenizer


def resolve(source: str | Path) -> Path:
    """The folder of a checkpoint: itself, `bundled-target` or `bundled-draft`, or what the hub has
    under this id."""
    text = str(source)
    if text in ("bundled-target", "bundled-draft"):
        return PAIR / text.removeprefix("bundled-")
    path = Path(source)
    if path.exists():
        if not path.is_dir():
            raise SpecsimError(
                f"{path} is a file; give the folder that holds config.json and model.safetensors"
            )
        return path
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise SpecsimError(f"no such folder: {path} (and a hub id looks like owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SpecsimError(
            f"{text} is no folder; to fetch it from the hub: pip install 'specsim-llm[hub]'"
        ) from None
    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # network, permission, no such repository: one line each
        raise SpecsimError(
            f"cannot fetch {text} from the hub: {str(error).splitlines()[0]}"
        ) from None


def tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise SpecsimError(f"no such file: {file}")
    return file


def load_checkpoint(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    packed: bool = True,
) -> Transformer:
    """A model from a folder, ready for inference: evaluation mode, weights packed where the device
    has kernels for it.

    Raises SpecsimError for a missing or truncated file, a missing weight, or one whose shape
    contradicts config.json.
    """
    folder = Path(folder)
    config = read_config(folder)
    name = f"bundled-{folder.name}" if folder.parent == PAIR else folder.resolve().name
    architecture = Architecture.from_config(config, name)
    with torch.device("meta"):
        model = Transformer(architecture)
    weights = dict(our_weights(read_safetensors(folder), model, folder))
    model.load_state_dict(
        {name: weight.to(device, dtype) for name, weight in weights.items()}, assign=True
    )
    if architecture.tied_head:
        model.head.weight = model.embedding.weight
    model.cos, model.sin = (table.to(device, dtype) for table in rotary_tables(architecture))
    model.stop_ids = stop_ids(folder, config)
    model.eval().requires_grad_(False)
    return pack(model) if packed else model


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, of one file or of the shards that an index lists."""
    index = folder / "model.safetensors.index.json"
    names = (
        sorted(set(read_config(index)["weight_map"].values()))
        if index.exists()
        else ["model.safetensors"]
    )
    tensors = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            raise SpecsimError(f"no such file: {file}")
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise SpecsimError(f"{file} is truncated or not a safetensors file: {error}") from None
    return tensors


def our_weights(
    theirs: Mapping[str, Tensor], model: Transformer, folder: Path
) -> Iterator[tuple[str, Tensor]]:
    """Our parameters made of a Hugging Face checkpoint's, with every shape checked."""
    unused = {name for name in theirs if not name.endswith("rotary_emb.inv_freq")} - {
        "lm_head.weight"
    }
    for name, parameter in model.state_dict().items():
        if name == "head.weight" and model.architecture.tied_head:
            sources = ["model.embed_tokens.weight"]
        elif name in OUTER:
            sources = [OUTER[name]]
        else:
            _, layer, inner = name.split(".", 2)
            sources = [f"model.layers.{layer}.{source}" for source in FUSED[inner]]
        missing = [source for source in sources if source not in theirs]
        if missing:
            raise SpecsimError(f"{folder}: the checkpoint lacks {missing[0]}")
        weight = torch.cat([theirs[source] for source in sources])
        if weight.shape != parameter.shape:
            raise SpecsimError(
                f"{folder}: {' + '.join(sources)} has shape {tuple(weight.shape)}; config.json "
                f"says {tuple(parameter.shape)}"
            )
        unused.difference_update(sources)
        yield name, weight
    if unused:
        raise SpecsimError(
            f"{folder}: {min(unused)} has no place in this model; its results would be wrong"
        )


def stop_ids(folder: Path, config: Mapping[str, Any]) -> frozenset[int]:
    """The end-of-text ids: generation_config.json's, or else config.json's."""
    file = folder / "generation_config.json"
    eos = (read_config(file) if file.exists() else {}).get(
        "eos_token_id", config.get("eos_token_id")
    )
    return frozenset(() if eos is None else eos if isinstance(eos, list) else [eos])


def save_checkpoint(
    model: Transformer,
    folder: str | Path,
    *,
    tokenizer: RawTokenizer | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write `model` as a Hugging Face checkpoint: config.json, generation_config.json,
    model.safetensors, tokenizer."""
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise SpecsimError(
            f"{model.architecture.name} is packed; save a model loaded with packed=False"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.architecture
    widths = {
        "qkv": [shape.query_size, shape.kv_size, shape.kv_size],
        "gate_up": [shape.intermediate_size] * 2,
    }
    tensors = {}
    for name, weight in model.state_dict().items():
        weight = weight.detach().to("cpu", dtype)
        if name in OUTER:
            if not (name == "head.weight" and shape.tied_head):
                tensors[OUTER[name]] = weight
            continue
        _, layer, inner = name.split(".", 2)
        parts = weight.split(widths.get(inner.split(".")[0], [len(weight)]))
        for source, part in zip(FUSED[inner], parts, strict=True):
            tensors[f"model.layers.{layer}.{source}"] = part.contiguous()
    stops = sorted(model.stop_ids)
    ends = (
        {"bos_token_id": stops[0], "eos_token_id": stops if stops[1:] else stops[0]}
        if stops
        else {}
    )
    config = shape.to_config() | ends | {"torch_dtype": str(dtype).removeprefix("torch.")}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(folder / "generation_config.json", json.dumps(ends, indent=2) + "\n")
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def prompt_texts() -> dict[str, list[str]]:
    """The bundled prompts, "calibration" and "timed": pieces of files that the pair was not trained
    on."""
    prompts = json.loads((PAIR / "prompts.json").read_text(encoding="utf-8"))
    return {
        which: [prompt["text"] for prompt in prompts[which]] for which in ("calibration", "timed")
    }


def prompts(which: str, length: int = 96) -> list[list[int]]:
    """The first `length` token ids of the bundled prompts called `which`."""
    texts = prompt_texts()
    if which not in texts:
        raise SpecsimError(f"no prompts are called {which!r}; there are: {', '.join(texts)}")
    tokenizer = Tokenizer(PAIR / "target" / "tokenizer.json")
    return [tokenizer.encode(text)[:length] for text in texts[which]]

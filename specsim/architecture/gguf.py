"""The header of a GGUF file -> the fields of a config, and how its tensors are stored.

The header alone is read, a few megabytes however large the file: what the model is (key-value
pairs), and every tensor's name, shape and format. Format: github.com/ggml-org/ggml, docs/gguf.md.
Where a model is split over several files, the headers of all are read.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from specsim.architecture.layers import Sizes
from specsim.architecture.storage import CLASSES, Format, Storage, by_class
from specsim.checks import SpecsimError, quoted

MAGIC = b"GGUF"
MOST_ENTRIES, MOST_BYTES = 1_000_000, 256 * 2**20  # of a header
KEPT = 1024  # characters of a text that are kept
# key-value types: the struct code of a number; 8 is text, 9 an array
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# a tensor's type: its name, and the bits of a weight with scales (bytes of a block over its length)
TYPES = {
    0: ("F32", 32.0), 1: ("F16", 16.0), 2: ("Q4_0", 4.5), 3: ("Q4_1", 5.0), 6: ("Q5_0", 5.5),
    7: ("Q5_1", 6.0), 8: ("Q8_0", 8.5), 9: ("Q8_1", 9.0), 10: ("Q2_K", 2.625), 11: ("Q3_K", 3.4375),
    12: ("Q4_K", 4.5), 13: ("Q5_K", 5.5), 14: ("Q6_K", 6.5625), 15: ("Q8_K", 9.125),
    16: ("IQ2_XXS", 2.0625), 17: ("IQ2_XS", 2.3125), 18: ("IQ3_XXS", 3.0625), 19: ("IQ1_S", 1.5625),
    20: ("IQ4_NL", 4.5), 21: ("IQ3_S", 3.4375), 22: ("IQ2_S", 2.5625), 23: ("IQ4_XS", 4.25),
    24: ("I8", 8.0), 25: ("I16", 16.0), 26: ("I32", 32.0), 27: ("I64", 64.0), 28: ("F64", 64.0),
    29: ("IQ1_M", 1.75), 30: ("BF16", 16.0), 34: ("TQ1_0", 1.6875), 35: ("TQ2_0", 2.0625),
    39: ("MXFP4", 4.25), 40: ("NVFP4", 4.5),
}  # fmt: skip
# general.architecture -> the model_type of a config; the fields say what sets relatives apart
MODEL_TYPES = {
    "llama": "llama", "mistral": "mistral", "mistral3": "mistral", "qwen2": "qwen2",
    "qwen3": "qwen3", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3": "gemma3_text", "phi3": "phi3", "deepseek2": "deepseek_v3",
    "gpt-oss": "gpt_oss", "gpt2": "gpt2", "glm4": "glm4", "glm4moe": "glm4_moe",
    "granite": "granite", "smollm3": "smollm3", "seed_oss": "seed_oss", "olmo2": "olmo2",
    "exaone4": "exaone4", "arcee": "arcee", "starcoder2": "starcoder2", "cohere2": "cohere2",
    "command-r": "cohere", "minimax-m2": "minimax_m2", "ernie4_5": "ernie4_5",
    "ernie4_5-moe": "ernie4_5_moe", "hunyuan-dense": "hunyuan_v1_dense", "stablelm": "stablelm",
    "gemma4": "gemma4_text", "llama4": "llama4_text", "olmoe": "olmoe", "phimoe": "phimoe",
}  # fmt: skip
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "vocab_size": "vocab_size",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_nextn_predict_layers": "nextn_predict_layers",
}
# a tensor's name -> the class of the matrix
KINDS = (
    (r"output$", "head"),
    (r"(token_embd|per_layer_token_embd)$", "table"),
    (r"blk\.\d+\.ffn_(gate|up|down|gate_up)_exps$", "experts"),
    (r"blk\.\d+\.ffn_(gate|up|down)_shexp$", "shared"),
    (r"blk\.\d+\.(ssm_|attn_gate$|shortconv)", "recurrent"),
    (r"blk\.\d+\.(attn_|indexer)", "attention"),
    (r"blk\.\d+\.ffn_", "mlp"),
)  # fmt: skip
# general.file_type, where a file's tensors are not known (llama_ftype in llama.cpp's llama.h) -> a
# precision, or the type's name and the bits of a weight, with scales, in layers, LM head and table.
# Where llama.cpp mixes types in the layers, their bits follow from those of all of Llama-3.1-8B in
# its tools/quantize/README.md, less the LM head and the table.
FILE_TYPES: dict[int, str | tuple[str, float, float, float]] = {
    0: "fp32", 1: "fp16", 2: "q4_0", 7: "q8_0", 10: "q2_k", 14: "q4_k_s", 15: "q4_k_m", 32: "bf16",
    38: "mxfp4-moe",
    3: ("Q4_1", 5.0, 6.5625, 5.0), 8: ("Q5_0", 5.5, 6.5625, 5.5), 9: ("Q5_1", 6.0, 6.5625, 6.0),
    11: ("Q3_K_S", 3.4375, 6.5625, 3.4375), 12: ("Q3_K_M", 3.84, 6.5625, 3.4375),
    13: ("Q3_K_L", 4.19, 6.5625, 3.4375), 16: ("Q5_K_S", 5.5, 6.5625, 5.5),
    17: ("Q5_K_M", 5.65, 6.5625, 5.5), 18: ("Q6_K", 6.5625, 6.5625, 6.5625),
    19: ("IQ2_XXS", 2.13, 5.5, 2.625), 20: ("IQ2_XS", 2.37, 5.5, 2.625),
    21: ("Q2_K_S", 2.72, 6.5625, 2.625), 22: ("IQ3_XS", 3.27, 6.5625, 3.4375),
    23: ("IQ3_XXS", 3.07, 5.5, 3.4375), 24: ("IQ1_S", 1.69, 5.5, 2.625),
    25: ("IQ4_NL", 4.55, 6.5625, 4.5), 26: ("IQ3_S", 3.46, 6.5625, 3.4375),
    27: ("IQ3_M", 3.58, 6.5625, 3.4375), 28: ("IQ2_S", 2.48, 5.5, 3.4375),
    29: ("IQ2_M", 2.7, 5.5, 3.4375), 30: ("IQ4_XS", 4.32, 6.5625, 4.25),
    31: ("IQ1_M", 1.86, 5.5, 2.625), 36: ("TQ1_0", 1.6875, 6.5625, 4.5),
    37: ("TQ2_0", 2.0625, 6.5625, 4.5), 39: ("NVFP4", 4.5, 6.5625, 4.5),
}  # fmt: skip
TOLERANCE = 0.01  # by which the tensors may hold more or fewer parameters than the fields describe


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says: its key-value pairs (of an array its length), and its tensors with
    their elements and the number of their type."""

    name: str
    pairs: dict[str, Any]
    tensors: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Elements of all tensors but the tables of rotary frequencies."""
        return sum(size for name, (size, _) in self.tensors.items() if "rope" not in name)


# --------------------------------------------------------------------------------- the header


def read_header(path: Path) -> Header:
    """The header of a GGUF file, and those of the others where a model is split over several.

    Raises SpecsimError if it is no such file, is cut short, or claims more than a header can hold.
    """
    found = _one_header(path)
    parts = found.pairs.get("split.count")
    if not isinstance(parts, int) or parts < 2:
        return found
    named = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if named is None:
        raise SpecsimError(
            f"{path} is one of {parts} files; its name must end in -00001-of-{parts:05}.gguf"
        )
    tensors: dict[str, tuple[int, int]] = {}
    first = found
    for part in range(1, min(parts, 9999) + 1):
        file = path.with_name(f"{named[1]}-{part:05}-of-{named[2]}.gguf")
        if not file.is_file():
            raise SpecsimError(f"{path} is one of {parts} files, and {file.name} is not there")
        header = _one_header(file)
        first = header if part == 1 else first
        tensors |= header.tensors
    return Header(first.name, first.pairs, tensors)


def _one_header(path: Path) -> Header:
    try:
        if not path.is_file():
            raise SpecsimError(f"no such file: {path}")
        with path.open("rb") as file:
            return _Reader(file, str(path)).header()
    except OSError as error:
        raise SpecsimError(f"cannot read {path}: {error.strerror}") from None


class _Reader:
    """Numbers and texts from a file, as long as the header stays within its limits."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.taken, self.order = file, name, 0, "<"

    def take(self, count: int) -> bytes:
        self.taken += count
        if count < 0 or self.taken > MOST_BYTES:
            raise SpecsimError(f"{self.name}: its header claims more than {MOST_BYTES >> 20} MiB")
        found = self.file.read(count)
        if len(found) < count:
            raise SpecsimError(
                f"{self.name} is cut short: its header ends after {self.taken} bytes"
            )
        return found

    def number(self, code: str) -> Any:
        return struct.unpack(self.order + code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str) -> int:
        found = int(self.number("Q"))
        if found > MOST_ENTRIES:
            raise SpecsimError(f"{self.name}: its header claims {found:,} {what}")
        return found

    def text(self) -> str:
        length = int(self.number("Q"))
        return self.take(length)[:KEPT].decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == 8:
            return self.text()
        if kind != 9 or depth > 4:
            raise SpecsimError(f"{self.name}: its header holds a value of the unknown type {kind}")
        inner, length = self.number("I"), self.count("entries in an array")
        if inner in NUMBERS:
            size = struct.calcsize(NUMBERS[inner])
            raw = self.take(size * length)
            if length > 4096:
                return Length(length)
            return list(struct.unpack(f"{self.order}{length}{NUMBERS[inner]}", raw))
        for _ in range(length):
            self.value(inner, depth + 1)
        return Length(length)

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            raise SpecsimError(f"{self.name} is not a GGUF file: it does not begin with GGUF")
        version = self.number("I")
        if version > 0xFFFF:
            self.order, version = ">", int.from_bytes(struct.pack("<I", version), "big")
        if version not in (2, 3):
            raise SpecsimError(f"{self.name}: GGUF version {version} is not known; known: 2, 3")
        tensors, entries = self.count("tensors"), self.count("fields")
        pairs: dict[str, Any] = {}
        for _ in range(entries):
            key = self.text()
            pairs[key] = self.value(self.number("I"))
        found: dict[str, tuple[int, int]] = {}
        for _ in range(tensors):
            name, size = self.text(), 1
            dimensions = self.number("I")
            if dimensions > 8:
                raise SpecsimError(f"{self.name}: the tensor {name} has {dimensions} dimensions")
            for _ in range(dimensions):
                size *= int(self.number("Q"))
            kind = self.number("I")
            self.number("Q")  # where its data begin
            found[name] = (size, kind)
        return Header(self.name, pairs, found)


class Length(int):
    """How many entries an array has that was not kept."""


# ------------------------------------------------------------------------------- what it says


def config_of(header: Header) -> dict[str, Any]:
    """The fields of a `config.json` that a GGUF header says in its own words.

    Raises SpecsimError for an architecture that is not known here, and for a missing field.
    """
    pairs = header.pairs
    kind = pairs.get("general.architecture")
    if not isinstance(kind, str):
        raise SpecsimError(f"{header.name} lacks the field general.architecture")
    if kind not in MODEL_TYPES:
        raise SpecsimError(
            f"{header.name}: GGUF architecture {kind!r} is not supported; known: "
            f"{', '.join(MODEL_TYPES)}"
        )
    found: dict[str, Any] = {"model_type": MODEL_TYPES[kind]}
    for name, key in FIELDS.items():
        value = pairs.get(f"{kind}.{key}")
        if isinstance(value, list):  # one for each layer
            value = value[0] if len(set(value)) == 1 else None
            if value is None:
                raise SpecsimError(f"{header.name}: {key} differs from layer to layer: not priced")
        if value is not None:
            found[name] = value
    tokens = pairs.get("tokenizer.ggml.tokens")
    if "vocab_size" not in found and tokens is not None:
        found["vocab_size"] = int(tokens) if isinstance(tokens, int) else len(tokens)
    for name, key in (("hidden_size", "embedding_length"), ("num_hidden_layers", "block_count")):
        if name not in found:
            raise SpecsimError(f"{header.name} lacks the field {kind}.{key}")
    if "vocab_size" not in found:
        raise SpecsimError(f"{header.name} lacks the field {kind}.vocab_size, and its tokens")
    names = header.tensors
    if names:
        found["tie_word_embeddings"] = "output.weight" not in names
        biased = "blk.0.attn_q.bias" in names
        found |= {"attention_bias": biased, "qkv_bias": biased}
    return _of_family(kind, found, header)


def _of_family(kind: str, found: dict[str, Any], header: Header) -> dict[str, Any]:
    """What a family of configs spells in another way than GGUF does."""
    pairs, names = header.pairs, header.tensors
    if kind == "glm4moe":  # its block_count has the MTP modules in it
        found["num_hidden_layers"] -= found.get("num_nextn_predict_layers", 0)
    experts = found.get("num_experts")
    if not experts:
        for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
            found.pop(name, None)
    elif kind == "llama":
        found |= {"model_type": "mixtral", "num_local_experts": experts}
    elif kind == "gpt-oss":
        wide = found.get("moe_intermediate_size", found.get("intermediate_size"))
        found |= {"num_local_experts": experts, "intermediate_size": wide}
        found["attention_bias"] = True
    elif kind == "deepseek2":
        if not any("exp_probs_b" in name for name in names):
            found["model_type"] = "deepseek_v2"
        found["n_routed_experts"] = experts
        value = pairs.get(f"{kind}.attention.value_length_mla")
        key = pairs.get(f"{kind}.attention.key_length_mla")
        value = value or pairs.get(f"{kind}.attention.value_length")
        key = key or pairs.get(f"{kind}.attention.key_length")
        if isinstance(key, int) and isinstance(value, int):
            found["v_head_dim"] = value
            found["qk_nope_head_dim"] = key - found.get("qk_rope_head_dim", 0)
        found.setdefault("num_key_value_heads", found["num_attention_heads"])
        found["attention_bias"] = False
    elif kind == "qwen3moe":
        found["norm_topk_prob"] = True
    if kind == "phi3":
        found.pop("sliding_window", None)
    found.setdefault("intermediate_size", found.get("moe_intermediate_size"))
    return found


def storage_fields(header: Header) -> tuple[str, str, tuple[tuple[str, float, str], ...]]:
    """The name of the nearest precision, the file's main type, and (class, bits, arithmetic) of
    each class of tensors. SpecsimError for a type that is not known."""
    bits, sizes = dict.fromkeys(CLASSES, 0.0), dict.fromkeys(CLASSES, 0.0)
    shares: dict[str, float] = {}
    for name, (size, number) in header.tensors.items():
        if not name.endswith(".weight") or "norm" in name or "ffn_gate_inp" in name:
            continue
        kind = next(
            (k for pattern, k in KINDS if re.match(pattern, name.removesuffix(".weight"))), None
        )
        if kind is None:
            continue
        if number not in TYPES:
            raise SpecsimError(f"{header.name}: the tensor {name} has the unknown type {number}")
        called, width = TYPES[number]
        bits[kind] += size * width
        sizes[kind] += size
        if kind not in ("head", "table"):
            shares[called] = shares.get(called, 0.0) + size
    if not shares:
        raise SpecsimError(f"{header.name} holds no weights of layers")
    if not sizes["head"]:
        bits["head"], sizes["head"] = bits["table"], sizes["table"]
    if not sizes["mlp"]:
        widest = "attention" if sizes["attention"] else "experts"
        bits["mlp"], sizes["mlp"] = bits[widest], sizes[widest]
    main = max(shares, key=shares.__getitem__)
    formats = tuple((kind, bits[kind] / sizes[kind], "bf16") for kind in CLASSES if sizes[kind])
    return _nearest(main, {kind: each for kind, each, _ in formats}), main, formats


def storage_of_type(number: object, model: Sizes) -> Storage | None:
    """How the weights of `model` are stored, by the number in `general.file_type` alone: all
    layers in the same bits. None where the header has no such field; a number that is not known is
    a refusal: nothing is priced as if it were in 16 bits."""
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number not in FILE_TYPES:
        said = f"general.file_type {quoted(number)} of a header without tensors is not known"
        return Storage("general.file_type", "GGUF", refusal=said)
    found = FILE_TYPES[number]
    if isinstance(found, str):
        return Storage("general.file_type", "GGUF", found)
    called, layers, head, table = found
    nearest, apart = _nearest(called, {}), {"head": head, "table": table}
    formats, _ = by_class(model, lambda module: Format(nearest, apart.get(module.kind, layers)))
    return Storage(called, "GGUF", nearest, formats)


def _nearest(main: str, bits: Mapping[str, float]) -> str:
    """The precision of the list whose kernels are nearest to a file's main type."""
    if main in ("F16", "BF16"):
        return "fp16" if main == "F16" else "bf16"
    if main == "F32":
        return "fp32"
    if main == "MXFP4" and bits.get("attention", 16.0) > 6:
        return "mxfp4-moe"
    if main in ("Q8_0", "Q8_1", "Q8_K", "Q6_K", "Q5_0", "Q5_1", "Q5_K"):
        return "q8_0" if main.startswith("Q8") else "q4_k_m"
    return "q4_0" if main in ("Q4_0", "Q4_1", "IQ4_NL") else "q4_k_m"


def header_of_metadata(values: Mapping[str, Any], name: str) -> Header | None:
    """The header in a JSON object that holds GGUF metadata (`gguf-dump --json`, or the pairs alone,
    nested or not); None where it is something else."""
    metadata = values.get("metadata")
    pairs = _flat(metadata if isinstance(metadata, Mapping) else values)
    if "general.architecture" not in pairs:
        return None
    numbers = {called: number for number, (called, _) in TYPES.items()}
    tensors: dict[str, tuple[int, int]] = {}
    listed = values.get("tensors")
    for tensor, each in listed.items() if isinstance(listed, Mapping) else ():
        shape, kind = (each.get("shape"), each.get("type")) if isinstance(each, Mapping) else (0, 0)
        if isinstance(shape, list) and all(isinstance(side, int) for side in shape):
            size = 1
            for side in shape:
                size *= side
            tensors[str(tensor)] = (size, numbers.get(str(kind), -1))
    return Header(name, pairs, tensors)


def _flat(values: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and "value" in value and "type" in value:
            value = value["value"]
        if isinstance(value, Mapping) and depth < 4:
            found |= _flat(value, f"{name}.", depth + 1)
        else:
            found[name] = value
    return found

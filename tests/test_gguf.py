"""GGUF files: the header alone, written here byte by byte."""

import json
import re
import struct
from dataclasses import replace

import pytest
from numpy.testing import assert_allclose

from specsim.architecture import model
from specsim.architecture.gguf import FILE_TYPES, TYPES, storage_of_type
from specsim.checks import SpecsimError
from specsim.operators import PRECISIONS, precision_of, stored_weight_bytes

H, KV, WIDE, VOCAB, LAYERS = 256, 64, 512, 1000, 4
Q4_K, Q6_K, Q8_0, F32, MXFP4, F16 = 12, 14, 8, 0, 39, 1
FIELDS = {
    "general.architecture": "llama",
    "llama.embedding_length": H,
    "llama.block_count": LAYERS,
    "llama.feed_forward_length": WIDE,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 1,
    "llama.context_length": 8192,
    "llama.rope.freq_base": 5e5,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": [f"token {i}" for i in range(VOCAB)],
    "tokenizer.ggml.scores": [0.5] * VOCAB,
}


def tensors(tied=False):
    """Name -> (dimensions, type), as llama.cpp's Q4_K_M mixes them."""
    found = {"token_embd.weight": ((H, VOCAB), Q4_K), "output_norm.weight": ((H,), F32)}
    if not tied:
        found["output.weight"] = ((H, VOCAB), Q6_K)
    for i in range(LAYERS):
        more = Q6_K if i % 2 else Q4_K
        found |= {
            f"blk.{i}.attn_q.weight": ((H, H), Q4_K),
            f"blk.{i}.attn_k.weight": ((H, KV), Q4_K),
            f"blk.{i}.attn_v.weight": ((H, KV), more),
            f"blk.{i}.attn_output.weight": ((H, H), Q4_K),
            f"blk.{i}.ffn_gate.weight": ((H, WIDE), Q4_K),
            f"blk.{i}.ffn_up.weight": ((H, WIDE), Q4_K),
            f"blk.{i}.ffn_down.weight": ((WIDE, H), more),
            f"blk.{i}.attn_norm.weight": ((H,), F32),
            f"blk.{i}.ffn_norm.weight": ((H,), F32),
        }
    return found


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def written(value):
    """A value with its type: text, a list of texts or numbers, a number."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        if isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
    return (
        struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    )


def write(path, fields=FIELDS, held=None, version=3, magic=b"GGUF"):
    held = tensors() if held is None else held
    out = magic + struct.pack("<IQQ", version, len(held), len(fields))
    for key, value in fields.items():
        out += text(key) + written(value)
    for name, (dims, kind) in held.items():
        sizes = struct.pack(f"<{len(dims)}Q", *dims)
        out += text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, 0)
    path.write_bytes(out)
    return path


def test_sizes_and_bits_come_from_the_header(tmp_path):
    found = model(write(tmp_path / "m-Q4_K_M.gguf"))
    layer = 2 * H * H + 2 * H * KV + 3 * H * WIDE + 2 * H
    assert found.parameters == LAYERS * layer + 2 * VOCAB * H + H
    assert (found.name, found.rope_theta, found.vocab_size) == ("m-Q4_K_M", 5e5, VOCAB)
    bits = {kind: bits for kind, bits, _ in found.stored.formats}
    assert_allclose(bits["mlp"], (5 * 4.5 + 6.5625) / 6)  # every second down projection
    values, attention = KV, 2 * H + 2 * KV
    assert_allclose(bits["attention"], 4.5 + 0.5 * (6.5625 - 4.5) * values / attention)
    assert (bits["head"], bits["table"]) == (6.5625, 4.5)
    precision = precision_of(found)
    assert (precision.name, precision.math, precision.kv_bytes) == ("q4_k_m", "bf16", 2.0)


def test_a_file_without_an_output_is_tied(tmp_path):
    found = model(write(tmp_path / "m.gguf", held=tensors(tied=True)))
    assert found.tied_head
    assert precision_of(found).bytes_per_head_weight == 4.5 / 8


@pytest.mark.parametrize(
    ("kind", "name"), [(Q8_0, "q8_0"), (2, "q4_0"), (F16, "fp16"), (30, "bf16")]
)
def test_the_nearest_precision(tmp_path, kind, name):
    held = {n: (dims, F32 if len(dims) == 1 else kind) for n, (dims, _) in tensors().items()}
    assert precision_of(model(write(tmp_path / "m.gguf", held=held))).name == name


def test_experts_in_mxfp4(tmp_path):
    held = {n: each for n, each in tensors().items() if "ffn" not in n or "norm" in n}
    held = {n: (dims, F32 if len(dims) == 1 else Q8_0) for n, (dims, _) in held.items()}
    for i in range(LAYERS):
        held |= {f"blk.{i}.ffn_{part}_exps.weight": ((H, 128, 8), MXFP4) for part in ("gate", "up")}
        held[f"blk.{i}.ffn_down_exps.weight"] = ((128, H, 8), MXFP4)
        held[f"blk.{i}.ffn_gate_inp.weight"] = ((H, 8), F32)
        for part in ("q", "k"):
            held[f"blk.{i}.attn_{part}_norm.weight"] = ((64,), F32)
    fields = {key.replace("llama", "qwen3moe"): each for key, each in FIELDS.items()} | {
        "general.architecture": "qwen3moe", "qwen3moe.expert_count": 8,
        "qwen3moe.expert_used_count": 2, "qwen3moe.expert_feed_forward_length": 128,
        "qwen3moe.attention.key_length": 64,
    }  # fmt: skip
    found = model(write(tmp_path / "m.gguf", fields, held))
    assert (found.experts.count, found.experts.per_token) == (8, 2)
    precision = precision_of(found)
    assert (precision.name, precision.bytes_per_expert_weight) == ("mxfp4-moe", 4.25 / 8)
    assert precision.bytes_per_attention_weight == 8.5 / 8


def test_a_split_model_is_the_sum_of_its_files(tmp_path):
    held = list(tensors().items())
    fields = FIELDS | {"split.count": 2}
    write(tmp_path / "m-00001-of-00002.gguf", fields, dict(held[:20]))
    with pytest.raises(SpecsimError, match=r"m-00002-of-00002\.gguf is not there"):
        model(tmp_path / "m-00001-of-00002.gguf")
    write(tmp_path / "m-00002-of-00002.gguf", {"split.count": 2}, dict(held[20:]))
    whole = model(write(tmp_path / "whole.gguf"))
    for part in (1, 2):
        found = model(tmp_path / f"m-0000{part}-of-00002.gguf")
        assert (found.parameters, found.stored) == (whole.parameters, whole.stored)


def test_metadata_in_json(tmp_path):
    """As `gguf-dump --json` prints it, and nested."""
    dumped = {key: {"type": "ANY", "value": each} for key, each in FIELDS.items()}
    listed = {
        name: {"shape": list(dims), "type": {Q4_K: "Q4_K", Q6_K: "Q6_K", F32: "F32"}[kind]}
        for name, (dims, kind) in tensors().items()
    }
    file = tmp_path / "m.json"
    file.write_text(json.dumps({"metadata": dumped, "tensors": listed}))
    whole = model(write(tmp_path / "m.gguf"))
    assert model(file).stored == whole.stored
    file.write_text(json.dumps(FIELDS | {"general.file_type": 15}))
    assert precision_of(model(file)).name == "q4_k_m"
    file.write_text(json.dumps({"general": {"architecture": "llama"}}))
    with pytest.raises(SpecsimError, match=r"m lacks the field llama\.embedding_length"):
        model(file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"magic": b"GGML"}, "is not a GGUF file"),
        ({"version": 9}, "GGUF version 9 is not known"),
        ({"fields": {"general.architecture": "mamba7"}}, "GGUF architecture 'mamba7'"),
        ({"fields": {"general.name": "x"}}, "lacks the field general.architecture"),
        (
            {"held": tensors() | {"blk.0.extra.weight": ((H, 4096), Q4_K)}},
            "it has parts that are not priced",
        ),
        ({"held": tensors() | {"output.weight": ((H, VOCAB), 77)}}, "unknown type 77"),
    ],
)
def test_what_is_refused(tmp_path, change, told):
    with pytest.raises(SpecsimError, match=told) as error:
        model(write(tmp_path / "m.gguf", **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 3, 10, 30, 300, 20_000])
def test_a_file_cut_anywhere_is_refused(tmp_path, length):
    file = write(tmp_path / "m.gguf")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(SpecsimError, match="cut short"):
        model(file)


def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1))
    with pytest.raises(SpecsimError, match="claims"):
        model(file)
    file.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62))
    with pytest.raises(SpecsimError, match="claims more than 256 MiB"):
        model(file)


def metadata(tmp_path, **more):
    """A model of a header in JSON that lists no tensors."""
    file = tmp_path / "m.json"
    file.write_text(json.dumps(FIELDS | {f"general.{key}": each for key, each in more.items()}))
    return model(file)


def test_every_file_type_of_llama_cpp_is_known():
    """llama_ftype of llama.h; 4 to 6 and 33 to 35 were taken out of it."""
    assert set(FILE_TYPES) == {*range(4), *range(7, 33), *range(36, 40)}
    names = {
        0: "fp32", 1: "fp16", 2: "q4_0", 7: "q8_0", 10: "q2_k", 14: "q4_k_s", 15: "q4_k_m",
        32: "bf16", 38: "mxfp4-moe",
    }  # fmt: skip
    assert {number: each for number, each in FILE_TYPES.items() if isinstance(each, str)} == names
    assert set(names.values()) <= set(PRECISIONS)
    of_tensors = dict(TYPES.values())
    for each in FILE_TYPES.values():
        if not isinstance(each, str):
            name, layers, head, table = each
            least = of_tensors.get(name, of_tensors.get(re.sub(r"_[SML]$", "", name)))
            # mixes are between the type that they are named for and the next wider ones
            assert least is None or least - 0.12 <= layers <= least + 0.8, name
            assert {head, table} <= set(of_tensors.values())


@pytest.mark.parametrize("number", sorted(FILE_TYPES))
def test_a_header_without_tensors_goes_by_its_file_type(tmp_path, number):
    found = metadata(tmp_path, file_type=number)
    priced, said = precision_of(found), FILE_TYPES[number]
    if isinstance(said, str):
        assert priced == PRECISIONS[said]
        return
    name, layers, head, table = said
    assert (found.stored.method, found.stored.source) == (name, "GGUF")
    assert_allclose([8 * priced.weight_bytes, 8 * priced.bytes_per_attention_weight], layers)
    assert_allclose([8 * priced.bytes_per_head_weight, 8 * priced.bytes_per_table_entry],
                    [head, table])  # fmt: skip
    assert priced.math == "bf16"


@pytest.mark.parametrize(
    ("number", "gigabytes"),  # of Llama-3.1-8B, in llama.cpp's tools/quantize/README.md
    [(11, 3.41), (12, 3.74), (13, 4.02), (14, 4.36), (15, 4.58), (16, 5.21), (17, 5.33), (18, 6.14),
     (19, 2.23), (21, 2.78), (22, 3.27), (23, 3.04), (24, 1.87), (26, 3.42), (28, 2.56), (29, 2.74),
     (30, 4.17), (31, 2.01)],
)  # fmt: skip
def test_the_size_of_a_file_is_the_published_one(number, gigabytes):
    eight = model("llama-3.1-8b")
    stored = replace(eight, stored=storage_of_type(number, eight))
    size = stored_weight_bytes(stored, precision_of(stored)) / 2**30
    assert_allclose(size, gigabytes, rtol=0.01)


@pytest.mark.parametrize("number", [4, 33, 99, 1024, -1, True, "Q4_K_M", [15], 15.0])
def test_an_unknown_file_type_is_not_read_as_16_bits(tmp_path, number):
    found = metadata(tmp_path, file_type=number)
    with pytest.raises(SpecsimError, match=r"general\.file_type .* is not known; give"):
        precision_of(found)


def test_a_header_that_names_no_file_type_says_nothing(tmp_path):
    assert metadata(tmp_path).stored is None

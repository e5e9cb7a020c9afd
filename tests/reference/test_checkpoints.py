"""Checkpoints in and out, with transformers at the other end; and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from reference.cache import KVCache
from reference.checkpoints import (
    PAIR,
    Tokenizer,
    load_checkpoint,
    load_pair,
    resolve,
    save_checkpoint,
)
from reference.decoding import speculate
from reference.drafters.draft_model import DraftModel
from reference.packing import PackedLinear, can_pack
from specsim.architecture import Experts
from specsim.checks import SpecsimError

MIXTRAL = {"experts": Experts(4, 2, 24), "intermediate_size": 24}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
THEIRS = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-3.1": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "smollm2": (
        "Llama",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default",
         "rope_theta": 100_000.0}, "num_attention_heads": 8, "num_key_value_heads": 2},
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": (
        "Qwen2Moe",
        {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
         "shared_expert_intermediate_size": 40},
    ),
    "qwen3-moe": (
        "Qwen3Moe",
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "head_dim": 16,
         "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
}  # fmt: skip
TOKENS = torch.randint(97, (2, 150), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def their_checkpoint(transformers, tmp_path_factory):
    """Saves one of transformers' models, random all over, and returns the folder and its logits."""

    def build(name: str, shard_size: str = "1GB") -> tuple[Path, torch.Tensor]:
        family, changes = THEIRS[name]
        config = getattr(transformers, f"{family}Config")(
            **{
                "vocab_size": 97,
                "hidden_size": 32,
                "intermediate_size": 56,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "eos_token_id": 7,
            }
            | changes
        )
        model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim >= 2:
                    parameter.copy_(noise / parameter.shape[-1] ** 0.5)
                else:
                    parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else 1.0))
            logits = model(TOKENS).logits
        folder = tmp_path_factory.mktemp("theirs")
        model.save_pretrained(folder, max_shard_size=shard_size)
        return folder, logits

    return build


def edit_config(folder: Path, **changes) -> None:
    """Change the fields of a config.json; None takes a field away."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("shard_size", ["1GB", "20kB"])
@pytest.mark.parametrize("name", THEIRS)
def test_their_checkpoint_gives_their_logits(their_checkpoint, name: str, shard_size: str) -> None:
    folder, expected = their_checkpoint(name, shard_size)
    assert (folder / "model.safetensors.index.json").exists() == (shard_size == "20kB")
    config = json.loads((folder / "config.json").read_text())
    assert "rope_parameters" in config
    assert "dtype" in config
    model = load_checkpoint(folder)
    assert model.stop_ids == {7}
    with torch.inference_mode():
        assert_close(model(TOKENS), expected, atol=1e-4, rtol=1e-4)
        if shard_size != "1GB":
            return
        cache = KVCache(model.architecture, len(TOKENS), TOKENS.shape[1], torch.float32)
        start = 0
        for length in (120, 1, 1, 5, 1, 9, 13):  # a prefill, plain steps and verifications
            positions = torch.arange(start, start + length).expand(len(TOKENS), -1)
            piece = TOKENS[:, start : start + length]
            logits = model(piece, positions, cache, start + length)
            here = slice(start, start + length)
            assert_close(logits, expected[:, here], atol=1e-4, rtol=1e-4)
            start += length
        assert start == TOKENS.shape[1]


@pytest.mark.parametrize("name", ["llama", "llama-3.1", "qwen3", "mixtral"])
def test_a_config_in_the_older_spelling_gives_the_same_logits(their_checkpoint, name: str) -> None:
    folder, expected = their_checkpoint(name)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    edit_config(
        folder,
        rope_parameters=None,
        dtype=None,
        torch_dtype="float32",
        rope_theta=rope["rope_theta"],
        rope_scaling=scaling if rope["rope_type"] == "llama3" else None,
    )
    with torch.inference_mode():
        assert_close(load_checkpoint(folder)(TOKENS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tied_head": True},
        {"qkv_bias": True},
        {"qk_norm": True, "head_dim": 12},
        {"experts": Experts(4, 2, 24), "intermediate_size": 24},
        {"qk_norm": True, "experts": Experts(4, 2, 24, dense_layers=(0,), normalized=False)},
        {"qkv_bias": True, "experts": Experts(4, 2, 24, shared_size=16, shared_gate=True)},
    ],
    ids=["llama", "tied", "qwen2", "qwen3", "mixtral", "qwen3-moe", "qwen2-moe"],
)
def test_what_we_save_transformers_reads(tiny, transformers, tmp_path: Path, fields) -> None:
    model = tiny(dtype=torch.float32, max_context=256, vocab_size=97, **fields)
    save_checkpoint(model, tmp_path, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_we_save_we_read_bit_for_bit(tiny, tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny(dtype=dtype, qkv_bias=True)
    model.stop_ids = frozenset({3})
    save_checkpoint(model, tmp_path, dtype=dtype)
    loaded = load_checkpoint(tmp_path, dtype=dtype, packed=False)
    assert loaded.stop_ids == {3}
    assert loaded.dtype == dtype
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, saved[name]), name
    assert torch.equal(loaded.rotary, model.rotary)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_every_stop_token_survives_a_round_trip(tiny, tmp_path: Path) -> None:
    model = tiny()
    model.stop_ids = frozenset({3, 5, 60})
    save_checkpoint(model, tmp_path)
    assert load_checkpoint(tmp_path).stop_ids == {3, 5, 60}


def test_a_tied_head_stays_one_tensor(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(tied_head=True), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path, packed=False)
    assert loaded.head.weight is loaded.embedding.weight


def test_a_checkpoint_is_loaded_packed_where_that_is_possible(tiny, tmp_path: Path) -> None:
    model = tiny(dtype=torch.float32)
    save_checkpoint(model, tmp_path, dtype=torch.float32)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded.head, PackedLinear) == can_pack(model.norm)
    tokens = TOKENS % 61
    with torch.inference_mode():
        assert_close(loaded(tokens[:, :90]), model(tokens[:, :90]), atol=1e-4, rtol=1e-4)


def test_a_packed_model_is_saved_whole_or_refused(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(dtype=torch.float32), tmp_path / "one", dtype=torch.float32)
    packed = load_checkpoint(tmp_path / "one")
    if not isinstance(packed.head, PackedLinear):
        pytest.skip("this CPU has no packed kernels")
    try:
        save_checkpoint(packed, tmp_path / "two", dtype=torch.float32)
    except SpecsimError:
        return
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()


def test_the_stop_ids_of_the_generation_config_come_first(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(), tmp_path)
    edit_config(tmp_path, eos_token_id=1)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert load_checkpoint(tmp_path).stop_ids == {2, 9}
    generation.unlink()
    assert load_checkpoint(tmp_path).stop_ids == {1}
    edit_config(tmp_path, eos_token_id=None)
    assert load_checkpoint(tmp_path).stop_ids == frozenset()


def test_shards_are_put_together(tiny, tmp_path: Path) -> None:
    model = tiny()
    save_checkpoint(model, tmp_path, dtype=torch.float64)
    in_shards(tmp_path)
    loaded = load_checkpoint(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded(TOKENS % 61), model(TOKENS % 61))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(SpecsimError, match=r"no such file: .*b\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("experts", [None, Experts(4, 2, 24)], ids=["dense", "experts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_decodes_on_a_cpu(tiny, tmp_path: Path, dtype: torch.dtype, experts) -> None:
    save_checkpoint(tiny(4, experts=experts, intermediate_size=24), tmp_path, dtype=torch.float32)
    exact, model = load_checkpoint(tmp_path), load_checkpoint(tmp_path, dtype=dtype)
    with torch.inference_mode():
        p, q = (m(TOKENS[:, :90] % 61).float().softmax(-1) for m in (exact, model))
    assert torch.minimum(p, q).sum(-1).mean() > 0.97
    run = speculate(model, DraftModel(exact, 3), [[1, 2], [3]], 30, temperature=1.0)
    assert [len(tokens) for tokens in run.tokens] == [30, 30]
    assert run.statistics.alpha > 0.9


# What is refused


@pytest.fixture
def saved(tiny, tmp_path: Path) -> Path:
    save_checkpoint(tiny(), tmp_path)
    return tmp_path


def test_a_missing_file_is_named(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(SpecsimError, match=r"no such file: .*model\.safetensors"):
        load_checkpoint(saved)
    (saved / "config.json").unlink()
    with pytest.raises(SpecsimError, match=r"no such file: .*config\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SpecsimError, match=r"model\.safetensors is truncated"):
        load_checkpoint(saved)


def test_a_missing_weight_is_named(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(SpecsimError, match=r"lacks model\.layers\.1\.self_attn\.k_proj\.weight"):
        load_checkpoint(saved)


def test_a_weight_of_another_shape_is_named(saved: Path) -> None:
    edit_config(saved, intermediate_size=50)
    with pytest.raises(SpecsimError, match=r"gate_proj.* has shape .*config\.json says"):
        load_checkpoint(saved)


def test_a_weight_that_we_would_ignore_is_refused(saved: Path) -> None:
    """`attention_bias` of Llama and Qwen3 puts a bias on the output projection too."""
    weights = load_file(saved / "model.safetensors")
    weights["model.layers.0.self_attn.o_proj.bias"] = torch.ones(32)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(SpecsimError, match=r"o_proj\.bias"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "generation_config.json"])
def test_json_beside_the_weights_that_is_broken_is_refused(saved: Path, name: str) -> None:
    (saved / name).write_text("{")
    with pytest.raises(SpecsimError, match=name):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "proportional", "factor": 2.0},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_positions_that_we_would_get_wrong_are_refused(saved: Path, scaling, spelling) -> None:
    kind = scaling["rope_type"]
    edit_config(saved, **{"rope_parameters": None, "rope_scaling": None} | {spelling: scaling})
    with pytest.raises(SpecsimError, match=f"has rope_type '{kind}'"):
        load_checkpoint(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved: Path, value: float) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(
        SpecsimError, match=r"layers\.1\.down\.weight holds numbers that are not fin"
    ):
        load_checkpoint(saved)


def test_weights_too_large_for_the_dtype_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, saved / "model.safetensors")
    load_checkpoint(saved, dtype=torch.bfloat16)
    with pytest.raises(SpecsimError, match="norm holds numbers that are not finite"):
        load_checkpoint(saved, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool])
@pytest.mark.parametrize("fields", [{"qkv_bias": True}, MIXTRAL], ids=["dense", "experts"])
def test_one_weight_of_any_place_that_is_in_codes_is_refused(
    tiny, tmp_path: Path, dtype: torch.dtype, fields
) -> None:
    """A part of a fused weight, too: joined with its neighbours its codes would become weights."""
    save_checkpoint(tiny(num_layers=1, **fields), tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert len(weights) >= 14
    for name, weight in weights.items():
        save_file(weights | {name: weight.to(dtype)}, file)
        with pytest.raises(SpecsimError, match=rf"{name} holds \w+, not floating-point") as refused:
            load_checkpoint(tmp_path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_floats_of_several_widths_in_one_fused_weight_are_joined(saved: Path, dtype) -> None:
    """Their values are read as they are: a checkpoint may keep some tensors in more bits."""
    expected = load_checkpoint(saved, packed=False).state_dict()
    weights = load_file(saved / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"
    save_file(weights | {name: weights[name].to(dtype)}, saved / "model.safetensors")
    for name, weight in load_checkpoint(saved, packed=False).state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_parts_that_only_fit_together_are_refused(saved: Path) -> None:
    """A row less in k and a row more in v are as many rows, of other heads."""
    weights = load_file(saved / "model.safetensors")
    q, k = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    moved = {q: weights[q][:-8], k: torch.cat((weights[k], weights[q][-8:]))}
    save_file(weights | moved, saved / "model.safetensors")
    with pytest.raises(SpecsimError, match=r"q_proj\.weight has shape \(24, 32\); config"):
        load_checkpoint(saved)


def test_a_layer_more_or_less_than_the_config_says_is_refused(saved: Path) -> None:
    edit_config(saved, num_hidden_layers=1)
    with pytest.raises(SpecsimError, match=r"layers\.1\..* has no place in this model"):
        load_checkpoint(saved)
    edit_config(saved, num_hidden_layers=3)
    with pytest.raises(SpecsimError, match=r"lacks model\.layers\.2"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", ['{"weight_map": {}}', '{"weight_map": 3}', "{}"])
def test_an_index_without_a_map_is_refused(saved: Path, content: str) -> None:
    (saved / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SpecsimError, match="must hold a table weight_map"):
        load_checkpoint(saved)


def in_shards(folder: Path) -> dict[str, str]:
    """Split the weights of a checkpoint into two files; returns the map that its index holds."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map) -> None:
    content = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(content)


@pytest.mark.parametrize(
    "place", ["../b.safetensors", "{folder}/b.safetensors", "sub/b.safetensors", "..", ".", "",
              "./b.safetensors", "sub\\\\b.safetensors", "C:b.safetensors", "b\\0", 3, None, ["b"]],
)  # fmt: skip
def test_an_index_names_files_of_its_own_folder_alone(tiny, tmp_path: Path, place) -> None:
    folder = tmp_path / "model"
    save_checkpoint(tiny(), folder)
    weight_map = in_shards(folder)
    (folder / "sub").mkdir()
    for copy in (tmp_path, folder / "sub"):
        (copy / "b.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    place = place.format(folder=folder) if isinstance(place, str) else place
    write_index(folder, {k: place if v == "b.safetensors" else v for k, v in weight_map.items()})
    with pytest.raises(SpecsimError, match="must name a file of its own folder") as refused:
        load_checkpoint(folder)
    assert "\n" not in str(refused.value)


def test_an_index_and_its_shards_say_the_same(saved: Path) -> None:
    weight_map = in_shards(saved)
    (one, other), norm = ("a.safetensors", "b.safetensors"), "model.norm.weight"
    elsewhere = one if weight_map[norm] == other else other
    write_index(saved, weight_map | {norm: elsewhere})
    with pytest.raises(SpecsimError, match=r"does not say so"):
        load_checkpoint(saved)
    write_index(saved, weight_map | {"model.more.weight": one})
    with pytest.raises(SpecsimError, match=r"lacks model\.more\.weight, which .*index\.json lists"):
        load_checkpoint(saved)
    write_index(saved, weight_map)
    shard = load_file(saved / elsewhere)
    save_file(shard | {norm: torch.ones(32)}, saved / elsewhere)
    with pytest.raises(SpecsimError, match="does not say so"):
        load_checkpoint(saved)


@pytest.mark.parametrize("value", ["2", 2.5, True, {"a": 1}, [2, "3"], [[2]]])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_stop_token_that_is_no_token_is_refused(saved: Path, file: str, value) -> None:
    (saved / "generation_config.json").write_text("{}")
    content = json.loads((saved / file).read_text()) | {"eos_token_id": value}
    (saved / file).write_text(json.dumps(content))
    with pytest.raises(SpecsimError, match=rf"{file}: eos_token_id must be a token id"):
        load_checkpoint(saved)


def test_positions_that_do_not_fit_into_memory_are_what_is_named(saved: Path, monkeypatch) -> None:
    monkeypatch.setattr("reference.memory.free_bytes", lambda device: 1e9)
    edit_config(saved, max_position_embeddings=90_000_000)
    with pytest.raises(SpecsimError, match=r"angles of 90,000,064 positions .* need 11\.5 GB"):
        load_checkpoint(saved)


def test_a_number_of_layers_costs_nothing_before_their_weights_are_there(saved: Path) -> None:
    edit_config(saved, num_hidden_layers=9_999)
    with pytest.raises(SpecsimError, match=r"lacks model\.layers\.2, and .* says 9999 layers"):
        load_checkpoint(saved)


BAD_TOKENIZERS = {
    "empty": b"",
    "cut": b'{"version": "1.0", "model": {',
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "no model": b'{"version": "1.0"}',
    "another type": b"[1, 2]",
    "ids below 0": b'{"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
    "merges of nothing": b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
    "a bad pattern": b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},'
    b'"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",'
    b'"invert": false}}',
}


@pytest.mark.parametrize("kind", BAD_TOKENIZERS)
def test_a_tokenizer_that_is_broken_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(BAD_TOKENIZERS[kind])
    with pytest.raises(SpecsimError, match=r"tokenizer\.json") as refused:
        Tokenizer(file)
    assert "\n" not in str(refused.value)


def test_text_that_cannot_be_encoded_is_refused_in_one_line() -> None:
    tokenizer = Tokenizer(PAIR / "target" / "tokenizer.json")
    with pytest.raises(SpecsimError, match="cannot encode this text"):
        tokenizer.encode("a\udcff")
    with pytest.raises(SpecsimError, match="cannot decode these tokens"):
        tokenizer.decode([2**70])


def test_a_tokenizer_neither_pads_nor_cuts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as RawTokenizer

    raw = RawTokenizer.from_file(str(PAIR / "target" / "tokenizer.json"))
    raw.enable_padding(length=50)
    raw.enable_truncation(3)
    raw.save(str(tmp_path / "tokenizer.json"))
    text = "import os\n\nprint(os.getcwd())"
    whole = Tokenizer(PAIR / "target" / "tokenizer.json").encode(text)
    assert Tokenizer(tmp_path / "tokenizer.json").encode(text) == whole


def test_what_cannot_be_written_is_said_in_one_line(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(), tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    (tmp_path / "a" / "model.safetensors").symlink_to("/dev/full")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "a", tmp_path / "file"):
        with pytest.raises(SpecsimError, match="cannot write") as refused:
            save_checkpoint(tiny(), folder)
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.new"))


def test_weights_that_do_not_fit_are_refused_with_their_size(saved: Path, monkeypatch) -> None:
    monkeypatch.setattr("reference.memory.free_bytes", lambda device: 30_000)
    with pytest.raises(
        SpecsimError, match=r"the weights of .* need [\d.]+ kB of memory; 30 kB are free"
    ):
        load_checkpoint(saved)
    monkeypatch.undo()
    assert load_checkpoint(saved).architecture.num_layers == 2


# The hub


def in_a_hub_cache(tiny, root: Path) -> None:
    """A model as huggingface_hub keeps it: blobs, and snapshots that point to them."""
    folder = root / "hub" / "models--someone--tiny"
    made = folder / "made"
    save_checkpoint(tiny(5), made, dtype=torch.float64)
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    for file in made.iterdir():
        blob = folder / "blobs" / file.name
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    made.rmdir()


def test_a_hub_id_is_found_in_the_cache_without_a_network(
    tiny, tmp_path: Path, monkeypatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    in_a_hub_cache(tiny, tmp_path)
    # as HF_HUB_OFFLINE and HF_HOME would set them
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load_checkpoint(resolve("someone/tiny"), dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3]])
    assert_close(model(tokens), tiny(5)(tokens))
    with pytest.raises(SpecsimError, match="cannot fetch someone/absent from the hub"):
        resolve("someone/absent")


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(SpecsimError, match="no such folder"):
        resolve(tmp_path / "absent")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SpecsimError, match="is a file"):
        resolve(file)


# Pairs


def save_pair(
    tiny, folder: Path, vocabularies: tuple[int, int], words: tuple[int, int], **fields
) -> None:
    from tokenizers import Tokenizer, models

    sides = zip(("target", "draft"), vocabularies, words, strict=True)
    for seed, (side, size, word_count) in enumerate(sides):
        vocabulary = {f"w{index}": index for index in range(word_count)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
        save_checkpoint(tiny(seed, vocab_size=size, **fields), folder / side, tokenizer=tokenizer)


def test_a_pair_is_loaded_from_one_folder_or_two(tiny, tmp_path: Path) -> None:
    save_pair(tiny, tmp_path, (61, 61), (61, 61))
    for arguments in ((tmp_path,), (tmp_path / "target", tmp_path / "draft")):
        target, draft, tokenizer = load_pair(*arguments, dtype=torch.float64)
        assert target.dtype == draft.dtype == torch.float64
        assert target.architecture.name == "target"
        assert draft.architecture.name == "draft"
        assert tokenizer.encode("w3") == [3]


@pytest.mark.parametrize("sizes", [(61, 72), (80, 61), (64, 72)])
@pytest.mark.parametrize("fields", [{}, {"tied_head": True}], ids=["untied", "tied"])
def test_vocabularies_that_differ_in_padding_are_cut_to_the_real_one(
    tiny, tmp_path: Path, sizes, fields
) -> None:
    save_pair(tiny, tmp_path, sizes, (61, 61), **fields)
    whole = [load_checkpoint(tmp_path / side) for side in ("target", "draft")]
    target, draft, _ = load_pair(tmp_path)
    tokens = TOKENS[:, :90] % 61
    for model, padded, size in zip((target, draft), whole, sizes, strict=True):
        assert model.architecture.vocab_size == 61
        assert padded.architecture.vocab_size == size
        stored = sum(parameter.numel() for parameter in model.embedding.parameters())
        assert stored == model.architecture.embedding_parameters
        with torch.inference_mode():
            logits = model(tokens)
            assert_close(logits, padded(tokens)[..., :61], atol=1e-4, rtol=1e-4)
    options = {"temperature": 1.0, "seed": 3}
    run = speculate(target, DraftModel(draft, 3), [[1, 2], [60]], 30, **options)
    assert max(map(max, run.tokens)) < 61
    assert run.statistics.drafted > 0


def test_padding_stays_where_both_have_the_same(tiny, tmp_path: Path) -> None:
    """As transformers does: then nothing is to be reconciled."""
    save_pair(tiny, tmp_path, (64, 64), (61, 61))
    assert [model.architecture.vocab_size for model in load_pair(tmp_path)[:2]] == [64, 64]


@pytest.mark.parametrize(("vocabularies", "words"), [((61, 60), (61, 61)), ((61, 61), (61, 60))])
def test_a_pair_of_two_vocabularies_is_refused(tiny, tmp_path: Path, vocabularies, words) -> None:
    save_pair(tiny, tmp_path, vocabularies, words)
    with pytest.raises(SpecsimError, match="vocabular"):
        load_pair(tmp_path)


def test_half_a_pair_is_refused(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(), tmp_path / "target")
    with pytest.raises(SpecsimError, match="not a pair"):
        load_pair(tmp_path)

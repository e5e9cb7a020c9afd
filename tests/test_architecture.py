"""The shape of a model: counted by hand, checked against every published count, read from files."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from specsim import catalog
from specsim.architecture import (
    Architecture,
    Experts,
    LatentAttention,
    Llama3RopeScaling,
    from_config,
    model,
    to_config,
)
from specsim.checks import SpecsimError

PRESETS = catalog.load("models")
LLAMA_SHAPED = [name for name in PRESETS if not model(name).departures]

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tiny(**changes) -> Architecture:
    return from_config(TINY | changes, "tiny")


# ------------------------------------------------------------------------------------------ counts


def test_llama_31_8b_counted_by_hand():
    attention = 4096 * (32 * 128) + 2 * 4096 * (8 * 128) + (32 * 128) * 4096  # q, k and v, output
    mlp = 3 * 4096 * 14336  # gate, up, down
    layer = attention + mlp + 2 * 4096  # two norms
    everything = 2 * 128256 * 4096 + 32 * layer + 4096  # embedding and head, layers, last norm
    assert everything == 8_030_261_248
    llama = model("llama-3.1-8b")
    assert llama.parameters == everything
    assert everything - llama.first_layers(31).parameters == layer


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_the_published_count(name):
    row, shape = PRESETS[name], model(name)
    assert shape.parameters == row["parameters"]
    assert shape.active_parameters == row.get("active_parameters", row["parameters"])


def test_deepseek_v3_with_its_mtp_module_is_the_whole_checkpoint():
    """The safetensors total of the bf16 checkpoint, which stores both tables a second time."""
    v3 = model("deepseek-v3")
    assert v3.mtp_layers == 1
    assert v3.parameters + v3.mtp_parameters + 2 * v3.embedding_parameters == 684_489_845_504
    assert model("llama-3.1-8b").mtp_parameters == 0


def test_the_bundled_pair_is_the_pair_in_its_folder():
    for name, parameters in [("bundled-target", 6_820_096), ("bundled-draft", 787_008)]:
        assert model(name).parameters == parameters
        folder = Path(__file__).parent.parent / "reference" / "pair" / name.split("-")[1]
        if (folder / "config.json").is_file():
            assert model(folder).parameters == parameters


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("llama-3.1-8b", 65_536),
        ("llama-3.1-70b", 163_840),
        ("llama-2-7b", 262_144),
        ("deepseek-v3", 61 * 576),  # one latent for 128 heads, and not 128 heads of 128 + 192
    ],
)
def test_J1_kv_elements_per_token(name, elements):
    assert model(name).kv_elements_per_token == elements  # kappa 131072, 327680, 524288 bytes


def test_head_dim_is_a_field_of_its_own():
    assert tiny().head_dim == 16  # hidden / heads only where the config is silent
    assert tiny(head_dim=32).query_size == 128
    assert model("qwen3-0.6b").head_dim == 128 != 1024 // 16


def test_missing_kv_heads_means_one_for_each_query_head():
    silent = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    assert from_config(silent, "mha").num_kv_heads == 4


def test_first_layers_is_the_same_model_cut_short():
    llama = model("llama-3.1-8b")
    cut = llama.first_layers(8)
    assert llama.parameters - cut.parameters == 24 * 218_112_000
    assert (cut.name, cut.vocab_size) == ("llama-3.1-8b-first-8", llama.vocab_size)
    with pytest.raises(SpecsimError, match="has 32 layers; cannot keep the first 33"):
        llama.first_layers(33)


# ------------------------------------------------------------------------------- reading a config


def test_rope_in_the_spellings_of_transformers_4_and_5():
    plain = tiny(rope_theta=5e5)
    assert plain == tiny(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert (plain.rope_theta, plain.rope_scaling) == (5e5, None)
    scaled = tiny(rope_theta=5e5, rope_scaling=LLAMA3_ROPE)
    assert scaled == tiny(rope_parameters=LLAMA3_ROPE | {"rope_theta": 5e5})
    assert scaled == tiny(rope_theta=5e5, rope_parameters=LLAMA3_ROPE)
    assert scaled.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    older = {("type" if key == "rope_type" else key): LLAMA3_ROPE[key] for key in LLAMA3_ROPE}
    assert scaled == tiny(rope_theta=5e5, rope_scaling=older)


def preset(name):
    """A model of the catalog as its config.json tells it: without its tokenizer."""
    return replace(model(name), tokenizer=None)


@pytest.mark.parametrize("name", LLAMA_SHAPED)
def test_to_config_reads_back_as_the_same_shape(name):
    shape = replace(preset(name), mtp_layers=0)  # MTP modules are not written
    through_json = json.loads(json.dumps(to_config(shape)))
    assert from_config(through_json, shape.name) == shape


@pytest.mark.parametrize("spelling", ["Llama 3.1 8B", "meta-llama/Llama-3.1-8B", "LLAMA-3.1-8B"])
def test_a_preset_is_found_by_alias_and_hub_id(spelling):
    assert model(spelling) == model("llama-3.1-8b")


def test_a_folder_a_file_and_a_config_by_another_name(tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    (folder / "other.json").write_text(json.dumps(TINY))
    assert model(folder) == model(folder / "config.json") == tiny_called("my-model")
    assert model(str(folder / "other.json")) == tiny_called("other")
    monkeypatch.chdir(tmp_path)
    assert model("my-model") == model("./my-model/") == tiny_called("my-model")
    (tmp_path / "llama-3.1-8b").mkdir()  # a folder without a config hides no preset
    assert model("llama-3.1-8b").parameters == 8_030_261_248


def tiny_called(name: str) -> Architecture:
    return from_config(TINY, name)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("field", [key for key in TINY if key not in (
    "model_type", "num_key_value_heads", "max_position_embeddings")])  # fmt: skip
def test_a_missing_field_is_named(field):
    with pytest.raises(SpecsimError, match=f"tiny: config.json lacks the field {field!r}"):
        from_config({k: v for k, v in TINY.items() if k != field}, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistrel"}, "model_type 'mistrel' is not supported; .* nearest mistral"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, not '64'"),
        ({"hidden_size": 64.0}, "hidden_size must be a positive integer, not 64.0"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, not 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 KV heads evenly"),
        ({"head_dim": 15}, "head_dim 15 must be even"),
        (
            {"max_position_embeddings": -1},
            "max_position_embeddings must be a positive integer, not -1",
        ),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a finite number above 0, not 'small'"),
        ({"rope_theta": 0}, "rope_theta must be a finite number above 0, not 0"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type 'spiral' is not supported"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "lacks the field 'low_freq_factor'"),
        ({"rope_scaling": LLAMA3_ROPE | {"factor": "x"}}, "rope scaling holds no number"),
        ({"rope_scaling": "llama3"}, "rope_scaling must be a table, not 'llama3'"),
        ({"rope_parameters": [1]}, r"rope_parameters must be a table, not \[1\]"),
        ({"hidden_act": ["silu"]}, r"hidden_act \['silu'\] is not supported"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        ({"hidden_act": "snake"}, "hidden_act 'snake' is not supported; known: silu"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        tiny(**changes)
    assert str(refused.value).startswith("tiny: ")
    assert "\n" not in str(refused.value)


# --------------------------------------------------------- an unknown family, read as another

MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def test_a_config_of_an_unknown_family_is_read_as_the_one_that_is_named():
    odd = from_config(TINY | {"model_type": "mistrel"}, "odd", like="mistral")
    known = from_config(TINY | {"model_type": "mistral"}, "odd")
    assert replace(odd, read_as=None) == known
    assert known.read_as is None
    assert odd.read_as == (
        "Read as mistral, because its model_type 'mistrel' is not known: parts that this family "
        "does not have are not priced."
    )
    assert from_config(TINY, "tiny", like="gpt2") == tiny()  # known: as it says itself


def test_what_such_a_family_does_not_read_is_named():
    fields = TINY | MOE | {"model_type": "new", "bos_token_id": 1, "architectures": ["NewModel"]}
    as_llama = from_config(fields, "new", like="llama")
    assert as_llama.experts is None
    assert as_llama.read_as.endswith(f"not read and not priced: {', '.join(MOE)}.")
    as_moe = from_config(fields, "new", like="qwen3_moe")
    assert (as_moe.experts.count, as_moe.experts.per_token) == (8, 2)
    assert "not read" not in as_moe.read_as


def test_a_multimodal_file_of_an_unknown_family_takes_no_sizes_from_a_class():
    text = {key: value for key, value in TINY.items() if key not in ("model_type", "hidden_size")}
    with pytest.raises(SpecsimError, match="lacks the field 'hidden_size'"):
        from_config({"model_type": "new", "text_config": text}, "new", like="qwen3_5_text")
    whole = {"model_type": "new", "text_config": TINY | {"model_type": "new_text"}}
    assert "'new_text'" in from_config(whole, "new", like="llama").read_as


def test_an_unknown_family_is_refused_with_what_could_be_passed():
    with pytest.raises(SpecsimError, match="name that: --like mistral"):
        from_config(TINY | {"model_type": "mistrel"}, "odd")
    with pytest.raises(SpecsimError, match="name that: --like llama"):
        from_config(TINY | {"model_type": "zzz"}, "odd")
    with pytest.raises(SpecsimError, match=r"--like 'lama' is no model_type .* nearest: llama"):
        from_config(TINY | {"model_type": "zzz"}, "odd", like="lama")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "must hold a JSON object, not a list"),
        ("\xff\xfe", "is not valid JSON"),
        (None, "no such file: .*config.json|holds no config.json"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(SpecsimError, match=message):
            model(path)


@pytest.mark.parametrize("name", ["a/b/c", "missing.json", "../missing", "/missing"])
def test_a_path_that_does_not_exist_is_said_to_be_missing(name):
    with pytest.raises(SpecsimError, match=f"no such file: {re.escape(name)}"):
        model(name)


@pytest.mark.parametrize("name", ["llama-3.1-9b", "meta-llama/Llama-3.1-9B"])
def test_an_unknown_name_lists_the_nearest(name):
    with pytest.raises(SpecsimError, match=r"nearest: .*llama-3.1-8b"):
        model(name)


def test_an_unknown_architecture_says_what_to_pass_by_hand():
    with pytest.raises(SpecsimError) as refused:
        tiny(model_type="gemma22")
    said = str(refused.value)
    assert "the nearest gemma2" in said
    by_hand = said.split("specsim.Architecture(")[1].split(")")[0]
    fields = [field.split("=")[0] for field in by_hand.split(", ")]
    assert set(fields) <= set(Architecture.__dataclass_fields__)
    assert fields[:8] == list(Architecture.__dataclass_fields__)[:8]


# --------------------------------------------------------------------------- more than the Llamas


def hub_config(name):
    """The catalog's config as the hub's file has it: without what is left to defaults."""
    row = PRESETS[name]
    left_out = row.get("defaults", ())
    return {key: value for key, value in row["config"].items() if key not in left_out}


@pytest.mark.parametrize("name", PRESETS)
def test_the_hubs_file_is_enough_where_it_leaves_fields_to_defaults(name):
    assert from_config(hub_config(name), name) == preset(name)


def test_a_multimodal_config_is_its_language_model():
    whole = {"model_type": "gemma3", "vision_config": {}, "text_config": hub_config("gemma-3-4b")}
    assert from_config(whole, "gemma-3-4b") == preset("gemma-3-4b")
    with pytest.raises(SpecsimError, match="model_type 'mllama_text_model' is not supp"):
        from_config({"text_config": {"model_type": "mllama_text_model"}}, "llama-3.2-11b")


@pytest.mark.parametrize(
    ("name", "window", "first", "count"),
    [
        ("gemma-2-9b", 4096, (0, 2, 4), 21),
        ("gemma-3-27b", 1024, (0, 1, 2, 3, 4, 6), 52),
        ("gemma-3-1b", 512, (0, 1, 2, 3, 4, 6), 22),
        ("gpt-oss-20b", 128, (0, 2, 4), 12),
        ("mistral-7b", 4096, (0, 1, 2), 32),
        ("phi-3-mini", 2047, (0, 1, 2), 32),
        ("qwen3-8b", None, (), 0),
    ],
)
def test_which_layers_slide(name, window, first, count):
    shape = model(name)
    assert shape.sliding_window == window
    assert shape.sliding_layers[: len(first)] == first
    assert len(shape.sliding_layers) == count


def test_windows_of_qwen_count_from_the_layer_they_begin_at():
    fields = {"model_type": "qwen2", "sliding_window": 128, "max_window_layers": 1}
    assert tiny(**fields).sliding_layers == ()
    assert tiny(**fields, use_sliding_window=True).sliding_layers == (1,)


def test_a_window_as_long_as_the_context_is_none():
    assert not tiny(model_type="mistral", sliding_window=512).departures
    assert tiny(model_type="mistral", sliding_window=511).sliding_layers == (0, 1)


def test_layer_types_must_fit_the_layers():
    with pytest.raises(SpecsimError, match="layer_types must name one of full_attention, sliding"):
        tiny(model_type="gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
             layer_types=["full_attention"])  # fmt: skip


def test_which_layers_keep_a_dense_mlp():
    assert model("deepseek-v3").experts.dense_layers == (0, 1, 2)
    assert model("deepseek-v3").expert_layers == 58
    moe = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    moe |= {"moe_intermediate_size": 16, "num_hidden_layers": 6}
    assert tiny(**moe, decoder_sparse_step=2).experts.dense_layers == (0, 2, 4)
    assert tiny(**moe, mlp_only_layers=[5]).experts.dense_layers == (5,)
    cut = model("deepseek-v3").first_layers(2)
    assert (cut.experts.dense_layers, cut.expert_layers, cut.mtp_layers) == ((0, 1), 0, 0)
    assert model("gemma-2-9b").first_layers(3).sliding_layers == (0, 2)


def test_an_mtp_module_is_one_layer_like_the_last():
    v3 = model("deepseek-v3")
    module = v3.mtp_module
    assert (module.num_layers, module.expert_layers, module.mtp_layers) == (1, 1, 0)
    tables, projection = 2 * v3.embedding_parameters, 2 * v3.hidden_size**2
    two_norms = 2 * v3.hidden_size  # and the projection; the head's norm is the module's own
    assert module.parameters - tables + projection + two_norms == v3.mtp_parameters
    assert model("gemma-2-9b").mtp_module.sliding_layers == ()
    assert model("gpt-oss-20b").first_layers(1).sliding_layers == (0,)


def test_correlated_routing_is_said_of_a_mixture():
    qwen = model("qwen3-30b-a3b").with_routing_correlation(0.45)
    assert qwen.experts.routing_correlation == 0.45
    assert qwen.parameters == model("qwen3-30b-a3b").parameters
    with pytest.raises(SpecsimError, match="has no experts whose routing"):
        model("llama-3.1-8b").with_routing_correlation(0.45)


def test_latent_attention_of_deepseek():
    v3, lite = model("deepseek-v3"), model("deepseek-v2-lite")
    assert v3.latent == LatentAttention(512, 64, 128, 128, 1536)
    assert (v3.head_dim, v3.value_size, v3.kv_elements_per_layer) == (192, 128 * 128, 576)
    assert lite.latent.query_rank is None


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_a_measurement_file(name):
    shape = model(name)
    assert Architecture.from_fields(json.loads(json.dumps(asdict(shape)))) == shape


@pytest.mark.parametrize(
    ("name", "departure"),
    [
        ("gpt-oss-20b", "experts with biases"),
        ("deepseek-v3", "latent attention"),
        ("mistral-7b", "a window of 4096 tokens"),
        ("phi-2", "LayerNorm"),
        ("gemma-2-2b", "4 norms a layer"),
        ("gemma-3-1b", "gelu as activation"),
        ("opt-125m", "learned positions"),
        ("gpt2", "an MLP of two matrices"),
        ("gpt-oss-20b", "rope_type 'yarn'"),
    ],
)
def test_what_the_decoder_cannot_run_is_said(name, departure):
    shape = model(name)
    assert shape.departures
    for refusal in (shape.require_llama_shape, lambda: to_config(shape)):
        with pytest.raises(SpecsimError, match=f"{name} has .*{departure}"):
            refusal()


def test_each_departure_is_one():
    plain = tiny()
    assert plain.require_llama_shape() is plain
    departing = {
        "norm": "layer", "norms_per_layer": 4, "gated_mlp": False, "activation": "relu",
        "output_bias": True, "mlp_bias": True, "head_bias": True, "learned_positions": 9,
        "attention_sinks": True, "attention_softcap": 50.0, "logit_softcap": 30.0,
        "rope_scaling": "yarn", "experts": Experts(4, 2, 16, biases=True),
        "latent": LatentAttention(8, 4, 8, 8),
    }  # fmt: skip
    for field, value in departing.items():
        assert len(replace(plain, **{field: value}).departures) == 1
    assert len(replace(plain, sliding_window=8, sliding_layers=(1,)).departures) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm": "batch"},
            "norm must be one of rms, layer, layer without bias, none, not 'batch'",
        ),
        ({"activation": "tanh"}, "tiny: activation must be one of silu"),
        ({"norms_per_layer": 3}, "tiny: norms_per_layer must be 1, 2 or 4, not 3"),
        ({"sliding_layers": (0,)}, "tiny: sliding_layers need a sliding_window"),
        ({"sliding_layers": (2,), "sliding_window": 4}, "tiny has no layer 2: they are 0 to 1"),
        ({"sliding_window": 0}, "tiny: sliding_window must be a positive integer, not 0"),
    ],
)
def test_shapes_that_cannot_be(changes, message):
    with pytest.raises(SpecsimError, match=message):
        replace(tiny(), **changes)


@pytest.mark.parametrize(
    ("noun", "message"),
    [
        (lambda: Experts(4, 5, 16), "a token cannot visit 5 of 4 experts"),
        (lambda: Experts(4, 2, 0), "intermediate_size must be a positive integer, not 0"),
        (lambda: Experts(4, 2, 8, routing_correlation=1.5), r"must be within \[0, 1\], got 1.5"),
        (lambda: Experts(4, 2, 8, shared_size=-1), "shared_size must be a whole number >= 0"),
        (lambda: LatentAttention(8, -4, 8, 8), "rope_size must be a whole number >= 0, not -4"),
        (lambda: LatentAttention(8, 4, 8, 8, 1.5), "query_rank must be a positive integer"),
        (lambda: LatentAttention(0, 4, 8, 8), "kv_rank must be a positive integer, not 0"),
    ],
)
def test_parts_that_cannot_be(noun, message):
    with pytest.raises(SpecsimError, match=message):
        noun()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opt-125m", {"do_layer_norm_before": False}, "do_layer_norm_before False"),
        ("opt-125m", {"word_embed_proj_dim": 512}, "word_embed_proj_dim 512"),
        ("deepseek-v3", {"attention_bias": True}, "attention_bias True is not supported"),
        ("deepseek-v3", {"q_lora_rank": math.nan}, "q_lora_rank must be a whole number >= 0"),
        ("deepseek-v3", {"n_shared_experts": "x"}, "n_shared_experts must be a whole number"),
        ("deepseek-v3", {"n_shared_experts": math.inf}, "n_shared_experts must be a whole number"),
        ("deepseek-v3", {"first_k_dense_replace": -1}, "first_k_dense_replace must be a whole"),
        ("qwen3-30b-a3b", {"mlp_only_layers": 7}, "mlp_only_layers must be a list, not 7"),
        ("gemma-2-9b", {"layer_types": 7}, "layer_types must be a list, not 7"),
        ("gemma-2-9b", {"layer_types": [[1]]}, "layer_types must name one of"),
        ("gemma-2-9b", {"max_position_embeddings": "x"}, "max_position_embeddings must be a"),
    ],
)
def test_variants_that_would_be_counted_wrong_are_refused(name, changes, message):
    with pytest.raises(SpecsimError, match=message):
        from_config(PRESETS[name]["config"] | changes, name)

"""The shape of a model: counted by hand, checked against every published count, read from files."""

import json
import re
from pathlib import Path

import pytest

from specsim import catalog
from specsim.architecture import Architecture, Llama3RopeScaling, model
from specsim.catalog import SpecsimError

LLAMA_FAMILY = {"llama", "mistral", "qwen2", "qwen3"}
PRESETS = catalog.load("models")
SUPPORTED = [name for name, row in PRESETS.items() if row["config"]["model_type"] in LLAMA_FAMILY]

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
    return Architecture.from_config(TINY | changes, "tiny")


# ------------------------------------------------------------------------------------------ counts


def test_llama_31_8b_counted_by_hand():
    attention = 4096 * (32 * 128) + 2 * 4096 * (8 * 128) + (32 * 128) * 4096  # q, k and v, output
    mlp = 3 * 4096 * 14336  # gate, up, down
    layer = attention + mlp + 2 * 4096  # two norms
    everything = 2 * 128256 * 4096 + 32 * layer + 4096  # embedding and head, layers, last norm
    assert everything == 8_030_261_248
    llama = model("llama-3.1-8b")
    assert (llama.layer_parameters, llama.parameters) == (layer, everything)


@pytest.mark.parametrize("name", SUPPORTED)
def test_parameters_are_the_published_count(name):
    published = PRESETS[name].get("parameters")
    if published is None:
        pytest.skip("no published count")
    assert model(name).parameters == published


@pytest.mark.parametrize(
    ("name", "elements"),
    [("llama-3.1-8b", 65_536), ("llama-3.1-70b", 163_840), ("llama-2-7b", 262_144)],
)
def test_J1_kv_elements_per_token(name, elements):
    assert model(name).kv_elements_per_token == elements  # kappa 131072, 327680, 524288 bytes


def test_head_dim_is_a_field_of_its_own():
    assert tiny().head_dim == 16  # hidden / heads only where the config is silent
    assert tiny(head_dim=32).query_size == 128
    assert model("qwen3-0.6b").head_dim == 128 != 1024 // 16


def test_missing_kv_heads_means_one_for_each_query_head():
    silent = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    assert Architecture.from_config(silent, "mha").num_kv_heads == 4


def test_first_layers_is_the_same_model_cut_short():
    llama = model("llama-3.1-8b")
    cut = llama.first_layers(8)
    assert llama.parameters - cut.parameters == 24 * llama.layer_parameters
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


@pytest.mark.parametrize("name", SUPPORTED)
def test_to_config_reads_back_as_the_same_shape(name):
    shape = model(name)
    through_json = json.loads(json.dumps(shape.to_config()))
    assert Architecture.from_config(through_json, shape.name) == shape


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
    return Architecture.from_config(TINY, name)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("field", [key for key in TINY if key not in (
    "model_type", "num_key_value_heads", "max_position_embeddings")])  # fmt: skip
def test_a_missing_field_is_named(field):
    with pytest.raises(SpecsimError, match=f"tiny: config.json lacks the field {field!r}"):
        Architecture.from_config({k: v for k, v in TINY.items() if k != field}, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; known: llama, mistral"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, not '64'"),
        ({"hidden_size": 64.0}, "hidden_size must be a positive integer, not 64.0"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, not 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 KV heads evenly"),
        ({"head_dim": 15}, "head_dim 15 must be even"),
        ({"max_position_embeddings": -1}, "max_context must be a positive integer, not -1"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number above 0, not 'small'"),
        ({"rope_theta": 0}, "rope_theta must be a number above 0, not 0"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "lacks the field 'low_freq_factor'"),
        ({"rope_scaling": LLAMA3_ROPE | {"factor": "x"}}, "rope scaling holds no number"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"use_sliding_window": True}, "sliding-window attention is not supported"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"attention_bias": True}, "attention_bias puts one on the output projection too"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(SpecsimError, match=message) as refused:
        tiny(**changes)
    assert str(refused.value).startswith("tiny: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "must hold a JSON object, not a list"),
        ("\xff\xfe", "is not valid JSON"),
        (None, "no such file: .*config.json"),
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


def test_an_unsupported_preset_says_so():
    with pytest.raises(SpecsimError, match="gpt-oss-20b: model_type 'gpt_oss' is not supported"):
        model("gpt-oss-20b")

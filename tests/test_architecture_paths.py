"""What a path means: a file, a folder and what it holds; and which files are no targets."""

import json
from pathlib import Path

import pytest

from specsim.architecture import Architecture, billions, draft_head, from_config, model
from specsim.checks import SpecsimError

PARAMS = {
    "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "hidden_dim": 128,
    "vocab_size": 100, "norm_eps": 1e-5,
}  # fmt: skip
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip
HEADER = {
    "general.architecture": "llama", "llama.embedding_length": 64, "llama.block_count": 2,
    "llama.feed_forward_length": 128, "llama.attention.head_count": 4, "llama.vocab_size": 100,
}  # fmt: skip
HEAD = CONFIG | {"num_hidden_layers": 1}


def folder_with(folder: Path, **files: object) -> Path:
    """A folder with files of JSON; `config_json` is called config.json."""
    folder.mkdir()
    for name, values in files.items():
        (folder / name.replace("_json", ".json")).write_text(json.dumps(values))
    return folder


def gguf(path: Path) -> None:
    """The header of a GGUF file with the fields of `HEADER` and no tensors."""
    out = b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + len(HEADER).to_bytes(8, "little")
    for key, value in HEADER.items():
        out += len(key).to_bytes(8, "little") + key.encode()
        if isinstance(value, str):
            out += (8).to_bytes(4, "little") + len(value).to_bytes(8, "little") + value.encode()
        else:
            out += (4).to_bytes(4, "little") + value.to_bytes(4, "little")
    path.write_bytes(out)


def test_a_folder_without_any_file_of_a_model_says_so(tmp_path, monkeypatch):
    folder_with(tmp_path / "empty", notes_json={})
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "./empty", "empty/", str(tmp_path / "empty"), tmp_path / "empty"):
        with pytest.raises(SpecsimError, match=r"empty holds no config\.json, no params\.json"):
            model(name)
        with pytest.raises(SpecsimError, match=r"empty holds no config\.json"):
            draft_head(name, model("llama-3.1-8b"))


def test_a_folder_hides_no_preset_unless_it_is_meant(tmp_path, monkeypatch):
    folder_with(tmp_path / "llama-3.1-8b")
    monkeypatch.chdir(tmp_path)
    assert model("llama-3.1-8b").parameters == 8_030_261_248
    for name in ("./llama-3.1-8b", "llama-3.1-8b/"):
        with pytest.raises(SpecsimError, match="holds no config"):
            model(name)
    with pytest.raises(SpecsimError, match=r"no such file: llama-3\.1-9b"):
        model("./llama-3.1-9b")


def test_a_folder_is_read_by_the_file_that_it_holds(tmp_path):
    params = folder_with(tmp_path / "mine", params_json=PARAMS)
    assert model(params) == model(params / "params.json") == from_config(PARAMS, "mine")
    both = folder_with(tmp_path / "both", params_json={}, config_json=CONFIG)
    assert model(both) == from_config(CONFIG, "both")
    held = folder_with(tmp_path / "held")
    gguf(held / "m-Q4_K_M.gguf")
    gguf(held / "mmproj-m.gguf")  # what sees images is no model of its own
    assert model(held) == model(held / "m-Q4_K_M.gguf")
    assert model(held).name == "m-Q4_K_M"
    assert draft_head(held, model("llama-3.1-8b")) is None
    gguf(held / "m-Q8_0.gguf")
    with pytest.raises(SpecsimError, match="and 2 GGUF files: give one of them"):
        model(held)


def test_later_parts_of_a_split_model_are_no_models(tmp_path):
    held = folder_with(tmp_path / "held")
    gguf(held / "m-00001-of-00002.gguf")
    gguf(held / "m-00002-of-00002.gguf")
    assert model(held).name == "m-00001-of-00002"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (HEAD | {"architectures": ["LlamaForCausalLMEagle3"]}, "an EAGLE-3 draft head"),
        (HEAD | {"architectures": ["EagleLlamaForCausalLM"]}, "an EAGLE draft head"),
        (HEAD | {"architectures": ["LlamaForCausalLM"], "bias": True}, "an EAGLE draft head"),
        (HEAD | {"draft_vocab_size": 50}, "an EAGLE-3 draft head"),
        (CONFIG | {"architectures": ["DFlashDraftModel"], "block_size": 16}, "a DFlash draft head"),
        (CONFIG | {"dflash_config": {"mask_token_id": 1}}, "a DFlash draft head"),
        (CONFIG | {"speculators_model_type": "peagle"}, "a P-EAGLE draft head"),
        (CONFIG | {"architectures": ["DeepSeekMTPModel"]}, "an MTP draft head"),
        ({"medusa_num_heads": 5}, "a Medusa draft head"),
        (CONFIG | {"architectures": ["MLPSpeculatorPreTrainedModel"]}, "is a draft head of a kind"),
    ],
)
def test_a_draft_head_is_no_target(tmp_path, config, told):
    folder = folder_with(tmp_path / "head", config_json=config)
    for name in (folder, folder / "config.json"):
        with pytest.raises(SpecsimError, match=told) as error:
            model(name)
        assert "\n" not in str(error.value)
        assert "give it as --draft" in str(error.value) or "not priced" in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        HEAD,  # one layer alone says nothing
        CONFIG | {"pard_token": 99},  # an ordinary draft model that drafts in one pass
        CONFIG | {"block_size": 4, "mask_token_id": 99},  # a diffusion model
        CONFIG | {"num_nextn_predict_layers": 1},
        {"model_type": "eagle_2_5_vl", "architectures": ["Eagle2_5_VLForConditionalGeneration"],
         "text_config": CONFIG},
    ],
)  # fmt: skip
def test_an_ordinary_model_is_a_target(tmp_path, config):
    found = model(folder_with(tmp_path / "mine", config_json=config))
    assert isinstance(found, Architecture)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (596_049_920, "0.596 billion"), (8_030_261_248, "8.03 billion"), (99_960_000_000, "100 b"),
        (405_853_388_800, "406 billion"), (999_700_000_000, "1,000 billion"),
        (1_026_408_232_448, "1,026 billion"),
    ],
)  # fmt: skip
def test_a_number_of_parameters_in_words(count, told):
    assert billions(count).startswith(told)


def test_a_model_of_a_trillion_parameters_shows_them_in_full():
    assert "parameters 1,026 billion" in repr(model("kimi-k2"))

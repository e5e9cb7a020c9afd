"""What a config leaves out, or says with null or an empty list, and what its checkpoint has."""

from dataclasses import replace

import pytest

from specsim.architecture import Attention, Experts, Mlp, from_config, layers_of, model
from specsim.checks import SpecsimError

LLAMA_4 = {
    "model_type": "llama4_text", "hidden_size": 64, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
    "intermediate_size_mlp": 128, "vocab_size": 100, "num_local_experts": 4,
    "num_experts_per_tok": 1, "attention_chunk_size": 32,
}  # fmt: skip
SMOL = {
    "model_type": "smollm3", "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "sliding_window": 32,
    "use_sliding_window": True,
}  # fmt: skip


def chunked(found):
    return [index for index, each in enumerate(layers_of(found)) if each.mixer.chunk]


def test_an_empty_list_of_layers_without_rope_says_nothing():
    """Scout and Maverick have one, and transformers then takes every fourth layer."""
    silent = from_config(LLAMA_4, "m")
    assert chunked(silent) == [0, 1, 2, 4, 5, 6]
    for nothing in ([], None):
        assert from_config(LLAMA_4 | {"no_rope_layers": nothing}, "m") == silent
    found = from_config(LLAMA_4 | {"no_rope_layers": [], "no_rope_layer_interval": 3}, "m")
    assert chunked(found) == [0, 1, 3, 4, 6, 7]
    listed = [0, 1, 1, 1] * 2
    assert chunked(from_config(LLAMA_4 | {"no_rope_layers": listed}, "m")) == [1, 2, 3, 5, 6, 7]
    with pytest.raises(SpecsimError, match="an entry for each of 8 layers, not 3"):
        from_config(LLAMA_4 | {"no_rope_layers": [1, 1, 0]}, "m")


def test_smollm3_reads_the_same_list():
    silent = from_config(SMOL, "m")
    assert silent.sliding_layers == (3, 7)
    assert from_config(SMOL | {"no_rope_layers": []}, "m") == silent
    assert from_config(SMOL | {"no_rope_layers": [0] + [1] * 7}, "m").sliding_layers == (0,)


def test_an_empty_list_of_expert_layers_means_none():
    assert from_config(LLAMA_4 | {"moe_layers": None}, "m").expert_layers == 8
    found = from_config(LLAMA_4 | {"moe_layers": []}, "m")
    assert {each.mlp for each in layers_of(found)} == {Mlp(128)}


@pytest.mark.parametrize("nothing", [[], None])
def test_llama_4_is_as_transformers_derives_it(nothing):
    transformers = pytest.importorskip("transformers")
    asked = LLAMA_4 | {"no_rope_layers": nothing, "moe_layers": nothing}
    fields = {key: value for key, value in asked.items() if key != "model_type"}
    derived = transformers.Llama4TextConfig(**fields).to_dict()
    ours = from_config(asked, "m")
    kinds = ["chunked_attention" if index in chunked(ours) else "full_attention"
             for index in range(8)]  # fmt: skip
    sparse = [i for i, each in enumerate(layers_of(ours)) if isinstance(each.mlp, Experts)]
    assert (kinds, sparse) == (derived["layer_types"], list(derived["moe_layers"]))


def test_lfm3_without_a_list_is_as_transformers_derives_it():
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Lfm3Config"):
        pytest.skip("this release of transformers has no LFM3")
    sizes = {
        "hidden_size": 64, "num_hidden_layers": 9, "num_attention_heads": 4, "vocab_size": 100,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "sliding_window": 32,
    }  # fmt: skip
    kinds = transformers.Lfm3Config(**sizes).layer_types
    read = {"model_type": "lfm3"} | sizes
    assert from_config(read, "m") == from_config(read | {"layer_types": kinds}, "m")


# ---------------------------------------------------------------------------------- MTP modules


def test_qwen3_next_ships_a_module_that_its_config_does_not_mention():
    """One layer of full attention and experts, two norms in front of a projection, one behind: as
    vLLM's Qwen3NextMultiTokenPredictor allocates it."""
    found = model("qwen3-next-80b-a3b")
    assert found.mtp_layers == 1
    module = found.mtp_layer
    assert isinstance(module.mixer, Attention)
    assert isinstance(module.mlp, Experts)
    hidden, queries, keys = 2048, 16 * 256, 2 * 256
    attention = hidden * (2 * queries + 2 * keys) + queries * hidden + 2 * 256  # with the gate
    expert = 3 * hidden * 512
    mlp = 512 * expert + expert + hidden * 512 + hidden  # a shared one, the router, a gate
    assert found.mtp_parameters == attention + mlp + 2 * hidden + 2 * hidden**2 + 3 * hidden
    assert found.parameters == 79_674_391_296  # without it, as before
    assert found.mtp_module.expert_layers == 1


@pytest.mark.parametrize(("said", "count"), [(None, 1), (0, 0), (2, 2)])
def test_what_a_config_says_of_its_modules_holds(said, count):
    from specsim import catalog

    config = dict(catalog.lookup("models", "qwen3-next-80b-a3b")["config"])
    for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers"):
        assert from_config(config | {key: said}, "m").mtp_layers == count


def test_the_modules_of_mimo_v2_flash_are_dense_with_a_window():
    """0.33 billion parameters each (vLLM's MiMoV2MTPLayer), not a mixture of 256 experts."""
    found = model("mimo-v2-flash")
    assert found.mtp_layers == 3
    module = found.mtp_layer
    assert module.mlp == Mlp(16384)
    windowed = next(each.mixer for each in layers_of(found) if each.mixer.window)
    assert module.mixer == windowed
    assert (windowed.num_kv_heads, windowed.window, windowed.sinks) == (8, 128, True)
    hidden = 4096
    attention = hidden * (64 * 192 + 8 * 192 + 8 * 128) + 64 * 128 * hidden + 64  # and the sinks
    one = attention + 3 * hidden * 16384 + 2 * hidden**2 + 5 * hidden
    assert found.mtp_parameters == 3 * one
    assert found.parameters == 308_778_768_832
    assert found.mtp_module.expert_layers == 0
    assert replace(found, mtp_layers=0).parameters == found.parameters

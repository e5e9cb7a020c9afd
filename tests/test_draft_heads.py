"""Draft heads from their own config: recognised, priced with their own shape, or refused."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

import specsim
from specsim.architecture import DraftHead, draft_head, head_from_config, model
from specsim.checks import SpecsimError
from specsim.drafting import DynamicTree, Medusa, StaticTree, TrainedHead, method
from specsim.operators import Workload
from specsim.scenario import Scenario, resolve

LLAMA, QWEN = model("llama-3.1-8b"), model("qwen3-8b")
LAYER = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
EAGLE_1 = LAYER | {"architectures": ["LlamaForCausalLM"], "bias": True}
EAGLE_3 = LAYER | {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 32000}
DFLASH = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "block_size": 16,
    "dflash_config": {"mask_token_id": 151669, "target_layer_ids": [1, 9, 17, 25, 33]},
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_hidden_layers": 5,
    "num_key_value_heads": 8,
    "num_target_layers": 36,
    "vocab_size": 151936,
}
MEDUSA = {"base_model_name_or_path": "lmsys/vicuna-7b-v1.3", "medusa_num_heads": 5}
SPECULATORS = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "transformer_layer_config": LAYER,
    "draft_vocab_size": 32000,
    "speculators_config": {
        "algorithm": "eagle3",
        "verifier": {"name_or_path": "meta-llama/Llama-3.1-8B-Instruct"},
    },
}
H100 = specsim.system("h100-sxm")


def read(config, target=LLAMA, asked=None) -> DraftHead:
    found = head_from_config(config, target, "head", asked)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "target", "name"),
    [
        (EAGLE_1, LLAMA, "eagle"),
        (EAGLE_3, LLAMA, "eagle-3"),
        (LAYER | {"draft_vocab_size": 32000}, LLAMA, "eagle-3"),
        (LAYER | {"eagle_config": {"use_aux_hidden_state": True}}, LLAMA, "eagle-3"),
        (EAGLE_3 | {"ptd_token_id": 128255}, LLAMA, "p-eagle"),
        (LAYER | {"architectures": ["PEagleDraftModel"]}, LLAMA, "p-eagle"),
        (LAYER | {"model_type": "eagle", "model": LAYER}, LLAMA, "eagle"),
        (DFLASH, QWEN, "dflash"),
        (DFLASH | {"architectures": ["SomeBlockDrafter"]}, QWEN, "dflash"),
        (DFLASH | {"architectures": ["Qwen3DSparkModel"]}, QWEN, "dflash"),
        (MEDUSA, model("vicuna-7b"), "medusa"),
        ({"model_type": "medusa", "hidden_size": 4096, "num_heads": 3}, LLAMA, "medusa"),
        (SPECULATORS, LLAMA, "eagle-3"),
        (LAYER | {"model_type": "qwen3_next_mtp"}, LLAMA, "mtp"),
        (LAYER | {"num_hidden_layers": 16, "pard_token": 128255}, LLAMA, "draft-model"),
    ],
)
def test_a_head_is_recognised(config, target, name):
    assert read(config, target).method == name


@pytest.mark.parametrize(
    "config", [LAYER, LAYER | {"num_hidden_layers": 16}, {"model_type": "qwen3", "hidden_size": 64}]
)
def test_an_ordinary_model_is_none(config):
    assert head_from_config(config, LLAMA, "model") is None


def test_every_matrix_of_an_eagle_3_head_is_counted():
    """By hand, as in its checkpoint: fc, q/k/v on embedding and feature, o, MLP, LM head."""
    head = read(EAGLE_3)
    hidden, draft = 4096, 32000
    columns = hidden + 2 * 1024
    layer = hidden * columns + hidden * hidden + 3 * hidden * 14336
    assert head.first_pass == 3 * hidden * hidden
    assert head.every_pass == hidden * columns
    drafter = method("eagle-3", LLAMA, head)
    held, _ = drafter.held_bytes(H100, batch=1, slots=1)
    matrices = layer + hidden * columns + 3 * hidden * hidden + draft * hidden
    norms = 3 * hidden
    assert_allclose(held, 2 * (matrices + norms), rtol=1e-9)
    moved = drafter.step(H100, Workload(context=0)).bytes_moved
    assert_allclose(moved, 2 * matrices, rtol=1e-4)
    # later passes of a chain do not fuse the target's states again
    empty = Workload(context=0)
    once, twice = (float(drafter.cycle(H100, empty, g).bytes_moved) for g in (1, 2))
    assert_allclose(twice - once, 2 * (matrices - 3 * hidden * hidden), rtol=1e-3)


def test_as_many_states_as_the_config_names():
    ids = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 8, 15, 22, 28]}}
    assert read(EAGLE_3 | ids).features == 5
    assert read(EAGLE_3 | {"eagle_config": {"use_aux_hidden_state": False}}).features == 1
    assert read(EAGLE_3).features == 3


def test_eagle_3_on_an_h100_as_the_file_is_given(tmp_path):
    """About 0.45 ms; 0.73 as an ordinary model of one layer."""
    file = tmp_path / "head.json"
    file.write_text(json.dumps(EAGLE_3))
    asked = {"target": "llama-3.1-8b", "draft": str(file), "accelerator": "h100-sxm", "alpha": 0.8}
    alone = resolve(Scenario(**asked))
    named = resolve(Scenario(**asked, method="eagle-3"))
    assert alone.method == named.method == "eagle-3"
    assert alone.drafter == named.drafter
    assert isinstance(alone.drafter, TrainedHead)
    assert_allclose(alone.predict(gamma=3).draft_step_s, 0.44e-3, rtol=0.02)


def test_dflash_is_one_pass_of_a_cycle(tmp_path):
    file = tmp_path / "head.json"
    file.write_text(json.dumps(DFLASH))
    found = resolve(
        Scenario(
            target="qwen3-8b", draft=str(file), accelerator="h100-sxm", gamma=15,
            tokens_per_cycle=5.0,
        )
    )  # fmt: skip
    prediction = found.predict(gamma=15)
    assert_allclose(prediction.speedup, 4.1, rtol=0.02)
    assert prediction.draft_s < 1.1 * prediction.draft_step_s
    assert found.drafter.max_gamma == 15
    assert found.gammas.max() == 15
    with pytest.raises(SpecsimError, match="can draft at most 15"):
        found.predict(gamma=16)
    cycles = np.asarray(found.drafter.cycle(H100, Workload(), np.arange(16)).seconds)
    assert cycles[0] == 0
    assert np.all(np.diff(cycles[1:]) >= 0)
    assert cycles[15] < 1.1 * cycles[1]


def test_a_block_without_an_anchor_drafts_one_more():
    spark = read(DFLASH | {"architectures": ["Qwen3DSparkModel"], "block_size": 7}, QWEN)
    assert spark.drafts == 7
    assert any("Markov" in note for note in spark.notes)


def test_p_eagle_drafts_in_one_pass():
    chain = method("eagle-3", LLAMA, read(EAGLE_3))
    block = method("p-eagle", LLAMA, read(EAGLE_3 | {"ptd_token_id": 1, "num_hidden_layers": 4}))
    one, many = (block.cycle(H100, Workload(), g).seconds for g in (1, 8))
    assert many < 1.1 * one
    assert block.cycle(H100, Workload(), 8).seconds < chain.cycle(H100, Workload(), 8).seconds


def test_medusa_from_its_file():
    vicuna = model("vicuna-7b")
    found = method("medusa", vicuna, read(MEDUSA | {"medusa_num_layers": 2}, vicuna))
    assert isinstance(found, Medusa)
    assert (found.max_gamma, found.layers) == (5, 2)
    held, _ = found.held_bytes(H100, batch=1, slots=1)
    assert held == 2 * 5 * 4096 * (2 * 4096 + 32000)
    truncated = read(MEDUSA | {"truncated_vocab_size": 8000}, vicuna)
    assert method("medusa", vicuna, truncated).draft_vocab == 8000


def test_what_a_file_leaves_out_is_the_targets():
    cut = SPECULATORS | {"transformer_layer_config": {"model_type": "llama", "hidden_size": 4096}}
    whole = read(SPECULATORS)
    assert read(cut).body.intermediate_size == whole.body.intermediate_size == 14336
    assert read(cut).every_pass == whole.every_pass


def test_a_head_is_in_its_own_precision():
    """An fp8 target's head is in 16 bits, unless its file says otherwise; a shared LM head is the
    target's."""
    fp8 = specsim.system("h100-sxm", precision="fp8")
    wide = method("eagle-3", LLAMA, read(EAGLE_3))
    assert wide.priced_on(fp8).precision.name == "bf16"
    narrow = read(EAGLE_3 | {"quantization_config": {"quant_method": "fp8"}})
    own = method("eagle-3", LLAMA, narrow).priced_on(H100).precision
    assert (own.name, own.weight_bytes) == ("fp8", 1.0)
    named = method("eagle-3", LLAMA, read(EAGLE_3), draft_precision="int4")
    assert named.priced_on(fp8).precision.name == "int4"
    int4 = specsim.system("h100-sxm", precision="int4")
    shared = method("eagle", LLAMA, read(EAGLE_1)).priced_on(int4).precision
    assert shared.weight_bytes == 2.0
    assert shared.bytes_per_head_weight == int4.precision.bytes_per_head_weight


def test_trees_grow_from_a_head():
    assert isinstance(method("tree", LLAMA, read(EAGLE_3)), StaticTree)
    assert isinstance(method("eagle-2", LLAMA, read(EAGLE_1, asked="eagle-2")), DynamicTree)
    found = specsim.predict(
        LLAMA, method("tree", LLAMA, read(EAGLE_3)), H100, gamma=[0, 8, 16], alpha=0.8
    )
    assert found.speedup[0] == 1.0
    assert found.speedup[1] > 1.0


@pytest.mark.parametrize(
    ("config", "target", "told"),
    [
        (EAGLE_3, "llama-3.1-70b", "reads hidden states of 4096 elements; those of llama-3.1-70b"),
        (EAGLE_3, "qwen3-8b", "vocabulary of 128,256 tokens; qwen3-8b has 151,936"),
        (DFLASH | {"num_target_layers": 28}, "qwen3-8b", "for a target of 28 layers"),
        (
            EAGLE_3 | {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 29, 57]}},
            "llama-3.1-8b",
            "reads the states after layer 57",
        ),
        (SPECULATORS, "llama-3-8b", r"was trained for meta-llama/Llama-3.1-8B-Instruct"),
        (MEDUSA, "llama-3.1-8b", r"was trained for lmsys/vicuna-7b-v1.3 \(vicuna-7b\)"),
        (EAGLE_3 | {"target_hidden_size": 2048}, "llama-3.1-8b", "hidden states of 2048"),
        (EAGLE_3 | {"draft_vocab_size": 200_000}, "llama-3.1-8b", "is more than the 128,256"),
        (EAGLE_3 | {"draft_vocab_size": "all"}, "llama-3.1-8b", "draft_vocab_size"),
        (DFLASH | {"block_size": 1}, "qwen3-8b", "block_size"),
        ({"model_type": "mlp_speculator"}, "llama-3.1-8b", "of a kind that is not priced"),
    ],
)
def test_another_target_is_refused_in_one_line(config, target, told):
    with pytest.raises(SpecsimError, match=told) as error:
        head_from_config(config, model(target), "head")
    assert "\n" not in str(error.value)


def test_methods_that_do_not_go_with_a_head():
    for name in ("medusa", "draft-model", "pearl", "dflash"):
        with pytest.raises(SpecsimError, match="is an EAGLE-3 head, not one for the method"):
            read(EAGLE_3, asked=name)
    with pytest.raises(SpecsimError, match="has 16 layers and no field of a draft head"):
        read(LAYER | {"num_hidden_layers": 16}, asked="eagle-3")
    assert read(LAYER, asked="eagle-3").method == "eagle-3"
    with pytest.raises(SpecsimError, match=r"which llama-3\.2-1b is not"):
        method("eagle-3", LLAMA, model("llama-3.2-1b"))


def test_an_unknown_or_shallower_target_is_told():
    stranger = SPECULATORS | {"speculators_config": {"verifier": {"name_or_path": "me/my-model"}}}
    assert any("is unknown" in note for note in read(stranger).notes)
    shallow = EAGLE_3 | {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 8, 13]}}
    assert any("shallower target" in note for note in read(shallow).notes)
    assert read(EAGLE_3).notes == (
        "head is read as an EAGLE-3 head of one layer on 3 hidden states of llama-3.1-8b, with "
        "32,000 of 128,256 tokens.",
    )


def test_the_command_line_tells_method_and_precision(tmp_path, capsys):
    from specsim.cli import main

    file = tmp_path / "head.json"
    file.write_text(json.dumps(EAGLE_3))
    asked = ["predict", "--target", "llama-3.1-8b", "--accelerator", "h100-sxm", "--alpha", "0.8"]
    assert main([*asked, "--draft", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["method"], document["precision"]) == ("eagle-3", "bf16")
    assert any("Weights of head in bf16" in each for each in document["assumptions"])
    assert main([*asked, "--draft", "llama-3.2-1b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "draft-model"


@pytest.mark.parametrize("name", ["x" * 9000, "x" * 300 + ".json", "~nobody-has-this-name/x"])
def test_a_name_that_no_file_can_have_is_an_error_in_words(name):
    for read_it in (model, lambda name: draft_head(name, model("llama-3.1-8b"))):
        with pytest.raises(SpecsimError, match="no model is called"):
            read_it(name)

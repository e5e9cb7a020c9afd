"""The precision in a checkpoint's own files: bits by class of module, arithmetic, cache."""

import json
from dataclasses import asdict

import pytest
from numpy.testing import assert_allclose

import specsim
from specsim import catalog
from specsim.architecture import Architecture, from_config, model
from specsim.architecture.layers import layers_of
from specsim.architecture.storage import modules_of
from specsim.checks import SpecsimError
from specsim.drafting import DraftModel
from specsim.operators import (
    PRECISIONS,
    Workload,
    forward_work,
    precision_of,
    stored_weight_bytes,
)
from specsim.planning.memory import footprint
from specsim.scenario import Scenario, resolve

DENSE = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": 1000,
}
MIXTURE = DENSE | {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 8,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}


def stored(config, beside=None, shape=DENSE):
    """The bits by class, and the whole storage."""
    found = from_config(shape | config, "m", beside).stored
    return {kind: bits for kind, bits, _ in found.formats}, found


def quantised(**fields):
    return {"quantization_config": fields}


GROUP = {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}}
NVFP4 = {
    "weights": {"num_bits": 4, "type": "float", "group_size": 16},
    "input_activations": {"num_bits": 4, "type": "float", "group_size": 16},
    "targets": ["Linear"],
}
W8A8 = {
    "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "input_activations": {"num_bits": 8, "type": "int"},
    "targets": ["Linear"],
}
BLOCK = {
    "weights": {
        "num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128],
    },
    "input_activations": {"num_bits": 8, "type": "float"},
    "targets": ["Linear"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "name", "bits", "math"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 32 / 16384, "fp8"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8", 8, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", 8, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 4 + 20 / 128, "bf16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4", 4 + 20 / 32, "bf16"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 8, "bf16"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 64}, "int4", 4 + 20 / 64, "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 4.5, "bf16"),
        (
            {
                "quant_method": "bitsandbytes", "load_in_4bit": True,
                "bnb_4bit_use_double_quant": True,
            },
            "int4", 4 + 8 / 64 + 32 / 16384, "bf16",
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8, "int8"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": GROUP}},
            "int4", 4.5, "bf16",
        ),
        ({"config_groups": {"g": W8A8}}, "int8", 8, "int8"),
        ({"config_groups": {"g": BLOCK}}, "fp8", 8 + 32 / 16384, "fp8"),
        ({"config_groups": {"g": NVFP4}}, "fp4", 4.5, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4", 4.5, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 8, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}, "fp4", 4.5, "bf16"),
        ({"quant_algo": "W4A8_AWQ", "group_size": 128}, "int4", 4 + 16 / 128, "fp8"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4", 4.25, "bf16"),
        (
            {
                "quant_method": "torchao",
                "quant_type": {
                    "default": {"_type": "Float8DynamicActivationFloat8WeightConfig", "_data": {}}
                },
            },
            "fp8", 8, "fp8",
        ),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {
                    "weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"},
                },
            },
            "fp8", 8, "fp8",
        ),
        (
            {
                "quant_method": "hqq",
                "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
            },
            "int4", 4.5, "bf16",
        ),
        (
            {
                "quant_method": "aqlm", "num_codebooks": 1, "nbits_per_codebook": 16,
                "in_group_size": 8,
            },
            "int4", 2, "bf16",
        ),
        ({"quant_method": "exl3", "bits": 3.5, "head_bits": 6}, "int4", 3.5, "bf16"),
    ],
)  # fmt: skip
def test_effective_bits_count_the_scales(fields, name, bits, math):
    found, storage = stored(quantised(**fields))
    assert_allclose([found["mlp"], found["attention"]], bits, rtol=1e-12)
    assert (storage.name, storage.math_of("mlp")) == (name, math)
    assert found["table"] == 16
    precision = precision_of(from_config(DENSE | quantised(**fields), "m"))
    assert precision.name == name
    assert precision.math_with(precision.weight_bytes) == math
    assert_allclose(precision.weight_bytes, bits / 8, rtol=1e-12)


def test_nothing_said_is_bf16_and_float16_is_said():
    assert from_config(DENSE, "m").stored is None
    assert precision_of(from_config(DENSE, "m")) == PRECISIONS["bf16"]
    assert precision_of(from_config(DENSE | {"torch_dtype": "float16"}, "m")).name == "fp16"
    # engines load 32-bit files in 16 bits
    assert from_config(DENSE | {"torch_dtype": "float32"}, "m").stored is None


def test_modules_that_are_left_out_stay_in_16_bits():
    left_out = ["lm_head", "model.layers.0.self_attn*", "model.layers.3.mlp.down_proj"]
    found, _ = stored(quantised(quant_algo="NVFP4", exclude_modules=left_out))
    assert found["head"] == 16
    assert_allclose(found["attention"], (16 + 3 * 4.5) / 4)
    assert_allclose(found["mlp"], (16 + 11 * 4.5) / 12)  # one matrix of twelve
    # `gate` is a router, not a gate projection; `layers.1` is not `layers.10`
    found, _ = stored(quantised(quant_method="fp8", modules_to_not_convert=["gate", "layers.1"]))
    assert_allclose(found["mlp"], (16 + 3 * 8) / 4)


def test_a_prefix_of_a_layer_means_its_number_alone():
    deep = DENSE | {"num_hidden_layers": 12}
    found, _ = stored(quantised(quant_algo="FP8", exclude_modules=["*.layers.11.*"]), shape=deep)
    assert_allclose(found["mlp"], (16 + 11 * 8) / 12)
    found, _ = stored(quantised(quant_algo="FP8", exclude_modules=["model.layers.1*"]), shape=deep)
    assert_allclose(found["mlp"], (3 * 16 + 9 * 8) / 12)  # 1, 10 and 11: `*` means anything


def test_regular_expressions_and_classes_of_a_mixture():
    left_out = [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    ]
    fields = {"quant_method": "compressed-tensors", "config_groups": {"g": GROUP}}
    found, storage = stored(quantised(**fields, ignore=left_out), shape=MIXTURE)
    assert found == {
        "mlp": 16, "attention": 16, "experts": 4.5, "shared": 16, "head": 16, "table": 16,
    }  # fmt: skip
    assert storage.name == "int4"


def test_mixed_algorithms_by_layer():
    layers = {
        "model.layers.0.mlp.gate_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
        **{f"model.layers.{i}.self_attn": {"quant_algo": "FP8"} for i in range(4)},
        "lm_head": {"quant_algo": "FP8"},
    }
    fields = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    found, storage = stored(quantised(**fields, quantized_layers=layers))
    assert found["attention"] == found["head"] == 8
    assert_allclose(found["mlp"], (11 * 16 + 4.5) / 12)
    assert storage.math_of("attention") == "fp8"
    precision = precision_of(from_config(DENSE | quantised(**fields, quantized_layers=layers), "m"))
    assert precision.math_with(precision.bytes_per_attention_weight) == "fp8"
    assert precision.math_with(precision.weight_bytes) == "bf16"


def test_experts_in_four_bits_over_a_base_of_fp8():
    fields = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    found, _ = stored({"expert_dtype": "fp4"} | quantised(**fields), shape=MIXTURE)
    assert_allclose(found["attention"], 8 + 8 / 16384)
    assert found["experts"] == 4.25
    named = {f"layers.{i}.mlp.experts": {"quant_algo": "NVFP4"} for i in range(4)}
    found, _ = stored(quantised(**fields, quantized_layers=named), shape=MIXTURE)
    assert found["experts"] == 4.5
    assert found["shared"] < 8.1


def test_only_experts_are_in_mxfp4():
    shape = {
        "model_type": "gpt_oss", "hidden_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "intermediate_size": 512, "vocab_size": 1000, "num_local_experts": 8,
        "num_experts_per_tok": 2, "sliding_window": 128,
    }  # fmt: skip
    found, storage = stored(quantised(quant_method="mxfp4"), shape=shape)
    assert (storage.name, found["experts"], found["mlp"]) == ("mxfp4-moe", 4.25, 16)


@pytest.mark.parametrize(
    ("fields", "bits"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 8),
        ({"kv_cache_scheme": "FP8"}, 8),
        ({"kv_cache_quant_algo": "FP8"}, 8),
        ({"kv_cache_quant_algo": "NVFP4"}, 4.5),
        ({"kv_cache_scheme": None}, None),
    ],
)
def test_the_cache(fields, bits):
    config = DENSE | quantised(quant_algo="FP8", **fields)
    assert from_config(config, "m").stored.kv_bits == bits
    assert precision_of(from_config(config, "m")).kv_bytes == (2 if bits is None else bits / 8)
    machine = specsim.system("h100-sxm", precision="auto", kv_precision="bf16")
    assert machine.storing(from_config(config, "m")).precision.kv_bytes == 2.0  # asked for


def test_gptq_leaves_out_and_changes_modules():
    dynamic = {"-:.*self_attn.*": {}, r"+:.*layers\.0\..*": {"bits": 8}}
    found, _ = stored(quantised(quant_method="gptq", bits=4, group_size=-1, dynamic=dynamic))
    assert found["attention"] == 16
    assert_allclose(found["mlp"], (8 + 3 * 4) / 4)


def test_mlx_stores_the_embedding_too():
    fields = {"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"bits": 8}}
    found, storage = stored({"quantization": fields} | quantised(**fields))
    assert found["table"] == found["head"] == found["attention"] == 4.5
    assert_allclose(found["mlp"], (11 * 4.5 + 8.5) / 12)
    assert (storage.method, storage.name) == ("mlx", "int4")
    tied = DENSE | {"tie_word_embeddings": True, "quantization": fields}
    assert precision_of(from_config(tied, "m")).bytes_per_head_weight == 4.5 / 8


def test_the_file_beside_the_config(tmp_path):
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DENSE))
    (folder / "hf_quant_config.json").write_text(json.dumps(beside))
    for name in (folder, folder / "config.json"):
        found = model(name).stored
        assert (found.source, found.name, found.kv_bits) == ("hf_quant_config.json", "fp4", 8)
    (folder / "other.json").write_text(json.dumps(DENSE))
    assert model(folder / "other.json").stored is None
    # what the config itself says counts first
    (folder / "config.json").write_text(json.dumps(DENSE | quantised(quant_method="fp8")))
    assert model(folder).stored.name == "fp8"


def test_a_multimodal_config_says_it_in_either_place():
    fields = quantised(quant_method="fp8")
    for config in ({"text_config": DENSE} | fields, {"text_config": DENSE | fields}):
        assert from_config({"model_type": "some_vl"} | config, "m").stored.name == "fp8"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quant_method": "spqr"}, "quantization method 'spqr' is not known; known: aqlm, "),
        ({"quant_method": "awq", "bits": "four"}, "must say 'bits' as a number, not 'four'"),
        ({"quant_method": "gptq"}, "must say 'bits' as a number"),
        ({"quant_algo": "ODD"}, "quant_algo 'ODD' is not known"),
        ({"config_groups": {"g": 4}}, "cannot be read as compressed-tensors"),
        (
            {"config_groups": {"g": GROUP}, "sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparse weights",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_and_a_named_precision_prices_it(fields, told, tmp_path):
    file = tmp_path / "m.json"
    file.write_text(json.dumps(DENSE | quantised(**fields)))
    with pytest.raises(SpecsimError, match=told) as error:
        resolve(Scenario(target=str(file), accelerator="h100-sxm"))
    assert "give --precision NAME" in str(error.value)
    named = resolve(Scenario(target=str(file), accelerator="h100-sxm", precision="int4"))
    assert named.system.precision == PRECISIONS["int4"]


def test_it_survives_a_journey_through_json():
    shape = from_config(MIXTURE | quantised(quant_method="fp8"), "m")
    assert Architecture.from_fields(json.loads(json.dumps(asdict(shape)))) == shape


# ------------------------------------------------------------------------- what is done with it


def test_stored_bytes_are_the_sum_over_the_classes():
    fields = {"quant_method": "compressed-tensors", "config_groups": {"g": GROUP}}
    shape = from_config(MIXTURE | quantised(**fields, ignore=["re:.*self_attn.*"]), "m")
    precision = precision_of(shape)
    hidden, layers = 512, 4
    experts = 3 * 3 * 8 * 128 * hidden * 4.5 / 8
    shared = 3 * 3 * 128 * hidden * 4.5 / 8
    dense = 3 * 1024 * hidden * 4.5 / 8
    work = forward_work(shape, Workload(batch=1e12, context=0), precision)
    assert_allclose(
        sum(o.weight_bytes for o in work if o.name.startswith("experts ")), experts, rtol=1e-9
    )
    assert_allclose(sum(o.weight_bytes for o in work if "shared" in o.name), shared, rtol=1e-9)
    assert_allclose(
        work["gate and up projection"].weight_bytes + work["down projection"].weight_bytes, dense
    )
    output = 8 * 32 * hidden * layers
    assert_allclose(work["output projection"].weight_bytes, output * 2.0)
    assert work["output projection"].math == "bf16"
    assert stored_weight_bytes(shape, precision) < stored_weight_bytes(shape, PRECISIONS["bf16"])


def test_qwen3_32b_fp8_is_priced_in_fp8(tmp_path):
    """26.7 ms in bf16, 15.0 in the format that the file says."""
    config = dict(specsim.catalog.lookup("models", "qwen3-32b")["config"])
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(config | quantised(**block), default=dict))
    asked = Scenario(target=str(tmp_path), accelerator="h100-sxm")
    found = resolve(asked)
    assert found.system.precision.name == "fp8"
    assert_allclose(found.predict(gamma=0).step_s, 15.02e-3, rtol=2e-3)
    both = resolve(Scenario(target=str(tmp_path), accelerator="h100-sxm", precision="bf16"))
    assert_allclose(both.predict(gamma=0).step_s, 26.66e-3, rtol=2e-3)
    named = resolve(Scenario(target=str(tmp_path), accelerator="h100-sxm", precision="auto"))
    assert named.system == found.system


def test_gpt_oss_120b_fits_one_h100():
    found = resolve(Scenario(target="gpt-oss-120b", accelerator="h100-sxm"))
    assert found.system.precision.name == "mxfp4-moe"
    held = found.footprint(gamma=0)
    assert held.fits
    assert 60e9 < held.weight_bytes < 70e9


def test_python_keeps_bf16_and_takes_auto():
    target = from_config(DENSE | quantised(quant_method="fp8"), "m")
    plain = specsim.predict(target, None, specsim.system("h100-sxm"))
    auto = specsim.predict(target, None, specsim.system("h100-sxm", precision="auto"))
    named = specsim.predict(target, None, specsim.system("h100-sxm", precision="fp8"))
    assert plain.system.precision.name == "bf16"
    assert auto.system.precision.name == "fp8"
    assert_allclose(auto.step_s, named.step_s)
    assert auto.step_s < plain.step_s
    held = footprint(target, specsim.system("h100-sxm", precision="auto"))
    assert_allclose(held.weight_bytes, stored_weight_bytes(target, precision_of(target)))


def test_a_draft_is_priced_as_its_own_checkpoint_says():
    target = from_config(DENSE | quantised(quant_method="fp8"), "t")
    draft = from_config(DENSE | {"num_hidden_layers": 2}, "d")
    four = from_config(
        DENSE | {"num_hidden_layers": 2} | quantised(quant_method="awq", bits=4), "d4"
    )
    auto = specsim.system("h100-sxm", precision="auto")
    fp8 = auto.storing(target)

    def step(drafter, system):
        return float(specsim.predict(target, drafter, system, gamma=2, alpha=0.8).draft_step_s)

    own = step(DraftModel(draft), auto)
    assert own == step(DraftModel(draft, precision="auto"), fp8)
    assert own == step(DraftModel(draft, precision="bf16"), fp8)
    assert step(DraftModel(draft), fp8) < own  # the target's precision, where it is not "auto"
    assert step(DraftModel(four), auto) < own
    wide = specsim.system("h100-sxm", precision="fp32")  # unquantised: the activations' own
    assert DraftModel(draft, precision="auto").priced_on(wide).precision.name == "fp32"


def test_precision_is_told_by_the_command_line(tmp_path, capsys):
    from specsim.cli import main

    file = tmp_path / "m.json"
    file.write_text(json.dumps(DENSE | quantised(quant_method="awq", bits=4, group_size=64)))
    asked = ["predict", "--target", str(file), "--accelerator", "h100-sxm", "--json"]

    def document(*more):
        assert main([*asked, *more]) == 0
        return json.loads(capsys.readouterr().out)

    found = document()
    assert (found["precision"], found["method"]) == ("int4", None)
    said = " ".join(found["assumptions"])
    assert "as its own file says, int4 (quantization_config: awq): 4.312 bits in MLPs" in said
    found = document("--precision", "fp8")
    assert found["precision"] == "fp8"
    assert any("--precision fp8 overrides what m says" in each for each in found["assumptions"])
    assert document("--precision", "auto") == document()


# ----------------------------------------------------------------------- every matrix is counted


@pytest.mark.parametrize("name", catalog.load("models"))
def test_modules_are_every_matrix_of_the_model(name):
    """What is left of the parameters is norms, biases, routers, and further tables and matrices."""
    found = model(name)
    further = found.gathered_parameters + found.other_parameters
    further += found.learned_positions * found.hidden_size
    further += sum(rows * columns for layer in layers_of(found) for rows, columns in layer.matrices)
    listed = sum(module.parameters for module in modules_of(found))
    listed -= found.embedding_parameters if found.tied_head else 0  # one matrix, two uses
    assert 0 <= found.parameters - further - listed < 0.0012 * found.parameters

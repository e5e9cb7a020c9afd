"""Families whose layers all attend: read with exactly the parameters of transformers' own models,
built without memory on the meta device, and with the published sizes of real ones."""

import json
import tomllib
import warnings
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from specsim import catalog
from specsim.architecture import Architecture, Experts, from_config, layers_of
from specsim.architecture.families import DEFAULTS, FAMILIES, TEXT_OF
from specsim.checks import SpecsimError
from specsim.drafting import Eagle
from specsim.operators import Precision
from specsim.operators.forward import in_arrays, operators_of
from specsim.operators.sharding import WHOLE
from specsim.operators.storage import ONE_BYTE_EACH, READS_ALL, cache_bytes

CLASS_DEFAULTS = catalog.load("class_defaults")
FOUR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16}
LATENT |= {"v_head_dim": 12}
BIASED = {"attention_bias": True}
MLP_TOO = BIASED | {"mlp_bias": True}
TIED = {"tie_word_embeddings": True}
BY_HEAD = {"num_attention_heads_per_layer": [16, 16, 32, 16, 32, 16], "num_attention_heads": 16}
KINDS = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
KINDS += ["sliding_attention", "full_attention"]

# model_type, and what differs from its class's defaults beside the number of layers
CASES: list[tuple[str, dict]] = [
    ("afmoe", {}),
    ("afmoe", {"num_shared_experts": 1, "num_dense_layers": 3, "num_key_value_heads": 4}),
    ("apertus", {}),
    ("apertus", BIASED | TIED),
    ("arcee", {}),
    ("arcee", MLP_TOO),
    ("aria_text", {}),
    ("axk1", {}),
    ("bitnet", {}),
    ("bitnet", {"attention_bias": True, "num_key_value_heads": 4}),
    ("biogpt", {}),
    ("bloom", {"hidden_size": 128, "num_hidden_layers": 3}),
    ("codegen", {}),
    ("cohere", {}),
    ("cohere", {"use_qk_norm": True, "num_key_value_heads": 8, "attention_bias": True}),
    ("cohere2", {}),
    ("cohere2_moe", FOUR_EXPERTS),
    (
        "cohere2_moe",
        FOUR_EXPERTS
        | {"num_shared_experts": 2, "first_k_dense_replace": 2}
        | {"prefix_dense_intermediate_size": 512},
    ),
    ("cwm", {}),
    ("deepseek_v2", {"num_experts_per_tok": 2, "first_k_dense_replace": 1}),
    ("deepseek_v2", LATENT | {"q_lora_rank": None, "num_experts_per_tok": 2}),
    ("deepseek_v3", {}),
    ("diffllama", {}),
    ("diffllama", {"num_attention_heads": 16, "num_key_value_heads": 4, "attention_bias": True}),
    ("doge", {}),
    ("doge", MLP_TOO | {"num_key_value_heads": 2}),
    ("dots1", {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}),
    (
        "dots1",
        {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2}
        | {"first_k_dense_replace": 2, "attention_bias": True},
    ),
    ("ernie4_5", {}),
    ("ernie4_5", {"use_bias": True, "tie_word_embeddings": False}),
    ("ernie4_5_moe", {}),
    ("ernie4_5_moe", {"moe_layer_interval": 2, "moe_layer_end_index": 4, "use_bias": True}),
    ("exaone4", {}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 6}),
    ("exaone_moe", {"num_experts": 8}),
    ("exaone_moe", {"num_experts": 8, "num_shared_experts": 2, "first_k_dense_replace": 3}),
    ("falcon", {}),
    (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 8, "num_attention_heads": 64}
        | {"hidden_size": 4096},
    ),
    ("falcon", {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True}),
    ("flex_olmo", {}),
    ("flint", {"num_experts": 8}),
    ("gemma", {}),
    ("gemma", BIASED),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("gemma3n_text", {"num_kv_shared_layers": 1}),
    (
        "gemma3n_text",
        {"num_hidden_layers": 10, "num_kv_shared_layers": 5, "altup_num_inputs": 3}
        | {"intermediate_size": [512] * 5 + [1024] * 5, "altup_correct_scale": False},
    ),
    ("gemma4_text", {}),
    (
        "gemma4_text",
        {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True}
        | {"num_global_key_value_heads": 2},
    ),
    (
        "gemma4_text",
        {"num_hidden_layers": 12, "num_kv_shared_layers": 6, "use_double_wide_mlp": True},
    ),
    (
        "gemma4_text",
        {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2}
        | {"moe_intermediate_size": 128, "hidden_size_per_layer_input": 0},
    ),
    ("gemma4_unified_text", {}),
    ("glm", {}),
    ("glm4", {}),
    ("glm4", {"attention_bias": False}),
    ("glm4_moe", {}),
    ("glm4_moe", {"use_qk_norm": True, "attention_bias": True, "first_k_dense_replace": 2}),
    ("glm4_moe_lite", {}),
    ("gpt2", {}),
    ("gpt2", {"n_inner": 100}),
    ("gpt_bigcode", {}),
    ("gpt_bigcode", {"multi_query": False}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "num_hidden_layers": 4}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("gpt_oss", {}),
    ("gpt_neox_japanese", {}),
    ("gptj", {}),
    ("granite", {}),
    ("granite", MLP_TOO | TIED),
    ("granite_swa", {}),
    ("granitemoe", {}),
    ("granitemoe_swa", {"shared_intermediate_size": 128}),
    ("granitemoeshared", {"shared_intermediate_size": 128}),
    ("helium", {}),
    ("hunyuan_v1_dense", {"head_dim": 128, "attention_bias": True}),
    ("hunyuan_v1_moe", {"head_dim": 128, "num_experts": 8, "moe_topk": 2}),
    ("hy_v3", {"num_experts": 8}),
    ("hyperclovax", {}),
    ("hyperclovax", {"use_post_norm": False}),
    ("internlm3", {}),
    ("internlm3", MLP_TOO),
    ("iquestcoder", {}),
    ("jais2", {}),
    ("jais2", {"attention_bias": False, "mlp_bias": False}),
    ("kolibri1", {"num_local_experts": 8}),
    ("laguna", {"num_experts": 8}),
    ("laguna", {"num_experts": 8, "gating": "per-element"} | BY_HEAD | {"layer_types": KINDS}),
    ("llama", {}),
    ("llama", MLP_TOO | TIED),
    ("llama4_text", {}),
    ("llama4_text", {"interleave_moe_layer_step": 2}),
    ("mellum", {"num_local_experts": 8}),
    ("mellum", {"num_local_experts": 8, "mlp_layer_types": ["dense", "sparse"] * 3}),
    ("mimo_v2_flash", {"n_routed_experts": 8}),
    ("minicpm3", {}),
    ("minimax_m2", {"num_local_experts": 8}),
    ("ministral", {"head_dim": 128}),
    ("ministral3", {}),
    ("mistral", {}),
    ("mixtral", {}),
    ("modernbert-decoder", {}),
    ("modernbert-decoder", MLP_TOO | {"decoder_bias": False}),
    ("mpt", {"n_layers": 3}),
    ("nanochat", {}),
    ("nemotron", {"num_key_value_heads": 8}),
    ("nemotron", {"num_key_value_heads": 8, "num_attention_heads": 24} | MLP_TOO),
    ("olmo", {}),
    ("olmo2", {}),
    ("olmo2", {"num_key_value_heads": 8, "attention_bias": True}),
    ("olmo3", {}),
    ("olmoe", {}),
    ("opt", {}),
    ("persimmon", {}),
    ("persimmon", {"qk_layernorm": False}),
    ("phi", {}),
    ("phi", {"qk_layernorm": True}),
    ("phi3", {}),
    ("phi4_multimodal", {}),
    ("phimoe", {}),
    ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
    ("qwen2", {}),
    ("qwen2_moe", {}),
    ("qwen3", {}),
    ("qwen3_moe", {}),
    ("seed_oss", {}),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("smollm3", {}),
    ("solar_open", {"n_routed_experts": 8}),
    ("stablelm", {}),
    ("stablelm", {"use_qkv_bias": True, "use_parallel_residual": True, "qk_layernorm": True}),
    ("starcoder2", {}),
    ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    ("vaultgemma", {}),
    ("xglm", {}),
    ("youtu", {}),
]
# those whose language model has no class of its own with a head: the class without one
HEADLESS = {
    "emu3_text_model": ("Emu3TextModel", {}),
    "qwen2_vl_text": ("Qwen2VLTextModel", {}),
    "qwen2_5_vl_text": ("Qwen2_5_VLTextModel", {}),
    "qwen2_5_omni_text": ("Qwen2_5OmniThinkerTextModel", {}),
    "qwen3_vl_text": ("Qwen3VLTextModel", {}),
    "qwen3_vl_moe_text": ("Qwen3VLMoeTextModel", {"num_local_experts": 8}),
    "qwen3_omni_moe_text": ("Qwen3OmniMoeThinkerTextModel", {"head_dim": 128, "num_experts": 8}),
    "glm4v_text": ("Glm4vTextModel", {}),
    "glm4v_moe_text": ("Glm4vMoeTextModel", {"n_routed_experts": 8}),
    "step3p5": ("Step3p7TextModel", {"num_local_experts": 8, "num_sliding_attention_heads": 96}
                | {"layer_types": KINDS, "sliding_window": 64, "n_routed_experts": 8}),
}  # fmt: skip


@cache
def transformers():
    found = pytest.importorskip("transformers")
    found.utils.logging.set_verbosity_error()
    return found


def written(model_type: str, changes: dict, layers: bool = True):
    """The configuration class's object, or a skip where the installed version has none."""
    library = transformers()
    if model_type not in library.models.auto.configuration_auto.CONFIG_MAPPING:
        pytest.skip(f"transformers {library.__version__} has no {model_type}")
    fewer = {"num_hidden_layers": 6} if layers and "n_layers" not in changes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library.AutoConfig.for_model(model_type, **(fewer | changes))


def stored(build) -> int:
    """Parameters of what `build` makes on the meta device, without towers for images and sound."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build()
    kept = [p for name, p in model.named_parameters() if "embed_tokens_extend" not in name]
    return sum(p.numel() for p in kept)


# few people run these: their comparison is slow
# fmt: off
RARE = {
    "aria_text", "axk1", "biogpt", "bitnet", "codegen", "cwm", "diffllama", "doge",
    "emu3_text_model", "flint", "gpt_neox_japanese", "granite_swa", "granitemoe_swa", "helium",
    "hyperclovax", "internlm3", "iquestcoder", "jais2", "kolibri1", "mellum", "modernbert-decoder",
    "mpt", "nanochat", "opt", "persimmon", "phi", "phi4_multimodal", "qwen2_5_omni_text",
    "qwen3_omni_moe_text", "solar_open", "vaultgemma", "xglm", "youtu",
}
# fmt: on


def once_fast(cases: list[tuple[str, dict]]) -> list:
    """The first case of each family; its variations, and what is rare, marked slow."""
    seen = set(RARE)
    made = []
    for index, (model_type, changes) in enumerate(cases):
        marks = pytest.mark.slow if model_type in seen else ()
        seen.add(model_type)
        made.append(pytest.param(model_type, changes, id=f"{model_type}-{index}", marks=marks))
    return made


@pytest.mark.parametrize(("model_type", "changes"), once_fast(CASES))
def test_parameters_are_those_of_transformers(model_type, changes):
    config = written(model_type, changes)
    shape = from_config(config.to_dict(), model_type)
    corrections = 0
    if model_type == "deepseek_v3":  # files store them, transformers has them as a buffer
        corrections = sum(
            e.count for e in (x.mlp for x in layers_of(shape)) if isinstance(e, Experts)
        )
    build = transformers().AutoModelForCausalLM.from_config
    assert shape.parameters - corrections == stored(lambda: build(config))
    assert shape.active_parameters <= shape.parameters


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(each, marks=pytest.mark.slow if each in RARE else ()) for each in HEADLESS],
)
def test_language_models_of_multimodal_ones_too(model_type):
    name, changes = HEADLESS[model_type]
    config = written(model_type, changes)
    shape = from_config(config.to_dict() | {"tie_word_embeddings": True}, model_type)
    assert shape.parameters == stored(lambda: getattr(transformers(), name)(config))


@pytest.mark.parametrize(("model_type", "changes"), once_fast(CASES))
def test_operators_read_every_matrix_that_is_stored(model_type, changes):
    """What is left of the parameters without the matrices of all operators is norms and biases."""
    shape = from_config(written(model_type, changes).to_dict(), model_type)
    asked = in_arrays(READS_ALL, ONE_BYTE_EACH, 1)
    read = sum(
        float(np.max(operator.weight_bytes))
        for operator in operators_of(shape, READS_ALL, asked, WHOLE)
    )
    tables = shape.gathered_parameters + shape.learned_positions * shape.hidden_size
    tables += 0 if shape.tied_head else shape.embedding_parameters
    assert 0 <= shape.parameters - read - tables < 0.002 * shape.parameters


# ------------------------------------------------------------------------------ published sizes


def sizes(hidden, layers, heads, kv_heads, mlp, vocab, **more) -> dict:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocab,
    } | more


PUBLISHED = tomllib.loads((Path(__file__).parent / "published_sizes.toml").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_models_have_their_published_size(name):
    row = PUBLISHED[name]
    shape = from_config(row["config"] | {"model_type": row["model_type"]}, name)
    assert shape.parameters == pytest.approx(row["total"] * 1e9, rel=0.01)
    active = row.get("active", row["total"])
    assert shape.active_parameters == pytest.approx(active * 1e9, rel=0.01)


def llama(**changes):
    return sizes(64, 4, 8, 4, 96, 100, model_type="llama") | changes


def blocks(*pairs):
    return {"block_configs": [{"attention": attention, "ffn": mlp} for attention, mlp in pairs]}


def test_a_llama_cut_down_block_by_block():
    """Nemotron-NAS: attention with its own number of KV heads, or a matrix, or nothing."""
    wide, narrow = {"ffn_mult": 6.0}, {"ffn_mult": 3.0}
    four, two = {"n_heads_in_group": 2}, {"n_heads_in_group": 4}
    gone, matrix = {"no_op": True}, {"replace_with_linear": True}
    fields = llama(model_type="nemotron-nas", hidden_size=512, num_attention_heads=8)
    fields |= {"num_key_value_heads": None, "intermediate_size": None}
    fields |= blocks((four, wide), (two, narrow), (gone, wide), (matrix, gone))
    shape = from_config(fields, "nas")
    layers = layers_of(shape)
    assert [layer.mixer and layer.mixer.num_kv_heads for layer in layers] == [4, 2, None, None]
    assert [layer.mlp and layer.mlp.width for layer in layers] == [2048, 1024, 2048, None]
    assert [layer.norms for layer in layers] == [2, 2, 1, 1]
    attention = [512 * (512 + 2 * kv * 64 + 512) for kv in (4, 2)]
    mlps = 3 * 512 * (2048 + 1024 + 2048)
    assert shape.parameters == sum(attention) + mlps + 512**2 + (6 + 1) * 512 + 2 * 100 * 512
    assert shape.kv_elements_per_token == 2 * 64 * (4 + 2)
    with pytest.raises(SpecsimError, match="block_configs must have a table for each of 4 layers"):
        from_config(fields | blocks((four, wide)), "nas")
    refused = fields | blocks(*[(four | {"num_sink_tokens": 4}, wide)] * 4)
    with pytest.raises(SpecsimError, match="block 0 has 'num_sink_tokens', which is not priced"):
        from_config(refused, "nas")


# of Llama-3.3-Nemotron-Super-49B: how many layers in a row, with attention or not, of which width
SUPER = [
    *((1, True, 2.625), (5, True, 5.25), (2, False, 2.625), (3, True, 5.25), (1, False, 3.28125)),
    *((30, True, 5.25), (1, False, 1.3125), (2, False, 2.625), (1, False, 1.3125)),
    *((1, False, 5.25), (1, False, 1.3125), (1, False, 2.625), (3, False, 1.3125)),
    *((1, True, 5.25), (1, False, 1.3125), (2, False, 1.0), (1, False, 1.3125), (3, False, 1.0)),
    *((2, False, 1.3125), (2, False, 0.5), (2, False, 1.0), (2, False, 0.5), (1, False, 1.0)),
    *((2, False, 0.5), (9, True, 5.25)),
]


def test_nemotron_super_has_its_published_size():
    attends, skips = {"n_heads_in_group": 8}, {"no_op": True}
    pairs = [
        (attends if attention else skips, {"ffn_mult": width})
        for times, attention, width in SUPER
        for _ in range(times)
    ]
    fields = sizes(8192, 80, 64, None, None, 128_256, model_type="nemotron-nas") | blocks(*pairs)
    shape = from_config(fields, "super")
    assert shape.parameters == pytest.approx(49.9e9, rel=0.01)
    assert shape.kv_elements_per_token == 49 * 2 * 8 * 128


def test_llama_4_attends_within_chunks_in_three_of_four_layers():
    fields = llama(model_type="llama4_text", attention_chunk_size=32, intermediate_size_mlp=128)
    fields |= {"num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2}
    shape = from_config(fields, "llama-4")
    reach = [layer.mixer.chunk for layer in layers_of(shape)]
    assert reach == [32, 32, 32, None]
    dense, sparse = layers_of(shape)[:2]
    assert (dense.mlp.width, sparse.mlp.count, sparse.mlp.shared_size) == (128, 4, 96)
    held = cache_bytes(shape, Precision("b", 2, "bf16"), batch=1, slots=1000)
    assert held == 2 * 2 * 4 * 128 * (3 * 32 + 1000)


def test_heads_of_two_sizes_and_values_of_their_own():
    """MiMo-V2: windowed layers with twice the KV heads, sinks, and values narrower than keys."""
    fields = llama(model_type="mimo_v2_flash", head_dim=24, v_head_dim=16, sliding_window=8)
    fields |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    shape = from_config(fields | {"hybrid_layer_pattern": [0, 1, 1, 0]}, "mimo")
    full, windowed = (layers_of(shape)[index].mixer for index in (0, 1))
    assert (full.num_kv_heads, full.window, full.sinks, full.cached) == (4, None, False, 4 * 40)
    assert (windowed.num_kv_heads, windowed.window, windowed.sinks) == (8, 8, True)
    assert full.value_size == 8 * 16
    assert shape.kv_elements_per_token == 2 * (4 + 8) * 40


def test_last_layers_that_share_keys_and_values_cache_nothing():
    fields = llama(model_type="gemma3n_text", num_kv_shared_layers=2, sliding_window=16)
    kinds = ["sliding_attention", "full_attention"] * 2
    fields |= {"layer_types": kinds, "vocab_size_per_layer_input": 100, "laurel_rank": 8}
    fields |= {"hidden_size_per_layer_input": 16, "altup_num_inputs": 4}
    shape = from_config(fields, "gemma-3n")
    assert [layer.mixer.shares_cache for layer in layers_of(shape)] == [False, False, True, True]
    assert shape.kv_elements_per_token == 2 * 2 * 4 * 256
    assert shape.gathered_parameters == 100 * 4 * 16


@pytest.mark.parametrize(
    ("model_type", "changes", "slides"),
    [
        ("olmo3", {}, [0, 1, 2, 4, 5]),
        ("cohere2", {}, [0, 1, 2, 4, 5]),
        ("exaone4", {"sliding_window_pattern": "LLG"}, [0, 1, 3, 4]),
        ("cwm", {}, [1, 2, 3, 5]),
        ("smollm3", {"use_sliding_window": True}, [3]),
        ("smollm3", {}, []),
        ("granite_swa", {}, [1, 2, 3, 5]),
        ("ministral", {"layer_types": KINDS}, [1, 3, 4]),
        ("gpt_neo", {"window_size": 64, "attention_types": [[["global", "local"], 3]]}, [1, 3, 5]),
    ],
)
def test_which_layers_have_a_window(model_type, changes, slides):
    fields = llama(model_type=model_type, num_hidden_layers=6, sliding_window=64) | changes
    reach = [layer.mixer.window for layer in layers_of(from_config(fields, "tiny"))]
    assert [index for index, window in enumerate(reach) if window] == slides
    assert set(reach) <= {None, 64}


# --------------------------------------------------------------------- what a config leaves out


def test_a_nested_config_means_what_its_class_has():
    """LLaVA 1.5 names a handful of fields of its Llama; a config of its own must say its sizes."""
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
    shape = from_config({"model_type": "llava", "text_config": text, "vision_config": {}}, "llava")
    assert shape.parameters == pytest.approx(6.74e9, rel=0.001)
    with pytest.raises(SpecsimError, match="lacks the field 'num_attention_heads'"):
        from_config(text, "no-llava")


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config", "thinker_config"])
def test_where_multimodal_models_keep_their_language_model(key):
    whole = {"model_type": "any", key: llama(tie_word_embeddings=True), "vision_config": {}}
    assert from_config(whole, "tiny") == from_config(llama(tie_word_embeddings=True), "tiny")
    outside = {"model_type": "any", key: llama(), "tie_word_embeddings": True}
    assert from_config(outside, "tiny").tied_head


def test_a_text_config_without_a_model_type_is_its_wrappers():
    whole = {"model_type": "mistral3", "text_config": llama(model_type=None)}
    assert from_config(whole, "tiny").parameters == from_config(llama(), "tiny").parameters


def test_mistrals_own_params_file():
    params = {"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32}
    params |= {"n_kv_heads": 8, "vocab_size": 32768}
    assert from_config(params, "mistral").parameters == 7_248_023_552
    eight = from_config(params | {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}, "mixtral")
    assert (eight.experts.count, eight.experts.per_token) == (8, 2)
    with pytest.raises(SpecsimError, match=r"is not supported; pass the config\.json"):
        from_config(params | {"q_lora_rank": 1536}, "large-3")
    with pytest.raises(SpecsimError, match=r"lacks the field 'hidden_dim'"):
        from_config({key: params[key] for key in ("dim", "n_layers", "n_heads")}, "cut")


@pytest.mark.parametrize("model_type", CLASS_DEFAULTS)
def test_defaults_are_those_of_the_classes(model_type):
    ours, theirs = dict(CLASS_DEFAULTS[model_type]), written(model_type, {}, layers=False).to_dict()
    lists = {key: each[0] for key, each in theirs.items() if isinstance(each, list) and each}
    first = theirs | lists
    assert {key: first.get(key) for key in ours} == ours


@pytest.mark.parametrize("model_type", [name for name in DEFAULTS if not callable(DEFAULTS[name])])
def test_what_old_files_leave_out_is_what_the_class_has(model_type):
    ours, theirs = dict(DEFAULTS[model_type]), written(model_type, {}, layers=False).to_dict()
    if model_type == "gemma":
        assert ours.pop("hidden_act") == "gelu"  # its first files mean the tanh of it
    shared = {key for key in ours if key in theirs}
    assert {key: theirs[key] for key in shared} == {key: ours[key] for key in shared}


def test_the_language_model_of_a_wrapper_is_that_of_its_class():
    for model_type, text in TEXT_OF.items():
        nested = written(model_type, {}, layers=False).get_text_config()
        assert nested.model_type == text
        assert text in FAMILIES


def test_every_family_is_in_the_table():
    table = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    assert [each for each in FAMILIES if f"`{each}`" not in table] == []


def test_sixty_families_at_least():
    assert len({model_type for model_type, _ in CASES} | set(HEADLESS)) >= 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral4"}, r"not supported; .* the nearest mistral"),
        ({"model_type": "doge", "is_moe": True}, "is_moe True is not supported"),
        ({"model_type": "hunyuan_v1_moe", "use_cla": True}, "use_cla True is not supported"),
        ({"intermediate_size": [96, 96]}, "intermediate_size must have an entry for each of 4"),
        ({"intermediate_size": [96, 0, 96, 96]}, r"intermediate_size\[1\] must be a positive"),
        ({"model_type": "nemotron-nas"}, "block_configs must have a table for each of 4 layers"),
    ],
)
def test_what_cannot_be_counted_is_refused(changes, message):
    with pytest.raises(SpecsimError, match=message):
        from_config(llama() | changes, "tiny")


LISTS = {"layer_types", "mlp_layer_types", "moe_layers", "no_rope_layers", "per_layer_config"}
LISTS |= {"attention_layers", "num_attention_heads_per_layer"}
# the cases whose lists are those that the class fills in
FILLED = [
    (model_type, changes)
    for model_type, changes in CASES
    if not (LISTS | {"first_k_dense_replace"}) & set(changes)
]


@pytest.mark.parametrize(("model_type", "changes"), once_fast(FILLED))
def test_lists_by_layer_may_be_left_out_where_the_class_fills_them_in(model_type, changes):
    whole = written(model_type, changes).to_dict()
    short = {key: value for key, value in whole.items() if key not in LISTS} | changes
    assert from_config(short, model_type) == from_config(whole, model_type)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_survive_a_file_and_can_be_cut_and_drafted_for(name):
    row = PUBLISHED[name]
    shape = from_config(row["config"] | {"model_type": row["model_type"]}, name)
    assert Architecture.from_fields(json.loads(json.dumps(asdict(shape)))) == shape
    assert shape.first_layers(2).parameters < shape.parameters
    head = Eagle(shape).architecture
    assert head.parameters < 0.6 * shape.parameters
    if shape.mtp_layers:
        assert shape.mtp_module.num_layers == 1
        assert shape.mtp_parameters < 0.25 * shape.parameters

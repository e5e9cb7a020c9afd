"""Families with a constant state or sparse attention: parameters against transformers' own models
on the meta device, states against transformers' own caches, published sizes."""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specsim
from specsim.architecture import (
    Architecture,
    Attention,
    Recurrent,
    from_config,
    layers_of,
    mixers_of,
)
from specsim.architecture.families import linear, mamba, recurrent, sparse
from specsim.checks import SpecsimError
from specsim.cli.sentences import rolling_back
from specsim.cost import ModelPass
from specsim.drafting import Eagle
from specsim.operators import (
    ATTENTION,
    PRECISIONS,
    Workload,
    cache_bytes,
    forward_work,
    stored_weight_bytes,
)
from specsim.planning.memory import footprint

SMALL = {"vocab_size": 120, "hidden_size": 64, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MLP = {"intermediate_size": 96}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED = {"shared_expert_intermediate_size": 40}
ROUTED = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
         "linear_value_head_dim": 12, "linear_conv_kernel_dim": 3}  # fmt: skip
FOUR = {"num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
QWEN = SMALL | HEADS | DELTA | FOUR | {"head_dim": 20}
LATENT = {"kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 16}
KIMI = SMALL | MLP | EXPERTS | LATENT | {"num_attention_heads": 4, "num_key_value_heads": 4,
        "num_shared_experts": 1, "linear_head_dim": 16, "linear_num_heads": 4,
        "num_hidden_layers": 4, "first_k_dense_replace": 1, "num_expert_group": 1,
        "topk_group": 1}  # fmt: skip
KIMI |= {"num_experts_per_token": 2, "layer_types": FOUR["layer_types"],
         "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}  # fmt: skip
SSM = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 24,
       "mamba_d_conv": 3, "mamba_expand": 2}  # fmt: skip
BAMBA = SMALL | HEADS | MLP | SSM | {"num_hidden_layers": 3, "attn_layer_indices": [1]}
NEMOTRON = SMALL | HEADS | MLP | ROUTED | {"head_dim": 24, "mamba_num_heads": 4, "n_groups": 2,
            "mamba_head_dim": 12, "ssm_state_size": 20, "n_shared_experts": 1, "conv_kernel": 3,
            "moe_shared_expert_intermediate_size": 40,
            "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba"]}  # fmt: skip
FALCON = SMALL | HEADS | MLP | SSM | {"mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12,
          "num_hidden_layers": 2, "head_dim": 24}  # fmt: skip
GRANITE = SMALL | HEADS | MLP | SSM | {"num_local_experts": 6, "num_experts_per_tok": 2,
           "shared_intermediate_size": 40, "num_hidden_layers": 3,
           "layer_types": ["mamba", "attention", "mamba"]}  # fmt: skip
JAMBA = SMALL | HEADS | MLP | {"num_experts": 4, "num_hidden_layers": 8, "mamba_d_state": 6,
         "mamba_dt_rank": 10, "mamba_d_conv": 3}  # fmt: skip
ZAMBA = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4, "attention_head_dim": 32,
         "intermediate_size": 96, "num_hidden_layers": 8, "mamba_d_state": 6, "mamba_d_conv": 3,
         "attention_hidden_size": 128, "attn_layer_period": 2, "attn_layer_offset": 1,
         "mamba_dt_rank": 10}  # fmt: skip
ZAMBA2 = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96,
          "num_hidden_layers": 6, "n_mamba_heads": 4, "mamba_d_state": 6, "adapter_rank": 5,
          "layers_block_type": ["mamba", "hybrid"] * 3}  # fmt: skip
MAMBA = SMALL | {"num_hidden_layers": 2, "state_size": 6, "conv_kernel": 3, "expand": 2}
LFM = SMALL | HEADS | MLP | {"num_hidden_layers": 3, "block_multiple_of": 16,
       "layer_types": ["conv", "full_attention", "conv"]}  # fmt: skip
INDEX = {"index_n_heads": 3, "index_head_dim": 16, "index_topk": 32}
DSA = SMALL | MLP | ROUTED | LATENT | INDEX | {"num_attention_heads": 4, "q_lora_rank": 20,
       "num_key_value_heads": 4, "num_hidden_layers": 4, "first_k_dense_replace": 1,
       "mlp_layer_types": ["dense"] + ["sparse"] * 3}  # fmt: skip
V4 = SMALL | ROUTED | INDEX | {"num_attention_heads": 4, "head_dim": 32, "q_lora_rank": 20,
      "o_groups": 2, "o_lora_rank": 12, "sliding_window": 16, "num_hidden_layers": 5,
      "compress_ratios": [0, 0, 4, 128, 4, 0], "num_hash_layers": 1}  # fmt: skip
M3 = SMALL | HEADS | {"head_dim": 24, "dense_intermediate_size": 96, "intermediate_size": 24,
      "shared_intermediate_size": 40, "num_local_experts": 6, "num_experts_per_tok": 2,
      "num_hidden_layers": 4, "index_n_heads": 2, "index_head_dim": 16,
      "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * 3,
      "mlp_layer_types": ["dense"] + ["sparse"] * 3}  # fmt: skip
LFM3_KINDS = {"layer_types": ["conv", "full_attention", "sliding_attention"]}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3_next", QWEN | MLP | EXPERTS | SHARED | {"mlp_only_layers": [1]}),
    "qwen3_5": ("qwen3_5_text", QWEN | MLP),
    "qwen3_5 tied": ("qwen3_5_text", QWEN | MLP | {"tie_word_embeddings": True}),
    "qwen3_5_moe": ("qwen3_5_moe_text", QWEN | EXPERTS | SHARED),
    "olmo_hybrid": ("olmo_hybrid", SMALL | HEADS | MLP | DELTA | FOUR),
    "kimi_linear": ("kimi_linear", KIMI),
    "kimi_linear low-rank queries": ("kimi_linear", KIMI | {"q_lora_rank": 20}),
    "bailing_hybrid": ("bailing_hybrid", KIMI),
    "minimax": ("minimax", SMALL | HEADS | MLP | {"num_hidden_layers": 4, "head_dim": 24,
                "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granitemoehybrid", GRANITE),
    "granite dense": ("granitemoehybrid", GRANITE | {"num_local_experts": 0}),
    "granite biased": ("granitemoehybrid", GRANITE | {"mamba_proj_bias": True,
                       "mamba_conv_bias": False, "attention_bias": True}),
    "bamba": ("bamba", BAMBA),
    "bamba biased": ("bamba", BAMBA | {"mamba_proj_bias": True, "attention_bias": True,
                     "mlp_bias": True}),
    "jamba": ("jamba", JAMBA),
    "jamba auto": ("jamba", JAMBA | {"mamba_dt_rank": "auto", "mamba_proj_bias": True}),
    "falcon_h1": ("falcon_h1", FALCON),
    "falcon_h1 biased": ("falcon_h1", FALCON | {"mamba_rms_norm": True, "projectors_bias": True}),
    "falcon_h1 other biases": ("falcon_h1", FALCON | {"mamba_proj_bias": True, "mlp_bias": True,
                               "attention_bias": True, "mamba_d_ssm": None, "mamba_d_head": 32}),
    "nemotron_h": ("nemotron_h", NEMOTRON),
    "nemotron_h latent": ("nemotron_h", NEMOTRON | {"moe_latent_size": 20}),
    "nemotron_h biased": ("nemotron_h", NEMOTRON | {"moe_latent_size": 20, "mlp_bias": True,
                          "use_bias": True, "use_conv_bias": False}),
    "zamba": ("zamba", ZAMBA),
    "zamba2": ("zamba2", ZAMBA2),
    "zamba2 two blocks": ("zamba2", ZAMBA2 | {"num_mem_blocks": 2,
                          "use_shared_attention_adapter": True}),
    "mamba": ("mamba", MAMBA),
    "mamba biased": ("mamba", MAMBA | {"use_bias": True, "use_conv_bias": False,
                     "tie_word_embeddings": False}),
    "falcon_mamba": ("falcon_mamba", MAMBA),
    "mamba2": ("mamba2", MAMBA | {"num_heads": 8, "head_dim": 16, "n_groups": 2}),
    "recurrent_gemma": ("recurrent_gemma", SMALL | HEADS | MLP | {"num_hidden_layers": 4,
                        "lru_width": 32, "conv1d_width": 3}),
    "lfm2": ("lfm2", LFM),
    "lfm2 biased": ("lfm2", LFM | {"conv_bias": True, "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": ("lfm2_moe", LFM | EXPERTS | {"num_dense_layers": 1}),
    "lfm3": ("lfm3", SMALL | HEADS | MLP | LFM3_KINDS | {"num_hidden_layers": 3, "head_dim": 24}),
    "rwkv": ("rwkv", SMALL | {"num_hidden_layers": 2, "attention_hidden_size": 64,
             "intermediate_size": 96}),
    "xlstm": ("xlstm", SMALL | {"num_hidden_layers": 2, "num_heads": 4, "num_blocks": 2,
              "embedding_dim": 64}),
    "deepseek_v32": ("deepseek_v32", DSA),
    "glm_moe_dsa": ("glm_moe_dsa", DSA),
    "glm_moe_dsa shared": ("glm_moe_dsa", DSA | {"index_topk_freq": 2}),
    "hy_v4": ("hy_v4", DSA | {"indexer_types": ["full", "shared", "shared", "full"]}),
    "deepseek_v4": ("deepseek_v4", V4),
    "minimax_m3": ("minimax_m3_vl_text", M3),
}  # fmt: skip
CORRECTIONS = ("e_score_correction_bias", "expert_bias")


def of_transformers(model_type, fields):
    """transformers' configuration and model on the meta device; skips what it lacks."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.for_model(model_type, **fields)
    except ValueError:
        pytest.skip(f"this version of transformers has no {model_type}")
    with torch.device("meta"):
        return config, transformers.AutoModelForCausalLM.from_config(config)


def stored(model):
    """What a checkpoint holds: parameters, and the corrections of a router's scores, which
    transformers keeps as buffers."""
    buffers = [b for name, b in model.named_buffers() if name.endswith(CORRECTIONS)]
    return sum(each.numel() for each in (*model.parameters(), *buffers))


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_transformers(case):
    model_type, fields = CASES[case]
    config, theirs = of_transformers(model_type, fields)
    as_saved = config.to_dict() | {"model_type": model_type}
    assert from_config(as_saved, case).parameters == stored(theirs)
    # and as older files spell it
    assert from_config(fields | {"model_type": model_type}, case).parameters == stored(theirs)


# ------------------------------------------------------------------------------------ states

RECURRENT = ("qwen3_next", "qwen3_5_moe", "olmo_hybrid", "kimi_linear", "bailing_hybrid", "minimax",
             "granite", "bamba", "jamba", "falcon_h1", "nemotron_h", "zamba", "zamba2", "mamba",
             "falcon_mamba", "mamba2", "lfm2")  # fmt: skip


@pytest.mark.parametrize("case", RECURRENT)
def test_states_have_the_size_of_transformers_caches(case):
    """A pass of five tokens through a tiny model fills its cache: recurrent states of the same
    size, and of each channel of a convolution the same number of inputs (transformers keeps as many
    as the kernel is long, of which the oldest is never read again)."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model_type, fields = CASES[case]
    config, _ = of_transformers(model_type, fields)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        answer = theirs(torch.zeros(1, 5, dtype=torch.long), use_cache=True)
    cache = answer.get("past_key_values") or answer.get("cache_params")
    states = inputs = 0
    for layer in cache.layers:
        for state in getattr(layer, "recurrent_states", {}).values():
            states += 0 if state is None else state.numel()
        for state in getattr(layer, "conv_states", {}).values():
            kernel = 0 if state is None else state.shape[-1]
            inputs += 0 if state is None else state.numel() // kernel * (kernel - 1)
    for state in getattr(cache, "linear_cache", ()):  # MiniMax's own
        states += 0 if isinstance(state, list) else state.numel()
    ours = from_config(fields | {"model_type": model_type}, case)
    found = [(m, n) for m, n in mixers_of(ours) if isinstance(m, Recurrent)]
    assert sum(mixer.state_elements * count for mixer, count in found) == states
    assert sum(mixer.convolution_elements * count for mixer, count in found) == inputs
    assert ours.state_bytes == 4 * states + 2 * inputs


# --------------------------------------------------------------------------------- operators

BF16 = PRECISIONS["bf16"]


def hybrid(case):
    model_type, fields = CASES[case]
    return from_config(fields | {"model_type": model_type}, case)


def naive(model, batch, rows, context, states):
    """Cache bytes and FLOPs over the cache in bf16, layer by layer and sequence by sequence."""
    cache = flops = 0.0
    for layer in layers_of(model):
        for mixer in layer.mixers:
            for _ in range(batch):
                if isinstance(mixer, Recurrent):
                    one = mixer.state_elements * 4 + mixer.convolution_elements * 2
                    cache += one * (1 + states)
                    flops += rows * mixer.state_elements * 6
                    continue
                seen, read = context, 0.0
                if mixer.window and not mixer.compressed:
                    seen = min(context, mixer.window)
                if mixer.compressed:
                    seen = context / mixer.compressed.rate
                if mixer.indexer:
                    chosen = min(seen, mixer.indexer.top_k)
                    if not mixer.indexer.borrowed:
                        rate = mixer.compressed.rate if mixer.compressed else 1
                        keys = seen + rows / rate
                        cache += keys * (mixer.indexer.head_dim + 4)
                        flops += rows * seen * 2 * mixer.indexer.num_heads * mixer.indexer.head_dim
                    read, seen = min(rows * chosen, seen), chosen
                else:
                    read = seen
                new = float(rows)
                if mixer.compressed:
                    near = min(context, mixer.window)
                    seen, read, new = (
                        seen + near,
                        read + near,
                        rows * (1 + 1 / mixer.compressed.rate),
                    )
                    both = mixer.compressed.columns + mixer.compressed.indexer_columns
                    cache += rows * 2 * 2 * 4 * both
                cache += 2 * mixer.cached * (read + new)
                if mixer.latent:
                    low = mixer.latent
                    absorbed = rows * seen * (2 * low.kv_rank + low.rope_size)
                    narrow = rows * seen * (low.nope_size + low.rope_size + low.value_size)
                    narrow += read * low.kv_rank * (low.nope_size + low.value_size)
                    flops += 2 * mixer.num_heads * min(absorbed, narrow)
                else:
                    flops += (
                        rows
                        * seen
                        * 2
                        * mixer.num_heads
                        * (mixer.head_dim + (mixer.value_dim or mixer.head_dim))
                    )
    return cache, flops


@pytest.mark.parametrize("case", ["qwen3_next", "falcon_h1", "nemotron_h latent", "zamba2", "jamba",
                                  "kimi_linear", "glm_moe_dsa shared", "hy_v4", "deepseek_v4",
                                  "minimax_m3", "lfm3"])  # fmt: skip
@pytest.mark.parametrize(("batch", "rows", "context"), [(1, 1, 700), (3, 5, 40), (2, 4, 5000)])
def test_cache_and_state_are_those_of_a_naive_loop(case, batch, rows, context):
    model = hybrid(case)
    work = forward_work(model, Workload(batch, rows, context), BF16)
    over = [each for each in work if each.kind == ATTENTION]
    cache, flops = naive(model, batch, rows, context, states=rows)
    assert float(work.kv_bytes) == pytest.approx(cache, rel=1e-12)
    assert float(sum(each.flops for each in over)) == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_every_matrix_is_stored_and_multiplied_once(case):
    """Read by so many tokens that no expert is left out, the matrices are the parameters but for
    the table and what is no matrix; each weight is multiplied once per token that sees it."""
    model = hybrid(case)
    stored_bytes = stored_weight_bytes(model, BF16)
    assert stored_bytes == pytest.approx(2 * model.parameters, rel=1e-12)
    work = forward_work(model, Workload(1e9, 1, 0, routing_correlation=0), BF16)
    shared = sum(replace(layer, shared=False).parameters(model.hidden_size, 0)
                 for layer in model.layers if layer.shared)  # fmt: skip
    matrices = float(work.weight_bytes) / 2
    assert matrices <= model.parameters + shared + (model.tied_head and model.embedding_parameters)
    assert matrices > 0.9 * (model.parameters + shared - model.embedding_parameters)


@pytest.mark.parametrize("case", ["zamba2", "zamba2 two blocks", "qwen3_5 tied"])
def test_a_matrix_that_layers_share_is_stored_once(case):
    """In 8 bits a matrix of transformers' model takes a byte an element, everything else two."""
    model_type, fields = CASES[case]
    parameters = [*of_transformers(model_type, fields)[1].parameters()]
    matrices = sum(each.numel() for each in parameters if each.ndim == 2)
    others = sum(each.numel() for each in parameters if each.ndim != 2)
    assert stored_weight_bytes(hybrid(case), PRECISIONS["int8"]) == matrices + 2 * others


@given(st.sampled_from(sorted(CASES)), st.integers(1, 64), st.integers(1, 9), st.integers(0, 10**5))
@settings(max_examples=60, deadline=None)
def test_a_pass_grows_with_batch_rows_and_context(case, batch, rows, context):
    model = hybrid(case)

    def of(batch, rows, context, **how):
        work = forward_work(model, Workload(batch, rows, context, **how), BF16)
        return np.array([float(work.kv_bytes), float(work.flops), float(work.weight_bytes)])

    one = of(batch, rows, context)
    assert np.all(one <= of(batch + 1, rows, context) * (1 + 1e-12))
    assert np.all(one <= of(batch, rows + 1, context) * (1 + 1e-12))
    assert np.all(one <= of(batch, rows, 2 * context + 1) * (1 + 1e-12))
    # what can be rolled back is never cheaper than what cannot
    assert np.all(of(batch, rows, context, states=1) <= one)


@given(st.sampled_from(RECURRENT), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_state_is_constant_in_the_context(case, context):
    model = hybrid(case)

    def state(context, **how):
        work = forward_work(model, Workload(2, 3, context, **how), BF16)
        return sum(float(each.kv_bytes) for each in work if each.name.endswith(" state"))

    assert state(context) == state(0) == 2 * (1 + 3) * model.state_bytes
    assert state(context, states=1) == 2 * 2 * model.state_bytes  # a prefill writes one
    growing = model.kv_elements_per_token * 2.0 * context
    held = cache_bytes(model, BF16, batch=1, slots=context, states=5)
    assert float(held) <= 5 * model.state_bytes + growing + 1
    assert float(cache_bytes(model, BF16, batch=1, slots=0, states=5)) == 5 * model.state_bytes


def test_compressed_caches_hold_a_window_and_an_entry_for_so_many_tokens():
    model, context = hybrid("deepseek_v4"), 12_800
    near, entry = 16, 32
    expected = 0.0
    for rate in (0, 0, 4, 128, 4):
        expected += 2 * near * entry
        if rate:
            expected += 2 * context / rate * entry
            columns = 2 * (entry + 16) if rate == 4 else entry
            overlap = 2 if rate == 4 else 1
            expected += 4 * 2 * overlap * rate * columns
        if rate == 4:
            expected += context / rate * (16 + 4)
    assert float(cache_bytes(model, BF16, batch=1, slots=context)) == pytest.approx(expected)


def test_a_borrowed_choice_costs_no_indexer():
    own, borrowed = hybrid("glm_moe_dsa"), hybrid("glm_moe_dsa shared")
    layers = [layer.mixer.indexer.borrowed for layer in borrowed.layers]
    assert layers == [False, False, True, False]
    differ = own.layers[2].mixer.indexer.parameters(own.hidden_size)
    assert own.parameters - borrowed.parameters == differ > 0
    asked = Workload(1, 1, 500)
    scores = [float(forward_work(model, asked, BF16)["indexer scores"].flops)
              for model in (own, borrowed)]  # fmt: skip
    assert scores[1] == 0.75 * scores[0]


@pytest.mark.parametrize("case", ["qwen3_next", "zamba2", "nemotron_h latent", "deepseek_v4"])
def test_plain_data_brings_a_hybrid_back(case):
    model = hybrid(case)
    assert Architecture.from_fields(json.loads(json.dumps(asdict(model)))) == model


# --------------------------------------------------------------------- drafting, and refusals


@pytest.mark.parametrize("case", CASES)
def test_heads_and_modules_of_hybrids_are_attention(case):
    target = hybrid(case)
    head = Eagle(target).architecture
    assert head.parameters > 0
    assert (head.state_bytes, head.num_layers) == (0, 1)
    module = target.mtp_module
    assert (module.state_bytes, module.num_layers) == (0, 1)
    assert [mixer for mixer, _ in mixers_of(module) if isinstance(mixer, Attention)]
    first = target.first_layers(1)
    assert first.num_layers == 1
    assert 0 < first.parameters < target.parameters
    for drafter in (Eagle(target), Eagle(target, own_layer=True)):
        ledger = drafter.cycle(specsim.system("h100-sxm"), Workload(2, 1, 300), 3)
        assert ledger.seconds > 0


def test_a_verification_that_may_roll_back_costs_memory_and_time():
    target = from_config(REAL["Qwen/Qwen3.5-27B"][0], "qwen3.5-27b")
    system = specsim.system("h200-sxm")
    held = [footprint(target, system, batch=8, context=1000, gamma=g).kv_bytes for g in (0, 4)]
    tokens = 8 * 4 * target.kv_elements_per_token * 2
    assert held[1] - held[0] == pytest.approx(8 * 4 * target.state_bytes + tokens)
    asked = Workload(8, 5, 1000)
    rolled = ModelPass(target, system, asked).seconds
    assert rolled > ModelPass(target, system, replace(asked, states=1)).seconds


def test_very_many_scenarios_keep_the_states_that_are_asked_for():
    target, system = hybrid("qwen3_5"), specsim.system("h200-sxm")
    contexts = np.linspace(10, 1000, 5000)
    one = Workload(8, 5, contexts, states=1)
    many = ModelPass(target, system, one).seconds
    few = ModelPass(target, system, replace(one, context=contexts[:3])).seconds
    np.testing.assert_allclose(many[:3], few)


def test_a_recurrent_draft_keeps_its_states_too():
    draft = hybrid("qwen3_5")
    target, system = specsim.model("llama-3.1-8b"), specsim.system("h100-sxm")
    drafter = specsim.DraftModel(draft)
    held = [float(footprint(target, system, batch=3, gamma=gamma, context=100 - gamma,
                            drafter=drafter).draft_kv_bytes) for gamma in (0, 6)]  # fmt: skip
    assert held[1] - held[0] == pytest.approx(3 * 6 * draft.state_bytes)


@pytest.mark.parametrize("case", CASES)
def test_the_decoder_refuses_hybrids(case):
    with pytest.raises(SpecsimError, match="layers of several kinds"):
        hybrid(case).require_llama_shape()


@pytest.mark.parametrize(("change", "said"), [
    ({"layer_types": ["linear_attention", "surprise", "full_attention", "full_attention"]},
     "layer_types names surprise"),
    ({"layer_types": ["linear_attention"]}, "layer_types has 1 entries; expected 4"),
    ({"attn_output_gate": False}, "attn_output_gate False is not supported"),
    ({"linear_num_key_heads": "two"}, "linear_num_key_heads"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(change, said):
    with pytest.raises(SpecsimError, match=said):
        from_config(CASES["qwen3_5"][1] | {"model_type": "qwen3_5_text"} | change, "odd")


@pytest.mark.parametrize("case", CASES)
def test_a_field_of_the_wrong_kind_is_a_clear_refusal(case):
    """Or, where nothing is counted from it, read; never another exception."""
    model_type, fields = CASES[case]
    for key in fields:
        for wrong in ("x", -1, {"a": 1}, [None]):
            with contextlib.suppress(SpecsimError):
                from_config(fields | {"model_type": model_type, key: wrong}, "odd")


def test_every_family_of_these_is_in_the_table_of_the_documentation():
    table = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    listed = {kind for group in (linear, mamba, recurrent, sparse) for kind in group.FAMILIES}
    assert [kind for kind in sorted(listed) if f"`{kind}`" not in table] == []


def test_the_report_says_what_a_rollback_costs():
    said = " ".join(rolling_back(from_config(REAL["Qwen/Qwen3.5-27B"][0], "qwen3.5-27b")))
    assert "gamma + 1 states of 154 MB" in said
    assert "of its own choice" in " ".join(rolling_back(hybrid("deepseek_v4")))
    assert rolling_back(specsim.model("llama-3.1-8b")) == []


# ---------------------------------------------------------------------------- published sizes

DELTA_16 = {"linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4, "head_dim": 256, "vocab_size": 248_320}  # fmt: skip


def qwen(layers, hidden, heads, kv_heads, value_heads, **how):
    kind, mlp = "qwen3_5_text", {"intermediate_size": how.get("width")}
    if "experts" in how:
        kind, mlp = "qwen3_5_moe_text", {
            "num_experts": how["experts"], "num_experts_per_tok": how["per_token"],
            "moe_intermediate_size": how["each"], "shared_expert_intermediate_size": how["each"],
        }  # fmt: skip
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
             "num_key_value_heads": kv_heads, "linear_num_value_heads": value_heads}  # fmt: skip
    return DELTA_16 | sizes | mlp | {"model_type": kind, "mtp_num_hidden_layers": 1}


def v4(layers, hidden, heads, **how):
    first = how.pop("first")
    ratios = [first, first] + [4, 128] * ((layers - 2) // 2) + [4] * (layers % 2) + [0]
    return {"model_type": "deepseek_v4", "num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 512,
            "index_head_dim": 128, "index_n_heads": 64, "n_shared_experts": 1, "num_hash_layers": 3,
            "num_experts_per_tok": 6, "o_lora_rank": 1024, "sliding_window": 128, "hc_mult": 4,
            "vocab_size": 129_280, "compress_ratios": ratios} | how  # fmt: skip


DSA_REAL = {"index_head_dim": 128, "index_topk": 2048, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "n_routed_experts": 256, "first_k_dense_replace": 3}  # fmt: skip
NANO = {"model_type": "nemotron_h", "hidden_size": 2688, "num_attention_heads": 32, "head_dim": 128,
        "num_key_value_heads": 2, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "intermediate_size": 1856, "vocab_size": 131_072,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712,
        "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 6,
        "num_hidden_layers": 52,
        "hybrid_override_pattern": "MEMEM*E" * 5 + "MEMEMEM*E" + "MEMEMEME"}  # fmt: skip
NEMOTRON_56B = {"model_type": "nemotron_h", "hidden_size": 8192, "num_attention_heads": 64,
                "attention_head_dim": 128, "num_key_value_heads": 8, "mamba_num_heads": 256,
                "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 256, "conv_kernel": 4,
                "intermediate_size": 32_768, "vocab_size": 131_072, "num_hidden_layers": 118,
                "hybrid_override_pattern": "M-M-M-M*-" + "M-M-M-M-M*-" * 9 + "M-" * 5}  # fmt: skip
KIMI_K3 = {"model_type": "kimi_linear", "hidden_size": 7168, "num_hidden_layers": 93,
           "intermediate_size": 33_792, "moe_intermediate_size": 3072, "num_experts": 896,
           "num_experts_per_token": 16, "num_shared_experts": 2, "routed_expert_hidden_size": 3584,
           "latent_moe_use_norm": True, "mla_use_output_gate": True, "num_attention_heads": 96,
           "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
           "qk_nope_head_dim": 128, "v_head_dim": 128, "vocab_size": 163_840,
           "first_k_dense_replace": 1, "attn_res_block_size": 12,
           "linear_attn_config": {"num_heads": 96, "head_dim": 128, "short_conv_kernel_size": 4,
                                  "use_full_rank_gate": True,
                                  "full_attn_layers": [*range(4, 93, 4), 93]}}  # fmt: skip
MINIMAX_M3 = {"model_type": "minimax_m3", "hidden_size": 6144, "num_hidden_layers": 60,
              "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
              "intermediate_size": 3072, "dense_intermediate_size": 12_288, "vocab_size": 200_064,
              "num_local_experts": 128, "num_experts_per_tok": 4, "n_shared_experts": 1,
              "moe_layer_freq": [0] * 3 + [1] * 57,
              "sparse_attention_config": {"sparse_attention_freq": [0] * 3 + [1] * 57}}  # fmt: skip
MINIMAX_01 = {"model_type": "minimax_text_01", "hidden_size": 6144, "num_hidden_layers": 80,
              "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
              "intermediate_size": 9216, "num_local_experts": 32, "num_experts_per_tok": 2,
              "vocab_size": 200_064, "attn_type_list": ([0] * 7 + [1]) * 10}  # fmt: skip
RING = {"model_type": "bailing_moe_linear", "hidden_size": 4096, "intermediate_size": 9216,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1,
        "moe_intermediate_size": 1024, "first_k_dense_replace": 1, "layer_group_size": 8,
        "vocab_size": 157_184}  # fmt: skip
QWEN_NEXT = qwen(48, 2048, 16, 2, 32, experts=512, per_token=10, each=512)
# billions, all and active, as published
REAL: dict[str, tuple[dict[str, Any], float, float | None]] = {
    "Qwen/Qwen3.5-27B": (qwen(64, 5120, 24, 4, 48, width=17_408), 27, None),
    "Qwen/Qwen3.5-35B-A3B": (qwen(40, 2048, 16, 2, 32, experts=256, per_token=8, each=512), 35, 3),
    "Qwen/Qwen3.5-122B-A10B": (
        qwen(48, 3072, 32, 2, 64, experts=256, per_token=8, each=1024), 122, 10),
    "Qwen/Qwen3.5-397B-A17B": (
        qwen(60, 4096, 32, 2, 64, experts=512, per_token=10, each=1024), 397, 17),
    "Qwen/Qwen3-Next-80B-A3B": (
        QWEN_NEXT | {"model_type": "qwen3_next", "vocab_size": 151_936}, 80, 3),
    "moonshotai/Kimi-K3": (KIMI_K3, 2780, 104.2),
    "MiniMaxAI/MiniMax-M3": (MINIMAX_M3, 428, 23),
    "MiniMaxAI/MiniMax-Text-01": (MINIMAX_01, 456, 45.9),
    "inclusionAI/Ring-flash-linear-2.0": (RING, 104, 6.1),
    "nvidia/Nemotron-H-56B": (NEMOTRON_56B, 56, None),
    "nvidia/Nemotron-3-Nano-30B-A3B": (NANO, 31.6, 3.6),
    "nvidia/Nemotron-3-Ultra-550B-A55B": (
        NANO | {"hidden_size": 8192, "num_attention_heads": 64, "mamba_num_heads": 256,
                "moe_intermediate_size": 5120, "moe_latent_size": 2048, "n_routed_experts": 512,
                "moe_shared_expert_intermediate_size": 10_240, "num_experts_per_tok": 22,
                "hybrid_override_pattern": "MEMEMEM*E" * 12}, 550, 55),
    "deepseek-ai/DeepSeek-V3.2": (
        DSA_REAL | {"model_type": "deepseek_v32", "hidden_size": 7168, "num_hidden_layers": 61,
                    "num_attention_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
                    "v_head_dim": 128, "intermediate_size": 18_432, "index_n_heads": 64,
                    "vocab_size": 129_280}, 671, 37),
    "zai-org/GLM-5": (
        DSA_REAL | {"model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78,
                    "num_attention_heads": 64, "q_lora_rank": 2048, "qk_nope_head_dim": 192,
                    "v_head_dim": 256, "intermediate_size": 12_288, "index_n_heads": 32,
                    "vocab_size": 154_880}, 744, 40),
    "deepseek-ai/DeepSeek-V4-Flash": (
        v4(43, 4096, 64, first=0, moe_intermediate_size=2048, n_routed_experts=256, o_groups=8,
           q_lora_rank=1024, index_topk=512), 284, 13),
    "deepseek-ai/DeepSeek-V4-Pro": (
        v4(61, 7168, 128, first=128, moe_intermediate_size=3072, n_routed_experts=384, o_groups=16,
           q_lora_rank=1536, index_topk=1024), 1573, 49),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_models_have_the_published_size(name):
    """All parameters within 1 %; the active ones, which are published in whole billions and with or
    without one or both tables, between these counts and half a billion or 3 % apart."""
    config, total, active = REAL[name]
    model = from_config(config, name)
    assert model.parameters / 1e9 == pytest.approx(total, rel=0.01)
    if active is not None:
        table, most = model.embedding_parameters / 1e9, model.active_parameters / 1e9
        slack = max(0.5, 0.03 * active)
        assert most - 2 * table - slack <= active <= most + slack

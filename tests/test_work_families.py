"""Counts of every kind of layer: a naive loop over layers, experts and devices beside the
vectorised form, the vectors of the theory (J, K), and the limits in which one family becomes
another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from specsim import catalog
from specsim.architecture import Architecture, Experts, LatentAttention, model
from specsim.checks import SpecsimError
from specsim.operators import (
    ATTENTION,
    COLLECTIVE,
    LINEAR,
    PRECISIONS,
    Sharding,
    Workload,
    distinct_experts,
    forward_work,
)

BF16 = PRECISIONS["bf16"]
COUNTS = ("flops", "weight_bytes", "kv_bytes", "activation_bytes")
PRESETS = tuple(catalog.load("models"))
ODD = Architecture("odd", 48, 4, 6, 2, 16, 80, 101)  # head_dim is not hidden / heads
MOE = replace(ODD, name="moe", experts=Experts(8, 2, 24, shared_size=40, dense_layers=(0,)))
MLA = replace(ODD, name="mla", num_kv_heads=6, head_dim=20,
              latent=LatentAttention(32, 8, 12, 14, query_rank=18))  # fmt: skip
SLIDING = replace(ODD, name="sliding", sliding_window=100, sliding_layers=(0, 1, 3))
EVERYTHING = replace(MLA, name="everything", experts=MOE.experts, logit_softcap=30.0,
                     sliding_window=100, sliding_layers=(1, 2))  # fmt: skip


def naive_counts(shape, batch, rows, context, devices=1):
    """FLOPs, weight bytes and KV bytes in bf16 of one device, a layer and an expert at a time."""
    tokens, flops, weights, kv = batch * rows, 0.0, 0.0, 0.0

    def matrix(fan_in, fan_out, visits=tokens, read=1.0):
        nonlocal flops, weights
        flops += 2 * visits * fan_in * fan_out
        weights += 2 * fan_in * fan_out * read

    def mlp(width, **how):
        for _ in range(3 if shape.gated_mlp else 2):
            matrix(shape.hidden_size, width / devices, **how)

    hidden, heads, d = shape.hidden_size, shape.num_heads // devices, shape.head_dim
    for layer in range(shape.num_layers):
        seen = min(context, shape.sliding_window) if layer in shape.sliding_layers else context
        if shape.latent:
            low = shape.latent
            matrix(hidden, low.query_rank)
            matrix(low.query_rank, heads * d)
            matrix(hidden, low.kv_rank + low.rope_size)  # in full on every device
            matrix(low.kv_rank, heads * low.nope_size)
            matrix(low.kv_rank, heads * low.value_size)
            scores, values = low.kv_rank + low.rope_size, low.kv_rank
            absorbed = 2 * tokens * seen * heads * (scores + values)
            widths = low.nope_size + low.rope_size + low.value_size
            up = 2 * batch * seen * low.kv_rank * heads * (low.nope_size + low.value_size)
            flops += min(absorbed, 2 * tokens * seen * heads * widths + up)
            kv += 2 * (low.kv_rank + low.rope_size) * (batch * seen + tokens)
            matrix(heads * low.value_size, hidden)
        else:
            kv_heads = max(1, shape.num_kv_heads // devices)
            matrix(hidden, heads * d)
            matrix(hidden, kv_heads * d)
            matrix(hidden, kv_heads * d)
            flops += 2 * 2 * tokens * seen * heads * d
            kv += 2 * 2 * kv_heads * d * (batch * seen + tokens)
            matrix(heads * d, hidden)
        if (moe := shape.experts) and layer not in moe.dense_layers:
            matrix(hidden, moe.count)
            mlp(moe.shared_size)
            read = moe.count * (1 - (1 - moe.per_token / moe.count) ** tokens)
            mlp(moe.intermediate_size, visits=tokens * moe.per_token, read=read)
        else:
            mlp(shape.intermediate_size)
    matrix(hidden, -(-shape.vocab_size // devices))
    return flops, weights, kv


@pytest.mark.parametrize("devices", [1, 2, 6])
@pytest.mark.parametrize("shape", [ODD, MOE, MLA, SLIDING, EVERYTHING], ids=lambda s: s.name)
@pytest.mark.parametrize("scenario", [(1, 1, 1024), (7, 5, 33), (1, 700, 350)])
def test_counts_against_a_loop_over_layers(shape, scenario, devices):
    batch, rows, context = scenario
    work = forward_work(
        shape, Workload(batch=batch, rows=rows, context=context), BF16, Sharding(devices)
    )
    flops, weights, kv = naive_counts(shape, *scenario, devices)
    products = sum(o.flops for o in work if o.kind in (LINEAR, ATTENTION))
    assert_allclose([products, work.weight_bytes, work.kv_bytes], [flops, weights, kv], rtol=1e-13)
    assert work.devices == devices


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_streams_its_parameters_less_table_norms_and_biases(name):
    shape = model(name)
    every = forward_work(
        shape, Workload(batch=1e9, context=1), BF16
    )  # enough tokens for every expert
    table = 0 if shape.tied_head else shape.embedding_parameters
    positions = shape.learned_positions * shape.hidden_size
    gathered = table + positions + shape.gathered_parameters
    small = shape.parameters - gathered - every.weight_bytes / 2
    assert 0 < small < 2e-3 * shape.parameters
    if not shape.departures:
        norms = (2 * shape.num_layers + 1) * shape.hidden_size
        biases = shape.num_layers * (shape.query_size + 2 * shape.kv_size) * shape.qkv_bias
        gates = shape.expert_layers * shape.hidden_size if shape.experts else 0
        gates *= bool(shape.experts and shape.experts.shared_gate)
        head_norms = 2 * shape.num_layers * shape.head_dim * shape.qk_norm
        assert small == pytest.approx(norms + biases + gates + head_norms)
    one = forward_work(shape, Workload(context=1), BF16).weight_bytes / 2
    active = shape.active_parameters - gathered
    assert one == pytest.approx(active, rel=2e-3)


def test_arrays_are_the_scalars_side_by_side():
    """Also of the powers of the experts, to the last bit."""
    batch, rows = np.array([1, 3, 64, 700]), np.array([1, 2, 5, 9, 17, 4096])
    context = np.array([1, 99, 101, 50_000])
    for shape in (MOE, MLA, SLIDING, EVERYTHING, model("deepseek-v3"), model("gpt-oss-20b")):
        wide = forward_work(
            shape, Workload(batch=batch[:, None, None], rows=rows[:, None], context=context), BF16
        )
        for i, j, k in np.ndindex(4, 6, 4):
            alone = forward_work(
                shape, Workload(batch=batch[i], rows=rows[j], context=context[k]), BF16
            )
            for one, many in zip(alone, wide, strict=True):
                for count in COUNTS:
                    assert getattr(many, count)[i, j, k] == getattr(one, count)


# ------------------------------------------------------------------------------------- experts


@pytest.mark.parametrize(
    ("count", "chosen", "ratios"),
    [
        (8, 2, [1, 1.750, 2.734, 3.600, 3.960, 4.000, 4.000]),
        (128, 8, [1, 1.938, 3.640, 6.452, 10.303, 15.743, 16.000]),
        (256, 8, [1, 1.969, 3.816, 7.178, 12.745, 27.805, 31.991]),
        (128, 4, [1, 1.969, 3.816, 7.178, 12.745, 27.805, 31.991]),
    ],
)
def test_K1_distinct_experts(count, chosen, ratios):
    experts = Experts(count, chosen, 16)
    found = distinct_experts(experts, [1, 2, 4, 8, 16, 64, 256], 1) / chosen
    assert_allclose(found, ratios, atol=5.1e-4)


def test_K1_against_simulated_routing():
    rng, experts, tokens = np.random.default_rng(0), Experts(16, 3, 8), 5
    seen = [
        len({e for _ in range(tokens) for e in rng.choice(16, 3, replace=False)})
        for _ in range(20_000)
    ]
    assert np.mean(seen) == pytest.approx(float(distinct_experts(experts, tokens, 1)), abs=0.05)


def test_K2_correlated_tokens_of_one_sequence():
    experts = Experts(128, 8, 16)
    found = distinct_experts(experts, 1, 4, [0.45, 1.0, 0.0]) / 8
    assert_allclose(found, [2.51522, 1.0, 3.64038], atol=5e-6)
    own = replace(experts, routing_correlation=0.45)
    assert distinct_experts(own, 1, 4) == distinct_experts(experts, 1, 4, 0.45)
    # sequences stay independent, and a plain step does not know the correlation
    assert distinct_experts(experts, 4, 1, 1.0) == distinct_experts(experts, 1, 4, 0.0)


def test_K3_verify_over_decode_bytes_of_qwen3_30b():
    qwen = model("qwen3-30b-a3b")
    assert qwen.experts.count * 48 * 3 * 2048 * 768 == pytest.approx(28.99103e9, rel=1e-6)
    weights = forward_work(qwen, Workload(batch=[[1], [8], [64]], rows=[1, 4]), BF16).weight_bytes
    ratio = weights[:, 1] / weights[:, 0]
    assert_allclose(ratio, [2.57389, 2.05453, 1.01566], rtol=1e-3)
    one = forward_work(qwen, Workload(rows=[1, 4], routing_correlation=1.0), BF16).weight_bytes
    assert one[0] == one[1]


def test_a_batch_of_one_does_not_read_all_experts():
    mixtral = model("mixtral-8x7b")
    work = forward_work(mixtral, Workload(), BF16)
    routed = sum(o.weight_bytes for o in work if o.name.startswith("experts"))
    assert routed == 32 * 2 * 3 * 4096 * 14336 * 2  # two of eight
    assert work.weight_bytes < 2 * 13e9


def test_one_expert_is_a_dense_mlp_up_to_its_router():
    sparse = replace(ODD, experts=Experts(1, 1, ODD.intermediate_size))
    scenario = {"batch": [[1], [7]], "rows": [1, 5, 9], "context": 300}
    moe, dense = (
        forward_work(sparse, Workload(**scenario), BF16),
        forward_work(ODD, Workload(**scenario), BF16),
    )
    router = moe["router"]
    for count in COUNTS:
        assert_array_equal(
            getattr(moe, count) - getattr(router, count), getattr(dense, count), err_msg=count
        )


def test_shared_experts_are_read_once_and_by_everyone():
    work = forward_work(MOE, Workload(batch=[1, 64]), BF16)
    shared = work["shared experts down projection"]
    assert_array_equal(shared.weight_bytes, 2 * 3 * 40 * 48)
    assert_array_equal(shared.flops, [2 * 3 * 40 * 48, 64 * 2 * 3 * 40 * 48])
    dense = work["down projection"]
    assert_array_equal(dense.weight_bytes, 2 * 80 * 48)  # the first layer alone


def test_a_format_of_its_own_for_the_experts():
    gpt_oss = model("gpt-oss-20b")
    plain = forward_work(gpt_oss, Workload(), BF16)
    published = forward_work(gpt_oss, Workload(), PRECISIONS["mxfp4-moe"])
    for before, after in zip(plain, published, strict=True):
        factor = 0.53125 / 2 if before.name.startswith("experts") else 1.0
        assert after.weight_bytes == pytest.approx(factor * before.weight_bytes)


# -------------------------------------------------------------------------------------- latents


def test_J1_a_cached_token_of_deepseek():
    work = forward_work(model("deepseek-v3"), Workload(context=[1000, 1001]), BF16)
    assert work.kv_bytes[1] - work.kv_bytes[0] == 70_272


def test_the_latent_is_not_read_as_heads():
    """One tool charges 128 KV heads, 21 times too much or more (BLIS issue #559)."""
    v3 = model("deepseek-v3")
    as_heads = replace(v3, latent=None)
    latent, heads = (forward_work(shape, Workload(), BF16).kv_bytes for shape in (v3, as_heads))
    assert heads / latent == 2 * 128 * 192 / 576
    assert heads / latent > 21


def test_J5_intensity_of_the_latent():
    v3 = model("deepseek-v3")
    attention = forward_work(v3, Workload(context=10**7, rows=[1, 5]), BF16)["attention"]
    intensity = attention.flops / attention.kv_bytes
    assert_allclose(intensity, [241.77778, 5 * 241.77778], rtol=1e-5)


def test_a_latent_that_compresses_nothing_reads_what_heads_read():
    heads = replace(ODD, num_kv_heads=6)
    whole = LatentAttention(kv_rank=2 * 6 * 16, rope_size=0, nope_size=16, value_size=16)
    scenario = {"batch": [1, 9], "rows": 5, "context": 777}
    wide = forward_work(replace(heads, latent=whole), Workload(**scenario), BF16)
    assert_array_equal(wide.kv_bytes, forward_work(heads, Workload(**scenario), BF16).kv_bytes)


def test_a_long_prefill_decompresses_and_a_verification_does_not():
    v3 = model("deepseek-v3")
    flops = forward_work(v3, Workload(rows=[1, 9, 4096], context=4096), BF16)["attention"].flops
    absorbed = 2 * 128 * (2 * 512 + 64) * 61 * 4096 * np.array([1, 9, 4096])
    assert_array_equal(flops[:2], absorbed[:2])
    assert flops[2] < 0.35 * absorbed[2]


# -------------------------------------------------------------------------------------- windows


def test_a_sliding_layer_reads_no_more_than_its_window():
    context = np.array([50, 100, 101, 10_000])
    work = forward_work(SLIDING, Workload(context=context, batch=3, rows=2), BF16)
    per_layer = 2 * ODD.kv_elements_per_layer
    read = np.minimum(context, 100)
    assert_array_equal(work["sliding attention"].kv_bytes, 3 * per_layer * (3 * read + 6))
    assert_array_equal(work["attention"].kv_bytes, 1 * per_layer * (3 * context + 6))
    everywhere = replace(SLIDING, sliding_layers=(0, 1, 2, 3))
    names = [o.name for o in forward_work(everywhere, Workload(), BF16) if o.kind == ATTENTION]
    assert names == ["sliding attention"]


def test_within_the_window_sliding_is_full_attention():
    full, sliding = (
        forward_work(s, Workload(context=[10, 100], rows=3), BF16) for s in (ODD, SLIDING)
    )
    for count in COUNTS:
        assert_allclose(getattr(full, count), getattr(sliding, count), rtol=1e-15)


def test_an_allocated_buffer_of_a_sliding_layer_is_its_window():
    work = forward_work(SLIDING, Workload(context=20, allocated_context=5000), BF16)
    assert work["sliding attention"].kv_bytes == 3 * 2 * ODD.kv_elements_per_layer * 101
    assert work["attention"].kv_bytes == 2 * ODD.kv_elements_per_layer * 5001


def test_gemma_3_long_context_reads_mostly_windows():
    gemma = model("gemma-3-27b")
    kv = forward_work(gemma, Workload(context=100_000), BF16).kv_bytes
    assert (
        kv
        < 0.2
        * forward_work(replace(gemma, sliding_layers=()), Workload(context=1e5), BF16).kv_bytes
    )


# ------------------------------------------------------------------------------ what else differs


def test_an_mlp_of_two_matrices():
    plain = forward_work(replace(ODD, gated_mlp=False), Workload(), BF16)
    assert plain["up projection"].weight_bytes == 2 * 4 * 48 * 80
    with pytest.raises(SpecsimError, match="gate and up"):
        plain["gate and up projection"]


def test_a_soft_cap_touches_every_logit():
    capped = forward_work(replace(ODD, logit_softcap=30.0), Workload(batch=2, rows=3), BF16)
    assert capped["logit soft-cap"].activation_bytes == 6 * 101 * 4 * 2
    assert "logit soft-cap" not in {o.name for o in forward_work(ODD, Workload(), BF16)}


def test_logits_of_the_last_row_alone():
    some = forward_work(ODD, Workload(batch=3, rows=100, logit_rows=1), BF16)
    every = forward_work(ODD, Workload(batch=3, rows=100), BF16)
    assert 100 * some["LM head"].flops == every["LM head"].flops
    assert (some.logits, every.logits) == (3 * 101, 300 * 101)
    assert some["LM head"].weight_bytes == every["LM head"].weight_bytes


# ------------------------------------------------------------------------------ tensor parallelism


@pytest.mark.parametrize("shape", [ODD, MOE, MLA, SLIDING], ids=lambda s: s.name)
def test_one_device_is_no_tensor_parallelism(shape):
    scenario = {"batch": [1, 5], "rows": 3}
    plain, one = (
        forward_work(shape, Workload(**scenario), BF16),
        forward_work(shape, Workload(**scenario), BF16, Sharding(1, head_sharded=False)),
    )
    assert [o.name for o in plain] == [o.name for o in one]
    for a, b in zip(plain, one, strict=True):
        for count in COUNTS:
            assert_array_equal(getattr(a, count), getattr(b, count))


def test_eight_devices_hold_an_eighth_and_send_160_messages():
    seventy = model("llama-3.1-70b")
    one, eight = (forward_work(seventy, Workload(batch=4), BF16, Sharding(n)) for n in (1, 8))
    assert eight.weight_bytes == one.weight_bytes / 8
    assert eight.kv_bytes == one.kv_bytes / 8
    messages = eight["all-reduce"]
    assert (messages.kind, messages.kernels) == (COLLECTIVE, 160)
    assert messages.link_bytes == 160 * 2 * 7 / 8 * (4 * 8192 * 2)


def test_devices_beyond_the_kv_heads_hold_copies():
    kv = [forward_work(ODD, Workload(), BF16, Sharding(n)).kv_bytes for n in (1, 2, 6)]
    assert (kv[0] / kv[1], kv[1] / kv[2]) == (2, 1)


def test_the_latent_is_read_by_every_device():
    kv = [
        forward_work(model("deepseek-v3"), Workload(), BF16, Sharding(n)).kv_bytes for n in (1, 8)
    ]
    assert kv[0] == kv[1]


def test_an_lm_head_may_stay_whole_and_is_padded_where_split():
    head = {
        split: forward_work(ODD, Workload(), BF16, Sharding(2, split))["LM head"].weight_bytes
        for split in (True, False)
    }
    assert head == {True: 2 * 48 * 51, False: 2 * 48 * 101}


def test_blocks_side_by_side_send_one_message_a_layer():
    phi = forward_work(model("phi-2"), Workload(), BF16, Sharding(4))
    assert phi["all-reduce"].kernels == 32


@pytest.mark.parametrize(
    ("name", "devices", "message"),
    [
        ("llama-3.1-8b", 3, r"3 devices cannot share 32 heads and 8 KV heads evenly; .* 1, 2, 4"),
        ("qwen2.5-0.5b", 4, r"4 devices cannot share 14 heads and 2 KV heads .* may be 1, 2, 14"),
        ("deepseek-v3", 3, "3 devices cannot share 128 heads evenly"),
        ("llama-3.1-8b", 0, "tensor_parallel must be a whole number >= 1, not 0"),
        ("llama-3.1-8b", 2.0, "tensor_parallel must be a whole number >= 1, not 2.0"),
    ],
)
def test_devices_that_cannot_share_the_heads_are_refused(name, devices, message):
    with pytest.raises(SpecsimError, match=message):
        forward_work(model(name), Workload(), BF16, Sharding(devices))


sizes = st.integers(1, 3000)


@given(st.sampled_from([MOE, MLA, SLIDING, EVERYTHING]), sizes, sizes, sizes, sizes)
def test_counts_rise_with_batch_rows_and_context(shape, batch, rows, context, more):
    scenario = {"batch": batch, "rows": rows, "context": context}
    before = forward_work(shape, Workload(**scenario), BF16)
    for name, value in scenario.items():
        after = forward_work(shape, Workload(**scenario | {name: value + more}), BF16)
        for count in COUNTS:
            assert getattr(after, count) >= getattr(before, count)

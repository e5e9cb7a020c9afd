"""Seconds of a pass beyond the Llamas on one device: experts, latents, windows, tensor parallelism,
kernel floors, and both ends of the roofline."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import specsim
from specsim import DraftModel, SpecsimError
from specsim.architecture import Architecture, Experts, LatentAttention, model
from specsim.cost import BOUNDS, step_time
from specsim.hardware import Accelerator, Engine, System, accelerator, system
from specsim.operators import LINEAR, PRECISIONS, Workload

SEVENTY = model("llama-3.1-70b")
FAMILIES = [
    "llama-3.1-8b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "gemma-3-27b", "gpt-oss-20b",
    "mistral-7b", "phi-2", "opt-6.7b", "gpt2",
]  # fmt: skip
SMALL = Architecture("small", 512, 4, 8, 4, 64, 1024, 5000)


def ideal(chip, tensor_parallel=1, **changes):
    found = system(chip, engine="ideal", tensor_parallel=tensor_parallel)
    return replace(found, accelerator=replace(found.accelerator, **changes))


def terms(time):
    return {term.name: term for term in time.terms}


# ------------------------------------------------------------------------------ tensor parallelism


def test_O1_seventy_billion_on_eight_h100():
    step = step_time(SEVENTY, ideal("h100", 8, link_latency_s=9e-6, link_bytes_per_s=np.inf))
    weights, messages = step.share("weights"), terms(step)["all-reduce"].seconds
    assert_allclose(weights, 5.18682e-3, rtol=1e-4)
    assert_allclose(messages, 1.44e-3, rtol=1e-12)
    assert_allclose(messages / (weights + messages), 0.21730, rtol=1e-4)


def test_O2_speculation_divides_the_messages_too():
    eight = ideal("h100", 8, link_latency_s=9e-6, link_bytes_per_s=np.inf)
    verify = step_time(SEVENTY, eight, Workload(rows=5, context=1))
    per_token = (verify.share("weights") + terms(verify)["all-reduce"].seconds) / 3.3616
    assert_allclose(per_token, 1.97133e-3, rtol=1e-4)
    assert_allclose(terms(verify)["all-reduce"].seconds / 3.3616, 0.42837e-3, rtol=1e-5)


def test_an_all_reduce_is_latency_then_bandwidth():
    chip = {"link_latency_s": 9e-6, "link_bytes_per_s": 900e9}
    rows = np.array([1, 4096])
    found = terms(step_time(SEVENTY, ideal("h100", 8, **chip), Workload(rows=rows)))["all-reduce"]
    by_hand = 160 * (9e-6 + 2 * 7 / 8 * rows * 8192 * 2 / 450e9)  # half the link in each direction
    assert_allclose(found.seconds, by_hand, rtol=1e-12)
    assert found.bound.tolist() == ["overhead"] * 2


@pytest.mark.parametrize(
    ("name", "stored", "devices", "tokens_per_s"),
    [
        ("llama-2-7b", "bf16", 2, 168.84),
        ("llama-2-7b", "bf16", 4, 254.02),
        ("llama-2-7b", "bf16", 8, 328.43),
        ("mixtral-8x7b", "bf16", 2, 96.67),
        ("mixtral-8x7b", "bf16", 4, 155.35),
        ("mixtral-8x7b", "bf16", 8, 227.82),
        ("mixtral-8x7b", "int8", 1, 97.92),
        ("mixtral-8x7b", "int8", 2, 155.03),
        ("mixtral-8x7b", "int8", 4, 216.87),
        ("mixtral-8x7b", "int8", 8, 279.35),
    ],
)
def test_rows_of_gpt_fast_that_no_constant_was_fitted_to(name, stored, devices, tokens_per_s):
    """Tensor parallelism and experts, from constants fitted to Llama-2 on one device; tp.py shards
    the transformer blocks alone."""
    gpt_fast = system("a100", engine="gpt-fast", precision=stored, tensor_parallel=devices)
    gpt_fast = replace(gpt_fast, engine=replace(gpt_fast.engine, head_sharded=False))
    step = step_time(model(name), gpt_fast, Workload(context=105))
    assert_allclose(1 / step.total_s, tokens_per_s, rtol=0.12)


def test_eight_devices_are_far_from_eight_times_as_fast():
    """gpt-fast on A100s: 104.9 -> 328.43 tokens per second, 3.13 times."""
    one, eight = (
        step_time(
            model("llama-2-7b"),
            system("a100", "gpt-fast", tensor_parallel=n),
            Workload(context=105),
        ).total_s
        for n in (1, 8)
    )
    assert one / eight == pytest.approx(3.13, rel=0.05)


def test_an_lm_head_in_full_on_every_device_takes_longer():
    split = system("a100", "cuda-graphs", tensor_parallel=8)
    whole = replace(split, engine=replace(split.engine, head_sharded=False))
    head = [terms(step_time(SEVENTY, s))["LM head"].memory_s for s in (split, whole)]
    assert head[1] == 8 * head[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_one_device_is_the_same_to_the_last_bit(name):
    plain = step_time(model(name), system("h100"), Workload(batch=[1, 9], rows=3)).total_s
    one = step_time(
        model(name), system("h100", tensor_parallel=1), Workload(batch=[1, 9], rows=3)
    ).total_s
    assert plain.tolist() == one.tolist()


def test_devices_that_cannot_share_the_heads_are_refused_wherever_asked():
    with pytest.raises(SpecsimError, match="5 devices cannot share 64 heads"):
        step_time(SEVENTY, system("h100", tensor_parallel=5))
    with pytest.raises(SpecsimError, match="5 devices cannot share"):
        specsim.predict(SEVENTY, None, system("h100", tensor_parallel=5))


def test_a_draft_may_be_split_over_fewer_devices_than_its_target():
    """Where the draft's step is all latency, one device drafts faster than eight."""
    eight = system("h100", tensor_parallel=8)
    slow = replace(eight, accelerator=replace(eight.accelerator, link_latency_s=50e-6))
    draft = model("llama-3.2-1b")
    alone, together = (
        DraftModel(draft, tensor_parallel=n).step(slow, Workload(batch=1, context=1024)).seconds
        for n in (1, None)
    )
    on_one = step_time(draft, system("h100"), Workload(context=1024)).total_s
    assert alone == on_one + slow.engine.sampling_overhead_s
    assert alone < together
    both = {"gamma": 4, "alpha": 0.8}
    speedups = [
        specsim.predict(SEVENTY, DraftModel(draft, tensor_parallel=n), slow, **both).speedup
        for n in (1, 8)
    ]
    assert speedups[0] > speedups[1]


def test_links_come_from_the_catalog():
    h100, l40s = accelerator("h100-sxm"), accelerator("l40s")
    assert h100.link_bytes_per_s == 900e9
    assert h100.link_latency_s < l40s.link_latency_s  # NVLink against PCIe
    assert Accelerator("chip", 1e12).link_bytes_per_s is None


@pytest.mark.parametrize(
    ("name", "peers", "rate"), [("rtx-4090", True, 32e9), ("m4-max", False, 2.5e9)]
)
def test_an_unknown_link_is_assumed_slow_and_never_infinite(name, peers, rate):
    chip = accelerator(name)
    assert (chip.link_bytes_per_s, chip.has_peers, chip.link_rate) == (None, peers, rate)
    two = replace(system(name), tensor_parallel=2)
    messages = terms(step_time(SEVENTY, two, Workload(rows=512)))["all-reduce"].seconds
    by_hand = 160 * (chip.link_latency_s + 512 * 8192 * 2 / (rate / 2))
    assert_allclose(messages, by_hand, rtol=1e-12)
    linked = replace(two, accelerator=replace(chip, link_bytes_per_s=600e9))
    assert (
        step_time(SEVENTY, linked, Workload(rows=512)).total_s
        < step_time(SEVENTY, two, Workload(rows=512)).total_s
    )


# ------------------------------------------------------------------------------- experts, latents


def test_verification_of_a_mixture_is_dear_at_one_sequence_and_cheap_at_many():
    """Theory 11: S(B) is not monotone; verification loads new experts where few are loaded."""
    qwen, machine = model("qwen3-30b-a3b"), ideal("h200")
    steps = step_time(
        qwen, machine, Workload(batch=[[1], [8], [64]], rows=[1, 4], context=1)
    ).total_s
    ratio = steps[:, 1] / steps[:, 0]
    assert_allclose(ratio, [2.57, 2.05, 1.016], rtol=0.01)
    alike = step_time(
        qwen, machine, Workload(rows=4, context=1, routing_correlation=[0.0, 0.45, 1.0])
    )
    assert np.all(np.diff(alike.total_s) < 0)


def test_a_mixture_of_one_expert_takes_what_a_dense_model_takes():
    sparse = replace(SMALL, experts=Experts(1, 1, 1024))
    vllm = system("h200", engine="vllm")
    fused = replace(vllm, engine=replace(vllm.engine, fuses=True))
    for machine in (ideal("h200"), fused):
        times = [step_time(s, machine, Workload(batch=[1, 700], rows=3)) for s in (SMALL, sparse)]
        router = terms(times[1])["router"].seconds
        assert_allclose(times[1].total_s - router, times[0].total_s, rtol=1e-12)


def test_a_latent_computes_where_heads_would_wait_for_memory():
    latent = terms(
        step_time(model("deepseek-v3"), ideal("h200"), Workload(rows=[1, 5], context=32_768))
    )
    assert latent["attention"].bound.tolist() == ["compute"] * 2  # J5: 242 against a ridge of 206
    heads = terms(step_time(SEVENTY, ideal("h200"), Workload(rows=[1, 5], context=32_768)))
    assert heads["attention"].bound.tolist() == ["kv"] * 2
    grown = latent["attention"].seconds
    assert_allclose(grown[1] / grown[0], 5, rtol=1e-6)  # verification is not free here


@pytest.mark.parametrize(
    ("stored", "name", "wide"),
    [
        ("fp8", "llama-3.1-8b", ["LM head"]),
        ("fp8", "qwen3-30b-a3b", ["router", "LM head"]),
        ("fp4", "llama-3.1-8b", ["LM head"]),
        ("int8", "llama-3.1-8b", []),
        ("bf16", "qwen3-30b-a3b", []),
    ],
)
def test_weights_that_stay_wide_are_multiplied_at_their_own_rate(stored, name, wide):
    """On a B200: 2.25 PFLOP/s in 16 bits, 4.5 in 8, 9 in 4. 4096 rows wait for arithmetic alone."""
    machine = system("b200", "ideal", stored)
    step = step_time(model(name), machine, Workload(rows=4096, context=1))
    own = {"fp8": 4.5e15, "fp4": 9e15}.get(stored, 2.25e15)
    for term in step.terms:
        if term.operator is not None and term.operator.kind == LINEAR:
            rate = 2.25e15 if term.name in wide else own
            assert_allclose(term.compute_s, term.operator.flops / rate, rtol=1e-12)
    attention = terms(step)["attention"]
    assert_allclose(attention.compute_s, attention.operator.flops / 2.25e15, rtol=1e-12)


def test_thirty_two_bits_stay_thirty_two():
    step = step_time(SMALL, system("h100", "ideal", "fp32"), Workload(rows=64))
    for term in step.terms:
        if term.operator is not None and term.operator.math:
            assert_allclose(term.compute_s, term.operator.flops / 67e12, rtol=1e-12)


# ------------------------------------------------------------------------- floors, overlap, shares


def test_no_kernel_takes_less_than_its_floor():
    machine = ideal("h200")
    floored = replace(
        machine, engine=replace(machine.engine, kernel_floor_s=3e-6, attention_floor_s=8e-6)
    )
    step, free = (terms(step_time(SMALL, s, Workload(context=10))) for s in (floored, machine))
    assert step["attention"].seconds == 4 * 8e-6
    assert step["LM head"].seconds == max(free["LM head"].seconds, 3e-6)
    assert step["down projection"].seconds == 4 * 3e-6
    assert step["attention"].bound == "overhead"
    assert free["attention"].bound == "kv"
    long = terms(step_time(SMALL, floored, Workload(context=10**7)))["attention"]
    assert long.bound == "kv"
    total = step_time(SMALL, floored, Workload(context=10))
    assert_allclose(sum(total.share(bound) for bound in BOUNDS), total.total_s, rtol=1e-14)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_ends_of_the_roofline(name):
    machine = system("h100", tensor_parallel=1)
    step = step_time(model(name), machine, Workload(batch=[1, 100, 1000]))
    half_way = step_time(model(name), machine, Workload(batch=[1, 100, 1000]), norm=2.0).total_s
    assert np.all(step.total_s < half_way)
    assert np.all(half_way < step.serial_s)
    assert np.all(step.serial_s < 2 * step.total_s)
    sharp = step_time(model(name), machine, Workload(batch=[1, 100, 1000]), norm=60.0).total_s
    assert_allclose(sharp, step.total_s, rtol=0.02)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("devices", [1, 2])
def test_shares_add_up_and_gamma_zero_is_the_baseline(name, devices):
    machine, shape = system("h200", tensor_parallel=devices), model(name)
    step = step_time(shape, machine, Workload(batch=[1, 300], context=8192))
    assert_allclose(sum(step.share(b) for b in BOUNDS), step.total_s, rtol=1e-13)
    draft = replace(SMALL, vocab_size=shape.vocab_size)
    found = specsim.predict(
        shape, DraftModel(draft), machine, gamma=[0, 3], alpha=0.7, batch=[[1], [9]], context=900
    )
    assert np.all(found.speedup[:, 0] == 1.0)
    alone = specsim.predict(shape, None, machine, batch=9, context=900)
    assert np.ravel(found.step_s)[-1] == alone.step_s


sizes = st.integers(1, 3000)
LATENT = replace(SMALL, head_dim=96, num_kv_heads=8, latent=LatentAttention(128, 32, 64, 64, 256))
MIXED = replace(LATENT, experts=Experts(16, 2, 256, shared_size=256, dense_layers=(0,)),
                sliding_window=64, sliding_layers=(1, 2))  # fmt: skip


@given(st.sampled_from([SMALL, LATENT, MIXED]), st.sampled_from([1, 2, 4]), st.data())
def test_a_pass_takes_no_less_of_more(shape, devices, data):
    engine = Engine("e", 0.7, kernel_floor_s=1e-6, attention_floor_s=4e-6, layer_overhead_s=1e-5)
    chip = Accelerator("chip", 1e12, {"bf16": 1e14}, link_bytes_per_s=1e11)
    machine = System(chip, engine, PRECISIONS["bf16"], devices)
    scenario = {name: data.draw(sizes) for name in ("batch", "rows", "context")}
    before = step_time(shape, machine, Workload(**scenario)).total_s
    for name in scenario:
        more = scenario | {name: scenario[name] + data.draw(sizes)}
        assert step_time(shape, machine, Workload(**more)).total_s >= before
    factor = data.draw(st.floats(1.0, 10.0))
    faster = {
        "bandwidth_bytes_per_s": 1e12 * factor,
        "flops_per_s": {"bf16": 1e14 * factor},
        "link_bytes_per_s": 1e11 * factor,
    }
    for field, value in faster.items():
        quick = replace(machine, accelerator=replace(chip, **{field: value}))
        assert step_time(shape, quick, Workload(**scenario)).total_s <= before


def test_arrays_are_the_scalars_side_by_side_to_the_last_bit():
    machine = system("h100", tensor_parallel=4)
    batch, rows, context = np.array([1, 64, 700]), np.array([1, 2, 5, 9]), np.array([1, 63, 50_000])
    for shape in (LATENT, MIXED, model("deepseek-v3"), model("gpt-oss-120b")):
        wide = step_time(
            shape,
            machine,
            Workload(batch=batch[:, None, None], rows=rows[:, None], context=context),
        )
        for i, j, k in np.ndindex(3, 4, 3):
            alone = step_time(
                shape, machine, Workload(batch=batch[i], rows=rows[j], context=context[k])
            )
            assert wide.total_s[i, j, k] == alone.total_s
            assert wide.bound[i, j, k] == alone.bound

"""What a device must hold: published weights, caches by hand, and remedies that are true."""

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from specsim import SpecsimError, catalog
from specsim.architecture import Storage, model
from specsim.drafting import DraftModel, Medusa, QuantisedSelf, method
from specsim.hardware import Accelerator, system
from specsim.operators import PRECISIONS, Sharding
from specsim.planning.memory import (
    cache_bytes,
    footprint,
    largest_batch,
    remedies,
    shortage,
    stored_weight_bytes,
)

SEVENTY, EIGHT, ONE = model("llama-3.1-70b"), model("llama-3.1-8b"), model("llama-3.2-1b")
H200 = system("h200-sxm")


def shortage_of(target, machine, **scenario):
    return shortage(footprint(target, machine, **scenario), target, machine, **scenario)


@pytest.mark.parametrize("name", catalog.load("models"))
def test_sixteen_bit_weights_are_two_bytes_for_every_parameter(name):
    shape = model(name)
    assert stored_weight_bytes(shape, PRECISIONS["bf16"]) == 2 * shape.parameters


@pytest.mark.parametrize(
    ("name", "stored", "gigabytes"),
    [
        ("llama-3.1-70b", "bf16", 141.1),
        ("gpt-oss-20b", "mxfp4-moe", 13.76),  # the checkpoint's 13.8 GB
        ("gpt-oss-120b", "mxfp4-moe", 65.2),  # 65.2 GB
        ("llama-3-8b", "q4_0", 4.34 * 1.073741824),  # llama.cpp prints GiB
        ("llama-3-8b", "q4_k_m", 4.58 * 1.073741824),
        ("llama-3-8b", "q8_0", 7.95 * 1.073741824),
        ("llama-3-70b", "q4_k_m", 39.59 * 1.073741824),
    ],
)
def test_sizes_of_published_checkpoints(name, stored, gigabytes):
    found = stored_weight_bytes(model(name), PRECISIONS[stored])
    assert_allclose(found, gigabytes * 1e9, rtol=0.005)


def test_devices_share_the_matrices_and_each_holds_the_norms():
    whole = stored_weight_bytes(EIGHT, PRECISIONS["bf16"])
    norms = 2 * 65 * 4096
    eighth = stored_weight_bytes(EIGHT, PRECISIONS["bf16"], Sharding(8))
    assert eighth == (whole - norms) / 8 + norms
    tables = 2 * 2 * EIGHT.embedding_parameters
    unshared = stored_weight_bytes(EIGHT, PRECISIONS["bf16"], Sharding(8, head_sharded=False))
    assert unshared == pytest.approx(eighth + tables * 7 / 8)


def test_interview_8_size_of_a_cache():
    sizes = cache_bytes(SEVENTY, PRECISIONS["bf16"], batch=[1, 32], slots=[8192, 4096])
    assert_allclose(sizes, [2.684e9, 42.95e9], rtol=2e-4)


def test_windows_and_latents_keep_caches_small():
    bf16 = PRECISIONS["bf16"]
    gemma = model("gemma-3-27b")
    long = cache_bytes(gemma, bf16, batch=1, slots=100_000)
    by_hand = 2 * 16 * 128 * 2 * (10 * 100_000 + 52 * 1024)
    assert long == by_hand
    latent = [
        cache_bytes(model("deepseek-v3"), bf16, batch=1, slots=1, tensor_parallel=n) for n in (1, 8)
    ]
    assert latent == [70_272, 70_272]  # every device holds it
    heads = [cache_bytes(SEVENTY, bf16, batch=1, slots=1, tensor_parallel=n) for n in (1, 8, 16)]
    assert heads == [327_680, 40_960, 40_960]


def test_seventy_billion_in_bf16_do_not_fit_one_h200():
    found = footprint(SEVENTY, H200, context=1)
    assert_allclose(found.weight_bytes, 141.1e9, rtol=1e-3)
    assert not found.fits
    sentence = shortage_of(SEVENTY, H200, context=2048)
    assert re.search(r"llama-3.1-70b needs 141\.8 GB .* on a h200-sxm with 141\.0 GB", sentence)
    assert "tensor_parallel = 2; or weights in fp8" in sentence
    assert shortage_of(SEVENTY, system("h200-sxm", tensor_parallel=2)) is None
    assert shortage_of(SEVENTY, system("h200-sxm", precision="fp8")) is None


def test_everything_counts_and_broadcasts():
    batch, context = np.array([[1], [64]]), np.array([1000, 100_000])
    found = footprint(EIGHT, H200, batch=batch, context=context, gamma=4, drafter=DraftModel(ONE))
    assert found.fits.tolist() == [[True, True], [True, False]]
    by_hand = 2 * EIGHT.parameters + 131_072 * batch * (context + 4)
    by_hand = by_hand + 2 * ONE.parameters + 32_768 * batch * (context + 4)
    by_hand = by_hand + 4 * batch * 5 * 128_256
    assert_allclose(found.total_bytes, by_hand, rtol=1e-14)
    assert_allclose(found.spare_bytes, 141e9 - by_hand, rtol=1e-12)
    alone = footprint(EIGHT, H200, batch=64, context=100_000, gamma=4, drafter=DraftModel(ONE))
    assert alone.total_bytes == found.total_bytes[1, 1]


def test_a_draft_of_its_own_format_and_devices():
    four = system("h200-sxm", tensor_parallel=4)
    found = footprint(SEVENTY, four, drafter=DraftModel(ONE, precision="int4", tensor_parallel=1))
    assert found.draft_weight_bytes == stored_weight_bytes(ONE, PRECISIONS["int4"])
    split = footprint(SEVENTY, four, drafter=DraftModel(ONE))
    assert split.draft_weight_bytes < 0.26 * 2 * ONE.parameters


@pytest.mark.parametrize(
    "scenario",
    [
        {"batch": 64, "context": 131_072},
        {"batch": 1, "context": 10_000_000, "drafter": DraftModel(ONE), "gamma": 3},
        {"batch": 300_000, "context": 8},
    ],
)
def test_every_remedy_is_true_and_tight(scenario):
    found = remedies(EIGHT, H200, **scenario)
    assert found
    for sentence in found:
        name, least = re.match(r"(\w+).*?(\d+|$)$", sentence).groups()
        if name == "tensor_parallel":
            more = replace(H200, tensor_parallel=int(least))
            assert footprint(EIGHT, more, **scenario).fits
            assert not footprint(EIGHT, replace(more, tensor_parallel=1), **scenario).fits
        elif name in scenario:
            assert footprint(EIGHT, H200, **(scenario | {name: int(least)})).fits
            assert not footprint(EIGHT, H200, **(scenario | {name: int(least) + 1})).fits


@pytest.mark.parametrize("name", ["m1", "a18-pro", "raspberry-pi-5", "core-i9-14900k"])
def test_a_machine_without_peers_is_not_told_to_buy_more_of_them(name):
    alone = system(name)
    small = replace(alone.accelerator, memory_bytes=8e9)
    found = remedies(EIGHT, replace(alone, accelerator=small))
    assert found == ("weights in int4",)
    card = replace(small, kind="consumer-gpu")
    assert "tensor_parallel = 4" in remedies(EIGHT, replace(alone, accelerator=card))


def test_a_draft_too_many_is_left_out():
    tight = replace(H200, accelerator=Accelerator("chip", 1e12, memory_bytes=17e9))
    assert "no drafter" in remedies(EIGHT, tight, drafter=DraftModel(ONE))
    assert remedies(EIGHT, tight) == ()


def test_remedies_where_nothing_helps_and_where_nothing_is_needed():
    assert remedies(EIGHT, H200) == ()
    thimble = replace(H200, accelerator=Accelerator("thimble", 1e12, memory_bytes=1e6))
    assert "nothing alone" in shortage_of(EIGHT, thimble)
    unknown = replace(H200, accelerator=Accelerator("chip", 1e12))
    assert footprint(SEVENTY, unknown, batch=10**6).fits
    assert shortage_of(SEVENTY, unknown) is None


def test_room_for_the_engine_itself():
    ninety = footprint(model("llama-2-70b"), H200, usable=0.9)
    assert ninety.capacity_bytes == 0.9 * 141e9
    assert not ninety.fits


def test_remedies_are_for_one_scenario():
    with pytest.raises(SpecsimError, match="one scenario at a time"):
        remedies(EIGHT, H200, batch=[1, 2])


def test_what_each_method_holds_beside_the_target():
    """By hand, for an 8B: what is shared with the target takes no memory twice."""
    asked = {"batch": 4, "context": 1000, "gamma": 0}
    hidden, vocab = EIGHT.hidden_size, EIGHT.vocab_size
    layer = (
        218_112_000  # of one layer: 2.5 x 4096^2 of attention, 3 x 4096 x 14336 of MLP, two norms
    )

    def held(name, **changes):
        drafter = method(name, EIGHT, **changes)
        found = footprint(EIGHT, H200, drafter=drafter, **asked)
        return float(found.draft_weight_bytes), float(found.draft_kv_bytes)

    assert held("n-gram") == (0.0, 0.0)
    assert held("early-exit") == (0.0, 0.0)
    weights, caches = held("eagle")
    assert_allclose(weights, 2 * (layer + 2 * hidden**2), rtol=1e-4)
    assert caches == 4 * 1000 * EIGHT.kv_elements_per_layer * 2
    medusa = Medusa(EIGHT, heads=3)
    found = footprint(EIGHT, H200, drafter=medusa, **asked)
    assert found.draft_weight_bytes == 2 * 3 * hidden * (hidden + vocab)
    quantised = footprint(EIGHT, H200, drafter=QuantisedSelf(EIGHT), **asked)
    assert_allclose(
        quantised.draft_weight_bytes, stored_weight_bytes(EIGHT, PRECISIONS["int4"]), rtol=1e-12
    )
    assert quantised.draft_kv_bytes == 0
    alone = method("pearl", EIGHT, ONE)
    assert footprint(EIGHT, H200, drafter=alone, **asked).draft_weight_bytes == 0
    cascade = footprint(EIGHT, H200, drafter=method("cascade", EIGHT, ONE), **asked)
    chain = footprint(EIGHT, H200, drafter=DraftModel(ONE), **asked)
    assert cascade.total_bytes == chain.total_bytes


def test_a_window_bounds_what_a_draft_caches():
    wide, narrow = (
        footprint(EIGHT, H200, drafter=DraftModel(ONE, window=window), context=100_000)
        for window in (None, 512)
    )
    assert_allclose(narrow.draft_kv_bytes / wide.draft_kv_bytes, 512 / 100_000)


def test_the_largest_batch_is_the_last_that_fits():
    asked = {"context": 8192, "gamma": 3, "drafter": DraftModel(ONE)}
    most = largest_batch(EIGHT, H200, **asked)
    assert footprint(EIGHT, H200, batch=most, **asked).fits
    assert not footprint(EIGHT, H200, batch=most + 1, **asked).fits
    assert largest_batch(model("llama-3.1-70b"), H200, context=1) == 0
    unknown = replace(H200, accelerator=Accelerator("unknown", 1e12))
    assert largest_batch(EIGHT, unknown) is None


def test_no_format_is_offered_that_the_weights_have_already():
    bits = (("mlp", 8.002, "fp8"), ("head", 16.0, "bf16"), ("table", 16.0, "bf16"))
    stored = replace(EIGHT, stored=Storage("fp8", "quantization_config", "fp8", bits))
    one = replace(system("h200-sxm", precision="auto"),
                  accelerator=Accelerator("chip", 1e12, memory_bytes=8.5e9))  # fmt: skip
    assert not any("fp8" in each or "int8" in each for each in remedies(stored, one))
    assert "weights in int4" in remedies(stored, one)


def test_a_format_is_offered_only_if_it_fits_with_an_lm_head_in_16_bits():
    """Qwen3-32B in AWQ is 19.3 GB: with a draft of 1.2 GB and a cache of 1.6, too much for 21.6."""
    target, draft = model("qwen3-32b"), DraftModel(model("qwen3-0.6b"))
    card = system("rtx-4090", "vllm", precision="auto")
    place = {"drafter": draft, "context": 4096, "gamma": 6, "usable": 0.9}
    assert remedies(target, card, **place) == ("tensor_parallel = 4",)
    assert "weights in int4" in remedies(target, card, context=1024, usable=1.0)


def test_an_engine_is_offered_formats_of_its_own():
    target = model("qwen3-32b")
    card = system("rtx-4090", "llama.cpp", precision="auto")
    assert "weights in q4_k_m" in remedies(target, card, context=1024)
    half = replace(card.accelerator, memory_bytes=48e9)
    assert "weights in q8_0" in remedies(target, replace(card, accelerator=half))

"""Time to the first token: compute by hand, chunks, caches, and a draft that makes it longer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.cost import step_time
from specsim.hardware import system
from specsim.operators import Workload
from specsim.planning.prefill import prefill_s, time_to_first_token

EIGHT, ONE, SEVENTY = model("llama-3.1-8b"), model("llama-3.2-1b"), model("llama-3.1-70b")
H200, IDEAL = system("h200-sxm"), system("h200-sxm", engine="ideal")


def test_a_long_prompt_computes_by_hand():
    prompt = 4096
    layers = EIGHT.parameters - 2 * EIGHT.embedding_parameters - 65 * 4096
    linear = 2 * layers * prompt / 989e12
    attention = 32 * 4 * 4096 * prompt * (prompt + 1) / 2 / 989e12  # the causal half
    head = 2 * EIGHT.embedding_parameters / 4.8e12  # one row: its bytes
    found = prefill_s(EIGHT, IDEAL, prompt=prompt)
    assert_allclose(found, linear + attention + head, rtol=1e-6)


def test_a_prompt_of_one_token_is_a_decode_step():
    for machine in (IDEAL, H200):
        one = prefill_s(EIGHT, machine, prompt=1)
        assert one == step_time(EIGHT, machine, Workload(context=1)).total_s


def test_speculation_does_not_make_the_first_token_sooner():
    plain = time_to_first_token(EIGHT, H200, prompt=2048)
    drafted = time_to_first_token(EIGHT, H200, prompt=2048, draft=ONE)
    assert drafted.total_s - plain.total_s == pytest.approx(prefill_s(ONE, H200, prompt=2048))
    assert drafted.target_s == plain.target_s
    assert plain.draft_s == 0
    small = replace(H200, precision=replace(H200.precision, weight_bytes=0.5))
    other = time_to_first_token(EIGHT, H200, prompt=2048, draft=ONE, draft_system=small)
    assert other.draft_s == prefill_s(ONE, small, prompt=2048)


def test_sampling_is_charged_once():
    machine = replace(
        H200, engine=replace(H200.engine, cycle_overhead_s=1e-3, logit_overhead_s=1e-9)
    )
    found = time_to_first_token(EIGHT, machine, prompt=100, batch=[1, 4])
    assert_allclose(found.sampling_s, 1e-3 + 1e-9 * 128_256 * np.array([1, 4]))
    assert_allclose(found.total_s, found.target_s + found.sampling_s)


def test_chunks_read_the_weights_again_and_again():
    whole, chunked = prefill_s(SEVENTY, H200, prompt=8192, chunk=[np.inf, 64])
    assert chunked > 1.5 * whole
    passes = 8192 / 64
    floor = (
        passes
        * step_time(SEVENTY, H200, Workload(rows=64, context=1, logit_rows=1 / passes)).total_s
    )
    assert chunked > floor
    assert prefill_s(SEVENTY, H200, prompt=8192, chunk=8192) == whole


def test_a_cached_prefix_is_not_computed_but_read():
    whole, rest = prefill_s(EIGHT, H200, prompt=8192, cached=[0, 4096])
    assert rest < whole
    fresh = prefill_s(EIGHT, H200, prompt=4096)
    assert rest > fresh


@given(st.integers(1, 10_000), st.integers(1, 64), st.integers(1, 10_000))
def test_longer_prompts_and_larger_batches_take_no_less(prompt, batch, more):
    before = prefill_s(EIGHT, H200, prompt=prompt, batch=batch)
    assert prefill_s(EIGHT, H200, prompt=prompt + more, batch=batch) > before
    assert prefill_s(EIGHT, H200, prompt=prompt, batch=batch + more) > before


def test_arguments_broadcast():
    prompt, batch = np.array([[100], [9000]]), np.array([1, 2, 3])
    found = time_to_first_token(EIGHT, H200, prompt=prompt, batch=batch, draft=ONE).total_s
    assert found.shape == (2, 3)
    alone = time_to_first_token(EIGHT, H200, prompt=9000, batch=3, draft=ONE).total_s
    assert found[1, 2] == alone


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"prompt": np.nan}, "prompt must be within"),
        ({"prompt": 0}, "prompt must be within"),
        ({"prompt": 10, "cached": 20}, r"cached must be within \[0, 10\], got 20"),
        ({"prompt": 10, "batch": 0}, "batch must be within"),
        ({"prompt": 10, "chunk": 0}, "chunk must be within"),
    ],
)
def test_prompts_that_cannot_be(scenario, message):
    with pytest.raises(SpecsimError, match=message):
        time_to_first_token(EIGHT, H200, **scenario)

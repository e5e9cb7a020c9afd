"""Errors of other tools, one test each: the right number next to the wrong one.

The list comes from public code and its issue trackers. Each test would fail if specsim made the
error.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import specsim
from specsim import DraftModel
from specsim.architecture import Architecture, model
from specsim.cost import step_time
from specsim.hardware import Accelerator, system
from specsim.operators import PRECISIONS, Workload, forward_work

BF16 = PRECISIONS["bf16"]
EIGHT, SEVENTY, ONE = model("llama-3.1-8b"), model("llama-3.1-70b"), model("llama-3.2-1b")
H100 = system("h100-sxm", engine="ideal")


def test_llm_viewer_fused_attention_loads_kv_with_all_heads():
    """model_analyzer.py:250: four times the KV bytes of a grouped-query model."""
    kv = forward_work(EIGHT, Workload(context=8192), BF16).kv_bytes
    assert kv == 2 * 32 * 8 * 128 * 2 * 8193
    assert kv != pytest.approx(4 * 2 * 32 * 8 * 128 * 2 * 8193, rel=0.5)


def test_llm_viewer_head_size_is_hidden_over_heads():
    """model_analyzer.py:224: wrong for models that set head_dim."""
    qwen = model("qwen3-0.6b")
    work = forward_work(qwen, Workload(), BF16)
    assert work["output projection"].weight_bytes == 2 * 28 * (16 * 128) * 1024
    assert qwen.hidden_size // qwen.num_heads == 64 != qwen.head_dim


def test_llm_viewer_lm_head_without_its_factor_two_and_its_batch():
    """configs/Llama.py."""
    head = forward_work(EIGHT, Workload(batch=64), BF16)["LM head"]
    assert head.flops == 2 * 64 * 4096 * 128_256
    assert head.activation_bytes == 64 * (4096 + 128_256) * 2


def test_llm_viewer_no_overheads():
    """Issue #4: 44 to 91 % too fast. Our engines have them; `ideal` says that it has none."""
    step = step_time(model("llama-2-7b"), system("a100", engine="gpt-fast"), Workload(context=105))
    roofline = step_time(model("llama-2-7b"), system("a100", engine="ideal"), Workload(context=105))
    assert 1 / step.total_s == pytest.approx(104.9, rel=0.03)
    assert 1 / roofline.total_s > 1.44 * 104.9


def test_genz_reads_gigabytes_as_binary():
    """unit.py:29: 7.4 % too fast."""
    step = step_time(EIGHT, H100, Workload(context=1))
    assert_allclose(step.share("weights"), 15.01e9 / 3350e9, rtol=1e-3)


def test_genz_four_bit_weights_compute_four_times_as_fast():
    """One `bits` setting for weights and arithmetic makes the ridge four times too high."""
    int4 = replace(H100, precision=PRECISIONS["int4"])
    rows = [600, 6000]
    wide, plain = (
        step_time(EIGHT, s, Workload(rows=rows, context=1)).share("compute") for s in (int4, H100)
    )
    assert_allclose(wide, plain)


def test_genz_drops_the_bonus_token():
    """llm_spec_decode.py:376: min(expected, N) gives 2 and not 2.85."""
    found = specsim.predict(EIGHT, DraftModel(ONE), H100, gamma=2, alpha=0.95)
    assert found.tokens_per_cycle == pytest.approx(2.8525)


def test_genz_verifies_as_many_rows_as_it_drafts():
    found = specsim.predict(EIGHT, DraftModel(ONE), H100, gamma=4, alpha=0.8)
    assert found.verify_step_s == step_time(EIGHT, H100, Workload(rows=5)).total_s


def test_llm_analysis_streams_the_embedding_and_not_the_head():
    """analysis.py:1374: the two errors cancel only if both are equally large."""
    uneven = replace(ONE, tied_head=True)
    work = forward_work(uneven, Workload(), BF16)
    assert work["LM head"].weight_bytes == 2 * ONE.embedding_parameters
    assert work["embedding"].weight_bytes == 0
    assert work["embedding"].activation_bytes < 1e5


def test_llm_analysis_llama_2_7b_with_two_matrices_of_16384():
    work = forward_work(model("llama-2-7b"), Workload(), BF16)
    mlp = work["gate and up projection"].weight_bytes + work["down projection"].weight_bytes
    assert mlp == 2 * 32 * 3 * 4096 * 11008


def test_llm_analysis_reads_all_experts_at_batch_one():
    mixtral = model("mixtral-8x7b")
    streamed = forward_work(mixtral, Workload(), BF16).weight_bytes
    assert streamed == pytest.approx(2 * (mixtral.active_parameters - 131e6), rel=1e-3)
    assert streamed < 0.3 * 2 * mixtral.parameters


def test_aiconfigurator_draft_without_cache_or_head():
    """sdk/speculative.py scales the target's layers; a draft has a head and a cache of its own."""
    draft = DraftModel(ONE)
    short, long = (draft.step(H100, Workload(batch=1, context=c)).seconds for c in (1, 100_001))
    assert_allclose(long - short, 100_000 * 32_768 / 3.35e12)
    head = 2 * ONE.embedding_parameters / 3.35e12
    assert short > head + 2 * 0.9e9 / 3.35e12


def test_blis_reads_the_cache_once_for_every_row():
    """PR #1538: at long contexts, verification costs a plain step."""
    kv = forward_work(EIGHT, Workload(rows=[1, 5], batch=32, context=32_768), BF16).kv_bytes
    assert kv[1] / kv[0] == pytest.approx(1.0, abs=2e-4)


def test_blis_charges_the_latent_as_heads():
    """Issue #559: 21 times and more."""
    v3 = model("deepseek-v3")
    assert forward_work(v3, Workload(context=999), BF16).kv_bytes == 70_272 * 1000


def test_blis_decode_at_30_percent_of_the_arithmetic():
    """The ridge of an H100 would be near 90 rows, not near 295: free verification would look
    expensive."""
    steps = step_time(EIGHT, H100, Workload(batch=[1, 180, 280], context=1))
    weights = [term for term in steps.terms if term.name == "down projection"]
    assert weights[0].bound.tolist() == ["weights"] * 3


def test_specdecode_bench_draft_does_not_depend_on_gamma():
    found = specsim.predict(EIGHT, DraftModel(ONE), H100, gamma=[1, 2, 8], alpha=0.8)
    assert np.all(np.diff(found.draft_s) > 0)


def test_dsi_verification_depends_on_neither_rows_nor_batch():
    steps = step_time(EIGHT, H100, Workload(batch=[[1], [256]], rows=[1, 9], context=1)).total_s
    assert steps[1, 1] > 3 * steps[0, 1]
    assert steps[1, 1] > 3 * steps[1, 0]


def test_nanochat_counts_the_embedding_tables_as_streamed():
    """scripts/infer_bench.py: the ceiling comes out too low."""
    work = forward_work(EIGHT, Workload(), BF16)
    assert work.weight_bytes < 2 * (EIGHT.parameters - EIGHT.embedding_parameters)


def test_web_pages_ridge_of_590_rows():
    """From the FLOP/s with sparsity. It is 295, also for fp8 weights with fp8 arithmetic."""
    rows = np.array([290, 300])
    for stored in ("bf16", "fp8"):
        step = step_time(SEVENTY, system("h100", "ideal", stored), Workload(rows=rows, context=1))
        down = next(term for term in step.terms if term.name == "down projection")
        assert down.bound.tolist() == ["weights", "compute"]


def test_web_calculators_always_recommend_speculation():
    """Leviathan's formula alone has no cost of verification and no overhead: it gives 1.9x at
    every batch. At a batch that is limited by arithmetic, drafting is slower."""
    vllm = system("h100", engine="vllm")
    found = specsim.predict(
        EIGHT,
        DraftModel(ONE),
        vllm,
        gamma=[0, 1, 2, 4, 8],
        alpha=0.7,
        batch=[[1], [512]],
        context=64,
    )
    assert found.best()[0] > 0
    assert found.best()[1] == 0


def test_the_exercise_without_the_bonus_token():
    """Effective speedup at (alpha, gamma, c) = (.8, 4, .1): 2.4011, not 1.687."""
    memory = Accelerator("memory alone", 1e12)
    target = Architecture("target", 64, 10, 1, 1, 64, 64, 64)
    draft = target.first_layers(1)
    free = replace(H100, accelerator=memory)
    price = (
        step_time(draft, free, Workload(context=0)).total_s
        / step_time(target, free, Workload(context=0)).total_s
    )
    found = specsim.predict(target, DraftModel(draft), free, gamma=4, alpha=0.8, context=1)
    assert found.tokens_per_cycle == pytest.approx(3.3616)
    assert found.speedup == pytest.approx(3.3616 / (1 + 4 * price), rel=0.02)

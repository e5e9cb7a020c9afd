"""What a pass moves and computes: a naive loop over layers beside the vectorised counts.

Each error in the list of known mistakes of other tools (GQA bytes, the embedding streamed, KV read
gamma + 1 times, ...) has a test that would show it.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError
from specsim.operators import ATTENTION, LINEAR, PRECISIONS, Workload, forward_work, precision

BF16 = PRECISIONS["bf16"]
COUNTS = ("flops", "weight_bytes", "kv_bytes", "activation_bytes")
ODD = Architecture("odd", 48, 3, 6, 2, 16, 80, 101)  # head_dim is not hidden / heads


def naive_work(shape, stored, batch, rows, context, allocated=None):
    """One scenario, whole numbers, a matrix and a layer at a time: {operator: [counts]}."""
    read = max(context, allocated or 0)
    tokens = batch * rows
    wide = stored.activation_bytes
    counts = {}

    def add(name, flops=0, weights=0, kv=0, activations=0):
        old = counts.get(name, (0, 0, 0, 0))
        new = (flops, weights, kv, activations)
        counts[name] = [before + more for before, more in zip(old, new, strict=True)]

    def matrix(name, fan_in, fan_out, bytes_per_weight):
        weights, moved = fan_in * fan_out * bytes_per_weight, fan_in + fan_out
        add(name, flops=2 * tokens * fan_in * fan_out, weights=weights)
        add(name, activations=tokens * moved * wide)

    hidden, heads, kv_heads, d = (
        shape.hidden_size, shape.num_heads, shape.num_kv_heads, shape.head_dim
    )  # fmt: skip
    add("embedding", activations=2 * tokens * hidden * wide)
    for _ in range(shape.num_layers):
        elementwise = 0
        matrix("qkv projection", hidden, heads * d + 2 * kv_heads * d, stored.weight_bytes)
        for _ in range(heads):  # scores, then the weighted mean
            add("attention", flops=2 * tokens * read * d + 2 * tokens * read * d)
            add("attention", activations=2 * tokens * d * wide)
        for _ in range(kv_heads):  # K and V: read once per sequence, written once per token
            add("attention", kv=2 * d * stored.kv_bytes * (batch * read + tokens))
        matrix("output projection", heads * d, hidden, stored.weight_bytes)
        matrix("gate and up projection", hidden, 2 * shape.intermediate_size, stored.weight_bytes)
        matrix("down projection", shape.intermediate_size, hidden, stored.weight_bytes)
        elementwise += 2 * (hidden + hidden)  # two norms
        elementwise += 2 * (heads * d + kv_heads * d)  # rotary embedding of q and k
        elementwise += 3 * shape.intermediate_size  # two in, one out
        elementwise += 2 * 3 * hidden  # two residual sums
        add("norms and elementwise", tokens * elementwise, 0, 0, tokens * elementwise * wide)
    last = 2 * hidden  # the last norm
    add("norms and elementwise", tokens * last, 0, 0, tokens * last * wide)
    matrix("LM head", hidden, shape.vocab_size, stored.head_bytes or stored.weight_bytes)
    return counts


def counted(work):
    return {o.name: [getattr(o, count) for count in COUNTS] for o in work}


@pytest.mark.parametrize("stored", ["fp32", "bf16", "fp8", "int4-g32"])
@pytest.mark.parametrize("shape", [ODD, model("qwen3-0.6b")], ids=lambda shape: shape.name)
@pytest.mark.parametrize("scenario", [(1, 1, 1024, None), (7, 5, 33, 64), (3, 2, 50, 20)])
def test_counts_against_a_loop_over_layers(shape, stored, scenario):
    batch, rows, context, allocated = scenario
    work = forward_work(
        shape,
        Workload(batch=batch, rows=rows, context=context, allocated_context=allocated),
        precision(stored),
    )
    expected = naive_work(shape, precision(stored), *scenario)
    found = counted(work)
    assert list(found) == [
        "embedding",
        "qkv projection",
        "attention",
        "output projection",
        "gate and up projection",
        "down projection",
        "norms and elementwise",
        "LM head",
    ]
    for name, counts in expected.items():
        assert_allclose(found[name], counts, rtol=1e-14, err_msg=name)
    totals = np.sum(list(expected.values()), axis=0)
    assert_allclose([getattr(work, count) for count in COUNTS], totals, rtol=1e-14)
    assert work.logits == batch * rows * shape.vocab_size
    assert (work.rows, work.layers) == (batch * rows, shape.num_layers)


@given(st.data())
def test_arrays_are_the_scalars_side_by_side(data):
    sizes = st.lists(st.integers(1, 4096), min_size=3, max_size=3)
    batch, rows, context, allocated = (np.array(data.draw(sizes)) for _ in range(4))
    scenarios = {"batch": batch[:, None], "rows": rows, "context": context[:, None, None]}
    wide = forward_work(ODD, Workload(**scenarios, allocated_context=allocated), BF16)
    for i, j, k in [(0, 0, 0), (0, 1, 2), (2, 1, 0), (1, 2, 1)]:
        alone = forward_work(
            ODD,
            Workload(
                batch=batch[j], rows=rows[k], context=context[i], allocated_context=allocated[k]
            ),
            BF16,
        )
        for one, many in zip(alone, wide, strict=True):
            for count in COUNTS:
                assert getattr(many, count).shape == (3, 3, 3)
                assert getattr(many, count)[i, j, k] == getattr(one, count)
        assert wide.flops[i, j, k] == alone.flops
        assert wide.logits[i, j, k] == alone.logits


# --------------------------------------------------------------------------------- known magnitudes


@pytest.mark.parametrize(
    ("name", "gigabytes", "kappa"),
    [
        ("llama-3.1-8b", 15.01, 131_072),
        ("llama-3.1-70b", 139.01, 327_680),
        ("llama-2-7b", 13.21, 524_288),
    ],
)
def test_J2_weights_streamed_and_bytes_of_a_cached_token(name, gigabytes, kappa):
    work = forward_work(model(name), Workload(context=[1000, 1001]), BF16)
    assert_allclose(work.weight_bytes, gigabytes * 1e9, rtol=4e-4)  # decimal gigabytes
    assert work.kv_bytes[1] - work.kv_bytes[0] == kappa


@pytest.mark.parametrize(
    ("name", "share"),
    [("llama-3.1-70b", 1.5), ("llama-3.1-8b", 7.0), ("llama-3.2-1b", 21), ("qwen3-0.6b", 26)],
)
def test_share_of_the_lm_head_in_the_bytes_read(name, share):
    work = forward_work(model(name), Workload(), BF16)  # a tied head is streamed all the same
    assert_allclose(100 * work["LM head"].weight_bytes / work.weight_bytes, share, rtol=0.03)


@pytest.mark.parametrize(
    ("name", "stored", "gigabytes"),
    [
        ("llama-2-7b", "bf16", 13.269),
        ("llama-2-7b", "int8", 6.662),
        ("llama-2-7b", "int4-g32", 4.184),
        ("llama-2-70b", "int8", 68.75),
        ("llama-2-70b", "int4-g32", 42.98),
    ],
)
def test_bytes_behind_the_gpt_fast_rows(name, stored, gigabytes):
    work = forward_work(model(name), Workload(context=104), precision(stored))
    assert_allclose(work.weight_bytes + work.kv_bytes, gigabytes * 1e9, rtol=2e-4)


def test_interview_8_size_of_a_cache():
    tokens = np.array([8192, 32 * 4096])
    work = forward_work(model("llama-3.1-70b"), Workload(context=tokens, rows=0), BF16)
    assert_allclose(work.kv_bytes, [2.684e9, 42.95e9], rtol=2e-4)


def test_interview_9_prefill_arithmetic():
    work = forward_work(model("llama-3.1-70b"), Workload(rows=4096, context=4096), BF16)
    linear = sum(o.flops for o in work if o.kind == LINEAR)
    assert_allclose(linear, 0.569e15, rtol=1e-3)
    assert work["attention"].flops < 0.1 * linear  # a few per cent


@pytest.mark.parametrize(("batch", "context"), [(1, 1000), (64, 8192), (7, 10**6)])
def test_J5_attention_intensity_is_the_group_times_the_rows(batch, context):
    seventy = model("llama-3.1-70b")
    work = forward_work(seventy, Workload(batch=batch, rows=[1, 5], context=context), BF16)
    attention = work["attention"]
    assert_allclose(attention.flops / attention.kv_bytes, [8, 40], rtol=0.006)


# ------------------------------------------------------------------- mistakes of other tools


def test_kv_bytes_count_kv_heads_and_not_query_heads():
    grouped, full = replace(ODD, num_kv_heads=2), replace(ODD, num_kv_heads=6)
    ratio = (
        forward_work(full, Workload(), BF16).kv_bytes
        / forward_work(grouped, Workload(), BF16).kv_bytes
    )
    assert ratio == 3.0
    same = [forward_work(shape, Workload(), BF16)["attention"].flops for shape in (grouped, full)]
    assert same[0] == same[1]


def test_head_dim_reaches_every_count():
    wide = forward_work(replace(ODD, head_dim=32), Workload(), BF16)
    narrow = forward_work(ODD, Workload(), BF16)
    assert wide.kv_bytes == 2 * narrow.kv_bytes
    assert wide["attention"].flops == 2 * narrow["attention"].flops
    assert wide["output projection"].weight_bytes == 2 * narrow["output projection"].weight_bytes


def test_kv_is_read_once_for_all_rows_and_written_once_per_row():
    rows = np.arange(1, 10)
    kv = forward_work(ODD, Workload(rows=rows, context=1000, batch=3), BF16).kv_bytes
    per_token = ODD.kv_elements_per_token * 2
    assert_array_equal(kv, per_token * 3 * (1000 + rows))


def test_weights_are_read_once_whatever_the_rows_and_the_batch():
    weights = forward_work(ODD, Workload(rows=[1, 9], batch=[[1], [64]]), BF16).weight_bytes
    assert np.all(weights == weights[0, 0])


def test_the_embedding_is_gathered_and_the_head_streamed_also_when_tied():
    untied = forward_work(replace(ODD, tied_head=False), Workload(), BF16)
    tied = forward_work(replace(ODD, tied_head=True), Workload(), BF16)
    matrices = ODD.parameters - ODD.embedding_parameters - (2 * ODD.num_layers + 1) * 48
    assert untied.weight_bytes == tied.weight_bytes == 2 * matrices
    assert untied["embedding"].weight_bytes == 0


def test_the_head_multiplies_and_adds_for_every_row():
    work = forward_work(ODD, Workload(rows=5, batch=3), BF16)
    assert work["LM head"].flops == 2 * 15 * 48 * 101
    assert work["LM head"].activation_bytes == 15 * (48 + 101) * 2


def test_the_mlp_has_three_matrices():
    work = forward_work(ODD, Workload(), BF16)
    mlp = work["gate and up projection"].weight_bytes + work["down projection"].weight_bytes
    assert mlp == 2 * 3 * (3 * 48 * 80)


@pytest.mark.parametrize("stored", PRECISIONS.values(), ids=lambda stored: stored.name)
def test_weight_formats_change_weight_bytes_alone(stored):
    work, plain = forward_work(ODD, Workload(), stored), forward_work(ODD, Workload(), BF16)
    assert work.flops == plain.flops
    body = "down projection"
    assert work[body].weight_bytes / plain[body].weight_bytes == stored.weight_bytes / 2
    assert work.kv_bytes / plain.kv_bytes == (2 if stored.name == "fp32" else 1)
    head = stored.weight_bytes if stored.head_bytes is None else stored.head_bytes
    assert work["LM head"].weight_bytes / plain["LM head"].weight_bytes == head / 2


def test_int4_multiplies_in_16_bits_and_keeps_group_scales():
    assert {PRECISIONS[name].math for name in ("int8", "int4", "int4-g32")} == {"bf16"}
    assert PRECISIONS["int4-g32"].weight_bytes == 0.625
    assert PRECISIONS["int4"].weight_bytes == 0.53125
    assert PRECISIONS["fp8"].head_bytes == 2.0


def test_an_allocated_buffer_is_read_whole():
    needed = forward_work(ODD, Workload(context=[100, 300]), BF16).kv_bytes
    moved = forward_work(ODD, Workload(context=[100, 300], allocated_context=200), BF16)
    assert_array_equal(moved.kv_bytes, [2 * needed[0] - 2 * ODD.kv_elements_per_token, needed[1]])
    assert all(getattr(o, count).shape == (2,) for o in moved for count in COUNTS)
    assert moved["attention"].kind == ATTENTION


def test_unknown_names_list_the_known():
    with pytest.raises(SpecsimError, match="unknown precision 'int3'; known: auto, fp32, bf16"):
        precision("int3")
    with pytest.raises(SpecsimError, match="no operator is called 'lm_head'; there are: "):
        forward_work(ODD, Workload(), BF16)["lm_head"]

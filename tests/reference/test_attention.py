"""Attention is that of a naive loop, read whole or in chunks; and when it is read in chunks."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from reference import chunked_attention
from reference.attention import attend, attention_bias
from reference.chunked_attention import LONG, chunked_from, chunks_of, read_in_chunks_from


def attention_by_hand(queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """One query, one head at a time; the query of row b, token t sees slots 0 … positions[b, t]."""
    batch, rows, heads, size = queries.shape
    groups = heads // keys.shape[2]
    mixed = torch.zeros_like(queries)
    for b, t, h in itertools.product(range(batch), range(rows), range(heads)):
        seen = int(positions[b, t]) + 1
        scores = keys[b, :seen, h // groups] @ queries[b, t, h] / math.sqrt(size)
        mixed[b, t, h] = scores.softmax(0) @ values[b, :seen, h // groups]
    return mixed.flatten(2)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
def test_grouped_attention_is_that_of_a_loop(heads: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, rows, slots, size = 3, 4, 9, 8

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    queries, keys = random(batch, rows, heads, size), random(batch, slots, kv_heads, size)
    values = random(batch, slots, kv_heads, size)
    positions = torch.tensor([[0], [3], [5]]) + torch.arange(rows)  # ragged
    bias = attention_bias(positions, slots, heads // kv_heads, torch.float64)
    expected = attention_by_hand(queries, keys, values, positions)
    assert_close(attend(queries, keys, values, bias), expected)


def test_attention_without_a_bias_is_causal() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn((2, 7, 6, 8), generator=generator, dtype=torch.float64)
    keys, values = torch.randn((2, 2, 7, 3, 8), generator=generator, dtype=torch.float64)
    positions = torch.arange(7).expand(2, -1)
    expected = attention_by_hand(queries, keys, values, positions)
    assert_close(attend(queries, keys, values, None), expected)


def test_a_query_sees_its_own_slot_and_those_before_it() -> None:
    bias = attention_bias(torch.tensor([[0, 1], [2, 3]]), 4, 2, torch.float32)
    assert bias.shape == (2, 1, 4, 4)  # (B, 1, G·T, S), the tokens of a group together
    visible = (bias[:, 0] == 0).long().sum(-1)
    assert visible.tolist() == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert bias[bias != 0].lt(-1e38).all()
    assert bias.isfinite().all(), "a chunk that nobody sees would be NaN"


# In chunks


def random_case(batch: int, rows: int, kv_heads: int, groups: int, slots: int, dtype: torch.dtype):
    """Queries, keys, values, and places spread from the first slot to the last."""
    generator = torch.Generator().manual_seed(slots + rows)
    shapes = (batch, rows, kv_heads * groups, 8), *[(batch, slots, kv_heads, 8)] * 2
    queries, keys, values = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    starts = torch.linspace(0, slots - rows, batch).long()[:, None]
    return queries, keys, values, starts + torch.arange(rows)


@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 5),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    chunks=st.integers(2, 5),
    size=st.integers(1, 9),
)
def test_in_chunks_it_is_what_it_is_whole(batch, rows, kv_heads, groups, chunks, size) -> None:
    """Texts end in any chunk, so that some are seen by nobody."""
    slots = chunks * max(size, rows)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        *case, positions = random_case(batch, rows, kv_heads, groups, slots, dtype)
        bias = attention_bias(positions, slots, groups, dtype)
        expected = attend(*case, bias, 1)
        assert_close(attend(*case, bias, chunks), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_it_is_in_sixteen_bits_up_to_their_rounding(dtype: torch.dtype) -> None:
    *case, positions = random_case(3, 2, 2, 2, 256, dtype)
    exact = attention_by_hand(*(x.double() for x in case), positions)
    bias, unit = attention_bias(positions, 256, 2, dtype), torch.finfo(dtype).eps
    for chunks in (1, 8):
        found = attend(*case, bias, chunks).double()
        assert_close(found, exact, atol=2 * unit * exact.abs().max().item(), rtol=0)


def test_a_chunk_left_out_would_be_seen() -> None:
    *case, positions = random_case(1, 1, 1, 1, 64, torch.float64)
    bias = attention_bias(positions + 63, 64, 1, torch.float64)
    lost = bias.clone()
    lost[..., 16:32] = torch.finfo(torch.float64).min / 2
    assert not torch.allclose(attend(*case, lost, 4), attend(*case, bias, 1), rtol=1e-3)


@pytest.mark.parametrize(("batch", "capacity"), [(1, 96), (1, 64), (3, 64)])
def test_nothing_that_is_cached_is_copied(monkeypatch, batch: int, capacity: int) -> None:
    queries, keys, values, positions = random_case(batch, 2, 2, 2, capacity, torch.float32)
    attention_of, seen = chunked_attention.attend_with_sums, []

    def recorded(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor):
        seen.extend((keys.data_ptr(), values.data_ptr(), keys.shape[0]))
        return attention_of(queries, keys, values, bias)

    monkeypatch.setattr(chunked_attention, "attend_with_sums", recorded)
    bias = attention_bias(positions.clamp(max=63), 64, 2, torch.float32)
    attend(queries, keys[:, :64], values[:, :64], bias, 4)
    assert seen == [keys.data_ptr(), values.data_ptr(), 4 * batch]


@pytest.mark.parametrize(
    ("batch", "slots", "rows", "chunks"),
    [
        (1, 1024, 4, 1),  # short
        (1, 2048, 4, 8),  # chunks of 256
        (1, 8192, 4, 32),  # 8 heads x 32 chunks keep 256 blocks busy
        (1, 32768, 4, 32),
        (1, 8192, 132, 16),  # 33 tokens of a group of 4 are three blocks a head
        (4, 8192, 20, 8),
        (32, 8192, 4, 1),  # busy as it is
        (1, 8192, 4096, 1),  # reading a prompt
        (1, 3000, 4, 1),  # not to be divided
    ],
)
def test_a_gpu_that_would_be_idle_gets_chunks(batch, slots, rows, chunks) -> None:
    with FakeTensorMode():
        keys = torch.empty(batch, slots, 8, 128, device="cuda", dtype=torch.bfloat16)
        gaps = (2 * slots * 1024, 1024, 128, 1)  # the first half of what is allocated
        part = torch.empty_strided(keys.shape, gaps, device="cuda", dtype=torch.bfloat16)
        assert chunks_of(keys, rows) == chunks
        for other in (keys.double(), torch.empty(batch, slots, 8, 12, device="cuda")):
            assert chunks_of(other, rows) == 1, "no kernel of a GPU has its sums"
        assert chunks_of(part, rows) == (chunks if batch == 1 else 1), "it would be copied"
    assert chunks_of(torch.empty(batch, slots, 8, 128), rows) == 1, "a CPU reads it whole"


@pytest.mark.parametrize(
    ("limit", "chunks"),
    [(512, [1, 2, 4, 8]), (1024, [1, 1, 4, 8]), (2048, [1, 1, 1, 8]), (1 << 20, [1, 1, 1, 1])],
)
def test_the_limit_says_which_windows_are_read_in_chunks(limit: int, chunks: list[int]) -> None:
    with FakeTensorMode(), read_in_chunks_from(limit):
        assert chunked_from() == limit
        found = [
            chunks_of(torch.empty(1, slots, 8, 128, device="cuda", dtype=torch.bfloat16), 4)
            for slots in (256, 512, 1024, 2048)
        ]
    assert found == chunks
    assert chunked_from() == LONG, "the limit outlives its context"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (1, 5), (4, 33)])
def test_on_a_gpu_chunks_are_the_whole_and_can_be_recorded(dtype, batch: int, rows: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = (batch, rows, 8, 128), *[(batch, 4096, 2, 128)] * 2
    queries, keys, values = (
        torch.randn(shape, generator=generator, device="cuda", dtype=dtype) for shape in shapes
    )
    positions = torch.tensor([[0], [700], [2048], [4000]], device="cuda")[-batch:]
    bias = attention_bias(positions + torch.arange(rows, device="cuda"), 4096, 4, dtype)
    exact = attend(*(x.double() for x in (queries, keys, values, bias)), 1)
    unit = torch.finfo(dtype).eps if dtype != torch.float32 else 2e-3  # products in tf32 at most
    assert chunks_of(keys, 4 * rows) > 1
    for chunks in (1, None):
        found = attend(queries, keys, values, bias, chunks)
        assert_close(found.double(), exact, atol=3 * unit * exact.abs().max().item(), rtol=0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = attend(queries, keys, values, bias)
    graph.replay()
    assert torch.equal(recorded, found)

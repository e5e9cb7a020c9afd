"""Loops for a compiler: products and attention against torch's; and when a stage has them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reference import DraftModel, NoDrafter, attention, graphs, loops, speculate, tracing
from reference.decoding import Decoder
from reference.loops import ROWS, in_lanes, lay_in_lanes, product
from reference.packing import PackedLinear, can_pack, pack
from reference.quantization import QuantizedLinear, quantized
from reference.sampling import SamplingParameters
from reference.settings import RunSettings

PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55]]
NEW = 12
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# The product


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [(1,), (3,), (2, 3), (8, 1)])
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 96])
def test_a_product_is_that_of_the_weight(dtype, rows, outputs: int) -> None:
    for inputs, has_bias in itertools.product((1, 7, 64), (False, True)):
        weight, x = torch.randn(outputs, inputs, dtype=dtype), torch.randn(*rows, inputs).to(dtype)
        bias = torch.randn(outputs, dtype=dtype) if has_bias else None
        made = product(x, in_lanes(weight), outputs, None, bias)
        assert made.dtype == dtype
        exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        assert_close(made.double(), exact, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_int8_codes_are_multiplied_and_scaled() -> None:
    layer = QuantizedLinear(torch.randn(48, 64), "int8")
    x = torch.randn(3, 64).bfloat16()
    exact = x.double() @ (layer.stored.double() * layer.scales.double()[:, None]).T
    made = product(x, in_lanes(layer.stored), 48, layer.scales, None)
    assert_close(made.double(), exact, atol=1e-2, rtol=1e-2)


def test_weights_lie_in_the_order_in_which_they_are_read() -> None:
    weight = torch.arange(64 * 3).view(64, 3)
    laid = in_lanes(weight)
    assert laid.shape == (2, 3, 2, 16)
    assert laid.is_contiguous()
    for block, column, part, lane in itertools.product(range(2), range(3), range(2), range(16)):
        assert laid[block, column, part, lane] == weight[32 * block + 16 * part + lane, column]


# Attention


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 4), (2, 3, 4, 33, 16), (8, 1, 1, 128, 64)])
def test_attention_is_that_of_torch(dtype, sizes) -> None:
    batch, heads, rows, slots, size = sizes
    queries = torch.randn(batch, heads, rows, size, dtype=dtype)
    keys, values = torch.randn(2, batch, slots, heads, size, dtype=dtype)
    ends = torch.randint(0, slots, (batch, 1, rows, 1))
    bias = attention.bias_of(torch.arange(slots) > ends, 1, dtype)
    made = loops.attend(queries, keys, values, bias)
    assert made.dtype == dtype
    exact = F.scaled_dot_product_attention(
        queries.double(), keys.double().transpose(1, 2), values.double().transpose(1, 2),
        bias.double(),
    )  # fmt: skip
    within = {**TOLERANCE, torch.float64: 1e-12}[dtype]
    assert_close(made.double(), exact, atol=within, rtol=within)


def test_attention_of_few_rows_is_written_by_a_compiler(monkeypatch) -> None:
    monkeypatch.setattr(loops, "attend", lambda queries, *_: torch.full_like(queries, 7))
    keys, values = torch.randn(2, 1, 16, 2, 8)
    for heads, rows, written in ((2, 8, True), (4, 4, True), (2, 9, False), (4, 5, False)):
        queries = torch.randn(1, rows, heads, 8)
        bias = torch.zeros(1, 1, heads // 2 * rows, 16)
        assert (attention.attend(queries, keys, values, bias) != 7).any(), "run eagerly"
        with tracing.compiling():
            made = attention.attend(queries, keys, values, bias)
        assert bool((made == 7).all()) == written


# Which layers have lanes, and when they are read


def packs(dtype: torch.dtype) -> bool:
    return can_pack(torch.empty(1, dtype=dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_lanes_are_read_by_a_compiler_and_for_few_rows(dtype) -> None:
    if not packs(dtype):
        pytest.skip("nothing is packed here")
    layer = PackedLinear(torch.randn(40, 64, dtype=dtype))
    few, many = (torch.randn(n, 64).to(dtype) for n in (ROWS[dtype], ROWS[dtype] + 1))
    expected = [layer(few), layer(many)]
    lay_in_lanes([layer])
    layer.lanes.fill_(0)
    assert torch.equal(layer(few), expected[0]), "run eagerly"
    with tracing.compiling():
        assert not layer(few).any()
        assert torch.equal(layer(many), expected[1])
        assert not layer(few.view(1, 1, *few.shape)).any(), "rows are counted in all dimensions"


def test_layers_that_have_no_place_for_lanes_are_left_alone() -> None:
    ordinary = torch.nn.Linear(64, 32)
    int4 = QuantizedLinear(torch.randn(32, 64), "int4-g32")
    lay_in_lanes([ordinary, int4, "no layer", None])
    assert not hasattr(ordinary, "lanes")
    assert int4.lanes is None


def test_lanes_take_no_memory_that_is_missing(monkeypatch) -> None:
    layers = [QuantizedLinear(torch.randn(32, 64), "int8") for _ in range(3)]
    nbytes = 3 * 32 * 64
    monkeypatch.setattr(loops, "free_bytes", lambda device: 3 * nbytes - 1)
    lay_in_lanes(layers)
    assert [layer.lanes for layer in layers] == [None] * 3
    monkeypatch.setattr(loops, "free_bytes", lambda device: 3 * nbytes)
    lay_in_lanes(layers)
    assert sum(layer.lanes.nbytes for layer in layers) == nbytes
    monkeypatch.setattr(loops, "free_bytes", lambda device: 0)
    before = layers[0].lanes
    lay_in_lanes(layers)
    assert layers[0].lanes is before, "what lies there needs no memory"


# In compiled stages


def packed_pair(tiny, perturbed):
    target = tiny(2, num_layers=1, hidden_size=32, dtype=torch.float32)
    return pack(target), pack(perturbed(tiny(2, num_layers=1, hidden_size=32).float(), 0.15))


@pytest.mark.parametrize("weights", ["own", "int8"])
def test_stages_in_lanes_write_what_eager_ones_write(
    tiny, perturbed, compiled, weights: str
) -> None:
    target, draft = packed_pair(tiny, perturbed)
    if weights == "int8":
        target, draft = quantized(target, "int8"), quantized(draft, "int8")
    if not packs(target.dtype):
        pytest.skip("nothing is packed here")
    for drafter in (NoDrafter(), DraftModel(draft, 2)):
        eager = speculate(target, drafter, PROMPTS[2], NEW, mode="eager")
        graphs.forget(target)
        found = speculate(target, drafter, PROMPTS[2], NEW, mode="compiled")
        assert found.tokens == eager.tokens
        assert found.statistics.compiled_cycles
        again = speculate(target, drafter, PROMPTS[2], NEW)  # the same decoder, lanes made
        assert again.tokens == eager.tokens
        assert "loaded" in again.statistics.notes[0] or "compiled into" in again.statistics.notes[0]
    assert target.head.lanes is not None
    assert draft.head.lanes is not None


def test_a_stage_takes_lanes_for_few_rows_and_packed_weights_for_many(tiny, compiled) -> None:
    target = pack(tiny(2, num_layers=1, hidden_size=32, dtype=torch.float32))
    if not packs(target.dtype):
        pytest.skip("nothing is packed here")
    lay_in_lanes(target.modules())
    for batch, inputs in ((ROWS[torch.float32], "lanes"), (ROWS[torch.float32] + 1, "packed")):
        settings = RunSettings(SamplingParameters(0.0))
        cycle = Decoder(target, NoDrafter(), batch, 64, settings).cycle
        cycle.begin(batch * [PROMPTS[2]], batch * [NEW], 0)
        with torch.inference_mode():
            tracing.warm_up(cycle)
            _, places = tracing.trace(cycle, cycle.verify)
        weights = {place for place in places if place.startswith("target.layers.0.")}
        assert f"target.layers.0.qkv.{inputs}" in weights
        assert {place.rpartition(".")[2] for place in weights if "norm" not in place} == {inputs}


def test_without_memory_for_lanes_stages_are_compiled_without(tiny, compiled, monkeypatch) -> None:
    monkeypatch.setattr(loops, "free_bytes", lambda device: 0)
    target = pack(tiny(2, num_layers=1, hidden_size=32, dtype=torch.float32))
    eager = speculate(target, NoDrafter(), PROMPTS[0], NEW, mode="eager")
    found = speculate(target, NoDrafter(), PROMPTS[0], NEW, mode="compiled")
    assert found.tokens == eager.tokens
    assert found.statistics.compiled_cycles
    if packs(target.dtype):
        assert target.head.lanes is None


def test_nothing_is_laid_where_nothing_is_kept(tiny, compiled) -> None:
    target = pack(tiny(2, num_layers=1, hidden_size=32, dtype=torch.float32))
    speculate(target, NoDrafter(), PROMPTS[0], NEW)
    assert getattr(target.head, "lanes", None) is None

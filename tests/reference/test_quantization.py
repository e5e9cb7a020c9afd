"""int8 and int4 weights: the bytes specsim counts, the products that the rounded weights give."""

import pytest
import torch
from torch.testing import assert_close

from reference.checkpoints import load_checkpoint, save_checkpoint
from reference.decoding import generate, speculate
from reference.drafters.early_exit import EarlyExit, first_layers
from reference.packing import can_pack, pack
from reference.quantization import (
    CONVERTED_FROM,
    GROUPS,
    QuantizedLinear,
    from_int4,
    has_kernel,
    kernel_note,
    quantized,
    to_int4,
    to_int8,
)
from specsim.architecture import Experts
from specsim.checks import SpecsimError
from specsim.operators import Workload, forward_work, precision

CPU, META = torch.device("cpu"), torch.device("meta")
STEPS = {"int8": 254, "int4": 15, "int4-g32": 15}
FIELDS = {"hidden_size": 256, "num_heads": 8, "head_dim": 32, "num_kv_heads": 4} | {
    "intermediate_size": 384, "vocab_size": 128, "num_layers": 3
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(weight: torch.Tensor, name: str) -> torch.Tensor:
    """What the stored codes mean, in 32 bits."""
    if name == "int8":
        codes, scales = to_int8(weight)
        return codes.float() * scales.float()[:, None]
    codes, scales, zeros = to_int4(weight, GROUPS[name])
    return from_int4(codes, scales.float(), zeros.float())


@pytest.mark.parametrize("name", GROUPS)
def test_rounding_is_off_by_half_a_step_at_most(name: str) -> None:
    weight = random(24, 256)
    groups = weight.view(24, -1, GROUPS[name] or 256)
    span = groups.amax(-1) - groups.amin(-1) if GROUPS[name] else 2 * groups.abs().amax(-1)
    off = (rounded(weight, name) - weight).view_as(groups).abs().amax(-1)
    # and the scale and the zero are themselves rounded to 8 bits
    assert (off <= span / STEPS[name] / 2 + span * 2**-7).all()
    assert off.max() > 0


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("shape", [(64, 256), (61, 256), (5, 128), (48, 384)])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_the_product_is_that_of_the_rounded_weight(name: str, shape, rows: int) -> None:
    weight, bias = random(*shape), random(shape[0], seed=1).bfloat16()
    x = random(2, rows, shape[1], seed=2).bfloat16()
    layer = QuantizedLinear(weight, name, bias)
    assert layer.kernel == "cpu"
    y = layer(x)
    assert (y.dtype, y.shape) == (torch.bfloat16, (2, rows, shape[0]))
    expected = x.float() @ rounded(weight, name).T + bias.float()
    assert_close(y.float(), expected, atol=0.02 * expected.abs().max().item(), rtol=0)


def test_int8_weights_are_converted_for_many_rows() -> None:
    layer = QuantizedLinear(random(48, 256), "int8")
    if not can_pack(layer.scales):
        pytest.skip("no units for bf16 here")
    few, many = (random(rows, 256).bfloat16() for rows in (CONVERTED_FROM - 1, CONVERTED_FROM))
    kernel = torch.ops.aten._weight_int8pack_mm
    assert torch.equal(layer(few), kernel(few, layer.stored, layer.scales))
    converted = torch.nn.functional.linear(many, layer.stored.bfloat16()) * layer.scales
    assert torch.equal(layer(many), converted)
    assert not torch.equal(converted, kernel(many, layer.stored, layer.scales))


@pytest.mark.parametrize("name", GROUPS)
def test_without_a_kernel_the_result_is_the_same(name: str, monkeypatch) -> None:
    weight, x = random(48, 256), random(3, 256, seed=1).bfloat16()
    kernel = QuantizedLinear(weight, name)
    monkeypatch.setattr("reference.quantization.has_kernel", lambda device, precision: False)
    fallback = QuantizedLinear(weight, name)
    assert fallback.kernel is None
    assert fallback.nbytes == kernel.nbytes
    assert_close(fallback.dequantized().float(), rounded(weight, name), atol=0.02, rtol=0.01)
    assert_close(fallback(x).float(), kernel(x).float(), atol=0.3, rtol=0.05)


def test_what_a_device_gains_is_said() -> None:
    assert has_kernel(CPU, "int4-g32")
    assert "read as they are stored" in kernel_note(CPU, "int8")
    assert "saves memory, not time" in kernel_note(torch.device("mps"), "int4-g32")


# Models


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize(
    "fields",
    [{}, {"tied_head": True, "qkv_bias": True, "qk_norm": True},
     {"experts": Experts(4, 2, 128, shared_size=128, shared_gate=True, dense_layers=(0,))}],
    ids=["llama", "qwen", "experts"],
)  # fmt: skip
def test_the_bytes_are_those_that_specsim_counts(tiny, name: str, fields) -> None:
    model = tiny(dtype=torch.float32, **FIELDS | fields)
    copy = quantized(model, name)
    held = [m for m in copy.modules() if isinstance(m, QuantizedLinear)]
    stored = sum(layer.nbytes for layer in held)
    if name == "int8":  # the scale of a channel, which specsim leaves out: 2 bytes for a row
        stored -= sum(layer.scales.nbytes for layer in held)
    shape = model.architecture
    work = forward_work(shape, Workload(batch=1e9), precision(name))  # every expert is visited
    gates = shape.expert_layers * shape.hidden_size * 2 if shape.experts else 0
    routers = work["router"].weight_bytes if shape.experts else 0
    assert stored == pytest.approx(float(work.weight_bytes - routers), rel=1e-12)
    small = sum(parameter.nbytes for parameter in copy.parameters())
    norms = (2 * shape.num_layers + 1) * shape.hidden_size
    norms += 2 * shape.num_layers * shape.head_dim * shape.qk_norm
    assert small == 2 * (shape.embedding_parameters + norms) + routers + gates


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("experts", [None, Experts(4, 2, 128)], ids=["dense", "experts"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_quantised_model_is_near_the_one_it_was_made_of(tiny, name, experts, packed) -> None:
    model = tiny(dtype=torch.bfloat16, experts=experts, **FIELDS)
    model = pack(model) if packed else model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copy = quantized(model, name)
    assert copy.precision == name
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    tokens = torch.arange(60).view(2, 30)
    with torch.inference_mode():
        p, q = (m(tokens).float().softmax(-1) for m in (model, copy))
    overlap = torch.minimum(p, q).sum(-1).mean().item()
    assert overlap > {"int8": 0.95, "int4": 0.75, "int4-g32": 0.75}[name]
    assert overlap < 1.0 - 1e-6
    assert len(generate(copy, [1, 2, 3], 10).tokens) == 10


@pytest.mark.parametrize("name", ["int8", "int4-g32"])
def test_a_checkpoint_is_quantised_as_it_is_loaded(tiny, tmp_path, name: str) -> None:
    model = tiny(dtype=torch.bfloat16, **FIELDS)
    model.stop_ids = frozenset({7})
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path, precision=name)
    assert (loaded.precision, loaded.dtype, loaded.stop_ids) == (name, torch.bfloat16, {7})
    tokens = torch.arange(20).view(1, 20)
    with torch.inference_mode():
        assert torch.equal(loaded(tokens), quantized(model, name)(tokens))
    with pytest.raises(SpecsimError, match="packed or quantised"):
        save_checkpoint(loaded, tmp_path / "again")
    with pytest.raises(SpecsimError, match=f"quantised already .{name}"):
        quantized(loaded, name)
    assert not (tmp_path / "again").exists()


def test_the_first_layers_of_a_quantised_target_draft_for_it(tiny) -> None:
    target = quantized(tiny(dtype=torch.bfloat16, **FIELDS), "int4-g32")
    assert first_layers(target, 1).precision == "int4-g32"
    run = speculate(target, EarlyExit(2, 3), [[1, 2, 3], [4]], 20, temperature=1.0)
    assert [len(tokens) for tokens in run.tokens] == [20, 20]
    assert run.statistics.drafted > 0


def test_what_cannot_be_quantised_is_refused(tiny, tmp_path) -> None:
    model = tiny()  # 48 inputs of the down projection
    with pytest.raises(SpecsimError, match=r"among 32 inputs; the 48 of layers\.0\.down"):
        quantized(model, "int4-g32")
    assert quantized(model, "int8").precision == "int8"
    with pytest.raises(SpecsimError, match="unknown precision 'int3'; known: int8, int4, int4-g32"):
        quantized(model, "int3")
    save_checkpoint(model, tmp_path)
    with pytest.raises(SpecsimError, match="unknown precision 'int3'; known: fp32, bf16, fp16, i"):
        load_checkpoint(tmp_path, precision="int3")


def test_a_layer_of_odd_inputs_is_never_given_to_the_kernel() -> None:
    """torch's int8 kernel reads past the end of rows whose length is no multiple of 16."""
    layer = QuantizedLinear(random(64, 50), "int8")
    assert layer.kernel is None
    x = random(3, 50, seed=1).bfloat16()
    assert_close(layer(x).float(), x.float() @ random(64, 50).T, atol=0.3, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", GROUPS)
def test_the_product_on_a_gpu_is_that_of_the_rounded_weight(name: str) -> None:
    weight, x = random(61, 256), random(3, 256, seed=1).bfloat16()
    y = QuantizedLinear(weight.cuda(), name)(x.cuda()).cpu().float()
    expected = x.float() @ rounded(weight, name).T
    assert_close(y, expected, atol=0.02 * expected.abs().max().item(), rtol=0)

"""The forward pass: in pieces as in one; against naive loops and transformers' models."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reference import packing
from reference.cache import KVCache
from reference.packing import PackedLinear, can_pack, pack
from reference.transformer import MAX_GAMMA, Transformer, prefill, rotary_table
from specsim.architecture import Architecture, Llama3RopeScaling, from_config

VARIANTS = {
    "llama": {},
    "multi-head": {"num_kv_heads": 4},
    "multi-query": {"num_kv_heads": 1},
    "tied head": {"tied_head": True},
    "biased qkv": {"qkv_bias": True},
    "normalised heads": {"qk_norm": True},
    "odd sizes": {"num_heads": 6, "num_kv_heads": 3, "head_dim": 10, "num_layers": 3},
}


def random_tokens(model: Transformer, rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.architecture.vocab_size, (rows, length), generator=generator)


def new_cache(model: Transformer, rows: int, capacity: int) -> KVCache:
    return KVCache(model.architecture, rows, capacity, model.dtype)


def in_pieces(model: Transformer, tokens: Tensor, pieces: list[int], cache: KVCache) -> Tensor:
    """The logits of `tokens` (B, T), fed in pieces of the given lengths."""
    logits, start = [], 0
    for length in pieces:
        positions = torch.arange(start, start + length).expand(len(tokens), -1)
        piece = tokens[:, start : start + length]
        logits.append(model(piece, positions, cache, start + length))
        start += length
    return torch.cat(logits, dim=1)


# In pieces as in one


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_read_in_pieces_has_the_logits_of_the_whole(tiny, variant: str) -> None:
    model = tiny(**VARIANTS[variant])
    tokens = random_tokens(model, 3, 20)
    whole = model(tokens)
    for pieces in ([20], [1] * 20, [7, 1, 1, 4, 5, 2], [19, 1], [1, 19]):
        cache = new_cache(model, 3, 24)
        assert_close(in_pieces(model, tokens, pieces, cache), whole, atol=1e-10, rtol=1e-10)


def test_float32_in_pieces_is_the_whole_to_rounding(tiny) -> None:
    model = tiny(dtype=torch.float32)
    tokens = random_tokens(model, 2, 20)
    pieces = in_pieces(model, tokens, [9, 1, 5, 5], new_cache(model, 2, 20))
    assert_close(pieces, model(tokens), atol=1e-4, rtol=1e-4)


def test_a_ragged_batch_has_the_logits_of_each_text_alone(tiny, sequences_of) -> None:
    """Prefill pads, the pending tokens stand at different positions, and chunks follow."""
    model = tiny()
    lengths, chunk = [1, 2, 6, 11], 4
    texts = [random_tokens(model, 1, length + 2 * chunk, seed=length)[0] for length in lengths]
    prompts = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
    sequences = sequences_of(prompts, 2 * chunk + 1)
    cache = new_cache(model, len(prompts), sequences.tokens.shape[1])
    prefill(model, sequences, cache)
    assert sequences.lengths.tolist() == [length - 1 for length in lengths]
    for _ in range(2):
        positions = sequences.positions(chunk)
        tokens = torch.stack([t[p] for t, p in zip(texts, positions, strict=True)])
        logits = model(tokens, positions, cache, sequences.longest + chunk)
        for row, (text, own) in enumerate(zip(texts, positions, strict=True)):
            alone = model(text[None, : own[-1] + 1])[0, own]
            assert_close(logits[row], alone, atol=1e-10, rtol=1e-10)
        sequences.lengths += chunk
        sequences.longest += chunk


def test_prefill_of_one_token_prompts_reads_nothing(tiny, sequences_of) -> None:
    model = tiny()
    cache = new_cache(model, 2, 8)
    prefill(model, sequences_of([[3], [4]], 7), cache)
    assert all(tensor.count_nonzero() == 0 for tensor in (*cache.keys, *cache.values))


def test_a_model_that_reads_no_prompts_finds_noise_where_they_would_stand(
    tiny, sequences_of
) -> None:
    model, deeper = tiny(), tiny(num_layers=3)
    model.reads_prompts = deeper.reads_prompts = False
    caches = new_cache(model, 2, 8), new_cache(deeper, 2, 8)
    for each, cache in zip((model, deeper), caches, strict=True):
        prefill(each, sequences_of([[3] * 6, [4] * 2], 2), cache)
    for tensor in (*caches[1].keys, *caches[1].values):
        assert tensor[:, :5].count_nonzero() == tensor[:, :5].numel()
        assert tensor[:, 5:].count_nonzero() == 0
    assert not torch.equal(caches[0].keys[0], caches[0].keys[1])
    for one, other in zip(caches[0].keys, caches[1].keys, strict=False):
        assert torch.equal(one, other)  # a draft of the first layers finds what its target does


def test_what_lies_beyond_a_sequence_in_the_cache_does_not_matter(tiny) -> None:
    model = tiny()
    tokens = random_tokens(model, 2, 12)
    clean, dirty = new_cache(model, 2, 16), new_cache(model, 2, 16)
    for tensor in (*dirty.keys, *dirty.values):
        tensor.fill_(1e6)
    expected = in_pieces(model, tokens, [8], clean)
    assert torch.equal(in_pieces(model, tokens, [8], dirty), expected)
    positions = torch.arange(8, 12).expand(2, -1)
    for window in (12, 14, 16):
        logits = model(tokens[:, 8:], positions, dirty, window)
        assert_close(logits, model(tokens)[:, 8:], atol=1e-10, rtol=1e-10)


def test_the_window_defaults_to_the_whole_buffer(tiny) -> None:
    model = tiny()
    tokens = random_tokens(model, 2, 6)
    positions = torch.arange(6).expand(2, -1)
    by_default = model(tokens, positions, new_cache(model, 2, 10))
    assert torch.equal(by_default, model(tokens, positions, new_cache(model, 2, 10), 10))


def test_rejected_tokens_are_forgotten_by_writing_over_them(tiny) -> None:
    model = tiny()
    text, wrong = random_tokens(model, 1, 10), random_tokens(model, 1, 10, seed=1)
    cache = new_cache(model, 1, 12)
    in_pieces(model, torch.cat((text[:, :5], wrong[:, 5:]), dim=1), [10], cache)
    positions = torch.arange(5, 8)[None]
    logits = model(text[:, 5:8], positions, cache, 10)
    assert_close(logits, model(text[:, :8])[:, 5:], atol=1e-10, rtol=1e-10)


def test_the_cache_has_the_shape_and_the_bytes_of_the_architecture(tiny) -> None:
    model = tiny(num_layers=3)
    cache = KVCache(model.architecture, 5, 7, torch.bfloat16)
    nbytes = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    assert nbytes == 5 * 7 * model.architecture.kv_elements_per_token * 2
    assert [key.shape for key in cache.keys] == [torch.Size((5, 7, 2, 8))] * 3
    positions = torch.tensor([[2], [0], [6], [6], [1]])
    keys = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 8)
    cache.write(1, positions, keys.bfloat16() + 1, -keys.bfloat16() - 1)
    read, values = cache.read(1, 7)
    assert torch.equal(read, -values)
    assert read[:, :, 0, 0].count_nonzero() == 5
    for row, position in enumerate(positions):
        assert (read[row, position] == row + 1).all()
    assert cache.keys[0].count_nonzero() == cache.keys[2].count_nonzero() == 0


def test_hidden_is_what_the_head_multiplies(tiny) -> None:
    model = tiny(tied_head=True)
    tokens = random_tokens(model, 2, 5)
    assert torch.equal(model.head(model.hidden(tokens)), model(tokens))
    assert model.head.weight is model.embedding.weight


def test_the_parameters_are_those_the_architecture_counts(tiny) -> None:
    for fields in VARIANTS.values():
        model = tiny(**fields)
        stored = sum(parameter.numel() for parameter in model.parameters())
        assert stored == model.architecture.parameters


# Sixteen bits


@pytest.mark.parametrize(
    ("device", "length"),
    [
        ("cpu", 40),
        pytest.param("cpu", 2500, marks=pytest.mark.slow),
        *(pytest.param("cuda", length, marks=pytest.mark.gpu) for length in (40, 2500)),
    ],
)  # 2,500 are read in chunks on a GPU
def test_logits_in_bfloat16_are_near_those_of_float64(tiny, device: str, length: int) -> None:
    """Of a prefill and a verification: the kernels that are measured on a GPU."""
    shape = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 384, "max_context": 4096}
    model = tiny(2, dtype=torch.bfloat16, **shape).to(device)
    exact = copy.deepcopy(model).double()
    tokens = random_tokens(model, 3, length + 5).to(device)
    positions = torch.arange(length + 5, device=device).expand(3, -1)
    window = 1 << (length + 4).bit_length()

    def verified(model: Transformer) -> Tensor:
        cache = KVCache(model.architecture, 3, window, model.dtype, device)
        model(tokens[:, :length], positions[:, :length], cache, length)
        return model(tokens[:, length:], positions[:, length:], cache, window).double()

    with torch.inference_mode():
        found, expected = verified(model), verified(exact)
    unit = torch.finfo(torch.bfloat16).eps
    error = (found - expected).norm() / expected.norm()
    assert error < 4 * unit
    others = (expected - expected.roll(1, dims=1)).norm() / expected.norm()
    assert others > 50 * unit, "the test would not see logits of another place"


# Packed weights


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float64, 0.0)]
)
@pytest.mark.parametrize("fields", [{}, {"tied_head": True, "qkv_bias": True}], ids=str)
def test_packing_changes_the_layout_and_not_the_result(tiny, dtype, tolerance, fields) -> None:
    model, packed = tiny(dtype=dtype, **fields), pack(tiny(dtype=dtype, **fields))
    if can_pack(model.norm):
        assert isinstance(packed.layers[0].qkv, PackedLinear)
        assert isinstance(packed.head, PackedLinear)
    else:
        assert isinstance(packed.layers[0].qkv, torch.nn.Linear)
    tokens = random_tokens(model, 2, 9)
    with torch.inference_mode():
        logits, expected = packed(tokens), model(tokens)
    assert logits.dtype == dtype
    assert_close(logits, expected, atol=tolerance, rtol=tolerance)


def test_small_matrices_in_fp32_stay_as_they_are(monkeypatch) -> None:
    monkeypatch.setattr(packing, "PACKED_FROM", 4 * 64 * 64)
    for dtype, size, packs in (
        (torch.float32, 63, False), (torch.float32, 64, True), (torch.bfloat16, 8, True)
    ):  # fmt: skip
        plain = torch.nn.Linear(64, size, dtype=dtype)
        made = pack(torch.nn.ModuleList([plain]))[0]
        if can_pack(plain.weight):
            assert made.packed.is_mkldnn == packs
            x = torch.randn(3, 64, dtype=dtype)
            assert_close(made(x), plain(x))


def test_weights_are_packed_for_several_rows() -> None:
    """For one row of fp32 oneDNN keeps the ordinary layout, which is slow for all other rows."""
    linear = torch.nn.Linear(512, 1024, bias=False)
    if not can_pack(linear.weight):
        pytest.skip("nothing is packed here")
    layout = torch.ops.mkldnn._get_mkldnn_serialized_md
    wanted = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 8)
    assert torch.equal(layout(PackedLinear(linear.weight).packed), layout(wanted))


def test_float64_is_never_packed() -> None:
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))


# Beside transformers

LLAMA3 = Llama3RopeScaling(8.0, 1.0, 4.0, 64)

SHARED_CONFIG = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": LLAMA3.factor,
    "low_freq_factor": LLAMA3.low_freq_factor,
    "high_freq_factor": LLAMA3.high_freq_factor,
    "original_max_position_embeddings": LLAMA3.original_context,
}
THEIRS = {
    "llama": ("Llama", {}),
    "llama-3.1": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama, attention bias": ("Llama", {"attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}


@pytest.fixture(scope="module")
def their_model():
    """Builds one of transformers' models with random weights, norms and biases included."""
    transformers = pytest.importorskip("transformers")

    def build(name: str):
        family, changes = THEIRS[name]
        config = getattr(transformers, f"{family}Config")(**(SHARED_CONFIG | changes))
        model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim == 2:
                    parameter.copy_(noise / parameter.shape[1] ** 0.5)
                else:
                    parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else 1.0))
        return model

    return build


def with_weights_of(theirs) -> Transformer:
    """Our model with the weights of theirs, fused by hand."""
    model = Transformer(from_config(theirs.config.to_dict(), "theirs"))
    weights = theirs.state_dict()
    ours = {
        "embedding.weight": weights["model.embed_tokens.weight"],
        "norm": weights["model.norm.weight"],
        "head.weight": weights["lm_head.weight"],
    }
    for index in range(model.architecture.num_layers):
        layer = {
            name.removeprefix(f"model.layers.{index}."): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{index}.")
        }
        parts = {
            "attention_norm": layer["input_layernorm.weight"],
            "mlp_norm": layer["post_attention_layernorm.weight"],
            "qkv.weight": torch.cat([layer[f"self_attn.{x}_proj.weight"] for x in "qkv"]),
            "output.weight": layer["self_attn.o_proj.weight"],
            "gate_up.weight": torch.cat([layer[f"mlp.{x}_proj.weight"] for x in ("gate", "up")]),
            "down.weight": layer["mlp.down_proj.weight"],
        }
        if "self_attn.q_proj.bias" in layer:
            parts["qkv.bias"] = torch.cat([layer[f"self_attn.{x}_proj.bias"] for x in "qkv"])
        if "self_attn.q_norm.weight" in layer:
            parts["query_norm"] = layer["self_attn.q_norm.weight"]
            parts["key_norm"] = layer["self_attn.k_norm.weight"]
        ours |= {f"layers.{index}.{name}": weight for name, weight in parts.items()}
    model.load_state_dict(ours)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", [name for name in THEIRS if name != "llama, attention bias"])
def test_the_logits_are_those_of_transformers(their_model, name: str) -> None:
    theirs = their_model(name)
    ours = with_weights_of(theirs)
    tokens = random_tokens(ours, 2, 200)
    with torch.inference_mode():
        expected = theirs(tokens).logits
    assert expected.std() > 0.5, "nothing to compare"
    assert_close(ours(tokens), expected, atol=1e-4, rtol=1e-4)
    in_two = in_pieces(ours, tokens, [150, 50], new_cache(ours, 2, 200))
    assert_close(in_two, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "llama-3.1"])
def test_the_rotary_table_is_that_of_transformers(their_model, name: str) -> None:
    theirs = their_model(name)
    shape = from_config(theirs.config.to_dict(), name)
    cos, sin = rotary_table(shape).squeeze(1).chunk(2, dim=-1)
    assert cos.shape == sin.shape == (shape.max_context + MAX_GAMMA, shape.head_dim)
    positions = torch.arange(len(cos))[None]
    expected_cos, expected_sin = theirs.model.rotary_emb(torch.zeros(1), positions)
    half = shape.head_dim // 2
    assert_close(cos, expected_cos[0], atol=1e-6, rtol=0)
    assert_close(sin[:, half:], expected_sin[0, :, half:], atol=1e-6, rtol=0)
    assert_close(sin[:, :half], -expected_sin[0, :, :half], atol=1e-6, rtol=0)


def test_llama3_scaling_keeps_short_wavelengths_and_stretches_long_ones() -> None:
    fields = {
        "name": "rope", "hidden_size": 64, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1,
        "head_dim": 64, "intermediate_size": 8, "vocab_size": 8, "rope_theta": 500_000.0,
    }  # fmt: skip
    plain = rotary_table(Architecture(**fields))
    scaled = rotary_table(Architecture(**fields, rope_scaling=LLAMA3))
    before, after = plain[1, 0, :32].double().acos(), scaled[1, 0, :32].double().acos()
    wavelengths = 2 * math.pi / before
    short = wavelengths < LLAMA3.original_context / LLAMA3.high_freq_factor
    long = wavelengths > LLAMA3.original_context / LLAMA3.low_freq_factor
    assert short.any()
    assert_close(after[short], before[short])
    # cosines of very small angles say little; compare where they say enough
    readable = long & (after > 1e-2)
    assert readable.any()
    assert_close(after[readable], before[readable] / LLAMA3.factor, rtol=1e-2, atol=0)

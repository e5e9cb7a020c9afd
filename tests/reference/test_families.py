"""The families near the Llama shape, and hybrids, against transformers: logits, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from family_checkpoints import FAMILIES, TOKENS, edit_config, made, saved
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from reference.checkpoints import load_checkpoint, save_checkpoint
from reference.decoding import generate, speculate
from reference.drafters.early_exit import EarlyExit
from reference.drafters.n_gram import NGram
from specsim.checks import SpecsimError


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def checkpoint(transformers, tmp_path_factory):
    """The folder of a family's tiny checkpoint, and transformers' logits of TOKENS."""
    kept: dict[str, tuple[Path, torch.Tensor]] = {}

    def build(name: str) -> tuple[Path, torch.Tensor]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("family")
            kept[name] = folder, saved(made(transformers, name), folder)
        return kept[name]

    return build


def in_pieces(model, lengths) -> torch.Tensor:
    """Logits of TOKENS read through a cache: a prefill, plain steps and verifications."""
    cache = model.new_cache(len(TOKENS), TOKENS.shape[1], 16)
    start, found = 0, []
    for length in lengths:
        positions = torch.arange(start, start + length).expand(len(TOKENS), -1)
        piece = TOKENS[:, start : start + length]
        found.append(model(piece, positions, cache, start + length))
        start += length
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_checkpoint_gives_its_logits(checkpoint, name: str) -> None:
    folder, expected = checkpoint(name)
    model = load_checkpoint(folder)
    assert expected.std() > 0.3, "nothing to compare"
    with torch.inference_mode():
        assert_close(model(TOKENS), expected, atol=1e-4, rtol=1e-4)
        cached = in_pieces(model, (120, 1, 1, 5, 1, 9, 13))
        assert_close(cached, expected, atol=1e-4, rtol=1e-4)


# what a family's config says -> a change of it that must change the logits
FACTORS = {
    "granite": ["embedding_multiplier", "attention_multiplier", "residual_multiplier",
                "logits_scaling"],
    "gemma2": ["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
               "sliding_window"],
    "olmo3": ["sliding_window"],
    "mistral, window": ["sliding_window"],
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_of_a_family_counts(checkpoint, name: str, tmp_path: Path) -> None:
    folder, expected = checkpoint(name)
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for field in FACTORS[name]:
        edit_config(tmp_path, **config)
        edit_config(tmp_path, **{field: type(config[field])(2 * config[field])})
        with torch.inference_mode():
            assert (load_checkpoint(tmp_path)(TOKENS) - expected).abs().max() > 1e-2, field


SPOKEN = ("gemma3", "granite")  # those of which every run decodes a text
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in SPOKEN]


@pytest.mark.parametrize("name", [*SPOKEN, *OTHERS])
def test_speculation_writes_the_text_of_plain_decoding(checkpoint, first_difference, name) -> None:
    """In 64 bits token for token; in 32 bits up to near-ties of the logits."""
    prompts = [[17], [3, 41], [9, 9, 30, 2, 55], list(range(38)), [60, 0] * 8]
    for dtype in (torch.float64, torch.float32):
        target = load_checkpoint(checkpoint(name)[0], dtype=dtype, packed=False)
        expected = generate(target, prompts, 12, stop_ids=()).tokens
        for drafter in (EarlyExit(1, 1), EarlyExit(1, 4), NGram(8)):
            found = speculate(target, drafter, prompts, 12, stop_ids=()).tokens
            if dtype == torch.float64:
                assert found == expected
            for prompt, one, other in zip(prompts, expected, found, strict=True):
                assert first_difference(target, prompt, one, other) is None
        with_one_more = [[*prompt, expected[0][0]] for prompt in prompts[:1]]
        again = generate(target, with_one_more, 5).tokens[0]
        assert again[:4] == expected[0][1:5], "nothing depends on the batch"


def multimodal(folder: Path, prefix: str, model_type: str) -> None:
    """Turn a text checkpoint into the folder of a multimodal model that holds it."""
    weights = load_file(folder / "model.safetensors")
    inside = {
        name.replace("model.", prefix, 1) if name.startswith("model.") else name: weight
        for name, weight in weights.items()
    }
    if prefix.startswith("language_model."):
        inside = {f"language_model.{n}" if n.startswith("lm_head.") else n: w
                  for n, w in inside.items()}  # fmt: skip
    inside["model.visual.blocks.0.attn.proj.weight"] = torch.ones(3, 3)
    inside["mtp.norm.weight"] = torch.ones(32)
    save_file(inside, folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())
    whole = {"model_type": model_type, "text_config": text, "vision_config": {"depth": 1}}
    (folder / "config.json").write_text(json.dumps(whole))


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
@pytest.mark.parametrize(("name", "whole"), [("qwen3.5", "qwen3_5"), ("gemma3", "gemma3")])
def test_of_a_multimodal_folder_the_language_model_is_loaded(
    checkpoint, tmp_path: Path, prefix: str, name: str, whole: str
) -> None:
    folder, expected = checkpoint(name)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    multimodal(tmp_path, prefix, whole)
    with torch.inference_mode():
        assert_close(load_checkpoint(tmp_path)(TOKENS), expected, atol=1e-4, rtol=1e-4)


def test_other_tensors_of_a_folder_that_is_not_multimodal_are_refused(checkpoint, tmp_path) -> None:
    folder, _ = checkpoint("olmo2")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.visual.x": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(SpecsimError, match=r"model\.visual\.x has no place in this model"):
        load_checkpoint(tmp_path)


def test_experts_in_one_tensor_a_layer_are_read(checkpoint, tmp_path: Path) -> None:
    """As Qwen3.5's own checkpoints keep them."""
    folder, expected = checkpoint("qwen3.5-moe")
    weights = load_file(folder / "model.safetensors")
    first, end = "model.layers.{}.mlp.experts.{}.", "_proj.weight"
    assert first.format(0, 0) + "gate" + end in weights
    for layer in range(4):
        each = [
            [weights.pop(first.format(layer, e) + part + end) for part in ("gate", "up", "down")]
            for e in range(6)
        ]
        inside = f"model.layers.{layer}.mlp.experts."
        weights[inside + "gate_up_proj"] = torch.stack([torch.cat(x[:2]) for x in each])
        weights[inside + "down_proj"] = torch.stack([x[2] for x in each])
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with torch.inference_mode():
        assert_close(load_checkpoint(tmp_path)(TOKENS), expected, atol=1e-4, rtol=1e-4)
    weights["model.layers.2.mlp.experts.down_proj"] = torch.ones(5, 32, 24)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(SpecsimError, match=r"experts\.down_proj has shape \(5, 32, 24\); config"):
        load_checkpoint(tmp_path)


# 8-bit floats


FLOAT8 = {
    "blocks": ({"quant_method": "fp8", "weight_block_size": [16, 24], "fmt": "e4m3"}, "_scale_inv"),
    "rows": (
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float",
             "strategy": "channel"}, "input_activations": {"num_bits": 8, "type": "float",
             "dynamic": True}}}, "ignore": ["lm_head"]},
        "_scale",
    ),
}  # fmt: skip


def in_float8(weights: dict, kind: str) -> tuple[dict, dict]:
    """The tensors of a checkpoint in 8-bit floats, and the numbers that they stand for."""
    stored, meant = {}, {}
    config, suffix = FLOAT8[kind]
    for name, weight in weights.items():
        stored[name] = meant[name] = weight
        if not name.endswith("proj.weight"):
            continue
        if kind == "rows":
            scale = weight.abs().amax(1, keepdim=True) / 448
            each = scale
        else:
            rows, columns = config["weight_block_size"]
            shape = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
            scale = 0.001 * (1 + torch.arange(shape[0] * shape[1]).view(shape).float())
            each = torch.stack([
                torch.stack([scale[i // rows, j // columns] for j in range(weight.shape[1])])
                for i in range(weight.shape[0])
            ])  # fmt: skip
        codes = (weight / each).clamp(-448, 448).to(torch.float8_e4m3fn)
        stored |= {name: codes, name + suffix: scale}
        if kind == "rows":
            stored[name.removesuffix("weight") + "input_scale"] = torch.ones(1)
        meant[name] = codes.float() * each
    return stored, meant


@pytest.mark.parametrize("kind", FLOAT8)
def test_weights_in_8_bit_floats_are_dequantised_and_said(tiny, kind, tmp_path: Path) -> None:
    save_checkpoint(tiny(dtype=torch.float32), tmp_path, dtype=torch.float32)
    file = tmp_path / "model.safetensors"
    stored, meant = in_float8(load_file(file), kind)
    save_file(meant, file)
    tokens = TOKENS[:, :90] % 61
    expected = load_checkpoint(tmp_path)
    assert expected.notes == ()
    save_file(stored, file)
    edit_config(tmp_path, quantization_config=FLOAT8[kind][0])
    model = load_checkpoint(tmp_path)
    assert model.notes == (
        f"{tmp_path.name}: 14 matrices in 8-bit floats were dequantised to torch.float32",
    )
    with torch.inference_mode():
        assert_close(model(tokens), expected(tokens), atol=1e-5, rtol=1e-5)
    without = {n: w for n, w in stored.items() if "layers.1.mlp.down_proj.weight_sc" not in n}
    save_file(without, file)
    with pytest.raises(SpecsimError, match=r"down_proj\.weight holds F8_E4M3, not floating-point"):
        load_checkpoint(tmp_path)


def test_scales_of_other_blocks_are_refused(tiny, tmp_path: Path) -> None:
    save_checkpoint(tiny(dtype=torch.float32), tmp_path, dtype=torch.float32)
    file = tmp_path / "model.safetensors"
    save_file(in_float8(load_file(file), "blocks")[0], file)
    edit_config(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [8, 8]})
    with pytest.raises(
        SpecsimError, match=r"scales of \(\d, \d\), which is neither one, nor one a"
    ):
        load_checkpoint(tmp_path)


def test_a_family_is_loaded_and_not_written(checkpoint, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoint("granite")[0], packed=False)
    with pytest.raises(SpecsimError, match="departs from the Llama shape: it is loaded, but not"):
        save_checkpoint(model, tmp_path)

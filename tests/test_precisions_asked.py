"""The formats that are asked for, and the words that say who asked."""

import json
from pathlib import Path

import numpy as np
import pytest

import specsim
from specsim import cli

ROOT = Path(__file__).parent.parent
H200 = str(ROOT / "measurements" / "nvidia-h200" / "calibration.json")
PLACE = ["--accelerator", "h100-sxm", "--engine", "vllm"]


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["predict", *words]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp32", "auto"])
def test_a_kv_precision_of_auto_is_the_default(precision: str) -> None:
    told, silent = (
        specsim.system("h100-sxm", precision=precision, kv_precision=kv) for kv in ("auto", None)
    )
    target = specsim.model("llama-3.1-8b")
    steps = [specsim.predict(target, None, each, gamma=0).step_s for each in (told, silent)]
    assert np.isfinite(steps[0])
    assert steps[0] == steps[1]


@pytest.mark.parametrize("engine", [PLACE, ["--engine", H200]])
def test_so_it_is_on_the_command_line(capsys, engine) -> None:
    words = ["predict", "--target", "llama-3.1-8b", *engine, "--precision", "bf16"]
    found = []
    for more in ([], ["--kv-precision", "auto"]):
        assert cli.main([*words, *more, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    said = page(capsys, *words[1:], "--kv-precision", "auto")
    assert "KV cache in 16 bits (by default)" in said


def config_with(tmp_path: Path, **fields: object) -> str:
    config = {
        "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | fields))
    return str(path)


def test_who_says_in_how_many_bits_the_cache_is(capsys, tmp_path) -> None:
    stored = {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token"},
        }},
        "ignore": ["lm_head"], "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }  # fmt: skip
    file = config_with(tmp_path, quantization_config=stored)
    said = page(capsys, "--target", file, *PLACE)
    assert "KV cache in 8 bits (as its quantization_config says)" in said
    said = page(capsys, "--target", file, *PLACE, "--kv-precision", "bf16")
    assert "KV cache in 16 bits (--kv-precision)" in said
    said = page(capsys, "--target", file, *PLACE, "--precision", "bf16")
    assert "KV cache in 16 bits (by default)" in said


def test_a_calibration_names_the_machine_that_it_was_measured_on(capsys) -> None:
    said = page(capsys, "--target", "llama-3.1-8b", "--engine", H200)
    assert "calibration.json: measured on NVIDIA H200;" in said
    assert "measured on this machine" not in said
    assert "KV cache in 16 bits (as the calibration says)" in said


def test_a_draft_whose_config_names_no_format_says_so(capsys) -> None:
    words = ["--target", "qwen3-32b", "--draft", "qwen3-0.6b", "--alpha", "0.7", *PLACE]
    said = page(capsys, *words)
    assert "qwen3-0.6b in bf16 (16 bits: its config names no format)" in said
    assert "(as asked for)" in page(capsys, *words, "--draft-precision", "fp8")

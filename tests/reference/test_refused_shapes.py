"""Shapes that can be priced and not run are refused before a weight is made or read."""

import json
from pathlib import Path

import pytest
import torch

from reference.checkpoints import load_checkpoint
from reference.transformer import Transformer
from specsim import SpecsimError, catalog
from specsim.architecture import model

DEPARTING = [name for name in catalog.load("models") if model(name).departures]


@pytest.mark.parametrize("name", DEPARTING)
def test_sizes_alone_make_no_other_shape_than_llamas(name: str) -> None:
    words = f"{name} has .*sizes alone make models of the Llama shape"
    with torch.device("meta"), pytest.raises(SpecsimError, match=words):
        Transformer(model(name))


REFUSED = {  # a preset, and the reason that its checkpoint is refused for
    "gpt-oss-20b": "is quantised by MXFP4",
    "deepseek-v3": "has .*latent attention.*no forward pass of the decoder",
    "phi-2": "has LayerNorm, 1 norms a layer",
    "opt-125m": "learned positions",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_that_can_only_be_priced_is_refused(name: str, tmp_path: Path) -> None:
    write_config(tmp_path, catalog.lookup("models", name)["config"])
    require_one_line(tmp_path, REFUSED[name])


LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
    "max_position_embeddings": 96, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


def write_config(folder: Path, config) -> None:
    (folder / "config.json").write_text(json.dumps(dict(config), default=dict))


def require_one_line(folder: Path, words: str) -> None:
    with pytest.raises(SpecsimError, match=words) as refused:
        load_checkpoint(folder)
    assert "\n" not in str(refused.value)


# what a folder's config says beside Llama's sizes -> why it is refused
FOLDERS = {
    "GPTQ": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        r"is quantised by GPTQ \(quantization_config in config.json, 4\.\d+ bits a weight\): the "
        "decoder has no kernels for its codes; load the checkpoint in 16 bits that it was made "
        "from",
    ),
    "AWQ": (
        {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128,
                                 "zero_point": True, "version": "gemm"}},
        "is quantised by AWQ",
    ),
    "MLX": ({"quantization": {"bits": 4, "group_size": 64}}, r"by MLX \(quantization in config"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True,
                                 "bnb_4bit_quant_type": "nf4"}},
        "is quantised by bitsandbytes",
    ),
    "an unknown method": (
        {"quantization_config": {"quant_method": "marvel"}}, "is quantised by marvel"),
    "EAGLE": (
        {"num_hidden_layers": 1, "bias": True},
        "holds EAGLE weights, a draft head that needs its target's hidden states",
    ),
    "EAGLE-3": (
        {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 32},
        "holds EAGLE-3 weights",
    ),
    "Medusa": ({"medusa_num_heads": 3}, "holds Medusa weights"),
    "dynamic rope": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "has rope_type 'dynamic'; the decoder knows default, linear, yarn, llama3, longrope; its",
    ),
    "longrope with too few factors": (
        {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4,
         "long_factor": [1.0] * 5}, "original_max_position_embeddings": 64},
        "longrope's long_factor must be a list of 4 numbers, one for each pair of dimensions that "
        "turns, not 5; its cost can be predicted",
    ),
    "longrope without a list": (
        {"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": 2.0}},
        "longrope's short_factor must be a list of 4 numbers, .* not 2.0",
    ),
    "longrope with a factor that is no number": (
        {"model_type": "phi3", "rope_scaling": {"type": "yarn", "short_factor": [1.0, 2, 0, 4],
         "long_factor": [1.0] * 4}},
        "longrope's short_factor holds 0; each must be a number above 0",
    ),
    "longrope of an original context of one token": (
        {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4,
         "long_factor": [1.0] * 4}, "original_max_position_embeddings": 1},
        "original_max_position_embeddings must be above 1 for longrope, not 1",
    ),
    "multipliers that nobody reads": (
        {"model_type": "minicpm", "scale_emb": 12.0},
        "is of the family minicpm, which the decoder does not run; it runs .*gemma2, ",
    ),
    "bidirectional attention": (
        {"model_type": "gemma3_text", "use_bidirectional_attention": True, "head_dim": 8},
        "attends in both directions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_model_to_run_is_refused_by_its_config(kind, tmp_path: Path) -> None:
    said, words = FOLDERS[kind]
    write_config(tmp_path, LLAMA | said)
    require_one_line(tmp_path, words)

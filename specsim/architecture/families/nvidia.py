"""Nemotron: LayerNorm and squared ReLU; and Llamas that a search cut down layer by layer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from specsim.architecture.families.common import Reader, llama_biases
from specsim.architecture.fields import Config, Fields
from specsim.architecture.layers import SLIDING
from specsim.architecture.parts import Attention, Layer, Mlp
from specsim.checks import SpecsimError


def _nemotron(c: Config) -> Fields:
    return llama_biases(c) | {"norm": "layer", "gated_mlp": False}


def _blocks(c: Config) -> list[Config]:
    """The table of each layer."""
    blocks = c.entries("block_configs") or []
    layers = c.size("num_hidden_layers")
    if len(blocks) != layers or not all(isinstance(block, Mapping) for block in blocks):
        raise SpecsimError(
            f"{c.name}: block_configs must have a table for each of {layers} layers, "
            f"not {len(blocks)}"
        )
    return [Config(block, f"{c.name}: block {index}") for index, block in enumerate(blocks)]


def _kv_heads(c: Config, attention: Config) -> int | None:
    """None where a block has no attention."""
    said, group = attention.count("num_key_value_heads"), attention.count("n_heads_in_group")
    return said or (max(1, c.size("num_attention_heads") // group) if group else None)


def _width(c: Config, mlp: Config) -> int | None:
    """The multiple of the hidden size, two thirds of it for a gated MLP, up to a multiple of 256;
    None where a block has no MLP."""
    if (said := mlp.count("intermediate_size")) or mlp.get("ffn_mult") is None:
        return said or None
    wide = int(2 * mlp.number("ffn_mult", default=1.0) * c.size("hidden_size") / 3)
    return -(-wide // 256) * 256


def _spelled_nas(c: Config) -> Fields:
    """The sizes that most layers have, where each has its own."""
    blocks = _blocks(c)
    kv_heads = [_kv_heads(c, block.inner("attention")) for block in blocks]
    widths = [_width(c, block.inner("ffn")) for block in blocks]
    return {"num_key_value_heads": _most(kv_heads), "intermediate_size": _most(widths)}


def _most(found: list[int | None]) -> int | None:
    """The value that comes most often, of those that are there."""
    counted = Counter(each for each in found if each is not None)
    return counted.most_common(1)[0][0] if counted else None


def _nas(c: Config) -> Fields:
    """Each block has attention of its own number of KV heads, a matrix in its place, or none, and
    likewise for the MLP (Puzzle, arXiv:2411.19146)."""
    hidden, blocks = c.size("hidden_size"), _blocks(c)

    def change(layer: Layer, index: int) -> Layer:
        attention, mlp = (blocks[index].inner(key) for key in ("attention", "ffn"))
        for part, keys in ((attention, ("num_sink_tokens", "sparsify", "mamba")), (mlp, ("moe",))):
            for key in keys:
                if part.get(key):
                    raise SpecsimError(f"{c.name}: block {index} has {key!r}, which is not priced")
        mixer, matrices = layer.mixer, ()
        if attention.get("no_op") or attention.get("replace_with_linear"):
            mixer = None
        elif isinstance(mixer, Attention):
            kv_heads = _kv_heads(c, attention) or mixer.num_kv_heads
            window = attention.count("window_length") or None
            label = SLIDING if window else _label(kv_heads, mixer)
            mixer = replace(mixer, num_kv_heads=kv_heads, window=window, label=label)
        width = None if mlp.get("no_op") or mlp.get("replace_with_linear") else _width(c, mlp)
        replaced = [part for part in (attention, mlp) if part.get("replace_with_linear")]
        gone = [part for part in (attention, mlp) if part.get("no_op")]
        return replace(
            layer,
            mixer=mixer,
            mlp=Mlp(width) if width else None,
            norms=2 - len(gone),
            matrices=matrices + ((hidden, hidden),) * len(replaced),
        )

    return llama_biases(c) | {"each_layer": change}


def _label(kv_heads: int, usual: Attention) -> str:
    """What its operators are called where it is not like most."""
    return "" if kv_heads == usual.num_kv_heads else f"{kv_heads}-KV-head"


def _spelled_deci(c: Config) -> Fields:
    return {"num_key_value_heads": max(c.sizes(_layers(c), "num_key_value_heads_per_layer"))}


def _layers(c: Config) -> int:
    return c.size("num_hidden_layers")


def _deci(c: Config) -> Fields:
    """DeciLM: KV heads layer by layer."""
    kv_heads = c.sizes(_layers(c), "num_key_value_heads_per_layer")

    def change(layer: Layer, index: int) -> Layer:
        assert isinstance(layer.mixer, Attention)
        here = kv_heads[index]
        label = _label(here, layer.mixer)
        return replace(layer, mixer=replace(layer.mixer, num_kv_heads=here, label=label))

    return llama_biases(c) | {"each_layer": change}


SPELLINGS: dict[str, Reader] = {"nemotron-nas": _spelled_nas, "deci": _spelled_deci}
FAMILIES: dict[str, Reader] = {"nemotron": _nemotron, "nemotron-nas": _nas, "deci": _deci}

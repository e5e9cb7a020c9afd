"""What several families spell alike: biases, windows, and which layers have one."""

from collections.abc import Callable

from specsim.architecture.fields import Config, Fields
from specsim.checks import SpecsimError, quoted

Reader = Callable[[Config], Fields]  # the fields in which a family differs from the Llama shape
Defaults = Fields | Callable[[Config], Fields]  # what a file may lack, or how that follows from it


def llama_biases(c: Config) -> Fields:
    """Biases of attention and of the MLP, each by a flag of its own."""
    bias = c.flag("attention_bias")
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": c.flag("mlp_bias")}


def all_biased() -> Fields:
    """A bias in every matrix, LayerNorm, and an MLP without a gate."""
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), True)
    return biases | {"norm": "layer", "gated_mlp": False}


def windows_everywhere(c: Config) -> Fields:
    """Every layer has the window, where there is one."""
    return window(c, lambda index: True)


def alternating(c: Config) -> Fields:
    """Every `sliding_window_pattern`-th layer sees everything (Gemma, gpt-oss)."""
    period = c.size("sliding_window_pattern", "_sliding_window_pattern")
    return window(c, lambda index: (index + 1) % period > 0)


def window(c: Config, slides: Callable[[int], bool]) -> Fields:
    """The window and its layers; none where it is as long as the context the model was made for."""
    if c.get("sliding_window") is None:
        return {}
    window, layers = c.size("sliding_window"), range(c.size("num_hidden_layers"))
    if window >= c.size("max_position_embeddings", default=window + 1):
        return {}
    if (types := c.entries("layer_types")) is not None:
        known = {"sliding_attention", "full_attention"}
        if len(types) != len(layers) or any(kind not in known for kind in types):
            raise SpecsimError(
                f"{c.name}: layer_types must name one of {', '.join(sorted(known))} "
                f"for each of {len(layers)} layers, not {quoted(sorted(set(map(str, types))))} "
                f"for {len(types)}"
            )
        slides = [kind == "sliding_attention" for kind in types].__getitem__
    return {
        "sliding_window": window,
        "sliding_layers": tuple(index for index in layers if slides(index)),
    }

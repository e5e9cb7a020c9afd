"""Falcon: attention and MLP side by side, one KV head or a few."""

from specsim.architecture.families.common import Reader, biased_everywhere, four_times_hidden
from specsim.architecture.fields import Config, Fields


def _kv_heads(c: Config) -> int:
    """As many as said in the architecture of the 40B; else one, or one for each head."""
    heads = c.size("num_attention_heads")
    if c.flag("new_decoder_architecture"):
        return c.size("num_kv_heads", "n_head_kv", default=heads)
    return 1 if c.flag("multi_query") else heads


def _falcon(c: Config) -> Fields:
    norms = 2
    if c.flag("parallel_attn"):
        both = 2 if c.flag("new_decoder_architecture") else 1
        norms = c.size("num_ln_in_parallel_attn", default=both)
    return biased_everywhere(c.flag("bias")) | {
        "num_kv_heads": _kv_heads(c),
        "norm": "layer",
        "norms_per_layer": norms,
        "gated_mlp": False,
    }


DEFAULTS: dict[str, Fields] = {
    "falcon": {"activation": "gelu", "tie_word_embeddings": True, "multi_query": True}
    | {"parallel_attn": True},
}
SPELLINGS: dict[str, Reader] = {"falcon": four_times_hidden}
FAMILIES: dict[str, Reader] = {"falcon": _falcon}

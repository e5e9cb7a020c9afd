"""Sparse attention, where a scorer chooses what is read: DeepSeek-V3.2 and V4, GLM-5, MiniMax-M3,
Hunyuan 4."""

from dataclasses import replace
from typing import Any

from specsim.architecture.families.common import Defaults, Reader
from specsim.architecture.families.layered import (
    DENSE,
    MLPS,
    SPARSE,
    grouped_attention,
    kinds,
    latent_attention,
    latent_fields,
    mlp_kinds,
    visited_width,
    written,
)
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Attention, Compressed, Experts, Indexer, Layer, Mlp
from specsim.checks import SpecsimError

V4_WINDOW, V4_SPARSE, V4_DENSE = "sliding", "compressed sparse", "heavily compressed"
V4_KINDS = {
    "sliding_attention": V4_WINDOW,
    "compressed_sparse_attention": V4_SPARSE,
    "heavily_compressed_attention": V4_DENSE,
}


def _deepseek_experts(c: Config) -> Experts:
    width = c.size("moe_intermediate_size")
    return Experts(
        count=c.size("n_routed_experts", "num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_size=c.count("n_shared_experts") * width,
        router_bias=True,
    )


def _latent_sparse(c: Config, **how: Any) -> Fields:
    """MLA whose cache is read where an indexer says; in some models several layers share a choice.
    `how`, further fields of every layer."""
    indexer = Indexer(
        c.size("index_n_heads"),
        c.size("index_head_dim"),
        c.size("index_topk"),
        query_rank=c.size("q_lora_rank"),
        small_parameters=2 * c.size("index_head_dim"),
    )
    further = {
        "gate_columns": c.size("num_attention_heads") * c.size("v_head_dim") if how else 0,
        "sinks": bool(how),
    }
    made = {
        "full": latent_attention(c, indexer=indexer, **further),
        "shared": latent_attention(
            c, indexer=replace(indexer, borrowed=True), label="shared choice", **further
        ),
    }
    choices = _choices(c)
    experts = _deepseek_experts(c)
    dense = Mlp(c.size("intermediate_size"))
    mlps = mlp_kinds(c, c.count("first_k_dense_replace"))
    fields = written(
        [made[choice] for choice in choices],
        [experts if kind == SPARSE else dense for kind in mlps],
        **how,
    )
    modules: Fields = {
        "mtp_layers": c.count("num_nextn_predict_layers"),
        "mtp_layer": Layer(made["full"], experts, **how),
    }
    return latent_fields(made["full"]) | fields | modules


def _choices(c: Config) -> list[str]:
    """Which layers make a choice ("full") and which take the last one that was made ("shared"):
    from a list, a pattern of letters, or how often and from which layer on."""
    spelled = {"full": "full", "shared": "shared", "F": "full", "S": "shared"}
    every = max(c.count("index_topk_freq"), 1)
    offset = c.size("index_skip_topk_offset", default=2)
    pattern = c.get("index_topk_pattern")
    listed = list(pattern) if isinstance(pattern, str) else pattern
    types = c.entries("indexer_types") or listed
    return kinds(
        Config({"indexer_types": types}, c.name),
        ("indexer_types",),
        spelled,
        lambda i: "shared" if max(i - offset + 1, 0) % every else "full",
        c.size("num_hidden_layers"),
    )


def _hunyuan4(c: Config) -> Fields:
    """The same with attention sinks, an output gate and hyper-connections."""
    hidden, streams = c.size("hidden_size"), c.size("hc_mult", default=4)
    mixing = 2 * streams
    fields = _latent_sparse(
        c,
        matrices=((streams * hidden, mixing),) * 2,
        small_parameters=2 * (mixing + 2),
        streams=streams,
    )
    return fields | {"other_parameters": streams * streams * hidden + streams + 1}


def _minimax_m3(c: Config) -> Fields:
    """Grouped-query attention that reads the best blocks of tokens; experts after dense layers."""
    table = Config(c.table("sparse_attention_config"), c.name)
    block = table.size("sparse_block_size", default=c.size("index_block_size", default=128))
    blocks = table.size("sparse_topk_blocks", default=c.size("index_topk_blocks", default=16))
    size = table.size("sparse_index_dim", default=c.size("index_head_dim", default=128))
    indexer = Indexer(
        table.size("sparse_num_index_heads", default=c.size("index_n_heads", default=4)),
        size,
        block * blocks,
        head_weights=False,
        small_parameters=2 * size,
    )
    gates = c.size("num_attention_heads") * c.size("head_dim", default=128)
    how: Fields = {
        "norm_elements": 2 * c.size("head_dim", default=128),
        "gate_columns": gates if c.flag("attention_output_gate") else 0,
    }
    made = {DENSE: grouped_attention(c, **how),
            SPARSE: grouped_attention(c, indexer=indexer, label="sparse", **how)}  # fmt: skip
    spelled = {"full_attention": DENSE, "minimax_m3_sparse": SPARSE, "0": DENSE, "1": SPARSE}
    layers = c.size("num_hidden_layers")
    listed = c.entries("layer_types") or table.entries("sparse_attention_freq")
    attentions = kinds(Config({"layer_types": listed}, c.name), ("layer_types",), spelled,
                       lambda i: DENSE, layers)  # fmt: skip
    listed = c.entries("mlp_layer_types") or c.entries("moe_layer_freq")
    mlps = kinds(Config({"mlp_layer_types": listed}, c.name), ("mlp_layer_types",),
                 MLPS | {"0": DENSE, "1": SPARSE}, lambda i: SPARSE, layers)  # fmt: skip
    shared = c.size("shared_intermediate_size", default=3072)
    experts = Experts(
        count=c.size("num_local_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=c.size("moe_intermediate_size", "intermediate_size"),
        shared_size=shared * c.size("n_shared_experts", default=1),
        router_bias=c.flag("use_routing_bias", default=True),
    )
    dense = Mlp(c.size("dense_intermediate_size", default=12_288))
    fields = written(
        [made[kind] for kind in attentions],
        [experts if kind == SPARSE else dense for kind in mlps],
    )
    return fields | {
        "qk_norm": True,
        "intermediate_size": dense.width,
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


def _v4_attentions(c: Config) -> dict[str, Attention]:
    """The three kinds of attention of DeepSeek-V4, each with a window."""
    size, rank = c.size("head_dim", default=512), c.size("q_lora_rank", default=1024)
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
    rates |= dict(c.table("compress_rates"))
    near, far = (c.size(key, default=rates[name]) for key, name in
                 (("compress_rate_csa", "compressed_sparse_attention"),
                  ("compress_rate_hca", "heavily_compressed_attention")))  # fmt: skip
    plain = grouped_attention(
        c,
        num_kv_heads=1,
        head_dim=size,
        window=c.size("sliding_window", default=128),
        norm_elements=size,
        sinks=True,
        cached_once=True,
        query_rank=rank,
        output_groups=c.size("o_groups", default=8),
        output_rank=c.size("o_lora_rank", default=1024),
        label=V4_WINDOW,
    )
    index = c.size("index_head_dim", default=128)
    indexer = Indexer(
        c.size("index_n_heads", default=64),
        index,
        c.size("index_topk", default=512),
        query_rank=rank,
        key_matrix=False,
    )
    sparse = Compressed(  # entries overlap: twice the columns
        rate=near,
        columns=2 * size,
        indexer_columns=2 * index,
        small_parameters=near * 2 * (size + index) + size + index,
    )
    dense = Compressed(rate=far, columns=size, small_parameters=far * size + size)
    return {
        V4_WINDOW: plain,
        V4_SPARSE: replace(plain, indexer=indexer, compressed=sparse, label=V4_SPARSE),
        V4_DENSE: replace(plain, compressed=dense, label=V4_DENSE),
    }


def _v4_kinds(c: Config, made: dict[str, Attention]) -> list[str]:
    """The hub's files give the rate of every layer, and those of MTP modules after them."""
    layers, ratios = c.size("num_hidden_layers"), c.entries("compress_ratios")
    if c.get("layer_types") is not None or ratios is None:
        return kinds(
            c, ("layer_types",), V4_KINDS, lambda i: V4_SPARSE if i > 1 and i % 2 else V4_DENSE
        )
    known = {0: V4_WINDOW} | {
        each.compressed.rate: kind for kind, each in made.items() if each.compressed
    }
    if len(ratios) < layers or any(ratio not in known for ratio in ratios):
        raise SpecsimError(
            f"{c.name}: compress_ratios must name one of {', '.join(map(str, known))} for each of "
            f"{layers} layers, not {sorted(set(map(str, ratios)))} for {len(ratios)}"
        )
    return [known[ratio] for ratio in ratios[:layers]]


def _deepseek_v4(c: Config) -> Fields:
    """A window of recent tokens, and the rest of the context compressed; experts in every layer, of
    which the first ones choose by a table of tokens (it is not counted); hyper-connections."""
    hidden, streams = c.size("hidden_size"), c.size("hc_mult", default=4)
    made = _v4_attentions(c)
    attentions = _v4_kinds(c, made)
    # the corrections of scores stand among the small parameters: layers with a table have none
    experts = replace(_deepseek_experts(c), router_bias=False)
    listed = kinds(
        c, ("mlp_layer_types",), {"hash_moe": "table", "moe": "scores"},
        lambda i: "table" if i < c.size("num_hash_layers", default=3) else "scores",
    )  # fmt: skip
    mixing = (2 + streams) * streams
    layer = Layer(
        made[V4_WINDOW],
        experts,
        small_parameters=2 * (mixing + 3) + experts.count,
        matrices=((streams * hidden, mixing),) * 2,
        streams=streams,
    )
    layers = tuple(
        replace(
            layer,
            mixer=made[kind],
            small_parameters=layer.small_parameters - (experts.count if by == "table" else 0),
        )
        for kind, by in zip(attentions, listed, strict=True)
    )
    return {
        "layers": layers,
        "experts": experts,
        "num_kv_heads": 1,
        "head_dim": made[V4_WINDOW].head_dim,
        "mtp_layers": c.count("num_nextn_predict_layers"),
        "mtp_layer": layer,
        "other_parameters": streams * streams * hidden + streams + 1,
    }


DEFAULTS: dict[str, Defaults] = {
    "deepseek_v32": {"first_k_dense_replace": 3, "n_shared_experts": 1},
    "glm_moe_dsa": {"first_k_dense_replace": 3, "n_shared_experts": 1},
    "hy_v4": {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "deepseek_v4": lambda c: {"n_shared_experts": 1} | visited_width(c),
    "deepseek_ref": lambda c: {"n_shared_experts": 1} | visited_width(c),
}
FAMILIES: dict[str, Reader] = {
    "deepseek_v32": _latent_sparse,
    "glm_moe_dsa": _latent_sparse,
    "hy_v4": _hunyuan4,
    "deepseek_v4": _deepseek_v4,
    "deepseek_ref": _deepseek_v4,
    "minimax_m3": _minimax_m3,
    "minimax_m3_vl_text": _minimax_m3,
}

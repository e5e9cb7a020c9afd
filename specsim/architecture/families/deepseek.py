"""DeepSeek: multi-head latent attention, and experts of which some are shared."""

from specsim.architecture.families.common import Reader
from specsim.architecture.fields import Config, Fields
from specsim.architecture.parts import Experts, LatentAttention

DEFAULTS: dict[str, Fields] = {}


def _deepseek(c: Config) -> Fields:
    """MLA; the first layers dense, then experts; V3 corrects their scores, and predicts further."""
    c.refuse("attention_bias", False)
    latent = LatentAttention(
        kv_rank=c.size("kv_lora_rank"),
        rope_size=c.size("qk_rope_head_dim"),
        nope_size=c.size("qk_nope_head_dim"),
        value_size=c.size("v_head_dim"),
        query_rank=c.count("q_lora_rank") or None,
    )
    layers, every = c.size("num_hidden_layers"), c.size("moe_layer_freq", default=1)
    first = c.count("first_k_dense_replace")
    width = c.size("moe_intermediate_size")
    experts = Experts(
        count=c.size("n_routed_experts"),
        per_token=c.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_size=c.count("n_shared_experts") * width,
        router_bias=c.get("model_type") == "deepseek_v3",
        dense_layers=tuple(i for i in range(layers) if i < first or i % every),
    )
    return {
        "num_kv_heads": c.size("num_attention_heads"),
        "head_dim": latent.nope_size + latent.rope_size,
        "latent": latent,
        "experts": experts,
        "mtp_layers": c.count("num_nextn_predict_layers"),
    }


FAMILIES: dict[str, Reader] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}

"""What follows from the fields of an `Architecture`: the sizes of a layer, and every stored
parameter, counted to the last one (a matrix is rows x columns)."""

from specsim.architecture.parts import Experts, LatentAttention


class Sizes:
    """Sizes and parameter counts of a model, computed from the fields that `Architecture` has."""

    __slots__ = ()

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_head: bool
    qkv_bias: bool
    qk_norm: bool
    norm: str
    norms_per_layer: int
    gated_mlp: bool
    output_bias: bool
    mlp_bias: bool
    head_bias: bool
    learned_positions: int
    attention_sinks: bool
    experts: Experts | None
    latent: LatentAttention | None
    mtp_layers: int

    # ------------------------------------------------------------------------- sizes of a layer

    @property
    def query_size(self) -> int:
        """Elements of the queries of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of K (and as many of V) that one layer caches per token, uncompressed."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Elements of the output of all heads together, before the output projection."""
        return self.num_heads * (self.latent.value_size if self.latent else self.head_dim)

    @property
    def kv_elements_per_layer(self) -> int:
        """Elements that one layer caches per token: K and V, or the latent of MLA."""
        return self.latent.cached if self.latent else 2 * self.kv_size

    @property
    def kv_elements_per_token(self) -> int:
        """Over all layers; times the bytes of an element it is what a token adds to the cache."""
        return self.num_layers * self.kv_elements_per_layer

    @property
    def expert_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.num_layers - len(self.experts.dense_layers) if self.experts else 0

    # ------------------------------------------------------------------------------- parameters

    @property
    def parameters(self) -> int:
        """Every stored parameter; a tied head is counted once, MTP modules not at all."""
        return self._total(self.experts.count if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Those less the experts that a token does not visit; the embedding is counted."""
        return self._total(self.experts.per_token if self.experts else 0)

    @property
    def embedding_parameters(self) -> int:
        """Of the table of tokens."""
        return self.vocab_size * self.hidden_size

    @property
    def mtp_parameters(self) -> int:
        """Of the modules for multi-token prediction, without the tables that they share.

        A module is one more layer, the norms of a hidden state and of an embedding, the projection
        of both onto one, and a last norm (DeepSeek-V3, arXiv:2412.19437, section 2.2).
        """
        hidden, experts = self.hidden_size, self.experts
        layer = self._expert_layer(experts, experts.count) if experts else self._dense_layer
        return self.mtp_layers * (layer + 2 * hidden * hidden + 3 * self._norm)

    def _total(self, experts_held: int) -> int:
        """All of a model, counting `experts_held` of the routed experts of each layer."""
        tables = self.embedding_parameters * (1 if self.tied_head else 2)
        tables += self.vocab_size if self.head_bias else 0
        positions = self.learned_positions * self.hidden_size
        layers = (self.num_layers - self.expert_layers) * self._dense_layer
        if self.experts:
            layers += self.expert_layers * self._expert_layer(self.experts, experts_held)
        return tables + positions + layers + self._norm

    @property
    def _dense_layer(self) -> int:
        """One layer with an ordinary MLP."""
        block = self._attention + self._mlp(self.intermediate_size, self.mlp_bias)
        return block + self.norms_per_layer * self._norm

    def _expert_layer(self, experts: Experts, held: int) -> int:
        """One layer with a mixture of experts, counting `held` of the routed ones."""
        routed = held * self._mlp(experts.intermediate_size, experts.biases)
        shared = self._mlp(experts.shared_size, False)
        router = experts.router_parameters(self.hidden_size)
        return self._attention + router + routed + shared + self.norms_per_layer * self._norm

    @property
    def _norm(self) -> int:
        return self.hidden_size * (2 if self.norm == "layer" else 1)

    def _mlp(self, width: int, biases: bool) -> int:
        """One MLP, or one expert, `width` elements wide."""
        into = 2 * width if self.gated_mlp else width
        matrices = self.hidden_size * into + width * self.hidden_size
        return matrices + (into + self.hidden_size if biases else 0)

    @property
    def _attention(self) -> int:
        """All of one layer's attention but the norm in front of it."""
        hidden = self.hidden_size
        output = self.value_size * hidden + (hidden if self.output_bias else 0)
        if self.latent is not None:
            return self._latent_attention(self.latent) + output
        qkv_out = self.query_size + 2 * self.kv_size
        weights = hidden * qkv_out + (qkv_out if self.qkv_bias else 0)
        head_norms = 2 * self.head_dim if self.qk_norm else 0
        return weights + head_norms + output + (self.num_heads if self.attention_sinks else 0)

    def _latent_attention(self, latent: LatentAttention) -> int:
        """MLA but for its output: queries down and up with a norm between, the latent down and
        up."""
        hidden, rank = self.hidden_size, latent.query_rank
        down_and_norm = (hidden + 1) * rank if rank else 0
        queries = down_and_norm + (rank or hidden) * self.query_size
        cached = hidden * latent.cached + latent.kv_rank
        up = latent.kv_rank * self.num_heads * (latent.nope_size + latent.value_size)
        return queries + cached + up

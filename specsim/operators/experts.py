"""The MLP: dense, or a mixture of experts of which a pass reads those that its tokens chose."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import Architecture, Experts, Mlp, mlps_of
from specsim.checks import ArrayLike, Floats
from specsim.operators.counting import Pass
from specsim.operators.work import Operator


def mlp_operators(
    asked: Pass, model: Architecture, routing_correlation: ArrayLike | None
) -> Iterator[Operator]:
    """The operators of the MLPs, in the order in which they run."""
    kinds = mlps_of(model)
    dense = [(each, layers) for each, layers in kinds if isinstance(each, Mlp)]
    mixtures = [(each, layers) for each, layers in kinds if isinstance(each, Experts)]
    for each, layers in dense:
        title = f"{each.width} wide " if len(dense) > 1 else ""
        yield from dense_mlp(asked, model.hidden_size, each, layers, title)
    for experts, layers in mixtures:
        title = f"{experts.count} " if len(mixtures) > 1 else ""
        yield from mixture(asked, model.hidden_size, experts, layers, routing_correlation, title)


def dense_mlp(asked: Pass, hidden: int, mlp: Mlp, layers: int, title: str) -> Iterator[Operator]:
    """Gate, up and down, or up and down alone."""
    weight, width = asked.precision.weight_bytes, mlp.width / asked.devices
    into, matrices = into_of(mlp.gated)
    yield asked.linear(title + into, hidden, matrices * width, layers, weight)
    yield asked.linear(f"{title}down projection", width, hidden, layers, weight)


def mixture(
    asked: Pass,
    hidden: int,
    experts: Experts,
    layers: int,
    routing_correlation: ArrayLike | None,
    title: str,
) -> Iterator[Operator]:
    """Router, shared experts, and the distinct routed experts that the tokens of a pass visit."""
    stored = asked.precision
    into, matrices = into_of(experts.gated)
    # routers stay in 16 bits, on every device
    yield asked.linear(f"{title}router", hidden, experts.count, layers, stored.activation_bytes)
    if experts.shared_size:
        width, weight = experts.shared_size / asked.devices, stored.bytes_per_shared_weight
        shared = f"{title}shared experts"
        yield asked.linear(f"{shared} {into}", hidden, matrices * width, layers, weight)
        yield asked.linear(f"{shared} down projection", width, hidden, layers, weight)
    inside = experts.latent_size or hidden
    if experts.latent_size:
        weight = stored.bytes_per_shared_weight
        yield asked.linear(f"{title}into the experts' latent", hidden, inside, layers, weight)
    width = experts.intermediate_size / asked.devices
    visits = asked.tokens * experts.per_token
    read = distinct_experts(experts, asked.batch, asked.rows, routing_correlation)
    chosen = {"visits": visits, "copies": read}
    per_weight = stored.bytes_per_expert_weight
    name = f"{title}experts"
    yield asked.linear(f"{name} {into}", inside, matrices * width, layers, per_weight, **chosen)
    yield asked.linear(f"{name} down projection", width, inside, layers, per_weight, **chosen)
    if experts.latent_size:
        yield asked.linear(f"{title}out of the experts' latent", inside, hidden, layers, weight)


def into_of(gated: bool) -> tuple[str, int]:
    """The name of what goes into an MLP, and how many matrices it is."""
    return ("gate and up projection", 2) if gated else ("up projection", 1)


def distinct_experts(
    experts: Experts,
    batch: ArrayLike,
    rows: ArrayLike,
    routing_correlation: ArrayLike | None = None,
) -> Floats:
    """Expected routed experts of a layer that a pass reads: N (1 - (1 - k/N)^T), for T independent
    tokens that visit k of N experts each.

    Routing is taken to be uniform and the sequences independent (both pessimistic). The `rows` of
    one sequence count as 1 + (rows - 1)(1 - correlation) independent tokens: from 1, which reads no
    more than a plain step (optimistic), to all of them. `routing_correlation` is the model's own
    unless given. Source: MoESD (arXiv:2505.19645).
    """
    sequences, width = np.asarray(batch, float), np.asarray(rows, float)
    if routing_correlation is None:
        routing_correlation = experts.routing_correlation
    differing = 1.0 - np.asarray(routing_correlation, float)
    independent = np.minimum(1.0 + (width - 1.0) * differing, width)
    unread = np.power(1.0 - experts.per_token / experts.count, sequences * independent)
    return experts.count * (1.0 - unread)

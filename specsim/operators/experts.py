"""The MLP: dense, or a mixture of experts of which a pass reads those that its tokens chose."""

from collections.abc import Iterator

import numpy as np

from specsim.architecture import Architecture, Experts
from specsim.checks import ArrayLike, Floats
from specsim.operators.counting import Pass
from specsim.operators.work import Operator


def mlp(
    asked: Pass, model: Architecture, routing_correlation: ArrayLike | None
) -> Iterator[Operator]:
    """The operators of the MLPs, in the order in which they run."""
    hidden, weight = model.hidden_size, asked.precision.weight_bytes
    matrices = 2 if model.gated_mlp else 1
    into = "gate and up projection" if model.gated_mlp else "up projection"
    if dense := model.num_layers - model.expert_layers:
        width = model.intermediate_size / asked.devices
        yield asked.linear(into, hidden, matrices * width, dense, weight)
        yield asked.linear("down projection", width, hidden, dense, weight)
    if (experts := model.experts) is None or not (layers := model.expert_layers):
        return
    # routers stay in 16 bits, on every device
    yield asked.linear("router", hidden, experts.count, layers, asked.precision.activation_bytes)
    if experts.shared_size:
        width = experts.shared_size / asked.devices
        yield asked.linear(f"shared experts {into}", hidden, matrices * width, layers, weight)
        yield asked.linear("shared experts down projection", width, hidden, layers, weight)
    width, stored = experts.intermediate_size / asked.devices, asked.precision
    visits = asked.tokens * experts.per_token
    read = distinct_experts(experts, asked.batch, asked.rows, routing_correlation)
    chosen = {"visits": visits, "copies": read}
    per_weight = stored.bytes_per_expert_weight
    yield asked.linear(f"experts {into}", hidden, matrices * width, layers, per_weight, **chosen)
    yield asked.linear("experts down projection", width, hidden, layers, per_weight, **chosen)


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

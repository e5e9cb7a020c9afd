"""What a point needs, before it is run: bytes of memory, and roughly how long it takes.

The seconds are a plan, not a prediction: bytes over the bandwidth that the drift probe has just
shown, a round number for the launches of each layer, and the time to make models and capture
graphs.
"""

from dataclasses import dataclass

from reference.graphs import window_of
from reference.lab.suites.models import ModelCache
from reference.lab.suites.points import PlannedPoint
from reference.lab.suites.variants import Effort
from specsim.architecture import Architecture
from specsim.operators import precision

# launches and small kernels, within a factor 2
LAYER_S = {"cuda-graphs": 60e-6, "fused": 20e-6, "eager": 600e-6}
CAPTURE_S = 0.6  # to capture the graphs of one variant, once
RANDOM_PER_S = {"cuda": 4e10, "cpu": 1.5e8}  # random normal numbers
PROMPT_FLOPS_PER_S = {"cuda": 3e14, "cpu": 5e10}  # of reading prompts
SLACK_BYTES = 1.5e9  # the CUDA context, unused memory of the allocator, the drift probe


@dataclass(frozen=True, slots=True)
class Need:
    """An upper bound on the bytes, and a rough number of seconds."""

    memory_bytes: float
    seconds: float


def need(
    point: PlannedPoint,
    cache: ModelCache,
    effort: Effort,
    bandwidth: float,
    made: bool,
) -> Need:
    """What `point` needs on a machine that reads `bandwidth` bytes per second.

    `made` says that its models are in memory already.
    """
    target, draft = cache.architectures(point)
    stored = precision(point.precision)
    weights = held_bytes(target, stored.weight_bytes)
    on = "cuda" if cache.device.type == "cuda" else "cpu"
    slots = point.context + point.gamma + 1
    if on == "cuda":  # where buffers and windows are powers of two
        slots = window_of(point.context)
    cached = point.batch * slots * stored.kv_bytes
    kv = cached * target.kv_elements_per_token
    streamed = weights + kv
    if draft is not None:
        kv += cached * draft.kv_elements_per_token
        if point.draft_layers is None:
            weights += held_bytes(draft, stored.weight_bytes)
    rows = point.batch * (point.gamma + 1)
    logits = 4 * 4.0 * rows * target.vocab_size  # in float32 and as probabilities, of both models
    cumulative = 8.0 * point.batch * target.vocab_size
    read = 0.0
    if point.alpha is not None and not point.synthetic:  # one pass over the prompts
        many = max(point.batch, effort.counted) * point.context
        read = 6.0 * many * (target.intermediate_size + 2 * target.hidden_size)
        weights *= 1.6  # the search for epsilon keeps a copy of the later layers' outputs
    variants = 2 if point.gamma else 1  # each keeps a KV cache of the target
    kept = (variants - 1) * cached * target.kv_elements_per_token
    memory = weights + kv + kept + logits + cumulative + read
    step = streamed / bandwidth + target.num_layers * LAYER_S[point.mode]
    cycles = effort.rounds * effort.fewest_cycles + effort.fewest_cycles + 2
    seconds = variants * (max(effort.seconds, cycles * step) + 4 * step)
    noise = 0.0 if point.alpha and not point.synthetic else kv / 2 / RANDOM_PER_S[on]
    seconds += variants * (effort.rounds + 2) * noise
    if point.mode in ("cuda-graphs", "fused"):
        seconds += variants * CAPTURE_S
    if not made:
        passes = 2 if read else 1
        seconds += passes * target.parameters / RANDOM_PER_S[on] + 1.0
    if read:
        prompt_s = 2.0 * target.parameters * point.context / PROMPT_FLOPS_PER_S[on]
        seconds += (variants * (effort.rounds + 2) * point.batch + effort.counted) * prompt_s
        eager = streamed / bandwidth + target.num_layers * LAYER_S["eager"]
        seconds += eager * effort.counted_cycles * (1 + 0.2 * point.gamma)
        seconds += 0 if made else eager * effort.calibration_tokens
    slack = SLACK_BYTES if on == "cuda" else 0.3e9
    return Need(memory + slack, seconds)


def held_bytes(model: Architecture, weight_bytes: float) -> float:
    """Bytes of a model's weights in memory."""
    return model.parameters * weight_bytes

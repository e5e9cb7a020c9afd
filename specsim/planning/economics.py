"""What a token costs in bytes, FLOPs, joules and money, and what serving makes of a faster cycle.

Speculation saves passes, not arithmetic: bytes, joules and seconds per token fall by up to tokens
per cycle, FLOPs per token rise. Under load the batch is not given but follows from the arrivals:

    sequences in flight = token rate x seconds per token          (Little's law)

so a cycle that gains at a fixed batch gains more in open loop, where the batch shrinks with it, and
its capacity may still be lower than plain decoding's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats, SpecsimError, one_count, within
from specsim.checks.shown import Shown, gigabytes, short
from specsim.drafting import Drafter
from specsim.hardware import System
from specsim.prediction import Prediction
from specsim.speculation import predict

# Orders of magnitude, not measured: give your own where you can.
JOULES_PER_BYTE = 40e-12
JOULES_PER_FLOP = 0.7e-12
IDLE_POWER_W = 150.0


@dataclass(frozen=True, slots=True, repr=False)
class TokenCost(Shown):
    """Per emitted token of the whole batch; arrays as the prediction's."""

    bytes_moved: Floats
    flops: Floats
    joules: Floats
    dollars_per_million: Floats | None  # None without a price

    def _facts(self) -> dict[str, Any]:
        return {
            "moved": f"{gigabytes(self.bytes_moved)} per token",
            "arithmetic": f"{short(np.asarray(self.flops) / 1e9)} GFLOP per token",
            "energy": f"{short(self.joules)} J per token",
            "price": "unknown"
            if self.dollars_per_million is None
            else f"{short(self.dollars_per_million)} USD per million tokens",
        }


def token_cost(
    prediction: Prediction,
    *,
    price_per_hour: float | None = None,
    idle_power_w: float = IDLE_POWER_W,
    joules_per_byte: float = JOULES_PER_BYTE,
    joules_per_flop: float = JOULES_PER_FLOP,
) -> TokenCost:
    """What a token of `prediction` costs; with gamma = 0 that of plain decoding.

    The bytes and FLOPs of the very passes that the prediction has priced, over all the devices; the
    power is that of each. `price_per_hour` is that of the target's devices together; a drafter's
    own devices cost as much each. Raises SpecsimError for a drafter from outside that says what it
    costs and not what it moves.
    """
    verification, drafting = prediction.verification, prediction.drafting
    moved = verification.bytes_moved + drafting.bytes_moved
    flops = verification.flops + drafting.flops
    tokens = prediction.batch * prediction.tokens_per_cycle
    target_devices = prediction.system.tensor_parallel
    devices = target_devices + prediction.extra_devices
    joules = energy_per_token_j(
        prediction.cycle_s,
        moved,
        flops,
        tokens,
        idle_power_w=idle_power_w * devices,
        joules_per_byte=joules_per_byte,
        joules_per_flop=joules_per_flop,
    )
    rate = tokens / prediction.cycle_s
    dollars = None
    if price_per_hour is not None:
        hour = price_of_devices(price_per_hour, devices, target_devices)
        dollars = dollars_per_million_tokens(hour, rate)
    return TokenCost(moved / tokens, flops / tokens, joules, dollars)


def price_of_devices(price_per_hour: float, devices: int, target_devices: int) -> float:
    """The price per hour of `devices`, where that of the target's devices is given."""
    return price_per_hour * devices / target_devices


def dollars_per_million_tokens(price_per_hour: ArrayLike, tokens_per_s: ArrayLike) -> Floats:
    """price / 3600 / tokens per second x 1e6."""
    price = within("price_per_hour", price_per_hour, high=1e9)
    return price / 3600.0 / within("tokens_per_s", tokens_per_s, low=1e-12, high=1e12) * 1e6


def energy_per_token_j(
    cycle_s: ArrayLike,
    bytes_moved: ArrayLike,
    flops: ArrayLike,
    tokens_per_cycle: ArrayLike = 1.0,
    *,
    idle_power_w: float = IDLE_POWER_W,
    joules_per_byte: float = JOULES_PER_BYTE,
    joules_per_flop: float = JOULES_PER_FLOP,
) -> Floats:
    """(P0 cycle + bytes e_B + FLOPs e_F) / tokens per cycle; bytes and FLOPs are a cycle's."""
    spent = idle_power_w * np.asarray(cycle_s) + joules_per_byte * np.asarray(bytes_moved)
    return (spent + joules_per_flop * np.asarray(flops)) / np.asarray(tokens_per_cycle)


@dataclass(frozen=True, slots=True)
class Load:
    """The operating point of a server: sequences in flight, seconds per token of one of them, and
    the token rate it could carry at most."""

    batch: float
    token_s: float
    capacity_tokens_per_s: float


def open_loop(
    token_rate: float, base_s: float, per_sequence_s: float, tokens_per_cycle: float = 1.0
) -> Load:
    """Where a server settles whose cycle takes base + per_sequence x batch.

    batch = rate x base / (tokens per cycle - rate x per_sequence); capacity = tokens per cycle /
    per_sequence. Raises SpecsimError where the arrivals exceed the capacity.
    """
    capacity = np.inf if per_sequence_s == 0 else tokens_per_cycle / per_sequence_s
    if not 0 < token_rate < capacity:
        raise SpecsimError(
            f"a token rate of {token_rate:g} cannot be carried: the capacity is {capacity:g}"
        )
    batch = token_rate * base_s / (tokens_per_cycle - token_rate * per_sequence_s)
    return Load(batch, (base_s + per_sequence_s * batch) / tokens_per_cycle, float(capacity))


def operating_point(
    target: Architecture,
    drafter: Drafter | None,
    system: System,
    *,
    token_rate: float,
    gamma: int = 0,
    most: int = 2048,
    **scenario: Any,
) -> Load:
    """The same fixed point for a predicted cycle, whatever its shape in the batch: the smallest
    batch whose throughput carries `token_rate` tokens per second, between whole batches by a
    straight line. The capacity is the largest throughput up to the batch `most`.
    """
    batch = np.arange(1, one_count("most", most, low=1) + 1)
    cycle = predict(target, drafter, system, gamma=gamma, batch=batch, **scenario)
    rate = np.asarray(cycle.speculative_tokens_per_s)
    if not 0 < token_rate <= rate.max():
        raise SpecsimError(
            f"a token rate of {token_rate:g} cannot be carried: the capacity is {rate.max():g} "
            f"tokens/s at a batch of {batch[rate.argmax()]}"
        )
    enough = int(np.argmax(rate >= token_rate))
    if enough == 0:  # a sequence is in flight only a part of the time
        flying = token_rate / float(rate[0])
        return Load(flying, flying / token_rate, float(rate.max()))
    below, above = float(rate[enough - 1]), float(rate[enough])
    flying = float(batch[enough - 1]) + (token_rate - below) / (above - below)
    return Load(flying, flying / token_rate, float(rate.max()))


def end_to_end_speedup(decode_share: ArrayLike, speedup: ArrayLike) -> Floats:
    """1 / ((1 - f) + f / S): what is left of it where only the share f of the time is decoding."""
    share = within("decode_share", decode_share)
    return 1.0 / ((1.0 - share) + share / np.asarray(speedup, float))

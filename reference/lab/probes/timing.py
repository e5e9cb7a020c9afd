"""Timing actions in turn, so that a change of the machine's speed affects them alike."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run of `action`."""
    synchronise(device)
    started = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - started


def timed_in_turn(
    actions: Sequence[Callable[[], object]], rounds: int, device: torch.device
) -> list[list[float]]:
    """The seconds of each action in each of `rounds` rounds through all, after one untimed."""
    for action in actions:
        action()
    samples = [[seconds_of(action, device) for action in actions] for _ in range(rounds)]
    return [list(times) for times in zip(*samples, strict=True)]


def round_robin(
    actions: Sequence[Callable[[], object]], rounds: int, device: torch.device
) -> list[float]:
    """The median seconds of each action, as above."""
    return [statistics.median(times) for times in timed_in_turn(actions, rounds, device)]

"""All probes of a machine whose host is its device, round by round."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from tqdm import tqdm

from reference.lab.probes.attention import attentions
from reference.lab.probes.products import WideProduct, stacks
from reference.lab.probes.stages import cases
from reference.machine import PRECISION_OF, environment
from reference.statistics import Statistics
from specsim.evidence.calibration import Probes

LIMIT_S = 21.0  # after the start: no round begins that would end later, except the first two


class Run:
    """The probes of one machine, set up once, and the samples of every round."""

    def __init__(self, device: torch.device, dtype: torch.dtype, widest: float = math.inf):
        self.device, self.dtype = device, dtype
        self.stacks, self.wide = stacks(device, dtype, widest), WideProduct(device, dtype)
        self.attentions = attentions(device, dtype)
        self.cases = cases(device, dtype, widest)
        self.products: list[list[dict[int, float]]] = []  # by round, stack and rows: seconds
        self.wide_s: list[float] = []
        self.attention_s: list[list[float]] = []
        self.cycles: list[list[Statistics]] = []

    def warm_up(self) -> None:
        """Touch the memory of what has no untimed run of its own: stacks and cases have."""
        for attention in self.attentions:
            attention.run()
        self.wide.sample()

    def round(self, between: Callable[[], object]) -> None:
        """Time everything once."""
        between()
        self.products.append([dict(stack.samples()) for stack in self.stacks])
        self.wide_s.append(self.wide.sample())
        between()
        self.attention_s.append([each.sample() for each in self.attentions])
        turn = len(self.cycles)
        self.cycles.append([case.run(seed=turn) for case in self.cases])

    def probes(self, first: int, last: int) -> Probes:
        """The probes of the rounds from `first` to before `last`: medians."""
        linear = tuple(
            stack.probe(
                rows, statistics.median(seen[i][rows] for seen in self.products[first:last])
            )
            for i, stack in enumerate(self.stacks)
            for rows in stack.rows
        )
        own = [probe for probe in linear if not probe.format]
        largest = max(probe.weight_bytes for probe in own)
        speeds = [p.weight_bytes / p.seconds for p in own if p.weight_bytes == largest]
        attention = tuple(
            each.probe(statistics.median(seen[i] for seen in self.attention_s[first:last]))
            for i, each in enumerate(self.attentions)
        )
        stages = []
        for i, case in enumerate(self.cases):
            timed = Statistics(case.gamma)
            for seen in self.cycles[first:last]:
                timed.extend(seen[i])
            stages += case.probes(timed)
        return Probes(
            machine=environment(self.device).device,
            precision=PRECISION_OF[self.dtype],
            bandwidth_bytes_per_s=max(speeds),
            flops_per_s=self.wide.flops / statistics.median(self.wide_s[first:last]),
            linear=linear,
            attention=attention,
            stages=tuple(stages),
            sorted_at_once=torch.get_num_threads(),
        )


@torch.inference_mode()
def run_probes(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int = 8,
    between: Callable[[], object] = lambda: None,
    widest: float = math.inf,
) -> Probes:
    """Time every probe, `rounds` times at most: on a slow machine no further round begins that
    would end after LIMIT_S, except the second.

    With two rounds or more, the probes of the two halves come along: they tell how stable the
    machine was. `between` is called several times during the run, for example to time a drift
    probe. Models and stacks of a hidden size above `widest` are left out: that is for a quick
    trial, as a calibration should reach the sizes it predicts.
    """
    until = time.perf_counter() + LIMIT_S
    run = Run(device, dtype, widest)
    run.warm_up()
    begun = time.perf_counter()
    for done in tqdm(range(rounds), desc="calibrating", leave=False):
        now = time.perf_counter()
        if done > 1 and now + (now - begun) / done > until:
            break
        run.round(between)
    done = len(run.wide_s)
    found = run.probes(0, done)
    if done < 2:
        return found
    halves = run.probes(0, done // 2), run.probes(done // 2, done)
    return replace(found, halves=halves)

"""The stages of decoding cycles -> what is neither matrix products nor attention.

A stage takes the seconds of its products and its attention, which are known from probes of their
own, and beside them its counts (below) times the constants that are fitted here. The stages are
timed inside the decoder's own loop, where the weights of one model push those of the other out of
the processor's caches. The fit minimises relative errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specsim.checks.shown import Shown
from specsim.cost import forward_time
from specsim.evidence.calibration.probes import StageProbe
from specsim.evidence.calibration.regression import non_negative_fit
from specsim.hardware import System, emptied
from specsim.operators import ELEMENTWISE, Workload, forward_work, head_norms

# The first guess of the stages that wait for the host: those that take this many times the time of
# their work on the device.
WAITS = 1.1
ROUNDS = 8  # how often that guess is improved, at most
SMALLEST_ERROR = 0.05  # the least 80 % band: timings change by as much from minute to minute

# What a stage's seconds grow with, and the constant of an `Engine` that each is multiplied by.
COUNTS = (
    "layer_overhead_s",  # layers of all passes
    "pass_overhead_s",  # passes
    "head_norm_overhead_s",  # layers of all passes that normalise their heads
    "wide_layer_overhead_s",  # layers of the passes with several rows
    "layer_refill_s",  # layers x the share of the caches that the weights of one empty
    "layer_element_s",  # layers x hidden size, of all passes
    "activation_s",  # bytes of elementwise operators; becomes `activation_efficiency`
    "drafting_overhead_s",  # cycles that draft
    "sampling_overhead_s",  # drafted tokens
    "begin_overhead_s",  # cycles without drafts; of others it is in `drafting_overhead_s`
    "lookup_overhead_s",  # cycles whose drafts are copied from the text
    "cycle_overhead_s",  # cycles
    "cycle_refill_s",  # cycles x the same share of a pass, twice with drafts
    "sequence_overhead_s",  # cycles x sequences
    "speculation_overhead_s",  # cycles with drafts
    "distribution_overhead_s",  # times that distributions are made of logits, for a whole batch
    "rule_overhead_s",  # cycles that decide on drafts by distributions
    "likeliest_overhead_s",  # tokens of the vocabulary, once for all greedy choices of a batch
    "checking_overhead_s",  # tokens of the vocabulary, once for a cycle
    "block_draw_overhead_s",  # draws for several sequences from large distributions
    "vocabulary_overhead_s",  # tokens of the vocabulary, once for all distributions of a batch
    "logit_overhead_s",  # logits that become probabilities
    "drawing_overhead_s",  # logits of the distributions that a token is drawn from
    "sorting_overhead_s",  # logits that top-p looks through, one distribution after the other
)
LAUNCHED = 3  # so many of them a host may launch ahead of its device
REFILLS = [COUNTS.index(name) for name in ("layer_refill_s", "cycle_refill_s")]  # of a CPU's caches
# of a GPU, whose small kernels read a row by one block of threads
OF_ROWS = [
    COUNTS.index(name)
    for name in ("layer_element_s", "checking_overhead_s", "vocabulary_overhead_s")
]
# told from what every cycle takes only where some cycles were greedy
OF_CHANCE = [
    COUNTS.index(name)
    for name in ("distribution_overhead_s", "rule_overhead_s", "checking_overhead_s")
]
ACTIVATION = COUNTS.index("activation_s")  # the last of a pass; the rest is around the passes


@dataclass(frozen=True, slots=True, repr=False)
class Calibration(Shown):
    """A fitted System with its errors on the probes.

    `residuals` are predicted / measured - 1 of every draft and verify stage that was fitted.
    `changes` says how stable the machine was: by constant, the relative difference between the fits
    to the first and to the second half of the timings; empty where they were not timed twice.
    """

    system: System
    residuals: tuple[float, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, float] = field(default_factory=dict)

    @property
    def median_error(self) -> float:
        """The median of the absolute residuals."""
        return float(np.median(np.abs(self.residuals)))

    @property
    def worst_error(self) -> float:
        """The largest of the absolute residuals."""
        return float(np.max(np.abs(self.residuals)))

    def _facts(self) -> dict[str, Any]:
        return {
            "accelerator": self.system.accelerator.name,
            "timings": len(self.residuals),
            "median error": f"{self.median_error:.1%}",
            "worst error": f"{self.worst_error:.1%}",
            "step band": self.system.engine.band,
        }


def with_overheads(
    products_only: System,
    stages: Sequence[StageProbe],
    environment: Mapping[str, Any] | None = None,
    host_ahead: bool = False,
    shares_caches: bool = False,
) -> Calibration:
    """The System with overheads that fit the stages; no constant is negative.

    Arguments: `products_only`, a System with the times of matrix products and attention; `stages`,
    the timings. `host_ahead`: the host launches kernels one by one and runs ahead of the device. A
    pass then takes the longer of its work and its launches, and a stage tells only about the longer
    one. `shares_caches`: the host is the device, so weights push the host's code and data out of
    its caches.
    """
    explanations = [explained(probe, products_only) for probe in stages]
    known = np.array([seconds for seconds, _ in explanations])
    counts = np.array([row for _, row in explanations])
    counts[:, OF_ROWS if shares_caches else REFILLS] = 0.0
    if not any(probe.greedy for probe in stages):
        counts[:, OF_CHANCE] = 0.0
    if not any(probe.stage == "begin" for probe in stages):
        counts[:, COUNTS.index("begin_overhead_s")] = 0.0
    measured = np.array([probe.seconds for probe in stages])
    of_passes = np.array([bool(probe.passes) for probe in stages])
    waiting = host_ahead & of_passes & (measured > WAITS * known)
    for _ in range(ROUNDS if host_ahead else 1):
        visible = counts.copy()
        if host_ahead:
            visible[~waiting, :LAUNCHED] = 0.0  # the device's work hides the launches
            visible[waiting, LAUNCHED : ACTIVATION + 1] = 0.0  # the launches hide the device's work
        device_s = np.where(waiting, 0.0, known)
        constants = np.array(non_negative_fit(visible / measured[:, None], 1 - device_s / measured))
        constants[~visible.any(axis=0)] = 0.0  # nothing tells them; the fit leaves what it likes
        launching = counts[:, :LAUNCHED] @ constants[:LAUNCHED]
        working = (
            known + counts[:, LAUNCHED : ACTIVATION + 1] @ constants[LAUNCHED : ACTIVATION + 1]
        )
        again = host_ahead & of_passes & (launching > working)
        if np.array_equal(again, waiting):
            break
        waiting = again
    passing = np.maximum(launching, working) if host_ahead else launching + working
    beside = counts[:, ACTIVATION + 1 :] @ constants[ACTIVATION + 1 :]
    residuals = ((passing + beside) / measured - 1)[of_passes]
    fitted = dict(zip(COUNTS, constants.tolist(), strict=True))
    if host_ahead:
        for kind in ("layer", "pass", "head_norm"):
            fitted[f"{kind}_launch_s"] = fitted.pop(f"{kind}_overhead_s")
    activation_s = fitted.pop("activation_s") * float(products_only.bandwidth_bytes_per_s)
    engine = replace(
        products_only.engine,
        activation_efficiency=1 / max(activation_s, 1e-12),
        error=max(SMALLEST_ERROR, float(np.quantile(np.abs(residuals), 0.8))),
        **fitted,
    )
    return Calibration(
        replace(products_only, engine=engine), tuple(residuals.tolist()), environment or {}
    )


def explained(probe: StageProbe, system: System) -> tuple[float, list[float]]:
    """The seconds of a stage's products and attention, and its counts in the order of `COUNTS`."""
    known, activations, layers, refilled = 0.0, 0.0, probe.architecture.num_layers, 0.0
    for rows in probe.passes:
        workload = Workload(batch=probe.batch, rows=rows, context=probe.context)
        work = forward_work(probe.architecture, workload, system.precision)
        refilled += layers * float(np.max(emptied(work.layer_bytes)))
        for term in forward_time(work, system).terms:
            if term.operator is None:
                continue
            if term.operator.kind == ELEMENTWISE:
                activations += float(term.operator.activation_bytes)
            else:
                known += float(term.seconds)
    passes, gamma = len(probe.passes), probe.gamma
    tokens, chance = probe.architecture.vocab_size, float(not probe.greedy)
    vocab = chance * probe.batch * tokens
    counts = dict.fromkeys(COUNTS, 0.0)
    in_blocks = probe.batch > 1 and 0 < system.engine.block_draw_from <= vocab
    counts["head_norm_overhead_s"] = passes * head_norms(probe.architecture)
    counts["layer_overhead_s"], counts["layer_refill_s"] = passes * layers, refilled
    wide = sum(probe.batch * rows > system.engine.wide_rows for rows in probe.passes)
    counts["wide_layer_overhead_s"] = wide * layers
    counts["pass_overhead_s"], counts["activation_s"] = passes, activations
    counts["layer_element_s"] = passes * layers * probe.architecture.hidden_size
    if probe.stage == "draft":
        counts["drafting_overhead_s"], counts["sampling_overhead_s"] = 1, gamma
        counts["logit_overhead_s"] = counts["drawing_overhead_s"] = gamma * vocab
        counts["distribution_overhead_s"] = chance * gamma
        counts["vocabulary_overhead_s"] = chance * gamma * tokens
        counts["block_draw_overhead_s"] = gamma * in_blocks
        counts["likeliest_overhead_s"] = (1 - chance) * gamma * tokens
    elif probe.stage in ("begin", "lookup"):
        counts["begin_overhead_s"] = 1
        counts["lookup_overhead_s"] = float(probe.stage == "lookup")
    elif probe.stage == "host":
        counts["begin_overhead_s"] = float(gamma == 0)
        counts["cycle_overhead_s"], counts["sequence_overhead_s"] = 1, probe.batch
        counts["speculation_overhead_s"] = float(gamma > 0)
        one = forward_work(probe.architecture, Workload(context=probe.context), system.precision)
        counts["cycle_refill_s"] = (1 + (gamma > 0)) * float(emptied(one.weight_bytes))
        counts["logit_overhead_s"], counts["drawing_overhead_s"] = (gamma + 1) * vocab, vocab
        counts["distribution_overhead_s"] = chance
        counts["rule_overhead_s"] = chance * (gamma > 0)
        counts["vocabulary_overhead_s"] = chance * tokens
        counts["checking_overhead_s"] = tokens
        counts["block_draw_overhead_s"] = in_blocks
        counts["likeliest_overhead_s"] = (1 - chance) * tokens
    if probe.filtered and probe.stage in ("draft", "host"):
        each = probe.batch if probe.stage == "draft" else probe.batch * (gamma + 1)
        turns = -(-each // system.engine.sorted_at_once) * (gamma if probe.stage == "draft" else 1)
        counts["sorting_overhead_s"] = turns * probe.architecture.vocab_size
    return known, list(counts.values())

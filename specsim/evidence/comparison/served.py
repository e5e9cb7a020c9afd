"""A served run compared with a prediction of one decode step at its mean batch and context, and
with a simulation of the same load where there is one.

`predict` knows one cycle of a steady batch. A served run has waiting, prompts that are read between
cycles, and batches that vary: a simulation has them too, and what it adds to the cycle is a factor,
`load`. What remains is a factor of its own. Each latency is compared with what the prediction makes
of the same convention.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specsim.evidence.served import ServedRun
from specsim.prediction import Prediction

# What each factor of time per token means where it is the largest: more than predicted, or less.
READINGS = {
    "load": (
        "prompts that are read between cycles and batches that vary make the cycle longer: the "
        "simulation has them",
        "the batch is smaller most of the time than on average: the simulation has that",
    ),
    "tokens per cycle": (
        "its cycles emit fewer tokens than assumed: take the acceptance from its own counters",
        "its cycles emit more tokens than assumed: take the acceptance from its own counters",
    ),
    "cycle": (
        "a cycle takes longer than predicted: prompts are read between cycles, or engine, "
        "precision or gamma are not those of the run",
        "a cycle is shorter than predicted: engine, precision or gamma are not those of the run",
    ),
    "evenness": (
        "tokens take longer than cycles explain: requests differ, or their chunks were held back",
        "tokens take less than cycles explain: a chunk carried more than one cycle",
    ),
}


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One metric, measured, predicted of one cycle, and simulated under the same load; seconds
    where its name ends in `_s`."""

    metric: str
    convention: str | None
    measured: float
    predicted: float | None
    simulated: float | None = None

    @property
    def ratio(self) -> float | None:
        """measured / predicted."""
        return self.measured / self.predicted if self.predicted else None

    @property
    def simulated_ratio(self) -> float | None:
        """measured / simulated."""
        return self.measured / self.simulated if self.simulated else None

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return {
            "metric": self.metric, "convention": self.convention, "measured": self.measured,
            "predicted": self.predicted, "measured_per_predicted": self.ratio,
            "simulated": self.simulated, "measured_per_simulated": self.simulated_ratio,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServedComparison:
    """The rows of one run; `factors`, whose product is measured / predicted time per token."""

    rows: tuple[ServedRow, ...]
    factors: dict[str, float]

    @property
    def largest(self) -> str | None:
        """The factor that does most to the difference; None where there is none."""
        if not self.factors:
            return None
        return max(self.factors, key=lambda name: abs(math.log(self.factors[name])))

    @property
    def reading(self) -> str | None:
        """What the largest factor means."""
        name = self.largest
        if name is None:
            return None
        return READINGS[name][0 if self.factors[name] > 1 else 1]


def compare_run(
    run: ServedRun,
    prediction: Prediction | None,
    first_token_s: float | None,
    run_tokens: float | None,
    simulated: Mapping[str, float] | None = None,
) -> ServedComparison:
    """Compare a run with the prediction of its cycle.

    Arguments: `first_token_s`, the predicted time of a prompt's prefill alone, without waiting;
    `run_tokens`, the run's own tokens per cycle, None if it has none; `simulated`, what a
    simulation of the same load has for each metric, by the names of the rows.
    """
    expected = _expected(run, prediction, first_token_s)
    simulated = simulated or {}
    rows = []
    for convention, each in run.latencies.items():
        if each.middle is not None:
            name = f"{'mean' if each.mean is not None else 'median'}_{convention}_s"
            predicted = expected.get(convention)
            rows.append(ServedRow(name, each.called, each.middle, predicted, simulated.get(name)))
    if run.output_tokens_per_s is not None:
        rows.append(
            ServedRow(
                "output_tokens_per_s", None, run.output_tokens_per_s, expected.get("throughput"),
                simulated.get("output_tokens_per_s"),
            )
        )  # fmt: skip
    if run_tokens is not None:
        name = "tokens_per_cycle"
        rows.append(ServedRow(name, None, run_tokens, expected.get("tokens"), simulated.get(name)))
    factors = {} if prediction is None else _factors(run, expected, run_tokens, simulated)
    return ServedComparison(tuple(rows), factors)


def _expected(
    run: ServedRun, prediction: Prediction | None, first_token_s: float | None
) -> dict[str, float]:
    """What the prediction makes of each convention."""
    if prediction is None:
        return {}
    cycle = float(prediction.cycle_s if int(prediction.gamma) else prediction.step_s)
    tokens = float(prediction.tokens_per_cycle)
    found = {
        "chunk_gap": cycle,
        "chunk_gap_per_token": cycle / tokens,
        "tpot": cycle / tokens,
        "tokens": tokens,
        "throughput": float(prediction.batch) * tokens / cycle,
    }
    if first_token_s is not None:
        found["ttft"] = first_token_s
        if run.mean_output is not None and run.mean_output >= 1:
            whole = first_token_s + (run.mean_output - 1.0) * cycle / tokens
            found |= {"e2e": whole, "latency_per_token": whole / run.mean_output}
    return found


def _factors(
    run: ServedRun,
    expected: dict[str, float],
    run_tokens: float | None,
    simulated: Mapping[str, float],
) -> dict[str, float]:
    """measured / predicted time per token after the first, as a product; empty if not measured."""
    gap, token = run.latencies.get("chunk_gap"), run.latencies.get("tpot")
    if token is None:
        token = run.latencies.get("chunk_gap_per_token")
    tokens = run_tokens if run_tokens is not None else expected["tokens"]
    per_token = token.middle if token is not None else None
    cycle = gap.middle if gap is not None else None
    if cycle is None and per_token is not None:
        cycle = per_token * tokens
    if cycle is None or cycle <= 0 or (per_token is not None and per_token <= 0):
        return {}
    under_load = simulated.get("mean_chunk_gap_s")
    factors = {"tokens per cycle": expected["tokens"] / tokens}
    if under_load:
        factors["load"] = under_load / expected["chunk_gap"]
    factors["cycle"] = cycle / (under_load or expected["chunk_gap"])
    if per_token is not None and gap is not None:
        factors["evenness"] = per_token * tokens / cycle
    return factors

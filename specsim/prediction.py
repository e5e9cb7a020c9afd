"""What predict() answers with: the seconds of a cycle, what it emits, and what follows from both.

    speedup = tokens per cycle x plain step / cycle

A value that was not measured carries a band; where the ideal gamma + 1 went is a waterfall.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from specsim.acceptance import Acceptance, per_position
from specsim.acceptance.requests import RequestLatency, request_latency
from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Booleans, Floats, Integers, SpecsimError, Strings
from specsim.checks.shown import MOST_ROWS, html_table
from specsim.cost import ForwardTime, Ledger, ModelPass
from specsim.hardware import System

# What people read for each quantity; `_s` are seconds, of a pass or a cycle of the whole batch.
QUANTITIES = {
    "step_s": "plain step",
    "draft_step_s": "draft step",
    "verify_step_s": "verification",
    "overhead_s": "overhead",
    "cycle_s": "cycle",
    "tokens_per_cycle": "tokens per cycle",
    "speedup": "speedup",
}
# The factors of a waterfall after "ideal", and what it means if one of them is the smallest.
LIMITS = {
    "acceptance": "the draft is wrong too often",
    "drafting": "drafting takes too long compared with a step of the target",
    "wider verification": "verifying several tokens takes longer than one step",
    "overhead": "the work around the passes takes too long",
}
INDISTINGUISHABLE = 0.02  # settings whose speedups are this close to the best are a tie
FEW_ROWS = 4  # of a pass, which hardly cost arithmetic
SHARED = 0.5  # assumed correlation of the errors of a plain step and of a cycle on one machine


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """Seconds are for one pass, or one cycle, of the whole batch; all arrays broadcast together.

    `tokens_per_cycle` is per sequence and includes the bonus or correction token. `draft_s` is what
    a cycle waits for drafting; `overlapped_s` is drafting that runs during the verification.
    `plain` is the plain pass, `verification` and `drafting` are the ledgers that the seconds come
    from; they know bytes and FLOPs too. `error` is the relative half-width of the 80 % band on a
    pass (`errors` adds what an engine says of overheads), `tokens_error` the same of tokens per
    cycle. `extra_devices` are the drafter's own, in addition to the target's; the output
    distribution stays the target's if `lossless`. `acceptance` is that of the method's cycles, None
    where only tokens per cycle are known.
    """

    target: Architecture
    system: System
    gamma: Integers
    batch: Floats
    context: Floats
    step_s: Floats
    plain_overhead_s: Floats
    draft_step_s: Floats
    draft_s: Floats
    verify_step_s: Floats
    overhead_s: Floats
    tokens_per_cycle: Floats
    error: float
    tokens_error: Floats
    overlapped_s: Floats
    plain: ModelPass
    verification: Ledger
    drafting: Ledger
    extra_devices: int = 0
    lossless: bool = True
    acceptance: Acceptance | None = None

    def __repr__(self) -> str:
        """One line, however many scenarios it holds."""
        told = {
            "gamma": _ends(self.gamma), "batch": _ends(self.batch), "context": _ends(self.context),
            "step_ms": _ends(self.step_s * 1e3), "speedup": _ends(self.speedup),
        }  # fmt: skip
        values = ", ".join(f"{name} {ends}" for name, ends in told.items())
        return (
            f"Prediction({self.target.name} on {self.system.accelerator.name} under "
            f"{self.system.engine.name}: {values}, shape {np.shape(self.speedup)})"
        )

    def _repr_html_(self) -> str:
        """The same for a notebook: a row for each of the first scenarios."""
        shape = np.shape(self.speedup)
        low, high = self.band["speedup"]
        given = {
            "gamma": self.gamma, "batch": self.batch, "context": self.context,
            "plain step, ms": self.step_s * 1e3, "cycle, ms": self.cycle_s * 1e3,
            "tokens per cycle": self.tokens_per_cycle, "speedup": self.speedup,
            "at least (80 %)": low, "at most": high,
            "tokens/s, all sequences": self.speculative_tokens_per_s,
        }  # fmt: skip
        columns = {
            title: np.broadcast_to(values, shape).ravel()[: MOST_ROWS + 1].tolist()
            for title, values in given.items()
        }
        return f"<p>{escape(repr(self))}</p>{html_table(columns)}"

    @property
    def step(self) -> ForwardTime:
        """The plain pass, operator by operator."""
        return self.plain.time

    @property
    def cycle_s(self) -> Floats:
        return self.draft_s + self.verify_step_s + self.overhead_s

    @property
    def speedup(self) -> Floats:
        return self.tokens_per_cycle * (self.step_s / self.cycle_s)

    @property
    def cannot_tell(self) -> Booleans:
        """Where the speedup rests on the arithmetic of more than a few rows, and nobody published
        the accelerator's rate: the number is then no more than an upper bound."""
        chip, engine = self.system.accelerator, self.system.engine
        unknown = np.isinf(chip.rate(self.system.precision.activation_math))
        few = self.batch * (self.gamma + 1) <= FEW_ROWS
        return np.asarray((self.gamma > 0) & ~few & unknown & (engine.name != "ideal"))

    @property
    def speedup_per_device(self) -> Floats:
        """The same per accelerator: plain decoding needs none of the drafter's own."""
        devices = self.system.tensor_parallel
        return self.speedup * (devices / (devices + self.extra_devices))

    @property
    def tokens_per_s(self) -> Floats:
        """Plain decoding, all sequences together."""
        return self.batch / self.step_s

    @property
    def speculative_tokens_per_s(self) -> Floats:
        return self.batch * self.tokens_per_cycle / self.cycle_s

    @property
    def bound(self) -> Strings:
        """What the plain step mostly spends its time on."""
        return self.step.bound

    @property
    def errors(self) -> dict[str, Floats]:
        """The relative half-widths of the 80 % bands on times: `error`, or `verification_error` of
        several rows where that is larger, and of a cycle as much of it as is verification; beside
        it, where an engine knows its `overhead_error`, that of the share which is neither weights,
        cache nor arithmetic."""
        engine, usual = self.system.engine, np.asarray(self.error)
        several = np.maximum(self.error, engine.verification_error)
        wider = np.where(self.gamma > 0, several, self.error)
        verifying = np.minimum(self.verify_step_s / self.cycle_s, 1.0)  # the share of a cycle
        cycle = usual + verifying * (wider - usual)
        errors = {"step_s": usual, "draft_step_s": usual, "cycle_s": cycle, "verify_step_s": wider}
        if not engine.overhead_error:
            return errors
        step, checked, drafted = (
            x.overhead_s for x in (self.plain, self.verification, self.drafting)
        )
        shares = {
            "step_s": (step + self.plain_overhead_s) / self.step_s,
            "draft_step_s": drafted / np.maximum(self.drafting.seconds, 1e-30),
            "cycle_s": (drafted + checked + self.overhead_s) / self.cycle_s,
            "verify_step_s": checked / self.verify_step_s,
        }
        more = engine.overhead_error
        return {
            name: np.hypot(errors[name], more * np.minimum(share, 1.0))
            for name, share in shares.items()
        }

    @property
    def band(self) -> dict[str, tuple[Floats, Floats]]:
        """80 % bands: as wide as `errors` says.

        Of a speedup: as wide below and above as the engine's published speedups, left out of the
        fit, lie around their predictions. Where the engine says nothing of it, the speedup is a
        quotient of two times on one machine, whose errors are correlated by `SHARED` = 1/2
        (assumed): sqrt(2 (1 - 1/2)) = 1 of a pass's error is left in it. Were they one and the same
        error it would cancel (optimistic: drafts are smaller, verifications wider than a step);
        were they independent, 1.41 of it would stay. Tokens per cycle are independent of both.
        """
        errors = self.errors
        step, cycle = 1 + errors["step_s"], 1 + errors["cycle_s"]
        draft, verify = 1 + errors["draft_step_s"], 1 + errors["verify_step_s"]
        # gamma = 0 is the baseline itself, whatever the error
        many = 1 + np.where(self.gamma > 0, self.tokens_error, 0.0)
        of_both = (errors["step_s"] ** 2 + errors["cycle_s"] ** 2) / 2
        quotient = np.sqrt(of_both * 2 * (1 - SHARED))
        engine = self.system.engine
        below, above = (
            np.where(self.gamma > 0, np.hypot(side, self.tokens_error), 0.0)
            for side in (
                quotient if engine.speedup_low is None else engine.speedup_low,
                quotient if engine.speedup_high is None else engine.speedup_high,
            )
        )
        return {
            "step_s": (self.step_s / step, self.step_s * step),
            "verify_step_s": (self.verify_step_s / verify, self.verify_step_s * verify),
            "draft_step_s": (self.draft_step_s / draft, self.draft_step_s * draft),
            "cycle_s": (self.cycle_s / cycle, self.cycle_s * cycle),
            "tokens_per_cycle": (self.tokens_per_cycle / many, self.tokens_per_cycle * many),
            "speedup": (self.speedup / (1 + below), self.speedup * (1 + above)),
        }

    def best(self, axis: int = -1) -> Integers:
        """The index of the best gamma along `axis`; the smallest of equals."""
        if not self.speedup.size:
            raise SpecsimError(
                f"no best of no scenarios: the speedup's shape is {self.speedup.shape}"
            )
        return self.speedup.argmax(axis=axis)

    def ties(self) -> Integers:
        """The gammas of a one-dimensional prediction that are within 2 % of the best."""
        speedup = self.speedup
        tied = speedup >= (1 - INDISTINGUISHABLE) * speedup.max(initial=0.0)
        return np.broadcast_to(self.gamma, speedup.shape)[tied]

    def request(self, more_tokens: int = 256) -> RequestLatency:
        """How long an answer of one scenario takes after its first token, and how unevenly its
        tokens arrive: percentiles, not only means.

        Raises SpecsimError for an array of scenarios, and where tokens per cycle were given: a mean
        does not say how it varies.
        """
        if self.cycle_s.ndim or np.ndim(self.gamma):
            raise SpecsimError(f"request answers for one scenario, not for {self.cycle_s.shape}")
        gamma, survival = int(self.gamma), np.zeros(0)
        if gamma > 0:
            if self.acceptance is None:
                raise SpecsimError(
                    "tokens per cycle alone do not say how they vary: "
                    "give alpha, survival or an acceptance model"
                )
            survival = np.asarray(per_position(self.acceptance, gamma).vector)
        sequences = max(1, int(self.batch))
        return request_latency(more_tokens, survival, float(self.cycle_s), sequences)

    def waterfall(self) -> dict[str, Floats]:
        """Where the ideal gamma + 1 went: factors whose product is the speedup, exactly.

        "ideal" every draft accepted, drafts free, verification as cheap as a step; then what
        acceptance, the drafting, the widening of the pass from 1 to gamma + 1 rows, and the
        remaining overhead leave of it.
        """
        ideal = np.asarray(self.gamma + 1.0)
        narrow_cycle = self.step_s  # verification as narrow as a plain step, drafts free
        drafted = narrow_cycle + self.draft_s
        widened = self.draft_s + self.verify_step_s + self.plain_overhead_s
        return {
            "ideal": ideal,
            "acceptance": self.tokens_per_cycle / ideal,
            "drafting": narrow_cycle / drafted,
            "wider verification": drafted / widened,
            "overhead": widened / self.cycle_s,
        }


def waterfall_spans(factors: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Start and end of each bar of a waterfall, as speedups.

    "ideal" goes from 1 to gamma + 1, each factor from the end of the bar before it, and "speedup"
    from 1 to the product of all factors.
    """
    spans, level = {"ideal": (1.0, factors["ideal"])}, factors["ideal"]
    for name in LIMITS:
        spans[name] = (level, level * factors[name])
        level *= factors[name]
    return spans | {"speedup": (1.0, level)}


def limiting_factor(factors: Mapping[str, float]) -> str:
    """The factor of a waterfall that reduces the speedup most: a key of `LIMITS`."""
    return min(LIMITS, key=lambda name: factors[name])


def limit_sentence(factors: Mapping[str, float]) -> str:
    """What keeps a speedup from its ideal gamma + 1, as a sentence."""
    name = limiting_factor(factors)
    return f"What limits it most is {name}: {LIMITS[name]}."


def _ends(values: ArrayLike) -> str:
    """The smallest and the largest of some numbers, or the one that all are."""
    numbers = np.ravel(np.asarray(values, float))
    if not numbers.size:
        return "none"
    low, high = numbers.min(), numbers.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"

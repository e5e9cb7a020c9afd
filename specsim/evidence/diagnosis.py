"""What an engine's counters mean: which of the three acceptance rates they are.

vLLM, SGLang and llama.cpp all print an "acceptance rate". It is accepted / drafted. That is smaller
than alpha, because the drafts after a rejection also count as drafted. Their mean length includes
the bonus token. Their rate per position is the survival vector. `read_log` finds the counters in a
text; `diagnose` converts them into each other and explains them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.acceptance import alpha_from_tokens_per_cycle, pooled_alpha
from specsim.checks import Floats, SpecsimError, as_survival, within
from specsim.checks.limits import LIMITS, require_limit
from specsim.evidence.counters import Counters
from specsim.evidence.served import read_log
from specsim.prediction import Prediction, limit_sentence, limiting_factor

__all__ = ["Counters", "Diagnosis", "diagnose", "read_log"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The three acceptance rates; a rate is None if the counters do not determine it.

    `alpha` is that of the i.i.d. model with the same tokens per cycle. `pooled_alpha` is accepted /
    (accepted + rejections), which gives easy cycles more weight. `findings` are sentences.
    """

    engine: str | None
    gamma: float | None
    accepted_per_drafted: float | None
    tokens_per_cycle: float | None
    alpha: float | None
    pooled_alpha: float | None
    survival: tuple[float, ...] | None
    findings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        names = ("engine", "gamma", "accepted_per_drafted", "tokens_per_cycle", "alpha")
        document: dict[str, Any] = {name: getattr(self, name) for name in names}
        document["pooled_alpha"] = self.pooled_alpha
        document["survival"] = None if self.survival is None else list(self.survival)
        return document | {"findings": list(self.findings)}


def diagnose(counters: Counters, gamma: float | None = None) -> Diagnosis:
    """The three acceptance rates from an engine's counters.

    Arguments: `counters`; `gamma`, the drafted tokens per cycle, if the engine's setting is known.
    It is used only where the counters do not tell: an engine may draft fewer than its setting.
    Raises SpecsimError for counters that contradict each other.
    """
    _check(counters)
    survival = None if counters.survival is None else as_survival(counters.survival)
    drafts = _drafts(counters, survival, gamma)
    partial = survival is not None and drafts is not None and len(survival) < drafts - 0.05
    complete = None if partial else survival
    rate, tokens = counters.accepted_per_drafted, counters.tokens_per_cycle
    if counters.accepted is not None and counters.drafted:
        rate = counters.accepted / counters.drafted
    if counters.cycles and counters.accepted is not None:
        tokens = 1.0 + counters.accepted / counters.cycles
    if tokens is None and complete is not None:
        tokens = 1.0 + float(complete.sum())
    if tokens is None and rate is not None and drafts is not None:
        tokens = 1.0 + drafts * rate
    findings = list(counters.cautions)
    if tokens is not None and rate and counters.accepted is None:
        rows = _rows_divided_by(counters, tokens, rate, drafts)
        if rows is not None:
            findings.append(
                f"SGLang's accept rate {rate:.3f} is the mean length, bonus included, divided by "
                f"the {rows:g} verified rows. It is not accepted / drafted."
            )
            if drafts is None and _either_meaning(tokens, rate):
                findings.append(
                    f"It may also be accepted / drafted, of {(tokens - 1) / rate:.0f} drafts: both "
                    "give a whole number of drafts; --gamma decides."
                )
            drafts, rate = rows - 1.0, (tokens - 1.0) / (rows - 1.0)
        elif counters.engine == "sglang" and drafts is None and _either_meaning(tokens, rate):
            findings.append(
                f"SGLang's accept rate {rate:.3f} may also be the mean length divided by "
                f"{tokens / rate:.0f} verified rows: both give a whole number of drafts; --gamma "
                "decides."
            )
    if drafts is None and tokens is not None and rate:
        drafts = (tokens - 1.0) / rate
        require_limit("gamma", drafts, "the drafted tokens per cycle")
        if counters.engine == "sglang" and abs(drafts - round(drafts)) > 0.05 * drafts:
            findings.append(
                f"Length and rate make {drafts:.2f} drafts per cycle, which is no whole number: "
                "they may also be means over several settings or servers."
            )
    if rate is None and tokens is not None and drafts:
        rate = (tokens - 1.0) / drafts
    if drafts is not None:
        require_limit("gamma", drafts, "the drafted tokens per cycle")
        within("the drafted tokens per cycle", drafts, high=LIMITS["gamma"].most)
    if tokens is not None:
        within("tokens per cycle", tokens, 1.0, LIMITS["gamma"].most + 1.0)
    if gamma is not None and drafts is not None and abs(drafts - gamma) > 0.02 * gamma:
        findings.append(
            f"On average {drafts:.2f} tokens were drafted per cycle, not the {gamma:g} of --gamma: "
            "what was counted is used."
        )
    if partial and survival is not None:
        findings.append(
            f"Only the first {len(survival)} of {drafts:.3g} positions have a rate: the survival "
            "vector is not whole."
        )
    alpha = None
    if tokens is not None and drafts is not None and drafts > 0:
        if tokens > drafts + 1 + 0.01:
            raise SpecsimError(
                f"{tokens:g} tokens per cycle are impossible with {drafts:g} drafts: at most "
                f"{drafts + 1:g}, bonus included; check gamma"
            )
        # gamma may be a mean over cycles of different lengths: take the nearest whole number
        whole_gamma = max(1, round(drafts))
        alpha = float(alpha_from_tokens_per_cycle(min(tokens, whole_gamma + 1.0), whole_gamma))
    pooled = None if complete is None else float(pooled_alpha(complete))
    said = _sentences(counters, drafts, rate, tokens, alpha, complete)
    return Diagnosis(
        engine=counters.engine,
        gamma=drafts,
        accepted_per_drafted=rate,
        tokens_per_cycle=tokens,
        alpha=alpha,
        pooled_alpha=pooled,
        survival=None if survival is None else tuple(survival.tolist()),
        findings=(*said, *findings),
    )


def _drafts(counters: Counters, survival: Floats | None, gamma: float | None) -> float | None:
    """Mean drafted tokens per cycle: as counted, else as the log or the user says."""
    if counters.cycles and counters.drafted is not None:
        return counters.drafted / counters.cycles
    if counters.gamma is not None:
        return counters.gamma
    if gamma is not None:
        return gamma
    rate, tokens = counters.accepted_per_drafted, counters.tokens_per_cycle
    if counters.accepted is not None and counters.drafted:
        rate = counters.accepted / counters.drafted
    if survival is None:
        return None
    if rate and tokens is not None and (tokens - 1.0) / rate > len(survival) + 0.5:
        return (tokens - 1.0) / rate  # the vector holds the first positions alone
    return float(len(survival))


def _check(counters: Counters) -> None:
    for name in ("accepted", "drafted", "cycles"):
        value = getattr(counters, name)
        if value is not None and not 0 <= value < np.inf:
            raise SpecsimError(f"{name} must be a count >= 0, got {value:g}")
    if counters.cycles == 0:
        raise SpecsimError("no cycles were counted, so there is no acceptance rate")
    if counters.accepted is not None and counters.drafted is not None:
        if counters.drafted == 0:
            raise SpecsimError("no tokens were drafted, so there is no acceptance rate")
        if counters.accepted > counters.drafted:
            raise SpecsimError(
                f"accepted must be at most drafted, got {counters.accepted:g} accepted of "
                f"{counters.drafted:g} drafted"
            )
    if counters.accepted_per_drafted is not None:
        within("the acceptance rate", counters.accepted_per_drafted)
    if counters.tokens_per_cycle is not None:
        within("the mean acceptance length", counters.tokens_per_cycle, 1.0, 1e6)


def _rows_divided_by(
    counters: Counters, tokens: float, rate: float, gamma: float | None
) -> float | None:
    """The rows per sequence, if SGLang's rate is tokens / rows (PR #13212); None if it is not.

    The other meaning is accepted / drafted. Each meaning implies a gamma. The one whose gamma is
    nearer to the known gamma is taken; if gamma is not known, nearer to a whole number.
    """
    if counters.engine != "sglang":
        return None
    over_rows, over_drafts = tokens / rate - 1.0, (tokens - 1.0) / rate
    if over_rows > LIMITS["gamma"].most:
        return None
    at_rows, at_drafts = (
        abs(each - (gamma if gamma is not None else max(1, round(each))))
        for each in (over_rows, over_drafts)
    )
    if at_rows > at_drafts:
        return None
    return 1.0 + (gamma if gamma is not None else max(1, round(over_rows)))


def _either_meaning(tokens: float, rate: float) -> bool:
    """Whether both meanings of SGLang's rate, as it is rounded, give a whole number of drafts."""
    half = 0.005 if round(rate, 2) == round(rate, 6) else 0.0005

    def is_whole(over: Callable[[float], float]) -> bool:
        low, high = 0.99 * over(rate + half), 1.01 * over(max(rate - half, 1e-6))
        return math.floor(high) >= max(1, math.ceil(low))

    return is_whole(lambda r: tokens / r - 1.0) and is_whole(lambda r: (tokens - 1.0) / r)


def _sentences(
    counters: Counters,
    gamma: float | None,
    rate: float | None,
    tokens: float | None,
    alpha: float | None,
    survival: Any,
) -> list[str]:
    said = []
    if counters.engine == "vllm-0":
        said.append(
            "vLLM 0's draft acceptance rate also counts drafts that match after a rejection. It is "
            "a rate per position, not accepted / drafted. Tokens per cycle come from the emitted "
            "tokens."
        )
    elif rate is not None:
        said.append(
            f"The acceptance rate {rate:.1%} is accepted / drafted. Drafts after a rejection "
            "count as drafted, so it is smaller than alpha."
        )
    if tokens is not None:
        said.append(f"A cycle emits {tokens:.3f} tokens, with the bonus or correction token.")
    if alpha is not None and gamma is not None:
        said.append(f"With gamma = {gamma:g}, alpha is {alpha:.3f} per drafted token.")
    elif rate is not None:
        said.append("Tokens per cycle and alpha need gamma, the drafted tokens per cycle.")
    elif tokens is not None:
        said.append("Alpha needs gamma, the drafted tokens per cycle.")
    if survival is not None and len(survival):
        before = float(survival[-2]) if len(survival) > 1 else 1.0
        next_kept = float(survival[-1]) ** 2 / before if before else 0.0
        said.append(
            f"The rates per position are the survival vector. The last draft is accepted in "
            f"{survival[-1]:.0%} of the cycles. One more draft would be accepted in about "
            f"{next_kept:.0%}. It pays if this share is larger than the speedup times its cost in "
            "plain steps."
        )
    return said


def bottleneck(prediction: Prediction) -> str:
    """What limits the speedup of one scenario, in two sentences."""
    if float(prediction.gamma) == 0:
        return f"Plain decoding, bound by {prediction.bound}."
    factors = {name: float(np.asarray(f)) for name, f in prediction.waterfall().items()}
    ideal = f"Gamma = {int(prediction.gamma)} would give {factors['ideal']:g}x in the ideal case."
    return f"{ideal} {limit_sentence(factors)[:-1]} (x {factors[limiting_factor(factors)]:.2f})."

"""What an engine's counters mean: which of the three rates they are, alpha, tokens per cycle.

vLLM, SGLang and llama.cpp all print an "acceptance rate", and it is accepted / drafted, which is
smaller than alpha since drafts behind a rejection count as drafted. Their mean length includes the
bonus token; their rate per position is the survival vector. `read_log` finds the counters in a log,
`diagnose` converts them into each other and says what they are.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.acceptance import alpha_from_tokens_per_cycle, pooled_alpha
from specsim.checks import SpecsimError, as_survival, within
from specsim.evidence.counters import Counters, read_log
from specsim.prediction import Prediction

__all__ = ["Counters", "Diagnosis", "diagnose", "read_log"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The three rates of what was counted; None where the counters do not determine one.

    `alpha` is the i.i.d. one with the same tokens per cycle; `pooled_alpha` weighs easy cycles more
    (accepted over accepted plus rejections). `findings` are sentences.
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
        names = ("engine", "gamma", "accepted_per_drafted", "tokens_per_cycle", "alpha")
        document: dict[str, Any] = {name: getattr(self, name) for name in names}
        document["pooled_alpha"] = self.pooled_alpha
        document["survival"] = None if self.survival is None else list(self.survival)
        return document | {"findings": list(self.findings)}


def diagnose(counters: Counters, gamma: float | None = None) -> Diagnosis:
    """The rates behind `counters`; `gamma`, drafted tokens per cycle, where the engine's setting is
    known and the log does not say it.

    Raises SpecsimError for counters that contradict each other.
    """
    _check(counters)
    survival = None if counters.survival is None else as_survival(counters.survival)
    drafts = gamma if gamma is not None else counters.gamma
    rate, tokens = counters.accepted_per_drafted, counters.tokens_per_cycle
    if counters.accepted is not None and counters.drafted:
        rate = counters.accepted / counters.drafted
    if drafts is None and survival is not None:
        drafts = float(len(survival))
    if drafts is None and counters.cycles and counters.drafted is not None:
        drafts = counters.drafted / counters.cycles
    if tokens is None and survival is not None:
        tokens = 1.0 + float(survival.sum())
    if tokens is None and counters.cycles and counters.accepted is not None:
        tokens = 1.0 + counters.accepted / counters.cycles
    if tokens is None and rate is not None and drafts is not None:
        tokens = 1.0 + drafts * rate
    findings: list[str] = []
    if tokens is not None and rate and counters.accepted is None:
        rows = _rows_divided_by(counters, tokens, rate, drafts)
        if rows is not None:
            findings.append(
                f"SGLang's accept rate {rate:.3f} is the length, bonus included, over the {rows:g} "
                "rows verified: it is not accepted / drafted."
            )
            drafts, rate = rows - 1.0, (tokens - 1.0) / (rows - 1.0)
    if drafts is None and tokens is not None and rate:
        drafts = (tokens - 1.0) / rate
    if rate is None and tokens is not None and drafts:
        rate = (tokens - 1.0) / drafts
    alpha = None
    if tokens is not None and drafts is not None and drafts >= 1:
        if tokens > drafts + 1 + 0.01:
            raise SpecsimError(
                f"{tokens:g} tokens per cycle cannot come of {drafts:g} drafts: at most "
                f"{drafts + 1:g}, bonus included; is gamma right?"
            )
        # a mean over cycles of different length: the nearest whole gamma stands for it
        whole_gamma = max(1, round(drafts))
        alpha = float(alpha_from_tokens_per_cycle(min(tokens, whole_gamma + 1.0), whole_gamma))
    pooled = None if survival is None else float(pooled_alpha(survival))
    said = _sentences(counters, drafts, rate, tokens, alpha, survival)
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


def _check(counters: Counters) -> None:
    for name in ("accepted", "drafted", "cycles"):
        value = getattr(counters, name)
        if value is not None and not 0 <= value < np.inf:
            raise SpecsimError(f"{name} must be a count >= 0, got {value:g}")
    if counters.cycles == 0:
        raise SpecsimError("no cycles were counted: there is no acceptance to speak of")
    if counters.accepted is not None and counters.drafted is not None:
        if counters.drafted == 0:
            raise SpecsimError("nothing was drafted: there is no acceptance to speak of")
        if counters.accepted > counters.drafted:
            raise SpecsimError(
                f"{counters.accepted:g} accepted of {counters.drafted:g} drafted: "
                "more than there were"
            )
    if counters.accepted_per_drafted is not None:
        within("the acceptance rate", counters.accepted_per_drafted)
    if counters.tokens_per_cycle is not None:
        within("the mean acceptance length", counters.tokens_per_cycle, 1.0, 1e6)


def _rows_divided_by(
    counters: Counters, tokens: float, rate: float, gamma: float | None
) -> float | None:
    """The rows per sequence, if SGLang divides tokens by rows (PR #13212), not accepted by drafted.

    With gamma known the nearer reading wins; else the one whose gamma is nearer to a whole number.
    """
    if counters.engine != "sglang":
        return None
    over_rows, over_drafts = tokens / rate - 1.0, (tokens - 1.0) / rate
    at_rows, at_drafts = (
        abs(each - (gamma if gamma is not None else max(1, round(each))))
        for each in (over_rows, over_drafts)
    )
    if at_rows > at_drafts:
        return None
    return 1.0 + (gamma if gamma is not None else max(1, round(over_rows)))


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
            "vLLM 0's draft acceptance rate counts a draft that matched behind a rejection too: it "
            "is a rate per position, not accepted / drafted. Tokens per cycle are taken from the "
            "emitted tokens."
        )
    elif rate is not None:
        said.append(
            f"The acceptance rate {rate:.1%} is accepted / drafted: drafts behind a rejection "
            "count as drafted, so it is smaller than alpha."
        )
    if tokens is not None:
        said.append(f"A cycle emits {tokens:.3f} tokens, the bonus or correction token included.")
    if alpha is not None and gamma is not None:
        said.append(f"With gamma = {gamma:g} that is alpha = {alpha:.3f} per drafted token.")
    elif rate is not None:
        said.append("Without gamma the rate gives no tokens per cycle and no alpha: say gamma.")
    if survival is not None and len(survival):
        before = float(survival[-2]) if len(survival) > 1 else 1.0
        next_kept = float(survival[-1]) ** 2 / before if before else 0.0
        said.append(
            f"The rates per position are the survival vector: the deepest draft is kept in "
            f"{survival[-1]:.0%} of the cycles. One more would be kept in about {next_kept:.0%}: "
            "it pays if that exceeds the speedup times its cost in plain steps."
        )
    return said


LIMITS = {
    "acceptance": "acceptance: too many drafts are rejected",
    "drafting": "drafting: making the drafts takes too much of the cycle",
    "wider verification": "the width of the verification: the target has no spare arithmetic",
    "overhead": "the host: overheads that speculation adds to every cycle",
}


def bottleneck(prediction: Prediction) -> str:
    """What keeps one scenario from its ideal gamma + 1, in a sentence."""
    falls = {name: float(np.asarray(f)) for name, f in prediction.waterfall().items()}
    if float(prediction.gamma) == 0:
        return f"Plain decoding, bound by {prediction.bound}."
    worst = min(LIMITS, key=lambda name: falls[name])
    return (
        f"What limits the {falls['ideal']:g}x of gamma = {int(prediction.gamma)} most is "
        f"{LIMITS[worst]} (x {falls[worst]:.2f})."
    )

"""The lines of vLLM 0's log: counts since the start (vllm/engine/metrics.py of that version)."""

import re

from specsim.checks import SpecsimError
from specsim.checks.limits import LIMITS
from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import MOST, printed
from specsim.evidence.served.text import NUMBER, float_of, segments

VERSION_0 = re.compile(
    r"(Draft acceptance rate|System efficiency|Number of (?:speculative|accepted|draft|emitted) "
    rf"tokens): ({NUMBER})(?=[,.\s]|$)"
)


def lines(text: str) -> Counters | None:
    """Lines of vLLM 0: counts since the start, so the last line of each life of the server counts.

    Cycles = drafted / gamma, tokens per cycle = emitted / cycles.
    """
    lives: list[tuple[float, float, float]] = []  # gamma, drafted, emitted
    cut = 0
    for segment, before in segments("Number of speculative tokens: ", text):
        rates = before.rpartition("Speculative metrics")
        record: dict[str, str] = {}
        for name, value in VERSION_0.findall((rates[2] if rates[1] else "") + segment):
            record.setdefault(name, value)
        counts = [
            float_of(record, f"Number of {name} tokens")
            for name in ("speculative", "draft", "emitted")
        ]
        gamma, drafted, emitted = counts
        if gamma is None or drafted is None or emitted is None:
            cut += 1
            continue
        if not drafted:  # idle since its start
            continue
        if not (1 <= gamma <= LIMITS["gamma"].most and 0 < emitted <= MOST and 0 < drafted <= MOST):
            raise SpecsimError(
                f"vLLM's 'Speculative metrics' line counts {drafted:g} draft and {emitted:g} "
                f"emitted tokens at {gamma:g} speculative tokens: that cannot be"
            )
        _require_version_0(record, gamma, drafted, emitted)
        if lives and drafted >= lives[-1][1] and emitted >= lives[-1][2] and gamma == lives[-1][0]:
            lives.pop()
        lives.append((gamma, drafted, emitted))
    if not lives:
        if cut:
            raise SpecsimError("vLLM's 'Speculative metrics' line counts no emitted tokens")
        return None
    cycles = sum(drafted / gamma for gamma, drafted, _ in lives)
    cautions = []
    if len(lives) > 1:
        cautions.append(
            f"The counts since the start of the server fell {len(lives) - 1} times: it was "
            "restarted, or the log mixes several servers. The counts of all are added."
        )
    return Counters(
        engine="vllm-0",
        gamma=lives[-1][0] if len({gamma for gamma, *_ in lives}) == 1 else None,
        cycles=cycles,
        drafted=sum(drafted for _, drafted, _ in lives),
        tokens_per_cycle=sum(emitted for *_, emitted in lives) / cycles,
        cautions=tuple(cautions),
        source="vLLM 0's lines of 'Speculative metrics'",
    )


def _require_version_0(
    record: dict[str, str], gamma: float, drafted: float, emitted: float
) -> None:
    """SpecsimError if the line's two rates are not those of its counts."""
    accepted = float_of(record, "Number of accepted tokens")
    expected = {"System efficiency": emitted / (drafted / gamma * (gamma + 1))}
    if accepted is not None:
        expected["Draft acceptance rate"] = accepted / drafted
    for name, value in expected.items():
        if name in record and not printed(record[name]).agrees(value):
            raise SpecsimError(
                f"vLLM's 'Speculative metrics' line contradicts itself: {name} {record[name]}, but "
                f"its counts make it {value:.3f}"
            )

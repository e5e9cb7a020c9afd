"""What to look at when prediction and measurement disagree, in the order in which to look.

The earlier a check, the more of the later ones it explains: a machine that has changed its speed
moves every time, a plain step of another size every speedup.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.evidence.comparison.points import Comparison
from specsim.evidence.comparison.summaries import tokens_tolerance

UNREST = 0.10  # relative: a machine or a part that is off by more deserves a look


@dataclass(frozen=True, slots=True)
class Check:
    """One suspect: how far it was off, relative and without a sign, how far is usual, what to do.

    `at` names the point where it was worst, where there are several.
    """

    name: str
    off: float
    limit: float
    remedy: str
    at: str = ""

    @property
    def passes(self) -> bool:
        return self.off <= self.limit


def checks(comparisons: Sequence[Comparison], fit_error: float, band: float) -> list[Check]:
    """The suspects for one pair over gamma, in the order in which to look.

    Arguments: the points, gamma 0 among them; the calibration's median error on the laps that it
    was fitted to; and `band`, the relative half-width of the 80 % band of its times. Times are
    judged with the machine's drift taken out, and by that band.
    """
    drafting = [c for c in comparisons if c.gamma]
    drift = max(comparisons, key=lambda c: abs(c.drift - 1))
    tokens = max(drafting, key=lambda c: abs(c.error("tokens_per_cycle")) / tokens_tolerance(c))
    found = [
        Check("machine drift", abs(drift.drift - 1), UNREST, "calibrate again, when it is quiet"),
        Check("fit of the calibration", fit_error, 1.5 * UNREST, "more rounds of probes"),
        Check(
            "plain step",
            float(np.median([abs(c.error("step_s", drift_divided=True)) for c in comparisons])),
            band,
            "compare precision, mode and context with what is predicted",
        ),
        Check(
            "tokens per cycle",
            abs(tokens.error("tokens_per_cycle")),
            tokens_tolerance(tokens),
            "calibrate acceptance on the traffic and at the temperature that are served",
            _at(tokens),
        ),
    ]
    remedies = {
        "draft_step_s": ("draft step", "count its layers and launches; capture it in graphs"),
        "verify_step_s": ("verification", "time a pass of that many rows: kernels change by width"),
        "overhead_s": ("overhead", "look at sampling and the host, and for hidden waits"),
    }
    for part, (name, remedy) in remedies.items():
        measured = [c for c in drafting if part in c.parts]
        if not measured:
            continue
        errors = [abs(c.error(part, drift_divided=True)) for c in measured]
        worst = measured[int(np.argmax(errors))]
        found.append(Check(name, float(np.median(errors)), band, remedy, _at(worst)))
    return found


def _at(comparison: Comparison) -> str:
    return f"γ = {comparison.gamma}"

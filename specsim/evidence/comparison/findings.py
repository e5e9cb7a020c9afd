"""What to look at if prediction and measurement disagree, in the order in which to look.

An early suspect can explain the later ones: a change of the machine's speed changes all times, and
an error in the plain step changes all speedups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.evidence.comparison.points import Comparison
from specsim.evidence.comparison.summaries import tokens_tolerance
from specsim.prediction import QUANTITIES

UNREST = 0.10  # relative: a machine whose speed has changed by more is suspect


@dataclass(frozen=True, slots=True)
class Suspect:
    """A possible cause of a difference.

    `off` is its relative error without the sign, `limit` the largest usual error, `remedy` what to
    do. `at` names the point with the largest error, if there are several points.
    """

    name: str
    off: float
    limit: float
    remedy: str
    at: str = ""

    @property
    def is_cleared(self) -> bool:
        """Whether the error is usual: at most `limit`."""
        return self.off <= self.limit


def find_suspects(
    comparisons: Sequence[Comparison], fit_error: float, band: float
) -> list[Suspect]:
    """The suspects for one pair of models over gamma, in the order in which to look.

    Arguments: `comparisons`, with gamma 0 among them; `fit_error`, the calibration's median error
    on the stages that it was fitted to; `band`, the relative half-width of the 80 % band of its
    times. The errors of times are taken after the machine's drift is divided out, and `band` is
    their limit.
    """
    drafting = [c for c in comparisons if c.gamma]
    drift = max(comparisons, key=lambda c: abs(c.drift - 1))
    tokens = max(drafting, key=lambda c: abs(c.error("tokens_per_cycle")) / tokens_tolerance(c))
    found = [
        Suspect(
            "machine drift",
            abs(drift.drift - 1),
            UNREST,
            "calibrate again, with no other work on the machine",
        ),
        Suspect("fit of the calibration", fit_error, 1.5 * UNREST, "run more rounds of probes"),
        Suspect(
            QUANTITIES["step_s"],
            float(np.median([abs(c.error("step_s", drift_divided=True)) for c in comparisons])),
            band,
            "check that precision, mode and context are those of the prediction",
        ),
        Suspect(
            QUANTITIES["tokens_per_cycle"],
            abs(tokens.error("tokens_per_cycle")),
            tokens_tolerance(tokens),
            "calibrate the acceptance on the served traffic, at its temperature",
            _at(tokens),
        ),
    ]
    remedies = {
        "draft_step_s": "count its layers and launches; capture it in CUDA graphs",
        "verify_step_s": "time a pass of that many rows: kernels change with the number of rows",
        "overhead_s": "look at sampling, at the host, and for waits that nothing shows",
    }
    for part, remedy in remedies.items():
        measured = [c for c in drafting if part in c.parts]
        if not measured:
            continue
        errors = [abs(c.error(part, drift_divided=True)) for c in measured]
        worst = measured[int(np.argmax(errors))]
        found.append(Suspect(QUANTITIES[part], float(np.median(errors)), band, remedy, _at(worst)))
    return found


def _at(comparison: Comparison) -> str:
    return f"γ = {comparison.gamma}"

"""Measured points beside their predictions, until every factor of the difference has a name.

`points` compares one measured point with one prediction, `lenses` are the three predictions that
every point gets (calibrated on probes, catalog constants alone, ideal), `summaries` say how wrong
each is: over a part, and over the points that were reserved. `folders` reads the points of a
machine, and `checks` says in which order to look for the cause of a difference.
"""

from specsim.evidence.comparison.findings import Check, checks
from specsim.evidence.comparison.folders import (
    MeasuredMachine,
    beside,
    calibrations,
    measured_machine,
    measured_machines,
    measurement_files,
    through,
)
from specsim.evidence.comparison.points import (
    PARTS,
    Comparison,
    Part,
    compare,
    factors,
    is_predicted,
    median_errors,
    predict_point,
    to_rows,
)
from specsim.evidence.comparison.predictors import Lens, lenses
from specsim.evidence.comparison.summaries import Errors, Summary, misses, regrets, summarise

__all__ = [
    "PARTS",
    "Check",
    "Comparison",
    "Errors",
    "Lens",
    "MeasuredMachine",
    "Part",
    "Summary",
    "beside",
    "calibrations",
    "checks",
    "compare",
    "factors",
    "is_predicted",
    "lenses",
    "measured_machine",
    "measured_machines",
    "measurement_files",
    "median_errors",
    "misses",
    "predict_point",
    "regrets",
    "summarise",
    "through",
    "to_rows",
]

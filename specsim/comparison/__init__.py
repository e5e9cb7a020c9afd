"""Measured points beside their predictions, until every factor of the difference has a name.

`points` compares one measured point with one prediction, `lenses` are the three predictions that
every point gets (calibrated on probes, catalog constants alone, ideal), and `summaries` say how
wrong each is: over a part, and over the points that were reserved.
"""

from specsim.comparison.lenses import Lens, lenses
from specsim.comparison.points import (
    PARTS,
    Comparison,
    Part,
    compare,
    compare_file,
    factors,
    is_predicted,
    median_errors,
    predict_point,
    to_rows,
)
from specsim.comparison.summaries import Errors, Summary, misses, regrets, summarise

__all__ = [
    "PARTS",
    "Comparison",
    "Errors",
    "Lens",
    "Part",
    "Summary",
    "compare",
    "compare_file",
    "factors",
    "is_predicted",
    "lenses",
    "median_errors",
    "misses",
    "predict_point",
    "regrets",
    "summarise",
    "to_rows",
]

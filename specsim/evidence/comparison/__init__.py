"""Measured points compared with their predictions; every factor of the difference has a name.

| module | what it does |
|---|---|
| `points` | compares one measured point with one prediction, factor by factor |
| `predictors` | three predictors for each point: calibrated, catalog constants, ideal roofline |
| `summaries` | the errors of a predictor over many points, and over the reserved ones |
| `folders` | reads the measured files of a machine, with its calibration |
| `served` | a served run, of any tool, compared with the prediction of its cycle |
| `fitted` | a server's engine from its plain runs, to predict its speculation |
| `findings` | what to look at, and in which order, if prediction and measurement disagree |
"""

from specsim.evidence.comparison.findings import Suspect, find_suspects
from specsim.evidence.comparison.folders import (
    MeasuredMachine,
    calibration_of,
    calibrations,
    compare_points,
    measured_machine,
    measured_machines,
    measurement_files,
)
from specsim.evidence.comparison.points import (
    Comparison,
    Part,
    compare,
    factors,
    is_predicted,
    median_errors,
    predict_point,
    system_of,
    to_rows,
)
from specsim.evidence.comparison.predictors import Predictor, predictors_for
from specsim.evidence.comparison.summaries import (
    BestMeasured,
    Errors,
    Summary,
    best_measured,
    misses,
    regrets,
    summarise,
)

__all__ = [
    "BestMeasured",
    "Comparison",
    "Errors",
    "MeasuredMachine",
    "Part",
    "Predictor",
    "Summary",
    "Suspect",
    "best_measured",
    "calibration_of",
    "calibrations",
    "compare",
    "compare_points",
    "factors",
    "find_suspects",
    "is_predicted",
    "measured_machine",
    "measured_machines",
    "measurement_files",
    "median_errors",
    "misses",
    "predict_point",
    "predictors_for",
    "regrets",
    "summarise",
    "system_of",
    "to_rows",
]

"""The stored measurements of an H200: what today's fit and today's model make of them.

Everything here is arithmetic on files. The points and probes were measured before the last changes
of the fit, so the bars are those of a regression: the docs quote the predictions of that day.
"""

from pathlib import Path

import numpy as np
import pytest

from specsim.evidence.calibration import fit_kernels, load, load_probes
from specsim.evidence.comparison.folders import compare_points
from specsim.evidence.comparison.predictors import Predictor
from specsim.evidence.measurement import Measurement

FOLDER = Path(__file__).parents[1] / "measurements" / "nvidia-h200"
PARTS = {"plain": "step_s", "verify": "verify_step_s", "speculation": "cycle_s"}


@pytest.fixture(scope="module")
def compared():
    """The points of the recorded mode, by part, compared with a fit of today to the probes."""
    probes = load_probes(FOLDER / "probes.json")
    fitted = {mode: fit_kernels(probes, mode).system for mode in probes.stages}
    predictor = Predictor("refitted", fitted)
    return {
        part: [
            each
            for each in compare_points(predictor, Measurement.read(FOLDER / f"{part}.json").points)
            if each.point.scenario.mode == "cuda-graphs"
        ]
        for part in PARTS
    }


@pytest.mark.parametrize(("part", "count"), [("plain", 41), ("verify", 35), ("speculation", 44)])
def test_todays_fit_predicts_what_was_measured(compared, part: str, count: int) -> None:
    points = compared[part]
    assert len(points) == count
    errors = np.abs([point.parts[PARTS[part]].error for point in points])
    assert np.median(errors) < 0.04
    assert np.quantile(errors, 0.95) < 0.12


def test_the_stored_calibration_is_near_todays_fit() -> None:
    probes = load_probes(FOLDER / "probes.json")
    for name, mode in (("calibration.json", "cuda-graphs"), ("calibration-eager.json", "eager")):
        stored, today = load(FOLDER / name).system, fit_kernels(probes, mode).system
        assert stored.bandwidth_bytes_per_s == today.bandwidth_bytes_per_s
        assert today.engine.layer_overhead_s == pytest.approx(
            stored.engine.layer_overhead_s, rel=0.3
        )

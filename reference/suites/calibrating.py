"""The probes' part of a suite: a calibration file for every mode that points are measured in."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from reference.drift import DriftProbe
from reference.machine import environment
from reference.probes import run_probes
from specsim.calibration import Calibration, fit, to_json
from specsim.measurement import write_json


def calibrations(device: torch.device) -> dict[str, Callable[[Path], Calibration]]:
    """The files to make on this device, by name, and what makes each."""
    return {"calibration.json": lambda file: calibrate(file, device)}


def calibrate(file: Path, device: torch.device) -> Calibration:
    """Probe, fit and write. The drift probe's lap of these minutes is noted, so that later ones can
    be compared with it."""
    probe = DriftProbe(device)
    before = probe.lap()
    probes = run_probes(device, torch.bfloat16)
    lap = (before + probe.lap()) / 2
    calibration = fit(probes, asdict(environment(device)) | {"drift_s": lap})
    write_json(file, to_json(calibration))
    return calibration

"""The probes' part of a suite: a calibration file for every mode that points are measured in.

On a GPU the timings themselves are written too (`probes.json`): they can be fitted again, when the
model of the machine has changed, without the machine. A GPU's calibration also says from how many
slots on attention was read in chunks (`chunked_from`); the points of the suite use the same limit.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from reference.lab.drift import DriftProbe
from reference.lab.kernels import GPU, Grid, run_kernel_probes
from reference.lab.probes import run_probes
from reference.machine import environment
from specsim.evidence.calibration import Calibration, fit, fit_kernels, probes_to_json, to_json
from specsim.evidence.measurement import write_json

ROUNDS = 4  # through the probes of a CPU
FILES = {"calibration.json": "cuda-graphs", "calibration-eager.json": "eager"}


def files_of(device: torch.device) -> Mapping[str, str]:
    """The calibration files of a machine, and the mode of each."""
    return FILES if device.type == "cuda" else {"calibration.json": "eager"}


def calibrate(folder: Path, device: torch.device, grid: Grid = GPU) -> dict[Path, Calibration]:
    """Probe, fit and write. The drift probe's lap of these minutes is noted, so that later ones can
    be compared with it."""
    drift = DriftProbe(device)
    before, found = drift.lap(), {}
    fitted: Callable[[str, dict], Calibration]
    if device.type == "cuda":
        kernels = run_kernel_probes(device, list(FILES.values()), grid)
        write_json(folder / "probes.json", probes_to_json(kernels))
        found["chunked_from"] = kernels.chunked_from

        def fitted(mode: str, about: dict) -> Calibration:
            return fit_kernels(kernels, mode, about)
    else:
        probes = run_probes(device, torch.bfloat16, ROUNDS)

        def fitted(mode: str, about: dict) -> Calibration:
            return fit(probes, about)

    lap = (before + drift.lap()) / 2
    written = {}
    for name, mode in files_of(device).items():
        about = asdict(environment(device)) | {"drift_s": lap, "mode": mode} | found
        written[folder / name] = fitted(mode, about)
        write_json(folder / name, to_json(written[folder / name]))
    return written

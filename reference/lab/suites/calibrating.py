"""The part `probes` of a suite: a calibration file for every mode in which points are measured.

On a GPU the timings are written too (`probes.json`), so that they can be fitted again without the
GPU after the model of the accelerator has changed. The calibration of a GPU also holds the smallest
window that attention reads in chunks (`chunked_from`); the points of the suite use the same limit.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from reference.lab.drift import DriftProbe
from reference.lab.kernels import GPU, run_kernel_probes
from reference.lab.probes import run_probes
from reference.machine import environment
from specsim.checks.files import write_json
from specsim.evidence.calibration import Calibration, fit, fit_kernels, probes_to_json, to_json

ROUNDS = 4  # through all probes on a CPU
FILES = {"calibration.json": "cuda-graphs", "calibration-eager.json": "eager"}


def files_of(device: torch.device) -> Mapping[str, str]:
    """The names of a machine's calibration files, and the mode of each."""
    return FILES if device.type == "cuda" else {"calibration.json": "eager"}


def calibrate(folder: Path, device: torch.device) -> dict[Path, Calibration]:
    """Time the probes, fit a calibration to them, and write it.

    The file also holds the time of the drift probe (`drift_s`), so that later measurements can be
    compared with it. Returns the calibration by file.
    """
    drift, limits = DriftProbe(device), {}
    paces: dict[str, float | None] = {}
    modes = files_of(device).values()
    before = {mode: drift.now_s(mode) for mode in modes}
    fitted: Callable[[str, dict], Calibration]
    if device.type == "cuda":
        kernels = run_kernel_probes(device, list(modes), GPU, drift.step_s)
        write_json(folder / "probes.json", probes_to_json(kernels))
        limits, paces = kernels.chunked_from, {"eager": kernels.small.get("host_pace")}

        def fitted(mode: str, about: dict) -> Calibration:
            return fit_kernels(kernels, mode, about)
    else:
        probes = run_probes(device, torch.bfloat16, ROUNDS)

        def fitted(mode: str, about: dict) -> Calibration:
            return fit(probes, about)

    written = {}
    for name, mode in files_of(device).items():
        drift_s = paces.get(mode) or (before[mode] + drift.now_s(mode)) / 2
        about = asdict(environment(device)) | {"drift_s": drift_s, "mode": mode}
        about |= {"chunked_from": limits[mode]} if mode in limits else {}
        written[folder / name] = fitted(mode, about)
        write_json(folder / name, to_json(written[folder / name]))
    return written

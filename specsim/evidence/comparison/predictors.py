"""Three predictors for every measured point.

| predictor | what it is made from |
|---|---|
| calibrated | probes on this machine, of models that are not predicted |
| catalog | the datasheet, and an engine's constants (fitted to published rows, or assumed) |
| ideal | the accelerator's datasheet alone: the roofline |

If the catalog does not have the accelerator, there is no `catalog` predictor, and `ideal` is the
roofline of the bandwidth and the FLOP/s that the probes measured.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from specsim import catalog
from specsim.evidence.calibration import Calibration
from specsim.evidence.measurement import Point
from specsim.hardware import Engine, System, system
from specsim.hardware import accelerator as accelerator_of
from specsim.hardware.accelerators import NETWORK_LATENCY_S

LINKS = ("link_bytes_per_s", "link_latency_s", "link_devices")
ENGINE_OF = {
    "eager": "torch-eager", "cuda-graphs": "cuda-graphs", "fused": "cuda-graphs",
    "compiled": "cuda-graphs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Predictor:
    """A named way to predict: one System for each mode of execution."""

    name: str
    systems: Mapping[str, System]

    def system(self, point: Point) -> System | None:
        """The System that predicts a point; None if the point's mode was not calibrated."""
        return self.systems.get(point.scenario.mode)


def predictors_for(
    calibrations: Mapping[str, Calibration], device: str, accelerator: str | None = None
) -> list[Predictor]:
    """The predictors for measurements on `device`.

    Arguments: `calibrations` by mode; `accelerator`, the catalog's name of the device, which is
    found from the name `device` if it is not given. Raises SpecsimError for an unknown accelerator.
    """
    known = accelerator or catalog_name(device)
    by_mode = {mode: with_links(c.system, known) for mode, c in calibrations.items()}
    found = [Predictor("calibrated", by_mode)]
    precision = next(iter(calibrations.values())).system.precision.name
    if known is not None:
        by_mode = {mode: system(known, name, precision) for mode, name in ENGINE_OF.items()}
        ideal = system(known, "ideal", precision)
        found.append(Predictor("catalog", by_mode))
        found.append(Predictor("ideal", dict.fromkeys(ENGINE_OF, ideal)))
    else:
        measured = next(iter(calibrations.values())).system
        ideal = replace(measured, engine=Engine("ideal"))
        found.append(Predictor("ideal", dict.fromkeys(ENGINE_OF, ideal)))
    return found


def with_links(measured: System, known: str | None) -> System:
    """A calibrated System with the links of the catalog's accelerator, or with an assumed network:
    probes of one device measure none."""
    links: dict[str, Any] = {"link_latency_s": NETWORK_LATENCY_S}
    if known is not None:
        row = accelerator_of(known)
        links = {name: getattr(row, name) for name in LINKS}
    return replace(measured, accelerator=replace(measured.accelerator, **links))


def catalog_name(device: str) -> str | None:
    """The catalog's accelerator for the name of a device: "NVIDIA H200" is h200-sxm.

    The first word of the catalog's name must be a word of the device's name. Of several such names,
    the one with the most words in common is taken ("sxm" matches "SXM4"), then the shortest. The
    CPUs of one family differ too much, so all words of a CPU's name must match.
    """
    words = re.findall(r"[a-z0-9]+", device.lower().replace("_", "-"))

    def shared(name: str) -> int:
        parts = name.split("-")
        return sum(any(word == part or word.startswith(part) for word in words) for part in parts)

    names = [
        name
        for name, row in catalog.load("accelerators").items()
        if name.split("-")[0] in words
        and (row.get("kind") != "cpu" or shared(name) == len(name.split("-")))
    ]
    return max(names, key=lambda name: (shared(name), -len(name)), default=None)

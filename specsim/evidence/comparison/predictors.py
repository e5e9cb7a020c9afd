"""The three predictions that every measured point gets.

| lens | what it has seen |
|---|---|
| calibrated | probes on this machine, of shapes that are not predicted |
| catalog | the chip's datasheet and an engine's constants, fitted to published rows or assumed |
| ideal | the chip's datasheet alone: the roofline |

Where the catalog knows no such chip, `catalog` is left out and `ideal` is the roofline of the
bandwidth and the arithmetic that the probes found.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from specsim import catalog
from specsim.evidence.calibration import Calibration
from specsim.evidence.measurement import Point
from specsim.hardware import Engine, System, system

ENGINE_OF = {"eager": "torch-eager", "cuda-graphs": "cuda-graphs", "compiled": "cuda-graphs"}


@dataclass(frozen=True, slots=True)
class Lens:
    """A named way to predict: a System for each mode of execution."""

    name: str
    systems: Mapping[str, System]

    def system(self, point: Point) -> System | None:
        """What predicts a point; None where its mode was not calibrated."""
        return self.systems.get(point.scenario.mode)


def lenses(
    calibrations: Mapping[str, Calibration], device: str, accelerator: str | None = None
) -> list[Lens]:
    """The lenses for measurements on `device`.

    Arguments: `calibrations` by mode; `accelerator`, the catalog's name of the chip, found from the
    device's own name if it is not given. Raises SpecsimError for an accelerator that is unknown.
    """
    found = [Lens("calibrated", {mode: c.system for mode, c in calibrations.items()})]
    chip = accelerator or catalog_name(device)
    precision = next(iter(calibrations.values())).system.precision.name
    if chip is not None:
        by_mode = {mode: system(chip, name, precision) for mode, name in ENGINE_OF.items()}
        ideal = system(chip, "ideal", precision)
        found.append(Lens("catalog", by_mode))
        found.append(Lens("ideal", dict.fromkeys(ENGINE_OF, ideal)))
    else:
        measured = next(iter(calibrations.values())).system
        ideal = replace(measured, engine=Engine("ideal"))
        found.append(Lens("ideal", dict.fromkeys(ENGINE_OF, ideal)))
    return found


def catalog_name(device: str) -> str | None:
    """The catalog's accelerator that a device's own name means: "NVIDIA H200" is h200-sxm.

    The name's first word must stand in the device's; of several, the one with most words there
    (sxm and SXM4 are alike), then the shortest. Processors differ too much within a family: all
    words of theirs must be there.
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

"""Measure the CPU suite again: the errors of the predictions, and how well two runs agree.

    python bench/cpu_suite.py [--out out/bench]

Runs every part of `python -m reference measure --suite cpu` (about four minutes on two cores) and
`specsim compare`. Then compares the step and cycle times with those of the run before, or of the
committed run, on a machine of the same name.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from specsim.evidence.measurement import Measurement, Point

COMMITTED = Path(__file__).parent.parent / "measurements"


def main() -> int:
    """Measure the suite, and compare it with the run before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    options = parser.parse_args()
    before = {}
    for folder in (COMMITTED, options.out):  # a later run of a machine replaces the committed one
        before |= {place.name: times(place) for place in folder.glob("*/") if times(place)}
    shutil.rmtree(options.out, ignore_errors=True)
    command = [sys.executable, "-m", "reference", "measure", "--suite", "cpu", "--device", "cpu"]
    measured = subprocess.run([*command, "--out", str(options.out)], check=False).returncode
    for folder in sorted(options.out.glob("*/")):
        subprocess.run([sys.executable, "-m", "specsim", "compare", str(folder)], check=True)
        agreement(folder.name, before.get(folder.name, {}), times(folder))
    return measured


def times(folder: Path) -> dict[str, float]:
    """Seconds of a plain step or a cycle by point."""
    found: dict[str, float] = {}
    for file in sorted(folder.glob("*.json")):
        if not file.name.startswith(("calibration", "probes")):
            found |= {point.name: seconds(point) for point in Measurement.read(file).points}
    return found


def seconds(point: Point) -> float:
    """The median time of a cycle, or of a plain step."""
    timing = point.cycle_s if point.scenario.gamma else point.step_s
    assert timing is not None
    return timing.median


def agreement(machine: str, before: dict[str, float], now: dict[str, float]) -> None:
    """Print how far the times of two runs are apart."""
    common = before.keys() & now.keys()
    if common:
        deviations = [abs(now[name] / before[name] - 1) for name in common]
        print(
            f"{machine}: the times of {len(common)} points are {statistics.median(deviations):.1%} "
            "from those of the run before (median)"
        )


if __name__ == "__main__":
    sys.exit(main())

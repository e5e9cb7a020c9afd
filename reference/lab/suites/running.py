"""Runs a part of a suite point by point into a file. Points in the file are not measured again.

    measurements/nvidia-h200/calibration.json   the probes (and calibration-eager.json)
    measurements/nvidia-h200/plain.json         a file per part, written whole after every point

A point that does not fit into memory is skipped, with a message. A point that fails is reported,
and the next point is measured.
"""

import gc
import re
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from reference.chunked_attention import LONG, read_in_chunks_from
from reference.fused import missing
from reference.graphs import forget
from reference.lab.drift import DriftProbe
from reference.lab.suites import calibrating
from reference.lab.suites.baseline import measure_baseline
from reference.lab.suites.budget import need
from reference.lab.suites.measuring import Measurer
from reference.lab.suites.models import ModelCache
from reference.lab.suites.points import PARTS, PlannedPoint, Suite
from reference.lab.suites.variants import Effort, effort_on
from reference.machine import environment
from reference.memory import DoesNotFit, free_bytes
from specsim.checks import SpecsimError, require_positive
from specsim.checks.files import read_json, require_writable
from specsim.evidence.measurement import Environment, Measurement, Point

Say = Callable[[str], None]


def machine_name(env: Environment, device: torch.device) -> str:
    """The name of a machine's folder, for example "nvidia-h200" or "cpu-2core"."""
    if device.type == "cpu":
        return f"cpu-{env.threads}core"
    return re.sub(r"[^a-z0-9]+", "-", env.device.lower()).strip("-")


def run_suite(
    suite: Suite,
    parts: Iterable[str],
    out: Path,
    device: torch.device,
    *,
    machine: str | None = None,
    pair: str = "bundled",
    minutes: float | None = None,
    longest: float | None = None,
    dry_run: bool = False,
    effort: Effort | None = None,
    say: Say = print,
) -> int:
    """Measure the points of `parts` that are missing in `out`.

    `minutes` is a limit for each part: no point is begun that would exceed it. Points that need
    more than `longest` seconds, by the plan, are skipped. Another run may measure into the same
    folder. Returns how many points failed or were left for another run.
    Raises SpecsimError for an unknown part, for a file in `out` that is not a measurement, and if
    nothing can be written there.
    """
    for part in (parts := list(parts)):
        if part not in PARTS:
            raise SpecsimError(f"unknown part {part!r}; known: {', '.join(PARTS)}")
    for name, value in (("--minutes", minutes), ("--longest", longest)):
        if value is not None:
            require_positive(name, value, or_zero=True)
    env = environment(device)
    folder = out / (machine or machine_name(env, device))
    effort = effort or effort_on(device)
    failed = 0
    for part in parts:
        if part == "probes":
            calibrate(folder, device, say, dry_run)
            continue
        run = PartRun(suite, part, folder, device, env, effort, pair, say, longest)
        failed += run.plan() if dry_run else run.measure(minutes)
    return failed


def calibrate(folder: Path, device: torch.device, say: Say, dry_run: bool) -> None:
    """Time the probes and fit a System to them, for every mode, unless the files are there."""
    files = [folder / name for name in calibrating.files_of(device)]
    if all(file.is_file() for file in files):
        say(f"probes: measured already: {', '.join(map(str, files))}")
    elif dry_run:
        say(f"probes: {', '.join(map(str, files))}, about a minute and a half")
    else:
        require_writable(folder)
        for file, calibration in calibrating.calibrate(folder, device).items():
            say(
                f"probes: wrote {file}; fit: median error {calibration.median_error:.1%}, worst "
                f"{calibration.worst_error:.1%}"
            )


class PartRun:
    """One part of a suite on one machine."""

    def __init__(
        self,
        suite: Suite,
        part: str,
        folder: Path,
        device: torch.device,
        env: Environment,
        effort: Effort,
        pair: str,
        say: Say,
        longest: float | None = None,
    ):
        self.suite, self.part, self.device, self.longest = suite, part, device, longest
        self.folder, self.file = folder, folder / f"{part}.json"
        self.effort, self.say = effort, say
        self.cache = ModelCache(suite, device, pair)
        self.measurement = Measurement.read(self.file) if self.file.is_file() else Measurement(env)
        self.measurement.require_device(env.device, self.file)
        if (folder / "calibration.json").is_file():
            self.measurement.calibration = "calibration.json"
        done = {point.name for point in self.measurement.points}
        self.done = [point for point in suite.of(part) if point.name in done]
        self.missing = [point for point in suite.of(part) if point.name not in done]

    def plan(self) -> int:
        """Print what would be measured, and about how long it takes."""
        bandwidth, total, last = self._bandwidth(DriftProbe(self.device)), 0.0, None
        for point in self.missing:
            if sentence := self._obstacle(point, bandwidth):
                self.say(f"{point.name}: skipped: {sentence}")
                continue
            made = last is not None and last.pair == point.pair
            wanted = need(point, self.cache, self.effort, bandwidth, made)
            if sentence := self._too_long(wanted.seconds):
                self.say(f"{point.name}: skipped: {sentence}")
                continue
            total, last = total + wanted.seconds, point
            self.say(
                f"{point.name}: about {wanted.seconds:.1f} s, {wanted.memory_bytes / 1e9:.1f} GB"
                + (", reserved" if point.reserved else "")
            )
        self.say(
            f"{self.part}: {len(self.missing)} of {len(self.suite.of(self.part))} points to "
            f"measure, about {total / 60:.1f} minutes at {bandwidth / 1e9:.0f} GB/s"
        )
        return 0

    def measure(self, minutes: float | None = None) -> int:
        """Measure the missing points, and write the file after each.

        Returns how many failed or were left for another run.
        """
        if self.done:
            self.say(f"{self.part}: {len(self.done)} points are in {self.file} already")
        if not self.missing:
            return 0
        require_writable(self.folder)
        started, failed = time.monotonic(), 0
        measurer = Measurer(self.device, self.effort, self._calibrated("drift_s"))
        chunked_from = self._calibrated("chunked_from")
        bandwidth = self._bandwidth(measurer.probe)
        for index, point in enumerate(self.missing, 1):
            wanted = need(point, self.cache, self.effort, bandwidth, self.cache.holds(point))
            elapsed = time.monotonic() - started
            if minutes is not None and elapsed + wanted.seconds > 60 * minutes:
                left = len(self.missing) - index + 1
                self.say(
                    f"{self.part}: stopped after {elapsed / 60:.1f} minutes with {left} points "
                    "left; run the same command again to continue"
                )
                failed += left
                break
            if sentence := self._obstacle(point, bandwidth) or self._too_long(wanted.seconds):
                self.say(f"{point.name}: skipped: {sentence}")
                continue
            if self._is_there(point):
                self.say(f"{point.name}: measured by another run meanwhile")
                continue
            begun = time.monotonic()
            sentence = self._one(point, measurer, int(chunked_from.get(point.mode, LONG)))
            failed += sentence is not None and sentence.startswith("failed")
            took = time.monotonic() - begun
            outcome = sentence or described(
                next(each for each in self.measurement.points if each.name == point.name)
            )
            self.say(f"[{index}/{len(self.missing)}] {point.name}: {outcome} ({took:.1f} s)")
            if sentence and not self._device_answers():
                self.say(f"{self.part}: stopped: the device no longer answers; run it again")
                break
        self.cache.clear()
        return failed

    def _one(self, point: PlannedPoint, measurer: Measurer, chunked_from: int) -> str | None:
        """Measure and write one point, with windows of `chunked_from` slots and more read in
        chunks. Returns None, or the reason why it was not measured."""
        try:
            models = self.cache.models(point)
            forget(models.target)  # free the last point's graphs and KV caches
            with read_in_chunks_from(chunked_from):
                if point.part == "peer":
                    measured = measure_baseline(point, models, measurer, self.cache.pair)
                else:
                    measured = measurer.measure(point, models)
        except torch.OutOfMemoryError:
            sentence = "skipped: out of memory"
        except DoesNotFit as error:
            sentence = f"skipped: {error}"
        except Exception as error:  # the points after a failed one are still measured
            if not isinstance(error, SpecsimError | ImportError):
                traceback.print_exc()
            text = str(error).strip() or "no reason given"
            sentence = f"failed: {type(error).__name__}: {text.splitlines()[0]}"
        else:
            self.measurement.add_to(self.file, measured)
            return None
        self.cache.clear()  # the kept models may be incomplete
        gc.collect()
        return sentence

    def _is_there(self, point: PlannedPoint) -> bool:
        """Whether another run has added the point to the file since this one began."""
        there = Measurement.read(self.file).points if self.file.is_file() else []
        return point.name in {each.name for each in there}

    def _device_answers(self) -> bool:
        """Whether the device still computes. Some errors end its CUDA context for good."""
        try:
            return torch.ones(1, device=self.device).add(1).item() == 2.0
        except RuntimeError:
            return False

    def _obstacle(self, point: PlannedPoint, bandwidth: float) -> str | None:
        """Why a point cannot be measured on this device; None if it can."""
        if point.mode == "cuda-graphs" and self.device.type != "cuda":
            return f"CUDA graphs need a CUDA device, not {self.device.type}"
        if point.mode == "fused" and (lacks := missing(self.device)):
            return f"the mode 'fused' needs {lacks}"
        wanted = need(point, self.cache, self.effort, bandwidth, True).memory_bytes
        free = free_bytes(self.device) + self._held_bytes()
        if wanted > free:
            return f"it needs {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        return None

    def _too_long(self, seconds: float) -> str | None:
        """Why a point that needs so many seconds is left out; None if it is not."""
        if self.longest is None or seconds <= self.longest:
            return None
        return f"it needs about {seconds:.1f} s, which is more than {self.longest:g}"

    def _held_bytes(self) -> float:
        """GPU memory of the kept models. The next point uses them, or they are freed."""
        return float(torch.cuda.memory_allocated(self.device)) if self._on_cuda else 0.0

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _bandwidth(self, probe: DriftProbe) -> float:
        return probe.nbytes / probe.product_s()

    def _calibrated(self, name: str) -> dict[str, float]:
        """A value of the machine's calibrations by mode, where it is there.

        `drift_s` is the seconds of the drift probe. `chunked_from` is the smallest window, in
        slots, that attention reads in chunks.
        """
        found = {}
        for file, mode in calibrating.files_of(self.device).items():
            path = self.folder / file
            if not path.is_file():
                continue
            about = read_json(path, finite=True).get("environment", {})
            if not isinstance(about, dict):
                raise SpecsimError(f"{path}: environment must be a table, not {about!r:.100}")
            if (value := about.get(name)) is not None:
                require_positive(f"{path}: {name}", value)
                found[mode] = value
        return found


def described(point: Point) -> str:
    """The result of a point in a few words."""
    assert point.step_s is not None
    assert point.cycle_s is not None
    step = point.step_s.median * 1e3
    if point.part == "peer":
        ratio = point.cycle_s.median / point.step_s.median
        return f"{point.cycle_s.median * 1e3:.3f} ms a token, {ratio:.2f}x our plain step"
    if not point.scenario.gamma:
        return f"{step:.3f} ms a step"
    assert point.verify_step_s is not None
    verify = point.verify_step_s.median * 1e3
    if point.scenario.method == "given":
        return f"{verify:.3f} ms for {point.scenario.gamma + 1} rows, {step:.3f} ms for one"
    assert point.speedup is not None
    return f"{point.tokens_per_cycle:.2f} tokens per cycle, {point.speedup.median:.2f}x"

"""How far a command is, on standard error."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from specsim.scenario.sweeping import Metric, SweepPoint, SweepProgress
from specsim.scenario.sweeping.summary import require_metric

# A run shorter than the first shows no progress; how often it is shown on a terminal, and in a log.
QUIET_S, OFTEN_S, LOGGED_S = 1.0, 0.2, 60.0


class SweepBar:
    """How far a sweep is, on standard error: a bar on a terminal, else a line every minute. Stops a
    sweep whose results lack the metric, at the first of them."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.checked, self.drawn = metric, False, False
        self.begun = self.shown = time.monotonic()

    def __call__(
        self, progress: SweepProgress, point: SweepPoint, outcome: Mapping[str, Any]
    ) -> None:
        if not self.checked and "result" in outcome:
            require_metric(self.metric, outcome["result"])
            self.checked = True
        now = time.monotonic()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if now - self.shown < (OFTEN_S if terminal else LOGGED_S) or now - self.begun < QUIET_S:
            return
        self.shown = now
        if sys.stderr is None:
            return
        if terminal:
            print(f"\r{self.line(progress, now):79.79s}", end="", file=sys.stderr, flush=True)
            self.drawn = True
        else:
            print(self.line(progress, now), file=sys.stderr, flush=True)

    def line(self, progress: SweepProgress, now: float) -> str:
        """The bar, the points, their rate and the time that is left."""
        share = 1 - progress.left / progress.total
        filled = int(20 * share)
        rate = progress.computed / (now - self.begun)
        failed = f", {progress.errors:,} errors" if progress.errors else ""
        return (
            f"[{'#' * filled}{'.' * (20 - filled)}] {share:4.0%}, "
            f"{progress.total - progress.left:,} of {progress.total:,}{failed}, {rate:.3g}/s, "
            f"{clock(progress.left / rate)} left"
        )

    def end(self) -> None:
        """Clear the line."""
        if self.drawn:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A time as 1:02:03, with days where it takes them."""
    days, rest = divmod(round(seconds), 86_400)
    said = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {said}" if days else said

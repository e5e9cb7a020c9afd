"""How far a command is: one line on standard error, written over and cleared at the end."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from specsim.checks.columns import WIDTH

QUIET_S, OFTEN_S = 2.0, 0.3  # what is done sooner shows nothing; how often the line is written


class StatusLine:
    """The line. On a terminal it is written over; where standard error is none, a line is printed
    every `logged_s` seconds (None: never)."""

    def __init__(self, logged_s: float | None = None) -> None:
        self.on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.often_s = OFTEN_S if self.on_terminal else logged_s
        self.begun = self.shown = time.monotonic()
        self.drawn = False

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self.begun

    def is_due(self) -> bool:
        """Whether it is time to write the line."""
        if self.often_s is None or sys.stderr is None or self.seconds < QUIET_S:
            return False
        return time.monotonic() - self.shown >= self.often_s

    def write(self, text: str) -> None:
        """Write the line, cut to the width of a page."""
        self.shown = time.monotonic()
        if self.on_terminal:
            width = WIDTH - 1
            print(f"\r{text[:width]:{width}s}", end="", file=sys.stderr, flush=True)
            self.drawn = True
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self.drawn:
            print("\r" + " " * (WIDTH - 1) + "\r", end="", file=sys.stderr, flush=True)
            self.drawn = False


def bar(share: float, width: int = 20) -> str:
    """A share as a bar and in percent."""
    filled = int(width * share)
    return f"[{'#' * filled}{'.' * (width - filled)}] {share:4.0%}"


def clock(seconds: float) -> str:
    """A time as 1:02:03, with days where it takes them."""
    days, rest = divmod(round(seconds), 86_400)
    said = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {said}" if days else said


@contextmanager
def working(doing: str) -> Iterator[None]:
    """While the body runs, say what is being done and for how long, on a terminal alone."""
    status = StatusLine()
    if not status.on_terminal:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(status, doing, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        status.end()


def _watch(status: StatusLine, doing: str, done: threading.Event) -> None:
    wait_s = QUIET_S
    while not done.wait(wait_s):
        wait_s, took = OFTEN_S, f" … {status.seconds:.0f} s"
        status.write(doing[: WIDTH - 1 - len(took)] + took)

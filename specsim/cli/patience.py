"""That something is going on, on a terminal's standard error, where it takes longer than 2 s."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WIDTH = 80
QUIET_S, OFTEN_S = 2.0, 0.5


@contextmanager
def working(doing: str) -> Iterator[None]:
    """While the body runs, say after 2 s what is being done and for how long; then clear the line.
    Nothing is written where standard error is no terminal."""
    stream = sys.stderr
    if stream is None or not stream.isatty():
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(doing, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(doing: str, done: threading.Event) -> None:
    begun, drawn = time.monotonic(), False
    wait = QUIET_S
    while not done.wait(wait):
        wait, drawn = OFTEN_S, True
        took = f" … {time.monotonic() - begun:.0f} s"
        line = f"\r{doing[: WIDTH - 1 - len(took)]}{took}"
        print(line, end="", file=sys.stderr, flush=True)
    if drawn:
        print("\r" + " " * (WIDTH - 1) + "\r", end="", file=sys.stderr, flush=True)

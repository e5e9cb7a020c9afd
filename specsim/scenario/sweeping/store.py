"""Where results are kept: a file with one JSON line per finished point, found by the point's key.

    {"specsim_sweep":1}
    {"key":"91f0c46d0e0b3a52","ok":true,"seconds":0.012,"point":{…},"result":{…}}
    {"key":"5c0e7a4b1d2f9e63","ok":false,"seconds":0.001,"point":{…},"error":"…"}

A line is appended whole as soon as its point is finished. What a process that was killed left as
half a line at the end is dropped. Of two lines of one key, the later one holds. Only one sweep at a
time writes to a file. The index in memory takes 17 bytes a point.
"""

import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from specsim.checks import Array, Booleans, SpecsimError
from specsim.checks.files import require_place
from specsim.scenario.sweeping.points import Outcome, SweepPoint, plain

HEADER = b'{"specsim_sweep":1}\n'
LINE = re.compile(rb'\{"key":"([0-9a-f]{16})","ok":(true|false),"seconds":.*\}\n', re.DOTALL)


class SweepStore:
    """The results in a file, or in memory where `path` is None; see `opened`."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: int | None = None
        self._end = 0
        self._keys, self._places, self._failed = array("Q"), array("Q"), array("B")
        self._memory: list[bytes] = []
        self._sorted: tuple[Array, Array, Booleans] | None = None

    def is_done(self, key: str, retry: bool = False) -> bool:
        """Whether a result of the key was there when the store was opened, or last indexed; with
        `retry` an error does not count."""
        found = self._find(key)
        return found is not None and not (retry and found[1])

    def add(self, point: SweepPoint, outcome: Outcome) -> None:
        """Append the outcome of a point; SpecsimError if it cannot be written whole."""
        seconds = round(outcome["seconds"], 6)
        ok = "result" in outcome
        name = "result" if ok else "error"
        settings = {key: plain(value) for key, value in point.settings.items()}
        value = outcome[name]
        if ok:
            value = {key: plain(each) for key, each in value.items()}
        document = {
            "key": point.key, "ok": ok, "seconds": seconds, "point": settings, name: value
        }  # fmt: skip
        line = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self._remember(int(document["key"], 16), not ok)
        if self.path is None:
            self._memory.append(line)
        else:
            try:
                self._append(line)
            except BaseException:
                for each in (self._keys, self._places, self._failed):
                    each.pop()
                raise

    def outcomes(self, points: Iterable[SweepPoint]) -> Iterator[tuple[SweepPoint, Outcome | None]]:
        """Each point with its outcome; None for one that was not computed."""
        self._sorted = None
        for point in points:
            found = self._find(point.key)
            yield point, None if found is None else json.loads(self._line(found[0]))

    def _find(self, key: str) -> tuple[int, bool] | None:
        if self._sorted is None:
            keys = np.frombuffer(self._keys, np.uint64) if self._keys else np.zeros(0, np.uint64)
            order = np.argsort(keys, kind="stable")  # of equal keys the last line holds
            self._sorted = (
                keys[order],
                np.array(self._places, np.uint64)[order],
                np.array(self._failed, bool)[order],
            )
        keys, places, failed = self._sorted
        number = np.uint64(int(key, 16))
        at = int(np.searchsorted(keys, number, "right")) - 1
        return (int(places[at]), bool(failed[at])) if at >= 0 and keys[at] == number else None

    def _remember(self, number: int, failed: bool) -> None:
        self._keys.append(number)
        self._places.append(len(self._memory) if self.path is None else self._end)
        self._failed.append(failed)

    def _line(self, place: int) -> bytes:
        if self.path is None:
            return self._memory[place]
        assert self._file is not None
        os.lseek(self._file, place, os.SEEK_SET)
        parts: list[bytes] = []
        while part := os.read(self._file, 1 << 14):
            end = part.find(b"\n") + 1
            parts.append(part[:end] if end else part)
            if end:
                break
        return b"".join(parts)

    def _append(self, line: bytes) -> None:
        """Write a line at the end, whole or not at all."""
        assert self._file is not None
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BaseException as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            if isinstance(error, OSError):
                raise SpecsimError(
                    f"cannot write {self.path}: {error.strerror}; the points before are kept, and "
                    "the same command goes on after them"
                ) from None
            raise
        self._end += written

    @contextmanager
    def opened(self) -> Iterator["SweepStore"]:
        """The store with what its file holds, locked for this process.

        Raises SpecsimError if another sweep writes to the file, and if it is no store.
        """
        if self.path is None:
            yield self
            return
        require_place(self.path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise SpecsimError(f"cannot write {self.path}: {error.strerror}") from None
        try:
            self._lock()
            self._load()
            yield self
            with suppress(OSError):  # a file system that knows no such thing
                os.fsync(self._file)
        finally:
            os.close(self._file)
            self._file = None

    def _lock(self) -> None:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            return
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process's end ends it
        except BlockingIOError:
            raise SpecsimError(
                f"another sweep writes to {self.path}: wait until it has ended, or give --out "
                "FOLDER"
            ) from None
        except OSError:  # a file system without locks
            return

    def _load(self) -> None:
        """Index the lines of the file, and drop what is only half of one."""
        assert self._file is not None
        assert self.path is not None
        self._keys, self._places, self._failed = array("Q"), array("Q"), array("B")
        self._sorted, self._end = None, 0
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            first = file.readline(len(HEADER) + 1)
            if HEADER.startswith(first) and first != HEADER:  # new, or killed as it began
                os.ftruncate(self._file, 0)
                self._append(HEADER)
                return
            if first != HEADER:
                raise SpecsimError(f"{self.path} is no store of a sweep: it is left as it is")
            self._end = len(HEADER)
            for number, line in enumerate(file, 2):
                found, is_last = LINE.fullmatch(line), not file.peek(1)
                if found is None or (is_last and not _is_json(line)):
                    if is_last:
                        break
                    raise SpecsimError(
                        f"line {number} of {self.path} is damaged: remove it, and its point is "
                        "computed again"
                    )
                self._remember(int(found[1], 16), found[2] == b"false")
                self._end += len(line)
        os.ftruncate(self._file, self._end)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True

"""Files are read whole and checked, and written whole or not at all.

Every JSON file that comes in passes `read_json`; every file that goes out passes `writing`.
Two processes may write one file: each writes under a name of its own and replaces the file in one
step, so a reader sees the old content or the new. Who reads a file in order to add to it holds
`locked` meanwhile.
"""

import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from specsim.checks.limits import LIMITS, require_limit
from specsim.checks.values import SpecsimError

# --------------------------------------------------------------------------------- reading


def read_bytes(path: str | Path, limit: str = "json_bytes") -> bytes:
    """The content of a file; SpecsimError if it is missing, unreadable, or larger than the limit of
    `checks.limits` called `limit`. Devices and named pipes, which may never end, are refused."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        piped = stat.S_ISFIFO(mode) and path.parts[1:2] in (("dev",), ("proc",))  # <(command)
        if stat.S_ISDIR(mode):
            raise SpecsimError(f"cannot read {path}: it is a folder")
        if not (stat.S_ISREG(mode) or piped):
            raise SpecsimError(f"cannot read {path}: it is not a regular file")
        with path.open("rb") as file:
            content = file.read(LIMITS[limit].most + 1)
    except FileNotFoundError:
        raise SpecsimError(f"no such file: {path}") from None
    except SpecsimError:
        raise
    except ValueError as error:  # a name with a null character
        raise SpecsimError(f"cannot read {str(path)!r}: {error}") from None
    except OSError as error:
        raise SpecsimError(f"cannot read {path}: {error.strerror}") from None
    require_limit(limit, len(content), f"the size of {path} in bytes")
    return content


def read_text(path: str | Path, limit: str) -> str:
    """The text of a file in UTF-8 or UTF-16, also where it is packed by gzip; what is not text is
    replaced. SpecsimError as `read_bytes`, for what the file expands to as well."""
    return decoded(read_bytes(path, limit), str(path), limit)


def read_ascii(path: str | Path, limit: str) -> str:
    """As `read_text`, with one byte a character: what is not ASCII becomes other characters. For
    logs of any size, whose names and numbers are ASCII."""
    return decoded_ascii(read_bytes(path, limit), str(path), limit)


def decoded(content: bytes, name: str, limit: str) -> str:
    """As `read_text`, of content that was read already; errors call it `name`."""
    content = _unpacked(content, name, limit)
    return content.decode(_encoding(content), errors="replace")


def decoded_ascii(content: bytes, name: str, limit: str) -> str:
    """As `read_ascii`, of content that was read already; errors call it `name`."""
    content = _unpacked(content, name, limit)
    encoding = _encoding(content)
    if encoding == "utf-8-sig":
        return content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    return content.decode(encoding, "replace").encode("ascii", "replace").decode("ascii")


def _unpacked(content: bytes, name: str, limit: str) -> bytes:
    """The content, unpacked where it was packed by gzip."""
    if content[:2] == b"\x1f\x8b":
        import gzip  # rarely needed
        import zlib

        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(LIMITS[limit].most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise SpecsimError(f"{name} is a damaged gzip file: {error}") from None
        require_limit(limit, len(content), f"the unpacked size of {name} in bytes")
    return content


def _encoding(content: bytes) -> str:
    """UTF-8, or one of the encodings of UTF-16 that shells write."""
    start = content[:512]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # as PowerShell writes
        return "utf-16"
    if start[1::2].count(0) > len(start) // 3 and not start[::2].count(0):
        return "utf-16-le"
    return "utf-8-sig"


def read_json(path: str | Path, *, finite: bool = False) -> dict[str, Any]:
    """The object in a JSON file, in UTF-8, UTF-16 or UTF-32.

    Raises SpecsimError, in one line with the file's name, if the file cannot be read, is not valid
    JSON, holds something else than an object, is nested too deeply, or, with `finite`, holds a
    number that is NaN or infinite.
    """
    return parse_json(read_bytes(path), str(path), finite=finite)


def parse_json(content: bytes | str, name: str, *, finite: bool = False) -> dict[str, Any]:
    """As `read_json`, of content that was read already; errors call it `name`."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise SpecsimError(f"{name} is nested too deeply") from None
    except UnicodeDecodeError:
        raise SpecsimError(f"{name} is not valid JSON: it is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise SpecsimError(f"{name} is not valid JSON: {error}") from None
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise SpecsimError(
            f"{name} is not valid JSON: it holds a number that is too long"
        ) from None
    if not isinstance(value, dict):
        raise SpecsimError(f"{name} must hold a JSON object, not a {type(value).__name__}")
    _require_sound(value, name, finite)
    return value


def _require_sound(value: dict[str, Any], name: str, finite: bool) -> None:
    """SpecsimError if `value` nests deeper than the limit, or holds a number out of range."""
    level: list[Any] = [value]
    values = 0
    for _ in range(LIMITS["json_depth"].most):
        below: list[Any] = []
        values += sum(map(len, level))
        require_limit("json_values", values, f"the number of values in {name}")
        for part in level:
            for key, each in part.items() if isinstance(part, dict) else enumerate(part):
                if isinstance(each, dict | list):
                    below.append(each)
                elif isinstance(each, int) and abs(each) >= 2**63:
                    raise SpecsimError(f"{name} holds a number beyond 64 bits at {key!r}")
                elif finite and isinstance(each, float) and not abs(each) < float("inf"):
                    raise SpecsimError(f"{name} holds {each} at {key!r}, not a finite number")
        level = below
        if not level:
            return
    raise SpecsimError(f"{name} is nested too deeply")


# --------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A new, empty file to write; when the block ends it replaces `path` in one step.

    Its name is unique, in the same folder, so that two writers do not meet. If the block fails, the
    new file goes and `path` stays as it was. A link stays a link: the file that it means is
    replaced. Raises SpecsimError if the file cannot be written, for a full disk too.
    """
    path = Path(path)
    new: Path | None = None
    try:
        final = _destination(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        unique = final.with_name(f".{final.name[:80]}.{os.getpid()}-{os.urandom(4).hex()}.new")
        os.close(os.open(unique, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        new = unique
        yield new
        if final.exists():
            new.chmod(stat.S_IMODE(final.stat().st_mode))
        os.replace(new, final)
        new = None
    except OSError as error:
        raise SpecsimError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if new is not None:
            with suppress(OSError):
                new.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; SpecsimError if it cannot be written."""
    with writing(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file, whole or not at all; SpecsimError if it cannot be written."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock for `path` meanwhile; another process that asks for it waits. The lock is a file
    next to it, `.NAME.lock`. Where the system knows no such locks, there is none."""
    path = Path(path)
    try:
        final = _destination(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        file = (final.parent / f".{final.name}.lock").open("ab")
    except OSError as error:
        raise SpecsimError(f"cannot write {path}: {error.strerror or error}") from None
    with file:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)  # the end of the process ends it, too
        yield


def require_writable(folder: str | Path) -> None:
    """Make a folder if it is missing; SpecsimError if no file can be written in it. Called before a
    long computation, not after it."""
    with writing(Path(folder) / ".writable") as new:
        new.write_bytes(b"x")
    with suppress(OSError):
        (Path(folder) / ".writable").unlink()


def require_place(path: str | Path) -> None:
    """SpecsimError if `path` cannot be written; nothing is written. Called before a computation."""
    with suppress(_Enough), writing(path):
        raise _Enough


class _Enough(Exception):
    """Ends a block of `writing` that was only a trial."""


def _destination(path: Path) -> Path:
    """The file that is meant, links followed; SpecsimError if it exists and is no regular file."""
    try:
        final = path.resolve()
    except (RuntimeError, ValueError) as error:  # links in a circle, a null character
        raise SpecsimError(f"cannot write {str(path)!r}: {error}") from None
    if final.is_dir() or not final.name:
        raise SpecsimError(f"cannot write {path}: it is a folder; give the name of a file in it")
    if final.exists() and not final.is_file():
        raise SpecsimError(f"cannot write {path}: it is not a regular file")
    return final

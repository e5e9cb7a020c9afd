"""Files in and out: what is no JSON object is refused in one line; what is written is whole, for
two writers and a reader, on a full disk, and after an interrupt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specsim.checks import SpecsimError
from specsim.checks.files import (
    locked,
    read_json,
    require_writable,
    write_json,
    write_text,
    writing,
)

BAD_JSON = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "binary": bytes(range(256)),
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "deep lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a": ' * 5_000 + b"1" + b"}" * 5_000,
    "just too deep": b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}",
    "long integer": b'{"a": ' + b"9" * 5_000 + b"}",
    "integer beyond 64 bits": b'{"a": {"b": [1' + b"0" * 30 + b"]}}",
    "too many values": b'{"a": [' + b"0," * 4_000_000 + b"0]}",
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_what_is_no_json_object_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(BAD_JSON[kind])
    with pytest.raises(SpecsimError) as refused:
        read_json(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_encoding_is_read(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes('{"name": "γ"}'.encode(encoding))
    assert read_json(file) == {"name": "γ"}


def test_a_number_that_is_not_finite_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    file = tmp_path / "points.json"
    for text in ('{"a": [NaN]}', '{"a": {"b": Infinity}}', '{"a": 1e999}'):
        file.write_text(text)
        assert read_json(file)  # a config.json may hold them: time_step_limit
        with pytest.raises(SpecsimError, match="not a finite number"):
            read_json(file, finite=True)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none", Path("a\0b")):
        with pytest.raises(SpecsimError):
            read_json(place)


def write_half(file: Path, fault: type[BaseException]) -> None:
    with writing(file) as new:
        new.write_text("half")
        raise fault


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "points.json"
    write_json(file, {"a": 1})
    for fault in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(fault):
            write_half(file, fault)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [each.name for each in file.parent.iterdir()] == ["points.json"]


def test_a_link_stays_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real.json") == {"a": 1}
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for place in (tmp_path, Path("."), Path("/dev/full"), Path("/dev/null"), tmp_path / "loop",
                  tmp_path / "file" / "x", Path("a\0b"), Path("/proc/x.json")):  # fmt: skip
        with pytest.raises(SpecsimError, match=r"^cannot write") as refused:
            write_json(place, {})
        assert "\n" not in str(refused.value)
    with pytest.raises(SpecsimError):
        require_writable("/proc/nowhere")
    require_writable(tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


WRITER = """
import sys
from specsim.checks.files import locked, read_json, write_json
for i in range(int(sys.argv[3])):
    with locked(sys.argv[1]):
        points = read_json(sys.argv[1])["points"]
        write_json(sys.argv[1], {"points": [*points, f"{sys.argv[2]}-{i}"], "pad": "x" * 20_000})
"""


def two_writers_and_a_reader(file: Path, rounds: int) -> int:
    """Two processes add points to one file while this one reads it; the number of reads. A torn
    read raises; the file holds all points afterwards."""
    write_json(file, {"points": []})
    command = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*command, name, str(rounds)]) for name in ("a", "b")]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        read_json(file)
        reads += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    points = read_json(file)["points"]
    assert sorted(points) == sorted(f"{name}-{i}" for name in "ab" for i in range(rounds))
    return reads


def test_two_writers_and_a_reader_lose_nothing(tmp_path: Path) -> None:
    assert two_writers_and_a_reader(tmp_path / "points.json", 50) > 0
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.slow
def test_two_writers_and_a_reader_lose_nothing_in_2000_rounds(tmp_path: Path) -> None:
    assert two_writers_and_a_reader(tmp_path / "points.json", 1000) > 0


def test_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "γ")
    assert (tmp_path / "a.txt").read_bytes() == "γ".encode()
    with locked(tmp_path / "a.txt"):
        assert (tmp_path / ".a.txt.lock").exists()

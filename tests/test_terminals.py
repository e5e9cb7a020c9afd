"""The command line on odd terminals, full disks and closed pipes, and interrupted at any moment."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specsim import cli
from specsim.checks.text import MOST, one_line

ROOT = Path(__file__).parent.parent
PREDICT = ["predict", "--target", "llama-3.1-8b", "--accelerator", "h100-sxm", "--method",
           "eagle-3", "--alpha", "0.7"]  # fmt: skip
FULL = Path("/dev/full")


def specsim(*arguments: str | bytes, code: str = "", **more: Any) -> subprocess.CompletedProcess:
    """A run of the command in a process of its own; `code` runs before it."""
    start = f"import sys\n{code}\nfrom specsim.cli import main\nsys.exit(main())"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": paths} | more.pop("env", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run([sys.executable, "-c", start, *arguments], env=env, timeout=60, **streams)


def is_one_line(said: bytes) -> bool:
    return said.startswith(b"specsim") and said.count(b"\n") == 1 and said.endswith(b"\n")


def test_a_terminal_that_knows_few_characters() -> None:
    run = specsim(*PREDICT, env={"PYTHONIOENCODING": "ascii"})
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"gamma = 4 \\u2026 6 are within 2 %" in run.stdout
    refused = specsim("predict", "--target", "γ…é.json", env={"PYTHONIOENCODING": "ascii"})
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [PREDICT, ["--version"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with FULL.open("wb") as full:
        run = specsim(*arguments, stdout=full)
    assert run.returncode == 2
    assert b"No space left on device" in run.stderr
    assert is_one_line(run.stderr)


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = specsim(*PREDICT, stdout=writing)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("message", "line"),
    [("γ = 4 …", "γ = 4 …"), ("a\nb\tc\\n", "a\\nb\\tc\\n"), ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
     ("\u2028\ud800", "\\u2028\\ud800")],
)  # fmt: skip
def test_what_no_terminal_prints_is_escaped(message: str, line: str) -> None:
    assert one_line(message) == line


def test_of_a_very_long_message_both_ends_are_kept() -> None:
    assert one_line("a" * MOST) == "a" * MOST
    assert one_line(f"{'a' * MOST}b") == f"{'a' * (MOST - 200)} … {'a' * 199}b"


def test_no_output_at_all() -> None:
    run = specsim(*PREDICT, code="import os; os.close(1); sys.stdout = None")
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_name_that_is_no_text() -> None:
    run = specsim("predict", "--target", b"\xff\xfe\n.json")
    assert run.returncode == 2
    assert is_one_line(run.stderr)


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.json", b"a\nb.json", b"\x1b[2J.json", b"x" * 5000, b"~nobody/x.json",
             b"x" * 5000 + b".json", b"a\0b.json", b"\xe2\x80\xa8", b""]
)  # fmt: skip
@pytest.mark.parametrize("option", ["--target", "--engine", "--draft", "--out"])
def test_a_name_that_no_terminal_prints(
    name: bytes, option: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["predict", "--target", "llama-3.1-8b", "--accelerator", "h100-sxm"]
    asked += ["--alpha", "0.5"] if option == "--draft" else []
    status = cli.main([*asked, option, os.fsdecode(name)])
    said = capsys.readouterr().err
    if status == 0:  # a name that a file can have
        assert option == "--out"
    else:
        assert status == 2
        assert is_one_line(said.encode())
        assert len(said) < 3000


@pytest.mark.parametrize("place", [".", "folder", "/dev/null", "file/x.json", "loop"])
def test_a_place_that_cannot_be_written_is_refused(
    place: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("specsim.cli.predict.resolve", None)  # nothing is computed before
    assert cli.main([*PREDICT, "--out", place]) == 2
    said = capsys.readouterr()
    assert "cannot write" in said.err
    assert is_one_line(said.err.encode())
    assert said.out == ""


# Ctrl-C at the moment when a module is looked for.
INTERRUPT = """
import importlib.abc, os, signal
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from specsim import cli
cli.on_interrupt(cli._leave)  # as the first line of main does
"""


@pytest.mark.parametrize(
    "name", ["specsim.checks", "numpy.linalg", "specsim.cli.predict", "specsim.planning.memory"]
)  # fmt: skip
def test_an_interrupt_at_any_moment_is_no_traceback(name: str) -> None:
    run = specsim(*PREDICT, code=INTERRUPT.format(name=name))
    assert run.returncode == 130
    assert run.stderr.strip() == b"specsim: interrupted"


def test_an_interrupt_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    # at the moment when the new file is to take its place
    code = "import os, signal\nos.replace = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
    run = specsim(*PREDICT, "--out", "x.json", code=code, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (130, b"specsim: interrupted\n")
    assert list(tmp_path.iterdir()) == []

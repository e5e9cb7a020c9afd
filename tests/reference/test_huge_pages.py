"""Huge pages: asked for where the system gives them, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reference.huge_pages import VARIABLE, ask, held_bytes

ALLOCATE = """
import reference
from reference.huge_pages import held_bytes
import torch
kept = torch.ones(16 << 20)  # 64 MB
print(held_bytes())
"""


def test_a_system_that_says_madvise_or_always_is_asked(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    for words, is_given in (
        ("always [madvise] never", True),
        ("[always] madvise never", True),
        ("always madvise [never]", False),
        ("", False),
    ):
        setting.write_text(words)
        environment: dict[str, str] = {}
        assert ask(environment, setting) is is_given
        assert environment == ({VARIABLE: "1"} if is_given else {})


def test_nothing_is_done_without_the_setting_or_against_the_environment(tmp_path: Path) -> None:
    environment = {VARIABLE: "0"}
    assert not ask(environment, tmp_path / "missing")
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never")
    assert not ask(environment, setting)
    assert environment == {VARIABLE: "0"}


def test_what_a_process_holds_is_read_in_bytes(tmp_path: Path) -> None:
    maps = tmp_path / "smaps_rollup"
    maps.write_text("Rss:   9000 kB\nAnonHugePages:      4096 kB\n")
    assert held_bytes(maps) == 4096 * 1024
    maps.write_text("Rss:   9000 kB\n")
    assert held_bytes(maps) is None
    assert held_bytes(tmp_path / "missing") is None


@pytest.mark.skipif(not ask({}), reason="this system gives no huge pages")
def test_importing_the_decoder_asks() -> None:
    """In a process of its own, where nothing has been allocated and nothing is set."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    run = subprocess.run(
        [sys.executable, "-c", ALLOCATE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) > 32 << 20

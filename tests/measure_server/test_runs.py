"""Whole runs: many streams at a time, Ctrl-C, nothing answered, progress."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    CHUNKED,
    EVENTS,
    LAST,
    ROOT,
    SMALL,
    Asked,
    Send,
    after_probe,
    answering,
    event,
    limit_of,
    load,
    measured,
    part,
    plain,
    served,
    usage,
    whole,
    word,
)

from specsim import cli
from specsim.checks import SpecsimError
from specsim.evidence import client
from specsim.evidence.client import measure_server
from specsim.evidence.served import read_runs


def test_four_hundred_streams_are_held_at_a_time() -> None:
    """The server answers none before all have asked."""
    streams = 400
    everybody = asyncio.Event()

    async def script(asked: Asked, send: Send) -> None:
        if asked.number == 0:
            await plain(asked, send)
            return
        if asked.number == streams:
            everybody.set()
        await send(CHUNKED)
        await everybody.wait()
        count = limit_of(asked)
        for _ in range(count):
            await send(part(event(word())))
            await asyncio.sleep(0)
        await send(part(event(usage(count))) + part(event(b"[DONE]")) + LAST)

    from specsim.cli.measure_server import open_many_files

    open_many_files(2 * streams)  # client and server are one process here
    with served(script) as server:
        run = measure_server(server.url, load(streams, concurrency=None, rate=float("inf")))
        assert server.most_open >= streams
    assert run.summary["completed"] == streams
    assert run.summary["total_output_tokens"] == 4 * streams
    assert run.summary["max_concurrent_requests"] == streams
    assert run.overhead is not None
    assert run.overhead.chunks_per_s > 0
    assert run.overhead.first_s > 0


def test_ctrl_c_leaves_what_was_measured(tmp_path: Path) -> None:
    """A real interrupt of a real process, as soon as five requests have been answered."""
    half = threading.Event()

    async def script(asked: Asked, send: Send) -> None:
        if asked.number <= 5:
            await plain(asked, send)
            return
        await send(CHUNKED + part(EVENTS[0]))
        half.set()
        await asyncio.sleep(60)

    out = tmp_path / "out.json"
    with served(script) as server:
        command = [sys.executable, "-m", "specsim", "measure-server", "--url", server.url,
                   "--concurrency", "1", "--requests", "50", "--prompt", "16", "--output", "4",
                   "--no-overhead", "--out", str(out), "--save-detailed"]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=environment) as process:  # fmt: skip
            assert half.wait(60)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert errors == ""
    assert printed.startswith("PARTIAL RESULT: interrupted\n")
    found = json.loads(out.read_text())
    assert (found["completed"], found["failed"], found["cut_off"]) == (5, 0, 1)
    assert found["unsent"] == 44
    assert found["stopped"] == "interrupted"
    assert found["errors"] == [""] * 5 + ["cut off"]
    (run,) = read_runs(out.read_text(), "out.json")
    assert run.completed == 5
    assert "Partial: interrupted" in run.cautions[0]


def test_nothing_answered_is_a_failure_and_said(capsys: Any, tmp_path: Path) -> None:
    busy = after_probe(answering(whole({"error": {"message": "busy"}}, 503)))
    out = tmp_path / "out.json"
    with served(busy) as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--out", str(out)]
        assert cli.main(words) == 1
    printed = capsys.readouterr().out
    assert "0 completed, 2 failed" in printed
    assert "failed: 2 x HTTP 503: busy" in printed
    assert json.loads(out.read_text())["mean_ttft_ms"] is None
    with pytest.raises(SpecsimError, match="no request of the result succeeded"):
        read_runs(out.read_text(), "out.json")


def test_it_runs_inside_a_running_loop() -> None:
    with served() as server:

        async def cell() -> client.ServerRun:
            return measure_server(server.url, load(), overhead=False)

        run = asyncio.run(cell())
    assert run.summary["completed"] == 3
    assert len(run) == 3


def test_progress_is_told() -> None:
    told: list[tuple[int, int, int]] = []
    held = threading.Event()

    async def script(asked: Asked, send: Send) -> None:
        while asked.number == 3 and not held.is_set():
            await asyncio.sleep(0.005)
        await plain(asked, send)

    def progress(ended: int, total: int, failed: int) -> None:
        told.append((ended, total, failed))
        if ended >= 2:
            held.set()

    measured(script, requests=5, progress=progress)
    assert (2, 5, 0) in told

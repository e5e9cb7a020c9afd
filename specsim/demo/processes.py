"""Servers that are started for a measurement, and stopped after it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from specsim.checks import SpecsimError

LOCAL = "127.0.0.1"
PATIENCE_S = 300.0  # to be ready: some engines compile kernels first
COMPILES_S = 7200.0  # to be ready, if our server compiles every stage first
ENDS_S = 20.0  # to end after it was asked to


def free_port() -> int:
    """A port of this machine that nothing listens on at present."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has started: its address, and its process with all that it has started."""

    url: str
    process: subprocess.Popen

    @contextmanager
    def alone(self, others: Iterable["Running"]) -> Iterator[str]:
        """Its address, while the `others` stand still."""
        with waiting(other for other in others if other is not self):
            yield self.url


@contextmanager
def waiting(servers: Iterable[Running]) -> Iterator[None]:
    """Let servers stand still: an engine may use a processor while it has nothing to do."""
    stopped = list(servers)
    for server in stopped:
        os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in stopped:
            os.killpg(server.process.pid, signal.SIGCONT)


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
    ready: str = "/v1/models",
    patience_s: float = PATIENCE_S,
) -> Iterator[Running]:
    """Start a server, wait until it answers at `ready`, and give it; stop it at the end.

    `environment` is added to this process's own. Raises SpecsimError, with the last lines that it
    wrote, if it ends before that or takes longer than `patience_s`.
    """
    url = f"http://{LOCAL}:{port}"
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | dict(environment or {}), start_new_session=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + patience_s
            while not answers(url + ready):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    last = " | ".join(log.read().strip().splitlines()[-3:])
                    how = "ended" if process.poll() is not None else "did not answer in time"
                    raise SpecsimError(f"the server ({command[0]} …) {how}: {last[-600:]}")
                time.sleep(0.2)
            yield Running(url, process)
        finally:
            stop(process)


def our_server(
    gamma: int, dtype: str, slots: int, target: str | Path | None = None,
    draft: str | Path | None = None, compiled_for: int | None = None,
) -> AbstractContextManager[Running]:  # fmt: skip
    """`python -m reference serve`, as a context: of the bundled pair, or of two checkpoints.

    With `compiled_for`, the tokens of a text at most, its stages are compiled where they are not
    kept yet. Without it what is kept is ignored: calibrations time stages as they are written.
    """
    port = free_port()
    command = [sys.executable, "-m", "reference", "serve", "--port", str(port)]
    command += ["--gamma", str(gamma), "--dtype", dtype, "--slots", str(slots)]
    for option, value in (("--target", target), ("--draft", draft)):
        command += [] if value is None else [option, str(value)]
    if compiled_for is None:
        return running(command, port, environment={"SPECSIM_COMPILED": "off"})
    command += ["--compile", "--max-model-len", str(compiled_for)]
    return running(command, port, patience_s=COMPILES_S)


def answers(url: str) -> bool:
    """Whether a GET is answered by 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen) -> None:
    """End a server with all that it has started: asked first, killed if it does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
    process.wait()

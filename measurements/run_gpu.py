"""Measure the GPU suite in named steps, for a GPU that is rented by the minute.

    python measurements/run_gpu.py                            every step, in half an hour at most
    python measurements/run_gpu.py --total 570 look tiny      two steps, in 570 seconds at most
    python measurements/run_gpu.py --total 570                the steps that are not finished

Each step is a command with its own time limit; the remaining total also limits it. At a limit the
step is interrupted, and killed ten seconds later. A step that does not fit into the remaining time
is not begun. After a failed step the next one runs.

    out/gpu/steps.tsv             a line for each attempt: step, outcome, exit status, seconds, …
    out/gpu/logs/<step>.log       the output of the step, with standard error
    out/gpu/look.json, profile.json, modes.json, dram.json, pair.json
    out/gpu/<machine>/*.json      calibrations, probes and measured points
    out/gpu/tiny/*.json           the points of the step `tiny`
    out/gpu.tar.gz                all of it, under gpu/, written again after each step

After an interruption, run the same command again. Finished steps are left out, and an unfinished
part of the suite continues with its missing points. To continue on another machine of the same
kind, unpack the archive there first: `tar xzf gpu.tar.gz -C out`. For another kind of machine, give
another --out: a folder holds the finished steps of one machine.

The script needs only NumPy. The steps need PyTorch; `smoke`, `pair` and `peer` need what the tests
need, and `dram` needs Nsight Compute.
"""

import argparse
import csv
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout is enough: nothing need be installed
from specsim.checks import SpecsimError  # noqa: E402
from specsim.checks.files import writing  # noqa: E402

GRACE_S = 10  # between the interruption of a step and killing it
PACKING_S = 2
SLOWER = 4  # the limits of steps on a CPU are this many times longer
STARTING_S = 25  # of a part's limit, for its start, its models and its last point
SHOWN = 12  # last lines of a log
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    "PYTHONUNBUFFERED": "1",  # the log of a killed step is complete
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",  # for transformers: see reference.attention
}


@dataclass(frozen=True, slots=True)
class Step:
    """Arguments of Python, with a limit in seconds.

    The step is not begun if fewer than `least` seconds are left. `is_part` marks a part of the
    suite, which gets its limit as --minutes. `says` describes the step; `shown` lines of its log
    are printed.
    """

    name: str
    says: str
    limit: float
    least: float
    arguments: tuple[str, ...]
    is_part: bool = False
    shown: int = SHOWN

    def command(self, seconds: float) -> list[str]:
        """The command line of the step, for a limit of `seconds`."""
        minutes = f"{max(seconds - STARTING_S, 0) / 60:.2f}"
        return [sys.executable, *self.arguments, *(("--minutes", minutes) if self.is_part else ())]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of steps.tsv."""

    step: str
    outcome: str  # finished, failed, out of time, interrupted, not begun
    exit: str
    seconds: str
    limit: str
    begun: str


def steps(options: argparse.Namespace) -> list[Step]:
    """All steps, in the order in which they run."""
    out, device = str(options.out), ("--device", options.device)
    measure = ("-m", "reference", "measure", "--out", out, *device, "--pair", options.pair)

    def part(name: str, says: str, limit: float) -> Step:
        arguments = (*measure, "--suite", options.suite, "--part", name)
        return Step(name, says, limit, 60, arguments, is_part=name != "probes")

    tiny = ("--suite", str(ROOT / "measurements" / "tiny.toml"), "--machine", "tiny")
    parts = ("--part", "plain", "verify", "speculation", "trained", "peer")
    tests = (
        "-m", "pytest", "-q", "-m", "gpu and not slow", "--maxfail", "12", "--tb", "short",
        "--timeout", "100", "-n", "4", "-p", "no:cacheprovider", "-p", "no:benchmark",
        str(ROOT / "tests" / "reference"),
    )  # fmt: skip

    def script(name: str) -> tuple[str, ...]:
        return str(ROOT / "measurements" / f"{name}.py"), *device, "--json"

    found = [
        Step("look", "the machine and its rates", 90, 20,
             (*script("look_at_gpu"), f"{out}/look.json"), shown=60),
        Step("tiny", "every kind of point once", 180, 60, (*measure, *tiny, *parts), shown=24),
        Step("profile", "the kernels of a cycle, and their times", 90, 30,
             (*script("profile_kernels"), f"{out}/profile.json"), shown=70),
        Step("smoke", "the tests marked gpu", 240, 60, tests),
        part("probes", "the calibration of the machine", 300),
        Step("modes", "an 8B model in every mode", 240, 60,
             (*script("modes"), f"{out}/modes.json"), shown=24),
        Step("dram", "bytes from memory for every token", 180, 60,
             (str(ROOT / "measurements" / "dram_bytes.py"), "--json", f"{out}/dram.json")),
        Step("pair", "every method on the trained pair", 180, 60,
             (*script("trained_pair"), f"{out}/pair.json"), shown=40),
        part("plain", "48 points of plain decoding", 240),
        part("verify", "35 passes of several rows", 300),
        part("speculation", "58 points of random pairs", 480),
        part("trained", "15 points of the trained pair", 180),
        part("peer", "6 points of transformers, the baseline", 120),
    ]  # fmt: skip
    if options.device == "cpu":
        found = [replace(step, limit=SLOWER * step.limit) for step in found if step.name != "dram"]
    return found


class Run:
    """The attempts of a folder, including earlier runs, and its archive."""

    def __init__(self, out: Path, archive: Path, total: float):
        self.out, self.archive = out, archive
        self.deadline = time.monotonic() + total
        self.table = out / "steps.tsv"
        (out / "logs").mkdir(parents=True, exist_ok=True)
        self.attempts: list[Attempt] = []
        if self.table.is_file():
            with open(self.table, encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, delimiter="\t")
                try:
                    self.attempts = [Attempt(**row) for row in rows]
                except (TypeError, UnicodeDecodeError, csv.Error) as error:
                    raise SpecsimError(f"{self.table} is not a table of steps: {error}") from None

    def has_finished(self, step: Step) -> bool:
        """Whether the last begun attempt of `step` finished."""
        begun = [
            attempt.outcome
            for attempt in self.attempts
            if attempt.step == step.name and attempt.outcome != "not begun"
        ]
        return begun[-1:] == ["finished"]

    def attempt(self, step: Step) -> Attempt:
        """Run a step within its limit; do not begin it if too little time is left."""
        left = self.deadline - time.monotonic() - GRACE_S - PACKING_S
        limit, begun = min(step.limit, left), datetime.now().isoformat(timespec="seconds")
        if left < min(step.least, step.limit):
            print(f"== {step.name}: not begun, {max(left, 0):.0f} s are left", flush=True)
            return Attempt(step.name, "not begun", "", "0", f"{max(left, 0):.0f}", begun)
        log = self.out / "logs" / f"{step.name}.log"
        print(f"== {step.name}: {step.says}; {limit:.0f} s at most, log in {log}", flush=True)
        started, before = time.monotonic(), log.stat().st_size if log.is_file() else 0
        outcome, status = run(step.command(limit), limit, log)
        seconds = f"{time.monotonic() - started:.1f}"
        for line in end_of(log, before, step.shown):
            print(f"   {line}")
        print(f"== {step.name}: {outcome} after {seconds} s, exit status {status}", flush=True)
        return Attempt(step.name, outcome, str(status), seconds, f"{limit:.0f}", begun)

    def record(self, attempt: Attempt) -> None:
        """Add a line to the table, and write the archive."""
        self.attempts.append(attempt)
        with writing(self.table) as new, open(new, "w", encoding="utf-8", newline="") as file:
            names = [field.name for field in fields(Attempt)]
            writer = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(asdict, self.attempts))
        self.pack()

    def pack(self) -> None:
        """Write the archive, completely or not at all."""
        with writing(self.archive) as new, tarfile.open(new, "w:gz") as tar:
            tar.add(self.out, arcname="gpu")


def run(command: Sequence[str], seconds: float, log: Path) -> tuple[str, int]:
    """Run a command for at most `seconds`, and append its output to `log`.

    Processes that it started are killed with it. Returns its outcome and its exit status.
    """
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            process_group=0,  # only `send` interrupts it, with all its processes
        )  # fmt: skip
        try:
            status = process.wait(seconds)
            return ("failed" if status else "finished"), status
        except subprocess.TimeoutExpired:
            return "out of time", stopped(process)
        except KeyboardInterrupt:
            return "interrupted", stopped(process)
        finally:
            send(process, signal.SIGKILL)


def stopped(process: subprocess.Popen) -> int:
    """Interrupt a command, so that it can write its results; kill it if it does not end.

    Returns its exit status.
    """
    send(process, signal.SIGINT)
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        send(process, signal.SIGKILL)
        return process.wait()


def send(process: subprocess.Popen, what: signal.Signals) -> None:
    """Signal a command and the processes that it started, if they still run."""
    try:
        os.killpg(process.pid, what)
    except ProcessLookupError:
        return


def end_of(log: Path, before: int, lines: int) -> list[str]:
    """The last lines that were added to a log; of a progress bar, its last state."""
    with open(log, "rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    return [line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")][1:][-lines:]


def table(attempts: Iterable[Attempt]) -> str:
    """The outcome of each attempt, as a table."""
    lines = [f"{'step':<12} {'outcome':<12} {'exit':>4} {'seconds':>8}"]
    lines += [f"{a.step:<12} {a.outcome:<12} {a.exit:>4} {a.seconds:>8}" for a in attempts]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that are named; returns 0 if all of them finished, 2 after an error in one
    line."""
    try:
        return run_steps(parse(arguments))
    except SpecsimError as error:
        print(f"run_gpu: {error}", file=sys.stderr)
        return 2


def run_steps(options: argparse.Namespace) -> int:
    """Run the steps of the options, and write the archive; returns the exit status."""
    everything = {step.name: step for step in steps(options)}
    if unknown := [name for name in options.steps if name not in everything]:
        raise SpecsimError(f"unknown step {unknown[0]!r}; known: {', '.join(everything)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    run, seen = Run(options.out, options.archive, options.total), []
    try:
        for name in options.steps or everything:
            if run.has_finished(everything[name]) and not options.again:
                print(f"== {name}: finished earlier; --again runs it again", flush=True)
                continue
            seen.append(run.attempt(everything[name]))
            run.record(seen[-1])
            if seen[-1].outcome == "interrupted":
                break
    except KeyboardInterrupt:  # between two steps
        seen.append(Attempt("", "interrupted", "", "0", "0", ""))
    run.pack()
    print(f"{table(seen)}\n{run.archive}: {run.archive.stat().st_size / 1e6:.2f} MB", flush=True)
    outcomes = {attempt.outcome for attempt in seen}
    return 130 if "interrupted" in outcomes else int(not outcomes <= {"finished"})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The checked options."""
    parser = argparse.ArgumentParser(
        prog="run_gpu.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("steps", nargs="*", metavar="STEP", help="default: all of them, in order")
    parser.add_argument("--total", type=float, default=1800, help="seconds for all steps (1800)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="default: out/gpu")
    parser.add_argument("--archive", type=Path, help="default: the folder's name and .tar.gz")
    parser.add_argument("--again", action="store_true", help="run finished steps again")
    parser.add_argument("--device", default="cuda", help="cuda; or cpu, to test the script")
    parser.add_argument("--suite", default="gpu", help="gpu, cpu, or a .toml file of points")
    parser.add_argument("--pair", default="bundled", help="the folder of a trained pair")
    lines = [f"  {s.name:<12} {s.limit:>4.0f} s  {s.says}" for s in steps(parser.parse_args([]))]
    parser.epilog = "\n".join(["steps and their limits:", *lines])
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.archive = (options.archive or Path(f"{options.out}.tar.gz")).resolve()
    if options.out in options.archive.parents:
        parser.error(f"--archive {options.archive} would contain itself; put it outside --out")
    for name in ("suite", "pair"):  # the steps run in the root of the repository
        if Path(getattr(options, name)).exists():
            setattr(options, name, str(Path(getattr(options, name)).resolve()))
    return options


if __name__ == "__main__":
    sys.exit(main())

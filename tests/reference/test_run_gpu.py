"""The script for a GPU that is rented by the minute: its limits, its archive, and going on."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from reference.lab.suites.points import PARTS, load_suite

MEASUREMENTS = Path(__file__).parents[2] / "measurements"
SCRIPT = MEASUREMENTS / "run_gpu.py"
# The script with other steps: their names, limits, and what they run instead.
STAND_IN = """
import json, sys
sys.path.insert(0, {folder!r})
import run_gpu
run_gpu.GRACE_S = 1
run_gpu.steps = lambda options: [
    run_gpu.Step(name, "a stand-in", limit, least, ("-c", code, str(options.out)))
    for name, limit, least, code in json.loads({steps!r})
]
sys.exit(run_gpu.main(sys.argv[1:]))
"""
WRITE = "import sys; open(sys.argv[1] + '/{0}.json', 'w').write('1'); print('{0} was here')"
ASLEEP_S = 60
SLEEP = f"import time; print('asleep', flush=True); time.sleep({ASLEEP_S})"
FAIL = "import sys; print('half of it'); sys.exit('no kernel image for this device')"


def written(name: str, limit: float = 20.0, least: float = 0.1) -> tuple:
    return name, limit, least, WRITE.format(name)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "back" / "gpu"


@pytest.fixture
def start(tmp_path, out):
    """Starts the script with stand-ins for its steps."""

    def started(steps: list[tuple], *arguments: str) -> subprocess.Popen:
        file = tmp_path / "stand_in.py"
        file.write_text(STAND_IN.format(folder=str(MEASUREMENTS), steps=json.dumps(steps)))
        command = [sys.executable, str(file), "--out", str(out), *arguments]
        return subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True)

    return started


@pytest.fixture
def run(start):
    """Runs it to its end: the exit status, and what it said."""

    def ran(steps: list[tuple], *arguments: str) -> tuple[int, str]:
        process = start(steps, *arguments)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    return ran


def packed(out: Path) -> dict[str, str]:
    """The files of the archive, by name."""
    with tarfile.open(f"{out}.tar.gz") as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        return {file.name: tar.extractfile(file).read().decode() for file in files}


def outcomes(out: Path) -> list[tuple[str, str]]:
    rows = csv.DictReader(packed(out)["gpu/steps.tsv"].splitlines(), delimiter="\t")
    return [(row["step"], row["outcome"]) for row in rows]


def test_a_step_that_fails_keeps_its_log_and_the_next_one_runs(run, out) -> None:
    status, said = run([("look", 20, 0.1, FAIL), written("probes")])
    assert status == 1
    assert outcomes(out) == [("look", "failed"), ("probes", "finished")]
    files = packed(out)
    assert "half of it\nno kernel image for this device\n" in files["gpu/logs/look.log"]
    assert "no kernel image for this device" in said
    assert files["gpu/probes.json"] == "1"
    here = {f"gpu/{path.relative_to(out)}" for path in out.rglob("*") if path.is_file()}
    assert files.keys() == here
    assert not list(out.parent.rglob("*.new"))


def test_a_step_that_does_not_end_is_stopped_at_its_limit(run, out) -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + SLEEP
    begun = time.monotonic()
    status, _ = run([("plain", 1, 0.1, SLEEP), ("verify", 1, 0.1, deaf), written("peer")])
    assert time.monotonic() - begun < ASLEEP_S
    assert status == 1
    expected = [("plain", "out of time"), ("verify", "out of time"), ("peer", "finished")]
    assert outcomes(out) == expected
    assert "KeyboardInterrupt" in packed(out)["gpu/logs/plain.log"], "it was not asked to stop"
    assert "asleep" in packed(out)["gpu/logs/verify.log"]


def test_nothing_that_a_step_started_outlives_it(run, out) -> None:
    """A process that was left on the GPU would disturb what is measured next."""
    code = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); "
        "open(sys.argv[1] + '/child', 'w').write(str(child.pid))"
    )
    run([("smoke", 20, 0.1, code)])
    child, end = int((out / "child").read_text()), time.monotonic() + 60
    while alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(child)


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_total_is_kept_and_what_does_not_fit_is_not_begun(run, out) -> None:
    steps = [("plain", 60, 1, SLEEP), ("verify", 60, 30, SLEEP), written("peer", least=0.0)]
    begun = time.monotonic()
    status, said = run(steps, "--total", "6")
    assert time.monotonic() - begun < ASLEEP_S
    assert status == 1
    assert outcomes(out)[:2] == [("plain", "out of time"), ("verify", "not begun")]
    assert re.search(r"== verify: not begun, \d s are left", said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupted_in_the_middle_it_packs_and_goes_on(start, run, out, number) -> None:
    slow = "import sys; open(sys.argv[1] + '/half.json', 'w').write('half'); " + SLEEP
    steps = [written("look"), ("plain", 50, 0.1, slow), written("peer")]
    process = start(steps)
    while not (out / "half.json").is_file():
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert outcomes(out) == [("look", "finished"), ("plain", "interrupted")]
    assert packed(out)["gpu/half.json"] == "half"
    assert "asleep" in packed(out)["gpu/logs/plain.log"]

    steps[1] = written("plain")
    status, said = run(steps)
    assert status == 0
    assert "== look: finished earlier" in said
    assert outcomes(out)[2:] == [("plain", "finished"), ("peer", "finished")]
    assert "plain was here" in packed(out)["gpu/logs/plain.log"]
    assert "asleep" in packed(out)["gpu/logs/plain.log"], "the log of the first attempt is lost"


def test_killed_outright_the_archive_of_the_last_step_is_whole(start, out) -> None:
    process = start([written("look"), ("plain", 50, 0.1, SLEEP)])
    log = out / "logs" / "plain.log"
    while not (log.is_file() and "asleep" in log.read_text()):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert outcomes(out) == [("look", "finished")]
    assert packed(out)["gpu/look.json"] == "1"


def test_another_machine_goes_on_from_the_archive(run, out, tmp_path) -> None:
    run([written("look"), ("plain", 20, 0.1, FAIL)])
    elsewhere = tmp_path / "elsewhere" / "gpu"
    with tarfile.open(f"{out}.tar.gz") as tar:
        tar.extractall(elsewhere.parent, filter="data")
    status, said = run([written("look"), written("plain")], "--out", str(elsewhere))
    assert status == 0
    assert "== look: finished earlier" in said
    assert outcomes(elsewhere)[1:] == [("plain", "failed"), ("plain", "finished")]


def test_finished_steps_run_again_when_asked(run, out) -> None:
    for arguments in ((), ("--again", "look"), ("look",)):
        run([written("look"), written("peer")], *arguments)
    assert outcomes(out) == [("look", "finished"), ("peer", "finished"), ("look", "finished")]


def test_steps_run_in_the_order_in_which_they_are_named(run, out) -> None:
    run([written("look"), written("plain"), written("peer")], "peer", "look")
    assert outcomes(out) == [("peer", "finished"), ("look", "finished")]


def test_cudnn_is_not_preferred_for_the_attention_of_others(run, out) -> None:
    code = "import os; print(os.environ['TORCH_CUDNN_SDPA_DEPRIORITIZED'])"
    run([("look", 20, 0.1, code)])
    assert packed(out)["gpu/logs/look.log"].endswith("\n1\n")


def test_an_unknown_step_names_the_known_ones_in_a_line(out) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "look", "plane"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    names = (
        "look, tiny, profile, smoke, probes, modes, dram, pair, plain, verify, speculation, "
        "trained, peer"
    )
    assert failed.stderr == f"run_gpu: unknown step 'plane'; known: {names}\n"
    assert not out.exists()


def test_an_archive_that_would_hold_itself_is_refused(run, out) -> None:
    status, said = run([written("look")], "--archive", str(out / "all.tar.gz"))
    assert status == 2
    assert "put it outside --out" in said


# The steps themselves


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_gpu", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_gpu"]


def test_every_part_of_the_suite_has_a_step(script) -> None:
    steps = script.steps(script.parse([]))
    before = ["look", "tiny", "profile", "smoke", "probes", "modes", "dram", "pair"]
    assert [step.name for step in steps] == [*before, *PARTS[1:]]
    assert all(step.least < step.limit <= 480 for step in steps), "one must fit into ten minutes"
    suite = load_suite("gpu")
    for step in steps[len(before) :]:
        assert str(len(suite.of(step.name))) in step.says.split()
        assert step.command(265)[-2:] == ["--minutes", "4.00"]


def test_the_gpus_tests_are_not_stopped_by_the_first_failure(script) -> None:
    """A warning of first use, which only a GPU gives, is an error there."""
    smoke = next(step for step in script.steps(script.parse([])) if step.name == "smoke")
    assert "--maxfail" in smoke.arguments
    assert "-x" not in smoke.arguments


def test_tiny_has_every_kind_of_point_of_the_gpu_suite() -> None:
    def kinds(suite) -> set[tuple]:
        return {
            (
                point.part, point.method, point.mode, point.precision,
                point.target == "trained", point.synthetic, point.draft_layers is None,
            )
            for point in suite.points
        }  # fmt: skip

    tiny = load_suite(MEASUREMENTS / "tiny.toml")
    missing = kinds(load_suite("gpu")) - kinds(tiny)
    assert not missing
    assert {point.part for point in tiny.points if point.mode == "eager"} == set(PARTS[1:])


POINTS = """
points = [
  { name = "p", part = "plain", target = "tiny", context = 24 },
  { name = "v", part = "verify", target = "tiny", method = "given", gamma = 3, context = 24 },
  { name = "d", part = "speculation", target = "tiny", method = "draft-model", draft = "first-1", alpha = 0.6, gamma = 2, context = 20 },
  { name = "t", part = "trained", target = "trained", method = "draft-model", gamma = 2, context = 100 },
  { name = "g", part = "peer", target = "tiny", method = "transformers-generate", context = 24, temperature = 0.0 },
]

[shapes.tiny]
hidden_size = 32
num_layers = 3
num_heads = 4
num_kv_heads = 2
head_dim = 8
intermediate_size = 48
vocab_size = 61
max_context = 128
"""  # noqa: E501


@pytest.mark.slow
def test_all_steps_run_for_real_on_a_cpu_interrupted_and_resumed(tmp_path) -> None:
    """Every command, on a suite of five points; interrupted while the third of them runs. The
    machine has a calibration already: probing takes many minutes where bfloat16 is slow."""
    suite, out = tmp_path / "points.toml", tmp_path / "gpu"
    suite.write_text(POINTS)
    machine = "cpu-1core"
    (out / machine).mkdir(parents=True)
    shutil.copy(MEASUREMENTS / "cpu-2core" / "calibration.json", out / machine)
    command = [
        sys.executable, str(SCRIPT), "--device", "cpu", "--suite", str(suite), "--out", str(out),
        "--total", "7200",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    piped = {"stdout": -1, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    process, log = subprocess.Popen(command, **piped), out / "logs" / "profile.log"
    while not (log.is_file() and "gamma 0" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    print(said)
    assert process.returncode == 130
    assert outcomes(out) == [
        ("look", "finished"), ("tiny", "finished"), ("profile", "interrupted")
    ]  # fmt: skip
    resumed = subprocess.run(command, **piped, check=False)
    print(resumed.stdout)
    assert resumed.returncode == 0
    assert outcomes(out)[3:] == [
        (name, "finished")
        for name in ("profile", "smoke", "probes", "modes", "pair", *PARTS[1:])
    ]  # fmt: skip
    files = packed(out)
    for part in PARTS[1:]:
        points = json.loads(files[f"gpu/{machine}/{part}.json"])["points"]
        assert len(points) == 1
        assert json.loads(files[f"gpu/tiny/{part}.json"])["points"]
    assert json.loads(files[f"gpu/{machine}/calibration.json"])["kind"] == "calibration"
    assert json.loads(files["gpu/look.json"])["cudnn_attention"] is False
    assert len(json.loads(files["gpu/profile.json"])["cycles"]) == 4
    for name in ("look", "tiny", "profile", "smoke", *PARTS):
        assert f"gpu/logs/{name}.log" in files

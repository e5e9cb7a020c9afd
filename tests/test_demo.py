"""The main job, run as a person runs it: predicts, measures, compares, and leaves whole files or
none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from printed import check

from reference.checkpoints import PAIR
from reference.lab import probes
from specsim import cli
from specsim.demo import decoding as demo_of_decoding
from specsim.demo import served
from specsim.demo.host import HostCost
from specsim.evidence import calibration
from specsim.evidence.measurement import Measurement

# The demo with few, small probes and a small dialled target.
SMALL_DEMO = f"""
import sys
from dataclasses import replace
sys.path.append({str(Path(__file__).parent)!r})
import few_probes
from specsim import cli
from specsim.demo import decoding
few_probes.install()
target = replace(decoding.QUICK.target, hidden_size=512, intermediate_size=1024, num_heads=8)
decoding.QUICK = replace(decoding.QUICK, target=target)
sys.exit(cli.main(["demo", *sys.argv[1:]]))
"""
DEMO = [sys.executable, "-c", SMALL_DEMO, "--quick", "--dtype", "fp32", "--out"]
MEASURED = Path(__file__).parent.parent / "measurements" / "cpu-2core"


class ServedText(NamedTuple):
    """What the demo of a server reads of a measured run."""

    summary: dict


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """One quick run: the folder it wrote, and what it printed. In fp32: where a CPU has no units
    for bf16, probing and prefill in it take minutes."""
    out = tmp_path_factory.mktemp("demo")
    run = subprocess.run([*DEMO, str(out)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return out, run.stdout


def test_the_last_line_is_one_json_document(demo):
    document = json.loads(demo[1].splitlines()[-1])
    assert {"environment", "calibration", "pairs", "greedy_identical", "files"} <= document.keys()
    assert len(document["pairs"]) == 2
    for pair in document["pairs"]:
        assert {row["gamma"] for row in pair["rows"]} == set(demo_of_decoding.MEASURED)
        parts = {row["part"] for row in pair["rows"]}
        assert {"step_s", "draft_step_s", "verify_step_s", "tokens_per_cycle", "speedup"} <= parts


def test_the_text_is_narrow_and_has_units(demo):
    text = demo[1].rpartition("\n{")[0]
    check("demo", text)
    for title in ("draft (ms)", "tokens per cycle", "cycle (ms)", "overhead (ms)", "speedup"):
        assert title in text


def test_the_text_of_a_served_demo_is_narrow_and_has_units(tmp_path, capsys, monkeypatch):
    """What is measured is made up; what is predicted, and all that prints, is not."""
    pytest.importorskip("uvicorn")
    fitted = calibration.load(MEASURED / "calibration.json")
    monkeypatch.setattr(probes, "run_probes", lambda *_, **__: None)
    monkeypatch.setattr(served, "fit", lambda *_: fitted)
    monkeypatch.setattr(served, "survival_of", lambda *_: np.array([0.7, 0.45]))
    monkeypatch.setattr(served, "cost_of_serving", lambda *_: HostCost(1.5e-3, 2e-4, 1e-4))

    def measured(loads, gammas, *_):
        keys = [(load.streams, gamma) for load in loads for gamma in gammas]
        return {
            (streams, gamma): [ServedText({"output_throughput": 97.3 * streams + 31 * gamma,
                                           "spec_decode_acceptance_length": 2.1})]
            for streams, gamma in keys
        }  # fmt: skip

    monkeypatch.setattr(served, "measure", measured)
    assert cli.main(["demo", "--serve", "--dtype", "fp32", "--quick", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out.rpartition("\n{")[0]
    check("demo --serve", text)
    assert "tokens/s of all streams together" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "serve-demo.png", "serve-demo.json", "calibration.json"
    }  # fmt: skip


def test_greedy_text_is_identical(demo):
    assert json.loads(demo[1].splitlines()[-1])["greedy_identical"] is True
    assert "identical:" in demo[1]


def test_it_says_what_it_found_and_what_limits(demo):
    for words in (
        "machine",
        "dtype",
        "pair",
        "calibration",
        "median error",
        "predicted",
        "measured",
    ):
        assert words in demo[1]
    assert " ".join(demo[1].split()).count("What limits it most is") == 2


def test_the_files_are_whole(demo):
    out, _ = demo
    assert sorted(path.name for path in out.iterdir()) == [
        "calibration.json",
        "demo.json",
        "demo.png",
    ]
    measurement = Measurement.read(out / "demo.json")
    assert len(measurement.points) == 2 * len(demo_of_decoding.MEASURED)
    assert calibration.load(out / "calibration.json").system.engine.confidence == "measured"
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_compare_reads_what_the_demo_wrote(demo, capsys):
    assert cli.main(["compare", str(demo[0]), "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert len(file["rows"]) > 12 * len(demo_of_decoding.MEASURED)


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """The one line of a demo that refuses to start."""

    def run(*arguments: str) -> str:
        # in a given precision: choosing one would time a few products first
        assert cli.main(["demo", "--dtype", "fp32", *arguments]) == 2
        # what was said of the machine comes first; the mistake itself is one line
        said = capsys.readouterr().err
        assert len(said.strip().splitlines()) == 1, said
        return said

    return run


def broken_pair(folder: Path, breakage) -> list[str]:
    shutil.copytree(PAIR / "target", folder / "target")
    shutil.copytree(PAIR / "draft", folder / "draft")
    breakage(folder)
    return [
        "--target",
        str(folder / "target"),
        "--draft",
        str(folder / "draft"),
        "--out",
        str(folder / "out"),
    ]


def truncate(folder: Path) -> None:
    weights = folder / "target" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def remove(folder: Path) -> None:
    (folder / "draft" / "model.safetensors").unlink()


def forget_a_field(folder: Path) -> None:
    config = folder / "target" / "config.json"
    data = json.loads(config.read_text())
    del data["num_hidden_layers"]
    config.write_text(json.dumps(data))


def other_architecture(folder: Path) -> None:
    config = folder / "draft" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "t5"'))


def other_vocabulary(folder: Path) -> None:
    tokenizer = folder / "draft" / "tokenizer.json"
    data = json.loads(tokenizer.read_text())
    token = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"]["vocab"]["<other>"] = data["model"]["vocab"].pop(token)
    data["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(data))


def other_shape(folder: Path) -> None:
    config = folder / "target" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps(data | {"intermediate_size": 700}))


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (truncate, "truncated"),
        (remove, "no such file"),
        (forget_a_field, "num_hidden_layers"),
        (other_architecture, "t5"),
        (other_vocabulary, "vocabular"),
        (other_shape, "shape"),
    ],
)
def test_a_broken_pair_is_refused_in_one_line(tmp_path, refused, breakage, named):
    assert named in refused(*broken_pair(tmp_path, breakage))
    out = tmp_path / "out"
    assert not out.exists() or not any(out.iterdir())


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("--out", str(tmp_path / "file" / "out"))


def test_a_target_without_a_draft_is_refused(refused):
    assert "--draft" in refused("--target", "somewhere")


def test_interrupting_leaves_no_broken_file(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        [*DEMO, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        for line in run.stdout:
            if line.startswith("calibration"):
                time.sleep(1.0)
                os.kill(run.pid, signal.SIGINT)
                break
        run.stdout.read()
        assert run.wait(timeout=60) == 130
        assert "Traceback" not in run.stderr.read()
    assert not out.exists() or not any(out.iterdir())

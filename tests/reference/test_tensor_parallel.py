"""A model that two processes share decodes as one process alone: the same logits, the same tokens.

The processes are joined over gloo on one CPU, so nothing here is about time. Tokens are compared in
float64: two orders of summation differ there by 1e-14, and the tiny models have no ties as near, so
greedy and sampled tokens must be identical. Logits are compared in float32.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest

from reference.__main__ import build_parser, main
from reference.tensor_parallel import COMMAND, require_splittable, share_of
from specsim.architecture import Architecture, model
from specsim.checks import SpecsimError
from specsim.checks.files import write_json
from specsim.cli import main as specsim_main
from specsim.evidence.calibration import Calibration, to_json
from specsim.evidence.measurement import Measurement
from specsim.hardware import Accelerator, Engine, System
from specsim.operators import precision

ROOT = Path(__file__).resolve().parents[2]
RANKS = Path(__file__).with_name("two_ranks.py")
TOLERANCE = 1e-4  # of a logit in float32
SHAPE = Architecture("a model", 32, 2, 4, 2, 8, 48, 61)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


class Rank(NamedTuple):
    """How one of two ranks ended: its status, and what it said."""

    status: int
    said: str


def two_ranks(checks: str, file: Path, timeout_s: int = 60) -> list[Rank]:
    """Run checks of `two_ranks.py` in two processes, as torchrun would start them."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, str(RANKS), checks, str(file), str(timeout_s)],
        env=environment(**group), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Rank(*each) for each in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What two ranks found about identity, defects and refusals; and how they `ended`, by an error
    on one of them."""
    file = tmp_path_factory.mktemp("ranks") / "found.json"
    ended = two_ranks("identity,one_fails", file)
    assert file.exists(), "".join(rank.said for rank in ended)
    return json.loads(file.read_text()) | {"ended": ended}


def test_logits_are_those_of_one_process(found) -> None:
    assert set(found["logits"]) >= {"llama", "qwen2", "qwen3"}
    for family, difference in found["logits"].items():
        assert difference <= TOLERANCE, family


def test_a_rank_holds_its_share_alone(found) -> None:
    assert found["held"] == [[32, 32], 2, 1]  # (2 + 2 * 1) heads of 8, and the heads it counts


def test_tokens_are_those_of_one_process_with_every_drafter(found) -> None:
    alone, together = found["alone"], found["together"]
    assert len(alone) == 16  # eight drafters, greedy and sampled
    assert together == alone


def test_tokens_are_the_same_with_a_draft_that_is_split_too(found) -> None:
    assert len(found["draft split too"]) == 6
    for name, tokens in found["draft split too"].items():
        assert tokens == found["alone"][name], name


@pytest.mark.parametrize("name", ["rows not regrouped", "sums missing", "heads not divided"])
def test_a_planted_defect_is_caught(found, name) -> None:
    """The same comparison as that of the logits finds each, or the pass fails."""
    difference = found["defects"][name]
    assert isinstance(difference, str) or difference > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("odd heads", "2 devices cannot share 3 heads, 1 KV heads"),
        ("one KV head", "2 devices cannot share 4 heads, 1 KV heads"),
        ("odd MLP", "an MLP of width 49 evenly; it decodes on 1"),
        ("packed", "packed or quantised"),
        ("twice", "is split already"),
        ("compiled", "give mode='eager'"),
        ("quantised copy", "a part of a model is not quantised"),
        ("disagreement", "rank 0 and rank 1 have different seeds: 0 and 1"),
    ],
)
def test_what_does_not_work_is_refused(found, name, sentence) -> None:
    assert sentence in found["refused"][name]


def test_more_devices_than_kv_heads_and_experts_are_refused() -> None:
    with pytest.raises(SpecsimError, match="4 devices cannot share 4 heads, 2 KV heads"):
        require_splittable(SHAPE, 4)
    with pytest.raises(SpecsimError, match=r"it decodes on 1, 2$"):
        require_splittable(SHAPE, 3)
    with pytest.raises(SpecsimError, match="has experts"):
        require_splittable(model("mixtral-8x7b"), 2)
    require_splittable(SHAPE, 2)
    assert asdict(share_of(SHAPE, 2)) == asdict(SHAPE) | {
        "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 24,
    }  # fmt: skip


def test_an_error_on_one_rank_ends_both_with_one_sentence(found) -> None:
    require_one_sentence(found["ended"], "reference: this rank has no weights")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "timeout_s", "sentence"),
    [("one_ends", 60, "lost another rank"), ("one_waits", 2, "did not answer for 2 s")],
)
def test_a_rank_that_is_gone_or_waits_ends_both(check, timeout_s, sentence, tmp_path) -> None:
    started = time.monotonic()
    ranks = two_ranks(check, tmp_path / "none.json", timeout_s)
    assert time.monotonic() - started < 55  # nobody waits for the timeout, or for a rank's sleep
    require_one_sentence(ranks, sentence)


def require_one_sentence(ranks: list[Rank], sentence: str) -> None:
    said = "".join(rank.said for rank in ranks)
    assert said.count("reference: ") == 1
    assert sentence in said
    assert "Traceback" not in said
    assert ranks[0].status == 2
    assert ranks[1].status != 0


def test_without_torchrun_it_says_what_to_type(capsys, monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert main(["generate", "import os", "--tensor-parallel"]) == 2
    assert COMMAND in capsys.readouterr().err
    assert main(["generate", "import os", "--split-draft"]) == 2
    assert "--split-draft needs --tensor-parallel" in capsys.readouterr().err


def test_the_commands_of_the_page_parse() -> None:
    page = (ROOT / "docs" / "tensor-parallel.md").read_text(encoding="utf-8")
    commands = re.findall(r"^torchrun --nproc-per-node \d -m reference (.*)$", page, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        assert build_parser().parse_args(shlex.split(command, comments=True)).tensor_parallel


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """`torchrun --nproc-per-node 2 -m reference …` on a CPU."""
    runner = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    runner += ["--master-port", str(free_port()), "-m", "reference"]
    return subprocess.run(
        [*runner, *arguments, "--device", "cpu", "--tensor-parallel"],
        env=environment(), cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_generate_writes_the_text_of_one_process(capsys, tmp_path) -> None:
    asked = ["generate", "def add(a, b):\n", "--max-new-tokens", "16", "--json"]
    ran = torchrun(*asked, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert main([*asked, "--device", "cpu"]) == 0
    (line,) = ran.stdout.splitlines()  # rank 0 alone prints
    together, alone = json.loads(line), json.loads(capsys.readouterr().out)
    for key in ("tokens", "cycles", "tokens_per_cycle"):
        assert together[key] == alone[key]


@pytest.mark.slow
def test_a_refusal_is_one_sentence_of_one_rank(tmp_path) -> None:
    ran = torchrun("generate", "import os", "--target-precision", "int8", cwd=tmp_path)
    assert ran.returncode != 0
    said = [line for line in ran.stderr.splitlines() if line.startswith("reference: ")]
    assert len(said) == 1
    assert "leave out int8 and int4" in said[0]


@pytest.mark.slow
def test_a_measurement_of_two_devices_is_compared_with_its_prediction(capsys, tmp_path) -> None:
    asked = ["measure", "--out", "tp2.json", "--gamma", "0", "2", "--prompts", "2"]
    asked += ["--max-new-tokens", "12", "--temperature", "1"]
    ran = torchrun(*asked, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    points = Measurement.read(tmp_path / "tp2.json").points
    assert [p.scenario.gamma for p in points] == [0, 2]
    assert {p.scenario.tensor_parallel for p in points} == {2}
    assert {p.scenario.draft_tensor_parallel for p in points} == {1}
    assert points[0].scenario.target.num_heads == 4  # of the whole model
    machine = Accelerator("a machine", 20e9, {"fp32": 200e9})
    engine = Engine("calibrated", layer_overhead_s=300e-6, cycle_overhead_s=1e-4)
    calibration = Calibration(System(machine, engine, precision("fp32")), (0.1,), {})
    write_json(tmp_path / "calibration.json", to_json(calibration))
    compared = ["compare", str(tmp_path / "tp2.json")]
    assert specsim_main([*compared, "--rows"]) == 0
    said = capsys.readouterr().out
    assert "2 points are split over 2 devices" in said
    assert "No link between several" in said
    assert "The processes share one CPU" in said
    _, _, rows = said.partition("gamma 2 on 2 devices\n")
    assert re.search(r"^ +cycle_s +predicted +[\d.]+ ms measured +[\d.]+ ms", rows, re.MULTILINE)

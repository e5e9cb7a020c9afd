"""What a new user reads and types: no two answers that contradict each other, no silent one."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specsim
import specsim.scenario.server_load
from specsim import cli
from specsim.acceptance import IID, PerPosition, published
from specsim.checks import SpecsimError
from specsim.cli import build_parser
from specsim.planning import Deployment, find_cautions, launch, plan
from specsim.planning.memory import MEMORY_SHARE, largest_batch
from specsim.planning.settings import engine_settings
from specsim.scenario.files import ALIASES, OPTIONS, SETTINGS
from specsim.serving import server

SERVED = ("--target", "llama-3.3-70b", "--precision", "fp8", "--accelerator", "h100-sxm", "--tp",
          "4", "--context", "4096")  # fmt: skip
SMALL = ("--target", "llama-3.1-8b", "--accelerator", "h100-sxm")
TARGET = specsim.model("llama-3.1-8b")
DRAFTER = specsim.DraftModel(specsim.model("llama-3.2-1b"))
SYSTEM = specsim.system("h100-sxm")


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with suppress(SystemExit):  # as argparse leaves
        assert cli.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ---------------------------------------------------------------------------- settings to paste


@pytest.mark.parametrize("users", [1, 20, 60])
def test_the_one_length_of_an_engine_is_that_of_the_table(
    capsys: pytest.CaptureFixture[str], users: int
) -> None:
    words = (*SERVED, "--engine", "sglang", "--methods", "eagle-3", "--users", str(users))
    found = answer(capsys, "rank", *words)
    gamma = found["ranking"][0]["gamma"]
    assert gamma > 0
    command = found["commands"]["sglang"]["command"]
    assert f"--speculative-num-steps {gamma} " in command
    assert f"--speculative-num-draft-tokens {gamma + 1}" in command
    planned = answer(
        capsys, "plan", *SERVED, "--engine", "sglang", "--method", "eagle-3", "--users", str(users),
        "--alpha", repr(found["ranking"][0]["alpha"][1]),
    )  # fmt: skip
    assert planned["commands"]["sglang"]["command"] == command
    assert planned["engine_settings"]["sglang"] == found["engine_settings"]["sglang"]


def test_a_schedule_ends_where_memory_ends_and_says_which_length_holds_when() -> None:
    planned = plan(TARGET, DRAFTER, SYSTEM, batches=(1, 64, 256), alpha=0.8)
    asked = Deployment(target="llama-3.1-8b", method="eagle-3")
    found = launch("vllm", asked, planned, target=TARGET, drafter=DRAFTER, users=64, most=100)
    settings = engine_settings(planned, "vllm", DRAFTER, method="eagle-3", most=100)
    assert settings is not None
    assert settings["num_speculative_tokens_per_batch_size"][-1][1] == 100
    assert "ends at 100 sequences" in found.text
    assert f"64 users: {planned.gamma[1]}" in found.text
    assert "before 0.24.0: leave num_speculative_tokens_per_batch_size out" in found.text


def test_one_length_of_users_for_whom_nothing_pays_is_none() -> None:
    planned = plan(TARGET, DRAFTER, SYSTEM, batches=(1, 8, 900), alpha=0.2)
    planned = specsim.planning.Plan(
        planned.batch, np.array([3, 2, 0]), *(getattr(planned, name) for name in (
            "speedup", "least_tied", "most_tied", "tokens_per_s", "plain_tokens_per_s", "token_s"))
    )  # fmt: skip
    asked = Deployment(target="llama-3.1-8b", method="draft-model", draft="llama-3.2-1b")
    for engine in ("vllm", "sglang"):
        few, many = (
            launch(engine, asked, planned, target=TARGET, drafter=DRAFTER, users=users)
            for users in (4, 800)
        )
        assert "specul" in few.command
        assert "specul" not in many.command
        assert "gains nothing for 800 sequences" in many.text


# --------------------------------------------------------------------------------- best gamma


def test_without_a_gamma_python_takes_the_best_one_as_the_command_does() -> None:
    over = specsim.predict(TARGET, DRAFTER, SYSTEM, gamma=DRAFTER.gammas, alpha=0.8)
    for given in ({}, {"gamma": "best"}):
        found = specsim.predict(TARGET, DRAFTER, SYSTEM, alpha=0.8, **given)
        assert found.speedup == over.speedup.max()
        assert found.gamma == over.gamma[over.best()]
        assert np.shape(found.band["speedup"]) == (2,)
    assert specsim.predict(TARGET, DRAFTER, SYSTEM).gamma == 0
    assert specsim.predict(TARGET, None, SYSTEM).gamma == 0


def test_the_best_gamma_of_each_scenario() -> None:
    alpha, batch = np.array([0.1, 0.6, 0.9]), np.array([[1], [128]])
    found = specsim.predict(TARGET, DRAFTER, SYSTEM, gamma="best", alpha=alpha, batch=batch)
    assert found.gamma.shape == found.speedup.shape == (2, 3)
    for (i, j), gamma in np.ndenumerate(found.gamma):
        one = specsim.predict(TARGET, DRAFTER, SYSTEM, alpha=alpha[j], batch=batch[i, 0])
        assert (one.gamma, one.speedup) == (gamma, pytest.approx(found.speedup[i, j]))
    both = specsim.predict(TARGET, DRAFTER, SYSTEM, survival=[[0.9, 0.8, 0.7], [0.1, 0.0, 0.0]])
    assert both.gamma.tolist()[1] == 0 < both.gamma.tolist()[0] <= 3
    model = specsim.predict(TARGET, DRAFTER, SYSTEM, acceptance=PerPosition([0.9, 0.8, 0.7]))
    assert model.speedup == both.speedup[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gamma": "bset", "alpha": 0.8}, "or \"best\", got 'bset'"),
        ({"gamma": "best"}, "needs an acceptance"),
        ({"tokens_per_cycle": 3.0}, "give gamma"),
        ({"acceptance": IID(np.array([0.1, 0.2]))}, "of single numbers"),
    ],
)
def test_what_has_no_best_gamma_is_refused(given: Any, said: str) -> None:
    with pytest.raises(SpecsimError, match=said):
        specsim.predict(TARGET, DRAFTER, SYSTEM, **given)


# ------------------------------------------------------------------------------------- memory


def test_one_share_of_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert MEMORY_SHARE == server.MEMORY_SHARE == SETTINGS_DEFAULT
    drafted = (*SERVED, "--method", "eagle-3", "--alpha", "0.75")
    most = answer(capsys, "plan", *drafted)["largest_batch_in_memory"]
    rank = (*SERVED, "--methods", "eagle-3", "--alpha", "0.75")
    for users, fits in ((most, True), (most + 1, False)):
        rows = answer(capsys, "rank", *rank, "--users", str(users))["ranking"]
        (row,) = [each for each in rows if each["method"] == "eagle-3"]
        found = answer(capsys, "predict", *drafted, "--batch", str(users))
        assert (found["fits"], found["memory_bytes"]) == (row["fits"], row["memory_bytes"])
        assert row["fits"] is fits
    text = printed(capsys, "predict", *drafted, "--batch", str(most + 1))
    over = "OVER 90 % OF THE MEMORY"  # the devices could hold it; what no device holds is below
    assert f"of 72.0 GB (90 % of 80) on each of 4 devices: {over}" in " ".join(text.split())
    assert any("speedup" in line and over in line for line in text.splitlines())
    full = ("--memory-share", "1")
    assert answer(capsys, "predict", *drafted, "--batch", str(most + 1), *full)["fits"]


SETTINGS_DEFAULT = specsim.scenario.server_load.ServerLoad().memory_share


def test_plain_decoding_that_does_not_fit_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "predict", "--target", "llama-3.3-70b", "--accelerator", "h100-sxm")
    assert any("tokens/s" in line and "DOES NOT FIT" in line for line in text.splitlines())
    fits = printed(capsys, "predict", *SMALL)
    assert "memory       needs 16.1" in fits.replace("16.2", "16.1")
    assert "DOES NOT FIT" not in fits


# ------------------------------------------------------------------------------------ cautions


@pytest.mark.parametrize(
    ("chip", "precision", "warned"),
    [
        ("rtx-3090", "fp8", True),
        ("a100-sxm-80gb", "fp8", True),
        ("v100-sxm2-32gb", "fp4", True),
        ("h100-sxm", "fp4", True),
        ("h100-sxm", "fp8", False),
        ("a100-sxm-80gb", "int4", False),
    ],
)
def test_a_format_without_arithmetic_is_a_caution(chip: str, precision: str, warned: bool) -> None:
    found = find_cautions(TARGET, specsim.system(chip, precision=precision))
    said = [each.sentence for each in found if each.sentence.startswith(f"No {precision} arith")]
    assert bool(said) is warned
    if warned:
        assert ("in fp8" if (chip, precision) == ("h100-sxm", "fp4") else "in 16 bits") in said[0]


# ----------------------------------------------------------------------------------- the table


def test_rank_says_first_what_no_row_does(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rank", *SMALL, "--methods", "n-gram,pearl", "--drafts", "llama-3.2-1b")
    text = printed(capsys, *words, "--slo", "tpot:0.01")
    assert text.count("tpot") == 2  # in the load and in the verdict
    assert text.index("NO ROW KEEPS") < text.index("1 n-gram")
    assert "+1 device for the drafts" in text
    assert "give --engine vllm, sglang or tensorrt-llm" in " ".join(text.split())
    assert "vllm serve" not in text
    large = printed(capsys, "rank", "--target", "llama-3.3-70b", "--accelerator", "h100-sxm",
                    "--methods", "n-gram")  # fmt: skip
    assert " ".join(large.split()).count("what would make it fit") == 1
    assert large.index("NOTHING FITS") < large.index("n-gram")


def test_the_two_ranges_of_predict_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("predict", *SMALL, "--draft", "llama-3.2-1b")
    text = printed(capsys, *words)
    assert "the engine's error at the middle alpha" in text
    assert "published acceptance, low to high, each at its best gamma" in text
    assert "middle alpha" not in printed(capsys, *words, "--alpha", "0.8")


def test_acceptance_says_which_rates_are_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "acceptance", "llama-3.3-70b")
    whole = " ".join(text.split())
    assert "12 rates of eagle-3: measured with trees" in whole
    assert "*: how many were drafted is assumed" in whole
    assert "18 of the" in whole
    assert "from 18 rows" in whole
    found = answer(capsys, "acceptance", "llama-3.3-70b")["ranges"]["eagle-2"]
    shown = [float(line.split("~")[1].split()[0]) for line in text.splitlines()
             if line.startswith("eagle-2 ") and "~" in line]  # fmt: skip
    assert min(shown) <= found["middle"] <= max(shown)
    assert (
        "alpha " not in printed(capsys, "acceptance", "llama-3.3-70b", "--method", "eagle-3")[:400]
    )
    used = len(published.rates_of("eagle-2"))
    assert used > 0


# --------------------------------------------------------------------------------- the options


def test_a_file_may_hold_every_option_of_its_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'target = "llama-3.1-8b"\naccelerator = "h100-sxm"\nusers = 20\njson = true\n'
        'drafts = ["llama-3.2-1b"]\nmethods = "draft-model,n-gram"\nbatches = [1, 20]\n'
        'acceptance = ["n-gram=0.4", "draft-model=0.7"]\ntokens = 100\n'
    )
    assert cli.main(["rank", "--scenario", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    flags = ("--users", "20", "--drafts", "llama-3.2-1b", "--methods", "draft-model,n-gram",
             "--acceptance", "n-gram=0.4", "--acceptance", "draft-model=0.7")  # fmt: skip
    assert found == answer(capsys, "rank", *SMALL, *flags)
    drafted = ("--draft", "llama-3.2-1b", "--alpha", "0.8")
    assert cli.main(["plan", "--scenario", str(path), *drafted]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in found["batches"]] == [1, 20]
    with path.open("a") as file:
        file.write("batch = 3\n")
    assert "which are one" in refused(capsys, "rank", "--scenario", str(path))


def test_the_reader_of_files_knows_the_options_of_the_commands() -> None:
    for command in ("predict", "plan", "rank"):
        parser = build_parser([command])._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr,index]
        for action in parser._actions:
            if action.dest not in ("help", "scenario"):
                assert action.dest in SETTINGS | OPTIONS | ALIASES, (command, action.dest)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", *SMALL, "--draft", "llama-3.2-1b"), "give --alpha or --survival (specsim"),
        (("predict",), "required: --target, --accelerator"),
        (("predict", *SMALL, "--batch", "1.5"), "must be a whole number, not '1.5'"),
        (("predict", *SMALL, "--batch", "inf"), "must be a whole number, not 'inf'"),
        (("predict", *SMALL, "--memory-share", "90"), "(90 % is 0.9)"),
        (("rank", *SMALL, "--alpha", "80"), "(80 % is 0.8)"),
        (("rank", *SMALL, "--userz", "80"), "the nearest is --users"),
        (("plan", *SMALL, "--draft", "x", "--users", "0"), "--users must be a whole number >= 1"),
    ],
)
def test_a_slip_gets_its_remedy(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *words)


def test_what_may_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys).startswith("usage: specsim")
    one = answer(capsys, "predict", *SMALL, "--users", "1e2")
    assert one == answer(capsys, "predict", *SMALL, "--batch", "100")
    pearl = printed(capsys, "predict", *SMALL, "--draft", "llama-3.2-1b", "--method", "pearl",
                    "--alpha", "0.8")  # fmt: skip
    assert "-0.000" not in pearl


def test_the_largest_batch_is_that_of_its_own_gamma() -> None:
    held = largest_batch(TARGET, SYSTEM, context=1024, usable=MEMORY_SHARE)
    assert held is not None
    assert held < (largest_batch(TARGET, SYSTEM, context=1024) or 0)

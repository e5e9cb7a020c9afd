"""A scenario in a TOML file gives what its flags give; flags win; a mistake is one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from specsim import cli
from specsim.checks import SpecsimError
from specsim.scenario import Scenario
from specsim.scenario.files import SETTINGS, load_in, read_scenario, scenario_in, settings_of

TEXT = """
kind = "predict"                    # of a sweep: no matter here
target = "llama-3.1-8b"
draft = "llama-3.2-1b"
accelerator = "h100-sxm"
engine = "vllm"
alpha = 0.75
batch = 8
gamma = "best"
rate = 5
requests = 12
prompt = 100
output = "8,0.5"
slo = ["ttft:500", "tpot:15"]
kv-tokens = 200000
"""
PAIR = ("--target", "llama-3.1-8b", "--draft", "llama-3.2-1b", "--accelerator", "h100-sxm",
        "--engine", "vllm")  # fmt: skip
LOAD = ("--rate", "5", "--requests", "12", "--prompt", "100", "--output", "8,0.5",
        "--slo", "ttft:500", "tpot:15", "--kv-tokens", "200000")  # fmt: skip
ALPHA = ("--alpha", "0.75")
COUNTED = ("--accepted", "167", "--drafted", "259", "--gamma", "3")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(TEXT)
    return path


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert cli.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("command", "more", "flags"),
    [
        ("predict", (), (*PAIR, *ALPHA, "--batch", "8")),
        ("predict", ("--batch", "2"), (*PAIR, *ALPHA, "--batch", "2")),
        ("predict", ("--survival", "0.9,0.5"), (*PAIR, "--survival=0.9,0.5", "--batch", "8")),
        ("predict", ("--engine", "ideal", "--gamma=3"),
         (*PAIR[:6], "--engine", "ideal", *ALPHA, "--batch", "8", "--gamma", "3")),
        ("plan", (), (*PAIR, *ALPHA)),
        ("serve-sim", (), (*PAIR, *ALPHA, *LOAD)),
        ("serve-sim", ("--slo", "ttft:9"), (*PAIR, *ALPHA, *LOAD[:8], "--slo", "ttft:9",
                                            *LOAD[11:])),
        ("tune", (), (*PAIR, *ALPHA, *LOAD)),
        ("diagnose", COUNTED, (*COUNTED, *PAIR, "--batch", "8")),
    ],
)  # fmt: skip
def test_a_file_gives_what_its_flags_give(
    capsys: pytest.CaptureFixture[str], file: Path, command: str, more: Any, flags: Any
) -> None:
    found = as_json(capsys, command, "--scenario", file, *more)
    assert found == as_json(capsys, command, *flags)


def test_the_files_place_and_an_abbreviation_do_not_matter(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    first = as_json(capsys, "predict", "--scenario", file, "--batch", 2)
    assert first == as_json(capsys, "predict", "--batch", 2, f"--scen={file}")


def test_results_are_compared_with_a_files_scenario(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.toml"
    path.write_text('target = "llama-3.1-8b"\naccelerator = "h100-sxm"\nmethod = "eagle-3"')
    results = Path(__file__).parent / "results" / "vllm-bench.json"
    words = ("compare", "--results", results)
    flags = ("--target", "llama-3.1-8b", "--accelerator", "h100-sxm", "--method", "eagle-3")
    found = as_json(capsys, *words, "--scenario", path)
    assert found == as_json(capsys, *words, *flags)
    assert found["results"][0]["predicted_as"]["method"] == "eagle-3"


def test_python_reads_it_too(file: Path) -> None:
    found = read_scenario(file)
    assert scenario_in(found) == Scenario(
        target="llama-3.1-8b", draft="llama-3.2-1b", accelerator="h100-sxm", engine="vllm",
        alpha=0.75, batch=8,
    )  # fmt: skip
    load = load_in(found)
    assert (load.rate, load.prompt, load.slo) == (5.0, "100", ("ttft:500", "tpot:15"))
    assert load.kv_tokens == "200000"
    long = settings_of({"output": 10**400}, "x")["output"]  # refused where it is read as tokens
    assert long == str(10**400)
    assert SETTINGS["tensor_parallel"] == "whole"
    with pytest.raises(SpecsimError, match="needs a target"):
        scenario_in({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('targe = "x"', "unknown key 'targe'; the nearest is 'target'"),
        ("banana = 1", "unknown key 'banana'"),
        ("kv-precison = 'fp8'", "nearest is 'kv_precision'"),
        ("batch = 1.5", "batch must be a whole number, not 1.5"),
        ("batch = true", "batch must be a whole number, not True"),
        ("batch = [1, 8]", "several values are an axis of specsim sweep"),
        ("batch = {from = 1}", "batch must be a whole number"),
        ("target = 3", "target must be text, not 3"),
        ("alpha = 'much'", "alpha must be a number"),
        ("alpha = 1979-05-27", "alpha must be a number"),
        ("survival = 0.5", "a list of numbers"),
        ("survival = ['x']", "survival must be a number"),
        ("slo = [1]", "slo must be text"),
        ("gamma = 'most'", 'a whole number or "best"'),
        ("kv-tokens = 'all'", '"auto"'),
        ("prompt = [1]", "prompt must be a number or text"),
        ("tp = 1\ntensor-parallel = 2", "tensor_parallel twice"),
        ("[axes]\nbatch = [1]", "it is for specsim sweep"),
        ("batch = 1\nbatch = 2", "not valid TOML"),
        ("batch = " + "9" * 5000, "number is too long"),
        ("batch = " + "9" * 400, "batch must be at most"),
        ("alpha = " + "9" * 400, "alpha must be at most 1e308"),
        ("x = " + "[" * 5000 + "]" * 5000, "scenario.toml"),
        ("\ud800", "not text in UTF-8"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "scenario.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert cli.main(["predict", *PAIR, *ALPHA, "--scenario", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert said in message


def test_a_file_that_is_missing_or_without_a_target(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["predict", "--scenario", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "x.toml").write_text('accelerator = "h100-sxm"')
    with pytest.raises(SystemExit):
        cli.main(["predict", "--scenario", str(tmp_path / "x.toml")])
    assert "required: --target" in capsys.readouterr().err

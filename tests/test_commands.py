"""What every command prints for a person: at most 80 columns, first of all what was priced, and no
number without its unit."""

import argparse
import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from printed import BEGINS, ELSEWHERE, WIDTH, check, too_wide, without_unit

from specsim import catalog, cli
from specsim.checks.columns import fit, wrap
from specsim.cli import progress
from specsim.cli.page import shell
from specsim.drafting.methods import NEED_A_DRAFT

ROOT = Path(__file__).parent.parent
LLAMA = ["--target", "llama-3.1-8b", "--accelerator", "h100"]
PAIR = [*LLAMA, "--draft", "llama-3.2-1b", "--alpha", "0.8"]
SHORT = ["--rate", "5", "--requests", "20", "--prompt", "30", "--output", "5"]
TABLES = {  # titles of columns, with the units of what stands under them
    "plan": ("tokens/s, all users", "ms/token", "each user"),
    "rank": ("tokens/s", "all users", "ms/token", "a user"),
    "serve-sim": ("requests/s", "TTFT (ms)", "TPOT (ms)"),
    "tune": ("requests/s", "tokens/s", "TTFT ms", "TPOT ms"),
}


def scenarios() -> Iterator[list[str]]:
    """Every method, every engine, mixtures of experts, layers on the host, arrays of batches."""
    for method in catalog.load("methods"):
        draft = ["--draft", "llama-3.2-1b"] if method in NEED_A_DRAFT else []
        yield ["predict", *LLAMA, "--method", method, *draft, "--alpha", "0.7", "--batch", "8"]
    for engine in catalog.load("engines"):
        yield ["predict", *PAIR, "--engine", engine]
    for chip in ("m4-max", "snapdragon-8-elite", "epyc-9654"):
        yield [
            "predict",
            "--target",
            "llama-3.2-3b",
            "--accelerator",
            chip,
            "--engine",
            "llama.cpp",
        ]
    yield ["predict", *LLAMA]
    yield ["predict", *LLAMA, "--method", "eagle-3"]
    yield ["predict", *LLAMA, "--draft", "llama-3.2-1b", "--survival", "0.8,0.6"]
    yield ["predict", *LLAMA, "--draft", "llama-3.2-1b", "--tokens-per-cycle", "2", "--gamma", "3"]
    yield ["predict", "--target", "qwen3-235b-a22b", "--accelerator", "b200", "--tp", "8",
           "--method", "eagle-3", "--batch", "64"]  # fmt: skip
    yield ["predict", "--target", "llama-3.1-70b", "--accelerator", "rtx-4090", "--engine",
           "llama.cpp", "--precision", "int4", "--offload-layers", "40",
           "--draft", "llama-3.2-1b"]  # fmt: skip
    yield ["predict", "--target", "gpt-oss-120b", "--accelerator", "h100-sxm", "--tp", "2"]
    yield ["plan", *PAIR, "--batches", "1,7,512,9000"]
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        yield ["plan", *LLAMA, "--engine", engine, "--method", "eagle-3", "--alpha", "0.7"]
    yield ["plan", "--target", "qwen3-next-80b-a3b", "--accelerator", "h200", "--method", "eagle-3",
           "--alpha", "0.7", "--engine", "sglang"]  # fmt: skip
    yield ["rank", *LLAMA, "--engine", "vllm", "--users", "32", "--price-per-hour", "3",
           "--slo", "tpot:9", "ttft:1"]  # fmt: skip
    yield ["rank", "--target", "qwen3-30b-a3b", "--accelerator", "rtx-4090", "--tp", "2"]
    yield ["serve-sim", *PAIR, *SHORT, "--slo", "tpot:9", "--price-per-hour", "3"]
    yield ["serve-sim", *PAIR, *SHORT[2:], "--rate", "5,50"]
    yield ["tune", *PAIR, *SHORT, "--engine", "vllm"]
    yield ["diagnose", "--accepted", "54", "--drafted", "100", "--gamma", "5", *PAIR[:6]]


SWEPT = """
target = "llama-3.1-8b"
draft = "llama-3.2-1b"
accelerator = "h100-sxm"
[axes]
engine = ["vllm", "nope"]
alpha = [0.5, 0.8]
"""
OTHERS = [  # commands without a scenario of their own; {folder} is the test's
    ["diagnose", "--accepted", "1201", "--drafted", "1960", "--gamma", "3"],
    ["acceptance", "llama-3.3-70b"],
    ["acceptance", "qwen3-8b", "--method", "dflash"],
    ["models", "--like", "qwen3"],
    ["accelerators", "--like", "h100"],
    ["engines"],
    ["methods"],
    ["sweep", "{folder}/swept.toml"],
    ["sweep", "{folder}/swept.toml", "--dry-run"],
    ["sweep", "{folder}/swept.toml", "--best", "memory_bytes"],
    ["compare", "measurements/cpu-2core"],
    ["compare", "measurements/cpu-2core/trained.json", "--rows"],
    ["compare", "--results", "tests/results/vllm-bench.json"],
    ["compare", "--results", "tests/results/guidellm.json", "tests/results/vllm-bench.json",
     *LLAMA, "--draft", "llama-3.2-1b"],
    ["measure-server", "--url", "http://127.0.0.1:1", *SHORT, "--dry-run"],
]  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    status = cli.main(words)
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def body(text: str) -> str:
    """The numbers of a report: without what was priced, sentences and commands."""
    _, _, page = text.partition("\n\n")
    lines = []
    for line in page[max(page.find("plain step"), 0) :].splitlines():  # after guesses
        if line.startswith(("- ", "#", "vllm:", "settings for", "not possible")):
            break
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: " ".join(words)[:70])
def test_what_is_listed_read_swept_or_measured_is_narrow_and_has_units(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "swept.toml").write_text(SWEPT)
    check(words[0], printed(capsys, [word.format(folder=tmp_path) for word in words]))


def test_the_address_of_the_explorer_is_one_narrow_line(capsys, monkeypatch: Any) -> None:
    pytest.importorskip("voila")
    from voila.app import Voila

    from specsim.explorer import page

    monkeypatch.setattr(page, "announce", lambda _, call: call())
    monkeypatch.setattr(Voila, "launch_instance", lambda *_, **__: time.sleep(0.2))
    check("explore", printed(capsys, ["explore", "--no-browser", "--preset", "moe"]))


def all_commands() -> dict[str, argparse.ArgumentParser]:
    """Every command, as the parser has it."""
    (commands,) = cli.build_parser()._subparsers._group_actions  # type: ignore[union-attr]
    return dict(commands.choices)  # type: ignore[arg-type]


def test_no_command_is_left_out() -> None:
    """A command that is added fails here until its text is checked."""
    run = {words[0] for words in (*scenarios(), *OTHERS)} | {"explore"}
    assert run | ELSEWHERE.keys() == set(all_commands()) == set(cli.COMMANDS)
    assert set(BEGINS) == {*all_commands(), "demo --serve"}
    for command, file in ELSEWHERE.items():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f'check("{command}"' in text, f"{file} does not check {command}"


@pytest.mark.parametrize("words", list(scenarios()), ids=lambda words: " ".join(words)[:70])
def test_a_report_is_narrow_says_what_was_priced_and_has_units(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, words)
    if words[0] == "diagnose":
        assert too_wide(text) == []
    else:
        check(words[0], text)
    head = text.partition("\n\n")[0] if words[0] != "diagnose" else text.split("\n\n")[1]
    labels = [line[:13].strip() for line in head.splitlines() if line[0] != " "]
    assert labels[0] == "target"
    assert {"accelerator", "engine", "drafting", "load"} <= set(labels)
    drafts = {"--draft", "--method"} & set(words)
    assert ("acceptance" in labels) == bool(drafts)
    flat = " ".join(head.split())
    assert words[words.index("--target") + 1] in flat
    assert catalog.resolve("accelerators", words[words.index("--accelerator") + 1]) in flat
    engine = words[words.index("--engine") + 1] if "--engine" in words else "cuda-graphs"
    assert f"engine {engine}:" in flat
    assumed = engine == "cuda-graphs"  # the default is told apart from what was asked for
    assert ("by default engine cuda-graphs" in flat) == assumed
    assert re.search(r"weights in \w+[\w-]* \(.*\), KV cache in \d+ bits", flat)
    if words[0] in ("predict", "diagnose"):
        page = body(text) if words[0] == "predict" else text.split("\n\n")[2]
        assert without_unit(page) == []
    else:
        several = words[0] != "serve-sim" or "5,50" in words
        assert not several or all(title in body(text) for title in TABLES[words[0]])


def test_the_checks_find_a_unit_that_is_missing_and_a_line_that_is_too_wide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, ["predict", *PAIR, "--batch", "4"])
    page = body(text)
    for unit in (" ms", " tokens/s", "%", " x ", " tokens per"):
        assert unit in page
        assert without_unit(page.replace(unit, " ")) != [], unit
    assert too_wide(text + "a line of many words " * 4 + "\n") != []
    for wrong in (text[1:], text + "a wide line " * 9, text + "\nit takes 1.25 more"):
        with pytest.raises(AssertionError):
            check("predict", wrong)
    assert not too_wide("x" * 100)


def test_host_time_counts_in_the_plain_step_and_in_the_verification(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A verification of one row more is never shown as faster than the plain step."""
    for engine in ("vllm", "cuda-graphs", "torch-eager"):
        page = body(printed(capsys, ["predict", *PAIR, "--engine", engine, "--gamma", "1"]))
        step, verification, drafting, cycle = (
            float(re.search(rf"{name} +([\d.]+) ms", page)[1])  # type: ignore[index]
            for name in ("plain step", "verification", "drafting", "cycle")
        )
        assert verification >= step
        assert drafting + verification == pytest.approx(cycle, abs=0.0011)


def test_tokens_per_s_are_those_of_all_sequences_and_of_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = body(printed(capsys, ["predict", *PAIR, "--batch", "16", "--gamma", "2"]))
    found = re.findall(r"([\d.]+) tokens/s of all 16 sequences, ([\d.]+) tokens/s of each", page)
    assert len(found) == 2  # plain and speculative
    for every, each in found:
        assert float(every) == pytest.approx(16 * float(each), abs=0.05 + 16 * 0.05)


@pytest.mark.parametrize("command", ["predict", "plan", "rank", "serve-sim", "tune", "diagnose",
                                     "compare"])  # fmt: skip
def test_tp_is_a_short_name_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "--tensor-parallel TENSOR_PARALLEL, --tp" in " ".join(capsys.readouterr().out.split())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_says_so_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.01)
    monkeypatch.setattr(progress, "OFTEN_S", 0.01)
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.working("pricing " + "x" * 100):
            until = time.monotonic() + 60
            while stream.isatty() and not stream.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
        said = stream.getvalue()
        assert bool(said) == stream.isatty()
        assert all(len(part) < WIDTH for part in said.split("\r"))
    assert " … 0 s" in said
    assert said.endswith("\r" + " " * 79 + "\r")
    monkeypatch.setattr(progress, "QUIET_S", 60.0)
    monkeypatch.setattr(sys, "stderr", quick := Terminal())
    with progress.working("pricing"):
        pass
    assert quick.getvalue() == ""


# ------------------------------------------------------------------------------------ commands


def run_by_bash(lines: list[str]) -> list[str]:
    """The words that a shell makes of a command in several lines."""
    script = 'show() { printf "%s\\0" "$@"; }\nshow ' + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=20)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    "command",
    [
        "vllm serve a/b",
        "vllm serve meta-llama/Llama-3.3-70B-Instruct --tensor-parallel-size 4 --quantization fp8 "
        "--speculative-config '" + '{"method": "eagle3", "model": "RedHatAI/Llama-3.3-70B-Instruct'
        '-speculator.eagle3", "num_speculative_tokens_per_batch_size": [[1, 8, 6], [9, 16, 5]]}'
        "'",
        "python -m sglang.launch_server --model-path " + "x" * 90 + " --speculative-num-steps 4",
    ],
)  # fmt: skip
def test_a_command_in_several_lines_is_the_same_command(command: str) -> None:
    lines = shell(command)
    assert too_wide("\n".join(lines)) == []
    words = [" ".join(word.split()) for word in run_by_bash(lines)]
    assert words == shlex.split(command)


def test_a_file_of_settings_keeps_its_lines() -> None:
    schedule = ", ".join(f"{2**n}: {n}" for n in range(16))
    command = f"cat > a.yaml <<'END'\na:\n  b: {{{schedule}}}\nEND\nserve --options a.yaml"
    lines = shell(command)
    assert lines[0].endswith("<<'END'")
    assert lines[-2:] == ["END", "serve --options a.yaml"]
    assert max(map(len, lines)) <= WIDTH
    assert " ".join(" ".join(lines).split()) == " ".join(command.split())


def test_wrapping_keeps_every_word() -> None:
    text = "a sentence of many words " * 9
    for lines in (wrap(text, "- "), list(fit([text])), list(fit(["  - " + text]))):
        assert max(map(len, lines)) <= WIDTH
        assert " ".join(" ".join(lines).replace("- ", "").split()) == text.strip()
    assert list(fit(["short", ""])) == ["short", ""]

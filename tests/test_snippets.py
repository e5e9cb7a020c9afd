"""What README.md and docs/ show is run: Python blocks, commands, and what they print.

| in a page | what is done |
|---|---|
| a `python` block | run after those before it, unless it is in `BLOCKS_NOT_RUN` |
| a `text` block after it | compared with what it printed |
| `specsim …` | run; a file or a server of the reader's is made for it (`reader`) |
| `$ specsim …` and lines after it | run, and each line is looked for in what it printed |
| `python -m reference …` | run with few tokens, or parsed, if it is in `DECODER_NOT_RUN` |
| a command inside a sentence | run, if it is whole; else its name and its options exist |
| `make …` | the target exists |

What takes more than a second or so is run by `make test-slow`.
"""

import argparse
import json
import re
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted

import specsim
from reference.__main__ import build_parser as decoder_parser
from reference.__main__ import main as decoder
from reference.checkpoints import PAIR
from specsim.architecture import to_config
from specsim.cli import COMMANDS, build_parser, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?specsim +([a-z-]+(?: .*)?)$", re.MULTILINE)
DECODER = re.compile(r"^(?:python|torchrun .*?) -m reference +(.*)$", re.MULTILINE)
INLINE = re.compile(r"`specsim +([a-z-]+(?: [^`]*)?)`")
INLINE_DECODER = re.compile(r"`(?:python|torchrun [^`]*?) -m reference +([^`]*)`")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|…|\|")  # FILE, MODEL, FOLDER|HUB-ID: what a reader puts there
SLOW_PAGES = {"decoding.md", "serving.md"}
SLOW = {"serve-sim", "tune", "validate"}
A_FILE = re.compile(r"""["'][\w.-]+\.(json|log|txt|toml|jsonl)["']""")  # of the reader's
BLOCKS_NOT_RUN = {  # the page, and the file of the reader's that a block names
    ("scale.md", "load.toml"): "60 simulations in 8 processes: test_sweep_workers.py runs fewer",
}
NOT_RUN = {
    "demo": "minutes of decoding: test_demo.py runs it with --quick",
    "explore": "a server until Ctrl-C: tests/browser opens it",
}
READERS = re.compile(
    r"^(path/to/|out/|https?:|[\w.-]+\.(json|log|txt|toml|jsonl)$)"
)  # what only a reader has
URL = "http://127.0.0.1:8000"
SHORTER = {  # the last value of an option wins
    "measure-server": ["--requests", "6"],
    "sweep speedup.toml": [],
    "sweep load.toml": ["--dry-run"],  # 60 simulations of 500 requests
    "diagnose --metrics-url": ["--interval", "0.1"],
}
FEW = {  # what is added to a command of the decoder
    "generate": ["--max-new-tokens", "8"],
    "serve": ["--port", "0", "--dtype", "fp32"],
    "measure --suite": ["--dry-run"],
}
DECODER_NOT_RUN = {
    "calibrate --out calibration.json": "half a minute of probes: test_probes.py times a few",
    "train --out FOLDER": "half an hour of training: test_training.py makes a tiny pair",
    "train --preset gpu --out out/pair-gpu": "needs a GPU: test_training.py makes a tiny pair",
    'generate --tensor-parallel "def add(a, b):"': "two processes: test_tensor_parallel.py",
    'generate --tensor-parallel "def add(a, b):" --method n-gram --temperature 1':
        "two processes: test_tensor_parallel.py",
    "measure --tensor-parallel --temperature 1 --out out/tp2.json":
        "two processes: test_tensor_parallel.py",
    "generate TEXT --target FOLDER --method head": "a hybrid of gigabytes: test_delta_net.py",
}  # fmt: skip


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def shell() -> str:
    """Everything that the pages show of a shell."""
    return "\n".join(text for page in PAGES for language, text in blocks(page) if not language)


def prose() -> str:
    """The pages without their blocks."""
    return "\n".join(BLOCK.sub("", page.read_text(encoding="utf-8")) for page in PAGES)


def commands() -> list[list[str]]:
    """Every specsim command that a page shows, once; those inside a sentence if they are whole."""
    lines = [*COMMAND.findall(shell()), *filter(is_whole, INLINE.findall(prose()))]
    return [shlex.split(line, comments=True) for line in dict.fromkeys(lines)]


def is_whole(command: str) -> bool:
    """Whether a command inside a sentence can be run as it stands: it has all that it needs."""
    words = shlex.split(command)
    if PLACEHOLDER.search(command) or len(words) < 2:
        return False
    try:
        build_parser(words).parse_args(words)
    except (SystemExit, specsim.SpecsimError):
        return False
    return True


def runnable(of_a_reader: bool) -> list:
    """The commands that need a file or a server of the reader's, or the others; slow ones are
    marked."""
    found = []
    for command in commands():
        needs = any(READERS.match(word) for word in command)
        if command[0] in NOT_RUN or needs != of_a_reader:
            continue
        marks = [pytest.mark.slow] if command[0] in SLOW else []
        found.append(pytest.param(command, marks=marks, id=" ".join(command)[:60]))
    return found


def with_python() -> list:
    """The pages that show Python; slow ones are marked."""
    pages = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(p, marks=marks[p.name in SLOW_PAGES], id=p.name) for p in pages]


def left_out(page: Path, block: str) -> set[tuple[str, str]]:
    """The entries of `BLOCKS_NOT_RUN` because of which a block is not run."""
    named = {found[0].strip("\"'") for found in A_FILE.finditer(block)}
    return BLOCKS_NOT_RUN.keys() & {(page.name, name) for name in named}


def differences(page: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the page's Python; where its `text` blocks are not what was printed."""
    found, names, printed = [], {"__name__": "snippet"}, ""
    for language, text in blocks(page):
        if language == "python" and not left_out(page, text):
            capsys.readouterr()
            exec(compile(text, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text" and text != printed:
            found.append(f"{page.name} shows\n{text}and prints\n{printed}")
    return found


@pytest.mark.parametrize("page", with_python())
def test_python_prints_what_the_page_says(page: Path, reader: Path, capsys) -> None:
    assert differences(page, capsys) == []


def test_another_output_is_found(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n```python\nprint(x + 1)\n```\n```text\n3\n```\n")
    assert len(differences(page, capsys)) == 1
    page.write_text(page.read_text().replace("3", "2"))
    assert differences(page, capsys) == []


def test_every_block_that_is_not_run_is_there() -> None:
    shown = [(page, text) for page in PAGES for kind, text in blocks(page) if kind == "python"]
    assert set().union(*(left_out(*each) for each in shown)) == set(BLOCKS_NOT_RUN)


# ---------------------------------------------------------------------------- specsim's commands


@pytest.mark.parametrize("command", runnable(of_a_reader=False))
def test_a_command_that_is_shown_succeeds(command: list[str], monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    assert main(command) == 0
    assert capsys.readouterr().out


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages take for granted; the current one."""
    results, measured = ROOT / "tests" / "results", ROOT / "measurements" / "cpu-2core"
    (tmp_path / "path" / "to").mkdir(parents=True)
    shape = json.dumps(to_config(specsim.model("llama-3.1-8b")))
    (tmp_path / "path" / "to" / "config.json").write_text(shape)
    shutil.copytree(measured, tmp_path / "out" / "gpu" / "nvidia-h200")
    (tmp_path / "measurements").symlink_to(ROOT / "measurements")
    for name in ("tp1.json", "tp2.json"):
        shutil.copy(measured / "trained.json", tmp_path / "out" / name)
    shutil.copy(measured / "calibration.json", tmp_path / "calibration.json")
    shutil.copy(results / "vllm-bench.json", tmp_path / "bench.json")
    shutil.copy(PAIR / "target" / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "prompts.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hello"}], "output_tokens": 4}\n' * 3
    )
    (tmp_path / "server.log").write_text(
        "INFO 07-05 12:00:01 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 2.84, "
        "Accepted throughput: 120.10 tokens/s, Drafted throughput: 196.00 tokens/s, "
        "Accepted: 1201 tokens, Drafted: 1960 tokens, Per-position acceptance rate: "
        "0.789, 0.596, 0.453, Avg Draft acceptance rate: 61.3%\n"
    )
    for text in re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "scale.md").read_text(),
                           re.MULTILINE | re.DOTALL):  # fmt: skip
        name = re.match(r"# ([\w.]+):", text)
        if name:
            (tmp_path / name[1]).write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("SPECSIM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers at once, with a page of vLLM's counters."""
    page = (ROOT / "tests" / "results" / "vllm-metrics.prom").read_bytes()

    async def answer(asked: scripted.Asked, send: scripted.Send) -> Any:
        if not asked.path.endswith("/chat/completions"):
            return await scripted.plain(asked, send)
        said = [scripted.event(scripted.delta(content=" w")) for _ in range(4)]
        ended = [scripted.event(scripted.delta("stop")), scripted.event(b"[DONE]")]
        return await send(scripted.CHUNKED + scripted.stream([*said, *ended]))

    with scripted.served(answer, metrics=lambda _: page) as server:
        yield server.url


@pytest.mark.parametrize("command", runnable(of_a_reader=True))
def test_a_command_with_files_of_the_reader_succeeds(
    command: list[str], reader: Path, url: str, capsys
) -> None:
    words = " ".join(command)
    more = next((added for start, added in SHORTER.items() if words.startswith(start)), [])
    assert main([*(url if word == URL else word for word in command), *more]) == 0
    assert capsys.readouterr().out


def test_all_commands_are_run_but_those_that_are_named() -> None:
    run = [param.values[0] for of in (True, False) for param in runnable(of)]
    left = [command for command in commands() if command not in run]
    assert {command[0] for command in left} <= set(NOT_RUN)
    assert len(run) >= 25
    assert {command[0] for command in run} > {"predict", "plan", "rank", "sweep", "measure-server"}


def test_what_a_sentence_names_of_a_command_exists() -> None:
    """A command inside a sentence may be a part of one."""
    found = INLINE.findall(prose())
    assert len(found) > 10
    for text in found:
        name, *words = text.replace("|", " ").split()
        assert name in COMMANDS, text
        actions = build_parser([name])._subparsers._group_actions  # type: ignore[union-attr]
        known = actions[0].choices[name]._option_string_actions  # type: ignore[index]
        assert [word for word in words if word.startswith("--") and word not in known] == [], text


def missing_lines(command: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a page that the command did not print; `…` stands for lines left out."""
    assert main(shlex.split(command)) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    return [line for line in shown if line.strip() != "…" and line.rstrip() not in printed]


def sessions(page: Path) -> list[str]:
    """The blocks of a page that begin with a command and go on with what it prints."""
    return [t for kind, t in blocks(page) if not kind and t.startswith("$ specsim ")]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if sessions(page)], ids=lambda page: page.name
)
def test_a_command_prints_the_lines_that_are_shown(page: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    for text in sessions(page):
        command, *shown = text.splitlines()
        assert missing_lines(command.removeprefix("$ specsim "), shown, capsys) == []


def test_a_line_that_is_not_printed_is_found(capsys) -> None:
    shown = ["gamma = 3", "…", "accepted"]
    command = "diagnose --accepted 1201 --drafted 1960 --gamma 3"
    assert missing_lines(command, shown, capsys) == ["gamma = 3", "accepted"]


# ------------------------------------------------------------------------ the decoder's commands


def decoder_commands() -> list[str]:
    """Every command of the decoder that a page shows, once. Inside a sentence `generate` alone is
    the name of a command, not one."""
    inside = [line for line in INLINE_DECODER.findall(prose()) if " " in line]
    lines = [line.partition(" #")[0].rstrip() for line in DECODER.findall(shell())]
    return list(dict.fromkeys([*lines, *inside]))


def test_every_command_of_the_decoder_parses_and_is_run_or_named() -> None:
    found = decoder_commands()
    assert len(found) >= 12
    for line in found:
        options = decoder_parser().parse_args(shlex.split(line))
        assert isinstance(options, argparse.Namespace)
    assert [line for line in DECODER_NOT_RUN if line not in found] == []  # nothing stale


@pytest.fixture
def no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has begun to listen ends at once, instead of at Ctrl-C."""
    import uvicorn

    async def ended(_: uvicorn.Server, sockets: list[socket.socket]) -> None:
        for each in sockets:
            each.close()

    monkeypatch.setattr(uvicorn.Server, "serve", ended)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(c, marks=[pytest.mark.slow] * ("--compile" in c))  # a minute of the compiler
        for c in decoder_commands()
        if c not in DECODER_NOT_RUN
    ],
)
def test_a_command_of_the_decoder_succeeds(
    line: str, reader: Path, no_requests, capsys, monkeypatch, tmp_path
) -> None:
    if "--compile" in line:
        monkeypatch.setenv("SPECSIM_COMPILED", str(tmp_path))
    more = next((added for start, added in FEW.items() if line.startswith(start)), [])
    words = shlex.split(line.replace("FOLDER", str(reader)).replace("TEXT", "'import os'"))
    assert decoder([*words, *more]) == 0
    assert capsys.readouterr().out


def test_every_make_target_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))
    assert {"demo", "lab", "site"} <= named
    assert [name for name in sorted(named) if f"\n{name}:" not in makefile] == []

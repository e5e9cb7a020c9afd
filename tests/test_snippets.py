"""What README.md and docs/ show is run: Python blocks, commands, and what they print.

| in a page | what is done |
|---|---|
| a `python` block | run after those before it, unless it reads a file of the reader's |
| a `text` block after it | compared with what it printed |
| `specsim …` | run, if it needs no file or server of the reader's |
| `$ specsim …` and lines after it | run, and each line is looked for in what it printed |
| `python -m reference …` | parsed; run by `make test-slow` |
| `make …` | the target exists |

What takes more than a second or so is run by `make test-slow`.
"""

import re
import shlex
from pathlib import Path

import pytest

from specsim.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?specsim +([a-z-]+(?: .*)?)$", re.MULTILINE)
REFERENCE = re.compile(r"^python -m reference (.*)$", re.MULTILINE)
SLOW_PAGES = {"decoding.md", "serving.md"}
SLOW = {"serve-sim", "tune", "validate"}
A_FILE = re.compile(r"""["'][\w.-]+\.(json|log|txt|toml|jsonl)["']""")  # of the reader's
NOT_RUN = {"demo", "explore"}  # a minute of decoding, and a server: each has tests of its own
READERS = re.compile(
    r"^(path/to/|out/|https?:|[\w.-]+\.(json|log|txt|toml|jsonl)$)"
)  # what only a reader has


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands() -> list[list[str]]:
    """Every specsim command that a page shows, once."""
    texts = [text for page in PAGES for language, text in blocks(page) if not language]
    lines = dict.fromkeys(line for text in texts for line in COMMAND.findall(text))
    return [shlex.split(line, comments=True) for line in lines]


def runnable() -> list:
    """The commands that need nothing of the reader's; slow ones are marked."""
    found = []
    for command in commands():
        if command[0] in NOT_RUN or any(READERS.match(word) for word in command):
            continue
        marks = [pytest.mark.slow] if command[0] in SLOW else []
        found.append(pytest.param(command, marks=marks, id=" ".join(command)[:60]))
    return found


def with_python() -> list:
    """The pages that show Python; slow ones are marked."""
    pages = [page for page in PAGES if any(language == "python" for language, _ in blocks(page))]
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(p, marks=marks[p.name in SLOW_PAGES], id=p.name) for p in pages]


def differences(page: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the page's Python; where its `text` blocks are not what was printed."""
    found, names, printed = [], {"__name__": "snippet"}, ""
    for language, text in blocks(page):
        if language == "python" and not A_FILE.search(text):
            capsys.readouterr()
            exec(compile(text, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text" and text != printed:
            found.append(f"{page.name} shows\n{text}and prints\n{printed}")
    return found


@pytest.mark.parametrize("page", with_python())
def test_python_prints_what_the_page_says(page: Path, capsys) -> None:
    assert differences(page, capsys) == []


def test_another_output_is_found(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n```python\nprint(x + 1)\n```\n```text\n3\n```\n")
    assert len(differences(page, capsys)) == 1
    page.write_text(page.read_text().replace("3", "2"))
    assert differences(page, capsys) == []


@pytest.mark.parametrize("command", runnable())
def test_a_command_that_is_shown_succeeds(command: list[str], monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    assert main(command) == 0
    assert capsys.readouterr().out


def test_most_commands_are_run() -> None:
    assert len(runnable()) >= 10
    words = [" ".join(param.values[0]) for param in runnable()]
    assert any(word.startswith("predict") for word in words)
    assert not any("path/to" in word or "server.log" in word for word in words)


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
def test_a_command_prints_the_lines_that_are_shown(page: Path, capsys) -> None:
    for text in sessions(page):
        command, *shown = text.splitlines()
        assert missing_lines(command.removeprefix("$ specsim "), shown, capsys) == []


def test_a_line_that_is_not_printed_is_found(capsys) -> None:
    shown = ["gamma = 3", "…", "accepted"]
    command = "diagnose --accepted 1201 --drafted 1960 --gamma 3"
    assert missing_lines(command, shown, capsys) == ["gamma = 3", "accepted"]


def test_commands_of_the_decoder_parse() -> None:
    from reference.__main__ import build_parser

    texts = [text for page in PAGES for language, text in blocks(page) if not language]
    lines = [line for text in texts for line in REFERENCE.findall(text)]
    assert len(lines) >= 4
    for line in lines:
        build_parser().parse_args(shlex.split(line, comments=True))


def test_every_make_target_that_is_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))
    assert {"demo", "lab", "site"} <= named
    assert [name for name in sorted(named) if f"\n{name}:" not in makefile] == []

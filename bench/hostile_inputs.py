"""Thousands of hostile inputs, and whether specsim answers each as it should.

    python bench/hostile_inputs.py [--count 3000] [--seed N] [--kind options] [--only options:17]

Every input must end in exit status 0 or 2, within 20 s and 2 GB, without a traceback; an error is
one line, and nothing that is printed is NaN or infinite. The inputs are options with bad values,
damaged and changed files of every kind, logs, links, and folders. They are drawn from the seed,
which is printed, so that a run can be repeated; the files of an input that failed are kept, with
the command that reproduces it.

To add a kind, write a generator of `Input` and add it to `KINDS`; to add a program, a function from
words to an exit status, to `PROGRAMS`.
"""

import argparse
import contextlib
import copy
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from specsim import catalog, cli
from specsim.checks import SpecsimError
from specsim.explorer.copying import as_code, as_command, as_launch, as_query, from_query
from specsim.explorer.presets import PRESETS
from specsim.explorer.scenarios import NAMES, predict_scenario

ROOT = Path(__file__).resolve().parent.parent
MOST_S, MOST_BYTES = 20.0, 2 * 10**9
PATIENCE_S = 90.0  # after which a process that does not even answer its alarm is killed
TOGETHER = 100  # inputs that one process takes


@dataclass(frozen=True, slots=True)
class Input:
    """One input: the words of a command, the files in its folder, and its standard input."""

    kind: str
    words: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    program: str = "specsim"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `failure` is the traceback of what should have been an error in one line."""

    status: int | None
    out: str
    err: str
    seconds: float
    peak_bytes: int
    failure: str = ""


# ------------------------------------------------------------------------------ what is bad

BAD_WORDS = (
    "", " ", "0", "-0", "-1", "+5", "1", "2", "3", "7", "1.5", "1e3", "1e15", "1e16", "1e-320",
    "1e400", "nan", "-nan", "inf", "-inf", "Infinity", "9" * 18, "9" * 19, "9" * 400, "9" * 5000,
    "0." + "9" * 400, "1024", "1025", "4096", "1000000", "1000001", "10000000", "100000000",
    "2147483648", "18446744073709551616", str(2**53 + 1), "0x10", "1_000", "١٢", " 1 ", "1,2",
    "1,2,1", ",", "1,,2", ",".join(["0.5"] * 1500), ",".join(["1"] * 20_000), "0.9,0.8,0.7",
    "0.5,0.9", "nan,nan", "a", "\0", "a\0b", "\udc80", "\n", "a\nb", "\x1b[31m", "\r", "\u2028",
    "x" * 300, "x" * 10_000, "🙂", "%s", "%(prog)s", "{}", "{0}", "[]", "null", "None", "true",
    "best", "..", "../..", "/", ".", "~", "~nobody", "/dev/null", "/dev/zero", "/dev/full",
    "/dev/stdin", "/proc/self/mem", "/nowhere/at/all", "-", "--", "@x", "nowhere.json",
    "x" * 300 + ".json", "llama-3.1-8b", "LLAMA", "h100-sxm", "draft-model", "eagle-3", "tree",
    "eagle-2", "medusa", "cascade", "fp32", "int4", "vllm", "ideal", "a/b", "a/b/c", "*", "?",
    "\\", "'", '"',
)  # fmt: skip
BAD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1.5, 0.0, -0.0, 1e-320, 1e-30, 1e30, 1e308, 10**9, 10**12,
    10**18, 10**30, float("nan"), float("inf"), float("-inf"), "", "x", "1", "nan", "llama",
    "\udc80", "x" * 10_000, [], {}, [1], [None], [[]], ["x"], [1e308] * 3, {"x": 1}, {"": {}},
    [0.5] * 2000, list(range(3000)), ["full_attention"] * 3, {"type": "llama3"},
    {"rope_type": "llama3", "factor": "x"}, {"rope_type": []},
)  # fmt: skip
BAD_JSON = (
    b"", b" ", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b"{]", b'{"a": 1,}', b'{"a": 1} x',
    b"\xff\xfe", b"\0" * 100, b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": NaN}',
    b'{"a": 1e999}', b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 50_000,
    b'{"a": "' + b"x" * 3_000_000 + b'"}', b'{"a": [' + b"[]," * 500_000 + b"[]]}",
    b'{"\\ud800": 1}', b'{"a": "\xff"}', b"\x1f\x8b\x08\x00", b"\x93NUMPY", b"PK\x03\x04",
    b"%PDF-1.4",
)  # fmt: skip

NOT_FINITE = re.compile(r"(?<![\w.\"/-])[-+]?(?:nan|inf|infinity)(?![\w\"./-])", re.IGNORECASE)

PAIR = ("--target", "llama-3.1-8b", "--accelerator", "h100-sxm", "--draft", "llama-3.2-1b",
        "--alpha", "0.8")  # fmt: skip
HEAD = (*PAIR[:4], "--method", "eagle-3", "--alpha", "0.7")
COUNTED = ("--accepted", "167", "--drafted", "259", "--gamma", "3")
LOAD = ("--rate", "5", "--requests", "20", "--prompt", "30", "--output", "5")
BASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "predict": (PAIR[:4], PAIR, HEAD, (*PAIR, "--gamma", "4"), (*PAIR, "--json")),
    "plan": (PAIR, (*HEAD, "--json")),
    "rank": ((*PAIR[:4], "--methods", "eagle-3,n-gram"),
             (*PAIR[:4], "--engine", "vllm", "--drafts", "llama-3.2-1b", "--users", "4", "--slo",
              "tpot:9", "--price-per-hour", "3", "--acceptance", "suffix=0.5", "--json")),
    "acceptance": (("llama-3.1-8b",), ("t5-xxl", "--method", "eagle-3", "--json")),
    "serve-sim": ((*PAIR, *LOAD), (*PAIR[:4], *LOAD, "--json"),
                  (*HEAD, *LOAD, "--policy", "fixed:3", "--slo", "tpot:9", "--json"),
                  (*PAIR, *LOAD[2:], "--concurrency", "3", "--policy", "admit")),
    "tune": ((*PAIR, *LOAD), (*PAIR, *LOAD, "--slo", "ttft:100", "--json")),
    "diagnose": (COUNTED, (*COUNTED, "--json"), (*COUNTED, *PAIR[:6], "--json"),
                 ("--tokens-per-cycle", "2.5", "--gamma", "4")),
    "compare": (("suite",), ("suite", "--json"), ("suite/points.json", "--rows")),
    "validate": ((), ("--json",)),
    # all of it but the sending: no server is contacted
    "measure-server": (("--url", "http://127.0.0.1:9", *LOAD, "--dry-run"),
                       ("--url", "https://127.0.0.1:9/v1", *LOAD[2:], "--concurrency", "3",
                        "--slo", "tpot:9", "--dry-run", "--json"),
                       ("--url", "http://127.0.0.1:9", *LOAD, "--measurement", "x.json", "--device",
                        "x", "--target", "llama-3.1-8b", "--draft", "llama-3.2-1b", "--dry-run")),
    "sweep": (("axes.toml",), ("axes.toml", "--json"), ("load.toml", "--json")),
}  # fmt: skip
# A valid value of these would start a server or a measurement, or write outside the folder.
NEVER = {
    "--figures": ("/", "..", "../.."),
    "--out": ("/", "..", "../..", "/nowhere/at/all"),
    "--workers": ("+5", "1", "2", "3", "7", "1024", "1_000", "١٢", " 1 "),
}


def options_of(command: str) -> list[str]:
    """Every option of a command that takes a value, as its parser has them."""
    (commands,) = (
        a for a in cli.build_parser([command])._actions if a.choices and not a.option_strings
    )
    actions = commands.choices[command]._actions  # type: ignore[index]
    return [a.option_strings[0] for a in actions if a.option_strings and a.nargs != 0]


# ------------------------------------------------------------------------------ the kinds


def options(draw: random.Random) -> Iterator[Input]:
    """Every option of every command with every bad value; then two options at a time."""
    pairs = [
        (command, option, value)
        for command in BASES
        for option in options_of(command)
        for value in BAD_WORDS
        if value not in NEVER.get(option, ())
    ]
    draw.shuffle(pairs)
    first = {pair[:2]: pair for pair in pairs}  # every option once, then all else
    for command, option, value in (*first.values(), *pairs):
        yield _asked(draw, command, (option, value))
    while True:
        command = draw.choice(list(BASES))
        several = draw.sample(options_of(command), min(2, len(options_of(command))))
        values = [(option, draw.choice(BAD_WORDS)) for option in several]
        yield _asked(draw, command, *[v for v in values if v[1] not in NEVER.get(v[0], ())])


def _asked(draw: random.Random, command: str, *given: tuple[str, str]) -> Input:
    words = [command, *draw.choice(BASES[command])]
    for option, value in given:
        words += [f"{option}={value}"] if draw.random() < 0.7 else [option, value]
    files = {"compare": SUITE, "sweep": SWEEPS}.get(command, {})
    return Input("options", tuple(words), files, b"noise\n")


def words(draw: random.Random) -> Iterator[Input]:
    """Commands that are no commands, and words in any order."""
    known = [*BASES, *PAIR, "--json", "--help", "--version", "explore", "demo"]
    while True:
        said = [draw.choice([*known, *BAD_WORDS]) for _ in range(draw.randint(0, 6))]
        if not {"explore", "demo"} & set(said):
            yield Input("words", tuple(said))


def starters(draw: random.Random) -> Iterator[Input]:
    """`explore` and `demo` with values that must stop them before they begin."""
    ports = ("0", "-1", "65536", "1e3", "x", "", "9" * 400, "nan", "\udc80", "80 80")
    presets = [word for word in BAD_WORDS if word]
    while True:
        yield Input("starters", ("explore", f"--port={draw.choice(ports)}", "--no-browser"))
        yield Input("starters", ("explore", f"--preset={draw.choice(presets)}", "--no-browser"))
        yield Input("starters", ("demo", f"--target={draw.choice(BAD_WORDS)}"))
        yield Input("starters", ("demo", f"--draft={draw.choice(BAD_WORDS)}"))
        yield Input("starters", ("demo", "--out=file/x"), {"file": b""})


def configs(draw: random.Random) -> Iterator[Input]:
    """config.json of every family with values of the wrong kind or size, or without them."""
    rows = catalog.load("models")
    families = {str(_thawed(rows[name]["config"])["model_type"]): name for name in rows}
    every = sorted({key for name in families.values() for key in rows[name]["config"]})
    while True:
        config = _thawed(rows[draw.choice(sorted(families.values()))]["config"])
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            change(draw, config, every)
        target = {"config.json": dump(config)}
        if draw.random() < 0.2:
            told = (*PAIR[:4], "--draft", "config.json",
                    "--alpha", "0.8")  # fmt: skip
        else:
            told = ("--target", "config.json", *HEAD[2:]) if draw.random() < 0.4 else (
                "--target", "config.json", "--accelerator", "h100-sxm")  # fmt: skip
        command = "plan" if "--alpha" in told and draw.random() < 0.2 else "predict"
        yield Input("configs", (command, *told, "--json"), target)


def raw_json(draw: random.Random) -> Iterator[Input]:
    """What is no JSON, or no object, or too deep, in the place of each JSON file."""
    while True:
        content = draw.choice(BAD_JSON)
        if draw.random() < 0.3:
            whole = draw.choice((dump(_thawed(catalog.lookup("models", "llama-3.1-8b")["config"])),
                                 CALIBRATION, POINTS))  # fmt: skip
            at = draw.randrange(len(whole))
            content = draw.choice((whole[:at], whole[:at] + draw.randbytes(3) + whole[at:],
                                   whole.decode().encode("utf-16"),
                                   draw.randbytes(200)))  # fmt: skip
        asked, name = draw.choice((
            (("predict", "--target", "x.json", "--accelerator", "h100-sxm"), "x.json"),
            (("predict", "--target", "llama-3.1-8b", "--engine", "x.json"), "x.json"),
            (("compare", "suite"), "suite/calibration.json"),
            (("compare", "suite"), "suite/points.json"),
            (("compare", "suite"), "suite/calibration-compiled.json"),
        ))  # fmt: skip
        yield Input("raw JSON", asked, SUITE | {name: content})


def calibrations(draw: random.Random) -> Iterator[Input]:
    """A calibration with values of the wrong kind or size."""
    while True:
        data = json.loads(CALIBRATION)
        for _ in range(draw.choice((1, 1, 2))):
            change(draw, data)
        if draw.random() < 0.5:
            asked: tuple[str, ...] = ("predict", "--target", "llama-3.1-8b", "--engine", "x.json")
            asked += draw.choice(((), HEAD[4:], ("--precision", "int8")))
            yield Input("calibrations", (*asked, "--json"), {"x.json": dump(data)})
        else:
            yield Input("calibrations", ("compare", "suite", "--json"),
                        SUITE | {"suite/calibration.json": dump(data)})  # fmt: skip


def measurements(draw: random.Random) -> Iterator[Input]:
    """A measured file with values of the wrong kind or size."""
    while True:
        data = json.loads(POINTS)
        for _ in range(draw.choice((1, 1, 2))):
            change(draw, data)
        shown = draw.choice(((), ("--rows",), ("--json",), ("--engine", "suite/calibration.json")))
        yield Input("measurements", ("compare", "suite", *shown),
                    SUITE | {"suite/points.json": dump(data)})  # fmt: skip


def logs(draw: random.Random) -> Iterator[Input]:
    """Logs with other numbers, repeated, cut, packed, in other encodings, with noise in between."""
    numbers = ("0", "-1", "nan", "inf", "1e400", "1e-320", "9" * 30, "9" * 400, "1e308", ".", "",
               "1.", ".5",               "100", "0.999", "1e9")  # fmt: skip
    while True:
        text = draw.choice(LOGS)
        for _ in range(draw.randint(0, 3)):
            found = list(re.finditer(r"\d+(?:\.\d+)?", text))
            if found:
                at = draw.choice(found)
                text = text[: at.start()] + draw.choice(numbers) + text[at.end() :]
        shape = draw.randrange(8)
        if shape == 0:
            text = text[: draw.randrange(len(text) + 1)]
        elif shape == 1:
            text = (text[: draw.randint(1, 60)]) * draw.choice((10, 1000, 20_000))
        elif shape == 2:
            text = "\n".join([text] * draw.choice((2, 50, 2000)) + [draw.choice(LOGS)])
        elif shape == 3:
            text = "noise\r".join([text, draw.choice(LOGS)])
        content = text.encode("utf-8", "replace")
        content = draw.choice((
            content, content, content, gzip.compress(content, mtime=0), text.encode("utf-16"),
            draw.randbytes(99) + content,
            gzip.compress(content, mtime=0)[: draw.randint(2, 40)], draw.randbytes(500),
        ))  # fmt: skip
        more = draw.choice(((), ("--json",), ("--gamma", "3", "--json"), (*PAIR[:6], "--json")))
        if draw.random() < 0.3:
            yield Input("logs", ("diagnose", "--log", "-", *more), {}, content)
        else:
            yield Input("logs", ("diagnose", "--log", "x.log", *more), {"x.log": content})


def results(draw: random.Random) -> Iterator[Input]:
    """Results of benchmarks with values of the wrong kind or size, cut, or without them."""
    while True:
        name = draw.choice(("vllm-bench.json", "guidellm.json"))
        data = json.loads(RESULTS[name])
        for _ in range(draw.choice((1, 1, 2))):
            change(draw, data)
        content = draw.choice((dump(data), dump(data), *RESULTS.values()))
        if draw.random() < 0.3:
            content = content[: draw.randrange(len(content))]
        asked = draw.choice(
            ((), (*PAIR[:4], "--draft", "llama-3.2-1b"), (*PAIR[:4], "--batch", "9"))
        )
        yield Input("results", ("compare", "--results", "x.json", *asked, "--json"),
                    {"x.json": content})  # fmt: skip


def links(draw: random.Random) -> Iterator[Input]:
    """Links of the explorer."""
    names = (*NAMES, "preset", "x")
    values = [word for word in BAD_WORDS if "\udc80" not in word]
    while True:
        sound = dict(parse_qsl(as_query(draw.choice(PRESETS).scenario)))
        bad = {
            draw.choice(names): draw.choice(values)[:9000] for _ in range(draw.choice((1, 1, 2)))
        }
        told = urlencode(sound | bad)
        if draw.random() < 0.1:
            told = (
                draw.choice(
                    ("%", "&&&", "a=b=c", "?" * 50, "%ff%fe=%80", "preset=", "=" * 9, "gamma")
                )
                + told
            )
        yield Input("links", (told,), program="link")


def tomls(draw: random.Random) -> Iterator[Input]:
    """Scenarios and sweeps in TOML with other values and keys, cut, or in other encodings."""
    values = ('""', "-1", "0", "1.5", "nan", "inf", "-inf", "true", "[]", "{}", '"x"', "[1, [2]]",
              "1e400", '"\\u0000"', "9" * 400, "9" * 5000, "1979-05-27", "[nan]", '["", 1]', "x",
              "{from = 1}", "{from = 1, to = 3, steps = 3}", '"best"', "[true]", "'''a", "1_0",
              "{from = 1, to = 3, steps = 3, log = 7}", "{steps = 99999999999}", '["x", "x"]',
              "[" * 3000)  # fmt: skip
    keys = ("target", "draft", "batch", "gamma", "alpha", "survival", "rate", "seed", "slo", "kind",
            "tp", "policy", "prompt", "kv-tokens", "axes", "axes.x", '""', "a b", "é",
            "host")  # fmt: skip
    while True:
        lines = draw.choice(list(SWEEPS.values())).decode().splitlines()
        if alone := draw.random() < 0.5:
            lines = lines[: lines.index("[axes]")]
        for _ in range(draw.choice((1, 1, 2))):
            at = draw.randrange(len(lines))
            key = lines[at].partition("=")[0]
            lines[at] = draw.choice((
                f"{key}= {draw.choice(values)}", f"{key}= {draw.choice(values)}",
                f"{draw.choice(keys)} = {draw.choice(values)}", "", lines[at][: len(lines[at]) // 2]
            ))  # fmt: skip
        content = "\n".join(lines).encode("utf-8", "replace")
        content = draw.choice((content, content, content, content,
                               content[: draw.randrange(len(content) + 1)], b"\xff" + content,
                               content.decode().encode("utf-16"), draw.randbytes(99)))  # fmt: skip
        asked = ("predict", "plan", "serve-sim", "tune", "diagnose", "compare")
        words: tuple[str, ...] = ("sweep", "x.toml")
        if alone:
            words = (command := draw.choice(asked), "--scenario", "x.toml")
            words += {"diagnose": COUNTED, "compare": ("suite",)}.get(command, ())
            words += ("--requests=9",) if command in ("serve-sim", "tune") else ()
        yield Input("tomls", (*words, "--json"), SUITE | {"x.toml": content})


def folders(draw: random.Random) -> Iterator[Input]:
    """Folders to compare that lack a file, or hold another one under its name."""
    names = ("notes.txt", "other.json", "calibration-eager.json", "calibration-compiled.json",
             "probes.json", "points.json")  # fmt: skip
    others = [f"suite/{name}" for name in names]
    while True:
        kept = {name: content for name, content in SUITE.items() if draw.random() < 0.7}
        for name in draw.sample(others, draw.choice((1, 2))):
            kept[name] = draw.choice((*BAD_JSON, CALIBRATION, POINTS))
        places = ("suite", "suite", "suite/points.json", ".", "nowhere", "suite/other.json")
        words = ("compare", *draw.sample(places, draw.choice((1, 1, 2))))
        yield Input(
            "folders", words + draw.choice(((), ("--json",), ("--accelerator", "h200-sxm"))), kept
        )


Generator = Callable[[random.Random], Iterator[Input]]
KINDS: dict[str, Generator] = {
    "options": options,
    "words": words,
    "configs": configs,
    "raw JSON": raw_json,
    "calibrations": calibrations,
    "measurements": measurements,
    "logs": logs,
    "results": results,
    "links": links,
    "tomls": tomls,
    "folders": folders,
    "starters": starters,
}
SHARES = {"options": 8, "configs": 4, "calibrations": 2, "measurements": 3, "logs": 3, "results": 3,
          "links": 3, "tomls": 3}  # fmt: skip


def change(draw: random.Random, data: Any, names: Sequence[str] = ()) -> None:
    """Give one place in plain data a bad value, or take it away, or add one of `names`."""
    way: list[tuple[Any, Any]] = []
    inside = data
    while isinstance(inside, dict | list) and inside:
        key = draw.choice(list(inside)) if isinstance(inside, dict) else draw.randrange(len(inside))
        way.append((inside, key))
        inside = inside[key]
    if not way:
        return
    holder, key = draw.choice(way[-2:])
    value = copy.deepcopy(draw.choice(BAD_VALUES))
    what = draw.random()
    if what < 0.12 and isinstance(holder, dict):
        del holder[key]
    elif what < 0.25 and isinstance(holder, dict):
        holder[draw.choice(names) if names else "surprise"] = value
    else:
        holder[key] = value


def dump(data: Any) -> bytes:
    """Plain data as JSON, NaN and all."""
    return json.dumps(data).encode()


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(each) for key, each in value.items()}
    return [_thawed(each) for each in value] if isinstance(value, tuple) else value


def _small_suite() -> dict[str, bytes]:
    """A folder of measured points, few of those that are in the repository."""
    folder = ROOT / "measurements" / "cpu-2core"
    data = json.loads((folder / "speculation.json").read_text())
    plain = json.loads((folder / "plain.json").read_text())
    data["points"] = [*data["points"][:2], *plain["points"][:1]]
    data["calibration"] = "calibration.json"
    return {
        "suite/points.json": dump(data),
        "suite/calibration.json": (folder / "calibration.json").read_bytes(),
    }


SUITE = _small_suite()
SWEEPS = {
    "axes.toml": b"""target = "llama-3.1-8b"
draft = "llama-3.2-1b"
accelerator = "h100-sxm"
[axes]
batch = [1, 8]
alpha = {from = 0.5, to = 0.9, steps = 2}
""",
    "load.toml": b"""kind = "serve-sim"
target = "llama-3.1-8b"
accelerator = "h100-sxm"
requests = 9
output = 5
[axes]
rate = {from = 1, to = 9, steps = 2, log = true}
seed = [0, 1]
""",
}
RESULTS = {path.name: path.read_bytes() for path in (ROOT / "tests" / "results").iterdir()}
CALIBRATION, POINTS = SUITE["suite/calibration.json"], SUITE["suite/points.json"]
LOGS = (
    "INFO SpecDecoding metrics: Mean acceptance length: 2.92, Accepted: 167 tokens, Drafted: 259 "
    "tokens, Per-position acceptance rate: 0.805, 0.632, 0.483, Avg Draft acceptance rate: 64.5%\n",
    "Speculative metrics: Draft acceptance rate: 0.607, Number of speculative tokens: 4, Number of "
    "accepted tokens: 32594, Number of draft tokens: 53716, Number of emitted tokens: 34244.\n",
    'vllm:spec_decode_num_drafts_total{engine="0"} 87.0\n'
    'vllm:spec_decode_num_draft_tokens_total{engine="0"} 259.0\n'
    'vllm:spec_decode_num_accepted_tokens_total{engine="0"} 167.0\n'
    'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 70.0\n'
    'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 55.0\n',
    "draft acceptance = 0.64479 (  167 accepted /   259 generated), mean acceptance length = 2.92, "
    "acceptance rate per position = (0.805, 0.632, 0.483)\n",
    "n_draft   = 16\nn_predict = 266\nn_drafted = 254\nn_accept  = 223\naccept    = 87.795%\n",
    '{"predicted_n": 200, "draft_n": 347, "draft_n_accepted": 65}\n',
    "Decode batch. #running-req: 32, accept len: 2.54, accept rate: 0.63, gen throughput: 39.33\n",
    '{"meta_info": {"spec_accept_rate": 0.5, "spec_accept_length": 2.5}}\n',
)  # fmt: skip


# ------------------------------------------------------------------------------ running them


def link(words: Sequence[str]) -> int:
    """The explorer at a link: its prediction and the texts that it offers."""
    try:
        scenario = from_query(words[0])
        shown = predict_scenario(scenario)
        print(json.dumps({"speedup": shown.speedup, "gamma": shown.gamma, "s": shown.of("step_s")}))
        print(
            *(text(shown.scenario) for text in (as_code, as_command)),
            as_launch(shown, "vllm"),
            as_query(scenario),
        )
    except SpecsimError as error:
        cli.complain(str(error))
        return 2
    return 0


PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {"specsim": cli.main, "link": link}


class OutOfTime(BaseException):
    """The alarm: no `except Exception` hides it."""


def _ring(*_: object) -> None:
    raise OutOfTime


def run_here(asked: Input, folder: Path) -> Answer:
    """Run one input in this process, inside `folder`, which it fills with its files."""
    for name, content in asked.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2)
    )
    before, stdin, status, failure = Path.cwd(), sys.stdin, None, ""
    on_alarm = signal.signal(signal.SIGALRM, _ring)
    held = forget_peak()
    start = time.perf_counter()
    try:
        os.chdir(folder)
        sys.stdin = io.TextIOWrapper(io.BytesIO(asked.stdin))
        signal.setitimer(signal.ITIMER_REAL, MOST_S + 5)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = PROGRAMS[asked.program](asked.words)
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 1
    except OutOfTime:
        failure = f"it took more than {MOST_S + 5:g} s"
    except BaseException:
        failure = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, on_alarm)
        sys.stdin = stdin
        os.chdir(before)
    seconds = time.perf_counter() - start
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Answer(status, *texts, seconds, max(peak_bytes() - held, 0), failure)


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of a Linux process


def peak_bytes() -> int:
    """The most memory that this process has held since `forget_peak`, or since its start."""
    if CLEAR.exists():
        return 1024 * int(STATUS.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> int:
    """Let the peak begin anew, where that can be done; returns the bytes that are held now. What
    the process did before an input is not the input's."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return peak_bytes()


def faults(answer: Answer, asked: Input) -> list[str]:
    """What is wrong with an answer, a sentence each; nothing for a good one."""
    if answer.failure:
        return [answer.failure.strip().splitlines()[-1]]
    found = []
    if answer.status not in (0, 2):
        found.append(f"exit status {answer.status}")
    if answer.seconds > MOST_S:
        found.append(f"it took {answer.seconds:.1f} s")
    if answer.peak_bytes > MOST_BYTES:
        found.append(f"it took {answer.peak_bytes / 1e9:.1f} GB")
    if answer.status == 2:
        if (
            len(answer.err.splitlines()) != 1
            or not answer.err.endswith("\n")
            or len(answer.err) > 3000
        ):
            found.append(f"the error is not one line: {answer.err[:200]!r}")
        if "memory does not suffice" in answer.err:
            found.append("it ran out of memory")
    if answer.status == 0:
        if answer.err:
            found.append(f"it succeeded and complained: {answer.err[:200]!r}")
        # the explorer's texts repeat names, and the help of a command may say what it likes
        if asked.program == "specsim" and "--help" not in asked.words:
            printed = answer.out
            for word in asked.words:  # a name that was given may be printed, whatever it is
                printed = printed.replace(word.split("=")[-1] or word, "") if word else printed
            found += [f"it printed {said}" for said in NOT_FINITE.findall(printed)[:1]]
        if "--json" in asked.words:
            found += _faults_of_json(answer.out)
    return found


def _faults_of_json(text: str) -> list[str]:
    def refuse(constant: str) -> float:
        raise ValueError(f"it holds {constant}")

    try:
        values = [json.loads(text, parse_constant=refuse)]
    except ValueError as error:
        return [] if text.startswith("usage") else [f"the output is not JSON: {error}"]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, float) and not abs(value) < float("inf"):
            return [f"the output holds {value}"]
    return []


def _worker(inputs: Sequence[Input], answers: Any) -> None:
    for asked in inputs:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            answers.send(run_here(asked, Path(folder)))


def run_apart(inputs: Sequence[Input]) -> Iterator[tuple[Input, Answer]]:
    """Each input with its answer, from processes of their own: one that dies or hangs takes none
    but its own input with it."""
    context = multiprocessing.get_context("fork")
    at = 0
    while at < len(inputs):
        mine, theirs = context.Pipe(duplex=False)
        part = inputs[at : at + TOGETHER]
        process = context.Process(target=_worker, args=(part, theirs))
        process.start()
        theirs.close()
        for asked in part:
            at += 1
            try:
                answer = mine.recv() if mine.poll(PATIENCE_S) else None
            except EOFError:
                answer = None
            if answer is None:  # the process died, or answers no alarm
                process.kill()
                process.join()
                how = f"the process ended with {process.exitcode}"
                yield asked, Answer(None, "", "", PATIENCE_S, 0, how)
                break
            yield asked, answer
            if (
                answer.peak_bytes > MOST_BYTES
            ):  # it may not have given all of it back: the next begins in a new process
                process.kill()
                break
        process.join()


def report_once() -> None:
    """Compute what `specsim validate` reports now, and not again for each of its inputs."""
    from specsim.evidence import validation

    report = validation.report()
    validation.report = lambda: copy.deepcopy(report)


def drawn(count: int, seed: int, kinds: Iterable[str] = tuple(KINDS)) -> list[tuple[str, Input]]:
    """`count` inputs of all kinds by their shares, each with its name, such as "options:17"."""
    running = {kind: KINDS[kind](random.Random(f"{seed}/{kind}")) for kind in kinds}
    total = sum(SHARES.get(kind, 1) for kind in running)
    found = []
    for kind, generator in running.items():
        each = -(-count * SHARES.get(kind, 1) // total)
        found += [(f"{kind}:{i}", asked) for i, asked in enumerate(islice(generator, each))]
    return found


def kept(name: str, asked: Input) -> str:
    """The command that reproduces an input, whose files are kept."""
    folder = Path("out") / "hostile" / re.sub(r"\W+", "-", name)
    for file, content in asked.files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stdin").write_bytes(asked.stdin)
    words = [asked.program, *asked.words]
    shown = " ".join(
        shlex.quote(ascii(word)[1:-1] if not word.isprintable() else word) for word in words
    )
    return f"cd {folder} && {shown[:2000]} < stdin"


def main() -> int:
    """Draw, run and judge the inputs; the exit status says whether all were answered well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kind", choices=KINDS, action="append", help="of this kind alone")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input, and all that it answers")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    if asked.only:
        kind, number = asked.only.split(":")
        one = next(islice(KINDS[kind](random.Random(f"{asked.seed}/{kind}")), int(number), None))
        ((_, answer),) = run_apart([one])
        print(kept(asked.only, one), answer, *faults(answer, one), sep="\n")
        return 0
    report_once()
    found = drawn(asked.count, asked.seed, asked.kind or tuple(KINDS))
    names = [name for name, _ in found]
    failed: list[str] = []
    counts: dict[str, list[int]] = {}
    slowest, largest = (0.0, ""), (0, "")
    start = time.perf_counter()
    for name, (one, answer) in zip(names, run_apart([one for _, one in found]), strict=True):
        wrong = faults(answer, one)
        count = counts.setdefault(one.kind, [0, 0, 0])
        count[2 if wrong else int(answer.status != 0)] += 1
        slowest = max(slowest, (answer.seconds, name))
        largest = max(largest, (answer.peak_bytes, name))
        if wrong:
            failed.append(name)
            print(f"FAILED {name}: {'; '.join(wrong)}\n   {kept(name, one)}", flush=True)
    print(f"{'kind':14s} accepted  refused  failed")
    for kind, (accepted, refused, bad) in counts.items():
        print(f"{kind:14s} {accepted:8d} {refused:8d} {bad:7d}")
    print(f"{len(names)} inputs in {time.perf_counter() - start:.0f} s; {len(failed)} failed")
    print(
        f"slowest {slowest[0]:.1f} s ({slowest[1]}); "
        f"most memory {largest[0] / 1e9:.2f} GB ({largest[1]})"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

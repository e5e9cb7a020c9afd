"""Our decoder and other engines: tokens per second of the same weights, on one machine in one run.

    python bench/versus_engines.py [--engines openvino llama.cpp …] [--rounds 3] [--out FILE]

Two pairs of models: the bundled one, and a random one of the size of a 160M Llama, whose draft is
its first 2 of 16 layers (see `reference.lab.dialled`). Rows: plain, with the draft model, with
n-grams (prompt lookup), 8 sequences at a time, and plain with int8 weights. Decoding is greedy,
with the same prompts, numbers of tokens and threads everywhere; the time includes the prompt.

Every engine is a process in an environment of its own (`bench/engines/peer.py`), which converts the
models by the engine's own converter and loads them once. Ours are two, eager and compiled. They are
asked in turn, round after round, while the others stand still (SIGSTOP). A first round converts,
loads and compiles; it is not counted. The greedy tokens of each engine are compared with ours.

`make bench-engines` makes the environments in `.engines`. An engine that is not there is skipped
with the reason, and the rest is measured. The first run compiles our stages, which takes a quarter
of an hour; they are kept on disk.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from specsim.checks import SpecsimError
from specsim.checks.files import write_json
from specsim.demo.processes import stop, waiting

ROOT = Path(__file__).parent.parent
PEER = ROOT / "bench" / "engines" / "peer.py"
OURS = {"ours": "eager", "compiled": "compiled"}
OTHERS = {
    "openvino": "OpenVINO GenAI", "ctranslate2": "CTranslate2", "llama.cpp": "llama.cpp",
    "transformers": "transformers",
}  # fmt: skip
# gamma, and how many prompts one by one: three take the bundled pair about a second
MODELS = {"160M": (4, 1), "bundled": (3, 3)}
WHOLE = "whole"  # an empty file: both models are written
BATCH, PROMPT = 8, 32  # sequences; tokens of a prompt
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


class Row(NamedTuple):
    """What is decoded: by which drafter, with which weights, how many sequences at a time."""

    drafter: str = ""
    weights: str | None = None  # None: the dtype of the run
    batch: int = 1


ROWS = {
    "plain": Row(), "draft model": Row("draft"), "n-gram": Row("n-gram"),
    f"batch {BATCH}": Row(batch=BATCH), "int8": Row(weights="int8"),
}  # fmt: skip


class Peer:
    """An engine in a process of its own: a line is sent, a line comes back."""

    def __init__(self, name: str, command: Sequence[str]):
        ours = {"PYTHONPATH": str(ROOT)} if name in OURS else {}
        self.name, self.version = name, ""
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=os.environ | OFFLINE | ours, start_new_session=True,
        )  # fmt: skip

    def read(self) -> dict:
        """Its next answer. Raises SpecsimError, with the last lines that it wrote, if it died."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line.endswith("\n"):
            return json.loads(line)
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self.log.seek(0)
        last = " | ".join(self.log.read().strip().splitlines()[-2:])
        raise SpecsimError(f"{self.name} {how}: {last[-400:] or 'it wrote nothing'}")

    def ask(self, question: dict) -> dict:
        """Its answer to a question; SpecsimError if it died."""
        with suppress(BrokenPipeError):  # if it died; `read` says how
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        return self.read()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        stop(self.process)
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):  # if it died with a question unread
                stream.close()


@dataclass
class Cell:
    """What one engine did in one row."""

    tokens_per_s: list[float] = field(default_factory=list)  # by round
    skipped: str | None = None
    tokens: list[list[int]] = field(default_factory=list)
    dtype: str = ""  # of weights and activations, in words

    def as_record(self, ours: "Cell") -> dict:
        """It as JSON: the median and range over the rounds, and where the tokens differ."""
        if self.skipped:
            return {"skipped": self.skipped}
        speeds = self.tokens_per_s
        return {
            "tokens_per_s": statistics.median(speeds), "low": min(speeds), "high": max(speeds),
            "dtype": self.dtype,
            "first_difference": [
                first_difference(mine, other)
                for mine, other in zip(ours.tokens, self.tokens, strict=False)
            ],
        }  # fmt: skip


Table = dict[str, dict[str, Cell]]  # by row and engine


def first_difference(mine: Sequence[int], other: Sequence[int]) -> int | None:
    """The first place at which two texts differ, their common length if one is longer; or None."""
    for place, (one, two) in enumerate(zip(mine, other, strict=False)):
        if one != two:
            return place
    return None if len(mine) == len(other) else min(len(mine), len(other))


def measure(peers: Sequence[Peer], questions: dict[str, dict], rounds: int) -> Table:
    """Every question to every peer in turn, `rounds` times after one that is not counted.

    A peer that dies, or that refuses a question, is not asked it again; its cell says why.
    """
    table: Table = {row: {peer.name: Cell() for peer in peers} for row in questions}
    dead: dict[str, str] = {}
    for turn in range(rounds + 1):
        for row, question in questions.items():
            for peer in peers:
                cell = table[row][peer.name]
                if peer.name in dead and not cell.tokens_per_s:
                    cell.skipped = cell.skipped or dead[peer.name]
                if cell.skipped or peer.name in dead:
                    continue
                still = [o for o in peers if o is not peer and o.name not in dead]
                try:
                    with waiting(still):
                        answer = peer.ask(question)
                except SpecsimError as error:
                    dead[peer.name] = str(error)
                    cell.skipped = str(error)
                    print(error, flush=True)
                    continue
                keep(cell, answer, turn)
        print(f"  round {turn} of {rounds}", flush=True)
    return table


def keep(cell: Cell, answer: dict, turn: int) -> None:
    """Add an answer to a cell; the first round only says whether there is one."""
    if "refused" in answer:
        cell.skipped = answer["refused"]
        return
    cell.tokens, cell.dtype = answer["tokens"], answer["dtype"]
    if turn:
        cell.tokens_per_s.append(sum(map(len, cell.tokens)) / answer["seconds"])


def questions_of(model: str, dtype: str, tokens: int, rows: Iterable[str]) -> dict[str, dict]:
    """What every engine is asked, by row."""
    import reference

    gamma, count = MODELS[model]
    prompts = [list(text[:PROMPT]) for text in reference.prompts("timed") if len(text) >= PROMPT]
    return {
        name: {
            "drafter": row.drafter, "gamma": gamma if row.drafter else 0, "batch": row.batch,
            "weights": row.weights or dtype, "tokens": tokens,
            "prompts": prompts[: row.batch if row.batch > 1 else count],
        }
        for name, row in ROWS.items() if name in rows
    }  # fmt: skip


def write_models(model: str, folder: Path) -> None:
    """A pair as checkpoints in fp32, target/ and draft/, each with the bundled tokenizer."""
    import torch
    from tokenizers import Tokenizer

    import reference
    from reference.checkpoints import PAIR
    from reference.lab.dialled import dialled_pair
    from specsim.architecture import Architecture

    if model == "160M":
        shape = Architecture(
            name="160M", hidden_size=768, num_layers=16, num_heads=12, num_kv_heads=12,
            head_dim=64, intermediate_size=2304, vocab_size=32_000, max_context=4096,
        )  # fmt: skip
        pair = dialled_pair(shape, 2, alpha=0.8, dtype=torch.float32, packed=False)[:2]
    else:
        pair = reference.load_pair("bundled", packed=False)[:2]
    tokenizer = Tokenizer.from_file(str(PAIR / "target" / "tokenizer.json"))
    for role, each in zip(("target", "draft"), pair, strict=True):
        place = folder / role
        place.mkdir(parents=True, exist_ok=True)
        reference.save_checkpoint(each, place, tokenizer=tokenizer, dtype=torch.float32)
        end = tokenizer.id_to_token(0)  # CTranslate2 needs one of each
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end,
                "unk_token": end}  # fmt: skip
        (place / "tokenizer_config.json").write_text(json.dumps(kind))


def pythons(root: Path, wanted: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The interpreters of the engines that are installed, and why the others are skipped."""
    found, missing = dict.fromkeys(OURS, sys.executable), {}
    for name in wanted:
        python = root / name / "bin" / "python"
        if python.exists():
            found[name] = str(python)
        else:
            missing[name] = f"not installed: no {python} (make bench-engines makes it)"
    return found, missing


def records(model: str, table: Table, missing: dict[str, str]) -> list[dict]:
    """A record for each row: the engines, and our speed over theirs, eager and compiled."""
    found = []
    for row, cells in table.items():
        mine = cells["ours"]
        engines = {name: cell.as_record(mine) for name, cell in cells.items()}
        engines |= {name: {"skipped": reason} for name, reason in missing.items()}
        ratios = {
            other: {
                ours: engines[ours]["tokens_per_s"] / engine["tokens_per_s"]
                for ours in OURS if "tokens_per_s" in engines[ours]
            }
            for other, engine in engines.items() if other not in OURS and "tokens_per_s" in engine
        }  # fmt: skip
        found.append({"model": model, "row": row, "engines": engines, "ours_over": ratios})
    return found


def lines(rows: list[dict], dtype: str) -> list[str]:
    """The table of one model: tokens per second, our speed over theirs, and what was skipped."""
    names = list(rows[0]["engines"])
    titles = [f"ours, {OURS[name]}" if name in OURS else OTHERS[name] for name in names]
    out = ["", f"{rows[0]['model']}, tokens per second".ljust(34) + columns(titles)]
    for row in rows:
        engines, over = row["engines"], row["ours_over"]
        speeds = [engines[name].get("tokens_per_s") for name in names]
        weights = ROWS[row["row"]].weights or dtype
        title = row["row"] if row["row"] == weights else f"{row['row']}, {weights}"
        out.append(title.ljust(34) + columns([s and f"{s:.1f}" for s in speeds]))
        for ours, how in OURS.items():
            ratios = [over.get(name, {}).get(ours) for name in names]
            if any(ratios):
                out.append(f"  ours, {how} ÷ theirs".ljust(34)
                           + columns([r and f"{r:.2f}" for r in ratios]))  # fmt: skip
    return [*out, "", *verdicts(rows), *dict.fromkeys(notes(rows, dtype))]


def verdicts(rows: list[dict]) -> Iterable[str]:
    """A sentence on each engine: our speed over theirs, with the faster of our two in each row."""
    for name, title in OTHERS.items():
        best = {
            row["row"]: max(row["ours_over"][name].values())
            for row in rows if row["ours_over"].get(name)
        }  # fmt: skip
        if best:
            least = min(best, key=best.__getitem__)
            yield (
                f"{title}: ours is faster in {sum(r > 1 for r in best.values())} of {len(best)} "
                f"rows; least {best[least]:.2f}x ({least}), most {max(best.values()):.2f}x"
            )


def columns(cells: Iterable[str | None]) -> str:
    """Cells side by side; a dash for what was not measured."""
    return "".join(f"{cell or '-':>16}" for cell in cells)


def notes(rows: list[dict], dtype: str) -> Iterable[str]:
    """What was skipped and why, what int8 is, and whose tokens are not ours."""
    for row in rows:
        for name, engine in row["engines"].items():
            title = OTHERS.get(name, f"ours, {OURS.get(name)}")
            if "skipped" in engine:
                where = "" if "not installed" in engine["skipped"] else f", {row['row']}"
                yield f"{title}{where}: {engine['skipped']}"
                continue
            if engine["dtype"] != dtype:
                yield f"{title}, {row['row']}: {engine['dtype']}"
            places = engine["first_difference"]
            apart = [place for place in places if place is not None]
            if apart:
                yield (
                    f"{title}, {row['row']}: {len(apart)} of {len(places)} texts differ from "
                    f"ours, first at token {min(apart)}"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="*", choices=OTHERS, default=list(OTHERS),
                        metavar="NAME", help=f"of {', '.join(OTHERS)} (default: all)")  # fmt: skip
    parser.add_argument("--environments", type=Path, default=ROOT / ".engines", metavar="FOLDER")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="of a text (default: 48)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--keep", type=Path, metavar="FOLDER",
                        help="for converted models (default: a temporary one)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it all as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    for name, most in (("rounds", 1000), ("tokens", 128), ("threads", 1024)):
        value = getattr(options, name)
        if not 1 <= value <= most:
            parser.error(f"--{name} must be between 1 and {most}, not {value}")
    import torch

    from reference.machine import environment

    torch.set_num_threads(options.threads)
    about = asdict(environment(torch.device("cpu")))
    print(f"{about['device']}, {options.threads} threads, {options.dtype}", flush=True)
    found, missing = pythons(options.environments, options.engines)
    for name, reason in missing.items():
        print(f"{OTHERS[name]}: {reason}", flush=True)
    versions: dict[str, str] = {}
    rows = []
    for model in options.models:
        rows += of_model(model, found, dict(missing), versions, options)
        if options.out:
            write_json(options.out, {
                "environment": about, "dtype": options.dtype, "threads": options.threads,
                "rounds": options.rounds, "answer_tokens": options.tokens, "prompt_tokens": PROMPT,
                "gamma": {name: gamma for name, (gamma, _) in MODELS.items()},
                "versions": versions, "rows": rows,
            })  # fmt: skip
    return 0


def of_model(model: str, found: dict[str, str], missing: dict[str, str], versions: dict[str, str],
             options: argparse.Namespace) -> list[dict]:  # fmt: skip
    """The rows of one model, measured and printed. Adds to `missing` whoever does not start."""
    print(f"{model}: writing the models, starting the engines …", flush=True)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve() / model
        if not (folder / WHOLE).exists():
            write_models(model, folder)
            (folder / WHOLE).touch()
        peers = []
        for name, python in found.items():
            command = [python, str(PEER), name, str(folder), "--dtype", options.dtype,
                       "--threads", str(options.threads)]  # fmt: skip
            peer = stack.enter_context(Peer(name, command))
            try:
                versions[name] = peer.read()["version"]
            except SpecsimError as error:
                if name in OURS:
                    raise
                missing[name] = str(error)
                continue
            peers.append(peer)
        questions = questions_of(model, options.dtype, options.tokens, options.rows)
        rows = records(model, measure(peers, questions, options.rounds), missing)
    print(*lines(rows, options.dtype), sep="\n", flush=True)
    return rows


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpecsimError as error:
        sys.exit(f"error: {error}")

"""Mutated logs and results: each is read right, or refused or doubted in words.

    python bench/read_fuzz.py [--count 2000] [--seed 7] [--only 413]
    python bench/read_fuzz.py --large          100 MB of log, each kind: seconds and memory

A run of a speculative decoder is drawn, so its counts are known, and told in the format of an
engine or of a tool. Then the text is damaged: cut, lines lost, in another order, repeated, mixed
with that of another server, with a negative, a huge or a changed counter, or with a restart between
two scrapes. Right is an answer whose every number is that of the run, or of the part of it that is
still whole. Anything else must be refused in one line, or name its doubt. Seed and number repeat a
case.
"""

import argparse
import gzip
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.files import decoded_ascii
from specsim.evidence.diagnosis import diagnose
from specsim.evidence.served import read_log, read_runs

SECONDS, MEGABYTES = 10.0, 500


@dataclass(frozen=True, slots=True)
class Run:
    """What a decoder did: `reached[k]` cycles accepted more than k drafts."""

    cycles: int
    gamma: int
    reached: tuple[int, ...]
    drafted: int

    @property
    def accepted(self) -> int:
        return sum(self.reached)

    @property
    def length(self) -> float:
        return 1 + self.accepted / self.cycles

    @property
    def rate(self) -> float:
        return self.accepted / self.drafted

    @property
    def emitted(self) -> int:
        return self.cycles + self.accepted

    @property
    def histogram(self) -> list[int]:
        edges = (self.cycles, *self.reached, 0)
        return [edges[k] - edges[k + 1] for k in range(self.gamma + 1)]

    def plus(self, other: "Run") -> "Run":
        """Both runs together."""
        gamma = max(self.gamma, other.gamma)
        reached = [sum(r.reached[k] for r in (self, other) if k < r.gamma) for k in range(gamma)]
        drafted = self.drafted + other.drafted
        return Run(self.cycles + other.cycles, gamma, tuple(reached), drafted)


def drawn_run(draw: random.Random, gamma: int) -> Run:
    """A run of some cycles, whose drafts are accepted with a probability that is drawn."""
    cycles, alpha = draw.randint(200, 5000), draw.uniform(0.3, 0.95)
    reached, left = [], cycles
    for _ in range(gamma):
        left = (
            sum(draw.random() < alpha for _ in range(left)) if left < 300 else round(left * alpha)
        )
        reached.append(left)
    return Run(cycles, gamma, tuple(reached), cycles * gamma)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that can be lost or cut, and the runs that it tells of."""

    text: str
    runs: tuple[Run, ...]


# ------------------------------------------------------------------------------ the formats


def vllm_line(run: Run) -> str:
    places = ", ".join(f"{r / run.cycles:.3f}" for r in run.reached)
    return (
        f"(APIServer pid=17) INFO 04-09 11:17:53 [metrics.py:101] SpecDecoding metrics: Mean "
        f"acceptance length: {run.length:.2f}, Accepted throughput: {run.accepted / 10:.2f} "
        f"tokens/s, Drafted throughput: {run.drafted / 10:.2f} tokens/s, Accepted: {run.accepted} "
        f"tokens, Drafted: {run.drafted} tokens, Per-position acceptance rate: {places}, Avg Draft "
        f"acceptance rate: {100 * run.rate:.1f}%"
    )


def vllm_0_line(run: Run) -> str:
    efficiency = run.emitted / (run.cycles * (run.gamma + 1))
    return (
        f"INFO 03-04 10:11:12 metrics.py:367] Speculative metrics: Draft acceptance rate: "
        f"{run.rate:.3f}, System efficiency: {efficiency:.3f}, Number of speculative tokens: "
        f"{run.gamma}, Number of accepted tokens: {run.accepted}, Number of draft tokens: "
        f"{run.drafted}, Number of emitted tokens: {run.emitted}."
    )


def page(prefix: str, run: Run) -> str:
    label = '{engine="0",model_name="m"}' if prefix == "vllm" else ""
    start = f"{prefix}:spec_decode_num_"
    lines = [
        f"{start}drafts_total{label} {run.cycles}.0",
        f"{start}draft_tokens_total{label} {run.drafted}.0",
        f"{start}accepted_tokens_total{label} {run.accepted}.0",
    ]
    for place, count in enumerate(run.reached):
        named = label[:-1] + f',position="{place}"}}' if label else f'{{position="{place}"}}'
        lines.append(f"{start}accepted_tokens_per_pos_total{named} {count}.0")
    return "\n".join(lines)


def block(run: Run) -> str:
    lines = [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     32        ",
        f"Total generated tokens:                  {run.emitted}",
        "---------------Speculative Decoding---------------",
        f"Acceptance rate (%):                     {100 * run.rate:.2f}     ",
        f"Acceptance length:                       {run.length:.2f}      ",
        f"Drafts:                                  {run.cycles}       ",
        f"Draft tokens:                            {run.drafted}      ",
        f"Accepted tokens:                         {run.accepted}       ",
        "Per-position acceptance (%):",
    ]
    lines += [
        f"  Position {k}:        {100 * r / run.cycles:.2f}" for k, r in enumerate(run.reached)
    ]
    return "\n".join([*lines, "=================================================="])


def script(run: Run) -> str:
    lines = [
        "-" * 50,
        f"num_drafts: {run.cycles}",
        f"num_draft_tokens: {run.drafted}",
        f"num_accepted_tokens: {run.accepted}",
        f"mean acceptance length: {run.length:.2f}",
        "-" * 50,
    ]
    lines += [f"acceptance at token {k}: {r / run.cycles:.2f}" for k, r in enumerate(run.reached)]
    return "\n".join(lines)


def vllm_answer(run: Run) -> str:
    return json.dumps({"metrics": {"speculative_decoding": {
        "num_spec_steps": run.cycles, "num_draft_tokens": run.drafted,
        "num_accepted_draft_tokens": run.accepted, "mean_acceptance_length": round(run.length, 4),
        "draft_acceptance_rate": round(run.rate, 4),
        "acceptance_histogram": {str(k): n for k, n in enumerate(run.histogram)},
    }}})  # fmt: skip


def llama_request(run: Run) -> str:
    places = ", ".join(f"{r / run.cycles:.3f}" for r in run.reached)
    return (
        f"0.06.896.015 I slot print_timing: id  1 | task 0 | draft acceptance = {run.rate:.5f} ( "
        f"{run.accepted:4d} accepted / {run.drafted:5d} generated), mean acceptance length = "
        f"{run.length:5.2f}, acceptance rate per position = ({places})"
    )


def llama_old_request(run: Run) -> str:
    return (
        f"slot print_timing: id  0 | task 689 |\nprompt eval time =     900.22 ms /    30 tokens ( "
        f"  30.01 ms per token,    33.33 tokens per second)\n       eval time =   14323.78 ms / "
        f"{run.emitted:5d} tokens (   74.60 ms per token,    13.40 tokens per second)\ndraft "
        f"acceptance rate = {run.rate:.5f} ( {run.accepted:4d} accepted / {run.drafted:5d} "
        "generated)"
    )


def llama_statistics(run: Run) -> str:
    return (
        f"statistics draft-mtp: #calls(b,g,a) = 1 {run.cycles} {run.cycles}, #gen drafts = "
        f"{run.cycles}, #acc drafts = {run.reached[0]}, #gen tokens = {run.drafted}, #acc tokens = "
        f"{run.accepted}, dur(b,g,a) = 0.007, 30384.874, 1.156 ms"
    )


def llama_timings(run: Run) -> str:
    return json.dumps({"timings": {
        "predicted_n": run.emitted, "draft_n": run.drafted, "draft_n_accepted": run.accepted,
    }})  # fmt: skip


def llama_summary(run: Run) -> str:
    return (
        f"n_draft   = {run.gamma}\nn_predict = {run.emitted}\nn_drafted = {run.drafted}\nn_accept  "
        f"= {run.accepted}\naccept    = {100 * run.rate:.3f}%\n"
    )


def bench_row(run: Run) -> str:
    return (
        f"  code_python        pred={run.emitted:4d} draft={run.drafted:4d} acc={run.accepted:4d} "
        f"rate={run.rate:.3f} tok/s=77.8"
    )


def sglang_line(run: Run) -> str:
    return (
        f"[2025-11-24 02:56:41 TP0] Decode batch, #running-req: {run.cycles}, #token: 500, token "
        f"usage: 0.01, accept len: {run.length:.2f}, accept rate: {run.rate:.2f}, cuda graph: "
        "True, gen throughput (token/s): 139.33, #queue-req: 0"
    )


def sglang_answer(run: Run) -> str:
    return str({"meta_info": {
        "completion_tokens": run.emitted, "spec_accept_rate": run.rate,
        "spec_accept_length": run.length, "spec_accept_histogram": run.histogram,
        "spec_accept_token_num": run.accepted, "spec_draft_token_num": run.drafted,
        "spec_verify_ct": run.cycles,
    }})  # fmt: skip


def tensorrt(run: Run) -> str:
    return json.dumps({"specDecodingStats": {
        "numDraftTokens": run.drafted, "numAcceptedTokens": run.accepted,
        "numRequestsWithDraftTokens": run.cycles, "acceptanceLength": round(run.length, 4),
    }})  # fmt: skip


def lm_studio(run: Run) -> str:
    return json.dumps({"stats": {
        "predictedTokensCount": run.emitted, "acceptedDraftTokensCount": run.accepted,
        "rejectedDraftTokensCount": run.drafted - run.accepted, "ignoredDraftTokensCount": 0,
        "totalDraftTokensCount": run.drafted,
    }})  # fmt: skip


def vllm_json(run: Run) -> str:
    return json.dumps({
        "endpoint_type": "openai", "backend": "openai", "model_id": "m", "tokenizer_id": "t",
        "completed": 32, "failed": 0, "duration": 10.0, "total_input_tokens": 320,
        "total_output_tokens": run.emitted, "output_throughput": run.emitted / 10,
        "request_throughput": 3.2, "mean_ttft_ms": 30.0, "mean_tpot_ms": 5.0,
        "mean_itl_ms": 5.0 * run.length, "spec_decode_acceptance_rate": 100 * run.rate,
        "spec_decode_acceptance_length": run.length, "spec_decode_num_drafts": run.cycles,
        "spec_decode_draft_tokens": run.drafted, "spec_decode_accepted_tokens": run.accepted,
        "spec_decode_per_position_acceptance_rates": [r / run.cycles for r in run.reached],
    }, indent=1)  # fmt: skip


ADDED: dict[str, Callable[[Run], str]] = {  # a piece a run: their counts are added
    "vllm line": vllm_line, "vllm answer": vllm_answer, "llama request": llama_request,
    "llama old request": llama_old_request, "llama timings": llama_timings,
    "mtp-bench": bench_row, "sglang line": sglang_line, "sglang answer": sglang_answer,
    "tensorrt": tensorrt, "lm studio": lm_studio,
}  # fmt: skip
GROWING: dict[str, Callable[[Run], str]] = {  # a piece tells of all runs up to it
    "vllm 0 line": vllm_0_line, "llama statistics": llama_statistics,
}  # fmt: skip
ALONE: dict[str, Callable[[Run], str]] = {  # a text of one run, whose lines are pieces
    "vllm page": lambda run: page("vllm", run), "llama page": lambda run: page("llamacpp", run),
    "vllm block": block, "vllm script": script, "llama summary": llama_summary,
    "vllm json": vllm_json,
}  # fmt: skip
LOOSE = {
    "sglang line": 0.02,
    "vllm script": 0.01,
    "vllm block": 0.01,
}  # relative: what is rounded to few digits
# In these nothing is told twice, so a changed counter cannot be seen.
TOLD_ONCE = {"llama timings", "llama statistics", "lm studio", "sglang line"}


def pieces_of(draw: random.Random, kind: str, gamma: int) -> list[Piece]:
    """The text of one server in one format."""
    runs = [drawn_run(draw, gamma) for _ in range(draw.choice((1, 1, 3, 40)))]
    if kind in ADDED:
        return [Piece(ADDED[kind](run), (run,)) for run in runs]
    if kind in GROWING:
        total, pieces = runs[0], [Piece(GROWING[kind](runs[0]), (runs[0],))]
        for run in runs[1:]:
            total = total.plus(run)
            pieces.append(Piece(GROWING[kind](total), (total,)))
        return pieces
    return [Piece(line, (runs[0],)) for line in ALONE[kind](runs[0]).splitlines()]


def two_scrapes(draw: random.Random, restart: bool) -> tuple[str, Run]:
    """Two scrapes of one page, and the run between them. A restart is seen by the time when the
    counters were made, or, where a page does not tell it, by counters that fall."""
    prefix, gamma = draw.choice(("vllm", "llamacpp")), draw.randint(1, 8)
    first, between = drawn_run(draw, gamma), drawn_run(draw, gamma)
    if restart and prefix == "llamacpp":
        first = first.plus(between)
    second = between if restart else first.plus(between)
    pages = [page(prefix, first), page(prefix, second)]
    if prefix == "vllm":
        counter = 'vllm:spec_decode_num_drafts_created{engine="0",model_name="m"}'
        made_at = f"{counter} 1.79565016976e+09"
        started = "process_start_time_seconds 1.79565016e+09"
        told = draw.choice((made_at, started))
        pages = [f"{told}\n{pages[0]}",
                 f"{told.replace('1.795', '1.796') if restart else told}\n{pages[1]}"]  # fmt: skip
    return "\n".join(pages) + "\n", between


# ------------------------------------------------------------------------------ the damage


@dataclass(frozen=True, slots=True)
class Case:
    """A text, the runs that an answer may be of, and whether any plain answer is wrong."""

    name: str
    text: str
    right: tuple[Run, ...]
    loose: float
    must_doubt: bool = False


def drawn_case(draw: random.Random) -> Case:
    """One damaged text."""
    kind = draw.choice((*ADDED, *GROWING, *ALONE))
    damage = draw.choice(tuple(DAMAGES))
    return DAMAGES[damage](draw, kind)


def whole_of(kind: str, pieces: Sequence[Piece]) -> Run | None:
    """What pieces tell together."""
    if not pieces:
        return None
    if kind not in ADDED:
        return pieces[-1].runs[0]
    total = pieces[0].runs[0]
    for piece in pieces[1:]:
        total = total.plus(piece.runs[0])
    return total


def made(name: str, kind: str, text: str, *right: Run | None, must_doubt: bool = False) -> Case:
    known = tuple(run for run in right if run is not None)
    return Case(f"{kind}, {name}", text, known, LOOSE.get(kind, 0.0), must_doubt)


def text_of(pieces: Sequence[Piece]) -> str:
    return "\n".join(piece.text for piece in pieces) + "\n"


def cut(draw: random.Random, kind: str) -> Case:
    """The text ends too early."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    last = draw.randrange(len(pieces))
    part = pieces[last].text[: draw.randrange(len(pieces[last].text) + 1)]
    text = "".join(f"{piece.text}\n" for piece in pieces[:last]) + part
    return made(
        "cut", kind, text, whole_of(kind, pieces[:last]), whole_of(kind, pieces[: last + 1])
    )


def cut_lines(draw: random.Random, kind: str) -> Case:
    """Some lines lose their ends."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    hurt = set(draw.sample(range(len(pieces)), max(1, len(pieces) // 20)))
    lines = [
        piece.text[: draw.randrange(len(piece.text) + 1)] if k in hurt else piece.text
        for k, piece in enumerate(pieces)
    ]
    right = []  # a line that is cut may still be whole in what counts
    for kept in itertools.product((False, True), repeat=len(hurt)):
        lost = {k for k, keep in zip(sorted(hurt), kept, strict=True) if not keep}
        left = [piece for k, piece in enumerate(pieces) if k not in lost]
        right.append(whole_of(kind, left))
    if kind not in ADDED and kind not in GROWING:
        right = [pieces[0].runs[0]]
    return made("cut lines", kind, "\n".join(lines) + "\n", *right)


def lost(draw: random.Random, kind: str) -> Case:
    """Lines are missing."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    left = [piece for piece in pieces if draw.random() < 0.7]
    return made("lines lost", kind, text_of(left), whole_of(kind, left))


def shuffled(draw: random.Random, kind: str) -> Case:
    """Lines in another order."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    right = whole_of(kind, pieces)
    draw.shuffle(pieces)
    return made("other order", kind, text_of(pieces), right)


def repeated(draw: random.Random, kind: str) -> Case:
    """The whole text several times."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    return made("repeated", kind, text_of(pieces) * draw.choice((2, 5)), whole_of(kind, pieces))


def mixed(draw: random.Random, kind: str) -> Case:
    """Two servers in one text."""
    other = draw.choice((*ADDED, *GROWING, *ALONE))
    gammas = draw.sample(range(1, 9), 2)
    one, two = pieces_of(draw, kind, gammas[0]), pieces_of(draw, other, gammas[1])
    both = [*one, *two]
    if kind in ADDED and other in ADDED:
        draw.shuffle(both)
    # the last count since a start is that of the second server
    added = whole_of(kind, both) if kind == other and kind not in ALONE else None
    return made(f"mixed with {other}", kind, text_of(both), added, must_doubt=added is None)


def noise(draw: random.Random, kind: str) -> Case:
    """Other lines between, and the encodings in which logs come."""
    pieces = pieces_of(draw, kind, draw.randint(1, 8))
    if kind == "vllm json":
        return made("whole", kind, text_of(pieces), pieces[0].runs[0])
    said = ("INFO: 127.0.0.1 - POST /v1/completions 200 OK", "", "  ", "Traceback: none",
            "é ✓ 5.0 %", "Avg generation throughput: 0.0 tokens/s",
            "loading 100%|####| 3/3")  # fmt: skip
    lines = []
    for piece in pieces:
        lines += [*draw.sample(said, draw.randint(0, 2)), piece.text]
    text = draw.choice(("\n", "\r\n")).join(lines) + "\n"
    content = text.encode(draw.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le")))
    content = gzip.compress(content, mtime=0) if draw.random() < 0.3 else content
    text = decoded_ascii(content, "the log", "log_bytes")
    return made("noise", kind, text, whole_of(kind, pieces))


COUNTERS = {  # what in a format is a count
    "vllm line": r"(?:Accepted|Drafted): (\d+)", "vllm 0 line": r"(?:draft|emitted) tokens: (\d+)",
    "vllm page": r"total\S* (\d+)\.0", "llama page": r"total\S* (\d+)\.0",
    "vllm block": r"(?:Draft|Accepted) tokens: +(\d+)", "vllm script": r"accepted_tokens: (\d+)",
    "vllm answer": r"_tokens\": (\d+)", "llama request": r"(\d+) (?:accepted|generated)",
    "llama old request": r"(\d+) (?:accepted|generated)", "llama summary": r"n_(?:accept|drafted) +"
    r"= (\d+)", "mtp-bench": r"(?:draft|acc)= *(\d+)", "sglang answer": r"_num': (\d+)",
    "tensorrt": r"Tokens\": (\d+)", "vllm json": r"(?:draft|accepted)_tokens\": (\d+)",
    "llama timings": r"draft_n\w*\": (\d+)", "lm studio": r"(?:total|accepted)\w+\": (\d+)",
    "llama statistics": r"tokens = (\d+)", "sglang line": r"len: (\d\.\d\d)",
}  # fmt: skip


def _other_counter(draw: random.Random, kind: str, name: str, other: Callable[[str], str]) -> Case:
    pieces = pieces_of(draw, kind, draw.randint(2, 8))
    text = text_of(pieces)
    found = list(re.finditer(COUNTERS[kind], text))
    match = draw.choice(found[-2:])  # of the last piece: those of growing counters tell all
    at, end = match.span(1)
    changed = text[:at] + other(text[at:end]) + text[end:]
    # one damaged line of forty may be left out, in words
    return made(name, kind, changed, must_doubt=True)


def negative(draw: random.Random, kind: str) -> Case:
    """A counter below zero."""
    return _other_counter(draw, kind, "negative", lambda old: f"-{old if float(old) else 5}")


def huge(draw: random.Random, kind: str) -> Case:
    """A counter that no server reaches."""
    return _other_counter(draw, kind, "huge", lambda old: "9" * draw.choice((17, 19, 30)))


def changed(draw: random.Random, kind: str) -> Case:
    """A counter that the others contradict."""
    while kind in TOLD_ONCE:
        kind = draw.choice(tuple(COUNTERS))
    factor = draw.choice((0.5, 0.9, 1.2, 3))

    def other(old: str) -> str:
        new = int(float(old) * factor)
        return str(new if new != int(float(old)) else new + 7)

    return _other_counter(draw, kind, "changed", other)


def restarted(draw: random.Random, kind: str) -> Case:
    """A restart between two scrapes."""
    text, between = two_scrapes(draw, restart=True)
    return made("restart", "two scrapes", text, between, must_doubt=True)


def subtracted(draw: random.Random, kind: str) -> Case:
    """Two scrapes of one server, which are subtracted."""
    text, between = two_scrapes(draw, restart=False)
    return made("subtracted", "two scrapes", text, between)


DAMAGES: dict[str, Callable[[random.Random, str], Case]] = {
    "cut": cut, "cut lines": cut_lines, "lost": lost, "shuffled": shuffled, "repeated": repeated,
    "mixed": mixed, "noise": noise, "negative": negative, "huge": huge, "changed": changed,
    "restarted": restarted, "subtracted": subtracted,
}  # fmt: skip


# ------------------------------------------------------------------------------ what is right


DOUBT = re.compile("may also be|is not whole|several settings")


def verdict(case: Case) -> tuple[str, str]:
    """(right | doubted | refused | fault, why) of one case."""
    try:
        counters = read_log(case.text)
        found = diagnose(counters)
        read_runs(case.text, "the text")
    except SpecsimError as error:
        said = str(error)
        return ("refused", said) if len(said.splitlines()) == 1 else ("fault", f"lines: {said!r}")
    except Exception:
        return "fault", traceback.format_exc()
    told = {
        "tokens_per_cycle": found.tokens_per_cycle,
        "accepted_per_drafted": found.accepted_per_drafted,
        "gamma": found.gamma,
    }
    known = {name: value for name, value in told.items() if value is not None}
    for run in case.right:
        wanted = {"tokens_per_cycle": run.length, "accepted_per_drafted": run.rate,
                  "gamma": run.drafted / run.cycles}  # fmt: skip
        if all(abs(v - wanted[n]) <= (case.loose + 0.01) * wanted[n] for n, v in known.items()):
            return "right", ""
    doubts = [*counters.cautions, *(said for said in found.findings if DOUBT.search(said))]
    if doubts:
        return "doubted", doubts[0]
    if not known:
        return "right", ""
    expected = [f"{r.length:.4f} {r.rate:.4f}" for r in case.right]
    return "fault", f"{known} for {expected}"


def cases(count: int, seed: int) -> list[tuple[str, Case]]:
    """Numbered cases; the same seed draws the same ones."""
    return [(str(k), drawn_case(random.Random(f"{seed}/{k}"))) for k in range(count)]


def fuzz(count: int, seed: int, only: int | None) -> int:
    """Read all cases, print what became of them, and return the number of faults."""
    ends: Counter[str] = Counter()
    numbers = range(count) if only is None else [only]
    for k in numbers:
        case = drawn_case(random.Random(f"{seed}/{k}"))
        start = time.perf_counter()
        end, why = verdict(case)
        seconds = time.perf_counter() - start
        if end == "right" and case.must_doubt and case.right == ():
            end, why = "fault", "an answer from counters that contradict each other"
        if seconds > 20:
            end, why = "fault", f"it took {seconds:.0f} s"
        ends[end] += 1
        if end == "fault" or only is not None:
            print(f"{seed}/{k}: {case.name}: {end}: {why}")
        if only is not None:
            print(case.text[:4000])
    print(", ".join(f"{ends[name]} {name}" for name in ("right", "doubted", "refused", "fault")))
    return ends["fault"]


# ------------------------------------------------------------------------------ large logs


ANSWERS = ("vllm answer", "llama timings", "sglang answer", "tensorrt", "lm studio")
TEXT = "An answer holds its text besides: that of a hundred tokens is about this long. " * 6


def large(size: int) -> int:
    """Read `size` bytes of each kind of log, each in its own process; the number that fail."""
    failed = 0
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        for kind, part in parts(draw).items():
            for one_line in (False, True):
                content = (part.replace("\n", " ") if one_line else part).encode()
                file = Path(folder) / "large.log"
                with file.open("wb") as out:
                    for _ in range(size // len(content)):
                        out.write(content)
                seconds, megabytes, said = measured(file)
                good = seconds <= SECONDS * size / 1e8 and megabytes <= MEGABYTES
                failed += not good
                told = f"{kind}{', one line' if one_line else ''}"
                print(f"{'ok  ' if good else 'SLOW'} {told:28s} {size / 1e6:5.0f} MB "
                      f"{seconds:6.1f} s {megabytes:5.0f} MB  {said}")  # fmt: skip
    return failed


def parts(draw: random.Random) -> dict[str, str]:
    """The part that makes each kind of large log; answers come with their text, as they do."""
    found = {}
    for kind in (*ADDED, *GROWING):
        if kind == "mtp-bench":  # a table of nine rows
            continue
        told = [(ADDED | GROWING)[kind](drawn_run(draw, 3)) for _ in range(2000)]
        if kind in ANSWERS:
            told = [f'{{"text": "{TEXT}"}} {each}' for each in told]
        found[kind] = "\n".join(told[:1] if kind in GROWING else told) + "\n"
    page_of_run = page("vllm", drawn_run(draw, 3))
    found["vllm page"] = "\n".join([page_of_run] * 20) + "\n"
    noise_line = 'INFO: 127.0.0.1:3210 - "POST /v1/completions HTTP/1.1" 200 OK é\n'
    found["noise"] = noise_line * 2000 + vllm_line(drawn_run(draw, 3)) + "\n"
    return found


READ = """
import sys, time, resource
from specsim.checks import SpecsimError
from specsim.checks.files import read_ascii
from specsim.evidence.served import read_log
start = time.process_time()
try:
    said = str(read_log(read_ascii(sys.argv[1], "log_bytes")).source)
except SpecsimError as error:
    said = f"refused: {error}"
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(said[:60])
"""


def measured(file: Path) -> tuple[float, float, str]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=True
    )
    numbers, said = done.stdout.splitlines()
    seconds, megabytes = map(float, numbers.split())
    return seconds, megabytes, said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", type=int, help="one case, with its text")
    parser.add_argument("--large", action="store_true", help="100 MB of each kind of log")
    parser.add_argument("--bytes", type=int, default=100_000_000, help="of each large log")
    options: Any = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (4 * 10**9, 4 * 10**9))
    failed = (
        large(options.bytes) if options.large else fuzz(options.count, options.seed, options.only)
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

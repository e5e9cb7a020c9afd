"""A load on our own server: predicted before the server starts, then measured through HTTP.

    specsim demo --serve

The machine is calibrated on probe shapes, what serving adds is timed with a small random pair
(`host`), the acceptance comes from calibration prompts, and `specsim.serving` simulates closed
loops of 1, 2, 4 and 8 streams, plain and with a draft. Then `python -m reference serve` answers the
same loads.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specsim import serving
from specsim.architecture import Architecture
from specsim.checks.extras import require_modules
from specsim.checks.files import require_writable, write_json, writing
from specsim.demo.decoding import FULL, QUICK, Pair, say, trained_pair
from specsim.demo.host import cost_of_serving
from specsim.demo.processes import our_server
from specsim.drafting import DraftModel
from specsim.evidence import client, tables
from specsim.evidence.calibration import Calibration, fit, to_json
from specsim.hardware import System

LIBRARIES = ("torch", "safetensors", "tokenizers", "tqdm", "matplotlib", "starlette", "uvicorn")
STREAMS = (1, 2, 4, 8)
GAMMA = 2
WAVES = 3  # texts that each stream asks for, one after the other
ANSWER, ROUNDS = 96, 3  # tokens of a text; how often each load is sent
QUICK_ANSWER, QUICK_ROUNDS = 24, 1


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A closed loop of `streams`: each asks for `WAVES` texts of `answer` tokens, one after the
    other, after prompts of `prompt_tokens` on average."""

    streams: int
    answer: int
    prompt_tokens: float

    @property
    def traffic(self) -> serving.Traffic:
        """The load, for the simulator and for the client."""
        return serving.traffic(
            concurrency=self.streams, requests=WAVES * self.streams,
            prompt=serving.Lengths(self.prompt_tokens), output=serving.Lengths(self.answer),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServedLoad:
    """One load on one server: tokens per second of all streams together."""

    streams: int
    gamma: int
    predicted: float
    measured: float
    low: float  # of the rounds
    high: float
    predicted_tokens_per_cycle: float
    tokens_per_cycle: float | None  # by the server's counters; None without a draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The loads, predicted and measured, and what they were predicted from."""

    rows: list[ServedLoad]
    gamma: int
    answer: int
    precision: str
    environment: dict[str, Any]
    calibration: Calibration


def main(
    out: str | Path = "out",
    streams: Sequence[int] = STREAMS,
    gamma: int = GAMMA,
    dtype: str | None = None,
    quick: bool = False,
) -> int:
    """Predict and measure the loads, print the table, and write serve-demo.png, serve-demo.json and
    calibration.json to the folder `out`. The last line printed is one JSON document. Returns the
    exit status.

    Raises SpecsimError where something is missing, before anything is timed.
    """
    out = Path(out)
    require_writable(out)
    answer, rounds = (QUICK_ANSWER, QUICK_ROUNDS) if quick else (ANSWER, ROUNDS)
    found = compared(streams, gamma, dtype, quick, answer, rounds, note=say)
    say("", *table(found.rows, gamma))
    draw(found.rows, gamma, out / "serve-demo.png")
    write_json(out / "calibration.json", to_json(found.calibration))
    document = {
        "environment": found.environment,
        "precision": found.precision,
        "gamma": gamma,
        "answer_tokens": answer,
        "rows": [asdict(each) for each in found.rows],
        **errors(found.rows, gamma),
    }
    write_json(out / "serve-demo.json", document)
    say("", f"wrote serve-demo.png, serve-demo.json and calibration.json to {out}", "")
    print(json.dumps(document, allow_nan=False), flush=True)
    return 0


def compared(
    streams: Sequence[int] = STREAMS,
    gamma: int = GAMMA,
    dtype: str | None = None,
    quick: bool = False,
    answer: int = ANSWER,
    rounds: int = ROUNDS,
    note: Callable[..., object] = lambda *lines: None,
) -> Compared:
    """Calibrate, predict the loads of the bundled pair, then start the server and measure them.

    Arguments: `streams` of each load; `gamma`, beside plain decoding; `dtype`, by default the
    faster one here; `quick`, fewer probes and texts; `answer`, tokens of a text; `rounds`, how
    often each load is sent; `note(*lines)`, told what is done.

    Raises SpecsimError where something is missing, before anything is timed.
    """
    require_modules("the demo of a server", *LIBRARIES, extra="serve")
    import torch

    from reference import machine
    from reference.lab import probes

    torch.manual_seed(0)
    where = machine.device_named(None)
    chosen = probes.fastest_dtype(where)[0] if dtype is None else machine.dtype_named(dtype)
    name, about = machine.PRECISION_OF[chosen], machine.environment(where)
    note(f"machine      {about.device}, {about.threads} threads, {name}")
    pair = trained_pair(("bundled", None), chosen, where, FULL)
    rounds_of_probes, widest = (1, QUICK.widest) if quick else (FULL.probe_rounds, FULL.widest)
    timings = probes.run_probes(where, chosen, rounds_of_probes, widest=widest)
    calibration = fit(timings, asdict(about))
    note("", *tables.calibration_table(calibration))
    texts = QUICK.trained.texts if quick else pair.effort.texts
    survival = survival_of(pair, gamma, texts)
    host = cost_of_serving(gamma, name, max(streams), quick)
    note("", *host.lines())
    system = host.added_to(calibration.system)
    note("", f"acceptance at temperature 1, from calibration prompts: {said(survival)}")
    length = float(np.mean([len(prompt) for prompt in pair.timed_prompts]))
    loads = [ClosedLoop(count, answer, length) for count in streams]
    shapes = pair.target.architecture, pair.draft.architecture
    predicted = {
        (load.streams, drafted): predict(*shapes, system, load, drafted, survival)
        for load in loads
        for drafted in (0, gamma)
    }
    note("", "predicted; now the server …")
    measured = measure(loads, (0, gamma), pair.timed_prompts, name, max(streams), rounds)
    return Compared(
        rows=[row(*key, predicted[key], measured[key]) for key in predicted],
        gamma=gamma,
        answer=answer,
        precision=name,
        environment=asdict(about),
        calibration=calibration,
    )


def survival_of(pair: Pair, gamma: int, texts: int) -> np.ndarray:
    """(s_1 … s_gamma) of the pair at temperature 1, from texts after its calibration prompts."""
    from itertools import cycle, islice

    from reference.lab import suites
    from specsim.acceptance import TextTrace

    prompts = list(islice(cycle(pair.calibration_prompts), texts))
    kept = suites.text_trace(
        pair.target, pair.draft, prompts, max_new_tokens=pair.effort.new_tokens + gamma
    )
    return np.asarray(TextTrace(*kept).at(gamma).vector)


def predict(
    target: Architecture,
    draft: Architecture,
    system: System,
    load: ClosedLoop,
    gamma: int,
    survival: np.ndarray,
) -> serving.Served:
    """The load on a simulated server that drafts `gamma` tokens."""
    drafter = DraftModel(draft) if gamma else None
    server = serving.Server(
        target=target, drafter=drafter, system=system, max_seqs=load.streams, kv_tokens=1 << 20
    )
    acceptance: dict[str, Any] = {"survival": survival.tolist()} if gamma else {}
    return serving.simulate(server, load.traffic, policy=f"fixed:{gamma}", **acceptance)


def measure(
    loads: Sequence[ClosedLoop],
    gammas: Sequence[int],
    prompts: Sequence[list[int]],
    dtype: str,
    slots: int,
    rounds: int,
) -> dict[tuple[int, int], list[client.ServerRun]]:
    """Send every load to a server of each gamma, in turn, `rounds` times."""
    written = [client.Written(tuple(prompt)) for prompt in prompts]
    found: dict[tuple[int, int], list[client.ServerRun]] = {
        (load.streams, gamma): [] for load in loads for gamma in gammas
    }
    with ExitStack() as stack:
        servers = {gamma: stack.enter_context(our_server(gamma, dtype, slots)) for gamma in gammas}
        for turn in range(rounds + 1):
            for load in loads:
                for gamma, server in servers.items():
                    run = client.measure_server(
                        server.url, load.traffic, prompts=written, temperature=1.0, ignore_eos=True,
                        overhead=False,
                    )  # fmt: skip
                    if turn:  # the first round warms up
                        found[load.streams, gamma].append(run)
    return found


def row(
    streams: int, gamma: int, predicted: serving.Served, measured: Sequence[client.ServerRun]
) -> ServedLoad:
    """One load, predicted and measured."""
    speeds = [float(run.summary["output_throughput"]) for run in measured]
    found = [run.summary.get("spec_decode_acceptance_length") for run in measured if gamma]
    lengths = [float(each) for each in found if each is not None]
    return ServedLoad(
        streams=streams,
        gamma=gamma,
        predicted=float(predicted.summary["output_throughput"]),
        measured=statistics.median(speeds),
        low=min(speeds),
        high=max(speeds),
        predicted_tokens_per_cycle=float(
            predicted.summary.get("spec_decode_acceptance_length") or 1.0
        ),
        tokens_per_cycle=statistics.median(lengths) if lengths else None,
    )


def said(survival: np.ndarray) -> str:
    """A survival vector in words."""
    return ", ".join(f"s_{k} = {share:.2f}" for k, share in enumerate(survival, 1))


def speedups(rows: Sequence[ServedLoad], gamma: int) -> dict[int, tuple[float, float]]:
    """By streams, the predicted and the measured speedup."""
    of = {(each.streams, each.gamma): each for each in rows}
    return {
        streams: (
            of[streams, gamma].predicted / of[streams, 0].predicted,
            of[streams, gamma].measured / of[streams, 0].measured,
        )
        for streams, drafted in of
        if drafted == 0
    }


def errors(rows: Sequence[ServedLoad], gamma: int) -> dict[str, float]:
    """The median and the largest |predicted / measured - 1|, of speeds and of speedups."""
    speeds = [abs(each.predicted / each.measured - 1) for each in rows]
    gains = [abs(one / other - 1) for one, other in speedups(rows, gamma).values()]
    return {
        "median_error": statistics.median(speeds), "worst_error": max(speeds),
        "median_speedup_error": statistics.median(gains), "worst_speedup_error": max(gains),
    }  # fmt: skip


def table(rows: Sequence[ServedLoad], gamma: int) -> list[str]:
    """The loads, predicted beside measured, in lines of at most 80 columns."""
    of = {(each.streams, each.gamma): each for each in rows}
    lines = [
        "tokens/s of all streams together, through HTTP (median of the rounds)",
        f"{'':8}{'plain':>24}{f'gamma {gamma}':>24}{'speedup':>20}",
        f"{'streams':8}"
        + f"{'predicted':>12}{'measured':>12}" * 2
        + f"{'predicted':>11}{'meas.':>9}",
    ]
    for streams, (one, other) in speedups(rows, gamma).items():
        cells = "".join(
            f"{of[streams, g].predicted:12.0f}{of[streams, g].measured:12.0f}" for g in (0, gamma)
        )
        lines.append(f"{streams:<8}{cells}{one:10.2f}x{other:8.2f}x")
    off = errors(rows, gamma)
    lines += [
        "",
        f"|error| of tokens/s: median {off['median_error']:.0%}, worst {off['worst_error']:.0%}; "
        f"of speedups: {off['median_speedup_error']:.0%}, {off['worst_speedup_error']:.0%}",
    ]
    return lines


def draw(rows: Sequence[ServedLoad], gamma: int, file: Path) -> None:
    """The figure: predicted lines, measured markers with the range of the rounds."""
    from specsim import figures

    figure, (speed, gain) = figures.subplots(2, height=3.0)
    lines = []
    for drafted, concept in ((0, "plain"), (gamma, "speedup")):
        mine = [each for each in rows if each.gamma == drafted]
        lines.append(
            figures.Curve(
                f"γ = {drafted}" if drafted else "plain",
                [each.streams for each in mine],
                [each.predicted for each in mine],
                concept,
                measured=[(each.streams, each.measured, each.low, each.high) for each in mine],
            )
        )
    figures.curves(
        speed, lines, "streams", "tokens per second", title="Served: predicted and measured"
    )
    found = speedups(rows, gamma)
    line = figures.Curve(
        f"γ = {gamma}", list(found), [one for one, _ in found.values()],
        measured=[(streams, other) for streams, (_, other) in found.items()],
    )  # fmt: skip
    figures.curves(gain, [line], "streams", "speedup (×)", unit_line=True)
    with writing(file) as new:
        figure.savefig(new, format="png")

"""What serving adds to a cycle of the decoder: HTTP, the event loop, and the client beside them.

A small random pair, which resembles no model that is predicted, is decoded in this process and by
`python -m reference serve`, with one sequence and with as many as there are slots, plain and with
drafts. What the server's cycles take longer is

    o_cycle + o_sequence x batch + o_speculation where there are drafts

and is added to what a calibration knows of the decoder alone. The cost is that of texts that are
streamed token by token to a client on this machine; a client elsewhere costs less (pessimistic).
"""

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from specsim import serving
from specsim.demo.processes import our_server
from specsim.evidence import client
from specsim.evidence.calibration.regression import non_negative_fit
from specsim.hardware import System

TARGET, DRAFT = (192, 6), (128, 2)  # hidden size, layers
VOCABULARY = 3072
PROMPT, ANSWER, ROUNDS = 8, 48, 7  # tokens, tokens, and how often each load is sent


@dataclass(frozen=True, slots=True)
class HostCost:
    """Seconds that serving adds to a cycle, to each sequence of it, and to one with drafts."""

    cycle_s: float
    sequence_s: float
    speculation_s: float

    def lines(self) -> list[str]:
        """The costs in words."""
        return [
            f"serving adds {self.cycle_s * 1e3:.2f} ms a cycle, {self.sequence_s * 1e3:.2f} ms a "
            "sequence of it, and",
            f"{self.speculation_s * 1e3:.2f} ms where there are drafts (a probe pair, decoded here "
            "and served)",
        ]

    def added_to(self, system: System) -> System:
        """`system`, whose host also serves."""
        engine = system.engine
        engine = replace(
            engine,
            cycle_overhead_s=engine.cycle_overhead_s + self.cycle_s,
            sequence_overhead_s=engine.sequence_overhead_s + self.sequence_s,
            speculation_overhead_s=engine.speculation_overhead_s + self.speculation_s,
        )
        return replace(system, engine=engine)


def cost_of_serving(gamma: int, dtype: str, slots: int, quick: bool = False) -> HostCost:
    """Time the probe pair here and behind a server of so many slots, in turn.

    Arguments: `gamma`, tokens drafted where there are drafts, at least 1; `dtype`, as "fp32";
    `quick`, plain and once: what drafts add is then taken to be nothing (optimistic).

    Raises SpecsimError if the server does not start.
    """
    pair = probe_pair(dtype)
    sizes = sorted({1, slots})
    seen: dict[tuple[int, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = written(pair, Path(folder))
        for drafted in (0,) if quick else (0, gamma):
            with our_server(drafted, dtype, slots, *files) as server:
                for turn in range(1 + (1 if quick else ROUNDS)):
                    for batch in sizes:
                        here = decoded_s(*pair, drafted, batch)
                        there = served_s(server.url, batch)
                        if turn:  # the first round warms up
                            seen.setdefault((drafted, batch), []).append((here, there))
    return fitted({key: typical(each) for key, each in seen.items()})


def typical(seconds: list[tuple[float, float]]) -> tuple[float, float]:
    """The median seconds of a cycle behind the server, and those here by the median ratio of the
    two: each pair is timed within a second, and the machine's speed changes more slowly."""
    there = statistics.median(each for _, each in seconds)
    return there * statistics.median(here / each for here, each in seconds), there


def fitted(seconds: dict[tuple[int, int], tuple[float, float]]) -> HostCost:
    """The costs, from the seconds of a cycle here and behind the server, by gamma and batch."""
    columns, more = [], []
    for (gamma, batch), (here, there) in seconds.items():
        columns.append(np.array([1.0, batch, gamma > 0]) / there)
        more.append((there - here) / there)  # as a share of the whole, which is to be predicted
    return HostCost(*map(float, non_negative_fit(np.array(columns), np.array(more))))


def probe_pair(dtype: str) -> tuple[Any, Any]:
    """The random target and draft, as they are written to files."""
    import torch

    from reference.lab.dialled import random_model
    from reference.lab.probes.stages import probe_architecture
    from reference.machine import dtype_named

    where, number = torch.device("cpu"), dtype_named(dtype)
    target, draft = (
        random_model(probe_architecture(*size, VOCABULARY), number, where, seed)
        for seed, size in enumerate((TARGET, DRAFT))
    )
    return target, draft


def written(pair: tuple[Any, Any], folder: Path) -> tuple[Path, Path]:
    """The pair as checkpoints in `folder`, with the bundled tokenizer."""
    from tokenizers import Tokenizer

    from reference.checkpoints import PAIR, save_checkpoint

    tokenizer = Tokenizer.from_file(str(PAIR / "target" / "tokenizer.json"))
    files = folder / "target", folder / "draft"
    for model, file in zip(pair, files, strict=True):
        save_checkpoint(model, file, tokenizer=tokenizer, dtype=model.dtype)
    return files


def decoded_s(target: Any, draft: Any, gamma: int, batch: int) -> float:
    """The mean seconds of a cycle of the decoder in this process."""
    from reference import DraftModel, NoDrafter, speculate
    from reference.lab.dialled import UNHEARD
    from reference.packing import pack

    drafter = DraftModel(pack(draft), gamma) if gamma else NoDrafter()
    target.stop_ids = UNHEARD  # a server looks for tokens that end a text, and so do the probes
    run = speculate(pack(target), drafter, [[1] * PROMPT] * batch, ANSWER, mode="eager")
    return statistics.mean(run.statistics.cycle_times)


def served_s(url: str, batch: int) -> float:
    """The mean seconds of a cycle behind the server, in a closed loop of `batch` streams."""
    load = serving.traffic(
        concurrency=batch, requests=batch, prompt=serving.Lengths(PROMPT),
        output=serving.Lengths(ANSWER),
    )  # fmt: skip
    run = client.measure_server(
        url, load, prompts=[client.Written((1,) * PROMPT)], temperature=0.0, ignore_eos=True,
        overhead=False,
    )  # fmt: skip
    tokens = run.summary.get("spec_decode_acceptance_length") or 1.0
    return float(run.summary["mean_tpot_ms"]) / 1e3 * float(tokens)

"""What a calibration of this CPU predicts, beside what the decoder takes: where its probes look.

    python bench/calibration_accuracy.py [--rounds 3] [--calibration FILE] [--only plain …]

Calibrates this machine, unless a file is given, and then times models that no probe resembles:

    plain    a step at 512 to 16,384 cached tokens
    batch    cycles of 1 to 32 sequences that draft 0 to 8 tokens
    top-p    cycles that sample from a nucleus of a vocabulary of 128,256 tokens
    int8     the passes of a draft whose weights are stored in int8

Every row is timed `--rounds` times in turn with the others of its kind, between two readings of the
drift probe; the median is compared with the prediction. The drift is that of memory and of a tiny
model: the arithmetic of large batches does not follow it. The machine must be idle: other work
changes what is measured, and what is predicted.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch

from reference import DraftModel, NoDrafter, speculate
from reference.lab.dialled import random_model
from reference.lab.drift import DriftProbe
from reference.lab.probes import fastest_dtype, run_probes
from reference.machine import PRECISION_OF, environment
from reference.packing import pack
from reference.quantization import quantized
from reference.statistics import Statistics
from specsim import drafting
from specsim.architecture import Architecture
from specsim.evidence import calibration
from specsim.hardware import System
from specsim.speculation import predict

CPU = torch.device("cpu")
NEW_TOKENS = 6


def shape(hidden: int, layers: int, heads: int, kv_heads: int, vocab: int) -> Architecture:
    """A model that no probe resembles."""
    return Architecture(
        name=f"{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=heads,
        num_kv_heads=kv_heads, head_dim=64, intermediate_size=3 * hidden, vocab_size=vocab,
        max_context=17_000,
    )  # fmt: skip


TARGET, DRAFT = shape(1024, 14, 16, 4, 16_384), shape(512, 4, 8, 2, 16_384)
LARGE_VOCABULARY = shape(1024, 6, 16, 8, 128_256), shape(256, 3, 4, 2, 128_256)
LIMITS = {"plain": 0.10, "batch": 0.15, "top-p": 0.15, "int8": 0.10}


@dataclass
class Row:
    """One thing that is predicted and timed; `run` decodes, `read` takes the seconds of it."""

    kind: str
    name: str
    predicted: Callable[[System], float]
    run: Callable[[int], Statistics]
    read: Callable[[Statistics], float]


def rows(kinds: list[str], dtype: torch.dtype) -> Iterator[list[Row]]:
    """The rows, kind by kind, so that the models of one kind are in memory at a time."""

    def made(architecture: Architecture, seed: int = 0):
        return random_model(architecture, dtype, CPU, seed)

    def cycle(kind, name, target, draft, batch, length, gamma, stored=None, top_p=None, part=None):
        drafter = DraftModel(draft, gamma) if gamma else NoDrafter()
        priced = drafting.DraftModel(draft.architecture, stored) if gamma else None
        context = length + NEW_TOKENS // 2

        def predicted(system: System) -> float:
            found = predict(
                target.architecture, priced, system, gamma=gamma, batch=batch, context=context,
                top_p=top_p, **({"alpha": 0.5} if gamma else {}),
            )  # fmt: skip
            return float(found.draft_s if part == "draft" else found.cycle_s)

        def run(seed: int) -> Statistics:
            prompts = [[1 + seed] * length] * batch
            return speculate(
                target, drafter, prompts, NEW_TOKENS, 1.0, seed=seed, top_p=top_p
            ).statistics

        return Row(
            kind, name, predicted, run, lambda s: s.draft_s if part == "draft" else s.cycle_s
        )

    if {"plain", "batch", "int8"} & set(kinds):
        target, draft = pack(made(TARGET)), made(DRAFT, 1)
        small = quantized(draft, "int8") if "int8" in kinds else None
        draft = pack(draft)
        target.reads_prompts = draft.reads_prompts = False
        if "plain" in kinds:
            yield [
                cycle("plain", f"{context:,} tokens", target, draft, 1, context, 0)
                for context in (512, 2048, 8192, 16_384)
            ]
        if "batch" in kinds:
            yield [
                cycle("batch", f"batch {batch}, gamma {gamma}", target, draft, batch, 200, gamma)
                for batch in (1, 4, 12, 32)
                for gamma in (0, 1, 3, 5, 8)
            ]
        if small is not None:
            small.reads_prompts = False
            yield [
                cycle("int8", f"drafting, gamma {gamma}", target, small, 1, 200, gamma, "int8",
                      part="draft")
                for gamma in (1, 3, 6)
            ]  # fmt: skip
        del target, draft, small
    if "top-p" in kinds:
        target, draft = (pack(made(each, seed)) for seed, each in enumerate(LARGE_VOCABULARY))
        yield [
            cycle("top-p", f"gamma {gamma}", target, draft, 1, 60, gamma, top_p=0.9)
            for gamma in (0, 2, 4, 7)
        ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calibration", help="of this machine, instead of a new one")
    parser.add_argument("--only", nargs="*", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--out", help="write the new calibration here")
    options = parser.parse_args()
    torch.manual_seed(0)
    drift = DriftProbe(CPU)
    if options.calibration:
        fitted = calibration.load(options.calibration)
    else:
        dtype, _ = fastest_dtype(CPU)
        read: list[float] = []
        timed = run_probes(CPU, dtype, between=lambda: read.append(drift.now_s()))
        about = asdict(environment(CPU)) | {"drift_s": statistics.median(read)}
        fitted = calibration.fit(timed, about)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(calibration.to_json(fitted), file)
    usual_s = fitted.environment["drift_s"]
    dtype = next(
        each for each, name in PRECISION_OF.items() if name == fitted.system.precision.name
    )
    unstable = {name: f"{change:.0%}" for name, change in fitted.changes.items()
                if change > calibration.STABLE}  # fmt: skip
    print(f"{PRECISION_OF[dtype]}, band ±{fitted.system.engine.error:.0%}, changed: {unstable}")
    for kind in rows(options.only, dtype):
        seen = [Statistics(0) for _ in kind]
        drifted: list[list[float]] = [[] for _ in kind]
        for row in kind:
            row.run(99)
        for turn in range(options.rounds):
            for row, total, each in zip(kind, seen, drifted, strict=True):
                before = drift.now_s()
                total.extend(row.run(turn))
                each.append((before + drift.now_s()) / 2 / usual_s)
        errors, without = [], []
        print(f"{'':26}predicted   measured   drift   error, drift taken out")
        for row, total, each in zip(kind, seen, drifted, strict=True):
            predicted, measured = row.predicted(fitted.system), row.read(total)
            moved = statistics.median(each)
            errors.append(predicted / measured - 1)
            without.append(predicted * moved / measured - 1)
            print(
                f"{row.kind:7}{row.name:19}{predicted * 1e3:9.2f}ms{measured * 1e3:9.2f}ms"
                f"{moved:8.2f}"
                f"{errors[-1]:+8.0%}{without[-1]:+8.0%}", flush=True,
            )  # fmt: skip
        medians = [f"{np.median(np.abs(each)):.1%}" for each in (errors, without)]
        print(
            f"{kind[0].kind}: median |error| {medians[0]}, with the drift taken out {medians[1]}; "
            f"asked {LIMITS[kind[0].kind]:.0%}"
        )


if __name__ == "__main__":
    main()

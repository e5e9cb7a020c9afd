"""Published speedups as cases to predict, or skipped with the reason.

A case is a target, a drafting method, an engine on a machine, a batch, a context, the drafted
tokens of a cycle, what was accepted, and the speedup that was measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim import catalog
from specsim.architecture import Architecture, model
from specsim.catalog import published
from specsim.checks import Floats
from specsim.drafting import Drafter, DraftModel, DynamicTree, Eagle, method
from specsim.evidence.validation.cases import DYNAMIC_SD, Skip
from specsim.hardware import System, accelerator, catalog_engine
from specsim.operators import precision
from specsim.prediction import Prediction
from specsim.speculation import predict

CHILD_PROBS = (0.6, 0.15, 0.08, 0.05, 0.03)  # not used by a row that states tau
DRAFTERS = ("EAGLE", "EAGLE-3")  # vLLM PR #32374 prints their survival vectors
DFLASH = "DFlash Table 1 (arXiv:2602.06036)"
# The trees of EAGLE-2 and EAGLE-3 where a row states none: their authors' settings for models of
# 7B and 8B: depth, children of a node, verified tokens (arXiv:2406.16858, arXiv:2503.01840).
AUTHORS_TREES = {"EAGLE-2": (6, 10, 60), "EAGLE-3": (8, 10, 60)}


@dataclass(frozen=True, slots=True)
class SpeculationCase:
    """One measured speedup.

    `acceptance` is what `predict` is given: tokens_per_cycle, or a survival vector. `paper` names
    what is left out together: a source with all its tables. A case that is not `fitted` is
    predicted alone.
    """

    table: str
    line: int
    set: str
    label: str
    engine: str
    source: str
    target: Architecture
    drafter: Drafter
    accelerator: str
    precision: str
    gamma: int
    acceptance: Mapping[str, Any]
    speedup: float
    batch: float = 1.0
    context: float = 1024.0
    tensor_parallel: int = 1
    fitted: bool = True

    @property
    def paper(self) -> str:
        return self.source.split(" Table")[0]

    @property
    def cycle(self) -> tuple[Any, ...]:
        """What the seconds of a cycle depend on: cases that differ in acceptance alone share it."""
        machine = (self.engine, self.accelerator, self.precision, self.tensor_parallel)
        return (self.target, self.drafter, machine, self.gamma, self.batch, self.context)

    @property
    def tokens_per_cycle(self) -> float:
        """Stated, or from a stated survival vector."""
        if "tokens_per_cycle" in self.acceptance:
            return float(self.acceptance["tokens_per_cycle"])
        return 1.0 + float(sum(self.acceptance["survival"][: self.gamma]))

    def predicted(self, engines: catalog.Table, **constants: float | Floats) -> Prediction:
        """The prediction with a table of engines, some constants replaced: by numbers, or by arrays
        of one shape, which the prediction then has too."""
        shape = np.broadcast_shapes(*(np.shape(constant) for constant in constants.values()))
        chip = accelerator(self.accelerator)
        rows = {name: dict(row) for name, row in engines.items()}
        rows[self.engine] |= constants
        engine = catalog_engine(self.engine, self.precision, chip, rows)
        machine = System(chip, engine, precision(self.precision), self.tensor_parallel)
        return predict(
            self.target, self.drafter, machine,
            gamma=np.full(shape, self.gamma), batch=self.batch, context=self.context,
            **self.acceptance,
        )  # fmt: skip


def published_speedups() -> tuple[list[SpeculationCase], list[Skip]]:
    """All published speedups of engines that can be predicted, and why the others cannot."""
    cases, skips = list(dynamic_sd()), []
    readers = {
        "vllm_mt_bench": mt_bench,
        "spec_decoding_speedups": paper,
        "served_speedups": served,
    }
    for table, read in readers.items():
        for line, row in enumerate(published.rows(table), start=2):
            found = read(line, row)
            if isinstance(found, SpeculationCase):
                cases.append(found)
            elif found is not None:
                skips.append(Skip(table, line, found))
    return cases, skips


def dynamic_sd() -> Iterator[SpeculationCase]:
    """Speedups that follow from vLLM's table of cycle times and its printed survival vectors."""
    rows = published.rows("vllm_dynamic_sd")
    step_ms = {(float(r["batch"]), int(r["K"])): float(r["step_ms"]) for r in rows}
    target, gpu, context = DYNAMIC_SD
    for name in DRAFTERS:
        survival = survival_of(name)
        for line, row in enumerate(rows, start=2):
            batch, gamma = float(row["batch"]), int(row["K"])
            if gamma == 0:
                continue
            tokens = 1 + sum(survival[:gamma])
            yield SpeculationCase(
                table="vllm_dynamic_sd",
                line=line,
                set="vLLM PR #32374, speedups from printed survival",
                label=f"{name}, batch {batch:g}, K = {gamma}",
                engine="vllm",
                source=row["source"],
                target=model(target),
                drafter=Eagle(model(target)),
                accelerator=gpu,
                precision="bf16",
                gamma=gamma,
                acceptance={"survival": survival},
                speedup=tokens * step_ms[batch, 0] / step_ms[batch, gamma],
                batch=batch,
                context=context,
            )


def survival_of(drafter: str) -> list[float]:
    """The survival vector that vLLM PR #32374 prints for a drafter."""
    return [
        float(row["value"])
        for row in published.rows("acceptance_rates")
        if row["paper"] == "vLLM dynamic SD" and row["draft_or_method"].split(" (")[0] == drafter
    ]


def mt_bench(line: int, row: Mapping[str, str]) -> SpeculationCase | str | None:
    """A speedup of vLLM at its stated tau, against plain decoding in the same source."""
    gamma = int(row["K"])
    if not gamma:
        return None
    if not row["tau"]:
        return "acceptance not stated"
    same = (r for r in published.rows("vllm_mt_bench") if r["source"] == row["source"])
    plain = next(float(r["tok_per_s"]) for r in same if r["K"] == "0")
    target, gpu, context = DYNAMIC_SD
    return SpeculationCase(
        table="vllm_mt_bench",
        line=line,
        set="vLLM PR #16035, speedups at stated tau",
        label=f"EAGLE, batch 1, K = {gamma}",
        engine="vllm",
        source=row["source"],
        target=model(target),
        drafter=Eagle(model(target)),
        accelerator=gpu,
        precision="bf16",
        gamma=gamma,
        acceptance={"tokens_per_cycle": float(row["tau"])},
        speedup=float(row["tok_per_s"]) / plain,
        context=context,
    )


def paper(line: int, row: Mapping[str, str]) -> SpeculationCase | str | None:
    """A row of spec_decoding_speedups.csv; None where `formulas` predicts it."""
    if row["source"].startswith("Leviathan et al. 2023"):
        return None
    if row["source"] == DFLASH:
        return dflash(line, row)
    if row["paper"] == "EAGLE-3 Table 2":
        return eagle(line, row)
    return unpredicted(row)


def unpredicted(row: Mapping[str, str]) -> str:
    """What a published speedup does not state, so that it cannot be predicted."""
    if row["confidence"] in ("second-hand summary", "unverified"):
        return "second-hand or unverified"
    if not row["tau"] and not row["alpha"]:
        return "acceptance not stated"
    if not row["gamma"]:
        return "gamma or tree not stated"
    return "target, accelerator or format not stated, or not modelled"


def dflash(line: int, row: Mapping[str, str]) -> SpeculationCase:
    """A speedup of DFlash's Table 1 at its stated tau, for one sequence with `transformers`.

    The table states the accelerator, format, batch, verified tokens (in the method's name), and
    EAGLE-3's depth and width (in the notes). It does not state the context; between 1024 and 2048
    tokens the speedup changes by less than 1 %. The sizes of DFlash's drafter are assumed.
    """
    target = model(row["target"])
    name, verified = row["method"].removesuffix(")").split(" (")
    drafter: Drafter = method("dflash", target)
    gamma = int(verified) - 1  # a block also holds the last accepted token
    if name == "EAGLE-3":
        gamma = int(verified)
        drafter = DynamicTree(method("eagle-3", target), CHILD_PROBS, depth=7, children=10)
    return SpeculationCase(
        table="spec_decoding_speedups",
        line=line,
        set=f"DFlash Table 1, {name} at stated tau, transformers on an H200",
        label=f"{row['target']}, {row['method']}, {row['task']} T={row['temperature']}",
        engine="transformers",
        source=row["source"],
        target=target,
        drafter=drafter,
        accelerator=row["accelerator"],
        precision=row["dtype"],
        gamma=gamma,
        acceptance={"tokens_per_cycle": float(row["tau"])},
        speedup=float(row["speedup"]),
    )


def eagle(line: int, row: Mapping[str, str]) -> SpeculationCase:
    """A speedup of EAGLE-3's Table 2 at its stated tau, with its authors' code and their trees."""
    target = model("llama-3.1-8b")
    name = "EAGLE-2" if row["method"].startswith("EAGLE-2") else "EAGLE-3"
    depth, children, nodes = AUTHORS_TREES[name]
    head = method("eagle-2" if name == "EAGLE-2" else "eagle-3", target)
    inner = head.drafter if isinstance(head, DynamicTree) else head
    return SpeculationCase(
        table="spec_decoding_speedups",
        line=line,
        set="EAGLE-3 Table 2 at stated tau, its authors' code on an RTX 3090",
        label=f"{row['target']}, {row['method']}, {row['task']}",
        engine="transformers",
        source=row["source"],
        target=target,
        drafter=DynamicTree(inner, CHILD_PROBS, depth=depth, children=children),
        accelerator="rtx-3090",
        precision="fp16",
        gamma=nodes,
        acceptance={"tokens_per_cycle": float(row["tau"])},
        speedup=float(row["speedup"]),
        context=512.0,
        fitted=False,  # its trees are the authors' settings, not stated beside the speedups
    )


def served(line: int, row: Mapping[str, str]) -> SpeculationCase:
    """A row of served_speedups.csv."""
    target = model(row["target"])
    drafter: Drafter
    if row["method"] == "draft model":
        drafter = DraftModel(model(row["draft"]), precision=row["draft_precision"] or None)
    else:
        drafter = method(row["method"], target)
    if row["depth"]:
        depth, children = int(row["depth"]), int(row["children"])
        drafter = DynamicTree(drafter, CHILD_PROBS, depth=depth, children=children)
    devices = int(row["tensor_parallel"])
    split = f" TP{devices}" if devices > 1 else ""
    with_draft = f" with {row['draft']}" if row["draft"] else ""
    return SpeculationCase(
        table="served_speedups",
        line=line,
        set=f"{row['engine']}: {row['source']}",
        label=(
            f"{row['target']} {row['precision']}{with_draft} on {row['accelerator']}{split}, "
            f"{row['method']}, gamma {row['gamma']}, batch {row['batch']}"
        ),
        engine=row["engine"],
        source=row["source"],
        target=target,
        drafter=drafter,
        accelerator=row["accelerator"],
        precision=row["precision"],
        gamma=int(row["gamma"]),
        acceptance={"tokens_per_cycle": float(row["tau"])},
        speedup=float(row["speedup"]),
        batch=float(row["batch"]),
        context=float(row["mean_context"]),
        tensor_parallel=devices,
        fitted=row["usability"] == "A",
    )

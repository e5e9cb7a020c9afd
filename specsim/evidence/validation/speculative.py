"""Published results of speculative decoding, compared with their predictions.

Leviathan's formula, vLLM's cycle times and speedups, DFlash's table. One number is fitted to them:
vLLM's `speculation_overhead_s`, from ten cycle times.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from specsim import catalog
from specsim.acceptance.leviathan import best_gamma, leviathan_speedup
from specsim.architecture import model
from specsim.catalog import published
from specsim.drafting import Drafter, DynamicTree, Eagle, method
from specsim.evidence.validation.cases import DYNAMIC_SD, Skip
from specsim.hardware import System, accelerator, catalog_engine, system
from specsim.operators import precision
from specsim.prediction import Prediction
from specsim.speculation import predict

LEVIATHAN_1, LEVIATHAN_4, LEVIATHAN_5 = (
    f"Leviathan et al. 2023 (arXiv:2211.17192) Table {table}" for table in ("1", "4", "5 / A.5")
)
DFLASH = "DFlash Table 1 (arXiv:2602.06036)"
CHILD_PROBS = (0.6, 0.15, 0.08, 0.05, 0.03)  # not used by a row that states tau
DRAFTERS = ("EAGLE", "EAGLE-3")  # vLLM PR #32374 prints their survival vectors


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """A published number and its prediction, in the same unit.

    `set` names the rows that are summarised together. `within_rounding` says whether the rounding
    of the printed inputs and of the printed result explains the difference; None if not asked.
    """

    table: str
    line: int
    set: str
    label: str
    predicted: float
    published: float
    within_rounding: bool | None = None

    @property
    def error(self) -> float:
        """The relative error of the prediction."""
        return self.predicted / self.published - 1


def results(engines: catalog.Table | None = None) -> tuple[list[PublishedResult], list[Skip]]:
    """All published rows of speculation: predicted, or skipped with the reason."""
    found, skips = [*dynamic_sd(engines), *dynamic_sd_speedups(engines)], []
    speedups = published.rows("spec_decoding_speedups")
    readers = [("spec_decoding_speedups", line, row) for line, row in enumerate(speedups, start=2)]
    bench = published.rows("vllm_mt_bench")
    readers += [("vllm_mt_bench", n, r) for n, r in enumerate(bench, start=2) if int(r["K"]) > 0]
    for table, line, row in readers:
        result = (speedup if table == "spec_decoding_speedups" else mt_bench)(line, row)
        if isinstance(result, str):
            skips.append(Skip(table, line, result))
        else:
            found.append(result)
    return found, skips


def speedup(line: int, row: Mapping[str, str]) -> PublishedResult | str:
    """A row of spec_decoding_speedups.csv, predicted; or the reason to skip it."""
    if row["source"] == DFLASH:
        return dflash(line, row)
    if row["source"] in (LEVIATHAN_1, LEVIATHAN_4, LEVIATHAN_5):
        return formula(line, row)
    return unpredicted(row)


def formula(line: int, row: Mapping[str, str]) -> PublishedResult:
    """A row of Leviathan et al., predicted from its alpha, gamma and c alone."""
    source = row["source"]
    alpha, cost = float(row["alpha"]), float(row["c_draft_over_target"])
    gamma = int(row["gamma"]) if row["gamma"] else int(best_gamma(alpha, cost))
    printed = row["speedup_expected_by_paper"]
    predicted = float(leviathan_speedup(alpha, gamma, cost))
    exact = source == LEVIATHAN_1  # a theoretical table: its alpha and c = 0 are not rounded
    inputs = (
        [(alpha,), (cost,)]
        if exact
        else [rounded_from(row["alpha"]), rounded_from(row["c_draft_over_target"])]
    )
    possible = [float(leviathan_speedup(a, gamma, c)) for a, c in product(*inputs)]
    low, high = rounded_from(printed)
    task = f"{row['task']} T={row['temperature']} {row['draft']}, " if row["task"] else ""
    return PublishedResult(
        table="spec_decoding_speedups",
        line=line,
        set=source.split(") ")[1] + " of Leviathan et al., the formula",
        label=f"{task}alpha {alpha:g}, gamma {gamma}, c {cost:g}",
        predicted=predicted,
        published=float(printed),
        within_rounding=min(possible) <= high and max(possible) >= low,
    )


def rounded_from(printed: str) -> tuple[float, float]:
    """The range of numbers that are rounded to `printed`: "0.75" is 0.745 to 0.755."""
    decimals = len(printed.partition(".")[2])
    half = 0.5 * 10.0**-decimals
    return float(printed) - half, float(printed) + half


def unpredicted(row: Mapping[str, str]) -> str:
    """What a published speedup does not state, so that it cannot be predicted."""
    if row["confidence"] in ("second-hand summary", "unverified"):
        return "second-hand or unverified"
    if not row["tau"] and not row["alpha"]:
        return "acceptance not stated"
    if not row["gamma"]:
        return "gamma or tree not stated"
    return "target, accelerator or format not stated, or not modelled"


def vllm(batch: float, gamma: int, engines: catalog.Table | None, **acceptance: Any) -> Prediction:
    """vLLM with an EAGLE head, on the model and the GPU of `DYNAMIC_SD`."""
    target_name, gpu_name, context = DYNAMIC_SD
    target, gpu = model(target_name), accelerator(gpu_name)
    machine = System(gpu, catalog_engine("vllm", "bf16", gpu, engines), precision("bf16"))
    scenario: Any = {"gamma": gamma, "batch": batch, "context": context}
    return predict(target, Eagle(target), machine, **scenario, **acceptance)


def dynamic_sd(engines: catalog.Table | None = None) -> Iterator[PublishedResult]:
    """Milliseconds of a step (K = 0) or of a cycle, by batch and K; acceptance does not matter."""
    for line, row in enumerate(published.rows("vllm_dynamic_sd"), start=2):
        batch, gamma = float(row["batch"]), int(row["K"])
        prediction = vllm(batch, gamma, engines, alpha=0.5)
        seconds = prediction.cycle_s if gamma else prediction.step_s
        yield PublishedResult(
            table="vllm_dynamic_sd",
            line=line,
            set="vLLM PR #32374, ms by batch and K",
            label=f"batch {batch:g}, K = {gamma}",
            predicted=float(seconds) * 1e3,
            published=float(row["step_ms"]),
        )


def dynamic_sd_speedups(engines: catalog.Table | None = None) -> Iterator[PublishedResult]:
    """Speedups that follow from the same table and the printed survival vectors."""
    rows = published.rows("vllm_dynamic_sd")
    step_ms = {(float(r["batch"]), int(r["K"])): float(r["step_ms"]) for r in rows}
    for drafter in DRAFTERS:
        survival = survival_of(drafter)
        for line, row in enumerate(rows, start=2):
            batch, gamma = float(row["batch"]), int(row["K"])
            if gamma == 0:
                continue
            prediction = vllm(batch, gamma, engines, survival=survival)
            tokens = 1 + sum(survival[:gamma])
            yield PublishedResult(
                table="vllm_dynamic_sd",
                line=line,
                set="vLLM PR #32374, speedups from printed survival",
                label=f"{drafter}, batch {batch:g}, K = {gamma}",
                predicted=float(prediction.speedup),
                published=tokens * step_ms[batch, 0] / step_ms[batch, gamma],
            )


def survival_of(drafter: str) -> list[float]:
    """The survival vector that vLLM PR #32374 prints for a drafter."""
    return [
        float(row["value"])
        for row in published.rows("acceptance_rates")
        if row["paper"] == "vLLM dynamic SD" and row["draft_or_method"].split(" (")[0] == drafter
    ]


def dflash(line: int, row: Mapping[str, str]) -> PublishedResult:
    """A speedup of DFlash's Table 1 at its stated tau, for one sequence with `transformers`.

    The table states the accelerator, format, batch, verified tokens (in the method's name), and
    EAGLE-3's depth and width (in the notes). It does not state the context; between 1024 and 2048
    tokens the speedup changes by less than 1 %. The constants of `transformers` and the sizes of
    DFlash's drafter are assumed.
    """
    target = model(row["target"])
    name, verified = row["method"].removesuffix(")").split(" (")
    drafter: Drafter = method("dflash", target)
    gamma = int(verified) - 1  # a block also holds the last accepted token
    if name == "EAGLE-3":
        head, gamma = method("eagle-3", target), int(verified)
        drafter = DynamicTree(head, CHILD_PROBS, depth=7, children=10)
    machine = system(row["accelerator"], "transformers", row["dtype"])
    tau = float(row["tau"])
    prediction = predict(target, drafter, machine, gamma=gamma, tokens_per_cycle=tau)
    return PublishedResult(
        table="spec_decoding_speedups",
        line=line,
        set=f"DFlash Table 1, {name} at stated tau, transformers on an H200",
        label=f"{row['target']}, {row['method']}, {row['task']} T={row['temperature']}",
        predicted=float(prediction.speedup),
        published=float(row["speedup"]),
    )


def mt_bench(line: int, row: Mapping[str, str]) -> PublishedResult | str:
    """A speedup of vLLM at its stated tau, against plain decoding in the same source."""
    if not row["tau"]:
        return "acceptance not stated"
    gamma, tau = int(row["K"]), float(row["tau"])
    same = (r for r in published.rows("vllm_mt_bench") if r["source"] == row["source"])
    plain = next(float(r["tok_per_s"]) for r in same if r["K"] == "0")
    return PublishedResult(
        table="vllm_mt_bench",
        line=line,
        set="vLLM PR #16035, speedups at stated tau",
        label=f"EAGLE, batch 1, K = {gamma}",
        predicted=float(vllm(1.0, gamma, None, tokens_per_cycle=tau).speedup),
        published=float(row["tok_per_s"]) / plain,
    )


def speculation_overhead(engines: catalog.Table) -> float:
    """The `speculation_overhead_s`, in seconds, that predicts vLLM's published cycles best."""
    free = {name: dict(row) for name, row in engines.items()}
    free["vllm"]["speculation_overhead_s"] = 0.0
    cycles = [result for result in dynamic_sd(free) if not result.label.endswith("K = 0")]
    missing = np.array([result.published - result.predicted for result in cycles]) * 1e-3
    weight = 1 / np.array([result.published for result in cycles])
    order = np.argsort(missing)
    middle = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(max(missing[order][middle], 0.0))

"""Published numbers of speculation that are no speedups of an engine: the formula of Leviathan et
al., and vLLM's cycle times."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from specsim import catalog
from specsim.acceptance.leviathan import best_gamma, leviathan_speedup
from specsim.architecture import model
from specsim.catalog import published
from specsim.drafting import Eagle
from specsim.evidence.validation.cases import DYNAMIC_SD
from specsim.hardware import System, accelerator, catalog_engine
from specsim.operators import precision
from specsim.speculation import predict

LEVIATHAN_1, LEVIATHAN_4, LEVIATHAN_5 = (
    f"Leviathan et al. 2023 (arXiv:2211.17192) Table {table}" for table in ("1", "4", "5 / A.5")
)


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


def results(engines: catalog.Table | None = None) -> list[PublishedResult]:
    """All of them; `engines` replaces the catalog's."""
    engines = catalog.load("engines") if engines is None else engines
    found = list(cycle_times(engines))
    for line, row in enumerate(published.rows("spec_decoding_speedups"), start=2):
        if row["source"] in (LEVIATHAN_1, LEVIATHAN_4, LEVIATHAN_5):
            found.append(formula(line, row))
    return found


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


def cycle_times(engines: catalog.Table) -> Iterator[PublishedResult]:
    """Milliseconds of vLLM's step (K = 0) or cycle, by batch and K; acceptance does not matter."""
    target_name, gpu_name, context = DYNAMIC_SD
    target, gpu = model(target_name), accelerator(gpu_name)
    machine = System(gpu, catalog_engine("vllm", "bf16", gpu, engines), precision("bf16"))
    for line, row in enumerate(published.rows("vllm_dynamic_sd"), start=2):
        batch, gamma = float(row["batch"]), int(row["K"])
        prediction = predict(
            target, Eagle(target), machine, gamma=gamma, alpha=0.5, batch=batch, context=context
        )
        seconds = prediction.cycle_s if gamma else prediction.step_s
        yield PublishedResult(
            table="vllm_dynamic_sd",
            line=line,
            set="vLLM PR #32374, ms by batch and K",
            label=f"batch {batch:g}, K = {gamma}",
            predicted=float(seconds) * 1e3,
            published=float(row["step_ms"]),
        )

"""What acceptance to expect where none was measured: the range of the published rates of a method.

A rate is turned into the alpha at which the method, with its own decay, hit rate or tree, emits as
many tokens per cycle; 1 where even that emits fewer, and the report says of how many rates. Low and
high are the 10th and the 90th percentile of these alphas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim import catalog
from specsim.acceptance import IID
from specsim.acceptance.published import MEANS, PublishedRate, models_of, rates_of
from specsim.checks import Floats, SpecsimError
from specsim.drafting import Drafter, DraftModel, StaticTree

# Methods that draft with another one's drafts: accepted as often as that one's.
DRAFTED_BY = {"pearl": "draft-model", "ssd": "draft-model", "cascade": "draft-model"}
SHARES = (0.1, 0.5, 0.9)
NO_TASK = (*MEANS, "not stated", "various")  # what a row says that names no task
FINE = 1001  # alphas of the table that is read backwards


@dataclass(frozen=True, slots=True)
class AcceptanceRange:
    """The alphas of a method's published rates: the 10th percentile, the median, the 90th.

    `method` is the one whose rates they are, `of_target` says that all of them are of the target
    itself, `trees` that they were measured with trees of candidates (optimistic for a chain).
    `out_of_reach`: how many are of more tokens per cycle than the method emits at alpha 1.
    """

    method: str
    low: float
    middle: float
    high: float
    rates: int
    rows: int
    models: tuple[str, ...]
    of_target: bool = False
    trees: bool = False
    assumed: int = 0
    out_of_reach: int = 0

    @property
    def alphas(self) -> Floats:
        """Low, middle and high."""
        return np.array([self.low, self.middle, self.high])

    @property
    def sentences(self) -> list[str]:
        """Where the alphas come from, and which way they err."""
        whose = "with this very target" if self.of_target else f"with {listed(self.models)}"
        rows = f"{self.rows} row{'' if self.rows == 1 else 's'} of the catalog"
        if self.rates > 1:
            said = [
                f"No acceptance was given. Assumed: alpha {self.low:.2f} (low), {self.middle:.2f} "
                f"(middle), {self.high:.2f} (high): the 10th percentile, the median and the 90th "
                f"percentile of {self.rates} published rates of {self.method} ({rows}, {whose})."
            ]
        else:
            said = [
                f"No acceptance was given. Assumed: alpha {self.middle:.2f}, from one published "
                f"rate of {self.method} ({rows}, {whose}); its spread is unknown."
            ]
        if self.trees:
            said.append(
                "These rates were measured with trees of candidates: optimistic for one chain."
            )
        if self.assumed:
            said.append(
                f"How many tokens were drafted is assumed for {self.assumed} of these rates."
            )
        if self.out_of_reach:
            said.append(
                f"{self.out_of_reach} of these rates are of more tokens per cycle than "
                f"{self.method} emits here at alpha 1, which stands for them: pessimistic."
            )
        said.append(
            "Acceptance depends on the models and the traffic: measure yours (specsim acceptance "
            "MODEL says how)."
        )
        return said


@dataclass(frozen=True, slots=True)
class TaskAcceptance:
    """The median alpha of a method's published rates of one task; how many `rates` there are, and
    of which `models`. `of_target`: all of them are of the target itself."""

    task: str
    alpha: float
    rates: int
    models: Sequence[str]
    of_target: bool


def acceptance_range(
    drafter: Drafter, method: str, target: str | None = None
) -> AcceptanceRange | None:
    """The range of the published rates of `method`, drafted as `drafter` does; None where nothing
    is published. Rates of `target`, a model of the catalog, alone where there are any."""
    drafter, name, chosen, own = _published(drafter, method, target)
    if not chosen:
        return None
    alphas = alphas_of(drafter, chosen)
    low, middle, high = (float(np.quantile(alphas, share)) for share in SHARES)
    return AcceptanceRange(
        name, low, middle, high, len(chosen), sum(rate.rows for rate in chosen),
        tuple(models_of(chosen)), own, all(rate.tree for rate in chosen),
        sum(rate.assumed for rate in chosen), len(out_of_reach(drafter, chosen)),
    )  # fmt: skip


def acceptance_by_task(
    drafter: Drafter, method: str, target: str | None = None
) -> tuple[TaskAcceptance, ...]:
    """The published rates of `acceptance_range`, a task at a time, the best accepted first. Empty
    where nothing is published of any task."""
    drafter, _, chosen, own = _published(drafter, method, target)
    tasks: dict[str, list[PublishedRate]] = {}
    for rate in chosen:
        if rate.task not in NO_TASK:
            tasks.setdefault(rate.task.lower(), []).append(rate)
    found = []
    for rates in tasks.values():
        alpha = float(np.median(alphas_of(drafter, rates)))
        found.append(TaskAcceptance(rates[0].task, alpha, len(rates), models_of(rates), own))
    return tuple(sorted(found, key=lambda each: -each.alpha))


def _published(
    drafter: Drafter, method: str, target: str | None
) -> tuple[Drafter, str, tuple[PublishedRate, ...], bool]:
    """The drafter whose chain was measured, the method that the rates are of, the rates, and
    whether they are of the target itself."""
    name = catalog.resolve("methods", method)
    if name == "tree" and isinstance(drafter, StaticTree):
        drafter = drafter.drafter  # a tree is drafted with the chain of a model, or of a head
        name = "draft-model" if isinstance(drafter, DraftModel) else "eagle-3"
    name = DRAFTED_BY.get(name, name)
    found = rates_of(name)
    own = tuple(rate for rate in found if target is not None and rate.model == target)
    return drafter, name, own or found, bool(own)


def alphas_of(drafter: Drafter, rates: Sequence[PublishedRate]) -> Floats:
    """The alpha of each rate: as published, or the one at which `drafter` emits as many tokens; 1
    for those `out_of_reach`. SpecsimError for a rate whose number of drafts is not known."""
    grid = np.linspace(0.0, 1.0, FINE)
    tables: dict[int, Floats] = {}
    found = []
    for rate in rates:
        if rate.alpha is not None:
            found.append(rate.alpha)
            continue
        if rate.gamma is None or rate.tokens_per_cycle is None:
            raise SpecsimError(
                f"no alpha follows from the rate of {rate.drafter}: gamma is unknown"
            )
        if rate.gamma not in tables:
            tokens = drafter.acceptance_of(IID(grid)).tokens_per_cycle(rate.gamma)
            tables[rate.gamma] = np.maximum.accumulate(np.asarray(tokens, float))
        found.append(float(np.interp(rate.tokens_per_cycle, tables[rate.gamma], grid)))
    return np.array(found)


def out_of_reach(drafter: Drafter, rates: Sequence[PublishedRate]) -> tuple[PublishedRate, ...]:
    """The rates of more tokens per cycle than `drafter` emits where all first drafts are accepted:
    its decay, its hit rate or its tree is not that of what was measured."""
    surest = drafter.acceptance_of(IID(1.0))
    return tuple(
        rate
        for rate in rates
        if rate.alpha is None and rate.gamma is not None and rate.tokens_per_cycle is not None
        if rate.tokens_per_cycle > float(np.asarray(surest.tokens_per_cycle(rate.gamma)))
    )


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names as a sentence lists them, the last of many left out."""
    shown = list(names[:most])
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

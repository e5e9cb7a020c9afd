"""The acceptance rates that others have published, as rates of specsim's methods.

`catalog/published/acceptance_rates.csv` holds the rows, `catalog/drafters.toml` says which method
each belongs to. Rows of one survival are one rate. Published rates are of other models and other
traffic: they say what range is plausible, not what you will measure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from specsim import catalog
from specsim.catalog import published
from specsim.checks import SpecsimError

Row = Mapping[str, str]
MEANS = ("Mean", "Avg", "Average", "Overall")  # tasks that are a mean over the others


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRate:
    """One published acceptance. Exactly one of `alpha` and `tokens_per_cycle` (bonus included).

    `method` is the catalog's name, None for a drafter that specsim does not model; `model` is the
    catalog's name of the target, None where the catalog does not have it; `gamma` is the number of
    drafted tokens, None where unknown; `assumed` says that the row itself does not state it;
    `tree` that the tokens per cycle are those of a tree of candidates.
    """

    method: str | None
    drafter: str
    target: str
    model: str | None
    task: str
    temperature: str
    alpha: float | None = None
    tokens_per_cycle: float | None = None
    gamma: int | None = None
    assumed: bool = False
    tree: bool = False
    rows: int = 1
    source: str = ""

    @property
    def setting(self) -> tuple[str, ...]:
        """What the rates of several tasks have in common."""
        return (self.source, self.target, self.drafter, self.temperature, str(self.gamma))

    @property
    def of_a_chain(self) -> bool:
        """Whether the alpha of the method's own cycles follows from it."""
        return self.alpha is not None or self.gamma is not None


@cache
def published_rates() -> tuple[PublishedRate, ...]:
    """All published acceptance rates, in the order of the file."""
    return tuple(_rates())


def rates_of(method: str) -> tuple[PublishedRate, ...]:
    """The rates of a method from which the acceptance of its cycles follows: those of its own
    chains where there are any, else those of trees; a mean over tasks counts only where the tasks
    themselves are not published. Empty where nothing is published."""
    usable = [each for each in published_rates() if each.method == method and each.of_a_chain]
    usable = [each for each in usable if not each.tree] or usable
    by_task = {each.setting for each in usable if each.task not in MEANS}
    return tuple(each for each in usable if each.task not in MEANS or each.setting not in by_task)


def rates_for(model: str) -> tuple[PublishedRate, ...]:
    """The rates with a target, by a name of the catalog or as the rows spell it.

    Raises SpecsimError for a name that neither the catalog nor a row has.
    """
    try:
        wanted: str | None = catalog.resolve("models", model)
    except SpecsimError:
        named = [each for each in published_rates() if _letters(each.target) == _letters(model)]
        if not named:
            raise
        return tuple(named)
    return tuple(each for each in published_rates() if each.model == wanted)


def models_of(rates: Sequence[PublishedRate]) -> list[str]:
    """The targets of some rates, each once, as the catalog spells them or as published."""
    return list(dict.fromkeys(each.model or each.target for each in rates))


def _rates() -> Iterator[PublishedRate]:
    series: dict[tuple[str, str], list[Row]] = {}
    for row in published.rows("acceptance_rates"):
        if row["metric"].startswith("survival"):
            series.setdefault((row["source"], row["draft_or_method"]), []).append(row)
            continue
        is_alpha = row["metric"].startswith(("alpha", "acceptance of 2nd"))
        for i, value in enumerate(map(float, row["value"].split("-"))):  # the ends of a range
            given = {"alpha": value} if is_alpha else {"tokens_per_cycle": value}
            yield _rate(row, rows=int(i == 0), **given)
    for rows in series.values():
        tokens = 1.0 + sum(float(row["value"]) for row in rows)
        yield _rate(rows[0], tokens_per_cycle=tokens, rows=len(rows))


def _rate(row: Row, rows: int = 1, **value: float) -> PublishedRate:
    about = _about(row["draft_or_method"], row["paper"])
    stated = re.match(r"\d+", row["gamma"])
    gamma = int(stated[0]) if stated else about.get("drafts")
    return PublishedRate(
        method=about.get("method"),
        drafter=row["draft_or_method"],
        target=row["target"],
        model=_model(row["target"]),
        task=row["task"] or "not stated",
        temperature=row["temperature"],
        gamma=gamma,
        assumed=gamma is not None and (stated is None or "assumed" in row["gamma"]),
        tree=about.get("tree", False),
        rows=rows,
        source=row["source"],
        **value,
    )


def _about(drafter: str, paper: str) -> catalog.Row:
    for row in catalog.load("drafters").values():
        if drafter in row["names"] and paper in row.get("papers", (paper,)):
            return row
    return {}


@cache
def _model(target: str) -> str | None:
    try:
        return catalog.resolve("models", re.sub(r" \(.*\)$", "", target))
    except SpecsimError:
        return None


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())

"""Predictions beside published measurements, by engine; the rows left out of a fit beside theirs.

    report = validation.report()        # plain data: every published row, predicted or counted
    print(validation.render(report))    # the table of `specsim validate`

| file | holds |
|---|---|
| `cases` | published rows as passes to predict, or skipped with the reason |
| `pricing` | many cases priced in one call of `cost.forward_time` |
| `fitting` | engine constants from cases: the robust fit that engines.toml is printed by |
| `scores` | errors by the shipped constants, and by constants fitted without chip or source |
| `speculative` | the first paper's formula, vLLM's cycles and speedups |
| `report`, `table` | the whole as data; the same as text |
"""

from specsim.evidence.validation.reports import report
from specsim.evidence.validation.table import render

__all__ = ["render", "report"]

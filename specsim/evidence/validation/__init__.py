"""Predictions compared with published measurements, by engine.

    report = validation.report()        # plain data: every published row, predicted or skipped
    print(validation.render(report))    # the table of `specsim validate`

Each row is also predicted by constants that were fitted without any row of its accelerator (a
speedup: of its engine), and without any row of its source.

| module | what it holds |
|---|---|
| `cases` | published rows as passes to predict, or skipped with the reason |
| `pricing` | many cases priced in one call of `cost.forward_time` |
| `fitting` | the robust fit of the constants in engines.toml to the cases |
| `scores` | errors with the shipped constants, and with constants fitted without some rows |
| `speedups` | published speedups as cases to predict |
| `overheads` | the fit of what speculation costs an engine beside its passes |
| `speculation_scores` | errors of speedups, some rows left out, and the bands from them |
| `formulas` | Leviathan's formula, vLLM's cycle times |
| `reports`, `table` | everything as plain data; the same as text |
"""

from specsim.evidence.validation.reports import report
from specsim.evidence.validation.table import render

__all__ = ["render", "report"]

"""Scenarios -> measured points.

`pairs` measures one pair of models over gamma, for `specsim demo`. The other modules measure the
points that a suite lists (`gpu.toml`, `cpu.toml`), one by one, and write the files that
`specsim compare` reads.

| module | content |
|---|---|
| `points` | the points of a suite, read from its file and checked |
| `models` | the models that a point needs, kept for the next point |
| `variants` | the ways to decode that are timed in turn: plain, and with the point's drafter |
| `budget` | the memory and the seconds that a point needs, before it is run |
| `counting` | decoding in which no cycle is cut short |
| `measuring`, `baseline` | one planned point -> one measured point; `baseline` times transformers |
| `calibrating` | the probes -> the calibration files |
| `running` | a part of a suite -> a file |
"""

from reference.lab.suites.pairs import (
    Divergence,
    divergence,
    first_difference,
    measure_pair,
    text_trace,
    with_survival,
)

__all__ = [
    "Divergence",
    "divergence",
    "first_difference",
    "measure_pair",
    "text_trace",
    "with_survival",
]

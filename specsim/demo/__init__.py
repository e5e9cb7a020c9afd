"""Predict, then measure, on this machine: a decoder alone, and a server under load.

| file | the command |
|---|---|
| `decoding` | `specsim demo`: pairs of models, decoded text by text |
| `served` | `specsim demo --serve`: the same pair behind a server, 1 to 8 streams at a time |
| `host`, `processes` | what serving adds to a cycle, timed with a probe pair; servers that are started and stopped |
"""

from specsim.demo.decoding import (
    DIALLED,
    FULL,
    GAMMAS,
    QUICK,
    Decoded,
    Effort,
    Pair,
    PairResult,
    dialled_pair,
    main,
    measure_predicted,
    predict_pair,
    predict_then_measure,
    trained_pair,
)

__all__ = [
    "DIALLED",
    "FULL",
    "GAMMAS",
    "QUICK",
    "Decoded",
    "Effort",
    "Pair",
    "PairResult",
    "dialled_pair",
    "main",
    "measure_predicted",
    "predict_pair",
    "predict_then_measure",
    "trained_pair",
]

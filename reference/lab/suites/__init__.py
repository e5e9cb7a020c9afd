"""Scenarios -> measured points.

`pairs` measures one pair of models over gamma, for the demo; the rest runs the listed suites
(`gpu.toml`, `cpu.toml`), point by point, into the files that `specsim compare` reads.
"""

from reference.lab.suites.pairs import Parting, first_difference, measure_pair, parting, text_trace

__all__ = ["Parting", "first_difference", "measure_pair", "parting", "text_trace"]

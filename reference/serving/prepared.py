"""The compiled stages of the server's cycles: loaded or compiled before it listens.

A cycle has 1, 2, 4, … rows, a window that is a power of two or the context, and a kind of sampling.
Each of these sets is compiled by itself, and kept on disk (see `artefacts`). What is not there when
the server begins to listen runs eagerly as long as it serves: compiling takes a minute or so, and
requests would wait for it.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from reference.artefacts import cache_folder, is_kept, stages_for
from reference.serving.slots import Slots
from specsim.checks import SpecsimError

COMPILED = ("greedy", "plain")  # of the kinds of `row_sampling`; filters run eagerly


class Variant(NamedTuple):
    """What stages are compiled for."""

    rows: int
    window: int
    kind: str

    def __str__(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{rows}, window {self.window}, {self.kind}"


def variants(slots: Slots) -> list[Variant]:
    """All that a cycle of `slots` may be and that is compiled, greedy ones first."""
    return [
        Variant(rows, window, kind)
        for kind in COMPILED
        for window in slots.windows
        for rows in slots.sizes
    ]


@torch.inference_mode()
def prepare(slots: Slots, may_compile: bool, say: Callable[[str], object]) -> None:
    """Load the stages that are kept for `slots`, and with `may_compile` compile and keep the
    others. Every row is free. `say` is told what was done, a line at a time.

    Raises SpecsimError if stages cannot be compiled or kept.
    """
    wanted, reasons = variants(slots), dict[str, None]()
    if may_compile:
        say(
            f"{len(wanted)} sets of compiled stages in {cache_folder()}; a new one takes about a "
            "minute; filters (top_k, top_p, min_p, penalties, min_tokens) run eagerly"
        )
    for number, variant in enumerate(wanted, 1):
        cycle, _ = slots.cycle(variant.rows, variant.kind)
        cycle.sequences.window = variant.window
        if not may_compile and not is_kept(cycle):
            continue
        begun = time.monotonic()
        found = stages_for(cycle, may_compile)
        if found.stages is not None:
            slots.compiled[variant] = found.stages
        elif may_compile:
            raise SpecsimError(f"--compile: {found.note}; leave it out to serve eagerly")
        else:
            reasons[found.note] = None
        if may_compile:
            how = "compiled" if found.is_new else "loaded"
            seconds = time.monotonic() - begun
            say(f"{number} of {len(wanted)}: {variant}: {how} in {seconds:.1f} s")
    if not may_compile and (slots.compiled or reasons):
        loaded = f"{len(slots.compiled)} of {len(wanted)} sets of compiled stages loaded"
        say(f"{loaded} from {cache_folder()}; other cycles run eagerly")
        for reason in reasons:
            say(reason)

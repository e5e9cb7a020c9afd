"""One pass, as it is asked for: how many tokens of how many sequences, and what they attend to."""

import math
from dataclasses import dataclass, replace

import numpy as np

from specsim.checks import ArrayLike, SpecsimError, quoted
from specsim.checks.limits import require_limit

MOST = 1e15  # of each number: a product of all of them is finite


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """`rows` tokens for each of `batch` sequences that have `context` tokens cached.

    A plain decode step has 1 row, a draft step 1, a verification of gamma drafts gamma + 1, a
    prefill as many as the prompt. All fields may be arrays; they combine by NumPy broadcasting.

    Arguments: `allocated_context`, the slots that the attention kernel really reads per sequence,
    where that is more than the context (masked kernels read the whole buffer). `logit_rows`, how
    many of a sequence's rows go through the LM head (None: all; a prefill needs the last one's
    logits alone). `states`, how many recurrent states a sequence writes (None: one per row, since
    any row of a verification may be the last that is accepted; a prefill writes one).
    `routing_correlation`, of a mixture of experts, overrides the model's own (see `Experts`).
    """

    batch: ArrayLike = 1
    rows: ArrayLike = 1
    context: ArrayLike = 1024
    allocated_context: ArrayLike | None = None
    logit_rows: ArrayLike | None = None
    states: ArrayLike | None = None
    routing_correlation: ArrayLike | None = None

    def __post_init__(self) -> None:
        names = ("batch", "rows", "context", "allocated_context", "logit_rows")
        shapes = []
        for name in names:
            if (value := getattr(self, name)) is None:
                continue
            if isinstance(value, int | float):
                good = 0 <= value <= MOST
            else:
                value = np.asarray(value)
                shapes.append(value.shape)
                good = value.dtype.kind in "iuf" and bool(np.all((value >= 0) & (value <= MOST)))
            if not good:
                raise SpecsimError(
                    f"the {name} of a workload must be within [0, {MOST:g}], got {quoted(value)}"
                )
        if shapes:
            cells = math.prod(np.broadcast_shapes(*shapes))
            require_limit("cells", cells, "the number of scenarios in one workload")

    def of_rows(self, rows: ArrayLike) -> "Workload":
        """The same sequences with `rows` tokens each in the pass."""
        return replace(self, rows=rows)

    def within(self, window: int | None) -> "Workload":
        """The same pass where `window` tokens of a context are kept at most; None keeps all."""
        return self if window is None else replace(self, context=np.minimum(self.context, window))


PLAIN_STEP = Workload()  # of one sequence, 1,024 tokens cached

"""One pass, as it is asked for: how many tokens of how many sequences, and what they attend to."""

from dataclasses import dataclass, replace

import numpy as np

from specsim.checks import ArrayLike


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

    def of_rows(self, rows: ArrayLike) -> "Workload":
        """The same sequences with `rows` tokens each in the pass."""
        return replace(self, rows=rows)

    def within(self, window: int | None) -> "Workload":
        """The same pass where `window` tokens of a context are kept at most; None keeps all."""
        return self if window is None else replace(self, context=np.minimum(self.context, window))


PLAIN_STEP = Workload()  # of one sequence, 1,024 tokens cached

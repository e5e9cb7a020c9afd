"""Time to the first token: the prompt in one wide pass, or in chunks, and the draft's pass besides.

A prefill is the same pass as a decode step, thousands of rows wide, so its linear layers compute.
Speculation does not make it shorter: the draft must read the prompt too.
"""

from dataclasses import dataclass

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import ArrayLike, Floats, within
from specsim.cost import step_time
from specsim.hardware import System
from specsim.operators import Workload


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Seconds from the prompt's arrival at an idle engine to its first token. No queueing."""

    target_s: Floats
    draft_s: Floats
    sampling_s: Floats

    @property
    def total_s(self) -> Floats:
        return self.target_s + self.draft_s + self.sampling_s


def prefill_s(
    model: Architecture,
    system: System,
    *,
    prompt: ArrayLike,
    batch: ArrayLike = 1,
    cached: ArrayLike = 0,
    chunk: ArrayLike = np.inf,
) -> Floats:
    """Seconds to read `prompt` tokens of each of `batch` sequences, of which `cached` are known.

    In passes of at most `chunk` tokens per sequence, each of which reads the weights again; the
    last row alone needs logits. A row attends to the tokens before it, on average cached + half the
    new ones (a window shorter than that is charged in full: pessimistic by at most a third).

    Raises SpecsimError for a prompt, a batch or a chunk below 1, and for more cached than asked.
    """
    passes, workload = prompt_passes(prompt=prompt, batch=batch, cached=cached, chunk=chunk)
    return passes * step_time(model, system, workload).total_s


def prompt_passes(
    *, prompt: ArrayLike, batch: ArrayLike = 1, cached: ArrayLike = 0, chunk: ArrayLike = np.inf
) -> tuple[Floats, Workload]:
    """How many passes read a prompt, and one of them, the mean: the arguments of `prefill_s`."""
    prompt = within("prompt", prompt, low=1.0, high=1e15)
    cached, batch = within("cached", cached, high=prompt), within("batch", batch, 1.0, 1e15)
    new = prompt - cached
    passes = np.maximum(np.ceil(new / within("chunk", chunk, low=1.0, high=np.inf)), 1.0)
    attended = cached + (new + 1.0) / 2.0
    one = Workload(
        batch=batch, rows=new / passes, context=attended, logit_rows=1.0 / passes, states=1.0
    )
    return passes, one


def time_to_first_token(
    target: Architecture,
    system: System,
    *,
    prompt: ArrayLike,
    batch: ArrayLike = 1,
    cached: ArrayLike = 0,
    chunk: ArrayLike = np.inf,
    draft: Architecture | None = None,
    draft_system: System | None = None,
) -> FirstToken:
    """The target's prefill, then the draft's (`draft_system` is the target's unless given), and the
    drawing of a token. All numeric arguments broadcast.

    The draft's follows the target's (pessimistic for engines that run it at the same time, or after
    the first token is out).
    """
    scenario = {"prompt": prompt, "batch": batch, "cached": cached, "chunk": chunk}
    target_s = prefill_s(target, system, **scenario)
    draft_s = np.zeros_like(target_s)
    if draft is not None:
        draft_s = prefill_s(draft, draft_system or system, **scenario)
    vocab, engine = target.vocab_size, system.engine
    checking_s = engine.cycle_overhead_s + engine.checking_overhead_s * vocab
    sampling_s = checking_s + system.sampling_s(batch, batch, vocab)
    return FirstToken(target_s, draft_s, np.zeros_like(target_s) + sampling_s)

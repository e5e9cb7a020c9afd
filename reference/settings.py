"""What a run is asked to do, checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral

import torch

from reference.drafters import Drafter
from reference.fused import missing
from reference.sampling import SamplingParameters
from reference.transformer import MAX_GAMMA
from reference.tree_verification import TREE_RULES
from reference.verification import RULES
from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.checks.limits import LIMITS

MODES = ("eager", "cuda-graphs", "compiled", "fused")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is the same for all cycles of a run.

    With `survival`, P(at least k drafts are accepted) for k = 1 … gamma, the number of accepted
    drafts is drawn from that vector, whatever the rule says. That is LOSSY; it separates the cost
    of a cycle from its acceptance. `mode` is one of `MODES`, or kept: compiled stages where they
    are kept on disk, and eager elsewhere.
    """

    sampling: SamplingParameters
    rule: str = "token"
    stop_ids: frozenset[int] = frozenset()
    survival: tuple[float, ...] | None = None
    mode: str = "eager"


def check_run(
    drafter: Drafter, max_new_tokens: int, temperature: float, rule: str, chain_only: bool
) -> None:
    """SpecsimError for a length, a gamma or a rule that cannot be run. `chain_only` says that
    something was asked for that trees do not have."""
    if max_new_tokens < 1:
        raise SpecsimError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if not 0 <= drafter.gamma <= MAX_GAMMA:
        raise SpecsimError(f"gamma must be between 0 and {MAX_GAMMA}, not {drafter.gamma}")
    if rule not in RULES:
        raise SpecsimError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if drafter.nodes is not None:
        if temperature > 0 and rule not in TREE_RULES:
            known = ", ".join(TREE_RULES)
            raise SpecsimError(f"the rule {rule!r} is for chains; those for trees: {known}")
        if chain_only:
            raise SpecsimError("choose_gamma and survival are for chains, not for trees")


def check_seed(seed: int) -> None:
    """SpecsimError unless `seed` is a whole number that the generators take."""
    most = LIMITS["seed"].most
    if not isinstance(seed, Integral) or isinstance(seed, bool) or abs(seed) > most:
        raise SpecsimError(f"seed must be a whole number of at most {most:,}, not {seed!r:.100}")


def checked_prompts(prompt, architecture: Architecture) -> tuple[list[list[int]], bool]:
    """The prompts as lists of ids, and whether there was a batch of them."""
    if isinstance(prompt, str):
        raise SpecsimError("the prompt must be token ids; encode the text with the tokenizer first")
    prompt = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
    is_batch = len(prompt) > 0 and not isinstance(prompt[0], Integral)
    prompts = [[int(token) for token in row] for row in (prompt if is_batch else [prompt])]
    for row in prompts:
        if not row:
            raise SpecsimError("the prompt is empty: give at least one token")
        if len(row) >= architecture.max_context:
            raise SpecsimError(
                f"the prompt has {len(row)} tokens; it must leave at least one free in the context "
                f"of {architecture.max_context} of {architecture.name}"
            )
        if not 0 <= min(row) <= max(row) < architecture.vocab_size:
            raise SpecsimError(
                f"the prompt has token ids from {min(row)} to {max(row)}; the vocabulary of "
                f"{architecture.name} is 0 to {architecture.vocab_size - 1}"
            )
    return prompts, is_batch


def checked_survival(survival: Sequence[float], gamma: int) -> tuple[float, ...]:
    """The first `gamma` entries of a survival vector; SpecsimError if it is shorter, or not a
    falling sequence of probabilities."""
    vector = tuple(map(float, survival))
    falls = all(a >= b for a, b in pairwise((1.0, *vector, 0.0)))
    if len(vector) < gamma or not falls:
        raise SpecsimError(
            f"survival must be {gamma} falling probabilities, one per drafted token, not {vector}"
        )
    return vector[:gamma]


def mode_for(device: torch.device, mode: str | None) -> str:
    """The mode that was asked for; by default CUDA graphs on a CUDA device and eager elsewhere.

    Raises SpecsimError for an unknown mode, or one that the device does not have.
    """
    if mode is None:
        return "cuda-graphs" if device.type == "cuda" else "eager"
    if mode not in MODES:
        raise SpecsimError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if mode == "cuda-graphs" and device.type != "cuda":
        raise SpecsimError(f"CUDA graphs need a CUDA device, not {device}; use mode='eager'")
    if mode == "fused" and (lacks := missing(device)):
        raise SpecsimError(f"the mode 'fused' needs {lacks}; use another mode")
    return mode

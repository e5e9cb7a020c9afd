"""One cycle of a chain, in three stages: draft, verify, decide.

Everything that changes from cycle to cycle is a tensor on the device, and nothing here waits for
it: no `.item()`, no branch on what was accepted. So a GPU can record the three stages once and
replay them (see `graphs`), and a CPU runs the very same code. What passes from stage to stage is
declared below, with shapes. Trees of drafts have a cycle of their own, in `tree_cycle`.

Letters: B batch, G drafted tokens (gamma), V vocabulary, C hidden size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reference.drafters import Drafter, Proposal
from reference.noise import FreshNoise, SharedNoise
from reference.sampling import finest_float, likeliest
from reference.sequences import COUNTS, Sequences
from reference.settings import RunSettings
from reference.transformer import Transformer, prefill
from reference.verification import RULES, Verdict, leading_run, verify_greedy


class Drafted(NamedTuple):
    """What `draft` leaves for the later stages."""

    positions: Tensor  # (B, G+1), of the pending token and the drafts
    tokens: Tensor  # (B, G+1), the pending token and the drafts
    proposal: Proposal  # the drafts (B, G), and the distributions they were drawn from (B, G, V)
    uniforms: Tensor  # (B, G+1), the rule's random numbers; (B, G+1, V) for the rule "match"


class Verified(NamedTuple):
    """What `verify` leaves for `decide`."""

    hidden: Tensor  # (B, G+1, C), the target's last states
    logits: Tensor  # (B, G+1, V), the target's, after the repetition penalty


class Cycle:
    """The buffers of a run, which keep their addresses, and the stages that work on them."""

    drafted: Drafted
    verified: Verified
    gamma: int  # tokens that the next cycle drafts

    def __init__(
        self,
        target: Transformer,
        drafter: Drafter,
        batch: int,
        capacity: int,
        settings: RunSettings,
    ):
        self.target, self.drafter, self.settings = target, drafter, settings
        self.gamma, device = drafter.gamma, target.device
        self.sequences = Sequences.empty(batch, capacity, sorted(settings.stop_ids), device)
        self.cache = target.new_cache(batch, capacity, self.width)
        if settings.rule == "match" and not settings.sampling.greedy:
            self.noise = SharedNoise(0, target.architecture.vocab_size, device)
        else:
            self.noise = FreshNoise(0, batch, self.width + 1, device)
        self.survival = None
        if settings.survival is not None:
            survival = torch.tensor(settings.survival, dtype=finest_float(device))
            self.survival = survival.to(device)  # (G,)
        # a row is a `CycleResult`: five counts, the emitted tokens, how many positions were finite
        columns = COUNTS + self.gamma + 2
        self.result = torch.zeros((batch, columns), dtype=torch.long, device=device)

    def begin(self, prompts: list[list[int]], remaining: list[int], seed: int) -> None:
        """Read the prompts; `remaining` is how many tokens each may emit."""
        self.sequences.load(prompts, remaining)
        self.noise.reseed(seed)
        hidden, positions = prefill(self.target, self.sequences, self.cache)
        self.drafter.start(self.sequences, self.target, self.cache)
        if positions.numel():
            self.drafter.observe(hidden, positions)

    @property
    def width(self) -> int:
        """Tokens of the next proposal."""
        return self.gamma

    @property
    def stages(self) -> tuple[Callable[[], None], ...]:
        """The three stages, in order."""
        return self.draft, self.verify, self.decide

    def draft(self) -> None:
        """Let the drafter propose what follows the pending token."""
        sequences = self.sequences
        positions = sequences.positions(self.width + 1)
        drafting, deciding = self.noise.uniforms(positions + 1)
        drafting = drafting[:, : self.width]
        proposal = self.drafter.propose(sequences, self.settings.sampling, drafting)
        proposal = proposal.first(self.width)
        tokens = torch.cat((sequences.pending, proposal.tokens), dim=1)
        self.drafted = Drafted(positions, tokens, proposal, deciding)

    def verify(self) -> None:
        """Read the pending token and all drafts in one pass of the target."""
        sequences, sampling = self.sequences, self.settings.sampling
        positions, tokens, proposal, _ = self.drafted
        hidden = self.target.hidden(tokens, positions, self.cache, sequences.window)
        logits = self.target.head(hidden)
        logits = sampling.penalise(logits, sequences, proposal.tokens)
        self.drafter.observe(hidden, positions)
        self.verified = Verified(hidden, logits)

    def decide(self) -> None:
        """Accept the drafts up to the first that fails, and emit one token more."""
        _, _, proposal, uniforms = self.drafted
        _, logits = self.verified
        is_finite = logits.amax(-1).abs() < math.inf  # (B, G+1), at each position all of them
        accepted, next_token = accept(self.settings, logits, proposal, uniforms)
        if self.survival is not None:
            first = uniforms.flatten(1)[:, :1]  # the random number of the first position
            accepted = (first < self.survival[: self.gamma]).sum(1)
        if proposal.probabilities is not None:
            # one NaN among the draft's logits makes all its probabilities NaN
            finite_draft = proposal.probabilities[..., 0] < math.inf
            is_finite = torch.cat((is_finite[:, :-1] & finite_draft, is_finite[:, -1:]), dim=1)
        result = self.sequences.commit(proposal.tokens, accepted, next_token, proposal.counts)
        self.write_result(result, is_finite)

    def write_result(self, result: Tensor, is_finite: Tensor) -> None:
        """Write what was committed, and how many positions (B, G+1) were finite, for the host."""
        self.result[:, : result.shape[1]].copy_(result)
        self.result[:, -1].copy_(leading_run(is_finite))


def accept(settings: RunSettings, logits: Tensor, proposal: Proposal, uniforms: Tensor) -> Verdict:
    """Apply the accept rule to the target's logits (B, G+1, V); greedy decoding has only one."""
    drafted, draft_probs, counts, _ = proposal
    if settings.sampling.greedy:
        return verify_greedy(likeliest(logits), drafted, counts)
    target_probs = settings.sampling.probabilities(logits)
    return RULES[settings.rule](target_probs, draft_probs, drafted, uniforms, counts)

"""One cycle on buffers that stay where they are: draft, verify, decide.

Everything that changes from cycle to cycle is a tensor on the device, and nothing here waits for
it: no `.item()`, no branch on what was accepted. So a GPU can record the three stages once and
replay them (see `graphs`), and a CPU runs the very same code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.noise import FreshNoise, SharedNoise
from reference.sampling import Sampling, finest_float
from reference.sequences import FACTS, Sequences
from reference.transformer import Transformer, prefill
from reference.verification import RULES, Verdict, leading_run, verify_greedy


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all cycles of a run. With `survival`, how many drafts are accepted is
    drawn from that vector, P(at least k), k = 1 … gamma, whatever the rule says: LOSSY, to separate
    cost from acceptance."""

    sampling: Sampling
    rule: str = "token"
    stop_ids: frozenset[int] = frozenset()
    survival: tuple[float, ...] | None = None


class NoDrafter(Drafter):
    """Drafts nothing: plain autoregressive decoding as the gamma = 0 case of speculation."""

    gamma = 0

    def propose(self, sequences: Sequences, sampling: Sampling, uniforms: Tensor) -> Proposal:
        return Proposal(sequences.tokens[:, :0], None)


class Cycle:
    """The buffers of a run, and the stages that work on them; `gamma` tokens are drafted next."""

    def __init__(
        self, target: Transformer, drafter: Drafter, batch: int, capacity: int, settings: Settings
    ):
        self.target, self.drafter, self.settings = target, drafter, settings
        self.gamma, device = drafter.gamma, target.device
        self.sequences = Sequences.empty(batch, capacity, sorted(settings.stop_ids), device)
        self.cache = KVCache(target.architecture, batch, capacity, target.dtype, device)
        if settings.rule == "match" and not settings.sampling.greedy:
            self.noise = SharedNoise(0, target.architecture.vocab_size, device)
        else:
            self.noise = FreshNoise(0, batch, drafter.gamma + 1, device)
        self.survival = None
        if settings.survival is not None:
            chances = torch.tensor(settings.survival, dtype=finest_float(device))
            self.survival = chances.to(device)
        # what was done, and in the last column for how many places the laws were numbers
        self.report = torch.zeros((batch, FACTS + self.gamma + 2), dtype=torch.long, device=device)

    def begin(self, prompts: list[list[int]], room: list[int], seed: int) -> None:
        """Read the prompts; `room` is how many tokens each may emit."""
        self.sequences.load(prompts, room)
        self.noise.reseed(seed)
        hidden, positions = prefill(self.target, self.sequences, self.cache)
        self.drafter.start(self.sequences, self.target, self.cache)
        if positions.numel():
            self.drafter.observe(hidden, positions)

    @property
    def stages(self) -> tuple[Callable[[], None], ...]:
        return self.draft, self.verify, self.decide

    def draft(self) -> None:
        self.positions = self.sequences.positions(self.gamma + 1)
        to_draft, self.to_decide = self.noise.uniforms(self.positions + 1)
        chance = to_draft[:, : self.gamma]
        proposal = self.drafter.propose(self.sequences, self.settings.sampling, chance)
        self.proposal = proposal.first(self.gamma)
        self.tokens = torch.cat((self.sequences.pending, self.proposal.tokens), dim=1)  # (B, G+1)

    def verify(self) -> None:
        sequences, sampling = self.sequences, self.settings.sampling
        hidden = self.target.hidden(self.tokens, self.positions, self.cache, sequences.window)
        logits = self.target.head(hidden)
        self.is_number = logits.amax(-1).isfinite()  # (B, G+1)
        self.logits = sampling.penalise(logits, sequences, self.proposal.tokens)
        self.drafter.observe(hidden, self.positions)

    def decide(self) -> None:
        settings, proposal = self.settings, self.proposal
        verdict = accept(settings.sampling, self.logits, proposal, self.to_decide, settings.rule)
        accepted = verdict.accepted
        if self.survival is not None:
            chance = self.to_decide.flatten(1)[:, :1]  # of this cycle's first place
            accepted = (chance < self.survival[: self.gamma]).sum(1)
        drafted, _, counts = proposal
        report = self.sequences.commit(drafted, accepted, verdict.next_token, counts)
        self.report[:, : report.shape[1]].copy_(report)
        is_number = self.is_number
        if proposal.probabilities is not None:  # one NaN among the logits, and a law is all NaN
            chosen = proposal.probabilities.gather(-1, drafted[..., None]).squeeze(-1)
            is_number = torch.cat((is_number[:, :-1] & chosen.isfinite(), is_number[:, -1:]), 1)
        self.report[:, -1].copy_(leading_run(is_number))


def accept(
    sampling: Sampling, logits: Tensor, proposal: Proposal, uniforms: Tensor, rule: str = "token"
) -> Verdict:
    """Apply the accept rule to the target's logits (B, G+1, V); greedy decoding has but one."""
    drafted, draft_probs, counts = proposal
    if sampling.greedy:
        return verify_greedy(logits.argmax(-1), drafted, counts)
    return RULES[rule](sampling.probabilities(logits), draft_probs, drafted, uniforms, counts)

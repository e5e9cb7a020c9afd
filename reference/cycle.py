"""One cycle on buffers that stay where they are: draft, verify, decide.

Everything that changes from cycle to cycle is a tensor on the device, and nothing here waits for
it: no `.item()`, no branch on what was accepted. So a GPU can record the three stages once and
replay them (see `graphs`), and a CPU runs the very same code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.drafters import Drafter, Proposal
from reference.noise import FreshNoise, SharedNoise
from reference.sampling import Sampling, finest_float, likeliest
from reference.sequences import FACTS, Sequences
from reference.transformer import Transformer, prefill
from reference.tree_verification import TREE_RULES, TreeVerdict, follow
from reference.trees import branches
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
            self.noise = FreshNoise(0, batch, self.drafted + 1, device)
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
    def drafted(self) -> int:
        """Tokens of the next proposal: gamma, or the nodes of a tree."""
        return self.gamma if self.drafter.nodes is None else self.drafter.nodes

    @property
    def stages(self) -> tuple[Callable[[], None], ...]:
        return self.draft, self.verify, self.decide

    def draft(self) -> None:
        self.positions = self.sequences.positions(self.drafted + 1)  # the slots of a tree
        to_draft, self.to_decide = self.noise.uniforms(self.positions + 1)
        chance = to_draft[:, : self.drafted]
        proposal = self.drafter.propose(self.sequences, self.settings.sampling, chance)
        self.proposal = proposal.first(self.gamma)
        self.tokens = torch.cat((self.sequences.pending, self.proposal.tokens), dim=1)  # (B, G+1)

    def verify(self) -> None:
        sequences, sampling = self.sequences, self.settings.sampling
        positions, tree, ancestors, kept = self.positions, self.proposal.tree, None, None
        if tree is not None:
            positions, ancestors = sequences.lengths[:, None] + tree.depths, tree.ancestors
            nodes = torch.arange(self.drafted + 1, device=positions.device)
            kept = branches(ancestors, nodes, sequences.lengths, sequences.window)
        hidden = self.target.hidden(self.tokens, positions, self.cache, sequences.window, kept)
        logits = self.target.head(hidden)
        self.is_number = logits.amax(-1).abs() < math.inf  # (B, G+1)
        self.logits = sampling.penalise(logits, sequences, self.proposal.tokens, ancestors)
        if tree is None:
            self.drafter.observe(hidden, positions)
        self.hidden = hidden

    def decide(self) -> None:
        settings, proposal = self.settings, self.proposal
        verdict = accept(settings.sampling, self.logits, proposal, self.to_decide, settings.rule)
        accepted = verdict.accepted
        if self.survival is not None:
            chance = self.to_decide.flatten(1)[:, :1]  # of this cycle's first place
            accepted = (chance < self.survival[: self.gamma]).sum(1)
        drafted, laws, counts, tree = proposal
        is_number = self.is_number
        if laws is not None:  # one NaN among the draft's logits, and a law is all NaN
            chosen = laws[..., 0] < math.inf
            if tree is None:
                is_number = torch.cat((is_number[:, :-1] & chosen, is_number[:, -1:]), dim=1)
            else:
                spoilt = torch.zeros_like(self.tokens).scatter_add_(
                    1, tree.parents, (~chosen).long()
                )
                is_number = is_number & (spoilt == 0)
        if tree is not None:
            nodes = torch.cat((torch.zeros_like(verdict.path[:, :1]), verdict.path), dim=1)
            drafted, counts = self.straightened(nodes), tree.depths.amax(1)
            is_number = is_number.gather(1, nodes)
        report = self.sequences.commit(drafted, accepted, verdict.next_token, counts)
        self.report[:, : report.shape[1]].copy_(report)
        self.report[:, -1].copy_(leading_run(is_number))

    def straightened(self, nodes: Tensor) -> Tensor:
        """The tokens (B, D) of an accepted path, the root and its `nodes` (B, D+1), once its keys
        and values are moved to where those of a chain would be; behind its end are others, which do
        not count."""
        positions = self.positions[:, : nodes.shape[1]]
        self.cache.move(self.positions.gather(1, nodes), positions)
        hidden = self.hidden.gather(1, nodes[..., None].expand(-1, -1, self.hidden.shape[2]))
        self.drafter.observe(hidden, positions)
        return self.tokens.gather(1, nodes[:, 1:])


def accept(
    sampling: Sampling, logits: Tensor, proposal: Proposal, uniforms: Tensor, rule: str = "token"
) -> Verdict | TreeVerdict:
    """Apply the accept rule to the target's logits (B, G+1, V); greedy decoding has but one."""
    drafted, draft_probs, counts, tree = proposal
    if tree is not None and sampling.greedy:
        return follow(likeliest(logits), drafted, tree)
    if tree is not None:
        laws = sampling.probabilities(logits)
        return TREE_RULES[rule](laws, draft_probs, drafted, uniforms, tree)
    if sampling.greedy:
        return verify_greedy(likeliest(logits), drafted, counts)
    return RULES[rule](sampling.probabilities(logits), draft_probs, drafted, uniforms, counts)

"""The reference decoder: speculative decoding in PyTorch, small enough to read in an evening, and
exact.

    import reference
    target, draft, tokenizer = reference.load_pair("bundled")
    prompt = tokenizer.encode("def fibonacci(n):")
    plain = reference.generate(target, prompt, max_new_tokens=64)
    drafter = reference.DraftModel(draft, gamma=4)
    result = reference.speculate(target, drafter, prompt, max_new_tokens=64)
    assert result.tokens == plain.tokens
    result.statistics.tokens_per_cycle

Start reading at `decoding`, the loop, and `verification`, the rule that makes it exact.
"""

from reference.checkpoints import Tokenizer, load_checkpoint, load_pair, prompts, save_checkpoint
from reference.decoding import Generation, generate, speculate, stream
from reference.drafters import Drafter, NoDrafter, Proposal
from reference.drafters.draft_model import DraftModel
from reference.drafters.early_exit import EarlyExit
from reference.drafters.ensemble import Ensemble
from reference.drafters.head import DraftHead
from reference.drafters.n_gram import NGram
from reference.drafters.quantised_self import QuantisedSelf
from reference.drafters.tree import ConfidenceTree, StaticTree
from reference.heads import Head, load_head
from reference.statistics import Statistics
from reference.streaming import stream_text
from reference.trees import Tree

__all__ = [
    "ConfidenceTree",
    "DraftHead",
    "DraftModel",
    "Drafter",
    "EarlyExit",
    "Ensemble",
    "Generation",
    "Head",
    "NGram",
    "NoDrafter",
    "Proposal",
    "QuantisedSelf",
    "StaticTree",
    "Statistics",
    "Tokenizer",
    "Tree",
    "generate",
    "load_checkpoint",
    "load_head",
    "load_pair",
    "prompts",
    "save_checkpoint",
    "speculate",
    "stream",
    "stream_text",
]

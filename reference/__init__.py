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

A name is imported, and PyTorch with it, when it is first used. Start reading at `decoding`, the
loop, and `verification`, the rule that makes it exact.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reference.huge_pages import ask

ask()  # before PyTorch allocates anything

PLACES = {
    "checkpoints": ("Tokenizer", "load_checkpoint", "load_pair", "prompts", "save_checkpoint"),
    "decoding": ("Generation", "generate", "speculate", "stream"),
    "drafters": ("Drafter", "NoDrafter", "Proposal"),
    "drafters.draft_model": ("DraftModel",),
    "drafters.early_exit": ("EarlyExit",),
    "drafters.ensemble": ("Ensemble",),
    "drafters.head": ("DraftHead",),
    "drafters.n_gram": ("NGram",),
    "drafters.quantised_self": ("QuantisedSelf",),
    "drafters.tree": ("ConfidenceTree", "StaticTree"),
    "heads": ("Head", "load_head"),
    "mtp": ("load_mtp",),
    "statistics": ("Statistics",),
    "streaming": ("stream_text",),
    "trees": ("Tree",),
}  # the public names of each module

if TYPE_CHECKING:
    from reference.checkpoints import Tokenizer as Tokenizer
    from reference.checkpoints import load_checkpoint as load_checkpoint
    from reference.checkpoints import load_pair as load_pair
    from reference.checkpoints import prompts as prompts
    from reference.checkpoints import save_checkpoint as save_checkpoint
    from reference.decoding import Generation as Generation
    from reference.decoding import generate as generate
    from reference.decoding import speculate as speculate
    from reference.decoding import stream as stream
    from reference.drafters import Drafter as Drafter
    from reference.drafters import NoDrafter as NoDrafter
    from reference.drafters import Proposal as Proposal
    from reference.drafters.draft_model import DraftModel as DraftModel
    from reference.drafters.early_exit import EarlyExit as EarlyExit
    from reference.drafters.ensemble import Ensemble as Ensemble
    from reference.drafters.head import DraftHead as DraftHead
    from reference.drafters.n_gram import NGram as NGram
    from reference.drafters.quantised_self import QuantisedSelf as QuantisedSelf
    from reference.drafters.tree import ConfidenceTree as ConfidenceTree
    from reference.drafters.tree import StaticTree as StaticTree
    from reference.heads import Head as Head
    from reference.heads import load_head as load_head
    from reference.mtp import load_mtp as load_mtp
    from reference.statistics import Statistics as Statistics
    from reference.streaming import stream_text as stream_text
    from reference.trees import Tree as Tree


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it. Raises MissingExtra (an ImportError) if
    PyTorch or another library that the decoder needs is not installed."""
    for module, names in PLACES.items():
        if name in names:
            from specsim.checks.extras import needed  # with NumPy, which takes time

            with needed("the decoder", "reference"):
                return getattr(import_module(f"reference.{module}"), name)
    raise AttributeError(f"module 'reference' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of this package, those that are not imported yet included."""
    return sorted({*globals(), *(name for names in PLACES.values() for name in names)})

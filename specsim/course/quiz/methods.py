"""Which drafter, chain or tree, drafting in parallel, and how a cache drops rejected drafts."""

from specsim.acceptance.leviathan import leviathan_speedup
from specsim.acceptance.optimal_trees import best_tree
from specsim.course.quiz.kinds import Choice, Question
from specsim.course.quiz.models import toy, toy_system
from specsim.drafting import DraftModel, Pearl
from specsim.speculation import predict

SECTION = "Methods"
CHILDREN = (0.6, 0.15, 0.08, 0.05, 0.03)


def tree() -> dict[str, float]:
    """Tokens per cycle of the best tree and the best chain with 8 and 64 nodes."""
    numbers = {}
    for nodes in (8, 64):
        numbers[f"tree_{nodes}"] = best_tree(CHILDREN, nodes).tokens_per_cycle
        numbers[f"chain_{nodes}"] = best_tree(CHILDREN[:1], nodes).tokens_per_cycle
    return numbers | {
        "chain_limit": 1.0 / (1.0 - CHILDREN[0]),
        "root_not_counted": best_tree(CHILDREN, 9).tokens_per_cycle,
        "bonus_forgotten": numbers["tree_8"] - 1.0,
    }


def overlap_drafting() -> dict[str, float]:
    """The speedup with drafting and verification in turn, overlapped, and per device."""
    alpha, gamma, cost = 0.8, 4, 0.2
    target = toy("target", 70e9)
    draft = DraftModel(toy("draft", cost * 70e9), catch_up="none")
    overlapped = predict(
        target, Pearl(draft), toy_system(1e12, 1e18), gamma=gamma, alpha=alpha, context=1
    )
    return {
        "sequential": float(leviathan_speedup(alpha, gamma, cost)),
        "overlapped": float(overlapped.speedup),
        "per_device": float(overlapped.speedup_per_device),
        "limit": 1.0 / (1.0 - alpha),
    }


QUESTIONS = (
    Choice(
        id="which-drafter",
        section=SECTION,
        prompt=(
            "A code-editing agent at low load rewrites files from its prompt. Which drafter fits?"
        ),
        answer="an n-gram or suffix lookup, with an EAGLE head where it finds nothing",
        options={
            "the largest draft model that fits": (
                "its time is spent on every token, also on those that a lookup could copy."
            ),
            "an n-gram or suffix lookup, with an EAGLE head where it finds nothing": (
                "most of the output is a copy, and a lookup needs no pass of a model."
            ),
            "a wide tree": "a tree tries several guesses; here the first guess is right.",
            "nothing: code is too hard to predict": (
                "edited code is easy to predict, because it repeats the prompt."
            ),
        },
        in_short=(
            "Copied text: lookup plus a head. Chat at batch 1: EAGLE-3 or a parallel block. High "
            "load: MTP with one token, or an adaptive γ. A model with MTP modules: try those first."
        ),
        sources=(
            "Saxena, Prompt Lookup Decoding, 2023",
            "SuffixDecoding, arXiv:2411.04975",
            "EAGLE-3, arXiv:2503.01840",
        ),
    ),
    Question(
        id="tree-or-chain",
        section=SECTION,
        prompt=(
            "The children of a node are accepted with p = (0.6, 0.15, 0.08, 0.05, 0.03). How many "
            "tokens per cycle does the best tree with 8 nodes give, root included?"
        ),
        answer="tree_8",
        tolerance=0.01,
        mistakes={
            "you build a chain of the 8 nodes": "chain_8",
            "you do not count the root among the 8": "root_not_counted",
            "you forget the bonus token": "bonus_forgotten",
        },
        worked=tree,
        in_short=(
            "{tree_8:.2f} against {chain_8:.2f} for a chain; with 64 nodes {tree_64:.2f} against "
            "{chain_64:.2f}. A tree gains with the logarithm of its nodes, and at batch 1 extra "
            "nodes are almost free."
        ),
        sources=("Sequoia, arXiv:2402.12374", "EAGLE-2, arXiv:2406.16858"),
    ),
    Question(
        id="draft-in-parallel",
        section=SECTION,
        prompt=(
            "α = 0.8, γ = 4, c = 0.2. The draft runs on a second device while the target verifies, "
            "and the two overlap perfectly. What is the speedup per device?"
        ),
        answer="per_device",
        unit="×",
        tolerance=0.05,
        mistakes={
            "you do not count the second device": "overlapped",
            "you add drafting and verification, as on one device": "sequential",
        },
        worked=overlap_drafting,
        in_short=(
            "The next draft needs the result of this verification. A second device that guesses it "
            "raises {sequential:.2f}× to at most {overlapped:.2f}×, {per_device:.2f}× per device."
        ),
        sources=("PEARL, arXiv:2408.11850", "SSD, arXiv:2603.03251"),
    ),
    Choice(
        id="roll-back",
        section=SECTION,
        prompt="Two of four drafts are rejected. How does a transformer's KV cache drop them?",
        answer="its length is set back; later entries are masked and overwritten",
        options={
            "the tensors are sliced to the accepted length": (
                "a slice and a concatenation copies the cache in every cycle; and [:-n] with n = 0 "
                "empties it."
            ),
            "the rejected entries are set to zero": (
                "a key of zeros still gets a share of the softmax; a masked key gets none."
            ),
            "the prefix is computed again": "nothing before the rejection changed.",
            "its length is set back; later entries are masked and overwritten": (
                "no data moves. A paged cache frees whole blocks. A recurrent state cannot be "
                "shortened, so it needs a snapshot."
            ),
        },
        in_short=(
            "Set the length back. A paged cache frees blocks; a recurrent state needs a snapshot."
        ),
        sources=("PagedAttention, arXiv:2309.06180",),
    ),
)

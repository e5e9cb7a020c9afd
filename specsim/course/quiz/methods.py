"""Which drafter, chain or tree, in parallel or not, and what becomes of a rejected draft."""

from specsim.acceptance.leviathan import leviathan_speedup
from specsim.acceptance.optimal_trees import best_tree
from specsim.course.quiz.questions import Choice, Question
from specsim.course.quiz.shapes import toy, toy_machine
from specsim.drafting import DraftModel, Pearl
from specsim.speculation import predict

SECTION = "Methods"
CHILDREN = (0.6, 0.15, 0.08, 0.05, 0.03)


def tree() -> dict[str, float]:
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
    alpha, gamma, cost = 0.8, 4, 0.2
    target = toy("target", 70e9)
    draft = DraftModel(toy("draft", cost * 70e9), catch_up="none")
    overlapped = predict(
        target, Pearl(draft), toy_machine(1e12, 1e18), gamma=gamma, alpha=alpha, context=1
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
            "A code-editing agent at low load rewrites files that stand in its prompt. What drafts?"
        ),
        answer="an n-gram or suffix lookup, with an EAGLE head where it finds nothing",
        options={
            "the largest draft model that fits": (
                "its price is paid for every token, also for those that could be copied."
            ),
            "an n-gram or suffix lookup, with an EAGLE head where it finds nothing": (
                "most of the output is a copy, and copying costs no pass at all."
            ),
            "a wide tree": "a tree hedges between guesses; here the first guess is right.",
            "nothing: code is too hard to predict": (
                "edited code is the easiest text there is: it repeats its prompt."
            ),
        },
        in_short=(
            "Copying work: lookup plus a head. Chat at batch 1: EAGLE-3 or a parallel block. High "
            "load: MTP with one token, or adaptive. A model with MTP modules: those first."
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
            "A node's children are accepted with p = (0.6, 0.15, 0.08, 0.05, 0.03). Tokens per "
            "cycle of the best tree with 8 nodes, root included?"
        ),
        answer="tree_8",
        tolerance=0.01,
        mistakes={
            "a chain is built of the 8 nodes": "chain_8",
            "the root is not counted among the 8": "root_not_counted",
            "the bonus token is forgotten": "bonus_forgotten",
        },
        worked=tree,
        in_short=(
            "{tree_8:.2f} against a chain's {chain_8:.2f}, and {tree_64:.2f} against "
            "{chain_64:.2f} with 64 nodes: a tree gains with the logarithm of its rows, which "
            "batch 1 has to spare."
        ),
        sources=("Sequoia, arXiv:2402.12374", "EAGLE-2, arXiv:2406.16858"),
    ),
    Question(
        id="draft-in-parallel",
        section=SECTION,
        prompt=(
            "α = 0.8, γ = 4, c = 0.2. The draft runs on a second device while the target verifies, "
            "perfectly overlapped. Speedup per device?"
        ),
        answer="per_device",
        unit="×",
        tolerance=0.05,
        mistakes={
            "the second device is taken for free": "overlapped",
            "drafting and verification are added as on one device": "sequential",
        },
        worked=overlap_drafting,
        in_short=(
            "The next draft needs this verdict; guessing it on another device takes "
            "{sequential:.2f}× to at most {overlapped:.2f}×, {per_device:.2f}× per device."
        ),
        sources=("PEARL, arXiv:2408.11850", "SSD, arXiv:2603.03251"),
    ),
    Choice(
        id="roll-back",
        section=SECTION,
        prompt="Two of four drafts are rejected. How does a transformer's cache forget them?",
        answer="its length is set back; what lies beyond is masked and written over",
        options={
            "the tensors are sliced to the accepted length": (
                "a slice followed by a concatenation copies the cache every cycle, and [:-n] with "
                "n = 0 empties it."
            ),
            "the rejected entries are set to zero": (
                "a key of zeros still gets a share of the softmax; a mask gives it none."
            ),
            "the prefix is computed again": "nothing before the rejection has changed.",
            "its length is set back; what lies beyond is masked and written over": (
                "nothing moves. Paged caches free whole blocks; a recurrent state has to be "
                "snapshotted, since it cannot be shortened."
            ),
        },
        in_short=(
            "Set the length; a paged cache frees blocks, a recurrent state needs a snapshot."
        ),
        sources=("PagedAttention, arXiv:2309.06180",),
    ),
)

"""Trees compared with chains of as many drafted tokens: tokens per cycle, and tokens per second.

    python bench/trees_versus_chains.py [--json]

Verification of equally many nodes costs the same. A chain needs one pass of the draft for every
node, a tree one for every level. The best chain of any length is shown too. The static trees are
optimal for how often the target's token is the draft's first, second, … choice, counted on the
calibration prompts. All drafters run in turn, prompt by prompt, on the bundled pair. Speeds are
medians, with prefill.
"""

import argparse
import json
import statistics
import sys
import time

import torch
from torch import Tensor

import reference
from reference import ConfidenceTree, DraftModel, NoDrafter, StaticTree, Tree
from reference.lab.probes import fastest_dtype
from reference.sampling import SamplingParameters
from specsim.acceptance.optimal_trees import best_tree

NEW_TOKENS, PROMPTS, CALIBRATION = 64, 4, 12
NODES, DEPTH, RANKS = (4, 8, 16), 5, 4


@torch.inference_mode()
def rank_probs(target, draft, temperature: float) -> Tensor:
    """P(the target's next token is the draft's k-th choice), k = 1 … RANKS, (RANKS,)."""
    sampling, found = SamplingParameters(temperature), []
    for prompt in reference.prompts("calibration")[:CALIBRATION]:
        text = torch.tensor([prompt])
        children = draft(text)[0].topk(RANKS).indices
        found.append(sampling.probabilities(target(text))[0].gather(1, children))
    return torch.cat(found).mean(0)


def drafters(draft, ranks: Tensor, temperature: float) -> dict:
    """The drafters, by (kind, nodes)."""
    falling = ranks.sort(descending=True).values.tolist()
    made = {("plain", 0): NoDrafter()}
    made |= {("chain", gamma): DraftModel(draft, gamma) for gamma in (2, *NODES)}
    for nodes in NODES:
        tree = Tree.of_parents(best_tree(falling, nodes + 1, DEPTH).parents[1:])
        made["static tree", nodes] = StaticTree(draft, tree)
        if temperature:
            made["drawn tree", nodes] = StaticTree(draft, tree, drawn=True)
        depth = min(DEPTH, nodes // 2)
        made["confidence tree", nodes] = ConfidenceTree(draft, nodes, depth, width=3)
    return made


def compare(target, draft, prompts: list[list[int]], temperature: float) -> list[dict]:
    made = drafters(draft, rank_probs(target, draft, temperature), temperature)
    runs = {key: reference.Statistics(drafter.gamma) for key, drafter in made.items()}
    speeds: dict[tuple[str, int], list[float]] = {key: [] for key in made}
    for index, prompt in enumerate([prompts[0], *prompts]):
        for key, drafter in made.items():
            started = time.perf_counter()
            run = reference.speculate(
                target, drafter, prompt, NEW_TOKENS, temperature, seed=index, mode="eager"
            )
            if index:  # the first round warms up
                speeds[key].append(len(run.tokens) / (time.perf_counter() - started))
                runs[key].extend(run.statistics)
    return [
        {
            "temperature": temperature,
            "kind": kind,
            "nodes": nodes,
            "depth": made[kind, nodes].gamma,
            "tokens_per_cycle": runs[kind, nodes].tokens_per_cycle,
            "tokens_per_cycle_error": runs[kind, nodes].tokens_per_cycle_error,
            "draft_s": runs[kind, nodes].draft_s,
            "verify_s": runs[kind, nodes].verify_s,
            "tokens_per_s": statistics.median(speeds[kind, nodes]),
        }
        for kind, nodes in made
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dtype, why = fastest_dtype(torch.device("cpu"))
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    prompts = reference.prompts("timed")[:PROMPTS]
    rows = [row for t in (0.0, 0.8) for row in compare(target, draft, prompts, t)]
    if options.json:
        print(json.dumps({"dtype": str(dtype), "rows": rows}))
        return 0
    print(f"bundled pair, batch 1, {why}")
    print(
        "temperature  drafted            nodes depth  tokens/cycle   draft ms  verify ms  tokens/s"
    )
    for row in rows:
        print(
            f"{row['temperature']:11.1f}  {row['kind']:17s} {row['nodes']:6d} {row['depth']:5d}"
            f"  {row['tokens_per_cycle']:5.2f} ± {row['tokens_per_cycle_error']:4.2f}"
            f" {1e3 * row['draft_s']:10.2f} {1e3 * row['verify_s']:10.2f}"
            f" {row['tokens_per_s']:9.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

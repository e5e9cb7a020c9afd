"""Speculative decoding of a ragged batch, compared with its prompts one by one.

    python bench/batch_speed.py [--json] [--batch 8] [--gamma 2] [--rounds 5]

Prints tokens per second of both, timed in turn: medians over rounds, with prefill, greedy, of the
bundled pair. Each sequence accepts its own number of tokens and ends at its own time, but a pass
reads the weights once for all of them.
"""

import argparse
import json
import statistics
import sys
import time

import torch

import reference
from reference.lab.probes import fastest_dtype

NEW_TOKENS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gamma", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, why = fastest_dtype(device)
    target, draft, _ = reference.load_pair("bundled", dtype=dtype, device=device)
    # prompts of several lengths: a ragged batch
    texts = reference.prompts("timed")[: options.batch]
    prompts = [text[: 16 + 8 * index] for index, text in enumerate(texts)]
    drafter = reference.DraftModel(draft, options.gamma)

    def together() -> int:
        return sum(map(len, reference.speculate(target, drafter, prompts, NEW_TOKENS).tokens))

    def one_by_one() -> int:
        return sum(
            len(reference.speculate(target, drafter, prompt, NEW_TOKENS).tokens)
            for prompt in prompts
        )

    speeds: dict[str, list[float]] = {"together": [], "one_by_one": []}
    for turn in range(options.rounds + 1):
        for name, run in (("together", together), ("one_by_one", one_by_one)):
            started = time.perf_counter()
            tokens = run()  # the tokens are on the host when it returns
            if turn:  # the first round warms up
                speeds[name].append(tokens / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    report = {
        "batch": len(prompts),
        "gamma": options.gamma,
        "dtype": str(dtype),
        "tokens_per_s": medians,
        "ratio": medians["together"] / medians["one_by_one"],
    }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"bundled pair, greedy, gamma {options.gamma}, {why}; tokens per second")
    print(
        f"{len(prompts)} at once {medians['together']:.0f}, one by one "
        f"{medians['one_by_one']:.0f}: {report['ratio']:.2f}x"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

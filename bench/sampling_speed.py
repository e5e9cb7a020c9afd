"""What the filters of sampling add to a cycle over a large vocabulary.

    python bench/sampling_speed.py [--vocabularies 131072,262144] [--rounds 9] [--gamma 4]

A random pair (a target of hidden size 512, a draft of 256) decodes short texts at temperature 1:
without filters, with top-p, with a repetition penalty, with both, and with top-p at temperature 4,
where the nucleus holds more than the likeliest 1/32 of the vocabulary and the whole row is sorted.
All take turns in one process. Prints the median seconds of a cycle, and the ratio to no filter as
the median of the rounds' ratios; the last line is the same as JSON.
"""

import argparse
import json
import statistics

import torch

from reference.decoding import speculate
from reference.drafters.draft_model import DraftModel
from reference.lab.dialled import random_model
from reference.packing import pack
from specsim.architecture import Architecture

SIZES = ((512, 6), (256, 2))  # (hidden size, layers) of the target and the draft
OPTIONS = {
    "no filter": {},
    "top-p 0.9": {"top_p": 0.9},
    "penalty 1.2": {"repetition_penalty": 1.2},
    "both": {"top_p": 0.9, "repetition_penalty": 1.2},
    "top-p 0.9, flat": {"top_p": 0.9, "temperature": 4.0},
}


def shape(hidden: int, layers: int, vocab_size: int) -> Architecture:
    """A model of 64 dimensions a head."""
    return Architecture(
        name=f"{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=hidden // 64,
        num_kv_heads=hidden // 128, head_dim=64, intermediate_size=3 * hidden,
        vocab_size=vocab_size, max_context=8192,
    )  # fmt: skip


def main() -> None:
    """Print a line for every vocabulary and option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabularies", default="131072,262144")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=6, help="new tokens of a round")
    options = parser.parse_args()
    found = []
    for vocab_size in map(int, options.vocabularies.split(",")):
        target, draft = (
            pack(random_model(shape(*size, vocab_size), torch.float32, "cpu", seed))
            for seed, size in enumerate(SIZES)
        )
        drafter = DraftModel(draft, options.gamma)
        prompt = [(7 * place) % 1000 for place in range(options.prompt)]
        seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
        for turn in range(options.rounds + 1):
            for name, chosen in OPTIONS.items():
                chosen = {"temperature": 1.0, "seed": turn} | chosen
                run = speculate(target, drafter, prompt, options.tokens, **chosen)
                run.statistics.forget_first()
                if turn:  # the first round warms up
                    seconds[name].append(statistics.median(run.statistics.cycle_times))
        for name, each in seconds.items():
            pairs = zip(each, seconds["no filter"], strict=True)
            ratio = statistics.median(one / plain for one, plain in pairs)
            row = {"vocabulary": vocab_size, "options": name, "ratio": round(ratio, 3)}
            row["cycle_s"] = round(statistics.median(each), 5)
            print(f"{vocab_size:8,}  {name:16}  {1e3 * row['cycle_s']:7.1f} ms  {ratio:5.2f}x")
            found.append(row)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

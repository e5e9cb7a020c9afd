"""What the filters of sampling add to a cycle over a large vocabulary.

    python bench/sampling_speed.py [--vocabularies 131072,262144] [--rounds 9] [--gamma 4]

A random pair (a target of hidden size 512, a draft of 256) decodes short texts at temperature 1:
without filters, with top-p, with a repetition penalty, with both, and with top-p at temperature 4,
where the nucleus holds more than the likeliest 1/32 of the vocabulary and the whole row is sorted.
All take turns in one process. Prints the median seconds of a cycle, and the ratio to no filter as
the median of the rounds' ratios. Then it times top-p by itself: the nanoseconds that it adds for
every logit, by vocabulary and rows, which is what `sorting_overhead_s` of an engine stands for. The
last line is all of it as JSON.
"""

import argparse
import json
import statistics
import time

import torch

from reference.decoding import speculate
from reference.drafters.draft_model import DraftModel
from reference.lab.dialled import ENTROPY_SCALE, random_model
from reference.packing import pack
from reference.sampling import SamplingParameters
from specsim.architecture import Architecture

SIZES = ((512, 6), (256, 2))  # (hidden size, layers) of the target and the draft
ALONE = (1024, 4096, 8191, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
ROWS = (1, 2, 5)
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


def added_by_top_p(vocab_size: int, rows: int, times: int = 9) -> float:
    """Seconds for every logit that top-p adds to making distributions of so many rows; rows are
    shared among the threads, so of several the seconds are those of a turn of each."""
    generator = torch.Generator().manual_seed(0)
    logits = ENTROPY_SCALE * torch.randn((rows, vocab_size), generator=generator)
    ways = SamplingParameters(1.0), SamplingParameters(1.0, top_p=0.9)
    taken: list[list[float]] = [[], []]
    for _ in range(times + 1):
        for way, seconds in zip(ways, taken, strict=True):
            start = time.perf_counter()
            way.probabilities(logits)
            seconds.append(time.perf_counter() - start)
    plain, filtered = (statistics.median(seconds[1:]) for seconds in taken)
    turns = -(-rows // torch.get_num_threads())
    return (filtered - plain) / (turns * vocab_size)


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
    print("\nns a logit   " + "".join(f"{rows:>6} rows" for rows in ROWS))
    for vocab_size in ALONE:
        added = {rows: added_by_top_p(vocab_size, rows) for rows in ROWS}
        print(f"{vocab_size:10,}   " + "".join(f"{1e9 * s:11.1f}" for s in added.values()))
        found.append({"vocabulary": vocab_size, "added_s_per_logit": added})
    print(json.dumps(found))


if __name__ == "__main__":
    main()

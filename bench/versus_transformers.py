"""Our decoder beside transformers on the same weights, same prompts, same dtype, in one run.

    python bench/versus_transformers.py [--json] [--prompts 6] [--gamma 1 2 3 4 5]

Plain decoding against `generate`, and like against like: the draft model against assisted
generation (`assistant_model`), n-grams against prompt lookup (`prompt_lookup_num_tokens`), each at
the number of draft tokens that is fastest for it. All greedy and in turn; medians of tokens per
second over the prompts. Greedy text of so small a target repeats itself, which n-grams find.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import transformers

import reference
from reference.checkpoints import PAIR
from reference.probes import fastest_dtype

NEW_TOKENS = 96


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--gamma", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    dtype, why = fastest_dtype(torch.device("cpu"))
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    theirs, assistant = (
        transformers.AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=dtype).eval()
        for role in ("target", "draft")
    )
    prompts = reference.prompts("timed")[: options.prompts]

    def ours(method: str, gamma: int, prompt: list[int]) -> int:
        drafter = reference.NGram(gamma) if method == "n-gram" else reference.NoDrafter()
        if method == "draft-model":
            drafter = reference.DraftModel(draft, gamma)
        return len(reference.speculate(target, drafter, prompt, NEW_TOKENS).tokens)

    def peer(method: str, gamma: int, prompt: list[int]) -> int:
        ids = torch.tensor([prompt])
        settings = {
            "max_new_tokens": NEW_TOKENS,
            "do_sample": False,
            "attention_mask": torch.ones_like(ids),
        }
        if method == "n-gram":
            settings |= {"prompt_lookup_num_tokens": gamma, "max_matching_ngram_size": 3}
        if method == "draft-model":
            assistant.generation_config.num_assistant_tokens = gamma
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = 0.0
            settings["assistant_model"] = assistant
        return theirs.generate(ids, **settings).shape[1] - len(prompt)

    methods = ("draft-model", "n-gram")
    kinds = [("plain", 0), *((method, gamma) for method in methods for gamma in options.gamma)]
    runs = {("ours", *kind): ours for kind in kinds}
    runs |= {("transformers", *kind): peer for kind in kinds}
    speeds: dict[tuple[str, str, int], list[float]] = {key: [] for key in runs}
    for index, prompt in enumerate([prompts[0], *prompts]):
        for key, run in runs.items():
            started = time.perf_counter()
            with torch.inference_mode():
                tokens = run(*key[1:], prompt)
            if index:  # the first round warms up
                speeds[key].append(tokens / (time.perf_counter() - started))
    best = {
        (name, method): max(
            (statistics.median(values), gamma)
            for (who, what, gamma), values in speeds.items()
            if (who, what) == (name, method)
        )
        for name in ("ours", "transformers")
        for method in ("plain", *methods)
    }
    report = {
        "dtype": str(dtype),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for method in ("plain", *methods):
        (one, gamma), (other, their_gamma) = (
            best[name, method] for name in ("ours", "transformers")
        )
        report[method] = {
            "tokens_per_s": {"ours": one, "transformers": other},
            "gamma": {"ours": gamma, "transformers": their_gamma},
            "ratio": one / other,
        }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"bundled pair, greedy, batch 1, {why}; prefill included, tokens per second")
    for method in ("plain", *methods):
        values, gamma = report[method]["tokens_per_s"], report[method]["gamma"]
        print(
            f"{method:12s} ours {values['ours']:7.1f} (gamma {gamma['ours']})   "
            f"transformers {values['transformers']:7.1f} (gamma {gamma['transformers']})   "
            f"ratio {report[method]['ratio']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

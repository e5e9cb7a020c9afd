"""Our decoder beside transformers on the same weights, same prompts, same dtype, in one run.

    python bench/versus_transformers.py [--json]

Plain decoding against `generate`, speculation against assisted generation (`assistant_model`, at
the number of draft tokens that is fastest for it), both greedy and in turn; medians of tokens per
second over the prompts.
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
PROMPTS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    dtype, why = fastest_dtype(torch.device("cpu"))
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    theirs, assistant = (
        transformers.AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=dtype).eval()
        for role in ("target", "draft")
    )
    prompts = reference.prompts("timed")[:PROMPTS]

    def ours(gamma: int, prompt: list[int]) -> int:
        drafter = reference.DraftModel(draft, gamma) if gamma else reference.NoDrafter()
        return len(reference.speculate(target, drafter, prompt, NEW_TOKENS).tokens)

    def peer(gamma: int, prompt: list[int]) -> int:
        ids = torch.tensor([prompt])
        options = {
            "max_new_tokens": NEW_TOKENS,
            "do_sample": False,
            "attention_mask": torch.ones_like(ids),
        }
        if gamma:
            assistant.generation_config.num_assistant_tokens = gamma
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = 0.0
            options["assistant_model"] = assistant
        return theirs.generate(ids, **options).shape[1] - len(prompt)

    gammas = (1, 2, 3, 4, 5)
    runs = {("ours", g): ours for g in (0, *gammas)} | {
        ("transformers", g): peer for g in (0, *gammas)
    }
    speeds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for index, prompt in enumerate([prompts[0], *prompts]):
        for (name, gamma), run in runs.items():
            started = time.perf_counter()
            with torch.inference_mode():
                tokens = run(gamma, prompt)
            if index:  # the first round warms up
                speeds[name, gamma].append(tokens / (time.perf_counter() - started))
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    plain, spec = {}, {}
    for name in ("ours", "transformers"):
        plain[name] = medians[name, 0]
        spec[name] = max((medians[name, gamma], gamma) for gamma in gammas)
    report = {
        "dtype": str(dtype),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "plain_tokens_per_s": plain,
        "speculative_tokens_per_s": {name: speed for name, (speed, _) in spec.items()},
        "speculative_gamma": {name: gamma for name, (_, gamma) in spec.items()},
        "plain_ratio": plain["ours"] / plain["transformers"],
        "speculative_ratio": spec["ours"][0] / spec["transformers"][0],
    }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"bundled pair, greedy, batch 1, {why}; prefill included, tokens per second")
    for what, ratio in (("plain", "plain_ratio"), ("speculative", "speculative_ratio")):
        values = report[f"{what}_tokens_per_s"]
        print(
            f"{what:12s} ours {values['ours']:7.1f}   "
            f"transformers {values['transformers']:7.1f}   ratio {report[ratio]:.2f}"
        )
    print(f"best gamma: {report['speculative_gamma']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Our decoder compared with transformers: the same weights, prompts and dtype, in one run.

    python bench/versus_transformers.py [--json] [--prompts 6]

Plain decoding is compared with `generate`, the draft model with assisted generation
(`assistant_model`), and n-grams with prompt lookup (`prompt_lookup_num_tokens`), each with its
fastest number of draft tokens. Decoding is greedy, and all runs take turns. The results are medians
of tokens per second over the prompts. The greedy text of so small a target repeats itself, which
helps n-grams.

Both decoders also run compiled where they can; assisted generation cannot use the static cache that
compiling needs. A first round compiles and is not counted. Our draft also runs in int8. This does
not change the text, which is the target's, and it is faster on a CPU: for matrices as small as the
draft's, torch's int8 kernel takes less time than the call of oneDNN's bf16 kernel.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial

import torch
import transformers

import reference
from reference.checkpoints import PAIR
from reference.lab.probes import fastest_dtype
from reference.quantization import quantized

NEW_TOKENS = 96
GAMMAS = {"plain": [0], "draft-model": [1, 2, 3, 4, 5], "n-gram": [1, 2, 3, 4, 5]}
COMPILED = {"plain": [0], "draft-model": [2, 3], "n-gram": [4, 5]}  # a dozen seconds each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prompts", type=int, default=6)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    dtype, why = fastest_dtype(torch.device("cpu"))
    target, draft, _ = reference.load_pair("bundled", dtype=dtype)
    small_draft = quantized(draft, "int8")
    theirs, assistant = (
        transformers.AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=dtype).eval()
        for role in ("target", "draft")
    )

    def ours(drafter: reference.Drafter, mode: str, prompt: list[int]) -> int:
        return len(reference.speculate(target, drafter, prompt, NEW_TOKENS, mode=mode).tokens)

    def baseline(method: str, gamma: int, mode: str, prompt: list[int]) -> int:
        ids = torch.tensor([prompt])
        settings = {
            "max_new_tokens": NEW_TOKENS,
            "do_sample": False,
            "attention_mask": torch.ones_like(ids),
        }
        if mode == "compiled":
            compiled = transformers.CompileConfig(fullgraph=False, mode="default")
            compiled._compile_all_devices = True  # the default is accelerators only
            settings |= {"cache_implementation": "static", "compile_config": compiled}
        if method == "n-gram":
            settings |= {"prompt_lookup_num_tokens": gamma, "max_matching_ngram_size": 3}
        if method == "draft-model":
            assistant.generation_config.num_assistant_tokens = gamma
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assistant.generation_config.assistant_confidence_threshold = 0.0
            settings["assistant_model"] = assistant
        return theirs.generate(ids, **settings).shape[1] - len(prompt)

    def drafter(method: str, gamma: int) -> reference.Drafter:
        if method == "draft-model":
            return reference.DraftModel(draft, gamma)
        return reference.NGram(gamma) if method == "n-gram" else reference.NoDrafter()

    prompts = reference.prompts("timed")[: options.prompts]
    report = {
        "dtype": str(dtype),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for method, gammas in GAMMAS.items():
        runs = {("transformers", k): partial(baseline, method, k, "eager") for k in gammas}
        runs |= {("ours", k): partial(ours, drafter(method, k), "eager") for k in gammas}
        if method == "draft-model":
            for k in gammas:
                in_int8 = reference.DraftModel(small_draft, k)
                runs["ours, int8 draft", k] = partial(ours, in_int8, "eager")
        for k in COMPILED[method]:
            runs["ours, compiled", k] = partial(ours, drafter(method, k), "compiled")
        if method == "plain":
            runs["transformers, compiled", 0] = partial(baseline, method, 0, "compiled")
        medians = {key: statistics.median(values) for key, values in timed(runs, prompts).items()}
        report[method] = {
            who: dict(zip(("tokens_per_s", "gamma"), max(of), strict=True))
            for who in dict.fromkeys(who for who, _ in runs)
            for of in [[(speed, k) for (name, k), speed in medians.items() if name == who]]
        }
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"bundled pair, greedy, batch 1, {why}; prefill included, tokens per second")
    for method in GAMMAS:
        base = report[method]["transformers"]["tokens_per_s"]
        for who, row in report[method].items():
            speed, gamma = row["tokens_per_s"], row["gamma"]
            print(f"{method:12s} {who:23s} {speed:7.1f} (gamma {gamma})   ratio {speed / base:.2f}")
    return 0


def timed(runs: dict, prompts: list[list[int]]) -> dict[tuple, list[float]]:
    """Tokens per second of every run on every prompt, in turn.

    The first round warms up and compiles; it is not counted.
    """
    speeds = {key: [] for key in runs}
    for index, prompt in enumerate([prompts[0], *prompts]):
        for key, run in runs.items():
            started = time.perf_counter()
            with torch.inference_mode():
                tokens = run(prompt)
            if index:
                speeds[key].append(tokens / (time.perf_counter() - started))
    return speeds


if __name__ == "__main__":
    sys.exit(main())

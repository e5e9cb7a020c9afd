"""Decode held-out prompts with every method on a trained pair, and with transformers, in one run.

    python measurements/trained_pair.py [--device cuda] [--json FILE]
    python measurements/trained_pair.py --read FILE --calibration FILE     predicted beside measured

Greedy and sampled (temperature 1): plain decoding, a draft model, n-grams, an early exit, a trained
head, a tree of a fixed shape and one by confidence; then transformers' `generate` and assisted
generation, one after the other on the same prompts. Tokens per cycle for the prediction come from
other prompts. Speedups are of cycles; `tokens_per_s` includes reading the prompt.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

import reference
from reference import checkpoints
from reference.lab.probes.timing import synchronise
from reference.machine import PRECISION_OF, device_named, environment
from reference.settings import mode_for
from specsim import drafting
from specsim.architecture import from_config, read_config
from specsim.checks.files import read_json, write_json
from specsim.evidence.calibration import from_json
from specsim.speculation import predict

NEW_TOKENS, PROMPTS, EXIT_LAYERS = 64, 4, 2
CONTEXT = 144  # tokens, about the mean of a prompt and half of what follows it
PARENTS = (0, 0, 1, 1, 2, 3)  # of the static tree's nodes 1, 2, …: six nodes in three levels
WARM_UPS = 2


def drafters(target, draft) -> dict[str, reference.Drafter]:
    """Our methods by name."""
    made: dict[str, reference.Drafter] = {"plain": reference.NoDrafter()}
    made |= {f"draft model, gamma {k}": reference.DraftModel(draft, k) for k in (1, 2, 3, 4)}
    made["n-gram, gamma 3"] = reference.NGram(3)
    made["early exit, gamma 2"] = reference.EarlyExit(EXIT_LAYERS, 2)
    if (checkpoints.PAIR / "head").exists():
        made["trained head, gamma 3"] = reference.DraftHead(
            reference.load_head("bundled", target), 3
        )
    made["tree, 6 nodes"] = reference.StaticTree(draft, reference.Tree.of_parents(PARENTS))
    made["confidence tree, 6 nodes"] = reference.ConfidenceTree(draft, 6, 3, width=3)
    return made


def costs(target, draft, search_s: float) -> dict[str, tuple[drafting.Drafter | None, int]]:
    """Their cost models and how many tokens they draft, by the same names; `search_s` is what
    finding n-grams takes."""
    small = drafting.DraftModel(draft, catch_up="row")
    found: dict[str, tuple[drafting.Drafter | None, int]] = {"plain": (None, 0)}
    found |= {f"draft model, gamma {k}": (small, k) for k in (1, 2, 3, 4)}
    found["n-gram, gamma 3"] = drafting.Lookup(1.0, search_s, pad=True), 3
    found["early exit, gamma 2"] = (
        drafting.EarlyExit(target, EXIT_LAYERS / target.num_layers), 2,
    )  # fmt: skip
    found["trained head, gamma 3"] = drafting.Eagle(target), 3
    found["tree, 6 nodes"] = drafting.StaticTree(small, (0.6, 0.2), 3), 6
    return found


def peers(draft_gammas: tuple[int, ...], dtype, device, temperature: float) -> dict[str, Callable]:
    """transformers' generation by name: a prompt -> the number of new tokens."""
    import transformers

    transformers.logging.set_verbosity_error()
    target, assistant = (
        transformers.AutoModelForCausalLM.from_pretrained(checkpoints.PAIR / role, dtype=dtype)
        .to(device)
        .eval()
        for role in ("target", "draft")
    )

    def run(prompt: list[int], gamma: int = 0) -> int:
        ids = torch.tensor([prompt], device=device)
        options: dict = {"max_new_tokens": NEW_TOKENS, "attention_mask": torch.ones_like(ids)}
        options |= {"do_sample": temperature > 0, "pad_token_id": 0}
        if temperature:
            options |= {"temperature": temperature, "top_k": 0}
        if gamma:
            settings = assistant.generation_config
            settings.num_assistant_tokens = gamma
            settings.num_assistant_tokens_schedule = "constant"
            settings.assistant_confidence_threshold = 0.0
            options["assistant_model"] = assistant
        return target.generate(ids, **options).shape[1] - len(prompt)

    made: dict[str, Callable] = {"transformers generate": run}
    for gamma in draft_gammas:
        made[f"transformers assisted, gamma {gamma}"] = (
            lambda prompt, gamma=gamma: run(prompt, gamma)
        )  # fmt: skip
    return made


@torch.inference_mode()
def measured(device: torch.device, temperature: float, with_peers: bool) -> list[dict]:
    """A row for each method, at one temperature."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    target, draft, _ = reference.load_pair("bundled", dtype=dtype, device=device)
    mode, made = mode_for(device, None), drafters(target, draft)
    timed, others = (reference.prompts(kind) for kind in ("timed", "calibration"))
    timed, others = [prompt[:96] for prompt in timed], [prompt[:96] for prompt in others]
    found, speeds, texts = {}, {}, {}
    for name, drafter in made.items():
        counts = reference.speculate(
            target, drafter, others[:16], NEW_TOKENS, temperature, seed=7, mode="eager"
        ).statistics
        found[name] = {
            "method": name,
            "gamma": drafter.gamma,
            "calibration_tokens_per_cycle": counts.tokens_per_cycle,
        }
        total, taken = reference.Statistics(drafter.gamma), []
        for index in range(WARM_UPS + PROMPTS):
            synchronise(device)
            begun = time.perf_counter()
            run = reference.speculate(
                target, drafter, timed[index % PROMPTS], NEW_TOKENS, temperature, seed=index,
                mode=mode,
            )  # fmt: skip
            synchronise(device)
            if index >= WARM_UPS:
                taken.append(len(run.tokens) / (time.perf_counter() - begun))
                total.extend(run.statistics)
                texts.setdefault(name, []).append(run.tokens)
        speeds[name] = statistics.median(taken)
        found[name] |= {
            "tokens_per_cycle": total.tokens_per_cycle,
            "cycle_s": total.cycle_s,
            "draft_s": total.draft_s,
            "verify_s": total.verify_s,
            "host_s": total.host_s,
            "tokens_per_s": speeds[name],
        }
        if not temperature:
            same = sum(map(list.__eq__, texts[name], texts["plain"]))
            found[name]["same_text"] = f"{same} of {PROMPTS}"
    for name, run in (peers((2, 4), dtype, device, temperature) if with_peers else {}).items():
        taken = []
        for index in range(WARM_UPS + PROMPTS):
            synchronise(device)
            begun = time.perf_counter()
            count = run(timed[index % PROMPTS])
            synchronise(device)
            taken += [count / (time.perf_counter() - begun)] if index >= WARM_UPS else []
        found[name] = {"method": name, "tokens_per_s": statistics.median(taken)}
    return list(found.values())


def table(document: dict, calibration: Path | None) -> str:
    """Measured beside predicted, as text."""
    target, draft = (from_config(read_config(checkpoints.PAIR / r), r) for r in ("target", "draft"))
    priced = {}
    if calibration:
        fitted = from_json(read_json(calibration)).system
        fitted = fitted.with_precision(document["precision"])
        search_s = fitted.engine.lookup_overhead_s or drafting.Lookup().host_s
        priced = costs(target, draft, search_s)
    lines = []
    for run in document["runs"]:
        greedy = run["temperature"] == 0
        kind = "greedy" if greedy else f"temperature {run['temperature']:g}"
        lines += [kind, f"{'method':34} tokens/cycle   cycle, us   speedup   predicted   tokens/s"]
        plain = run["rows"][0]
        for row in run["rows"]:
            if "cycle_s" not in row:
                lines.append(f"{row['method']:34} {row['tokens_per_s']:59.0f}")
                continue
            tokens = row["tokens_per_cycle"] or 1.0
            speedup, said = tokens * plain["cycle_s"] / row["cycle_s"], ""
            if row["method"] in priced:
                method, drafted = priced[row["method"]]
                taken = {"tokens_per_cycle": row["calibration_tokens_per_cycle"]}
                here = replace(fitted, greedy=greedy)
                answer = predict(
                    target, method, here, gamma=drafted, context=document["context"],
                    **(taken if drafted else {}),
                )  # fmt: skip
                said = f"{float(answer.speedup):.2f}x" if drafted else (
                    f"{1e6 * float(answer.cycle_s):.0f} us"
                )  # fmt: skip
            lines.append(
                f"{row['method']:34} {tokens:12.2f} {1e6 * row['cycle_s']:11.0f} {speedup:8.2f}x "
                f"{said:>11} {row['tokens_per_s']:10.0f}"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers out")
    parser.add_argument("--json", type=Path, help="a file to write the measurements to")
    parser.add_argument("--read", type=Path, help="a file of measurements, instead of measuring")
    parser.add_argument("--calibration", type=Path, help="predict from the probes of this machine")
    options = parser.parse_args()
    if options.read:
        document = read_json(options.read)
        if "runs" not in document:
            parser.error(f"{options.read} was not written by this script: it lacks 'runs'")
    else:
        device = device_named(options.device)
        document = {
            "environment": asdict(environment(device)),
            "precision": PRECISION_OF[torch.bfloat16 if device.type == "cuda" else torch.float32],
            "context": CONTEXT,
            "runs": [],
        }
        for temperature in (0.0, 1.0):
            rows = measured(device, temperature, not options.no_peers)
            document["runs"].append({"temperature": temperature, "rows": rows})
            if options.json:
                write_json(options.json, document)
    print(table(document, options.calibration))
    return 0


if __name__ == "__main__":
    sys.exit(main())

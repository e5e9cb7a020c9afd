"""What two ranks run for `test_tensor_parallel`: `python two_ranks.py CHECKS FILE [TIMEOUT_S]`.

Rank 0 writes what it found to FILE as JSON. This process imports PyTorch once, and then becomes
two; how each ended is printed as JSON.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # what splitting a model imports, once for both ranks
from conftest import perturbed_model, tiny_model  # this folder is the first on the path

from reference import (
    ConfidenceTree,
    DraftHead,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    QuantisedSelf,
    StaticTree,
    Tree,
    speculate,
    tensor_parallel,
)
from reference.cache import KVCache
from reference.heads import untrained_head
from reference.packing import pack
from specsim.checks import SpecsimError

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
NEW = 7  # tokens, which is two or three cycles
MORE = 5  # rows that are read through the cache after the prompt
RULES = ("token", "block", "match")
FAMILIES = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "tied_head": True},
    "one query a head": {"num_kv_heads": 4},
}


DEFECTS = {
    "rows not regrouped": ("regrouped", lambda weight, parts, devices: weight),
    "sums missing": ("summed", lambda linear, inputs, output: output),
    "heads not divided": ("share_of", lambda shape, devices: shape),
}


@torch.inference_mode()
def logits(model) -> list[torch.Tensor]:
    """Of the whole text in one pass; of its last rows, read through the cache after the others."""
    text = torch.tensor([PROMPT])
    places = torch.arange(len(PROMPT))[None]
    cache = KVCache(model.architecture, 1, 32, model.dtype)
    model(text[:, :-MORE], places[:, :-MORE], cache, 16)
    return [model(text), model(text[:, -MORE:], places[:, -MORE:], cache, 16)]


def largest_difference(made, group) -> float:
    """Between the logits of a model before and after it is split."""
    before = logits(made)
    after = logits(tensor_parallel.split(made, group))
    return max((a - b).abs().max().item() for a, b in zip(before, after, strict=True))


def drafters(target, draft) -> dict:
    """Every drafter that works with a split target."""
    return {
        "plain": NoDrafter(),
        "draft model": DraftModel(draft, 3),
        "n-gram": NGram(3),
        "early exit": EarlyExit(1, 3),
        "head": DraftHead(untrained_head(target), 3),
        "ensemble": Ensemble(DraftModel(draft, 3)),
        "static tree": StaticTree(draft, Tree.branching([2, 2]), drawn=True),
        "confidence tree": ConfidenceTree(draft, 6, 3),
    }


def texts(target, using) -> dict[str, list[int]]:
    """Greedy and sampled tokens, two lists for every drafter; sampled with two prompts at once."""
    found = {}
    for name, drafter in using.items():
        found[f"{name}, greedy"] = speculate(target, drafter, PROMPT, NEW).tokens
        rule = RULES[len(name) % len(RULES)] if not drafter.nodes else "token"
        prompts = [PROMPT, PROMPT[:3]]
        run = speculate(target, drafter, prompts, NEW, 1.0, rule=rule, seed=7, top_p=0.95)
        found[f"{name}, {rule}"] = run.tokens
    return found


def identity(group) -> dict:
    """Logits in float32 for every family, tokens in float64 with every drafter."""
    found: dict = {
        "logits": {
            name: largest_difference(tiny_model(dtype=torch.float32, **fields), group)
            for name, fields in FAMILIES.items()
        }
    }
    found["defects"] = {}
    for name, (attribute, broken) in DEFECTS.items():
        right = getattr(tensor_parallel, attribute)
        setattr(tensor_parallel, attribute, broken)
        try:
            found["defects"][name] = largest_difference(tiny_model(dtype=torch.float32), group)
        except (RuntimeError, ValueError) as error:
            found["defects"][name] = str(error).splitlines()[0]
        setattr(tensor_parallel, attribute, right)
    target = tiny_model(3)
    draft = perturbed_model(target, 0.2)
    found["alone"] = texts(target, drafters(target, draft)) if group.rank == 0 else {}
    tensor_parallel.split(target, group)
    found["together"] = texts(target, drafters(target, draft))
    tensor_parallel.split(draft, group)
    again = drafters(target, draft)
    again = {name: again[name] for name in ("draft model", "static tree", "confidence tree")}
    found["draft split too"] = texts(target, again)
    group.agree("tokens", (found["together"], found["draft split too"]))
    found["held"] = [list(target.layers[0].qkv.weight.shape),
                     target.architecture.num_heads, target.architecture.num_kv_heads]  # fmt: skip
    found["refused"] = refusals(target, group)
    return found


def refusals(target, group) -> dict[str, str]:
    """What is not split, and what a split model does not do, each with its sentence."""

    def split(**fields):
        tensor_parallel.split(tiny_model(**fields), group)

    tried = {
        "odd heads": lambda: split(num_heads=3, num_kv_heads=1),
        "one KV head": lambda: split(num_kv_heads=1),
        "odd MLP": lambda: split(intermediate_size=49),
        "packed": lambda: tensor_parallel.split(pack(tiny_model(dtype=torch.float32)), group),
        "twice": lambda: tensor_parallel.split(target, group),
        "compiled": lambda: speculate(target, NoDrafter(), PROMPT, 4, mode="compiled"),
        "quantised copy": lambda: speculate(target, QuantisedSelf(2), PROMPT, 4),
        "disagreement": lambda: group.agree("seeds", group.rank),
    }
    found = {}
    for name, action in tried.items():
        try:
            action()
            found[name] = "not refused"
        except SpecsimError as error:
            found[name] = str(error)
    return found


def one_fails(group) -> dict:
    """Rank 1 meets an error that rank 0 does not."""
    if group.rank == 1:
        raise SpecsimError("this rank has no weights")
    logits(tensor_parallel.split(tiny_model(), group))
    return {}


def one_ends(group) -> dict:
    """Rank 1 is gone without a word."""
    if group.rank == 1:
        os._exit(9)
    logits(tensor_parallel.split(tiny_model(), group))
    return {}


def one_waits(group) -> dict:
    """Rank 1 never comes."""
    if group.rank == 1:
        time.sleep(60)
    logits(tensor_parallel.split(tiny_model(), group))
    return {}


def main(checks: str, file: str, timeout_s: str = "60") -> int:
    torch.set_num_threads(1)
    try:
        with tensor_parallel.joined("cpu", float(timeout_s)) as group:
            for check in checks.split(","):
                found = globals()[check](group)
                if group.rank == 0:
                    Path(file).write_text(json.dumps(found))
    except SpecsimError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 2
    return 0


def run_as(rank: int, said: Path, arguments: list[str]) -> None:
    """Be one of the ranks; what it says goes to a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
        status = main(*arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fork(arguments: list[str]) -> None:
    """Run both ranks, and print how each ended. Where one fails, the other has ten seconds."""
    torch.set_num_threads(1)
    said = [Path(f"{arguments[1]}.rank{rank}") for rank in range(2)]
    running = {}
    for rank in range(2):
        if (process := os.fork()) == 0:
            run_as(rank, said[rank], arguments)
        running[process] = rank
    statuses, until = [-9, -9], time.monotonic() + 240
    while running and time.monotonic() < until:
        process, ended = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            time.sleep(0.02)
            continue
        statuses[rank := running.pop(process)] = os.waitstatus_to_exitcode(ended)
        if statuses[rank] != 0:  # torchrun ends the others at once
            until = min(until, time.monotonic() + 10)
    for process in running:
        os.kill(process, 9)
        os.waitpid(process, 0)
    print(
        json.dumps(
            [[status, file.read_text()] for status, file in zip(statuses, said, strict=True)]
        )
    )


if __name__ == "__main__":
    fork(sys.argv[1:])

"""A plan in the words of the engine that is to follow it: its settings, and the whole command.

What each engine calls a method, and what it documents about it, stands in catalog/launch.toml.
"""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from specsim import catalog
from specsim.architecture import Architecture
from specsim.drafting import Drafter, DraftModel, DynamicTree, Lookup, StaticTree
from specsim.planning.gammas import Plan
from specsim.planning.heads import published_head

ENGINES_WITH_SETTINGS = ("vllm", "sglang", "tensorrt-llm")
HEAD = "PATH-OF-THE-HEAD"  # for the reader to fill in, where no published head is known
AS_LOADED = (None, "auto", "bf16")  # formats that need no option: the checkpoint's own


# ---------------------------------------------------------------------------------- settings


def engine_settings(
    planned: Plan, engine: str, drafter: Drafter | None = None, *, method: str | None = None
) -> dict[str, Any] | None:
    """A plan in the engine's own words; empty where nothing pays, None where the engine has no
    words for it.

    A batch between two that were planned takes the larger one's gamma (the careful choice). A
    schedule is given where there is more than one range and the engine documents it for `method`
    (by default, for any); elsewhere one number, `one_gamma`. The `drafter` is that of the plan,
    where it is not a chain: SGLang says trees and lookups otherwise, and the schedules of the other
    two count the length of a chain. SGLang's arguments are fixed for a server's life, so there is a
    set of them per range. Source: catalog/launch.toml.
    """
    if engine not in ENGINES_WITH_SETTINGS or (method and documented(engine, method) is None):
        return None
    ranges = batch_ranges(planned)
    if all(gamma == 0 for _, _, gamma in ranges):
        return {}
    if engine == "sglang":
        return {
            "by_batch": [
                {"batch": [first, last], "arguments": _sglang_arguments(gamma, drafter)}
                for first, last, gamma in ranges
            ]
        }
    if isinstance(drafter, StaticTree):
        return None
    length = {"vllm": "num_speculative_tokens", "tensorrt-llm": "max_draft_len"}[engine]
    if len(ranges) == 1 or not has_schedule(engine, method):
        return {length: one_gamma(planned)}
    most = max(gamma for _, _, gamma in ranges)
    if engine == "vllm":
        return {length: most, f"{length}_per_batch_size": [list(each) for each in ranges]}
    while ranges[-1][2] == 0:  # beyond the last entry it does not speculate anyway
        ranges = ranges[:-1]
    return {length: most, "draft_len_schedule": {last: gamma for _, last, gamma in ranges}}


def documented(engine: str, method: str) -> catalog.Row | None:
    """What the engine documents about a drafting method; None if it has no such method."""
    row: catalog.Row | None = catalog.load("launch")[engine]["methods"].get(method)
    return row


def has_schedule(engine: str, method: str | None) -> bool:
    """Whether the engine documents a length for each batch size, for `method` or, if None, any."""
    if method is None:
        return "schedule_source" in catalog.load("launch")[engine]
    return bool((documented(engine, method) or {}).get("schedule"))


def one_gamma(planned: Plan) -> int:
    """The gamma of a server that takes one number: that of the largest batch where speculation
    pays, so that it gains for every batch up to there (the careful choice); 0 where none pays."""
    paying = planned.gamma[planned.gamma > 0]
    return int(paying[-1]) if len(paying) else 0


def _sglang_arguments(gamma: int, drafter: Drafter | None) -> dict[str, int]:
    """As many draft tokens as rows are verified, the root's included; a chain is top-k 1."""
    if gamma == 0:
        return {}
    rows = {"speculative_num_draft_tokens": gamma + 1}
    if isinstance(drafter, Lookup):
        return rows
    steps, children = gamma, 1
    if isinstance(drafter, StaticTree):
        steps = min(gamma, drafter.depth)
        children = len(drafter.child_probs)
    if isinstance(drafter, DynamicTree):
        children = drafter.children
    return {"speculative_num_steps": steps, "speculative_eagle_topk": children} | rows


def batch_ranges(planned: Plan) -> list[tuple[int, int, int]]:
    """(first batch, last batch, gamma), neighbours with the same gamma made one."""
    ranges: list[tuple[int, int, int]] = []
    first = 1
    for last, gamma in zip(planned.batch.tolist(), planned.gamma.tolist(), strict=True):
        if ranges and ranges[-1][2] == gamma:
            ranges[-1] = (ranges[-1][0], last, gamma)
        else:
            ranges.append((first, last, gamma))
        first = last + 1
    return ranges


# ----------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a server is started with: `target` and `draft` by their names, the drafting `method`
    (None: no speculation), the format of the weights (None: the checkpoint's own), devices."""

    target: str
    method: str | None = None
    draft: str | None = None
    precision: str | None = None
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A whole command that starts a server, and what to know about it, in sentences."""

    command: str
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Both, as a shell takes them: the notes are comments before the command."""
        return "\n".join([*(f"# {note}" for note in self.notes), self.command])


def launch(
    engine: str,
    deployment: Deployment,
    planned: Plan,
    *,
    target: Architecture,
    drafter: Drafter | None,
) -> Launch:
    """The command that starts `engine` with the plan, for a plan of one batch with its gamma alone.

    It sets what the plan decides and nothing else: no limit on users or context. Where the engine
    cannot follow the plan, the command is without speculation, and a note says why. A method that
    needs a trained head gets a published one, and the checkpoint that it was trained for.
    """
    row, method = catalog.load("launch")[engine], deployment.method
    served = len(row["program"].split())
    words = [*row["program"].split(), hub_id(deployment.target)]
    notes = []
    if deployment.tensor_parallel > 1:
        words += [row["tensor_parallel"], str(deployment.tensor_parallel)]
    if format_option := row.get("formats", {}).get(deployment.precision):
        words += format_option.split()
    elif deployment.precision not in AS_LOADED:
        notes.append(f"{deployment.precision}: serve a checkpoint that is stored so")
    if method is None or drafter is None:
        return Launch(shlex.join(words), tuple(notes))
    about = documented(engine, method)
    settings = engine_settings(planned, engine, drafter, method=method)
    if about is None or settings is None:
        notes.append(f"{engine} has no method like {method}; without it:")
        return Launch(shlex.join(words), tuple(notes))
    if not settings:
        notes.append(f"no speculation: it gains nothing up to a batch of {planned.batch[-1]}")
        return Launch(shlex.join(words), tuple(notes))
    model = hub_id(deployment.draft) if deployment.draft else None
    notes += _about_method(engine, about, settings, planned)
    if about.get("head") and deployment.draft is None:
        head = published_head(deployment.target, method, engine)
        model = HEAD if head is None else head["hub"]
        notes.append(_about_head(engine, head))
        if head is not None and deployment.target in catalog.load("models"):
            words[served] = head["checkpoint"]
    notes += _about_draft(engine, deployment, target, drafter)
    if engine == "vllm":
        speculation: dict[str, Any] = {"method": about["name"]}
        if model is not None:
            speculation["model"] = model
        if isinstance(drafter, DraftModel) and deployment.tensor_parallel > 1:
            speculation["draft_tensor_parallel_size"] = deployment.tensor_parallel
        speculation |= about.get("options", {})
        words += ["--speculative-config", json.dumps(speculation | settings)]
        return Launch(shlex.join(words), tuple(notes))
    if engine == "sglang":
        words += ["--speculative-algorithm", about["name"]]
        if model is not None:
            words += ["--speculative-draft-model-path", model]
        sizes = [each for each in settings["by_batch"] if each["arguments"]]
        for name, value in sizes[-1]["arguments"].items():
            words += ["--" + name.replace("_", "-"), str(value)]
        return Launch(shlex.join(words), tuple(notes))
    return Launch(_trtllm(words, about["name"], model, settings), tuple(notes))


def _trtllm(words: list[str], name: str, model: str | None, settings: dict[str, Any]) -> str:
    """TensorRT-LLM takes speculation from a file."""
    lines = ["speculative_config:", f"  decoding_type: {name}"]
    if model is not None:
        lines.append(f"  speculative_model: {model}")
    for key, value in settings.items():
        if isinstance(value, dict):
            value = "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
        lines.append(f"  {key}: {value}")
    body = "\n".join(lines)
    serve = shlex.join([*words, "--extra_llm_api_options", "speculation.yaml"])
    return f"cat > speculation.yaml <<'END'\n{body}\nEND\n{serve}"


def _about_method(
    engine: str, about: catalog.Row, settings: dict[str, Any], planned: Plan
) -> list[str]:
    """The release that is needed, and where one number stands for several."""
    row = catalog.load("launch")[engine]
    scheduled = any(isinstance(value, dict | list) for value in settings.values())
    version, source = about.get("version"), about["source"]
    if scheduled and engine != "sglang":
        later = row.get("schedule_version")
        source = row["schedule_source"]
        version = max((v for v in (version, later) if v), key=_release, default=None)
    notes = [f"needs {engine} {version} or later ({source})" if version else f"source: {source}"]
    ranges = batch_ranges(planned)
    if len(ranges) > 1 and (engine == "sglang" or not scheduled):
        paying = [each for each in ranges if each[2] > 0]
        others = ", ".join(
            f"{gamma} at a batch of {first} to {last}" for first, last, gamma in ranges
        )
        notes.append(
            f"one length for the server's life, the best of {paying[-1][0]} to {paying[-1][1]} "
            f"sequences; planned: {others}"
        )
    return notes


def _about_head(engine: str, head: catalog.Row | None) -> str:
    """Where the head of the command comes from."""
    if head is None:
        return f"{HEAD} is a head that was trained for this target"
    said = (
        f"{head['hub']} is one published head for {head['checkpoint']}, perhaps among others "
        f"({head['source']})"
    )
    if engine in head.get("engines", ()):
        return said
    return f"{said}; whether {engine} loads it as it is was not checked"


def _about_draft(
    engine: str, deployment: Deployment, target: Architecture, drafter: Drafter
) -> list[str]:
    """What vLLM asks of a draft model besides a shared tokenizer."""
    if engine != "vllm" or not isinstance(drafter, DraftModel):
        return []
    notes = []
    sizes = (drafter.architecture.vocab_size, target.vocab_size)
    if sizes[0] != sizes[1]:
        notes.append(
            f"vLLM refuses a draft model whose table has another size: {sizes[0]} and {sizes[1]}"
        )
    if drafter.tensor_parallel not in (None, deployment.tensor_parallel):
        notes.append("vLLM splits a draft model over as many devices as the target")
    return notes


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def hub_id(name: str) -> str:
    """The hub's id of a model whose config is from the hub, else its own name."""
    row = catalog.load("models").get(name, {})
    found = re.match(r"([\w.-]+/[\w.-]+) config\.json", row.get("source", ""))
    return found[1] if found else name

"""The whole command that starts an engine with a plan, and what to know about it.

What each engine needs for a method stands in catalog/launch.toml, with its source.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from specsim import catalog
from specsim.architecture import Architecture
from specsim.drafting import Drafter, DraftModel
from specsim.planning.gammas import Plan
from specsim.planning.heads import published_head
from specsim.planning.server_settings import ServerSettings, told
from specsim.planning.settings import batch_ranges, documented, engine_settings, range_for

HEAD = "PATH-OF-THE-HEAD"  # for the reader to fill in, where no published head is known
AS_LOADED = (None, "auto", "bf16")  # formats that need no option: the checkpoint's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a server is started with: `target` and `draft` by their names, the drafting `method`
    (None: no speculation), the format of their weights (None: the checkpoint's own), devices, and
    what else the plan was priced with."""

    target: str
    method: str | None = None
    draft: str | None = None
    precision: str | None = None
    draft_precision: str | None = None
    tensor_parallel: int = 1
    server: ServerSettings = field(default_factory=ServerSettings)


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
    users: int | None = None,
    most: int | None = None,
) -> Launch:
    """The command that starts `engine` with the plan; a plan of one batch gives its gamma alone.

    A length that holds for the server's life is the best for `users` sequences; if None, the one of
    the largest batch where speculation pays. `most` is the largest batch that memory holds.

    It sets what the plan decides and what was asked for, and nothing else: of itself no limit on
    users or context. Where the engine cannot follow the plan, the command is without speculation,
    and a note says why. A method that needs a trained head gets a published one, and the checkpoint
    that it was trained for.
    """
    row, method = catalog.load("launch")[engine], deployment.method
    served = len(row["program"].split())
    words = [*row["program"].split(), hub_id(deployment.target)]
    notes: list[str] = []
    if deployment.tensor_parallel > 1:
        words += [row["tensor_parallel"], str(deployment.tensor_parallel)]
    if format_option := row.get("formats", {}).get(deployment.precision):
        words += format_option.split()
    elif deployment.precision not in AS_LOADED:
        notes.append(f"{deployment.precision}: serve a checkpoint that is stored so")
    server = told(engine, deployment.server, target, deployment.precision)
    words, notes = [*words, *server.words], [*notes, *server.notes]
    plain = _with_file(words, server.lines, "cache.yaml")
    if method is None or drafter is None:
        return Launch(plain, tuple(notes))
    about = documented(engine, method)
    load: dict[str, Any] = {"method": method, "users": users, "most": most}
    settings = engine_settings(planned, engine, drafter, **load)
    if about is None or settings is None:
        notes.append(f"{engine} has no method like {method}; without it:")
        return Launch(plain, tuple(notes))
    ranges = batch_ranges(planned, most)
    chosen = range_for(ranges, users)
    if not settings or (engine == "sglang" and (chosen is None or chosen[2] == 0)):
        until = f"up to a batch of {ranges[-1][1]}"
        if any(gamma for _, _, gamma in ranges):
            until = f"for {users} sequences, and {engine} takes one length"
        notes.append(f"no speculation: it gains nothing {until}")
        return Launch(plain, tuple(notes))
    model = hub_id(deployment.draft) if deployment.draft else None
    notes += _about_method(engine, about, settings, ranges, users)
    if about.get("head") and deployment.draft is None:
        head = published_head(deployment.target, method, engine)
        model = HEAD if head is None else head["hub"]
        notes.append(_about_head(engine, head))
        if head is not None and deployment.target in catalog.load("models"):
            words[served] = head["checkpoint"]
    if deployment.draft is not None and deployment.draft_precision not in AS_LOADED:
        notes.append(f"{deployment.draft_precision}: name a draft that is stored so")
    notes += _about_draft(engine, deployment, target, drafter)
    if engine == "vllm":
        command = _vllm(words, about, model, settings, deployment, drafter)
        if chosen is not None and len(settings) > 1:
            notes += _about_schedule(settings, chosen, users, about.get("version"))
    elif engine == "sglang":
        command = _sglang(words, about["name"], model, settings, users)
    else:
        lines = [*server.lines, *_trtllm(about["name"], model, settings)]
        command = _with_file(words, lines, "speculation.yaml")
    return Launch(command, tuple(notes))


def _vllm(
    words: list[str],
    about: catalog.Row,
    model: str | None,
    settings: dict[str, Any],
    deployment: Deployment,
    drafter: Drafter,
) -> str:
    """vLLM takes speculation as one JSON object. A draft model must be split as the target is."""
    speculation: dict[str, Any] = {"method": about["name"]}
    if model is not None:
        speculation["model"] = model
    if isinstance(drafter, DraftModel) and deployment.tensor_parallel > 1:
        speculation["draft_tensor_parallel_size"] = deployment.tensor_parallel
    speculation |= about.get("options", {})
    return shlex.join([*words, "--speculative-config", json.dumps(speculation | settings)])


def _sglang(
    words: list[str], name: str, model: str | None, settings: dict[str, Any], users: int | None
) -> str:
    """SGLang takes options that hold for the server's life: those of `users` sequences, or of the
    largest batch where speculation pays."""
    words = [*words, "--speculative-algorithm", name]
    if model is not None:
        words += ["--speculative-draft-model-path", model]
    chosen = [each["arguments"] for each in settings["by_batch"] if each["arguments"]][-1]
    for each in reversed(settings["by_batch"]):
        if users is not None and users <= each["batch"][1]:
            chosen = each["arguments"]
    for option, value in chosen.items():
        words += ["--" + option.replace("_", "-"), str(value)]
    return shlex.join(words)


def _trtllm(name: str, model: str | None, settings: dict[str, Any]) -> list[str]:
    """TensorRT-LLM takes speculation from a file: its lines."""
    lines = ["speculative_config:", f"  decoding_type: {name}"]
    if model is not None:
        lines.append(f"  speculative_model: {model}")
    for key, value in settings.items():
        if isinstance(value, dict):
            value = "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
        lines.append(f"  {key}: {value}")
    return lines


def _with_file(words: list[str], lines: Sequence[str], file: str) -> str:
    """The command, after one that writes the file of its options, if there are any."""
    if not lines:
        return shlex.join(words)
    body = "\n".join(lines)
    serve = shlex.join([*words, "--extra_llm_api_options", file])
    return f"cat > {file} <<'END'\n{body}\nEND\n{serve}"


def _about_method(
    engine: str,
    about: catalog.Row,
    settings: dict[str, Any],
    ranges: list[tuple[int, int, int]],
    users: int | None,
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
    if len(ranges) > 1 and (engine == "sglang" or not scheduled):
        begin, end, _ = range_for(ranges, users) or ranges[-1]
        others = ", ".join(
            f"{gamma} at a batch of {first} to {last}" for first, last, gamma in ranges
        )
        notes.append(
            f"one length for the server's life, the best of {begin} to {end} sequences"
            f"{'' if users is None else f', for {users} users'}; planned: {others}"
        )
    return notes


def _about_schedule(
    settings: dict[str, Any], chosen: tuple[int, int, int], users: int | None, version: str | None
) -> list[str]:
    """Which length of vLLM's schedule holds when, and what older versions take instead."""
    length = "num_speculative_tokens"
    schedule, (begin, end, gamma) = settings[f"{length}_per_batch_size"], chosen
    for_whom = f"{begin} to {end} sequences" if users is None else f"{users} users"
    since: str = catalog.load("launch")["vllm"]["schedule_version"]
    notes = [
        f"{length} {settings[length]} is the longest of the schedule [first batch, last batch, "
        f"length], which ends at {schedule[-1][1]} sequences; {for_whom}: {gamma}"
    ]
    if gamma and version and _release(version) < _release(since):
        notes.append(
            f"from {version}, before {since}: leave {length}_per_batch_size out, and set {length} "
            f"to {gamma}"
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

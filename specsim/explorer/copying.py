"""A scenario to take along: as Python, as a command, as flags of `vllm serve`, as a link."""

import json
import re
import shlex
from dataclasses import fields
from urllib.parse import parse_qsl, urlencode

from specsim import catalog
from specsim.checks import number, numbers, whole_number
from specsim.explorer.presets import PRESETS, preset
from specsim.explorer.scenarios import (
    NAMES,
    START,
    ExplorerScenario,
    PredictedScenario,
    changed,
    require_settable,
)
from specsim.planning import engine_settings, plan
from specsim.scenario import Scenario

# vLLM's names of the methods that it has. The heads are checkpoints: the reader has to name one.
VLLM_METHODS = {
    "draft-model": "draft_model",
    "n-gram": "ngram",
    "suffix": "suffix",
    "medusa": "medusa",
    "eagle": "eagle",
    "eagle-3": "eagle3",
    "mtp": "mtp",
    "dflash": "dflash",
}
WITH_A_HEAD = ("medusa", "eagle", "eagle-3", "dflash")
HEAD = "PATH-OF-THE-HEAD"
OPTIONS = {"draft_tensor_parallel": "--draft-tp"}  # where an option has not the value's own name
QUANTISED = {"fp8": ("--quantization", "fp8"), "fp16": ("--dtype", "half")}
AS_LOADED = ("bf16", "fp16", "fp8")  # formats in which vLLM can serve a 16-bit checkpoint


def as_code(scenario: Scenario) -> str:
    """A program that computes what is shown; of the values that are used."""
    lines = ["import specsim"]
    if scenario.calibrated:
        lines.append("from specsim.evidence import calibration")
        lines.append(
            f"system = calibration.load({scenario.engine!r}).system"
            f".with_precision({scenario.precision!r})"
        )
    else:
        split = scenario.tensor_parallel
        devices = "" if split == 1 else f", tensor_parallel={split}"
        lines.append(
            f'system = specsim.system("{scenario.accelerator}", engine="{scenario.engine}", '
            f'precision="{scenario.precision}"{devices})'
        )
    lines.append(f'target = specsim.model("{scenario.target}")')
    place = f"batch={scenario.batch}, context={scenario.context}"
    if scenario.method is None:
        lines.append(f"prediction = specsim.predict(target, None, system, {place})")
        return "\n".join([*lines, "print(prediction.step_s, prediction.bound)"])
    draft = f', specsim.model("{scenario.draft}")' if scenario.draft else ""
    lines.append(f'drafter = specsim.method("{scenario.method}", target{draft})')
    ((name, value),) = scenario.acceptance.items()
    acceptance = f"{name}={list(value) if scenario.survival else format(value, 'g')}"
    gammas = "drafter.gammas"
    if scenario.survival:
        gammas = f"drafter.gammas_within({len(scenario.survival)})"
    gamma = gammas if scenario.gamma is None else str(scenario.gamma)
    lines.append(
        f"prediction = specsim.predict(target, drafter, system, gamma={gamma}, {acceptance}, "
        f"{place})"
    )
    if scenario.gamma is None:
        lines.append("best = prediction.best()")
        return "\n".join([*lines, "print(prediction.gamma[best], prediction.speedup[best])"])
    return "\n".join([*lines, "print(prediction.speedup)"])


def as_command(scenario: Scenario) -> str:
    """`specsim predict` with every option that differs from its default."""
    words = ["specsim", "predict"]
    for each in fields(Scenario):
        value = getattr(scenario, each.name)
        if value != each.default:
            words.append(OPTIONS.get(each.name) or "--" + each.name.replace("_", "-"))
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def as_vllm(shown: PredictedScenario) -> str:
    """`vllm serve` with the speculation that the plan over batches asks for, or a comment that says
    why there is no such command."""
    scenario = shown.scenario
    words = ["vllm", "serve", hub_id(scenario.target)]
    words += ["--max-model-len", str(scenario.context), "--max-num-seqs", str(scenario.batch)]
    if scenario.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(scenario.tensor_parallel)]
    words += QUANTISED.get(scenario.precision or "", ())
    notes = []
    if scenario.precision not in AS_LOADED:
        notes.append(f"# {scenario.precision}: serve a checkpoint that is stored so")
    if scenario.method is not None and scenario.method not in VLLM_METHODS:
        notes.append(f"# vLLM has no method like {scenario.method}; without it:")
    elif scenario.method is not None:
        speculation = speculative_config(shown, scenario.method)
        if speculation:
            words += ["--speculative-config", json.dumps(speculation)]
        else:
            notes.append("# no speculation: it gains nothing up to this batch")
    return "\n".join([*notes, shlex.join(words)])


def hub_id(name: str) -> str:
    """The hub's id of a model whose config is from the hub, else its own name."""
    row = catalog.load("models").get(name, {})
    found = re.match(r"([\w.-]+/[\w.-]+) config\.json", row.get("source", ""))
    return found[1] if found else name


def speculative_config(shown: PredictedScenario, method: str) -> dict[str, object]:
    """The JSON of --speculative-config: the gamma that is set, or the best one for every batch up
    to the one that is set. Empty where speculation gains nothing."""
    scenario, drafter = shown.scenario, shown.drafter
    assert drafter is not None
    config: dict[str, object] = {"method": VLLM_METHODS[method]}
    if scenario.draft is not None:
        config["model"] = hub_id(scenario.draft)
    if method in WITH_A_HEAD:
        config["model"] = HEAD
    if scenario.gamma is not None:
        return config | {"num_speculative_tokens": scenario.gamma} if scenario.gamma else {}
    batches = [2**power for power in range(10) if 2**power < scenario.batch] + [scenario.batch]
    planned = plan(
        shown.target, drafter, shown.system, batches=batches, gammas=shown.few_gammas,
        context=scenario.context, **scenario.acceptance,
    )  # fmt: skip
    chosen = engine_settings(planned, "vllm", drafter)
    return config | chosen if chosen else {}


def as_query(scenario: ExplorerScenario) -> str:
    """The part of the page's address after the `?`: a preset and what differs from it, for the
    preset that makes it shortest."""
    told = [{"preset": each.key} | _differences(scenario, each.scenario) for each in PRESETS]
    return urlencode(min(told, key=len))


def _differences(scenario: ExplorerScenario, start: ExplorerScenario) -> dict[str, str]:
    pairs = {name: (getattr(scenario, name), getattr(start, name)) for name in NAMES}
    return {name: _written(value) for name, (value, other) in pairs.items() if value != other}


def _written(value: object) -> str:
    if value is None:
        return "best"
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def from_query(query: str) -> ExplorerScenario:
    """The scenario of a link. Raises SpecsimError for an unknown name, and for a value that
    is unreadable or out of range."""
    given = dict(parse_qsl(query.lstrip("?"), keep_blank_values=True))
    start = preset(given.pop("preset")).scenario if "preset" in given else START
    changed(start, **given)  # refuses an unknown name
    found = changed(start, **{name: _read(name, text) for name, text in given.items()})
    require_settable(found)
    return found


def _read(name: str, text: str) -> object:
    """The value that `text` spells; of the type that the first preset has."""
    if name == "gamma":
        return None if text == "best" else whole_number(name, text)
    if name == "survival":
        return tuple(numbers(name, text)) if text else ()
    kind = type(getattr(START, name))
    if kind is int:
        return whole_number(name, text)
    return number(name, text) if kind is float else text

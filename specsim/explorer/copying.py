"""A scenario to take along: as Python, as flags of `vllm serve`, as a link."""

import json
import re
import shlex
from dataclasses import fields
from urllib.parse import parse_qsl, urlencode

from specsim import catalog
from specsim.checks import SpecsimError
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.explorer.presets import PRESETS, preset
from specsim.explorer.setting import PLAIN, Scenario, Setting
from specsim.planning import engine_settings, plan

# What vLLM calls a method, where it has it; the heads are checkpoints that a reader has to name.
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
QUANTISED = {"fp8": ("--quantization", "fp8"), "fp16": ("--dtype", "half")}
AS_LOADED = ("bf16", "fp16", "fp8")  # formats that a 16-bit checkpoint can be served in


def as_code(setting: Setting) -> str:
    """A program that computes what is shown."""
    lines = ["import specsim"]
    if setting.calibrated:
        lines[0] = "import specsim\nfrom specsim import calibration"
        lines.append(
            f"system = calibration.load({setting.engine!r}).system"
            f".with_precision({setting.precision!r})"
        )
    else:
        split = setting.tensor_parallel
        devices = "" if split == 1 else f", tensor_parallel={split}"
        lines.append(
            f'system = specsim.system("{setting.accelerator}", engine="{setting.engine}", '
            f'precision="{setting.precision}"{devices})'
        )
    lines.append(f'target = specsim.model("{setting.target}")')
    place = f"batch={setting.batch}, context={setting.context}"
    if setting.method == PLAIN:
        lines.append(f"prediction = specsim.predict(target, None, system, {place})")
        return "\n".join([*lines, "print(prediction.step_s, prediction.bound)"])
    draft = f', specsim.model("{setting.draft}")' if setting.method in NEED_A_DRAFT else ""
    lines.append(f'drafter = specsim.method("{setting.method}", target{draft})')
    acceptance = f"alpha={setting.alpha:g}"
    gammas = "drafter.gammas"
    if setting.survival:
        acceptance = f"survival={list(setting.survival)}"
        gammas = f"drafter.gammas_within({len(setting.survival)})"
    gamma = gammas if setting.gamma is None else str(setting.gamma)
    lines.append(
        f"prediction = specsim.predict(target, drafter, system, gamma={gamma}, {acceptance}, "
        f"{place})"
    )
    if setting.gamma is None:
        lines.append("best = prediction.best()")
        return "\n".join([*lines, "print(prediction.gamma[best], prediction.speedup[best])"])
    return "\n".join([*lines, "print(prediction.speedup)"])


def as_vllm(scenario: Scenario) -> str:
    """`vllm serve` with the speculation that the plan over batches asks for, or a sentence (as a
    comment) on why there is no such command."""
    setting = scenario.setting
    name = VLLM_METHODS.get(setting.method)
    words = ["vllm", "serve", hub_id(setting.target)]
    words += ["--max-model-len", str(setting.context), "--max-num-seqs", str(setting.batch)]
    if setting.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(setting.tensor_parallel)]
    words += QUANTISED.get(setting.precision, ())
    notes = []
    if setting.precision not in AS_LOADED:
        notes.append(f"# {setting.precision}: serve a checkpoint that is stored so")
    if setting.method != PLAIN and name is None:
        notes.append(f"# vLLM has no method like {setting.method}; without it:")
    elif scenario.drafter is not None:
        speculation = speculative_config(scenario)
        if speculation:
            words += ["--speculative-config", json.dumps(speculation)]
        else:
            notes.append("# no speculation: it gains nothing up to this batch")
    return "\n".join([*notes, shlex.join(words)])


def hub_id(name: str) -> str:
    """The hub's id of a model whose shape is from there, else its own name."""
    row = catalog.load("models").get(name, {})
    found = re.match(r"([\w.-]+/[\w.-]+) config\.json", row.get("source", ""))
    return found[1] if found else name


def speculative_config(scenario: Scenario) -> dict[str, object]:
    """The JSON of --speculative-config; empty where nothing pays. A fixed gamma is taken as it is,
    the best one for every batch up to the one that is set."""
    setting, drafter = scenario.setting, scenario.drafter
    assert drafter is not None
    config: dict[str, object] = {"method": VLLM_METHODS[setting.method]}
    if setting.method in NEED_A_DRAFT:
        config["model"] = hub_id(setting.draft)
    if setting.method in WITH_A_HEAD:
        config["model"] = HEAD
    if setting.gamma is not None:
        return config | {"num_speculative_tokens": setting.gamma} if setting.gamma else {}
    batches = [2**power for power in range(10) if 2**power < setting.batch] + [setting.batch]
    planned = plan(
        scenario.target, drafter, scenario.system, batches=batches, gammas=scenario.gammas,
        context=setting.context, **setting.acceptance,
    )  # fmt: skip
    chosen = engine_settings(planned, "vllm", drafter)
    return config | chosen if chosen else {}


def as_query(setting: Setting) -> str:
    """The setting as what follows the ? of the page's address: a preset and what differs from it,
    whichever is shortest."""
    starts = [(each.key, each.setting) for each in PRESETS]
    told = [({"preset": key} | _differences(setting, start)) for key, start in starts]
    return urlencode(min(told, key=len))


def _differences(setting: Setting, start: Setting) -> dict[str, str]:
    changes = {}
    for each in fields(Setting):
        value = getattr(setting, each.name)
        if value != getattr(start, each.name):
            changes[each.name] = _written(value)
    return changes


def _written(value: object) -> str:
    if value is None:
        return "best"
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def from_query(query: str) -> Setting:
    """The setting of a link. Raises SpecsimError for a name or a value that there is not."""
    given = dict(parse_qsl(query.lstrip("?"), keep_blank_values=True))
    start = preset(given.pop("preset")).setting if "preset" in given else Setting()
    kinds = {each.name: each.type for each in fields(Setting)}
    unknown = sorted(given.keys() - kinds.keys())
    if unknown:
        raise SpecsimError(f"there is no setting {unknown[0]!r}; there are: {', '.join(kinds)}")
    values = {name: getattr(start, name) for name in kinds}
    for name, text in given.items():
        values[name] = _read(name, text, values[name])
    return Setting(**values)


def _read(name: str, text: str, example: object) -> object:
    try:
        if name == "gamma":
            return None if text == "best" else int(text)
        if name == "survival":
            return tuple(float(part) for part in text.split(",") if part)
        if isinstance(example, int):
            return int(text)
        return float(text) if isinstance(example, float) else text
    except ValueError:
        raise SpecsimError(f"{name} must be a number, not {text!r}") from None

"""A scenario to take along: as Python, as a command, as an engine's command, as a link."""

import html
import shlex
from dataclasses import fields, replace
from urllib.parse import parse_qsl, urlencode

from specsim.checks import number, numbers, whole_number
from specsim.explorer.presets import PRESETS, preset
from specsim.explorer.scenarios import (
    NAMES,
    SPREAD,
    START,
    ExplorerScenario,
    PredictedScenario,
    changed,
    require_settable,
)
from specsim.planning import ENGINES_WITH_SETTINGS, Deployment, fixed_plan, launch, plan
from specsim.scenario import Scenario

# a plain HTML button next to a text, which copies the text: no widget is needed
COPY = (
    "navigator.clipboard.writeText(this.parentNode.querySelector('code').textContent)"
    ".then(()=>{this.textContent='copied'},()=>{this.textContent='select and copy'})"
)
OPTIONS = {"draft_tensor_parallel": "--draft-tp"}  # where an option has not the value's own name


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


def as_serving_command(scenario: ExplorerScenario, policy: str, requests: int) -> str:
    """`specsim serve-sim` for the traffic of the card for many users."""
    without = replace(scenario, batch=1, context=1024, gamma=None)
    words = ["specsim", "serve-sim", *shlex.split(as_command(without))[2:]]
    arrivals = ["--rate", f"{scenario.rate:g}"] if scenario.rate else [
        "--concurrency", str(scenario.users)]  # fmt: skip
    words += [*arrivals, "--requests", str(requests)]
    words += ["--prompt", f"{scenario.prompt},{SPREAD['prompt']:g}"]
    words += ["--output", f"{scenario.answer},{SPREAD['answer']:g}", "--policy", policy]
    words += ["--slo", f"ttft:{scenario.ttft_ms:g}", f"tpot:{scenario.tpot_ms:g}"]
    return shlex.join(words)


def as_serving_code(scenario: ExplorerScenario, policy: str, requests: int) -> str:
    """A program that simulates the traffic of the card for many users."""
    *lines, last = as_code(replace(scenario, gamma=None)).split("prediction = ")[0].split("\n")
    assert not last
    lines[0] = "import specsim\nfrom specsim import serving"
    drafter = "" if scenario.method is None else "drafter=drafter, "
    arrivals = f"rate={scenario.rate:g}" if scenario.rate else f"concurrency={scenario.users}"
    acceptance = ""
    for name, value in scenario.acceptance.items():
        acceptance = f", {name}={list(value) if scenario.survival else format(value, 'g')}"
    lines += [
        f"server = serving.Server(target=target, {drafter}system=system)",
        f"load = serving.traffic({arrivals}, requests={requests},",
        f"                       prompt=serving.Lengths({scenario.prompt}, {SPREAD['prompt']:g}),",
        f"                       output=serving.Lengths({scenario.answer}, {SPREAD['answer']:g}))",
        f"slo = serving.Slo(ttft={scenario.ttft_ms:g}, tpot={scenario.tpot_ms:g})",
        f'found = serving.simulate(server, load, policy="{policy}", slo=slo{acceptance})',
        'print(found.state, found.summary["mean_tpot_ms"], found.goodput)',
    ]
    return "\n".join(lines)


def engine_to_launch(scenario: Scenario) -> str:
    """The engine whose command is shown: the scenario's, or vLLM where that starts no server."""
    return scenario.engine if scenario.engine in ENGINES_WITH_SETTINGS else "vllm"


def as_launch(shown: PredictedScenario, engine: str) -> str:
    """The command that starts `engine` with the gamma that is set, or else with the best one for
    every batch up to the one that is set; comments say what it needs and what it cannot do."""
    scenario, drafter = shown.scenario, shown.drafter
    deployment = Deployment(
        target=scenario.target, method=scenario.method, draft=scenario.draft,
        precision=scenario.precision, tensor_parallel=scenario.tensor_parallel,
    )  # fmt: skip
    if drafter is None or scenario.gamma is not None:
        planned = fixed_plan(scenario.gamma or 0, scenario.batch)
    else:
        batches = [2**power for power in range(10) if 2**power < scenario.batch]
        planned = plan(
            shown.target, drafter, shown.system, batches=[*batches, scenario.batch],
            gammas=shown.few_gammas, context=scenario.context, **scenario.acceptance,
        )  # fmt: skip
    return launch(engine, deployment, planned, target=shown.target, drafter=drafter).text


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


def copiable(title: str, text: str) -> str:
    """Text with a button that copies it."""
    return (
        f'<div class="specsim-code"><button type="button" onclick="{html.escape(COPY)}">'
        f"copy as {title}</button><pre><code>{html.escape(text)}</code></pre></div>"
    )

"""A scenario in words: what it is, what it gains, what limits it, and what is odd about it."""

from specsim.drafting import DraftModel, Lookup, ParallelBlock
from specsim.explorer.setting import Scenario, Setting
from specsim.tables import REASONS

BOUNDS = {  # what a plain step does, and so what a wider pass costs where that is all
    "weights": ("mostly reads weights", "so further rows in the same pass are nearly free"),
    "kv": ("mostly reads the KV cache", "which a wider pass reads no more often"),
    "compute": ("mostly computes", "so every further row is paid for in full"),
    "overhead": ("is mostly launches and host time", "which no faster memory shortens"),
}
EXPERTS = ("mostly reads weights", "of which further rows wake more experts")
WIDER = 1.1  # a verification is called longer than a plain step from this ratio on
A_TIE = 0.02  # a gain or a loss below this is called none


def describe(scenario: Scenario) -> str:
    """What the setting means and what limits it, in two to four sentences."""
    setting = scenario.setting
    machine = scenario.system.accelerator.name
    devices = "" if setting.tensor_parallel == 1 else f"{setting.tensor_parallel} × "
    engine = "calibrated here" if setting.calibrated else f"under {setting.engine}"
    if setting.engine == "ideal":
        engine = "at the speed of light"
    sequences = "1 sequence" if setting.batch == 1 else f"{setting.batch} sequences"
    words = [
        f"{scenario.target.name} in {setting.precision} on {devices}{machine} {engine}, "
        f"{sequences} with {setting.context:,} tokens of context: a plain step takes "
        f"{milliseconds(scenario.of('step_s'))} and {waits(scenario)}."
    ]
    if scenario.drafter is not None:
        words += [gain(scenario), limit(scenario)]
    return " ".join(word for word in [*words, *oddities(scenario)] if word)


def waits(scenario: Scenario) -> str:
    """What a plain step does with its time, and what a wider one costs beside it."""
    wakes = scenario.bound == "weights" and scenario.target.experts is not None
    does, so = EXPERTS if wakes else BOUNDS[scenario.bound]
    wider = scenario.of("verify_step_s") / scenario.of("step_s")
    if scenario.gamma == 0 or wider < WIDER:
        return f"{does}, {so}"
    times = f"takes {wider:.1f} times as long"
    if wakes or scenario.bound == "compute":
        return f"{does}, {so}: a verification {times}"
    return f"{does}, while the wider pass of a verification {times}"


def gain(scenario: Scenario) -> str:
    """The speedup, and at what gamma."""
    if scenario.gamma == 0:
        if scenario.setting.gamma == 0:
            return "With γ = 0 nothing is drafted: this is plain decoding."
        return "No γ gains anything here: plain decoding is the best there is."
    low, high = scenario.band("speedup")
    speedup = scenario.speedup
    chosen = "the best γ" if scenario.setting.gamma is None else "γ"
    verdict = "gains nothing"
    if speedup >= 1 + A_TIE:
        verdict = f"is {speedup:.2f}× as fast"
    elif speedup <= 1 - A_TIE:
        verdict = f"is slower, {speedup:.2f}×"
    band = "" if low == high else f" (80 % band {low:.2f} to {high:.2f})"
    better = ""
    if scenario.setting.gamma is not None and scenario.best_gamma != scenario.gamma:
        better = f"; the best γ would be {scenario.best_gamma}"
    return (
        f"With {chosen} = {scenario.gamma}, {how(scenario)} emits "
        f"{scenario.of('tokens_per_cycle'):.2f} tokens in a cycle of "
        f"{milliseconds(scenario.of('cycle_s'))}: it {verdict}{band}{better}."
    )


def how(scenario: Scenario) -> str:
    if isinstance(scenario.drafter, DraftModel):
        return f"drafting with {scenario.drafter.architecture.name}"
    return f"drafting by {scenario.setting.method}"


def limit(scenario: Scenario) -> str:
    """The factor of the waterfall that costs most."""
    if scenario.gamma == 0:
        return ""
    falls = {name: fall for name, fall in scenario.waterfall().items() if name != "ideal"}
    name = min(falls, key=lambda each: falls[each])
    return f"What limits it most is {name}: {REASONS[name]}."


def oddities(scenario: Scenario) -> list[str]:
    """What a person would stop at: a draft larger than its target, a model that does not fit, an
    output that is not the target's."""
    found = []
    drafter = scenario.drafter
    if isinstance(drafter, DraftModel):
        draft, target = drafter.architecture, scenario.target
        if draft.parameters > target.parameters:
            found.append(
                f"The draft {draft.name} is larger than the target "
                f"({draft.parameters / 1e9:.1f} against {target.parameters / 1e9:.1f} billion "
                "parameters): swap them."
            )
    if (missing := scenario.shortage) is not None:
        found.append(f"It does not fit: {missing}.")
    if not scenario.over.lossless:
        found.append("This method is not lossless: the output law is not the target's.")
    return found


def about_temperature(setting: Setting, drafter: object) -> str:
    """What the temperature has to do with the acceptance that was set."""
    if setting.temperature == 0:
        return (
            "Temperature 0: a draft is accepted where it is the target's most likely token. "
            "Give the acceptance that was measured with greedy decoding."
        )
    if isinstance(drafter, Lookup | ParallelBlock):
        return (
            f"Temperature {setting.temperature:g}: these drafts are chosen without chance, so one "
            "is accepted with the target's own probability of it, which falls as the temperature "
            "rises. Give the acceptance that was measured at this temperature."
        )
    return (
        f"Temperature {setting.temperature:g}: a drafted token is accepted with min(1, p/q), so α "
        "is the overlap of the two laws at this temperature. Give the one that was measured there: "
        "it does not follow from that at another."
    )


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"

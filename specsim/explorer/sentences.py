"""A scenario in words: what it is, what speculation gains, what limits it, and warnings."""

from specsim.drafting import DraftModel, Lookup, ParallelBlock
from specsim.explorer.scenarios import PredictedScenario
from specsim.planning.memory import TOO_LARGE
from specsim.prediction import limit_sentence

BOUNDS = {  # what a plain step mostly does, and what follows for a wider pass
    "weights": ("mostly reads weights", "so additional tokens in the same pass are nearly free"),
    "kv": ("mostly reads the KV cache", "which a wider pass still reads only once"),
    "compute": ("mostly computes", "so every additional token costs its full time"),
    "overhead": ("is mostly launches and host time", "which faster memory does not shorten"),
}
EXPERTS = "and additional tokens activate more experts"
WIDER = 1.1  # from this ratio on a verification is said to take longer than a plain step
A_TIE = 0.02  # a smaller gain or loss is said to be none


def describe(shown: PredictedScenario) -> str:
    """What the scenario is and what limits it, in two to four sentences, and every caution; one
    that makes the prediction a guess comes first."""
    scenario = shown.scenario
    accelerator = shown.system.accelerator.name
    devices = "" if scenario.tensor_parallel == 1 else f"{scenario.tensor_parallel} × "
    engine = "calibrated here" if scenario.calibrated else f"under {scenario.engine}"
    if scenario.engine == "ideal":
        engine = "at the speed of light"
    sequences = "1 sequence" if scenario.batch == 1 else f"{scenario.batch} sequences"
    words = [
        f"{shown.target.name} in {scenario.precision} on {devices}{accelerator} {engine}, "
        f"{sequences} with {scenario.context:,} tokens of context: a plain step takes "
        f"{milliseconds(shown.of('step_s'))} and {waits(shown)}."
    ]
    if shown.drafter is not None:
        words += [gain(shown), limit(shown)]
    doubts = shown.cautions(gamma=shown.gamma)
    guesses = [f"This is a guess. {doubt.sentence}" for doubt in doubts if doubt.guess]
    others = [doubt.sentence for doubt in doubts if not doubt.guess]
    return " ".join(word for word in [*guesses, *words, *oddities(shown), *others] if word)


def waits(shown: PredictedScenario) -> str:
    """What a plain step does with its time, and what a wider pass costs compared with it."""
    does, so = BOUNDS[shown.bound]
    wakes = shown.bound in ("weights", "overhead") and shown.target.experts is not None
    so = EXPERTS if wakes else so
    wider = shown.of("verify_step_s") / shown.of("step_s")
    if shown.gamma == 0 or wider < WIDER:
        return f"{does}, {so}"
    times = f"takes {wider:.1f} times as long"
    if wakes or shown.bound == "compute":
        return f"{does}, {so}: a verification {times}"
    return f"{does}, while the wider pass of a verification {times}"


def gain(shown: PredictedScenario) -> str:
    """The speedup, and at what gamma."""
    if shown.gamma == 0:
        if shown.scenario.gamma == 0:
            return "With γ = 0 nothing is drafted: this is plain decoding."
        return "No γ gains anything here: plain decoding is fastest."
    low, high = shown.band("speedup")
    speedup = shown.speedup
    chosen = "the best γ" if shown.scenario.gamma is None else "γ"
    verdict = "gains nothing"
    if speedup >= 1 + A_TIE:
        verdict = f"is {speedup:.2f}× as fast"
    elif speedup <= 1 - A_TIE:
        verdict = f"is slower, {speedup:.2f}×"
    band = "" if low == high else f" (80 % band {low:.2f} to {high:.2f})"
    better = ""
    if shown.scenario.gamma is not None and shown.best_gamma != shown.gamma:
        better = f"; the best γ would be {shown.best_gamma}"
    return (
        f"With {chosen} = {shown.gamma}, {how(shown)} emits "
        f"{shown.of('tokens_per_cycle'):.2f} tokens in a cycle of "
        f"{milliseconds(shown.of('cycle_s'))}: it {verdict}{band}{better}."
    )


def how(shown: PredictedScenario) -> str:
    """The way of drafting, by the model or the method."""
    if isinstance(shown.drafter, DraftModel):
        return f"drafting with {shown.drafter.architecture.name}"
    return f"drafting by {shown.scenario.method}"


def limit(shown: PredictedScenario) -> str:
    """The factor of the waterfall that costs most."""
    if shown.gamma == 0:
        return ""
    return limit_sentence(shown.waterfall())


def oddities(shown: PredictedScenario) -> list[str]:
    """Warnings: a draft larger than its target, a model that does not fit, an output distribution
    that is not the target's."""
    found = []
    drafter = shown.drafter
    if isinstance(drafter, DraftModel):
        draft, target = drafter.architecture, shown.target
        if draft.parameters > target.parameters:
            found.append(
                f"The draft {draft.name} is larger than the target "
                f"({draft.parameters / 1e9:.1f} against {target.parameters / 1e9:.1f} billion "
                "parameters): swap them."
            )
    held = shown.footprint(gamma=shown.gamma)
    if (missing := shown.shortage(held, gamma=shown.gamma)) is not None:
        how = held.verdict if held.verdict == TOO_LARGE else f"is {held.verdict}"
        found.append(f"It {how}: {missing}.")
    if not shown.over.lossless:
        found.append("This method is not lossless: the output distribution is not the target's.")
    return found


def about_temperature(shown: PredictedScenario) -> str:
    """How the temperature that is set is related to the acceptance that is set."""
    temperature = shown.scenario.temperature
    if temperature == 0:
        return (
            "Temperature 0: a draft is accepted where it is the target's most likely token. "
            "Give the acceptance that was measured with greedy decoding."
        )
    if isinstance(shown.drafter, Lookup | ParallelBlock):
        return (
            f"Temperature {temperature:g}: these drafts are not sampled. A draft is accepted "
            "with the probability that the target gives it, which falls as the temperature rises. "
            "Give the acceptance that was measured at this temperature."
        )
    return (
        f"Temperature {temperature:g}: a drafted token is accepted with min(1, p/q), so α "
        "is the overlap of the two distributions at this temperature. Give the α that was measured "
        "at this temperature: it does not follow from the α at another."
    )


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, with as many digits as are worth showing."""
    value = seconds * 1e3
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"

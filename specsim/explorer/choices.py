"""Which values of a scenario go together, so that no choice of a reader leads to an empty page."""

from dataclasses import replace
from functools import cache

from specsim.architecture import drafts_for, model
from specsim.checks import SpecsimError
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.explorer.scenarios import PLAIN, ExplorerScenario
from specsim.operators import require_even_split
from specsim.scenario import drafter_of

DEVICES = (1, 2, 4, 8, 16)


def drafts_of(target: str) -> list[str]:
    """The models that the explorer offers as drafts of a target of the catalog: those that share
    its tokenizer and are smaller, smallest first."""
    return list(_drafts_of(target))


@cache
def _drafts_of(target: str) -> tuple[str, ...]:
    return tuple(drafts_for(model(target)))


def devices_of(scenario: ExplorerScenario) -> list[int]:
    """The numbers of devices over which target and draft can be split evenly."""
    if scenario.calibrated:
        return [1]  # what was measured on one device says nothing of several
    used = scenario.used()
    models = [model(name) for name in (used.target, used.draft) if name is not None]

    def splits(devices: int) -> bool:
        try:
            for each in models:
                require_even_split(each, devices)
        except SpecsimError:
            return False
        return True

    return [devices for devices in DEVICES if splits(devices)]


def fitted(scenario: ExplorerScenario) -> tuple[ExplorerScenario, list[str]]:
    """The scenario with every value replaced that does not go with the target and the method, and
    a sentence for each: a draft with another tokenizer, a gamma beyond what can be drafted, a
    number of devices that cannot share the heads evenly. A reader who changes one control never has
    to find the others that no longer fit."""
    said = []
    if scenario.method in NEED_A_DRAFT and scenario.draft not in (
        fits := drafts_of(scenario.target)
    ):
        if fits:
            scenario = replace(scenario, draft=_likely(fits, scenario.target))
            target = model(scenario.target)
            shares = "the tokenizer" if target.tokenizer else "a vocabulary of the size"
            said.append(f"{scenario.draft} drafts: it has {shares} of {target.name}.")
        else:
            ships = model(scenario.target).mtp_layers > 0
            scenario = replace(scenario, method="mtp" if ships else "n-gram")
            said.append(
                f"No smaller model of the catalog has the tokenizer of {scenario.target}: the "
                f"method is {scenario.method}."
            )
    if scenario.tensor_parallel not in (devices := devices_of(scenario)):
        fewer = [each for each in devices if each < scenario.tensor_parallel]
        scenario = replace(scenario, tensor_parallel=max(fewer, default=1))
        said.append(f"Tensor parallel is {scenario.tensor_parallel}: more devices split unevenly.")
    if scenario.gamma is not None and scenario.method != PLAIN:
        used = scenario.used()
        most = drafter.max_gamma if (drafter := drafter_of(used)) is not None else None
        known = min((n for n in (most, len(used.survival) or None) if n), default=scenario.gamma)
        if scenario.gamma > known:
            scenario = replace(scenario, gamma=known)
            said.append(f"γ is {known}: no more tokens can be drafted here.")
    return scenario, said


def _likely(fits: list[str], target: str) -> str:
    """The largest of the drafts with at most a tenth of the target's parameters, else the
    smallest."""
    most = model(target).parameters / 10
    small = [name for name in fits if model(name).parameters <= most]
    return small[-1] if small else fits[0]

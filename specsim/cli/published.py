"""An acceptance for a scenario that gives none: the range of the method's published rates."""

from dataclasses import replace

from specsim import catalog
from specsim.checks import SpecsimError
from specsim.planning.acceptances import AcceptanceRange, acceptance_range
from specsim.scenario import Scenario, drafter_of, method_of


def assumed_for(scenario: Scenario) -> tuple[Scenario, AcceptanceRange | None]:
    """The scenario with the middle of the published range as its alpha, and the range; as it is,
    and None, where it gives an acceptance, does not draft, or nothing is published."""
    if scenario.acceptance or (scenario.draft is None and scenario.method is None):
        return scenario, None
    found = range_of(scenario)
    return (scenario, None) if found is None else (replace(scenario, alpha=found.middle), found)


def range_of(scenario: Scenario) -> AcceptanceRange | None:
    """The range of the published rates of a scenario's method; None where nothing is published."""
    drafter, method = drafter_of(scenario), method_of(scenario)
    if drafter is None or method is None:
        return None
    try:
        target: str | None = catalog.resolve("models", scenario.target)
    except SpecsimError:  # a config.json or a folder
        target = None
    return acceptance_range(drafter, method, target)

"""Acceptance by task: alphas that others have published for a method, to choose from."""

from dataclasses import replace

from specsim.explorer.scenarios import ExplorerScenario, PredictedScenario
from specsim.planning.acceptances import TaskAcceptance, acceptance_by_task, listed

OWN = "what α or the curve says"


def tasks_of(shown: PredictedScenario) -> tuple[TaskAcceptance, ...]:
    """The tasks with a published acceptance of the scenario's method: of its own target where there
    are any, else of other models."""
    if shown.drafter is None or shown.method is None:
        return ()
    return acceptance_by_task(shown.drafter, shown.method, shown.target.name)


def options(tasks: tuple[TaskAcceptance, ...]) -> list[tuple[str, str]]:
    """What a control offers: a label and the task's name; the empty name is the reader's own."""
    return [(OWN, ""), *((f"{each.task}: α {each.alpha:.2f}", each.task) for each in tasks)]


def accepted_as(scenario: ExplorerScenario, task: TaskAcceptance) -> ExplorerScenario:
    """The scenario with the acceptance of a task."""
    return replace(scenario, alpha=round(task.alpha, 2), survival=())


def is_accepted_as(scenario: ExplorerScenario, task: TaskAcceptance) -> bool:
    """Whether the acceptance that is set is that of the task."""
    return accepted_as(scenario, task) == scenario


def source(task: TaskAcceptance) -> str:
    """Where the number comes from, in a sentence."""
    whose = "this very target" if task.of_target else listed(task.models)
    rates = "one published rate" if task.rates == 1 else f"the median of {task.rates} rates"
    return f"α {task.alpha:.2f} on {task.task}: {rates}, with {whose}. Measure yours."

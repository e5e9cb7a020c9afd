"""A control that takes the acceptance of a task from what others have published."""

from typing import Any

from specsim.checks.extras import needed
from specsim.explorer.live_view import LiveView
from specsim.explorer.scenarios import PredictedScenario
from specsim.explorer.tasks import accepted_as, is_accepted_as, options, source, tasks_of
from specsim.planning.acceptances import TaskAcceptance

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets


class TaskControl:
    """A choice of tasks for the method and the target that are set, and a note on the source. It is
    the reader's own again as soon as another acceptance is set."""

    def __init__(self, view: LiveView) -> None:
        self.view = view
        self.tasks: tuple[TaskAcceptance, ...] = ()
        self.choice = widgets.Dropdown(
            options=options(()), value="", description="published α",
            style={"description_width": "8.5em"},
        )  # fmt: skip
        self.choice.layout.width = "100%"
        self.choice.add_class("specsim-control")
        self.choice.add_class("specsim-task")
        self.note = ""
        self._key: tuple[Any, ...] = ()
        self._applying = False
        self.choice.observe(self._chosen, names="value")

    def tell(self, shown: PredictedScenario) -> None:
        """Offer what is published for the scenario, and note where the acceptance that is set comes
        from."""
        key = (shown.target, shown.method, shown.drafter)
        name = self.choice.value
        if key != self._key:
            self._key, self.tasks = key, tasks_of(shown)
        now = next((each for each in self.tasks if each.task == name), None)
        if now is not None and not is_accepted_as(self.view.scenario, now):
            now = None
        self.note = "" if now is None else source(now)
        self._applying = True
        try:
            if [each[1] for each in self.choice.options] != ["", *(t.task for t in self.tasks)]:
                self.choice.options = options(self.tasks)
            self.choice.value = "" if now is None else now.task
            self.choice.disabled = not self.tasks
        finally:
            self._applying = False

    def _chosen(self, change: Any) -> None:
        if self._applying:
            return
        task = next((each for each in self.tasks if each.task == change["new"]), None)
        if task is not None:
            self.view.show(accepted_as(self.view.scenario, task))

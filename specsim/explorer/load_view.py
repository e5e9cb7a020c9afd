"""The card for many users as a widget of its own, and when it simulates.

explorer.many_users(target="llama-3.3-70b", tensor_parallel=4, users=20, tpot_ms=33)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.extras import needed
from specsim.explorer.live_view import REST_S, LiveView, Pause
from specsim.explorer.load_card import LOAD, LoadCard
from specsim.explorer.scenarios import ExplorerScenario
from specsim.explorer.single_panel import starting_at
from specsim.explorer.static_view import StaticView

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets

LATER_S = 0.5  # after the first simulation is wanted: the other policies


def load_pauses(view: LiveView, card: LoadCard, html: widgets.HTML) -> tuple[Pause, ...]:
    """What a view does when its controls have rested: simulate, then compare more policies."""

    def first() -> None:
        if view.shown is not None:
            card.first(view.shown)
            html.value = card.html

    def then() -> None:
        if view.shown is not None:
            card.then(view.shown)
            html.value = card.html

    return ((REST_S, first), (REST_S + LATER_S, then))


class ManyUsers(LiveView):
    """The card alone, with some controls."""

    def __init__(self, scenario: ExplorerScenario, controls: Sequence[str]) -> None:
        self.card, self.html = LoadCard(), widgets.HTML()
        super().__init__(scenario, urgent=(), controls=controls)

    def arrange(self) -> tuple[widgets.Widget, ...]:
        style, *others = super().arrange()
        return (style, *others[:-1], self.html)

    def pauses(self) -> tuple[Pause, ...]:
        return load_pauses(self, self.card, self.html)

    def static(self) -> StaticView:
        return replace(super().static(), below=self.html.value)

    def refuse(self, problem: SpecsimError) -> None:
        super().refuse(problem)
        self.card.refuse()
        self.html.value = ""


def many_users(
    scenario: ExplorerScenario | None = None,
    *,
    controls: Sequence[str] = LOAD,
    preset: str | None = None,
    **changes: Any,
) -> ManyUsers:
    """Users or a rate, what each is promised, and the policy that keeps it."""
    return ManyUsers(starting_at(scenario, preset, changes), controls)

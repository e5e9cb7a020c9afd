"""Buttons that keep a setting as A, and what is then shown beside it."""

from specsim.checks.extras import needed
from specsim.explorer.comparing import Kept, as_html
from specsim.explorer.live_view import LiveView
from specsim.explorer.panels import SpeedupVsGammaPanel
from specsim.explorer.scenarios import PredictedScenario

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets


class ComparisonView:
    """Three buttons and a table, for a view and its panel of speedup against gamma."""

    def __init__(self, view: LiveView, panel: SpeedupVsGammaPanel) -> None:
        self.view, self.panel = view, panel
        self.kept: Kept | None = None
        self.html = widgets.HTML()
        self.keep = self._button("keep as A", "remember what is set, to compare with it")
        self.swap = self._button("swap A and B", "set A, and keep what is set now")
        self.forget = self._button("forget A", "stop comparing")
        self.keep.on_click(lambda _: self._keep())
        self.swap.on_click(lambda _: self._swap())
        self.forget.on_click(lambda _: self._hold(None))
        self._enable()

    @property
    def buttons(self) -> tuple[widgets.Button, ...]:
        """From left to right."""
        return (self.keep, self.swap, self.forget)

    def tell(self, shown: PredictedScenario) -> None:
        """Compare A with what is shown."""
        if self.kept is not None:
            self.html.value = as_html(self.kept, Kept(self.view.scenario, shown))

    def _keep(self) -> None:
        if self.view.shown is not None:  # there is nothing to keep of what cannot be predicted
            self._hold(Kept(self.view.scenario, self.view.shown))

    def _swap(self) -> None:
        if (before := self.kept) is None or self.view.shown is None:
            return
        self._hold(Kept(self.view.scenario, self.view.shown), redraw=False)
        self.view.show(before.scenario)

    def _hold(self, kept: Kept | None, redraw: bool = True) -> None:
        self.kept, self.panel.kept = kept, None if kept is None else kept.shown
        self._enable()
        self.html.value = ""
        if redraw:
            self.view.redraw(freeze=True)

    def _enable(self) -> None:
        for button in (self.swap, self.forget):
            button.disabled = self.kept is None

    def _button(self, name: str, told: str) -> widgets.Button:
        made = widgets.Button(description=name, tooltip=told)
        made.add_class("specsim-preset")
        return made

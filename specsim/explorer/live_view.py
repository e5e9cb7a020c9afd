"""The live view: controls, and pictures and words that follow them.

    a control moves  ->  one scenario  ->  its pictures, as PNGs, and a sentence

Pictures that matter while a slider is dragged are redrawn at once, the others a moment later; a map
is refined when the slider rests. Without an event loop, as in a test, all three happen at once.
"""

import asyncio
import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.extras import needed
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.explorer import controls as controls_of
from specsim.explorer.choices import fitted
from specsim.explorer.figure_canvas import FigureCanvas
from specsim.explorer.frames import detail, framed, overlay, picture
from specsim.explorer.hover import areas, as_svg
from specsim.explorer.measured import calibrations_in
from specsim.explorer.panels import Panel
from specsim.explorer.panels.speedup_map import DRAGGING, RESTING
from specsim.explorer.scenarios import (
    ExplorerScenario,
    PredictedScenario,
    predict_scenario,
)
from specsim.explorer.sentences import describe
from specsim.explorer.static_view import VIEW, StaticView

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets

SOON_S = 0.01  # how long the pictures wait that do not matter while a slider is dragged
REST_S = 0.25  # a slider that has not moved for so long rests
Pause = tuple[float, Callable[[], None]]  # what is done so many seconds after the last move
STYLE_SHEET = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


class LiveView(widgets.VBox):
    """Panels that follow controls.

    `urgent` panels are redrawn at every move, `other` ones a moment later. `controls` are the
    widgets by the name of their value; a value without a control stays as it is. Nothing that a
    reader can set raises an error: the sentence says why a scenario cannot be predicted.
    """

    live = 'role="status" aria-live="polite"'
    linked = False  # whether it has a page of its own, which always has a kernel
    words = ""  # the sentence without its markup
    _ipython_display_ = None  # ipywidgets 7 would show itself in its own way, without a picture

    def __init__(
        self,
        scenario: ExplorerScenario,
        *,
        urgent: Sequence[Panel],
        other: Sequence[Panel] = (),
        controls: Sequence[str],
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.shown: PredictedScenario | None = None
        self.urgent = {panel: FigureCanvas(panel) for panel in urgent}
        self.other = {panel: FigureCanvas(panel) for panel in other}
        self.images = {panel: picture(panel) for panel in (*urgent, *other)}
        self.values = {panel: overlay() for panel in self.images}
        self.frames = [framed(self.images[panel], self.values[panel]) for panel in self.images]
        self.sentence = widgets.HTML()
        self.sentence.add_class("specsim-sentence")
        self._scenario = scenario
        self._waiting: list[asyncio.TimerHandle] = []
        self._calls: tuple[Pause, ...] = ()  # what they call
        self._applying = False
        self._fitted: list[str] = []  # what was set for the reader, in sentences
        engines = calibrations_in(folder)
        self.controls = {name: controls_of.control(name, scenario, engines) for name in controls}
        for name, made in self.controls.items():
            made.observe(self._follow(name), names="value")
        self.children = self.arrange()
        self.add_class("specsim-explorer")
        self.redraw(freeze=True)

    def arrange(self) -> tuple[widgets.Widget, ...]:
        """The widgets from top to bottom."""
        pictures = widgets.Box(self.frames)
        pictures.add_class("specsim-show")
        return (
            widgets.HTML(f"<style>{STYLE_SHEET}</style>"),
            *self.controls.values(),
            self.sentence,
            pictures,
        )

    @property
    def scenario(self) -> ExplorerScenario:
        """What is set. Raises SpecsimError where a control holds text that is not a value."""
        said = {name: controls_of.read(name, made) for name, made in self.controls.items()}
        return replace(self._scenario, **said)

    def show(self, scenario: ExplorerScenario) -> None:
        """Set every control, and draw once."""
        self._fitted = []
        self._set_controls(scenario)
        self.redraw(freeze=True)

    def fit(self) -> None:
        """After a control moved: set those whose values no longer go with it, and say so."""
        self._fitted = []
        try:
            scenario, self._fitted = fitted(self.scenario)
        except SpecsimError:
            return  # the drawing says what is wrong
        self._set_controls(scenario)

    def _set_controls(self, scenario: ExplorerScenario) -> None:
        self._scenario = scenario
        with self.quietly():
            for name, made in self.controls.items():
                controls_of.show(name, made, scenario)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Controls that are set meanwhile draw nothing."""
        self._applying = True
        try:
            yield
        finally:
            self._applying = False

    def redraw(self, freeze: bool = False) -> None:
        """Draw what is set: urgent panels at once, the rest when there is time."""
        self._cancel()
        try:
            scenario = self.scenario
            self.shown = predict_scenario(scenario)
            for panel, canvas in self.urgent.items():
                self.images[panel].value = canvas.png(self.shown, freeze)
        except SpecsimError as problem:
            self.refuse(problem)
            return
        self._fit_controls(scenario)
        self._later((SOON_S, lambda: self.rest_of(freeze)), (REST_S, self.settle), *self.pauses())

    def rest_of(self, freeze: bool = False) -> None:
        """The pictures and words that can wait a moment."""
        if self.shown is None:
            return
        try:
            self.say(" ".join([*self._fitted, describe(self.shown)]))
            self.tell(self.shown)
            for panel, canvas in self.other.items():
                detail(panel, DRAGGING)
                self.images[panel].value = canvas.png(self.shown, freeze)
        except SpecsimError as problem:
            self.refuse(problem)

    def settle(self) -> None:
        """Refine what is refined only when a slider rests."""
        if self.shown is None:
            return
        try:
            for panel, canvas in (self.urgent | self.other).items():
                if detail(panel, RESTING):
                    self.images[panel].value = canvas.png(self.shown)
            for panel, made in self.values.items():
                made.value = as_svg(areas(panel, self.shown))
            self.tell_at_rest(self.shown)
        except SpecsimError as problem:
            self.refuse(problem)

    def tell(self, shown: PredictedScenario) -> None:
        """Show further words, in a subclass that has some."""

    def tell_at_rest(self, shown: PredictedScenario) -> None:
        """Show words that take too long to find while a slider is dragged."""

    def pauses(self) -> tuple[Pause, ...]:
        """What else is done at rest, in a subclass that has something."""
        return ()

    def refuse(self, problem: SpecsimError) -> None:
        """Say why there is no prediction."""
        self.shown = None
        self.say(f"No prediction: {problem}.", "specsim-problem")
        for panel, canvas in (self.urgent | self.other).items():
            self.images[panel].value = canvas.blank()
            self.values[panel].value = ""

    def say(self, words: str, kind: str = "") -> None:
        """Set the sentence; a screen reader reads it out when it changes."""
        self.words = words
        self.sentence.value = f'<p {self.live} class="{kind}">{html.escape(words)}</p>'

    def _follow(self, name: str) -> Callable[[Any], None]:
        def moved(_: Any) -> None:
            if not self._applying:
                self.fit()
                self.redraw(freeze=name not in controls_of.SLIDERS)

        return moved

    def _fit_controls(self, scenario: ExplorerScenario) -> None:
        """Disable the controls whose values are not used."""
        unused = {
            "draft": scenario.method not in NEED_A_DRAFT,
            "accelerator": scenario.calibrated,
            "alpha": bool(scenario.survival),
            "users": scenario.rate > 0,
        }
        for name, off in unused.items():
            if name in self.controls and self.controls[name].disabled != off:
                self.controls[name].disabled = off

    def _later(self, *calls: Pause) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _, call in calls:
                call()
            return
        self._calls = calls
        self._waiting = [loop.call_later(delay, call) for delay, call in calls]

    def _cancel(self) -> None:
        """Do not do what waits."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting, self._calls = [], ()

    def finish(self) -> None:
        """Do at once what waits for the controls to rest."""
        calls = self._calls
        self._cancel()
        for _, call in calls:
            call()

    def static(self) -> StaticView:
        """What is shown, for a page without a kernel."""
        pictures = [(panel.title, bytes(image.value)) for panel, image in self.images.items()]
        return StaticView(self.words, pictures if self.shown is not None else [])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The widget, and for pages without a kernel what it shows now."""
        view = {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
        if self.linked:
            return {"text/plain": self.words, **view}
        self.finish()
        return self.static().bundle() | view

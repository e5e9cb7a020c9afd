"""Controls on one side, pictures on the other: what every live piece is made of.

    a control moves  ->  one scenario  ->  its pictures, as PNGs, and a sentence

Pictures that matter while dragging are redrawn at once; others as soon as nothing else waits, and a
map is refined when the slider rests. Without an event loop, in a test, all three happen at once.
"""

import asyncio
import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from specsim.catalog import slug
from specsim.checks import SpecsimError
from specsim.drafting.methods import NEED_A_DRAFT
from specsim.explorer import controls as controls_of
from specsim.explorer.canvas import HEIGHT, WIDTH, Canvas
from specsim.explorer.measured import calibrations_in
from specsim.explorer.panels import Panel, SpeedupMap
from specsim.explorer.panels.speedup_map import DRAGGING, RESTING
from specsim.explorer.sentences import describe
from specsim.explorer.setting import Scenario, Setting, scenario_of

SOON_S = 0.01  # after which what is not dragged at is redrawn
REST_S = 0.25  # after which a slider rests
STYLE_SHEET = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


class Board(widgets.VBox):
    """Panels that follow controls.

    `urgent` panels are redrawn at every move, `other` ones a moment later. `controls` are the
    widgets by the name of their value in `Setting`; what has no control keeps its value. Nothing
    that a reader can set raises: a setting that names no scenario is told in the sentence.
    """

    live = 'role="status" aria-live="polite"'

    def __init__(
        self,
        setting: Setting,
        *,
        urgent: Sequence[Panel],
        other: Sequence[Panel] = (),
        controls: Sequence[str],
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.scenario: Scenario | None = None
        self.urgent = {panel: Canvas(panel) for panel in urgent}
        self.other = {panel: Canvas(panel) for panel in other}
        self.images = {panel: picture(panel) for panel in (*urgent, *other)}
        self.sentence = widgets.HTML()
        self.sentence.add_class("specsim-sentence")
        self._setting = setting
        self._waiting: list[asyncio.TimerHandle] = []
        self._applying = False
        engines = calibrations_in(folder)
        self.controls = {name: controls_of.control(name, setting, engines) for name in controls}
        for name, made in self.controls.items():
            made.observe(self._follow(name), names="value")
        self.children = self.arrange()
        self.add_class("specsim-explorer")
        self.redraw(freeze=True)

    def arrange(self) -> tuple[widgets.Widget, ...]:
        """The widgets from top to bottom."""
        pictures = widgets.Box(list(self.images.values()))
        pictures.add_class("specsim-show")
        return (
            widgets.HTML(f"<style>{STYLE_SHEET}</style>"),
            *self.controls.values(),
            self.sentence,
            pictures,
        )

    @property
    def setting(self) -> Setting:
        """What is set. Raises SpecsimError where a control holds what is no value."""
        said = {name: controls_of.read(name, made) for name, made in self.controls.items()}
        return replace(self._setting, **said)

    def show(self, setting: Setting) -> None:
        """Set every control, and draw once."""
        self._setting, self._applying = setting, True
        try:
            for name, made in self.controls.items():
                controls_of.show(name, made, setting)
        finally:
            self._applying = False
        self.redraw(freeze=True)

    def redraw(self, freeze: bool = False) -> None:
        """Draw what is set: what is urgent at once, the rest when there is time."""
        for handle in self._waiting:
            handle.cancel()
        try:
            setting = self.setting
            self.scenario = scenario_of(setting)
            for panel, canvas in self.urgent.items():
                self.images[panel].value = canvas.png(self.scenario, freeze)
        except SpecsimError as problem:
            self.refuse(problem)
            return
        self._fit_controls(setting)
        self._later((SOON_S, lambda: self.rest_of(freeze)), (REST_S, self.settle))

    def rest_of(self, freeze: bool = False) -> None:
        """The pictures and words that can wait a moment."""
        if self.scenario is None:
            return
        try:
            self.say(describe(self.scenario))
            self.tell(self.scenario)
            for panel, canvas in self.other.items():
                detail(panel, DRAGGING)
                self.images[panel].value = canvas.png(self.scenario, freeze)
        except SpecsimError as problem:
            self.refuse(problem)

    def settle(self) -> None:
        """What is refined when a slider rests."""
        if self.scenario is None:
            return
        try:
            for panel, canvas in (self.urgent | self.other).items():
                if detail(panel, RESTING):
                    self.images[panel].value = canvas.png(self.scenario)
            self.tell_at_rest(self.scenario)
        except SpecsimError as problem:
            self.refuse(problem)

    def tell(self, scenario: Scenario) -> None:
        """Words besides the sentence, for those who have some."""

    def tell_at_rest(self, scenario: Scenario) -> None:
        """Words that take too long while a slider is dragged."""

    def refuse(self, problem: SpecsimError) -> None:
        """Say why there is nothing to see."""
        self.scenario = None
        self.say(f"No prediction: {problem}.", "specsim-problem")
        for panel, canvas in (self.urgent | self.other).items():
            self.images[panel].value = canvas.blank()

    def say(self, words: str, kind: str = "") -> None:
        """The sentence, which a screen reader reads out when it changes."""
        self.sentence.value = f'<p {self.live} class="{kind}">{html.escape(words)}</p>'

    def _follow(self, name: str) -> Callable[[Any], None]:
        def moved(_: Any) -> None:
            if not self._applying:
                self.redraw(freeze=name not in controls_of.SLIDERS)

        return moved

    def _fit_controls(self, setting: Setting) -> None:
        """What a method or a calibration decides cannot be set besides."""
        unused = {
            "draft": setting.method not in NEED_A_DRAFT,
            "accelerator": setting.calibrated,
            "alpha": bool(setting.survival),
        }
        for name, off in unused.items():
            if name in self.controls and self.controls[name].disabled != off:
                self.controls[name].disabled = off

    def _later(self, *calls: tuple[float, Callable[[], None]]) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _, call in calls:
                call()
            return
        self._waiting = [loop.call_later(delay, call) for delay, call in calls]


def detail(panel: Panel, cells: int) -> bool:
    """Give a map its fineness; False for a panel that has none, or has it already."""
    if not isinstance(panel, SpeedupMap) or panel.detail == cells:
        return False
    panel.detail = cells
    return True


def picture(panel: Panel) -> widgets.Image:
    made = widgets.Image(format="png", width=WIDTH, height=HEIGHT)
    made.add_class("specsim-picture")
    made.add_class("specsim-panel-" + slug(panel.title))
    return made

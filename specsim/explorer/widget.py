"""The explorer: every control, four panels, cards, presets, and texts to copy."""

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from specsim.checks import SpecsimError
from specsim.checks.extras import needed
from specsim.explorer import copying, memory_bar, streaming, taking
from specsim.explorer.cards import as_html, cards_of
from specsim.explorer.comparison_view import ComparisonView
from specsim.explorer.controls import SLIDERS
from specsim.explorer.finding import Finder
from specsim.explorer.live_view import STYLE_SHEET, LiveView, Pause
from specsim.explorer.load_card import LOAD, LoadCard
from specsim.explorer.load_view import load_pauses
from specsim.explorer.measured import markers_in
from specsim.explorer.panels import (
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.panels.speedup_map import DRAGGING
from specsim.explorer.presets import PRESETS, Preset
from specsim.explorer.scenarios import ExplorerScenario, PredictedScenario
from specsim.explorer.sentences import about_temperature
from specsim.explorer.single_panel import starting_at
from specsim.explorer.static_view import StaticView
from specsim.explorer.task_control import TaskControl

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets

CHOICES = (
    "target", "method", "draft", "accelerator", "engine", "precision", "tensor_parallel",
    "survival", "temperature", "price_per_hour",
)  # fmt: skip


class Explorer(LiveView):
    """Every control, and the predictions that follow them: `Explorer()`, `Explorer(preset="moe")`,
    `Explorer(target="qwen3-8b", batch=8)`.

    Arguments: a `scenario` or the name of a `preset` to start from, and `changes` to it by name;
    `measurements`, a folder whose measured points are marked and whose calibrations are offered as
    engines (it may be None, or absent); `linked`, whether this explorer has a page of its own, so
    that the page's address can be a link to the scenario; `under_load`, whether there is a card for
    many users, which simulates. `show(scenario)` sets everything at once.
    """

    def __init__(
        self,
        scenario: ExplorerScenario | None = None,
        *,
        preset: str | None = None,
        measurements: str | Path | None = "measurements",
        linked: bool = False,
        under_load: bool = True,
        **changes: Any,
    ) -> None:
        self.linked, self.seed = linked, 0
        if linked:  # the page has a live region of its own, around the sentence
            self.live = ""
        curve = SpeedupVsGammaPanel(markers_in(measurements))
        self.comparison, self.task = ComparisonView(self, curve), TaskControl(self)
        self.finder = Finder(self)
        self.load = LoadCard() if under_load else None
        self.load_shown = widgets.HTML()
        self.map = SpeedupMapPanel()
        self.story, self.note, self.cards, self.copy = (widgets.HTML() for _ in range(4))
        self.memory, self.take, self.streamed = (widgets.HTML() for _ in range(3))
        self.stream = widgets.Button(
            description="stream tokens", tooltip="plain beside speculative"
        )
        self.stream.add_class("specsim-preset")
        self.stream.on_click(lambda _: self._stream())
        self.over = widgets.ToggleButtons(
            options=[("batch × context", "context"), ("batch × γ", "gamma")],
            description="map over", style={"button_width": "auto"},
        )  # fmt: skip
        self.over.observe(self._change_map, names="value")
        self.presets = {each.key: self._button(each) for each in PRESETS}
        super().__init__(
            starting_at(scenario, preset, changes),
            urgent=(RooflinePanel(), curve),
            other=(self.map, WaterfallPanel()),
            controls=(*SLIDERS, *CHOICES, *(LOAD if under_load else ())),
            folder=measurements,
        )

    def arrange(self) -> tuple[widgets.Widget, ...]:
        presets = _box("specsim-presets", *self.presets.values())
        head = widgets.HTML("<h1>Speculative decoding: how much faster?</h1>")
        sliders = _box("specsim-slide", *(self.controls[name] for name in SLIDERS))
        choices = [self.controls[name] for name in CHOICES]
        choices.insert(CHOICES.index("survival"), self.task.choice)
        for control, group in self.finder.groups.items():  # a group above what it shortens
            choices.insert(choices.index(self.controls[control]), group)
        finder = (self.finder.words, self.finder.said, self.finder.own)
        choose = _box("specsim-choose", *finder, *choices, self.note)
        pictures = _box("specsim-show", *self.frames)
        two = _box("specsim-presets", *self.comparison.buttons, self.stream)
        told = (self.sentence, self.cards, self.memory, two, self.comparison.html, self.streamed)
        say = _box("specsim-say", *told)
        left = _box("specsim-left", sliders, choose)
        take = _box("specsim-take", self.over, self.take, self.copy)
        right = _box("specsim-right", say, pictures, *self._many_users(), take)
        self.story.add_class("specsim-story")
        body = _box("specsim-body", left, right)
        style = widgets.HTML(f"<style>{STYLE_SHEET}</style>")
        return (style, head, presets, self.story, body)

    def _many_users(self) -> tuple[widgets.Widget, ...]:
        if self.load is None:
            return ()
        head = widgets.HTML("<h2>Many users, and what each is promised</h2>")
        asked = _box("specsim-ask", *(self.controls[name] for name in LOAD))
        return (_box("specsim-many", head, asked, self.load_shown),)

    def pauses(self) -> tuple[Pause, ...]:
        return () if self.load is None else load_pauses(self, self.load, self.load_shown)

    def redraw(self, freeze: bool = False) -> None:
        super().redraw(freeze)
        self.streamed.value = ""
        self.story.value = self._story()

    def tell(self, shown: PredictedScenario) -> None:
        self.cards.value = as_html(cards_of(shown))
        self.memory.value = memory_bar.as_html(shown)
        self.comparison.tell(shown)
        self.task.tell(shown)
        words = html.escape(f"{self.task.note} {about_temperature(shown)}".strip())
        self.note.value = f'<p class="specsim-note">{words}</p>'

    def tell_at_rest(self, shown: PredictedScenario) -> None:
        query = html.escape(copying.as_query(self.scenario))
        engine = copying.engine_to_launch(shown.scenario)
        link = f'<p class="specsim-note">Link: <a href="?{query}">?{query}</a></p>'
        self.copy.value = (
            copying.copiable("Python", copying.as_code(shown.scenario))
            + copying.copiable("command", copying.as_command(shown.scenario))
            + copying.copiable(engine, copying.as_launch(shown, engine))
            + (link if self.linked else "")
        )
        self.take.value = taking.links(shown, [bytes(each.value) for each in self.images.values()])

    def static(self) -> StaticView:
        found = super().static()
        return replace(
            found, below=self.cards.value + self.comparison.html.value + self.load_shown.value
        )

    def refuse(self, problem: SpecsimError) -> None:
        super().refuse(problem)
        for each in (self.cards, self.copy, self.load_shown, self.memory, self.take, self.streamed):
            each.value = ""
        self.comparison.html.value = ""
        if self.load is not None:
            self.load.refuse()

    def _stream(self) -> None:
        """Begin to stream tokens, with other cycles each time."""
        self.seed += 1
        if self.shown is not None:
            self.streamed.value = streaming.as_html(self.shown, self.seed)

    def _story(self) -> str:
        """What the preset is about, while its scenario is shown."""
        told = next((p for p in PRESETS if self._shows(p)), None)
        if told is None:
            return '<p class="specsim-note">Choose a story, or set anything yourself.</p>'
        return f'<p class="specsim-note"><b>{told.name}.</b> {html.escape(told.story)}</p>'

    def _shows(self, told: Preset) -> bool:
        return self.shown is not None and self.scenario == told.scenario

    def _button(self, told: Preset) -> widgets.Button:
        made = widgets.Button(description=told.name, tooltip=told.story)
        made.add_class("specsim-preset")
        made.add_class(f"specsim-preset-{told.key}")
        made.on_click(self._tell(told))
        return made

    def _tell(self, told: Preset) -> Callable[[Any], None]:
        return lambda _: self.show(told.scenario)

    def _change_map(self, change: Any) -> None:
        self.map.over, self.map.detail = change["new"], DRAGGING
        self.redraw()


def _box(name: str, *children: widgets.Widget) -> widgets.Box:
    made = widgets.Box(list(children))
    made.add_class(name)
    return made

"""The explorer: every control, four panels, cards, presets, and what to take along."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from specsim.checks import SpecsimError
from specsim.explorer import copying
from specsim.explorer.board import STYLE_SHEET, Board
from specsim.explorer.cards import as_html, cards
from specsim.explorer.controls import SLIDERS
from specsim.explorer.measured import markers_in
from specsim.explorer.panels import Roofline, SpeedupMap, SpeedupVsGamma, Waterfall
from specsim.explorer.panels.speedup_map import DRAGGING
from specsim.explorer.presets import PRESETS, Preset
from specsim.explorer.presets import preset as preset_named
from specsim.explorer.sentences import about_temperature
from specsim.explorer.setting import Scenario, Setting, changed

CHOICES = (
    "target", "method", "draft", "accelerator", "engine", "precision", "tensor_parallel",
    "survival", "temperature", "price_per_hour",
)  # fmt: skip
# Beside the text, without a widget of its own: a button that copies what stands behind it.
COPY = (
    "navigator.clipboard.writeText(this.parentNode.querySelector('code').textContent)"
    ".then(()=>{this.textContent='copied'},()=>{this.textContent='select and copy'})"
)


class Explorer(Board):
    """Speculative decoding under your fingers: `Explorer()`, `Explorer(preset="moe")`,
    `Explorer(target="qwen3-8b", batch=8)`.

    Arguments: a `setting` or the name of a `preset` to start from, and `changes` to it by name;
    `measurements`, a folder whose measured points are marked and whose calibrations are offered as
    engines (None, or one that is not there, is no matter); `linked`, whether the address bar is
    this explorer's own. `show(setting)` sets everything at once.
    """

    def __init__(
        self,
        setting: Setting | None = None,
        *,
        preset: str | None = None,
        measurements: str | Path | None = "measurements",
        linked: bool = False,
        **changes: Any,
    ) -> None:
        start = changed(preset_named(preset).setting if preset else setting, **changes)
        self.linked = linked
        if linked:  # the page's own live region is around the sentence, and outlives it
            self.live = ""
        self.map = SpeedupMap()
        self.story, self.note, self.cards, self.copy = (widgets.HTML() for _ in range(4))
        self.over = widgets.ToggleButtons(
            options=[("batch × context", "context"), ("batch × γ", "gamma")],
            description="map over", style={"button_width": "auto"},
        )  # fmt: skip
        self.over.observe(self._change_map, names="value")
        self.presets = {each.key: self._button(each) for each in PRESETS}
        super().__init__(
            start,
            urgent=(Roofline(), SpeedupVsGamma(markers_in(measurements))),
            other=(self.map, Waterfall()),
            controls=(*SLIDERS, *CHOICES),
            folder=measurements,
        )

    def arrange(self) -> tuple[widgets.Widget, ...]:
        presets = _box("specsim-presets", *self.presets.values())
        head = widgets.HTML("<h1>Speculative decoding: how much faster?</h1>")
        sliders = _box("specsim-slide", *(self.controls[name] for name in SLIDERS))
        choices = _box("specsim-choose", *(self.controls[name] for name in CHOICES), self.note)
        pictures = _box("specsim-show", *self.images.values())
        say = _box("specsim-say", self.sentence, self.cards)
        left = _box("specsim-left", sliders, choices)
        take = _box("specsim-take", self.over, self.copy)
        right = _box("specsim-right", say, pictures, take)
        self.story.add_class("specsim-story")
        body = _box("specsim-body", left, right)
        style = widgets.HTML(f"<style>{STYLE_SHEET}</style>")
        return (style, head, presets, self.story, body)

    def redraw(self, freeze: bool = False) -> None:
        super().redraw(freeze)
        self.story.value = self._story()

    def tell(self, scenario: Scenario) -> None:
        self.cards.value = as_html(cards(scenario))
        words = about_temperature(scenario.setting, scenario.drafter)
        self.note.value = f'<p class="specsim-note">{html.escape(words)}</p>'

    def tell_at_rest(self, scenario: Scenario) -> None:
        self.copy.value = self._to_take_along(scenario)

    def refuse(self, problem: SpecsimError) -> None:
        super().refuse(problem)
        self.cards.value = self.copy.value = ""

    def _story(self) -> str:
        """What the preset is about, while its setting is shown."""
        told = next((p for p in PRESETS if self._shows(p)), None)
        if told is None:
            return '<p class="specsim-note">Choose a story, or set anything yourself.</p>'
        return f'<p class="specsim-note"><b>{told.name}.</b> {html.escape(told.story)}</p>'

    def _shows(self, told: Preset) -> bool:
        return self.scenario is not None and self.scenario.setting == told.setting

    def _button(self, told: Preset) -> widgets.Button:
        made = widgets.Button(description=told.name, tooltip=told.story)
        made.add_class("specsim-preset")
        made.add_class(f"specsim-preset-{told.key}")
        made.on_click(self._tell(told))
        return made

    def _tell(self, told: Preset) -> Callable[[Any], None]:
        return lambda _: self.show(told.setting)

    def _change_map(self, change: Any) -> None:
        self.map.over, self.map.detail = change["new"], DRAGGING
        self.redraw()

    def _to_take_along(self, scenario: Scenario) -> str:
        setting = scenario.setting
        query = html.escape(copying.as_query(setting))
        link = f'<p class="specsim-note">Link: <a href="?{query}">?{query}</a></p>'
        return (
            copiable("Python", copying.as_code(setting))
            + copiable("vLLM", copying.as_vllm(scenario))
            + (link if self.linked else "")
        )


def copiable(title: str, text: str) -> str:
    """Text with a button that copies it."""
    return (
        f'<div class="specsim-code"><button type="button" onclick="{html.escape(COPY)}">'
        f"copy as {title}</button><pre><code>{html.escape(text)}</code></pre></div>"
    )


def _box(name: str, *children: widgets.Widget) -> widgets.Box:
    made = widgets.Box(list(children))
    made.add_class(name)
    return made

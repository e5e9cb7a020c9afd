"""Models and accelerators by a few words, and a model of the reader's own by its config.json."""

import html
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.architecture import model
from specsim.checks import SpecsimError
from specsim.checks.extras import needed
from specsim.explorer.choices import fitted
from specsim.explorer.grouping import grouped, groups
from specsim.explorer.live_view import LiveView

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets

FOUND_IN = {"target": "models", "accelerator": "accelerators"}  # controls, and their tables
WHOSE = {"target": "models of", "accelerator": "machines of"}
_WIDE = {"description_width": "8.5em"}


@cache
def _text(table: str, name: str) -> str:
    """What a row is found by: its name, its aliases, its maker or family, its kind."""
    row = catalog.load(table)[name]
    said = [row.get(key, "") for key in ("name", "source", "family", "kind", "tokenizer")]
    return " ".join([name, *row.get("aliases", ()), *map(str, said)]).lower()


def find(table: str, asked: str) -> list[str]:
    """The rows whose text has every word of `asked`, in the catalog's order: makers and series stay
    together. All of them for no words."""
    words = asked.lower().split()
    return [name for name in catalog.load(table) if all(w in _text(table, name) for w in words)]


class Finder:
    """Fields above the choices: words and groups that shorten them, and a model's own config.json,
    as the name of a file or folder or as its text. `groups` are lists by the control that they
    shorten."""

    def __init__(self, view: LiveView) -> None:
        self.view = view
        self.words = self._field("find", "qwen 8b, h200, apple …", continuous_update=True)
        self.own = self._field("own model", "path or text of a config.json, GGUF")
        self.groups = {control: self._list(control) for control in FOUND_IN}
        self.said = widgets.HTML()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        for each in (self.words, *self.groups.values()):
            each.observe(self._shorten, names="value")
        self.own.observe(self._take, names="value")

    def _field(self, name: str, example: str, **how: Any) -> widgets.Text:
        made = widgets.Text(
            description=name, placeholder=example, style=_WIDE,
            **{"continuous_update": False} | how,
        )  # fmt: skip
        made.layout.width = "100%"
        made.add_class("specsim-control")
        made.add_class(f"specsim-{name.split()[0]}")
        return made

    def _list(self, control: str) -> widgets.Dropdown:
        known = groups(FOUND_IN[control])
        every = (f"all ({sum(map(len, known.values()))})", "")
        made = widgets.Dropdown(
            options=[every, *((f"{group} ({len(known[group])})", group) for group in known)],
            value="", description=WHOSE[control], style=_WIDE,
        )  # fmt: skip
        made.layout.width = "100%"
        made.add_class("specsim-control")
        made.add_class(f"specsim-{control}-group")
        return made

    def _shorten(self, _: Any) -> None:
        counts = []
        for control, table in FOUND_IN.items():
            found = find(table, self.words.value)
            if group := self.groups[control].value:
                found = [name for name in found if name in groups(table)[group]]
            counts.append(f"{len(found)} {table}")
            self._offer(control, grouped(table, found or None))
        asked = self.words.value.split() or any(each.value for each in self.groups.values())
        self._say(f"Found: {', '.join(counts)}." if asked else "")

    def _offer(self, control: str, names: list[str]) -> None:
        """Set the options of a control and keep its value, whatever it is."""
        made = self.view.controls[control]
        with self.view.quietly():
            value = made.value
            made.options = [(name, name) for name in (names if value in names else [value, *names])]
            made.value = value

    def _take(self, change: Any) -> None:
        if not (text := change["new"].strip()):
            return
        try:
            path = self._file_of(text)
            read = model(path)
            scenario, said = fitted(replace(self.view.scenario, target=path))
        except SpecsimError as problem:
            self._say(f"Not a model: {problem}.")
            return
        self.view.show(scenario)
        about = f"{read.name}: {read.parameters / 1e9:.2f} billion parameters."
        self._say(" ".join([about, *said]))

    def _file_of(self, text: str) -> str:
        if not text.startswith("{"):
            return str(Path(text).expanduser()) if text.startswith("~") else text
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="specsim-own-")
        path = Path(self._folder.name) / "own-model.json"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def _say(self, words: str) -> None:
        kind = "specsim-problem" if words.startswith("Not") else "specsim-note"
        self.said.value = f'<p role="status" class="{kind}">{html.escape(words)}</p>' * bool(words)

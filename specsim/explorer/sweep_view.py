"""A sweep as a widget: which axis to draw along, a curve for each value of which other, and the
rest at which values; below the picture, its table."""

from collections.abc import Mapping
from html import escape
from typing import Any, Protocol

from specsim.checks import Floats, SpecsimError
from specsim.checks.extras import needed

with needed("the view of a sweep", "notebooks"):
    import ipywidgets

    from specsim.explorer.static_view import VIEW, StaticView
    from specsim.figures import png

NONE = "(one curve)"
MOST_CURVES = 8  # that can be told apart


class Swept(Protocol):
    """What a view needs of a sweep (`sweeping.Sweep`, whose `view` makes one)."""

    @property
    def axes(self) -> Mapping[str, tuple[Any, ...]]: ...

    @property
    def values(self) -> Floats: ...

    @property
    def problems(self) -> Mapping[tuple[Any, ...], str]: ...

    @property
    def name(self) -> str: ...

    def rows(self) -> list[dict[str, Any]]: ...

    def selected(self, along: str, each: str | None = None, **fixed: Any) -> "Swept": ...

    def figure(self) -> Any: ...


class SweepView:
    """`box` is what a notebook shows. Moving a control draws again; nothing is computed anew."""

    def __init__(self, swept: Swept) -> None:
        self.swept = swept
        numeric = [
            name
            for name, values in swept.axes.items()
            if all(isinstance(value, int | float) for value in values)
        ]
        curves = [name for name, values in swept.axes.items() if len(values) <= MOST_CURVES]
        self.along = choice("along", numeric, numeric[0] if numeric else None)
        others = [name for name in curves if name != self.along.value]
        self.each = choice("a curve for each", [NONE, *curves], others[0] if others else NONE)
        self.fixed = {
            name: choice(name, list(values), values[0]) for name, values in swept.axes.items()
        }
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.said = ipywidgets.HTML()
        self.table = ipywidgets.HTML()
        folded = ipywidgets.Accordion([self.table], selected_index=None)
        folded.set_title(0, "numbers")
        controls = [self.along, self.each, *self.fixed.values()]
        for control in controls:
            control.observe(lambda _: self.draw(), "value")
        wide = ipywidgets.Layout(flex_flow="row wrap", max_width="40em")
        self.box = ipywidgets.VBox(
            [ipywidgets.Box(controls, layout=wide), self.said, self.image, folded]
        )
        self.draw()

    def draw(self) -> None:
        """The picture and the table of what is chosen; a sentence where it cannot be drawn."""
        along, each = self.along.value, self.each.value
        each = None if each in (NONE, along) else each
        for name, control in self.fixed.items():
            control.layout.display = "none" if name in (along, each) else ""
        if along is None:
            self._say("No axis of this sweep holds numbers; see its table.")
            self.image.layout.display = "none"
            self.table.value = as_table(self.swept)
            return
        fixed = {
            name: control.value for name, control in self.fixed.items() if name not in (along, each)
        }
        part = self.swept.selected(along, each, **fixed)
        self.table.value = as_table(part)
        missing = int((part.values != part.values).sum())
        self._say(f"{missing} of {part.values.size} cannot be computed{why(part)}." * bool(missing))
        try:
            self.image.value = png(part.figure())
        except SpecsimError as error:
            self._say(str(error))

    def _say(self, words: str) -> None:
        self.words = words
        self.said.value = escape(words)

    def bundle(self) -> dict[str, Any]:
        """The widget, and for pages without a kernel its picture and what it says."""
        along, each = self.along.value, self.each.value
        told = [] if along is None else [f"{self.swept.name} against {along}"]
        if told and each not in (NONE, along):
            told.append(f"a curve for each {each}")
        told += [f"{n} {c.value}" for n, c in self.fixed.items() if told and n not in (along, each)]
        words = " ".join(filter(None, [f"{', '.join(told)}." * bool(told), self.words]))
        pictures = [("Sweep", bytes(self.image.value))] if told and self.image.value else []
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return StaticView(words, pictures).bundle() | {VIEW: view}


def why(part: Swept) -> str:
    """The first problem of a part of a sweep, if there is one."""
    for place, problem in part.problems.items():
        at = ", ".join(f"{name} {value}" for name, value in zip(part.axes, place, strict=True))
        return f"; at {at}: {problem}"
    return ""


def choice(label: str, options: list[Any], value: Any) -> Any:
    """A list to choose from, with its label above it: it must fit on a phone."""
    return ipywidgets.Dropdown(
        options=[(str(option), option) for option in options],
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="auto", min_width="10em"),
    )


def as_table(part: Swept) -> str:
    """The rows of a sweep as an HTML table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in (*part.axes, part.name))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{value:.4g}</td>"
            if isinstance(value, float)
            else f"<td>{escape(str(value))}</td>"
            for value in row.values()
        )
        + "</tr>"
        for row in part.rows()
    )
    return f"<table><tr>{head}</tr>{body}</table>"

"""A question as a form in a notebook: a box to type into or options to pick, and the reply.

Without ipywidgets, and on a page without a kernel, the same form is text.
"""

from __future__ import annotations

import sys
from html import escape
from typing import Any

from specsim.checks import SpecsimError
from specsim.course.quiz.kinds import Answer, AnyQuestion, Choice


class Form:
    """What a notebook shows of a question. `box` is a widget, or None without ipywidgets."""

    def __init__(self, question: AnyQuestion) -> None:
        self.question = question
        self.box = _widgets(question)

    def __str__(self) -> str:
        return "\n".join((self.question.prompt, *self._options(), "", self._how()))

    __repr__ = __str__

    @property
    def markdown(self) -> str:
        options = "".join(f"- {line}\n" for line in self._options())
        return f"**Your turn.** {self.question.prompt}\n\n{options}\nAnswer with `{self._how()}`"

    def _ipython_display_(self) -> None:
        """Show the question as text (a page without a kernel shows it too), and the box below."""
        from IPython.display import display

        display({"text/plain": str(self), "text/markdown": self.markdown}, raw=True)
        if self.box is not None:
            display(self.box)

    def _options(self) -> list[str]:
        if not isinstance(self.question, Choice):
            return []
        return [f"{letter}) {option}" for letter, option in self.question.letters.items()]

    def _how(self) -> str:
        name = f'"{self.question.id}"' if self.question.id else _variable(self.question)
        value = '"a"' if isinstance(self.question, Choice) else "…"
        return f"quiz.check({name}, {value})"


def _variable(question: AnyQuestion) -> str:
    """The name of the notebook's variable that holds this question."""
    notebook = sys.modules.get("IPython")  # not imported: no notebook is running
    shell: Any = notebook.get_ipython() if notebook is not None else None
    known = shell.user_ns if shell is not None else {}
    names = (name for name, value in known.items() if value is question and name[0] != "_")
    return next(names, "question")


def _widgets(question: AnyQuestion) -> Any:
    """An input, a button and a place for the reply; None without ipywidgets."""
    try:
        import ipywidgets
    except ImportError:
        return None
    wide = ipywidgets.Layout(width="auto", max_width="46em")
    reply = ipywidgets.HTML("", layout=wide)
    button = ipywidgets.Button(description="Check", layout=ipywidgets.Layout(width="6em"))
    if isinstance(question, Choice):
        letters = [(f"{letter}) {option}", letter) for letter, option in question.letters.items()]
        control = ipywidgets.RadioButtons(options=letters, value=None, layout=wide)
        row = ipywidgets.VBox([control, button])
    else:
        hint = f"a number{' in ' + question.unit if question.unit else ''}"
        control = ipywidgets.Text(placeholder=hint, layout=ipywidgets.Layout(width="14em"))
        row = ipywidgets.HBox([control, button])

    def reply_to(_: Any) -> None:
        if control.value in (None, ""):
            reply.value = "Type a number or pick an option first."
            return
        try:
            reply.value = as_html(question.check(control.value))
        except SpecsimError as error:
            reply.value = escape(str(error))

    button.on_click(reply_to)
    return ipywidgets.VBox([row, reply], layout=wide)


def as_html(answer: Answer) -> str:
    """The reply as HTML: green if right, red if wrong, with the one-line answer if right."""
    colour, mark = ("#00704a", "✔") if answer else ("#9a3412", "✘")
    said = f"<br><b>In one line:</b> {escape(answer.one_line)}" if answer.one_line else ""
    return f'<span style="color:{colour}">{mark} {escape(answer.sentence)}</span>{said}'

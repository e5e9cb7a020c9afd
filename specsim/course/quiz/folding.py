"""A worked answer that a page shows folded, so that nobody reads it before answering."""

from dataclasses import dataclass

from specsim.checks import SpecsimError
from specsim.course.quiz.kinds import Answer, AnyQuestion


@dataclass(frozen=True, slots=True, repr=False)
class Folded:
    """Markdown under a line to click: `summary` is the line, `text` what it hides."""

    summary: str
    text: str

    def __repr__(self) -> str:
        """Short, because a notebook stores it beside the Markdown; `print` shows it all."""
        return f"<{self.summary}: print it to read it>"

    def __str__(self) -> str:
        return f"{self.summary}\n\n{self.text}"

    def _repr_markdown_(self) -> str:
        """HTML's own folding, which JupyterLab, code hosts and the site show without a script.

        `markdown="1"` asks the site's Markdown to go on inside; the others ignore it.
        """
        return (
            f'<details markdown="1">\n<summary>{self.summary}</summary>\n\n'
            f"{self.text}\n\n</details>"
        )


def folded_answer(question: AnyQuestion, answer: Answer, working: str) -> Folded:
    """The working, the reply and the answer in one line. Raises SpecsimError for a wrong answer."""
    if not answer:
        name = question.id or question.prompt
        raise SpecsimError(
            f"the worked answer of {name!r} is wrong: {answer.sentence} Correct the working, or "
            "the value given to quiz.folded"
        )
    said = [working, f"✔ {answer.sentence}"]
    if answer.one_line:
        said.append(f"**In one line:** {answer.one_line}")
    return Folded("Show the answer", "\n\n".join(said))

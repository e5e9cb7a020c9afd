"""Interview questions, each with a computed answer and the common mistakes, also computed.

    quiz.ask("tokens-per-cycle")            a form in a notebook, text anywhere else
    quiz.check("tokens-per-cycle", 3.2)     "Not quite: you get 3.2 if …"
    quiz.question("tokens-per-cycle")       the question: .expected, .worked(), .mistake_values()
    quiz.questions()                        all of them, in the order of an interview
    quiz.folded("tokens-per-cycle", 3.36, "1 + 0.8 + …")    a worked answer, folded
    quiz.Question(prompt, answer=…, tolerance=…, mistakes={…})      your own; also quiz.Choice

| read | for |
|---|---|
| `kinds` | the types: a question, a multiple-choice question, an answer |
| `form` | a question on a notebook's page |
| `folding` | a worked answer that the reader unfolds |
| `models` | the models and systems that the questions are about |
| `bandwidth` `batches` `tokens` `limits` `methods` `service` | thirty questions, by subject |
| `engines` `families` | ten more: serving engines, experts, few bits, hybrids, trees |
| `follow_ups` | questions that an interviewer asks after a right answer |
"""

import difflib
import re

from specsim.checks import SpecsimError
from specsim.course.quiz import (
    bandwidth,
    batches,
    engines,
    families,
    follow_ups,
    limits,
    methods,
    service,
    tokens,
)
from specsim.course.quiz.folding import Folded, folded_answer
from specsim.course.quiz.form import Form
from specsim.course.quiz.kinds import Answer, AnyQuestion, Choice, Question

_SECTIONS = (
    bandwidth, batches, tokens, limits, methods, service, engines, families, follow_ups,
)  # fmt: skip
_BY_ID = {each.id: each for section in _SECTIONS for each in section.QUESTIONS}

__all__ = [
    "Answer",
    "AnyQuestion",
    "Choice",
    "Folded",
    "Form",
    "Question",
    "ask",
    "check",
    "cited",
    "folded",
    "question",
    "questions",
]


def questions(follow_ups: bool = False) -> tuple[AnyQuestion, ...]:
    """The forty questions in their order, with `follow_ups` the follow-up questions after them."""
    last = _SECTIONS if follow_ups else _SECTIONS[:-1]
    return tuple(each for section in last for each in section.QUESTIONS)


def question(which: str | AnyQuestion) -> AnyQuestion:
    """The question with this id, or `which` itself if it is a question.

    Raises SpecsimError with the nearest ids if no question has this id.
    """
    if isinstance(which, Question | Choice):
        return which
    if which not in _BY_ID:
        close = difflib.get_close_matches(str(which), _BY_ID, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(close)}" if close else f"they are: {', '.join(_BY_ID)}"
        raise SpecsimError(f"no question is called {which!r}; {hint}")
    return _BY_ID[which]


def check(which: str | AnyQuestion, value: float | str) -> Answer:
    """Whether `value` answers the question, and if not, which common mistake gives it; see
    `Question.check`."""
    asked = question(which)
    return asked.check(value) if isinstance(asked, Question) else asked.check(str(value))


def ask(which: str | AnyQuestion) -> Form:
    """The question as a form: a widget in a notebook that has ipywidgets, text anywhere else."""
    return Form(question(which))


def folded(which: str | AnyQuestion, value: float | str, working: str) -> Folded:
    """The worked answer of a question, which a notebook shows folded: `working` in Markdown, the
    reply to `value`, and the answer in one line.

    Raises SpecsimError where `value` is not the answer: what a page works out must be right.
    """
    return folded_answer(question(which), check(which, value), working)


def cited() -> list[str]:
    """The sources of all questions, each once, in Markdown; a paper of arXiv is a link."""
    found = {source for each in questions(follow_ups=True) for source in each.sources}
    link = r"[arXiv:\1](https://arxiv.org/abs/\1)"
    return [re.sub(r"arXiv:(\d{4}\.\d{5})", link, source) for source in sorted(found)]

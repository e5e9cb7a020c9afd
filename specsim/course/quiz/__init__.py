"""Questions that an interview asks, each with an answer that is computed and the mistakes it knows.

    quiz.ask("tokens-per-cycle")            a form in a notebook, text anywhere else
    quiz.check("tokens-per-cycle", 3.2)     "Not quite: 3.2 is what you get when …"
    quiz.question("tokens-per-cycle")       itself: .expected, .worked(), .mistake_values(), .one_line
    quiz.questions()                        all of them, in the order of an interview
    quiz.Question(prompt, answer=…, tolerance=…, mistakes={…})      one of your own; quiz.Choice too

| read | for |
|---|---|
| `question` | what a question, a choice and an answer are |
| `form` | a question on a page |
| `shapes` | the models and machines that the questions are about |
| `bandwidth` `batches` `tokens` `limits` `methods` `service` | the thirty questions, by subject |
| `follow_ups` | what is asked next |
"""

import difflib

from specsim.checks import SpecsimError
from specsim.course.quiz import bandwidth, batches, follow_ups, limits, methods, service, tokens
from specsim.course.quiz.form import Form
from specsim.course.quiz.questions import Answer, AnyQuestion, Choice, Question

_SECTIONS = (bandwidth, batches, tokens, limits, methods, service, follow_ups)
_BY_ID = {each.id: each for section in _SECTIONS for each in section.QUESTIONS}

__all__ = [
    "Answer",
    "AnyQuestion",
    "Choice",
    "Form",
    "Question",
    "ask",
    "check",
    "question",
    "questions",
]


def questions(follow_ups: bool = False) -> tuple[AnyQuestion, ...]:
    """The thirty questions in their order; the follow-ups behind them, if asked for."""
    last = _SECTIONS if follow_ups else _SECTIONS[:-1]
    return tuple(each for section in last for each in section.QUESTIONS)


def question(which: str | AnyQuestion) -> AnyQuestion:
    """The question with this id, or the one given; SpecsimError with the nearest ids if none."""
    if isinstance(which, Question | Choice):
        return which
    if which not in _BY_ID:
        close = difflib.get_close_matches(str(which), _BY_ID, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(close)}" if close else f"they are: {', '.join(_BY_ID)}"
        raise SpecsimError(f"no question is called {which!r}; {hint}")
    return _BY_ID[which]


def check(which: str | AnyQuestion, value: float | str) -> Answer:
    """Whether `value` answers the question, or which mistake it looks like; see `Question.check`."""
    asked = question(which)
    return asked.check(value) if isinstance(asked, Question) else asked.check(str(value))


def ask(which: str | AnyQuestion) -> Form:
    """The question as a form: a widget in a notebook that has ipywidgets, text anywhere else."""
    return Form(question(which))

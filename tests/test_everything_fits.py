"""Every scenario that is shown fits the memory of its machine, or the place says where memory ends.

The quiz, the figures of the documentation, the explorer's presets, and the commands and examples of
the documentation are here; the notebooks are watched where they run, in `test_notebooks.py`.
"""

import contextlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from what_fits import Recorder

import specsim
from specsim import cli, cost, figures, planning
from specsim.course import quiz
from specsim.evidence.validation import cases as validation_cases
from specsim.evidence.validation.speedups import published_speedups
from specsim.figures import __main__ as documentation
from specsim.operators import Workload
from specsim.planning import memory, prefill, sweep

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?specsim +((?:predict|plan) .*)$", re.MULTILINE)
SAID = ("does not fit", "% of the memory", "memory holds")  # what a command prints about memory


LARGE, SMALL = specsim.model("llama-3-70b"), specsim.model("llama-3.1-8b")
ONE, FOUR = specsim.system("h100-sxm"), specsim.system("h100-sxm", tensor_parallel=4)
DRAFTER = specsim.DraftModel(specsim.model("llama-3.2-1b"))


def blocks(language: str) -> list[str]:
    """The fenced blocks of the documentation in that language ("" for shell)."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return [body for kind, body in FENCED.findall(text) if kind == language]


def commands() -> list[str]:
    return [command for block in blocks("") for command in COMMAND.findall(block)]


# --- what is shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("question", quiz.questions(follow_ups=True), ids=lambda q: q.id)
def test_a_question_of_the_quiz(question) -> None:
    with Recorder() as recorder:
        question.worked()
    assert recorder.misfits() == []


def test_the_figure_of_the_documentation() -> None:
    with Recorder() as recorder:
        documentation.where_it_pays()
    assert sum(recorder.priced.values()) > 1000
    assert recorder.misfits() == []


def test_the_presets_of_the_explorer() -> None:
    presets = pytest.importorskip("specsim.explorer.presets")
    scenarios = pytest.importorskip("specsim.explorer.scenarios")
    with Recorder() as recorder:
        for preset in presets.PRESETS:
            with recorder.at(preset.name):
                scenarios.predict_scenario(preset.scenario)
    assert len(recorder.priced) == len(presets.PRESETS)
    assert recorder.misfits() == []


@pytest.mark.parametrize("command", [c for c in commands() if "path/to" not in c])
def test_a_command_of_the_documentation(command: str, capsys) -> None:
    with Recorder() as recorder:
        assert cli.main(shlex.split(command, comments=True)) == 0
    assert recorder.priced
    printed = capsys.readouterr().out
    assert recorder.misfits() == [] or any(words in printed for words in SAID)


def test_the_examples_of_the_documentation() -> None:
    """Every Python block that calls `predict` and needs nothing but specsim. One that imports
    nothing goes on from the block before it."""
    examples = [block for block in blocks("python") if "specsim.predict(" in block]
    assert examples
    names: dict[str, object] = {}
    with Recorder() as recorder:
        for example in examples:
            names = {} if "import specsim" in example else names
            exec(compile(example, "docs", "exec"), names)
    assert recorder.priced
    assert recorder.misfits() == []


def test_the_batches_that_the_documentation_names() -> None:
    """docs/predicting.md: with so much context, a batch of so many fits."""
    text = (ROOT / "docs" / "predicting.md").read_text(encoding="utf-8").replace("\n", " ")
    said = re.findall(r"([\d,]+) tokens of context a batch of (\d+)", text)
    said = [(int(context.replace(",", "")), int(batch)) for context, batch in said]
    system, share = specsim.system("h200-sxm"), {"usable": memory.MEMORY_SHARE}
    assert said == [
        (n, memory.largest_batch(SMALL, system, drafter=DRAFTER, context=n, gamma=3, **share))
        for n in (2048, 32768)
    ]


def test_what_really_ran_is_hardly_ever_called_too_large() -> None:
    """Every published pass and speedup ran. 90 % of the memory were enough for all engines but
    llama.cpp; what it took beyond a datasheet's gigabytes is less than 2**30 bytes each."""
    verdicts: dict[str, list[str]] = {}
    for case in validation_cases.passes()[0]:
        machine = specsim.system(
            case.accelerator.name, precision=case.precision, tensor_parallel=case.tensor_parallel
        )
        context = (case.allocated_context or case.context) + case.rows * case.prompt
        held = memory.footprint(
            case.architecture, machine, batch=case.batch, context=context,
            usable=memory.MEMORY_SHARE * case.stages,
        )  # fmt: skip
        whole = replace(held, device_bytes=held.device_bytes and held.device_bytes * case.stages)
        if held.device_bytes is not None:
            verdicts.setdefault(whole.verdict, []).append(case.engine)
            assert held.total_bytes < 1.024**3 * whole.device_bytes
    for case in published_speedups()[0]:
        machine = specsim.system(
            case.accelerator, precision=case.precision, tensor_parallel=case.tensor_parallel
        )
        held = memory.footprint(
            case.target, machine, batch=case.batch, context=case.context, gamma=case.gamma,
            drafter=case.drafter, usable=memory.MEMORY_SHARE,
        )  # fmt: skip
        if held.device_bytes is not None:
            verdicts.setdefault(held.verdict, []).append(case.engine)
    fits = verdicts.pop("fits")
    assert {name: len(each) for name, each in verdicts.items()} == {
        "over 90 % of the memory": 8, "does not fit": 6
    }  # fmt: skip
    assert {engine for each in verdicts.values() for engine in each} == {"llama.cpp-2024"}
    said = (ROOT / "docs" / "predicting.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f"Of {len(fits) + 14} published runs whose card's memory is known, 8 were so" in said


# --- where memory ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0, 3, 8])
@pytest.mark.parametrize("context", [1, 512, 2048, 131_072])
@pytest.mark.parametrize(("target", "system"), [(SMALL, ONE), (LARGE, FOUR), (LARGE, ONE)])
def test_the_line_is_where_the_largest_batch_is(target, system, context: int, gamma: int) -> None:
    scenario = {"context": context, "gamma": gamma, "drafter": DRAFTER}
    most = float(memory.largest_batches(target, system, **scenario))
    assert max(int(np.floor(most)), 0) == memory.largest_batch(target, system, **scenario)
    assert np.isclose(memory.footprint(target, system, batch=most, **scenario).spare_bytes, 0, 1, 1)


def test_the_line_of_a_map_ends_where_the_memory_does() -> None:
    contexts = np.array([512.0, 8192.0, 131_072.0])
    found = sweep.speedup_map(
        SMALL, DRAFTER, ONE, x=("batch", [1.0, 32.0, 512.0]), y=("context", contexts), alpha=0.8
    )
    points = figures.where_memory_ends(found, SMALL, ONE, drafter=DRAFTER, gamma=3)
    share = {"usable": memory.MEMORY_SHARE}
    expected = [
        memory.largest_batch(SMALL, ONE, drafter=DRAFTER, context=n, gamma=3, **share)
        for n in contexts
    ]
    np.testing.assert_array_equal(np.floor(points[:, 0]), expected)
    np.testing.assert_array_equal(points[:, 1], contexts)
    few = sweep.speedup_map(
        SMALL, DRAFTER, ONE, x=("batch", [1.0, 2.0]), y=("context", [512.0, 1024.0]), alpha=0.8
    )
    assert figures.where_memory_ends(few, SMALL, ONE, drafter=DRAFTER, gamma=3) is None
    _, axes = figures.subplots()
    figures.speedup_map(axes, found, full=points)
    assert "the memory is full" in [text.get_text() for text in axes.texts]
    assert any(
        np.array_equal(line, points)
        for collection in axes.collections
        if hasattr(collection, "get_segments")
        for line in collection.get_segments()
    )


# --- the recorder can fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "price",
    [
        lambda: specsim.predict(LARGE, None, ONE),
        lambda: specsim.predict(SMALL, DRAFTER, ONE, gamma=4, alpha=0.8, batch=[1, 9999]),
        lambda: planning.plan(SMALL, DRAFTER, ONE, batches=(1, 9999), alpha=0.8),
        lambda: planning.best_gamma(LARGE, DRAFTER, ONE, alpha=0.8),
        lambda: sweep.speedups(SMALL, DRAFTER, ONE, gamma=1, alpha=0.8, batch=[9999]),
        lambda: cost.step_time(LARGE, ONE),
        lambda: cost.step_time(SMALL, ONE, Workload(batch=64, context=100_000)),
        lambda: prefill.time_to_first_token(LARGE, ONE, prompt=100),
    ],
)
def test_what_does_not_fit_is_found(price) -> None:
    with Recorder() as recorder:
        price()
    assert len(recorder.misfits()) == 1
    assert re.search(
        r"here: llama-3\S+ on 1 x h100-sxm in bf16, batch .* GB of 80", str(recorder.misfits())
    )


def test_what_fits_is_not() -> None:
    with Recorder() as recorder:
        specsim.predict(LARGE, DRAFTER, FOUR, gamma=4, alpha=0.8)
        cost.step_time(SMALL, ONE)
    assert sum(recorder.priced.values()) == 2
    assert recorder.misfits() == []


def test_a_statement_counts_for_its_place_its_model_and_its_machine() -> None:
    with Recorder() as recorder:
        with recorder.at("figure"):
            specsim.predict(SMALL, None, ONE, batch=9999)
            memory.largest_batches(SMALL, ONE)
        with recorder.at("other figure"):
            specsim.predict(SMALL, None, ONE, batch=9999)
        with recorder.at("other model"):
            specsim.predict(SMALL, None, ONE, batch=9999)
            memory.largest_batches(LARGE, ONE)
        with recorder.at("nothing short"):
            specsim.predict(SMALL, None, ONE, batch=9999)
            memory.shortage(memory.footprint(SMALL, ONE), SMALL, ONE)
        with recorder.at("what is short"):
            specsim.predict(SMALL, None, ONE, batch=9999)
            held = memory.footprint(SMALL, ONE, batch=9999)
            memory.shortage(held, SMALL, ONE, batch=9999)
    found = [sentence.split(":")[0] for sentence in recorder.misfits()]
    assert found == ["other figure", "other model", "nothing short"]


def test_the_names_are_put_back() -> None:
    before = specsim.predict
    with contextlib.suppress(ZeroDivisionError), Recorder():
        assert specsim.predict is not before
        raise ZeroDivisionError
    assert specsim.predict is planning.gammas.predict is before

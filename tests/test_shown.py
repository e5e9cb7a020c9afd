"""What people print in a notebook: one line of text, a small table of HTML, names of arrays."""

import inspect
from pathlib import Path
from xml.etree import ElementTree

import pytest

import specsim
from specsim import planning, serving
from specsim.checks.shown import MOST_ROWS, Shown, html_table, short
from specsim.evidence import calibration
from specsim.evidence.measurement import Measurement
from specsim.evidence.served import ServedRun
from specsim.planning.economics import token_cost
from specsim.planning.memory import footprint
from specsim.planning.ranking import Candidate, rank

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "measurements" / "cpu-2core"
TARGET, DRAFT = specsim.model("llama-3.1-8b"), specsim.DraftModel(specsim.model("llama-3.2-1b"))
SYSTEM = specsim.system("h100-sxm")
MANY = specsim.predict(TARGET, DRAFT, SYSTEM, gamma=range(9), alpha=0.8)
ONE = specsim.predict(TARGET, DRAFT, SYSTEM, gamma=4, alpha=0.8)


def results() -> list[object]:
    served = serving.simulate(
        serving.Server(target=TARGET, system=SYSTEM, drafter=None),
        serving.traffic(rate=5, requests=5, prompt=serving.lengths_of("--prompt", "30"),
                        output=serving.lengths_of("--output", "5")),
        policy="off",
    )  # fmt: skip
    return [
        MANY, ONE, ONE.step, ONE.plain, ONE.drafting, ONE.plain.work, ONE.request(64),
        TARGET, SYSTEM, SYSTEM.accelerator, SYSTEM.engine,
        planning.plan(TARGET, DRAFT, SYSTEM, alpha=0.8, batches=(1, 8)),
        footprint(TARGET, SYSTEM), footprint(TARGET, SYSTEM, batch=[1, 2]),
        token_cost(ONE), token_cost(ONE, price_per_hour=3.0),
        *rank(TARGET, SYSTEM, [Candidate()]), served,
        Measurement.read(MEASURED / "plain.json"), calibration.load(MEASURED / "calibration.json"),
    ]  # fmt: skip


@pytest.mark.parametrize("result", results(), ids=lambda each: type(each).__name__)
def test_a_result_is_one_short_line_and_a_table(result: object) -> None:
    line = repr(result)
    assert line.startswith(type(result).__name__)
    assert "\n" not in line
    assert len(line) < 300
    assert " object at 0x" not in line
    page = ElementTree.fromstring(f"<div>{result._repr_html_()}</div>")  # type: ignore[attr-defined]
    assert page.find("table") is not None


def test_results_of_the_decoder() -> None:
    pytest.importorskip("torch")
    from reference.decoding import Generation
    from reference.statistics import Statistics

    statistics = Statistics(4)
    for result in (statistics, Generation([1, 2], statistics)):
        assert len(repr(result)) < 300
        assert "\n" not in repr(result)
        ElementTree.fromstring(f"<div>{result._repr_html_()}</div>")


def test_every_type_that_shows_itself_has_facts() -> None:
    assert ServedRun in Shown.__subclasses__()
    for kind in Shown.__subclasses__():
        assert kind._facts is not Shown._facts, kind
        assert "__repr__" not in vars(kind), kind


def test_a_prediction_shows_its_numbers() -> None:
    page = ElementTree.fromstring(f"<div>{MANY._repr_html_()}</div>")
    rows = page.findall("table/tr")
    assert len(rows) == 1 + 9
    titles = [cell.text for cell in rows[0]]
    cells = [cell.text for cell in rows[1 + 4]]
    shown = dict(zip(titles, cells, strict=True))
    assert shown["gamma"] == "4"
    assert float(shown["speedup"] or 0) == pytest.approx(float(ONE.speedup), rel=1e-3)
    assert float(shown["plain step, ms"] or 0) == pytest.approx(float(ONE.step_s) * 1e3, rel=1e-3)


def test_a_long_table_is_cut_and_markup_is_escaped() -> None:
    page = html_table({"a<b": list(range(100))})
    assert "a&lt;b" in page
    assert page.count("<tr>") == 1 + MOST_ROWS + 1
    assert f"{100 - MOST_ROWS} more" in page
    assert [short(value) for value in ([], None, [1, 2.5], 7, "x")] == [
        "none", "None", "1 … 2.5", "7", "x",
    ]  # fmt: skip


def test_array_arguments_have_one_name_in_signatures() -> None:
    for function in (specsim.predict, planning.plan, planning.best_gamma):
        shown = str(inspect.signature(function))
        assert "Union" not in shown
        assert len(shown) < 1100
    given = inspect.signature(specsim.predict).parameters
    assert str(given["batch"]) == "batch: specsim.checks.ArrayLike = 1"
    assert str(given["alpha"]) == "alpha: specsim.checks.ArrayLike | None = None"

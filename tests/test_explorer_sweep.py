"""Sweeps of any function: its own arguments, the table, the DataFrame, progress, the widget."""

import sys
from types import ModuleType

import numpy as np
import pytest

from specsim import explorer
from specsim.checks import SpecsimError
from specsim.explorer.static_view import VIEW

pytest.importorskip("ipywidgets")


def power(base, exponent, unit="s"):
    if base == 3 and exponent == 2:
        raise SpecsimError("three squared is not for sale")
    return base**exponent / (1000 if unit == "ms" else 1)


AXES = {"base": np.array([1, 2, 3]), "exponent": [1, 2], "unit": ["s", "ms"]}


@pytest.fixture(scope="module")
def swept():
    return explorer.sweep(power, AXES, name="power (J)")


def test_a_function_of_its_own_arguments(swept) -> None:
    assert swept.values.shape == (3, 2, 2)
    assert swept.values[1].tolist() == [[2.0, 0.002], [4.0, 0.004]]
    assert np.isnan(swept.values[2, 1, 0])
    assert swept.problems[(3, 2, "s")] == "three squared is not for sale"
    assert explorer.sweep(power, {"base": [2], "exponent": [2]}).name == "power"
    assert explorer.sweep(lambda **any_of: 1.0, {"whatever": [1]}).name == "value"


def test_progress_is_told_every_value() -> None:
    told = []
    explorer.sweep(lambda x: x, {"x": [1, 2, 3]}, progress=lambda *both: told.append(both))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_part_has_the_values_of_the_whole(swept) -> None:
    part = swept.selected("exponent", "base", unit="ms")
    assert list(part.axes) == ["exponent", "base"]
    np.testing.assert_array_equal(part.values, swept.values[:, :, 1].T)
    assert swept.selected("base").values.tolist() == swept.values[:, 0, 0].tolist()
    assert part.problems == {(2, 3): "three squared is not for sale"}
    assert swept.selected("base", exponent=1).problems == {}
    (panel,) = part.figure().axes
    assert panel.get_ylabel() == "power (J)"
    assert {line.get_label() for line in panel.lines} == {"base 1", "base 2", "base 3"}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda s: s.selected("bse"), "no axis is called 'bse'; there are: base"),
        (lambda s: s.selected("base", "base"), "the same axis"),
        (lambda s: s.selected("base", base=2), "along and fixed"),
        (lambda s: s.selected("base", unit="us"), "unit has no value 'us'"),
        (lambda s: explorer.sweep(power, {"base": [1], "exponnt": [1]}), "no such argument"),
        (lambda s: explorer.sweep(power, {"base": [], "exponent": [1]}), "base has no values"),
        (lambda s: explorer.sweep(power, AXES, alpha=0.7), "no scenario to change; give alpha"),
    ],
)
def test_wrong_axes_are_named(swept, bad, says) -> None:
    with pytest.raises(SpecsimError, match=says):
        bad(swept)


def test_a_mistake_in_the_function_ends_the_sweep() -> None:
    with pytest.raises(ZeroDivisionError):
        explorer.sweep(lambda x: 1 / x, {"x": [1, 0]})
    with pytest.raises(TypeError, match="must return one number, got 'None'"):
        explorer.sweep(lambda x: None, {"x": [1]})


def test_the_frame_is_the_rows(swept, monkeypatch) -> None:
    """pandas need not be installed: what it is given are the rows."""
    stand_in = ModuleType("pandas")
    stand_in.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    assert len(swept.frame()) == 12
    assert swept.frame()[0] == {"base": 1, "exponent": 1, "unit": "s", "value": 1.0}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SpecsimError, match="pip install pandas"):
        swept.frame()


def test_a_long_table_is_cut(swept) -> None:
    text = swept._repr_markdown_()
    assert text.startswith("| base | exponent | unit | power (J) |\n|---|---|---|---|\n")
    assert len(text.splitlines()) == 14
    many = explorer.sweep(lambda x: x, {"x": range(100)})._repr_markdown_()
    assert "| 88 more rows |" in many
    assert many.splitlines()[-1] == "| 99 | 99 |"


def test_the_view_draws_what_is_chosen(swept) -> None:
    view = swept.view()
    assert view.along.value == "base"
    assert view.each.value == "exponent"
    assert "1 of 6 cannot be computed" in view.said.value
    before = bytes(view.image.value)
    assert before.startswith(b"\x89PNG")
    view.fixed["unit"].value = "ms"
    assert bytes(view.image.value) != before
    assert "<td>0.004</td>" in view.table.value
    assert view.fixed["unit"].layout.display == ""
    assert view.fixed["base"].layout.display == "none"
    view.along.value = "exponent"  # the same as the curves: one curve, the base is chosen
    assert view.fixed["base"].layout.display == ""
    only_words = explorer.sweep(lambda unit: 1.0, {"unit": ["s", "ms"]}).view()
    assert "No axis of this sweep holds numbers" in only_words.said.value


def test_a_notebook_shows_the_table_and_the_widget(swept, monkeypatch) -> None:
    shown = []
    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr(display, "display", lambda what, raw=False: shown.append(what))
    swept._ipython_display_()
    table, box = shown
    assert table["text/markdown"] == swept._repr_markdown_()
    assert {"image/png", "text/html", VIEW} <= box.keys()  # a picture where no kernel runs
    said = "1 of 6 cannot be computed; at base 3, exponent 2: three squared is not for sale."
    told = f"power (J) against base, a curve for each exponent, unit s. {said}"
    assert f"<p>{told}</p>" in box["text/html"]
    assert f'<img alt="Sweep. {told}"' in box["text/html"]
    shown.clear()
    explorer.sweep(lambda unit: 1.0, {"unit": ["s", "ms"]})._ipython_display_()
    assert "image/png" not in shown[1]
    assert "No axis of this sweep holds numbers" in shown[1]["text/html"]

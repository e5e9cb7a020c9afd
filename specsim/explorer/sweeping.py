"""Any function, of a scenario or of its own arguments, along one axis or over several: numbers, a
picture, a table, and in a notebook a widget with a bar while it computes."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from specsim.checks import Floats, SpecsimError
from specsim.explorer.scenarios import (
    NAMES,
    ExplorerScenario,
    changed,
    predict_scenario,
)
from specsim.scenario.sweeping import SweepPoint, SweepProgress, run_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # rows of a table in a notebook
KIND = "explorer"  # of its points: their settings are an ExplorerScenario's, or a function's own
Function = Callable[..., float]
Report = Callable[[int, int], None]  # how many values are computed, of how many


@dataclass(frozen=True, slots=True)
class Sweep:
    """A function's values over the outer product of its axes.

    The shape of `values` is the lengths of the axes, in their order. Where nothing can be predicted
    it holds NaN, and `problems` says why, by the values of the axes.
    """

    axes: Mapping[str, tuple[Any, ...]]
    values: Floats
    problems: Mapping[tuple[Any, ...], str] = field(repr=False)
    name: str = "value"

    def rows(self) -> list[dict[str, Any]]:
        """Plain data, a row per scenario."""
        names = list(self.axes)
        places = product(*self.axes.values())
        return [
            dict(zip(names, place, strict=True)) | {"value": float(value)}
            for place, value in zip(places, self.values.flat, strict=True)
        ]

    def frame(self) -> Any:
        """The rows as a pandas DataFrame. Raises SpecsimError where pandas is not installed."""
        try:
            import pandas
        except ModuleNotFoundError:
            raise SpecsimError(
                "a DataFrame needs pandas: pip install pandas (or use rows(), plain Python)"
            ) from None
        return pandas.DataFrame(self.rows())

    def selected(self, along: str, each: str | None = None, **fixed: Any) -> "Sweep":
        """The part over `along`, and `each` for a curve per value; the other axes are at `fixed`,
        or at their first value. Raises SpecsimError for what is no axis or none of its values."""
        wanted = [along] if each is None else [along, each]
        for name in (*wanted, *fixed):
            if name not in self.axes:
                raise SpecsimError(f"no axis is called {name!r}; there are: {', '.join(self.axes)}")
        if along == each:
            raise SpecsimError(f"along and each are the same axis, {along!r}")
        if both := [name for name in wanted if name in fixed]:
            raise SpecsimError(f"{both[0]!r} cannot be drawn along and fixed too")
        at: list[Any] = []
        for name, values in self.axes.items():
            if name in wanted:
                at.append(slice(None))
                continue
            value = fixed.get(name, values[0])
            if value not in values:
                raise SpecsimError(f"{name} has no value {value!r}; it has: {values}")
            at.append(values.index(value))
        part = self.values[tuple(at)]
        order = [name for name in self.axes if name in wanted]
        if order != wanted:
            part = part.T
        names = list(self.axes)
        held = {n: self.axes[n][i] for n, i in zip(names, at, strict=True) if n not in wanted}
        problems = {}
        for place, problem in self.problems.items():
            setting = dict(zip(names, place, strict=True))
            if all(setting[name] == value for name, value in held.items()):
                problems[tuple(setting[name] for name in wanted)] = problem
        return Sweep({name: self.axes[name] for name in wanted}, part, problems, self.name)

    def view(self) -> Any:
        """A widget: the picture, a choice of axes, a choice of values for the others, the table.

        Raises SpecsimError without the extra `notebooks`.
        """
        from specsim.checks.extras import needed

        with needed("the view of a sweep", "notebooks"):
            from specsim.explorer.sweep_view import SweepView

            return SweepView(self)

    def _repr_markdown_(self) -> str:
        """The rows as a table; of many, the first and the last ones."""
        rows, names = self.rows(), [*self.axes, self.name]
        lines = [
            "| " + " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value)
                              for value in row.values()) + " |"
            for row in rows
        ]  # fmt: skip
        if len(lines) > SHOWN:
            left = f"| {len(lines) - SHOWN} more rows" + " |" * len(names)
            lines = [*lines[: SHOWN // 2], left, *lines[-SHOWN // 2 :]]
        head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
        return head + "\n".join(lines)

    def _ipython_display_(self) -> None:
        """A notebook shows the table, and below it the widget; a page without a kernel shows the
        table and the widget's first picture."""
        from IPython.display import display

        display({"text/plain": repr(self), "text/markdown": self._repr_markdown_()}, raw=True)
        try:
            view = self.view()
        except SpecsimError:
            return  # without ipywidgets or matplotlib the table is what there is
        display(view.bundle(), raw=True)

    def figure(self, name: str | None = None, *, unit_line: bool = False) -> "Figure":
        """A curve along the first axis for every value of the second, if there is one.

        `name` says what the values are, with their unit; `unit_line` draws a line at 1, which is
        plain decoding. Needs matplotlib. Raises SpecsimError for more than two axes, and for a
        first axis that does not hold numbers.
        """
        from specsim.figures import Curve, curves, subplots

        name = name or self.name
        along, *others = self.axes
        x = self.axes[along]
        if len(others) > 1 or not all(isinstance(value, int | float) for value in x):
            raise SpecsimError(
                "a figure needs numbers along the first axis, and at most one other axis; "
                f"this sweep is over {', '.join(self.axes)}"
            )
        lines = [Curve(name, x, self.values)]
        if others:
            labels = [f"{others[0]} {value}" for value in self.axes[others[0]]]
            columns = zip(labels, self.values.T, strict=True)
            lines = [Curve(label, x, values) for label, values in columns]
        drawn, axes = subplots()
        doubling = min(x) > 0 and max(x) >= 8 * min(x)
        curves(axes, lines, along.replace("_", " "), name, doubling=doubling, unit_line=unit_line)
        return drawn


def sweep(
    function: Function,
    axes: Mapping[str, Sequence[Any]],
    scenario: ExplorerScenario | None = None,
    *,
    executor: Executor | None = None,
    name: str | None = None,
    progress: Report | None = None,
    **changes: Any,
) -> Sweep:
    """`function` of the scenario, or of its own arguments, at every combination of values.

        sweep(lambda s: s.speedup, {"accelerator": ["a100-sxm-80gb", "b200"], "batch": [1, 8, 64]})
        sweep(lambda alpha, cost: 1 / (1 - alpha) / (1 + cost), {"alpha": [0.6, 0.8], "cost": [0]})

    A function that has the axes as its arguments is called with them, whatever their names. Any
    other is called with the scenario. `name` says what the values are, with their unit (the
    function's own name); `progress` is told how many are done of how many (in a notebook with
    ipywidgets a bar is shown where it is not given).

    Axes of a scenario have the names of an `ExplorerScenario`; every other value is that of
    `scenario` with its `changes`. They are computed one by one by `scenario.sweeping.run_sweep`,
    here or by the threads or the Dask workers of `executor`. Where only batch, context, gamma or
    alpha vary and the function is the speedup, `specsim.planning.sweep` does the same a thousand
    times faster. Raises SpecsimError for an unknown axis, and what the function raises.
    """
    own = has_arguments(function, axes)
    if own and (scenario is not None or changes):
        raise SpecsimError(
            f"the function takes {', '.join(axes)} itself, so there is no scenario to change; give "
            f"{next(iter(changes), 'scenario')} as an axis with one value, or leave it out"
        )
    start = changed(scenario, **changes)
    unknown = [axis for axis in axes if axis not in NAMES]
    if not axes or (unknown and not own):
        said = f"no setting is called {unknown[0]!r}" if unknown else "a sweep needs an axis"
        takes = "" if not axes else ", and the function has no such argument"
        raise SpecsimError(f"{said}{takes}; there are: {', '.join(NAMES)}")
    along = {axis: tuple(map(plain, values)) for axis, values in axes.items()}
    if empty := [axis for axis, values in along.items() if not values]:
        raise SpecsimError(f"the axis {empty[0]} has no values")
    places = list(product(*along.values()))
    points = [SweepPoint(KIND, dict(zip(along, place, strict=True))) for place in places]
    failed: list[Exception] = []

    def compute(point: SweepPoint) -> dict[str, Any]:
        try:
            if own:
                return {"value": number(function(**point.settings))}
            return {"value": number(function(predict_scenario(changed(start, **point.settings))))}
        except SpecsimError:
            raise  # no scenario: recorded, and the others go on
        except Exception as error:
            failed.append(error)
            raise

    report = progress or shown_bar()

    def watch(done: SweepProgress, *_: Any) -> None:
        if failed:  # a mistake in the function: nobody looks for it among NaN
            raise failed[0]
        if report is not None:
            report(done.computed, done.total)

    done = run_sweep(points, executor, compute=compute, watch=watch)
    values, problems = [], {}
    for place, (_, outcome) in zip(places, done.rows(), strict=True):
        assert outcome is not None
        values.append(float(outcome["result"]["value"]) if "result" in outcome else np.nan)
        if "error" in outcome:
            problems[place] = outcome["error"]
    shape = tuple(len(each) for each in along.values())
    called = name or str(getattr(function, "__name__", "<lambda>"))
    called = "value" if called == "<lambda>" else called.replace("_", " ")
    return Sweep(along, np.array(values, dtype=float).reshape(shape), problems, called)


def has_arguments(function: Function, names: Mapping[str, Any]) -> bool:
    """Whether `function` takes all these names as keyword arguments."""
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return bool(names)


def number(returned: Any) -> float:
    """What a function returned, as one number. Raises TypeError, in a sentence, for anything else:
    that is a mistake in the function, which ends the sweep."""
    try:
        return float(returned)
    except (TypeError, ValueError):
        raise TypeError(
            f"the function of a sweep must return one number, got {str(returned)[:80]!r}"
        ) from None


def plain(value: Any) -> Any:
    """A NumPy scalar as a number of Python."""
    return value.item() if isinstance(value, np.generic) else value


def shown_bar() -> Report | None:
    """A progress bar in a notebook that has ipywidgets, which goes when all is done; else None."""
    ipython = sys.modules.get("IPython")  # not imported: no notebook is running
    shell = ipython.get_ipython() if ipython is not None else None
    if not hasattr(shell, "kernel"):
        return None
    try:
        import ipywidgets
    except ModuleNotFoundError:
        return None
    bar = ipywidgets.IntProgress(description="sweep", max=1)
    ipython.display.display(bar)  # type: ignore[union-attr]

    def report(done: int, total: int) -> None:
        bar.max, bar.value = total, done
        bar.description = f"{done} of {total}"
        if done == total:
            bar.close()

    return report

"""Any function of a scenario, along one axis or over several."""

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
    PredictedScenario,
    changed,
    predict_scenario,
)
from specsim.scenario.sweeping import SweepPoint, run_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "explorer"  # of its points: their settings are an ExplorerScenario's
Function = Callable[[PredictedScenario], float]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A function's values over the outer product of its axes.

    The shape of `values` is the lengths of the axes, in their order. Where nothing can be predicted
    it holds NaN, and `problems` says why, by the values of the axes.
    """

    axes: Mapping[str, tuple[Any, ...]]
    values: Floats
    problems: Mapping[tuple[Any, ...], str] = field(repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """Plain data, a row per scenario."""
        names = list(self.axes)
        places = product(*self.axes.values())
        return [
            dict(zip(names, place, strict=True)) | {"value": float(value)}
            for place, value in zip(places, self.values.flat, strict=True)
        ]

    def figure(self, name: str = "value", *, unit_line: bool = False) -> "Figure":
        """A curve along the first axis for every value of the second, if there is one.

        `name` says what the values are, with their unit; `unit_line` draws a line at 1, which is
        plain decoding. Needs matplotlib. Raises SpecsimError for more than two axes, and for a
        first axis that does not hold numbers.
        """
        from specsim.figures import Curve, curves, subplots

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
    **changes: Any,
) -> Sweep:
    """`function` of the scenario at every combination of the axes' values.

        sweep(lambda s: s.speedup, {"accelerator": ["a100-sxm-80gb", "b200"], "batch": [1, 8, 64]})

    Axes have the names of an `ExplorerScenario`; every other value is that of `scenario` with its
    `changes`. They are computed one by one by `scenario.sweeping.run_sweep`, here or by the threads
    or the Dask workers of `executor`. Where only batch, context, gamma or alpha vary and the
    function is the speedup, `specsim.planning.sweep` does the same a thousand times faster. Raises
    SpecsimError for an unknown axis, and what the function raises.
    """
    start = changed(scenario, **changes)
    unknown = [name for name in axes if name not in NAMES]
    if unknown or not axes:
        said = f"no setting is called {unknown[0]!r}" if unknown else "a sweep needs an axis"
        raise SpecsimError(f"{said}; there are: {', '.join(NAMES)}")
    along = {name: tuple(values) for name, values in axes.items()}
    places = list(product(*along.values()))
    points = [SweepPoint(KIND, dict(zip(along, place, strict=True))) for place in places]
    failed: list[Exception] = []

    def compute(point: SweepPoint) -> dict[str, Any]:
        try:
            return {"value": float(function(predict_scenario(changed(start, **point.settings))))}
        except SpecsimError:
            raise  # no scenario: recorded, and the others go on
        except Exception as error:
            failed.append(error)
            raise

    def watch(*_: Any) -> None:
        if failed:  # a mistake in the function: nobody looks for it among NaN
            raise failed[0]

    done = run_sweep(points, executor, compute=compute, watch=watch)
    values, problems = [], {}
    for place, (_, outcome) in zip(places, done.rows(), strict=True):
        assert outcome is not None
        values.append(float(outcome["result"]["value"]) if "result" in outcome else np.nan)
        if "error" in outcome:
            problems[place] = outcome["error"]
    shape = tuple(len(each) for each in along.values())
    return Sweep(along, np.array(values, dtype=float).reshape(shape), problems)

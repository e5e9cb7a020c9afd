"""Any function of a scenario, along one setting or over two."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.catalog import SpecsimError
from specsim.explorer.setting import NAMES, Scenario, Setting, changed, scenario_of

Function = Callable[[Scenario], float]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A function's values over the outer product of its axes.

    `values` is shaped as the axes are long, in their order; where a combination names no scenario
    it holds NaN, and `problems` says why, by the values of the axes.
    """

    axes: Mapping[str, tuple[Any, ...]]
    values: NDArray[np.float64]
    problems: Mapping[tuple[Any, ...], str] = field(repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """Plain data, a row per scenario."""
        names = list(self.axes)
        places = product(*self.axes.values())
        return [
            dict(zip(names, place, strict=True)) | {"value": float(value)}
            for place, value in zip(places, self.values.flat, strict=True)
        ]


def sweep(
    function: Function,
    axes: Mapping[str, Sequence[Any]],
    setting: Setting | None = None,
    **changes: Any,
) -> Sweep:
    """`function` of the scenario at every combination of the axes' values.

        sweep(lambda s: s.speedup, {"accelerator": ["a100-sxm-80gb", "b200"], "batch": [1, 8, 64]})

    Axes are named as the fields of `Setting`, and every other value is that of `setting` with its
    `changes`. Where nothing but batch, context, gamma or alpha varies and the function is the
    speedup, `specsim.sweep` does the same a thousand times faster. Raises SpecsimError for an axis
    that is no setting.
    """
    start = changed(setting, **changes)
    unknown = [name for name in axes if name not in NAMES]
    if unknown or not axes:
        said = f"no setting is called {unknown[0]!r}" if unknown else "a sweep needs an axis"
        raise SpecsimError(f"{said}; there are: {', '.join(NAMES)}")
    along = {name: tuple(values) for name, values in axes.items()}
    values, problems = [], {}
    for place in product(*along.values()):
        here = changed(start, **dict(zip(along, place, strict=True)))
        try:
            values.append(float(function(scenario_of(here))))
        except SpecsimError as problem:
            values.append(np.nan)
            problems[place] = str(problem)
    shape = tuple(len(each) for each in along.values())
    return Sweep(along, np.array(values, dtype=float).reshape(shape), problems)

"""Records every scenario that the cost model is asked for, and says which of them fit no memory.

A scenario is a target, a drafter and a system with a batch, a context and a gamma. `Recorder`
replaces `predict` and `step_time` wherever `specsim` uses them, so it sees what a plan, a sweep, a
figure, a question or a notebook prices. A scenario that does not fit is a misfit, unless the same
place (a cell, a question, a command) says so: it draws where the memory ends (`largest_batches`) or
prints what is short (`shortage`).
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np

import specsim
from specsim.cost import placement
from specsim.planning import memory
from specsim.speculation import predict

OWN = ("specsim", "reference")  # the packages whose names are replaced
# what is priced there is no scenario that somebody asks about: the passes of a cycle, which
# `predict` adds up; all batches that a simulated server could have, of which it runs those that fit
ALONE = ("specsim.cost.passes", "specsim.serving.surface", "specsim.serving.policies")


@dataclass(frozen=True)
class Scenario:
    """The model and the machine of a priced scenario: what a statement about memory is about."""

    target: str
    system: str
    precision: str
    devices: int


class Recorder:
    """Use it as a context manager, or call `start` and `stop`. `place` names where things happen;
    in a kernel it is the number of the cell."""

    def __init__(self) -> None:
        self.place = "here"
        self.priced: dict[str, int] = defaultdict(int)  # scenarios, by place
        self._misfits: dict[tuple[str, Scenario], str] = {}
        self._stated: set[tuple[str, Scenario]] = set()
        self._replaced: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Recorder":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        for name in specsim.__all__:  # made when they are first asked for, so ask before
            getattr(specsim, name)
        for name in ALONE:  # before their names are replaced where they are imported from
            import_module(name)
        self._replace(predict, self._watched_predict)
        self._replace(placement.step_time, self._watched_step)
        self._replace(memory.largest_batches, self._watched_statement)
        self._replace(memory.shortage, self._watched_shortage)

    def stop(self) -> None:
        for module, name, original in self._replaced:
            setattr(module, name, original)
        self._replaced.clear()

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Names the place of what happens inside."""
        before, self.place = self.place, place
        try:
            yield
        finally:
            self.place = before

    def misfits(self) -> list[str]:
        """A sentence for every place that prices what does not fit, and does not say so."""
        return [text for key, text in self._misfits.items() if key not in self._stated]

    def where(self) -> str:
        """The number of the cell in a kernel, or `place`."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        return f"cell {shell.execution_count}" if shell else self.place

    def note(self, target: Any, drafter: Any, system: Any, **numbers: Any) -> None:
        """Record the scenarios of one call; the numbers broadcast."""
        where = self.where()
        held = memory.footprint(target, system, drafter=drafter, **numbers)
        self.priced[where] += int(np.size(held.total_bytes))
        if np.all(held.fits):
            return
        names = list(numbers)
        spare, *values = np.broadcast_arrays(
            held.spare_bytes, *(np.asarray(numbers[name], float) for name in names)
        )
        worst = int(spare.argmin())
        at = ", ".join(
            f"{name} {value.flat[worst]:g}" for name, value in zip(names, values, strict=True)
        )
        what = named(target, system)
        assert held.capacity_bytes is not None
        needed = (held.capacity_bytes - spare.flat[worst]) / 1e9
        self._misfits.setdefault(
            (where, what),
            f"{where}: {target.name} on {what.devices} x {what.system} in {what.precision}, {at}: "
            f"{needed:.0f} GB of {held.capacity_bytes / 1e9:.0f} on each device",
        )

    def _replace(self, original: Any, make: Callable[[Any], Any]) -> None:
        replacement = wraps(original)(make(original))
        for name, module in list(sys.modules.items()):
            if module is None or name.split(".")[0] not in OWN or name in ALONE:
                continue
            for key, value in list(vars(module).items()):
                if value is original:
                    self._replaced.append((module, key, original))
                    setattr(module, key, replacement)

    def _watched_predict(self, original: Any) -> Any:
        def watched(target, drafter, system, **scenario):
            found = original(target, drafter, system, **scenario)
            self.note(
                target, drafter, system, batch=found.batch, context=found.context, gamma=found.gamma
            )
            return found

        return watched

    def _watched_step(self, original: Any) -> Any:
        def watched(model, system, workload=None, *more):
            found = original(model, system, *(() if workload is None else (workload,)), *more)
            batch, context, rows = 1, 1, 1  # what is cached: the context holds the rows themselves
            if workload is not None:
                batch, context, rows = workload.batch, workload.context, workload.rows
                rows = rows if workload.logit_rows is None else workload.logit_rows
            gamma = np.maximum(np.asarray(rows, float) - 1, 0)
            self.note(model, None, system, batch=batch, context=context, gamma=gamma)
            return found

        return watched

    def _watched_statement(self, original: Any) -> Any:
        def watched(target, system, **scenario):
            self._stated.add((self.where(), named(target, system)))
            return original(target, system, **scenario)

        return watched

    def _watched_shortage(self, original: Any) -> Any:
        def watched(found, target, system, **scenario):
            said = original(found, target, system, **scenario)
            if said is not None:
                self._stated.add((self.where(), named(target, system)))
            return said

        return watched


def named(target: Any, system: Any) -> Scenario:
    """What a statement about memory has to agree in with a scenario."""
    return Scenario(
        target.name, system.accelerator.name, system.precision.name, system.tensor_parallel
    )

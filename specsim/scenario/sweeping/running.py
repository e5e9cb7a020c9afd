"""Running a sweep: what is stored is skipped, the rest is computed here or by workers, and every
finished point is stored at once.

    plan = read_plan("axes.toml")
    done = run_sweep(plan, store="axes.jsonl")
    for point, outcome in done.rows(): ...

Only this process writes to the store. Points go to workers in chunks that take about `CHUNK_S`, few
at a time, so that neither memory nor what an interrupt loses grows with the sweep. When a worker
dies, everything that was under way is computed again, one point at a time, so that a point that
kills its worker is found; after `TRIES` it is recorded as an error, and the rest goes on.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import specsim
from specsim.checks import SpecsimError, one_line
from specsim.scenario.sweeping.axes import SweepPlan
from specsim.scenario.sweeping.points import (
    Compute,
    Outcome,
    SweepPoint,
    compute_chunk,
    compute_point,
    outcome_of,
)
from specsim.scenario.sweeping.pools import WorkerPool, given_pool, interrupts_wait, one_thread_each
from specsim.scenario.sweeping.store import SweepStore

Points: TypeAlias = "SweepPlan | Sequence[SweepPoint]"

CHUNK_S = 0.25  # of one chunk's computing
MOST_IN_CHUNK = 256
AHEAD = 2  # chunks under way for each worker: one that is computed, one that waits
TRIES = 3  # of a point that ends its worker
MOST_LOST = 3  # points in a row that were given up: the workers are at fault, not the points


@dataclass(slots=True)
class SweepProgress:
    """How far a sweep is: points in all, stored before, computed now, and errors among these."""

    total: int
    skipped: int = 0
    computed: int = 0
    errors: int = 0
    seconds: float = 0.0  # of computing, all workers together

    @property
    def left(self) -> int:
        """Points that are still to be computed."""
        return self.total - self.skipped - self.computed


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep did; its outcomes are in its store."""

    points: Points
    store: SweepStore
    progress: SweepProgress

    def rows(self) -> Iterator[tuple[SweepPoint, Outcome | None]]:
        """Every point with its outcome, in the order of the points: `{"result": {…}}`, or
        `{"error": "…"}`; None for one that was not computed."""
        with self.store.opened():
            yield from self.store.outcomes(self.points)

    def outcome(self, point: SweepPoint) -> Outcome | None:
        """The outcome of one point."""
        with self.store.opened():
            return next(self.store.outcomes([point]))[1]


Watch = Callable[[SweepProgress, SweepPoint, Outcome], None]


def run_sweep(
    points: Points,
    executor: Executor | WorkerPool | None = None,
    store: str | Path | None = None,
    *,
    compute: Compute = compute_point,
    retry: bool = False,
    watch: Watch | None = None,
) -> SweepResult:
    """Compute the points that `store` does not hold yet.

    Arguments: `points`, a `SweepPlan` or a list; `executor`, where they are computed: None for this
    process, an `Executor`, or a `WorkerPool`, which can replace a broken one; `store`, a file
    (None: the results stay in memory); `compute`, a function of a point, which workers can import;
    `retry` computes again what was an error; `watch` is told every outcome.

    A point that raises is recorded with its error. Raises SpecsimError where the store cannot be
    written, where another sweep writes to it, and where workers end before they compute.
    """
    kept = SweepStore(None if store is None else Path(store))
    with kept.opened():
        progress = SweepProgress(len(points))
        run = _Run(kept, compute, progress, watch)
        missing = run.missing(points, retry)
        if executor is None:
            run.here(missing)
        else:
            pool = executor if isinstance(executor, WorkerPool) else given_pool(executor)
            with one_thread_each():
                run.by_workers(missing, pool)
    return SweepResult(points, kept, progress)


@dataclass(slots=True)
class _Run:
    store: SweepStore
    compute: Compute
    progress: SweepProgress
    watch: Watch | None
    suspects: deque[SweepPoint] = field(default_factory=deque)  # were under way when a worker died
    tries: int = 0  # of the first suspect
    lost: int = 0  # points in a row that were given up
    size: float = 1.0  # points of a chunk

    def missing(self, points: Iterable[SweepPoint], retry: bool) -> Iterator[SweepPoint]:
        """The points that are not in the store."""
        for point in points:
            if self.store.is_done(point.key, retry):
                self.progress.skipped += 1
            else:
                yield point

    def record(self, point: SweepPoint, outcome: Outcome) -> None:
        """Store one outcome."""
        self.store.add(point, outcome)
        self.progress.computed += 1
        self.progress.errors += "error" in outcome
        self.progress.seconds += outcome["seconds"]
        if self.watch is not None:
            self.watch(self.progress, point, outcome)

    def here(self, points: Iterable[SweepPoint]) -> None:
        """Compute in this process, one by one."""
        for point in points:
            self.record(point, outcome_of(self.compute, point))

    def by_workers(self, points: Iterator[SweepPoint], pool: WorkerPool) -> None:
        """Submit chunks and record what comes back, until nothing is left."""
        waiting: dict[Future[list[Outcome]], list[SweepPoint]] = {}
        executor, at_once, unbroken = pool.start(), True, True
        try:
            while True:
                broken: Exception | None = None
                try:
                    self.submit(executor, points, waiting, AHEAD * pool.workers())
                    unbroken = True
                except BrokenExecutor as error:
                    if not (waiting or unbroken):  # the new one is broken too
                        raise SpecsimError(f"no worker can be started: {error}") from None
                    broken, unbroken = error, False
                if broken is None and not waiting:
                    break
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                broken = self.collect(finished, waiting) or broken
                if broken is None:
                    continue
                wait(waiting)  # a broken pool fails them all; other workers finish theirs
                self.collect(set(waiting), waiting)
                if isinstance(broken, BrokenExecutor):
                    if not pool.replaces:
                        raise SpecsimError(
                            f"the executor is broken ({broken}); what is finished is stored, and "
                            "another executor goes on after it"
                        )
                    pool.stop(executor, True)
                    executor = pool.start()
            at_once = False
        except BaseException:
            ended = {future for future in waiting if future.done() and not future.cancelled()}
            done = {future for future in ended if future.exception() is None}
            self.collect(done, waiting)  # what is finished is not lost
            raise
        finally:
            pool.stop(executor, at_once)

    def submit(
        self,
        executor: Executor,
        points: Iterator[SweepPoint],
        waiting: dict[Future[list[Outcome]], list[SweepPoint]],
        most: int,
    ) -> None:
        """Fill up what is under way: a suspect alone, else chunks of the points."""
        while len(waiting) < (1 if self.suspects else most):
            if self.suspects:
                chunk = [self.suspects[0]]
            else:
                share = -(-self.progress.left // most)  # at the end every worker has some
                chunk = list(islice(points, max(1, min(int(self.size), share))))
            if not chunk:
                return
            try:
                with interrupts_wait():  # a worker that is started meanwhile gets none
                    future = executor.submit(
                        compute_chunk, self.compute, chunk, specsim.__version__
                    )
            except BrokenExecutor:
                if not self.suspects:
                    self.suspects.extend(chunk)
                raise
            waiting[future] = chunk

    def collect(
        self,
        finished: Iterable[Future[list[Outcome]]],
        waiting: dict[Future[list[Outcome]], list[SweepPoint]],
    ) -> Exception | None:
        """Record what came back; the error of a worker that died, if one did."""
        broken = None
        for future in finished:
            chunk = waiting.pop(future)
            alone = bool(self.suspects) and chunk[0] is self.suspects[0]
            try:
                outcomes = future.result(timeout=0)
            except Exception as error:  # computing raises nothing: a worker died, or never began
                broken = error
                self.suspect(chunk, alone, error)
                continue
            if alone:
                self.suspects.popleft()
                self.tries = 0
            self.lost = 0
            for point, outcome in zip(chunk, outcomes, strict=True):
                self.record(point, outcome)
            took = sum(outcome["seconds"] for outcome in outcomes) / len(outcomes)
            wanted = CHUNK_S / max(took, 1e-6)
            self.size = min(max(1.0, wanted), 2 * self.size, MOST_IN_CHUNK)
        return broken

    def suspect(self, chunk: list[SweepPoint], alone: bool, error: Exception) -> None:
        """Compute the points of a chunk again, alone; give up one that was alone too often."""
        if not alone:
            self.suspects.extend(chunk)
            return
        self.tries += 1
        if self.tries < TRIES:
            return
        self.tries, self.lost = 0, self.lost + 1
        said = one_line(f"{type(error).__name__}: {error}")[:300]
        if self.lost >= MOST_LOST:
            raise SpecsimError(
                f"the workers end before they finish a point, {MOST_LOST * TRIES} times in a row "
                f"({said}); the same command goes on after what is stored"
            )
        point = self.suspects.popleft()
        self.record(point, {"seconds": 0.0, "error": f"its worker ended {TRIES} times: {said}"})

"""What a cycle of a mixed batch takes, as arrays computed once from the terms of `predict`.

    cycle = sum over passes of  times x max(what depends on the batch alone
                                            + sum over attention of max(memory, arithmetic, floor),
                                            launch of the host)
            - what overlaps + overhead

A pass depends on its sequences' contexts through attention alone. The bytes that an operator reads
of a sequence, and its FLOPs, are a function of that sequence's context (a line; with a window, a
line and then a constant; …), and those of a batch are their sum. So each kind of operator has an
accumulator: the mean of its function over the sequences of the batch. All coefficients are read
off `predict` at a few contexts; where all sequences have the same context, the surface is
`predict` to rounding.

One thing is assumed: that an operator which mixes long and short contexts takes the larger of its
memory time and its arithmetic time, each over the whole batch (optimistic where a kernel waits for
its longest sequence). Under an engine whose attention efficiency depends on size (a calibration),
memory time is interpolated between contexts, by less than a per cent. Where an indexer chooses
entries and the rows of a pass vary with the batch (unpadded lookups), it is off by
less than 0.2 % of the time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from specsim.architecture import Architecture
from specsim.checks import Floats, Integers
from specsim.cost import Entry, ModelPass
from specsim.drafting import Drafter
from specsim.hardware import EfficiencyTable, System
from specsim.operators import ATTENTION, Workload
from specsim.prediction import Prediction
from specsim.speculation import predict

GRID = 33  # contexts between which memory time is interpolated where efficiency depends on size
FINE, COARSE = 65_536, 1024  # tokens: every context is looked at up to here; every so many beyond
VERIFYING, DRAFTING, OVERLAPPING = range(3)  # what a pass of a cycle is done for


def contexts_upto(most: int) -> Floats:
    """Contexts from 1 on at which an operator is counted: all, and beyond any window some."""
    fine = np.arange(1.0, min(most, FINE) + 1.0)
    if most <= FINE:
        return fine
    return np.concatenate([fine, np.arange(FINE, most, COARSE)[1:], [float(most)]])


class Readings:
    """What operators read of a sequence as functions of its context, from 0 at one token to 1 at
    the most; equal functions share a column."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.line = np.arange(most, dtype=float) / max(most - 1, 1)
        self.tables: list[Floats] = [self.line]

    def column_of(self, contexts: Floats, values: Floats) -> int:
        """The column of a function that is given at some contexts, a line between them."""
        if len(contexts) < self.most:
            values = np.interp(np.arange(1.0, self.most + 1.0), contexts, values)
        rise = values[-1] - values[0]
        shape = (values - values[0]) / rise if rise else np.zeros_like(values)
        for column, known in enumerate(self.tables):
            if np.allclose(shape, known, rtol=1e-12, atol=1e-12):
                return column
        self.tables.append(shape)
        return len(self.tables) - 1

    @property
    def is_line(self) -> bool:
        """Whether every operator reads as much of every token."""
        return len(self.tables) == 1

    def now(self, tokens: int, batch: int, slots: "_Contexts") -> list[float]:
        """`means` of one step; where all is a line, from the tokens of the whole batch."""
        if self.is_line:
            return [(tokens / batch - 1.0) / max(self.most - 1, 1)]
        found: list[float] = self.means(slots.context[None])[0].tolist()
        return found

    def ahead(
        self, tokens: Integers, batch: int, slots: "_Contexts", more: Integers | None
    ) -> Floats:
        """`means` of several steps, where each begins with `tokens` in all, and each sequence with
        `more` than now: (batch, steps)."""
        if self.is_line:
            return ((tokens / batch - 1.0) / max(self.most - 1, 1))[:, None]
        assert more is not None
        return self.means((slots.context[:, None] + more).T)

    def means(self, contexts: Integers) -> Floats:
        """The mean over the sequences, in the last axis, of each function: (steps, columns)."""
        steps, batch = contexts.shape
        found = np.empty((steps, len(self.tables)))
        found[:, 0] = (contexts.sum(axis=1) / batch - 1.0) / max(self.most - 1, 1)
        at = np.minimum(contexts, self.most) - 1  # steps beyond an end are cut later
        for column in range(1, len(self.tables)):
            found[:, column] = self.tables[column][at].sum(axis=1) / batch
        return found


class _Contexts(Protocol):
    """Sequences that know their contexts."""

    @property
    def context(self) -> Integers: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """An attention operator of a pass, or an entry of a ledger that is no pass of a model."""

    memory_s: Floats
    compute_s: Floats
    floor_s: Floats | float
    bytes_moved: Floats
    flops: Floats


@dataclass(frozen=True, slots=True)
class _Pass:
    """An entry of a ledger in parts: arrays of (batches, contexts)."""

    role: int
    times: Floats
    fixed_s: Floats
    launch_s: Floats | float
    bytes_moved: Floats
    flops: Floats
    parts: tuple[_Part, ...]


def _passes(
    prediction: Prediction, drafter: Drafter | None, workload: Workload, gamma: int
) -> Iterator[_Pass]:
    """What happens in the cycle of a prediction, entry by entry; what never happens is left out."""
    ledgers = [(VERIFYING, prediction.verification), (DRAFTING, prediction.drafting)]
    if drafter is not None and gamma:
        system = prediction.system.on_accelerator
        share, overlapping = drafter.overlapping(system, workload, gamma)
        if share:
            ledgers.append((OVERLAPPING, overlapping))
    for role, ledger in ledgers:
        for times, entry in ledger.entries:
            if np.any(times):
                yield _pass(role, np.asarray(times, float), entry)


def _pass(role: int, times: Floats, entry: Entry) -> _Pass:
    moved, flops = entry.bytes_moved, entry.flops
    if not isinstance(entry, ModelPass):
        seconds = np.asarray(entry.seconds)
        nothing = np.zeros_like(seconds)
        part = _Part(seconds, nothing, 0.0, nothing, nothing)
        return _Pass(role, times, nothing, 0.0, moved, flops, (part,))
    devices, fixed = entry.work.devices, np.zeros(())
    parts = []
    for term in entry.time.terms:
        operator = term.operator
        if operator is None or operator.kind != ATTENTION:
            fixed = fixed + term.seconds
            continue
        read, computed = devices * operator.kv_bytes, devices * operator.flops
        parts.append(_Part(term.memory_s, term.compute_s, term.floor_s, read, computed))
    return _Pass(role, times, fixed, entry.time.launch_s, moved, flops, tuple(parts))


@dataclass(frozen=True, slots=True)
class _RowOperator:
    """An operator at one batch, in plain numbers."""

    number: int
    reads: int
    computes: int
    memory_s: float
    memory_rise: float
    compute_s: float
    compute_rise: float
    floor_s: float


@dataclass(frozen=True, slots=True)
class _RowPass:
    """A pass at one batch, in plain numbers."""

    fixed_s: float
    launch_s: float
    times: float
    verified: float
    overlapping: float
    operators: tuple[_RowOperator, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A cycle at one batch, in plain numbers."""

    overhead_s: float
    passes: tuple[_RowPass, ...]
    moved: tuple[float, float]
    moved_rise: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class CyclePrice:
    """Cycles of one gamma. Axes: B + 1 batches (0 is empty), P passes, O operators, K knots,
    C columns of `Readings`."""

    gamma: int
    rows: Floats  # (B+1,) tokens of the target's pass, over all sequences
    fixed_s: Floats  # (B+1, P)
    launch_s: Floats  # (B+1, P)
    times: Floats  # (B+1, P), of those that add up
    verified: Floats  # (B+1, P), of those that verify
    overlapping: Floats | None  # (B+1, P), of those that may overlap with them
    share: float  # of the cycles in which they do
    overhead_s: Floats  # (B+1,)
    of_pass: Floats  # (O, P), 1 where the operator belongs to the pass
    knots: Floats  # (K,) shares of the readings at which memory time is known
    memory_s: Floats  # (B+1, K, O)
    compute_s: Floats  # (B+1, 2, O), at one token and its rise to the most
    floor_s: Floats  # (B+1, O)
    reads: Integers  # (O,) the column that memory depends on
    computes: Integers  # (O,) the column that arithmetic depends on
    moved: Floats  # (B+1, 2) bytes and FLOPs at one token
    moved_rise: Floats  # (B+1, 2, C), and their rise to the most
    kept: Floats  # (B+1, 2, C) of that rise, what is the target's attention
    in_line: bool  # whether there is one column
    floors: bool
    launches: bool
    rows_of: dict[int, "_Row"] = field(default_factory=dict)  # batches that `one` was asked for

    @property
    def columns(self) -> int:
        """The readings that were known when this was priced: its own. A cycle that is priced later,
        with a draft, may add some."""
        return self.moved_rise.shape[2]

    def operators_s(self, batch: int, means: Floats) -> Floats:
        """Seconds of each attention operator: (steps, O)."""
        means = means[:, : self.columns]
        table = self.memory_s[batch]
        read = means if self.in_line else means[:, self.reads]
        if len(self.knots) == 2:
            memory = table[0] + table[1] * read
        else:
            memory = np.stack([
                np.interp(read[:, min(o, read.shape[1] - 1)], self.knots, table[:, o])
                for o in range(table.shape[1])
            ], axis=1)  # fmt: skip
        table = self.compute_s[batch]
        read = means if self.in_line else means[:, self.computes]
        seconds = np.maximum(memory, table[0] + table[1] * read)
        return np.maximum(seconds, self.floor_s[batch]) if self.floors else seconds

    def seconds(self, batch: int, means: Floats) -> Floats:
        """Seconds of one cycle at each of the steps whose `means` are given."""
        passes = self.fixed_s[batch] + self.operators_s(batch, means) @ self.of_pass
        if self.launches:
            passes = np.maximum(passes, self.launch_s[batch])
        total = passes @ self.times[batch] + self.overhead_s[batch]
        if self.overlapping is not None:
            hidden = np.minimum(passes @ self.overlapping[batch], passes @ self.verified[batch])
            total = total - self.share * hidden
        return total

    def one(
        self, batch: int, means: list[float], added_s: float = 0.0
    ) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of one cycle, as plain numbers; the target's pass does `added_s`
        seconds of work more. Arrays of one element would take ten times as long."""
        row = self.rows_of.get(batch) or self._row(batch)
        total, verified, overlapping = row.overhead_s, 0.0, 0.0
        if len(self.knots) > 2:
            memory = self.operators_s(batch, np.array([means]))[0]
        for one in row.passes:
            seconds = one.fixed_s + added_s if one.verified else one.fixed_s
            for operator in one.operators:
                if len(self.knots) > 2:
                    seconds += float(memory[operator.number])
                    continue
                read_s = operator.memory_s + operator.memory_rise * means[operator.reads]
                math_s = operator.compute_s + operator.compute_rise * means[operator.computes]
                seconds += max(read_s, math_s, operator.floor_s)
            seconds = max(seconds, one.launch_s)
            total += one.times * seconds
            verified += one.verified * seconds
            overlapping += one.overlapping * seconds
        moved, flops = row.moved
        for column, (more_moved, more_flops) in enumerate(row.moved_rise):
            moved += more_moved * means[column]
            flops += more_flops * means[column]
        return total - self.share * min(overlapping, verified), moved, flops

    def _row(self, batch: int) -> "_Row":
        passes = []
        for index in range(self.of_pass.shape[1]):
            numbers = np.flatnonzero(self.of_pass[:, index]).tolist()
            over = 0.0 if self.overlapping is None else float(self.overlapping[batch, index])
            passes.append(
                _RowPass(
                    fixed_s=float(self.fixed_s[batch, index]),
                    launch_s=float(self.launch_s[batch, index]),
                    times=float(self.times[batch, index]),
                    verified=float(self.verified[batch, index]),
                    overlapping=over,
                    operators=tuple(self._operator(batch, number) for number in numbers),
                )
            )
        moved = (float(self.moved[batch, 0]), float(self.moved[batch, 1]))
        rise = tuple(map(tuple, self.moved_rise[batch].T.tolist()))
        self.rows_of[batch] = _Row(float(self.overhead_s[batch]), tuple(passes), moved, rise)
        return self.rows_of[batch]

    def _operator(self, batch: int, number: int) -> "_RowOperator":
        memory, compute = self.memory_s[batch, :2, number], self.compute_s[batch, :, number]
        return _RowOperator(
            number=number,
            reads=int(self.reads[number]),
            computes=int(self.computes[number]),
            memory_s=float(memory[0]),
            memory_rise=float(memory[1]),
            compute_s=float(compute[0]),
            compute_rise=float(compute[1]),
            floor_s=float(self.floor_s[batch, number]),
        )

    def moves(self, batch: int, means: Floats) -> Floats:
        """Bytes and FLOPs of all the steps together."""
        sums = np.add.reduce(means[:, : self.columns], axis=0)
        return len(means) * self.moved[batch] + self.moved_rise[batch] @ sums

    def attention(self, batch: int, means: Floats) -> tuple[float, Floats]:
        """Seconds, and bytes and FLOPs that depend on the context, of the target's attention alone
        in the first step: for sequences that share another group's pass."""
        of_target = self.of_pass @ (self.verified[batch] > 0)
        seconds = float(self.operators_s(batch, means[:1])[0] @ of_target)
        return seconds, self.kept[batch] @ means[0, : self.columns]


class Surface:
    """The prices of all cycles of a server: `cycle(gamma)`, each computed when it is first asked
    for. `drafter` is None where no draft is loaded."""

    def __init__(
        self,
        target: Architecture,
        drafter: Drafter | None,
        system: System,
        *,
        most_sequences: int,
        most_context: int,
        routing_correlation: float | None = None,
    ) -> None:
        self.target, self.drafter, self.system = target, drafter, system
        self.most_sequences, self.most_context = most_sequences, max(most_context, 2)
        self.routing_correlation = routing_correlation
        self.readings = Readings(self.most_context)
        self._cycles: dict[int, CyclePrice] = {}

    def cycle(self, gamma: int) -> CyclePrice:
        """The prices of cycles of `gamma` drafts."""
        if gamma not in self._cycles:
            self._cycles[gamma] = self._priced(gamma)
        return self._cycles[gamma]

    def _at(self, gamma: int, batch: Floats, context: Floats) -> tuple[Prediction, list[_Pass]]:
        drafter = self.drafter if gamma else None
        prediction = predict(
            self.target, drafter, self.system, gamma=gamma, tokens_per_cycle=1.0,
            batch=batch, context=context, routing_correlation=self.routing_correlation,
        )  # fmt: skip
        workload = Workload(batch, context=context)
        return prediction, list(_passes(prediction, drafter, workload, gamma))

    def _priced(self, gamma: int) -> CyclePrice:
        most = self.most_context
        batch = np.arange(1.0, self.most_sequences + 1.0)
        by_size = isinstance(self.system.engine.kv_efficiency, EfficiencyTable)
        some = np.unique(np.geomspace(1, most, GRID if by_size else 2).round())
        prediction, passes = self._at(gamma, batch[:, None], some)
        _, alone = self._at(gamma, np.ones(1), contexts_upto(most))
        drafter = self.drafter if gamma else None
        rows = np.ones(len(batch))
        share: float = 0.0
        if drafter is not None:
            drafting = np.asarray(drafter.drafting_share(batch), float)
            wide = np.asarray(drafter.verify_rows(gamma, batch), float)
            rows = rows + drafting * (wide - 1.0)
            workload = Workload(batch[:, None], context=some)
            share = drafter.overlapping(self.system.on_accelerator, workload, gamma)[0]
        shape = (len(batch), len(some))
        made = _Builder(self.readings, shape, some.astype(int))
        for one, over_context in zip(passes, alone, strict=True):
            made.add(one, over_context)
        return made.price(gamma, rows * batch, prediction.overhead_s, share)


class _Builder:
    """Collects the coefficients of a cycle's passes."""

    def __init__(self, readings: Readings, shape: tuple[int, int], contexts: Integers) -> None:
        self.readings, self.shape = readings, shape
        self.at = contexts - 1
        self.passes: list[tuple[_Pass, Floats]] = []
        self.operators: list[tuple[int, _Part, int, int]] = []

    def full(self, value: Floats | float) -> Floats:
        return np.broadcast_to(np.asarray(value, float), self.shape)

    def add(self, one: _Pass, alone: _Pass) -> None:
        """A pass over the batches, and the same of one sequence at every context."""
        fixed = self.full(one.fixed_s)[:, 0]
        index = len(self.passes)
        for part, long in zip(one.parts, alone.parts, strict=True):
            costs = [self.full(cost) for cost in (part.memory_s, part.compute_s)]
            if all(np.allclose(cost, cost[:, :1], rtol=1e-13, atol=0.0) for cost in costs):
                seconds = np.maximum(np.maximum(*costs), self.full(part.floor_s))
                fixed = fixed + seconds[:, 0]
                continue
            known = contexts_upto(self.readings.most)
            read = long.bytes_moved if np.any(long.bytes_moved) else long.memory_s
            reads, computes = (
                self.readings.column_of(known, np.broadcast_to(value, known.shape))
                for value in (read, long.flops)
            )
            self.operators.append((index, part, reads, computes))
        self.passes.append((one, fixed))

    def price(self, gamma: int, rows: Floats, overhead_s: Floats, share: float) -> CyclePrice:
        """The collected coefficients as arrays, with an empty batch in front."""

        def led(array: Floats) -> Floats:
            return np.concatenate([np.zeros((1, *array.shape[1:])), array])

        def by_pass(values: Sequence[Floats]) -> Floats:
            return led(np.stack(values, axis=1))

        times = [self.full(one.times)[:, 0] for one, _ in self.passes]
        roles = np.array([one.role for one, _ in self.passes])
        count, columns = len(self.operators), len(self.readings.tables)
        reads, computes = (
            np.array([operator[i] for operator in self.operators], dtype=np.int64) for i in (2, 3)
        )
        of_pass = np.zeros((count, len(self.passes)))
        moved = np.zeros((self.shape[0], 2))
        rise, kept = (np.zeros((self.shape[0], 2, columns)) for _ in range(2))
        for (one, _), many in zip(self.passes, times, strict=True):
            if one.role != OVERLAPPING:
                for kind, what in enumerate((one.bytes_moved, one.flops)):
                    moved[:, kind] += many * self.full(what)[:, 0]
        memory, compute, floor = [], [], []
        for row, (index, part, read, computed) in enumerate(self.operators):
            of_pass[row, index] = 1.0
            memory.append(self.full(part.memory_s))
            compute.append(self.full(part.compute_s)[:, [0, -1]])
            floor.append(self.full(part.floor_s)[:, 0])
            if roles[index] == OVERLAPPING:
                continue
            moving = ((0, read, part.bytes_moved), (1, computed, part.flops))
            for kind, column, what in moving:
                rising = self.full(what)[:, -1] - self.full(what)[:, 0]
                rise[:, kind, column] += times[index] * rising
                if roles[index] == VERIFYING:
                    kept[:, kind, column] += times[index] * rising
        knots = np.array([0.0, 1.0])
        if self.shape[1] > 2 and count:
            knots = self.readings.line[self.at]
        return CyclePrice(
            gamma=gamma,
            rows=led(rows),
            fixed_s=by_pass([fixed for _, fixed in self.passes]),
            launch_s=by_pass([self.full(one.launch_s)[:, 0] for one, _ in self.passes]),
            times=by_pass(times) * (roles != OVERLAPPING),
            verified=by_pass(times) * (roles == VERIFYING),
            overlapping=by_pass(times) * (roles == OVERLAPPING) if share else None,
            share=share,
            overhead_s=led(np.broadcast_to(overhead_s, self.shape)[:, 0]),
            of_pass=of_pass,
            knots=knots,
            memory_s=led(self._over_knots(memory)),
            compute_s=led(_line(np.stack(compute, axis=2) if count else
                                np.zeros((self.shape[0], 2, 0)))),
            floor_s=led(np.stack(floor, axis=1) if count else np.zeros((self.shape[0], 0))),
            reads=reads,
            computes=computes,
            moved=led(moved),
            moved_rise=led(rise),
            kept=led(kept),
            in_line=columns == 1,
            floors=any(np.any(each) for each in floor),
            launches=any(np.any(one.launch_s) for one, _ in self.passes),
        )  # fmt: skip

    def _over_knots(self, memory: list[Floats]) -> Floats:
        """Memory time at the knots: (batches, K, O); a line as its start and its rise."""
        if not memory:
            return np.zeros((self.shape[0], 2, 0))
        if self.shape[1] == 2:
            return _line(np.stack(memory, axis=2))
        knots = self.readings.line[self.at]
        tables = []
        for (_, _, read, _), seconds in zip(self.operators, memory, strict=True):
            at = self.readings.tables[read][self.at]
            rows = [np.interp(knots, *_rising(at, row)) for row in seconds]
            tables.append(np.stack(rows))
        return np.stack(tables, axis=2)


def _line(ends: Floats) -> Floats:
    """Values at both ends as the first and the rise, along axis 1."""
    return np.stack([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)


def _rising(at: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The points in rising order of `at`, the first of those that are equal."""
    found, index = np.unique(at, return_index=True)
    return found, values[index]

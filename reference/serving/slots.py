"""The rows of the decoder's buffers: a request reads its prompt into one, and decodes there.

The buffers are allocated once, for all rows, and so is the drafter's `start`. A cycle runs on the
first 1, 2, 4, … rows, as views of the same memory, so that one request among eight free rows costs
what one costs. When fewer rows would do, the last one's content is copied to a free row.

A row in use that is still reading its prompt, and a free one among others, take part in a cycle
with nothing left to emit. What such a cycle writes there lies at the row's length and after it, and
the next piece of the prompt overwrites it.

On a CPU a cycle runs compiled where `compiled` has its stages (see `prepared`), and eagerly
elsewhere: nothing is compiled while requests wait.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from reference.cache import KVCache
from reference.cycle import Cycle
from reference.drafters import Drafter
from reference.graphs import Recordings, Stages, window_of
from reference.sampling import SamplingParameters
from reference.sequences import AsyncCopy, CycleResult
from reference.serving.keyed_noise import KeyedNoise
from reference.serving.requests import Request
from reference.serving.row_sampling import KINDS, RowSampling, RowValues, kind_of
from reference.settings import RunSettings
from reference.transformer import Transformer
from specsim.checks import SpecsimError

OWN_STOPS = 8  # ids that a request may add to those of the model


class Slots:
    """`count` rows of at most `context` tokens each, and the cycles that run on them."""

    def __init__(
        self,
        target: Transformer,
        drafter: Drafter,
        count: int,
        context: int,
        rule: str = "token",
        mode: str = "eager",
    ):
        require_servable(drafter)
        self.target, self.context = target, context
        settings = RunSettings(RowSampling(), rule, mode=mode)
        capacity = context + drafter.gamma + 2
        self.rounds_windows = mode != "eager" or target.device.type == "cuda"
        capacity = window_of(capacity) if self.rounds_windows else capacity
        whole = Cycle(target, drafter, count, capacity, settings)
        device = target.device
        kinds_of_stop = max(1, len(target.stop_ids)) + OWN_STOPS
        whole.sequences.stops = torch.full((count, 1, kinds_of_stop), -1, device=device)
        whole.sequences.ends = context
        whole.cache.ends.fill_(context)
        whole.sequences.remaining.fill_(context - 1)  # what a drafter's cache prepares for
        self.values = RowValues.empty(count, device)
        self.noise = KeyedNoise(count, device)
        self.whole = whole
        drafter.start(whole.sequences, target, whole.cache)
        whole.sequences.remaining.zero_()
        self.alone = [self._view(slice(row, row + 1), "filtered") for row in range(count)]
        self.readers: dict[range, Cycle] = {}  # of several rows
        self.cycles: dict[tuple[int, str], tuple[Cycle, Recordings | None]] = {}
        self.compiled: dict[tuple[int, int, str], Stages] = {}  # by rows, window and kind
        self.requests: list[Request | None] = [None] * count
        self.read = [0] * count  # tokens of its prompt that a row has read
        self.lengths = [0] * count  # tokens before the pending one
        self.finite = [True] * count  # whether all that a row's caches hold is known to be finite

    @property
    def gamma(self) -> int:
        """Tokens that a cycle drafts."""
        return self.whole.drafter.gamma

    @property
    def used(self) -> list[tuple[int, Request]]:
        """The rows in use, and the request of each."""
        return [(row, request) for row, request in enumerate(self.requests) if request is not None]

    @property
    def reading(self) -> list[int]:
        """The rows whose prompts are not read yet, in the order in which their requests came."""
        rows = [row for row, request in self.used if self.read[row] < len(request.prompt)]
        return sorted(rows, key=lambda row: self.requests[row].number)

    def free_row(self) -> int | None:
        """The lowest free row."""
        return next((row for row, request in enumerate(self.requests) if request is None), None)

    def admit(self, row: int, request: Request) -> None:
        """Give a free row to a request; its prompt is read by `read_pieces`."""
        sequences, sampling = self.whole.sequences, request.sampling
        sequences.remaining[row] = 0
        sequences.lengths[row] = 0
        ids = sorted(self.stops_of(request))
        stops = torch.tensor(ids + [-1] * (sequences.stops.shape[2] - len(ids)))
        sequences.stops[row, 0] = stops
        self.noise.seeds[row] = (request.seed + 2**63) % 2**64 - 2**63
        least = len(request.prompt) + request.min_tokens if request.min_tokens else 0
        self.values.set(row, sampling, self.target.architecture.vocab_size, least)
        self.requests[row], self.read[row], self.lengths[row] = request, 0, 0
        self.finite[row] = False  # until a cycle has read all of its prompt

    def stops_of(self, request: Request) -> frozenset[int]:
        """The ids that end a request's text: its own, and the model's unless it ignores them."""
        return request.stop_ids | (frozenset() if request.ignores_end else self.target.stop_ids)

    def unread(self, row: int) -> int:
        """Tokens of the prompt in a row that are still to be read; the last one becomes the pending
        token, and is not."""
        request = self.requests[row]
        assert request is not None
        return len(request.prompt) - 1 - self.read[row]

    def rows_to_read(self, most: int) -> range:
        """The row whose request came first among those that still read, and rows beside it that
        read as well, as long as `most` tokens are enough to end all these prompts at once."""
        reading = self.reading
        begin = stop = reading[0]
        longest = self.unread(begin)

        def joins(row: int) -> bool:
            count = stop - begin + 2
            return row in reading and count * max(longest, self.unread(row)) <= most

        while joins(stop + 1):
            stop += 1
            longest = max(longest, self.unread(stop))
        while joins(begin - 1):
            begin -= 1
            longest = max(longest, self.unread(begin))
        return range(begin, stop + 1)

    def read_pieces(self, rows: range, most: int) -> int:
        """Read the next tokens of the prompts in neighbouring rows, in one pass and equally many of
        each: what the shortest has left, and at most `most` in all. Returns how many were read."""
        length = min(most // len(rows), *map(self.unread, rows))
        view, sequences = self.reader(rows), self.whole.sequences
        requests = [(row, request) for row, request in self.used if row in rows]
        for row, request in requests:
            # all of it each time: cycles that ran in between wrote after the row's length
            prompt = torch.tensor(request.prompt)
            sequences.tokens[row, : len(prompt)] = prompt
        begins = torch.tensor([self.read[row] for row in rows], device=self.target.device)
        if length > 0:
            positions = begins[:, None] + torch.arange(length, device=begins.device)
            tokens = view.sequences.tokens.gather(1, positions)
            window = max(self.read[row] for row in rows) + length
            hidden = self.target.hidden(tokens, positions, view.cache, window)
            view.drafter.join(tokens, positions, hidden, window)
        view.sequences.lengths.copy_(begins + length)
        for row, request in requests:
            self.read[row] = self.lengths[row] = self.read[row] + length
            if self.unread(row) == 0:
                sequences.remaining[row] = request.max_tokens
                self.read[row] = len(request.prompt)
        return length * len(rows)

    def reader(self, rows: range) -> Cycle:
        """The decoder's cycle on neighbouring rows, to read prompts in them."""
        if len(rows) == 1:
            return self.alone[rows[0]]
        if rows not in self.readers:
            self.readers[rows] = self._view(slice(rows.start, rows.stop), "filtered")
        return self.readers[rows]

    def leave(self, row: int) -> None:
        """Free a row, which then samples greedily. If its keys may not be finite, its text and all
        that is kept of it are set to 0, because hidden slots must be finite too."""
        view = self.alone[row]
        view.sequences.remaining.zero_()
        view.sequences.lengths.zero_()
        self.values.set(row, SamplingParameters(), self.target.architecture.vocab_size, 0)
        if not self.finite[row]:
            for tensor in (view.sequences.tokens, *self._kept(row)):
                tensor.zero_()
        self.requests[row], self.lengths[row], self.finite[row] = None, 0, True

    def compact(self) -> None:
        """Move the last rows' requests to free rows, if a smaller cycle then holds all."""
        while (used := self.used) and self.size_for(len(used)) < self.size_for(used[-1][0] + 1):
            row, request = used[-1]
            free = self.free_row()
            assert free is not None
            for source, destination in zip(self._tensors(row), self._tensors(free), strict=True):
                destination.copy_(source)
            self.requests[free] = request
            self.read[free], self.lengths[free] = self.read[row], self.lengths[row]
            self.finite[free] = self.finite[row]
            self.leave(row)

    def run_cycle(self) -> list[tuple[int, Request, CycleResult]]:
        """Draft, verify and decide for all rows that have read their prompts; what each emitted."""
        self.compact()
        used = self.used
        decoding = [
            (row, request) for row, request in used if self.read[row] >= len(request.prompt)
        ]
        kind = KINDS[max(kind_of(request.sampling, request.min_tokens) for _, request in decoding)]
        cycle, recordings = self.cycle(self.size_for(used[-1][0] + 1), kind)
        cycle.gamma = self.gamma
        slots = max(self.lengths[row] for row, _ in used) + cycle.width + 2
        stages = self.compiled_for(cycle, slots, kind)
        if stages is None:
            slots = window_of(slots) if self.rounds_windows else slots
            cycle.sequences.window = min(slots, cycle.cache.capacity)
            stages = cycle.stages if recordings is None else recordings.stages()
        for stage in stages:
            stage()
        results = AsyncCopy(cycle.result).read()
        for row, _ in decoding:
            self.lengths[row] = results[row].length
            self.finite[row] = results[row].finite > self.gamma  # at rejected drafts, too
        return [(row, request, results[row]) for row, request in decoding]

    def compiled_for(self, cycle: Cycle, slots: int, kind: str) -> Stages | None:
        """The compiled stages of a cycle that reads so many slots, whose window is then theirs."""
        window = self.window_for(slots)
        stages = self.compiled.get((len(cycle.sequences.lengths), window, kind))
        if stages is not None:
            cycle.sequences.window = window
        return stages

    def window_for(self, slots: int) -> int:
        """The window of compiled stages that read so many slots: a power of two, or the context. A
        draft beyond the context may then miss slots, but it is never emitted."""
        return min(window_of(slots), self.context)

    @property
    def windows(self) -> list[int]:
        """All windows that compiled stages may have."""
        windows = [self.window_for(1)]
        while windows[-1] < self.context:
            windows.append(self.window_for(windows[-1] + 1))
        return windows

    @property
    def sizes(self) -> list[int]:
        """All numbers of rows that a cycle may have."""
        return sorted({self.size_for(rows) for rows in range(1, len(self.requests) + 1)})

    def size_for(self, rows: int) -> int:
        """The rows of the smallest cycle that holds so many: a power of two, or all."""
        return min(1 << (rows - 1).bit_length(), len(self.requests))

    def cycle(self, size: int, kind: str) -> tuple[Cycle, Recordings | None]:
        """The cycle of the first `size` rows, and what is recorded of it in the modes that
        record."""
        if (size, kind) not in self.cycles:
            view = self._view(slice(0, size), kind)
            records = view.settings.mode != "eager"
            recordings = Recordings(view) if records else None
            if recordings is not None:
                recordings.drop_if_moved()
            self.cycles[size, kind] = view, recordings
        return self.cycles[size, kind]

    def _view(self, rows: slice, kind: str) -> Cycle:
        """The decoder's cycle on some rows of the buffers."""
        view = copy(self.whole)
        view.sequences, view.cache = self.whole.sequences.rows(rows), self.whole.cache.rows(rows)
        view.drafter, view.noise = self.whole.drafter.view(rows), self.noise.rows(rows)
        view.result = self.whole.result[rows]
        sampling = RowSampling(kind=kind, values=self.values.rows(rows), stops=view.sequences.stops)
        view.settings = replace(self.whole.settings, sampling=sampling)
        return view

    def _tensors(self, row: int) -> list[Tensor]:
        """All that a row holds."""
        view, sampling = self.alone[row], self.values.rows(slice(row, row + 1))
        sequences = view.sequences
        state = (sequences.tokens, sequences.lengths, sequences.remaining, sequences.stops)
        return [*state, view.noise.seeds, *sampling.tensors, *self._kept(row)]

    def _kept(self, row: int) -> list[Tensor]:
        """What the target and the drafter keep of a row's text."""
        view = self.alone[row]
        return [*view.cache.tensors(), *tensors_of(view.drafter)]


def tensors_of(drafter: Drafter) -> Iterator[Tensor]:
    """The tensors that a view of a drafter holds: caches, and states by row."""
    for value in vars(drafter).values():
        if isinstance(value, KVCache):
            yield from value.tensors()
        elif isinstance(value, Tensor):
            yield value
        elif hasattr(value, "propose"):
            yield from tensors_of(value)


def require_servable(drafter: Drafter) -> None:
    """SpecsimError for a drafter of trees, and for one that reads prompts but cannot read one that
    joins."""
    kind = type(drafter)
    if drafter.nodes is not None:
        raise SpecsimError(
            f"{kind.__name__} drafts trees; a server drafts chains: use a draft model, a head, "
            "n-grams, an early exit or a quantised copy"
        )
    reads = kind.start is not Drafter.start or kind.observe is not Drafter.observe
    if reads and kind.join is Drafter.join:
        raise SpecsimError(
            f"{kind.__name__} reads prompts at the start and has no `join`: it cannot serve "
            "requests that come later (see docs/adding-a-drafter.md)"
        )

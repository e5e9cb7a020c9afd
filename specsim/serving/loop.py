"""Continuous batching, step by step: admit, read prompts, decode, emit.

Every step is one pass of the target over everybody: chunks of prompts within the budget of tokens,
and all sequences that decode, each with its drafts. First come, first served. Where the cache
would overflow, the request that came last gives up its place and is read again later (its tokens
are kept). While nothing is read, up to `block` steps are computed together; the block is cut at the
first end of a request, at an arrival that can be admitted, and where the cache is full, so that the
result is that of single steps.

Left out (optimistic): tokenisation, the network, the scheduler's own time beyond the engine's
overheads, blocks of the paged cache that are half full; after a preemption the prompt is always
read again, never swapped (pessimistic).
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from specsim.checks import Floats, Integers
from specsim.serving.accepting import Accepting, Noise, classes_of, thresholds
from specsim.serving.arrivals import Traffic
from specsim.serving.policies import Policy
from specsim.serving.prompts import PromptPrice
from specsim.serving.server import Server
from specsim.serving.surface import Surface
from specsim.serving.tallies import Tallies

BLOCK = 32  # steps of pure decoding that are computed together
Progress = Callable[[int, float], None]  # requests that are done, simulated seconds


class Loop:
    """One run: `run()` serves all requests; what came of it is in `requests` and `tallies`."""

    def __init__(
        self,
        server: Server,
        traffic: Traffic,
        policy: Policy,
        accepting: Accepting | None,
        *,
        block: int = BLOCK,
        detailed: bool = False,
        progress: Progress | None = None,
    ) -> None:
        policy = policy.within(server.max_batched_tokens)
        self.server, self.traffic, self.policy = server, traffic, policy
        self.block, self.progress = block, progress
        drafter = server.drafter if policy.drafts else None
        gammas = sorted({0, *policy.gammas.tolist()})
        self.most_gamma = gammas[-1]
        most = traffic.most_context + self.most_gamma + 1
        self.surface = Surface(
            server.target, drafter, server.system, most_sequences=server.max_seqs,
            most_context=most, routing_correlation=server.routing_correlation,
        )  # fmt: skip
        self.prices = {gamma: self.surface.cycle(gamma) for gamma in gammas}
        self.prompts = PromptPrice(
            server.target, drafter, server.system, most_tokens=server.max_batched_tokens,
            most_context=most, most_sequences=server.max_seqs,
        )  # fmt: skip
        self.cache = server.cache(
            drafts=policy.drafts, gamma=self.most_gamma, most_context=most,
            mean_context=traffic.mean_context,
        )  # fmt: skip
        self.least_kept, self.most_kept = policy.bounds()
        count = len(traffic)
        self.noise = Noise(traffic.seed, count)
        self.classes = np.zeros(count, dtype=np.int64)
        self.limits: dict[int, Integers] = {}
        if drafter is not None:
            assert accepting is not None
            survivals = {g: accepting.survival(drafter, g) for g in gammas if g}
            self.limits = {g: thresholds(vector) for g, vector in survivals.items()}
            self.classes = classes_of(traffic.seed, count, len(next(iter(survivals.values()))))
        self.tallies = Tallies(self.most_gamma, server.max_seqs, detailed)
        # of requests
        self.sent_s, self.first_s, self.end_s = (np.full(count, np.nan) for _ in range(3))
        self.last_s = np.full(count, np.nan)  # last token of those that were preempted
        self.written = np.zeros(count, dtype=np.int64)
        self.refused = np.zeros(count, dtype=bool)
        self.drafted_for = np.full(count, policy.drafts)
        # of the server
        self.now, self.freed_s, self.gamma = 0.0, 0.0, 0
        self.next, self.done = 0, 0
        self.queue: deque[int] = deque()
        self.reading: list[list[int]] = []  # of each prompt: request, tokens read, tokens in all
        self.reserved = 0.0  # bytes of prompts that are read
        self.step_s = 0.0
        slots = server.max_seqs
        self.batch = 0  # sequences that decode: the first so many of these
        self.ids, self.context, self.left, self.cycle = (
            np.zeros(slots, dtype=np.int64) for _ in range(4)
        )
        self.keys = np.zeros(slots, dtype=np.uint64)
        self.speculates = np.zeros(slots, dtype=bool)

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve all requests."""
        count = len(self.traffic)
        while self.done < count:
            self.take_arrivals()
            self.choose_gamma()
            self.make_room()
            chunks = self.plan_chunks()
            if self.batch or chunks:
                self.step(chunks)
            elif not self.queue and self.next < count:
                self.now = max(self.now, float(self.traffic.arrival_s[self.next]))
            if self.progress is not None:
                self.progress(self.done, self.now)

    def step(self, chunks: list[tuple[int, int]]) -> None:
        """One pass of the target over everybody, or a block of them while nothing is read."""
        added_s, beside_s = self.reading_s(chunks)
        if not self.batch:
            ends = np.array([self.now + added_s + beside_s])
            self.tallies.busy_s += added_s + beside_s
        else:
            ends = self.decode(self.steps_ahead(chunks), added_s, beside_s)
        self.tallies.step_ends(ends)
        self.step_s = float(ends[-1] - self.now) / len(ends)
        self.now = float(ends[-1])
        self.finish()
        self.end_prompts(chunks)

    def decode(self, steps: int, added_s: float, beside_s: float) -> Floats:
        """Decode for up to `steps` steps and return when each of them ended."""
        batch, gamma = self.batch, self.gamma
        accepted = self.accepted(steps)
        emitted = accepted + 1
        after = np.cumsum(emitted, axis=0)
        contexts = self.context[:batch] + (after - emitted)
        seconds, moved_of = self.cycle_s(contexts, added_s)
        seconds[0] += beside_s
        ends = self.now + np.cumsum(seconds)
        if steps > 1:
            ended = (after >= self.left[:batch]).any(axis=1)
            steps = min(steps, int(ended.argmax()) + 1 if ended.any() else steps)
            if self.admits_arrivals():
                arrival = float(self.traffic.arrival_s[self.next])
                steps = min(steps, int(np.searchsorted(ends, arrival)) + 1)
            held = self.cache.of_steps(contexts[1:steps], gamma + 1) + self.reserved
            full = held > self.cache.capacity_bytes
            steps = int(full.argmax()) + 1 if full.any() else steps
        self.tallies.decoded(
            gamma, batch, seconds[:steps], accepted[:steps], self.speculates[:batch],
            moved_of(steps),
        )  # fmt: skip
        self.tallies.kv_bytes(float(self.cache.of_steps(contexts[steps - 1], 0)) + self.reserved)
        self.context[:batch] += after[steps - 1]
        self.left[:batch] -= after[steps - 1]
        self.cycle[:batch] += steps
        return ends[:steps]

    # ------------------------------------------------------------------ who is served

    def take_arrivals(self) -> None:
        """Queue what has come and may be in flight; refuse what can never fit."""
        arrivals, most = self.traffic.arrival_s, self.traffic.concurrency
        while self.next < len(arrivals) and arrivals[self.next] <= self.now:
            if most is not None and self.in_flight >= most:
                return
            request = self.next
            self.next += 1
            self.sent_s[request] = max(float(arrivals[request]), self.freed_s)
            whole = int(self.traffic.input_tokens[request] + self.traffic.output_tokens[request])
            if self.cache.of(whole + self.most_gamma + 1) > self.cache.capacity_bytes:
                self.refused[request] = True
                self.done += 1
                continue
            self.queue.append(request)

    @property
    def in_flight(self) -> int:
        return len(self.queue) + len(self.reading) + self.batch

    def admits_arrivals(self) -> bool:
        """Whether the next arrival could be admitted at once, and so ends a block of steps."""
        if self.next >= len(self.traffic) or self.queue:
            return False
        flying, most = len(self.reading) + self.batch, self.traffic.concurrency
        return flying < self.server.max_seqs and (most is None or flying < most)

    def choose_gamma(self) -> None:
        """The policy's gamma for the batch, kept while the hysteresis keeps it."""
        wanted = min(max(self.gamma, self.least_kept[self.batch]), self.most_kept[self.batch])
        if wanted != self.gamma:
            self.gamma = wanted
            self.tallies.switches += 1

    def plan_chunks(self) -> list[tuple[int, int]]:
        """The tokens of prompts that this step reads, in the order of arrival: (tokens, cached) of
        the first prompts in `reading`. Admits requests while tokens, places and cache are left."""
        rows = self.prices[self.gamma].rows[self.batch]
        budget = self.server.max_batched_tokens - int(np.ceil(rows))
        chunks: list[tuple[int, int]] = []
        for _, read, total in self.reading:
            if budget <= 0:
                return chunks
            chunks.append((min(budget, total - read), read))
            budget -= chunks[-1][0]
        while budget > 0 and self.queue and self.admit(self.queue[0]):
            _, read, total = self.reading[-1]
            chunks.append((min(budget, total - read), read))
            budget -= chunks[-1][0]
        return chunks

    def admit(self, request: int) -> bool:
        """Move the first request of the queue to those that are read, if there is room."""
        if len(self.reading) + self.batch >= self.server.max_seqs:
            return False
        prompt = int(self.traffic.input_tokens[request])
        total = prompt + int(self.written[request])
        need = self.cache.of(total + self.most_gamma + 1)
        held = self.reserved
        if self.batch:
            held += float(self.cache.of_steps(self.context[: self.batch], self.gamma + 1))
        if held + need > self.cache.capacity_bytes:
            return False
        self.queue.popleft()
        known = min(int(self.server.prefix_hit * prompt), total - 1)
        self.reading.append([request, known, total])
        self.reserved += need
        if self.policy.by_request:
            flying = min(len(self.reading) + self.batch, self.server.max_seqs)
            self.drafted_for[request] = self.policy.gammas[flying] > 0
        return True

    def make_room(self) -> None:
        """Preempt those that came last until the next step fits into the cache."""
        capacity = self.cache.capacity_bytes
        while (
            self.batch
            and float(self.cache.of_steps(self.context[: self.batch], self.gamma + 1))
            + self.reserved > capacity
        ):
            self.tallies.preemptions += 1
            if self.reading:
                request, _, total = self.reading.pop()
                self.reserved -= self.cache.of(total + self.most_gamma + 1)
            else:
                self.batch -= 1
                request = int(self.ids[self.batch])
                self.last_s[request] = self.now
                self.tallies.preempted(request)
                whole = int(self.traffic.output_tokens[request])
                self.written[request] = whole - int(self.left[self.batch])
            self.queue.appendleft(request)

    # ------------------------------------------------------------------ what a step takes

    def reading_s(self, chunks: list[tuple[int, int]]) -> tuple[float, float]:
        """Seconds that chunks add to the target's pass, and those beside it."""
        if not chunks:
            return 0.0, 0.0
        price, prompts = self.prices[self.gamma], self.prompts
        tokens = sum(chunk for chunk, _ in chunks)
        ended = sum(
            read + chunk == total
            for (chunk, _), (_, read, total) in zip(chunks, self.reading, strict=False)
        )
        rows = float(price.rows[self.batch])
        attention_s, moved, flops = prompts.attention(chunks)
        added_s = prompts.linear_s(rows, tokens, rows, ended) + attention_s
        beside_s = prompts.each_s * ended
        if not self.batch:
            added_s = max(added_s, prompts.target.launch_s)
            beside_s += prompts.empty_s
        drafted = [
            chunk
            for chunk, (request, *_) in zip(chunks, self.reading, strict=False)
            if self.drafted_for[request]
        ]
        drafting_s, draft_moved, draft_flops = prompts.drafted(drafted)
        self.tallies.moved += prompts.moved(rows, tokens)
        self.tallies.moved += (moved + draft_moved, flops + draft_flops)
        return added_s, beside_s + drafting_s

    def cycle_s(
        self, contexts: Integers, added_s: float
    ) -> tuple[Floats, Callable[[int], Floats]]:
        """Seconds of each step's cycle, and what the first so many of them move."""
        batch, price = self.batch, self.prices[self.gamma]
        drafted = self.speculates[:batch]
        if not self.gamma or not self.policy.by_request or drafted.all():
            means = self.surface.readings.means(contexts)
            seconds = price.seconds(batch, means, added_s)
            return seconds, lambda steps: price.moves(batch, means[:steps])
        plain, few = self.prices[0], int(drafted.sum())
        if not few:
            means = self.surface.readings.means(contexts)
            seconds = plain.seconds(batch, means, added_s)
            return seconds, lambda steps: plain.moves(batch, means[:steps])
        # those that are not drafted for ride in the pass that verifies the others
        means = self.surface.readings.means(contexts[:, drafted])
        others = self.surface.readings.means(contexts[:, ~drafted])
        riders, rows = batch - few, float(price.rows[few])
        attention_s, moved = plain.attention(riders, others)
        riding_s = self.prompts.linear_s(rows, riders, rows, riders) + attention_s
        seconds = price.seconds(few, means, added_s + riding_s)
        seconds += plain.overhead_s[batch] - plain.overhead_s[few]
        moved = moved + self.prompts.moved(rows, riders) + price.moves(few, means[:1])
        return seconds, lambda _: moved

    def steps_ahead(self, chunks: list[tuple[int, int]]) -> int:
        """How many steps to compute together: 1 while a prompt is read."""
        if chunks or self.block == 1:
            return 1
        drafted = self.speculates[: self.batch]
        if self.gamma and self.policy.by_request and drafted.any() and not drafted.all():
            return 1
        ahead = min(self.block, int(self.left[: self.batch].min()))
        if self.step_s and self.admits_arrivals():
            until = float(self.traffic.arrival_s[self.next]) - self.now
            ahead = min(ahead, int(until / self.step_s * 1.2) + 2)
        return ahead

    def accepted(self, steps: int) -> Integers:
        """Drafts that each sequence accepts in each of the next steps: (steps, batch)."""
        batch = self.batch
        if not self.gamma:
            return np.zeros((steps, batch), dtype=np.int64)
        cycles = self.cycle[:batch] + np.arange(steps)[:, None]
        draws = self.noise.draws(self.keys[:batch], cycles)
        limits = self.limits[self.gamma]
        limits = limits[0] if len(limits) == 1 else limits[self.classes[self.ids[:batch]]]
        accepted: Integers = (draws[..., None] < limits).sum(axis=-1)
        if self.policy.by_request:
            accepted *= self.speculates[:batch]
        return accepted

    # ------------------------------------------------------------------ what comes of it

    def finish(self) -> None:
        """Take out the sequences that have ended."""
        left = self.left[: self.batch]
        if not self.batch or left.min() > 0:
            return
        kept = left > 0
        ended = self.ids[: self.batch][~kept]
        self.leave(ended)
        count = int(kept.sum())
        for array in (self.ids, self.context, self.left, self.cycle, self.keys, self.speculates):
            array[:count] = array[: self.batch][kept]
        self.batch = count

    def leave(self, requests: Integers) -> None:
        """Requests that have their last token."""
        most = self.traffic.concurrency
        if most is not None and self.in_flight >= most:
            self.freed_s = self.now
        self.end_s[requests] = self.now
        self.tallies.ended(requests)
        self.done += len(requests)

    def end_prompts(self, chunks: list[tuple[int, int]]) -> None:
        """Note what was read; a prompt that ends emits a token and decodes from the next step."""
        unfinished = []
        for (tokens, _), reading in zip(chunks, self.reading, strict=False):
            reading[1] += tokens
            request, read, total = reading
            if read < total:
                unfinished.append(reading)
                continue
            self.reserved -= self.cache.of(total + self.most_gamma + 1)
            before = int(self.written[request])
            if before:
                self.tallies.gap(self.now - float(self.last_s[request]))
            else:
                self.first_s[request] = self.now
            self.tallies.started(request)
            left = int(self.traffic.output_tokens[request]) - before - 1
            if left <= 0:
                self.leave(np.array([request]))
                continue
            slot = self.batch
            self.ids[slot], self.context[slot], self.left[slot] = request, total + 1, left
            self.cycle[slot], self.keys[slot] = before, self.noise.keys[request]
            self.speculates[slot] = self.drafted_for[request]
            self.batch += 1
        self.reading = [*unfinished, *self.reading[len(chunks) :]]
        if not self.reading:
            self.reserved = 0.0

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

import math
from collections import deque
from collections.abc import Callable

import numpy as np

from specsim.checks import Integers
from specsim.checks.limits import require_limit
from specsim.drafting import Drafter
from specsim.serving.accepting import Accepting, Noise, classes_of, thresholds
from specsim.serving.arrivals import Traffic
from specsim.serving.policies import Policy
from specsim.serving.prompts import PromptPrice
from specsim.serving.server import Cache, Server
from specsim.serving.slots import WINDOW, Slots
from specsim.serving.surface import CyclePrice, Surface
from specsim.serving.tallies import Tallies

BLOCK = WINDOW  # steps of pure decoding that are computed together
KEPT = 16  # sets of prices that a server keeps, of megabytes each
Progress = Callable[[int, float], None]  # requests that are done, simulated seconds


def _price(
    server: Server, drafter: Drafter | None, gammas: list[int], most_context: int, context: int
) -> tuple[Surface, dict[int, CyclePrice], PromptPrice, Cache]:
    """What a run needs to know of its server; no run changes it."""
    limits = {"most_context": most_context, "most_sequences": server.max_seqs}
    surface = Surface(
        server.target, drafter, server.system,
        routing_correlation=server.routing_correlation, **limits,
    )  # fmt: skip
    prices = {gamma: surface.cycle(gamma) for gamma in gammas}
    prompts = PromptPrice(
        server.target, drafter, server.system, most_tokens=server.max_batched_tokens, **limits
    )
    cache = server.cache(
        drafts=drafter is not None, gamma=gammas[-1], most_context=most_context,
        mean_context=context,
    )  # fmt: skip
    return surface, prices, prompts, cache


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
        require_limit("served_context", traffic.most_context, "a prompt with its answer")
        most = traffic.most_context + self.most_gamma + 1
        asked = (policy.drafts, *gammas, most, traffic.mean_context)
        if asked not in server.priced:
            if len(server.priced) == KEPT:
                server.priced.clear()
            server.priced[asked] = _price(server, drafter, gammas, most, traffic.mean_context)
        self.surface, self.prices, self.prompts, self.cache = server.priced[asked]
        self.least_kept, self.most_kept = policy.bounds()
        count = len(traffic)
        self.classes = np.zeros(count, dtype=np.int64)
        limits: dict[int, Integers] = {}
        if drafter is not None:
            assert accepting is not None
            survivals = {g: accepting.survival(drafter, g) for g in gammas if g}
            limits = {g: thresholds(vector) for g, vector in survivals.items()}
            self.classes = classes_of(traffic.seed, count, len(next(iter(survivals.values()))))
        self.slots = Slots(server.max_seqs, Noise(traffic.seed, count), limits)
        self.tallies = Tallies(
            self.most_gamma, server.max_seqs,
            all_drafted=not policy.by_request, detailed=detailed,
        )  # fmt: skip
        # of requests
        self.sent_s, self.first_s, self.end_s = (np.full(count, np.nan) for _ in range(3))
        self.last_s = np.full(count, np.nan)  # last token of those that were preempted
        self.written = np.zeros(count, dtype=np.int64)
        self.refused = np.zeros(count, dtype=bool)
        self.drafted_for = np.full(count, policy.drafts)
        # of the server
        self.now, self.freed_s = 0.0, 0.0
        self.gamma = int(policy.gammas[0])
        self.next, self.done = 0, 0
        self.queue: deque[int] = deque()
        self.reading: list[list[int]] = []  # of each prompt: request, tokens read, tokens in all
        self.reserved = 0.0  # bytes of prompts that are read
        self.step_s = 0.0

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve all requests."""
        count = len(self.traffic)
        while self.done < count:
            self.take_arrivals()
            self.choose_gamma()
            self.make_room()
            chunks = self.plan_chunks()
            if self.slots.batch or chunks:
                self.step(chunks)
            elif not self.queue and self.next < count:
                self.now = max(self.now, float(self.traffic.arrival_s[self.next]))
            if self.progress is not None:
                self.progress(self.done, self.now)

    def step(self, chunks: list[tuple[int, int]]) -> None:
        """One pass of the target over everybody, or a block of them while nothing is read."""
        added_s, beside_s = self.reading_s(chunks)
        began, steps = self.now, self.steps_ahead(chunks)
        if not self.slots.batch:
            self.idle(added_s + beside_s)
        elif steps == 1:
            steps = self.decode_one(added_s, beside_s)
        else:
            steps = self.decode_block(steps)
        self.step_s = (self.now - began) / steps
        self.finish()
        self.end_prompts(chunks)

    def idle(self, seconds: float) -> None:
        """A step in which prompts are read and nothing decodes."""
        self.now += seconds
        self.tallies.step(self.now, seconds)

    def decode_one(self, added_s: float, beside_s: float) -> int:
        """One step of all sequences that decode, in plain numbers; `added_s` is work in the
        target's pass, `beside_s` outside of it."""
        slots, gamma = self.slots, self.gamma
        emitted = slots.emits(gamma, 1)[:, 0]
        few = int(np.add.reduce(slots.drafted[: slots.batch])) if self.policy.by_request else None
        if gamma and few is not None and 0 < few < slots.batch:
            seconds, moved, flops = self.shared_cycle(few, added_s)
        else:
            price = self.prices[0 if few == 0 else gamma]
            means = self.surface.readings.now(slots.tokens, slots.batch, slots)
            seconds, moved, flops = price.one(slots.batch, means, added_s)
        seconds += beside_s
        self.now += seconds
        self.tallies.step(self.now, seconds)
        self.tallies.decoded_one(gamma, slots, seconds, emitted)
        self.tallies.move(moved, flops)
        slots.advance(1, emitted, int(np.add.reduce(emitted)))
        self.tallies.kv_bytes(self.held_now(0))
        return 1

    def decode_block(self, steps: int) -> int:
        """Several steps in which nothing is read: all at once, cut where something happens."""
        slots, gamma = self.slots, self.gamma
        batch, readings = slots.batch, self.surface.readings
        emitted = slots.emits(gamma, steps)
        after = emitted.cumsum(axis=1)
        in_steps = np.add.reduce(emitted, axis=0)
        tokens = slots.tokens + (in_steps.cumsum() - in_steps)  # where each step begins
        more = None if readings.is_line and self.cache.is_line else after - emitted
        price = self.prices[gamma if not self.policy.by_request or slots.drafted[0] else 0]
        means = readings.ahead(tokens, batch, slots, more)
        seconds = price.seconds(batch, means)
        ends = self.now + seconds.cumsum()

        ended = np.asarray((after >= slots.left[:batch, None]).any(axis=0))
        steps = int(ended.argmax()) + 1 if ended.any() else len(ends)
        if self.admits_arrivals():
            arrival = float(self.traffic.arrival_s[self.next])
            steps = min(steps, int(ends.searchsorted(arrival)) + 1)
        if steps > 1 and self.held_bytes(int(tokens[steps - 1]), after[:, steps - 2], gamma + 1) > (
            self.cache.capacity_bytes
        ):
            steps = self.steps_that_fit(tokens, after, steps)

        self.now = float(ends[steps - 1])
        self.tallies.block(ends[:steps], seconds[:steps])
        self.tallies.decoded(gamma, slots, seconds[:steps], emitted[:, :steps])
        self.tallies.move(*price.moves(batch, means[:steps]).tolist())
        total = int(tokens[steps - 1] + in_steps[steps - 1]) - slots.tokens
        slots.advance(steps, after[:, steps - 1], total)
        self.tallies.kv_bytes(self.held_now(0))
        return steps

    def steps_that_fit(self, tokens: Integers, after: Integers, steps: int) -> int:
        """How many of the steps begin with room for their drafts; the first one does."""
        for step in range(1, steps):
            held = self.held_bytes(int(tokens[step]), after[:, step - 1], self.gamma + 1)
            if held > self.cache.capacity_bytes:
                return step
        return steps

    def held_now(self, ahead: int) -> float:
        """Bytes of the cache in use, with `ahead` tokens more in each sequence that decodes."""
        return self.held_bytes(self.slots.tokens, None, ahead)

    def held_bytes(self, tokens: int, more: Integers | None, ahead: int) -> float:
        """The same where the sequences hold `tokens` in all, each `more` than now."""
        slots, cache = self.slots, self.cache
        if cache.is_line:
            return self.reserved + cache.of_tokens(slots.batch, tokens, ahead)
        contexts = slots.context + ahead
        return self.reserved + cache.of_each(contexts if more is None else contexts + more)

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
        return len(self.queue) + len(self.reading) + self.slots.batch

    def admits_arrivals(self) -> bool:
        """Whether the next arrival could be admitted at once, and so ends a block of steps."""
        if self.next >= len(self.traffic) or self.queue:
            return False
        flying, most = len(self.reading) + self.slots.batch, self.traffic.concurrency
        return flying < self.server.max_seqs and (most is None or flying < most)

    def choose_gamma(self) -> None:
        """The policy's gamma for the batch, kept while the hysteresis keeps it."""
        batch = self.slots.batch
        wanted = min(max(self.gamma, self.least_kept[batch]), self.most_kept[batch])
        if wanted != self.gamma:
            self.gamma = wanted
            self.tallies.switches += 1

    def plan_chunks(self) -> list[tuple[int, int]]:
        """The tokens of prompts that this step reads, in the order of arrival: (tokens, cached) of
        the first prompts in `reading`. Admits requests while tokens, places and cache are left."""
        if not self.reading and not self.queue:
            return []
        rows = self.prices[self.gamma].rows.item(self.slots.batch)
        budget = self.server.max_batched_tokens - math.ceil(rows)
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
        if len(self.reading) + self.slots.batch >= self.server.max_seqs:
            return False
        prompt = int(self.traffic.input_tokens[request])
        total = prompt + int(self.written[request])
        need = self.cache.of(total + self.most_gamma + 1)
        if self.held_now(self.gamma + 1) + need > self.cache.capacity_bytes:
            return False
        self.queue.popleft()
        known = min(int(self.server.prefix_hit * prompt), total - 1)
        self.reading.append([request, known, total])
        self.reserved += need
        if self.policy.by_request:
            flying = min(len(self.reading) + self.slots.batch, self.server.max_seqs)
            self.drafted_for[request] = self.policy.gammas[flying] > 0
        return True

    def make_room(self) -> None:
        """Preempt those that came last until the next step fits into the cache."""
        slots, capacity = self.slots, self.cache.capacity_bytes
        while slots.batch and self.held_now(self.gamma + 1) > capacity:
            self.tallies.preemptions += 1
            if self.reading:
                request, _, total = self.reading.pop()
                self.reserved -= self.cache.of(total + self.most_gamma + 1)
            else:
                last = np.arange(slots.batch) < slots.batch - 1
                request = int(slots.ids[slots.batch - 1])
                whole = int(self.traffic.output_tokens[request])
                self.written[request] = whole - int(slots.left[slots.batch - 1])
                self.last_s[request] = self.now
                self.tallies.preempted(request)
                slots.keep(last)
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
        batch = self.slots.batch
        rows = price.rows.item(batch)
        attention_s, moved, flops = prompts.attention(chunks)
        added_s = prompts.linear_s(rows, tokens, rows, ended) + attention_s
        beside_s = prompts.each_s * ended
        if not batch:
            added_s = max(added_s, prompts.target.launch_s)
            beside_s += prompts.empty_s
        drafted = [
            chunk
            for chunk, (request, *_) in zip(chunks, self.reading, strict=False)
            if self.drafted_for[request]
        ]
        drafting_s, draft_moved, draft_flops = prompts.drafted(drafted)
        more_moved, more_flops = prompts.moved(rows, tokens)
        self.tallies.move(more_moved + moved + draft_moved, more_flops + flops + draft_flops)
        return added_s, beside_s + drafting_s

    def shared_cycle(self, few: int, added_s: float) -> tuple[float, float, float]:
        """Seconds, bytes and FLOPs of a cycle in which drafts are made for `few` sequences; the
        others ride in the pass that verifies them."""
        slots, readings, gamma = self.slots, self.surface.readings, self.gamma
        plain, price, riders = self.prices[0], self.prices[gamma], slots.batch - few
        drafted, context = slots.drafted[: slots.batch], slots.context[None]
        means, others = readings.means(context[:, drafted]), readings.means(context[:, ~drafted])
        rows = price.rows.item(few)
        attention_s, kept = plain.attention(riders, others)
        riding_s = self.prompts.linear_s(rows, riders, rows, riders) + attention_s
        seconds, moved, flops = price.one(few, means[0].tolist(), added_s + riding_s)
        seconds += float(plain.overhead_s[slots.batch] - plain.overhead_s[few])
        more_moved, more_flops = self.prompts.moved(rows, riders)
        return seconds, moved + more_moved + float(kept[0]), flops + more_flops + float(kept[1])

    def steps_ahead(self, chunks: list[tuple[int, int]]) -> int:
        """How many steps to compute together: 1 while a prompt is read."""
        slots = self.slots
        if chunks or self.block == 1 or not slots.batch:
            return 1
        drafted = slots.drafted[: slots.batch]
        if self.gamma and self.policy.by_request and drafted.any() and not drafted.all():
            return 1
        ahead = min(self.block, int(np.minimum.reduce(slots.left[: slots.batch])))
        if self.step_s and self.admits_arrivals():
            until = self.traffic.arrival_s.item(self.next) - self.now
            ahead = min(ahead, int(until / self.step_s * 1.2) + 2)
        return ahead

    # ------------------------------------------------------------------ what comes of it

    def finish(self) -> None:
        """Take out the sequences that have ended."""
        slots = self.slots
        left = slots.left[: slots.batch]
        if not slots.batch or np.minimum.reduce(left) > 0:
            return
        kept = left > 0
        slots.tokens += int(np.add.reduce(left[~kept]))  # of cycles that the end cut
        left[~kept] = 0
        self.leave(slots.ids[: slots.batch][~kept])
        slots.keep(kept)

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
            kind = self.classes.item(request)
            self.slots.add(request, kind, total + 1, left, bool(self.drafted_for[request]))
        self.reading = [*unfinished, *self.reading[len(chunks) :]]
        if not self.reading:
            self.reserved = 0.0

"""What is doubtful about a run, in sentences: counts that differ, a client that is the limit."""

import numpy as np

from specsim.evidence.client.arrays import CHUNKS, TEXT, USAGE, RunArrays

NEAR = 0.02  # relative: counts of tokens that differ by less are one count
FAR = 0.10  # of prompts, whose length a client without the tokenizer cannot know exactly
LATE_S = 0.010  # a request that is sent so long after it was due
FULL = 0.5  # share of what the client can take, from which on it may be the limit
GROWING = 0.05  # share of the arrivals of the second half that stays behind: the queue grows
BY = {USAGE: "the server's usage", TEXT: "the tokenizer", CHUNKS: "chunks with text"}


def findings_of(run: RunArrays) -> tuple[str, ...]:
    """The findings of a run, those that change its meaning first."""
    said = [*_ended(run), *_tokens(run), *_streams(run), *_queue(run), *_client(run)]
    said += run.cautions
    if run.counters is not None:
        said += run.counters.cautions
    return tuple(dict.fromkeys(said))


def _ended(run: RunArrays) -> list[str]:
    said, summary = [], run.summary
    if run.stopped is not None:
        said.append(
            f"Partial: {run.stopped}. Of {summary['num_prompts']} requests {summary['completed']} "
            f"were answered, {summary['failed']} failed, {summary['cut_off']} were cut off and "
            f"{summary['unsent']} not sent."
        )
    if summary["failed"]:
        why, count = next(iter(run.failures.items()))
        others = f", and {len(run.failures) - 1} other reasons" if len(run.failures) > 1 else ""
        said.append(
            f"{summary['failed']} of {len(run)} requests failed and are in no mean: {count} of "
            f"them by {why}{others}."
        )
    return said


def _tokens(run: RunArrays) -> list[str]:
    said: list[str] = []
    counts, done = run.token_counts, run.completed
    usage, text, chunks, own = (counts[n] for n in (USAGE, TEXT, CHUNKS, "server"))
    if not done.any():
        return said
    told = done & np.isfinite(run.usage)
    if not told.any():
        said.append(f"The server sends no usage: tokens are counted by {BY[run.counted_by]}.")
        if run.counted_by == CHUNKS:
            said.append(
                "A chunk counts as one token. A server that speculates sends several in one: then "
                "there are more tokens, and TPOT is shorter; give --tokenizer FILE."
            )
    elif run.counted_by != USAGE:
        carried = int(run.text_chunks[told].sum())
        why = f"answers of which {carried:,} chunks carry text"
        if usage is not None and usage >= carried:
            why = f"texts in which the tokenizer counts {text:,.0f} (if it is the model's own)"
        said.append(
            f"The server's usage is wrong: it counts {usage:,.0f} tokens in {why}. Tokens are "
            f"counted by {BY[run.counted_by]} instead."
        )
    elif told.sum() < done.sum():
        said.append(
            f"{int(done.sum() - told.sum())} answers came without usage: theirs are counted by "
            f"{BY[TEXT if run.text_tokens is not None else CHUNKS]}."
        )
    if text and usage and run.counted_by == USAGE and _differ(usage, text, NEAR):
        said.append(
            f"The counts of tokens differ: {usage:,.0f} by the server's usage, {text:,.0f} in the "
            "text by the tokenizer: special or hidden tokens, or another tokenizer."
        )
    if own and usage and _differ(usage, own, NEAR):
        said.append(
            f"The server's own counter grew by {own:,.0f} tokens, its usage counts {usage:,.0f}: "
            "others used it in the meantime, or a count is wrong."
        )
    if run.counted_by == USAGE and chunks and usage and usage > 1.05 * chunks:
        said.append(
            f"A chunk carries {usage / chunks:.2f} tokens on average: ITL, between chunks, is "
            "longer than the time of a token."
        )
    return said + _lengths(run)


def _lengths(run: RunArrays) -> list[str]:
    said, done = [], run.completed
    asked = np.array([each.asked_output for each in run.answers])
    by_limit = done & np.array([each.finish == "length" for each in run.answers])
    off = by_limit & (run.tokens != asked)
    if run.counted_by == USAGE and off.sum() > 0.02 * done.sum():
        said.append(
            f"{int(off.sum())} answers ended by their limit, but not with as many tokens as were "
            "asked for."
        )
    early = done & ~by_limit & (run.tokens < asked)
    if early.any():
        said.append(
            f"{int(early.sum())} of {int(done.sum())} answers ended before their limit, "
            f"{run.tokens[done].mean():.1f} tokens of {asked[done].mean():.1f} on average; "
            "--ignore-eos makes answers of full length, where the server knows it."
        )
    told = done & np.array([each.usage_input is not None for each in run.answers])
    wanted = np.array([each.asked_input for each in run.answers])
    if told.any() and wanted[told].all():
        read, meant = run.input_tokens[told].mean(), wanted[told].mean()
        if _differ(read, meant, FAR):
            said.append(
                f"Prompts have {read:.1f} tokens on average by the server's count, {meant:.1f} "
                "were asked for."
            )
    return said


def _streams(run: RunArrays) -> list[str]:
    said, done = [], run.completed
    whole = sum(each.completed and not each.streamed for each in run.answers)
    if whole:
        said.append(
            f"{whole} answers came in one piece: the server does not stream them, and TTFT is the "
            "whole answer."
        )
    later = done & (run.first_text_s > run.ttft_s)
    if later.any():
        first, text = run.ttft_s[later].mean() * 1e3, run.first_text_s[later].mean() * 1e3
        if text > 1.05 * first + 0.1:
            said.append(
                f"{int(later.sum())} streams begin with a chunk without text, which ends TTFT in "
                f"vLLM's convention: {first:.2f} ms on average, {text:.2f} ms to the first text."
            )
    return said


def _queue(run: RunArrays) -> list[str]:
    """An open loop in which more requests were on their way at the last arrival than half-way."""
    arrivals = run.load.arrival_s
    last = float(arrivals[-1]) if len(arrivals) else 0.0
    if run.load.concurrency is not None or not last > 0.0 or run.stopped is not None:
        return []
    ends = np.array([e.at_s[-1] for e in run.answers if e.completed]) - run.begun_s
    flying = [int((arrivals <= at).sum() - (ends <= at).sum()) for at in (last / 2, last)]
    late = int((arrivals > last / 2).sum())
    if flying[1] - flying[0] <= max(GROWING * late, 3.0 * late**0.5):
        return []
    return [
        f"The queue grew as long as requests came, from {flying[0]} on their way half-way to "
        f"{flying[1]} at the last arrival: TTFT and end-to-end latency grow with --requests and "
        "have no mean."
    ]


def _client(run: RunArrays) -> list[str]:
    said, own, done = [], run.overhead, run.completed
    if own is not None and done.any():
        first = float(run.ttft_s[done].mean())
        if own.first_s > 0.1 * first:
            said.append(
                f"The client itself takes {own.first_s * 1e3:.2f} ms to a first chunk, a large "
                f"part of the mean TTFT of {first * 1e3:.2f} ms."
            )
        rate = run.client["chunks_per_s"] or 0.0
        if rate > FULL * own.chunks_per_s:
            said.append(
                f"The client may be the limit: {rate:,.0f} chunks per second of the "
                f"{own.chunks_per_s:,.0f} that it can take here."
            )
    if run.busy is not None and run.busy > FULL:
        said.append(f"The client was busy {run.busy:.0%} of the time: it may be the limit.")
    if run.load.concurrency is None and len(run):
        late = run.waited_s > LATE_S
        if late.sum() > 0.02 * len(run):
            said.append(
                f"The client sent {int(late.sum())} of {len(run)} requests more than "
                f"{LATE_S * 1e3:.0f} ms after they were due."
            )
    return said


def _differ(one: float, two: float, near: float) -> bool:
    return abs(one - two) > near * max(abs(one), abs(two))

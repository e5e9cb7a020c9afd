# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. A server under load
#
# **Question.** Requests come when they like and are as long as they like. When does a server with
# speculation still keep its promises, and with which γ?
#
# **Takes** less than a minute. **Needs** only `specsim`. Everything below is simulated: the same
# requests, step by step, with the prices of passes from the other notebooks. No number is measured.
#
# α, the traffic and the limits are *inputs* with round values. Change them to yours and run the
# cells again.

# %%
import numpy as np

import specsim
from specsim import course, explorer, figures, serving
from specsim.acceptance import IID
from specsim.course import quiz
from specsim.evidence.served.traces import Request
from specsim.serving import tuning

target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
system = specsim.system("h100-sxm", engine="vllm", precision="bf16")
server = serving.Server(target=target, drafter=specsim.DraftModel(draft), system=system)
ALPHA = 0.75
SLO = serving.Slo(ttft=500, tpot=15)  # what a user is promised, in milliseconds
lengths = {"prompt": serving.Lengths(400, 0.8), "output": serving.Lengths(200, 0.7)}
some = serving.traffic(rate=10, requests=1000, **lengths)
course.say(f"""
{target.name} with {draft.name} on one {system.accelerator.name}. Prompts have
{some.input_tokens.mean():.0f} tokens on average, one in twenty has more than
{np.percentile(some.input_tokens, 95):.0f}; answers have {some.output_tokens.mean():.0f} and
{np.percentile(some.output_tokens, 95):.0f}. A request is *good* if its first token comes within
{SLO.ttft:.0f} ms (TTFT) and its other tokens take at most {SLO.tpot:.0f} ms each on average (TPOT).
""")

# %% [markdown]
# ## The batch changes at every step
#
# Answers end at different times. A server with fixed batches waits for the longest answer of a
# batch, and the places of the others stay empty. With *continuous batching* every pass is a new
# batch: what has ended leaves, what waits takes its place. Here is one server with few places, at
# a low and at a high rate of requests.

# %%
places = 64
few = serving.Server(target=target, system=system, max_seqs=places)
seconds = course.effort(30, 12)
runs = {
    rate: serving.simulate(
        few, serving.traffic(rate=rate, requests=rate * seconds, **lengths), policy="off"
    )
    for rate in (5, 40)
}
figure, panels = figures.subplots(2, height=2.7)
for axes, (rate, run) in zip(panels, runs.items(), strict=True):
    title = f"{rate} requests per second: {run.state}"
    figures.requests_over_time(axes, run, until=seconds, title=title)
figure

# %%
groups = some.output_tokens[: 1000 // places * places].reshape(-1, places)
used = float(groups.sum() / (places * groups.max(axis=1).sum()))
low, high = (run.summary for run in runs.values())
course.say(f"""
At the low rate {low["batch_mean"]:.1f} requests decode at a time: a request finds a free place when
it comes, and the batch follows from the load. At the high rate all {places} places are taken, and
those that find none wait. The queue grows as long as requests come.

**With fixed batches of {places} only {used:.0%} of the places would do work. Continuous batching
fills them all, so the batch is what the traffic makes of it, not a setting.**
""")

# %% [markdown]
# ## Memory by the page
#
# Nobody knows how long an answer will be. A server that reserves the longest possible cache for
# each request wastes most of it. With *paging* the cache grows in small pages, as an operating
# system gives memory to programs, and a request takes what it has written. The price: the cache
# can become full in the middle of an answer. Then a request is *preempted*: it gives up its pages,
# waits, and its prompt is read again.

# %%
reserved = 8192  # tokens, if each request reserves what an operator allows at most
cache = server.cache(drafts=False, gamma=0, most_context=reserved, mean_context=500)
mean = float(np.mean(some.input_tokens + some.output_tokens / 2))
whole, paged = (int(cache.capacity_bytes / cache.of(round(n))) for n in (reserved, mean + 8))
rows, written = [], []
load = serving.traffic(rate=20, requests=course.effort(600, 200), **lengths)
for tokens in (60_000, 20_000, 12_000):
    small = serving.Server(target=target, system=system, kv_tokens=tokens)
    run = serving.simulate(small, load, policy="off")
    again = run.summary["preemptions"] / len(load)
    written.append(run.summary["output_throughput"])
    rows.append(
        f"| {tokens:,} | {run.summary['kv_peak']:.0%} | {again:.2f} "
        f"| {run.summary['output_throughput']:.0f} | {run.state} |"
    )
rows = "\n".join(rows)
course.say(f"""
| tokens in the cache | most in use | preemptions per request | tokens/s | state |
|---|---|---|---|---|
{rows}

A token of this model takes {cache.rise / 1e3:.0f} kB of cache, and {cache.capacity_bytes / 1e9:.0f}
GB are left for all. **Reserving {reserved:,} tokens each, {whole} requests fit; paged, {paged:,} of
the mean size do. But where the cache is full, prompts are read twice: the smallest one serves
{1 - written[-1] / written[0]:.0%} fewer tokens per second.**
""")

# %% [markdown]
# ## A long prompt makes the others wait
#
# Reading a prompt is one wide pass, and in that pass everybody else gets one token. If the prompt
# is long, all others wait for it. *Chunked prefill* limits the tokens of a pass: the prompt is read
# in pieces, and between them the others go on. Here some users read their answers, and after a
# second somebody else sends a very long prompt.

# %%
long = 32_000
others = [Request(0.0, 200, 400) for _ in range(8)]
load = serving.traffic_of([*others, Request(1.0, long, 20)])
streams, worst, first = {}, {}, {}
for budget in (long + 64, 2048, 256):
    one = serving.Server(target=target, system=system, max_batched_tokens=budget, max_seqs=64)
    run = serving.simulate(one, load, policy="off", detailed=True)
    gaps = np.array(run.detailed()["itls"][0])
    label = "no chunks" if budget > long else f"chunks of {budget}"
    streams[label] = (run.ttft_s[0] + gaps.cumsum(), gaps)
    worst[budget], first[budget] = 1e3 * gaps.max(), float(run.ttft_s[-1])
figure, axes = figures.subplots()
figures.token_gaps(axes, streams, title=f"one of the others; a prompt of {long:,} comes at 1 s")
figure

# %%
uncut, usual, least = worst
course.say(f"""
Without chunks the others wait {worst[uncut]:.0f} ms for one token; with chunks of {usual} the
longest gap is {worst[usual]:.0f} ms, with chunks of {least} it is {worst[least]:.0f} ms. The long
prompt itself waits {first[uncut]:.2f} s, {first[usual]:.2f} s and {first[least]:.2f} s for its
first token, as every chunk reads the weights again.

**Chunks make the longest gap {worst[uncut] / worst[usual]:.0f}× shorter, and the long prompt
{first[usual] / first[uncut] - 1:.0%} slower. The smallest chunks cost the long prompt
{first[least] / first[uncut] - 1:.0%}.**
""")

# %% [markdown]
# ## Before there is a queue, there is a batch
#
# In a bank, waiting begins when all counters are busy. Here every request that decodes makes the
# pass of all others a little longer, so the time per token rises long before anybody waits. The
# next cell serves the same requests at several rates under several policies: no speculation, some
# fixed γ, and `best`, which tries candidates on other traffic of the same kind and takes the best
# one.

# %%
rates = course.effort((2, 5, 10, 20, 30, 35, 40, 45), (5, 20, 40))
seconds = course.effort(50, 5)
policies = ("off", "fixed:2", "fixed:4", "fixed:6", "best")
found = {
    (policy, rate): serving.simulate(
        server,
        serving.traffic(rate=rate, requests=rate * seconds, **lengths),
        policy=policy,
        alpha=ALPHA,
        slo=SLO,
    )
    for rate in rates
    for policy in policies
}

# %%
figure, panels = figures.subplots(2)
for axes, metric in zip(panels, ("ttft", "tpot"), strict=True):
    lines = []
    for policy, concept in (("off", "plain"), ("fixed:2", "speedup")):
        for key, word in (("median", "median"), ("p99", "99th percentile")):
            values = [found[policy, r].summary[f"{key}_{metric}_ms"] for r in rates]
            y = [np.nan if value is None else value for value in values]
            lines.append(figures.Curve(f"{policy}, {word}", rates, y, concept))
    x, y = "arrivals (requests/s)", f"{metric.upper()} (ms)"
    figures.curves(axes, lines, x, y, doubling=False, log_y=True)
    axes.set_xlim(0, rates[-1] + 1)
figure

# %%
quiet, loud = (found["off", rate].summary for rate in (rates[0], rates[-2]))
course.say(f"""
Where a line ends, the queue grows without end (`overloaded`), and a mean of its waiting times would
only say how long we looked.

**Without speculation, from {rates[0]} to {rates[-2]} requests per second the median time per token
grows {loud["median_tpot_ms"] / quiet["median_tpot_ms"]:.1f}×: {loud["batch_mean"]:.0f} requests
share a pass instead of {quiet["batch_mean"]:.0f}. The median TTFT is still
{loud["median_ttft_ms"]:.0f} ms: few wait for a place, all wait for longer passes.**
""")

# %% [markdown]
# ## Speculation at low and at high load
#
# *Goodput* counts the requests that keep to the SLO. Throughput alone would praise a server that
# answers everybody too late. (The figure shows the share of good requests times the rate of
# arrivals. The goodput that a finite benchmark reports is lower: its time includes the last
# answers, while nothing comes any more.)

# %%
named = {"off": "plain", "best": "tokens"}
lines = [figures.Curve("offered", rates, rates, "overhead")]
for policy in ("best", "fixed:4", "fixed:6", "fixed:2", "off"):
    share = [r * found[policy, r].summary["request_goodput"]
             / found[policy, r].summary["request_throughput"] for r in rates]  # fmt: skip
    lines.append(figures.Curve(policy, rates, share, named.get(policy, "speedup")))
figure, axes = figures.subplots(height=3.8)
title = f"TTFT within {SLO.ttft:.0f} ms, TPOT within {SLO.tpot:.0f} ms"
x, y = "arrivals (requests/s)", "good (requests/s)"
figures.curves(axes, lines, x, y, doubling=False, title=title)
figure

# %%
table = []
for rate in rates:
    plain = found["off", rate].summary
    cells = []
    for policy in policies:
        one = found[policy, rate].summary
        faster = plain["mean_tpot_ms"] / one["mean_tpot_ms"]
        good = one["request_goodput"] / one["request_throughput"]
        cells.append(f"{faster:.2f}×, {good:.0%} good")
    table.append(f"| {rate} | {' | '.join(cells)} |")
table = "\n".join(table)
busy = course.effort(30, 40)
gain = {r: found["off", r].summary["mean_tpot_ms"] / found["fixed:6", r].summary["mean_tpot_ms"]
        for r in (rates[0], busy)}  # fmt: skip
idle = [rate for rate in rates if not found["best", rate].loop.policy.drafts]
blind = "(Goodput does not see speed: where all requests are good, `best` may keep `off`, as at "
blind = f"{blind}{idle[0]} per second.)" if idle else ""
course.say(f"""
Tokens come so many times as fast as with `off`, and so many requests are good:

| requests/s | {" | ".join(policies)} |
|---|{"---|" * len(policies)}
{table}

In an overloaded server TPOT says little: requests wait outside, so that fewer decode at a time.
{blind}

**γ = 6 makes tokens {gain[rates[0]]:.2f}× as fast at {rates[0]} requests per second and
{gain[busy]:.2f}× at {busy}: a long draft is good for an idle server and bad for a busy one.**
""")

# %% [markdown]
# ## A γ for each batch
#
# So γ should follow the load. A server sees its batch, so a policy can be a table: γ by batch.
# `scheduled` takes the γ with the most tokens per second at each batch. `marginal` adds a draft
# while it gains more than it costs. `admit` decides for each request when it comes. A table that
# switches can oscillate: speculation makes the batch smaller, and the smaller batch switches it
# on again. `hysteresis` keeps the γ until the batch has clearly left its range. Here drafts are
# worse than above, so that the choice matters.

# %%
worse = 0.6
rate = 30
load = serving.traffic(rate=rate, requests=rate * course.effort(40, 6), **lengths)
accepting = serving.Accepting(IID(worse))
tuned = tuning.tune(
    server, load, accepting, slo=SLO, gammas=np.arange(course.effort(6, 4)), hysteresis=0.1
)
alike = {}  # policies by what came of them
for run in tuned.runs:
    ranges = ", ".join(f"{a} to {b}: γ = {gamma}" for a, b, gamma in run.loop.policy.ranges())
    cells = (
        f"{ranges} | {run.summary['mean_tpot_ms']:.1f} | {run.goodput:.2f} "
        f"| {max(tuned.loss(run), 0):.1%} | {run.summary['gamma_switches']}"
    )
    alike.setdefault(cells, []).append(run.policy)
rows = [f"| {'; '.join(names)} | {cells} |" for cells, names in alike.items()]
rows = "\n".join(rows)
course.say(f"""
| policy | γ by batch | mean TPOT (ms) | good per second | loses | switches |
|---|---|---|---|---|---|
{rows}
""")

# %%
table, steady = tuned.named("scheduled"), tuned.named("scheduled, hysteresis 0.1")
worst = min(tuned.runs, key=lambda run: run.goodput)
course.say(f"""
At α = {worse} and {rate} requests per second the schedule changes γ
{table.summary["gamma_switches"]} times, with hysteresis {steady.summary["gamma_switches"]} times.
The best single γ is `{tuned.best_static.policy}`.

**A wrong γ costs much ({worst.policy} loses {tuned.loss(worst):.0%}); after the right single γ, a
schedule changes {abs(tuned.loss(table)):.1%}. First choose γ for your load, then think about
schedules.**
""")

# %% [markdown]
# ## How many users, if each is promised a speed?
#
# Turn the question round. A promise is a speed for each user, here `30` tokens per second. How many
# users can a server have at the same time? Users in a *closed loop* send their next request when
# the last one is answered. The speed includes their waiting, so nobody can hide a queue in it.

# %%
large = specsim.model("llama-3.3-70b")
four = specsim.system("h100-sxm", engine="vllm", precision="fp8", tensor_parallel=4)
shared = serving.Server(target=large, drafter=specsim.DraftModel(draft), system=four)
promise = 30  # tokens per second
crowds = course.effort((10, 20, 40, 80, 120, 160, 200, 250), (20, 120, 250))
loads = [
    serving.traffic(concurrency=users, requests=users * course.effort(6, 2), **lengths)
    for users in crowds
]
speeds = {}
for policy in ("off", "fixed:2", "fixed:4"):
    runs = [serving.simulate(shared, load, policy=policy, alpha=ALPHA) for load in loads]
    speeds[policy] = [
        float(load.output_tokens.sum() / run.e2el_s.sum())
        for load, run in zip(loads, runs, strict=True)
    ]
lines = [
    figures.Curve(policy, crowds, values, "plain" if policy == "off" else "speedup")
    for policy, values in speeds.items()
]
lines.append(figures.Curve("promised", crowds, np.full(len(crowds), promise), "overhead"))
figure, axes = figures.subplots()
x, y = "users (at a time)", "each user, waiting included (tokens/s)"
figures.curves(axes, lines, x, y, doubling=False, title=f"{large.name}, fp8, 4 H100")
figure

# %%
most = {
    policy: float(np.interp(-promise, -np.array(values), crowds))
    for policy, values in speeds.items()
}
course.say(f"""
With {crowds[0]} users each gets {speeds["off"][0]:.0f} tokens/s without speculation,
{speeds["fixed:2"][0]:.0f} with γ = 2 and {speeds["fixed:4"][0]:.0f} with γ = 4.

**{promise} tokens/s for each: about {most["off"]:.0f} users with `off`, {most["fixed:2"]:.0f} with
γ = 2, {most["fixed:4"]:.0f} with γ = 4. Where few ask, speculation makes their answers faster;
where many ask, it makes room for {most["fixed:2"] / most["off"] - 1:.0%} more of them.**
""")

# %% [markdown]
# ## What the simulation leaves out
#
# | left out | the prediction is |
# |---|---|
# | tokenisation, the network, the scheduler's own time | optimistic |
# | the last page of each cache, which is half empty | optimistic |
# | prefill on other machines than decoding (*disaggregation*) | pessimistic for gaps |
# | swapping a cache to the host instead of reading the prompt again | pessimistic |
# | easy and hard texts (set `alpha_spread`) | too even |
#
# The price of every pass has the error that notebook 4 is about. `specsim serve-sim` and `specsim
# tune` do all of this in a shell. The explorer has a card for it, which needs a running kernel:

# %%
course.live(
    lambda: explorer.many_users(
        target=large.name, precision="fp8", tensor_parallel=4, alpha=ALPHA, users=100
    )
)

# %% [markdown]
# **A simulated server compares policies on the same traffic. Measure yours before you believe its
# absolute times.**

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. The reply to a wrong answer names the likely mistake.

# %%
at = found["off", rates[1]]
in_system = float(np.nanmean(at.e2el_s))
little = quiz.Question(
    f"Requests come at {rates[1]} per second and each is in the server for {in_system:.2f} s on "
    "average. How many are in the server at a time?",
    answer=lambda: rates[1] * in_system,
    tolerance=0.02,
    mistakes={
        "you divide the rate by the time": lambda: rates[1] / in_system,
        "you divide the time by the rate": lambda: in_system / rates[1],
    },
)
quiz.ask(little)

# %%
goodput = quiz.Question(
    "A server completes 40 requests per second. 30 % of them miss the limit of TTFT, 20 % miss "
    "that of TPOT, and half of those that miss TPOT miss TTFT too. What is the goodput, in "
    "requests per second?",
    answer=lambda: 40 * (1 - 0.3 - 0.2 + 0.1),
    tolerance=0.01,
    mistakes={
        "you count those that miss both twice": 20.0,
        "you take the two misses as independent": lambda: 40 * 0.7 * 0.8,
        "you look at TTFT alone": 28.0,
    },
    unit="requests/s",
)
quiz.ask(goodput)

# %%
crowded = quiz.Choice(
    "A benchmark at batch 1 says that γ = 6 is best. Your server decodes about 100 requests at a "
    "time. What do you do?",
    answer="simulate or measure at your own load: the best γ is smaller there, and may be 0",
    options={
        "take γ = 6: the acceptance is the same": (
            "the acceptance is, but drafts and wider passes take time that an idle server had."
        ),
        "simulate or measure at your own load: the best γ is smaller there, and may be 0": (
            "the batch uses the arithmetic that speculation needs."
        ),
        "take a larger γ: more users, more to gain": "a busy server has less idle arithmetic.",
    },
)
quiz.ask(crowded)

# %% [markdown]
# ## References
#
# - [Yu et al., *Orca*](https://www.usenix.org/conference/osdi22/presentation/yu): a new batch at
#   every step.
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*,
#   [arXiv:2309.06180](https://arxiv.org/abs/2309.06180): a cache in blocks.
# - Agrawal et al., *Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve*,
#   [arXiv:2403.02310](https://arxiv.org/abs/2403.02310): prompts in chunks.
# - Liu et al., *Optimizing Speculative Decoding for Serving Large Language Models Using Goodput*,
#   [arXiv:2406.14066](https://arxiv.org/abs/2406.14066): γ by load.

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
# # 7. Serving and cost
#
# **Question.** What does speculation change on a server with many users: the waiting time, the
# cost, the energy? And what should you set?
#
# **Takes** a few seconds. **Needs** only `specsim`. A notebook cannot measure a server with many
# users, so everything below is predicted with constants from the catalog.
#
# Prices, α and the energy of a byte are *inputs* with round values. Change them to yours and run
# the cells again.

# %%
import numpy as np

import specsim
from specsim import course, explorer, figures, planning
from specsim.acceptance import latency
from specsim.course import quiz
from specsim.planning import economics, memory, prefill

target, draft = specsim.model("llama-3-70b"), specsim.model("llama-3.2-1b")
drafter = specsim.DraftModel(draft)
system = specsim.system("h100-sxm", engine="vllm", tensor_parallel=4)
traffic = {"alpha": 0.75, "context": 2048}
held = memory.footprint(target, system, batch=1, context=2048, gamma=4, drafter=drafter)
course.say(f"""
{target.name} with {draft.name} on {system.tensor_parallel} {system.accelerator.name}: each device
holds {float(held.weight_bytes) / 1e9:.1f} GB of target weights and
{float(held.draft_weight_bytes) / 1e9:.1f} GB of draft weights. Of its
{held.capacity_bytes / 1e9:.0f} GB, {float(held.spare_bytes) / 1e9:.1f} GB are left for the KV
caches of the users.
""")

# %% [markdown]
# ## Latency against throughput
#
# On a server you can trade latency against throughput with the batch. A larger batch gives more
# tokens in total, and fewer to each user. Plain decoding gives one curve between the two,
# speculation another. Compare them at equal latency or at equal load, not at equal batch.

# %%
sizes = 2 ** np.arange(8)
fits = memory.footprint(target, system, batch=sizes, context=2048, gamma=6, drafter=drafter).fits
sizes = sizes[fits]
best = planning.plan(target, drafter, system, batches=sizes.tolist(), **traffic)
plain = specsim.predict(target, None, system, batch=sizes, context=2048)
lines = [
    figures.Curve("plain", plain.tokens_per_s, 1 / plain.step_s, "plain"),
    figures.Curve("speculative, best γ", best.tokens_per_s, 1 / best.token_s, "speedup"),
]
figure, axes = figures.subplots(height=3.6)
x = "all users together (tokens/s)"
figures.curves(
    axes, lines, x, "each user (tokens/s)", title=f"batch 1 to {sizes[-1]}, left to right"
)
figure

# %%
common = min(plain.tokens_per_s.max(), best.tokens_per_s.max()) / 2
slow, quick = (
    float(np.interp(common, rate, speed))
    for rate, speed in (
        (plain.tokens_per_s, 1 / plain.step_s),
        (best.tokens_per_s, 1 / best.token_s),
    )
)
course.say(f"""
At half of the largest load ({common:.0f} tokens/s in total), each user gets {slow:.0f} tokens/s
with plain decoding and {quick:.0f} tokens/s with speculation.

**At equal load speculation gives each user {quick / slow:.2f}×. At the right end of the figure,
where the batch is {sizes[-1]}, it still gives {best.speedup[-1]:.2f}× with γ = {best.gamma[-1]}.**
""")

# %% [markdown]
# ## You do not choose the batch
#
# On a live server the batch follows from the arrivals: sequences in flight = token rate × seconds
# per token (Little's law). If cycles are faster, sequences finish sooner, so the batch becomes
# smaller and the cycles become faster again. So below the server's capacity, a gain at a fixed
# batch is *smaller* than the gain that users see. (The capacity is another question. It depends on
# the largest batch, where little arithmetic is idle.)

# %%
gamma = 4
rates = np.array([100, 200, 400, 800, 1600, 3200])
loads = {
    g: [
        economics.operating_point(
            target,
            drafter if g else None,
            system,
            token_rate=rate,
            gamma=g,
            most=int(sizes[-1]),
            **traffic,
        )
        for rate in rates
    ]
    for g in (0, gamma)
}
lines = [
    figures.Curve(label, rates, [1e3 * load.token_s for load in loads[g]], concept)
    for g, label, concept in ((0, "plain", "plain"), (gamma, f"γ = {gamma}", "speedup"))
]
figure, axes = figures.subplots()
figures.curves(axes, lines, "load (tokens/s)", "time per token of a user (ms)")
figure

# %%
open_gain = loads[0][-1].token_s / loads[gamma][-1].token_s
busy = round(loads[0][-1].batch)
fixed = float(specsim.predict(target, drafter, system, gamma=gamma, batch=busy, **traffic).speedup)
course.say(f"""
At {rates[-1]} tokens/s the plain server has {loads[0][-1].batch:.0f} sequences in flight, the
speculative one {loads[gamma][-1].batch:.0f}.

**At the same load the tokens arrive {open_gain:.2f}× faster, while a benchmark at a fixed batch of
{busy} would report {fixed:.2f}×.** Up to a batch of {sizes[-1]} the capacity of the server is
{loads[0][0].capacity_tokens_per_s:.0f} tokens/s with plain decoding and
{loads[gamma][0].capacity_tokens_per_s:.0f} tokens/s with γ = {gamma}.
""")

# %% [markdown]
# ## What a user notices
#
# The time to the first token comes from the prefill: one wide pass over the prompt, which is
# compute-bound. Speculation does not make it shorter, and the draft must also read the prompt.
# After that, tokens arrive in groups: most gaps are zero, and each of the others is a whole cycle,
# which is longer than a plain step.

# %%
alone = system
first = prefill.time_to_first_token(target, alone, prompt=2048)
with_draft = prefill.time_to_first_token(target, alone, prompt=2048, draft=draft)
one = specsim.predict(target, drafter, alone, gamma=gamma, **traffic)
survival = 0.75 ** np.arange(1, gamma + 1)
tau, cycle_s = float(one.tokens_per_cycle), float(one.cycle_s)
cycles = latency.cycles_to_emit(128, survival)
course.say(f"""
| one user, a prompt of 2048, a reply of 128 | plain | γ = {gamma} |
|---|---|---|
| time to the first token | {1e3 * float(first.total_s):.0f} ms \
| {1e3 * float(with_draft.total_s):.0f} ms |
| mean time per token | {1e3 * float(one.step_s):.1f} ms | {1e3 * cycle_s / tau:.1f} ms |
| gaps that are zero | 0 % | {float(latency.zero_gap_share(tau)):.0%} |
| a gap, 99th percentile | {1e3 * float(one.step_s):.1f} ms \
| {1e3 * float(latency.gap_percentile_s(cycle_s, tau, 99)):.1f} ms |
| the whole reply, median | {128 * float(one.step_s):.2f} s \
| {float(cycles.percentile(50)) * cycle_s:.2f} s |
| the whole reply, 95th percentile | {128 * float(one.step_s):.2f} s \
| {float(cycles.percentile(95)) * cycle_s:.2f} s |

(The percentiles contain only the chance of acceptance. Easy and hard texts make them wider.)

**The reply is complete {128 * float(one.step_s) / (cycles.mean * cycle_s):.2f}× sooner, the first
token comes {float(with_draft.total_s / first.total_s) - 1:.1%} later, and the longest gaps are
{cycle_s / float(one.step_s):.2f}× as long. So say which latency you mean.**
""")

# %% [markdown]
# ## Dollars and joules per million tokens
#
# You pay for machine time, so dollars per token are the price per hour divided by the throughput.
# Energy goes into bytes, into FLOPs, and into idle power. Speculation saves bytes and seconds, and
# spends FLOPs. The price is an input. The energy constants are inputs too: orders of magnitude that
# nobody measured here. Trust how the curves change, not their absolute values.

# %%
PRICE = 10.0  # dollars per hour for all four devices together
costs = {}
for label, g, who in (("plain", 0, None), (f"γ = {gamma}", gamma, drafter)):
    over = specsim.predict(
        target, who, system, gamma=g, batch=sizes, **(traffic if g else {"context": 2048})
    )
    costs[label] = economics.token_cost(over, price_per_hour=PRICE)
concepts = ("plain", "speedup")
figure, (money, energy) = figures.subplots(2, height=2.9)
lines = [
    figures.Curve(label, sizes, cost.dollars_per_million, concept)
    for (label, cost), concept in zip(costs.items(), concepts, strict=True)
]
figures.curves(money, lines, "batch (sequences)", "dollars per million tokens ($)", log_y=True)
lines = [
    figures.Curve(label, sizes, cost.joules, concept)
    for (label, cost), concept in zip(costs.items(), concepts, strict=True)
]
figures.curves(energy, lines, "batch (sequences)", "energy per token (J)", log_y=True)
figure

# %%
bill = {label: cost.dollars_per_million for label, cost in costs.items()}
spent = {label: cost.joules for label, cost in costs.items()}
fast = f"γ = {gamma}"
course.say(f"""
At batch 1 speculation reduces the cost of a million tokens from ${bill["plain"][0]:.2f} to
${bill[fast][0]:.2f}. A batch of {sizes[-1]} without speculation reduces it to
${bill["plain"][-1]:.2f}.

**Batching makes tokens cheap ({bill["plain"][0] / bill["plain"][-1]:.0f}×); speculation makes them
fast. It saves {1 - spent[fast][0] / spent["plain"][0]:.0%} of the energy at batch 1 and
{1 - spent[fast][-1] / spent["plain"][-1]:.0%} at {sizes[-1]}.**
""")

# %% [markdown]
# ## Desktops, laptops and boards
#
# One user, one device, no batch: decoding on such a device is as memory-bound as it can be. A draft
# helps, but it needs memory next to the target. The figure shows an 8B target in four bits with a
# 1B draft in the same format. The constants are llama.cpp's; they were fitted to discrete GPUs and
# Apple's chips, and the other devices use the same ones. (Phones and the smallest boards are left
# out. The catalog knows their bandwidth but not their FLOP/s, and on them a verification of a few
# tokens may already be compute-bound. A prediction from bytes alone would be too optimistic.)

# %%
edge = ("rtx-4090", "rtx-3060", "m2-ultra", "m1-pro", "dgx-spark", "jetson-agx-orin")
model, tiny = specsim.model("llama-3.1-8b"), specsim.DraftModel(draft)
speeds = {}
for name in edge:
    machine = specsim.system(name, engine="llama.cpp", precision="q4_0")
    if memory.footprint(model, machine, drafter=tiny, gamma=4).fits:
        over = specsim.predict(model, tiny, machine, gamma=range(9), alpha=0.75)
        most = float(over.speculative_tokens_per_s.max())
        speeds[name] = [float(over.tokens_per_s.max()), most]
figure, axes = figures.subplots(height=4.4)
x = "one user (tokens/s)"
kinds = {"plain": "plain", "speculative, best γ": "speedup"}
figures.bars(axes, speeds, kinds, x=x, title=f"{model.name} in q4_0")
figure

# %%
gains = {name: after / before for name, (before, after) in speeds.items()}
course.say(f"""
A person reads only a few tokens per second. The slowest device here goes from
{min(s[0] for s in speeds.values()):.1f} to {min(s[1] for s in speeds.values()):.1f} tokens/s.

**On such devices no batch uses the idle arithmetic: speculation gives {min(gains.values()):.2f}× to
{max(gains.values()):.2f}× on all of them, if both models fit into memory.**
""")

# %% [markdown]
# ## What to set
#
# The best γ depends on the batch, and engines have a setting for that. `plan` tries every γ for
# every batch. If several are within two per cent of the best, take the smallest.

# %%
rows = "\n".join(
    f"| {row['batch']} | {row['gamma']} | {row['least_tied']} to {row['most_tied']} "
    f"| {row['speedup']:.2f}× | {row['tokens_per_s']:.0f} tokens/s |"
    for row in best.rows()
)
course.say(f"| batch | best γ | within 2 % | speedup | all users |\n|---|---|---|---|---|\n{rows}")

# %% [markdown]
# Here are the commands that start each engine with this plan. (`specsim plan --target … --draft …`
# prints them in a shell.) The lines above a command say which release it needs, and where the
# engine takes one length for all batches, which one was chosen and why.

# %%
deployment = planning.Deployment(target=target.name, method="draft-model", draft=draft.name)
for engine in planning.ENGINES_WITH_SETTINGS:
    started = planning.launch(engine, deployment, best, target=target, drafter=drafter)
    course.say(f"""
```
{started.text}
```
""")

# %%
moves = planning.sensitivity(target, drafter, system, gamma=gamma, **traffic)
(first_name, first_move), (second_name, second_move) = list(moves.items())[:2]
course.say(f"""
What the answer depends on most, at batch 1: if {first_name} grows by one per cent, the speedup
changes by {first_move:+.2f} %; if {second_name} grows by one per cent, by {second_move:+.2f} %.

**Set γ by batch. But first measure α on your own traffic, because the answer depends on it most.**
""")

# %% [markdown]
# ## All of it, interactive
#
# The explorer shows roofline, speedup, map, waterfall, latency and cost on one page. It says in a
# sentence what limits a setting, and it exports the setting as code or as flags. `specsim explore`
# opens it in a browser. (A page without a running kernel shows nothing here.)

# %%
course.live(lambda: explorer.Explorer(preset="high-QPS server"))

# %% [markdown]
# **Start from the preset that is closest to your case. Then change one thing at a time.**

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. The reply to a wrong answer names the likely mistake.

# %%
quiz.ask("dollars")

# %%
quiz.ask("percentiles")

# %%
whole = quiz.Question(
    "Decoding is 60 % of a request's time, and the rest is the prefill. Decoding becomes 2.5 times "
    "as fast. How many times as fast is the request?",
    answer=lambda: economics.end_to_end_speedup(0.6, 2.5),
    tolerance=0.02,
    mistakes={
        "you forget the time of the prefill": 2.5,
        "you swap the two shares": lambda: economics.end_to_end_speedup(0.4, 2.5),
    },
    unit="×",
)
quiz.ask(whole)

# %% [markdown]
# ## References
#
# - Pope et al., *Efficiently Scaling Transformer Inference*,
#   [arXiv:2211.05102](https://arxiv.org/abs/2211.05102): where the bytes and FLOPs of a pass go,
#   and how they are split.
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*,
#   [arXiv:2309.06180](https://arxiv.org/abs/2309.06180): a cache in blocks.
# - Zhong et al., *DistServe*, [arXiv:2401.09670](https://arxiv.org/abs/2401.09670): goodput, and
#   prefill on its own devices.
# - [Little, *A Proof for the Queuing Formula L = λW*](https://doi.org/10.1287/opre.9.3.383): users,
#   rate and latency.

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
# # 1. The memory-bound trap
#
# **Question.** Why does a GPU with twice the arithmetic decode not one token per second more?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also measures,
# here and now. No model is downloaded.
#
# You know what a transformer computes. This notebook asks what it has to *carry* to compute it,
# predicts what follows, and then lets your own machine confirm or contradict it.

# %%
import numpy as np

import specsim
from specsim import course, explorer, figures
from specsim.cost import step_time
from specsim.course import quiz
from specsim.operators import Workload, forward_work
from specsim.planning import economics

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## One token, in bytes and in FLOPs
#
# To emit one token, a decoder runs one forward pass. Every weight matrix is multiplied by a single
# vector: each weight is fetched from memory, used for one multiply-add, and dropped. `specsim`
# counts this from the shape of a model, operator by operator.
#
# *Before you run the cell:* a model of seventy billion weights, in two-byte numbers. How many
# gigabytes does one token move, and is it the bytes or the arithmetic that takes longer?

# %%
target = specsim.model("llama-3-70b")
h100 = specsim.system("h100-sxm", engine="ideal", precision="bf16")
one = forward_work(target, Workload(batch=1, rows=1, context=2048), h100.precision)

bandwidth, rate = h100.bandwidth_bytes_per_s, h100.accelerator.rate("bf16")
carry_s = (one.weight_bytes + one.kv_bytes) / bandwidth
compute_s = one.flops / rate
course.say(f"""
| one token of {target.name}, after {2048} others | amount | on one H100's datasheet |
|---|---|---|
| weights read | {one.weight_bytes / 1e9:.1f} GB | {1e3 * one.weight_bytes / bandwidth:.1f} ms |
| KV cache read | {one.kv_bytes / 1e9:.2f} GB | {1e3 * one.kv_bytes / bandwidth:.2f} ms |
| arithmetic | {one.flops / 1e9:.0f} GFLOP | {1e3 * compute_s:.3f} ms |
""")

# %% [markdown]
# Two things that are easy to get wrong. The weights that are *read* are fewer than those that are
# *stored*: of the embedding table a pass gathers one row, and streams none of the rest. And the
# KV cache is small here; it becomes the larger part when many sequences, or long ones, share a
# pass (notebook 5).

# %%
course.say(f"""
**The bytes of one token take {carry_s / compute_s:.0f} times as long as its arithmetic. A second
set of multipliers would wait just as the first one does.**
""")

# %% [markdown]
# ## The roofline
#
# Divide the FLOPs of a pass by its bytes and you get its *arithmetic intensity*. A chip has such a
# ratio too, its peak FLOP/s over its bandwidth: the *ridge*. To the left of the ridge a kernel
# waits for memory, to the right for arithmetic. One number per chip, one per pass, and most
# questions about decoding speed are answered.

# %%
chips = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "rtx-4090")
rows = []
for name in chips:
    chip = specsim.system(name, engine="ideal").accelerator
    ridge = chip.rate("bf16") / chip.bandwidth_bytes_per_s
    peak, memory = chip.rate("bf16") / 1e12, chip.bandwidth_bytes_per_s / 1e12
    rows.append(f"| {name} | {peak:.0f} TFLOP/s | {memory:.2f} TB/s | {ridge:.0f} FLOP/byte |")
course.say("| chip | bf16, dense | memory | ridge |\n|---|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# (Dense rates. Datasheets like to print the rate for sparse matrices, which is twice as high and
# which no ordinary model reaches; it would put the ridge twice too far to the right.)
#
# Where do passes lie? A plain step; the verification of some drafted tokens; a batch of users; the
# reading of a prompt. All of them are the *same* pass with more or fewer rows, a row being the
# vector of one token of one sequence. (In speculative decoding a small model, the *draft*, guesses
# γ tokens, and one pass of the large one, the *target*, verifies them all. It keeps those before
# the first that it rejects, and accepts each with some probability α; notebook 2 says how.)

# %%
small = specsim.model("llama-3.1-8b")
graphs = specsim.system("h200-sxm", engine="cuda-graphs")
passes = {
    "one token": ("plain", {"rows": 1}),
    "verify 7 drafts": ("verify", {"rows": 8}),
    "64 users": ("tokens", {"rows": 1, "batch": 64}),
    "prompt of 2048": ("compute", {"rows": 2048}),
}
spots = [
    figures.spot(label, concept, step_time(small, graphs, Workload(**width)))
    for label, (concept, width) in passes.items()
]
sheet, axes = figures.sheet(height=3.8)
figures.roofline(axes, graphs, spots)
sheet

# %%
plain, verify = (step_time(small, graphs, Workload(rows=rows)).total_s for rows in (1, 8))
course.say(f"""
On the slope a pass costs what its bytes cost, and more rows are nearly free: {small.name} verifies
7 drafts in {1e3 * verify:.2f} ms, {verify / plain:.2f} times the {1e3 * plain:.2f} ms of a step of
one row. (That is the rule "the larger of the two times", which flatters a little. Measurements
follow.)
""")

# %% [markdown]
# Move it yourself, where a kernel is running (a page without one shows nothing here):

# %%
course.live(lambda: explorer.roofline(preset="chat at batch 1"))

# %% [markdown]
# **Left of the ridge a pass costs its bytes, whatever its rows. Batch and γ move it to the right; a
# long context holds it back, since each sequence brings keys and values that it shares with
# nobody.**

# %% [markdown]
# ## Measured here: one row against many
#
# Now the same on the machine in front of you. First two numbers: how fast it reads weights (one
# row through a large stack of matrices: a matrix-vector product), and how fast it multiplies (one
# wide matrix-matrix product). From these two alone, the time of a pass of any width is predicted:
# the larger of bytes over bandwidth and FLOPs over rate. Then passes of every width are timed,
# through a stack of *another* size.
#
# *Before you run the cells:* how many rows will your machine carry before the time rises?

# %%
widths = (1, 2, 4, 8, 16, 32, 64, 128, 256)
if here.torch:
    import torch

    from reference import machine
    from reference.lab import ceilings, probes

    torch.manual_seed(0)
    device = machine.device_named(None)
    dtype, reason = probes.fastest_dtype(device)
    found = ceilings.ceilings(device, dtype, course.effort(40, 10))
    stack = ceilings.stack(device, dtype)
    memory_s = stack.weight_bytes / found.bandwidth_bytes_per_s
    products_s = 2 * stack.weights * np.array(widths) / found.flops_per_s
    knee = found.ridge * stack.weight_bytes / stack.weights / 2
    course.say(f"""
{machine.environment(device).device}, {reason}. It reads weights at
{found.bandwidth_bytes_per_s / 1e9:.0f} GB/s and multiplies at {found.flops_per_s / 1e9:.0f}
GFLOP/s: its ridge is at {found.ridge:.0f} FLOP/byte. **Predicted:** the time is flat up to about
{knee:.0f} rows, then grows in proportion.
""")
else:
    course.say("*Skipped: no PyTorch, so nothing is measured here.*")

# %%
if here.torch:
    timed = ceilings.times_by_width(stack, widths, device, course.effort(15, 4))
    points = [(rows, t.median, t.p10, t.p90) for rows, t in timed.items()]
    sheet, axes = figures.sheet(height=3.6)
    title = f"{stack.weight_bytes / 1e6:.0f} MB of weights"
    figures.times_vs_width(axes, widths, memory_s, products_s, points, title=title)
    course.show(sheet)

# %%
if here.torch:
    medians = np.array([timed[rows].median for rows in widths])
    errors = np.abs(np.maximum(memory_s, products_s) / medians - 1)
    corner = np.abs(np.log2(np.array(widths) / knee)) <= 1
    near, far = (
        f"{np.median(errors[part]):.0%}" if part.any() else "none" for part in (corner, ~corner)
    )
    unrest = np.median([timing.p90 / timing.p10 for timing in timed.values()])
    course.say(f"""
Two probes predicted nine widths with a median error of {np.median(errors):.0%} (worst
{errors.max():.0%}, at {widths[errors.argmax()]} rows): {near} within a factor of two of the
predicted corner, {far} elsewhere. At the corner loads and products do not overlap as perfectly as
the larger-of-two rule assumes; anywhere a kernel may be better or worse at one width than at
another; and the machine may have been busy: of the passes of one width, the slowest tenth took
{unrest:.1f} times as long as the fastest.
{"That is a lot; run this again when it is quiet." if unrest > 1.5 else ""}

**Measured here: 8 rows cost {medians[3] / medians[0]:.2f} times one row; {widths[-1]} rows cost
{medians[-1] / medians[0]:.0f} times.**
""")

# %% [markdown]
# ## The same on a GPU, as published
#
# You may have no GPU at hand. llama.cpp's authors published the time of a pass by its rows on an
# `rtx-3090` (a model of seven billion weights in four bits, behind a long context). The line is
# predicted from the model's shape and llama.cpp's constants. Those were fitted to many published
# passes, these among them; left out, they are missed by more (`specsim validate` says by how much).

# %%
from specsim.catalog import published

table = [row for row in published.rows("verify_cost") if row["accelerator"] == "RTX 3090"]
k, printed_ms = (
    np.array([float(row[name]) for row in table])
    for name in ("k_tokens_per_forward", "ms_per_forward")
)
card = specsim.system("rtx-3090", engine="llama.cpp", precision="q4_0")
depth = int(table[0]["context_depth"])
wide = step_time(specsim.model("llama-2-7b"), card, Workload(rows=k, context=depth))
points = list(zip(k, printed_ms, strict=True))
line = figures.Curve("predicted", k, 1e3 * wide.total_s, "verify", measured=points)
sheet, axes = figures.sheet()
title = f"{table[0]['model']} {table[0]['weight_format']}, RTX 3090, {depth} tokens of context"
figures.curves(axes, [line], "rows in the pass (tokens at once)", "time (ms)", title=title)
sheet

# %%
errors = np.abs(1e3 * wide.total_s / printed_ms - 1)
course.say(f"""
The median error is {np.median(errors):.0%}, the worst {errors.max():.0%} (at
{k[errors.argmax()]:.0f} rows). Look at the printed times closely: sixteen rows are *faster* than
eight, because another kernel takes over. No roofline knows of that; measure the widths you use.

**Published: {k[3]:.0f} rows cost {printed_ms[3] / printed_ms[0]:.2f} times one row,
{k[-1]:.0f} rows {printed_ms[-1] / printed_ms[0]:.2f} times.**
""")

# %% [markdown]
# ## What each remedy buys
#
# You want tokens faster. Here is what people reach for, priced for one model on one H100 (engine
# with CUDA graphs; catalog constants, no measurement of yours). Two bars each: what a single
# stream of tokens gains, and what all streams together gain.

# %%
from dataclasses import replace

base = specsim.system("h100-sxm", engine="cuda-graphs")
chip = base.accelerator
doubled = replace(chip, flops_per_s={k: 2 * v for k, v in chip.flops_per_s.items()})
draft = specsim.DraftModel(specsim.model("llama-3.2-1b"))
plain_s = float(step_time(small, base).total_s)
spec = specsim.predict(small, draft, base, gamma=range(9), alpha=0.8)
batched = specsim.predict(small, None, base, batch=8)
systems = {
    "twice the FLOP/s": replace(base, accelerator=doubled),
    "H200: more bandwidth": specsim.system("h200-sxm"),
    "B200: still more": specsim.system("b200"),
    "a second H100 (TP 2)": specsim.system("h100-sxm", tensor_parallel=2),
    "int4 weights": specsim.system("h100-sxm", precision="int4"),
}
bought = {name: [plain_s / float(step_time(small, s).total_s)] * 2 for name, s in systems.items()}
one_of_8, all_8 = (float(batched.tokens_per_s / n * plain_s) for n in (8, 1))
bought["batch of 8"] = [one_of_8, all_8]
bought["speculation, α = 0.8"] = [float(spec.speedup.max())] * 2

# %%
sheet, axes = figures.sheet(height=5.2)
kinds = {"one stream": "speedup", "all streams": "tokens"}
figures.gains(axes, bought, kinds, title=f"{small.name} on an H100")
sheet

# %% [markdown]
# Read it slowly; it is the whole trap.
#
# * More arithmetic buys nothing, since nobody was waiting for it.
# * More bandwidth buys its ratio, less the overheads that do not shrink with it.
# * A second GPU buys speed only if it *splits* the weights (tensor parallelism), and pays for it
#   with an exchange in every layer. A copy of the model on it would serve other users, not you.
# * Fewer bytes per weight buy speed, and change the model.
# * A batch shares each fetched weight among users: more tokens in total, none sooner for you.
# * Speculation shares each fetched weight among *future tokens of the same user*.

# %%
nothing = bought["twice the FLOP/s"][0]
course.say(f"""
**Twice the FLOP/s: {nothing:.2f}×. At batch 1, only what moves fewer bytes per token, or moves
them faster, helps the one who waits.**
""")

# %% [markdown]
# ## What speculation does to the counts
#
# Articles often say that the large model then "processes only a subset of the tokens". It is a
# kind way to put it, but it has the sign wrong. The large model looks at *every* token of the
# output, and at the rejected drafts too: more positions, and more FLOPs. What it does less often
# is walk through its weights.

# %%
gamma = int(spec.gamma[spec.best()])
cycle = specsim.predict(small, draft, base, gamma=gamma, alpha=0.8)
alone = specsim.predict(small, None, base)
before, after = economics.token_cost(alone), economics.token_cost(cycle)
tau = float(cycle.tokens_per_cycle)
course.say(f"""
| for 100 tokens | plain | speculative, γ = {gamma} |
|---|---|---|
| passes of the large model | 100 | {100 / tau:.0f} |
| positions it computes | 100 | {100 * (gamma + 1) / tau:.0f} |
| FLOPs, draft included | {100 * before.flops / 1e12:.2f} T | {100 * after.flops / 1e12:.2f} T |
| bytes, draft included | {100 * before.bytes_moved / 1e12:.2f} TB | \
{100 * after.bytes_moved / 1e12:.2f} TB |

**Speculation makes {tau:.2f} times fewer passes, over more positions, for
{after.flops / before.flops:.2f} times the FLOPs: it spends the arithmetic that was idle to save
the bytes that were not.**
""")

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. A wrong answer is told the slip it looks like.

# %%
quiz.ask("twice-the-flops")

# %%
quiz.ask("ridge-batch")

# %%
quiz.ask("flops-saved")

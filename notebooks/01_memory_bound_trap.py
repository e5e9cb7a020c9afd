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
# **Question.** A GPU with twice the FLOP/s decodes a single sequence no faster. Why?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also measures on
# your machine. No model is downloaded.
#
# You know what a transformer computes. This notebook counts the bytes that it must *read* to
# compute it. It predicts the time from these bytes, and then your own machine confirms or
# contradicts the prediction.

# %%
import numpy as np

import specsim
from specsim import course, explorer, figures
from specsim.cost import step_time
from specsim.course import exercises, quiz
from specsim.operators import Workload, forward_work
from specsim.planning import economics

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## A layer, with its shapes
#
# A decoder is a stack of equal layers. Here is one, as a single token passes it. Every blue box is
# a matrix of weights; the vector of the token is multiplied by it. The two other boxes are the KV
# cache: the keys and values of all earlier tokens of *this* sequence, which the token's queries
# read.

# %%
target = specsim.model("llama-3.1-8b")
figure, axes = figures.subplots(height=4.4)
figures.layer_shapes(axes, target, rows=1, context=2048, title=f"{target.name}, one new token")
figure

# %% [markdown]
# Three counts follow from the picture, and everything in this course is made of them.
#
# * **2P FLOPs.** A vector times a matrix uses every weight for one multiplication and one addition.
#   So a token costs two FLOPs for each of the P weights that it is multiplied by. Attention adds a
#   little: each query is multiplied by every cached key, and the result by every cached value.
# * **The bytes of the weights.** To be used, a weight must be read: two bytes in bf16. A pass reads
#   every matrix once, *whatever the number of tokens in it*.
# * **The bytes of the KV cache.** Each token leaves a key and a value in every layer, one for each
#   KV head: layers × KV heads × head size, twice. Several query heads share one KV head.
#
# *Before you run the cell:* how many bytes does one token leave in the cache of this model?

# %%
bf16 = specsim.system("h100-sxm", engine="ideal", precision="bf16")
kv_token = 2 * target.num_layers * target.num_kv_heads * target.head_dim
used = target.parameters - target.embedding_parameters
shared = target.num_heads // target.num_kv_heads
counts = {}
for label, rows in {"decoding, 1 token": 1, "a prompt of 2048": 2048}.items():
    work = forward_work(target, Workload(rows=rows, context=2048), bf16.precision)
    bytes_s = (work.weight_bytes + work.kv_bytes) / bf16.bandwidth_bytes_per_s
    math_s = work.flops / bf16.accelerator.rate("bf16")
    counts[label] = (work, float(bytes_s), float(math_s))
rows = "\n".join(
    f"| {label} | {float(work.weight_bytes) / 1e9:.1f} GB | {float(work.flops) / 1e12:.3f} TFLOP | "
    f"{1e3 * bytes_s:.2f} ms | {1e3 * math_s:.2f} ms |"
    for label, (work, bytes_s, math_s) in counts.items()
)
course.say(f"""
The {used / 1e9:.2f} billion weights that a token is multiplied by need {2 * used / 1e9:.1f} GFLOP.
A token leaves {kv_token:,} numbers in the cache, {2 * kv_token / 1e3:.0f} kB in bf16; without the
sharing of KV heads it would be {shared} times as much.

| pass | weights read | arithmetic | time to read, H100 | time to compute |
|---|---|---|---|---|
{rows}
""")

# %% [markdown]
# The two rows of the table are the two halves of every request. **Prefill** reads the prompt. All
# of its tokens are known, so they pass the layers together and each weight that is read is used for
# all of them: the arithmetic takes longer than the reading. **Decoding** writes the answer. The
# next token is known only when the last one is done, so a pass has one token, and the reading
# takes longer.
#
# The number of rows decides which of three regimes a pass is in:
#
# 1. **Launch-bound**: so small a model, or so slow a host, that starting the kernels takes longest.
# 2. **Memory-bound**: few rows; the time is that of reading weights and cache.
# 3. **Compute-bound**: many rows; the time is that of the arithmetic.
#
# The figure has all three: engine constants of eager PyTorch and of CUDA graphs, and the pass of
# another size of model.

# %%
wide = 2 ** np.arange(0, 12)
small, eager = specsim.model("llama-3.2-1b"), specsim.system("h100-sxm", engine="torch-eager")
graphs_h100 = specsim.system("h100-sxm", engine="cuda-graphs")
workload = Workload(rows=wide, context=2048)
shown = {
    f"{target.name}, graphs": ("verify", step_time(target, graphs_h100, workload)),
    f"{small.name}, eager": ("draft", step_time(small, eager, workload)),
    f"{small.name}, graphs": ("tokens", step_time(small, graphs_h100, workload)),
}
lines = [
    figures.Curve(label, wide, 1e3 * step.total_s, concept)
    for label, (concept, step) in shown.items()
]
figure, axes = figures.subplots()
title = "flat: launches or bytes; rising: arithmetic"
figures.curves(axes, lines, "rows (tokens)", "time of a pass (ms)", log_y=True, title=title)
figure

# %%
one_s, many_s = (counts[label] for label in counts)
course.say(f"""
**Two FLOPs and two bytes per weight: a token of {target.name} needs {1e3 * one_s[1]:.1f} ms of
reading and {1e3 * one_s[2]:.3f} ms of arithmetic on an H100, a prompt of 2048 tokens
{1e3 * many_s[1]:.1f} and {1e3 * many_s[2]:.0f} ms. Decoding waits for memory, prefill for
arithmetic.**
""")

# %% [markdown]
# ## One token, in bytes and in FLOPs
#
# To emit one token, a decoder runs one forward pass. The pass multiplies every weight matrix by a
# single vector: it reads each weight from memory and uses it for one multiply-add. `specsim` counts
# this work from the model's configuration, operator by operator.
#
# *Before you run the cell:* a model has eight billion weights, in two-byte numbers. How many
# gigabytes does it read for one token? Which takes longer, the bytes or the arithmetic?

# %%
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
# Two points are easy to get wrong. First, a pass *reads* fewer weights than the model *stores*:
# from the embedding table it reads one row per token. Second, the KV cache is small here. It
# becomes the larger part when a pass serves many sequences, or long ones (notebook 5).

# %%
course.say(f"""
**Reading the bytes of one token takes {carry_s / compute_s:.0f} times as long as its arithmetic.
Twice as many multipliers would only wait longer.**
""")

# %% [markdown]
# ## The roofline
#
# Divide the FLOPs of a pass by its bytes. This ratio is the *arithmetic intensity* of the pass. An
# accelerator has such a ratio too, its peak FLOP/s divided by its bandwidth: the *ridge*. Left of
# the ridge a kernel waits for memory; right of it, it waits for arithmetic. With one number for the
# accelerator and one for the pass you can answer most questions about decoding speed.

# %%
accelerators = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200", "rtx-4090")
rows = []
for name in accelerators:
    found = specsim.system(name, engine="ideal").accelerator
    ridge = found.rate("bf16") / found.bandwidth_bytes_per_s
    peak, memory = found.rate("bf16") / 1e12, found.bandwidth_bytes_per_s / 1e12
    rows.append(f"| {name} | {peak:.0f} TFLOP/s | {memory:.2f} TB/s | {ridge:.0f} FLOP/byte |")
head = "| accelerator | bf16, dense | memory | ridge |\n|---|---|---|---|\n"
course.say(head + "\n".join(rows))

# %% [markdown]
# (These are dense rates. Many datasheets print the rate for sparse matrices, which is twice as
# high. Ordinary models do not reach it, and it would put the ridge at twice the right value.)
#
# Where do different passes lie? The figure shows a plain step, the verification of some drafted
# tokens, a batch of users, and the prefill of a prompt. All of them are the *same* pass with more
# or fewer rows. A row is the vector of one token of one sequence.
#
# (In speculative decoding a small model, the *draft*, proposes γ tokens. One pass of the large
# model, the *target*, verifies them all. It accepts each draft with some probability α, and it
# keeps the drafts before the first rejection. Notebook 2 explains how.)

# %%
graphs = specsim.system("h200-sxm", engine="cuda-graphs")
passes = {
    "one token": ("plain", {"rows": 1}),
    "verify 7 drafts": ("verify", {"rows": 8}),
    "64 users": ("tokens", {"rows": 1, "batch": 64}),
    "prompt of 2048": ("compute", {"rows": 2048}),
}
points = [
    figures.operating_point(label, concept, step_time(target, graphs, Workload(**width)))
    for label, (concept, width) in passes.items()
]
figure, axes = figures.subplots(height=3.8)
figures.roofline(axes, graphs, points)
figure

# %%
plain, verify = (step_time(target, graphs, Workload(rows=rows)).total_s for rows in (1, 8))
course.say(f"""
On the slope the time of a pass is the time to read its bytes, so more rows are nearly free:
{target.name} verifies 7 drafts in {1e3 * verify:.2f} ms, {verify / plain:.2f} times the
{1e3 * plain:.2f} ms of a step with one row. (This prediction takes the larger of the two times,
which is slightly optimistic. Measurements follow.)
""")

# %% [markdown]
# You can move the points yourself if a kernel is running (a page without a kernel shows nothing
# here):

# %%
course.live(lambda: explorer.roofline(preset="chat at batch 1"))

# %% [markdown]
# **Left of the ridge, the time of a pass is the time to read its bytes, whatever its number of
# rows. A larger batch or γ moves a pass to the right. A longer context does not, because each
# sequence adds keys and values that only it uses.**

# %% [markdown]
# ## Measured here: one row against many
#
# Now the same on your machine. First we measure two numbers: how fast it reads weights (one row
# through a large stack of matrices, which is a matrix-vector product), and how fast it multiplies
# (one wide matrix-matrix product). These two numbers predict the time of a pass of any width: the
# larger of bytes divided by bandwidth and FLOPs divided by FLOP/s. Then we time passes of many
# widths, through a stack of *another* size.
#
# *Before you run the cells:* at how many rows does the time start to rise on your machine?

# %%
# %%measured
import torch

from reference import machine
from reference.lab import ceilings, probes

widths = (1, 2, 4, 8, 16, 32, 64, 128, 256)
torch.manual_seed(0)
device = machine.device_named(None)
dtype, reason = probes.fastest_dtype(device)
found = ceilings.measure_ceilings(device, dtype, course.effort(40, 4))
stack = ceilings.stack(device, dtype)
memory_s = stack.weight_bytes / found.bandwidth_bytes_per_s
products_s = 2 * stack.weights * np.array(widths) / found.flops_per_s
knee = found.ridge * stack.weight_bytes / stack.weights / 2
course.say(f"""
{machine.environment(device).device}, {reason}. It reads weights at
{found.bandwidth_bytes_per_s / 1e9:.0f} GB/s and multiplies at {found.flops_per_s / 1e9:.0f}
GFLOP/s: its ridge is at {found.ridge:.0f} FLOP/byte. **Predicted:** the time is flat up to about
{knee:.0f} rows, then it grows in proportion to the rows.
""")

# %%
# %%measured
timed = ceilings.times_by_width(stack, widths, device, course.effort(15, 2))
points = [(rows, t.median, t.p10, t.p90) for rows, t in timed.items()]
figure, axes = figures.subplots(height=3.6)
title = f"{stack.weight_bytes / 1e6:.0f} MB of weights"
figures.times_vs_width(axes, widths, memory_s, products_s, points, title=title)
course.show(figure)

# %%
# %%measured
medians = np.array([timed[rows].median for rows in widths])
errors = np.abs(np.maximum(memory_s, products_s) / medians - 1)
corner = np.abs(np.log2(np.array(widths) / knee)) <= 1
near, far = (
    f"{np.median(errors[part]):.0%}" if part.any() else "none" for part in (corner, ~corner)
)
noise = np.median([timing.p90 / timing.p10 for timing in timed.values()])
course.say(f"""
Two probes predicted nine widths with a median error of {np.median(errors):.0%} (worst
{errors.max():.0%}, at {widths[errors.argmax()]} rows): {near} within a factor of two of the
predicted corner, {far} elsewhere. There are three causes. Near the corner, reading and arithmetic
do not overlap as perfectly as the prediction assumes. A kernel can be better at one width than at
another. And other programs may have slowed the machine down: at a typical width, the 90th
percentile of the times was {noise:.1f} times the 10th.
{"That is a lot; run this again when the machine is idle." if noise > 1.5 else ""}

**Measured here: 8 rows take {medians[3] / medians[0]:.2f} times as long as one row; {widths[-1]}
rows take {medians[-1] / medians[0]:.0f} times as long.**
""")

# %% [markdown]
# ## The same on a GPU, as published
#
# You may have no GPU. The authors of llama.cpp published the time of a pass against its rows on an
# `rtx-3090` (a model of seven billion weights in four bits, after a long context). The line is
# predicted from the model's configuration and llama.cpp's constants. These constants were fitted to
# many published passes, and these passes are among them. In a fit without these passes the errors
# are larger (`specsim validate` prints them).

# %%
from specsim.catalog import published

series = ("RTX 3090", "llama 7B", "Q4_0")
of = ("accelerator", "model", "weight_format")
table = [r for r in published.rows("verify_cost") if tuple(r[name] for name in of) == series]
k, printed_ms = (
    np.array([float(row[name]) for row in table])
    for name in ("k_tokens_per_forward", "ms_per_forward")
)
card = specsim.system("rtx-3090", engine="llama.cpp", precision="q4_0")
depth = int(table[0]["context_depth"])
wide = step_time(specsim.model("llama-2-7b"), card, Workload(rows=k, context=depth))
points = list(zip(k, printed_ms, strict=True))
line = figures.Curve("predicted", k, 1e3 * wide.total_s, "verify", measured=points)
figure, axes = figures.subplots()
title = f"{table[0]['model']} {table[0]['weight_format']}, RTX 3090, {depth} tokens of context"
figures.curves(axes, [line], "rows in the pass (tokens)", "time (ms)", title=title)
figure

# %%
errors = np.abs(1e3 * wide.total_s / printed_ms - 1)
course.say(f"""
The median error is {np.median(errors):.0%}, the worst {errors.max():.0%} (at
{k[errors.argmax()]:.0f} rows). Look closely at the published times: sixteen rows are *faster* than
eight, because another kernel takes over. A roofline cannot predict this, so measure the widths that
you use.

**Published: {k[3]:.0f} rows take {printed_ms[3] / printed_ms[0]:.2f} times as long as one row,
{k[-1]:.0f} rows {printed_ms[-1] / printed_ms[0]:.2f} times.**
""")

# %% [markdown]
# ## What each remedy gains
#
# You want tokens faster. Here are the usual remedies for one model on one H100 (an engine with CUDA
# graphs; constants from the catalog, no measurement of yours). Each remedy has two bars: the gain
# of a single stream of tokens, and the gain of all streams together.

# %%
from dataclasses import replace

base = specsim.system("h100-sxm", engine="cuda-graphs")
h100_sxm = base.accelerator
rates = {name: 2 * rate for name, rate in h100_sxm.flops_per_s.items()}
doubled = replace(h100_sxm, flops_per_s=rates)
draft = specsim.DraftModel(specsim.model("llama-3.2-1b"))
plain_s = float(step_time(target, base).total_s)
spec = specsim.predict(target, draft, base, gamma=range(9), alpha=0.8)
batched = specsim.predict(target, None, base, batch=8)
systems = {
    "twice the FLOP/s": replace(base, accelerator=doubled),
    "H200: more bandwidth": specsim.system("h200-sxm"),
    "B200: still more": specsim.system("b200"),
    "a second H100 (TP 2)": specsim.system("h100-sxm", tensor_parallel=2),
    "int4 weights": specsim.system("h100-sxm", precision="int4"),
}
gained = {name: [plain_s / float(step_time(target, s).total_s)] * 2 for name, s in systems.items()}
one_of_8, all_8 = (float(batched.tokens_per_s / n * plain_s) for n in (8, 1))
gained["batch of 8"] = [one_of_8, all_8]
gained["speculation, α = 0.8"] = [float(spec.speedup.max())] * 2

# %%
figure, axes = figures.subplots(height=5.2)
kinds = {"one stream": "speedup", "all streams": "tokens"}
figures.gains(axes, gained, kinds, title=f"{target.name} on an H100")
figure

# %% [markdown]
# This figure shows the whole trap:
#
# * More FLOP/s gain nothing, because the step does not wait for arithmetic.
# * More bandwidth gains its ratio, except for the overheads, which stay the same.
# * A second GPU makes a stream faster only if it *splits* the weights (tensor parallelism), and
#   then every layer needs an exchange between the GPUs. A second copy of the model serves other
#   users, not you.
# * Fewer bytes per weight make it faster, but they change the model.
# * A batch shares each weight that is read among users: more tokens in total, but none of yours
#   arrives sooner.
# * Speculation shares each weight that is read among *future tokens of the same user*.

# %%
nothing = gained["twice the FLOP/s"][0]
course.say(f"""
**Twice the FLOP/s: {nothing:.2f}×. At batch 1, a token arrives sooner only if a step reads fewer
bytes per token, or reads them faster.**
""")

# %% [markdown]
# ## How speculation changes the counts
#
# You may have read that with speculation the large model "processes only a subset of the tokens".
# The articles that say so are right about the effect, fewer passes of the large model, and the
# sentence is easy to write after watching a draft produce most of the text. But count the
# positions: the large model processes *every* token of the output, and the rejected drafts too.
# That is more positions and more FLOPs. What becomes fewer is the number of passes, so it reads its
# weights less often.

# %%
gamma = int(spec.gamma[spec.best()])
cycle = specsim.predict(target, draft, base, gamma=gamma, alpha=0.8)
alone = specsim.predict(target, None, base)
before, after = economics.token_cost(alone), economics.token_cost(cycle)
tau = float(cycle.tokens_per_cycle)
course.say(f"""
| for 100 tokens | plain | speculative, γ = {gamma} |
|---|---|---|
| passes of the large model | 100 | {100 / tau:.0f} |
| positions that it computes | 100 | {100 * (gamma + 1) / tau:.0f} |
| FLOPs, draft included | {100 * before.flops / 1e12:.2f} T | {100 * after.flops / 1e12:.2f} T |
| bytes, draft included | {100 * before.bytes_moved / 1e12:.2f} TB | \
{100 * after.bytes_moved / 1e12:.2f} TB |

**Speculation makes {tau:.2f} times fewer passes over more positions, with
{after.flops / before.flops:.2f} times the FLOPs: it spends idle arithmetic to save bytes, which the
step waits for.**
""")

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. The reply to a wrong answer names the likely mistake.

# %%
quiz.ask("twice-the-flops")

# %% [markdown]
# **In code.** Write the bytes of the cache, from the picture of the layer. The check calls your
# function for several models and compares it with what specsim counts.


# %% tags=["teaching"]
def kv_bytes(architecture, tokens, bytes_per_number):
    """The bytes of the KV cache of one sequence."""
    return ...  # architecture has num_layers, num_heads, num_kv_heads, head_dim


exercises.check("kv_bytes", kv_bytes)

# %%
exercises.solution("kv_bytes")

# %% [markdown]
# **In code.** Write the time of a pass, if reading and arithmetic overlap perfectly.


# %% tags=["teaching"]
def pass_seconds(rows, weights, bytes_per_s, flops_per_s):
    """The time of a pass of `rows` tokens through `weights` bf16 numbers."""
    return ...


exercises.check("pass_seconds", pass_seconds)

# %%
exercises.solution("pass_seconds")

# %%
quiz.ask("ridge-batch")

# %%
quiz.ask("flops-saved")

# %% [markdown]
# ## References
#
# - [Transformer Inference Arithmetic](https://kipp.ly/transformer-inference-arithmetic/): the same
#   counts, by hand.
# - [How to Scale Your Model](https://jax-ml.github.io/scaling-book/): rooflines of training and
#   inference, with exercises.
# - Pope et al., *Efficiently Scaling Transformer Inference*,
#   [arXiv:2211.05102](https://arxiv.org/abs/2211.05102): where the bytes and FLOPs of a pass go,
#   and how they are split.
# - Ainslie et al., *GQA*, [arXiv:2305.13245](https://arxiv.org/abs/2305.13245): several query heads
#   that share one KV head.
# - [Williams, Waterman and Patterson, *Roofline*](https://doi.org/10.1145/1498765.1498785): the
#   model of the second figure.

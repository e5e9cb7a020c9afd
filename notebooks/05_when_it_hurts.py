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
# # 5. When it hurts
#
# **Question.** Speculation never changes the distribution of the text. When does it make decoding
# slower?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also decodes with
# the small pair that comes with the project, at several temperatures. No download.
#
# There are seven ways to lose. Each has a predicted curve, with measured markers where the project
# has any: published ones, each with its source in the catalog, and those of your own machine.
# Nearly all of them have one cause. Speculation spends idle arithmetic. It hurts if no arithmetic
# is idle, or if the draft takes more time than it saves.

# %%
import itertools
from dataclasses import replace

import numpy as np

import specsim
from specsim import acceptance, course, explorer, figures, planning
from specsim.acceptance import latency
from specsim.cost import step_time
from specsim.course import quiz
from specsim.operators import Workload

here = course.here()
course.say(here.sentence)

target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
drafter, system = specsim.DraftModel(draft), specsim.system("h200-sxm")
batches = 2 ** np.arange(10)
SEQUENCES, SPEEDUP = "batch (sequences)", "speedup (×)"

# %% [markdown]
# ## Large batches
#
# A batch of users shares each weight that is read, as the γ + 1 positions of a cycle do. Both use
# the same idle arithmetic. At batch × (γ + 1) = ridge, all of it is used. Above that, the time of a
# verification grows in proportion to its tokens, and rejected drafts take their full time.
#
# *Guess first:* at which batch does γ = 5 stop paying on an H200?

# %%
at = {"alpha": 0.75, "batch": batches, "context": 512}
lines = [
    figures.Curve(
        f"γ = {g}", batches, specsim.predict(target, drafter, system, gamma=g, **at).speedup
    )
    for g in (1, 3, 5, 7)
]
figure, axes = figures.subplots()
title = f"{target.name} with {draft.name}, α = 0.75"
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title=title)
figure

# %% [markdown]
# You can move it yourself if a kernel is running (a page without a kernel shows nothing here):

# %%
course.live(lambda: explorer.speedup_map(alpha=0.75, gamma=3))

# %%
fixed = planning.crossover(target, drafter, system, gammas=5, most=512, alpha=0.75, context=512)
ridge = float(system.ridge_rows)
course.say(f"""
With the bandwidth and FLOP/s that such an engine reaches, the ridge is at {ridge:.0f} rows. With γ
= 5 each sequence has six rows, so the curve bends at a batch of {ridge / 6:.0f}. Above it the gain
falls. It is gone where a cycle takes as many plain steps as it emits tokens: with γ = 5 above a
batch of {fixed.batch}. γ = 1 still gives {lines[0].y[-1]:.2f}× at batch {batches[-1]}.
""")

# %% [markdown]
# vLLM's table (in its pull request on dynamic speculation) has cycles at two batches. Both are on
# the flat part, where the model predicts little change with the batch.

# %%
from specsim import catalog
from specsim.evidence.validation.speedups import dynamic_sd

table, engines = list(dynamic_sd()), catalog.load("engines")
lines = []
for k in (1, 3, 7):
    of_k = [row for row in table if row.label.startswith("EAGLE-3,") and row.gamma == k]
    published = [(int(row.batch), row.speedup) for row in of_k]
    some = 2 ** np.arange(8)
    predicted = [float(replace(of_k[0], batch=b).predicted(engines).speedup) for b in some]
    lines.append(figures.Curve(f"EAGLE-3, γ = {k}", some, predicted, measured=published))
figure, axes = figures.subplots()
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title="vLLM, one head")
figure

# %% [markdown]
# Speculation also costs an engine more than its passes: scheduling, comparing, rolling back. Below
# are all published speedups whose inputs are stated, each predicted by constants that were fitted
# without its paper, and by the roofline alone. Left of the dashed line it cost time; the roofline
# promised a gain there. `specsim validate` lists the rows, and `docs/accuracy.md` the terms.
#
# ![Published passes and speedups against their predictions](../docs/published.png)

# %%
errors = [abs(float(row.predicted(engines).speedup) / row.speedup - 1) for row in table]
course.say(f"""
From batch 1 to 16 the published speedups hardly change, as predicted (median error
{np.median(errors):.1%}). At larger batches the lines are a prediction that this table does not
test.

**Extra tokens are free up to the ridge and take their full time above it: γ = 5 pays up to a batch
of {fixed.batch} here. At high load draft less, or nothing.**
""")

# %% [markdown]
# ## Long contexts
#
# Reading the keys and values of a long context is memory traffic too, and a batch does not share
# it: every sequence has its own cache. A verification reads each key once for all its tokens, so
# the *target* profits from speculation at any batch. But the draft has a context as well. If it
# keeps all of it, its steps become slower together with the target's. A draft that keeps only a
# window of it stays fast.

# %%
contexts = 2 ** np.arange(9, 18)
kinds = {
    "draft keeps a window of 512": specsim.DraftModel(draft, window=512),
    "draft keeps everything": drafter,
}
long = {"gamma": 4, "alpha": 0.8, "batch": 4, "context": contexts}
lines = [
    figures.Curve(label, contexts, specsim.predict(target, kind, system, **long).speedup)
    for label, kind in kinds.items()
]
figure, axes = figures.subplots()
x = "context (tokens per sequence)"
figures.curves(axes, lines, x, SPEEDUP, unit_line=True, title="batch 4, γ = 4, α = 0.8")
figure

# %%
windowed, full = (float(line.y[-1]) for line in lines)
course.say(f"""
(α is fixed at 0.8. A window reduces the acceptance on text that refers far back; this curve does
not include that.)

**Long contexts favour speculation if the draft's own cache is small: {windowed:.2f}× with a window,
{full:.2f}× with all {contexts[-1] // 1024}k tokens.**
""")

# %% [markdown]
# ## Mixtures of experts
#
# A dense model reads the same weights for one token as for eight. A mixture of experts does not:
# more tokens use more experts, and a pass must read each of them. So at batch 1 a verification is
# *not* nearly free. At a medium batch all experts are read anyway, and then it is nearly free
# again. How many experts neighbouring tokens share is a property of the text: `routing_correlation`
# is 0 if they choose independently and 1 if they choose the same experts.

# %%
experts = specsim.model("qwen3-30b-a3b")
head = specsim.method("eagle-3", experts)
lines = [
    figures.Curve(
        label,
        batches,
        specsim.predict(
            experts, head, system, gamma=3, alpha=0.75, batch=batches, routing_correlation=rho
        ).speedup,
    )
    for label, rho in (
        ("all the same experts", 1.0),
        ("correlation 0.45", 0.45),
        ("independent", 0.0),
    )
]
figure, axes = figures.subplots()
title = f"{experts.name}, EAGLE-3 head, γ = 3"
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title=title)
figure

# %%
partly = np.asarray(lines[1].y)
wide, one = (
    float(step_time(experts, system, Workload(rows=rows, routing_correlation=0.45)).total_s)
    for rows in (4, 1)
)
four = step_time(target, system, Workload(rows=4)).total_s
dense = float(four / step_time(target, system).total_s)
course.say(f"""
The middle line assumes the correlation that one published measurement suggests; it is an input, not
a result. With it, a pass of four tokens takes {wide / one:.2f} times as long as a pass of one token
at batch 1. For a dense model it takes {dense:.2f} times as long.

**A mixture of experts gains least at a batch of {batches[partly.argmin()]} ({partly.min():.2f}×)
and most around {batches[partly.argmax()]} ({partly.max():.2f}×), where the gain of a dense model
already falls.**
""")

# %% [markdown]
# ## Quantised targets
#
# Four-bit weights and speculation both reduce the time to read weights, so their gains do not
# multiply. The plain step becomes shorter. The parts that do not shrink with it, the draft in bf16
# and the launches, then matter more. And because the arithmetic stays in bf16, the ridge moves to
# the left: speculation stops paying at a smaller batch.

# %%
gammas = np.arange(9)
lines = []
for stored in ("bf16", "int4"):
    machine = specsim.system("h200-sxm", precision=stored)
    for draft_stored in ("int4", "bf16"):
        narrow = specsim.DraftModel(draft, precision=draft_stored)
        over = specsim.predict(target, narrow, machine, gamma=gammas, alpha=0.75)
        label = f"target {stored}, draft {draft_stored}"
        lines.append(figures.Curve(label, gammas, over.speedup))
figure, axes = figures.subplots(height=3.6)
x = "γ, tokens drafted per cycle"
figures.curves(axes, lines, x, SPEEDUP, doubling=False, unit_line=True, title="one H200, α = 0.75")
figure

# %%
quick = specsim.system("h200-sxm", precision="int4")
gain = float(step_time(target, system).total_s / step_time(target, quick).total_s)
tops = {line.label: float(np.max(line.y)) for line in lines}
both, apart = gain * tops["target int4, draft int4"], gain * tops["target bf16, draft bf16"]
lost = (tops["target int4, draft int4"] - tops["target int4, draft bf16"]) / (
    tops["target int4, draft int4"] - 1
)
course.say(f"""
int4 alone gives {gain:.2f}×, speculation alone {tops["target bf16, draft bf16"]:.2f}×. After the
target is quantised, speculation with the same 16-bit draft gives only
{tops["target int4, draft bf16"]:.2f}×.

**Together they give {both:.2f}× with both models in int4, not the product {apart:.2f}×. With a
16-bit draft, {lost:.0%} of the extra gain of speculation is lost.**
""")

# %% [markdown]
# ## Temperature and greedy drafts
#
# A temperature T above 1 flattens both distributions; a temperature below 1 sharpens them. Very
# flat distributions overlap, so at high T a draft that is *sampled* from its distribution is
# accepted more and more often. A draft that always takes its likeliest token is accepted with the
# target's probability of that token, and this probability falls. Lookups and many draft heads work
# that way. Between the two extremes there is no general rule: it depends on the two distributions.
# Here is an example with four tokens:

# %%
heats = np.geomspace(0.125, 8, 49)
p, q = (
    acceptance.token_probs(np.tile(logits, (len(heats), 1)), heats)
    for logits in ([2.0, 1.0, 0.0, -1.0], [2.5, 0.5, 0.0, -1.0])
)
lines = [
    figures.Curve("sampled draft", heats, acceptance.overlap(p, q), "tokens"),
    figures.Curve("greedy draft", heats, acceptance.greedy_overlap(p, q), "draft"),
]
figure, axes = figures.subplots(height=2.9)
figures.curves(axes, lines, "temperature (1: unchanged)", "α (share accepted)")
figure

# %% [markdown]
# Now the bundled pair on real text, if PyTorch is installed. *Predicted*: at each temperature the
# target writes a text, and the two models' distributions along it give α. *Measured*: we count
# drafts of one token on other prompts.

# %%
# %%measured
import reference
from reference import checkpoints, machine
from reference.lab import suites

large, small, tokenizer = reference.load_pair("bundled", device=machine.device_named(None))
texts = checkpoints.prompt_texts()
prompts, new_tokens = course.effort(20, 3), course.effort(40, 10)
calibration, timed = (
    [tokenizer.encode(text)[:48] for text in texts[which][:prompts]]
    for which in ("calibration", "timed")
)
warmth, seeds = (0.25, 0.5, 1.0, 2.0), course.effort((3, 4, 5), (3,))
traces = []
for heat in warmth:
    ways = {"max_new_tokens": new_tokens, "temperature": heat}
    each = [suites.text_trace(large, small, calibration, seed=s, **ways) for s in seeds]
    traces.append([[*itertools.chain(*texts)] for texts in zip(*each, strict=True)])
predicted = [float(acceptance.TextTrace(*t).tokens_per_cycle(1)) - 1 for t in traces]
shown = ", ".join(f"{a:.2f} at T = {h}" for h, a in zip(warmth, predicted, strict=True))
course.say(f"**Predicted** α: {shown}.")

# %%
# %%measured
runs = [reference.Statistics(1) for _ in warmth]
for (heat, total), seed in itertools.product(zip(warmth, runs, strict=True), seeds):
    one_token = reference.DraftModel(small, 1)
    run = reference.speculate(large, one_token, timed, new_tokens, heat, seed=seed)
    total.extend(run.statistics)
of_texts = [
    np.reshape([np.mean(text) for text in overlaps], (len(seeds), prompts)).mean(0)
    for _, overlaps in traces
]
spread = np.array([1.28 * np.std(texts, ddof=1) / prompts**0.5 for texts in of_texts])  # 80 %
of_drafts = np.array([1.28 * run.tokens_per_cycle_error for run in runs])
errors, counted = np.hypot(spread, of_drafts), np.array([run.alpha for run in runs])
points = list(zip(warmth, counted, counted - errors, counted + errors, strict=True))
band = (predicted - spread, predicted + spread)
line = figures.Curve("predicted from texts", warmth, predicted, "tokens", *band, points)
figure, axes = figures.subplots(height=2.9)
figures.curves(axes, [line], "temperature (1: unchanged)", "α (share accepted)")
course.show(figure)

# %%
# %%measured
apart = 1.28 * np.abs(predicted - counted) / np.hypot(spread, errors)
worst = int(apart.argmax())
reason = ""
if apart[worst] > 2:
    reason = ". This is more than chance: α depends on the prompts"
course.say(f"""
The band and the bars (80 %) treat a text as one sample, not a draft. At a low temperature a small
target like this one repeats itself, and then a whole text is easy or hard. So {prompts} prompts
leave ±{spread[0]:.3f} at T = {warmth[0]} and ±{spread[-1]:.3f} at T = {warmth[-1]}. If the counted
drafts were independent, the errors would be only ±{of_drafts[0]:.3f} and ±{of_drafts[-1]:.3f}. The
largest difference is at T = {warmth[worst]}: {apart[worst]:.1f} joint standard errors{reason}.
""")

# %%
sampled, greedy = (
    float(np.interp(1.0, heats, np.asarray(f(p, q))))
    for f in (acceptance.overlap, acceptance.greedy_overlap)
)
course.say(f"""
In the example, at T = 1 a sampled draft has α = {sampled:.2f} and a greedy one α = {greedy:.2f}.

**Measure α at the temperature that you serve, and let the draft sample from the distribution that
it reports.**
""")

# %% [markdown]
# ## Drafts that only launch kernels
#
# In eager mode Python launches each small kernel, so a pass takes a constant time per layer. A
# draft with nearly as many layers as its target then takes nearly as long, even if it has few
# parameters (notebook 3).

# %%
pair = specsim.model("qwen3-8b"), specsim.DraftModel(specsim.model("qwen3-0.6b"))
names = {"ideal": "roofline", "cuda-graphs": "CUDA graphs", "torch-eager": "eager PyTorch"}
over = {
    label: specsim.predict(
        *pair, specsim.system("h200-sxm", engine=engine), gamma=gammas, alpha=0.8
    )
    for engine, label in names.items()
}
lines = [figures.Curve(label, gammas, each.speedup) for label, each in over.items()]
figure, axes = figures.subplots()
title = "qwen3-0.6b for qwen3-8b, α = 0.8"
figures.curves(axes, lines, x, SPEEDUP, doubling=False, unit_line=True, title=title)
figure

# %%
tops = {label: float(each.speedup.max()) for label, each in over.items()}
ends = float(over["eager PyTorch"].speedup[4])
course.say(f"""
**The same pair with the same acceptance gains at best {tops["roofline"]:.2f}× by bytes alone,
{tops["CUDA graphs"]:.2f}× with graphs, and {tops["eager PyTorch"]:.2f}× in eager mode, where γ = 4
gives {ends:.2f}×. Capture both models in CUDA graphs before you judge a draft.**
""")

# %% [markdown]
# ## Batches in lock-step
#
# The sequences of a batch accept different numbers of drafts. A cache with a length for each
# sequence lets each of them advance by its own number. Simple implementations cut all of them to
# the minimum of the batch, so that the tensors stay rectangular. Then one unlucky sequence slows
# down all.

# %%
survival = 0.8 ** np.arange(1, 5)
some = 2 ** np.arange(7)
lines = [
    figures.Curve(
        "a length for each sequence", some, np.full(len(some), 1 + survival.sum()), "tokens"
    ),
    figures.Curve(
        "cut to the minimum", some, latency.lockstep_tokens_per_cycle(survival, some), "draft"
    ),
]
figure, axes = figures.subplots(height=2.9)
figures.curves(axes, lines, SEQUENCES, "tokens per cycle", title="γ = 4, α = 0.8")
figure

# %%
left = float(latency.lockstep_tokens_per_cycle(survival, 8))
course.say(f"""
**At a batch of 8, lock-step leaves {left:.2f} of {1 + survival.sum():.2f} tokens per cycle. A cycle
still takes its full time, but it emits hardly more than the one token of a plain step.**
""")

# %% [markdown]
# ## Which of them is yours?
#
# A checklist of symptoms, causes and remedies:
#
# | symptom | cause | remedy |
# |---|---|---|
# | the gain falls with the load | the batch reaches the ridge | a smaller γ, or none (notebook 7) |
# | no gain at long contexts | the draft reads its whole cache | a window, a head |
# | little gain at batch one (experts) | more tokens, more experts | a smaller γ, a larger batch |
# | little gain after quantisation | the draft did not shrink | quantise the draft |
# | α falls when users raise T | greedy drafts | sample from the draft |
# | slow in a script, fast in an engine | launches | CUDA graphs, or fewer draft layers |
# | no gain in a batch | lock-step | a length for each sequence |
#
# **It hurts if no arithmetic is idle, or if drafting takes more time than it saves.**

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. The reply to a wrong answer names the likely mistake.

# %%
quiz.ask("when-it-hurts")

# %%
quiz.ask("eager")

# %%
lost = quiz.Question(
    "γ = 4, α = 0.8, and a batch of 4 is cut to its minimum. How many tokens does a sequence get "
    "per cycle?",
    answer=lambda: latency.lockstep_tokens_per_cycle(survival, 4),
    tolerance=0.02,
    mistakes={
        "you let each sequence advance by its own number": lambda: 1 + survival.sum(),
        "you forget the bonus token": lambda: latency.lockstep_tokens_per_cycle(survival, 4) - 1,
    },
    unit="tokens",
)
quiz.ask(lost)

# %% [markdown]
# ## References
#
# - Su, Giannoula and Pekhimenko, *The Synergy of Speculative Decoding and Batching in Serving Large
#   Language Models*, [arXiv:2310.18813](https://arxiv.org/abs/2310.18813): the best γ falls as the
#   batch grows.
# - Sadhukhan et al., *MagicDec*, [arXiv:2408.11049](https://arxiv.org/abs/2408.11049): long
#   contexts at large batches.
# - Huang et al., *MoESD*, [arXiv:2505.19645](https://arxiv.org/abs/2505.19645): distinct experts,
#   and the batch at which speculation helps a mixture most.
# - Frantar et al., *MARLIN*, [arXiv:2408.11743](https://arxiv.org/abs/2408.11743): 4-bit weights
#   and the batch up to which they help.
# - Yan, Agarwal and Venkataraman, *Decoding Speculative Decoding*,
#   [arXiv:2402.01528](https://arxiv.org/abs/2402.01528): the latency of a draft decides, and it
#   follows its depth.

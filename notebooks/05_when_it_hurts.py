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
# **Question.** Speculation never changes the law of the text. When does it cost time all the same?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also decodes with
# the small pair that comes with the project, at several temperatures. No download.
#
# Seven ways to lose, each as a curve that is predicted, with measured markers where the project
# has any: published ones, each with its source in the catalog, and those of your own machine.
# Nearly all of them have one cause. Speculation spends idle arithmetic; it hurts where none is
# idle, or where the draft costs more than it saves.

# %%
import itertools

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
# A batch of users shares each fetched weight, as a cycle's γ + 1 rows do. Both draw on the same
# idle arithmetic; when batch × (γ + 1) rows reach the ridge, it is used up. From there a
# verification costs in proportion to its rows, and rejected drafts are paid in full.
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
sheet, axes = figures.sheet()
title = f"{target.name} with {draft.name}, α = 0.75"
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title=title)
sheet

# %% [markdown]
# Move it yourself, where a kernel is running (a page without one shows nothing here):

# %%
course.live(lambda: explorer.speedup_map(alpha=0.75, gamma=3))

# %%
fixed = planning.crossover(target, drafter, system, gammas=5, most=512, alpha=0.75, context=512)
ridge = float(system.ridge_rows)
course.say(f"""
By what such an engine reaches of bandwidth and arithmetic, the ridge is at {ridge:.0f} rows. γ = 5
makes six of a sequence, so the bend comes at a batch of {ridge / 6:.0f}. From there the gain
shrinks; it is gone where a cycle costs as many plain steps as it emits tokens, with γ = 5 above a
batch of {fixed.batch}. γ = 1 still gives {lines[0].y[-1]:.2f}× at {batches[-1]}.
""")

# %% [markdown]
# vLLM's table (its pull request on dynamic speculation) has cycles at two batches, both on the flat
# part, where the model says that a batch changes little.

# %%
from specsim.evidence.validation import speculative

table = list(speculative.dynamic_sd_speedups())
lines = []
for k in (1, 3, 7):
    of_k = [r for r in table if r.label.startswith("EAGLE-3,") and r.label.endswith(f"K = {k}")]
    published = [(b, r.published) for b, r in zip((1, 16), of_k, strict=True)]
    law = {"survival": speculative.survival_of("EAGLE-3")}
    some = 2 ** np.arange(8)
    predicted = [float(speculative.vllm(b, k, None, **law).speedup) for b in some]
    lines.append(figures.Curve(f"EAGLE-3, γ = {k}", some, predicted, measured=published))
sheet, axes = figures.sheet()
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title="vLLM, predicted and printed")
sheet

# %%
errors = [abs(r.predicted / r.published - 1) for r in table]
course.say(f"""
Between batch 1 and 16 the published speedups hardly move, as predicted (median error
{np.median(errors):.1%}); beyond it the lines are a prediction that this table does not test.

**Rows are free up to the ridge and paid in full behind it: γ = 5 pays up to a batch of
{fixed.batch} here. At high load draft less, or nothing.**
""")

# %% [markdown]
# ## Long contexts
#
# Reading the keys and values of a long context is memory traffic too, and batching does not share
# it: every sequence has its own. It is a regime of its own. A verification reads each key once for
# all its rows, so the *target* profits from speculation at any batch. But the draft has a context
# as well. If it keeps all of it, its steps grow long with the target's; a draft that keeps a window
# stays cheap.

# %%
contexts = 2 ** np.arange(9, 18)
kinds = {
    "draft keeps a window of 512": specsim.DraftModel(draft, window=512),
    "draft keeps it all": drafter,
}
long = {"gamma": 4, "alpha": 0.8, "batch": 32, "context": contexts}
lines = [
    figures.Curve(label, contexts, specsim.predict(target, kind, system, **long).speedup)
    for label, kind in kinds.items()
]
sheet, axes = figures.sheet()
x = "context (tokens a sequence)"
figures.curves(axes, lines, x, SPEEDUP, unit_line=True, title="batch 32, γ = 4, α = 0.8")
sheet

# %%
windowed, full = (float(line.y[-1]) for line in lines)
course.say(f"""
(α is held at 0.8; a window costs some acceptance on text that refers far back, which this curve
does not know.)

**Long contexts do not kill speculation, they favour it, if the draft's own cache is small:
{windowed:.2f}× with a window, {full:.2f}× with all {contexts[-1] // 1024}k tokens.**
""")

# %% [markdown]
# ## Mixtures of experts
#
# A dense model reads the same weights for one row as for eight. A mixture of experts does not:
# more tokens route to more experts, and each has to be fetched. At batch 1 a verification is
# *not* nearly free. At a medium batch all experts are fetched anyway, and it is again. How many
# distinct experts some neighbouring tokens share is a property of the text: `routing_correlation`
# is 0 if they choose independently and 1 if they choose alike.

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
    for label, rho in (("choose alike", 1.0), ("partly alike", 0.45), ("independently", 0.0))
]
sheet, axes = figures.sheet()
title = f"{experts.name}, EAGLE-3 head, γ = 3"
figures.curves(axes, lines, SEQUENCES, SPEEDUP, unit_line=True, title=title)
sheet

# %%
partly = np.asarray(lines[1].y)
wide, one = (
    float(step_time(experts, system, Workload(rows=rows, routing_correlation=0.45)).total_s)
    for rows in (4, 1)
)
four = step_time(target, system, Workload(rows=4)).total_s
dense = float(four / step_time(target, system).total_s)
course.say(f"""
The middle line assumes the correlation that one published measurement suggests; it is an input,
not a result. With it, four rows take {wide / one:.2f} times one row at batch 1, where a dense model
takes {dense:.2f}.

**A mixture of experts gains least at a batch of {batches[partly.argmin()]}
({partly.min():.2f}×) and most around {batches[partly.argmax()]} ({partly.max():.2f}×), where the
gain of a dense one has begun to fade.**
""")

# %% [markdown]
# ## Quantised targets
#
# Four-bit weights and speculation both save the reading of weights, so their gains do not
# multiply. The plain step gets short; what does not shrink with it, the draft in bf16 and the
# launches, weighs more. And since the arithmetic stays in bf16, the ridge moves to the left: the
# batch at which it hurts is smaller.

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
sheet, axes = figures.sheet(height=3.6)
x = "γ, tokens drafted per cycle"
figures.curves(axes, lines, x, SPEEDUP, doubling=False, unit_line=True, title="one H200, α = 0.75")
sheet

# %%
quick = specsim.system("h200-sxm", precision="int4")
gain = float(step_time(target, system).total_s / step_time(target, quick).total_s)
tops = {line.label: float(np.max(line.y)) for line in lines}
both, apart = gain * tops["target int4, draft int4"], gain * tops["target bf16, draft bf16"]
lost = (tops["target int4, draft int4"] - tops["target int4, draft bf16"]) / (
    tops["target int4, draft int4"] - 1
)
course.say(f"""
int4 alone gives {gain:.2f}×, speculation alone {tops["target bf16, draft bf16"]:.2f}×. With the
same 16-bit draft only {tops["target int4, draft bf16"]:.2f}× is left of the latter.

**Together {both:.2f}× with both in int4, not the product {apart:.2f}×; with a 16-bit draft
{lost:.0%} of what speculation adds is lost.**
""")

# %% [markdown]
# ## Temperature, and drafts that are greedy
#
# A temperature T above 1 flattens both laws, one below 1 sharpens them. Very flat laws overlap, so
# at high T a draft that is *sampled* from its law is accepted more and more often. A draft that
# always takes its likeliest token is accepted with the target's probability of that one token,
# which falls instead. Lookups and many heads draft that way. Between cold and hot there is no rule:
# it depends on the two laws. An example with four tokens:

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
sheet, axes = figures.sheet(height=2.9)
figures.curves(axes, lines, "temperature (1 is the model's own)", "α (share accepted)")
sheet

# %% [markdown]
# And the bundled pair, on real text, if there is PyTorch. *Predicted*: at each temperature the
# target writes a text, and both models' laws along it give α. *Measured*: drafts of one token on
# other prompts, counted.

# %%
if here.torch:
    import reference
    from reference import checkpoints, machine
    from reference.lab import suites

    large, small, tokenizer = reference.load_pair("bundled", device=machine.device_named(None))
    texts = checkpoints.prompt_texts()
    prompts, new_tokens = course.effort(20, 5), course.effort(40, 16)
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
else:
    course.say("*Skipped: no PyTorch, so nothing is counted here.*")

# %%
if here.torch:
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
    sheet, axes = figures.sheet(height=2.9)
    figures.curves(axes, [line], "temperature (1 is the model's own)", "α (share accepted)")
    course.show(sheet)

# %%
if here.torch:
    apart = 1.28 * np.abs(predicted - counted) / np.hypot(spread, errors)
    worst = int(apart.argmax())
    luck = ", which is more than luck: other prompts, another α" if apart[worst] > 2 else ""
    course.say(f"""
Band and bars (80 %) take a text as one draw, not a draft. Cold, a target as small as this one
repeats itself, and a text is then easy or hard as a whole: {prompts} prompts leave
±{spread[0]:.3f} at T = {warmth[0]} and ±{spread[-1]:.3f} at T = {warmth[-1]}, where drafts that are
counted as if each were on its own would claim ±{of_drafts[0]:.3f} and ±{of_drafts[-1]:.3f}. The two
are farthest apart at T = {warmth[worst]}, by {apart[worst]:.1f} of their joint standard
errors{luck}.
""")
sampled, greedy = (
    float(np.interp(1.0, heats, np.asarray(f(p, q))))
    for f in (acceptance.overlap, acceptance.greedy_overlap)
)
course.say(f"""
In the example, at T = 1 a sampled draft is accepted with {sampled:.2f} and a greedy one with
{greedy:.2f}.

**Measure α at the temperature that you serve; and let the draft sample from the law that it
reports.**
""")

# %% [markdown]
# ## Drafts that are all launches
#
# In eager mode each small kernel is launched from Python, and a pass costs its layers times a
# constant. A draft with nearly as many layers as its target then costs nearly as much, however few
# parameters it has (notebook 3).

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
sheet, axes = figures.sheet()
title = "qwen3-0.6b for qwen3-8b, α = 0.8"
figures.curves(axes, lines, x, SPEEDUP, doubling=False, unit_line=True, title=title)
sheet

# %%
tops = {label: float(each.speedup.max()) for label, each in over.items()}
ends = float(over["eager PyTorch"].speedup[4])
course.say(f"""
**The same pair and the same acceptance: {tops["roofline"]:.2f}× at best by bytes alone,
{tops["CUDA graphs"]:.2f}× with graphs, {tops["eager PyTorch"]:.2f}× in eager mode, and {ends:.2f}×
there at γ = 4. Capture both models in graphs before you judge a draft.**
""")

# %% [markdown]
# ## Batches in lock-step
#
# The sequences of a batch accept different numbers of drafts. A cache with a length per sequence
# lets each advance by its own. Simple implementations cut all to the batch's minimum instead, so
# that the tensors stay rectangular; then one unlucky sequence stops all.

# %%
survival = 0.8 ** np.arange(1, 5)
some = 2 ** np.arange(7)
lines = [
    figures.Curve("each its own", some, np.full(len(some), 1 + survival.sum()), "tokens"),
    figures.Curve(
        "cut to the minimum", some, latency.lockstep_tokens_per_cycle(survival, some), "draft"
    ),
]
sheet, axes = figures.sheet(height=2.9)
figures.curves(axes, lines, SEQUENCES, "tokens per cycle", title="γ = 4, α = 0.8")
sheet

# %%
left = float(latency.lockstep_tokens_per_cycle(survival, 8))
course.say(f"""
**At a batch of 8, lock-step leaves {left:.2f} of {1 + survival.sum():.2f} tokens per cycle: the
whole cost of a cycle for hardly more than a plain step's token.**
""")

# %% [markdown]
# ## Which of them is yours?
#
# The same arithmetic, as a checklist: what limits it, and what to do.
#
# | symptom | cause | remedy |
# |---|---|---|
# | gain fades with load | rows reach the ridge | smaller γ by batch, or off (notebook 7) |
# | long contexts gain nothing more | the draft reads all of its own cache | a window, a head |
# | little at batch one, a mixture of experts | new experts per row | smaller γ, or larger batches |
# | little after quantising | the draft did not shrink | quantise the draft |
# | α falls when users raise T | greedy drafts | sample from the draft |
# | slower in a script, fine in an engine | launches | graphs, or fewer draft layers |
# | batches gain nothing | lock-step | lengths per sequence |
#
# **It hurts where arithmetic is not idle, or where a draft costs more than its bytes.**

# %% [markdown]
# ## Exercises
#
# Answer in the box, or with `quiz.check`. A wrong answer is told the slip it looks like.

# %%
quiz.ask("when-it-hurts")

# %%
quiz.ask("eager")

# %%
lost = quiz.Question(
    "γ = 4, α = 0.8, a batch of 4 cut to its minimum. How many tokens per sequence and cycle?",
    answer=lambda: latency.lockstep_tokens_per_cycle(survival, 4),
    tolerance=0.02,
    slips={
        "each sequence advances by its own": lambda: 1 + survival.sum(),
        "the bonus token is forgotten": lambda: latency.lockstep_tokens_per_cycle(survival, 4) - 1,
    },
    unit="tokens",
)
quiz.ask(lost)

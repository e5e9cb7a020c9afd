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
# # 3. How much faster?
#
# **Question.** A draft model guesses well and is fast. What speedup follows, and which γ is best?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also decodes with
# the small pair that comes with the project, to count the accepted tokens. No download.
#
# The speedup is one fraction: the tokens that a cycle emits, divided by the time of a cycle in
# plain steps. We look first at the numerator, then at the denominator, and then at the fraction.

# %%
import itertools

import numpy as np

import specsim
from specsim import acceptance, course, explorer, figures, planning
from specsim.acceptance import latency, leviathan
from specsim.cost import step_time
from specsim.course import quiz

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## Tokens per cycle
#
# A cycle drafts γ tokens. The target verifies them all in one pass and accepts them up to the first
# rejection. Then it adds one token of its own: the correction, or the bonus if nothing was
# rejected. So a cycle emits at least one token and at most γ + 1.
#
# Let $s_k$ be the probability that at least $k$ drafts are accepted, the *survival* (vLLM logs it
# as the per-position acceptance rate). The mean number of tokens needs nothing else; the drafts do
# not have to be independent:
#
# $$\text{tokens per cycle} = 1 + s_1 + s_2 + \dots + s_\gamma .$$
#
# (vLLM calls this number the mean acceptance length; papers call it block efficiency or τ. Here it
# always includes the bonus.)
#
# If each draft is accepted with the same probability α, whatever came before, then $s_k = \alpha^k$
# and the sum is geometric. Then it has a limit that no γ can exceed.

# %%
gammas = np.arange(13)
lines = [
    figures.Curve(f"α = {alpha}", gammas, acceptance.IID(alpha).tokens_per_cycle(gammas), "tokens")
    for alpha in (0.9, 0.8, 0.7, 0.5)
]
figure, axes = figures.subplots()
figures.curves(axes, lines, "γ, tokens drafted per cycle", "tokens per cycle", doubling=False)
figure

# %%
tau = float(acceptance.IID(0.8).tokens_per_cycle(4))
course.say(f"""
At α = 0.8 and γ = 4 a cycle emits {tau:.2f} tokens. It is not γα = {4 * 0.8:.1f}, because the
drafts after a rejection are lost. It is not {tau - 1:.2f} either: that forgets the bonus.

**With α = 0.8 no γ emits more than {1 / (1 - 0.8):.0f} tokens per cycle, and γ =
{int(np.argmax(acceptance.IID(0.8).tokens_per_cycle(gammas) > 0.9 * 5))} already gives 90 % of that:
longer drafts gain little.**
""")

# %% [markdown]
# ## Three numbers called acceptance rate
#
# Papers print α, the probability that a draft is accepted *given that it is judged*. Engines log
# accepted per drafted (vLLM: draft acceptance rate). It also counts the drafts after a rejection as
# drafted, although nobody judged them. Others print tokens per cycle, with or without the bonus.
# For the same text these are three different numbers. If every draft has the same probability, only
# α does not depend on γ.

# %%
some = gammas[1:]
rate = acceptance.accepted_per_drafted(acceptance.IID(0.8).tokens_per_cycle(some), some)
lines = [
    figures.Curve("α", some, 0.8 * np.ones(len(some)), "plain"),
    figures.Curve("accepted / drafted", some, rate, "draft"),
]
figure, axes = figures.subplots(height=2.9)
figures.curves(axes, lines, "γ, tokens drafted per cycle", "rate (share)", doubling=False)
figure

# %% [markdown]
# Now real text, if PyTorch is installed: the bundled pair continues Python source code. Before any
# speculative cycle runs, the target writes a text by itself, and both models process each of its
# tokens once. This is enough to compute, for every γ, how many tokens a cycle should emit. We
# *predict first*, on one set of prompts, and then count on another set.

# %%
# %%measured
import reference
from reference import checkpoints, machine
from reference.lab import suites

drafted = (1, 2, 4, 8)
target, draft, tokenizer = reference.load_pair("bundled", device=machine.device_named(None))
texts = checkpoints.prompt_texts()
prompts = course.effort(20, 3)
calibration, timed = (
    [tokenizer.encode(text)[:64] for text in texts[which][:prompts]]
    for which in ("calibration", "timed")
)
trace = acceptance.TextTrace(
    *suites.text_trace(target, draft, calibration, max_new_tokens=course.effort(48, 12))
)
predicted = [float(trace.tokens_per_cycle(gamma)) for gamma in drafted]
shown = ", ".join(f"{t:.2f} at γ = {g}" for g, t in zip(drafted, predicted, strict=True))
course.say(f"**Predicted** tokens per cycle: {shown}.")

# %%
# %%measured
new_tokens, seeds = course.effort(48, 12), course.effort((1, 2, 3, 4), (1, 2))
runs = [reference.Statistics(gamma) for gamma in drafted]
alphas = np.empty((len(drafted), len(seeds)))
for (row, total), (column, seed) in itertools.product(enumerate(runs), enumerate(seeds)):
    drafter = reference.DraftModel(draft, total.gamma)
    run = reference.speculate(target, drafter, timed, new_tokens, temperature=1.0, seed=seed)
    total.extend(run.statistics)
    alphas[row, column] = run.statistics.alpha
counted = [(run.gamma, run.tokens_per_cycle, run.tokens_per_cycle_error) for run in runs]
points = [(gamma, t, t - 1.28 * error, t + 1.28 * error) for gamma, t, error in counted]
upto = np.arange(9)
line = figures.Curve(
    "predicted from a plain text",
    upto,
    [float(trace.tokens_per_cycle(gamma)) for gamma in upto],
    "tokens",
    measured=points,
)
figure, axes = figures.subplots()
y = "tokens per cycle"
figures.curves(axes, [line], "γ, tokens drafted per cycle", y, doubling=False)
course.show(figure)

# %%
# %%measured
rows = "\n".join(
    f"| {r.gamma} | {r.alpha:.3f} | {r.accepted_per_drafted:.3f} | {r.tokens_per_cycle:.2f} |"
    for r in runs
)
errors = [abs(p / r.tokens_per_cycle - 1) for p, r in zip(predicted, runs, strict=True)]
change = course.difference(alphas[-1], alphas[0], words=("higher", "lower"))
course.say(f"""
All three numbers, counted over {len(seeds)} seeds:

| γ | α | accepted / drafted | tokens per cycle |
|---|---|---|---|
{rows}

The error of the predicted tokens per cycle is {np.median(errors):.1%} (median; worst
{max(errors):.1%}). On real text α can depend on γ: a late draft is judged only if all drafts before
it were accepted, and this happens where the text is easy. Here, α at γ = {drafted[-1]} compared
with α at γ = {drafted[0]}: {change}.
""")

# %%
wrong = float(acceptance.IID(rate[3]).tokens_per_cycle(4))
course.say(f"""
**Ask which rate a number is: at γ = 4, {rate[3]:.2f} accepted per drafted means
{1 + 4 * rate[3]:.2f} tokens per cycle. Read as α, it would predict {wrong:.2f}.**
""")

# %% [markdown]
# ## The time of a cycle
#
# A cycle has γ draft passes, one after the other, then one pass of the target over the last token
# and the γ drafts, and the engine's own work around them. Notebook 1 showed that a wide pass takes
# hardly longer than a narrow one while it is left of the ridge. So the time of a cycle is about a
# plain step plus the drafting.

# %%
large, small = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
drafter, system = specsim.DraftModel(small), specsim.system("h200-sxm", engine="cuda-graphs")
over = specsim.predict(large, drafter, system, gamma=range(9), alpha=0.8, context=1024)
figure, axes = figures.subplots()
figures.cycle_parts(axes, over)
figure

# %%
c = float(over.draft_step_s[1] / over.step_s)
wide = float(over.verify_step_s[8] / over.verify_step_s[0])
course.say(f"""
{large.name} with {small.name} on one H200: verifying eight drafts takes {wide:.3f} times as long as
a pass of one token, and each draft step takes {c:.2f} of a plain step.

**A cycle with γ drafts takes about 1 + {c:.2f} γ plain steps here: most of the extra time is
drafting.**
""")

# %% [markdown]
# ## Why a draft with a tenth of the parameters does not take a tenth of the time
#
# A common estimate divides the numbers of parameters. Take a pair whose draft has a small fraction
# of the target's parameters. Compare the draft's pass with the target's in four other ways: by
# bytes, by time when CUDA graphs capture the launches, by time in eager PyTorch, and by number of
# layers.
#
# *Guess first:* which of these ratios is closest to the ratio of the parameters, and which is
# farthest from it?

# %%
target, draft = specsim.model("qwen3-8b"), specsim.model("qwen3-0.6b")
ideal, graphs, eager = (
    specsim.system("h200-sxm", engine=engine) for engine in ("ideal", "cuda-graphs", "torch-eager")
)
both = {
    name: [step_time(model, s) for model in (draft, target)]
    for name, s in (("ideal", ideal), ("graphs", graphs), ("eager", eager))
}
ratios = {name: [float(d.total_s / t.total_s)] for name, (d, t) in both.items()}
fewer = draft.parameters / target.parameters
shares = {
    "parameters": [fewer],
    "bytes (roofline)": ratios["ideal"],
    "time, CUDA graphs": ratios["graphs"],
    "time, eager": ratios["eager"],
    "layers": [draft.num_layers / target.num_layers],
}
figure, axes = figures.subplots(height=3.0)
x = "draft pass / target pass (×)"
figures.gains(axes, shares, {"draft": "draft"}, x=x, title="qwen3-0.6b for qwen3-8b")
figure

# %% [markdown]
# Three things do not shrink with the parameters. First, the *number of layers*: a pass is a chain
# of small kernels, each with a launch and a minimum time, and the draft's chain is nearly as long
# as the target's. Second, the *LM head*: it is as wide as the vocabulary at any depth of the model.
# Third, the host's work per step.

# %%
head = draft.embedding_parameters / draft.parameters
figure, axes = figures.subplots(height=2.9)
steps = {
    "draft, graphs": both["graphs"][0],
    "target, graphs": both["graphs"][1],
    "draft, eager": both["eager"][0],
    "target, eager": both["eager"][1],
}
figures.step_shares(axes, steps)
figure

# %%
course.say(f"""
{draft.name} has {draft.num_layers} layers, {target.name} has
{target.num_layers}; {head:.0%} of the draft's parameters are its (shared) embedding and LM
head.

**The draft has {1 / fewer:.0f} times fewer parameters. It reads {1 / ratios["ideal"][0]:.0f} times
fewer bytes, takes {1 / ratios["graphs"][0]:.1f} times less time with CUDA graphs, and
{1 / ratios["eager"][0]:.1f} times less in eager mode. Estimate a draft's time from its layers and
launches, not from its parameters.**
""")

# %% [markdown]
# ## The best γ
#
# Now divide the tokens per cycle by the time per cycle. One more draft pays while its survival is
# larger than its extra time multiplied by the current speed (tokens per time). The curve rises, and
# then falls slowly.

# %%
figure, axes = figures.subplots()
figures.speedup_vs_gamma(axes, over)
figure

# %% [markdown]
# You can move it yourself if a kernel is running (a page without a kernel shows nothing here):

# %%
course.live(lambda: explorer.speedup_vs_gamma(preset="chat at batch 1"))

# %%
best = planning.best_gamma(large, drafter, system, alpha=0.8, context=1024)
closed = leviathan.best_gamma_closed_form(0.8, c)
course.say(f"""
There are three ways to find it. Trying all of them gives γ = {best.scan}; the marginal rule gives
{best.marginal_rule}; the closed form with c = {c:.2f} gives the real number {float(closed):.1f}.

**The best is {best.speedup:.2f}× at γ = {best.scan}, and the curve is flat there: γ =
{best.ties[0]} to {best.ties[-1]} are within 2 % of it. Choose the smallest of them: on a busy
server it loses the least.**
""")

# %% [markdown]
# ## A check: a published table
#
# vLLM published the milliseconds of a cycle by batch and by K (its name for γ) for an EAGLE head on
# a model of eight billion parameters (in its pull request on dynamic speculative decoding), and the
# survival of two generations of heads. The lines below are predicted from the model's configuration
# and vLLM's constants. The markers are the published values. This is not a blind test: the
# constants were fitted to plain steps (two of them are from this table), and one more constant, the
# overhead of a cycle, was fitted to its cycles. What is predicted freely is the dependence on γ,
# for two heads and two batches.

# %%
from specsim import catalog
from specsim.evidence.validation.speedups import dynamic_sd

table, engines = list(dynamic_sd()), catalog.load("engines")
lines = []
for head_name in ("EAGLE-3", "EAGLE"):
    of_head = [row for row in table if row.label.startswith(f"{head_name}, batch 1,")]
    ks, published = [row.gamma for row in of_head], [(row.gamma, row.speedup) for row in of_head]
    predicted = [float(row.predicted(engines).speedup) for row in of_head]
    lines.append(figures.Curve(head_name, ks, predicted, measured=published))
figure, axes = figures.subplots()
x, y = "γ, tokens drafted per cycle", "speedup (×)"
figures.curves(axes, lines, x, y, doubling=False, unit_line=True, title="batch 1, vLLM")
figure

# %%
errors = [abs(float(row.predicted(engines).speedup) / row.speedup - 1) for row in table]
course.say(f"""
Over both heads and both batches of that table ({len(table)} speedups):

**the error of the predicted speedup is {np.median(errors):.1%} (median; worst {max(errors):.1%}),
given the published survival.**
""")

# %% [markdown]
# ## What reduces the ideal speedup
#
# The ideal is to emit all γ drafts and the bonus in the time of one token. The waterfall shows what
# reduces it. Each factor drops one more assumption: that all drafts are accepted, that drafting
# takes no time, that a wide pass takes as long as a narrow one, and that nothing else takes time.

# %%
figure, axes = figures.subplots()
figures.waterfall(axes, over, 4, f"{large.name} with {small.name}, α = 0.8, H200")
figure

# %%
factors = {name: float(f[4]) for name, f in over.waterfall().items() if name != "ideal"}
worst = min(factors, key=factors.get)
course.say(f"""
**Of the ideal 5× at γ = 4, {float(over.speedup[4]):.2f}× remains. The largest reduction comes from
{worst} (× {factors[worst]:.2f}): look there first for more speed.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. The reply to a wrong answer names the
# likely mistake.

# %%
quiz.ask("best-gamma")

# %%
tau_17 = quiz.Question(
    "An engine logs 62 % accepted per drafted at K = 3. How many tokens per cycle is that, bonus "
    "included?",
    answer=lambda: acceptance.tokens_per_cycle_from_accepted_per_drafted(0.62, 3),
    tolerance=0.02,
    mistakes={
        "you read the log as α": lambda: acceptance.IID(0.62).tokens_per_cycle(3),
        "you forget the bonus token": lambda: 3 * 0.62,
    },
    unit="tokens",
)
quiz.ask(tau_17)

# %%
replies = quiz.Question(
    "α = 0.8, γ = 5. How many cycles does a reply of 64 tokens take on average?",
    answer=lambda: latency.cycles_to_emit(64, 0.8 ** np.arange(1, 6)).mean,
    tolerance=0.01,
    mistakes={
        "you divide 64 by the tokens per cycle (the last cycle also takes its full time, so it is "
        "about half a cycle more)": lambda: 64 / acceptance.IID(0.8).tokens_per_cycle(5),
        "you assume that all drafts are accepted": lambda: 64 / 6,
    },
    unit="cycles",
)
quiz.ask(replies)

# %% [markdown]
# ## References
#
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.
# - Yan, Agarwal and Venkataraman, *Decoding Speculative Decoding*,
#   [arXiv:2402.01528](https://arxiv.org/abs/2402.01528): the latency of a draft decides, and it
#   follows its depth.
# - [vLLM: speculative decoding](https://docs.vllm.ai/en/latest/features/spec_decode.html): the
#   counters that an engine reports.

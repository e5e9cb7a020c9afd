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
# **Question.** A draft model guesses well and costs little. Which speedup follows, and which γ is
# best?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also decodes with
# the small pair that comes with the project, to count what is accepted. No download.
#
# Everything comes down to one fraction: tokens emitted per cycle, over what a cycle costs in plain
# steps. We take its numerator and its denominator one after the other, and then put them together.

# %%
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
# A cycle drafts γ tokens; the target checks them all in one pass and keeps the first ones, up to
# the first that it rejects. Then it adds one token of its own: the correction, or the bonus where
# all were kept. So a cycle emits at least one token and at most γ + 1.
#
# Let $s_k$ be the chance that at least $k$ drafts are kept, the *survival*. The mean needs nothing
# else, not even that drafts succeed independently of each other:
#
# $$\text{tokens per cycle} = 1 + s_1 + s_2 + \dots + s_\gamma .$$
#
# If each draft is kept with the same chance α whatever came before, then $s_k = \alpha^k$ and the
# sum is geometric. It has a ceiling that no γ breaks.

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
At α = 0.8 a cycle of γ = 4 emits {tau:.2f} tokens. Not {4 * 0.8:.1f}, which is γα and ignores that
a rejection throws away what follows it; and not {tau - 1:.2f}, which forgets the bonus.

**With α = 0.8 no γ emits more than {1 / (1 - 0.8):.0f} tokens per cycle, and 90 % of that is
reached at γ = {int(np.argmax(acceptance.IID(0.8).tokens_per_cycle(gammas) > 0.9 * 5))}: long
drafts buy little.**
""")

# %% [markdown]
# ## Three numbers called acceptance rate
#
# Papers print α, the chance that a draft is kept *given that it is looked at*. Engines log accepted
# over drafted, where drafts behind a rejection count as drafted though nobody looked at them.
# Others print tokens per cycle, with or without the bonus. For the same text these are three
# different numbers; if every draft has the same chance, only the first does not move with γ.

# %%
law = acceptance.IID(0.8)
some = gammas[1:]
rate = acceptance.accepted_per_drafted(law.tokens_per_cycle(some), some)
lines = [
    figures.Curve("α", some, 0.8 * np.ones(len(some)), "plain"),
    figures.Curve("accepted / drafted", some, rate, "draft"),
]
figure, axes = figures.subplots(height=2.9)
figures.curves(axes, lines, "γ, tokens drafted per cycle", "rate (share)", doubling=False)
figure

# %% [markdown]
# Now real text, if there is PyTorch: the bundled pair continues Python source code. Before any
# speculative cycle runs, the target writes a text by itself and both models look at each of its
# tokens once. That tells, for every γ at once, what a cycle should emit. *Predicted first*, on one
# set of prompts; then counted, on another.

# %%
drafted = (1, 2, 4, 8)
if here.torch:
    import reference
    from reference import checkpoints, machine
    from reference.lab import suites

    target, draft, tokenizer = reference.load_pair("bundled", device=machine.device_named(None))
    texts = checkpoints.prompt_texts()
    prompts = course.effort(20, 6)
    calibration, timed = (
        [tokenizer.encode(text)[:64] for text in texts[which][:prompts]]
        for which in ("calibration", "timed")
    )
    trace = acceptance.TextTrace(
        *suites.text_trace(target, draft, calibration, max_new_tokens=course.effort(48, 24))
    )
    predicted = [float(trace.tokens_per_cycle(gamma)) for gamma in drafted]
    shown = ", ".join(f"{t:.2f} at γ = {g}" for g, t in zip(drafted, predicted, strict=True))
    course.say(f"**Predicted** tokens per cycle: {shown}.")
else:
    course.say("*Skipped: no PyTorch, so nothing is counted here.*")

# %%
if here.torch:
    new_tokens = course.effort(48, 24)
    runs = [
        reference.speculate(
            target, reference.DraftModel(draft, gamma), timed, new_tokens, temperature=1.0, seed=1
        ).statistics
        for gamma in drafted
    ]
    counted = [(run.gamma, run.tokens_per_cycle, run.tokens_per_cycle_error) for run in runs]
    points = [(gamma, t, t - 1.28 * error, t + 1.28 * error) for gamma, t, error in counted]
    upto = np.arange(9)
    line = figures.Curve(
        "predicted from a text",
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
if here.torch:
    rows = "\n".join(
        f"| {r.gamma} | {r.alpha:.3f} | {r.accepted_per_drafted:.3f} | {r.tokens_per_cycle:.2f} |"
        for r in runs
    )
    errors = [abs(p / r.tokens_per_cycle - 1) for p, r in zip(predicted, runs, strict=True)]
    course.say(f"""
The same four runs, by each of the three names:

| γ | α | accepted / drafted | tokens per cycle |
|---|---|---|---|
{rows}

The prediction missed the tokens per cycle by {np.median(errors):.1%} (median; worst
{max(errors):.1%}). On real text α depends on γ a little, too: a draft far down a block is looked at
only where those before it were kept, which is where the text is easy.
""")
wrong = float(acceptance.IID(rate[3]).tokens_per_cycle(4))
course.say(f"""
**Ask which rate it is: at γ = 4 a log of {rate[3]:.2f} accepted per drafted means
{1 + 4 * rate[3]:.2f} tokens per cycle; read as α it would predict {wrong:.2f}.**
""")

# %% [markdown]
# ## What a cycle costs
#
# γ draft passes, one after the other; one pass of the target over γ + 1 rows; and what the engine
# does around them. Notebook 1 showed that the wide pass costs hardly more than a narrow one while
# it is left of the ridge. So the price of a cycle is nearly a plain step plus the drafting.

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
{large.name} with {small.name} on one H200: verifying eight drafts costs {wide:.3f} times a pass of
one row, and each draft step {c:.2f} of a plain step.

**A cycle of γ drafts costs about 1 + {c:.2f} γ plain steps here: the drafting is what you pay
for.**
""")

# %% [markdown]
# ## Why a ten times smaller draft is not ten times cheaper
#
# The usual napkin divides the parameters. Take a pair where the draft has a small fraction of them,
# and look at its pass as a share of the target's in other ways: by bytes, by time with the launches
# captured in CUDA graphs, by time in eager PyTorch, and by the number of layers.
#
# *Guess first:* which of these is nearest to the share of the parameters, and which is farthest?

# %%
target_shape, draft_shape = specsim.model("qwen3-8b"), specsim.model("qwen3-0.6b")
ideal, graphs, eager = (
    specsim.system("h200-sxm", engine=engine) for engine in ("ideal", "cuda-graphs", "torch-eager")
)
both = {
    name: [step_time(shape, s) for shape in (draft_shape, target_shape)]
    for name, s in (("ideal", ideal), ("graphs", graphs), ("eager", eager))
}
ratios = {name: [float(d.total_s / t.total_s)] for name, (d, t) in both.items()}
fewer = draft_shape.parameters / target_shape.parameters
shares = {
    "parameters": [fewer],
    "bytes (roofline)": ratios["ideal"],
    "time, CUDA graphs": ratios["graphs"],
    "time, eager": ratios["eager"],
    "layers": [draft_shape.num_layers / target_shape.num_layers],
}
figure, axes = figures.subplots(height=3.0)
x = "draft pass / target pass (×)"
figures.gains(axes, shares, {"draft": "draft"}, x=x, title="qwen3-0.6b for qwen3-8b")
figure

# %% [markdown]
# Three things do not shrink with the parameters. The *number of layers*: a pass is a chain of small
# kernels, each with a launch and a floor, and the chain is nearly as long as the target's. The *LM
# head*: it is as wide as the vocabulary, whatever the model's depth. And the host's work per step.

# %%
head = draft_shape.embedding_parameters / draft_shape.parameters
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
{draft_shape.name} has {draft_shape.num_layers} layers, {target_shape.name} has
{target_shape.num_layers}; {head:.0%} of the draft's parameters are its (shared) embedding and LM
head.

**{1 / fewer:.0f} times fewer parameters: {1 / ratios["ideal"][0]:.0f} times fewer bytes,
{1 / ratios["graphs"][0]:.1f} times less time with graphs, {1 / ratios["eager"][0]:.1f} times less
in eager mode. Price a draft by its layers and launches, not by its parameters.**
""")

# %% [markdown]
# ## The best γ
#
# Put numerator and denominator together. A further draft is worth its price while its survival
# exceeds what it adds to the cycle, counted in tokens at the going rate. The curve rises, and
# falls slowly.

# %%
figure, axes = figures.subplots()
figures.speedup_vs_gamma(axes, over)
figure

# %% [markdown]
# Move it yourself, where a kernel is running (a page without one shows nothing here):

# %%
course.live(lambda: explorer.speedup_vs_gamma(preset="chat at batch 1"))

# %%
best = planning.best_gamma(large, drafter, system, alpha=0.8, context=1024)
closed = leviathan.best_gamma_closed_form(0.8, c)
course.say(f"""
Three ways to find it: looking at all of them gives γ = {best.scan}, the marginal rule
{best.marginal_rule}, the closed form with c = {c:.2f} the real number {float(closed):.1f}.

**The best is {best.speedup:.2f}× at γ = {best.scan}, and the top is flat: γ = {best.ties[0]} to
{best.ties[-1]} are within 2 % of it. Choose the smallest of them; when a server gets busy it is
the one that hurts least.**
""")

# %% [markdown]
# ## Is that so? A published table
#
# vLLM printed the milliseconds of a cycle by batch and by K (its γ) for an EAGLE head on a model
# of eight billion parameters (its pull request on dynamic speculative decoding), and the survival
# of two generations of heads. Below, the lines are predicted from the model's shape and vLLM's
# constants; the markers are theirs. This is no blind test: those constants were fitted to plain
# steps (two of them from this table), and one more, the overhead of a cycle, to its cycles. What is
# predicted freely is the shape: over γ, over two heads, over two batches.

# %%
from specsim.evidence.validation import speculative

table = list(speculative.dynamic_sd_speedups())
lines = []
for head_name in ("EAGLE-3", "EAGLE"):
    of_head = [r for r in table if r.label.startswith(f"{head_name}, batch 1,")]
    ks = [int(r.label.split("K = ")[1]) for r in of_head]
    published = [(k, r.published) for k, r in zip(ks, of_head, strict=True)]
    lines.append(figures.Curve(head_name, ks, [r.predicted for r in of_head], measured=published))
figure, axes = figures.subplots()
x, y = "γ, tokens drafted per cycle", "speedup (×)"
figures.curves(axes, lines, x, y, doubling=False, unit_line=True, title="batch 1, vLLM")
figure

# %%
errors = [abs(r.predicted / r.published - 1) for r in table]
course.say(f"""
Over both heads and both batches of that table ({len(table)} speedups):

**the prediction misses the published speedup by {np.median(errors):.1%} in the median and
{max(errors):.1%} at worst, given the survival that was printed beside it.**
""")

# %% [markdown]
# ## Where the ideal goes
#
# All γ drafts and the bonus, for the price of one token: that is the ideal. The waterfall says what
# takes which part of it. Each factor is what remains after one more assumption is dropped: that all
# drafts are kept, that drafting is free, that a wide pass costs as much as a narrow one, that
# nothing else is done.

# %%
figure, axes = figures.subplots()
figures.waterfall(axes, over, 4, f"{large.name} with {small.name}, α = 0.8, H200")
figure

# %%
factors = {name: float(f[4]) for name, f in over.waterfall().items() if name != "ideal"}
worst = min(factors, key=factors.get)
course.say(f"""
**Of the ideal 5× at γ = 4, {float(over.speedup[4]):.2f}× is left; {worst} takes the largest part
(× {factors[worst]:.2f}), so that is where to look for more.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. A wrong answer is told the mistake it
# looks like.

# %%
quiz.ask("best-gamma")

# %%
tau_17 = quiz.Question(
    "An engine logs 62 % accepted of drafted at K = 3. How many tokens per cycle, bonus included?",
    answer=lambda: acceptance.tokens_per_cycle_from_accepted_per_drafted(0.62, 3),
    tolerance=0.02,
    mistakes={
        "the log is read as α": lambda: acceptance.IID(0.62).tokens_per_cycle(3),
        "the bonus token is forgotten": lambda: 3 * 0.62,
    },
    unit="tokens",
)
quiz.ask(tau_17)

# %%
replies = quiz.Question(
    "α = 0.8, γ = 5. How many cycles, on average, until a reply of 64 tokens is complete?",
    answer=lambda: latency.cycles_to_emit(64, 0.8 ** np.arange(1, 6)).mean,
    tolerance=0.01,
    mistakes={
        "64 is divided by the tokens per cycle: the last cycle is paid in full, so it is about "
        "half a cycle more": lambda: 64 / acceptance.IID(0.8).tokens_per_cycle(5),
        "every cycle is taken to keep all its drafts": lambda: 64 / 6,
    },
    unit="cycles",
)
quiz.ask(replies)

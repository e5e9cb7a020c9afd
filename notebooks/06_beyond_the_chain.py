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
# # 6. Beyond the chain
#
# **Question.** A small model that drafts a chain is one way to guess. What else can guess, what
# does each cost, and which one is for you?
#
# **Takes** about a minute on two CPU cores. **Needs** `specsim`; with PyTorch the ways that the
# decoder knows are run on the small pair that comes with the project. No download.
#
# Whatever guesses, three numbers decide: what drafting costs, which survival the drafts have, and
# how many rows the target must verify. The accept rule of notebook 2 does not care where a guess
# comes from, so everything below (unless it says "lossy") writes the target's text.

# %%
import numpy as np

import specsim
from specsim import acceptance, course, drafting, figures
from specsim.acceptance import optimal_trees as trees
from specsim.course import quiz

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## The ways to guess
#
# | way | who guesses | what it costs |
# |---|---|---|
# | n-gram, suffix | the text so far: what followed these words the last time? | a search |
# | early exit | the target's own first layers | a share of its weights, each time |
# | quantised self | the target, in fewer bits | all its weights, in fewer bytes |
# | draft model | a small model | its weights, and a second cache |
# | heads (Medusa, EAGLE, MTP) | a layer or less on the target's own states | a layer, an LM head |
# | trees | any of these, several guesses at a place | wider passes |
# | blocks (P-EAGLE, DFlash) | one pass that guesses all places at once | one pass |
# | overlapped (PEARL, SSD) | a draft on another device, during the verification | a device |
# | cascade, ensembles | drafters that have drafters | the sum of theirs |
#
# First, this machine. A calibration on probes tells what passes cost here; then acceptance is
# counted on *calibration* prompts. Both together predict.

# %%
if here.torch:
    from dataclasses import asdict

    import torch

    import reference
    from reference import adaptive, checkpoints, machine, slow_motion
    from reference.lab import probes
    from specsim.evidence.calibration import fit

    device = machine.device_named(None)
    dtype, reason = probes.fastest_dtype(device)
    timings = probes.run_probes(device, dtype, rounds=course.effort(3, 1))
    system = fit(timings, asdict(machine.environment(device))).system
    target, draft, tokenizer = reference.load_pair("bundled", dtype=dtype, device=device)
    calibration, timed = (reference.prompts(which, 64) for which in ("calibration", "timed"))
    calibration = calibration[: course.effort(25, 8)]
    new_tokens = course.effort(48, 24)
    shape, small = target.architecture, specsim.DraftModel(draft.architecture)
    plain = specsim.predict(shape, None, system, context=64 + new_tokens // 2)
    course.say(f"{reason}. A plain step is predicted to take {1e3 * float(plain.step_s):.2f} ms.")
else:
    course.say("*Skipped: no PyTorch, so nothing is calibrated or measured here.*")

# %% [markdown]
# For a tree we must know which guess comes true, not only whether the first one does. In one run of
# the pair, how much of p lies on the draft's first choice, its second, its third? From these shares
# the best tree of a given size follows (a greedy choice of the likeliest nodes).
#
# *Before you run the cell:* if the first choice holds half of p, what does the second hold?

# %%
if here.torch:
    watched = slow_motion.cycles(target, reference.DraftModel(draft, 1), calibration, 24, seed=7)
    laws = [(row.target_probs[0], row.draft_probs[0]) for step in watched for row in step]
    mass = torch.stack([p.gather(0, q.topk(4).indices) for p, q in laws]).mean(0).cpu().numpy()
    child_probs = np.minimum.accumulate(mass)
    nodes, depth = 8, 3
    best = trees.best_tree(child_probs, nodes + 1, depth)
    chain = trees.best_tree(child_probs[:1], nodes + 1)
    shares = ", ".join(f"{share:.2f}" for share in child_probs)
    course.say(f"""
The draft's choices hold {shares} of p. The best tree of {nodes} drafted nodes, {depth} deep, should
emit {best.tokens_per_cycle:.2f} tokens per cycle; a greedy chain of {nodes}
{chain.tokens_per_cycle:.2f}, for {nodes} draft passes instead of {depth}.

**Every way to guess is three numbers: what drafting costs, what survives, how many rows are
verified.**
""")
else:
    course.say("**Every way to guess is three numbers: its cost, its survival, its rows.**")

# %% [markdown]
# ## Predicted, then run
#
# Now every way that the decoder has, with its price from `specsim`. Tokens per cycle are counted on
# the calibration prompts, as one batch; times come from the probes alone.

# %%
if here.torch:
    tree = reference.Tree.of_parents(best.parents[1:])
    self_precision = "int8"
    arms = {  # label: what the decoder runs, what specsim prices, drafted tokens
        "draft model, γ = 3": (reference.DraftModel(draft, 3), small, 3),
        "n-gram, γ = 4": (reference.NGram(4), drafting.Lookup(1.0, pad=True), 4),
        "n-gram, else draft": (
            reference.Ensemble(reference.DraftModel(draft, 3)),
            drafting.Ensemble((small, drafting.Lookup(1.0, pad=True))),
            3,
        ),
        "early exit, 2 layers": (
            reference.EarlyExit(2, 2),
            drafting.EarlyExit(shape, 2 / shape.num_layers),
            2,
        ),
        f"itself in {self_precision}": (
            reference.QuantisedSelf(2, self_precision),
            drafting.QuantisedSelf(shape, self_precision),
            2,
        ),
        f"tree, {nodes} nodes": (
            reference.StaticTree(draft, tree),
            drafting.StaticTree(small, child_probs, depth),
            nodes,
        ),
    }
    if (checkpoints.PAIR / "head").exists():
        head = reference.load_head("bundled", target)
        arms["trained head, γ = 3"] = (reference.DraftHead(head, 3), drafting.Eagle(shape), 3)

# %%
if here.torch:
    predicted = {}
    for label, (drafter, method, drafted) in arms.items():
        counts = reference.speculate(target, drafter, calibration, new_tokens, 1.0, seed=1)
        tau = counts.statistics.tokens_per_cycle
        predicted[label] = specsim.predict(
            shape,
            method,
            system,
            gamma=drafted,
            tokens_per_cycle=tau,
            context=64 + new_tokens // 2,
            tokens_error=1.28 * counts.statistics.tokens_per_cycle_error / tau,
        )
    lines = [
        f"| {label} | {float(p.tokens_per_cycle):.2f} | {1e3 * float(p.draft_s):.2f} | "
        f"{1e3 * float(p.verify_step_s):.2f} | **{float(p.speedup):.2f}×** |"
        for label, p in predicted.items()
    ]
    head_line = "| predicted | tokens per cycle | drafting (ms) | verifying (ms) | speedup |"
    course.say(f"{head_line}\n|---|---|---|---|---|\n" + "\n".join(lines))
else:
    course.say("*Skipped: no PyTorch, so nothing is counted here.*")

# %% [markdown]
# And now the clock: other prompts, one text at a time, all ways in turn on each prompt, so that a
# machine that slows down slows them all.

# %%
if here.torch:
    drafters = {"plain": reference.NoDrafter()} | {name: arm[0] for name, arm in arms.items()}
    totals = {name: reference.Statistics(drafter.gamma) for name, drafter in drafters.items()}
    for drafter in drafters.values():  # a first run warms caches and allocators
        reference.speculate(target, drafter, timed[0], 8, 1.0)
    for index, prompt in enumerate(timed[: course.effort(8, 2)]):
        for name, drafter in drafters.items():
            run = reference.speculate(target, drafter, prompt, new_tokens, 1.0, seed=index)
            totals[name].extend(run.statistics)

# %%
if here.torch:
    step_s = totals["plain"].cycle_s
    rows, tau_rows = [], []
    for name, p in predicted.items():
        run, (low, high) = totals[name], p.band["speedup"]
        tau, error = run.tokens_per_cycle, 1.28 * run.tokens_per_cycle_error
        gain = step_s / run.cycle_s
        spread = (gain * (tau - error), gain * (tau + error))
        measured = gain * tau
        rows.append(figures.Row(name, float(p.speedup), float(low), float(high), measured, spread))
        tau_rows.append(
            figures.Row(
                name,
                float(p.tokens_per_cycle),
                measured=tau,
                spread=(tau - error, tau + error),
            )
        )
    sheet, (above, below) = figures.sheet(2, height=3.4)
    figures.by_method(above, tau_rows, "tokens", "tokens per cycle", "how much is kept")
    figures.by_method(below, rows, "speedup", "speedup (×)", "what is gained")
    course.show(sheet)

# %%
if here.torch:
    errors = [abs(row.predicted / row.measured - 1) for row in rows]
    won = max(rows, key=lambda row: row.measured)
    most = max(tau_rows, key=lambda row: row.measured)
    within = sum(row.low <= row.measured <= row.high for row in rows)
    gain = next(row for row in rows if row.label == most.label).measured
    of_both = (
        "is the fastest here as well; that need not be so where its drafts cost more"
        if won.label == most.label
        else f"is not the fastest: it gains {gain:.2f}×, since its drafts cost what they do"
    )
    course.say(f"""
Median error of the predicted speedup {np.median(errors):.0%}, worst {max(errors):.0%}
({rows[int(np.argmax(errors))].label}); {within} of {len(rows)} lie in their 80 % band. The way that
emits most tokens per cycle ({most.label}, {most.measured:.2f}) {of_both}. And a model of
{shape.num_layers} small layers was never trained to exit early, and copies little: what others
report of these ways holds for their models and their texts. A pass in int8 is priced by its bytes,
from probes in bf16; where its kernel is quicker to call, as on a CPU for matrices so small, it
gains more than that.

**On this machine and this text: {won.label}, {won.measured:.2f}×. Acceptance is half of the
answer; what the guess costs is the other half.**
""")
else:
    course.say("**Acceptance is half of the answer; what the guess costs is the other half.**")

# %% [markdown]
# ## How many to draft: adaptive γ
#
# Text is easy in places and hard in others. A further draft pays as long as its survival exceeds
# its marginal cost times the speedup so far; the decoder can be handed a function that decides this
# before every cycle, from what the last cycles did. It looks back only, at tokens that have been
# emitted, so the law stays exact. *Predict:* does it beat the best fixed γ?

# %%
if here.torch:
    costs = specsim.predict(
        shape, small, system, gamma=range(7), alpha=0.5, context=64 + new_tokens // 2
    ).cycle_s
    ways = {f"γ = {gamma}": (gamma, None) for gamma in (1, 2, 4, 6)}
    ways["adaptive"] = (6, adaptive.by_marginal_cost(costs.tolist()))
    speeds = {}
    for name, (gamma, choose) in ways.items():
        total = reference.Statistics(gamma)
        for index, prompt in enumerate(timed[: course.effort(8, 2)]):
            run = reference.speculate(
                target,
                reference.DraftModel(draft, gamma),
                prompt,
                new_tokens,
                1.0,
                seed=index,
                choose_gamma=choose,
            )
            total.extend(run.statistics)
        mean_cycle_s = sum(total.cycle_times) / len(total.cycle_times)
        speeds[name] = total.tokens_per_cycle / mean_cycle_s

# %%
if here.torch:
    said = ", ".join(f"{name}: {speed:.0f}" for name, speed in speeds.items())
    course.say(f"""
Tokens per second, measured: {said}.

**Adaptive γ reached {speeds["adaptive"] / max(list(speeds.values())[:-1]):.2f} times the best fixed
γ, without being told which that is. It can gain only from what varies between texts and within
them; otherwise what it saves is the search.**
""")
else:
    course.say("**Adaptive γ gains from what varies between texts; else it saves the search.**")

# %% [markdown]
# ## Priced on a GPU
#
# The bundled pair is a toy; the prices that matter are those of real shapes. So: an 8B target on an
# H200, engine with CUDA graphs, every method at its own best γ. To compare *costs*, all get the
# same α for the first draft (a table below turns the question round). What the catalog assumes
# beyond it, how acceptance decays in a head or how often a lookup finds something, is in
# `specsim/catalog/methods.toml`, each with its source or marked as assumed.
#
# *Before you run the cell:* which of them survive a large batch?

# %%
large, little = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
gpu = specsim.system("h200-sxm", engine="cuda-graphs")
alpha = 0.75
with_a_draft = ("draft-model", "pearl", "ssd", "cascade")
priced = ("n-gram", "early-exit", "quantised-self", "medusa", "eagle", "eagle-3", "mtp", "eagle-2")
priced += ("p-eagle", "dflash", *with_a_draft)
ways = {
    name: specsim.method(name, large, little if name in with_a_draft else None) for name in priced
}
most = {name: min(way.max_gamma or 8, 8) for name, way in ways.items()}
most["eagle-2"] = 40  # of a tree, γ counts nodes

# %%
batches = (1, 256)
found = {
    name: [
        specsim.predict(large, way, gpu, gamma=range(most[name] + 1), alpha=alpha, batch=batch)
        for batch in batches
    ]
    for name, way in ways.items()
}
gained = {
    name + (" ¹" if over[0].extra_devices else "") + ("" if over[0].lossless else " ²"): [
        float(one.speedup_per_device[1:].max()) for one in over
    ]
    for name, over in found.items()
}
ranked = dict(sorted(gained.items(), key=lambda item: -item[1][0]))

# %%
sheet, axes = figures.sheet(height=7.2)
kinds = {"batch 1": "speedup", "batch 256": "tokens"}
title = f"{large.name} on an H200, α = {alpha}"
figures.gains(axes, ranked, kinds, title=title)
course.show(sheet)
course.say(f"""
A lookup costs nearly nothing and finds nothing in most cycles: here it finds something in
{ways["n-gram"].hit:.0%} of them, which is assumed. In chat it is less, and where the answer repeats
the question (editing, summarising) it is more.
""")

# %% [markdown]
# ¹ per device: the second one, which drafts meanwhile, is counted. ² lossy as its paper has it
# (typical acceptance); with the exact rule it keeps less.
#
# A draft of the target's own size (early exit, fewer bits) costs too much of a step to gain much.
# Heads are cheap, and a block costs one pass for all of its places, so these live off their
# acceptance. And at a large batch every drafted row is a row that somebody else could have had.
#
# Turned round: which α must a method reach to be worth its trouble? (Of a tree, α is that of its
# first choice alone: its siblings catch part of what that one misses, so it needs less of it.)

# %%
wanted = 1.5
grid = np.linspace(0.02, 0.98, 49)
needed = {}
for name, way in ways.items():
    gammas = np.arange(1, most[name] + 1)
    over = specsim.predict(large, way, gpu, gamma=gammas, alpha=grid[:, None], batch=1)
    reached = over.speedup_per_device.max(axis=1) >= wanted
    needed[name] = float(grid[reached.argmax()]) if reached.any() else np.nan
lines = [
    f"| {name} | {'not at any' if np.isnan(least) else f'{least:.2f}'} |"
    for name, least in sorted(needed.items(), key=lambda item: (np.isnan(item[1]), item[1]))
]
course.say(
    f"| method | α of the first draft for {wanted}×, batch 1 |\n|---|---|\n" + "\n".join(lines)
)

# %%
names = list(ranked)
many = max(gained, key=lambda name: gained[name][1])
lost = sum(values[1] < 1 for values in gained.values())
course.say(f"""
**One α, other prices: at batch {batches[0]} {names[0]} gains most
({ranked[names[0]][0]:.2f}×), then {names[1]} ({ranked[names[1]][0]:.2f}×); at batch {batches[1]} it
is {many} ({gained[many][1]:.2f}×), and {lost} of {len(gained)} methods lose.**
""")

# %% [markdown]
# ## Trees: rows instead of passes
#
# A chain bets everything on its first token. A tree spends *rows* of the verification, which at
# batch 1 are nearly free, on second and third guesses. Tokens per cycle then grow with the
# logarithm of the nodes, where a chain runs into its ceiling. What happens to that when the rows
# are no longer free?

# %%
sizes = np.arange(1, 49)
head_3 = specsim.method("eagle-3", large)
tree_of = drafting.StaticTree(head_3, (0.6, 0.15, 0.08, 0.05, 0.03), 6)
lines = []
for batch in (1, 64, 256):
    over = specsim.predict(large, tree_of, gpu, gamma=sizes, alpha=alpha, batch=batch)
    lines.append(figures.Curve(f"batch {batch}", sizes, over.speedup))
sheet, axes = figures.sheet()
figures.curves(axes, lines, "nodes of the tree (drafted tokens)", "speedup (×)", unit_line=True)
sheet

# %%
peaks = {line.label: (int(sizes[np.argmax(line.y)]), float(np.max(line.y))) for line in lines}
said = "; ".join(
    f"{name}: {nodes} nodes{' (the largest tried)' if nodes == sizes[-1] else ''}, {gain:.2f}×"
    for name, (nodes, gain) in peaks.items()
)
course.say(f"""
Best trees: {said}.

**A tree turns spare rows into tokens. Where rows cost something, the best tree is a small one.**
""")

# %% [markdown]
# ## Which to choose
#
# | where you are | what to try first | why |
# |---|---|---|
# | the answer repeats the prompt | n-gram or suffix; a head where nothing matches | free |
# | chat, few users, there is a head for the model | EAGLE-3, or a block drafter | keeps much |
# | the model came with MTP modules | those, one or two tokens | trained with it |
# | no head, but a small sibling with the same tokenizer | draft model, short γ | nothing to train |
# | one user, a GPU that idles | a tree | rows are free |
# | many users | γ = 1, adaptive, or nothing | no spare rows |
# | a second GPU that idles | tensor parallelism first, then overlapped drafting | per device |
#
# Two habits of articles that are worth correcting. Speedups of different methods in one chart come
# from different baselines, models, texts and temperatures: compare tokens per cycle *and* the cost
# of a cycle. And "lossless" holds for an accept rule, not for a method: every drafter above is
# lossless under the token rule, and none is under typical acceptance.

# %%
reach = sorted((value, name) for name, value in needed.items() if not np.isnan(value))
(least, least_name), (most_of_all, last_name) = reach[0], reach[-1]
course.say(f"""
**No method is best. Each has a price (the α that it needs for {wanted}×, from {least:.2f} of
{least_name} to {most_of_all:.2f} of {last_name}), and your text decides which can be paid. Measure
the text, then look up the price.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. A wrong answer is told the slip it
# looks like.

# %%
quiz.ask("tree-or-chain")

# %%
quiz.ask("draft-in-parallel")

# %%
lookup = quiz.Question(
    "A lookup finds a match in 40 % of the cycles; a token of a match is kept with α = 0.9, and "
    "γ = 10. How many tokens does a cycle emit on average?",
    answer=lambda: drafting.Lookup(0.4).acceptance_of(acceptance.IID(0.9)).tokens_per_cycle(10),
    tolerance=0.01,
    slips={
        "a match is taken to be found every time": lambda: acceptance.IID(0.9).tokens_per_cycle(10),
        "the hit rate is taken to multiply the bonus token too": lambda: (
            0.4 * acceptance.IID(0.9).tokens_per_cycle(10)
        ),
        "the hit rate is multiplied into α": lambda: acceptance.IID(0.36).tokens_per_cycle(10),
    },
    unit="tokens",
)
quiz.ask(lookup)

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
# **Question.** A small model that drafts a chain is one way to guess. What else can guess, how long
# does it take, and which one fits you?
#
# **Takes** about a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also runs the
# drafting methods of the decoder on the small pair that comes with the project. No download.
#
# For every drafting method, three numbers decide: the time of drafting, the survival of the drafts,
# and how many tokens the target must verify. The acceptance rule of notebook 2 works with any
# source of drafts. So every method below (unless it says "lossy") keeps the target's distribution.

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
# | method | who guesses | what it costs |
# |---|---|---|
# | n-gram, suffix | the text so far: what followed these words last time? | a search |
# | early exit | the target's own first layers | a share of its weights for each draft |
# | quantised self | the target in fewer bits | all its weights, in fewer bytes |
# | draft model | a small model | its weights and a second cache |
# | heads (Medusa, EAGLE, MTP) | a layer or less on the target's own states | a layer, an LM head |
# | trees | any of these, with several guesses at a position | wider passes |
# | blocks (P-EAGLE, DFlash) | one pass that guesses all positions at once | one pass |
# | overlapped (PEARL, SSD) | a draft on another device, during the verification | a device |
# | cascade, ensembles | drafters that use other drafters | the sum of all of them |
#
# We start with this machine. A calibration on probes measures what passes cost here. Then we count
# acceptance on *calibration* prompts. The two together give the prediction.

# %%
# %%measured
from dataclasses import asdict

import torch

import reference
from reference import adaptive, checkpoints, machine, slow_motion
from reference.lab import probes
from specsim.evidence.calibration import fit

device = machine.device_named(None)
dtype, reason = probes.fastest_dtype(device)
probing = course.effort({}, {"rounds": 1, "widest": 400})
timings = probes.run_probes(device, dtype, **probing)
system = fit(timings, asdict(machine.environment(device))).system
target, draft, tokenizer = reference.load_pair("bundled", dtype=dtype, device=device)
calibration, timed = (reference.prompts(which, 64) for which in ("calibration", "timed"))
calibration = calibration[: course.effort(25, 4)]
new_tokens = course.effort(48, 12)
architecture, small = target.architecture, specsim.DraftModel(draft.architecture)
plain = specsim.predict(architecture, None, system, context=64 + new_tokens // 2)
course.say(f"{reason}. A plain step is predicted to take {1e3 * float(plain.step_s):.2f} ms.")

# %% [markdown]
# For a tree we must know which guess is right, not only whether the first one is. In a run of the
# pair, how much of p is on the draft's first choice, its second, its third? From these shares
# follows the best tree of a given size (a greedy selection of the likeliest nodes).
#
# *Before you run the cell:* if the first choice has half of p, how much does the second have?

# %%
# %%measured else: **Three numbers describe a method: drafting time, survival, tokens to verify.**
watched = slow_motion.cycles(target, reference.DraftModel(draft, 1), calibration, 24, seed=7)
pairs = [(row.target_probs[0], row.draft_probs[0]) for step in watched for row in step]
mass = torch.stack([p.gather(0, q.topk(4).indices) for p, q in pairs]).mean(0).cpu().numpy()
child_probs = np.minimum.accumulate(mass)
nodes, depth = 8, 3
best = trees.best_tree(child_probs, nodes + 1, depth)
chain = trees.best_tree(child_probs[:1], nodes + 1)
shares = ", ".join(f"{share:.2f}" for share in child_probs)
course.say(f"""
The draft's choices have {shares} of p. The best tree with {nodes} drafted nodes, {depth} deep,
should emit {best.tokens_per_cycle:.2f} tokens per cycle. A greedy chain of {nodes} drafts should
emit {chain.tokens_per_cycle:.2f}, with {nodes} draft passes instead of {depth}.

**Three numbers describe every drafting method: the time of drafting, the survival, and the number
of tokens to verify.**
""")

# %% [markdown]
# ## Predicted, then run
#
# Here is every drafting method of the decoder, next to its cost model in `specsim`. Tokens per
# cycle are counted on the calibration prompts, in one batch. The times come from the probes alone.

# %%
# %%measured
tree = reference.Tree.of_parents(best.parents[1:])
variants = {  # label: the decoder's drafter, its cost model, drafted tokens
    "draft model, γ = 3": (reference.DraftModel(draft, 3), small, 3),
    "n-gram, γ = 4": (reference.NGram(4), drafting.Lookup(1.0, pad=True), 4),
    "n-gram, or else draft": (
        reference.Ensemble(reference.DraftModel(draft, 3)),
        drafting.Ensemble((small, drafting.Lookup(1.0, pad=True))),
        3,
    ),
    "early exit, 2 layers": (
        reference.EarlyExit(2, 2),
        drafting.EarlyExit(architecture, 2 / architecture.num_layers),
        2,
    ),
    "itself in int8": (
        reference.QuantisedSelf(2, "int8"),
        drafting.QuantisedSelf(architecture, "int8"),
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
    eagle = drafting.Eagle(architecture)
    variants["trained head, γ = 3"] = (reference.DraftHead(head, 3), eagle, 3)

# %%
# %%measured
predicted = {}
for label, (drafter, method, drafted) in variants.items():
    counts = reference.speculate(target, drafter, calibration, new_tokens, 1.0, seed=1)
    tau = counts.statistics.tokens_per_cycle
    predicted[label] = specsim.predict(
        architecture,
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
head_line = "| predicted | tokens per cycle | drafting (ms) | verification (ms) | speedup |"
course.say(f"{head_line}\n|---|---|---|---|---|\n" + "\n".join(lines))

# %% [markdown]
# Now we measure the times on other prompts, one text at a time. On each prompt all methods run one
# after the other, so a machine that slows down slows all of them.

# %%
# %%measured
drafters = {"plain": reference.NoDrafter()} | {
    name: variant[0] for name, variant in variants.items()
}
totals = {name: reference.Statistics(drafter.gamma) for name, drafter in drafters.items()}
speeds = {name: [] for name in drafters}  # tokens per second of each prompt
for drafter in drafters.values():  # a first run warms caches and allocators
    reference.speculate(target, drafter, timed[0], 8, 1.0)
for index, prompt in enumerate(timed[: course.effort(8, 2)]):
    for name, drafter in drafters.items():
        run = reference.speculate(target, drafter, prompt, new_tokens, 1.0, seed=index)
        totals[name].extend(run.statistics)
        speeds[name].append(len(run.tokens) / sum(run.statistics.cycle_times))

# %%
# %%measured
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
figure, (above, below) = figures.subplots(2, height=3.4)
figures.by_method(above, tau_rows, "tokens", "tokens per cycle", "tokens")
figures.by_method(below, rows, "speedup", "speedup (×)", "speed")
course.show(figure)

# %%
# %%measured else: **Acceptance is half of the answer; the time of drafting is the other half.**
errors = [abs(row.predicted / row.measured - 1) for row in rows]
won, second, *_ = sorted(rows, key=lambda row: -row.measured)
most = max(tau_rows, key=lambda row: row.measured)
within = sum(row.low <= row.measured <= row.high for row in rows)
words = ("faster", "slower")
lead = course.difference(speeds[won.label], speeds[second.label], words=words)
of_both = "also has the highest measured speed here; with slower drafts it need not have it"
if won.label != most.label:
    behind = course.difference(speeds[most.label], speeds[won.label], words=words)
    of_both = f"is not the one with the highest speed; compared with it: {behind}"
eight = next(row for row in rows if row.label == "itself in int8")
course.say(f"""
The median error of the predicted speedup is {np.median(errors):.0%}, the worst {max(errors):.0%}
({rows[int(np.argmax(errors))].label}). {within} of {len(rows)} lie in their 80 % band. The method
with the most tokens per cycle ({most.label}, {most.measured:.2f}) {of_both}. (Differences are means
over {len(speeds[won.label])} prompts, each with its own seed, ± their standard error.)

This model has {architecture.num_layers} small layers, was not trained for early exit, and rarely
copies its prompt. The results that others report for these methods hold for their models and texts.
The time of an int8 pass comes from probes of int8 products, whose kernel on a CPU reads fewer bytes
and yet has another speed: here the method reached {eight.measured / eight.predicted:.2f} times the
predicted speedup.

**On this machine and this text the highest speedup is {won.measured:.2f}× ({won.label}). Compared
with the second ({second.label}): {lead}. Acceptance is half of the answer; the time of drafting is
the other half.**
""")

# %% [markdown]
# ## How many to draft: adaptive γ
#
# Text is easy in some places and hard in others. One more draft pays while its survival exceeds its
# extra time multiplied by the current speed. The decoder accepts a function that chooses γ before
# every cycle from the results of earlier cycles. It looks only at tokens that have been emitted, so
# the distribution stays exact. *Predict:* is it better than the best fixed γ?

# %%
# %%measured
costs = specsim.predict(
    architecture, small, system, gamma=range(7), alpha=0.5, context=64 + new_tokens // 2
).cycle_s
ways = {f"γ = {gamma}": (gamma, None) for gamma in (1, 2, 4, 6)}
ways["adaptive"] = (6, adaptive.by_marginal_cost(costs.tolist()))
speeds = {name: [] for name in ways}  # tokens per second of each prompt
for name, (gamma, choose) in ways.items():
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
        speeds[name].append(len(run.tokens) / sum(run.statistics.cycle_times))

# %%
# %%measured else: **Adaptive γ gains if a text's difficulty varies; else it saves a search.**
means = {name: float(np.mean(each)) for name, each in speeds.items()}
said = ", ".join(f"{name}: {speed:.0f}" for name, speed in means.items())
fixed = max(list(means)[:-1], key=means.get)
lead = course.difference(speeds["adaptive"], speeds[fixed], words=("faster", "slower"))
course.say(f"""
Tokens per second, measured: {said}.

**Adaptive γ compared with the best fixed one ({fixed}), which it does not know: {lead}. It can be
faster only if the difficulty varies within texts or between them; otherwise it only saves the
search for γ.**
""")

# %% [markdown]
# ## The costs on a GPU
#
# The bundled pair is tiny. What matters are the costs of real models: an 8B target on an H200, an
# engine with CUDA graphs, every method at its own best γ. To compare *costs*, all methods get the
# same α for the first draft (a table below asks the opposite question). Everything else that the
# catalog assumes is in `specsim/catalog/methods.toml`: for example how acceptance falls along a
# head's drafts, or how often a lookup finds a match. Each value has a source or is marked as
# assumed.
#
# *Before you run the cell:* which methods still pay at a large batch?

# %%
large, little = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
gpu = specsim.system("h200-sxm", engine="cuda-graphs")
alpha = 0.75
with_a_draft = ("draft-model", "pearl", "ssd", "cascade")
compared = (
    "n-gram",
    "early-exit",
    "quantised-self",
    "medusa",
    "eagle",
    "eagle-3",
    "mtp",
    "eagle-2",
)
compared += ("p-eagle", "dflash", *with_a_draft)
ways = {
    name: specsim.method(name, large, little if name in with_a_draft else None) for name in compared
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
figure, axes = figures.subplots(height=7.2)
kinds = {"batch 1": "speedup", "batch 256": "tokens"}
title = f"{large.name} on an H200, α = {alpha}"
figures.gains(axes, ranked, kinds, title=title)
course.show(figure)
course.say(f"""
A lookup takes nearly no time, but in most cycles it finds no match. Here we assume that it finds
one in {ways["n-gram"].hit:.0%} of them. In chat it finds fewer, and where the answer repeats the
question (editing, summaries) it finds more.
""")

# %% [markdown]
# ¹ per device: the second device, which drafts during the verification, is counted. ² lossy as in
# its paper (typical acceptance); with the exact rule it accepts less.
#
# Drafts that run much of the target (early exit, fewer bits) take too large a part of a step to
# gain much. Heads are cheap, and a block needs one pass for all its positions, so their gain
# depends on their acceptance. At a large batch every drafted token takes the place of a token of
# another user.
#
# Now the opposite question: which α does a method need to be useful? (For a tree, α is that of its
# first choice alone. Its siblings catch some of the tokens that the first choice misses, so a tree
# needs a lower α.)

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
    f"| {name} | {'none is enough' if np.isnan(least) else f'{least:.2f}'} |"
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
**With the same α the methods differ by their costs. At batch {batches[0]} {names[0]} gains most
({ranked[names[0]][0]:.2f}×), then {names[1]} ({ranked[names[1]][0]:.2f}×). At batch {batches[1]}
{many} gains most ({gained[many][1]:.2f}×), and {lost} of {len(gained)} methods are slower than
plain decoding.**
""")

# %% [markdown]
# ## Trees: more tokens per pass instead of more passes
#
# A chain depends on its first token. A tree adds second and third guesses. They make the
# verification wider, which at batch 1 is nearly free. The tokens per cycle of a tree grow with the
# logarithm of its nodes, while those of a chain reach a limit. What happens when wider passes are
# not free?

# %%
sizes = np.arange(1, 49)
head_3 = specsim.method("eagle-3", large)
tree_of = drafting.StaticTree(head_3, (0.6, 0.15, 0.08, 0.05, 0.03), 6)
lines = []
for batch in (1, 64, 256):
    over = specsim.predict(large, tree_of, gpu, gamma=sizes, alpha=alpha, batch=batch)
    lines.append(figures.Curve(f"batch {batch}", sizes, over.speedup))
figure, axes = figures.subplots()
figures.curves(axes, lines, "nodes of the tree (drafted tokens)", "speedup (×)", unit_line=True)
figure

# %%
peaks = {line.label: (int(sizes[np.argmax(line.y)]), float(np.max(line.y))) for line in lines}
said = "; ".join(
    f"{name}: {nodes} nodes{' (the largest tried)' if nodes == sizes[-1] else ''}, {gain:.2f}×"
    for name, (nodes, gain) in peaks.items()
)
course.say(f"""
Best trees: {said}.

**A tree turns idle arithmetic into tokens. If wider passes take longer, the best tree is small.**
""")

# %% [markdown]
# ## Which to choose
#
# | situation | try first | why |
# |---|---|---|
# | the answer repeats the prompt | n-gram or suffix; a head where nothing matches | free |
# | chat, few users, a head exists for the model | EAGLE-3, or a block drafter | high acceptance |
# | the model has MTP modules | these, one or two tokens | trained with it |
# | no head, but a small model with the same tokenizer | draft model, small γ | no training |
# | one user, a GPU that is idle | a tree | wider passes are free |
# | many users | γ = 1, adaptive, or nothing | no idle arithmetic |
# | a second GPU that is idle | first tensor parallelism, then overlapped drafting | per device |
#
# Two habits of articles are wrong. First, a chart with the speedups of different methods mixes
# baselines, models, texts and temperatures. Compare tokens per cycle *and* the time of a cycle.
# Second, "lossless" is a property of an acceptance rule, not of a drafting method: every drafter
# above is lossless under the token rule, and none is lossless under typical acceptance.

# %%
reach = sorted((value, name) for name, value in needed.items() if not np.isnan(value))
(least, least_name), (most_of_all, last_name) = reach[0], reach[-1]
course.say(f"""
**No method is always best. Each needs a certain α for {wanted}×, from {least:.2f} ({least_name}) to
{most_of_all:.2f} ({last_name}), and your text decides which α it reaches. Measure the text first,
then compare the costs.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. The reply to a wrong answer names the
# likely mistake.

# %%
quiz.ask("tree-or-chain")

# %%
quiz.ask("draft-in-parallel")

# %%
lookup = quiz.Question(
    "A lookup finds a match in 40 % of the cycles. A token of a match has α = 0.9, and "
    "γ = 10. How many tokens does a cycle emit on average?",
    answer=lambda: drafting.Lookup(0.4).acceptance_of(acceptance.IID(0.9)).tokens_per_cycle(10),
    tolerance=0.01,
    mistakes={
        "you assume a match in every cycle": lambda: acceptance.IID(0.9).tokens_per_cycle(10),
        "you multiply the bonus token by the hit rate too": lambda: (
            0.4 * acceptance.IID(0.9).tokens_per_cycle(10)
        ),
        "you multiply α by the hit rate": lambda: acceptance.IID(0.36).tokens_per_cycle(10),
    },
    unit="tokens",
)
quiz.ask(lookup)

# %% [markdown]
# ## References
#
# - Cai et al., *Medusa*, [arXiv:2401.10774](https://arxiv.org/abs/2401.10774): several heads that
#   draft, and the lossy rule `typical`.
# - Li et al., *EAGLE-2*, [arXiv:2406.16858](https://arxiv.org/abs/2406.16858): trees by the
#   confidence of the draft.
# - Li et al., *EAGLE-3*, [arXiv:2503.01840](https://arxiv.org/abs/2503.01840): a head that reads
#   several layers of the target.
# - Chen et al., *Sequoia*, [arXiv:2402.12374](https://arxiv.org/abs/2402.12374): the best tree for
#   a given number of nodes.
# - Miao et al., *SpecInfer*, [arXiv:2305.09781](https://arxiv.org/abs/2305.09781): verification of
#   token trees.
# - Oliaro et al., *SuffixDecoding*, [arXiv:2411.04975](https://arxiv.org/abs/2411.04975): drafts
#   that are copied.
# - DeepSeek-AI, *DeepSeek-V3 Technical Report*,
#   [arXiv:2412.19437](https://arxiv.org/abs/2412.19437): a module that predicts a token further.

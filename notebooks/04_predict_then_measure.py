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
# # 4. Predict, then measure
#
# **Question.** How far can you trust a speedup that was predicted before anything was decoded, and
# what do you do when the measurement says something else?
#
# **Takes** about a minute on two CPU cores, less on a GPU. **Needs** `specsim` with
# PyTorch; without it the shipped measurements are still read. No download.
#
# A prediction that was adjusted until it fitted is worth nothing. So the order of this notebook is
# fixed: probes, constants, prediction, and only then the decoder, on prompts that no earlier step
# has seen. `specsim demo` does the same in a shell.

# %%
from pathlib import Path

import numpy as np

import specsim
from specsim import acceptance, course, demo, figures, planning, tables
from specsim.course import quiz
from specsim.evidence import calibration, comparison

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## Calibrate
#
# Three kinds of probes are timed: stacks of matrices of many sizes, with one row up to nine;
# attention at two contexts; and short decoding cycles of small random pairs. None has the shape of
# a model that is predicted below: a probe of the very shape would be an answer, not a prediction.
#
# *Guess first:* with small matrices and with large ones, does this machine read weights equally
# fast?

# %%
if here.torch:
    import torch

    from reference import machine
    from reference.lab import drift, probes

    torch.manual_seed(0)
    device = machine.device_named(None)
    dtype, reason = probes.fastest_dtype(device)
    clock = drift.DriftProbe(device)
    before = clock.lap()
    timed = probes.run_probes(device, dtype, course.effort(2, 1))
    fitted = calibration.fit(timed, {"drift_s": (before + clock.lap()) / 2})
    course.say(f"{machine.environment(device).device}, {reason}.")
else:
    course.say("*Skipped: no PyTorch, so nothing is calibrated here.*")

# %%
if here.torch:
    sizes = sorted({probe.weight_bytes for probe in timed.linear})[1:]  # the first is all launches
    lines = [
        figures.Curve(
            f"{rows} {'row' if rows == 1 else 'rows'}",
            np.array(sizes) / 1e6,
            [
                p.weight_bytes / p.seconds / 1e9
                for size in sizes
                for p in timed.linear
                if (p.weight_bytes, p.rows) == (size, rows)
            ],
            "weights",
        )
        for rows in (1, 4, 9)
    ]
    figure, axes = figures.subplots(height=3.0)
    x = "weights of the stack (MB)"
    figures.curves(axes, lines, x, "weights read (GB/s)", title="probes: stacks of matrices")
    course.show(figure)

# %% [markdown]
# The figure divides bytes by the whole time of a stack, so that small stacks look slow: much of
# their time is what each matrix costs besides. The fit takes the two apart. From the probes come a
# dozen constants, by least squares: what is read per second, by size and by rows; what a layer, a
# pass, a draw and a cycle cost besides. The same constants must explain the stage times of all
# probe pairs. The distance of each stage time from that is the error of the fit, and the width of
# the band of every prediction.

# %%
if here.torch:
    course.say("```\n" + "\n".join(tables.calibration_table(fitted)) + "\n```")
    stages = [probe for probe in timed.stages if probe.stage != "host"]
    pairs = list(zip(stages, fitted.residuals, strict=True))
    lines = []
    for stage, label in (("verify", "a pass of the target"), ("draft", "drafting")):
        times = [(1e3 * p.seconds, r) for p, r in pairs if p.stage == stage]
        points = [(measured, measured * (1 + residual)) for measured, residual in times]
        ends = np.array(sorted(points))[[0, -1], 0] * (0.8, 1.25)
        lines.append(figures.Curve(label, ends, ends, stage, measured=points))
    figure, axes = figures.subplots()
    x, y = "measured (ms)", "fitted (ms)"
    figures.curves(axes, lines, x, y, log_y=True, title="stages of the probe pairs' cycles")
    course.show(figure)

# %%
if here.torch:
    course.say(f"""
On the line the constants explain a stage time fully.

**A dozen constants reproduce {len(stages)} stage times with a median error of
{fitted.median_error:.0%} (worst {fitted.worst_error:.0%}): expect no better of a prediction; the
80 % band of every one is ±{fitted.system.engine.error:.0%}.**
""")

# %% [markdown]
# ## Predict
#
# Two pairs. One was trained: the bundled pair, which continues Python source code. It is tiny, so a
# second one is *dialled*: random weights, larger by far, whose draft is the target's own first
# layer, and whose later layers are scaled until the acceptance is the one asked for. It moves real
# bytes and rejects for real, though what it writes is not text.
#
# Acceptance comes from calibration prompts: the target writes, both models look at every token
# once, and that gives the survival at every γ. No cycle has been run when this cell ends.
#
# *Where you have a GPU and a network, this is the one line to change.* Name a target and a draft
# on the hub, say `SOURCE = ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B")` or
# `SOURCE = ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B")` (after accepting its licence),
# or two folders. `pip install 'specsim-llm[hub]'` brings what fetches them.

# %%
SOURCE = ("bundled", None)

if here.torch:
    full = demo.Effort(2, 5, 32, dialled_prompts=2, dialled_tokens=24, counted_runs=1)
    small = demo.Effort(1, 1, 16, dialled_prompts=1, dialled_tokens=12, counted_runs=1)
    effort = course.effort(full, small)
    ready = {
        "trained": demo.trained_pair(SOURCE, dtype, device, effort),
        "dialled": demo.dialled_pair(
            dtype, device, effort, course.effort(demo.DIALLED, demo.DIALLED.first_layers(4))
        ),
    }
    predicted = {name: demo.predict_pair(pair, fitted) for name, pair in ready.items()}
    for name, (_, prediction) in predicted.items():
        figure, axes = figures.subplots()
        figures.speedup_vs_gamma(axes, prediction)
        axes.set_title(f"the {name} pair, predicted", loc="left", weight="bold", size=10)
        course.show(figure)
else:
    course.say("*Skipped: no PyTorch, so no pair is loaded and nothing is predicted for it.*")

# %%
if here.torch:
    bets = []
    for name, (_, prediction) in predicted.items():
        best = int(prediction.best())
        low, high = (float(end[best]) for end in prediction.band["speedup"])
        bets.append(
            f"{name}: {float(prediction.speedup[best]):.2f}× ({low:.2f} to {high:.2f}) at "
            f"γ = {prediction.gamma[best]}"
        )
    course.say(f"**On record, before any cycle has run: {'; '.join(bets)}.**")

# %% [markdown]
# ## Measure
#
# Now the decoder, on other prompts. Every prompt is decoded with every γ, plain decoding among
# them, before the next prompt begins: a machine that slows down meanwhile does so for all. Beside
# the prompts, one and the same small read is timed again and again: the clock of the machine
# itself.

# %%
if here.torch:
    gammas = course.effort(range(9), (1, 2, 4))
    results = {
        name: demo.measure_predicted(pair, *predicted[name], fitted, clock, gammas)
        for name, pair in ready.items()
    }
    for name, result in results.items():
        row = (f"the {name} pair", result.prediction, result.comparisons)
        course.show(figures.predicted_and_measured([row]))
else:
    course.say("*Skipped: no PyTorch, so nothing is decoded here.*")

# %%
if here.torch:
    errors = {
        name: comparison.median_errors(result.comparisons) for name, result in results.items()
    }
    quantities = {
        "step_s": "plain step", "draft_step_s": "draft step", "verify_step_s": "verification",
        "overhead_s": "overhead", "cycle_s": "cycle", "tokens_per_cycle": "tokens per cycle",
        "speedup": "**speedup**",
    }  # fmt: skip
    lines = [
        f"| {label} | " + " | ".join(f"{errors[name][part]:.1%}" for name in results) + " |"
        for part, label in quantities.items()
    ]
    course.say(
        f"Median error over γ:\n\n| | {' | '.join(results)} |\n|---|---|---|\n" + "\n".join(lines)
    )

# %%
if here.torch:
    inside = [
        part.low <= part.measured <= part.high
        for result in results.values()
        for c in result.comparisons
        if c.gamma and (part := c.parts["speedup"]).low is not None
    ]
    course.say(f"""
**The speedup was missed by {errors["trained"]["speedup"]:.0%} (trained) and
{errors["dialled"]["speedup"]:.0%} (dialled) in the median; {sum(inside)} of {len(inside)} measured
speedups lie in the 80 % band that was drawn before.**
""")

# %% [markdown]
# ## The error budget
#
# "Off by some per cent" names nobody. So the difference is taken apart: replace the predicted parts
# by the measured ones, one after the other, and note what each does to the speedup. Tokens per
# cycle first, then the time of drafting, of verifying, of everything else, and at last the plain
# step that all is compared with. The factors multiply out to measured ÷ predicted, exactly; errors
# that cancel each other by luck can be seen doing so.

# %%
if here.torch:
    best = {
        name: max(
            (c for c in result.comparisons if c.gamma), key=lambda c: c.parts["speedup"].measured
        )
        for name, result in results.items()
    }
    budgets = {f"{name}, γ = {c.gamma}": c.factors for name, c in best.items()}
    figure, axes = figures.subplots(height=3.8)
    figures.error_budget(axes, budgets, "at the γ that was measured best")
    course.show(figure)
else:
    course.say("*Skipped: no PyTorch, so there is no difference to take apart.*")

# %% [markdown]
# Machine drift is not among them. A machine that became slower since its calibration stretches the
# cycle and the plain step alike; in a speedup that cancels. On a *time* it is a factor of its own,
# known from the small read, and it is taken out before a part is blamed.

# %%
if here.torch:
    ratios = {
        name: c.parts["speedup"].measured / c.parts["speedup"].predicted for name, c in best.items()
    }
    products = {name: float(np.prod(list(c.factors.values()))) for name, c in best.items()}
    lines = [
        f"| {name} | {ratios[name]:.4f} | {products[name]:.4f} | {c.drift:.2f} | {c.culprit} |"
        for name, c in best.items()
    ]
    head = "| pair | measured ÷ predicted | product of the factors | machine drift | most |"
    largest = max(best.values(), key=lambda c: max(abs(np.log(f)) for f in c.factors.values()))
    course.say(f"{head}\n|---|---|---|---|---|\n" + "\n".join(lines))
    course.say(f"""
**Every per cent has a name: what did most here is {largest.culprit}
(× {largest.factors[largest.culprit]:.2f} on the speedup).**
""")
else:
    course.say("**Take a difference apart before you explain it: errors hide behind each other.**")

# %% [markdown]
# ## Other machines, as shipped
#
# What was measured elsewhere lies in the project's folder `measurements/`, a folder for each
# machine with its own calibration. The same comparison runs over all that is there. A third of the
# points, chosen by a hash of their names, is *reserved*: nobody looks at them while the model is
# being changed.

# %%
shipped = comparison.measured_machines(Path(specsim.__file__).parent.parent / "measurements")
rows = []
for found in shipped:
    for predictor, comparisons in found.by_predictor.items():
        summary = comparison.summarise(comparisons)
        cells = [
            f"{summary.errors[part].median:.1%}" if part in summary.errors else "–"
            for part in ("step_s", "verify_step_s", "cycle_s", "speedup")
        ]
        signs = f"{summary.right_signs} of {summary.signs}"
        name = found.environment.device
        cells = [name, predictor, str(len(comparisons)), *cells, signs]
        rows.append(f"| {' | '.join(cells)} |")
if here.torch:
    both = [c for result in results.values() for c in result.comparisons]
    own = comparison.summarise(both)
    cells = [
        f"{own.errors[p].median:.1%}" for p in ("step_s", "verify_step_s", "cycle_s", "speedup")
    ]
    signs = f"{own.right_signs} of {own.signs}"
    rows.append(f"| this machine, now | calibrated | {len(both)} | {' | '.join(cells)} | {signs} |")
head = "| machine | predicted by | points | plain step | verification | cycle | speedup | pays? |"
if rows:
    course.say(f"Median errors:\n\n{head}\n|" + 8 * "---|" + "\n" + "\n".join(rows))

# %%
for found in shipped:
    if found.is_gpu or not any(other.is_gpu for other in shipped):
        drawn = figures.parity(found.by_predictor)
        if drawn is not None:
            course.say(f"{found.environment.device}, hollow markers are reserved points:")
            course.show(drawn)
if not any(found.is_gpu for found in shipped):
    course.say(
        "No measurements of a GPU come with this copy (`make measure-gpu` takes them, where there "
        "is one; this section shows them by itself once they are there)."
    )

# %%
if shipped:
    gaps = []
    for found in shipped:
        medians = {
            predictor: comparison.summarise(points).errors["verify_step_s"].median
            for predictor, points in found.by_predictor.items()
            if "verify_step_s" in comparison.summarise(points).errors
        }
        gaps.append(
            f"{found.environment.device}: " + ", ".join(f"{m:.0%} {n}" for n, m in medians.items())
        )
    course.say(
        f"**What a calibration buys, as median errors of a verification: {'; '.join(gaps)}.**"
    )
else:
    course.say(
        "**No measurements of other machines come with this copy: yours are the only ones.**"
    )

# %% [markdown]
# ## When they disagree
#
# In this order, since each explains some of what follows:
#
# 1. **The machine changed.** Look at the drift. Far from one: something else runs; calibrate again.
# 2. **The probes do not fit each other.** Look at the error of the fit. A disturbed probe spoils
#    every prediction; take more rounds of them.
# 3. **The plain step is off.** Then it is not speculation that is misunderstood. Compare precision,
#    mode (eager or graphs), context and what is read.
# 4. **Tokens per cycle are off** by more than two standard errors: other text, another temperature,
#    or a log whose rate is another one (`specsim diagnose` tells them apart; notebook 3).
# 5. **The draft step is off.** Count layers and launches, not parameters.
# 6. **The verification is off, at some widths.** Kernels change by width; time a pass of that many
#    rows (`python -m reference measure --suite gpu --part verify`).
# 7. **The overhead is off.** Sampling, copies to the host, waits that nobody sees.
#
# The same list, as a function, asked about the two pairs above:

# %%
if here.torch:
    lines, open_ = [], []
    for name, result in results.items():
        suspects = comparison.find_suspects(
            result.comparisons, fitted.median_error, fitted.system.engine.error
        )
        for suspect in suspects:
            place = f" ({suspect.at})" if suspect.at else ""
            verdict = "fine" if suspect.is_cleared else f"{suspect.remedy}{place}"
            lines.append(
                f"| {name} | {suspect.name} | {suspect.off:.1%} | {suspect.limit:.1%} | {verdict} |"
            )
        open_ += [f"{suspect.name} ({name})" for suspect in suspects if not suspect.is_cleared]
    head = "| pair | look at | off by | usual | so |\n|---|---|---|---|---|\n"
    course.say(head + "\n".join(lines))
    course.say(f"**To look at first, here and now: {open_[0] if open_ else 'nothing'}.**")
else:
    course.say("**Start with what moves everything: the machine, then the plain step.**")

# %% [markdown]
# ## Before you download a larger pair
#
# The catalog knows the shapes, so a pair from the hub can be judged before its weights are here.
# What the catalog cannot know is the acceptance: the α below is an assumption, to be replaced by a
# calibration as above. The demo's decoder is eager PyTorch; an engine captures graphs.

# %%
ALPHA = 0.75
hub = (("qwen3-8b", "qwen3-0.6b"), ("llama-3.1-8b", "llama-3.2-1b"))
rows, bars = [], {}
for large, little in hub:
    target, draft = specsim.model(large), specsim.model(little)
    gigabytes = 2 * (target.parameters + draft.parameters) / 1e9
    found = [
        planning.best_gamma(
            target, specsim.DraftModel(draft), specsim.system("h200-sxm", engine=engine),
            alpha=ALPHA, context=512,
        )
        for engine in ("torch-eager", "cuda-graphs")
    ]  # fmt: skip
    eager, graphs = found
    rows.append(f"| {large} with {little} | {gigabytes:.0f} GB | {eager.scan} | {graphs.scan} |")
    bars[f"{large}\nwith {little}"] = [float(eager.speedup), float(graphs.speedup)]
figure, axes = figures.subplots(height=2.9)
kinds = {"eager PyTorch": "overhead", "CUDA graphs": "speedup"}
figures.gains(axes, bars, kinds, x="best speedup (×)", title=f"one H200, α = {ALPHA} assumed")
figure

# %%
script, engine = next(iter(bars.values()))
course.say(
    "| pair | weights in bf16 | best γ, eager | best γ, graphs |\n|---|---|---|---|\n"
    + "\n".join(rows)
)
course.say(f"""
**With the same acceptance the best is {script:.2f}× in
eager mode and {engine:.2f}× with graphs for the first
pair: expect the first figure of a script, the second of an engine.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. A wrong answer is told the mistake it
# looks like.

# %%
slower = quiz.Question(
    "A speedup of 2.0× is predicted. Then another program makes every pass, the plain ones too, "
    "25 % slower. Which speedup is measured?",
    answer=lambda: 2.0,
    tolerance=0.02,
    mistakes={
        "the drift is charged to the cycle alone: the plain step is slower too": lambda: 2.0 / 1.25,
        "the drift is charged to the plain step alone": lambda: 2.0 * 1.25,
    },
    unit="×",
)
quiz.ask(slower)

# %%
drafting = quiz.Question(
    "A speedup of 2.0× is predicted, with 40 % of the cycle spent on drafting. All is as predicted "
    "but the draft steps, which take 30 % longer. Which speedup is measured?",
    answer=lambda: 2.0 / (1 + 0.4 * 0.3),
    tolerance=0.02,
    mistakes={
        "the whole cycle is stretched: only its drafting is": lambda: 2.0 / 1.3,
        "the gain above 1 shrinks instead of the whole": lambda: 1 + 1.0 / (1 + 0.4 * 0.3),
    },
    unit="×",
)
quiz.ask(drafting)

# %%
survival = 0.8 ** np.arange(1, 5)
spread = float(np.sqrt(np.sum((2 * np.arange(1, 5) - 1) * survival) - survival.sum() ** 2))
known = 0.02 * float(acceptance.IID(0.8).tokens_per_cycle(4))
cycles = quiz.Question(
    "α = 0.8, γ = 4. How many cycles must be counted until the standard error of the tokens per "
    "cycle is 2 % of them?",
    answer=lambda: (spread / known) ** 2,
    tolerance=0.05,
    mistakes={
        "the square is forgotten: an error shrinks with the root of the count": lambda: (
            spread / known
        ),
        "2 tokens per hundred are meant, not 2 % of the tokens per cycle": lambda: (
            (spread / 0.02) ** 2
        ),
    },
    unit="cycles",
)
quiz.ask(cycles)

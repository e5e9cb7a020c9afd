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
# **Question.** How far can you trust a speedup that was predicted before anything was decoded? And
# what do you do if the measurement disagrees?
#
# **Takes** about a minute on two CPU cores, less on a GPU. **Needs** `specsim` with PyTorch;
# without it the notebook still reads the measurements that come with the project. No download.
#
# A prediction that was adjusted until it fitted the measurement proves nothing. So the order of
# this notebook is fixed: probes, constants, prediction, and only then the decoder, on prompts that
# no earlier step has used. `specsim demo` does the same in a shell.

# %%
from pathlib import Path

import numpy as np

import specsim
from specsim import acceptance, course, demo, figures, planning
from specsim.course import quiz
from specsim.evidence import calibration, comparison, tables

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## Calibrate
#
# We time three kinds of probes: stacks of matrices of many sizes, with one row to hundreds;
# attention at three contexts; and short decoding cycles of small random pairs of models. None of
# them has the configuration of a model that is predicted below. Otherwise the probe would measure
# the answer, and the result would not be a prediction.
#
# *Guess first:* does this machine read the weights of small matrices as fast as those of large
# ones?

# %%
# %%measured
import torch

from reference import machine
from reference.lab import drift, probes

torch.manual_seed(0)
device = machine.device_named(None)
dtype, reason = probes.fastest_dtype(device)
drift_probe, seen = drift.DriftProbe(device), []
probing = course.effort({}, {"rounds": 1, "widest": 400})
timed = probes.run_probes(
    device, dtype, between=lambda: seen.append(drift_probe.now_s()), **probing
)
fitted = calibration.fit(timed, {"drift_s": float(np.median(seen))})
course.say(f"{machine.environment(device).device}, {reason}.")

# %%
# %%measured
stacks = timed.of_format("").linear  # without those in fewer bits
sizes = sorted({p.weight_bytes / p.kernels for p in stacks})
lines = [
    figures.Curve(
        f"{rows} {'row' if rows == 1 else 'rows'}",
        np.array(sizes) / 1e6,
        [
            p.weight_bytes / p.seconds / 1e9
            for size in sizes
            for p in stacks
            if (p.weight_bytes / p.kernels, p.rows) == (size, rows)
        ],
        "weights",
    )
    for rows in (1, 4, 9)
]
figure, axes = figures.subplots(height=3.0)
x = "weights of one matrix (MB)"
figures.curves(axes, lines, x, "weights read (GB/s)", title="probes: stacks of matrices")
course.show(figure)

# %% [markdown]
# The figure divides bytes by the whole time of a product. Small ones look slow, because much of
# their time is a fixed time each. So the bytes read per second are kept by size and by rows, as
# they were timed. About a dozen further constants are fitted by least squares: the fixed times of
# a layer, a pass, a drawn token and a cycle. The same constants must explain the stage
# times of all probe pairs. The difference between a measured and a fitted stage time is the error
# of the fit. It is also the width of the band of every prediction.

# %%
# %%measured
course.say("```\n" + "\n".join(tables.calibration_table(fitted)) + "\n```")
stages = [probe for probe in timed.of_format("").stages if probe.passes]
pairs = list(zip(stages, fitted.residuals, strict=True))
lines = []
for stage, label in (("verify", "a pass of the target"), ("draft", "drafting")):
    times = [(1e3 * p.seconds, r) for p, r in pairs if p.stage == stage]
    points = [(measured, measured * (1 + residual)) for measured, residual in times]
    ends = np.array(sorted(points))[[0, -1], 0] * (0.8, 1.25)
    lines.append(figures.Curve(label, ends, ends, stage, measured=points))
figure, axes = figures.subplots()
x, y = "measured (ms)", "fitted (ms)"
figures.curves(axes, lines, x, y, log_y=True, title="stage times of the probe pairs")
course.show(figure)

# %%
# %%measured
course.say(f"""
For a point on the line the constants explain the time fully.

**A dozen constants reproduce {len(stages)} stage times with a median error of
{fitted.median_error:.0%} (worst {fitted.worst_error:.0%}). Do not expect a predicted time to be
better. The 80 % band of each one is ±{fitted.system.engine.error:.0%}.**
""")

# %% [markdown]
# ## Predict
#
# We use two pairs. The first one is trained: the bundled pair, which continues Python source code.
# It is tiny, so there is a second, much larger one: a synthetic pair with a target acceptance rate
# (the project calls it *dialled*). Its weights are random, and its draft is the target's own first
# layer. The later layers are scaled until the acceptance rate is the one that was asked for. It
# reads real bytes and rejects real drafts, but it does not write text.
#
# Acceptance comes from calibration prompts: the target writes, and both models process each token
# once. This gives the survival at every γ. When this cell ends, no cycle has run.
#
# *If you have a GPU and a network, this is the one line to change.* Name a target and a draft on
# the Hugging Face hub, for example `SOURCE = ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B")` or `SOURCE =
# ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B")` (after accepting its licence), or two
# folders. `pip install 'specsim-llm[hub]'` installs the download tools.

# %%
# %%measured
SOURCE = ("bundled", None)

full = demo.Effort(
    2,
    demo.Decoded(32, texts=75, timed=5, counted=25),
    demo.Decoded(24, texts=12, timed=2, counted=12),
)
small = demo.Effort(
    1,
    demo.Decoded(12, texts=8, timed=1, counted=4),
    demo.Decoded(8, texts=2, timed=1, counted=2),
    demo.DIALLED.first_layers(2),
)
effort = course.effort(full, small)
ready = {
    "trained": demo.trained_pair(SOURCE, dtype, device, effort),
    "dialled": demo.dialled_pair(dtype, device, effort),
}
predicted = {name: demo.predict_pair(pair, fitted) for name, pair in ready.items()}
for name, (_, prediction) in predicted.items():
    figure, axes = figures.subplots()
    figures.speedup_vs_gamma(axes, prediction)
    axes.set_title(f"the {name} pair, predicted", loc="left", weight="bold", size=10)
    course.show(figure)

# %%
# %%measured
bets = []
for name, (_, prediction) in predicted.items():
    best = int(prediction.best())
    low, high = (float(end[best]) for end in prediction.band["speedup"])
    bets.append(
        f"{name}: {float(prediction.speedup[best]):.2f}× ({low:.2f} to {high:.2f}) at "
        f"γ = {prediction.gamma[best]}"
    )
course.say(f"**Predicted before any cycle has run: {'; '.join(bets)}.**")

# %% [markdown]
# ## Measure
#
# Now the decoder runs, on other prompts. It decodes each prompt with every γ and with plain
# decoding before the next prompt begins. So a machine that slows down in the meantime slows all of
# them. Between the prompts we time the same small read again and again. It shows how the machine's
# own speed changes.

# %%
# %%measured
gammas = course.effort(range(9), (1, 2, 4))
results = {
    name: demo.measure_predicted(pair, *predicted[name], fitted, drift_probe, gammas)
    for name, pair in ready.items()
}
for name, result in results.items():
    row = (f"the {name} pair", result.prediction, result.comparisons)
    course.show(figures.predicted_and_measured([row]))

# %%
# %%measured
errors = {name: comparison.median_errors(result.comparisons) for name, result in results.items()}
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
# %%measured
inside = [
    part.low <= part.measured <= part.high
    for result in results.values()
    for c in result.comparisons
    if c.gamma and (part := c.parts["speedup"]).low is not None
]
course.say(f"""
**The median error of the predicted speedup is {errors["trained"]["speedup"]:.0%} (trained) and
{errors["dialled"]["speedup"]:.0%} (dialled). {sum(inside)} of {len(inside)} measured speedups lie
in the predicted 80 % band.**
""")

# %% [markdown]
# ## The error budget
#
# A total error of some per cent does not say which part is wrong. So we take the difference apart.
# We replace the predicted parts by the measured ones, one after the other, and note the effect of
# each on the speedup: first the tokens per cycle, then the time of drafting, of verification and of
# everything else, and last the plain step that the cycle is compared with. The product of these
# factors is exactly measured ÷ predicted. Errors that happen to cancel become visible.

# %%
# %%measured
best = {
    name: max((c for c in result.comparisons if c.gamma), key=lambda c: c.parts["speedup"].measured)
    for name, result in results.items()
}
budgets = {f"{name}, γ = {c.gamma}": c.factors for name, c in best.items()}
figure, axes = figures.subplots(height=3.8)
figures.error_budget(axes, budgets, "at the best measured γ")
course.show(figure)

# %% [markdown]
# The machine's drift is not one of these factors. A machine that became slower after the
# calibration slows the cycle and the plain step alike, so in a speedup the drift cancels. For a
# *time* it is a separate factor, known from the small read. It is divided out before an error is
# attributed to a part.

# %%
# %%measured else: **Take a difference apart before you explain it: errors can cancel each other.**
ratios = {
    name: c.parts["speedup"].measured / c.parts["speedup"].predicted for name, c in best.items()
}
products = {name: float(np.prod(list(c.factors.values()))) for name, c in best.items()}
lines = [
    f"| {name} | {ratios[name]:.4f} | {products[name]:.4f} | {c.drift:.2f} | {c.culprit} |"
    for name, c in best.items()
]
head = "| pair | measured ÷ predicted | product of the factors | drift | largest factor |"
largest = max(best.values(), key=lambda c: max(abs(np.log(f)) for f in c.factors.values()))
course.say(f"{head}\n|---|---|---|---|---|\n" + "\n".join(lines))
course.say(f"""
**Each part of the difference has a cause. The largest one here is {largest.culprit}
(× {largest.factors[largest.culprit]:.2f} on the speedup).**
""")

# %% [markdown]
# ## Other machines
#
# The project's folder `measurements/` holds measurements of other machines, with one folder and one
# calibration for each. The same comparison runs over all of them. A third of the points, chosen by
# a hash of their names, is *reserved*: nobody looks at them while changing the model.

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

# %%
# %%measured
both = [c for result in results.values() for c in result.comparisons]
own = comparison.summarise(both)
cells = [f"{own.errors[p].median:.1%}" for p in ("step_s", "verify_step_s", "cycle_s", "speedup")]
signs = f"{own.right_signs} of {own.signs}"
rows.append(f"| this machine, now | calibrated | {len(both)} | {' | '.join(cells)} | {signs} |")

# %%
head = "| machine | predictor | points | plain step | verification | cycle | speedup | sign right |"
if rows:
    course.say(f"Median errors:\n\n{head}\n|" + 8 * "---|" + "\n" + "\n".join(rows))

# %%
for found in shipped:
    if found.is_gpu or not any(other.is_gpu for other in shipped):
        drawn = figures.parity(found.by_predictor)
        if drawn is not None:
            course.say(f"{found.environment.device}, with hollow markers for reserved points:")
            course.show(drawn)
if not any(found.is_gpu for found in shipped):
    course.say(
        "No measurements of a GPU come with this copy. `make measure-gpu` makes them on a computer "
        "with a GPU, and then this section shows them."
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
        f"**What a calibration gains, as the median error of a verification: {'; '.join(gaps)}.**"
    )
else:
    course.say(
        "**No measurements of other machines come with this copy. Yours are the only ones.**"
    )

# %% [markdown]
# ## When they disagree
#
# Check these points in this order, because each one explains some of the later ones:
#
# 1. **The machine changed.** Look at the drift. If it is far from one, another program is running;
# calibrate again.
# 2. **The probes disagree with each other.** Look at the error of the fit. A disturbed probe makes
# every prediction worse; run more rounds of probes.
# 3. **The plain step is off.** Then the cause is not speculation. Compare precision, mode (eager or
# graphs), context and the bytes that are read.
# 4. **Tokens per cycle are off** by more than two standard errors. Then the text or the temperature
# is different, or the log reports another rate (`specsim diagnose` tells the rates apart; notebook
# 3).
# 5. **The draft step is off.** Count layers and launches, not parameters.
# 6. **The verification is off at some widths.** Kernels change with the width; time a pass with
# that many tokens (`python -m reference measure --suite gpu --part verify`).
# 7. **The overhead is off.** Look at sampling, copies to the host and hidden waits.
#
# A function applies the same list to the two pairs above:

# %%
# %%measured else: **Start with what affects everything: the machine, then the plain step.**
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
    open_ += [f"{check.name} ({name})" for check in suspects if not check.is_cleared]
head = "| pair | look at | off by | usual | verdict |\n|---|---|---|---|---|\n"
course.say(head + "\n".join(lines))
course.say(f"**Look at this first: {open_[0] if open_ else 'nothing'}.**")

# %% [markdown]
# ## Before you download a larger pair
#
# The catalog has the configurations of many models, so you can judge a pair from the hub before you
# download its weights. The catalog does not know the acceptance. The α below is an assumption;
# replace it by a calibration as above. The demo's decoder is eager PyTorch; a serving engine uses
# CUDA graphs.

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
**With the same acceptance the best speedup of the first pair is {script:.2f}× in eager mode and
{engine:.2f}× with graphs. Expect the first number from a script, the second from an engine.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. The reply to a wrong answer names the
# likely mistake.

# %%
slower = quiz.Question(
    "A speedup of 2.0× is predicted. Then another program makes every pass 25 % slower, also the "
    "plain ones. Which speedup is measured?",
    answer=lambda: 2.0,
    tolerance=0.02,
    mistakes={
        "you slow down only the cycle (the plain step is slower too)": lambda: 2.0 / 1.25,
        "you slow down only the plain step": lambda: 2.0 * 1.25,
    },
    unit="×",
)
quiz.ask(slower)

# %%
drafting = quiz.Question(
    "A speedup of 2.0× is predicted, and 40 % of the cycle is drafting. In the measurement the "
    "draft steps take 30 % longer; everything else is as predicted. Which speedup is measured?",
    answer=lambda: 2.0 / (1 + 0.4 * 0.3),
    tolerance=0.02,
    mistakes={
        "you make the whole cycle longer (only its drafting is longer)": lambda: 2.0 / 1.3,
        "you divide only the gain above 1": lambda: 1 + 1.0 / (1 + 0.4 * 0.3),
    },
    unit="×",
)
quiz.ask(drafting)

# %%
survival = 0.8 ** np.arange(1, 5)
spread = float(np.sqrt(np.sum((2 * np.arange(1, 5) - 1) * survival) - survival.sum() ** 2))
known = 0.02 * float(acceptance.IID(0.8).tokens_per_cycle(4))
cycles = quiz.Question(
    "α = 0.8, γ = 4. How many cycles must you count until the standard error of the tokens per "
    "cycle is 2 % of their value?",
    answer=lambda: (spread / known) ** 2,
    tolerance=0.05,
    mistakes={
        "you forget the square (an error shrinks with the square root of the count)": lambda: (
            spread / known
        ),
        "you take 0.02 tokens as the error, not 2 % of the tokens per cycle": lambda: (
            (spread / 0.02) ** 2
        ),
    },
    unit="cycles",
)
quiz.ask(cycles)

# %% [markdown]
# ## References
#
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.
# - Pope et al., *Efficiently Scaling Transformer Inference*,
#   [arXiv:2211.05102](https://arxiv.org/abs/2211.05102): where the bytes and FLOPs of a pass go,
#   and how they are split.
# - [Williams, Waterman and Patterson, *Roofline*](https://doi.org/10.1145/1498765.1498785): two
#   probes that predict a pass.

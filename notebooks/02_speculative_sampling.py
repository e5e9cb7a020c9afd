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
# # 2. Speculative sampling: draft, verify, correct
#
# **Question.** A small model guesses, a large one checks. Why does the text have *exactly* the
# large model's distribution, and which mistakes break that?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also runs the
# small pair of models that comes with the project. No download.
#
# First we watch the algorithm, one cycle at a time. Then we sum over every possible draft and every
# random number, and find the target's distribution to the last digit. Then we break the rule in
# ways that published code has broken it, and look at the result.

# %%
import itertools

import numpy as np

from specsim import acceptance, course, figures
from specsim.course import exercises, quiz

here = course.here()
course.say(here.sentence)

# %%
# %%measured
import torch

import reference
from reference import checkpoints, slow_motion, verification
from reference.lab import suites
from reference.sampling import SamplingParameters, draw

target, draft, tokenizer = reference.load_pair("bundled")
texts = checkpoints.prompt_texts()
prompts = [tokenizer.encode(text)[:48] for text in texts["calibration"]]
parameters = [model.architecture.parameters / 1e6 for model in (target, draft)]
course.say(f"""
The target has {parameters[0]:.1f} million parameters, the draft {parameters[1]:.1f} million; both
were trained on Python source code, and share one tokenizer.
""")

# %% [markdown]
# ## One cycle
#
# Here is the whole algorithm, without caches and without optimisation. We write *p* for the large
# model's probability distribution of the next token (the large model is the *target*) and *q* for
# the small model's (the *draft*).

# %% tags=["teaching"]
# %%measured
sampling = SamplingParameters(temperature=1.0)


@torch.inference_mode()
def one_cycle(text: list[int], gamma: int) -> list[int]:
    """The tokens that one cycle adds to `text`."""
    drafted, q = [], []
    for _ in range(gamma):  # draft: the small model guesses, one token after the other
        q.append(sampling.probabilities(draft(torch.tensor([text + drafted]))[0, -1]))
        drafted.append(int(torch.multinomial(q[-1], 1)))

    logits = target(torch.tensor([text + drafted]))[0]  # verify: ONE pass over all of them
    p = sampling.probabilities(logits[len(text) - 1 :])  # γ + 1 distributions

    for k, x in enumerate(drafted):
        if torch.rand(()) * q[k][x] < p[k, x]:  # accept with probability min(1, p / q)
            continue
        missing = (p[k] - q[k]).clamp(min=0)  # correct: the part of p that q misses
        return [*drafted[:k], int(torch.multinomial(missing, 1))]
    return [*drafted, int(torch.multinomial(p[gamma], 1))]  # no rejection: a bonus token


torch.manual_seed(4)
written = list(prompts[0])
passes = course.effort(12, 4)
for _ in range(passes):
    written += one_cycle(written, gamma=4)
course.say(f"```python\n{tokenizer.decode(written)}\n```")

# %% [markdown]
# (A model of this size writes text that only looks like Python. We study its *distribution*, not
# the quality of its code.)
#
# The project's decoder does the same with caches, batches and CUDA graphs. The figure shows its
# first cycles on one text (chosen because on a CPU all cases occur in it). In each row the drafts
# are above, and the one token that the target added is below. Tokens that are struck out are not in
# the text: the first rejected draft, and the drafts after it, which do not need to be judged. A dot
# stands for a space, a bent arrow for the end of a line.

# %%
# %%measured
drafter = reference.DraftModel(draft, gamma=4)
seen = list(slow_motion.cycles(target, drafter, prompts[1], 24, temperature=1.0, seed=1))
shown = [
    figures.DraftedCycle(
        [tokenizer.decode([token]) for token in cycle.drafted],
        cycle.accepted,
        tokenizer.decode([cycle.next_token]),
    )
    for cycle in seen[:7]
]
figure, axes = figures.subplots(height=0.5 * len(shown) + 1.0)
figures.drafted_cycles(axes, shown, "the first cycles of a text")
course.show(figure)

# %%
# %%measured else: **A cycle always adds one token of the target, so the text always grows.**
emitted = sum(len(cycle.emitted) for cycle in seen)
positions = sum(len(cycle.drafted) + 1 for cycle in seen)
course.say(f"""
In {len(seen)} cycles the text grew by {emitted} tokens, so the target made {len(seen)} passes
instead of {emitted}. It processed {positions} positions, *more* than there are tokens, so it
computed more (it did not "process a subset of the tokens", see notebook 1). But it read its weights
less often.

**A cycle always adds one token of the target, so even the worst draft costs only time:
{len(seen)} passes, {positions} positions, {emitted} tokens.**
""")

# %% [markdown]
# ## Why the text still has the target's distribution
#
# Take one position and three possible tokens. The draft proposes x with probability q(x). It is
# accepted with probability min(1, p(x) / q(x)), so
#
# $$ P(x \text{ drafted and accepted}) = q(x)\,\min\!\left(1, \tfrac{p(x)}{q(x)}\right)
#    = \min\bigl(p(x), q(x)\bigr). $$
#
# This is never more than p(x), so no token is emitted too often. What is missing is max(p(x) −
# q(x), 0). Summed over the tokens, it is exactly the probability of a rejection. So after a
# rejection we draw from this missing part, normalised: the *residual*. Accepted drafts and residual
# draws together give p, for *any* q (Leviathan et al., arXiv:2211.17192; Chen et al.,
# arXiv:2302.01318).
#
# *Before you run the cell:* with `p = (0.5, 0.3, 0.2)` and `q = (0.2, 0.5, 0.3)`, how often is a
# draft accepted, and which token follows a rejection?

# %%
names = ("a", "b", "c")
p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
accepted_share = float(acceptance.overlap(p, q))
redrawn = (1 - accepted_share) * acceptance.residual(p, q)
figure, axes = figures.subplots()
figures.coupling(axes, names, p, q, np.minimum(p, q), redrawn, "left: drafted; right: emitted")
course.show(figure)
shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, redrawn, strict=True))
course.say(f"""
A draft is accepted in {accepted_share:.0%} of the cycles. In the others the token is drawn from the
residual. That adds {shares}, which is what was missing from p.
""")

# %% [markdown]
# That is the proof on paper. Does the decoder's *code* do it? Its acceptance rules are pure
# functions of distributions, drafts and uniform random numbers. So we can try every draft with
# every random number. We divide the random numbers into cells such that, for these p and q, no
# decision changes inside a cell. Then the sum below is not a simulation: it is the exact
# distribution.


# %% tags=["teaching"]
# %%measured
def distributions_of(rule, p, q, reported=None, gamma=1, cells=210):
    """The distributions of the next γ + 1 tokens, (γ+1, V), and the mean number accepted."""
    p, q = torch.as_tensor(p), torch.as_tensor(q)
    uniform = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    uniforms = torch.cartesian_prod(*[uniform] * (gamma + 1))  # all random numbers of the rule
    count, size = len(uniforms), len(p)
    in_ratio = (q if reported is None else torch.as_tensor(reported)).expand(count, gamma, size)
    found, mean = torch.zeros(gamma + 1, size, dtype=torch.float64), 0.0
    every_draft = torch.cartesian_prod(*[torch.arange(size)] * gamma).view(-1, gamma)
    for drafted in every_draft:
        weight = q[drafted].prod() / count
        accepted, following = rule(
            p.expand(count, gamma + 1, size), in_ratio, drafted.expand(count, gamma), uniforms
        )
        mean += float(weight * accepted.sum())
        for k in range(gamma + 1):
            if k < gamma:
                found[k, drafted[k]] += weight * (accepted > k).sum()  # accepted
            added = following[accepted == k]  # the target's token is at this position
            found[k] += weight * torch.bincount(added, minlength=size)
            found[k] += weight * (accepted < k).sum() * p  # a token of a later cycle
    return found.numpy(), mean


# %%
# %%measured
lines = []
for name, rule in verification.RULES.items():
    found, mean = distributions_of(rule, p, q)
    error = np.abs(found - p).sum(1).max() / 2
    said = "exact" if error < 1e-12 else f"{error:.3f}: lossy by design"
    shares = ", ".join(f"{share:.3f}" for share in found[0])
    lines.append(f"| `{name}` | ({shares}) | {said} | {mean:.2f} |")
head = (
    "| rule | distribution of the emitted token | total variation to p | accepted |\n"
    "|---|---|---|---|"
)
course.say(head + "\n" + "\n".join(lines))

# %% [markdown]
# `token` is the rule above. `block` judges all drafts of a cycle together (below). `match` lets the
# target draw its own token and accepts the draft if it is the same. It is exact and needs no q, but
# it accepts less. `typical` is the rule of Medusa (arXiv:2401.10774): it accepts every token that
# is not improbable. Its authors say that the text then no longer has the target's distribution.
#
# For the `token` rule the theory says: on real text, the probability that a draft is accepted is
# the mean *overlap*, the sum of min(p, q). We *predict* it from the distributions alone, then
# count:

# %%
# %%measured else: **Drafts give min(p, q), residual draws the rest: a bad draft is never wrong.**
batch = prompts[: course.effort(24, 4)]
new_tokens, seeds = course.effort(40, 12), course.effort((3, 4, 5, 6, 7, 8), (3, 4))
cycles = {
    seed: [
        row
        for step in slow_motion.cycles(
            target, reference.DraftModel(draft, 8), batch, new_tokens, 1.0, seed=seed
        )
        for row in step
        if row.emitted
    ]
    for seed in seeds
}
every = [*itertools.chain(*cycles.values())]
overlaps = [float(torch.minimum(c.target_probs[0], c.draft_probs[0]).sum()) for c in every]
counted = np.array([cycle.accepted >= 1 for cycle in every])
spread = counted.std() / len(counted) ** 0.5
course.say(f"""
{len(every)} cycles of {len(seeds)} seeds: the mean overlap at the first draft is
**{np.mean(overlaps):.3f}**, the accepted share **{counted.mean():.3f}** ± {spread:.3f}.

**Accepted drafts give min(p, q), and residual draws give the rest of p. With the right rule, a bad
draft makes decoding slow but never wrong.**
""")

# %% [markdown]
# ## What naive rules get wrong
#
# Each of these mistakes has been in published code. None of them is visible in a demo: the text
# stays fluent, and some of them even accept more drafts. Only the distribution shows the mistake.
#
# * *After a rejection, draw from p.* But the accepted drafts have already changed the distribution.
# * *Take the likeliest token as the bonus.* Then every cycle without a rejection ends in a greedy
#   token.
# * *Draft greedily, report the softmax.* But the draft was not drawn from q: it was certain.
# * *Filter the draft (top-p), report the distribution before the filter.* Again the q in the ratio
#   is not the distribution that the token was drawn from.
#
# *Before you run the cell:* which is the worst? And which of them does not change the *first*
# token?


# %% tags=["teaching"]
# %%measured
def with_following(following):
    """The token rule, with another distribution for the token after the accepted drafts."""

    def rule(target_probs, draft_probs, drafted, uniforms):
        kept = verification.keeps(target_probs, draft_probs, drafted, uniforms[:, :-1])
        accepted = verification.leading_run(kept)
        chosen = following(target_probs, draft_probs, drafted, accepted)
        return verification.Verdict(accepted, draw(chosen, uniforms[:, -1]))

    return rule


def resample(target_probs, draft_probs, drafted, accepted):
    return target_probs[torch.arange(len(accepted)), accepted]


def likeliest_bonus(target_probs, draft_probs, drafted, accepted):
    exact = verification.next_probs(target_probs, draft_probs, drafted, accepted)
    likeliest = torch.nn.functional.one_hot(exact.argmax(-1), exact.shape[-1]).to(exact.dtype)
    return torch.where((accepted == drafted.shape[1])[:, None], likeliest, exact)


# %%
# %%measured
certain = np.array([0.0, 1.0, 0.0])  # the draft's likeliest token, always
filtered = np.array([0.0, 0.5, 0.3]) / 0.8  # the draft's distribution after top-p
rules = {
    "the rule": distributions_of(verification.verify, p, q),
    "resample from p": distributions_of(with_following(resample), p, q),
    "likeliest bonus": distributions_of(with_following(likeliest_bonus), p, q),
    "greedy draft,\nsoftmax reported": distributions_of(verification.verify, p, certain, q),
    "greedy draft,\nreported as greedy": distributions_of(verification.verify, p, certain),
    "filtered draft,\nraw q reported": distributions_of(verification.verify, p, filtered, q),
    "typical\n(lossy by design)": distributions_of(verification.verify_typical, p, q),
}
worst = {label: found[np.abs(found - p).sum(1).argmax()] for label, (found, _) in rules.items()}
figure, axes = figures.subplots(height=4.6)
figures.distribution_errors(axes, names, p, worst, "at the position with the largest error")
course.show(figure)

# %%
# %%measured else: **The q in the ratio must be the distribution that the token was drawn from.**
variation = {name: np.abs(found - p).sum(1) / 2 for name, (found, _) in rules.items()}
bonus, greedy = variation["likeliest bonus"], variation["greedy draft,\nsoftmax reported"]
course.say(f"""
The likeliest bonus does not change the first token (off by {bonus[0]:.3f}), but it changes the next
one ({bonus[1]:.3f}): a test that looks at one token only would not find it. A greedy draft is exact
*if* its q is reported as what it is, probability 1 for its token. Then it is accepted with
probability p(x).

**The q in the ratio must be the distribution that the token was really drawn from. A greedy draft
with its softmax in the ratio gets {greedy.max():.0%} of the tokens wrong here, and the text is
still fluent.**
""")

# %% [markdown]
# ## Judging the block as a whole
#
# The token rule stops at the first draft that fails its own test. Block verification (Sun et al.,
# arXiv:2403.10444) tests every prefix of the drafts as a whole and accepts the longest one that
# passes. The output distribution is the same. The rule needs no extra pass and no parameter, and on
# average it never accepts fewer drafts.
#
# The smallest example has two tokens and two drafts. We enumerate it as above:

# %%
# %%measured
p2, q2 = np.array([1, 2]) / 3, np.array([2, 1]) / 3
found = {
    name: distributions_of(verification.RULES[name], p2, q2, gamma=2, cells=12)
    for name in ("token", "block")
}
worst_error = max(np.abs(each - p2).max() for each, _ in found.values())
accepted_by = {name: mean for name, (_, mean) in found.items()}
course.say(f"""
Of two drafts the token rule accepts {accepted_by["token"]:.4f} on average, the block rule
{accepted_by["block"]:.4f}. Both distributions are p (off by {worst_error:.0e}, which is rounding).
""")

# %% [markdown]
# And on real text? The cycles that we watched contain every distribution and every draft. So we let
# both rules judge the *same* drafts, several times each. Texts and drafts differ from seed to seed,
# so we compare the rules for every seed and look at the spread over the seeds. The line is the mean
# of the seeds. The markers are counted by the decoder on *other* prompts, one run with each rule.

# %%
# %%measured
gammas, repeats = np.arange(1, 9), course.effort(10, 4)
tokens = {name: np.empty((len(seeds), len(gammas))) for name in ("token", "block")}
for row, of_seed in enumerate(cycles.values()):
    target_probs = torch.stack([cycle.target_probs for cycle in of_seed])  # (N, γ+1, V)
    draft_probs = torch.stack([cycle.draft_probs for cycle in of_seed])
    drafts = torch.tensor([cycle.drafted for cycle in of_seed])
    generator = torch.Generator().manual_seed(row)
    uniforms = torch.rand((repeats, len(drafts), 9), generator=generator)  # the same for both
    for gamma, (name, means) in itertools.product(gammas.tolist(), tokens.items()):
        judge, upto = verification.RULES[name], slice(gamma + 1)
        p_block, q_block = target_probs[:, upto], draft_probs[:, :gamma]
        judged = [
            judge(p_block, q_block, drafts[:, :gamma], uniform[:, upto]).accepted
            for uniform in uniforms
        ]
        means[row, gamma - 1] = 1 + float(torch.stack(judged).double().mean())

# %%
# %%measured
counted = {name: [] for name in tokens}
others = [tokenizer.encode(text)[:48] for text in texts["timed"]][: course.effort(25, 4)]
for name, gamma in itertools.product(tokens, (4, 8)):
    drafter = reference.DraftModel(draft, gamma)
    run = reference.speculate(target, drafter, others, new_tokens, 1.0, rule=name, seed=5)
    tau, error = run.statistics.tokens_per_cycle, run.statistics.tokens_per_cycle_error
    counted[name].append((gamma, tau, tau - 1.28 * error, tau + 1.28 * error))
labels = {"block": ("the block as a whole", "verify"), "token": ("draft by draft", "tokens")}
lines = [
    figures.Curve(label, gammas, tokens[name].mean(axis=0), concept, measured=counted[name])
    for name, (label, concept) in labels.items()
]
figure, axes = figures.subplots(height=2.9)
x = "γ, tokens drafted per cycle"
figures.curves(axes, lines, x, "tokens per cycle", doubling=False)
course.show(figure)

# %%
# %%measured else: **On average the block rule never accepts fewer drafts, and it is exact too.**
gain = {
    gamma: course.difference(
        tokens["block"][:, gamma - 1], tokens["token"][:, gamma - 1], "tokens per cycle"
    )
    for gamma in (4, 8)
}
course.say(f"""
Each difference is the mean of {len(seeds)} seeds ± its standard error.

**On these texts, the block rule compared with the token rule: {gain[4]} at γ = 4, {gain[8]} at γ =
8. The rules cost the same. At γ = 1 there is no block, so it gains nothing; for a greedy draft it
gains nothing either.**
""")

# %% [markdown]
# ## Temperature 0, and ties
#
# At temperature 0 both distributions put all probability on one token. The rule becomes: a draft is
# accepted if it *is* the target's likeliest token. Nothing is random, so speculative and plain
# decoding should write the same text, token for token. (A decoder takes the argmax. Dividing the
# logits by a tiny temperature instead can give infinities and ties.)
#
# *Predict:* are the two texts equal on your machine in fp32? In bf16?

# %%
# %%measured
greedy_prompts = prompts[: course.effort(25, 4)]
length = course.effort(64, 12)
divergences, equal, plain_texts = {}, {}, {}
for name in ("float32", "bfloat16"):
    large, small, _ = reference.load_pair("bundled", dtype=getattr(torch, name))
    guess = reference.DraftModel(small, gamma=4)
    plain = reference.generate(large, greedy_prompts, length).tokens
    quick = reference.speculate(large, guess, greedy_prompts, length).tokens
    three = zip(greedy_prompts, plain, quick, strict=True)
    found = [suites.divergence(large, *texts) for texts in three]
    divergences[name] = [each for each in found if each is not None]
    equal[name] = found.count(None)
    plain_texts[name] = plain
course.say(f"""
Of {len(greedy_prompts)} texts of up to {length} tokens, {equal["float32"]} are equal in fp32 and
{equal["bfloat16"]} in bf16.
""")

# %% [markdown]
# Where two texts differ, is the rule wrong? Look at the target's two highest logits at the first
# difference. A pass of one row and a pass of γ + 1 rows use different kernels, and these add the
# same products in another order. In bf16 a logit has eight bits of precision, so two candidates can
# be *equal* after rounding, or swap. The line shows the share of positions where the two highest
# logits are closer than this. The markers are the positions where the texts start to differ (exact
# ties are at the left edge).

# %%
# %%measured
large, _, _ = reference.load_pair("bundled", dtype=torch.bfloat16)
gaps = []
with torch.inference_mode():
    for prompt, text in zip(greedy_prompts, plain_texts["bfloat16"], strict=True):
        logits = large(torch.tensor([[*prompt, *text]]))[0, len(prompt) - 1 : -1].float()
        best = logits.topk(2).values
        gaps += (best[:, 0] - best[:, 1]).tolist()
gaps = np.array(gaps)
grid = 2.0 ** np.arange(-5, 5)
below = np.array([100 * np.mean(gaps <= gap) for gap in grid])
margins = [max(each.gap, grid[0]) for each in divergences["bfloat16"]]
points = [(gap, float(np.interp(np.log2(gap), np.log2(grid), below))) for gap in margins]
line = figures.Curve("positions in the text", grid, below, "plain", measured=points)
figure, axes = figures.subplots(height=2.9)
x = "highest logit minus second highest (logits)"
figures.curves(axes, [line], x, "closer than this (% of positions)", title="bf16, greedy")
course.show(figure)

# %%
# %%measured else: **At temperature 0 the texts are equal as far as the arithmetic is exact.**
widest = max((each.gap for each in divergences["bfloat16"]), default=0.0)
said = (
    f"the two highest logits differ by at most {widest:.2g} where the texts start to differ, "
    f"and at half of all positions by more than {np.median(gaps):.1f}"
    if divergences["bfloat16"]
    else "no texts differ here; with other kernels, or in longer texts, some would"
)
course.say(f"""
In bf16 {said}. Rounding decides which of two such candidates comes first. Plain decoding in another
batch can change them too.

**Speculation keeps the distribution exactly. At temperature 0 it keeps the text as far as the
arithmetic is exact: test equality in fp32, and in bf16 look at the gap where two texts differ.**
""")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. The reply to a wrong answer names the
# likely mistake.

# %%
quiz.ask("output-distribution")

# %% [markdown]
# **In code.** Write the rule. The check calls it with every draft of two tokens and every random
# number, so it finds the exact distribution of what your rule emits, and it knows what the usual
# mistakes emit. (`uniforms[-1]` is for the token that is added; the draw is given.)


# %% tags=["teaching"]
def verify(p, q, drafted, uniforms):
    """How many drafts are accepted, and the token after them. p (γ+1, V), q (γ, V)."""
    # for k, x in enumerate(drafted): accept x with probability min(1, p[k, x] / q[k, x])
    return ...  # accepted, exercises.draw(probs, uniforms[-1])


exercises.check("verify", verify)

# %%
exercises.solution("verify")

# %% [markdown]
# **In code.** And what is that worth? Write the tokens per cycle, if every draft is accepted with
# the same probability α.


# %% tags=["teaching"]
def tokens_per_cycle(alpha, gamma):
    """The mean number of tokens that a cycle emits."""
    return ...


exercises.check("tokens_per_cycle", tokens_per_cycle)

# %%
exercises.solution("tokens_per_cycle")

# %%
matching = quiz.Question(
    "p = (0.5, 0.3, 0.2), q = (0.2, 0.5, 0.3). Sample and match: the target draws its own token, "
    "independently, and the draft is accepted if it is the same. How often is it accepted?",
    answer=lambda: float(p @ q),
    tolerance=0.01,
    mistakes={
        "you take the ratio rule (the best coupling of the two draws)": lambda: float(
            acceptance.overlap(p, q)
        ),
        "you count only the target's likeliest token": lambda: float(p.max() * q[p.argmax()]),
    },
)
quiz.ask(matching)

# %%
greedy_draft = quiz.Question(
    "The same p and q, but the draft always proposes its likeliest token, and q reports that. How "
    "often is it accepted?",
    answer=lambda: float(p[q.argmax()]),
    tolerance=0.01,
    mistakes={
        "you put its softmax into the ratio, as if the token had been drawn": lambda: float(
            p[q.argmax()] / q.max()
        ),
        "you take the overlap of a sampled draft": lambda: float(acceptance.overlap(p, q)),
        "you take the draft's own confidence": lambda: float(q.max()),
    },
)
quiz.ask(greedy_draft)

# %% [markdown]
# ## References
#
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.
# - Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling*,
#   [arXiv:2302.01318](https://arxiv.org/abs/2302.01318): the same rule, found independently.
# - Sun et al., *Block Verification Accelerates Speculative Decoding*,
#   [arXiv:2403.10444](https://arxiv.org/abs/2403.10444): the rule that judges a block as a whole.
# - Cai et al., *Medusa*, [arXiv:2401.10774](https://arxiv.org/abs/2401.10774): several heads that
#   draft, and the lossy rule `typical`.

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
# **Question.** A small model guesses, a large one checks. Why is the text *exactly* the large
# model's, and what quietly breaks that?
#
# **Takes** under a minute on two CPU cores. **Needs** `specsim`; with PyTorch it also watches the
# small pair of models that comes with the project at work. No download.
#
# First we watch the algorithm, one cycle at a time. Then we add up every chance there is and find
# the target's law, to the last digit. Then we break the rule in the ways in which it has been
# broken before, and see what comes out.

# %%
import itertools

import numpy as np

from specsim import acceptance, course, figures
from specsim.course import quiz

here = course.here()
course.say(here.sentence)
if here.torch:
    import torch

    import reference
    from reference import checkpoints, slow_motion, verification
    from reference.lab import suites
    from reference.sampling import Sampling, draw

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
# Here is the whole algorithm, written out once, without caches and without care for speed. The law
# that a token is drawn from, its probability distribution over the vocabulary, is called *p* where
# it is the large model's (the *target*), *q* where it is the small one's (the *draft*).

# %% tags=["teaching"]
if here.torch:
    sampling = Sampling(temperature=1.0)

    @torch.inference_mode()
    def one_cycle(text: list[int], gamma: int) -> list[int]:
        """The tokens that one cycle adds to `text`."""
        drafted, q = [], []
        for _ in range(gamma):  # draft: the small model guesses, one token after the other
            q.append(sampling.probabilities(draft(torch.tensor([text + drafted]))[0, -1]))
            drafted.append(int(torch.multinomial(q[-1], 1)))

        logits = target(torch.tensor([text + drafted]))[0]  # verify: ONE pass over all of them
        p = sampling.probabilities(logits[len(text) - 1 :])  # γ + 1 laws: (γ + 1, V)

        for k, x in enumerate(drafted):
            if torch.rand(()) * q[k][x] < p[k, x]:  # kept with probability min(1, p / q)
                continue
            left = (p[k] - q[k]).clamp(min=0)  # correct: what q has missed of p
            return [*drafted[:k], int(torch.multinomial(left, 1))]
        return [*drafted, int(torch.multinomial(p[gamma], 1))]  # all kept: one more, a bonus

    torch.manual_seed(4)
    written = list(prompts[0])
    passes = course.effort(12, 4)
    for _ in range(passes):
        written += one_cycle(written, gamma=4)
    course.say(f"```python\n{tokenizer.decode(written)}\n```")
else:
    course.say("*Skipped: no PyTorch, so nothing is decoded here.*")

# %% [markdown]
# (A model of this size writes what looks like Python from a distance. Its *law* is what we are
# after, not its taste.)
#
# The project's decoder does the same with caches, batches and CUDA graphs. Seen in slow motion, on
# one text (picked because on a CPU every case occurs in it), the first cycles look like this.
# Above, what the draft said; below, the one token that the target added itself. Tokens with a line
# through them are not in the text: the first rejected draft, and those behind it, which nobody
# needs to judge any more. A dot is a blank, a bent arrow the end of a line.

# %%
if here.torch:
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
if here.torch:
    emitted = sum(len(cycle.emitted) for cycle in seen)
    positions = sum(len(cycle.drafted) + 1 for cycle in seen)
    course.say(f"""
In {len(seen)} cycles the text grew by {emitted} tokens: {len(seen)} passes of the target instead of
{emitted}. It looked at {positions} positions, *more* than there are tokens, and computed as many
times more (so it did not "process a subset of the tokens", as articles say; notebook 1). What it
did less often is fetch its weights.

**A cycle always adds a token of the target's own, so the worst draft costs time and never
progress: {len(seen)} passes, {positions} positions, {emitted} tokens.**
""")
else:
    course.say("**A cycle always adds a token of the target's own: it never makes no progress.**")

# %% [markdown]
# ## Why the text is still the target's
#
# Take one place and three possible tokens. The draft says x with probability q(x). It is kept with
# probability min(1, p(x) / q(x)), so
#
# $$ P(x \text{ drafted and kept}) = q(x)\,\min\!\left(1, \tfrac{p(x)}{q(x)}\right)
#    = \min\bigl(p(x), q(x)\bigr). $$
#
# Never more than p(x): so far no token comes out too often. What is missing of p(x) is
# max(p(x) − q(x), 0), and these missing parts add up to exactly the share of cycles in which the
# draft was rejected. So after a rejection we draw from them, normalised: the *residual*. Kept plus
# redrawn is p, for *any* q.
#
# *Before you run the cell:* with `p = (0.5, 0.3, 0.2)` and `q = (0.2, 0.5, 0.3)`, how often is a
# draft kept, and which token follows a rejection?

# %%
names = ("a", "b", "c")
p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
kept_share = float(acceptance.overlap(p, q))
redrawn = (1 - kept_share) * acceptance.residual(p, q)
figure, axes = figures.subplots()
figures.coupling(axes, names, p, q, np.minimum(p, q), redrawn, "drafted, and what comes out")
course.show(figure)
shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, redrawn, strict=True))
course.say(f"""
A draft is kept in {kept_share:.0%} of the cycles. In the others the token is drawn from the
residual: that adds {shares}, which is what p lacked.
""")

# %% [markdown]
# That is an argument. Does the decoder's *code* do it? Its accept rules are pure functions of laws,
# drafts and chances, so we can try every draft with every chance. Chances are cut into cells in
# such a way that, for these p and q, no decision changes inside one; then the sum below is no
# simulation, it is the law itself.

# %% tags=["teaching"]
if here.torch:

    def laws_of(rule, p, q, reported=None, gamma=1, cells=210):
        """The law of each of the next γ + 1 tokens, (γ+1, V), and the mean number accepted."""
        p, q = torch.as_tensor(p), torch.as_tensor(q)
        chance = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        uniforms = torch.cartesian_prod(*[chance] * (gamma + 1))  # every chance of the rule
        count, size = len(uniforms), len(p)
        told = (q if reported is None else torch.as_tensor(reported)).expand(count, gamma, size)
        laws, mean = torch.zeros(gamma + 1, size, dtype=torch.float64), 0.0
        every_draft = torch.cartesian_prod(*[torch.arange(size)] * gamma).view(-1, gamma)
        for drafted in every_draft:
            weight = q[drafted].prod() / count
            accepted, following = rule(
                p.expand(count, gamma + 1, size), told, drafted.expand(count, gamma), uniforms
            )
            mean += float(weight * accepted.sum())
            for k in range(gamma + 1):
                if k < gamma:
                    laws[k, drafted[k]] += weight * (accepted > k).sum()  # kept
                added = following[accepted == k]  # the target's token stands here
                laws[k] += weight * torch.bincount(added, minlength=size)
                laws[k] += weight * (accepted < k).sum() * p  # the next cycles' tokens
        return laws.numpy(), mean


# %%
if here.torch:
    lines = []
    for name, rule in verification.RULES.items():
        laws, mean = laws_of(rule, p, q)
        error = np.abs(laws - p).sum(1).max() / 2
        said = "exact" if error < 1e-12 else f"off by {error:.3f}: lossy by design"
        law = ", ".join(f"{share:.3f}" for share in laws[0])
        lines.append(f"| `{name}` | ({law}) | {said} | {mean:.2f} |")
    head = (
        "| rule | law of what comes out | total variation to p | drafts kept |\n|---|---|---|---|"
    )
    course.say(head + "\n" + "\n".join(lines))

# %% [markdown]
# `token` is the rule above. `block` judges all drafts of a cycle together (below). `match` lets the
# target draw its own token and keeps the draft if it is the same: exact too, needs no q, and keeps
# less. `typical` is what Medusa does: it keeps whatever is not improbable, and says openly that the
# text is then no longer the target's.
#
# So on real text the chance that a draft is kept should be the mean *overlap*, the sum of
# min(p, q). *Predicted* from the laws alone, then counted:

# %%
if here.torch:
    batch = prompts[: course.effort(24, 8)]
    new_tokens = course.effort(40, 16)
    cycles = [
        row
        for step in slow_motion.cycles(
            target, reference.DraftModel(draft, 8), batch, new_tokens, temperature=1.0, seed=3
        )
        for row in step
        if row.emitted
    ]
    first_laws = [(c.target_probs[0], c.draft_probs[0]) for c in cycles]
    overlaps = np.array([float(torch.minimum(*laws).sum()) for laws in first_laws])
    counted = np.array([cycle.accepted >= 1 for cycle in cycles])
    spread = counted.std() / len(counted) ** 0.5
    course.say(f"""
{len(cycles)} cycles: mean overlap at the first draft **{overlaps.mean():.3f}**; first drafts kept
**{counted.mean():.3f}** ± {spread:.3f}.

**What is kept is min(p, q), what is redrawn is the rest of p. A bad draft makes decoding slow; with
the right rule it cannot make it wrong.**
""")
else:
    course.say(f"""
**What is kept is min(p, q), {kept_share:.0%} here; what is redrawn is the rest of p. A bad draft
makes decoding slow; with the right rule it cannot make it wrong.**
""")

# %% [markdown]
# ## What naive rules get wrong
#
# Each of these has been in published code. None of them looks wrong in a demo: the text stays
# fluent, and some of them even accept more. Only the law gives them away.
#
# * *After a rejection, draw from p.* Drafts that were kept have tilted the law already.
# * *Take the likeliest token as the bonus.* Every all-kept cycle then ends in a greedy token.
# * *Draft greedily, report the softmax.* The draft did not have the law q, it was certain.
# * *Filter the draft (top-p), report the law from before.* What is in the ratio is again not what
#   the token was drawn from.
#
# *Before you run the cell:* which is worst? And which of them leaves the *first* token alone?

# %% tags=["teaching"]
if here.torch:

    def with_following(following):
        """The token rule, with another law for the token that follows the kept ones."""

        def rule(target_probs, draft_probs, drafted, uniforms):
            kept = verification.keeps(target_probs, draft_probs, drafted, uniforms[:, :-1])
            accepted = verification.leading_run(kept)
            law = following(target_probs, draft_probs, drafted, accepted)
            return verification.Verdict(accepted, draw(law, uniforms[:, -1]))

        return rule

    def resample(target_probs, draft_probs, drafted, accepted):
        return target_probs[torch.arange(len(accepted)), accepted]

    def likeliest_bonus(target_probs, draft_probs, drafted, accepted):
        law = verification.following_law(target_probs, draft_probs, drafted, accepted)
        likeliest = torch.nn.functional.one_hot(law.argmax(-1), law.shape[-1]).to(law.dtype)
        return torch.where((accepted == drafted.shape[1])[:, None], likeliest, law)


# %%
if here.torch:
    certain = np.array([0.0, 1.0, 0.0])  # the draft's likeliest token, always
    filtered = np.array([0.0, 0.5, 0.3]) / 0.8  # the draft's law after top-p
    rules = {
        "the rule": laws_of(verification.verify, p, q),
        "resample from p": laws_of(with_following(resample), p, q),
        "likeliest bonus": laws_of(with_following(likeliest_bonus), p, q),
        "greedy draft,\nits softmax told": laws_of(verification.verify, p, certain, q),
        "greedy draft,\ntold as such": laws_of(verification.verify, p, certain),
        "filtered draft,\nraw q told": laws_of(verification.verify, p, filtered, q),
        "typical\n(lossy by design)": laws_of(verification.verify_typical, p, q),
    }
    worst = {label: laws[np.abs(laws - p).sum(1).argmax()] for label, (laws, _) in rules.items()}
    figure, axes = figures.subplots(height=4.6)
    figures.distribution_errors(axes, names, p, worst, "at the place where it is worst")
    course.show(figure)
else:
    course.say("*Skipped: the rules are PyTorch functions.*")

# %%
if here.torch:
    variation = {name: np.abs(laws - p).sum(1) / 2 for name, (laws, _) in rules.items()}
    bonus, greedy = variation["likeliest bonus"], variation["greedy draft,\nits softmax told"]
    course.say(f"""
The likeliest bonus leaves the first token alone (off by {bonus[0]:.3f}) and spoils the one behind
it ({bonus[1]:.3f}): a test that looks at one token only would pass it. A greedy draft is as exact
as any, *if* it is told as what it is, a certainty: then it is kept with p(x), nothing else.

**The q in the ratio must be the law that the token was really drawn from. A greedy draft with its
softmax in the ratio gets {greedy.max():.0%} of the tokens wrong here, and reads fluently.**
""")
else:
    course.say("**The q in the ratio must be the law that the token was really drawn from.**")

# %% [markdown]
# ## Judging the block as a whole
#
# The token rule stops at the first draft that fails its own test. But a draft that is a little too
# likely may be followed by one that is not likely enough, and *together* they may deserve to stay.
# Block verification (Sun et al., arXiv:2403.10444) tests every prefix and keeps the longest that
# passes; the law is the same. It costs no pass and no parameter, and on average it never keeps
# fewer drafts.
#
# Its smallest example has two tokens and two drafts. Enumerated as above:

# %%
if here.torch:
    p2, q2 = np.array([1, 2]) / 3, np.array([2, 1]) / 3
    found = {
        name: laws_of(verification.RULES[name], p2, q2, gamma=2, cells=12)
        for name in ("token", "block")
    }
    worst_error = max(np.abs(laws - p2).max() for laws, _ in found.values())
    kept_by = {name: mean for name, (_, mean) in found.items()}
    course.say(f"""
Of two drafts the token rule keeps {kept_by["token"]:.4f} on average, the block rule
{kept_by["block"]:.4f}; both laws are p (off by {worst_error:.0e}, which is rounding).
""")

# %% [markdown]
# And on real text? The cycles that we watched hold every law and every draft. So we let both rules
# judge the *same* drafts, many times each: the difference between them is then not drowned in the
# luck of the drafts. The markers are what the decoder counts on *other* prompts, once with each
# rule.

# %%
if here.torch:
    laws = torch.stack([cycle.target_probs for cycle in cycles])  # (N, γ+1, V)
    told = torch.stack([cycle.draft_probs for cycle in cycles])
    drafts = torch.tensor([cycle.drafted for cycle in cycles])
    gammas, repeats = np.arange(1, 9), course.effort(30, 8)
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand((repeats, len(drafts), 9), generator=generator)  # the same for both
    kept_of = {"token": [], "block": []}
    for gamma in gammas.tolist():
        for name, means in kept_of.items():
            judge, upto = verification.RULES[name], slice(gamma + 1)
            judged = [
                judge(laws[:, upto], told[:, :gamma], drafts[:, :gamma], chance[:, upto]).accepted
                for chance in chances
            ]
            means.append(1 + float(torch.stack(judged).double().mean()))
    tokens = {name: np.array(means) for name, means in kept_of.items()}
else:
    course.say("*Skipped: no PyTorch, so there are no cycles to judge.*")

# %%
if here.torch:
    counted = {name: [] for name in tokens}
    others = [tokenizer.encode(text)[:48] for text in texts["timed"]][: course.effort(25, 8)]
    for name, gamma in itertools.product(tokens, (4, 8)):
        drafter = reference.DraftModel(draft, gamma)
        run = reference.speculate(target, drafter, others, new_tokens, 1.0, rule=name, seed=5)
        tau, error = run.statistics.tokens_per_cycle, run.statistics.tokens_per_cycle_error
        counted[name].append((gamma, tau, tau - 1.28 * error, tau + 1.28 * error))
    labels = {"block": ("the block as a whole", "verify"), "token": ("draft by draft", "tokens")}
    lines = [
        figures.Curve(label, gammas, tokens[name], concept, measured=counted[name])
        for name, (label, concept) in labels.items()
    ]
    figure, axes = figures.subplots(height=2.9)
    x = "γ, tokens drafted per cycle"
    figures.curves(axes, lines, x, "tokens per cycle", doubling=False)
    course.show(figure)

# %%
if here.torch:
    gain = tokens["block"] / tokens["token"] - 1
    course.say(f"""
**On these texts the block rule emits {gain[3]:.1%} more tokens per cycle at γ = 4 and
{gain[7]:.1%} more at γ = 8, for nothing. At γ = 1 there is no block to judge, and a draft chosen
without chance has nothing to gain either.**
""")
else:
    course.say("**On average the block rule never keeps fewer drafts; its law is the same.**")

# %% [markdown]
# ## Temperature 0, and ties
#
# At temperature 0 both laws put everything on one token. The ratio rule becomes: a draft is kept if
# it *is* the target's likeliest token. No chance is involved, so speculative and plain decoding
# should write the same text, token for token. (Dividing logits by a tiny temperature instead is a
# way to get infinities and ties; a decoder takes the argmax.)
#
# *Predict:* will the two texts be equal on your machine, in fp32? In bf16?

# %%
if here.torch:
    greedy_prompts = prompts[: course.effort(25, 8)]
    length = course.effort(64, 24)
    partings, equal, plain_texts = {}, {}, {}
    for name in ("float32", "bfloat16"):
        large, small, _ = reference.load_pair("bundled", dtype=getattr(torch, name))
        guess = reference.DraftModel(small, gamma=4)
        plain = reference.generate(large, greedy_prompts, length).tokens
        quick = reference.speculate(large, guess, greedy_prompts, length).tokens
        three = zip(greedy_prompts, plain, quick, strict=True)
        found = [suites.parting(large, *texts) for texts in three]
        partings[name] = [parted for parted in found if parted is not None]
        equal[name] = found.count(None)
        plain_texts[name] = plain
    course.say(f"""
Of {len(greedy_prompts)} texts of up to {length} tokens, {equal["float32"]} are equal in fp32 and
{equal["bfloat16"]} in bf16.
""")
else:
    course.say("*Skipped: no PyTorch, so nothing is decoded here.*")

# %% [markdown]
# Where two texts part, is the rule wrong? Look at the target's two best logits there. A pass of one
# row and a pass of γ + 1 rows use different kernels, which add the same products in another order.
# In bf16 a logit has eight bits of precision, so two candidates may well be *equal* after rounding,
# or swap. The line: in which share of all places are the two best closer than this? The markers:
# the places where the texts parted (exact ties stand at the left edge).

# %%
if here.torch:
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
    parted = [max(parting.gap, grid[0]) for parting in partings["bfloat16"]]
    points = [(gap, float(np.interp(np.log2(gap), np.log2(grid), below))) for gap in parted]
    line = figures.Curve("places in the text", grid, below, "plain", measured=points)
    figure, axes = figures.subplots(height=2.9)
    x = "the best logit less the second best (logits)"
    figures.curves(axes, [line], x, "closer than this (% of places)", title="bf16, greedy")
    course.show(figure)

# %%
if here.torch:
    widest = max((parting.gap for parting in partings["bfloat16"]), default=0.0)
    said = (
        f"the two best logits differ by at most {widest:.2g} where texts part, while half of all "
        f"places have a gap above {np.median(gaps):.1f}"
        if partings["bfloat16"]
        else "no texts part here; with other kernels, or longer texts, some would"
    )
    course.say(f"""
In bf16 {said}. Which of two such candidates comes first is a matter of rounding; plain decoding in
another batch may change them too.

**Speculation is exact in law, and at temperature 0 in text as far as the arithmetic is: test
equality in fp32, and in bf16 look at the gap where two texts part.**
""")
else:
    course.say("**At temperature 0 the texts are equal as far as the arithmetic is.**")

# %% [markdown]
# ## Exercises
#
# Type a number into the box, or call `quiz.check` with it. A wrong answer is told the mistake it
# looks like.

# %%
quiz.ask("output-distribution")

# %%
matching = quiz.Question(
    "p = (0.5, 0.3, 0.2), q = (0.2, 0.5, 0.3). Sample and match: the target draws its own token, "
    "independently, and the draft is kept if it is the same. How often is it kept?",
    answer=lambda: float(p @ q),
    tolerance=0.01,
    mistakes={
        "the ratio rule is taken: it couples the two draws as well as can be": lambda: float(
            acceptance.overlap(p, q)
        ),
        "only the target's likeliest token is counted": lambda: float(p.max() * q[p.argmax()]),
    },
)
quiz.ask(matching)

# %%
greedy_draft = quiz.Question(
    "The same p and q, but the draft always says its likeliest token, and says so. How often is it "
    "kept?",
    answer=lambda: float(p[q.argmax()]),
    tolerance=0.01,
    mistakes={
        "its softmax is put into the ratio, as if it had been drawn": lambda: float(
            p[q.argmax()] / q.max()
        ),
        "the overlap of a sampled draft is taken": lambda: float(acceptance.overlap(p, q)),
        "the draft's own confidence is taken": lambda: float(q.max()),
    },
)
quiz.ask(greedy_draft)

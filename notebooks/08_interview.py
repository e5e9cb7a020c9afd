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
# # 8. The interview: thirty questions on memory-bound decoding and speculation
#
# **Question.** Can you say, in one line and with the right number, why decoding is slow and what
# speculation does about it?
#
# **Takes** a few seconds to run, and an evening to rehearse.
# **Needs** NumPy and matplotlib; no GPU, no PyTorch, no network. The boxes to type into need
# ipywidgets; without them, `quiz.check` does the same.
#
# Each question comes as the trap that it sets, why the trap fails, a form for your own answer, the
# napkin arithmetic with numbers that specsim computes while you watch, and the one line to say.
# Answer first, then scroll. A wrong number is told which slip it looks like. Whoever takes the
# bytes of a pass for the parameters times two is told, for instance:

# %%
from dataclasses import replace

import numpy as np

import specsim
from specsim import course, figures
from specsim.acceptance import IID, overlap, residual
from specsim.cost import step_time
from specsim.course import quiz
from specsim.operators import Workload

llama_70b, llama_8b = specsim.model("llama-3-70b"), specsim.model("llama-3-8b")
llama_1b = specsim.model("llama-3.2-1b")
h100 = specsim.system("h100-sxm", engine="ideal")  # the roofline: the datasheet and no overhead
h200 = specsim.system("h200-sxm", engine="ideal")
GB, ms = 1e9, 1e3

quiz.check("bytes-per-token", 2 * llama_70b.parameters / GB)

# %% [markdown]
# ## Bytes, not FLOPs
#
# ### 1. Why does decoding one sequence wait for memory?
#
# **The trap.** "Tokens come one after the other, so the GPU waits for Python", or "attention is
# quadratic".
#
# **Why it fails.** That tokens are sequential says why they come singly, not why each takes so
# long. Waiting for the host is real where kernels are launched one by one, and CUDA graphs cure it;
# the step that is left is as slow as its bytes. And a *new* token meets every earlier one once,
# which is linear in the context.

# %%
quiz.ask("why-memory-bound")

# %%
step = specsim.predict(llama_70b, None, h100, context=1).step
linear = [term.operator for term in step.terms if term.operator and term.operator.weight_bytes > 0]
intensity = sum(o.flops for o in linear) / sum(o.weight_bytes for o in linear)
chip = h100.accelerator
course.say(
    f"**Napkin.** A bf16 weight is two bytes, and one sequence uses it for one multiply-add, two "
    f"FLOPs: {intensity:.0f} FLOP per byte. An H100 multiplies at {chip.rate('bf16') / 1e12:.0f} "
    f"TFLOP/s and reads at {chip.bandwidth_bytes_per_s / 1e12:.2f} TB/s, so it could do "
    f"{h100.ridge:.0f} FLOP in the time of a byte. It idles for all but one of them."
)
quiz.check("why-memory-bound", "c")

# %% [markdown]
# On the roofline a plain step stands far down the slope, and everything that uses a weight for more
# rows moves to the right: verification, a batch, a prefill.

# %%
sheet, axes = figures.sheet()
passes = {
    "a plain step": ("plain", 1),
    "verifying 4 drafts": ("verify", 5),
    "a batch of 64": ("tokens", 64),
    "a prefill of 4096 tokens": ("compute", 4096),
}
spots = [
    figures.spot(label, concept, step_time(llama_70b, h100, Workload(rows=rows, context=1)))
    for label, (concept, rows) in passes.items()
]
figures.roofline(axes, h100, spots)
axes.legend(loc="upper left", frameon=False, fontsize=9)
sheet

# %% [markdown]
# ### 2. How many bytes does one token of a 70B model read?
#
# **The trap.** Parameters times two.
#
# **Why it fails.** By a little, and it shows whether you know what a pass does: of the embedding
# table one row per token is gathered, while the LM head, of the same size, is streamed in full. And
# the size of the cache is not in it: a short context adds next to nothing, a long one a lot
# (question 7).

# %%
quiz.ask("bytes-per-token")

# %%
streamed = 2 * (llama_70b.parameters - llama_70b.embedding_parameters)
kv_per_token = 2 * llama_70b.kv_elements_per_token
step_s = float(specsim.predict(llama_70b, None, h100, context=1).step_s)
compute_s = streamed / chip.rate("bf16")  # two FLOPs for two bytes
course.say(
    f"**Napkin.** {llama_70b.parameters / 1e9:.2f} billion parameters less "
    f"{llama_70b.embedding_parameters / 1e9:.2f} billion of embedding, times two bytes: "
    f"{streamed / GB:.1f} GB, plus {kv_per_token / 1e6:.3f} MB for each token of context. That is "
    f"{ms * step_s:.1f} ms of an H100's bandwidth against {ms * compute_s:.3f} ms of its "
    f"arithmetic, {step_s / compute_s:.0f} times less: the ridge again."
)
quiz.check("bytes-per-token", streamed / GB)

# %% [markdown]
# ### 3. What does a GPU with twice the FLOP/s buy?
#
# **The trap.** "Up to twice the speed."
#
# **Why it fails.** The arithmetic was waiting already. What newer GPUs bring at batch 1 is their
# bandwidth: an H200 has an H100's FLOP/s, and is faster all the same.

# %%
quiz.ask("twice-the-flops")

# %%
rates = {name: 2 * rate for name, rate in chip.flops_per_s.items()}
doubled = replace(h100, accelerator=replace(chip, flops_per_s=rates))
faster = step_s / float(specsim.predict(llama_70b, None, doubled, context=1).step_s)
ceilings = {
    name: float(
        specsim.predict(llama_70b, None, specsim.system(name, "ideal"), context=1).tokens_per_s
    )
    for name in ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200")
}
listed = ", ".join(f"{name.split('-')[0].upper()} {rate:.1f}" for name, rate in ceilings.items())
course.say(
    f"**Napkin.** Twice the FLOP/s: {faster:.2f}×. The ceiling is bandwidth over bytes, in "
    f"tokens/s for the 70B by one device's bandwidth: {listed} (its weights need two or more of "
    f"the smaller ones). So an H200 buys at most "
    f"{ceilings['h200-sxm'] / ceilings['h100-sxm']:.2f}×, a B200 "
    f"{ceilings['b200'] / ceilings['h100-sxm']:.2f}×."
)
quiz.check("twice-the-flops", faster)

# %% [markdown]
# ### 4. Does a second GPU help?
#
# **The trap.** "Twice the GPUs, twice the speed, whatever the parallelism."
#
# **Why it fails.** Only tensor parallelism makes a token come sooner, because each device reads a
# part of every layer; and it pays two all-reduces a layer, whose latency does not shrink. Pipeline
# parallelism reads the same bytes one device after the other. Data parallelism serves more
# sequences at the same speed each.

# %%
quiz.ask("second-gpu")

# %%
linked = replace(h100, accelerator=replace(chip, link_latency_s=6e-6))
pair = specsim.predict(llama_70b, None, replace(linked, tensor_parallel=2), context=1)
reduces = next(term for term in pair.step.terms if term.name == "all-reduce")
course.say(
    f"**Napkin.** Half the bytes: {ms * step_s / 2:.2f} ms. Two all-reduces in each of "
    f"{llama_70b.num_layers} layers, {reduces.operator.kernels} at about "
    f"{1e6 * linked.accelerator.link_latency_s:.0f} µs: {ms * float(reduces.seconds):.2f} ms. Sum: "
    f"{ms * float(pair.step_s):.1f} ms, {step_s / float(pair.step_s):.2f}×. The latency is per "
    f"pass, so speculation, which makes fewer passes, divides it too."
)
quiz.check("second-gpu", step_s / float(pair.step_s))

# %% [markdown]
# ### 5. nvidia-smi shows full utilisation. Is the GPU saturated?
#
# **The trap.** "It is at its limit, so decoding must be compute-bound."
#
# **Why it fails.** The tool reports the share of time in which *some* kernel was resident. A kernel
# that waits for memory is resident.

# %%
quiz.ask("flop-utilisation")

# %%
utilisation = compute_s / step_s
course.say(
    f"**Napkin.** FLOPs of a step over what the chip could have done meanwhile: "
    f"{ms * compute_s:.3f} / {ms * step_s:.1f} ms = {100 * utilisation:.2f} %. Ask instead which "
    f"share of the bandwidth is used: here, by construction, all of it."
)
quiz.check("flop-utilisation", 100 * utilisation)

# %% [markdown]
# ### 6. From which batch on do the linear layers compute?
#
# **The trap.** Twice or four times the right number, from a datasheet's sparse FLOP/s; or "fp8
# halves it".
#
# **Why it fails.** Headline rates count 2:4 sparsity that language models do not have. And fp8
# halves the bytes *and* doubles the rate, which leaves the quotient where it was. What does move it
# is 4-bit storage with 16-bit arithmetic: only the bytes shrink.

# %%
quiz.ask("ridge-batch")

# %%
rows = {name: float(specsim.system(name, "ideal").ridge_rows) for name in ceilings}
fp8 = float(specsim.system("h100-sxm", "ideal", "fp8").ridge_rows)
four_bit = float(replace(h100, precision=replace(h100.precision, weight_bytes=0.5)).ridge_rows)
achieved = float(specsim.system("h100-sxm", "cuda-graphs").ridge_rows)
listed = ", ".join(f"{name.split('-')[0].upper()} {value:.0f}" for name, value in rows.items())
course.say(
    f"**Napkin.** Loads take 2 bytes / BW a weight, arithmetic 2 FLOP × rows / F: equal at "
    f"rows = F × bytes / (2 × BW). In bf16: {listed}; on the H100 {fp8:.0f} with fp8 weights and "
    f"arithmetic, {four_bit:.0f} with 4-bit weights. Real kernels reach neither peak: with the "
    f"shares that an engine with CUDA graphs gets, {achieved:.0f}."
)
quiz.check("ridge-batch", rows["h100-sxm"])

# %%
course.say(
    f"**Takeaway: one sequence uses {100 * utilisation:.1f} % of an H100's arithmetic and all of "
    f"its bandwidth. Make it read fewer bytes per token, or let it do more with each.**"
)

# %% [markdown]
# ## Batches, caches and prompts
#
# ### 7. Does a large batch make decoding compute-bound?
#
# **The trap.** "Yes: that is what batching is for."
#
# **Why it fails.** It does so for the weights, which all sequences share. The caches they do not
# share (common prefixes aside): attention reads each sequence's own, so its FLOP per byte stay what
# grouping the heads makes of them, whatever the batch. With a long context most of the step is
# attention, and waits for memory.

# %%
quiz.ask("attention-intensity")

# %%
attention = step_time(llama_70b, h100, Workload(batch=64, context=8192)).terms
attention = next(term.operator for term in attention if term.name == "attention")
per_byte = float(attention.flops / attention.kv_bytes)
course.say(
    f"**Napkin.** A key or value is two bytes, read once and used by "
    f"{llama_70b.num_heads // llama_70b.num_kv_heads} query heads, two FLOPs each: {per_byte:.0f} "
    f"FLOP/byte against a ridge of {h100.ridge:.0f}. At 64 sequences of 8192 tokens the cache is "
    f"{float(attention.kv_bytes) / GB:.0f} GB, more than the {streamed / GB:.0f} GB of weights."
)
quiz.check("attention-intensity", per_byte)

# %%
batch = 2.0 ** np.arange(9)
sheet, axes = figures.sheet()
lines = [figures.Curve("weights", batch, np.full(len(batch), streamed / GB), "weights")]
lines += [
    figures.Curve(f"cache, {context} tokens each", batch, batch * context * kv_per_token / GB, "kv")
    for context in (32768, 8192, 2048)
]
figures.curves(axes, lines, "batch (sequences)", "bytes read per step (GB)", log_y=True)
sheet

# %% [markdown]
# ### 8. How large is the cache?
#
# **The trap.** Counting the query heads, or only the keys, or quoting GiB as GB.
#
# **Why it fails.** Grouped-query attention stores as many heads as there are KV heads; each token
# leaves a key *and* a value in every layer; and bandwidths are decimal, so bytes should be.

# %%
quiz.ask("kv-size")

# %%
cache = 2 * llama_70b.num_layers * llama_70b.num_kv_heads * llama_70b.head_dim * 2
course.say(
    f"**Napkin.** 2 (K and V) × {llama_70b.num_layers} layers × {llama_70b.num_kv_heads} KV heads "
    f"× {llama_70b.head_dim} × 2 bytes = {cache} bytes a token. Times 8192: "
    f"{cache * 8192 / GB:.2f} GB ({cache * 8192 / 2**30:.1f} GiB); 32 sequences of 4096 hold "
    f"{cache * 32 * 4096 / GB:.1f} GB. Without grouping, "
    f"{llama_70b.num_heads // llama_70b.num_kv_heads} times as much."
)
quiz.check("kv-size", cache * 8192 / GB)

# %% [markdown]
# ### 9. Why is prefill different?
#
# **The trap.** "It is one decode step per prompt token."
#
# **Why it fails.** The prompt is known, so all of its rows go through each weight while that weight
# is there. The bytes are those of a single step; the arithmetic is that of thousands.

# %%
quiz.ask("prefill")

# %%
prompt = 4096
wide = [
    t.operator
    for t in step_time(llama_70b, h100, Workload(rows=prompt, context=1)).terms
    if t.operator
]
flops = sum(float(o.flops) for o in wide if o.kind == "linear")
prefill_s = flops / chip.rate("bf16")
course.say(
    f"**Napkin.** 2 × {streamed / 2 / 1e9:.1f}e9 × {prompt} = {flops / 1e15:.3f} PFLOP (attention "
    f"adds a few per cent): {prefill_s:.3f} s at the full dense rate, about "
    f"{prefill_s / 0.6:.2f} s at 60 % of it. Reading the weights takes {step_s:.3f} s of that. As "
    f"decode steps it would be {prompt * step_s:.0f} s."
)
quiz.check("prefill", prefill_s)

# %% [markdown]
# ### 10. TTFT, TPOT, ITL, goodput: which one does speculation improve?
#
# **The trap.** "Latency", or "the time to the first token".
#
# **Why it fails.** The first token comes out of the prefill, and the draft has to read the prompt
# too. What falls is the mean time per further token; the gaps between tokens get uneven, since a
# cycle's tokens arrive together.

# %%
quiz.ask("which-latency")

# %%
numbers = quiz.question("which-latency").worked()
course.say(
    "**Napkin.** End to end = TTFT + (L − 1) × TPOT; goodput counts the requests that keep both "
    "limits. On an ideal H200, an 8B model answers a prompt of 4096 tokens after "
    f"{numbers['ttft_ms']:.0f} ms, and after {numbers['ttft_with_draft_ms']:.0f} ms if a 1B draft "
    f"reads it too. With cycles of 20 ms at α = 0.8, γ = 5, TPOT is {numbers['tpot_ms']:.2f} ms "
    f"while {numbers['zero_gap_percent']:.0f} % of the gaps are zero."
)
quiz.check("which-latency", "c")

# %%
course.say(
    f"**Takeaway: a batch shares the weights and not the caches. Decode attention stays at "
    f"{per_byte:.0f} FLOP/byte; prefill computes even for a single user.**"
)

# %% [markdown]
# ## Exactness, and tokens per cycle
#
# ### 11. Why is the output still the target's?
#
# **The trap.** "A draft is accepted if the target finds it likely", or "after a rejection, sample
# from the target".
#
# **Why it fails.** The first makes text that is too ordinary. The second forgets what was accepted
# before: accepted drafts have tilted the law towards the draft's favourites, and what is drawn
# after a rejection has to tilt it back.

# %%
quiz.ask("output-law")

# %%
p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
kept, rejected = np.minimum(p, q), 1 - overlap(p, q)
exact, wrong = kept + rejected * residual(p, q), kept + rejected * p
course.say(
    f"**Napkin.** Token by token min(p, q) = {kept} is kept, {1 - rejected:.1f} in all. Missing: "
    f"p − min(p, q) = max(p − q, 0), of mass {rejected:.1f}. Draw the correction from *that*, "
    f"normalised, here {residual(p, q)}, and the sum is {exact}: p. Drawn from p it is {wrong}, "
    f"off by {np.abs(wrong - p).sum() / 2:.2f} in total variation."
)
quiz.check("output-law", wrong[0])

# %% [markdown]
# ### 12. How many tokens does a cycle emit?
#
# **The trap.** γα; or the right sum without its last term.
#
# **Why it fails.** Drafts behind a rejection are lost, so the k-th counts with αᵏ. And the
# verification emits one token *more* than it accepts: the correction, or the bonus.

# %%
quiz.ask("tokens-per-cycle")

# %%
alpha, gamma = 0.8, 4
survival = IID(alpha).survival(range(gamma + 1))
tokens = float(IID(alpha).tokens_per_cycle(gamma))
course.say(
    f"**Napkin.** 1 + {' + '.join(f'{s:.4g}' for s in survival[1:])} = {tokens:.4f}, which is "
    f"(1 − αᵞ⁺¹) / (1 − α). Not {gamma * alpha:.1f}, not {tokens - 1:.2f}, and {gamma} is no cap: "
    f"the cap is {gamma + 1}."
)
quiz.check("tokens-per-cycle", tokens)

# %% [markdown]
# ### 13. What speedup is that?
#
# **The trap.** Quoting the bound over all γ, 1/(1 − α), as if it were a forecast.
#
# **Why it fails.** It is reached with free drafts and endless γ. A cycle pays for γ draft steps and
# a verification.

# %%
quiz.ask("speedup")

# %%
from specsim.acceptance.leviathan import best_gamma, best_gamma_closed_form, leviathan_speedup

cost = 0.05
course.say(
    f"**Napkin.** {tokens:.4f} tokens for 1 + {gamma} × {cost} = {1 + gamma * cost:.1f} plain "
    f"steps: {leviathan_speedup(alpha, gamma, cost):.2f}×. The bound is {1 / (1 - alpha):.0f}×. "
    f"The formula lets verification cost one step and overheads nothing; both flatter."
)
quiz.check("speedup", leviathan_speedup(alpha, gamma, cost))

# %% [markdown]
# ### 14. Which γ is best?
#
# **The trap.** "As large as possible", or "1/(1 − α)".
#
# **Why it fails.** A further draft adds its survival to the tokens and its price to the cycle, and
# lengthening the cycle costs what the cycle was earning: it has to beat c *times the speedup*.

# %%
quiz.ask("best-gamma")

# %%
gammas = np.arange(25)
sheet, axes = figures.sheet()
lines = [
    figures.Curve(f"α = {a}, c = {c}", gammas, leviathan_speedup(a, gammas, c))
    for a, c in ((0.8, 0.05), (0.8, 0.2), (0.6, 0.05))
]
figures.curves(
    axes, lines, "γ, tokens drafted per cycle", "speedup (×)", doubling=False, unit_line=True
)
sheet

# %%
speedups = leviathan_speedup(alpha, gammas, cost)
best = int(best_gamma(alpha, cost))
tied = gammas[speedups >= 0.98 * speedups.max()]
course.say(
    f"**Napkin.** Add a draft while α^(γ+1) > c × S. The {best}th has a survival of "
    f"{IID(alpha).survival(best):.3f} against {cost * speedups[best - 1]:.3f}, the next "
    f"{IID(alpha).survival(best + 1):.3f} against {cost * speedups[best]:.3f}: stop at {best}, "
    f"{speedups[best]:.3f}× (as a real number, {best_gamma_closed_form(alpha, cost):.2f}). The top "
    f"is flat: {tied[0]} to {tied[-1]} are within 2 % of it, so take the smaller ones."
)
quiz.check("best-gamma", best)

# %% [markdown]
# ### 15. The log says that half of the drafts are accepted. What is α?
#
# **The trap.** Reading "acceptance rate" as α.
#
# **Why it fails.** Engines divide accepted by *drafted*, and drafts behind a rejection were never
# judged. Three numbers go by that name: α, accepted per drafted, and tokens per cycle.

# %%
quiz.ask("alpha-from-a-log")

# %%
from specsim.evidence.diagnosis import Counters, diagnose

found = diagnose(Counters(accepted_per_drafted=0.54, gamma=5))
course.say(
    f"**Napkin.** τ = 1 + 5 × 0.54 = {found.tokens_per_cycle:.2f}; (1 − α⁶) / (1 − α) = τ at "
    f"α = {found.alpha:.3f}. Taken for α, 0.54 would promise "
    f"{IID(0.54).tokens_per_cycle(5):.1f} tokens per cycle."
)
quiz.check("alpha-from-a-log", found.alpha)

# %%
course.say(
    "**Takeaway: min(p, q) is kept and max(p − q, 0) replaced, so the law is p exactly. Tokens per "
    f"cycle are 1 + α + … + αᵞ, {tokens:.2f} at α = {alpha}, γ = {gamma}: count the bonus, and ask "
    f"of every acceptance rate which of the three it is.**"
)

# %% [markdown]
# ## When it pays, and when it hurts
#
# ### 16. When does speculation hurt?
#
# **The trap.** "Never: it is lossless."
#
# **Why it fails.** The *text* loses nothing; the time can. Verifying costs B (γ + 1) rows, free
# only below the ridge. Other ways to lose: few drafts accepted, a draft that costs nearly a step
# (launch-bound, or behind PCIe), a mixture of experts at small batch, a greedy draft at high
# temperature, a target in 4 bits.

# %%
quiz.ask("when-it-hurts")

# %%
toy = quiz.question("when-it-hurts").worked()
served = specsim.system("h100-sxm", engine="cuda-graphs", tensor_parallel=4)
draft = specsim.DraftModel(llama_1b, tensor_parallel=1)
batch = 2 ** np.arange(10)
lines = []
for context in (1024, 8192):
    place = {"alpha": 0.75, "batch": batch, "context": context}
    fixed = specsim.predict(llama_70b, draft, served, gamma=4, **place).speedup
    every = specsim.predict(
        llama_70b, draft, served, gamma=range(13), **(place | {"batch": batch[:, None]})
    )
    lines.append(figures.Curve(f"γ = 4, {context} tokens", batch, fixed, "verify"))
    lines.append(figures.Curve(f"best γ, {context} tokens", batch, every.speedup.max(axis=1)))
sheet, axes = figures.sheet(height=3.6)
title = "Llama-3-70B on four H100s, a 1B draft, α = 0.75"
figures.curves(axes, lines, "batch (sequences)", "speedup (×)", unit_line=True, title=title)
sheet

# %%
course.say(
    "**Napkin.** On one device of an H100's class, without a cache: a fixed γ = 4 gains "
    f"{toy['fixed_1']:.3f}× up to batch 32, {toy['fixed_64']:.3f}× at 64, {toy['fixed_128']:.3f}× "
    f"at 128 and {toy['fixed_256']:.3f}× at 256, where {toy['rows']:.0f} rows meet a ridge of "
    f"{toy['ridge_rows']:.0f}. The best γ shrinks along: {toy['gamma_1']:.0f}, "
    f"{toy['gamma_32']:.0f}, {toy['gamma_64']:.0f}, {toy['gamma_128']:.0f}, and "
    f"{toy['gamma_256']:.0f}, with {toy['best_1']:.2f}, {toy['best_32']:.2f}, "
    f"{toy['best_64']:.2f}, {toy['best_128']:.2f} and {toy['best_256']:.2f}×."
)
quiz.check("when-it-hurts", toy["fixed_256"])

# %% [markdown]
# ### 17. Does it change the output?
#
# **The trap.** "No: at temperature zero it is bitwise the same."
#
# **Why it fails.** As a law it is the same, by proof. As bits it depends on the order of sums: one
# row and γ + 1 rows run different kernels, and in bf16 two nearly equal logits may change places.
# The same happens when a batch grows, so no promise is broken that was ever kept.

# %%
quiz.ask("same-output")

# %%
products = np.float32([1.0, 2.0**-24, 2.0**-24, 2.0**-24])
forwards, backwards = np.float32(0), np.float32(0)
for product in products:
    forwards += product
for product in products[::-1]:
    backwards += product
course.say(
    f"**Napkin.** The same four numbers, summed in fp32 from the left and from the right, differ "
    f"by {backwards - forwards:.1e}, and bf16 has sixteen bits fewer to round in. Where two logits "
    f"are closer than a rounding, the argmax is the kernel's choice. Test a decoder by its law "
    f"(enumeration, chi-square), not by its hash."
)
quiz.check("same-output", "c")

# %% [markdown]
# ### 18. Does it save FLOPs, or energy?
#
# **The trap.** "The large model only processes a subset of the tokens." One reads it often, and it
# is kindly meant: it is the picture that one gets from watching a draft write most of the text.
#
# **Why it fails.** Every token that is emitted went through the target, and so did every draft that
# was thrown away. The target makes *fewer passes over more positions*: more FLOPs, fewer bytes. At
# small batch bytes and idle power are most of the energy, so that usually falls too.

# %%
quiz.ask("flops-saved")

# %%
from specsim.planning import economics

saved = quiz.question("flops-saved").worked()
ratio, plain_gb = saved["ratio"], saved["plain_gb"]
draft_gb = (saved["gb_per_token"] * tokens - plain_gb) / 4
course.say(
    f"**Napkin.** Rows per cycle: γ drafts at ĉ = {ratio:.3f} and γ + 1 verified. "
    f"(4 × {ratio:.3f} + 5) / {tokens:.4f} = {(4 * ratio + 5) / tokens:.2f}× the FLOPs of plain "
    f"decoding. Bytes: ({plain_gb:.1f} + 4 × {draft_gb:.2f}) / {tokens:.4f} = "
    f"{saved['gb_per_token']:.1f} GB a token against {plain_gb:.1f}. Energy on a roofline H200, "
    f"with assumed constants ({1e12 * economics.JOULES_PER_BYTE:.0f} pJ/byte, "
    f"{1e12 * economics.JOULES_PER_FLOP:.1f} pJ/FLOP, {economics.IDLE_POWER_W:.0f} W idle): "
    f"{saved['plain_j']:.1f} → {saved['speculative_j']:.1f} J a token."
)
quiz.check("flops-saved", (4 * ratio + 5) / tokens)

# %% [markdown]
# ### 19. Why not a bigger draft?
#
# **The trap.** "The best α wins."
#
# **Why it fails.** A bigger draft is accepted more often and costs more each time. Compare the best
# of τ / (1 + γc) over γ, and take c as a ratio of *times* wherever passes are short.

# %%
quiz.ask("bigger-draft")

# %%
sizes = {"1B": llama_1b, "8B": llama_8b}
weights = {
    name: 2 * (m.parameters - (0 if m.tied_head else m.embedding_parameters))
    for name, m in sizes.items()
}
cells = []
for name, accepted in (("1B", (0.70, 0.75)), ("8B", (0.80, 0.85))):
    c = weights[name] / streamed
    gains = [leviathan_speedup(a, best_gamma(a, c), c) for a in accepted]
    told = " and ".join(f"{g:.2f}× at α = {a:.2f}" for g, a in zip(gains, accepted, strict=True))
    cells.append(f"the {name} (c = {c:.4f}) gains {told}")
course.say(f"**Napkin,** by bytes, for the 70B: {'; '.join(cells)}.")
quiz.check("bigger-draft", "b")

# %% [markdown]
# ### 20. And a mixture of experts?
#
# **The trap.** "It never profits", or "it is like a dense model".
#
# **Why it fails.** A pass reads the experts that its tokens chose. At batch 1 further rows choose
# further experts, so verification is not free; at a large batch all experts are loaded anyway and
# it is; at a larger one the arithmetic binds again. Neighbouring tokens choose alike, which helps.

# %%
quiz.ask("experts")

# %%
from specsim.architecture import Experts
from specsim.operators import distinct_experts

routed = Experts(count=256, per_token=8, intermediate_size=1)
independent, alike = (
    float(distinct_experts(routed, 1, 4, rho) / routed.per_token) for rho in (0.0, 0.45)
)
moe = quiz.question("experts").worked()
course.say(
    f"**Napkin.** N (1 − (1 − k/N)ᵀ) experts for T tokens: {independent:.2f} times those of one "
    f"token at T = 4 if they choose independently, {alike:.2f} with the correlation of 0.45 that "
    f"Cohere's figures imply. Qwen3-30B-A3B reads {moe['bytes_at_1']:.2f} times the bytes of a "
    f"plain step to verify 3 drafts at batch 1 (independent), {moe['bytes_at_8']:.2f} at batch 8, "
    f"{moe['bytes_at_64']:.2f} at batch 64."
)
quiz.check("experts", independent)

# %% [markdown]
# ### 21. And a context of a hundred thousand tokens?
#
# **The trap.** "Long context kills speculation", from models that charge the cache once per row.
#
# **Why it fails.** A fused verification reads each key once for all of its rows. The longer the
# context, the more of a step is cache, and the closer verification comes to costing one step even
# at a large batch. What does hurt is the draft's own cache; a windowed draft keeps it small.

# %%
quiz.ask("long-context")

# %%
place = {"gamma": 4, "alpha": 0.8, "batch": 32, "context": 32768}
full_draft = specsim.DraftModel(llama_1b, catch_up="none")
windowed = replace(full_draft, window=512)
full, short = (specsim.predict(llama_8b, d, h200, **place) for d in (full_draft, windowed))
course.say(
    f"**Napkin.** 128k tokens of the 70B hold {kv_per_token * 2**17 / GB:.2f} GB: four such "
    f"sequences exceed the weights. The 8B at batch 32 and 32k tokens: a step of "
    f"{ms * float(full.step_s):.1f} ms, verification {ms * float(full.verify_step_s):.1f} ms, a "
    f"draft step {ms * float(full.draft_step_s):.2f} ms with its full cache and "
    f"{ms * float(short.draft_step_s):.2f} ms with 512 tokens of it: {float(full.speedup):.2f}× "
    f"and {float(short.speedup):.2f}×."
)
quiz.check("long-context", float(full.speedup))

# %% [markdown]
# ### 22. Quantise, or speculate?
#
# **The trap.** Multiplying the two gains.
#
# **Why it fails.** Quantising shortens the target's step and not the draft's, so c rises; and
# 4-bit storage with 16-bit arithmetic lowers the ridge, so verification stops being free earlier.
# Quantising changes the output and helps every batch; speculating keeps it and helps small ones.

# %%
quiz.ask("quantise-or-speculate")

# %%
fewer = 16 / 4.5
ratios = [weights["1B"] / weights["8B"], weights["1B"] / (weights["8B"] / fewer)]
before, after = (float(leviathan_speedup(0.75, best_gamma(0.75, c), c)) for c in ratios)
course.say(
    f"**Napkin.** 4.5 bits: {streamed / GB:.1f} → {streamed / fewer / GB:.1f} GB for the 70B, "
    f"{fewer:.2f}× fewer bytes. For an 8B with a bf16 1B draft, c goes from {ratios[0]:.3f} to "
    f"{ratios[1]:.3f} and the best speedup at α = 0.75 from {before:.2f}× to {after:.2f}×: "
    f"together {fewer * after:.2f}×, not {fewer * before:.2f}×."
)
quiz.check("quantise-or-speculate", fewer * after)

# %%
course.say(
    f"**Takeaway: speculation trades FLOPs ({(4 * ratio + 5) / tokens:.2f}× as many) for passes. "
    f"It pays while rows are free, and loses ({toy['fixed_256']:.1f}× at batch 256) where they are "
    f"not.**"
)

# %% [markdown]
# ## Methods
#
# ### 23. Which drafter?
#
# **The trap.** One answer for every traffic.
#
# **Why it fails.** The text decides what can be guessed, and the load decides how many guesses are
# affordable.

# %%
quiz.ask("which-drafter")

# %%
machine = specsim.system("h100-sxm", engine="cuda-graphs")
ngram, head = specsim.method("n-gram", llama_8b), specsim.method("eagle-3", llama_8b)
copies = {
    hit: specsim.predict(
        llama_8b, replace(ngram, hit=hit), machine, gamma=range(1, 13), alpha=0.9
    ).speedup.max()
    for hit in (0.1, 0.4, 0.9)
}
at_load = {
    size: specsim.predict(llama_8b, head, machine, gamma=range(13), alpha=0.7, batch=size)
    for size in (1, 256)
}
heads = [
    f"{over.speedup.max():.2f}× with γ = {over.gamma[over.best()]} at batch {size}"
    for size, over in at_load.items()
]
course.say(
    f"**Napkin.** Predicted for an 8B on an H100. A lookup whose copies are accepted with α = 0.9 "
    f"gains {copies[0.1]:.1f}× where it finds something in 10 % of the cycles, {copies[0.4]:.1f}× "
    f"at 40 %, {copies[0.9]:.1f}× at 90 %: chat, summaries, edits. An EAGLE-3 head at α = 0.7 "
    f"gains {' and '.join(heads)}."
)
quiz.check("which-drafter", "b")

# %% [markdown]
# ### 24. A tree or a chain?
#
# **The trap.** "Trees are always better."
#
# **Why it fails.** They do emit more per cycle, about as the logarithm of their nodes. But every
# node is a row of the verification, and rows are free at batch 1 only.

# %%
quiz.ask("tree-or-chain")

# %%
from specsim.acceptance.optimal_trees import best_tree

children = (0.6, 0.15, 0.08, 0.05, 0.03)
nodes = np.arange(1, 65)
shapes = {
    "best tree": best_tree(children, 64),
    "at most 3 deep": best_tree(children, 64, depth=3),
    "chain": best_tree(children[:1], 64),
}
lines = [figures.Curve(k, nodes, t.tokens_per_cycle_by_nodes, "tokens") for k, t in shapes.items()]
sheet, axes = figures.sheet()
figures.curves(axes, lines, "nodes, the root included", "tokens per cycle")
sheet

# %%
tree, chain = (shapes[name].tokens_per_cycle_by_nodes for name in ("best tree", "chain"))
course.say(
    f"**Napkin.** A node is accepted with the product along its path; the best n nodes are the n "
    f"largest products. Eight nodes: {tree[7]:.2f} tokens per cycle against {chain[7]:.2f} for a "
    f"chain. Sixty-four: {tree[63]:.2f} against {chain[63]:.2f}, since a chain ends at "
    f"1/(1 − 0.6) = {1 / (1 - children[0]):.1f}."
)
quiz.check("tree-or-chain", tree[7])

# %% [markdown]
# ### 25. Why not draft while the target verifies?
#
# **The trap.** "Just overlap the two; that is free."
#
# **Why it fails.** The next draft continues a text that the verification has yet to decide. One can
# guess the verdict and draft on (PEARL), or prepare for several (SSD), on *another* device; then
# the cycle is the longer of the two instead of their sum, and the device has to be counted.

# %%
quiz.ask("draft-in-parallel")

# %%
parallel = quiz.question("draft-in-parallel").worked()
course.say(
    f"**Napkin.** At c = 0.2: {tokens:.4f} / (1 + 4 × 0.2) = {tokens / 1.8:.2f}× one after the "
    f"other; {tokens:.4f} / max(1, 4 × 0.2) = {parallel['overlapped']:.2f}× at most when they "
    f"overlap, with two devices: {parallel['per_device']:.2f}× for each. Overlapping bought "
    f"latency, not throughput."
)
quiz.check("draft-in-parallel", parallel["per_device"])

# %% [markdown]
# ### 26. How does the cache forget a rejected draft?
#
# **The trap.** Slicing tensors to the accepted length.
#
# **Why it fails.** Slices that are concatenated again copy the cache in every cycle, and `[:-n]`
# with `n = 0` keeps nothing at all. Nothing needs to move: entries beyond the length are masked,
# and the next tokens overwrite them.

# %%
quiz.ask("roll-back")

# %%
cached, rejected_drafts = np.arange(8), 0
kept_by_length = cached[: len(cached) - rejected_drafts]
course.say(
    f"**Napkin.** Eight cached tokens, none rejected: `[: length]` keeps {len(kept_by_length)}, "
    f"`[:-0]` keeps {len(cached[:-rejected_drafts])}. And a recurrent state has no length to set: "
    f"it needs a snapshot per draft, or a replay."
)
quiz.check("roll-back", "d")

# %%
course.say(
    f"**Takeaway: a drafter is a price and a survival. Trees buy tokens with rows "
    f"({tree[63]:.1f} of 64 nodes), overlap buys them with a device ({parallel['per_device']:.2f}× "
    f"each); rolling back is free.**"
)

# %% [markdown]
# ## Serving
#
# ### 27. What does P99 do?
#
# **The trap.** Quoting the mean.
#
# **Why it fails.** Speculation lowers the mean and raises the gap: inside a cycle tokens arrive
# together, between cycles one waits for longer than a plain step. And over a short answer the
# number of cycles itself is spread.

# %%
quiz.ask("percentiles")

# %%
from specsim.acceptance import latency, per_position

law = IID(0.8)
emitted = float(law.tokens_per_cycle(5))
cycles = latency.cycles_to_emit(64, per_position(law, 5).vector)
p99_s = float(latency.gap_percentile_s(20e-3, emitted, 99))
course.say(
    f"**Napkin.** τ = {emitted:.3f} at γ = 5, so {100 * latency.zero_gap_share(emitted):.0f} % of "
    f"the gaps are zero and TPOT is 20 ms / τ = {20 / emitted:.2f} ms; the P99 gap is "
    f"{ms * p99_s:.0f} ms. An answer of 64 tokens takes {cycles.mean:.1f} ± {cycles.sd:.1f} "
    f"cycles, P95 {cycles.percentile(95)}."
)
quiz.check("percentiles", ms * p99_s)

# %%
sheet, axes = figures.sheet(height=2.8)
counts = np.arange(10, 29)
lines = [figures.Curve("64 tokens at α = 0.8, γ = 5", counts, cycles.probability[counts], "cycle")]
figures.curves(axes, lines, "cycles until the answer is complete", "probability", doubling=False)
axes.set_xticks(counts[::3])
sheet

# %% [markdown]
# ### 28. How would you benchmark it?
#
# **The trap.** A fast engine with drafts against a slow one without; one prompt; an "acceptance
# rate" that nobody defined.
#
# **Why it fails.** It measures the engine, or the prompt, or a word. Both arms need the same
# engine, sampler and graphs; prompts of several domains, since acceptance differs most between
# those; P50 and P99 over concurrency, in open and in closed loop.

# %%
quiz.ask("benchmark")

# %%
slow = specsim.system("h100-sxm", engine="torch-eager")
fast = specsim.system("h100-sxm", engine="cuda-graphs")
drafter = specsim.DraftModel(llama_1b)
speculative = specsim.predict(llama_8b, drafter, fast, gamma=4, alpha=0.7)
unfair = float(specsim.predict(llama_8b, None, slow).step_s) / float(speculative.cycle_s)
share = weights["8B"] / chip.bandwidth_bytes_per_s / float(speculative.step_s)
course.say(
    f"**Napkin.** Predicted for an 8B on an H100 at α = 0.7, γ = 4: against the same engine "
    f"{float(speculative.speedup):.2f}×; against eager PyTorch "
    f"{float(speculative.tokens_per_cycle) * unfair:.1f}×, most of which is CUDA graphs. Print the "
    f"baseline's share of its bandwidth: here {100 * share:.0f} %."
)
quiz.check("benchmark", "c")

# %% [markdown]
# ### 29. What does a million tokens cost?
#
# **The trap.** Optimising the cost at batch 1.
#
# **Why it fails.** A batch shares the reading of the weights among all its sequences; speculation
# shares it among a few tokens of one. For cost, batch; for the latency of a few users, speculate.
# And before the price, ask whether the cache fits.

# %%
quiz.ask("dollars")

# %%
from specsim.planning.economics import dollars_per_million_tokens
from specsim.planning.memory import footprint

unlinked = replace(chip, link_latency_s=0.0, link_bytes_per_s=np.inf)  # all-reduces left out
engine = replace(h100.engine, weight_efficiency=0.75, kv_efficiency=0.75)
four = replace(h100, accelerator=unlinked, engine=engine, tensor_parallel=4)
single = specsim.predict(llama_70b, None, four, context=1)
many = specsim.predict(llama_70b, None, four, batch=64, context=2048)
rates = [float(single.tokens_per_s), 2.5 * float(single.tokens_per_s), float(many.tokens_per_s)]
prices = [float(dollars_per_million_tokens(4 * 2.5, rate)) for rate in rates]
two = footprint(llama_70b, replace(h100, tensor_parallel=2), batch=64, context=2048)
room = 2 * two.capacity_bytes - 2 * llama_70b.parameters
course.say(
    f"**Napkin.** Batch 1: {ms * float(single.step_s):.2f} ms, {rates[0]:.1f} tokens/s, "
    f"{prices[0]:.1f} dollars. With a speedup of 2.5: {prices[1]:.1f}. Batch 64 at 2048 tokens: "
    f"{ms * float(many.step_s):.1f} ms, {rates[2]:.0f} tokens/s, {prices[2]:.2f} dollars. On two "
    f"GPUs it would not even fit: {room / GB:.1f} GB are left beside the weights, "
    f"{room / kv_per_token / 1e3:.1f}k tokens, and 64 × 2048 are {64 * 2048 / 1e3:.0f}k."
)
quiz.check("dollars", prices[0])

# %%
changes = {
    "speculation, 2.5×": (2.5, prices[0] / prices[1]),
    "batch 64": (float(single.step_s / many.step_s), prices[0] / prices[2]),
}
sheet, axes = figures.sheet(height=2.6)
figures.gains(axes, changes, {"speed of one stream": "speedup", "tokens per dollar": "tokens"})
sheet

# %% [markdown]
# ### 30. In eager PyTorch, what does a small draft gain?
#
# **The trap.** "The draft has a twelfth of the parameters, so c is a twelfth."
#
# **Why it fails.** Without captured graphs a pass costs its layers times a constant, whatever their
# width, and small drafts are narrow rather than shallow. c is the ratio of *layers*.

# %%
quiz.ask("eager")

# %%
qwen_8b, qwen_tiny = specsim.model("qwen3-8b"), specsim.model("qwen3-0.6b")
c = qwen_tiny.num_layers / qwen_8b.num_layers
best = int(best_gamma(0.8, c))
predicted = {
    name: specsim.predict(
        qwen_8b, specsim.DraftModel(qwen_tiny), specsim.system("h100-sxm", name), gamma=4, alpha=0.8
    )
    for name in ("torch-eager", "cuda-graphs")
}
course.say(
    f"**Napkin.** c = {qwen_tiny.num_layers}/{qwen_8b.num_layers} = {c:.2f}. At α = 0.8, γ = 4: "
    f"{leviathan_speedup(0.8, 4, c):.2f}×; at best {leviathan_speedup(0.8, best, c):.2f}×, with "
    f"γ = {best}. specsim, for which a pass in eager mode takes the longer of its launches and its "
    f"work on the device, says {float(predicted['torch-eager'].speedup):.2f}× for an H100, and "
    f"{float(predicted['cuda-graphs'].speedup):.2f}× with both models in CUDA graphs."
)
quiz.check("eager", leviathan_speedup(0.8, 4, c))

# %%
course.say(
    f"**Takeaway: batching buys cost ({prices[0]:.0f} → {prices[2]:.2f} dollars), speculation buys "
    f"latency, and the software decides whether there is anything to buy: name the percentile, the "
    f"baseline and c.**"
)

# %% [markdown]
# ## What is asked next
#
# Whoever got this far is asked about averages. Each of these catches people who know the formulas:
# text that is hard in stretches, α pooled over cycles, means of speedups, the batch that answers
# back, and drafts that are greedy where the target is not.

# %%
for each in quiz.questions(follow_ups=True)[30:]:
    course.say(f"**{each.prompt}** {each.one_line}")

# %%
course.say(
    "**Takeaway: fit α on tokens per cycle, average times and not speeds, and say whether the loop "
    "is open.**"
)

# %% [markdown]
# ## The thirty, a line each
#
# For the last minutes before the door opens.

# %%
lines = [
    f"{n}. *{each.id.replace('-', ' ')}*: {each.one_line}"
    for n, each in enumerate(quiz.questions(), 1)
]
course.say("\n".join(lines))

# %%
course.say(
    "**Takeaway: bytes per pass, rows per pass, tokens per pass. Every answer above is one of "
    "these, or one divided by another.**"
)

# %% [markdown]
# ## Exercises
#
# **A rehearsal.** Six of the thirty, drawn by lot. Change the seed and answer aloud, then type.

# %%
seed = 1
for chosen in np.random.default_rng(seed).choice(30, size=6, replace=False):
    course.say(f"{quiz.questions()[chosen].prompt}")

# %% [markdown]
# **Your own machine.** Replace the accelerator and the model by yours and answer before you run it:
# how many tokens per second at most, in bf16, at batch 1?

# %%
mine, model = specsim.system("rtx-4090", "ideal"), specsim.model("qwen3-8b")
ceiling = quiz.Question(
    f"The ceiling of {model.name} on a {mine.accelerator.name}, in tokens/s?",
    answer=lambda: specsim.predict(model, None, mine, context=1).tokens_per_s,
    slips={
        "the embedding is counted": lambda: mine.bandwidth_bytes_per_s / (2 * model.parameters),
        "a weight is taken for one byte": lambda: mine.bandwidth_bytes_per_s / model.parameters,
    },
    tolerance=0.05,
    unit="tokens/s",
)
quiz.ask(ceiling)

# %% [markdown]
# **A log from work.** An engine at γ = 3 reports a mean acceptance length of `2.4`, bonus included.
# Which α does that mean, and is a fourth draft worth a draft step of c = `0.1`?

# %%
from specsim.acceptance import alpha_from_tokens_per_cycle

question = quiz.Question(
    "A mean length of 2.4 at γ = 3, bonus included: α?",
    answer=lambda: alpha_from_tokens_per_cycle(2.4, 3),
    slips={
        "accepted per drafted is taken for α": 1.4 / 3,
        "the bonus token is not taken off": 2.4 / 3,
        "the bonus token is taken off twice": lambda: alpha_from_tokens_per_cycle(1.4, 3),
    },
    tolerance=0.02,
)
quiz.ask(question)

# %%
answer = question.expected
worth = IID(answer).survival(4), 0.1 * leviathan_speedup(answer, 3, 0.1)
course.say(
    f"α = {answer:.3f}; the fourth draft survives with {worth[0]:.3f} and has to beat c × S = "
    f"{worth[1]:.3f}: {'worth it' if worth[0] > worth[1] else 'not worth it'}."
)

# %% [markdown]
# **Where it comes from.** The public sources behind the questions.

# %%
cited = {source for each in quiz.questions(follow_ups=True) for source in each.sources}
course.say("\n".join(f"- {source}" for source in sorted(cited)))

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
# # 8. The interview: forty questions on memory-bound decoding and speculation
#
# **Question.** Can you say in one line, with the right number, why decoding is slow and what
# speculation does about it?
#
# **Takes** a few seconds to run, and an evening to practise. **Needs** NumPy and matplotlib; no
# GPU, no PyTorch, no network. The input boxes need ipywidgets; without them, use `quiz.check`.
#
# Each question has five parts: a common wrong answer (the trap), why it is wrong, a form for your
# own answer, a short calculation ("napkin arithmetic") with numbers that specsim computes, and an
# answer in one line. Answer first: the last two are folded, and so is the code that computes them.
# The reply to a wrong number names the likely mistake. After the forty questions come an answer of
# two minutes, to be spoken, and a system-design session with every number worked out.
#
# For example, the bytes of a pass are not simply the parameters times two:

# %%
from dataclasses import replace

import numpy as np

import specsim
from specsim import course, figures
from specsim.acceptance import IID, overlap, residual
from specsim.cost import step_time
from specsim.course import quiz
from specsim.operators import Workload, forward_work

llama_70b, llama_8b = specsim.model("llama-3-70b"), specsim.model("llama-3-8b")
llama_1b = specsim.model("llama-3.2-1b")
h100 = specsim.system("h100-sxm", engine="ideal")  # the roofline: datasheet values, no overhead
h200 = specsim.system("h200-sxm", engine="ideal")
GB, ms = 1e9, 1e3

quiz.check("bytes-per-token", 2 * llama_8b.parameters / GB)

# %% [markdown]
# ## Bytes, not FLOPs
#
# ### 1. Why does decoding one sequence wait for memory?
#
# **The trap.** "Tokens come one after the other, so the GPU waits for Python", or "attention is
# quadratic".
#
# **Why it fails.** The sequential order explains why tokens come one at a time, not why each takes
# so long. A GPU does wait for the host if kernels are launched one by one, and CUDA graphs solve
# that. The step that remains takes the time to read its bytes. And a *new* token attends once to
# each earlier token, which is linear in the context.

# %%
quiz.ask("why-memory-bound")

# %% jupyter={"source_hidden": true} tags=["answer"]
step = specsim.predict(llama_8b, None, h100, context=1).step
linear = [term.operator for term in step.terms if term.operator and term.operator.weight_bytes > 0]
intensity = sum(o.flops for o in linear) / sum(o.weight_bytes for o in linear)
device = h100.accelerator
napkin = (
    "**Napkin.** A bf16 weight has two bytes, and one sequence uses it for one multiply-add, "
    f"which is two FLOPs: {intensity:.0f} FLOP per byte. An H100 computes "
    f"{device.rate('bf16') / 1e12:.0f} TFLOP/s and reads {device.bandwidth_bytes_per_s / 1e12:.2f} "
    f"TB/s, so it could do {h100.ridge:.0f} FLOP while it reads one byte. Its arithmetic is idle "
    "most of the time."
)
quiz.folded("why-memory-bound", "c", napkin)

# %% [markdown]
# On the roofline, a plain step lies far down the slope. Everything that uses a weight for more
# tokens lies further to the right: a verification, a batch, a prefill.

# %%
figure, axes = figures.subplots()
passes = {
    "a plain step": ("plain", 1),
    "verifying 4 drafts": ("verify", 5),
    "a batch of 64": ("tokens", 64),
    "a prefill of 4096 tokens": ("compute", 4096),
}
points = [
    figures.operating_point(
        label, concept, step_time(llama_8b, h100, Workload(rows=rows, context=1))
    )
    for label, (concept, rows) in passes.items()
]
figures.roofline(axes, h100, points)
axes.legend(loc="upper left", frameon=False, fontsize=9)
figure

# %% [markdown]
# ### 2. How many bytes does one token of an 8B model read?
#
# **The trap.** Parameters times two.
#
# **Why it fails.** The error is small, but it shows whether you know what a pass does. From the
# embedding table it reads one row per token. The LM head has the same size, and a pass reads all of
# it. The cache is missing too: a short context adds almost nothing, a long one a lot (question 7).

# %%
quiz.ask("bytes-per-token")

# %% jupyter={"source_hidden": true} tags=["answer"]
streamed_8b = 2 * (llama_8b.parameters - llama_8b.embedding_parameters)
kv_8b = 2 * llama_8b.kv_elements_per_token
step_s = float(specsim.predict(llama_8b, None, h100, context=1).step_s)
compute_s = streamed_8b / device.rate("bf16")  # two FLOPs for two bytes
napkin = (
    f"**Napkin.** {llama_8b.parameters / 1e9:.2f} billion parameters minus "
    f"{llama_8b.embedding_parameters / 1e9:.2f} billion of the embedding, times two bytes: "
    f"{streamed_8b / GB:.1f} GB, plus {kv_8b / 1e6:.3f} MB for each token of context. An H100 "
    f"needs {ms * step_s:.2f} ms to read that and {ms * compute_s:.3f} ms for the arithmetic, "
    f"which is {step_s / compute_s:.0f} times less: the ridge again."
)
quiz.folded("bytes-per-token", streamed_8b / GB, napkin)

# %% [markdown]
# ### 3. What does a GPU with twice the FLOP/s gain?
#
# **The trap.** "Up to twice the speed."
#
# **Why it fails.** A step does not wait for arithmetic. At batch 1 newer GPUs are faster because of
# their bandwidth: an H200 has the same FLOP/s as an H100, and it is still faster.

# %%
quiz.ask("twice-the-flops")

# %% jupyter={"source_hidden": true} tags=["answer"]
rates = {name: 2 * rate for name, rate in device.flops_per_s.items()}
doubled = replace(h100, accelerator=replace(device, flops_per_s=rates))
faster = step_s / float(specsim.predict(llama_8b, None, doubled, context=1).step_s)
ceilings = {
    name: float(
        specsim.predict(llama_8b, None, specsim.system(name, "ideal"), context=1).tokens_per_s
    )
    for name in ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200")
}
listed = ", ".join(f"{name.split('-')[0].upper()} {rate:.0f}" for name, rate in ceilings.items())
napkin = (
    f"**Napkin.** Twice the FLOP/s gives {faster:.2f}×. The limit is bandwidth divided by bytes. "
    f"In tokens/s for the 8B on one device: {listed}. So an H200 gains at most "
    f"{ceilings['h200-sxm'] / ceilings['h100-sxm']:.2f}×, a B200 "
    f"{ceilings['b200'] / ceilings['h100-sxm']:.2f}×."
)
quiz.folded("twice-the-flops", faster, napkin)

# %% [markdown]
# ### 4. Does a second GPU help?
#
# **The trap.** "Twice the GPUs, twice the speed, with any kind of parallelism."
#
# **Why it fails.** Only tensor parallelism makes a token faster, because each device reads a part
# of every layer. It needs two all-reduces per layer, and their latency does not shrink. With
# pipeline parallelism the devices read the same bytes, one device after the other. Data parallelism
# serves more sequences, each at the same speed.

# %%
quiz.ask("second-gpu")

# %% jupyter={"source_hidden": true} tags=["answer"]
linked = replace(h100, accelerator=replace(device, link_latency_s=6e-6))
pair = specsim.predict(llama_8b, None, replace(linked, tensor_parallel=2), context=1)
reduces = next(term for term in pair.step.terms if term.name == "all-reduce")
napkin = (
    f"**Napkin.** Half the bytes take {ms * step_s / 2:.2f} ms. Two all-reduces in each of "
    f"{llama_8b.num_layers} layers are {reduces.operator.kernels}; at about "
    f"{1e6 * linked.accelerator.link_latency_s:.0f} µs each they take "
    f"{ms * float(reduces.seconds):.2f} ms. The sum is {ms * float(pair.step_s):.2f} ms, "
    f"{step_s / float(pair.step_s):.2f}×. The latency is per pass; speculation makes fewer passes, "
    f"so it saves some of this too."
)
quiz.folded("second-gpu", step_s / float(pair.step_s), napkin)

# %% [markdown]
# ### 5. nvidia-smi shows full utilisation. Is the GPU saturated?
#
# **The trap.** "It is at its limit, so decoding must be compute-bound."
#
# **Why it fails.** The tool reports the share of time in which *some* kernel was running. A kernel
# that waits for memory counts as running.

# %%
quiz.ask("flop-utilisation")

# %% jupyter={"source_hidden": true} tags=["answer"]
utilisation = compute_s / step_s
napkin = (
    f"**Napkin.** The time for the FLOPs of a step, divided by the time of the step: "
    f"{ms * compute_s:.4f} / {ms * step_s:.2f} ms = {100 * utilisation:.2f} %. Ask instead what "
    f"share of the bandwidth it uses: here all of it, by assumption."
)
quiz.folded("flop-utilisation", 100 * utilisation, napkin)

# %% [markdown]
# ### 6. From which batch on are the linear layers compute-bound?
#
# **The trap.** Two or four times the right number, from a datasheet's sparse FLOP/s; or "fp8 halves
# it".
#
# **Why it fails.** The large numbers on datasheets assume 2:4 sparsity, which language models do
# not have. And fp8 halves the bytes *and* doubles the FLOP/s, so the ratio does not change. It
# changes with 4-bit storage and 16-bit arithmetic, where only the bytes become fewer.

# %%
quiz.ask("ridge-batch")

# %% jupyter={"source_hidden": true} tags=["answer"]
rows = {name: float(specsim.system(name, "ideal").ridge_rows) for name in ceilings}
fp8 = float(specsim.system("h100-sxm", "ideal", "fp8").ridge_rows)
four_bit = float(replace(h100, precision=replace(h100.precision, weight_bytes=0.5)).ridge_rows)
achieved = float(specsim.system("h100-sxm", "cuda-graphs").ridge_rows)
listed = ", ".join(f"{name.split('-')[0].upper()} {value:.0f}" for name, value in rows.items())
napkin = (
    "**Napkin.** Reading a weight takes 2 bytes / BW, its arithmetic 2 FLOP × rows / F. They are "
    f"equal at rows = F × bytes / (2 × BW). In bf16: {listed}. On the H100 it is {fp8:.0f} with "
    f"weights and arithmetic in fp8, and {four_bit:.0f} with 4-bit weights. Real kernels reach "
    f"neither peak: with the efficiencies of an engine with CUDA graphs it is {achieved:.0f}."
)
quiz.folded("ridge-batch", rows["h100-sxm"], napkin)

# %%
course.say(
    f"**Takeaway: one sequence uses {100 * utilisation:.1f} % of an H100's FLOP/s and all of its "
    f"bandwidth. Let it read fewer bytes per token, or use each byte for more tokens.**"
)

# %% [markdown]
# ## Batches, caches and prompts
#
# ### 7. Does a large batch make decoding compute-bound?
#
# **The trap.** "Yes: that is what batching is for."
#
# **Why it fails.** It does for the weights, which all sequences share. But sequences do not share
# their caches (except for common prefixes). Attention reads each sequence's own cache, so its FLOP
# per byte depend only on the grouping of the heads, not on the batch. With a long context most of
# the step is attention, which waits for memory.

# %%
quiz.ask("attention-intensity")

# %% jupyter={"source_hidden": true} tags=["answer"]
streamed = 2 * (llama_70b.parameters - llama_70b.embedding_parameters)
kv_per_token = 2 * llama_70b.kv_elements_per_token
users = Workload(batch=64, context=8192)
attention = forward_work(llama_70b, users, h100.precision)["attention"]
per_byte = float(attention.flops / attention.kv_bytes)
napkin = (
    "**Napkin.** A key or value element has two bytes. It is read once and used by "
    f"{llama_70b.num_heads // llama_70b.num_kv_heads} query heads with two FLOPs each: "
    f"{per_byte:.0f} FLOP/byte, and the ridge is {h100.ridge:.0f}. For 64 sequences of 8192 tokens "
    f"the cache has {float(attention.kv_bytes) / GB:.0f} GB, more than the {streamed / GB:.0f} GB "
    "of weights."
)
quiz.folded("attention-intensity", per_byte, napkin)

# %%
batch = 2.0 ** np.arange(9)
figure, axes = figures.subplots()
lines = [figures.Curve("weights", batch, np.full(len(batch), streamed / GB), "weights")]
lines += [
    figures.Curve(f"cache, {context} tokens each", batch, batch * context * kv_per_token / GB, "kv")
    for context in (32768, 8192, 2048)
]
node = 8 * device.memory_bytes / GB
lines += [figures.Curve("memory of eight H100s", batch, np.full(len(batch), node), "plain")]
figures.curves(axes, lines, "batch (sequences)", "bytes read per step (GB)", log_y=True)
figure

# %% [markdown]
# ### 8. How large is the cache?
#
# **The trap.** Counting the query heads, or only the keys, or giving GiB as GB.
#
# **Why it fails.** Grouped-query attention stores only the KV heads. Each token stores a key *and*
# a value in every layer. And bandwidths are decimal, so bytes should be decimal too.

# %%
quiz.ask("kv-size")

# %% jupyter={"source_hidden": true} tags=["answer"]
cache = 2 * llama_70b.num_layers * llama_70b.num_kv_heads * llama_70b.head_dim * 2
napkin = (
    f"**Napkin.** 2 (K and V) × {llama_70b.num_layers} layers × {llama_70b.num_kv_heads} KV heads "
    f"× {llama_70b.head_dim} × 2 bytes = {cache} bytes per token. Times 8192: "
    f"{cache * 8192 / GB:.2f} GB ({cache * 8192 / 2**30:.1f} GiB). 32 sequences of 4096 tokens "
    f"need {cache * 32 * 4096 / GB:.1f} GB. Without grouping it is "
    f"{llama_70b.num_heads // llama_70b.num_kv_heads} times as much."
)
quiz.folded("kv-size", cache * 8192 / GB, napkin)

# %% [markdown]
# ### 9. Why is prefill different?
#
# **The trap.** "It is one decode step per prompt token."
#
# **Why it fails.** The whole prompt is known, so one pass uses each weight for all its tokens. It
# reads the bytes of a single step and does the arithmetic of thousands.

# %%
quiz.ask("prefill")

# %% jupyter={"source_hidden": true} tags=["answer"]
prompt = 4096
wide = [
    t.operator
    for t in step_time(llama_8b, h100, Workload(rows=prompt, context=1)).terms
    if t.operator
]
flops = sum(float(o.flops) for o in wide if o.kind == "linear")
prefill_s = flops / device.rate("bf16")
napkin = (
    f"**Napkin.** 2 × {streamed_8b / 2 / 1e9:.1f}e9 × {prompt} = {flops / 1e15:.4f} PFLOP "
    f"(attention adds a few per cent): {prefill_s:.3f} s at the full dense rate, about "
    f"{prefill_s / 0.6:.3f} s at 60 % of it. Reading the weights would take only {step_s:.4f} s. "
    f"{prompt} decode steps would take {prompt * step_s:.0f} s."
)
quiz.folded("prefill", prefill_s, napkin)

# %% [markdown]
# ### 10. TTFT, TPOT, ITL, goodput: which one does speculation improve?
#
# **The trap.** "Latency", or "the time to the first token".
#
# **Why it fails.** The prefill produces the first token, and the draft must read the prompt too.
# What falls is the mean time per further token. The gaps between tokens become uneven, because the
# tokens of a cycle arrive together.

# %%
quiz.ask("which-latency")

# %% jupyter={"source_hidden": true} tags=["answer"]
numbers = quiz.question("which-latency").worked()
napkin = (
    "**Napkin.** End-to-end time = TTFT + (L − 1) × TPOT. Goodput counts the requests that meet "
    "both limits. On an ideal H200 an 8B model emits the first token of a 4096-token prompt after "
    f"{numbers['ttft_ms']:.0f} ms, or after {numbers['ttft_with_draft_ms']:.0f} ms if a 1B draft "
    f"also reads it. With cycles of 20 ms, α = 0.8 and γ = 5, TPOT is {numbers['tpot_ms']:.2f} ms, "
    f"and {numbers['zero_gap_percent']:.0f} % of the gaps are zero."
)
quiz.folded("which-latency", "c", napkin)

# %%
course.say(
    f"**Takeaway: a batch shares the weights but not the caches. Decode attention does "
    f"{per_byte:.0f} FLOP/byte at any batch; prefill is compute-bound even for a single user.**"
)

# %% [markdown]
# ## Exactness, and tokens per cycle
#
# ### 11. Why is the output still the target's?
#
# **The trap.** "A draft is accepted if the target finds it likely", or "after a rejection, sample
# from the target".
#
# **Why it fails.** The first rule makes the text too predictable. The second ignores the accepted
# drafts. They have already moved the distribution towards the draft's favourites, and the tokens
# drawn after a rejection must move it back.

# %%
quiz.ask("output-distribution")

# %% jupyter={"source_hidden": true} tags=["answer"]
p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
kept, rejected = np.minimum(p, q), 1 - overlap(p, q)
exact, wrong = kept + rejected * residual(p, q), kept + rejected * p
napkin = (
    f"**Napkin.** For each token, accepted drafts give min(p, q) = {kept}, {1 - rejected:.1f} in "
    f"total. What is missing is p − min(p, q) = max(p − q, 0), with total {rejected:.1f}. Draw the "
    f"correction from *that*, normalised, here {residual(p, q)}. Then the sum is {exact}, which is "
    f"p. Drawn from p it is {wrong}, off by {np.abs(wrong - p).sum() / 2:.2f} in total variation."
)
quiz.folded("output-distribution", wrong[0], napkin)

# %% [markdown]
# ### 12. How many tokens does a cycle emit?
#
# **The trap.** γα; or the right sum without its last term.
#
# **Why it fails.** Drafts after a rejection are lost, so the k-th draft counts with αᵏ. And a cycle
# emits one token *more* than it accepts: the correction or the bonus.

# %%
quiz.ask("tokens-per-cycle")

# %% jupyter={"source_hidden": true} tags=["answer"]
alpha, gamma = 0.8, 4
survival = IID(alpha).survival(range(gamma + 1))
tokens = float(IID(alpha).tokens_per_cycle(gamma))
napkin = (
    f"**Napkin.** 1 + {' + '.join(f'{s:.4g}' for s in survival[1:])} = {tokens:.4f}, which is (1 − "
    f"αᵞ⁺¹) / (1 − α). It is not {gamma * alpha:.1f} and not {tokens - 1:.2f}. The largest "
    f"possible number is {gamma + 1}, not {gamma}."
)
quiz.folded("tokens-per-cycle", tokens, napkin)

# %% [markdown]
# ### 13. What is the speedup?
#
# **The trap.** Giving the bound over all γ, 1/(1 − α), as a prediction.
#
# **Why it fails.** The bound needs free drafts and an infinite γ. A real cycle takes γ draft steps
# and a verification.

# %%
quiz.ask("speedup")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.acceptance.leviathan import best_gamma, best_gamma_closed_form, leviathan_speedup

cost = 0.05
napkin = (
    f"**Napkin.** {tokens:.4f} tokens for 1 + {gamma} × {cost} = {1 + gamma * cost:.1f} plain "
    f"steps: {leviathan_speedup(alpha, gamma, cost):.2f}×. The bound is {1 / (1 - alpha):.0f}×. "
    "The formula assumes that a verification takes one step and that nothing else takes time; "
    "both assumptions are optimistic."
)
quiz.folded("speedup", leviathan_speedup(alpha, gamma, cost), napkin)

# %% [markdown]
# ### 14. Which γ is best?
#
# **The trap.** "As large as possible", or "1/(1 − α)".
#
# **Why it fails.** One more draft adds its survival to the tokens and its time c to the cycle. In
# that time the decoder would have emitted c *times the speedup* tokens anyway. So the survival must
# exceed c times the speedup, not only c.

# %%
quiz.ask("best-gamma")

# %%
gammas = np.arange(25)
figure, axes = figures.subplots()
lines = [
    figures.Curve(f"α = {a}, c = {c}", gammas, leviathan_speedup(a, gammas, c))
    for a, c in ((0.8, 0.05), (0.8, 0.2), (0.6, 0.05))
]
figures.curves(
    axes, lines, "γ, tokens drafted per cycle", "speedup (×)", doubling=False, unit_line=True
)
figure

# %% jupyter={"source_hidden": true} tags=["answer"]
speedups = leviathan_speedup(alpha, gammas, cost)
best = int(best_gamma(alpha, cost))
tied = gammas[speedups >= 0.98 * speedups.max()]
napkin = (
    f"**Napkin.** Add a draft while α^(γ+1) > c × S. The {best}th has a survival of "
    f"{IID(alpha).survival(best):.3f} against {cost * speedups[best - 1]:.3f}, the next "
    f"{IID(alpha).survival(best + 1):.3f} against {cost * speedups[best]:.3f}: stop at {best}, "
    f"{speedups[best]:.3f}× (as a real number, {best_gamma_closed_form(alpha, cost):.2f}). The "
    f"curve is flat there: {tied[0]} to {tied[-1]} are within 2 % of it, so take a smaller one."
)
quiz.folded("best-gamma", best, napkin)

# %% [markdown]
# ### 15. The log says that half of the drafts are accepted. What is α?
#
# **The trap.** Reading "acceptance rate" as α.
#
# **Why it fails.** Engines divide accepted by *drafted*, and the drafts after a rejection were
# never judged. Three numbers have this name: α, accepted per drafted, and tokens per cycle.

# %%
quiz.ask("alpha-from-a-log")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.evidence.diagnosis import Counters, diagnose

found = diagnose(Counters(accepted_per_drafted=0.54, gamma=5))
napkin = (
    f"**Napkin.** τ = 1 + 5 × 0.54 = {found.tokens_per_cycle:.2f}; (1 − α⁶) / (1 − α) = τ at "
    f"α = {found.alpha:.3f}. If α were 0.54, a cycle "
    f"would emit {IID(0.54).tokens_per_cycle(5):.1f} tokens."
)
quiz.folded("alpha-from-a-log", found.alpha, napkin)

# %%
course.say(
    "**Takeaway: accepted drafts give min(p, q), corrections give max(p − q, 0), and together "
    f"they are exactly p. Tokens per cycle are 1 + α + … + αᵞ, {tokens:.2f} at α = {alpha}, γ = "
    f"{gamma}. Count the bonus, and ask which of three numbers an acceptance rate is.**"
)

# %% [markdown]
# ## When it pays, and when it hurts
#
# ### 16. When does speculation hurt?
#
# **The trap.** "Never: it is lossless."
#
# **Why it fails.** The *text* loses nothing, but the time can. A verification computes B (γ + 1)
# tokens, and they are free only below the ridge. There are other ways to lose: few accepted drafts,
# a draft that takes nearly as long as a step (launch-bound, or over PCIe), a mixture of experts at
# a small batch, a greedy draft at a high temperature, a target in 4 bits.

# %%
quiz.ask("when-it-hurts")

# %%
from specsim.planning.memory import footprint, largest_batch

toy = quiz.question("when-it-hurts").worked()
served = specsim.system("h100-sxm", engine="cuda-graphs", tensor_parallel=4)
draft = specsim.DraftModel(llama_1b, tensor_parallel=1)
lines, most = [], {}
for context in (1024, 8192):
    most[context] = largest_batch(llama_70b, served, context=context, gamma=12, drafter=draft)
    batch = np.unique(np.geomspace(1, most[context], 16).round())  # up to where the memory is full
    place = {"alpha": 0.75, "batch": batch, "context": context}
    fixed = specsim.predict(llama_70b, draft, served, gamma=4, **place).speedup
    every = specsim.predict(
        llama_70b, draft, served, gamma=range(13), **(place | {"batch": batch[:, None]})
    )
    lines.append(figures.Curve(f"γ = 4, {context} tokens", batch, fixed, "verify"))
    lines.append(figures.Curve(f"best γ, {context} tokens", batch, every.speedup.max(axis=1)))
figure, axes = figures.subplots(height=3.6)
title = "Llama-3-70B on four H100s, a 1B draft, α = 0.75"
figures.curves(axes, lines, "batch (sequences)", "speedup (×)", unit_line=True, title=title)
figure

# %% jupyter={"source_hidden": true} tags=["answer"]
napkin = (
    "**Napkin.** On one device like an H100, without a KV cache, a fixed γ = 4 gains "
    f"{toy['fixed_1']:.3f}× up to batch 32, {toy['fixed_64']:.3f}× at 64, {toy['fixed_128']:.3f}× "
    f"at 128 and {toy['fixed_256']:.3f}× at 256, where the {toy['rows']:.0f} rows are above the "
    f"ridge of {toy['ridge_rows']:.0f}. At batch 1, 32, 64, 128 and 256 the best γ is "
    f"{toy['gamma_1']:.0f}, {toy['gamma_32']:.0f}, {toy['gamma_64']:.0f}, {toy['gamma_128']:.0f} "
    f"and {toy['gamma_256']:.0f}. It gains {toy['best_1']:.2f}, {toy['best_32']:.2f}, "
    f"{toy['best_64']:.2f}, {toy['best_128']:.2f} and {toy['best_256']:.2f}×. (In the figure each "
    f"line ends where the memory of the four devices is full: at batch {most[1024]} with 1024 "
    f"tokens of context, at batch {most[8192]} with 8192.)"
)
quiz.folded("when-it-hurts", toy["fixed_256"], napkin)

# %% [markdown]
# ### 17. Does it change the output?
#
# **The trap.** "No: at temperature zero it is bitwise the same."
#
# **Why it fails.** The distribution is the same, by proof. The bits depend on the order of sums: a
# pass of one token and a pass of γ + 1 positions run different kernels, and in bf16 two nearly
# equal logits can swap. The same happens when the batch changes, so plain decoding does not
# guarantee the bits either.

# %%
quiz.ask("same-output")

# %% jupyter={"source_hidden": true} tags=["answer"]
products = np.float32([1.0, 2.0**-24, 2.0**-24, 2.0**-24])
forwards, backwards = np.float32(0), np.float32(0)
for product in products:
    forwards += product
for product in products[::-1]:
    backwards += product
napkin = (
    "**Napkin.** The sum of the same four fp32 numbers from the left and from the right differs "
    f"by {backwards - forwards:.1e}, and bf16 has sixteen bits less. If two logits differ by less "
    "than the rounding error, the kernel decides the argmax. Test a decoder by its distribution "
    "(enumeration, chi-square), not by a hash of its output."
)
quiz.folded("same-output", "c", napkin)

# %% [markdown]
# ### 18. Does it save FLOPs, or energy?
#
# **The trap.** "The large model only processes a subset of the tokens." Many articles say this. It
# comes from watching a draft write most of the text.
#
# **Why it fails.** The target processes every emitted token, and every rejected draft too. It makes
# *fewer passes over more positions*: more FLOPs, fewer bytes. At a small batch most of the energy
# goes into bytes and idle power, so the energy usually falls too.

# %%
quiz.ask("flops-saved")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.planning import economics

saved = quiz.question("flops-saved").worked()
ratio, plain_gb = saved["ratio"], saved["plain_gb"]
draft_gb = (saved["gb_per_token"] * tokens - plain_gb) / 4
napkin = (
    f"**Napkin.** A cycle computes γ draft tokens, each with ĉ = {ratio:.3f} of the target's "
    f"FLOPs, and verifies γ + 1: (4 × {ratio:.3f} + 5) / {tokens:.4f} = "
    f"{(4 * ratio + 5) / tokens:.2f}× the FLOPs of plain decoding. Bytes: ({plain_gb:.1f} + 4 × "
    f"{draft_gb:.2f}) / {tokens:.4f} = {saved['gb_per_token']:.1f} GB per token, against "
    f"{plain_gb:.1f}. Energy on an ideal B200 with assumed constants "
    f"({1e12 * economics.JOULES_PER_BYTE:.0f} pJ/byte, {1e12 * economics.JOULES_PER_FLOP:.1f} "
    f"pJ/FLOP, {economics.IDLE_POWER_W:.0f} W idle): {saved['plain_j']:.1f} → "
    f"{saved['speculative_j']:.1f} J per token."
)
quiz.folded("flops-saved", (4 * ratio + 5) / tokens, napkin)

# %% [markdown]
# ### 19. Why not a bigger draft?
#
# **The trap.** "The best α wins."
#
# **Why it fails.** A bigger draft is accepted more often, and each of its steps takes longer.
# Compare the best τ / (1 + γc) over γ, and take c as a ratio of *times* wherever passes are short.

# %%
quiz.ask("bigger-draft")

# %% jupyter={"source_hidden": true} tags=["answer"]
sizes = {"1B": llama_1b, "8B": llama_8b}
weights = {
    name: 2 * (m.parameters - (0 if m.tied_head else m.embedding_parameters))
    for name, m in sizes.items()
}
cells = []
for name, accepted in (("1B", (0.70, 0.75)), ("8B", (0.80, 0.85))):
    c = weights[name] / streamed
    gains = [leviathan_speedup(a, best_gamma(a, c), c) for a in accepted]
    listed = " and ".join(f"{g:.2f}× at α = {a:.2f}" for g, a in zip(gains, accepted, strict=True))
    cells.append(f"the {name} (c = {c:.4f}) gains {listed}")
napkin = f"**Napkin,** counting bytes, for the 70B: {'; '.join(cells)}."
quiz.folded("bigger-draft", "b", napkin)

# %% [markdown]
# ### 20. And a mixture of experts?
#
# **The trap.** "It never profits", or "it is like a dense model".
#
# **Why it fails.** A pass reads the experts that its tokens choose. At batch 1 more tokens choose
# more experts, so verification is not free. At a large batch all experts are read anyway, so it is
# free. At an even larger batch it is compute-bound again. Neighbouring tokens choose similar
# experts, which helps.

# %%
quiz.ask("experts")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.architecture import Experts
from specsim.operators import distinct_experts

routed = Experts(count=256, per_token=8, intermediate_size=1)
independent, alike = (
    float(distinct_experts(routed, 1, 4, rho) / routed.per_token) for rho in (0.0, 0.45)
)
moe = quiz.question("experts").worked()
napkin = (
    f"**Napkin.** T tokens touch N (1 − (1 − k/N)ᵀ) experts. For T = 4 that is {independent:.2f} "
    f"times the experts of one token if they choose independently, and {alike:.2f} times with the "
    "correlation of 0.45 that Cohere's numbers imply. To verify 3 drafts, Qwen3-30B-A3B reads "
    f"{moe['bytes_at_1']:.2f} times the bytes of a plain step at batch 1 (independent), "
    f"{moe['bytes_at_8']:.2f} times at batch 8 and {moe['bytes_at_64']:.2f} times at batch 64."
)
quiz.folded("experts", independent, napkin)

# %% [markdown]
# ### 21. And a context of a hundred thousand tokens?
#
# **The trap.** "Long context makes speculation useless", from models that count the cache once per
# drafted token.
#
# **Why it fails.** A fused verification reads each key once for all its tokens. The longer the
# context, the larger the cache's share of a step. So a verification takes about as long as one
# step, even at a large batch. What hurts is the draft's own cache; a draft with a window keeps it
# small.

# %%
quiz.ask("long-context")

# %% jupyter={"source_hidden": true} tags=["answer"]
place = {"gamma": 4, "alpha": 0.8, "batch": 16, "context": 32768}
full_draft = specsim.DraftModel(llama_1b, catch_up="none")
windowed = replace(full_draft, window=512)
full, short = (specsim.predict(llama_8b, d, h200, **place) for d in (full_draft, windowed))
napkin = (
    f"**Napkin.** The cache of 128k tokens of the 70B has {kv_per_token * 2**17 / GB:.2f} GB, so "
    "four such sequences have more than the weights. The 8B at batch 16 and 32k tokens: a step "
    f"takes {ms * float(full.step_s):.1f} ms, a verification {ms * float(full.verify_step_s):.1f} "
    f"ms, a draft step {ms * float(full.draft_step_s):.2f} ms with its full cache and "
    f"{ms * float(short.draft_step_s):.2f} ms with 512 tokens of it. The speedups are "
    f"{float(full.speedup):.2f}× and {float(short.speedup):.2f}×."
)
quiz.folded("long-context", float(full.speedup), napkin)

# %% [markdown]
# ### 22. Quantise, or speculate?
#
# **The trap.** Multiplying the two gains.
#
# **Why it fails.** Quantisation makes the target's step shorter but not the draft's, so c rises.
# And 4-bit storage with 16-bit arithmetic lowers the ridge, so verification stops being free at a
# smaller batch. Quantisation changes the output and helps at every batch. Speculation keeps the
# output and helps at small batches.

# %%
quiz.ask("quantise-or-speculate")

# %% jupyter={"source_hidden": true} tags=["answer"]
fewer = 16 / 4.5
ratios = [weights["1B"] / weights["8B"], weights["1B"] / (weights["8B"] / fewer)]
before, after = (float(leviathan_speedup(0.75, best_gamma(0.75, c), c)) for c in ratios)
napkin = (
    f"**Napkin.** 4.5 bits: {streamed / GB:.1f} → {streamed / fewer / GB:.1f} GB for the 70B, "
    f"{fewer:.2f}× fewer bytes. For an 8B with a bf16 1B draft, c goes from {ratios[0]:.3f} to "
    f"{ratios[1]:.3f}, and the best speedup at α = 0.75 falls from {before:.2f}× to {after:.2f}×. "
    f"Together that is {fewer * after:.2f}×, not {fewer * before:.2f}×."
)
quiz.folded("quantise-or-speculate", fewer * after, napkin)

# %%
course.say(
    f"**Takeaway: speculation spends FLOPs ({(4 * ratio + 5) / tokens:.2f}× as many) to save "
    f"passes. It pays while extra tokens are free, and loses ({toy['fixed_256']:.1f}× at batch "
    "256) if they are not.**"
)

# %% [markdown]
# ## Methods
#
# ### 23. Which drafter?
#
# **The trap.** One answer for all traffic.
#
# **Why it fails.** The text decides what a drafter can guess, and the load decides how many guesses
# are affordable.

# %%
quiz.ask("which-drafter")

# %% jupyter={"source_hidden": true} tags=["answer"]
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
napkin = (
    "**Napkin.** Predicted for an 8B on an H100. A lookup whose copies are accepted with α = 0.9 "
    f"gains {copies[0.1]:.1f}× if it finds a match in 10 % of the cycles (chat), "
    f"{copies[0.4]:.1f}× at 40 % (summaries) and {copies[0.9]:.1f}× at 90 % (edits). An EAGLE-3 "
    f"head at α = 0.7 gains {' and '.join(heads)}."
)
quiz.folded("which-drafter", "b", napkin)

# %% [markdown]
# ### 24. A tree or a chain?
#
# **The trap.** "Trees are always better."
#
# **Why it fails.** They emit more tokens per cycle, about as the logarithm of their nodes. But the
# verification computes every node, and this is free only at a small batch.

# %%
quiz.ask("tree-or-chain")

# %%
from specsim.acceptance.optimal_trees import best_tree

children = (0.6, 0.15, 0.08, 0.05, 0.03)
nodes = np.arange(1, 65)
trees = {
    "best tree": best_tree(children, 64),
    "at most 3 deep": best_tree(children, 64, depth=3),
    "chain": best_tree(children[:1], 64),
}
lines = [figures.Curve(k, nodes, t.tokens_per_cycle_by_nodes, "tokens") for k, t in trees.items()]
figure, axes = figures.subplots()
figures.curves(axes, lines, "nodes, root included", "tokens per cycle")
figure

# %% jupyter={"source_hidden": true} tags=["answer"]
tree, chain = (trees[name].tokens_per_cycle_by_nodes for name in ("best tree", "chain"))
napkin = (
    "**Napkin.** The probability that a node is accepted is the product along its path. The best "
    f"n nodes are those with the n largest products. Eight nodes give {tree[7]:.2f} tokens per "
    f"cycle, a chain of eight {chain[7]:.2f}. Sixty-four nodes give {tree[63]:.2f}, a chain "
    f"{chain[63]:.2f}, because a chain cannot exceed 1/(1 − 0.6) = {1 / (1 - children[0]):.1f}."
)
quiz.folded("tree-or-chain", tree[7], napkin)

# %% [markdown]
# ### 25. Why not draft while the target verifies?
#
# **The trap.** "Just overlap the two; that is free."
#
# **Why it fails.** The next draft continues a text that the verification has not yet decided. One
# can guess the result and draft on (PEARL), or prepare for several results (SSD), on *another*
# device. Then a cycle takes the longer of the two times instead of their sum, but the second device
# has to be counted.

# %%
quiz.ask("draft-in-parallel")

# %% jupyter={"source_hidden": true} tags=["answer"]
parallel = quiz.question("draft-in-parallel").worked()
napkin = (
    f"**Napkin.** At c = 0.2: {tokens:.4f} / (1 + 4 × 0.2) = {tokens / 1.8:.2f}× one after the "
    f"other; at most {tokens:.4f} / max(1, 4 × 0.2) = {parallel['overlapped']:.2f}× if they "
    f"overlap on two devices, which is {parallel['per_device']:.2f}× per device. Overlap improves "
    "latency, not throughput."
)
quiz.folded("draft-in-parallel", parallel["per_device"], napkin)

# %% [markdown]
# ### 26. How does the cache drop a rejected draft?
#
# **The trap.** Slicing tensors to the accepted length.
#
# **Why it fails.** A slice and a later concatenation copy the cache in every cycle, and `[:-n]`
# with `n = 0` keeps nothing at all. No data has to move: entries beyond the length are masked, and
# the next tokens overwrite them.

# %%
quiz.ask("roll-back")

# %% jupyter={"source_hidden": true} tags=["answer"]
cached, rejected_drafts = np.arange(8), 0
kept_by_length = cached[: len(cached) - rejected_drafts]
napkin = (
    f"**Napkin.** Eight cached tokens, none rejected: `[: length]` keeps {len(kept_by_length)}, "
    f"`[:-0]` keeps {len(cached[:-rejected_drafts])}. A recurrent state has no length to set: "
    f"it needs a snapshot for each draft, or it must be computed again."
)
quiz.folded("roll-back", "d", napkin)

# %%
course.say(
    f"**Takeaway: a drafter has a cost and a survival. A tree gains tokens with a wider pass "
    f"({tree[63]:.1f} with 64 nodes), overlap with a second device "
    f"({parallel['per_device']:.2f}× per device). Dropping rejected drafts costs nothing.**"
)

# %% [markdown]
# ## Serving
#
# ### 27. What happens to P99?
#
# **The trap.** Giving the mean.
#
# **Why it fails.** Speculation lowers the mean and makes the longest gaps longer. The tokens of one
# cycle arrive together, and the wait for the next cycle is longer than a plain step. For a short
# answer the number of cycles also varies.

# %%
quiz.ask("percentiles")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.acceptance import latency, per_position

acceptance = IID(0.8)
emitted = float(acceptance.tokens_per_cycle(5))
cycles = latency.cycles_to_emit(64, per_position(acceptance, 5).vector)
p99_s = float(latency.gap_percentile_s(20e-3, emitted, 99))
napkin = (
    f"**Napkin.** τ = {emitted:.3f} at γ = 5, so {100 * latency.zero_gap_share(emitted):.0f} % of "
    f"the gaps are zero, TPOT is 20 ms / τ = {20 / emitted:.2f} ms, and the P99 gap is "
    f"{ms * p99_s:.0f} ms. An answer of 64 tokens takes {cycles.mean:.1f} ± {cycles.sd:.1f} "
    f"cycles, with P95 at {cycles.percentile(95)}."
)
quiz.folded("percentiles", ms * p99_s, napkin)

# %%
figure, axes = figures.subplots(height=2.8)
counts = np.arange(10, 29)
lines = [figures.Curve("64 tokens at α = 0.8, γ = 5", counts, cycles.probability[counts], "cycle")]
figures.curves(axes, lines, "cycles until the answer is complete", "probability", doubling=False)
axes.set_xticks(counts[::3])
figure

# %% [markdown]
# ### 28. How would you benchmark it?
#
# **The trap.** A fast engine with drafts against a slow one without; one prompt; an "acceptance
# rate" without a definition.
#
# **Why it fails.** This compares the engines, or measures one prompt, or an undefined number. Both
# variants need the same engine, sampler and CUDA graphs; prompts of several domains, because
# acceptance differs most between domains; and P50 and P99 over concurrency, in open and in closed
# loop.

# %%
quiz.ask("benchmark")

# %% jupyter={"source_hidden": true} tags=["answer"]
slow = specsim.system("h100-sxm", engine="torch-eager")
fast = specsim.system("h100-sxm", engine="cuda-graphs")
drafter = specsim.DraftModel(llama_1b)
speculative = specsim.predict(llama_8b, drafter, fast, gamma=4, alpha=0.7)
unfair = float(specsim.predict(llama_8b, None, slow).step_s) / float(speculative.cycle_s)
share = weights["8B"] / device.bandwidth_bytes_per_s / float(speculative.step_s)
napkin = (
    "**Napkin.** Predicted for an 8B on an H100 at α = 0.7, γ = 4: "
    f"{float(speculative.speedup):.2f}× against the same engine, and "
    f"{float(speculative.tokens_per_cycle) * unfair:.1f}× against eager PyTorch, most of it from "
    f"CUDA graphs. Publish the baseline's share of its bandwidth: here {100 * share:.0f} %."
)
quiz.folded("benchmark", "c", napkin)

# %% [markdown]
# ### 29. What does a million tokens cost?
#
# **The trap.** Optimising the cost at batch 1.
#
# **Why it fails.** A batch shares the reading of the weights among all its sequences. Speculation
# shares it among a few tokens of one sequence. Use batching for cost, and speculation for the
# latency of a few users. And before you compute the cost, check that the cache fits.

# %%
quiz.ask("dollars")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.planning.economics import dollars_per_million_tokens

unlinked = replace(device, link_latency_s=0.0, link_bytes_per_s=np.inf)  # without all-reduces
engine = replace(h100.engine, weight_efficiency=0.75, kv_efficiency=0.75)
four = replace(h100, accelerator=unlinked, engine=engine, tensor_parallel=4)
single = specsim.predict(llama_70b, None, four, context=1)
many = specsim.predict(llama_70b, None, four, batch=64, context=2048)
rates = [float(single.tokens_per_s), 2.5 * float(single.tokens_per_s), float(many.tokens_per_s)]
prices = [float(dollars_per_million_tokens(4 * 2.5, rate)) for rate in rates]
two = footprint(llama_70b, replace(h100, tensor_parallel=2), batch=64, context=2048)
spare = 2 * two.capacity_bytes - 2 * llama_70b.parameters
napkin = (
    f"**Napkin.** Batch 1: {ms * float(single.step_s):.2f} ms, {rates[0]:.1f} tokens/s, "
    f"{prices[0]:.1f} dollars. With a speedup of 2.5: {prices[1]:.1f}. Batch 64 at 2048 tokens: "
    f"{ms * float(many.step_s):.1f} ms, {rates[2]:.0f} tokens/s, {prices[2]:.2f} dollars. It does "
    f"not fit on two GPUs: {spare / GB:.1f} GB are left after the weights, enough for "
    f"{spare / kv_per_token / 1e3:.1f}k tokens, and 64 × 2048 are {64 * 2048 / 1e3:.0f}k."
)
quiz.folded("dollars", prices[0], napkin)

# %%
changes = {
    "speculation, 2.5×": (2.5, prices[0] / prices[1]),
    "batch 64": (float(single.step_s / many.step_s), prices[0] / prices[2]),
}
figure, axes = figures.subplots(height=2.6)
figures.gains(axes, changes, {"speed of one stream": "speedup", "tokens per dollar": "tokens"})
figure

# %% [markdown]
# ### 30. In eager PyTorch, what does a small draft gain?
#
# **The trap.** "The draft has a twelfth of the parameters, so c is a twelfth."
#
# **Why it fails.** Without CUDA graphs a pass takes a constant time per layer at any width, and
# small drafts have narrow layers, but not few layers. So c is the ratio of the *layers*.

# %%
quiz.ask("eager")

# %% jupyter={"source_hidden": true} tags=["answer"]
qwen_8b, qwen_tiny = specsim.model("qwen3-8b"), specsim.model("qwen3-0.6b")
c = qwen_tiny.num_layers / qwen_8b.num_layers
best = int(best_gamma(0.8, c))
predicted = {
    name: specsim.predict(
        qwen_8b, specsim.DraftModel(qwen_tiny), specsim.system("h100-sxm", name), gamma=4, alpha=0.8
    )
    for name in ("torch-eager", "cuda-graphs")
}
napkin = (
    f"**Napkin.** c = {qwen_tiny.num_layers}/{qwen_8b.num_layers} = {c:.2f}. At α = 0.8, γ = 4: "
    f"{leviathan_speedup(0.8, 4, c):.2f}×; at best {leviathan_speedup(0.8, best, c):.2f}× with "
    f"γ = {best}. In specsim's model a pass in eager mode takes the longer of its launches and its "
    f"work on the device. It predicts {float(predicted['torch-eager'].speedup):.2f}× for an H100, "
    f"and {float(predicted['cuda-graphs'].speedup):.2f}× with both models in CUDA graphs."
)
quiz.folded("eager", leviathan_speedup(0.8, 4, c), napkin)

# %%
course.say(
    f"**Takeaway: batching reduces cost ({prices[0]:.0f} → {prices[2]:.2f} dollars), speculation "
    f"reduces latency, and the engine's overhead decides how much is left of both. Name the "
    f"percentile, the baseline and c.**"
)

# %% [markdown]
# ## Engines
#
# ### 31. How many requests does a paged cache hold?
#
# **The trap.** Memory divided by the longest request.
#
# **Why it fails.** An engine that reserves the longest length leaves most of the reserved memory
# empty. A paged cache gives a request one block of tokens at a time, so the *mean* length decides.
# And the weights lie in the same memory.

# %%
quiz.ask("paged-cache")

# %% jupyter={"source_hidden": true} tags=["answer"]
filled = footprint(llama_8b, h100, batch=1, context=1, usable=0.9)
left = filled.capacity_bytes - float(filled.weight_bytes)
held = {tokens: left / kv_8b / tokens for tokens in (1024, 8192)}
napkin = (
    f"**Napkin.** 90 % of {device.memory_bytes / GB:.0f} GB minus "
    f"{float(filled.weight_bytes) / GB:.1f} GB of stored weights leaves {left / GB:.1f} GB. At "
    f"{kv_8b:,} bytes per token these are {left / kv_8b:,.0f} tokens: {held[1024]:.0f} requests of "
    f"1024 tokens, or {held[8192]:.0f} reservations of 8192."
)
quiz.folded("paged-cache", held[1024], napkin)

# %% [markdown]
# ### 32. What does a long prompt do to the others?
#
# **The trap.** "Nothing, it is one pass."
#
# **Why it fails.** It is one *wide* pass, which waits for arithmetic, and no other user gets a
# token until it ends. Chunked prefill cuts it into passes that also carry the others'
# tokens. Chunks above the ridge cost nothing in all; small chunks read the weights again and again.

# %%
quiz.ask("chunked-prefill")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.planning.prefill import prefill_s

prompt = 8192
read = {chunk: float(prefill_s(llama_8b, h100, prompt=prompt, chunk=chunk)) for chunk in (128, 512)}
read[prompt] = float(prefill_s(llama_8b, h100, prompt=prompt))
others = float(specsim.predict(llama_8b, None, h100, batch=32, context=1024).step_s)
napkin = (
    f"**Napkin.** {prompt} rows × 2 FLOP × {streamed_8b / 2 / 1e9:.1f} billion weights, plus "
    f"attention, take {ms * read[prompt]:.0f} ms at the full rate: {read[prompt] / others:.0f} of "
    f"the others' steps of {ms * others:.1f} ms. In chunks of 512 a pass takes "
    f"{ms * read[512] / (prompt / 512):.1f} ms and the prompt {ms * read[512]:.0f} ms in all; in "
    f"chunks of 128, below the ridge of {h100.ridge_rows:.0f} rows, {ms * read[128]:.0f} ms."
)
quiz.folded("chunked-prefill", ms * read[prompt], napkin)

# %% [markdown]
# ### 33. How many users can be promised a speed?
#
# **The trap.** Tokens per second of one user, divided by the promised speed.
#
# **Why it fails.** Users share the reading of the weights, and do not share their caches. A step
# may take as long as promised: subtract the weights, and divide the rest by one user's cache.

# %%
quiz.ask("users-at-a-speed")

# %% jupyter={"source_hidden": true} tags=["answer"]
promised_s, context = 20e-3, 2048
memory_holds = largest_batch(llama_8b, h100, context=context)
batch = np.arange(1, memory_holds + 1)
each_s = specsim.predict(llama_8b, None, h100, batch=batch, context=context).step_s
users = int(batch[each_s <= promised_s].max())
napkin = (
    f"**Napkin.** In {ms * promised_s:.0f} ms an H100 reads "
    f"{promised_s * device.bandwidth_bytes_per_s / GB:.1f} GB. Without the {streamed_8b / GB:.1f} "
    f"GB of weights, that is enough for {users} caches of {context * kv_8b / GB:.3f} GB. The "
    f"memory would hold {memory_holds}."
)
quiz.folded("users-at-a-speed", users, napkin)

# %% [markdown]
# ### 34. Fewer bits for the weights or for the cache?
#
# **The trap.** "The weights: they are the large part."
#
# **Why it fails.** They are, for few short sequences. All sequences share the weights, and each
# brings its own cache, so at some number of cached tokens the cache is the larger part.

# %%
quiz.ask("cache-or-weights")

# %% jupyter={"source_hidden": true} tags=["answer"]
even = streamed_8b / kv_8b
napkin = (
    f"**Napkin.** {streamed_8b / GB:.2f} GB / {kv_8b:,} bytes per token = {even:,.0f} tokens, "
    f"for example {even / 2048:.0f} sequences of 2048 or {even / 32768:.1f} of 32768. Beyond "
    "that, halving the cache saves more bytes per step. It also doubles the batch that fits."
)
quiz.folded("cache-or-weights", even, napkin)

# %%
course.say(
    f"**Takeaway: the mean length decides how many requests fit ({held[1024]:.0f}, not "
    f"{held[8192]:.0f}), the promised step decides how many may run ({users}), and a prompt is cut "
    "into chunks no smaller than the ridge.**"
)

# %% [markdown]
# ## Experts, few bits, hybrids, trees
#
# ### 35. What does a step of a mixture of experts read?
#
# **The trap.** "Its active parameters."
#
# **Why it fails.** That is right for one token. Each token chooses its own experts, so a batch
# touches more and more of them, until it reads them all.

# %%
quiz.ask("expert-bytes")

# %% jupyter={"source_hidden": true} tags=["answer"]
moe = specsim.model("qwen3-30b-a3b")
touched = {
    size: float(forward_work(moe, Workload(batch=size, context=1), h100.precision).weight_bytes)
    for size in (1, 8, 32, 128)
}
shares = {size: 1 - (1 - moe.experts.per_token / moe.experts.count) ** size for size in touched}
listed = ", ".join(
    f"{size}: {shares[size]:.0%} of the experts, {read / GB:.1f} GB"
    for size, read in touched.items()
)
napkin = (
    f"**Napkin.** T tokens touch 1 − (1 − {moe.experts.per_token}/{moe.experts.count})ᵀ of the "
    f"experts. By batch, with everything that is not an expert: {listed}."
)
quiz.folded("expert-bytes", touched[32] / GB, napkin)

# %% [markdown]
# ### 36. Does speculation help a mixture at batch 1?
#
# **The trap.** "Batch 1 is where speculation helps most."
#
# **Why it fails.** That is so for a dense target. A verification of a mixture has several tokens
# and touches more experts than a step of one token, so its bytes grow. At a medium batch all
# experts are read anyway, and the drafts are free again.

# %%
quiz.ask("experts-and-batch")

# %% jupyter={"source_hidden": true} tags=["answer"]
moe_head = specsim.method("eagle-3", moe)
sizes = np.array([1, 4, 16, 32, 64])
place = {"batch": sizes, "context": 256, "gamma": 3, "alpha": 0.7}
apart = specsim.predict(moe, moe_head, h100, **place)
alike = specsim.predict(moe, moe_head, h100, **place, routing_correlation=0.45)
wider = apart.verify_step_s / apart.step_s
listed = ", ".join(f"{n}: {s:.2f}×" for n, s in zip(sizes, apart.speedup, strict=True))
napkin = (
    f"**Napkin.** A verification of four tokens takes {wider[0]:.2f} steps at batch 1 and "
    f"{wider[-1]:.2f} at batch {sizes[-1]}. With {float(apart.tokens_per_cycle[0]):.2f} tokens per "
    f"cycle the speedups by batch are {listed}. If the tokens of a text route alike (correlation "
    f"0.45, as reported for one model), batch 1 gains {alike.speedup[0]:.2f}×."
)
quiz.folded("experts-and-batch", apart.speedup[0], napkin)

# %%
figure, axes = figures.subplots()
lines = [
    figures.Curve("independent routing", sizes, apart.speedup, "speedup"),
    figures.Curve("correlation 0.45", sizes, alike.speedup, "tokens"),
]
title = "Qwen3-30B-A3B on an ideal H100, γ = 3, α = 0.7"
figures.curves(axes, lines, "batch (sequences)", "speedup (×)", unit_line=True, title=title)
figure

# %% [markdown]
# ### 37. Is a verification still free with 4-bit weights?
#
# **The trap.** "Yes, up to the ridge of the datasheet."
#
# **Why it fails.** The ridge batch is the FLOP/s times the bytes per weight, divided by twice the
# bandwidth. A quarter of the bytes is a quarter of the ridge, if the arithmetic stays in bf16.

# %%
quiz.ask("four-bit-verification")

# %% jupyter={"source_hidden": true} tags=["answer"]
few_bits = replace(h100, precision=replace(h100.precision, weight_bytes=0.5))
steps_taken = {}
for name, machine in (("bf16", h100), ("4 bits", few_bits)):
    one, wide = (
        float(step_time(llama_8b, machine, Workload(batch=32, rows=n, context=1)).total_s)
        for n in (1, 5)
    )
    steps_taken[name] = wide / one
napkin = (
    f"**Napkin.** 32 sequences × 5 rows = 160 rows. The ridge is at {h100.ridge_rows:.0f} rows "
    f"for bf16 and at {few_bits.ridge_rows:.0f} for 4 bits. 160 / {few_bits.ridge_rows:.0f} = "
    f"{160 / few_bits.ridge_rows:.2f} steps, against {steps_taken['bf16']:.2f} in bf16."
)
quiz.folded("four-bit-verification", steps_taken["4 bits"], napkin)

# %% [markdown]
# ### 38. What does a hybrid remember?
#
# **The trap.** "It has no cache", or "it has the cache of a transformer".
#
# **Why it fails.** Its recurrent layers keep a state of a fixed size. Its few attention layers keep
# a cache that grows. For a short text the states are the larger part.

# %%
quiz.ask("hybrid-memory")

# %% jupyter={"source_hidden": true} tags=["answer"]
from specsim.operators import cache_bytes

hybrid = specsim.model("qwen3.5-27b")
states, all_of_it = (
    float(cache_bytes(hybrid, h100.precision, batch=1, slots=tokens)) for tokens in (0, 8192)
)
per_token = (all_of_it - states) / 8192
napkin = (
    f"**Napkin.** 16 layers × 2 × 4 heads × 256 × 2 bytes = {per_token:,.0f} bytes per token. "
    f"8192 tokens take {(all_of_it - states) / 1e6:.1f} MB, the states {states / 1e6:.1f} MB: "
    f"{all_of_it / 1e6:.1f} MB. Below {states / per_token:,.0f} tokens the states are larger."
)
quiz.folded("hybrid-memory", all_of_it / 1e6, napkin)

# %% [markdown]
# ### 39. How does a hybrid drop a rejected draft?
#
# **The trap.** "By a smaller length", as in a transformer (question `26`).
#
# **Why it fails.** A state is a sum over the whole text. It has no entry to ignore. An engine keeps
# the state after every row, or it keeps one and computes the accepted rows again.

# %%
quiz.ask("hybrid-drafts")

# %% jupyter={"source_hidden": true} tags=["answer"]
kept_states = float(cache_bytes(hybrid, h100.precision, batch=16, slots=0, states=5))
napkin = (
    f"**Napkin.** 16 sequences × 5 states × {states / 1e6:.1f} MB = {kept_states / GB:.1f} GB, as "
    f"much cache as {kept_states / per_token:,.0f} tokens. Without drafts it is "
    f"{16 * states / GB:.1f} GB."
)
quiz.folded("hybrid-drafts", kept_states / GB, napkin)

# %% [markdown]
# ### 40. Which tree at which batch?
#
# **The trap.** Taking the tree of the paper, at any batch.
#
# **Why it fails.** Every sequence verifies every node. The rows of a pass are the batch times the
# nodes, and above the ridge a verification takes longer in proportion.

# %%
quiz.ask("tree-and-batch")

# %% jupyter={"source_hidden": true} tags=["answer"]
shapes = {"tree of 64": trees["best tree"], "chain of 8": best_tree(children[:1], 8)}
sizes = np.array([1, 2, 4, 8, 16, 32])
gains = {}
for name, shape in shapes.items():
    one, wide = (
        step_time(llama_8b, h100, Workload(batch=sizes, rows=rows, context=1)).total_s
        for rows in (1, shape.nodes)
    )
    gains[name] = shape.tokens_per_cycle * one / wide
at_8 = {name: float(gain[sizes == 8][0]) for name, gain in gains.items()}
napkin = (
    f"**Napkin.** 8 × 64 = 512 rows, and 512 / {h100.ridge_rows:.0f} = "
    f"{512 / h100.ridge_rows:.2f} steps: {shapes['tree of 64'].tokens_per_cycle:.2f} tokens become "
    f"{at_8['tree of 64']:.2f}×. The chain has 64 rows, which are free: {at_8['chain of 8']:.2f}×."
)
quiz.folded("tree-and-batch", at_8["tree of 64"], napkin)

# %%
figure, axes = figures.subplots()
lines = [
    figures.Curve(name, sizes, gain, concept)
    for (name, gain), concept in zip(gains.items(), ("tokens", "speedup"), strict=True)
]
title = "Llama-3-8B on an ideal H100, free drafts"
figures.curves(axes, lines, "batch (sequences)", "speedup (×)", unit_line=True, title=title)
figure

# %%
course.say(
    f"**Takeaway: count what the wider pass reads. Experts make it {wider[0]:.1f} steps long at "
    f"batch 1, 4-bit weights {steps_taken['4 bits']:.1f} at batch 32, and a tree of 64 nodes "
    f"{512 / h100.ridge_rows:.1f} at batch 8.**"
)

# %% [markdown]
# ## Follow-up questions
#
# After right answers, interviewers ask about averages. Each of these questions catches people who
# know the formulas: text that is hard in stretches, α pooled over cycles, means of speedups, a
# batch that depends on the speed, and greedy drafts for a target that samples.

# %%
for each in quiz.questions(follow_ups=True)[len(quiz.questions()) :]:
    course.say(f"**{each.prompt}** {each.one_line}")

# %%
course.say(
    "**Takeaway: fit α to tokens per cycle, average times and not speeds, and say whether the loop "
    "is open or closed.**"
)

# %% [markdown]
# ## The forty answers, one line each
#
# For the last minutes before the interview.

# %%
lines = [
    f"{n}. *{each.id.replace('-', ' ')}*: {each.one_line}"
    for n, each in enumerate(quiz.questions(), 1)
]
course.say("\n".join(lines))

# %%
course.say(
    "**Takeaway: bytes per pass, FLOPs per pass, tokens per pass. Every answer above is one of "
    "these, or one divided by another.**"
)

# %% [markdown]
# ## The two-minute answer
#
# "Why is decoding slow, and what does speculation do about it?" Say it aloud, with a clock. The
# numbers are those of the questions above.

# %% jupyter={"source_hidden": true} tags=["answer"]
spoken = f"""
To write one token, the model runs one pass, and the pass reads every weight once. An 8B model in
bf16 is {streamed_8b / GB:.0f} GB per token. An H100 reads {device.bandwidth_bytes_per_s / 1e12:.2f}
TB/s, so a token cannot take less than {streamed_8b / device.bandwidth_bytes_per_s * ms:.1f} ms. The
arithmetic of that pass takes {compute_s * ms:.3f} ms. The multipliers wait for memory
{1 - compute_s / step_s:.1%} of the time, so a GPU with twice the FLOP/s changes nothing.

There are three ways out. Read fewer bytes: quantise. Read them faster: more bandwidth, or tensor
parallelism, which splits the bytes among devices. Or use every byte that is read for more tokens.
A batch does that for many users; nobody's token arrives sooner. Speculation does it for one user.

A small draft model guesses γ tokens. The target verifies them all in one pass of γ + 1 rows, which
takes hardly longer than a pass of one row, because it reads the same weights. It accepts each draft
with probability min(1, p/q) and replaces the first rejected one from the residual, so the output
has exactly the target's distribution. With α = {alpha} and γ = {gamma} a cycle emits
{tokens:.2f} tokens. If a draft step takes {cost:.0%} of a target step, that is
{leviathan_speedup(alpha, gamma, cost):.1f} times as fast.

It is not free. The target computes more, not less. The extra rows cost nothing only below the
ridge, about {h100.ridge_rows:.0f} rows on an H100, so the gain shrinks with the batch and can
become a loss: {toy["fixed_256"]:.1f}× at batch 256 in question 16. It
improves the time per token, not the time to the first one. So I would measure the acceptance on our
own prompts, choose γ by the batch, and switch it off where the batch is large.
"""
quiz.Folded(f"Show the answer ({len(spoken.split())} words)", spoken)

# %%
course.say(
    f"**Takeaway: bytes, then the three remedies, then the price: {len(spoken.split())} words are "
    "two minutes at the speed of calm speech.**"
)

# %% [markdown]
# ## A system-design session
#
# **The question.** "Our chat runs Llama-3.3-70B on four H100s with vLLM. At the peak twenty users
# decode at a time, and they say that the text comes too slowly. The GPUs are fully utilised. Should
# we buy GPUs with more FLOP/s? The answers must not change." You have forty-five minutes and a
# whiteboard.
#
# **Ask first.** Which number is too slow: the first token or the ones after it? How long are
# prompts and answers? What would be fast enough? Does "must not change" mean the
# distribution or the bits? Here: the tokens after the first; prompts around `3500` tokens, answers
# around `400`; at most `15` milliseconds per token; the distribution. (These are inputs of the
# cells below; all other numbers follow from them.)

# %%
from specsim import planning, serving
from specsim.planning.ranking import Candidate, rank

chat, crowd, longest, promised_ms = specsim.model("llama-3.3-70b"), 20, 4096, 15
now = specsim.system("h100-sxm", engine="vllm", tensor_parallel=4)
need = footprint(chat, now, batch=crowd, context=longest)
fitting = largest_batch(chat, now, context=longest)
course.say(
    f"**Step 1. Does it fit?** Per device {float(need.weight_bytes) / GB:.1f} GB of weights and "
    f"{float(need.kv_bytes) / GB:.1f} GB of cache for {crowd} users of {longest} tokens, of "
    f"{need.capacity_bytes / GB:.0f} GB. Memory would hold {fitting} users. So memory is not the "
    "problem, and there is room for a draft."
)

# %% [markdown]
# **Step 2. What does a step wait for?** Do the napkin first: bytes per device divided by bandwidth.
# Then ask the model of the engine what is added to it.

# %%
today = specsim.predict(chat, None, now, batch=crowd, context=longest)
alone = specsim.predict(chat, None, now, context=longest)
work = forward_work(chat, Workload(batch=crowd, context=longest), now.precision)
bandwidth = now.accelerator.bandwidth_bytes_per_s
napkin_s = float(work.weight_bytes + work.kv_bytes) / 4 / bandwidth
busy = float(work.flops) / 4 / now.accelerator.rate("bf16") / float(today.step_s)
course.say(
    f"({float(work.weight_bytes) / GB:.0f} + {float(work.kv_bytes) / GB:.0f}) GB / 4 / "
    f"{bandwidth / 1e12:.2f} TB/s = {ms * napkin_s:.1f} ms. With the share of the bandwidth that "
    f"vLLM reaches, all-reduces and the host, a step is predicted to take "
    f"{ms * float(today.step_s):.1f} ms at {crowd} users and {ms * float(alone.step_s):.1f} ms for "
    f"one. The promise of {promised_ms} ms is missed even by an empty server. The arithmetic units "
    f'are busy {busy:.0%} of the time: "fully utilised" only says that a kernel is running.'
)

# %% [markdown]
# **Step 3. Every remedy with its number.** State which of them change the output, and which cost
# hardware.

# %%
faster_math = replace(
    now.accelerator, flops_per_s={k: 2 * v for k, v in now.accelerator.flops_per_s.items()}
)
remedies = {
    "as it is": now,
    "twice the FLOP/s": replace(now, accelerator=faster_math),
    "four H200s": specsim.system("h200-sxm", engine="vllm", tensor_parallel=4),
    "eight H100s (TP 8)": specsim.system("h100-sxm", engine="vllm", tensor_parallel=8),
    "fp8 weights (another output)": specsim.system("h100-sxm", "vllm", "fp8", tensor_parallel=4),
}
each_ms = {
    name: ms * float(specsim.predict(chat, None, machine, batch=crowd, context=longest).step_s)
    for name, machine in remedies.items()
}
head = specsim.method("eagle-3", chat)
drafted = planning.plan(chat, head, now, batches=[crowd], context=longest, alpha=0.7)
each_ms["speculation, α = 0.7"] = ms * float(drafted.token_s[0])
lines = "\n".join(
    f"| {name} | {value:.1f} | {each_ms['as it is'] / value:.2f}× | "
    f"{'yes' if value <= promised_ms else 'no'} |"
    for name, value in each_ms.items()
)
head_line = f"| remedy | ms per token at {crowd} users | gain | within {promised_ms} ms |\n"
course.say(head_line + "|---|---|---|---|\n" + lines)

# %% [markdown]
# So the answer to the question as it was asked is no: more FLOP/s gain nothing. Speculation needs
# no new hardware and does not change the distribution.
#
# **Step 4. Which drafter?** The acceptances are assumed ranges; ask for logs of your own prompts. A
# candidate counts only if it keeps the promise at its *low* acceptance too.

# %%
candidates = [
    Candidate(),
    Candidate(method="eagle-3", drafter=head, alphas=(0.6, 0.7, 0.8)),
    Candidate(method="draft-model", draft=llama_1b.name, drafter=draft, alphas=(0.65, 0.75, 0.85)),
    Candidate(method="n-gram", drafter=specsim.method("n-gram", chat), alphas=(0.6, 0.7, 0.8)),
]
limits = {"tpot": promised_ms}
scenario = {"context": longest, "limits_ms": limits, "price_per_hour": 4 * 2.5}
ranked = rank(chat, now, candidates, users=crowd, **scenario)
lines = "\n".join(
    f"| {each.candidate.name} | {each.gamma} | "
    f"{' to '.join(f'{ms * each.token_s[i]:.1f}' for i in (2, 0))} | "
    f"{each.memory_bytes / GB:.0f} | {each.dollars_per_million:.2f} |"
    for each in ranked
)
course.say(
    "| candidate | γ | ms per token, best to worst α | GB per device | $ per million tokens |\n"
    f"|---|---|---|---|---|\n{lines}\n\nThe first is {ranked[0].candidate.name}: it needs a head "
    "that was trained for this model. The draft model needs no training. The lookup is free, and "
    "its range depends most on the traffic (the share of cycles in which it finds a match is the "
    "catalog's). A GPU-hour is assumed to cost 2.5 dollars."
)

# %% [markdown]
# **Step 5. Which γ?** It depends on the batch, and the batch changes all day.

# %%
sizes = [1, 4, 8, 16, 32, 64]
schedule = planning.plan(chat, head, now, batches=sizes, context=longest, alpha=0.7)
listed = ", ".join(
    f"batch {n}: γ = {g} ({s:.2f}×)"
    for n, g, s in zip(sizes, schedule.gamma, schedule.speedup, strict=True)
)
course.say(f"{listed}. One γ for the peak loses little at night; the other way round loses more.")

# %% [markdown]
# **Step 6. Under load.** A batch in a table is not a server: requests come at random, prompts
# interrupt decoding, and a faster server has a smaller batch. Simulate it, and look at P99.

# %%
site = serving.Server(target=chat, drafter=head, system=now)
lengths = {"prompt": serving.Lengths(3500, 0.3), "output": serving.Lengths(400, 0.5)}
slo = serving.Slo(ttft=1500, tpot=promised_ms)
seconds, served_by = course.effort(240, 60), {}
for rate in (0.5, 1.0):
    load = serving.traffic(rate=rate, requests=round(rate * seconds), **lengths)
    for policy in ("off", "best"):
        served_by[policy, rate] = serving.simulate(site, load, policy=policy, alpha=0.7, slo=slo)
lines = "\n".join(
    f"| {rate} | {'plain' if policy == 'off' else 'speculative'} | {run.summary['batch_mean']:.1f}"
    f" | {run.summary['mean_tpot_ms']:.1f} | {run.summary['p99_tpot_ms']:.1f} | "
    f"{run.summary['mean_ttft_ms']:.0f} | {run.goodput / run.summary['request_throughput']:.0%} |"
    for (policy, rate), run in served_by.items()
)
course.say(
    "| requests/s | decoding | batch | mean TPOT (ms) | P99 TPOT | mean TTFT | good |\n"
    f"|---|---|---|---|---|---|---|\n{lines}"
)

# %% [markdown]
# **Step 7. Before it ships.** Shadow traffic with acceptance by domain; equality of the
# distribution (not of the bits) on a test set; a switch that turns drafts off; alarms on
# tokens per cycle and on P99. Say what you do not know: the acceptance on these prompts, and the
# error of the prediction.

# %%
low, high = (float(edge) for edge in np.ravel(ranked[0].token_s)[[2, 0]])
final = specsim.predict(
    chat, head, now, batch=crowd, context=longest, gamma=ranked[0].gamma, alpha=0.7
)
narrowest, widest = (float(edge) for edge in final.band["speedup"])
course.say(
    f"α from 0.6 to 0.8 moves the time per token from {ms * high:.1f} to {ms * low:.1f} ms. The "
    f"speedup is {float(final.speedup):.2f}×, with a band of {narrowest:.2f} to {widest:.2f} from "
    "the engine's error alone."
)

# %% [markdown]
# **The interviewer goes on.** Answer each before you unfold it.
#
# 1. "And with a hundred users?"
# 2. "And with contexts of `32768` tokens?"
# 3. "Could we also quantise?"
# 4. "What if it were a mixture of experts?"
# 5. "Users complain about the first token now."

# %% jupyter={"source_hidden": true} tags=["answer"]
hundred = rank(chat, now, candidates[:2], users=100, **scenario)
by_name = {each.candidate.name: each for each in hundred}
long_fits = largest_batch(chat, now, context=32768, drafter=head, gamma=4)
few = min(8, long_fits)
long_plain = specsim.predict(chat, None, now, batch=few, context=32768)
long_best = planning.plan(chat, head, now, batches=[few], context=32768, alpha=0.7)
eight_bits = remedies["fp8 weights (another output)"]
both = planning.plan(chat, head, eight_bits, batches=[crowd], context=longest, alpha=0.7)
first = planning.prefill.time_to_first_token(chat, now, prompt=3500)
cached = planning.prefill.time_to_first_token(chat, now, prompt=3500, cached=3000)
follow_ups = f"""
1. {ms * by_name["plain decoding"].token_s[1]:.0f} ms plain and
   {ms * by_name["eagle-3"].token_s[1]:.0f} ms with γ = {by_name["eagle-3"].gamma}: neither keeps
   {promised_ms} ms. Speculation still gains {by_name["eagle-3"].speedups[1]:.2f}×, but now you need
   replicas: {by_name["eagle-3"].dollars_per_million:.2f} dollars per million tokens here.
2. Memory holds {long_fits} users of 32k tokens. At {few} users a step takes
   {ms * float(long_plain.step_s):.1f} ms plain and {ms * float(long_best.token_s[0]):.1f} ms with
   γ = {int(long_best.gamma[0])}: a verification reads each cache once for all rows.
3. fp8 alone gives {each_ms["fp8 weights (another output)"]:.1f} ms, with speculation
   {ms * float(both.token_s[0]):.1f} ms. Together they gain
   {each_ms["as it is"] / (ms * float(both.token_s[0])):.2f}×, and the output is that of the fp8
   model, so it needs an evaluation.
4. Questions 35 and 36: a small batch reads few experts, and a verification more of them
   ({wider[0]:.1f} steps for four tokens at batch 1).
5. Speculation does not help: the first token takes {ms * float(first.total_s):.0f} ms of prefill,
   whatever is drafted. A prefix cache does: with 3000 of 3500 tokens known it takes
   {ms * float(cached.total_s):.0f} ms. Then chunks, then separate prefill devices.
"""
quiz.Folded("Show the answers", follow_ups)

# %%
plain_run, best_run = (served_by[policy, 1.0].summary for policy in ("off", "best"))
course.say(
    f"**Takeaway: clarify, fit, bytes, remedies, drafter, γ, load, risks. More FLOP/s gain "
    f"{each_ms['as it is'] / each_ms['twice the FLOP/s']:.2f}×; speculation takes the mean time "
    f"per token at one request per second from {plain_run['mean_tpot_ms']:.0f} to "
    f"{best_run['mean_tpot_ms']:.0f} ms, on the same GPUs.**"
)

# %% [markdown]
# ## Exercises
#
# **A rehearsal.** Six of the forty questions, chosen at random. Change the seed, answer aloud,
# then type.

# %%
seed = 1
for chosen in np.random.default_rng(seed).choice(40, size=6, replace=False):
    course.say(f"{quiz.questions()[chosen].prompt}")

# %% [markdown]
# **Your own machine.** Replace the accelerator and the model by yours and answer before you run it:
# how many tokens per second are possible in bf16 at batch 1?

# %%
mine, model = specsim.system("rtx-4090", "ideal"), specsim.model("qwen3-8b")
ceiling = quiz.Question(
    f"How many tokens/s can {model.name} reach at most on a {mine.accelerator.name}?",
    answer=lambda: specsim.predict(model, None, mine, context=1).tokens_per_s,
    mistakes={
        "you count the embedding table": lambda: (
            mine.bandwidth_bytes_per_s / (2 * model.parameters)
        ),
        "you count one byte per weight": lambda: mine.bandwidth_bytes_per_s / model.parameters,
    },
    tolerance=0.05,
    unit="tokens/s",
)
quiz.ask(ceiling)

# %% [markdown]
# **A log from work.** An engine at γ = 3 reports a mean acceptance length of `2.4`, bonus included.
# Which α is that? And does a fourth draft pay, if a draft step takes c = `0.1`?

# %%
from specsim.acceptance import alpha_from_tokens_per_cycle

question = quiz.Question(
    "A mean acceptance length of 2.4 at γ = 3, bonus included. What is α?",
    answer=lambda: alpha_from_tokens_per_cycle(2.4, 3),
    mistakes={
        "you take accepted per drafted as α": 1.4 / 3,
        "you divide without subtracting the bonus token": 2.4 / 3,
        "you subtract the bonus token twice": lambda: alpha_from_tokens_per_cycle(1.4, 3),
    },
    tolerance=0.02,
)
quiz.ask(question)

# %%
answer = question.expected
worth = IID(answer).survival(4), 0.1 * leviathan_speedup(answer, 3, 0.1)
course.say(
    f"α = {answer:.3f}; the fourth draft has a survival of {worth[0]:.3f}, and c × S = "
    f"{worth[1]:.3f}: {'it pays' if worth[0] > worth[1] else 'it does not pay'}."
)

# %% [markdown]
# **Sources.** The public sources behind the questions.

# %%
course.say("\n".join(f"- {source}" for source in quiz.cited()))

# %% [markdown]
# ## References
#
# - [How to Scale Your Model](https://jax-ml.github.io/scaling-book/): rooflines of training and
#   inference, with exercises.
# - [Transformer Inference Arithmetic](https://kipp.ly/transformer-inference-arithmetic/): the same
#   counts, by hand.
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.
# - Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling*,
#   [arXiv:2302.01318](https://arxiv.org/abs/2302.01318): the same rule, found independently.
# - Xia et al., *Unlocking Efficiency in Large Language Model Inference*,
#   [arXiv:2401.07851](https://arxiv.org/abs/2401.07851): a survey of drafting and verification.
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*,
#   [arXiv:2309.06180](https://arxiv.org/abs/2309.06180): a cache in blocks.
# - Agrawal et al., *Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve*,
#   [arXiv:2403.02310](https://arxiv.org/abs/2403.02310): prompts in chunks.

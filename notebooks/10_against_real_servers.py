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
# # 10. Against real servers
#
# **Question.** A prediction about serving is worth what a real server says of it. What do two real
# servers say: ours, and vLLM?
#
# **Takes** about two minutes. **Needs** the extra `serve` for the last part, which starts our
# server on this machine; without it the notebook shows the stored results. No download.
#
# Two things are compared. The *same* pair of models runs behind two servers, so that what differs
# is the software. And every speed stands beside its prediction, so that what we do not understand
# can be seen.

# %%
import numpy as np

from specsim import course, figures
from specsim.checks import SpecsimError
from specsim.course import quiz, servers

here = course.here()
course.say(here.sentence)

# %% [markdown]
# ## What was measured
#
# `make bench-servers` does this: our server, `python -m reference serve`, and vLLM's server run on
# one machine, each once plain and once with a draft model. Closed loops of 1, 2, 4 and 8 streams
# ask each in turn for greedy texts: *closed* means that a stream sends its next request when its
# last answer is complete. The decoder itself decodes the same prompts without any server.

# %%
found = servers.measured_servers()
where, kept = found.document["environment"], found.ratios("ours", "decoder")
against = found.ratios("ours", "vLLM")
course.say(f"""
Tokens per second of all streams together, on {where["device"]} with {where["threads"]} threads in
{found.document["dtype"]}:

{found.table()}

HTTP, the client and the event loop share the processors with the decoder. They leave
{kept.min():.0%} to {kept.max():.0%} of its speed. **Our server is
{servers.geometric_mean(against):.1f} times as fast as vLLM here ({against.min():.1f} to
{against.max():.1f}): on so small a model, what an engine does beside the passes decides.** That is
no verdict on vLLM, which is made for large models on GPUs.
""")

# %% [markdown]
# ## What was predicted
#
# Our server is predicted from probes of the machine, in a simulated closed loop. What HTTP and the
# client add to a cycle is timed with a small random pair, which is decoded here and served. No
# constant comes from the loads that are predicted.
#
# vLLM's passes are taken to be those of the probes. What its host does for each step and for each
# sequence is fitted to two of its eight loads: the plain ones with the fewest and the most streams.
# With a draft its host is taken to work as long as for a plain step once more. Tokens per cycle are
# the counted ones: what is tried is the time.

# %%
figure, panels = figures.subplots(2, height=2.9)
for axes, who in zip(panels, ("ours", "vLLM"), strict=True):
    figures.curves(
        axes, found.curves(who), "streams", "tokens per second", title=servers.NAMES[who]
    )
figure

# %%
said = []
for who in ("ours", "vLLM"):
    off, gains = abs(found.errors(who)), (found.speedups(who, "predicted"), found.speedups(who))
    ends = " | ".join(f"{one[k]:.2f} / {other[k]:.2f}" for one, other in [gains] for k in (0, -1))
    said.append(f"| {servers.NAMES[who]} | {np.median(off):.0%} | {off.max():.0%} | {ends} |")
said = "\n".join(said)
course.say(f"""
| | median error | worst | speedup, fewest streams | most streams |
|---|---|---|---|---|
{said}

(Speedups: predicted / measured.) **Plain loads tell what a server's host takes for a plain step.
What it takes only where it speculates is an assumption, until a run with drafts has tried it.**
""")

# %% [markdown]
# ## The same on this machine
#
# `make serve-demo` does all of it for our server: it calibrates, predicts, starts the server,
# measures, and compares. Here is a small version, with two loads.

# %%
# %%measured
from specsim.demo import served

try:
    small = served.compared(
        course.effort((1, 4), (2,)), quick=course.fast(), answer=course.effort(48, 12), rounds=1
    )
    course.say("```\n" + "\n".join(served.table(small.rows, small.gamma)) + "\n```")
except SpecsimError as missing:
    course.say(f"*Not here: {missing}.*")

# %% [markdown]
# **A prediction that was made before the server started stands beside what it did.**

# %% [markdown]
# ## Exercises
#
# `specsim measure-server --url URL` sends a load to any server of the OpenAI protocol, and
# `specsim compare --results FILE` puts the prediction beside it. Whatever the engine is, start with
# two plain loads.

# %%
one, eight, pass_one, pass_eight = 20, 34, 12, 15  # milliseconds
host = quiz.Question(
    f"A server has {one} ms between the tokens of a stream when it serves one stream, and "
    f"{eight} ms when it serves eight. A pass takes {pass_one} ms for one row and {pass_eight} ms "
    "for eight. "
    "How many milliseconds does its host take for each further sequence?",
    answer=((eight - pass_eight) - (one - pass_one)) / 7,
    unit="ms",
    mistakes={
        "you forget that the passes grow, too": (eight - one) / 7,
        "you take the host's time of the whole step with eight": eight - pass_eight,
    },
)
quiz.ask(host)

# %%
chunks = quiz.Question(
    "A server speculates and sends a chunk for each cycle, with 2.5 tokens on average. Its clients "
    "see a gap of 30 ms between two chunks. What is its time per output token?",
    answer=30 / 2.5,
    unit="ms",
    mistakes={
        "you take the gap between chunks for that between tokens": 30,
        "you multiply by the tokens of a chunk": 30 * 2.5,
    },
)
quiz.ask(chunks)

# %% [markdown]
# ## References
#
# - [vLLM: speculative decoding](https://docs.vllm.ai/en/latest/features/spec_decode.html): the
#   counters that an engine reports.
# - [llama.cpp](https://github.com/ggml-org/llama.cpp): the other server.
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.

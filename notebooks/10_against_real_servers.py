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
import json
from pathlib import Path

import numpy as np

import specsim
from specsim import course, figures
from specsim.checks import SpecsimError
from specsim.course import quiz

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
stored = Path(specsim.__file__).parent.parent / "measurements" / "servers-cpu-2core.json"
found = json.loads(stored.read_text(encoding="utf-8"))
gamma, rows = found["gamma"], found["rows"]
of = {(row["who"], row["gamma"], row["streams"]): row for row in rows}
streams = sorted({row["streams"] for row in rows})
names = {"decoder": "the decoder, no server", "ours": "our server", "vLLM": "vLLM"}
lines = []
for who, name in names.items():
    for drafted in (0, gamma):
        cells = [of[who, drafted, count]["tokens_per_s"] for count in streams]
        kind = f"γ = {drafted}" if drafted else "plain"
        lines.append(f"| {name}, {kind} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


def ratios(one: str, other: str) -> np.ndarray:
    """Speed of one over the other, of every load."""
    return np.array(
        [
            of[one, drafted, count]["tokens_per_s"] / of[other, drafted, count]["tokens_per_s"]
            for drafted in (0, gamma)
            for count in streams
        ]
    )


def mean(values: np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(values).mean()))


table, against = "\n".join(lines), ratios("ours", "vLLM")
course.say(f"""
Tokens per second of all streams together, on {found["environment"]["device"]} with
{found["environment"]["threads"]} threads in {found["dtype"]}:

| streams | {" | ".join(map(str, streams))} |
|---|{"---|" * len(streams)}
{table}

HTTP, the client and the event loop share the processors with the decoder. They leave
{ratios("ours", "decoder").min():.0%} to {ratios("ours", "decoder").max():.0%} of its speed.
**Our server is {mean(against):.1f} times as fast as vLLM here ({against.min():.1f} to
{against.max():.1f}): on so small a model, what an engine does beside the passes decides.** That is
no verdict on vLLM, which is made for large models on GPUs.
""")

# %% [markdown]
# ## What was predicted
#
# Our server is predicted from probes of the machine: their passes, in a simulated closed loop. No
# constant comes from a server. vLLM's passes are taken to be those of the probes, too. What its
# host does for each step and for each sequence is fitted to two of its eight loads: the plain ones
# with the fewest and the most streams. With that, its speculation is predicted. Tokens per cycle
# are the counted ones: what is tried is the time.

# %%
figure, panels = figures.subplots(2, height=2.9)
for axes, (who, title) in zip(panels, list(names.items())[1:], strict=True):
    curves = [
        figures.Curve(
            f"γ = {drafted}" if drafted else "plain",
            streams,
            [of[who, drafted, count]["predicted"] for count in streams],
            concept,
            measured=[
                (n, *(of[who, drafted, n][key] for key in ("tokens_per_s", "low", "high")))
                for n in streams
            ],
        )
        for drafted, concept in ((0, "plain"), (gamma, "speedup"))
    ]
    figures.curves(axes, curves, "streams", "tokens per second", title=title)
figure

# %%
errors, gains = {}, {}
for who in ("ours", "vLLM"):
    mine = [row for row in rows if row["who"] == who]
    errors[who] = np.array([row["predicted"] / row["tokens_per_s"] - 1 for row in mine])
    gains[who] = {
        count: tuple(
            of[who, gamma, count][key] / of[who, 0, count][key]
            for key in ("predicted", "tokens_per_s")
        )
        for count in (streams[0], streams[-1])
    }
said = "\n".join(
    f"| {names[who]} | {np.median(abs(errors[who])):.0%} | {abs(errors[who]).max():.0%} | "
    + " | ".join(f"{one:.2f} / {other:.2f}" for one, other in gains[who].values())
    + " |"
    for who in errors
)
course.say(f"""
| | median error | worst | speedup with {streams[0]} stream | with {streams[-1]} streams |
|---|---|---|---|---|
{said}

(Speedups: predicted / measured.) **Two plain loads of a server are enough to know what its host
takes. What it does only where it speculates stays unknown until it is measured.**
""")

# %% [markdown]
# ## The same on this machine
#
# `make serve-demo` does all of it for our server: it calibrates, predicts, starts the server,
# measures, and compares. Here is a small version, with two loads.

# %%
if here.torch:
    from specsim.demo import served

    try:
        small = served.compared(streams=(1, 4), quick=course.fast(), answer=48, rounds=1)
        course.say("```\n" + "\n".join(served.table(small.rows, small.gamma)) + "\n```")
    except SpecsimError as missing:
        course.say(f"*Not here: {missing}.*")

# %% [markdown]
# ## Your own server
#
# `specsim measure-server --url URL` sends a load to any server of the OpenAI protocol, and
# `specsim compare --results FILE` puts the prediction beside it. Whatever the engine is, start with
# two plain loads: they tell what its host takes.
#
# A server has 20 ms between the tokens of a stream when it serves one, and 34 ms when it serves
# eight. A pass takes 12 ms for one row, and 15 ms for eight.

# %%
host = quiz.Question(
    "How many milliseconds does its host take for each further sequence?",
    answer=((34 - 15) - (20 - 12)) / 7,
    unit="ms",
    mistakes={
        "you forget that the passes grow, too": (34 - 20) / 7,
        "you take the host's time of the whole step with eight": 34 - 15,
    },
)
quiz.ask(host)

# %% [markdown]
# ## References
#
# - [vLLM: speculative decoding](https://docs.vllm.ai/en/latest/features/spec_decode.html): the
#   counters that an engine reports.
# - [llama.cpp](https://github.com/ggml-org/llama.cpp): the other server.
# - Leviathan, Kalman and Matias, *Fast Inference from Transformers via Speculative Decoding*,
#   [arXiv:2211.17192](https://arxiv.org/abs/2211.17192): the rule, the speedup formula, the best γ.

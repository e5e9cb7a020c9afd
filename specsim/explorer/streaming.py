"""Tokens as they would come, plain decoding above speculation, at the predicted speed.

An animation of style sheets alone: every token knows when it appears. The tokens of a cycle appear
together, as many as are accepted by chance, with the prediction's own probabilities.
"""

import html
from dataclasses import dataclass

import numpy as np

from specsim.checks import Floats
from specsim.drafting import StaticTree
from specsim.explorer.scenarios import PredictedScenario
from specsim.explorer.sentences import milliseconds

WORDS = (
    "A large model reads all of its weights for every token that it writes . A small one guesses "
    "a few tokens ahead , and the large one checks them all in one pass . Where the guesses are "
    "right several tokens come at once ; where one is wrong the large model has its own token "
    "instead , so nothing that is written changes but the time it takes ."
)
TEXT = WORDS.split()
LONGEST_S = 8.0  # of an animation; a slower scenario is shown in fast motion
SHORTEST_S = 2.5  # a faster one in slow motion


@dataclass(frozen=True, slots=True)
class Stream:
    """When each token appears, in predicted seconds, and how many its cycle emits (0: it is not the
    first of its cycle)."""

    seconds: Floats
    emitted: list[int]


def plain(shown: PredictedScenario) -> Stream:
    """One token in every step."""
    count = len(TEXT)
    return Stream(np.arange(1.0, count + 1.0, dtype=np.float64) * shown.of("step_s"), [1] * count)


def speculative(shown: PredictedScenario, seed: int = 0) -> Stream:
    """Cycles with accepted tokens drawn from the survival of the scenario's acceptance."""
    chance = np.random.default_rng(seed)
    survival = survival_of(shown)
    seconds: list[float] = []
    emitted: list[int] = []
    cycles = 0
    while len(seconds) < len(TEXT):
        cycles += 1
        # P(at least k accepted) = survival[k - 1]: a uniform number below it
        tokens = 1 + int(np.sum(chance.random() < survival))
        tokens = min(tokens, len(TEXT) - len(seconds))
        seconds += [cycles * shown.of("cycle_s")] * tokens
        emitted += [tokens] + [0] * (tokens - 1)
    return Stream(np.array(seconds, dtype=np.float64), emitted)


def survival_of(shown: PredictedScenario) -> Floats:
    """P(at least k drafts accepted) for k = 1 .. gamma (or levels of a tree), whose sum and one is
    the prediction's tokens per cycle: the differences of tokens per cycle along gamma."""
    tokens = np.ravel(np.broadcast_to(shown.over.tokens_per_cycle, shown.over.speedup.shape))
    if isinstance(shown.drafter, StaticTree):
        more = shown.of("tokens_per_cycle") - 1.0
        whole = int(more)
        return np.array([1.0] * whole + ([more - whole] if more > whole else []))
    return np.clip(np.diff(tokens[: shown.at + 1]), 0.0, 1.0)


def as_html(shown: PredictedScenario, seed: int = 0) -> str:
    """Both streams, one above the other, and a sentence with the scale of time."""
    streams = {"plain": plain(shown)}
    if shown.drafter is not None and shown.gamma > 0:
        streams[f"γ = {shown.gamma}"] = speculative(shown, seed)
    longest = max(float(each.seconds[-1]) for each in streams.values())
    slower = min(max(longest, SHORTEST_S), LONGEST_S) / longest
    lines = "".join(_line(name, each, slower) for name, each in streams.items())
    ends = ", ".join(f"{name} {milliseconds(each.seconds[-1])}" for name, each in streams.items())
    words = f"{len(TEXT)} tokens: {ends}. Shown {pace(slower)}."
    return (
        f'<div class="specsim-stream">{lines}<p role="status" class="specsim-note">'
        f"{html.escape(words)} Shaded: tokens that one cycle emits together.</p></div>"
    )


def pace(slower: float) -> str:
    """Slow or fast motion, in words."""
    if 0.95 < slower < 1.05:
        return "at its own speed"
    return f"{slower:.3g} times slower" if slower > 1 else f"{1 / slower:.3g} times faster"


def _line(name: str, stream: Stream, slower: float) -> str:
    spans, open_, at = [], False, 0
    for at, word in enumerate(TEXT):
        if stream.emitted[at]:
            spans.append(f"{'</span>' if open_ else ''}<span>")
            open_ = True
        delay = float(stream.seconds[at]) * slower
        spans.append(f'<i style="animation-delay:{delay:.3f}s">{html.escape(word)} </i>')
    return f"<p><b>{html.escape(name)}</b> {''.join(spans)}</span></p>"

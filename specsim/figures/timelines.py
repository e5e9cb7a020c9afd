"""A served run over time: how many requests decode or wait, and what a long prompt does to the
tokens of others."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from specsim.checks import ArrayLike, Floats
from specsim.figures.style import COLOURS, DASHES, by_decades, shades, styled
from specsim.serving import Served

POINTS = 600  # along the time axis


def in_flight(run: Served, times: Floats) -> tuple[Floats, Floats]:
    """Requests that wait for their first token, and those that decode, at each of the times.

    A request that was preempted counts as one that decodes.
    """
    sent, first, end = (
        np.sort(at[~run.loop.refused]) for at in (run.loop.sent_s, run.loop.first_s, run.loop.end_s)
    )
    came, began, left = (np.searchsorted(at, times, "right") for at in (sent, first, end))
    return (came - began).astype(float), (began - left).astype(float)


@styled
def requests_over_time(
    axes: Axes, run: Served, *, until: float | None = None, title: str = ""
) -> None:
    """Draw the requests in flight of a run, those that decode below those that wait.

    `until` is the last second shown (the end of the run). A line shows the most that the server
    takes at a time, where that is reached.
    """
    last = float(np.nanmax(run.loop.end_s)) if until is None else until
    times = np.linspace(0.0, last, POINTS)
    waiting, decoding = in_flight(run, times)
    axes.fill_between(
        times, 0.0, decoding, step="post", color=COLOURS["verify"], linewidth=0, label="decode"
    )
    axes.fill_between(
        times, decoding, decoding + waiting, step="post", color=COLOURS["draft"], linewidth=0,
        label="wait for the first token",
    )  # fmt: skip
    most = run.loop.server.max_seqs
    if decoding.max() >= 0.9 * most:
        axes.axhline(
            most, color=COLOURS["plain"], linewidth=1.0, label=f"{most} place{'s' * (most != 1)}"
        )
    axes.set_xlim(0.0, last)
    axes.set_ylim(0.0, 1.5 * max(float((decoding + waiting).max()), 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("time (s)")
    axes.set_ylabel("in flight (requests)")
    axes.set_title(title)
    axes.legend(loc="upper left")


@styled
def token_gaps(
    axes: Axes, streams: Mapping[str, tuple[ArrayLike, ArrayLike]], *, title: str = ""
) -> None:
    """Draw the gaps between the chunks of one stream, one line for each way to serve it.

    `streams` holds, by label, when the chunks came, in seconds, and the seconds since the chunk
    before: a gap is drawn as long as it lasts.
    """
    colours = shades("cycle", len(streams))
    for number, (label, (times, gaps)) in enumerate(streams.items()):
        milliseconds = 1e3 * np.asarray(gaps, float)
        axes.plot(
            times, milliseconds, color=colours[number], linestyle=DASHES[number % len(DASHES)],
            label=label, drawstyle="steps-pre",
        )  # fmt: skip
        worst = int(milliseconds.argmax())
        axes.plot(np.asarray(times, float)[worst], milliseconds[worst], ".", color=colours[number])
    axes.set_yscale("log")
    by_decades(axes.yaxis)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("gap before the next tokens (ms)")
    axes.set_title(title)
    axes.legend()

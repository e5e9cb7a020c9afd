"""Drafted tokens one cycle at a time: accepted, rejected, not judged, and what the target added."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from specsim.figures.style import COLOURS, styled

# what happened to a token -> the concept whose colour it gets, and the opacity
FATES = {
    "accepted": ("tokens", 0.85),
    "rejected": ("draft", 0.75),
    "not judged": ("overhead", 0.2),
    "corrected": ("verify", 0.85),
    "bonus": ("speedup", 0.85),
}
BOX = 0.42  # of a row's height: the drafts are above, the target's token below
LONGEST = 11  # characters of a token that are shown
SIGNS = str.maketrans({" ": "·", "\n": "↵", "\t": "→", "\r": "↵"})


@dataclass(frozen=True, slots=True)
class DraftedCycle:
    """The drafts of a cycle as text, how many were accepted, and the token after them."""

    drafted: Sequence[str]
    accepted: int
    following: str

    @property
    def fates(self) -> list[str]:
        """What happened to each draft, then what the token after them is."""
        after = len(self.drafted) - self.accepted
        judged = ["accepted"] * self.accepted + ["rejected"] * min(after, 1)
        return [
            *judged,
            *["not judged"] * max(after - 1, 0),
            "corrected" if after else "bonus",
        ]


@styled
def drafted_cycles(axes: Axes, cycles: Sequence[DraftedCycle], title: str = "") -> None:
    """A row for each cycle: the drafts above, the one token that the target added below, at its
    position in the text. A token that is struck out is not in the text."""
    gamma = max(len(cycle.drafted) for cycle in cycles)
    for row, cycle in enumerate(cycles):
        *fates, last = cycle.fates
        for place, (text, fate) in enumerate(zip(cycle.drafted, fates, strict=True)):
            _box(axes, place, row - BOX, text, fate)
        _box(axes, cycle.accepted, row, cycle.following, last)
    axes.set_xlim(-0.52, gamma + 0.52)
    axes.set_ylim(len(cycles) - 0.45, -0.55)
    axes.set_xticks(range(gamma + 1))
    axes.set_xticklabels([str(place + 1) for place in range(gamma + 1)])
    axes.set_yticks(range(len(cycles)))
    axes.set_yticklabels(
        [f"cycle {n}\n+{cycle.accepted + 1}" for n, cycle in enumerate(cycles, start=1)]
    )
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("position after the last emitted token (tokens)")
    seen = {fate for cycle in cycles for fate in cycle.fates}
    handles = [
        Patch(facecolor=COLOURS[concept], alpha=shade, label=fate)
        for fate, (concept, shade) in FATES.items()
        if fate in seen
    ]
    axes.set_title(title, pad=26 if title else None)
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.16, 1.0), ncols=5,
        columnspacing=0.9, handlelength=1.0, handletextpad=0.4, borderaxespad=0.2,
    )  # fmt: skip


def _box(axes: Axes, place: float, top: float, text: str, fate: str) -> None:
    concept, shade = FATES[fate]
    kept = fate not in ("rejected", "not judged")
    axes.add_patch(
        Rectangle((place - 0.48, top), 0.96, BOX, facecolor=COLOURS[concept], alpha=shade)
    )
    middle = top + BOX / 2
    axes.text(
        place, middle, shown(text), ha="center", va="center", fontsize=8.6, family="monospace",
        color="white" if kept else "black", fontweight="bold" if kept else "normal",
    )  # fmt: skip
    if not kept:
        axes.plot([place - 0.42, place + 0.42], [middle, middle], color="black", linewidth=0.8)


def shown(text: str) -> str:
    """A token as it is drawn: spaces and line ends as symbols, the middle of a long token left out,
    and dollar signs escaped, so that matplotlib does not read a formula."""
    text = text.translate(SIGNS)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 4]}…{text[-3:]}"
    return text.replace("$", r"\$")

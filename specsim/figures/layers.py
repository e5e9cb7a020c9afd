"""One layer of a transformer as boxes, each with its shape and its number of weights."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from specsim.architecture import Architecture
from specsim.checks import SpecsimError, one_count
from specsim.figures.style import COLOURS, styled

WIDE = 10.0  # of the drawing, in its own units
BOX, GAP = 0.62, 0.38  # heights of a box and of the arrow to the next row


class LayerBox(NamedTuple):
    """A box: what it is, its shape, its numbers (weights, or numbers of the cache), its colour."""

    name: str
    shape: tuple[int, ...]
    numbers: int
    concept: str


def layer_boxes(model: Architecture, context: int) -> list[list[LayerBox]]:
    """The boxes of one layer, row by row in the order of computation.

    Raises SpecsimError for a model whose layers are not a plain attention and a gated MLP.
    """
    if model.layers or model.experts or model.latent or not model.gated_mlp:
        raise SpecsimError(
            f"the picture of a layer needs plain attention and a gated MLP, which {model.name} "
            "does not have in every layer; try llama-3.1-8b or qwen3-8b"
        )
    width, inner = model.hidden_size, model.intermediate_size
    queries = model.num_heads * model.head_dim
    keys = model.num_kv_heads * model.head_dim

    def matrix(name: str, *shape: int) -> LayerBox:
        return LayerBox(name, shape, shape[0] * shape[1], "weights")

    def cached(name: str) -> LayerBox:
        shape = (context, model.num_kv_heads, model.head_dim)
        return LayerBox(name, shape, context * keys, "kv")

    return [
        [matrix("Q", width, queries), matrix("K", width, keys), matrix("V", width, keys)],
        [cached("cached keys"), cached("cached values")],
        [matrix("output", queries, width)],
        [matrix("gate", width, inner), matrix("up", width, inner)],
        [matrix("down", inner, width)],
    ]


@styled
def layer_shapes(
    axes: Axes, model: Architecture, *, rows: int = 1, context: int = 2048, title: str = ""
) -> None:
    """Draw one layer of `model` as `rows` tokens pass it, after `context` tokens of one sequence.

    A box is a matrix of weights or a part of the KV cache, with its shape and its size in millions
    of numbers. The vectors between the boxes stand at the arrows.
    """
    rows = one_count("rows", rows, low=1)
    boxes = layer_boxes(model, one_count("context", context, low=1))
    width, heads = model.hidden_size, f"{model.num_heads} heads of {model.head_dim}"
    between = [
        f"x ({rows} × {width})",
        f"queries ({rows} × {heads})",
        f"mixed values ({rows} × {heads})",
        f"+ x ({rows} × {width})",
        f"silu(gate) · up ({rows} × {model.intermediate_size})",
        f"+ x ({rows} × {width}), to the next layer",
    ]
    for row, line in enumerate(boxes):
        top = row * (BOX + GAP)
        _arrow(axes, top - GAP, between[row])
        share = WIDE / len(line)
        for place, box in enumerate(line):
            _box(axes, place * share, top, share, box)
    _arrow(axes, len(boxes) * (BOX + GAP) - GAP, between[-1])
    axes.set_xlim(-0.1, WIDE + 0.1)
    axes.set_ylim(len(boxes) * (BOX + GAP) + 0.03, -GAP - 0.03)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(f"one of {model.num_layers} layers (M: millions of numbers)")
    axes.set_title(title)


def _box(axes: Axes, left: float, top: float, share: float, box: LayerBox) -> None:
    axes.add_patch(
        Rectangle(
            (left + 0.06, top),
            share - 0.12,
            BOX,
            facecolor=COLOURS[box.concept],
            alpha=0.45,
            edgecolor=COLOURS[box.concept],
        )
    )
    shape = " × ".join(map(str, box.shape))
    text = f"{box.name}: {box.numbers / 1e6:.1f} M\n{shape}"
    axes.text(left + share / 2, top + BOX / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, top: float, text: str) -> None:
    axes.annotate(
        "", (WIDE / 2, top + GAP), (WIDE / 2, top),
        arrowprops={"arrowstyle": "->", "color": COLOURS["plain"]},
    )  # fmt: skip
    axes.text(WIDE / 2 + 0.2, top + GAP / 2, text, va="center", fontsize=9)

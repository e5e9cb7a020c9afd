"""Run by `test_fused` in a process of its own: Triton's interpreter has to be asked for before
Triton is imported. Compares passes of fused layers with ordinary ones, in fp32 on the CPU."""

import itertools
import os
import sys
from pathlib import Path
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from conftest import tiny_model  # noqa: E402

from reference import ConfidenceTree, StaticTree, fused, speculate  # noqa: E402
from reference.trees import Tree, branches  # noqa: E402

LENGTHS = [70, 3, 131]  # so many tokens of each sequence are in the cache
SHAPES = [  # heads, key-value heads, head size, hidden size, MLP width, QK-norm
    (4, 4, 16, 64, 96, False),
    (4, 2, 16, 40, 52, True),
    (8, 2, 32, 128, 200, False),
]
SMALL = {  # of a program several turn, and the last block is not full
    ("qkv", True): fused.Tiles(4, 32, 1),
    ("output", True): fused.Tiles(2, 64, 4),
    ("gate_up", True): fused.Tiles(4, 32, 1),
    ("down", True): fused.Tiles(8, 32, 4),
    ("qkv", False): fused.Tiles(16, 64, 2, 2),
    ("output", False): fused.Tiles(16, 32, 2, 1),
    ("gate_up", False): fused.Tiles(16, 64, 4, 3),
    ("down", False): fused.Tiles(32, 64, 2, 1),
}


SMALL_TREE, LARGE_TREE = Tree.branching((4, 3, 1)), Tree.branching((20, 3))


def anything_fits(layers, view) -> str:
    return fused.in_use if view.bias is None else ""


@torch.inference_mode()
def worst(model, batch: int, tokens: int, what: str, tree: Tree | None = None) -> float:
    """The largest difference, of hidden states and of what is cached, to `what` is fused, of a
    chain or of the last nodes of a `tree`."""
    generator = torch.Generator().manual_seed(batch * 10 + tokens)
    lengths = torch.tensor(LENGTHS[:batch]) if batch > 1 or not tree else torch.tensor([0])
    found, kept = [], None
    text = torch.randint(0, 61, (batch, tokens), generator=generator)
    positions = lengths[:, None] + torch.arange(tokens)
    if tree:
        layout, nodes = tree.layout(batch), torch.arange(tree.nodes + 1)[-tokens:]
        positions = lengths[:, None] + layout.depths[:, -tokens:]
        kept = branches(layout.ancestors[:, -tokens:], nodes, lengths)
    for used in ("", what):
        cache = model.new_cache(batch, 256, tokens)
        cache.fill_with_noise(256)
        with mock.patch.object(fused, "fitting", anything_fits), fused.fusing(used):
            hidden = model.hidden(text, positions, cache, 256, kept)
        found.append((hidden, *cache.keys, *cache.values))
    return max((one - other).abs().max().item() for one, other in zip(*found, strict=True))


def main() -> None:
    for tiles, shape in itertools.product((fused.TILES, SMALL), SHAPES):
        heads, kv_heads, size, hidden, width, qk_norm = shape
        model = tiny_model(
            1, dtype=torch.float32, max_context=256, num_heads=heads, num_kv_heads=kv_heads,
            head_dim=size, hidden_size=hidden, intermediate_size=width, qk_norm=qk_norm,
        )  # fmt: skip
        with mock.patch.object(fused, "TILES", tiles):
            passes = ((1, 1), (3, 1), (1, 4), (3, 5)) if tiles is SMALL else ((1, 1), (3, 5))
            for (batch, tokens), what in itertools.product(passes, (fused.LAYERS, fused.BETWEEN)):
                compare(shape, what, model, batch, tokens)
            if tiles is SMALL:
                for queries, batch in ((128, 1), (16, 3)):  # in one block, and in several
                    with mock.patch.object(fused, "QUERIES_OF_A_BLOCK", queries):
                        compare(shape, fused.LAYERS, model, batch, 16 // batch, SMALL_TREE)
                        compare(shape, fused.BETWEEN, model, batch, 20)
    compare(shape, fused.BETWEEN, model, 1, 81, LARGE_TREE)  # whose marks fill two words
    for drafter in (StaticTree(model, SMALL_TREE), ConfidenceTree(model, 7, 3, width=3)):
        texts = []
        for used in ("", fused.BETWEEN):
            with mock.patch.object(fused, "fitting", anything_fits), fused.fusing(used):
                run = speculate(model, drafter, [[5, 6, 7], [9]], 6, mode="eager")
                texts.append((run.tokens, run.statistics.accepted_counts))
        assert texts[0] == texts[1], texts
        print(f"texts agree: {type(drafter).__name__}")


def compare(shape, what: str, model, batch: int, tokens: int, tree: Tree | None = None) -> None:
    error = worst(model, batch, tokens, what, tree)
    name = f"{shape}, {batch} x {tokens}, {what}, {'tree' if tree else 'chain'}"
    assert 0 < error < 2e-5, (name, error)
    print(f"passes agree within {error:.1e}: {name}")


if __name__ == "__main__":
    main()

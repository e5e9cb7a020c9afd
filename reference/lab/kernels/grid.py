"""What is probed on a GPU."""

from dataclasses import dataclass
from typing import NamedTuple

KV_HEADS, GROUPS, HEAD_SIZE = 4, 5, 128  # of the attention that is probed


class RandomPair(NamedTuple):
    """(hidden size, layers) of a random target and of its draft, and their vocabulary; whether they
    normalise their heads."""

    target: tuple[int, int]
    draft: tuple[int, int]
    vocab_size: int
    head_norms: bool = False
    head_size: int = HEAD_SIZE


class Cycles(NamedTuple):
    """What each pair decodes: so many sequences after a prompt of so many tokens, with each of the
    gammas. `lookup`: drafts are copied from the text, and only finding them is timed. `eagerly`:
    in the mode "eager" too, where a cycle takes ten times as long."""

    batch: int
    prompt: int
    gammas: tuple[int, ...]
    greedy: bool = False
    lookup: bool = False
    eagerly: bool = True


@dataclass(frozen=True, slots=True)
class Grid:
    """What is probed.

    `matrices` are (inputs, outputs), `packed` those in int4. Each of the `pairs` runs the `cycles`.
    `streams` are KV caches of one key-value head, `widths` rows, and `small_heads`
    the same for heads of half the size.
    """

    matrices: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    streams: tuple[int, ...]
    contexts: tuple[int, ...]
    widths: tuple[int, ...]
    small_heads: tuple[int, ...]
    packed: tuple[tuple[int, int], ...]
    packed_rows: tuple[int, ...]
    read_bytes: tuple[int, ...]
    pairs: tuple[RandomPair, ...]
    cycles: tuple[Cycles, ...]
    rounds: int
    rotated_bytes: float  # of buffers used in turn, so that no cache holds the next one
    most_cache_bytes: float
    vocab_size: int = 100_096


GPU = Grid(
    matrices=(
        (192, 384), (320, 640), (704, 704), (1408, 1408),
        (1408, 5632), (2816, 2816), (5632, 1408),
        (3328, 6656), (6656, 3328),
        (3328, 13312), (13312, 3328),
        (3840, 30720), (15360, 7680),
        (1664, 110592), (3328, 110592),
    ),
    rows=(1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256,
          320, 512, 640, 1024, 2112, 4224),
    streams=(4, 8, 16, 32, 64, 128, 256, 512, 1024),
    contexts=(256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    widths=(1, 2, 5, 9, 17, 33),
    small_heads=(1, 2, 5),
    packed=((1408, 1408), (1408, 5632), (3328, 6656), (3328, 13312), (15360, 7680), (3328, 110592)),
    packed_rows=(1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 64, 128),
    read_bytes=tuple(2**k for k in range(20, 33)),
    pairs=(
        RandomPair((320, 5), (128, 2), 4_096, head_size=64),
        RandomPair((448, 6), (320, 2), 50_048),
        RandomPair((1536, 12), (768, 3), 50_048),
        RandomPair((2304, 20), (1280, 2), 100_096, head_norms=True),
        RandomPair((3328, 8), (3328, 1), 130_048),
    ),
    cycles=(
        Cycles(1, 200, (0, 1, 3, 7)), Cycles(16, 200, (0, 3)),
        Cycles(16, 200, (1, 7), eagerly=False), Cycles(64, 200, (0, 3), eagerly=False),
        Cycles(1, 1900, (0, 3), eagerly=False), Cycles(1, 200, (0, 3), greedy=True),
        Cycles(1, 200, (3,), lookup=True, eagerly=False),
    ),
    rounds=2,
    rotated_bytes=240e6,
    most_cache_bytes=9e9,
)  # fmt: skip

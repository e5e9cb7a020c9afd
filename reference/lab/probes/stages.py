"""Cycles of small random pairs, whose stages are timed inside the decoder's own loop."""

from dataclasses import dataclass

import torch

from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.drafters.draft_model import DraftModel
from reference.lab.dialled import UNHEARD, random_model
from reference.lab.probes.attention import FORMAT
from reference.packing import pack
from reference.quantization import has_kernel, quantized
from reference.settings import mode_for
from reference.statistics import Statistics
from reference.transformer import Transformer
from specsim.architecture import Architecture
from specsim.evidence.calibration import StageProbe

PROMPT = 8  # tokens: reading more takes longer than the cycles after it, and tells nothing
TOKENS = 3  # a few cycles, since most drafts of an unrelated model are rejected; rounds tell more
NUCLEUS = 0.9  # of random logits so small a part of the vocabulary that it is not sorted whole


@dataclass(frozen=True, slots=True)
class Pair:
    """(hidden size, layers) of target and draft, the vocabulary, and what is decoded: (batch,
    gammas), with a nucleus where `filtered`, with a draft in FORMAT where `quantised`."""

    target: tuple[int, int]
    draft: tuple[int, int]
    vocab_size: int
    runs: tuple[tuple[int, tuple[int, ...]], ...]
    filtered: bool = False
    quantised: bool = False


# A target has so many layers that one layer's code does not stay in the caches until the next pass
# begins, as with real models. Two drafts have one layer: without them a pass's own cost cannot be
# told from a layer's, and one-layer drafts, which are usual, lie outside of what was timed.
PAIRS = (
    Pair((192, 6), (128, 2), 1024, ((1, (0, 1, 4)),)),
    Pair((320, 8), (160, 1), 1536, ((1, (0, 1, 5)),)),
    Pair((384, 10), (192, 5), 3072, ((1, (0, 2, 8)), (6, (3,)), (20, (0, 7)))),
    Pair((640, 6), (448, 2), 10_240, ((1, (0, 3)),)),
    Pair((896, 9), (896, 1), 6144, ((1, (0, 3)),)),
    Pair((768, 4), (128, 3), 65_536, ((1, (0, 3)),)),
    Pair((768, 4), (128, 3), 65_536, ((1, (0, 2)),), filtered=True),
    *(Pair((192, 6), draft, 1024, ((1, (1, 4)),), quantised=True)
      for draft in ((192, 6), (320, 3), (576, 6))),
)  # fmt: skip


def probe_architecture(hidden: int, layers: int, vocab_size: int = 1536) -> Architecture:
    """The model of a probe, from its hidden size and its number of layers."""
    heads = max(1, hidden // 64)
    return Architecture(
        name=f"probe-{hidden}x{layers}", hidden_size=hidden, num_layers=layers, num_heads=heads,
        num_kv_heads=heads // 2 if heads % 2 == 0 else 1, head_dim=64,
        intermediate_size=hidden * 11 // 4, vocab_size=vocab_size, max_context=4096,
    )  # fmt: skip


class Case:
    """One run of a pair, and the times of its cycles."""

    def __init__(self, pair: Pair, models: tuple[Transformer, Transformer], batch: int, gamma: int):
        self.pair, self.batch, self.gamma = pair, batch, gamma
        self.target, self.draft = models
        self.drafter = DraftModel(self.draft, gamma) if gamma else NoDrafter()

    def run(self, seed: int, tokens: int = TOKENS) -> Statistics:
        """Decode a few tokens at temperature 1. The first cycle is not counted: the library may
        have to make its kernels again, and code and weights are not in the caches."""
        prompts = [[1] * PROMPT] * self.batch
        top_p = NUCLEUS if self.pair.filtered else None
        mode = mode_for(self.target.device, None)  # not what happens to be kept compiled
        run = speculate(
            self.target, self.drafter, prompts, tokens, 1.0, seed=seed, top_p=top_p, mode=mode
        )
        run.statistics.forget_first()
        return run.statistics

    def probes(self, timed: Statistics) -> list[StageProbe]:
        """The stages' median seconds."""
        context, filtered = PROMPT + TOKENS // 2, self.pair.filtered
        where = (self.gamma, context)
        assert timed.verify_s is not None
        assert timed.host_s is not None
        found = []
        if self.gamma:
            assert timed.draft_s is not None
            stored = FORMAT if self.pair.quantised else ""
            drafting = ("draft", self.draft.architecture, *where, timed.draft_s, self.batch)
            found.append(StageProbe(*drafting, filtered, stored))
        if self.pair.quantised:  # its target is no news
            return found
        model = self.target.architecture
        return [
            StageProbe("verify", model, *where, timed.verify_s, self.batch),
            StageProbe("host", model, *where, timed.host_s, self.batch, filtered),
            *(
                []
                if self.gamma
                else [StageProbe("begin", model, *where, timed.draft_s, self.batch)]
            ),
            *found,
        ]


def cases(device: torch.device, dtype: torch.dtype, widest: float) -> list[Case]:
    """All runs of the pairs whose hidden sizes are at most `widest`."""
    found: list[Case] = []
    made: dict[object, tuple[Transformer, Transformer]] = {}
    for pair in PAIRS:
        sizes = (pair.target, pair.draft)
        if max(hidden for hidden, _ in sizes) > widest:
            continue
        if pair.quantised and not has_kernel(device, FORMAT):
            continue
        kind = (*sizes, pair.vocab_size, pair.quantised)
        if kind not in made:
            target, draft = (
                random_model(probe_architecture(*size, pair.vocab_size), dtype, device, seed=seed)
                for seed, size in enumerate(sizes)
            )
            target.stop_ids = UNHEARD
            made[kind] = pack(target), quantized(draft, FORMAT) if pair.quantised else pack(draft)
        found += [
            Case(pair, made[kind], batch, gamma) for batch, gammas in pair.runs for gamma in gammas
        ]
    return found

"""The models that a point needs: made or loaded once, and kept while the next points need the same.

A pair that is made here has random weights. Its acceptance rate is real (a synthetic pair with a
target acceptance rate, see `dialled`), or accept counts are drawn. In the second case nothing
depends on the drafted tokens, so the draft may be any model.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reference.checkpoints import PAIR, load_pair, prompt_texts
from reference.drafters.early_exit import first_layers
from reference.lab.dialled import UNHEARD, dialled_pair, random_model
from reference.lab.suites.points import PlannedPoint, Suite
from reference.machine import PRECISION_OF
from reference.packing import pack
from reference.quantization import GROUPS, quantized
from reference.transformer import Transformer
from specsim.architecture import Architecture, from_config, read_config
from specsim.checks import SpecsimError

DTYPE_OF = {name: dtype for dtype, name in PRECISION_OF.items()}
KINDS = {"calibration": 1, "timed": 2, "counted": 3}  # of prompts -> seed: no text has two kinds
NOISE = "random weights, a context of noise that no pass has read"


@dataclass(frozen=True, slots=True)
class Models:
    """A target, its draft if it has one, and the source of their prompts.

    `texts` holds tokenised prompts by kind; without it, prompts are random token ids. `note`
    describes the pair for readers of the measured point.
    """

    target: Transformer
    draft: Transformer | None
    texts: Mapping[str, list[list[int]]] | None = None
    note: str = ""

    def prompts(self, kind: str, count: int, length: int) -> list[list[int]]:
        """`count` prompts of `kind`, always the same ones; random ones have `length` tokens."""
        if self.texts is not None:
            texts = self.texts[kind]
            return [texts[index % len(texts)] for index in range(count)]
        generator = torch.Generator().manual_seed(KINDS[kind])
        vocab_size = self.target.architecture.vocab_size
        return torch.randint(vocab_size, (count, length), generator=generator).tolist()


class ModelCache:
    """Makes the models of points, and keeps the models of the last point."""

    def __init__(self, suite: Suite, device: torch.device, pair: str = "bundled"):
        self.suite, self.device, self.pair = suite, device, pair
        self._kept: tuple[tuple, Models] | None = None

    def models(self, point: PlannedPoint) -> Models:
        """The models of a point. Raises SpecsimError if weights cannot have its precision."""
        if self._kept is None or self._kept[0] != point.pair:
            self.clear()
            self._kept = point.pair, self._made(point)
        return self._kept[1]

    def holds(self, point: PlannedPoint) -> bool:
        """Whether the kept models are the ones that this point needs."""
        return self._kept is not None and self._kept[0] == point.pair

    def clear(self) -> None:
        """Forget the models and free their memory."""
        self._kept = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def architectures(self, point: PlannedPoint) -> tuple[Architecture, Architecture | None]:
        """Target and draft, before any weights are made."""
        if point.target == "trained":
            root = PAIR if self.pair == "bundled" else Path(self.pair)
            target, draft = (
                from_config(read_config(root / role), role) for role in ("target", "draft")
            )
            return target, None if point.draft is None and point.gamma == 0 else draft
        target = self.suite.architecture(point.target)
        if point.draft is None:
            return target, None
        if point.draft_layers is None:
            return target, self.suite.architecture(point.draft)
        return target, target.first_layers(point.draft_layers)

    def _made(self, point: PlannedPoint) -> Models:
        dtype = torch.bfloat16 if point.precision in GROUPS else DTYPE_OF.get(point.precision)
        if dtype is None:
            known = ", ".join((*DTYPE_OF, *GROUPS))
            raise SpecsimError(f"weights in {point.precision} cannot be measured; known: {known}")
        if point.target == "trained":
            return self._trained(dtype)
        target_model, draft_model = self.architectures(point)
        packed = point.part != "peer"  # transformers shares the weights as they are
        if draft_model is None:
            target = self._unread(target_model, dtype, 0, point.precision, packed)
            return Models(target, None, None, NOISE)
        if not point.synthetic:
            assert point.alpha is not None
            assert point.draft_layers is not None
            target, draft, reached = dialled_pair(
                target_model, point.draft_layers, point.alpha, dtype=dtype, device=self.device,
                packed=packed,
            )  # fmt: skip
            target.stop_ids = UNHEARD
            note = f"random weights, scaled to alpha {reached:.3f} at temperature 1"
            return Models(target, draft, None, note)
        target = self._unread(target_model, dtype, 0, point.precision)
        if point.draft_layers is not None:
            draft = first_layers(target, point.draft_layers)
            draft.reads_prompts = False
        else:
            draft = self._unread(draft_model, dtype, 1, point.precision)
        return Models(target, draft, None, f"accept counts are drawn; {NOISE}")

    def _unread(
        self,
        architecture: Architecture,
        dtype: torch.dtype,
        seed: int,
        precision: str,
        packed: bool = True,
    ) -> Transformer:
        """A random model that is timed without reading prompts."""
        made = random_model(architecture, dtype, self.device, seed)
        if precision in GROUPS:
            made = quantized(made, precision)
        elif packed:
            made = pack(made)
        made.reads_prompts, made.stop_ids = False, UNHEARD
        return made

    def _trained(self, dtype: torch.dtype) -> Models:
        target, draft, tokenizer = load_pair(self.pair, dtype=dtype, device=self.device)
        own = self.pair != "bundled" and (Path(self.pair) / "prompts.json").is_file()
        texts = prompt_texts(Path(self.pair)) if own else prompt_texts()
        ids = {kind: [tokenizer.encode(text)[:96] for text in texts[kind]] for kind in texts}
        ids["counted"] = ids["timed"]
        return Models(target, draft, ids, "a trained pair, on pieces of held-out files")

"""One extra layer, trained to draft for one target: an EAGLE or multi-token-prediction head.

At each position it reads the token there and the target's last state at the position before, and
predicts the target's next token. So it builds on the target's own states, and costs one layer, a
projection and the target's LM head (EAGLE, arXiv:2401.15077; the module of DeepSeek-V3,
arXiv:2412.19437, section 2.2, whose names the checkpoint uses).
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reference.activations import rms_norm
from reference.cache import KVCache
from reference.checkpoints import PAIR, resolve
from reference.packing import pack
from reference.transformer import Transformer
from reference.weights import (
    LAYER,
    Safetensors,
    in_one_line,
    require_parts,
    rows_of_parts,
    save_tensors,
)
from specsim.architecture import read_config, to_config
from specsim.checks import SpecsimError
from specsim.checks.files import write_text

# our weights, and the tensors of a checkpoint that they are made from, in order
NAMES = {
    "token_norm": ("model.layers.0.enorm.weight",),
    "hidden_norm": ("model.layers.0.hnorm.weight",),
    "projection.weight": ("model.layers.0.eh_proj.weight",),
    "norm": ("model.layers.0.shared_head.norm.weight",),
} | {
    f"layers.0.{ours}": tuple(f"model.layers.0.{theirs}" for theirs in sources)
    for ours, sources in LAYER.items()
    if not ours.startswith("experts.")
}


class Head(Transformer):
    """A head for `target`, with the target's embedding, LM head and sizes; always dense, even if
    the target is a mixture of experts.

    Its own weights have no values until `assign`; use `untrained_head` or `load_head`.
    """

    def __init__(self, target: Transformer):
        shape = target.whole
        if target.details is not None:
            raise SpecsimError(
                f"{shape.name} departs from the Llama shape, and heads are trained for models of "
                "that shape; a hybrid may hold a module of its own (reference.load_mtp)"
            )
        with torch.device("meta"):
            super().__init__(replace(shape.first_layers(1), experts=None))
            self.token_norm = nn.Parameter(torch.ones(shape.hidden_size))
            self.hidden_norm = nn.Parameter(torch.ones(shape.hidden_size))
            self.projection = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
        self.embedding, self.head = target.embedding, target.head
        self.rotary = target.rotary
        self.stop_ids = target.stop_ids

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The weights that the head does not share with the target, by name."""
        shared = ("embedding.", "head.")
        named = self.named_parameters()
        return {name: weight for name, weight in named if not name.startswith(shared)}

    def assign(self, weights: dict[str, Tensor]) -> "Head":
        """Take these weights as its own; returns itself."""
        self.load_state_dict(weights, strict=False, assign=True)
        return self

    def states(
        self,
        tokens: Tensor,
        before: Tensor,
        positions: Tensor,
        cache: KVCache | None = None,
        window: int | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The states (B, T, C) at `positions` (B, T), which the LM head multiplies.

        `tokens` (B, T) stand there. `before` (B, T, C) are the states one position earlier: the
        target's, or this head's own where the target's are not known yet; zeros before the first.
        """
        eps = self.architecture.norm_eps
        token = rms_norm(self.embedding(tokens), self.token_norm, eps)
        hidden = rms_norm(before, self.hidden_norm, eps)
        # in training, autocast would make the residual stream of the layer bfloat16
        x = self.projection(torch.cat((token, hidden), dim=-1)).to(token.dtype)  # (B, T, C)
        return self.through_layers(x, positions, cache, window, bias)


def untrained_head(target: Transformer, seed: int = 0) -> Head:
    """A head with random weights, in the target's dtype and on its device: normal with deviation
    0.02, smaller in the projections that write to the residual stream (GPT-2's rule)."""
    head, generator = Head(target), torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in head.own.items():
        values = torch.ones(weight.shape)
        if weight.ndim == 2:
            std = 0.02 * (0.5**0.5 if name.endswith(("output.weight", "down.weight")) else 1)
            values = std * torch.randn(weight.shape, generator=generator)
        elif name.endswith("bias"):
            values = torch.zeros(weight.shape)
        weights[name] = nn.Parameter(values.to(target.device, target.dtype))
    return head.assign(weights).eval()


def fingerprint(target: Transformer) -> str:
    """A sha256 over all the target's norms, as bfloat16.

    They change with any training, but not with another dtype, with packing, quantisation or
    another layout of the matrices.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(target.state_dict().items()):
        if name.endswith("norm"):
            values = weight.detach().to("cpu", torch.bfloat16).view(torch.int16)
            digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def load_head(source: str | Path, target: Transformer) -> Head:
    """The trained head of `target` from a folder, a hub id or "bundled"; in the target's dtype, on
    its device.

    Raises SpecsimError if the head was trained for another target (told by hidden size, vocabulary
    and `fingerprint`), or for what `load_checkpoint` refuses: a missing or truncated file, a tensor
    that is missing, unknown or of the wrong shape.
    """
    folder = PAIR / "head" if str(source) == "bundled" else resolve(source)
    wanted, name = read_config(folder).get("target"), target.architecture.name
    if not isinstance(wanted, dict):
        raise SpecsimError(f"{folder}: config.json names no target, so this is not a head")
    trained_for = in_one_line(wanted.get("name"))
    for field in ("hidden_size", "vocab_size"):
        here = getattr(target.architecture, field)
        if wanted.get(field) != here:
            raise SpecsimError(
                f"{folder} is a head of {trained_for}, whose {field} is "
                f"{wanted.get(field)!r:.100}; that of {name} is {here}"
            )
    if wanted.get("fingerprint") != fingerprint(target):
        raise SpecsimError(
            f"{folder} was trained on other weights of {trained_for} than those of {name}: "
            "its drafts would hardly be accepted; train it again (python -m reference train "
            "--part head)"
        )
    head, theirs = Head(target), Safetensors(folder)
    unused, weights = set(theirs), {}
    for ours, weight in head.own.items():
        parts = [list(NAMES[ours])]
        require_parts(theirs, ours, parts, head.architecture, weight.shape, "the target asks for")
        unused.difference_update(NAMES[ours])
        weights[ours] = theirs.joined(parts).to(target.device, target.dtype)
        if not weights[ours].sum(dtype=torch.float32).isfinite():
            raise SpecsimError(
                f"{folder}: {NAMES[ours][0]} and its like hold numbers that are not finite"
            )
    if unused:
        raise SpecsimError(
            f"{folder}: {in_one_line(min(unused))} has no place in this head; its results would be "
            "wrong"
        )
    head.assign(weights).eval().requires_grad_(False)
    return pack(head)


def save_head(head: Head, target: Transformer, folder: Path) -> None:
    """Write the head's own weights in bfloat16, and for which target it was trained."""
    if "projection.weight" not in head.own:
        raise SpecsimError("a packed head cannot be written; save one that was trained, not loaded")
    shape, tensors = head.architecture, {}
    for name, weight in head.own.items():
        weight, sources = weight.detach().to("cpu", torch.bfloat16), NAMES[name]
        pieces = weight.split(rows_of_parts(name, shape, len(weight), len(sources)))
        tensors |= {n: piece.contiguous() for n, piece in zip(sources, pieces, strict=True)}
    config = to_config(shape) | {
        "architectures": ["DraftHead"],
        "torch_dtype": "bfloat16",
        "target": {
            "name": target.architecture.name,
            "hidden_size": shape.hidden_size,
            "vocab_size": shape.vocab_size,
            "fingerprint": fingerprint(target),
        },
    }
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    save_tensors(tensors, folder / "model.safetensors")

"""The module for multi-token prediction that a hybrid's own checkpoint holds (Qwen3-Next, Qwen3.5).

It is one layer of gated attention, of the form of a `Head`: it reads a token, and the target's
state at the position before. So `DraftHead` drafts with it, and nothing has to be trained. It has
no recurrent state, and its keys and values are rolled back by a smaller length.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reference.checkpoints import resolve
from reference.details import Kind
from reference.families import converted
from reference.heads import Head
from reference.layers import VariedTransformer
from reference.packing import pack
from reference.refusals import block_of
from reference.transformer import Transformer
from reference.trees import Branches
from reference.weights import LAYER, Safetensors, in_one_line, require_parts, stacks_of
from specsim.architecture import read_config
from specsim.checks import SpecsimError

NAMES = {
    "token_norm": "mtp.pre_fc_norm_embedding.weight",
    "hidden_norm": "mtp.pre_fc_norm_hidden.weight",
    "projection.weight": "mtp.fc.weight",
    "norm": "mtp.norm.weight",
}


class MtpHead(VariedTransformer):
    """The module of `target`, with the target's embedding and LM head; without values until
    `assign`. Raises SpecsimError for a target whose family has none."""

    own, assign, states = Head.own, Head.assign, Head.states

    def __init__(self, target: Transformer):
        shape, details = target.architecture, target.details
        if details is None or details.delta is None or all(details.recurrent):
            raise SpecsimError(f"{shape.name} is of a family without a module for drafting")
        full = details.recurrent.index(False)
        kinds = (Kind(details.kinds[details.kind_of[full]].rope),)
        alone = replace(details, kinds=kinds, kind_of=(0,), recurrent=(False,), delta=None)
        with torch.device("meta"):
            super().__init__(shape.mtp_module, alone)
            self.token_norm = nn.Parameter(torch.ones(shape.hidden_size))
            self.hidden_norm = nn.Parameter(torch.ones(shape.hidden_size))
            self.projection = nn.Linear(2 * shape.hidden_size, shape.hidden_size, bias=False)
        self.embedding, self.head = target.embedding, target.head
        self.rotary, self.stop_ids = target.rotary, target.stop_ids

    def mask(
        self, positions: Tensor, reads: int, window: int | None, branches: Branches | None
    ) -> Tensor:
        """The causal mask, without the first token: there is no state before it, and the module has
        never read it."""
        bias = super().mask(positions, reads, window, branches)
        groups = self.architecture.num_heads // self.architecture.num_kv_heads
        later = (positions > 0).repeat(1, groups)[:, None, :, None]  # (B, 1, G·T, 1)
        first = torch.arange(reads, device=positions.device) == 0
        return bias.masked_fill(later & first, torch.finfo(self.dtype).min / 2)


def load_mtp(source: str | Path, target: Transformer) -> MtpHead:
    """The module of `target` from its checkpoint, a folder or a hub id, in the target's dtype, on
    its device.

    Raises SpecsimError if the checkpoint holds none, or one of other sizes than the target's.
    """
    folder = resolve(source)
    theirs = Safetensors(folder, block_of(read_config(folder)))
    held = {name for name in theirs if name.startswith("mtp.")}
    if not held:
        raise SpecsimError(
            f"{folder} holds no tensor mtp.*: this checkpoint has no module for "
            "multi-token prediction"
        )
    head, weights = MtpHead(target), {}
    assert head.details is not None
    for ours, weight in head.own.items():
        groups = parts_of(ours, head, {**head.details.names, **stacks_of(theirs)})
        require_parts(theirs, ours, groups, head.architecture, weight.shape, "the target asks for")
        held.difference_update(name for group in groups for name in group)
        made = converted(ours, theirs.joined(groups), head.architecture, head.details)
        weights[ours] = made.to(target.device, target.dtype)
        if not weights[ours].sum(dtype=torch.float32).isfinite():
            raise SpecsimError(f"{folder}: {groups[0][0]} holds numbers that are not finite")
    if held:
        raise SpecsimError(
            f"{folder}: {in_one_line(min(held))} has no place in a module of one layer; its drafts "
            "would be wrong"
        )
    head.assign(weights).eval().requires_grad_(False)
    return pack(head)


def parts_of(name: str, head: MtpHead, names: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """The checkpoint's weights that our weight `name` of the module is made from; `names`, those
    that are not Llama's."""
    if name in NAMES:
        return [[NAMES[name]]]
    inner = name.removeprefix("layers.0.")
    parts = names.get(inner) or LAYER[inner]
    experts = head.architecture.experts
    copies = range(experts.count) if experts and "{e}" in parts[0] else range(1)
    return [[f"mtp.layers.0.{part.format(e=e)}" for part in parts] for e in copies]

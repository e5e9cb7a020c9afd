"""Several guesses at a place, drawn from one law."""

import torch
from torch import Tensor

from reference.sampling import draw


def law_left(law: Tensor, taken: Tensor) -> Tensor:
    """The law (..., V) of a token drawn without replacement after those `taken` (..., T), distinct.

    If they were all that `law` allows, it is uniform over the rest, for the target to judge.
    """
    left = law.scatter(-1, taken, 0)
    untaken = torch.ones_like(law).scatter(-1, taken, 0)
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, untaken)
    return left / left.sum(-1, keepdim=True)


def draw_children(
    law: Tensor, uniforms: Tensor, replacement: bool = False
) -> tuple[Tensor, Tensor]:
    """As many children (..., C) as there are `uniforms` (..., C), or (..., C, V) for races, and the
    laws (..., C, V) that each was drawn from, given its elder siblings."""
    tokens, laws = torch.empty_like(law[..., :0], dtype=torch.long), []
    for chance in uniforms.unbind(law.ndim - 1):
        laws.append(law if replacement or not laws else law_left(law, tokens))
        tokens = torch.cat((tokens, draw(laws[-1], chance)[..., None]), dim=-1)
    return tokens, torch.stack(laws, dim=-2)

"""A mixture of experts in place of the MLP (Shazeer et al., arXiv:1701.06538; Mixtral, Qwen-MoE).

A router sends every row to `per_token` of the experts. Only the weights of the chosen experts are
read, in one of three ways:

| way | where | bytes read of the experts | the host waits |
|---|---|---|---|
| `grouped` | CUDA of compute capability 9 or 10, bf16 | each chosen expert once | no |
| `gathered` | other devices, few rows | thrice for every visit: copied, then multiplied | no |
| `one_by_one` | the CPU; other devices, many rows | each chosen expert once | yes, free on a CPU |

The first two have fixed shapes and can be recorded in a CUDA graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.activations import swiglu
from specsim.architecture import Experts
from specsim.checks import SpecsimError

DATACENTRES = (9, 10)  # Hopper, Blackwell; elsewhere torch's grouped product waits for the host


class LinearStack(nn.Module):
    """One matrix per expert in one tensor, (E, out, in)."""

    def __init__(self, count: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, out_features, in_features))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        return F.linear(x, self.weight[expert])


class SeparateLinears(nn.ModuleList):
    """The same with one layer per expert, each packed or quantised by itself."""

    def forward(self, x: Tensor, expert: int) -> Tensor:
        return self[expert](x)


class Mixture(nn.Module):
    """The experts of one layer, their router, and the shared expert of every token (Qwen2-MoE)."""

    def __init__(self, hidden: int, experts: Experts):
        super().__init__()
        self.experts = experts
        self.router = nn.Linear(hidden, experts.count, bias=False)
        self.gate_up = LinearStack(experts.count, hidden, 2 * experts.intermediate_size)
        self.down = LinearStack(experts.count, experts.intermediate_size, hidden)
        if experts.shared_size:
            self.shared_gate_up = nn.Linear(hidden, 2 * experts.shared_size, bias=False)
            self.shared_down = nn.Linear(experts.shared_size, hidden, bias=False)
            self.shared_gate = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The experts' output (B, T, C) for `x` (B, T, C); each row visits the experts it chose."""
        rows = x.flatten(0, 1)  # (R, C)
        weights, chosen = self.route(rows)
        if can_group(rows, self.gate_up):
            mixed = self.grouped(rows, weights, chosen)
        elif can_gather(rows, self.gate_up) and chosen.numel() <= self.experts.count:
            mixed = self.gathered(rows, weights, chosen)
        else:
            mixed = self.one_by_one(rows, weights, chosen)
        if self.experts.shared_size:
            shared = self.shared_down(swiglu(self.shared_gate_up(rows)))
            mixed = mixed + self.shared_gate(rows).sigmoid() * shared
        return mixed.view_as(x)

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (R, k), in 32 bits or more, and the ids (R, k) of the experts of each row."""
        logits = self.router(rows)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weights, chosen = logits.softmax(-1).topk(self.experts.per_token, dim=-1)
        if self.experts.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen

    def one_by_one(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """One expert after the other, with all rows that chose it; the host reads the choices."""
        if rows.is_cuda and torch.cuda.is_current_stream_capturing():
            raise SpecsimError(
                f"{chosen.numel()} visits to {self.experts.count} experts cannot be recorded in a "
                "CUDA graph here (see reference.experts); use mode='eager', or a smaller gamma"
            )
        mixed = torch.zeros_like(rows)
        for expert in chosen.unique().tolist():
            row, rank = (chosen == expert).nonzero(as_tuple=True)
            made = self.down(swiglu(self.gate_up(rows[row], expert)), expert)
            mixed.index_add_(0, row, made * weights[row, rank, None].to(made.dtype))
        return mixed

    def gathered(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """A copy of an expert's matrices for every visit; nothing waits, and shapes are fixed."""
        visits = chosen.flatten()  # (R·k,)
        visitors = rows.repeat_interleave(chosen.shape[1], dim=0)[:, None]  # (R·k, 1, C)
        made = swiglu(visitors @ self.gate_up.weight[visits].mT)
        made = (made @ self.down.weight[visits].mT).view(*chosen.shape, -1)  # (R, k, C)
        return (made * weights[..., None].to(made.dtype)).sum(1)

    def grouped(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """One product over visits sorted by expert; the ends of the groups stay on the device."""
        order = chosen.flatten().argsort(stable=True)
        experts = torch.arange(self.experts.count, device=rows.device)
        ends = (chosen.flatten()[:, None] <= experts).sum(0, dtype=torch.int32)  # (E,)
        visitors = rows[order // chosen.shape[1]]  # (R·k, C)
        made = swiglu(F.grouped_mm(visitors, self.gate_up.weight.mT, offs=ends))
        made = F.grouped_mm(made, self.down.weight.mT, offs=ends)
        back = torch.empty_like(order).scatter_(
            0, order, torch.arange(len(order), device=order.device)
        )
        made = made[back].view(*chosen.shape, -1)  # (R, k, C)
        return (made * weights[..., None].to(made.dtype)).sum(1)


def can_gather(rows: Tensor, stack: nn.Module) -> bool:
    """Whether the experts can be copied: stacked in one tensor, and not on a CPU, where waiting is
    free."""
    return rows.device.type != "cpu" and isinstance(stack, LinearStack)


def can_group(rows: Tensor, stack: nn.Module) -> bool:
    """Whether torch's grouped product runs here without waiting for the host."""
    if not isinstance(stack, LinearStack) or rows.device.type != "cuda":
        return False
    aligned = all(size % 8 == 0 for size in stack.weight.shape[1:])  # rows of 16 bytes
    major, _ = torch.cuda.get_device_capability(rows.device)
    return major in DATACENTRES and aligned and rows.dtype == torch.bfloat16

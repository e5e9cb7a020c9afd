"""The counts of a pass: an operator with its bytes and FLOPs, a pass with its operators."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from specsim.checks import Floats, SpecsimError
from specsim.checks.shown import Shown, gigabytes, short
from specsim.operators.formats import Precision

LINEAR = "linear"
ATTENTION = "attention"
ELEMENTWISE = "elementwise"
COLLECTIVE = "collective"
HEAD = "LM head"  # the operator that no layer has


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of kernel, summed over the layers; every count is an array over the scenarios, of
    one device where the model is split over several.

    `flops` in FLOP (a multiply-add is two), all others in bytes. `math` names the arithmetic, and
    so the accelerator's rate; it is empty where there is little arithmetic. `link_bytes` are what a
    device sends to the others, `kernels` how many times the operator is launched in a pass,
    `streams` how many caches (sequences times key-value heads) an attention kernel reads. In
    attention `rows` are those of a sequence, `queries` the same times the heads that share a cache,
    and `head_size` is theirs; elsewhere they are 0.
    """

    name: str
    kind: str
    flops: Floats
    weight_bytes: Floats
    kv_bytes: Floats
    activation_bytes: Floats
    link_bytes: Floats | float = 0.0
    kernels: Floats | float = 0.0
    streams: Floats | float = 0.0
    math: str = ""
    rows: Floats | float = 0.0
    queries: Floats | float = 0.0
    head_size: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class ForwardWork(Shown):
    """The operators of one pass of the whole batch, and what the overheads are counted by."""

    operators: tuple[Operator, ...]
    layers: float  # pairs of a mixer and an MLP
    launched: float  # its kernels, in those of an ordinary layer (see `launches`)
    rows: Floats  # query rows in the pass, over all sequences
    logits: Floats  # rows x vocabulary
    precision: Precision
    devices: int = 1
    width: float = 0.0  # elements of a row between the layers
    head_norms: float = 0.0  # layers that normalise their heads

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)

    def __getitem__(self, name: str) -> Operator:
        by_name = {operator.name: operator for operator in self.operators}
        if name not in by_name:
            raise SpecsimError(f"no operator is called {name!r}; there are: {', '.join(by_name)}")
        return by_name[name]

    @property
    def flops(self) -> Floats:
        return reduce(np.add, (o.flops for o in self.operators))

    @property
    def weight_bytes(self) -> Floats:
        """Weights streamed by the pass; of the embedding a few rows are gathered, not counted."""
        return reduce(np.add, (o.weight_bytes for o in self.operators))

    @property
    def layer_bytes(self) -> Floats:
        """Weights that are streamed for one layer, in the mean."""
        of_layers = (o.weight_bytes for o in self.operators if o.name != HEAD)
        return np.asarray(reduce(np.add, of_layers) / np.maximum(self.layers, 1.0))

    @property
    def kv_bytes(self) -> Floats:
        return reduce(np.add, (o.kv_bytes for o in self.operators))

    @property
    def activation_bytes(self) -> Floats:
        return reduce(np.add, (o.activation_bytes for o in self.operators))

    def _facts(self) -> dict[str, Any]:
        return {
            "operators": len(self.operators),
            "weights": gigabytes(sum(each.weight_bytes for each in self.operators)),
            "GFLOP": short(np.asarray(sum(each.flops for each in self.operators)) / 1e9),
        }

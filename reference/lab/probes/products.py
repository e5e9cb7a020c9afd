"""Stacks of products of equal matrices, from 20 kB to 24 MB each, with 1 to 320 rows."""

import copy
import math
from collections.abc import Iterator

import torch

from reference.lab.probes.timing import seconds_of
from reference.machine import PRECISION_OF
from reference.packing import PackedLinear, pack
from reference.quantization import QuantizedLinear, has_kernel
from specsim.evidence.calibration import LinearProbe
from specsim.operators import precision

# (hidden size, layers) of the stacks. Models of matrices below 0.3 MB fit into a cache, and so do
# the stacks of such matrices. The others are larger, as such models are: from LARGE on, at least
# LARGE_BYTES in any format, several times what a last cache holds.
STACKS = (
    (48, 40), (96, 12), (160, 6), (240, 14), (352, 7), (400, 6), (704, 3), (1408, 1), (1728, 1),
)  # fmt: skip
LARGE, LARGE_BYTES = 704, 9.6e7
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9)
# Rows of verifications of several sequences. Arithmetic takes longer than reading the weights, so
# the first matrices of a stack tell what all of it takes.
WIDE_ROWS = (16, 32, 64, 160, 320)
WIDE_BYTES = 3e7
MATRICES = 4  # of a layer
FORMATS = ("int8", "int4-g32")  # of weights that drafts are stored in, where there is a kernel
FORMAT_STACKS = ((96, 40), (352, 20), (704, 6), (1408, 2))
FORMAT_ROWS = (1, 2, 3, 5, 9, 16, 64)


def linear_stack(
    hidden: int, layers: int, device: torch.device, dtype: torch.dtype, format: str = ""
) -> list[torch.nn.Module]:
    """The matrices of `layers` layers, as the decoder lays them out: copies of one layer's, which
    have one size, and are wide and tall in turn."""
    shapes = 2 * ((hidden, 2 * hidden), (2 * hidden, hidden))
    layer: list[torch.nn.Module] = [
        torch.nn.Linear(*shape, bias=False, device=device, dtype=dtype) for shape in shapes
    ]
    if format:
        layer = [QuantizedLinear(matrix.weight.detach(), format) for matrix in layer]
    layer = layer if format else list(pack(torch.nn.ModuleList(layer)))
    return [copied(matrix) for _ in range(layers) for matrix in layer]


def copied(matrix: torch.nn.Module) -> torch.nn.Module:
    """The same matrix at another place in memory."""
    if not isinstance(matrix, PackedLinear):
        return copy.deepcopy(matrix)
    other = copy.copy(matrix)  # its layout is copied as it is
    other.packed = matrix.packed.clone()
    return other


class ProductStack:
    """The matrices of some layers, as the decoder lays them out, and their inputs."""

    def __init__(
        self, hidden: int, layers: int, device: torch.device, dtype: torch.dtype, format: str = ""
    ):
        self.format, self.device = format, device
        size = precision(format or PRECISION_OF[dtype]).weight_bytes
        if hidden >= LARGE:
            layer_bytes = MATRICES * 2 * hidden**2 * size
            layers = max(layers, math.ceil(LARGE_BYTES / layer_bytes))
        self.matrices = linear_stack(hidden, layers, device, dtype, format)
        self.nbytes = [size * each.in_features * each.out_features for each in self.matrices]
        self.dtype = torch.bfloat16 if format else dtype
        self.rows = FORMAT_ROWS if format else (*ROWS, *WIDE_ROWS)
        widths = {matrix.in_features for matrix in self.matrices}
        self.inputs = {
            (rows, width): torch.randn(rows, width, device=device, dtype=self.dtype)
            for rows in self.rows
            for width in widths
        }

    def first(self, rows: int) -> int:
        """How many of the matrices are multiplied by so many rows: all, or what is enough."""
        if rows <= ROWS[-1]:
            return len(self.matrices)
        count, nbytes = 0, 0.0
        while count < len(self.matrices) and (
            count % MATRICES or nbytes < WIDE_BYTES
        ):  # whole layers
            nbytes += self.nbytes[count]
            count += 1
        return count

    def run(self, rows: int, most: int | None = None) -> None:
        """Multiply, one matrix after the other, `most` of them."""
        for matrix in self.matrices[: most or self.first(rows)]:
            matrix(self.inputs[rows, matrix.in_features])

    def samples(self) -> Iterator[tuple[int, float]]:
        """The seconds of the whole stack for every number of rows, once.

        Two untimed runs go before: of one row, which brings back into the caches what they can
        hold, and of one layer, for which the library may have to make its kernels again (beside
        the arithmetic of many rows that takes no time).
        """
        self.run(1)
        for rows in self.rows:
            share = sum(self.nbytes[: self.first(rows)]) / sum(self.nbytes)
            if rows <= ROWS[-1]:
                self.run(rows, MATRICES)
            yield rows, seconds_of(lambda rows=rows: self.run(rows), self.device) / share

    def probe(self, rows: int, seconds: float) -> LinearProbe:
        """The probe of these seconds."""
        return LinearProbe(sum(self.nbytes), len(self.matrices), rows, seconds, self.format)


def stacks(device: torch.device, dtype: torch.dtype, widest: float) -> list[ProductStack]:
    """The stacks up to the hidden size `widest`, and those of formats that have a kernel here."""
    asked = [(size, "") for size in STACKS]
    asked += [
        (size, name) for name in FORMATS if has_kernel(device, name) for size in FORMAT_STACKS
    ]
    return [
        ProductStack(*size, device, dtype, format) for size, format in asked if size[0] <= widest
    ]


class WideProduct:
    """A product of so many rows that it shows the rate of the machine's arithmetic."""

    ROWS, SIDE = 1024, 2048
    flops = 2 * ROWS * SIDE * SIDE

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device = device
        made = torch.nn.Linear(self.SIDE, self.SIDE, bias=False, device=device, dtype=dtype)
        self.multiply = pack(torch.nn.ModuleList([made]))[0]
        self.x = torch.randn(self.ROWS, self.SIDE, device=device, dtype=dtype)

    def sample(self) -> float:
        """Seconds of one product."""
        return seconds_of(lambda: self.multiply(self.x), self.device)

"""The speed of the machine at this moment: two fixed tasks, timed between other measurements.

A shared or throttled machine can change its speed between calibration and measurement. The time of
one matrix-vector product, taken next to each measurement, shows by how much memory has changed; on
a CPU it is the decoder's own product, since a slower one would wait for the processor instead. On a
CPU the processor can change by itself, and small models wait for it more than for memory: there
the step of a tiny model is timed too, and the drift is the geometric mean of the two. So a change
of the machine is not mistaken for an error of the model.
"""

import math
import statistics
import time

import torch

from reference.decoding import speculate
from reference.drafters import NoDrafter
from reference.lab.dialled import random_model
from reference.packing import pack
from specsim.architecture import Architecture

SIDE = {"cuda": 16384}  # of the square matrix: 0.5 GB in bf16, ten times a GPU's L2
SIDE_ELSEWHERE = 5120  # 105 MB in fp32: several times the last cache of most CPUs
REPEATS = {"cuda": 99}  # 12 ms on a large GPU: an idle one first has to raise its clocks
REPEATS_ELSEWHERE = 5
TINY = Architecture(
    name="drift", hidden_size=64, num_layers=4, num_heads=1, num_kv_heads=1, head_dim=64,
    intermediate_size=176, vocab_size=512,
)  # fmt: skip
STEPS = 12  # of the tiny model: 10 to 30 ms
WARM_UPS = 4  # so often: the first times it takes up to twice as long


class DriftProbe:
    """A matrix-vector product, and the step of a tiny model, whose times show the machine's speed.
    It keeps its matrix and its model."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        side = SIDE.get(self.device.type, SIDE_ELSEWHERE)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.matrix = torch.randn(side, side, device=self.device, dtype=dtype)
        self.vector = torch.randn(side, device=self.device, dtype=dtype)
        self.result = torch.empty_like(self.vector)
        self.tiny = None
        if self.device.type == "cpu":
            self.multiply = laid_out(self.matrix)
        if self.device.type in ("cpu", "cuda"):
            self.tiny = pack(random_model(TINY, dtype, self.device, seed=0))
        self._once()
        for _ in range(WARM_UPS if self.tiny else 0):
            self.step_s()

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.matrix.nbytes

    def now_s(self, mode: str = "eager") -> float:
        """Seconds now, to be compared with those of another moment: of a product, or on a CPU the
        geometric mean of a product's and of a tiny step's. On a GPU an eager step waits for the
        host, which a tiny step shows, and a graph for the memory."""
        if self.tiny is None or (self.device.type == "cuda" and mode != "eager"):
            return self.product_s()
        if self.device.type == "cuda":
            return self.step_s()
        return math.sqrt(self.product_s() * self.step_s())

    def step_s(self) -> float:
        """Seconds of one step of the tiny model now: the median of a few."""
        assert self.tiny is not None
        taken = speculate(self.tiny, NoDrafter(), [1], STEPS, mode="eager").statistics.cycle_s
        assert taken is not None
        return taken

    @torch.inference_mode()
    def product_s(self) -> float:
        """Seconds of one product now: the median of a few."""
        repeats = REPEATS.get(self.device.type, REPEATS_ELSEWHERE)
        return statistics.median(self._once() for _ in range(repeats))

    def _once(self) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.mv(self.matrix, self.vector, out=self.result)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        started = time.perf_counter()
        if self.device.type == "cpu":
            self.result = self.multiply(self.vector)
            return time.perf_counter() - started
        torch.mv(self.matrix, self.vector, out=self.result)
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - started


@torch.inference_mode()
def laid_out(matrix: torch.Tensor) -> torch.nn.Module:
    """The product by `matrix` as the decoder has it on a CPU."""
    linear = torch.nn.Linear(*matrix.mT.shape, bias=False)
    linear.weight.data = matrix
    return pack(torch.nn.ModuleList([linear]))[0]

"""The speed of the machine at this moment: a fixed small read, timed between other measurements.

A shared or throttled machine can change its speed between calibration and measurement. The time of
one matrix-vector product, taken next to each measurement, shows by how much. So a change of the
machine is not mistaken for an error of the model.
"""

import statistics
import time

import torch

SIDE = {"cuda": 16384}  # of the square matrix: 0.5 GB in bf16, ten times a GPU's L2
SIDE_ELSEWHERE = 5120  # 105 MB in fp32: several times the last cache of most CPUs
REPEATS = {"cuda": 99}  # 12 ms on a large GPU: an idle one first has to raise its clocks
REPEATS_ELSEWHERE = 5


class DriftProbe:
    """A matrix-vector product whose time shows the machine's speed. It keeps its matrix."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        side = SIDE.get(self.device.type, SIDE_ELSEWHERE)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.matrix = torch.randn(side, side, device=self.device, dtype=dtype)
        self.vector = torch.randn(side, device=self.device, dtype=dtype)
        self.result = torch.empty_like(self.vector)
        self._once()  # warm up

    @property
    def nbytes(self) -> int:
        """Bytes that one product reads."""
        return self.matrix.nbytes

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
        torch.mv(self.matrix, self.vector, out=self.result)
        if self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - started

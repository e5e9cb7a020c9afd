"""The seconds of one call among many, without its launch by the host."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from reference.graphs import side_stream

REPLAYS = 5
HEAD_START = 1_000_000  # clock cycles, half a millisecond: enough for the host to launch a graph


class Timer:
    """Times one call among many in a row: on a GPU in a replayed graph, elsewhere in a loop."""

    def __init__(self, device: torch.device):
        self.device, self.on_cuda = device, device.type == "cuda"

    def each(self, calls: Sequence[Callable[[], object]]) -> float:
        """Seconds of all calls in turn, divided by their number: the median over replays.

        The device is kept busy until the host has launched the replay. An idle device would start
        the clock at once, and the launch by the host would count as time of the kernels.
        """
        if not self.on_cuda:
            return self._median(lambda: [call() for call in calls]) / len(calls)
        with side_stream(self.device) as side:
            for call in calls[:2]:  # libraries initialise and choose kernels before the capture
                call()
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            for call in calls:
                call()
        return self._median(graph.replay, HEAD_START) / len(calls)

    def eagerly(self, calls: Sequence[Callable[[], object]]) -> float:
        """The same, with each call launched by the host."""
        return self._median(lambda: [call() for call in calls]) / len(calls)

    def _median(self, run: Callable[[], object], busy: int = 0) -> float:
        run()
        return statistics.median(self._once(run, busy) for _ in range(REPLAYS))

    def _once(self, run: Callable[[], object], busy: int) -> float:
        if self.on_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if busy:
                torch.cuda._sleep(busy)
            start.record()
            run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun

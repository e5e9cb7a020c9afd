"""The drift probe: it times one product, which takes longer on a slower machine."""

import pytest
import torch

from reference.lab import drift
from reference.lab.drift import DriftProbe


class Clock:
    """Advances by `step` seconds each time it is read."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(drift, "SIDE_ELSEWHERE", 16)


def test_the_time_is_the_median_of_single_products(small, monkeypatch):
    probe, clock = DriftProbe(), Clock()
    monkeypatch.setattr(drift.time, "perf_counter", clock)
    assert probe.product_s() == 1.0
    clock.step = 1.5
    assert probe.product_s() == 1.5


def test_a_burst_does_not_move_the_median(small, monkeypatch):
    seconds = iter([1.0] * 4 + [50.0] * 2 + [1.0] * 3)
    probe = DriftProbe()
    monkeypatch.setattr(probe, "_once", lambda: next(seconds))
    assert probe.product_s() == 1.0


def test_it_reads_the_whole_matrix(small):
    probe = DriftProbe()
    probe.product_s()
    torch.testing.assert_close(probe.result, probe.matrix @ probe.vector)
    assert probe.nbytes == 4 * 16 * 16


@pytest.mark.gpu
def test_on_a_gpu_the_matrix_is_larger_than_the_cache():
    probe = DriftProbe("cuda")
    properties = torch.cuda.get_device_properties(probe.device)
    assert probe.nbytes > 3 * properties.L2_cache_size
    assert 0 < probe.product_s() < 1

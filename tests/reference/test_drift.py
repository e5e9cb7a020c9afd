"""The drift probe: its product and its tiny step take longer on a slower machine."""

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


def test_memory_and_processor_count_alike(small, monkeypatch):
    probe = DriftProbe()
    monkeypatch.setattr(probe, "product_s", lambda: 4e-3)
    monkeypatch.setattr(probe, "step_s", lambda: 1e-3)
    assert probe.now_s() == pytest.approx(2e-3)
    probe.tiny = None  # as on a GPU
    assert probe.now_s() == 4e-3


def test_the_tiny_step_is_the_median_of_a_few(small):
    assert 0 < DriftProbe().step_s() < 1


@pytest.mark.gpu
def test_on_a_gpu_the_matrix_is_larger_than_the_cache():
    probe = DriftProbe("cuda")
    properties = torch.cuda.get_device_properties(probe.device)
    assert probe.nbytes > 3 * properties.L2_cache_size
    assert 0 < probe.product_s() < 1

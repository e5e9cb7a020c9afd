"""Noise that belongs to places: the same whoever asks, and otherwise as good as fresh."""

import numpy as np
import pytest
import torch

from reference.noise import FreshNoise, SharedNoise
from reference.sampling import draw

EXACT = 1e-9


def noise(seed: int, places: list[list[int]], vocab_size: int = 7) -> torch.Tensor:
    return SharedNoise(seed, vocab_size).uniforms(torch.tensor(places))[0]


def test_the_same_place_has_the_same_noise_however_much_else_is_asked_for() -> None:
    whole = noise(3, [list(range(20)), list(range(20))])
    assert torch.equal(noise(3, [[5, 6, 7]]), whole[:1, 5:8])
    assert torch.equal(noise(3, [[5], [19]])[1], whole[1, 19:])
    assert torch.equal(noise(3, [[5]], vocab_size=3), whole[:1, 5:6, :3])
    one, other = SharedNoise(3, 7).uniforms(torch.tensor([[5]]))
    assert torch.equal(one, other)


def test_other_seeds_rows_places_and_tokens_have_other_noise() -> None:
    values = torch.stack([noise(seed, [list(range(50))] * 4) for seed in (-1, 0, 1, 2**40)])
    assert len(values.unique()) == values.numel()
    centred = values.view(4, -1) - 0.5
    correlation = (centred @ centred.T / centred.shape[1] * 12).fill_diagonal_(0)
    assert correlation.abs().max() < 4 / centred.shape[1] ** 0.5


@pytest.mark.parametrize("seed", [0, -5, 2**63 - 1, 2**64 - 1, -(2**63)])
def test_shared_noise_is_uniform_and_never_0_or_1(seed: int) -> None:
    values = noise(seed, [list(range(3000))] * 3).flatten()
    assert 0 < values.min() < values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    expected = len(values) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # 19 degrees of freedom


def test_fresh_noise_is_torchs_own_and_independent_for_drafter_and_rule() -> None:
    fresh = FreshNoise(4, 3, 2, torch.device("cpu"))
    places = torch.zeros((3, 2), dtype=torch.long)
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        fresh.refresh()
        expected = torch.rand((2, 3, 2), generator=generator, dtype=torch.float64)
        assert all(map(torch.equal, fresh.uniforms(places), expected))


@pytest.mark.parametrize("p", [0.05, 0.2, 0.35, 0.5])
def test_a_race_of_two_is_won_with_its_probability(p: float) -> None:
    """For each time e ~ Exp(1) of the rival the border is found by bisection through `draw`; the
    expectation over e is Gauss-Laguerre quadrature."""
    nodes, weights = np.polynomial.laguerre.laggauss(40)
    rivals = torch.from_numpy(np.exp(-nodes))
    distribution = torch.tensor([p, 1 - p], dtype=torch.float64).expand(40, -1)
    low, high = torch.zeros(40).double(), torch.ones(40).double()
    for _ in range(60):  # the first wins from some uniform on
        middle = (low + high) / 2
        first = draw(distribution, torch.stack((middle, rivals), dim=1)) == 0
        low, high = torch.where(first, low, middle), torch.where(first, middle, high)
    won = ((1 - high) * torch.from_numpy(weights)).sum().item()
    assert won == pytest.approx(p, abs=EXACT)


def test_a_race_follows_the_distribution_and_is_never_won_by_probability_zero() -> None:
    distribution = torch.tensor([0.0, 0.45, 1e-3, 0.249, 0.3, 0.0], dtype=torch.float64)
    uniforms = noise(1, [list(range(200_000))], vocab_size=6)[0]
    counts = torch.bincount(draw(distribution.expand_as(uniforms), uniforms), minlength=6)
    assert counts[distribution == 0].sum() == 0
    expected = (200_000 * distribution)[distribution > 0]
    assert (
        (counts[distribution > 0] - expected) ** 2 / expected
    ).sum() < 16.3  # P = .001, 3 degrees
    shifted = expected + torch.tensor([-2000, 0, 2000, 0])
    assert ((counts[distribution > 0] - shifted) ** 2 / shifted).sum() > 16.3, (
        "a per cent is not seen"
    )


def test_a_race_does_not_care_how_the_distribution_is_scaled() -> None:
    uniforms = noise(2, [list(range(500))])[0]
    distribution = torch.rand(7, generator=torch.Generator().manual_seed(0))
    for scale in (1e-6, 3.0):
        assert torch.equal(
            draw((scale * distribution).expand(500, -1), uniforms),
            draw(distribution.expand(500, -1), uniforms),
        )


@pytest.mark.parametrize("finest", [torch.float32, torch.float64])
def test_shared_chances_lie_inside_0_and_1_in_any_float(monkeypatch, finest) -> None:
    """As on MPS, which has no float64: none may round to 0 or to 1, whose logarithms end a race."""
    monkeypatch.setattr("reference.noise.finest_float", lambda device: finest)
    chances, _ = SharedNoise(3, 50_000).uniforms(torch.arange(40).view(2, 20))
    assert chances.dtype == finest
    assert chances.min() > 0
    assert chances.max() < 1
    assert chances.mean().item() == pytest.approx(0.5, abs=0.001)
    fresh = FreshNoise(0, 2, 9, torch.device("cpu"))
    fresh.refresh()
    assert fresh.uniforms(torch.zeros((2, 9)))[0].dtype == finest

"""RMSNorm: the formula, in every dtype, whichever kernel computes it."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reference.activations import rms_norm


def case(dtype: torch.dtype, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 5, 48, generator=generator), torch.rand(48, generator=generator)
    return (scale * (x + 0.3)).to(dtype), weight.to(dtype)  # of a mean that is not 0


def formula(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + eps) ** -0.5 * weight.double()


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])  # at 1e-3 epsilon is most of the mean square
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-13), (torch.float32, 3e-6),
        (torch.bfloat16, 2**-7), (torch.float16, 2**-10),
    ],
)  # fmt: skip
def test_it_is_the_formula(dtype, tolerance, scale) -> None:
    x, weight = case(dtype, scale)
    with torch.inference_mode():
        found = rms_norm(x, weight, 1e-5)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert_close(found.double(), formula(x, weight, 1e-5), rtol=tolerance, atol=tolerance / 100)


def test_what_is_trained_is_what_is_run() -> None:
    x, weight = (tensor.requires_grad_() for tensor in case(torch.float64))
    trained = rms_norm(x, weight, 1e-5)
    trained.square().sum().backward()
    with torch.no_grad():
        assert_close(rms_norm(x, weight, 1e-5), trained, rtol=1e-13, atol=1e-15)
    again, scale = x.detach().requires_grad_(), weight.detach().requires_grad_()
    F.rms_norm(again, (48,), scale, 1e-5).square().sum().backward()
    assert_close(x.grad, again.grad)
    assert_close(weight.grad, scale.grad)


def test_rows_do_not_see_each_other() -> None:
    x, weight = case(torch.float32)
    with torch.inference_mode():
        together, alone = rms_norm(x, weight, 1e-5), rms_norm(x[1:2, 3:4], weight, 1e-5)
    assert torch.equal(together[1:2, 3:4], alone)


def test_what_is_no_number_stays_none() -> None:
    x, weight = case(torch.float32)
    x[0, 0, 7] = torch.nan
    with torch.inference_mode():
        found = rms_norm(x, weight, 1e-5)
    assert found[0, 0].isnan().all()
    assert found[0, 1:].isfinite().all()

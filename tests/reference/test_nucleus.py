"""Top-p over a large vocabulary, against a sort of every row: bit by bit the same."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from reference import nucleus, sampling
from reference.sampling import SamplingParameters, keep_nucleus
from reference.serving.row_sampling import RowSampling, RowValues

WIDE = nucleus.WIDE
FEW = WIDE // nucleus.FEWER
TOP_PS = (1e-9, 0.05, 0.5, 0.9, 0.999, 1 - 1e-7)


def by_sorting(logits: Tensor, top_p: float) -> Tensor:
    """The whole row sorted, stably, and kept while the mass before a token is below top_p."""
    shares = logits.softmax(-1)
    order = logits.argsort(dim=-1, descending=True, stable=True)
    running = shares.gather(-1, order).cumsum(-1)
    before = torch.cat((torch.zeros_like(running[..., :1]), running[..., :-1]), dim=-1)
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -math.inf)


def same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit, NaN included."""
    bits = torch.int64 if one.dtype == torch.float64 else torch.int32
    return torch.equal(one.view(bits), other.view(bits))


def kinds(dtype: torch.dtype, size: int = WIDE) -> dict[str, Tensor]:
    """Rows (4, V) of several kinds."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((4, size), generator=generator, dtype=torch.float64)
    places = torch.arange(size)
    border = torch.where(places % 3 == 0, 5.0, -9.0).expand(4, -1).clone()  # ties beyond the few
    border[:, size // 2] = 6.0
    masked = (8 * noise).masked_fill(noise < 1.5, -math.inf)
    alone = torch.full((4, size), -math.inf)
    alone[:, 77] = 1.0
    broken = 6 * noise
    broken[1, 3], broken[2, 4] = math.nan, math.inf
    few_ties = 4 * noise
    few_ties[:, places % 100 == 0] = 20.0  # equal likeliest tokens, fewer than the few
    last = 6 * noise
    ranked = last.sort(-1, descending=True).indices
    equal = last.gather(-1, ranked[:, FEW : FEW + 1]).expand(-1, 8)
    last.scatter_(-1, ranked[:, FEW - 4 : FEW + 4], equal)
    found = {
        "peaked": 8 * noise, "ordinary": 3.7 * noise, "flat": 1e-3 * noise, "equal": 0 * noise,
        "coarse": (4 * noise).round(), "ties at the border": border, "ties with the last": last,
        "equal likeliest": few_ties, "masked": masked, "one token": alone, "broken": broken,
        "some need all": noise * torch.tensor([8.0, 0.1, 6.0, 1.0])[:, None],
        "sorted": noise.sort(-1).values, "huge": 1e30 * noise, "none": alone * math.inf,
    }  # fmt: skip
    return {name: logits.to(dtype) for name, logits in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nucleus_is_that_of_a_sort(dtype: torch.dtype) -> None:
    for name, logits in kinds(dtype).items():
        for top_p in TOP_PS:
            found = keep_nucleus(logits, top_p)
            assert same(found, by_sorting(logits, top_p)), (name, top_p)
            assert same(keep_nucleus(logits[0], top_p), found[0]), "one row by itself"


def test_many_random_rows_have_the_nucleus_of_a_sort() -> None:
    generator = torch.Generator().manual_seed(1)
    for turn in range(60):
        size = int(torch.randint(WIDE, WIDE + 1000, (), generator=generator))
        scale = 10 ** (2 * torch.rand((), generator=generator) - 1)
        logits = scale * torch.randn((2, 2, size), generator=generator)
        if turn % 3 == 0:
            logits = logits.bfloat16().float()  # many ties
        top_p = float(torch.rand((), generator=generator))
        assert same(keep_nucleus(logits, top_p), by_sorting(logits, top_p)), (turn, size, top_p)


def test_its_mass_is_the_least_that_reaches_top_p() -> None:
    """By sums in double precision, which know nothing of the order of the code's sums."""
    for name in ("peaked", "ordinary", "flat", "coarse", "ties at the border"):
        logits = kinds(torch.float64)[name]
        shares = logits.softmax(-1)
        for top_p in TOP_PS[1:5]:
            kept = keep_nucleus(logits, top_p) > -math.inf
            least = shares.where(kept, math.inf).amin(-1)
            mass = (shares * kept).sum(-1)
            assert (mass >= top_p - 1e-12).all()
            assert (mass - least < top_p + 1e-12).all()
            assert (shares.where(kept, 0).amin() <= shares.amax()).all()
            dropped = shares.where(~kept, -math.inf).amax(-1)
            assert (dropped <= least).all(), "a likelier token was dropped"


def test_a_small_part_is_sorted_where_that_is_enough(monkeypatch) -> None:
    """The reason for all this: peaked rows are never sorted whole."""
    sorted_sizes: list[int] = []
    own = Tensor.sort

    def watched(self, *given, **options):
        sorted_sizes.append(self.shape[-1])
        return own(self, *given, **options)

    rows = kinds(torch.float32)
    monkeypatch.setattr(Tensor, "sort", watched)
    keep_nucleus(rows["peaked"], 0.9)
    assert max(sorted_sizes) == FEW
    keep_nucleus(rows["flat"], 0.9)
    assert max(sorted_sizes) == WIDE


PLANTED = {
    "no fallback": ("if missed.any():", "if False:"),
    "ties by the order of topk": ("few.sort(-1).values", "few.sort(-1, descending=True).values"),
    "ties with the last": ("(ordered > ordered[..., -1:])", "(ordered >= ordered[..., -1:])"),
    "one row's answer for all": ("if missed.any():", "if missed.all():"),
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_defect_is_caught(monkeypatch, defect: str) -> None:
    old, new = PLANTED[defect]
    source = inspect.getsource(nucleus)
    assert source.count(old) == 1
    planted: dict = {"__name__": "planted"}
    exec(source.replace(old, new), planted)
    monkeypatch.setattr(sampling, "nucleus_of_few", planted["nucleus_of_few"])
    assert any(
        not same(keep_nucleus(logits, top_p), by_sorting(logits, top_p))
        for logits in kinds(torch.float32).values()
        for top_p in TOP_PS
    )


def test_each_row_of_a_server_has_the_distribution_of_its_own_options() -> None:
    ways = [
        SamplingParameters(1.0, top_p=0.9), SamplingParameters(0.7, top_k=40, top_p=0.8),
        SamplingParameters(1.0), SamplingParameters(0.0), SamplingParameters(4.0, top_p=0.95),
        SamplingParameters(1.0, top_k=7), SamplingParameters(1.3, min_p=0.1),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn((len(ways), 3, WIDE), generator=generator)
    logits[0, 1] = logits[0, 1].round()
    values = RowValues.empty(len(ways), torch.device("cpu"))
    for row, way in enumerate(ways):
        values.set(row, way, WIDE, 0)
    found = RowSampling(kind="filtered", values=values).probabilities(logits)
    for row, way in enumerate(ways):
        assert torch.equal(found[row], way.probabilities(logits[row])), way


def test_a_device_that_may_not_wait_gets_the_same(monkeypatch) -> None:
    """It sorts every row; so does a server's batch there."""
    rows = kinds(torch.float32)
    values = RowValues.empty(4, torch.device("cpu"))
    for row in range(4):
        values.set(row, SamplingParameters(1.0, (None, 9)[row % 2], (0.9, 1.0)[row // 2]), WIDE, 0)
    server = RowSampling(kind="filtered", values=values)
    here = [(keep_nucleus(each, 0.9), server.probabilities(each)) for each in rows.values()]
    for module in ("sampling", "serving.row_sampling"):
        monkeypatch.setattr(f"reference.{module}.may_choose", lambda logits: False)
    there = [(keep_nucleus(each, 0.9), server.probabilities(each)) for each in rows.values()]
    for one, other in zip(here, there, strict=True):
        assert all(map(same, one, other))

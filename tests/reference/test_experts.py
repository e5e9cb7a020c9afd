"""Mixtures of experts: three ways to read the chosen ones, compared with a loop over rows."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reference.cache import KVCache
from reference.decoding import generate, speculate
from reference.drafters.draft_model import DraftModel
from reference.experts import LinearStack, Mixture, SeparateLinears
from reference.packing import can_pack, pack
from specsim.architecture import Experts

KINDS = {
    "mixtral": Experts(4, 2, 24),
    "not normalized": Experts(6, 3, 16, normalized=False),
    "one of one": Experts(1, 1, 16),
    "shared": Experts(5, 2, 16, shared_size=24, shared_gate=True, normalized=False),
}


def mixture(experts: Experts, dtype: torch.dtype = torch.float32) -> Mixture:
    generator = torch.Generator().manual_seed(0)
    made = Mixture(32, experts)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return made.to(dtype).requires_grad_(False)


def rows(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn((count, 32), generator=torch.Generator().manual_seed(1)).to(dtype)


def by_hand(made: Mixture, x: Tensor) -> Tensor:
    """Row by row, expert by expert, from the definition."""

    def expert(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = (gate_up @ x).chunk(2)
        return down @ (gate * torch.sigmoid(gate) * up)

    out = torch.zeros_like(x)
    for row, y in zip(x, out, strict=True):
        scores = (made.router.weight @ row).softmax(0)
        best = scores.argsort(descending=True)[: made.experts.per_token]
        total = scores[best].sum() if made.experts.normalized else 1.0
        for e in best:
            y += scores[e] / total * expert(row, made.gate_up.weight[e], made.down.weight[e])
        if made.experts.shared_size:
            gate = torch.sigmoid(made.shared_gate.weight @ row)
            y += gate * expert(row, made.shared_gate_up.weight, made.shared_down.weight)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_is_that_of_a_loop(kind: str) -> None:
    made, x = mixture(KINDS[kind], torch.float64), rows(12, torch.float64)
    assert_close(made(x.view(3, 4, 32)).view(12, 32), by_hand(made, x))


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_give_the_same(kind: str, count: int) -> None:
    made, x = mixture(KINDS[kind]), rows(count)
    expected = made.one_by_one(x, *made.route(x))
    for way in (made.gathered, made.grouped):
        assert_close(way(x, *made.route(x)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["one_by_one", "gathered", "grouped"])
def test_who_is_not_chosen_is_not_read(way: str) -> None:
    """Weights of NaN would show in every row that they are multiplied with, even by zero."""
    made, x = mixture(Experts(8, 2, 16)), rows(2)
    weights, chosen = made.route(x)
    expected = getattr(made, way)(x, weights, chosen)
    for expert in set(range(8)) - set(chosen.flatten().tolist()):
        made.gate_up.weight[expert] = made.down.weight[expert] = torch.nan
    assert torch.equal(getattr(made, way)(x, weights, chosen), expected)


def test_the_choice_is_made_in_32_bits() -> None:
    """In bf16 these probabilities would round to ties, and to weights off by a percent."""
    made, x = mixture(KINDS["mixtral"], torch.bfloat16), rows(5, torch.bfloat16)
    weights, chosen = made.route(x)
    assert weights.dtype == torch.float32
    assert_close(weights.sum(1), torch.ones(5))
    scores = (x @ made.router.weight.T).float()
    assert torch.equal(chosen, scores.topk(2).indices)


def test_packing_gives_every_expert_its_own_layout(tiny) -> None:
    fields = {"experts": Experts(4, 2, 24, dense_layers=(0,)), "dtype": torch.float32}
    model, packed = tiny(**fields), pack(tiny(**fields))
    held = packed.layers[1].experts.gate_up
    assert isinstance(held, SeparateLinears if can_pack(model.norm) else LinearStack)
    tokens = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        assert_close(packed(tokens), model(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_are_those_that_the_architecture_counts(tiny, kind: str) -> None:
    model = tiny(experts=KINDS[kind], num_layers=3)
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert stored == model.architecture.parameters


def test_a_mixture_is_speculated_with_like_any_target(tiny, perturbed) -> None:
    target = tiny(experts=Experts(4, 2, 24))
    drafter = DraftModel(perturbed(target, 0.05), gamma=3)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    plain = generate(target, prompts, 20).tokens
    result = speculate(target, drafter, prompts, 20)
    assert result.tokens == plain
    assert sum(result.statistics.accepted_counts) > 0
    cache = KVCache(target.architecture, 1, 32, target.dtype)
    text = torch.tensor([prompts[0] + plain[0]])
    logits = target(text, torch.arange(text.shape[1])[None], cache)
    assert logits[0, 2:-1].argmax(-1).tolist() == plain[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("count", [1, 4])
def test_few_rows_wait_for_no_host_on_a_gpu(count: int) -> None:
    """The forward pass is captured in a graph, which an answer to the host would break."""
    made, x = mixture(Experts(8, 2, 16), torch.bfloat16).cuda(), rows(count, torch.bfloat16).cuda()
    for _ in range(3):
        expected = made(x[None])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = made(x[None])
    graph.replay()
    assert_close(captured, expected)

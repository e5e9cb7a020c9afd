"""A drafting head: what it reads, what it drafts, whose it is."""

import itertools
import json
import math

import pytest
import torch
from torch import Tensor, nn

from reference import DraftHead, Ensemble, generate, load_head, load_pair, prompts, speculate
from reference.checkpoints import PAIR, load_checkpoint, save_checkpoint
from reference.graphs import addresses
from reference.heads import Head, fingerprint, save_head, untrained_head
from reference.lab.training.head import unrolled
from reference.packing import PackedLinear
from reference.sampling import SamplingParameters
from reference.transformer import Transformer
from reference.verification import LOSSLESS
from specsim.architecture import Experts, read_config
from specsim.checks import SpecsimError
from specsim.drafting import method
from specsim.hardware import system
from specsim.operators import Workload

GAMMAS = range(1, 9)
KEYS = "model.layers.0.self_attn.k_proj.weight"
NEW = 24
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55], [8, 7, 6, 5, 4, 3, 2, 1, 0], [60, 0] * 8]


def imitation(target: Transformer, noise: float = 0.0, mixed: float = 0.0) -> Head:
    """A head made of the layer of a one-layer target: with embeddings of root mean square 1 it is
    that target, but for `noise` in its weights and for what is `mixed` in of the state before."""
    head = untrained_head(target, seed=4)
    weights = {name: torch.ones_like(weight) for name, weight in head.own.items()}
    weights |= {f"layers.0.{n}": w.clone() for n, w in target.layers[0].named_parameters()}
    weights["norm"] = target.norm.clone()
    size, dtype = target.architecture.hidden_size, target.dtype
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    weights["projection.weight"] = torch.cat(
        (torch.eye(size, dtype=dtype), mixed * normal(size, size) / size**0.5), dim=1
    )
    for name, weight in weights.items():
        if weight.ndim == 2 and name.startswith("layers"):
            weight += noise * weight.std() * normal(*weight.shape)
    head.assign({name: nn.Parameter(weight) for name, weight in weights.items()})
    return head.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def one_layer(tiny) -> Transformer:
    target = tiny(2, num_layers=1)
    rows = target.embedding.weight
    rows /= rows.square().mean(1, keepdim=True).sqrt()
    return target


@pytest.fixture(scope="module")
def expected(one_layer, argmax_loop) -> list[list[int]]:
    return [argmax_loop(one_layer, prompt, NEW) for prompt in PROMPTS]


# The text is the target's


@pytest.mark.parametrize("gamma", GAMMAS)
def test_greedy_text_is_that_of_plain_decoding(one_layer, expected, gamma: int) -> None:
    head = imitation(one_layer, noise=0.1, mixed=0.2)
    batch = speculate(one_layer, DraftHead(head, gamma), PROMPTS, NEW)
    assert batch.tokens == expected
    assert 0 < batch.statistics.accepted < batch.statistics.drafted, "nothing is put to the test"
    alone = gamma % len(PROMPTS)
    result = speculate(one_layer, DraftHead(head, gamma), PROMPTS[alone], NEW)
    assert result.tokens == expected[alone]


@pytest.mark.parametrize(
    ("gamma", "fields"),
    [(1, {"qk_norm": True}), (4, {"tied_head": True, "qkv_bias": True})]
    + [(gamma, {"experts": Experts(4, 2, 24)}) for gamma in (2, 8)],
)
def test_a_head_that_knows_nothing_changes_nothing(tiny, argmax_loop, gamma, fields) -> None:
    target = tiny(9, **fields)
    expected = [argmax_loop(target, prompt, 12) for prompt in PROMPTS]
    drafter = Ensemble(DraftHead(untrained_head(target), gamma))
    assert speculate(target, drafter, PROMPTS, 12).tokens == expected


def test_a_repetition_penalty_counts_on_both_sides(one_layer) -> None:
    plain = generate(one_layer, PROMPTS, NEW, repetition_penalty=1.4).tokens
    run = speculate(
        one_layer, DraftHead(imitation(one_layer), 5), PROMPTS, NEW, repetition_penalty=1.4
    )
    assert (run.tokens, run.statistics.alpha) == (plain, 1)


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=[pytest.mark.slow] * (rule != "token")) for rule in sorted(LOSSLESS)],
)
def test_sampled_texts_have_the_targets_distribution(tiny, sampled_texts, rule: str) -> None:
    target = tiny(11, **sampled_texts.MODEL)
    drafter = DraftHead(untrained_head(target), 2)
    counts = sampled_texts.counts(target, drafter, temperature=0.8, top_p=0.95, rule=rule)
    assert (
        sampled_texts.tail(
            counts, sampled_texts.distribution(target, SamplingParameters(0.8, top_p=0.95))
        )
        > 1e-3
    )


def test_decoding_fills_the_context(tiny) -> None:
    target = tiny(5, max_context=24)
    prompts = [[7] * length for length in (1, 20, 23)]
    expected = generate(target, prompts, 100).tokens
    for gamma in (1, 8, 40):
        drafter = DraftHead(untrained_head(target), gamma)
        assert speculate(target, drafter, prompts, 100).tokens == expected


def test_a_target_that_reads_no_prompts_has_a_head_that_reads_none(tiny) -> None:
    target = tiny(3)
    target.reads_prompts = False
    drafter = DraftHead(untrained_head(target), 2)
    assert len(speculate(target, drafter, [[1] * 40, [2] * 30], 5).tokens[0]) == 5
    assert drafter.cache.keys[0][:, :30].any(-1).all()


def test_other_prompts_in_the_same_buffers_begin_anew(one_layer, expected) -> None:
    """The buffers stay where they are, which a recorded cycle needs, and nothing in them stays."""
    drafter, alpha = DraftHead(imitation(one_layer, mixed=0.3), 3), []
    orders = [PROMPTS, PROMPTS[::-1], PROMPTS]
    for order in orders:
        run = speculate(one_layer, drafter, order, NEW)
        assert sorted(run.tokens) == sorted(expected)
        alpha.append((run.statistics.alpha, addresses(drafter)))
    assert alpha[0] == alpha[2]
    assert alpha[0][1] == alpha[1][1]


@pytest.mark.parametrize("gammas", [(1, 3), (3, 1, 1, 1, 1, 2)])
def test_a_head_keeps_up_whatever_is_drafted_next(one_layer, gammas) -> None:
    turns = itertools.cycle(gammas)
    run = speculate(
        one_layer, DraftHead(imitation(one_layer), 3), PROMPTS, NEW,
        choose_gamma=lambda _: next(turns),
    )  # fmt: skip
    assert run.statistics.alpha == 1


# What is drafted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [1, 4])
def test_a_head_that_is_the_target_is_always_accepted(one_layer, temperature, gamma) -> None:
    """Every token stands where it should, and every key it should see is there."""
    drafter = DraftHead(imitation(one_layer), gamma)
    assert speculate(one_layer, drafter, PROMPTS, NEW, temperature).statistics.alpha == 1


class Recorded(DraftHead):
    """Keeps every cycle's texts, drafts and distributions."""

    def start(self, sequences, target, cache) -> None:
        super().start(sequences, target, cache)
        self.cycles = []

    def propose(self, sequences, sampling, uniforms):
        proposal = super().propose(sequences, sampling, uniforms)
        lengths = (sequences.lengths + 1).tolist()
        texts = [row[:end].tolist() for row, end in zip(sequences.tokens, lengths, strict=True)]
        self.cycles.append((texts, proposal.tokens, proposal.probabilities))
        return proposal


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_drafts_are_those_of_a_pass_over_the_whole_text(tiny, gamma: int) -> None:
    """The oracle has no cache: it unrolls the head over each text anew, as training does.

    The k-th draft of a cycle stands on the target's states up to the place before the pending
    token, and on k - 1 states of the head's own.
    """
    target = tiny(3)
    drafter = Recorded(untrained_head(target, seed=1), gamma)
    speculate(target, drafter, PROMPTS, 10, temperature=1.0)
    assert len(drafter.cycles) > 3
    for texts, drafted, distributions in drafter.cycles:
        for text, drafts, row in zip(texts, drafted.tolist(), distributions, strict=True):
            tokens = torch.tensor([text + drafts])
            depths = list(unrolled(drafter.head, target.hidden(tokens), tokens, gamma))
            for k, distribution in enumerate(row):
                whole = depths[k][
                    0, len(text) - 1
                ].exp()  # the place of the k-th draft's distribution
                torch.testing.assert_close(
                    distribution.float(), whole.float(), atol=1e-5, rtol=1e-4
                )


def test_the_first_place_has_no_state_before_it(tiny) -> None:
    target = tiny(3)
    head, tokens = untrained_head(target), torch.tensor([[5, 6]])
    states = target.hidden(tokens)
    one, two = (next(unrolled(head, s, tokens, 1)) for s in (states, states + 1))
    assert torch.equal(one[:, 0], two[:, 0])
    assert not torch.equal(one[:, 1], two[:, 1])


def test_specsim_prices_the_bytes_that_a_draft_step_reads() -> None:
    """An ideal machine streams weights and nothing else takes time, so seconds count bytes."""
    target = load_checkpoint(PAIR / "target", dtype=torch.bfloat16, packed=False)
    head, read = untrained_head(target), []
    for module in head.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda linear, *_: read.append(linear.weight.nbytes))
    before = torch.zeros((1, 1, target.architecture.hidden_size), dtype=head.dtype)
    place = torch.zeros((1, 1), dtype=torch.long)
    head.head(head.states(place, before, place))
    assert len(read) == 6  # projection, qkv, output, gate and up, down, LM head
    ideal = system("h100", engine="ideal")
    priced_s = (
        method("eagle", target.architecture).step(ideal, Workload(batch=1, context=1)).seconds
    )
    assert priced_s * ideal.bandwidth_bytes_per_s == pytest.approx(sum(read), rel=2e-3)


# Whose it is


@pytest.fixture
def saved(tiny, tmp_path):
    """A target and its head on disk; weights that bfloat16 holds."""
    target = tiny(6, dtype=torch.bfloat16, tied_head=True)
    save_checkpoint(target, tmp_path / "target")
    head = untrained_head(target, seed=2)
    save_head(head, target, tmp_path / "head")
    return tmp_path, head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_comes_back_as_it_was_written(saved, dtype) -> None:
    folder, head = saved
    target = load_checkpoint(folder / "target", dtype=dtype)
    loaded = load_head(folder / "head", target)
    assert loaded.dtype == dtype
    assert loaded.embedding is target.embedding
    assert loaded.head is target.head
    tokens = torch.tensor([[3, 1, 4]])
    before = target.hidden(tokens)
    places = torch.arange(3)[None]
    whole = Head(target).assign({n: w.to(dtype) for n, w in head.own.items()})
    torch.testing.assert_close(
        loaded.states(tokens, before, places), whole.states(tokens, before, places)
    )
    packs = target.layers[0].qkv.__class__ is PackedLinear
    assert isinstance(loaded.projection, PackedLinear) == packs
    if packs:
        with pytest.raises(SpecsimError, match="a packed head"):
            save_head(loaded, target, folder / "again")


def test_a_head_of_another_target_is_refused(saved, tiny) -> None:
    folder, _ = saved
    target = load_checkpoint(folder / "target")
    target.norm[3] *= 1.01
    with pytest.raises(SpecsimError, match="trained on other weights"):
        load_head(folder / "head", target)
    with pytest.raises(SpecsimError, match="whose vocab_size is 61; that of tiny is 32"):
        load_head(folder / "head", tiny(6, vocab_size=32))
    with pytest.raises(SpecsimError, match="not a head"):
        load_head(folder / "target", target)


def test_a_fingerprint_survives_another_dtype_and_packing(saved) -> None:
    folder, _ = saved
    target = load_checkpoint(folder / "target")
    expected = fingerprint(target)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert fingerprint(load_checkpoint(folder / "target", dtype=dtype)) == expected
    assert fingerprint(load_checkpoint(folder / "target", packed=False)) == expected
    assert fingerprint(load_checkpoint(folder / "target", precision="int8")) == expected
    target.layers[1].mlp_norm[0] *= 1.01
    assert fingerprint(target) != expected


def test_a_head_drafts_for_the_model_whose_tables_it_shares(one_layer, tiny) -> None:
    with pytest.raises(SpecsimError, match="loaded for another target than"):
        speculate(one_layer, DraftHead(untrained_head(tiny(2, num_layers=1)), 2), [1, 2], 4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("model.layers.0.enorm.weight"), "lacks model.layers.0.enorm"),
        (lambda tensors: tensors.update(spare=torch.ones(2)), "spare has no place"),
        (
            lambda tensors: tensors.update({"model.layers.0.eh_proj.weight": torch.ones(2, 2)}),
            r"eh_proj.weight has shape \(2, 2\)",
        ),
        (
            lambda tensors: tensors.update({KEYS: tensors[KEYS].to(torch.int8)}),
            r"k_proj\.weight holds I8, not floating-point",
        ),
        (
            lambda tensors: tensors.update({KEYS: tensors[KEYS] * math.nan}),
            r"q_proj\.weight and its like hold numbers that are not finite",
        ),
    ],
)
def test_a_broken_head_is_named(saved, change, named: str) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = saved
    target, file = load_checkpoint(folder / "target"), folder / "head" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(SpecsimError, match=named):
        load_head(folder / "head", target)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SpecsimError, match="truncated"):
        load_head(folder / "head", target)


# The shipped one


@pytest.fixture(scope="module")
def shipped():
    """The target, its head, some prompts, and what plain decoding makes of them."""
    target, _, _ = load_pair("bundled", dtype=torch.float64)
    texts = [prompt[: 12 + 5 * index] for index, prompt in enumerate(prompts("timed")[:5])]
    return target, load_head("bundled", target), texts, generate(target, texts, 32).tokens


@pytest.mark.parametrize(
    "gamma",
    [pytest.param(gamma, marks=[pytest.mark.slow] * (gamma not in (1, 4, 8))) for gamma in GAMMAS],
)
def test_the_shipped_head_leaves_the_greedy_text_alone(shipped, gamma: int) -> None:
    target, head, texts, plain = shipped
    run = speculate(target, DraftHead(head, gamma), texts, 32)
    assert run.tokens == plain
    assert 0.3 < run.statistics.alpha < 1
    assert speculate(target, DraftHead(head, gamma), texts[2], 32).tokens == plain[2]


def test_the_shipped_head_is_as_the_card_says() -> None:
    card = json.loads((PAIR / "card.json").read_text())["models"]["head"]
    target, _, _ = load_pair("bundled")
    stored = (PAIR / "head" / "model.safetensors").stat().st_size
    assert card["parameters"] == sum(w.numel() for w in Head(target).own.values())
    assert 2 * card["parameters"] < stored < 2.5e6
    assert read_config(PAIR / "head")["target"]["fingerprint"] == fingerprint(target)
    assert card["curve"][-1]["held_out_loss"] < card["curve"][0]["held_out_loss"]
    assert 0.4 < card["acceptance_by_depth"]["sampled"][0] < 1
    assert math.isclose(card["held_out_loss"], min(p["held_out_loss"] for p in card["curve"]))

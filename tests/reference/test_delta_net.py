"""Hybrids with recurrent state: what is rejected leaves no trace, and faults that do are seen."""

import copy
import itertools

import pytest
import torch
from family_checkpoints import TOKENS, made
from hybrids import PROMPTS, SMALL, hybrid, noisy
from safetensors.torch import load_file, save_file

from reference import (
    DraftHead,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    QuantisedSelf,
)
from reference.checkpoints import load_checkpoint
from reference.decoding import generate, speculate
from reference.delta_net import StateCache
from reference.mtp import load_mtp
from reference.sampling import SamplingParameters
from reference.serving.requests import Request
from reference.serving.slots import Slots
from reference.verification import LOSSLESS
from specsim.checks import SpecsimError

NEW = 12
KINDS = ["n-gram", "early-exit", "ensemble", "hybrid draft", "llama draft", "quantised-self"]


@pytest.fixture(scope="module")
def models(tiny):
    target = hybrid(2)
    return target, noisy(target), tiny(3)


def drafter_of(kind: str, models, gamma: int):
    _, draft, llama = models
    if kind == "n-gram":
        return NGram(gamma)
    if kind == "early-exit":
        return EarlyExit(2, gamma)
    if kind == "quantised-self":
        return QuantisedSelf(gamma, "int8")
    if kind == "ensemble":
        return Ensemble(DraftModel(draft, gamma))
    return DraftModel(draft if kind == "hybrid draft" else llama, gamma)


@pytest.fixture(scope="module")
def expected(models, argmax_loop) -> list[list[int]]:
    """Of each prompt what a loop writes that reads the whole text for every token, without a
    cache."""
    return [argmax_loop(models[0], prompt, NEW) for prompt in PROMPTS]


def require_text(models, expected, kind: str, gamma: int, single: bool = True) -> None:
    target = models[0]
    run = speculate(target, drafter_of(kind, models, gamma), PROMPTS, NEW)
    assert run.tokens == expected
    if kind not in ("llama draft",):
        assert 0 < run.statistics.accepted <= run.statistics.drafted, "nothing is put to the test"
    for prompt, text in zip(PROMPTS, expected, strict=True) if single else ():
        assert speculate(target, drafter_of(kind, models, gamma), prompt, NEW).tokens == text


def test_plain_decoding_of_a_batch_is_that_of_whole_texts(models, expected) -> None:
    assert generate(models[0], PROMPTS, NEW).tokens == expected
    for prompt, text in zip(PROMPTS, expected, strict=True):
        assert generate(models[0], prompt, NEW).tokens == text


@pytest.mark.parametrize(("kind", "gamma"), [
    *zip(KINDS, itertools.cycle((1, 3, 8))), ("hybrid draft", 1), ("hybrid draft", 8),
    ("early-exit", 5), ("n-gram", 4),
])  # fmt: skip
def test_greedy_text_of_a_hybrid_is_that_of_plain_decoding(models, expected, kind, gamma) -> None:
    require_text(models, expected, kind, gamma, single=(kind, gamma) == ("hybrid draft", 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", range(1, 9))
def test_so_it_is_for_every_drafter_and_gamma(models, expected, kind: str, gamma: int) -> None:
    require_text(models, expected, kind, gamma)


@pytest.mark.parametrize("gamma", [2, 7])
def test_in_32_bits_texts_part_at_near_ties_alone(models, tiny, first_difference, gamma) -> None:
    target, draft, llama = (copy.deepcopy(model).float() for model in models)
    plain = generate(target, PROMPTS, NEW).tokens
    for kind in ("early-exit", "hybrid draft"):
        drafter = drafter_of(kind, (target, draft, llama), gamma)
        found = speculate(target, drafter, PROMPTS, NEW).tokens
        for prompt, one, other in zip(PROMPTS, plain, found, strict=True):
            assert first_difference(target, prompt, one, other) is None


def test_adaptive_lengths_and_a_second_run_change_nothing(models, expected) -> None:
    target, draft, _ = models
    drafter = DraftModel(draft, 5)
    for offset in (0, 2):
        choose = lambda stats, offset=offset: (len(stats.cycle_times) + offset) % 6  # noqa: E731
        assert speculate(target, drafter, PROMPTS, NEW, choose_gamma=choose).tokens == expected
    drafter.gamma = 2
    assert speculate(target, drafter, PROMPTS, NEW).tokens == expected
    drafter.gamma = 8  # its ring of states grows with it
    assert speculate(target, drafter, PROMPTS, NEW).tokens == expected


def test_sequences_that_have_ended_idle_without_harm(models, expected) -> None:
    target, draft, _ = models
    stop = expected[0][3]
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in expected]
    assert speculate(target, DraftModel(draft, 4), PROMPTS, NEW, stop_ids=[stop]).tokens == cut


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=[pytest.mark.slow] * (rule != "token")) for rule in sorted(LOSSLESS)],
)
def test_sampled_texts_of_a_hybrid_have_its_distribution(sampled_texts, rule: str) -> None:
    target = hybrid(5, vocab_size=sampled_texts.SIZE, **SMALL)
    drafter = DraftModel(hybrid(6, vocab_size=sampled_texts.SIZE, **SMALL), 2)
    counts = sampled_texts.counts(target, drafter, temperature=0.8, rule=rule)
    distribution = sampled_texts.distribution(target, SamplingParameters(0.8))
    assert sampled_texts.tail(counts, distribution) > 1e-3


# Faults that others' engines have had, planted here


def last_state_kept(monkeypatch) -> None:
    """The state of the last drafted position, whatever was accepted."""
    kept = {}

    def keep_state(self, layer, positions, state):
        kept[id(self), layer] = state.clone()

    def state_at(self, layer, positions):
        state = kept.get((id(self), layer))
        return (self.states[layer][:, 0] if state is None else state).clone()

    monkeypatch.setattr(StateCache, "keep_state", keep_state)
    monkeypatch.setattr(StateCache, "state_at", state_at)


def first_state_kept(monkeypatch) -> None:
    """The state before the cycle: accepted drafts are forgotten too."""
    right = StateCache.state_at

    def state_at(self, layer, positions):
        return right(self, layer, (positions - positions % 2).clamp(min=0))

    monkeypatch.setattr(StateCache, "state_at", state_at)


def last_inputs_kept(monkeypatch) -> None:
    """The convolution looks back at what was written last."""
    right = StateCache.inputs_at

    def inputs_at(self, layer, positions):
        return right(self, layer, torch.where(positions > 0, positions + 1, positions))

    monkeypatch.setattr(StateCache, "inputs_at", inputs_at)


def ring_too_short(monkeypatch) -> None:
    """As many places as drafts: the state before a cycle is overwritten within it."""
    right = StateCache.__init__

    def shorter(self, *arguments):
        right(self, *arguments)
        self.ring = self.width

    monkeypatch.setattr(StateCache, "__init__", shorter)


def padding_counts(monkeypatch) -> None:
    """Prompts of a batch are read to the end of the longest."""
    monkeypatch.setattr(
        StateCache, "counted", property(lambda self: None, lambda self, value: None)
    )


@pytest.mark.parametrize("plant", [
    last_state_kept, first_state_kept, last_inputs_kept, ring_too_short, padding_counts,
])  # fmt: skip
def test_a_planted_fault_of_the_state_is_caught(models, expected, monkeypatch, plant) -> None:
    target, draft, _ = models
    plant(monkeypatch)
    assert speculate(target, DraftModel(draft, 4), PROMPTS, NEW).tokens != expected


def test_the_kept_last_state_is_right_only_where_all_is_accepted(models, monkeypatch) -> None:
    """Why the fault lives long: a draft that is always right hides it."""
    target, prompt = models[0], PROMPTS[2]
    plain = generate(target, prompt, NEW).tokens
    last_state_kept(monkeypatch)
    assert generate(target, prompt, NEW).tokens == plain
    assert speculate(target, NGram(3), prompt, NEW).tokens != plain


# What is kept, and what is refused


def test_states_are_kept_by_position(models) -> None:
    """After a verification of five rows the state of every position is that of a pass up to it."""
    target = models[0]
    text = torch.tensor([[5, 9, 2, 44, 31, 8, 1, 60, 3, 12, 7]])
    cache = target.new_cache(1, 16, 4)
    places = torch.arange(text.shape[1])[None]
    with torch.inference_mode():
        target(text[:, :6], places[:, :6], cache)
        target(text[:, 6:], places[:, 6:], cache)
        for end in range(6, 12):
            whole = target.new_cache(1, 16, 4)
            target(text[:, :end], places[:, :end], whole)
            at = torch.tensor([end])
            for layer, recurrent in enumerate(target.details.recurrent):
                if recurrent:
                    ours, theirs = cache.state_at(layer, at), whole.state_at(layer, at)
                    assert theirs.abs().max() > 1e-3
                    torch.testing.assert_close(ours, theirs)


def test_memory_is_a_state_for_each_position_that_may_come_back(models) -> None:
    target = models[0]
    sizes, (batch, width) = target.details.delta, (3, 5)
    cache = target.new_cache(batch, 40, width)
    held = [x for x in cache.states if x.numel()]
    assert len(held) == 2
    assert {x.shape for x in held} == {(batch, width + 2 + sizes.kernel, 4, 8, 12)}
    assert sum(x.numel() for x in cache.keys) == 2 * batch * 40 * 2 * 8


def test_noise_stands_in_for_a_prompt(models) -> None:
    target = copy.deepcopy(models[0])
    target.reads_prompts = False
    tokens = generate(target, PROMPTS, 4).tokens
    assert [len(row) for row in tokens] == [4] * len(PROMPTS)


# The module for multi-token prediction


@pytest.fixture(scope="module")
def with_module(tmp_path_factory):
    """A checkpoint of a hybrid with its module, and transformers' model and module."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_layers import MtpModel

    theirs = made(transformers, "qwen3.5")
    text = theirs.config
    text.num_mtp_layers, text.mtp_layer_types = 1, ["full_attention"]
    module = MtpModel(theirs, 1).float().eval()
    generator = torch.Generator().manual_seed(4)
    weights, shared = {}, ("embed_tokens", "shared_head", "rotary")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith(shared):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.2 * noise if parameter.ndim == 1 else
                                noise / parameter.shape[-1] ** 0.5)  # fmt: skip
                weights[spelled(name)] = parameter.clone()
    folder = tmp_path_factory.mktemp("mtp")
    theirs.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | weights, file)
    return folder, theirs, module


def spelled(name: str) -> str:
    """A tensor's name in the checkpoints of Qwen3.5."""
    for theirs, ours in (("enorm", "pre_fc_norm_embedding"), ("hnorm", "pre_fc_norm_hidden"),
                         ("eh_proj", "fc"), ("post_norm", "norm")):  # fmt: skip
        if name == f"layers.0.{theirs}.weight":
            return f"mtp.{ours}.weight"
    return "mtp." + name.replace("mtp_block.", "")


def test_the_module_gives_transformers_states(with_module) -> None:
    """It reads the tokens from the second on, each with the target's state at the one before."""
    folder, theirs, module = with_module
    target = load_checkpoint(folder)
    head, tokens = load_mtp(folder, target), TOKENS[:, :30]
    with torch.inference_mode():
        last = theirs.model(tokens).last_hidden_state
        places = torch.arange(1, 30)[None]
        expected = module.forward_layer(0, last[:, :-1], places, None, input_ids=tokens[:, 1:])
        before = torch.cat((torch.zeros_like(last[:, :1]), target.hidden(tokens)[:, :-1]), dim=1)
        cache = head.new_cache(len(tokens), 30, 4)
        found = head.states(tokens, before, torch.arange(30).expand(2, -1), cache, 30)
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gamma", [1, 4])
def test_the_module_drafts_and_the_text_stays(with_module, gamma: int) -> None:
    target = load_checkpoint(with_module[0], dtype=torch.float64, packed=False)
    drafter = DraftHead(load_mtp(with_module[0], target), gamma)
    plain = generate(target, PROMPTS, NEW).tokens
    run = speculate(target, drafter, PROMPTS, NEW)
    assert run.tokens == plain
    assert run.statistics.drafted > 0


def test_a_target_or_checkpoint_without_a_module_is_named(models, tiny, with_module) -> None:
    folder, _, _ = with_module
    with pytest.raises(SpecsimError, match="is of a family without a module for drafting"):
        load_mtp(folder, tiny())
    with pytest.raises(SpecsimError, match="the target asks for"):
        load_mtp(folder, models[0])


# A server


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "together"), [("hybrid draft", False), ("early-exit", False), ("hybrid draft", True)]
)
def test_a_server_reads_prompts_in_pieces_and_moves_rows(
    models, expected, kind: str, together: bool
) -> None:
    """Others decode between two pieces of a prompt; what they write there is written over."""
    slots = Slots(models[0], drafter_of(kind, models, 3), 4, 80)
    waiting = [Request(list(prompt), NEW, SamplingParameters(0.0)) for prompt in PROMPTS]
    order, texts = [request.number for request in waiting], {}
    while waiting or slots.used:
        while waiting and (row := slots.free_row()) is not None:
            slots.admit(row, waiting.pop(0))
        if slots.reading and together:
            slots.read_pieces(slots.rows_to_read(60), 60)
        elif slots.reading:
            row = slots.reading[-1]  # the latest first, so that others wait
            slots.read_pieces(range(row, row + 1), 7)
        if all(row in slots.reading for row, _ in slots.used):
            continue
        for _, request, result in slots.run_cycle():
            texts.setdefault(request.number, []).extend(result.emitted)
            if result.remaining == 0:
                slots.leave(slots.requests.index(request))
    assert [texts[number] for number in order] == expected

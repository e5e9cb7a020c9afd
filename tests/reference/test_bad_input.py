"""What cannot be decoded is said in one error, and what comes after is decoded as ever."""

import io

import pytest
import torch

from reference import DraftModel, EarlyExit, NGram, generate, speculate
from reference.cache import KVCache
from reference.memory import free_bytes
from specsim.checks import SpecsimError

NAN, INF = float("nan"), float("inf")


def poisoned(model, token: int, value: float = NAN):
    """`model` with an embedding of no numbers for one token: from there on its logits are none."""
    model.embedding.weight[token] = value
    return model


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0, 1, 4])
def test_logits_that_are_no_numbers_are_reported(tiny, value, temperature, gamma) -> None:
    target = poisoned(tiny(), 5, value)
    drafter = NGram(gamma)
    with pytest.raises(
        SpecsimError, match="logits for position 4 of sequence 1 are not finite, in ti"
    ):
        speculate(target, drafter, [[1, 2], [3, 4, 5, 6]], 8, temperature)


@pytest.mark.parametrize("gamma", [0, 1, 3, 8])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_the_position_is_the_first_that_they_would_have_chosen(
    tiny, gamma: int, index: int
) -> None:
    text = generate(tiny(), [3, 4], 16).tokens
    assert text[index] not in (*text[:index], 3, 4), "poisoned too early"
    target, drafter = poisoned(tiny(), text[index]), DraftModel(tiny(), gamma)
    # a pass that holds the token among its drafts has no numbers anywhere
    written = 2 + index + 1
    with pytest.raises(SpecsimError, match="logits for position") as error:
        speculate(target, drafter, [3, 4], 16)
    position = int(str(error.value).split("position ")[1].split()[0])
    assert written - gamma <= position <= written
    assert gamma > 0 or position == written


def test_a_draft_that_is_not_finite_is_reported_where_it_counts(tiny) -> None:
    target, drafter = tiny(), DraftModel(poisoned(tiny(1), 5), 3)
    with pytest.raises(
        SpecsimError, match="position 3 of sequence 0 are not finite, in tiny or its dr"
    ):
        speculate(target, drafter, [4, 5, 6], 8, temperature=1.0)
    plain = generate(target, [4, 5, 6], 8).tokens
    assert speculate(target, drafter, [4, 5, 6], 8).tokens == plain, "greedy drafts are guesses"


@pytest.mark.parametrize("rule", ["token", "block", "match", "typical"])
def test_every_rule_reports_it(tiny, rule: str) -> None:
    with pytest.raises(SpecsimError, match="not finite"):
        speculate(poisoned(tiny(), 5), NGram(2), [5, 6], 4, temperature=0.7, rule=rule)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_the_targets_cache_is_clean_after_it(tiny, mode: str, monkeypatch) -> None:
    """What is masked must be a number, since 0 x NaN is NaN; and buffers are kept between runs."""
    monkeypatch.setattr(torch, "compile", lambda stage, **options: stage)  # buffers, not speed
    target, drafter = poisoned(tiny(max_context=512), 5), NGram(2)
    expected = generate(tiny(max_context=512), [1, 2, 3], 6).tokens
    assert 5 not in expected
    for _ in range(2):
        with pytest.raises(SpecsimError, match="not finite"):
            speculate(target, drafter, [9, 8, 7, 6, 5, 4], 3, mode=mode)
        assert speculate(target, drafter, [1, 2, 3], 6, mode=mode).tokens == expected


def test_the_drafts_cache_is_clean_after_it(tiny) -> None:
    target, drafter = tiny(), DraftModel(poisoned(tiny(), 5), 3)
    with pytest.raises(SpecsimError, match="not finite"):
        speculate(target, drafter, [9, 8, 7, 6, 5, 4], 3, temperature=1.0)
    cache = drafter.cache
    run = speculate(target, drafter, [1, 2, 3], 6)  # the same number of slots
    assert drafter.cache is cache
    assert run.statistics.alpha == 1.0


def test_keys_and_values_that_do_not_fit_are_refused_with_their_size(tiny, monkeypatch) -> None:
    model = tiny(max_context=4096)
    monkeypatch.setattr("reference.memory.free_bytes", lambda device: 1e5)
    words = r"keys and values of 3 x \d+ tokens in tiny need \d+ kB of memory; 100 kB are free"
    with pytest.raises(SpecsimError, match=words):
        generate(model, [[1], [2], [3]], 500)
    monkeypatch.undo()
    assert len(generate(model, [[1], [2], [3]], 5).tokens) == 3


def test_what_torch_holds_and_does_not_use_is_free_too(monkeypatch) -> None:
    """Of a GPU: what the driver has left, and what torch has reserved without a tensor in it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert free_bytes(torch.device("cuda")) == 500 + (300 - 100)


@pytest.mark.parametrize(
    ("told", "free"),
    [("MemTotal: 9 kB\nMemAvailable:    4 kB\n", 4096.0), ("MemTotal: 9 kB\n", float("inf"))],
)
def test_what_the_system_can_give_is_free(monkeypatch, told: str, free: float) -> None:
    """Of a CPU; without a limit where the system does not say."""
    monkeypatch.setattr("reference.memory.open", lambda *_, **__: io.StringIO(told), raising=False)
    assert free_bytes(torch.device("cpu")) == free


def test_an_allocation_that_fails_is_said_with_its_size(tiny, monkeypatch) -> None:
    def fails(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    shape = tiny().architecture
    monkeypatch.setattr(torch, "zeros", fails)
    with pytest.raises(SpecsimError, match=r"in tiny need 8\.19 kB, and cpu is out of"):
        KVCache(shape, 2, 8, torch.float64)
    monkeypatch.setattr(torch, "zeros", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        KVCache(shape, 2, 8, torch.float64)


@pytest.mark.parametrize(
    ("drafter", "options", "words"),
    [
        (NGram(65), {}, "gamma must be between 0 and 64, not 65"),
        (EarlyExit(9, 2), {}, "has 2 layers; cannot keep the first 9"),
        (NGram(2), {"mode": "cuda-graphs"}, "CUDA graphs need a CUDA device, not cpu"),
        (NGram(2), {"mode": "fast"}, "unknown mode 'fast'; known: eager"),
        (NGram(2), {"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
    ],
)
def test_options_that_cannot_be_are_refused(tiny, drafter, options, words) -> None:
    with pytest.raises(SpecsimError, match=words):
        speculate(tiny(), drafter, [1, 2], **{"max_new_tokens": 4} | options)

"""Who can draft for whom: by tokenizer family, not by the size of a table."""

from dataclasses import replace

import pytest

from specsim import DraftModel, SpecsimError, catalog, method, model, predict, system
from specsim.architecture import drafts_for, shares_tokenizer, tokenizer_of

MODELS = {name: model(name) for name in catalog.load("models")}

# Each was accepted when sizes up to 1 % apart passed, or has the very same size.
FOREIGN = [
    ("deepseek-v3", "llama-3.2-1b"),  # 129,280 and 128,256
    ("mistral-7b", "tinyllama-1.1b"),  # 32,000 both
    ("mixtral-8x7b", "llama-2-7b"),
    ("llama-2-13b", "open-llama-3b"),
    ("opt-13b", "gpt2"),  # 50,272 and 50,257: the same pieces under other ids
    ("gpt2-xl", "opt-125m"),
]
FITTING = [
    ("qwen2.5-72b", "qwen2.5-0.5b"),  # 152,064 and 151,936: one vocabulary, padded
    ("qwen3-32b", "qwen2.5-0.5b"),
    ("phi-3-mini", "tinyllama-1.1b"),  # 32,064: Llama 2's and 64 more
    ("gemma-3-27b", "gemma-3-1b"),  # 262,208 and 262,144
    ("deepseek-r1", "deepseek-v3"),
]


@pytest.mark.parametrize(("target", "draft"), FOREIGN)
def test_a_draft_of_another_family_is_refused_with_those_that_fit(target: str, draft: str) -> None:
    with pytest.raises(SpecsimError) as refused:
        predict(MODELS[target], DraftModel(MODELS[draft]), system("h100"), gamma=1, alpha=0.8)
    told = str(refused.value)
    assert f"{draft} has the tokenizer" in told
    drafts = drafts_for(MODELS[target])
    assert all(name in told for name in drafts[:6])
    assert drafts or "no smaller model has it" in told


@pytest.mark.parametrize(("target", "draft"), FITTING)
def test_one_family_in_another_padding_passes(target: str, draft: str) -> None:
    drafter = DraftModel(MODELS[draft])
    assert predict(MODELS[target], drafter, system("h200"), gamma=1, alpha=0.8).speedup > 0


def test_every_pair_of_the_catalog_is_told_by_its_families() -> None:
    for draft in MODELS.values():
        for target in MODELS.values():
            same = draft.tokenizer == target.tokenizer
            assert shares_tokenizer(draft, target) == same, (draft.name, target.name)


@pytest.mark.parametrize("name", MODELS)
def test_the_drafts_that_are_offered_fit(name: str) -> None:
    drafts = drafts_for(MODELS[name])
    sizes = [MODELS[draft].parameters for draft in drafts]
    assert sizes == sorted(sizes)
    for draft in drafts:
        assert MODELS[draft].parameters < MODELS[name].parameters
        assert shares_tokenizer(MODELS[draft], MODELS[name])


def test_a_model_from_a_file_is_told_by_a_size_that_one_family_has() -> None:
    def from_a_file(**changes) -> object:
        return replace(MODELS["llama-3.1-8b"], name="mine", tokenizer=None, **changes)

    assert tokenizer_of(from_a_file()) == "llama-3"
    assert tokenizer_of(from_a_file(vocab_size=129_280)) == "deepseek-v3"
    assert tokenizer_of(from_a_file(vocab_size=32_000)) is None  # Llama 2, Mistral or others
    assert tokenizer_of(from_a_file(vocab_size=77_777)) is None
    assert not shares_tokenizer(MODELS["llama-3.2-1b"], from_a_file(vocab_size=129_280))
    # where it says nothing, sizes decide, and a padding passes
    for size, fits in ((32_000, True), (32_001, True), (33_000, False)):
        assert shares_tokenizer(from_a_file(vocab_size=size), MODELS["llama-2-7b"]) == fits


def test_heads_and_early_exits_are_of_the_targets_family() -> None:
    for name in ("eagle-3", "medusa", "early-exit", "quantised-self", "eagle-2", "p-eagle"):
        drafter = method(name, MODELS["llama-3.1-8b"])
        with pytest.raises(SpecsimError, match="must share the target's vocabulary"):
            predict(MODELS["deepseek-v3"], drafter, system("h100"), gamma=1, alpha=0.8)


def test_a_tokenizer_of_the_catalog_is_of_its_models() -> None:
    used = {row["tokenizer"] for row in catalog.load("models").values()}
    assert used == set(catalog.load("tokenizers"))

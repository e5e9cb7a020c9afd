"""Longrope, which has two sets of angles: transformers' logits on both sides of the original
context, and one set for all of a text, whatever drafts and however the text is cut into passes."""

import json
from pathlib import Path

import pytest
import torch
from family_checkpoints import LONGROPE, SIZES, TOKENS, edit_config, made, saved
from torch.testing import assert_close

from reference import DraftModel, EarlyExit, NGram, StaticTree, Tree
from reference.checkpoints import load_checkpoint
from reference.decoding import generate, speculate
from reference.rotary import Rope
from reference.sampling import SamplingParameters
from reference.serving.requests import Request
from reference.serving.slots import Slots

ORIGINAL = 64
NAMES = ["phi3, longrope", "phi4-mini, longrope", "llama, longrope"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each family, transformers' model and the folder of its checkpoint."""
    transformers, found = pytest.importorskip("transformers"), {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("longrope")
        theirs = made(transformers, name)
        saved(theirs, folder)
        found[name] = theirs, folder
    return found


@pytest.fixture(scope="module")
def target(folders):
    return loaded(folders[NAMES[0]][1])


def loaded(folder: Path):
    """In 64 bits, and without an end of the text."""
    model = load_checkpoint(folder, dtype=torch.float64, packed=False)
    model.stop_ids = frozenset()
    return model


@pytest.fixture(scope="module")
def always_long(folders, tmp_path_factory):
    """The same model, which takes the long angles in short texts too."""
    folder, old = tmp_path_factory.mktemp("long"), folders[NAMES[0]][1]
    for file in old.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    table = json.loads((folder / "config.json").read_text())["rope_parameters"]
    edit_config(folder, rope_parameters=table | {"short_factor": table["long_factor"]})
    return loaded(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [40, ORIGINAL, ORIGINAL + 1, 150])
@torch.inference_mode()
def test_logits_are_transformers_on_both_sides_of_the_original_context(
    folders, name: str, count: int
) -> None:
    theirs, folder = folders[name]
    ours, tokens = load_checkpoint(folder), TOKENS[:, :count]
    expected = theirs(tokens).logits
    assert_close(ours(tokens), expected, atol=1e-4, rtol=1e-4)
    cache, found = ours.new_cache(len(tokens), count, 8), []
    for begin, end in ((0, 30), (30, 31), (31, 36), (36, count)):
        places = torch.arange(begin, end).expand(len(tokens), -1)
        found.append(ours(tokens[:, begin:end], places, cache))
    assert_close(torch.cat(found, dim=1), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_two_sets_differ_and_a_factor_applies_to_both(target, always_long) -> None:
    short, long = TOKENS[:, :ORIGINAL], TOKENS[:, : ORIGINAL + 1]
    assert (target(short) - always_long(short)).abs().max() > 0.1
    assert (target(long)[:, :-1] - target(short)).abs().max() > 0.1
    assert_close(target(long), always_long(long))


@pytest.mark.parametrize("spelling", ["su", "yarn", "longrope"])
def test_older_configs_of_phi3_mean_the_same(target, folders, tmp_path: Path, spelling) -> None:
    """`rope_scaling`, `type`, and the original context next to the table."""
    for file in folders[NAMES[0]][1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    scaling = {key: value for key, value in LONGROPE.items() if key.endswith("_factor")}
    edit_config(
        tmp_path, rope_parameters=None, rope_scaling=scaling | {"type": spelling}, rope_theta=1e4
    )
    assert json.loads((tmp_path / "config.json").read_text())["original_max_position_embeddings"]
    assert torch.equal(loaded(tmp_path).rotary, target.rotary)


def test_the_factor_of_queries_and_keys() -> None:
    """As the paper has it, with 128k of 4k: sqrt(1 + ln 32 / ln 4096)."""
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
               "original_max_position_embeddings": 4096, "factor": 32.0}  # fmt: skip
    rope = Rope(1e4, 8, scaling=scaling)
    assert rope.frequencies()[1] == pytest.approx(1.190238, abs=1e-6)
    assert rope.for_long_texts.frequencies()[1] == rope.frequencies()[1]
    assert_close(rope.for_long_texts.frequencies()[0], rope.frequencies()[0] / 2)
    assert Rope(1e4, 8, scaling=scaling | {"attention_factor": 1.5}).frequencies()[1] == 1.5


# One set for all of a text


def drafters(target) -> list:
    tree = Tree.branching((2, 2, 1))
    return [EarlyExit(1, 4), NGram(3), DraftModel(target, 3), StaticTree(target, tree)]


def test_a_text_that_stays_short_is_that_of_short_angles(target, argmax_loop) -> None:
    prompts = [TOKENS[0, :n].tolist() for n in (1, 20, ORIGINAL - 12)]
    expected = [argmax_loop(target, prompt, 12) for prompt in prompts]
    assert generate(target, prompts, 12).tokens == expected
    for drafter in drafters(target):
        assert speculate(target, drafter, prompts, 12).tokens == expected


def test_one_that_may_grow_long_is_that_of_long_angles(target, always_long, argmax_loop) -> None:
    """From its first token on, and whatever else is in the batch."""
    prompts = [TOKENS[0, :n].tolist() for n in (ORIGINAL - 11, 60, 80)]
    expected = [argmax_loop(always_long, prompt, 12) for prompt in prompts]
    assert argmax_loop(target, prompts[0], 12) != expected[0], "nothing is put to the test"
    short = TOKENS[1, :20].tolist()
    in_short = argmax_loop(target, short, 12)
    assert generate(target, [*prompts, short], 12).tokens == [*expected, in_short]
    for drafter in drafters(target):
        assert speculate(target, drafter, [*prompts, short], 12).tokens == [*expected, in_short]
        assert speculate(target, drafter, short, 12).tokens == in_short


def test_a_text_that_stays_on_one_side_is_what_transformers_writes(folders, target) -> None:
    theirs = folders[NAMES[0]][0].double()
    try:
        for count in (30, 70):
            prompt = TOKENS[:1, :count]
            options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
            whole = torch.ones_like(prompt)  # else its padding token would be masked
            written = theirs.generate(prompt, attention_mask=whole, **options)
            expected = written[0, count:].tolist()
            assert generate(target, prompt[0].tolist(), 12).tokens == expected
    finally:
        theirs.float()


@torch.inference_mode()
@pytest.mark.parametrize("context", [ORIGINAL, ORIGINAL + 20])
def test_a_server_chooses_by_its_context(target, always_long, argmax_loop, context: int) -> None:
    slots = Slots(target, DraftModel(target, 3), 2, context)
    drafts = slots.whole.drafter.cache
    assert drafts.ends.tolist() == slots.whole.cache.ends.tolist() == [context] * 2
    prompts = [TOKENS[0, :20].tolist(), TOKENS[1, :9].tolist()]
    for row, prompt in enumerate(prompts):
        slots.admit(row, Request(prompt, 12, SamplingParameters(0.0), ignores_end=True))
    while slots.reading:
        slots.read_pieces(slots.rows_to_read(100), 100)
    texts = {}
    while slots.used:
        for _, request, result in slots.run_cycle():
            texts.setdefault(tuple(request.prompt), []).extend(result.emitted)
            if result.remaining == 0:
                slots.leave(slots.requests.index(request))
    oracle = target if context == ORIGINAL else always_long
    for prompt in prompts:
        assert texts[tuple(prompt)] == argmax_loop(oracle, prompt, 12)
    assert SIZES["max_position_embeddings"] > context

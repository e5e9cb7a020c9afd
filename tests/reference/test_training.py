"""Training: what is held out stays out, an interrupted run goes on where it was, the loss falls."""

import json
import math
from dataclasses import replace

import pytest
import torch

from reference import training
from reference.checkpoints import PAIR, Tokenizer
from reference.corpus import Corpus, choose_prompts, standard_library, token_stream, train_tokenizer
from reference.training import Recipe, batches, bundled_shape, learning_rate_factor, train

SHAPE = replace(bundled_shape("micro", 64, 1, 1, 1, 96), vocab_size=64)
RECIPE = Recipe(SHAPE, budget_tokens=6_400, batch_tokens=128, sequence=32, warmup=0.1)
STREAM = torch.arange(4000, dtype=torch.int16) % 7  # learnable: every token follows from the last


def test_the_loss_falls(tmp_path):
    model, curve = train(RECIPE, STREAM, STREAM, tmp_path / "run.pt", compiled=False)
    assert curve[-1]["held_out_loss"] < 1.0 < math.log(7) < curve[0]["held_out_loss"]
    assert not model.training


def test_a_resumed_run_is_the_run(tmp_path, monkeypatch):
    whole, _ = train(RECIPE, STREAM, STREAM, tmp_path / "whole.pt", compiled=False)

    def interrupted(recipe, tokens, first):
        for step, batch in enumerate(batches(recipe, tokens, first), first):
            if first == 0 and step == 20:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(training, "batches", interrupted)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, STREAM, STREAM, tmp_path / "run.pt", compiled=False)
    resumed, curve = train(RECIPE, STREAM, STREAM, tmp_path / "run.pt", compiled=False)
    assert len(curve) == len({point["tokens"] for point in curve})
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight)


def test_the_learning_rate_rises_then_falls_to_zero():
    assert learning_rate_factor(0.0, 0.02) == 0.0
    assert learning_rate_factor(0.02, 0.02) == 1.0
    assert learning_rate_factor(1.0, 0.02) == 0.0


def test_no_file_is_both_trained_on_and_held_out():
    corpus = standard_library()
    held_out = {text for _, text in corpus.held_out}
    assert corpus.train
    assert corpus.held_out
    assert len(corpus.sha256) == 64
    assert 0.02 < len(held_out) / (len(held_out) + len(corpus.train)) < 0.1


def test_prompts_are_whole_lines_of_held_out_files():
    lines = "".join(f"line number {n} of a file\n" for n in range(100))
    corpus = Corpus([], [(f"file{n}.py", lines) for n in range(6)], "", "")
    prompts = choose_prompts(corpus, count=3)
    assert [len(prompts[which]) for which in ("calibration", "timed")] == [3, 3]
    files = [prompt["file"] for which in prompts.values() for prompt in which]
    assert len(set(files)) == 6
    assert all(prompt["text"].endswith("\n") for which in prompts.values() for prompt in which)


def test_any_text_survives_the_tokenizer():
    tokenizer = train_tokenizer(["def f(x):\n    return x\n" * 20])
    for text in ("def f(x):\n\treturn x  # é 中 🙂", "", "\x00\r\n"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    stream = token_stream(tokenizer, ["a", "b"])
    assert (stream == 0).sum() == 3  # the end of text stands around every file


def test_the_card_says_how_the_shipped_pair_was_made():
    card = json.loads((PAIR / "card.json").read_text())
    assert len(card["corpus"]["sha256"]) == 64
    for role in ("target", "draft"):
        model = card["models"][role]
        assert {"recipe", "held_out_loss", "curve", "parameters"} <= model.keys()
        assert model["curve"][-1]["held_out_loss"] < model["curve"][0]["held_out_loss"]
    sizes = [file.stat().st_size for file in PAIR.rglob("*") if file.is_file()]
    assert max(sizes) <= 16e6
    assert sum(sizes) <= 25e6
    assert Tokenizer(PAIR / "target" / "tokenizer.json").vocabulary["<|endoftext|>"] == 0

"""Training: held-out files stay out, an interrupted run resumes, and the loss falls."""

import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch

from reference.checkpoints import PAIR, Tokenizer, load_checkpoint
from reference.heads import fingerprint, load_head, untrained_head
from reference.lab.corpus import (
    Corpus,
    choose_prompts,
    standard_library,
    token_stream,
    train_tokenizer,
)
from reference.lab.training import (
    DraftRecipe,
    HeadRecipe,
    Recipe,
    acceptance_by_depth,
    bundled_architecture,
    distil,
    loop,
    make_pair,
    pair,
    train_head,
    train_model,
)
from reference.lab.training.distillation import overlap
from reference.lab.training.loop import batches, learning_rate_factor
from reference.lab.training.models import initialise
from reference.transformer import Transformer
from reference.verification import keeps
from specsim.checks import SpecsimError

SHAPE = replace(bundled_architecture("micro", 64, 1, 1, 1, 96), vocab_size=64)
RECIPE = Recipe(SHAPE, budget_tokens=6_400, batch_tokens=128, sequence=32, warmup=0.1)
STREAM = torch.arange(4000, dtype=torch.int16) % 7  # learnable: every token follows from the last


@contextmanager
def in_float32():
    """Training without bf16, whose products take ten times as long on a CPU without units for it.
    The run of a whole model and of a distillation have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_: nullcontext())
        yield


@pytest.fixture
def fast_products():
    with in_float32():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without an interruption: the model and its curve."""
    file = tmp_path_factory.mktemp("whole") / "run.pt"
    return train_model(RECIPE, STREAM, STREAM, file, compiled=False)


def test_the_loss_falls(whole):
    model, curve = whole
    assert curve[-1]["held_out_loss"] < 1.0 < math.log(7) < curve[0]["held_out_loss"]
    assert not model.training


def test_weights_into_the_residual_stream_are_drawn_smaller_by_depth():
    deep = replace(bundled_architecture("deep", 96, 8, 2, 1, 128), vocab_size=64)
    for name, weight in initialise(Transformer(deep)).named_parameters():
        if weight.ndim == 2:
            into = name.endswith(("output.weight", "down.weight"))
            expected = 0.02 / math.sqrt(2 * 8) if into else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(weight.mean().item()) < 0.1 * expected, name


@pytest.fixture
def interruption(monkeypatch):
    """The first run is interrupted in its 21st step, after a checkpoint."""

    def interrupted(recipe, tokens, first):
        for step, batch in enumerate(batches(recipe, tokens, first), first):
            if first == 0 and step == 20:
                raise KeyboardInterrupt
            yield batch

    def begin():
        monkeypatch.setattr(loop, "batches", interrupted)
        monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    return begin


def test_a_resumed_run_is_the_run(tmp_path, interruption, fast_products):
    recipe = replace(RECIPE, budget_tokens=3_840)

    def train(file):
        return train_model(recipe, STREAM, STREAM, tmp_path / file, compiled=False)

    whole, _ = train("whole.pt")
    interruption()
    with pytest.raises(KeyboardInterrupt):
        train("run.pt")
    resumed, curve = train("run.pt")
    assert len(curve) == len({point["tokens"] for point in curve})
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight)


# A draft and a head, taught by the target


@pytest.fixture(scope="module")
def target(tiny) -> Transformer:
    """Random, so that its distribution is not that of the corpus: a head must learn from it."""
    return tiny(7, dtype=torch.float32, num_layers=1, vocab_size=16)


HEAD_RECIPE = HeadRecipe(
    SHAPE, budget_tokens=12_800, batch_tokens=256, sequence=32, matrix_learning_rate=0.03,
    warmup=0.1, depth=2,
)  # fmt: skip
TEXT = torch.randint(16, (20_000,), generator=torch.Generator().manual_seed(0), dtype=torch.int16)


DRAFT_RECIPE = DraftRecipe(
    replace(SHAPE, vocab_size=16), budget_tokens=1, batch_tokens=256, sequence=32, warmup=0.1,
    distilled_tokens=25_600, distilled_rate=2.0,
)  # fmt: skip


@pytest.fixture
def draft(tiny) -> Transformer:
    return tiny(3, dtype=torch.float32, num_layers=1, vocab_size=16)


def test_a_draft_learns_the_distribution_of_its_target(target, draft, tmp_path):
    kept = [weight.clone() for weight in target.parameters()]
    windows = TEXT[:320].view(10, 32).long()
    before = overlap(target, draft, windows).item()
    curve = distil(DRAFT_RECIPE, draft, target, TEXT, TEXT, tmp_path / "run.pt", compiled=False)
    after = overlap(target, draft, windows).item()
    assert before < 0.25
    assert after > 0.6
    assert curve[-1]["held_out_loss"] == pytest.approx(1 - after, abs=0.03)
    assert curve[-1]["tokens"] == DRAFT_RECIPE.distilled_tokens
    assert all(map(torch.equal, kept, target.parameters())), "the target was trained as well"


def test_the_overlap_is_how_often_a_draft_is_accepted(target, draft):
    """Compared with the accept rule itself, on sampled drafts."""
    tokens = torch.randint(16, (40, 30), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        p, q = (model(tokens).double().softmax(-1).flatten(0, 1) for model in (target, draft))
        expected = overlap(target, draft, tokens).item()
    accepted, rounds = 0.0, 40
    generator = torch.Generator().manual_seed(6)
    for _ in range(rounds):
        drafted = q.multinomial(1, generator=generator)
        uniforms = torch.rand(len(q), 1, generator=generator, dtype=torch.float64)
        both = p[:, None].expand(-1, 2, -1)  # at the drafted position, and at the next one
        accepted += keeps(both, q[:, None], drafted, uniforms).double().mean().item()
    error = (expected * (1 - expected) / (rounds * len(q))) ** 0.5
    assert abs(accepted / rounds - expected) < 4 * error


@pytest.fixture(scope="module")
def whole_head(target, tmp_path_factory):
    """A run without an interruption: the head, its curve, and the target's weights before it."""
    before = [weight.clone() for weight in target.parameters()]
    file = tmp_path_factory.mktemp("whole") / "head.pt"
    with in_float32():
        return *train_head(HEAD_RECIPE, target, TEXT, TEXT, file, compiled=False), before


def test_a_head_learns_the_distribution_of_its_target(target, whole_head):
    def acceptance(head):
        return acceptance_by_depth(head, target, TEXT, depth=3, sequence=32)

    head, curve, before = whole_head
    assert curve[-1]["held_out_loss"] < 0.2 * curve[0]["held_out_loss"]
    shares, at_first = acceptance(head), acceptance(untrained_head(target))
    for kind in ("sampled", "greedy"):
        assert max(at_first[kind]) < 0.25
        assert 0.6 < min(shares[kind]) <= max(shares[kind]) < 1
    assert all(map(torch.equal, before, target.parameters())), "the target was trained as well"


def test_a_resumed_run_of_a_head_is_the_run(target, whole_head, tmp_path, interruption):
    def train():
        file = tmp_path / "run.pt"
        with in_float32():
            return train_head(HEAD_RECIPE, target, TEXT, TEXT, file, compiled=False)[0]

    interruption()
    with pytest.raises(KeyboardInterrupt):
        train()
    resumed = train()
    for name, weight in whole_head[0].own.items():
        torch.testing.assert_close(resumed.own[name], weight)


@pytest.mark.parametrize("part", ["head", "draft"])
def test_a_finished_run_of_another_target_recipe_or_corpus_is_not_resumed(
    tiny, tmp_path, capsys, fast_products, part: str
):
    """The norms of both targets are alike, so the fingerprint in a head's file does not differ."""
    target = tiny(7, dtype=torch.float32, num_layers=1, vocab_size=16)
    other = tiny(8, dtype=torch.float32, num_layers=1, vocab_size=16)
    for name, weight in other.named_parameters():
        if name.endswith("norm"):
            weight.copy_(target.get_parameter(name))
    assert fingerprint(other) == fingerprint(target)
    head_recipe = replace(HEAD_RECIPE, budget_tokens=512)
    draft_recipe = replace(DRAFT_RECIPE, distilled_tokens=512)

    def train(teacher=target, text=TEXT, seed=0, draft_seed=3) -> tuple[list[torch.Tensor], str]:
        file = tmp_path / "run.pt"
        if part == "head":
            recipe = replace(head_recipe, seed=seed)
            head, _ = train_head(recipe, teacher, text, TEXT, file, compiled=False)
            weights = head.own.values()
        else:
            recipe = replace(draft_recipe, seed=seed)
            draft = tiny(draft_seed, dtype=torch.float32, num_layers=1, vocab_size=16)
            distil(recipe, draft, teacher, text, TEXT, file, compiled=False)
            weights = draft.parameters()
        return [weight.detach().clone() for weight in weights], capsys.readouterr().out

    first, said = train()
    assert "begins anew" not in said
    again, said = train()
    assert said == ""  # no step is left
    assert all(map(torch.equal, first, again))
    changes = [
        ("target", {"teacher": other}),
        ("recipe", {"seed": 1}),
        ("corpus", {"text": ~TEXT % 16}),
    ]
    if part == "draft":
        changes.append(("draft", {"draft_seed": 4}))
    for what, change in changes:
        train()
        anew, said = train(**change)
        assert f"run.pt is not of this {what}: training begins anew" in said
        assert "'tokens': 512" in said
        assert not all(map(torch.equal, first, anew))


def test_a_checkpoint_that_does_not_say_of_what_run_it_is_is_not_resumed(tmp_path, capsys):
    recipe = replace(RECIPE, budget_tokens=256)
    file = tmp_path / "run.pt"
    train_model(recipe, STREAM, STREAM, file, compiled=False)
    state = torch.load(file)
    del state["run"]
    torch.save(state, file)
    capsys.readouterr()
    train_model(recipe, STREAM, STREAM, file, compiled=False)
    said = capsys.readouterr().out
    assert "run.pt is not of this recipe and corpus: training begins anew" in said
    assert "'tokens': 256" in said


@pytest.fixture
def small_corpus(monkeypatch) -> Corpus:
    """A few lines in the place of the standard library."""
    lines = "".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(100))
    corpus = Corpus([lines] * 3, [(f"file{n}.py", lines) for n in range(60)], "0" * 64, "3")
    monkeypatch.setattr(pair, "standard_library", lambda: corpus)
    return corpus


def test_a_part_alone_needs_the_pair_that_it_belongs_to(tmp_path, small_corpus):
    with pytest.raises(SpecsimError, match="train all parts first"):
        make_pair("bundled", tmp_path, parts=["head"])
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "tokenizer.json").write_text("{}")
    card = json.loads((PAIR / "card.json").read_text())
    card["corpus"]["sha256"] = "1" * 64
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(SpecsimError, match="made from another corpus"):
        make_pair("bundled", tmp_path, parts=["head"])


@pytest.mark.parametrize(
    ("card", "says"), [("{", "not valid JSON"), ('{"corpus": 3, "models": {}}', "must hold tables")]
)
def test_a_broken_card_is_named(tmp_path, small_corpus, card: str, says: str):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "tokenizer.json").write_text("{}")
    (tmp_path / "card.json").write_text(card)
    with pytest.raises(SpecsimError, match=rf"card\.json.*{says}"):
        make_pair("bundled", tmp_path, parts=["head"])


def test_a_budget_or_a_place_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pair, "standard_library", None)  # it would fail if it were called
    for tokens in (0, -5):
        with pytest.raises(SpecsimError, match="--tokens must be above 0"):
            make_pair("bundled", tmp_path, budget=tokens)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecsimError, match="cannot write"):
        make_pair("bundled", tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04cut"])
def test_a_broken_checkpoint_of_a_run_is_named(tmp_path, content: bytes):
    file = tmp_path / "run.pt"
    file.write_bytes(content)
    with pytest.raises(SpecsimError, match=r"cannot resume from .*run\.pt.*delete it") as refused:
        loop.resumed(file, {"weight": torch.nn.Parameter(torch.zeros(2))}, [], {})
    assert "\n" not in str(refused.value)


def test_the_parts_are_made_one_after_another_and_alone(
    tmp_path, monkeypatch, small_corpus, fast_products, capsys
):
    """The whole of `make_pair`, on a corpus of a few lines and with micro models."""
    size = train_tokenizer(small_corpus.train).get_vocab_size()
    shape = replace(SHAPE, vocab_size=size, max_context=256)
    recipe = replace(RECIPE, architecture=shape, budget_tokens=1280)
    head = HeadRecipe(shape, budget_tokens=1280, batch_tokens=128, sequence=32)
    draft = DraftRecipe(
        shape, budget_tokens=51_200, batch_tokens=12_800, sequence=32, distilled_tokens=12_800
    )
    recipes = {"bundled": {"target": recipe, "draft": draft, "head": head}}
    monkeypatch.setattr(pair, "RECIPES", recipes)
    whole = make_pair("bundled", tmp_path, compiled=False)
    assert json.loads((tmp_path / "card.json").read_text()) == whole
    assert list(whole["models"]) == ["target", "draft", "head"]
    assert len(whole["models"]["head"]["acceptance_by_depth"]["sampled"]) == 8
    readme = (tmp_path / "README.md").read_text()
    assert "| head |" in readme
    assert "| 0.1M, 0.0M distilled |" in readme
    assert [point["tokens"] for point in whole["models"]["draft"]["distillation"]] == [12_800]
    target = load_checkpoint(tmp_path / "target")
    assert load_head(tmp_path / "head", target).architecture.num_layers == 1
    kept = (tmp_path / "target" / "model.safetensors").read_bytes()
    capsys.readouterr()
    again = make_pair("bundled", tmp_path, compiled=False, budget=256, parts=["head"])
    assert (tmp_path / "target" / "model.safetensors").read_bytes() == kept
    assert again["models"]["target"] == whole["models"]["target"]
    assert again["models"]["head"]["recipe"]["budget_tokens"] == 256
    assert again["models"]["head"]["curve"][-1]["tokens"] == 256
    assert "head.pt is not of this recipe: training begins anew" in capsys.readouterr().out
    again = make_pair("bundled", tmp_path, compiled=False, budget=256, parts=["draft"])
    assert again["models"]["draft"]["recipe"]["distilled_tokens"] == 256
    said = capsys.readouterr().out
    assert "draft.pt is not of this recipe: training begins anew" in said
    assert "draft-distilled.pt is not of this recipe and draft: training begins anew" in said
    recipes["bundled"]["target"] = replace(recipe, architecture=replace(shape, num_layers=2))
    with pytest.raises(SpecsimError, match="is not the model micro"):
        make_pair("bundled", tmp_path, compiled=False, parts=["head"])


# The corpus


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
    assert (stream == 0).sum() == 3  # end-of-text tokens enclose every file


def test_the_card_says_how_the_shipped_pair_was_made():
    card = json.loads((PAIR / "card.json").read_text())
    assert len(card["corpus"]["sha256"]) == 64
    for role in ("target", "draft"):
        model = card["models"][role]
        assert {"recipe", "held_out_loss", "curve", "parameters"} <= model.keys()
        assert model["curve"][-1]["held_out_loss"] < model["curve"][0]["held_out_loss"]
    draft = card["models"]["draft"]
    assert draft["distillation"][-1]["tokens"] >= 0.99 * draft["recipe"]["distilled_tokens"]
    assert 1 - draft["distillation"][-1]["held_out_loss"] == pytest.approx(card["alpha"], abs=0.01)
    sizes = [file.stat().st_size for file in PAIR.rglob("*") if file.is_file()]
    assert max(sizes) <= 16e6
    assert sum(sizes) <= 25e6
    assert Tokenizer(PAIR / "target" / "tokenizer.json").vocabulary["<|endoftext|>"] == 0

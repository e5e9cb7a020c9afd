"""The repetition penalty of speculative decoding, against a loop that reads the whole text for
every token and penalises the set of its tokens."""

import inspect
import textwrap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reference import (
    ConfidenceTree,
    DraftHead,
    DraftModel,
    EarlyExit,
    NGram,
    NoDrafter,
    StaticTree,
    Tree,
)
from reference.decoding import speculate
from reference.heads import untrained_head
from reference.sampling import SamplingParameters, penalised
from reference.sequences import Sequences
from reference.serving.engine import Engine
from reference.serving.metrics import Metrics
from reference.serving.requests import Request
from reference.serving.slots import Slots
from reference.transformer import Transformer

PENALTY = 1.5
PROMPTS = [[5, 9, 5, 40], [7], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [60, 2]]
NEW = 24

DRAFTERS: dict[str, Callable] = {
    "none": lambda target, draft: NoDrafter(),
    "draft model": lambda target, draft: DraftModel(draft, 4),
    "n-gram": lambda target, draft: NGram(3),
    "early exit": lambda target, draft: EarlyExit(1, 3),
    "head": lambda target, draft: DraftHead(untrained_head(target), 2),
    "tree": lambda target, draft: StaticTree(draft, Tree.branching((2, 2, 1))),
    "confidence tree": lambda target, draft: ConfidenceTree(draft, 8, 3, 3),
}


@pytest.fixture(scope="module")
def pair(tiny, perturbed) -> tuple[Transformer, Transformer]:
    target = tiny(3)
    return target, perturbed(target, 0.3)


@pytest.fixture(scope="module")
def texts(pair) -> list[list[int]]:
    """What the loop writes."""
    return [loop(pair[0], prompt) for prompt in PROMPTS]


@torch.inference_mode()
def loop(target: Transformer, prompt: list[int]) -> list[int]:
    text = list(prompt)
    for _ in range(NEW):
        logits = target(torch.tensor([text]))[0, -1].tolist()
        for token in set(text):
            divides = logits[token] >= 0
            logits[token] = logits[token] / PENALTY if divides else logits[token] * PENALTY
        text.append(max(range(len(logits)), key=logits.__getitem__))
    return text[len(prompt) :]


def without_roll_back(monkeypatch) -> None:
    """Planted: tokens after the pending one count, which are rejected drafts, or of the request
    that had the row before."""
    source = textwrap.dedent(inspect.getsource(Sequences.held))
    correct = "order <= self.lengths[:, None]"
    assert source.count(correct) == 1
    planted: dict = {"torch": torch, "Tensor": Tensor}
    exec(source.replace(correct, "order[None] >= 0"), planted)
    monkeypatch.setattr(Sequences, "held", planted["held"])


@pytest.mark.parametrize("kind", DRAFTERS)
def test_the_text_is_that_of_the_loop(pair, texts, kind: str) -> None:
    options = {"max_new_tokens": NEW, "repetition_penalty": PENALTY}
    drafter = DRAFTERS[kind](*pair)
    run = speculate(pair[0], drafter, PROMPTS, **options)
    assert run.tokens == texts
    assert kind == "none" or run.statistics.accepted < run.statistics.drafted, "nothing to undo"
    assert speculate(pair[0], drafter, PROMPTS[0], **options).tokens == texts[0]


@pytest.mark.parametrize("kind", ["draft model", "tree"])
def test_a_rejected_draft_that_counts_is_caught(monkeypatch, pair, texts, kind: str) -> None:
    without_roll_back(monkeypatch)
    run = speculate(
        pair[0], DRAFTERS[kind](*pair), PROMPTS, max_new_tokens=NEW, repetition_penalty=PENALTY
    )
    assert run.tokens != texts


def served(pair, slots: int) -> list[list[int]]:
    """The same texts from a server, whose rows are used again and moved. Between them are
    requests without a penalty, and long ones."""
    target, draft = pair
    ids: dict[Request, list[int]] = {}
    way = SamplingParameters(0.0, repetition_penalty=PENALTY)
    asked = [Request(prompt, NEW, way) for prompt in PROMPTS]
    others = [Request([(17 * i + k) % 61 for i in range(30)], 9) for k in range(4)]
    requests = [request for both in zip(others, asked, strict=True) for request in both]
    rows = Slots(target, DraftModel(draft, 3), slots, 64)
    cycle = rows.run_cycle

    def watched():
        results = cycle()
        for _, request, result in results:
            ids.setdefault(request, []).extend(result.emitted)
        return results

    rows.run_cycle = watched
    engine = Engine(rows, lambda tokens: "x" * len(tokens), Metrics("tiny", 3), lambda outbox: None)
    engine.waiting.extend(requests)
    engine.closing = True
    engine.run()
    return [ids[request] for request in asked]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_server_writes_the_same_in_rows_that_others_had(pair, texts, slots: int) -> None:
    assert served(pair, slots) == texts


def test_the_text_of_the_row_s_last_request_that_counts_is_caught(monkeypatch, pair, texts) -> None:
    without_roll_back(monkeypatch)
    assert served(pair, 2) != texts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [0.6, 1.3])
def test_a_penalty_on_some_tokens_is_that_on_a_mask(dtype: torch.dtype, penalty: float) -> None:
    """Bit by bit; tokens that are named several times are penalised once."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn((3, 4, 50), generator=generator)).to(dtype)
    logits[0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    held = torch.randint(20, (3, 4, 30), generator=generator)
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, held, True)
    expected = torch.where(logits < 0, logits * penalty, logits / penalty)
    found = penalised(logits, held, penalty)
    assert torch.equal(found.nan_to_num(7), torch.where(mask, expected, logits).nan_to_num(7))


def test_least_lengths_forbid_stops_and_nothing_else(pair) -> None:
    """Rows with several stops, with one and an id that is no token, and with none."""
    slots = Slots(pair[0], DraftModel(pair[1], 3), 3, 64)
    slots.whole.sequences.stops[:, 0, :2] = torch.tensor([[0, 5], [61, 7], [-1, -1]])
    slots.values.least[:] = torch.tensor([99, 99, 99])
    slots.whole.sequences.window = 1
    cycle, _ = slots.cycle(3, "filtered")
    logits = torch.randn(3, 4, 61, generator=torch.Generator().manual_seed(0)).double()
    drafted = torch.zeros(3, 3, dtype=torch.long)
    found = cycle.settings.sampling.penalise(logits, cycle.sequences, drafted)
    lowest = found == torch.finfo(torch.float64).min
    assert [set(row[0].nonzero().flatten().tolist()) for row in lowest] == [{0, 5}, {7}, set()]
    assert torch.equal(found[~lowest], logits[~lowest])
    slots.values.least[:] = 0
    assert torch.equal(cycle.settings.sampling.penalise(logits, cycle.sequences, drafted), logits)

"""The server's engine, without HTTP: what a request gets does not depend on its neighbours."""

from dataclasses import replace

import pytest
import torch

from reference import (
    DraftHead,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    QuantisedSelf,
    StaticTree,
    Tree,
)
from reference.checkpoints import PAIR, Tokenizer
from reference.decoding import speculate
from reference.drafters import Drafter
from reference.heads import untrained_head
from reference.noise import GOLDEN, scramble
from reference.sampling import SamplingParameters
from reference.serving.engine import Engine
from reference.serving.keyed_noise import KeyedNoise
from reference.serving.metrics import Metrics
from reference.serving.requests import Request, TextStream
from reference.serving.row_sampling import RowSampling, RowValues, kind_of
from reference.serving.slots import Slots
from reference.streaming import pieces
from specsim.checks import SpecsimError

CONTEXT = 64
REQUESTS = 24  # of twelve kinds


def decode(tokens: list[int]) -> str:
    """A letter for each token: enough for stop strings."""
    return "".join(chr(ord("A") + token) for token in tokens)


class Served:
    """An engine on this thread; requests arrive at given cycles, and some leave."""

    def __init__(self, target, drafter, slots: int = 4, decode=decode, **options):
        self.texts: dict[Request, str] = {}
        self.ends: dict[Request, tuple] = {}
        self.slots = Slots(target, drafter, slots, CONTEXT)
        self.metrics = Metrics("tiny", drafter.gamma)
        self.engine = Engine(self.slots, decode, self.metrics, self.take, **options)
        self.later: list[tuple[int, Request]] = []
        self.leaving: dict[Request, int] = {}
        self.handed = 0

    def take(self, outbox) -> None:
        self.handed += 1
        for request, piece in outbox:
            assert request not in self.ends, "a piece after the last one"
            self.texts[request] = self.texts.get(request, "") + piece.text
            if piece.finish:
                self.ends[request] = (piece.finish, piece.tokens, piece.error)
            if self.handed >= self.leaving.get(request, 1 << 30):
                self.engine.cancel(request)
        self.arrive()

    def arrive(self) -> None:
        due = [request for at, request in self.later if at <= self.handed]
        self.later = [(at, request) for at, request in self.later if at > self.handed]
        if not due and self.later and not self.engine.waiting and not self.slots.used:
            due = [self.later.pop(0)[1]]  # nobody is left, so no cycle would come
        self.engine.waiting.extend(due)
        self.engine.closing = not self.later

    def run(self, requests: list[Request], every: int = 0) -> "Served":
        self.later = [(index * every, request) for index, request in enumerate(requests)]
        self.arrive()
        self.engine.run()
        assert self.slots.requests == [None] * len(self.slots.requests), "a slot has leaked"
        assert set(self.ends) == set(requests), "a request was lost"
        return self


def mixed(count: int, size: int, seed: int = 0) -> list[Request]:
    """Requests of many kinds."""
    generator = torch.Generator().manual_seed(seed)

    def whole(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=generator))

    ways = (
        SamplingParameters(),
        SamplingParameters(0.9),
        SamplingParameters(0.7, top_k=9, top_p=0.8),
        SamplingParameters(1.2, min_p=0.05, repetition_penalty=1.3),
        SamplingParameters(0.0, repetition_penalty=1.2),
    )
    requests = []
    for index in range(count):
        prompt = [whole(0, size - 1) for _ in range(whole(1, 24))]
        stops = (decode([whole(0, size - 1)]),) if index % 4 == 3 else ()
        requests.append(
            Request(
                prompt, whole(1, 20), ways[index % len(ways)], seed=whole(0, 1 << 40), stops=stops,
                stop_ids=frozenset([whole(0, size - 1)]) if index % 6 == 5 else frozenset(),
                min_tokens=1 if index % 12 == 11 else 0,
            )
        )  # fmt: skip
    return requests


def fresh(request: Request) -> Request:
    """The same request, not served yet."""
    return replace(request, text=None, emitted=0, cancelled=False, first_at=0.0)


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(3)
    return target, perturbed(target, 0.3)


@pytest.fixture(scope="module")
def alone(pair) -> list[tuple[str, str, int]]:
    """The text, the end and the tokens of each mixed request, served alone."""
    target, draft = pair
    found = []
    for request in mixed(REQUESTS, 61):
        served = Served(target, DraftModel(draft, 3), 1).run([request])
        found.append((served.texts[request], *served.ends[request][:2]))
    return found


@pytest.mark.parametrize("budget", [3, 60, 256])
def test_prompts_that_come_together_are_read_together(pair, alone, budget: int) -> None:
    """As many as the budget can end at once, in one pass, and nobody reads a token of another."""
    target, draft = pair
    requests = mixed(REQUESTS, 61)
    served = Served(target, DraftModel(draft, 3), 8, prompt_tokens=budget)
    read, seen = served.slots.read_pieces, []

    def noting(rows: range, most: int) -> int:
        seen.append((len(rows), read(rows, most), most))
        return seen[-1][1]

    served.slots.read_pieces = noting
    served.run(requests)
    found = [(served.texts[each], *served.ends[each][:2]) for each in requests]
    assert found == alone
    assert all(tokens <= most for _, tokens, most in seen)
    prompts = sum(len(each.prompt) - 1 for each in requests)
    assert sum(tokens for _, tokens, _ in seen) == prompts
    most_rows = max(rows for rows, _, _ in seen)
    assert most_rows == {3: 1, 60: most_rows, 256: 8}[budget]
    if budget == 60:
        assert 1 < most_rows < 8


@pytest.mark.parametrize("slots", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_requests_that_come_and_go_are_each_written_as_if_alone(pair, alone, slots) -> None:
    target, draft = pair
    requests = mixed(REQUESTS, 61)
    served = Served(target, DraftModel(draft, 3), slots, prompt_tokens=7)
    served.leaving = dict.fromkeys(requests[::9], 6)
    served.run(requests, every=2)
    assert served.metrics.requests["abort"] > 0
    reasons = set()
    for request, wanted in zip(requests, alone, strict=True):
        reason, tokens, _ = served.ends[request]
        reasons.add(reason)
        if reason == "abort":
            assert wanted[0].startswith(served.texts[request])
            continue
        assert (served.texts[request], reason, tokens) == wanted
        if request.sampling == SamplingParameters() and not request.stop_ids:
            written = speculate(target, NoDrafter(), request.prompt, request.max_tokens).tokens
            expected = "".join(pieces(iter([[t] for t in written]), Letters(), request.stops))
            assert served.texts[request] == expected
    assert reasons == {"stop", "length", "abort"}
    counted = sum(served.ends[request][1] for request in requests)
    assert served.metrics.generation_tokens == counted


class Letters:
    """What `pieces` needs of a tokenizer."""

    decode = staticmethod(decode)


ROUNDING = 0.25  # of logits up to 12 in 16 bits: four units in the last place


def parts_beyond_a_near_tie(model, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Whether two texts part where the logits of `model`, in 64 bits, are further apart than
    rounding to 16 bits puts them."""
    for index, tokens in enumerate(zip(one, other, strict=True)):
        if tokens[0] != tokens[1]:
            text = torch.tensor([prompt + one[:index]])
            logits = model(text)[0, -1]
            return bool((logits.max() - logits[list(tokens)]).max() > ROUNDING)
    return False


@torch.inference_mode()
def test_in_16_bits_texts_part_at_near_ties_alone(tiny, perturbed) -> None:
    """Passes of other sizes round differently, and nothing else makes a served text another one."""
    target, exact = tiny(3, dtype=torch.bfloat16), tiny(3)
    exact.load_state_dict({name: x.double() for name, x in target.state_dict().items()})
    requests = [
        replace(request, sampling=SamplingParameters(0.0), stops=(), max_tokens=30)
        for request in mixed(REQUESTS, 61)
    ]
    served = Served(target, DraftModel(perturbed(target, 0.3), 3), 8, prompt_tokens=40)
    served.run(requests, every=2)
    parted = found = 0
    for request in requests:
        stops = request.stop_ids
        alone = speculate(target, NoDrafter(), request.prompt, 30, stop_ids=stops).tokens
        tokens = request.text.tokens
        length = min(len(tokens), len(alone))  # one may have met a stop after they parted
        assert not parts_beyond_a_near_tie(exact, request.prompt, tokens[:length], alone[:length])
        parted += tokens != alone
        shorter = alone[: length // 2 + 1]
        planted = [*shorter[:-1], (shorter[-1] + 1) % 61]
        found += parts_beyond_a_near_tie(exact, request.prompt, shorter, planted)
    assert 0 < parted < REQUESTS // 2
    assert found > 0.8 * REQUESTS  # another token is seldom as likely by chance


def test_a_neighbour_s_noise_changes_the_text(pair, alone, monkeypatch) -> None:
    """Planted: noise by row in place of by request."""
    target, draft = pair

    def differ() -> bool:
        served = Served(target, DraftModel(draft, 3), 4).run(requests := mixed(12, 61), every=1)
        return [served.texts[request] for request in requests] != [text for text, *_ in alone[:12]]

    assert not differ()
    own = KeyedNoise.uniforms
    monkeypatch.setattr(
        KeyedNoise,
        "uniforms",
        lambda self, positions: tuple(each.roll(1, 0) for each in own(self, positions)),
    )
    assert differ()


# Acceptance: the drafter knows the prompt, whoever else is served


def drafters(target, draft) -> list[Drafter]:
    return [
        DraftModel(draft, 3),
        NGram(3),
        EarlyExit(1, 2),
        Ensemble(DraftModel(draft, 2)),
        DraftHead(untrained_head(target), 2),
    ]


def accepted_of(served: Served) -> tuple[int, int]:
    return served.metrics.drafts, served.metrics.accepted


@pytest.mark.parametrize("which", range(5))
def test_as_many_drafts_are_accepted_as_by_the_decoder(pair, which) -> None:
    target, draft = pair
    requests = [
        Request([(7 * i + j * j) % 61 for j in range(3 + 4 * i)], 24) for i in range(5)
    ]  # fmt: skip
    served = Served(target, drafters(target, draft)[which], 2, prompt_tokens=4)
    served.run(requests, every=3)
    drafts = accepted = 0
    for request in requests:
        result = speculate(target, drafters(target, draft)[which], request.prompt, 24)
        assert decode(result.tokens) == served.texts[request]
        drafts += result.statistics.cycles
        accepted += result.statistics.accepted
    assert accepted_of(served) == (drafts, accepted)


def test_a_quantised_copy_serves(tiny) -> None:
    target = tiny(3, dtype=torch.bfloat16, hidden_size=64, head_dim=16, intermediate_size=64)
    requests = [Request([5, 9, 2 + i], 12) for i in range(3)]
    served = Served(target, QuantisedSelf(2, "int8"), 2).run(requests)
    assert all(len(served.texts[request]) == 12 for request in requests)
    assert served.metrics.accepted > 0


def test_a_drafter_that_did_not_read_the_prompt_is_noticed(pair) -> None:
    """Planted: the drafter's cache is not filled at admission."""
    target, draft = pair
    prompt = [(11 * j) % 61 for j in range(24)]
    good = accepted_of(Served(target, DraftModel(draft, 3)).run([Request(prompt, 30)]))
    bad = accepted_of(Served(target, Reading(draft, 3)).run([Request(prompt, 30)]))
    assert bad[1] / bad[0] < good[1] / good[0]


class Reading(DraftModel):
    """Has a `join` of its own, which reads nothing."""

    def join(self, tokens, positions, hidden, window) -> None:
        """Nothing."""


# Sampled texts have the target's distribution


def sampled_counts(sampled_texts, target, draft, count: int) -> torch.Tensor:
    """How often each text of three tokens is served."""
    requests = [
        Request(list(sampled_texts.PROMPT), sampled_texts.WORD, SamplingParameters(0.9), seed=seed)
        for seed in range(count)
    ]
    served = Served(target, DraftModel(draft, 2), 64).run(requests)
    counts = torch.zeros(sampled_texts.SIZE**sampled_texts.WORD, dtype=torch.long)
    for request in requests:
        place = 0
        for letter in served.texts[request]:
            place = place * sampled_texts.SIZE + ord(letter) - ord("A")
        counts[place] += 1
    return counts


def test_sampled_texts_have_the_target_s_distribution(sampled_texts, tiny, perturbed) -> None:
    target = tiny(4, num_layers=1, **sampled_texts.MODEL)
    counts = sampled_counts(sampled_texts, target, perturbed(target, 1.0), 1_000)
    with torch.inference_mode():
        wanted = sampled_texts.distribution(target, SamplingParameters(0.9))
    assert sampled_texts.tail(counts, wanted) > 1e-3


class OfRows(KeyedNoise):
    """Keyed noise for the decoder's batches, where many texts are sampled in a short time."""

    def __init__(self, seed: int, batch: int, width: int, device: torch.device):
        super().__init__(batch, device)

    def reseed(self, seed: int) -> None:
        self.seeds.copy_(seed * 1_000_003 + torch.arange(len(self.seeds))[:, None])


class OfPositions(OfRows):
    """Keyed by the draft's own position, so that a number is used in two cycles."""

    def uniforms(self, positions):
        key = scramble(scramble(self.seeds) + positions * GOLDEN)
        key = torch.stack((key, key + 1))
        drafting, deciding = (scramble(key) >> 11 & (1 << 53) - 1).double() * 2.0**-53
        return drafting, deciding


class OfNoRole(OfRows):
    """The rule's numbers are the drafter's."""

    def uniforms(self, positions):
        drafting, _ = super().uniforms(positions)
        return drafting, drafting


@pytest.mark.parametrize(
    ("noise", "exact"), [(OfRows, True), (OfPositions, False), (OfNoRole, False)]
)
def test_keyed_noise_is_exact_and_two_mistakes_are_not(
    sampled_texts, tiny, perturbed, monkeypatch, noise, exact
) -> None:
    target = tiny(4, num_layers=1, **sampled_texts.MODEL)
    drafter = DraftModel(perturbed(target, 3.0), 2)
    monkeypatch.setattr("reference.cycle.FreshNoise", noise)
    with torch.inference_mode():
        wanted = sampled_texts.distribution(target, SamplingParameters(3.0))
    assert sampled_texts.depart(target, drafter, wanted, temperature=3.0) != exact


# Rows


def test_each_row_has_the_distribution_of_its_own_parameters() -> None:
    ways = [
        SamplingParameters(),
        SamplingParameters(0.7),
        SamplingParameters(1.3, top_k=5),
        SamplingParameters(1.0, top_p=0.6),
        SamplingParameters(0.9, top_k=30, top_p=0.9, min_p=0.02),
    ]
    logits = 3 * torch.randn(5, 4, 40, generator=torch.Generator().manual_seed(1)).double()
    logits[1, 0, 3] = logits[1, 0].max()  # a tie
    values = RowValues.empty(5, torch.device("cpu"))
    for row, way in enumerate(ways):
        values.set(row, way, 40, 0)
    got = RowSampling(kind="filtered", values=values).probabilities(logits)
    for row, way in enumerate(ways):
        torch.testing.assert_close(got[row], way.probabilities(logits[row]), rtol=1e-12, atol=0)
    one = RowSampling(kind="plain", values=values.rows(slice(0, 2))).probabilities(logits[:2, 0])
    torch.testing.assert_close(one[1], ways[1].probabilities(logits[1, 0]), rtol=1e-12, atol=0)
    assert [kind_of(way, 0) for way in ways] == [0, 1, 2, 2, 2]


def test_a_row_that_is_not_finite_ends_its_own_request_only(tiny) -> None:
    target = tiny(3)
    target.embedding.weight[60] = torch.nan
    target.head.weight[60] = 0
    good = [Request([5, 7, i], 16) for i in range(6)]
    bad = Request([3, 60, 4], 16)
    served = Served(target, NoDrafter(), 2).run([good[0], bad, *good[1:]])
    finish, _, error = served.ends[bad]
    assert finish == "error"
    assert "not finite" in error
    for request in good:
        alone = Served(target, NoDrafter(), 1).run([again := fresh(request)])
        assert served.texts[request] == alone.texts[again]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParameters(0.9),
        SamplingParameters(1.0, top_p=0.9),
        SamplingParameters(1.0, top_k=5),
        SamplingParameters(0.0, repetition_penalty=1.2),
    ],
)
@pytest.mark.parametrize("size", [61, 4096])  # of a large vocabulary a part is sorted
def test_a_row_that_is_not_finite_leaves_those_after_it_in_their_places(
    tiny, sampling: SamplingParameters, size: int
) -> None:
    target = tiny(3, vocab_size=size)
    draft = tiny(4, vocab_size=size)
    target.embedding.weight[60] = torch.nan
    target.head.weight[60] = 0
    bad = Request([3, 60, 4], 16, sampling)
    good = [Request([5, 7, i], 16, sampling, seed=i) for i in range(3)]
    served = Served(target, DraftModel(draft, 2)).run([good[0], bad, *good[1:]])
    assert served.ends[bad][0] == "error"
    for request in good:
        alone = Served(target, DraftModel(draft, 2), 1).run([again := fresh(request)])
        assert served.texts[request] == alone.texts[again]
        assert len(served.texts[request]) == 16


@pytest.mark.parametrize("moves", [False, True])
@torch.inference_mode()
def test_a_prompt_that_is_left_half_read_leaves_nothing_that_is_not_finite(tiny, moves) -> None:
    target = tiny(3)
    target.embedding.weight[60] = torch.nan
    target.head.weight[60] = 0
    slots = Slots(target, EarlyExit(1, 2), 2, CONTEXT)
    row = int(moves)
    slots.admit(row, Request([1] * 20 + [60] + [2] * 20, 10))
    slots.read_pieces(range(row, row + 1), 30)
    slots.compact()  # moves a second row to the first
    slots.leave(0)
    assert slots.requests == [None, None]
    assert all(tensor.isfinite().all() for tensor in slots.whole.cache.tensors())


def test_what_follows_a_cancelled_prompt_is_written_as_if_alone(tiny) -> None:
    target = tiny(3)
    target.embedding.weight[60] = torch.nan
    target.head.weight[60] = 0
    bad, good = Request([1] * 20 + [60] + [2] * 20, 10), Request([1, 2, 3] * 6, 24)
    served = Served(target, NoDrafter(), 1, prompt_tokens=30)
    read = served.slots.read_pieces

    def leaving(rows: range, most: int) -> int:
        bad.cancelled = True  # its first piece, with the bad token, is read all the same
        return read(rows, most)

    served.slots.read_pieces = leaving
    served.run([bad, good])
    assert served.ends[bad][0] == "abort"
    alone = Served(target, NoDrafter(), 1).run([again := fresh(good)])
    assert served.texts[good] == alone.texts[again]
    assert served.ends[good][:2] == ("length", 24)


def test_only_the_model_s_own_stops_are_ignored(pair, monkeypatch) -> None:
    target, draft = pair
    written = speculate(target, NoDrafter(), [1, 2, 3], 8).tokens
    end, own = written[2], written[5]
    assert own not in written[:5]
    monkeypatch.setattr(target, "stop_ids", frozenset([end]))
    heeds = Request([1, 2, 3], 8)
    ignores = Request([1, 2, 3], 8, stop_ids=frozenset([own]), ignores_end=True)
    to_the_end = Request([1, 2, 3], 8, ignores_end=True)
    asks_for_it = Request([1, 2, 3], 8, stop_ids=frozenset([end]), ignores_end=True)
    served = Served(target, DraftModel(draft, 2)).run([heeds, ignores, to_the_end, asks_for_it])
    assert served.ends[heeds][:2] == ("stop", written.index(end) + 1)
    assert served.ends[ignores][:2] == ("stop", 6)
    assert served.ends[to_the_end][:2] == ("length", 8)
    assert served.ends[asks_for_it][:2] == served.ends[heeds][:2]


def test_no_stop_comes_before_the_least_length(pair, monkeypatch) -> None:
    target, draft = pair
    first = speculate(target, NoDrafter(), [1, 2, 3], 8).tokens
    stop = frozenset([first[2]])
    early = Request([1, 2, 3], 8, stop_ids=stop)
    late = Request([1, 2, 3], 8, stop_ids=stop, min_tokens=6)
    never = Request([1, 2, 3], 8, ignores_end=True)
    monkeypatch.setattr(target, "stop_ids", stop)
    served = Served(target, DraftModel(draft, 2)).run([early, late, never])
    assert served.ends[early][:2] == ("stop", first.index(first[2]) + 1)
    assert served.ends[late][1] >= 6
    assert decode([first[2]]) not in served.texts[late][:5]
    assert served.texts[never] == decode(first)


def test_one_request_among_eight_slots_is_a_pass_of_one_row(pair, monkeypatch) -> None:
    target, draft = pair
    rows = []
    hidden = type(target).hidden

    def counted(self, tokens, *arguments):
        rows.append(len(tokens))
        return hidden(self, tokens, *arguments)

    monkeypatch.setattr(type(target), "hidden", counted)
    Served(target, DraftModel(draft, 2), 8).run([Request([1, 2, 3], 9)])
    assert set(rows) == {1}
    rows.clear()
    # five begin, and all but the last one end early: it moves to the first row
    requests = [Request([1, 2, 3 + i], 40 if i == 4 else 2) for i in range(5)]
    Served(target, DraftModel(draft, 2), 8).run(requests)
    assert rows[-1] == 1
    assert max(rows) == 8


def test_a_long_prompt_is_read_in_pieces_between_cycles(pair) -> None:
    target, draft = pair
    short, long = Request([4, 5], 30), Request([(3 * j) % 61 for j in range(50)], 5)
    served = Served(target, DraftModel(draft, 2), 2, prompt_tokens=5).run([short, long])
    alone = Served(target, DraftModel(draft, 2), 1).run([again := fresh(long)])
    assert served.texts[long] == alone.texts[again]
    assert served.metrics.seconds["inter_token_latency"].counts
    assert short.emitted == 30
    assert short.first_at < long.first_at


# Text


def test_pieces_join_to_the_whole_text_cut_at_its_stop() -> None:
    tokenizer = Tokenizer(PAIR / "target" / "tokenizer.json")
    text = 'def f(x): return "é😀日本" + x  # \ufffd end\n' * 3
    tokens = tokenizer.encode(text)
    generator = torch.Generator().manual_seed(0)
    for stops in ((), ("return",), ("日本", 'turn "'), ("# \ufffd en",), ("never there",)):
        for _ in range(8):
            stream, found, left = TextStream(tokenizer.decode, stops), "", list(tokens)
            while left and not stream.stopped:
                size = int(torch.randint(1, 6, (), generator=generator))
                found += stream.push(left[:size])
                left = left[size:]
            found += stream.rest()
            ends = [text.find(stop) for stop in stops if stop in text]
            assert found == text[: min(ends)] if ends else found == text
            assert stream.stopped == bool(ends)
            whole = tokenizer.decode(stream.tokens[:-1])
            assert not any(stop in whole for stop in stops), "tokens after the stop were counted"


def test_random_bytes_are_decoded_like_the_whole() -> None:
    tokenizer = Tokenizer(PAIR / "target" / "tokenizer.json")
    generator = torch.Generator().manual_seed(5)
    for _ in range(15):
        tokens = torch.randint(0, 400, (40,), generator=generator).tolist()
        stream = TextStream(tokenizer.decode)
        found = "".join(stream.push([token]) for token in tokens) + stream.rest()
        assert found == tokenizer.decode(tokens)


# What cannot serve is refused at the start


def test_drafters_that_cannot_serve_are_refused_in_words(pair) -> None:
    target, draft = pair
    with pytest.raises(SpecsimError, match="StaticTree drafts trees"):
        Slots(target, StaticTree(draft, Tree.branching([2, 1])), 2, CONTEXT)

    class Keeps(NGram):
        def start(self, sequences, target, cache) -> None:
            """Reads the prompts, it says."""

    with pytest.raises(SpecsimError, match=r"Keeps reads prompts .* no `join`"):
        Slots(target, Keeps(2), 2, CONTEXT)

"""What the decoder's tests share: tiny random models and the text they must write."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from reference import artefacts, packing
from reference.decoding import speculate
from reference.sampling import SamplingParameters
from reference.sequences import Sequences
from reference.transformer import Transformer
from specsim.architecture import Architecture

sys.path.insert(0, str(Path(__file__).parent))  # for `thresholds`

packing.PACKED_FROM = 0  # the tests' small matrices are packed as large ones are
NEAR_TIE = 1e-4  # logits closer than this may change places when a pass has more rows


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The models are too small to share, and threads on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny():
    """Builds a random transformer: `tiny(seed, dtype=torch.float64, **architecture_fields)`."""
    return tiny_model


@pytest.fixture(scope="session")
def perturbed():
    """A copy of a model with noise in its weights: a draft that is right sometimes."""
    return perturbed_model


@pytest.fixture(scope="session")
def argmax_loop():
    """The oracle of greedy decoding: for every token the whole text is read, without a cache."""
    return recomputed_argmax


@pytest.fixture(scope="session")
def sequences_of():
    """`Sequences` that hold the given prompts, each with so many tokens to emit."""
    return loaded_sequences


@pytest.fixture(scope="session")
def first_difference():
    return first_difference_beyond_a_near_tie


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder for compiled stages."""
    monkeypatch.setenv(artefacts.PLACE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def compiled(place, monkeypatch) -> list[str]:
    """The stages that were compiled, by an imitated compiler."""
    traced, names = [], []

    def compile_library(module, tensors, folder, name):
        file = folder / f"{name}.so"
        file.write_text(f"number {len(traced):04}")
        traced.append(module)
        names.append(name.partition("-")[0])
        return file

    def open_library(file):
        module = traced[int(file.read_text().split()[1])]
        return SimpleNamespace(run=lambda tensors: module(*tensors))

    monkeypatch.setattr(artefacts, "compile_library", compile_library)
    monkeypatch.setattr(artefacts, "open_library", open_library)
    # what is compiled in memory runs as it is written
    monkeypatch.setattr(torch, "compile", lambda stage, **options: stage)
    return names


@pytest.fixture(scope="session")
def sampled_texts():
    """Many sampled texts of three tokens, and the distribution that a model gives them."""
    return SampledTexts


class SampledTexts:
    WORD, SIZE, SAMPLES, AT_ONCE = 3, 5, 20_000, 5_000
    PROMPT = (0, 3, 1)
    # small: it is the sampling that is put to the test, and twenty thousand texts are decoded
    MODEL: ClassVar = {
        "vocab_size": SIZE, "hidden_size": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4,
        "intermediate_size": 12, "dtype": torch.float32,
    }  # fmt: skip

    @classmethod
    def distribution(cls, target: Transformer, sampling: SamplingParameters) -> Tensor:
        """P of every continuation of WORD tokens, (V ** WORD,), from passes over the whole text."""
        words = torch.tensor(list(itertools.product(range(cls.SIZE), repeat=cls.WORD)))
        texts = torch.cat((torch.tensor([cls.PROMPT]).expand(len(words), -1), words), dim=1)
        distributions = sampling.probabilities(target(texts))[:, len(cls.PROMPT) - 1 : -1]
        return distributions.gather(-1, words[..., None]).squeeze(-1).prod(1)

    @classmethod
    def counts(cls, target: Transformer, drafter, **options) -> Tensor:
        """How often each continuation comes out, (V ** WORD,)."""
        *_, counts = cls.growing(target, drafter, **options)
        return counts

    @classmethod
    def growing(cls, target: Transformer, drafter, **options) -> Iterator[Tensor]:
        """The counts after each batch of texts."""
        counts = torch.zeros(cls.SIZE**cls.WORD, dtype=torch.long)
        prompts = [list(cls.PROMPT)] * cls.AT_ONCE
        for seed in range(cls.SAMPLES // cls.AT_ONCE):
            tokens = speculate(target, drafter, prompts, cls.WORD, seed=seed, **options).tokens
            places = torch.tensor(tokens) * cls.SIZE ** torch.arange(cls.WORD - 1, -1, -1)
            counts += torch.bincount(places.sum(1), minlength=len(counts))
            yield counts

    @classmethod
    def depart(cls, target: Transformer, drafter, distribution: Tensor, **options) -> bool:
        """Whether the texts are seen not to have the distribution; no more are written than that
        takes."""
        tail = 1.0
        for counts in cls.growing(target, drafter, **options):
            tail = cls.tail(counts, distribution)
            if tail < 1e-6:
                break
        return tail < 1e-3

    @classmethod
    def marginals(cls, joint: Tensor) -> Tensor:
        """The counts, or the distribution, of each token by itself: (WORD, V)."""
        cube = joint.view((cls.SIZE,) * cls.WORD)
        others = [[d for d in range(cls.WORD) if d != place] for place in range(cls.WORD)]
        return torch.stack([cube.sum(dims) for dims in others])

    @staticmethod
    def shifted(distribution: Tensor) -> Tensor:
        """The distribution (V,) with .02 moved from the likeliest token to the next."""
        one, other = distribution.topk(2).indices.tolist()
        shifted = distribution.clone()
        shifted[one] -= 0.02
        shifted[other] += 0.02
        return shifted

    @staticmethod
    def tail(counts: Tensor, distribution: Tensor) -> float:
        """P(a sample fits its distribution worse); cells that are expected rarely are joined."""
        if counts[distribution == 0].sum() > 0:
            return 0.0
        expected = counts.sum() * distribution
        rare = expected < 5
        observed = torch.cat((counts[~rare].double(), counts[rare].sum()[None]))
        expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
        observed, expected = observed[expected > 0], expected[expected > 0]
        statistic = ((observed - expected) ** 2 / expected).sum()
        return torch.special.gammaincc(
            torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2
        ).item()


def loaded_sequences(prompts: list[list[int]], remaining: int) -> Sequences:
    longest = max(map(len, prompts))
    sequences = Sequences.empty(len(prompts), longest + remaining, (), torch.device("cpu"))
    sequences.load(prompts, [remaining] * len(prompts))
    return sequences


def tiny_model(seed: int = 0, *, dtype: torch.dtype = torch.float64, **fields) -> Transformer:
    shape = {
        "name": "tiny",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 61,
        "max_context": 96,
    }
    model = Transformer(Architecture(**(shape | fields)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "embedding.weight":
                parameter.copy_(noise)
            elif name == "head.weight":  # logits of deviation 3: decided, but not foregone
                parameter.copy_(3 * noise / parameter.shape[1] ** 0.5)
            elif parameter.ndim >= 2:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1 + 0.2 * noise)
    return model.to(dtype).eval().requires_grad_(False)


def perturbed_model(model: Transformer, noise: float, seed: int = 1) -> Transformer:
    copy = Transformer(model.architecture).to(model.dtype)
    copy.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            scale = noise * parameter.std() if parameter.ndim == 2 else 0.0
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return copy.eval().requires_grad_(False)


@torch.inference_mode()
def last_logits(model: Transformer, text: list[int]) -> Tensor:
    return model(torch.tensor([text], device=model.device))[0, -1]


def recomputed_argmax(model: Transformer, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(last_logits(model, text).argmax().item())
    return text[len(prompt) :]


def first_difference_beyond_a_near_tie(
    model: Transformer, prompt: list[int], one: list[int], other: list[int]
) -> str | None:
    """None if two greedy texts agree up to a near-tie of the model's own logits, else what differs.

    After a near-tie the two are different texts, and nothing about them can be compared.
    """
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            top = last_logits(model, prompt + one[:index]).double().topk(2)
            gap = (top.values[0] - top.values[1]).item()
            if gap < NEAR_TIE and {a, b} == set(top.indices.tolist()):
                return None
            return f"token {index}: {a} and {b}, although the logits are {gap:.2e} apart"
    return None if len(one) == len(other) else f"{len(one)} tokens and {len(other)}"

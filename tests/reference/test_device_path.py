"""The stages of a cycle on a CUDA device that is not there: fake tensors, which have a shape, a
dtype and a device, but no numbers.

What would stop a recording, or be missing from it, raises here: a stage that asks the device for a
number, that mixes in a tensor of the host, or that makes one on the host and copies it over. The
kernels themselves are not run, so what they cost and compute is for the tests marked gpu.
"""

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reference import (
    ConfidenceTree,
    Drafter,
    DraftHead,
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    QuantisedSelf,
    StaticTree,
    Tree,
    attention,
    sampling,
)
from reference.cycle import Cycle
from reference.decoding import Decoder, decoder_for
from reference.experts import Mixture
from reference.heads import untrained_head
from reference.lab.suites.arms import Given
from reference.quantization import GROUPS, quantized
from reference.sampling import SamplingParameters
from reference.settings import RunSettings
from reference.transformer import Transformer
from specsim.architecture import Architecture, Experts

CUDA = torch.device("cuda:0")
SHAPE = {
    "name": "tiny", "hidden_size": 256, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 64, "intermediate_size": 256, "vocab_size": 61, "max_context": 96,
}  # fmt: skip
PROMPTS = [[17], [9, 9, 30, 2, 55], [60, 0] * 8]
HOPPER = (9, 0)


@pytest.fixture(scope="module")
def cuda_guard() -> Iterator[None]:
    """A torch built without CUDA has no guard of its current device, which indexing asks for; that
    of meta tensors, which guards nothing, stands in."""
    if torch.version.cuda is not None:
        yield
        return
    (library,) = (Path(torch.__file__).parent / "lib").glob("libc10.*")
    registry = "_ZN3c104impl26device_guard_impl_registryE"
    try:
        guards = (ctypes.c_void_p * 16).in_dll(ctypes.CDLL(str(library)), registry)
    except ValueError:
        pytest.skip("this build of torch keeps its device guards elsewhere")
    cuda, meta = 1, 14  # c10::DeviceType
    before, guards[cuda] = guards[cuda], guards[meta]
    yield
    guards[cuda] = before


class HostGenerator(torch.Generator):
    """Chance is drawn before the stages, by a generator of the device; here, by one of the host."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@pytest.fixture
def device(cuda_guard, monkeypatch) -> Iterator[torch.device]:
    """What the decoder asks of a device outside its stages, answered for a large GPU."""
    gigabytes = int(80e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (gigabytes, gigabytes))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: HOPPER)
    monkeypatch.setattr(torch, "Generator", HostGenerator)
    with FakeTensorMode(), torch.no_grad():  # in inference mode operators come whole
        yield CUDA


class OnDevice(TorchDispatchMode):
    """Refuses every operator that has to do with the host: its tensors, and its waiting."""

    WAITING = (
        "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "bincount",
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name.startswith(self.WAITING):
            raise AssertionError(f"{name} waits for the device")
        if name.startswith("index") and any(
            index is not None and index.dtype == torch.bool for index in tree_leaves(args[1])
        ):
            raise AssertionError(f"{name} by a mask waits for the device")
        if name.startswith("lift") or any(tensor.device != CUDA for tensor in given):
            raise AssertionError(f"{name} has a tensor of the host")
        made = func(*args, **(kwargs or {}))
        if any(leaf.device != CUDA for leaf in tree_leaves(made) if isinstance(leaf, Tensor)):
            raise AssertionError(f"{name} makes a tensor on the host")
        self.operators += 1
        return made


def model(dtype: torch.dtype = torch.bfloat16, **fields) -> Transformer:
    torch.set_default_dtype(dtype)
    try:
        with CUDA:
            made = Transformer(Architecture(**(SHAPE | fields)))
    finally:
        torch.set_default_dtype(torch.float32)
    made.rotary = made.rotary.to(dtype)
    return made.eval().requires_grad_(False)


def run_cycles(
    target: Transformer,
    drafter: Drafter,
    batch: int,
    settings: RunSettings,
    gammas: Iterable[int] = (),
    window: int = 48,
) -> Cycle:
    """The stages of a cycle, or of one for each of `gammas`, with nothing of the host in them."""
    cycle = Decoder(target, drafter, batch, max(64, window), settings).cycle
    cycle.begin(PROMPTS[-batch:], [24] * batch, seed=1)
    cycle.sequences.window = window
    for gamma in gammas or (drafter.gamma,):
        cycle.gamma = gamma
        cycle.noise.refresh()
        for stage in cycle.stages:
            with OnDevice() as seen:
                stage()
            assert seen.operators > 5, "nothing was looked at"
    assert all(
        tensor.device == CUDA
        for tensor in (
            cycle.drafted.tokens,
            cycle.verified.logits,
            cycle.result,
            cycle.sequences.lengths,
        )
    )
    assert cycle.result.dtype == torch.long
    return cycle


DRAFTERS = {
    "none": lambda target: NoDrafter(),
    "draft model": lambda target: DraftModel(model(), 3),
    "draft model that stops": lambda target: DraftModel(model(), 3, stop_below=0.5),
    "n-gram": lambda target: NGram(3),
    "early exit": lambda target: EarlyExit(1, 3),
    "quantised self": lambda target: QuantisedSelf(3),
    "head": lambda target: DraftHead(untrained_head(target), 3),
    "ensemble": lambda target: Ensemble(DraftModel(model(), 3, stop_below=0.5)),
    "given": lambda target: Given(3),
}
TREES = {
    "static": lambda: StaticTree(model(), Tree.branching((2, 2, 1))),
    "drawn": lambda: StaticTree(model(), Tree.branching((2, 2, 1)), drawn=True),
    "confidence": lambda: ConfidenceTree(model(), 8, 3, 3),
}
EVERYTHING = SamplingParameters(0.8, 20, 0.9, 0.01, 1.2)
SETTINGS = [
    RunSettings(SamplingParameters(0.0, repetition_penalty=1.3), stop_ids=frozenset({5, 7})),
    RunSettings(EVERYTHING, stop_ids=frozenset({5})),
    *(RunSettings(SamplingParameters(1.0), rule) for rule in ("block", "match", "typical")),
    RunSettings(SamplingParameters(1.0), survival=(0.9, 0.5, 0.2)),
]


@pytest.mark.parametrize("kind", DRAFTERS)
def test_no_stage_has_to_do_with_the_host(device, kind: str) -> None:
    target = model()
    drafter = DRAFTERS[kind](target)
    run_cycles(target, drafter, 1, SETTINGS[1])
    for settings in SETTINGS:
        run_cycles(target, drafter, 3, settings)


@pytest.mark.parametrize("kind", TREES)
def test_no_stage_of_a_tree_has_to_do_with_the_host(device, kind: str) -> None:
    target, drafter = model(), TREES[kind]()
    run_cycles(target, drafter, 1, SETTINGS[1])
    for settings in (*SETTINGS[:2], RunSettings(EVERYTHING, "match")):
        run_cycles(target, drafter, 3, settings)


@pytest.mark.parametrize("kind", ["draft model", "n-gram", "head"])
def test_neither_does_one_that_drafts_fewer_tokens_than_it_could(device, kind: str) -> None:
    target = model()
    cycle = run_cycles(target, DRAFTERS[kind](target), 3, SETTINGS[1], gammas=(3, 1, 0))
    assert cycle.drafted.tokens.shape == (3, 1)


EXPERTS = Experts(8, 2, 128, shared_size=64, shared_gate=True)


@pytest.mark.parametrize(
    ("way", "capability"), [("grouped", HOPPER), ("gathered", (8, 0)), ("gathered", (12, 0))]
)
def test_neither_do_experts(device, monkeypatch, way: str, capability) -> None:
    """One product over all groups where the device has it; else a copy for each of few visits."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    taken, run = [], getattr(Mixture, way)
    monkeypatch.setattr(Mixture, way, lambda *given: taken.append(1) or run(*given))
    target = model(experts=EXPERTS)
    target.reads_prompts = False  # a prompt's many rows may go another way, outside the stages
    for batch, drafter in ((1, DraftModel(model(), 3)), (3, NoDrafter())):
        taken.clear()
        run_cycles(target, drafter, batch, SETTINGS[1])
        assert taken, "the experts were visited in another way"


@pytest.mark.parametrize("precision", GROUPS)
def test_neither_do_quantised_weights(device, precision: str) -> None:
    target = quantized(model(), precision)
    run_cycles(target, DraftModel(quantized(model(), precision), 3), 3, SETTINGS[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_neither_does_another_dtype(device, dtype: torch.dtype) -> None:
    target = model(dtype, qk_norm=True, qkv_bias=True, tied_head=True)
    run_cycles(target, EarlyExit(1, 3), 3, SETTINGS[1])


def test_eager_runs_read_the_windows_that_graphs_do(device, monkeypatch) -> None:
    """Or a comparison of the two would be one of kernels, and of odd sizes."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    target, drafter = model(), NoDrafter()
    for mode in ("eager", "cuda-graphs"):
        with decoder_for(target, drafter, 1, 300, SETTINGS[0], mode) as decoder:
            assert (decoder.cycle.cache.capacity, decoder.window(257)) == (512, 512)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batch", [1, 3])
def test_neither_does_a_long_context(device, monkeypatch, batch: int, dtype) -> None:
    """It is read in chunks, by another operator; so it is by the rows of a tree."""
    read, run = [], attention.attend_in_chunks
    monkeypatch.setattr(
        attention, "attend_in_chunks", lambda *given: read.append(given[-1]) or run(*given)
    )
    target, draft = (model(dtype, max_context=4096) for _ in range(2))
    tree = StaticTree(draft, Tree.branching((2, 2, 1)))
    for drafter in (DraftModel(draft, 3), tree):
        run_cycles(target, drafter, batch, SETTINGS[1], window=4096)
        assert set(read) == {16}
        read.clear()


@pytest.mark.parametrize("batch", [1, 3])
def test_neither_does_a_large_vocabulary(device, batch: int) -> None:
    """Which several rows draw from in two steps."""
    vocabulary = -(-sampling.LARGE // sampling.BLOCK) * sampling.BLOCK
    target, draft = (model(vocab_size=vocabulary) for _ in range(2))
    run_cycles(target, DraftModel(draft, 3), batch, RunSettings(SamplingParameters(1.0)))


class Defective(NGram):
    """Drafts what the n-gram does, after something that it should not have done."""

    def __init__(self, defect):
        super().__init__(3)
        self.defect = defect

    def propose(self, sequences, sampling, uniforms):
        self.defect(sequences.lengths)
        return super().propose(sequences, sampling, uniforms)


DEFECTS = {
    "item": lambda lengths: lengths.sum().item(),
    "branch": lambda lengths: bool(lengths[0] > 1),
    "tolist": lambda lengths: lengths.tolist(),
    "nonzero": lambda lengths: lengths.nonzero(),
    "mask": lambda lengths: lengths[lengths > 1],
    "assignment by a mask": lambda lengths: lengths.clone().index_put_((lengths > 1,), lengths),
    "arange of the host": lambda lengths: lengths + torch.arange(len(lengths)),
    "indices of the host": lambda lengths: lengths[torch.arange(1)],
    "list of indices": lambda lengths: lengths[[0]],
    "numbers copied over": lambda lengths: torch.tensor([1, 2], device=lengths.device),
    "tensor copied over": lambda lengths: torch.zeros(3).to(lengths.device),
    "copy to the host": lambda lengths: lengths.cpu(),
    "written from the host": lambda lengths: lengths.clone().copy_(torch.zeros(3)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_has_to_do_with_the_host_is_caught(device, defect: str) -> None:
    with pytest.raises(AssertionError, match=r"host|waits"):
        run_cycles(model(), Defective(DEFECTS[defect]), 3, SETTINGS[0])

"""The stages of a cycle on a CUDA device that is not there: fake tensors, which have a shape, a
dtype and a device, but no numbers.

What would stop a recording, or be missing from it, raises here: a stage that asks the device for a
number, that mixes in a tensor of the host, or that makes one on the host and copies it over. So
does one that would read a weight once per sequence (`bmm`) or give its attention to cuDNN. The
kernels themselves are not run, so what they cost and compute is for the tests marked gpu.
"""

import ctypes
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
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
    transformer,
)
from reference.cycle import Cycle
from reference.decoding import Decoder, decoder_for
from reference.experts import Mixture
from reference.families import details_of
from reference.heads import untrained_head
from reference.lab.suites.variants import FixedDrafts
from reference.layers import VariedTransformer
from reference.quantization import GROUPS, quantized
from reference.sampling import SamplingParameters
from reference.settings import RunSettings
from reference.transformer import Transformer
from specsim.architecture import Architecture, Experts, from_config

CUDA = torch.device("cuda:0")
SHAPE = {
    "name": "tiny", "hidden_size": 256, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 64, "intermediate_size": 256, "vocab_size": 61, "max_context": 96,
}  # fmt: skip
PROMPTS = [[17], [9], [60]]  # nothing is read before the stages, which are what is looked at
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
    """Refuses every operator that has to do with the host: its tensors, and its waiting. Refuses
    cuDNN's attention too, and `bmm`; where it `may_batch`, only one that repeats a matrix."""

    WAITING = (
        "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "bincount",
    )  # fmt: skip

    def __init__(self, may_batch: bool = False):
        super().__init__()
        self.operators, self.attended, self.may_batch = 0, 0, may_batch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name.startswith(self.WAITING):
            raise AssertionError(f"{name} waits for the device")
        if name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in tree_leaves(args[1])
        ):
            raise AssertionError(f"{name} by a mask waits for the device")
        if name.startswith("lift") or any(tensor.device != CUDA for tensor in given):
            raise AssertionError(f"{name} has a tensor of the host")
        if name in ("bmm", "baddbmm") and not (self.may_batch and all(map(differs, given))):
            raise AssertionError(f"{name} reads a matrix for every sequence")
        if "cudnn" in name:
            raise AssertionError(f"{name} is cuDNN's attention")
        made = func(*args, **(kwargs or {}))
        if any(leaf.device != CUDA for leaf in tree_leaves(made) if isinstance(leaf, Tensor)):
            raise AssertionError(f"{name} makes a tensor on the host")
        self.operators += 1
        self.attended += "efficient_attention" in name  # to a chunk
        return made


def differs(batch: Tensor) -> bool:
    """Whether a batch (B, …) holds a matrix for each sequence, not one for all of them."""
    return batch.shape[0] == 1 or batch.stride(0) != 0


class OnAGPU(TorchFunctionMode):
    """Answers `scaled_dot_product_attention` and `rms_norm` as a GPU does, each by one tensor of
    its result's shape and strides. A torch without CUDA would take the first apart into products,
    and the second into a dozen operators.

    Kernels lay out the result as (B, H, T, D), or as (B, T, H, D) where `rows_first`. A call is
    refused that torch could give to cuDNN, which it may prefer wherever that is enabled.
    """

    def __init__(self, rows_first: bool = False):
        super().__init__()
        self.rows_first, self.calls = rows_first, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.rms_norm:
            assert all(leaf.device == CUDA for leaf in args if isinstance(leaf, Tensor))
            return torch.empty_like(args[0])
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        if torch.backends.cuda.cudnn_sdp_enabled():
            raise AssertionError("this attention could reach cuDNN")
        self.calls += 1
        queries, _, values = args[:3]
        batch, heads, rows, _ = queries.shape
        if self.rows_first:
            return queries.new_empty(batch, rows, heads, values.shape[-1]).transpose(1, 2)
        return queries.new_empty(batch, heads, rows, values.shape[-1])


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
    may_batch: bool = False,
    rows_first: bool = False,
) -> Cycle:
    """The stages of a cycle, or of one for each of `gammas`, with nothing of the host in them."""
    cycle, in_chunks = Decoder(target, drafter, batch, max(64, window), settings).cycle, 0
    with OnAGPU(rows_first) as attended:
        cycle.begin(PROMPTS[-batch:], [24] * batch, seed=1)
        cycle.sequences.window = window
        for gamma in gammas or (drafter.gamma,):
            cycle.gamma = gamma
            cycle.noise.refresh()
            for stage in cycle.stages:
                with OnDevice(may_batch) as seen:
                    stage()
                assert seen.operators > 5, "nothing was looked at"
                in_chunks += seen.attended
    assert attended.calls or in_chunks, "no attention was looked at"
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
    "draft model": lambda target: DraftModel(model(), 2),
    "draft model that stops": lambda target: DraftModel(model(), 2, stop_below=0.5),
    "n-gram": lambda target: NGram(2),
    "early exit": lambda target: EarlyExit(1, 2),
    "quantised self": lambda target: QuantisedSelf(2),
    "head": lambda target: DraftHead(untrained_head(target), 2),
    "ensemble": lambda target: Ensemble(DraftModel(model(), 2, stop_below=0.5)),
    "given": lambda target: FixedDrafts(2),
}
TREES = {
    "static": lambda: StaticTree(model(), Tree.branching((2, 2))),
    "drawn": lambda: StaticTree(model(), Tree.branching((2, 2)), drawn=True),
    "confidence": lambda: ConfidenceTree(model(), 6, 2, 3),
}
EVERYTHING = SamplingParameters(0.8, 20, 0.9, 0.01, 1.2)
SETTINGS = [
    RunSettings(SamplingParameters(0.0, repetition_penalty=1.3), stop_ids=frozenset({5, 7})),
    RunSettings(EVERYTHING, stop_ids=frozenset({5})),
    *(RunSettings(SamplingParameters(1.0), rule) for rule in ("block", "match", "typical")),
    RunSettings(SamplingParameters(1.0), survival=(0.9, 0.5)),
]


LAYOUTS = {  # batch, whether rows are first, window
    "one sequence": (1, False, 48), "heads first": (3, False, 48), "rows first": (3, True, 48),
    "in chunks": (3, False, 4096),
}  # fmt: skip


def kinds_and_layouts() -> list:
    """All of them. The two layouts that the tests of the host read too, and chunks with drafters
    that have no attention of their own, are for `make test-slow`."""
    rare = {
        *itertools.product(DRAFTERS, ("one sequence", "heads first")),
        *itertools.product(("n-gram", "given"), ("in chunks",)),
    }
    return [
        pytest.param(*each, marks=[pytest.mark.slow] * (each in rare))
        for each in itertools.product(DRAFTERS, LAYOUTS)
    ]


@pytest.mark.parametrize(("kind", "layout"), kinds_and_layouts())
def test_no_stage_has_a_bmm_or_could_reach_cudnn(device, kind: str, layout: str) -> None:
    """Whatever drafts, however attention lays out its result, and in short and long windows."""
    target = model(max_context=4096)
    batch, rows_first, window = LAYOUTS[layout]
    drafter = DRAFTERS[kind](target)
    run_cycles(target, drafter, batch, SETTINGS[0], window=window, rows_first=rows_first)


@pytest.mark.parametrize("kind", TREES)
def test_no_stage_of_a_tree_has_a_bmm_or_could_reach_cudnn(device, kind: str) -> None:
    for batch, rows_first in ((1, False), (3, True)):
        settings = RunSettings(SamplingParameters(1.0))
        run_cycles(model(), TREES[kind](), batch, settings, rows_first=rows_first)


def unfolded(*given) -> Tensor:
    """`attend` without its fold: one token's heads are a view of (B, H, D), strides and all."""
    mixed = attention.attend(*given)
    size = given[0].shape[-1]
    if mixed.shape[1] > 1:
        return mixed
    return mixed.as_strided(mixed.shape, (mixed.shape[2], size, 1))


def test_a_bmm_is_caught(device, monkeypatch) -> None:
    monkeypatch.setattr(transformer.Layer, "attend", staticmethod(unfolded))
    for may_batch in (False, True):
        with pytest.raises(AssertionError, match="bmm reads a matrix for every sequence"):
            run_cycles(model(), NoDrafter(), 3, SETTINGS[0], may_batch=may_batch)


def test_attention_that_could_reach_cudnn_is_caught(device) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        with pytest.raises(AssertionError, match="could reach cuDNN"):
            run_cycles(model(), NoDrafter(), 3, SETTINGS[0])
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)


def test_cudnn_attention_that_is_called_by_its_name_is_caught(device) -> None:
    def call(lengths: Tensor) -> None:
        queries = torch.empty(1, 2, 8, 64, device=lengths.device, dtype=torch.bfloat16)
        operator = torch.ops.aten._scaled_dot_product_cudnn_attention
        operator(queries, queries, queries, None, False)

    with pytest.raises(AssertionError, match="is cuDNN's attention"):
        run_cycles(model(), Defective(call), 3, SETTINGS[0])


def modules() -> dict[str, ModuleType]:
    """The decoder's modules that are imported."""
    return {name: each for name, each in sys.modules.items() if name.split(".")[0] == "reference"}


def test_importing_the_decoder_turns_cudnn_attention_off() -> None:
    """Imported anew, as in a process where nothing has set the flag."""
    kept = modules()
    for name in kept:
        del sys.modules[name]
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        from reference import generate

        assert generate is not kept["reference.decoding"].generate
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)
        for name in modules():
            del sys.modules[name]
        sys.modules.update(kept)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAFTERS)
def test_no_stage_has_to_do_with_the_host(device, kind: str) -> None:
    target = model()
    drafter = DRAFTERS[kind](target)
    run_cycles(target, drafter, 1, SETTINGS[1])
    for settings in SETTINGS:
        run_cycles(target, drafter, 3, settings)


def kinds_and_settings() -> list:
    """Every setting with a drafter that reports distributions and with one that does not, and the
    settings in turn with the others."""
    turn = itertools.cycle(SETTINGS)
    every = ("draft model", "n-gram")
    return [
        pytest.param(
            kind, SETTINGS if kind in every else [SETTINGS[1], next(turn)],
            marks=[pytest.mark.slow] * (kind not in every and place % 2),
        )
        for place, kind in enumerate(DRAFTERS)
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "some"), kinds_and_settings())
def test_no_stage_has_to_do_with_the_host_in_turn(device, kind: str, some) -> None:
    target = model()
    drafter = DRAFTERS[kind](target)
    run_cycles(target, drafter, 1, SETTINGS[1])
    for settings in some:
        run_cycles(target, drafter, 3, settings)


def hybrid_model() -> VariedTransformer:
    """A recurrent layer and one of gated attention."""
    config = {
        "model_type": "qwen3_5_text", "hidden_size": 256, "num_hidden_layers": 2, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256,
        "vocab_size": 61, "max_position_embeddings": 96, "full_attention_interval": 2,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    }  # fmt: skip
    shape = from_config(config, "hybrid")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with CUDA:
            made = VariedTransformer(shape, details_of(config, shape))
    finally:
        torch.set_default_dtype(torch.float32)
    made.rotary = made.rotary.bfloat16()
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["none", "n-gram", "early exit", "hybrid draft"])
def test_no_stage_of_a_hybrid_has_to_do_with_the_host(device, kind: str) -> None:
    """Its states are read and written by position, in fixed shapes: a graph can record it."""
    target = hybrid_model()
    draft = DraftModel(hybrid_model(), 2)
    drafter = draft if kind == "hybrid draft" else DRAFTERS[kind](target)
    # a state is each sequence's own, so its products are a batch
    for batch in (1, 3) if kind == "hybrid draft" else (3,):
        run_cycles(target, drafter, batch, SETTINGS[1], may_batch=True)


@pytest.mark.parametrize("kind", ["static", "confidence"])
def test_nor_has_one_of_a_tree_that_a_hybrid_drafts_and_verifies(device, kind: str) -> None:
    draft, tree = hybrid_model(), Tree.branching((2, 2))
    drafter = StaticTree(draft, tree) if kind == "static" else ConfidenceTree(draft, 6, 2, 3)
    run_cycles(hybrid_model(), drafter, 3, SETTINGS[1], may_batch=True)


@pytest.mark.parametrize("kind", TREES)
def test_no_stage_of_a_tree_has_to_do_with_the_host(device, kind: str) -> None:
    target, drafter = model(), TREES[kind]()
    run_cycles(target, drafter, 1, SETTINGS[1])
    for settings in (*SETTINGS[:2], RunSettings(EVERYTHING, "match")):
        run_cycles(target, drafter, 3, settings)


@pytest.mark.parametrize("kind", ["draft model", "n-gram", "head"])
def test_neither_does_one_that_drafts_fewer_tokens_than_it_could(device, kind: str) -> None:
    target = model()
    cycle = run_cycles(target, DRAFTERS[kind](target), 3, SETTINGS[1], gammas=(2, 1, 0))
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
    for batch, drafter in ((1, DraftModel(model(), 2)), (3, NoDrafter())):
        taken.clear()
        # a gathered visit is a product of its own: its matrix was copied for it
        run_cycles(target, drafter, batch, SETTINGS[1], may_batch=way == "gathered")
        assert taken, "the experts were visited in another way"


@pytest.mark.parametrize("precision", GROUPS)
def test_neither_do_quantised_weights(device, precision: str) -> None:
    target = quantized(model(), precision)
    run_cycles(target, DraftModel(quantized(model(), precision), 2), 3, SETTINGS[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_neither_does_another_dtype(device, dtype: torch.dtype) -> None:
    target = model(dtype, qk_norm=True, qkv_bias=True, tied_head=True)
    run_cycles(target, EarlyExit(1, 2), 3, SETTINGS[1])


def test_eager_runs_read_the_windows_that_graphs_do(device, monkeypatch) -> None:
    """Or a comparison of the two would be one of kernels, and of odd sizes."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    target, drafter = model(), NoDrafter()
    for mode in ("eager", "cuda-graphs"):
        with decoder_for(target, drafter, 1, 300, replace(SETTINGS[0], mode=mode)) as decoder:
            assert (decoder.cycle.cache.capacity, decoder.window(257)) == (512, 512)


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [
        (1, torch.bfloat16),
        (3, torch.float32),
        pytest.param(1, torch.float32, marks=pytest.mark.slow),
        pytest.param(3, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_neither_does_a_long_context(device, monkeypatch, batch: int, dtype) -> None:
    """It is read in chunks, by another operator; so it is by the rows of a tree."""
    read, run = [], attention.attend_in_chunks
    monkeypatch.setattr(
        attention, "attend_in_chunks", lambda *given: read.append(given[-1]) or run(*given)
    )
    target, draft = (model(dtype, max_context=4096) for _ in range(2))
    tree = StaticTree(draft, Tree.branching((2, 2)))
    for drafter in (DraftModel(draft, 2), tree):
        run_cycles(target, drafter, batch, SETTINGS[1], window=4096)
        assert set(read) == {16}
        read.clear()


@pytest.mark.parametrize("batch", [1, 3])
def test_neither_does_a_large_vocabulary(device, batch: int) -> None:
    """Which several rows draw from in two steps."""
    vocabulary = -(-sampling.LARGE // sampling.BLOCK) * sampling.BLOCK
    target, draft = (model(vocab_size=vocabulary) for _ in range(2))
    run_cycles(target, DraftModel(draft, 2), batch, RunSettings(SamplingParameters(1.0)))


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

"""Layers as Triton kernels: they compute what the ordinary layers compute, and refuse the rest."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from reference import DraftModel, NoDrafter, fused, generate, speculate
from reference.__main__ import main
from reference.cache import KVCache
from reference.fused import BETWEEN, LAYERS, TILES, fusing
from reference.quantization import quantized
from reference.transformer import Pass
from reference.trees import Tree, branches
from specsim.checks import SpecsimError

HERE = Path(__file__).parent
HEADS_OF_64 = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 400}
NEW = 24


def in_a_process(name: str) -> str:
    """What a script of this folder prints."""
    paths = os.pathsep.join(filter(None, (str(HERE.parents[1]), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, HERE / name], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return run.stdout


@pytest.mark.slow
def test_in_tritons_interpreter_fused_passes_are_ordinary_ones() -> None:
    """In fp32, of ragged batches, odd sizes, and one or several tokens, of chains and of trees."""
    pytest.importorskip("triton")
    numpy = pytest.importorskip("numpy")
    if tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("Triton's interpreter needs NumPy below 2.4")
    said = in_a_process("fused_interpreted.py")
    assert [said.count(what) for what in ("passes agree", "texts agree")] == [49, 2]


@pytest.mark.slow
def test_every_kernel_compiles_for_a_hopper_gpu_without_spills() -> None:
    """With every entry of `TILES`, in the sizes of Llama 3.1 8B; no GPU is needed. A weight is read
    before the wait for the kernel before, and nothing else is."""
    pytest.importorskip("triton")
    if not torch.version.cuda:
        pytest.skip("needs the compiler of a CUDA build")
    assert in_a_process("fused_compiled.py").count("no spills") == len(TILES) + 13


def test_without_triton_only_the_mode_is_missing(monkeypatch) -> None:
    code = "import sys; import reference, reference.decoding; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parents[1])
    cuda = torch.device("cuda")
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused.missing(cuda) == "the package triton"
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    monkeypatch.setattr(fused, "refusal", lambda index: None)
    assert fused.missing(cuda) is None
    assert fused.may_fuse(cuda) == BETWEEN


def test_a_gpu_that_cannot_run_the_kernels_decodes_without_them(monkeypatch) -> None:
    """One that is too old, and one where they do not compile: the reason is told, in words."""
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    fused.refusal.cache_clear()
    cuda = torch.device("cuda")
    assert fused.missing(cuda) == "compute capability 8.0 or higher"
    assert fused.may_fuse(cuda) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    fused.refusal.cache_clear()
    if not torch.cuda.is_available():
        assert fused.missing(cuda).startswith("kernels that compile here (")
    fused.refusal.cache_clear()


def test_blocks_are_loaded_at_once_as_a_processor_has_room(monkeypatch) -> None:
    cpu = torch.device("cpu")
    for kilobytes, expected in ((227, 3), (160, 3), (99, 2), (48, 1)):
        monkeypatch.setattr(fused, "shared_bytes", lambda device, n=kilobytes: n << 10)
        assert fused.stages_within(cpu, 128, 16) == expected
    monkeypatch.setattr(fused, "shared_bytes", lambda device: 99 << 10)
    assert [fused.stages_within(cpu, 128, queries) for queries in (64, 128)] == [2, 2]
    assert fused.stages_within(cpu, 64, 128) == 3


def test_a_cpu_is_refused_in_one_sentence(tiny) -> None:
    with pytest.raises(SpecsimError, match=r"^the mode 'fused' needs a CUDA device, not cpu; use"):
        generate(tiny(), [1, 2], 3, mode="fused")


# What fits


@pytest.fixture
def bf16(tiny, monkeypatch):
    """Builds models in bf16, on a CPU that is taken for a GPU: only shapes and types count."""

    def made(**fields):
        return tiny(1, dtype=torch.bfloat16, **(HEADS_OF_64 | fields))

    monkeypatch.setattr(fused, "DEVICE", "cpu")
    return made


def asked(model, batch: int = 1, tokens: int = 1, **changes) -> Pass:
    positions = torch.arange(tokens, device=model.device).repeat(batch, 1)
    cache = model.new_cache(batch, 64, 8)
    return Pass(cache, positions, positions, 64, None)._replace(**changes)


def fits(model, view: Pass, what: str = LAYERS) -> str:
    with fusing(what):
        return fused.fitting(model.layers, view)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 16), (3, 5), (16, 1)])
def test_few_rows_of_a_plain_model_fit(bf16, batch: int, tokens: int) -> None:
    model = bf16()
    view = asked(model, batch, tokens)
    assert fits(model, view) == LAYERS
    assert fits(model, view, BETWEEN) == BETWEEN
    assert fits(model, view, "") == ""
    assert fused.fitting(model.layers, view) == ""  # outside of `fusing`


def test_a_head_norm_fits(bf16) -> None:
    model = bf16(qk_norm=True)
    assert fits(model, asked(model)) == LAYERS


def test_products_of_many_rows_stay_torchs(bf16) -> None:
    model = bf16()
    assert fits(model, asked(model, 1, 17)) == BETWEEN
    assert fits(model, asked(model, 6, 3)) == BETWEEN
    assert fits(model, asked(model, 64, 5)) == BETWEEN


def test_many_queries_of_a_sequence_do_not_fit(bf16) -> None:
    model = bf16(num_heads=16, num_kv_heads=2, hidden_size=64)
    assert fits(model, asked(model, 1, 32))
    assert not fits(model, asked(model, 1, 33))  # 264 queries share a key-value head


def test_a_pass_over_a_tree_fits(bf16) -> None:
    model = bf16()
    view = asked(model, 2, 4)
    layout = Tree((0, 0, 1)).layout(2)
    kept = branches(layout.ancestors, torch.arange(4), torch.tensor([7, 9]))
    tree = view._replace(slots=kept.slots, branches=kept)
    assert fits(model, tree) == LAYERS
    with fusing(LAYERS):
        (seen,) = model.views(tree)
    assert seen.bias is None
    assert seen.nodes.tolist() == [[[0b0001], [0b0011], [0b0101], [0b1011]]] * 2
    assert model.views(tree)[0].nodes is None


def test_a_pass_that_is_neither_chain_nor_tree_does_not_fit(bf16) -> None:
    model = bf16()
    view = asked(model)
    assert not fits(model, view._replace(slots=view.positions.clone()))
    assert not fits(model, view._replace(bias=torch.zeros(1)))
    assert not fits(model, view._replace(cache=None))


def test_a_cache_of_another_kind_does_not_fit(bf16) -> None:
    model = bf16()

    class Other(KVCache):
        pass

    other = Other(model.architecture, 1, 64, torch.bfloat16)
    assert not fits(model, asked(model, cache=other))
    wide = KVCache(model.architecture, 1, 64, torch.float32)
    assert not fits(model, asked(model, cache=wide))
    view = asked(model, 2)
    one = view.cache.rows(slice(1, 2))
    assert fits(model, asked(model, 1, cache=one))
    assert not fits(model, view._replace(cache=one))  # of fewer sequences
    view.cache.values[1] = view.cache.values[1].transpose(0, 1)
    assert not fits(model, view)


@pytest.mark.parametrize(
    "fields",
    [{"qkv_bias": True}, {"output_bias": True}, {"mlp_bias": True}, {"gated_mlp": False}],
    ids=str,
)
def test_products_of_another_shape_stay_torchs(bf16, fields) -> None:
    from reference.transformer import Layer

    layer, view = Layer(replace(bf16().architecture, **fields)).bfloat16(), asked(bf16())
    assert fused.attention_fits(layer, view)
    assert not fused.layer_fits(layer)


@pytest.mark.parametrize("size", [8, 48])
def test_heads_of_other_sizes_do_not_fit(bf16, size: int) -> None:
    model = bf16(head_dim=size)
    assert not fits(model, asked(model))


def test_other_weights_stay_torchs(bf16) -> None:
    model = bf16()
    int8 = quantized(model, "int8")
    assert fits(int8, asked(int8)) == BETWEEN
    model.layers[1].down.weight = nn.Parameter(model.layers[1].down.weight.T.contiguous().T)
    assert fits(model, asked(model)) == BETWEEN
    assert not fits(model.float(), asked(model.float()))


def test_layers_that_devices_share_stay_torchs(bf16) -> None:
    model = bf16()
    model.layers[1].output.register_forward_hook(lambda linear, inputs, output: output)
    assert fits(model, asked(model)) == BETWEEN


def test_other_mathematics_do_not_fit(bf16) -> None:
    model = bf16()
    model.layers[0].activate = lambda x: x
    assert fits(model, asked(model)) == BETWEEN
    model.layers[0].attend = lambda *where: where[0]
    assert not fits(model, asked(model))


def test_the_window_is_read_where_the_kernels_do_not_fit(bf16, monkeypatch) -> None:
    shape = bf16(num_heads=16, num_kv_heads=2, hidden_size=64).architecture
    cpu = torch.device("cpu")
    assert not fused.reads_to_the_end(shape, 1, "cuda-graphs", cpu)
    monkeypatch.setattr(fused, "missing", lambda device: None)
    assert fused.reads_to_the_end(shape, 32, "cuda-graphs", cpu)
    assert fused.reads_to_the_end(shape, 32, "fused", cpu)
    assert not fused.reads_to_the_end(shape, 33, "cuda-graphs", cpu)
    assert not fused.reads_to_the_end(shape, 1, "eager", cpu)


def test_parts_are_enough_for_a_gpu_and_no_more_than_there_are_slots() -> None:
    assert fused.parts_of(8, 64) == 1
    assert fused.parts_of(8, 512) == 8
    assert fused.parts_of(8, 8192) == 32
    assert fused.parts_of(1, 1 << 20) == 64
    assert fused.parts_of(512, 8192) == 1


# On a GPU


@pytest.fixture(scope="module")
def on_gpu(tiny):
    """A model in bf16 on a GPU, and the same in fp64."""
    shape = HEADS_OF_64 | {"num_layers": 3, "max_context": 2048, "qk_norm": True}
    model = tiny(2, dtype=torch.bfloat16, **shape).to("cuda")
    return model, copy.deepcopy(model).double()


@pytest.mark.gpu
@pytest.mark.parametrize("what", [BETWEEN, LAYERS])
@pytest.mark.parametrize(
    ("batch", "tokens"),
    [(1, 1), (1, 2), (1, 5), (1, 9), (1, 16), (1, 40), (1, 100), (3, 1), (3, 5)],
)
@torch.inference_mode()
def test_fused_passes_are_as_near_to_fp64_as_ordinary_ones(on_gpu, batch, tokens, what) -> None:
    as_near_to_fp64(on_gpu, batch, what, torch.arange(tokens, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("what", [BETWEEN, LAYERS])
@pytest.mark.parametrize(("batch", "tree"), [(1, (3, 2)), (3, (2, 1)), (1, (20, 3)), (2, (40, 1))])
@torch.inference_mode()
def test_so_are_fused_passes_over_trees(on_gpu, batch, tree, what) -> None:
    layout = Tree.branching(tree).layout(batch, "cuda")
    as_near_to_fp64(on_gpu, batch, what, layout.depths, layout.ancestors)


def as_near_to_fp64(models, batch: int, what: str, depths, ancestors=None) -> None:
    model, exact = models
    lengths, tokens = torch.tensor([700, 3, 131], device="cuda")[:batch, None], depths.shape[-1]
    positions, kept = lengths + depths, None
    if ancestors is not None:
        kept = branches(ancestors, torch.arange(tokens, device="cuda"), lengths[:, 0])
    text = torch.randint(0, 61, (batch, tokens), device="cuda")
    noise = model.new_cache(batch, 1024, tokens)
    noise.fill_with_noise(1024)
    found = []
    for each, used in ((exact, ""), (model, ""), (model, what)):
        cache = each.new_cache(batch, 1024, tokens)
        for to, source in zip(cache.tensors(), noise.tensors(), strict=True):
            to.copy_(source)
        with fusing(used):
            hidden = each.hidden(text, positions, cache, 1024, kept)
        found.append([x.double() for x in (hidden, *cache.tensors())])
    assert not torch.equal(found[1][0], found[2][0])  # other kernels
    for truth, ordinary, other in zip(*found, strict=True):
        scale = truth.norm()
        errors = [((x - truth).norm() / scale).item() for x in (ordinary, other)]
        assert errors[1] < 1.5 * errors[0] + 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("gamma", [0, 3])
def test_fused_texts_follow_the_model(on_gpu, perturbed, gamma: int) -> None:
    """Every token is the likeliest after the text before it, or nearly so, in fp64."""
    model, exact = on_gpu
    drafter = DraftModel(perturbed(model, 0.15).to("cuda"), gamma) if gamma else NoDrafter()
    prompts = [[(7 * i + row) % 61 for i in range(300 - 90 * row)] for row in range(3)]
    below = {}
    for mode in ("eager", "cuda-graphs", "fused"):
        texts = speculate(model, drafter, prompts, NEW, mode=mode).tokens
        below[mode] = 0.0
        for prompt, text in zip(prompts, texts, strict=True):
            with torch.inference_mode():
                logits = exact(torch.tensor([prompt + text], device="cuda"))[0]
            logits = logits[len(prompt) - 1 : -1]
            chosen = logits.gather(1, torch.tensor(text, device="cuda")[:, None])[:, 0]
            below[mode] = max(below[mode], (logits.amax(1) - chosen).max().item())
    assert max(below["fused"], below["cuda-graphs"]) < 2 * below["eager"] + 0.1


@pytest.mark.gpu
def test_fused_texts_repeat_themselves(on_gpu) -> None:
    """A replay, a new recording and another batch: the same model, the same text."""
    model, _ = on_gpu
    prompts = [[5, 6, 7], [9] * 40]
    first = generate(model, prompts, NEW, 0.9, mode="fused", seed=1).tokens
    assert generate(model, prompts, NEW, 0.9, mode="fused", seed=1).tokens == first
    again = copy.deepcopy(model)
    assert generate(again, prompts, NEW, 0.9, mode="fused", seed=1).tokens == first


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without CUDA")
def test_the_command_line_refuses_fused_layers_on_a_cpu_in_a_line(capsys) -> None:
    assert main(["generate", "a", "--fused", "--device", "cpu"]) == 2
    assert "the mode 'fused' needs a CUDA device, not cpu" in capsys.readouterr().err

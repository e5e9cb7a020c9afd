"""Compiled stages are kept on disk, and loaded only where they were made for exactly this.

The quick tests let the compiler write a number in place of a library, and run the traced operators
under that number: tracing, keeping, checking and loading are real. The slow ones compile.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reference import (
    DraftModel,
    EarlyExit,
    Ensemble,
    NGram,
    NoDrafter,
    Proposal,
    StaticTree,
    Tree,
    artefacts,
    generate,
    graphs,
    speculate,
    tracing,
)  # fmt: skip
from reference.artefacts import KEY, PLACE, difference, key_of
from reference.decoding import Decoder
from reference.packing import pack
from reference.sampling import SamplingParameters
from reference.settings import RunSettings

NEW = 12
PROMPTS = [[17], [3, 41], [9, 9, 30, 2, 55]]
COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)


@pytest.fixture(scope="module")
def pair(tiny, perturbed):
    target = tiny(2, num_layers=1)
    return target, perturbed(target, 0.15)


ALL = ["draft", "verify", "decide"]


def started_again(target, drafter, prompt=PROMPTS[2], **options):
    """As another process would decode: nothing is left in memory."""
    graphs.forget(target)
    return speculate(target, drafter, prompt, NEW, **options)


def only(place: Path) -> Path:
    """The folder of the one set of stages there is."""
    return next(place.glob("*/gamma-*"))


def library(folder: Path, stage: str) -> Path:
    """The library of a stage in a folder of `only`."""
    return next(folder.glob(f"{stage}-*.so"))


# A second start


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}], ids=str)
def test_a_second_start_loads_what_the_first_compiled(pair, compiled, options) -> None:
    target, draft = pair
    drafter = DraftModel(draft, 2)
    for prompts in (PROMPTS, PROMPTS[0]):
        compiled.clear()
        eager = speculate(target, drafter, prompts, NEW, mode="eager", **options)
        first = started_again(target, drafter, prompts, mode="compiled", **options)
        assert compiled == ALL
        again = started_again(target, drafter, prompts, **options)
        assert compiled == ALL, "compiled again"
        assert eager.tokens == first.tokens == again.tokens
        assert eager.statistics.compiled_cycles == 0
        assert not eager.statistics.notes
        for run, said in ((first, "compiled into"), (again, "loaded from")):
            assert run.statistics.accepted_counts == eager.statistics.accepted_counts
            assert run.statistics.compiled_cycles == len(run.statistics.cycle_times)
            assert len(run.statistics.notes) == 1
            assert said in run.statistics.notes[0]


def test_the_cache_is_written_as_the_eager_stages_write_it(pair, compiled) -> None:
    target, draft = pair
    drafters = [DraftModel(draft, 2) for _ in range(2)]
    for drafter, mode in zip(drafters, ("eager", "compiled"), strict=True):
        started_again(target, drafter, PROMPTS[2], mode=mode)
    eager, loaded = (drafter.cache for drafter in drafters)
    written = len(PROMPTS[2]) + NEW - 1
    for one, other in zip(eager.tensors(), loaded.tensors(), strict=True):
        assert one[:, :written].abs().amax() > 0
        assert torch.allclose(one[:, :written], other[:, :written])


@pytest.mark.parametrize("index", range(6))
def test_every_kind_of_drafter_is_kept_or_said_not_to_be(pair, compiled, index: int) -> None:
    target, draft = pair
    drafter = [
        NoDrafter(), NGram(2), EarlyExit(1, 2), DraftModel(draft, 2, stop_below=0.5),
        Ensemble(DraftModel(draft, 2)), StaticTree(draft, Tree.branching((2, 1))),
    ][index]  # fmt: skip
    eager = speculate(target, drafter, PROMPTS[2], NEW, mode="eager").tokens
    assert started_again(target, drafter, mode="compiled").tokens == eager
    again = started_again(target, drafter)
    assert again.tokens == eager
    assert compiled == ALL
    assert again.statistics.compiled_cycles > 0


def test_other_weights_of_the_same_shapes_run_the_same_libraries(pair, perturbed, compiled) -> None:
    target, draft = pair
    started_again(target, DraftModel(draft, 2), mode="compiled")
    others = perturbed(target, 0.5), perturbed(draft, 0.5)
    eager = generate(others[0], PROMPTS[2], NEW, mode="eager").tokens
    found = started_again(others[0], DraftModel(others[1], 2))
    assert compiled == ALL
    assert found.statistics.compiled_cycles > 0
    assert found.tokens == eager != generate(target, PROMPTS[2], NEW, mode="eager").tokens


def test_what_was_not_compiled_runs_eagerly_and_says_so(tiny, compiled) -> None:
    target = tiny(2, num_layers=1, max_context=600)
    started_again(target, NoDrafter(), mode="compiled")
    longer = [1, 2, 3] * 84  # needs another window
    found = started_again(target, NoDrafter(), longer)
    assert found.tokens == generate(target, longer, NEW, mode="eager").tokens
    assert found.statistics.compiled_cycles == 0
    assert "nothing is compiled yet for gamma-0-slots-512" in found.statistics.notes[0]


# The key


def cycle_of(target, drafter, settings=RunSettings(SamplingParameters(0.0))):  # noqa: B008
    cycle = Decoder(target, drafter, 1, 64, settings).cycle
    cycle.begin([PROMPTS[2]], [NEW], 0)
    return cycle


def transposed(cycle) -> None:
    weight = cycle.target.layers[0].down.weight
    weight.data = weight.data.t().contiguous().t()


INGREDIENTS = {
    "torch": lambda patch, cycle: patch.setattr(torch, "__version__", "9.9"),
    "processor": lambda patch, cycle: patch.setattr(artefacts, "processor", lambda: "another"),
    "threads": lambda patch, cycle: patch.setattr(torch, "get_num_threads", lambda: 7),
    "the code": lambda patch, cycle: patch.setattr(artefacts, "code_digest", lambda _: "another"),
    "gamma": lambda patch, cycle: setattr(cycle, "gamma", 1),
    "sequences.window": lambda patch, cycle: setattr(cycle.sequences, "window", 9),
    "cache.keys.0": lambda patch, cycle: cycle.cache.keys.__setitem__(0, torch.zeros(2, 9, 2, 8)),
    "target.layers.0.down.weight": lambda patch, cycle: transposed(cycle),
    "target.architecture.norm_eps": lambda patch, cycle: patch.setattr(
        cycle.target, "architecture", changed(cycle.target.architecture, norm_eps=0.5)
    ),
    "settings.sampling.temperature": lambda patch, cycle: setattr(
        cycle, "settings", RunSettings(SamplingParameters(0.7))
    ),
    "drafter.stop_below": lambda patch, cycle: setattr(cycle.drafter, "stop_below", 0.2),
}


def changed(architecture, **fields):
    from dataclasses import replace

    return replace(architecture, **fields)


@pytest.mark.parametrize("name", INGREDIENTS)
def test_the_key_changes_with_each_ingredient(pair, monkeypatch, name: str) -> None:
    target, draft = map(copy.deepcopy, pair)
    cycle = cycle_of(target, DraftModel(draft, 2))
    before = key_of(cycle)
    assert difference(json.loads(json.dumps(before)), key_of(cycle)) is None
    cycle.begin([PROMPTS[1]], [NEW - 3], 1)
    cycle.sequences.window = before["cycle"]["sequences.window"]
    assert difference(before, key_of(cycle)) is None, "another prompt"
    INGREDIENTS[name](monkeypatch, cycle)
    found = difference(before, key_of(cycle))
    assert found is not None
    assert found.startswith(name), found


def test_the_key_holds_the_code_of_a_drafter_of_ones_own(pair, tmp_path, monkeypatch) -> None:
    file = tmp_path / "own_drafter.py"
    code = "from reference import NGram\nclass Own(NGram): mine = {}\n"
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for number in (1, 2):
        file.write_text(code.format(number))
        artefacts.code_digest.cache_clear()
        import own_drafter

        digests.append(key_of(cycle_of(pair[0], own_drafter.Own(2)))["code"])
    assert digests[0] != digests[1]
    monkeypatch.delitem(sys.modules, "own_drafter")


# What is stale or broken


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)


BROKEN = {
    "truncated": lambda folder: os.truncate(library(folder, "verify"), 3),
    "altered": lambda folder: altered(library(folder, "draft")),
    "missing": lambda folder: library(folder, "decide").unlink(),
    "no key": lambda folder: (folder / KEY).unlink(),
    "half a key": lambda folder: os.truncate(folder / KEY, 50),
    "no object": lambda folder: (folder / KEY).write_text("[]"),
    "empty": lambda folder: (folder / KEY).write_text("{}"),
    "another torch": lambda folder: (folder / KEY).write_text(
        (folder / KEY).read_text().replace(torch.__version__, "1.0")
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_or_stale_is_never_loaded_and_compiled_again(
    pair, compiled, place, monkeypatch, name: str
) -> None:
    target = pair[0]
    eager = generate(target, PROMPTS[2], NEW, mode="eager").tokens
    started_again(target, NoDrafter(), mode="compiled")
    BROKEN[name](only(place))
    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "open_library", lambda file: pytest.fail("it is loaded"))
        found = started_again(target, NoDrafter())
    assert found.tokens == eager
    assert found.statistics.compiled_cycles == 0
    assert found.statistics.notes[0].startswith("eager: ")
    compiled.clear()
    again = started_again(target, NoDrafter(), mode="compiled")
    assert compiled == ALL
    assert again.tokens == eager
    note = again.statistics.notes[0]
    assert "stages compiled into" in note
    assert ("does not fit: torch is" if name == "another torch" else "damaged") in note
    compiled.clear()
    assert "loaded from" in started_again(target, NoDrafter()).statistics.notes[0]
    assert not compiled
    assert not [*place.glob("*/.*")], "something is left of the building"


def test_libraries_of_another_key_have_other_names(pair, compiled, place, monkeypatch) -> None:
    """A process that has opened a file gets the same library under its name again."""
    names = []
    for version in (torch.__version__, "9.9"):
        monkeypatch.setattr(torch, "__version__", version)
        started_again(pair[0], NoDrafter(), mode="compiled")
        names.append({file.name for file in only(place).glob("*.so")})
    assert [len(each) for each in names] == [3, 3]
    assert not names[0] & names[1]


# Where, and whose


def test_nothing_is_loaded_that_others_may_write(pair, compiled, place, monkeypatch) -> None:
    target = pair[0]
    started_again(target, NoDrafter(), mode="compiled")
    monkeypatch.setattr(artefacts, "open_library", lambda file: pytest.fail("it is loaded"))
    for path in (place, only(place).parent, only(place), library(only(place), "draft")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        notes = started_again(target, NoDrafter()).statistics.notes
        assert "may be written by other users (chmod go-w)" in notes[0]
        path.chmod(mode)
    real = only(place)
    real.rename(place / "elsewhere")
    real.symlink_to(place / "elsewhere")
    assert "is a link" in started_again(target, NoDrafter()).statistics.notes[0]
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "another user" in started_again(target, NoDrafter()).statistics.notes[0]


def test_what_is_made_is_for_this_user_alone(pair, compiled, place) -> None:
    before = os.umask(0)
    try:
        started_again(pair[0], NoDrafter(), mode="compiled")
    finally:
        os.umask(before)
    for path in (place, *place.rglob("*")):
        assert not path.stat().st_mode & 0o077, path


def test_where_nothing_can_be_kept_it_is_compiled_in_memory(pair, compiled, monkeypatch) -> None:
    eager = generate(pair[0], PROMPTS[2], NEW, mode="eager").tokens
    for place in ("/proc/nothing/here", "off", "~no-such-user/x", "/" + "x" * 300, __file__):
        monkeypatch.setenv(PLACE, place)
        found = started_again(pair[0], NoDrafter(), mode="compiled")
        assert found.tokens == eager
        assert found.statistics.notes[0].startswith("no compiled stages are kept: ")
        assert not compiled
        assert not started_again(pair[0], NoDrafter()).statistics.notes, "it looks there again"


def test_the_users_cache_folder_is_the_default(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert artefacts.cache_folder() == tmp_path / "specsim/compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert artefacts.cache_folder() == tmp_path / "home/.cache/specsim/compiled"
    monkeypatch.setenv(PLACE, "~/mine")
    assert artefacts.cache_folder() == tmp_path / "home/mine"


# Stages that cannot be kept


class Replacing(NGram):
    """A drafter that keeps a new tensor from cycle to cycle."""

    def propose(self, sequences, sampling, uniforms):
        self.last = sequences.lengths.clone()
        return super().propose(sequences, sampling, uniforms)


class Hidden(NGram):
    """A drafter that reads a tensor which nobody sees."""

    def propose(self, sequences, sampling, uniforms):
        tokens, distributions, *_ = super().propose(sequences, sampling, uniforms)
        return Proposal(tokens * TABLE, distributions)


TABLE = torch.ones((), dtype=torch.long)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Replacing, "replaces the tensor drafter.last"), (Hidden, "that the cycle does not hold")],
)
def test_a_stage_that_keeps_tensors_elsewhere_is_not_kept(pair, compiled, kind, reason) -> None:
    found = started_again(pair[0], kind(2), mode="compiled")
    assert reason in found.statistics.notes[0]
    assert found.tokens == generate(pair[0], PROMPTS[2], NEW, mode="eager").tokens


def test_a_trace_leaves_the_cycle_as_it_was(pair) -> None:
    cycle = cycle_of(pair[0], DraftModel(pair[1], 2))
    with torch.inference_mode():
        cycle.noise.refresh()  # else what lies there may be NaN
        tracing.warm_up(cycle)
        before = tracing.named_tensors(cycle)
        values = {name: x.clone() for name, x in before.items()}
        for stage in cycle.stages:
            tracing.trace(cycle, stage)
    after = tracing.named_tensors(cycle)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert all(torch.equal(values[name], before[name]) for name in before)


# With the real compiler


@pytest.mark.slow
@COMPILER
def test_another_process_loads_and_imports_no_compiler(tiny, perturbed, place) -> None:
    target = tiny(2, num_layers=1, hidden_size=32)
    target, draft = (pack(model.float()) for model in (target, perturbed(target, 0.15)))
    eager = speculate(target, DraftModel(draft, 2), PROMPTS[2], NEW, mode="eager")
    first = started_again(target, DraftModel(draft, 2), mode="compiled")
    assert "compiled into" in first.statistics.notes[0], first.statistics.notes
    assert first.tokens == eager.tokens
    assert len([*only(place).glob("*.so")]) == 3
    code = (
        "import sys, json, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1])\n"
        "from conftest import tiny_model, perturbed_model\n"
        "from reference import DraftModel, speculate\n"
        "from reference.packing import pack\n"
        "target = tiny_model(2, num_layers=1, hidden_size=32)\n"
        "target, draft = (pack(m.float()) for m in (target, perturbed_model(target, 0.15)))\n"
        f"run = speculate(target, DraftModel(draft, 2), {PROMPTS[2]}, {NEW})\n"
        "named = [m for m in sys.modules if m.startswith(('torch._inductor', 'torch._dynamo'))]\n"
        "print(json.dumps([run.tokens, run.statistics.notes, named]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    tokens, notes, compilers = json.loads(ran.stdout)
    assert tokens == eager.tokens
    assert "loaded from" in notes[0]
    assert not compilers

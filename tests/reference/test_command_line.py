"""python -m reference: what it prints, and one clear line for every mistake."""

import io
import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import reference
from reference.__main__ import PRECISIONS, main, process
from reference.checkpoints import PAIR, load_checkpoint
from reference.heads import save_head, untrained_head
from reference.machine import DTYPES
from specsim.checks.extras import EXTRAS
from specsim.evidence import calibration
from specsim.evidence.calibration import Calibration
from specsim.evidence.measurement import Measurement

ROOT = Path(__file__).resolve().parents[2]


def test_generate_prints_the_prompt_and_its_continuation(capsys):
    assert main(["generate", "def add(a, b):\n", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out.startswith("def add(a, b):\n")


def test_gamma_changes_the_cycles_and_not_the_text(capsys):
    reports = []
    for gamma in ("0", "3"):
        arguments = [
            "generate",
            "import os\n",
            "--gamma",
            gamma,
            "--max-new-tokens",
            "24",
            "--json",
        ]
        assert main(arguments) == 0
        reports.append(json.loads(capsys.readouterr().out))
    plain, speculative = reports
    assert plain["tokens"] == speculative["tokens"]
    assert plain["tokens_per_cycle"] == 1.0
    assert speculative["cycles"] <= plain["cycles"]
    for key in (
        "alpha",
        "accepted_per_drafted",
        "tokens_per_cycle",
        "draft_s",
        "verify_s",
        "host_s",
    ):
        assert speculative[key] is not None, key


def test_precisions_are_asked_for_and_explained(capsys):
    arguments = ["--target-precision", "int8", "--draft-precision", "int4-g32", "--json"]
    assert main(["generate", "import os\n", "--max-new-tokens", "8", *arguments]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["tokens"]) == 8
    assert "target: int8 weights on" in printed.err
    assert "draft: int4-g32 weights on" in printed.err


def test_a_dialled_pair_is_measured(capsys, tmp_path):
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 6, "intermediate_size": 128,
        "num_attention_heads": 4, "vocab_size": 256, "max_position_embeddings": 256,
    }  # fmt: skip
    (tmp_path / "shape.json").write_text(json.dumps(config))
    file = tmp_path / "measured.json"
    arguments = ["--dialled", str(tmp_path / "shape.json"), "--alpha", "0.7", "--gamma", "2"]
    arguments += ["--prompts", "1", "--max-new-tokens", "12", "--out", str(file), "--json"]
    assert main(["measure", *arguments, "--temperature", "1"]) == 0
    said = capsys.readouterr().err.split("alpha ")[1]
    assert abs(float(said.split()[0]) - 0.7) < 0.03
    points = Measurement.read(file).points
    assert [point.scenario.gamma for point in points] == [0, 2]
    assert points[1].scenario.draft.num_layers == 1


def test_running_out_of_memory_is_one_line(capsys, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("reference.checkpoints.load_checkpoint", fails)
    assert main(["generate", "x", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("reference: cpu is out of memory: [enforce fail]")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "method", ["draft-model", "n-gram", "early-exit", "ensemble", "quantised-self"]
)
def test_the_method_changes_the_cycles_and_not_the_text(capsys, method):
    texts = []
    for gamma in ("0", "3"):
        arguments = ["--method", method, "--gamma", gamma, "--max-new-tokens", "16", "--json"]
        assert main(["generate", "import os\n", *arguments]) == 0
        report = json.loads(capsys.readouterr().out)
        texts.append(report["text"])
        assert report["method"] == (method if gamma == "3" else "plain")
        assert report["lossless"] is True
    assert texts[0] == texts[1]


def test_a_head_drafts_where_one_is_given(capsys, tmp_path):
    target = load_checkpoint(PAIR / "target")
    save_head(untrained_head(target), target, tmp_path)
    texts = []
    for arguments in (["--gamma", "0"], ["--head", str(tmp_path)]):
        assert main(["generate", "import os\n", "--max-new-tokens", "8", "--json", *arguments]) == 0
        report = json.loads(capsys.readouterr().out)
        texts.append(report["text"])
    assert report["method"] == "head"
    assert texts[0] == texts[1]
    # it needs no draft model
    alone = ["generate", "import os\n", "--max-new-tokens", "8", "--target", "bundled-target"]
    assert main([*alone, "--head", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(texts[0] + "\n")
    assert main(alone) == 2
    assert "not a pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tree", "gamma", "nodes"), [("2,2,1", 3, 10), ("2,2,1 --drawn-children", 3, 10), ("9", 4, 9)]
)
def test_a_tree_changes_the_cycles_and_not_the_text(capsys, tree, gamma, nodes):
    reports = []
    for arguments in (["--gamma", "0"], ["--tree", *tree.split()]):
        assert (
            main(["generate", "import os\n", "--max-new-tokens", "16", "--json", *arguments]) == 0
        )
        reports.append(json.loads(capsys.readouterr().out))
    plain, report = reports
    assert report["text"] == plain["text"]
    assert (report["method"], report["gamma"], report["nodes"]) == ("tree", gamma, nodes)
    assert report["lossless"] is True


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tree", "2,x"], "--tree takes numbers, as 4,2,1 or 16, not '2,x'"),
        (["--tree", "2,0"], "branching factors must be at least 1"),
        (["--tree", "3"], "has 4 to 52 nodes, not 3"),
        (["--tree", "2,2", "--method", "n-gram"], "leave out --method n-gram"),
        (["--tree", "2,2", "--rule", "block", "--temperature", "1"], "is for chains"),
    ],
)
def test_a_tree_that_cannot_be_drafted_is_named(capsys, arguments, named):
    assert main(["generate", "import os\n", *arguments]) == 2
    assert named in capsys.readouterr().err


def test_the_depth_of_a_tree_may_be_given_again(capsys):
    for tree, gamma in (("2,1", 2), ("5", 3)):
        arguments = ["--tree", tree, "--gamma", str(gamma), "--max-new-tokens", "4", "--json"]
        assert main(["generate", "import os\n", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["gamma"] == gamma


@pytest.mark.parametrize("rule", ["token", "block", "match", "typical"])
def test_the_rule_is_told_and_so_is_a_lossy_one(capsys, rule):
    for temperature, lossless in [("0", True), ("1", rule != "typical")]:
        arguments = ["--rule", rule, "--temperature", temperature, "--max-new-tokens", "8"]
        assert main(["generate", "import os\n", *arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["rule"] == (rule if temperature == "1" else "greedy")
        assert report["lossless"] is lossless


def test_measure_writes_a_measurement_file(tmp_path, capsys):
    file = tmp_path / "run.json"
    arguments = ["--gamma", "2", "20", "--prompts", "1", "--max-new-tokens", "12"]
    assert main(["measure", *arguments, "--out", str(file)]) == 0
    plain, drafted, long = Measurement.read(file).points
    assert [point.scenario.gamma for point in (plain, drafted, long)] == [0, 2, 20]
    assert "gamma 2" in capsys.readouterr().out
    assert plain.calibration_survival is None
    assert 0 < drafted.calibration_survival[1] <= drafted.calibration_survival[0] <= 1
    assert drafted.tokens_error > 0
    assert long.calibration_survival is None  # the texts of 12 tokens are too short to tell


def test_calibrate_writes_a_calibration_file(tmp_path, capsys, monkeypatch):
    from reference.lab import drift
    from reference.lab.probes import attention, products, stages

    monkeypatch.setattr(products, "STACKS", ((64, 2), (128, 1), (192, 2)))
    monkeypatch.setattr(products, "FORMATS", ())
    monkeypatch.setattr(products.WideProduct, "SIDE", 256)
    monkeypatch.setattr(attention, "READ_BYTES", 4e6)
    monkeypatch.setattr(drift, "SIDE_ELSEWHERE", 512)
    runs = ((1, (0, 2)), (2, (1,)))
    pairs = (((128, 2), (64, 1), 512), ((192, 2), (128, 1), 1024))
    monkeypatch.setattr(stages, "PAIRS", tuple(stages.Pair(*pair, runs) for pair in pairs))
    file = tmp_path / "calibration.json"
    assert main(["calibrate", "--out", str(file), "--dtype", "fp32"]) == 0
    loaded = calibration.load(file)
    assert isinstance(loaded, Calibration)
    # of each pair: three verifications, and two stages of drafting; what is fitted to them depends
    # on the machine
    assert len(loaded.residuals) == 2 * (3 + 2)
    assert "median error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", ""], "empty"),
        (["generate", "x = 1\n" * 400], "context"),
        (["generate", "x", "--gamma", "-1"], "-1"),
        (["generate", "x", "--gamma", "99"], "99"),
        (["generate", "x", "--max-new-tokens", "0"], "max_new_tokens"),
        (["generate", "x", "--method", "early-exit", "--layers", "99"], "99"),
        (["generate", "x", "--head", "nowhere"], "nowhere"),
        (["generate", "x", "--head", str(PAIR / "draft")], "not a head"),
        (["generate", "x", "--temperature", "-1"], "temperature"),
        (["generate", "x", "--target", "nowhere"], "nowhere"),
        (["generate", "x", "--target", str(PAIR / "target" / "config.json")], "not a pair"),
        (["generate", "x", "--device", "abacus"], "abacus"),
        (["generate", "x", "--temperature", "1e-40"], "0 (greedy) or at least 1e-06, not 1e-40"),
        (["generate", "x", "--temperature", "nan"], "temperature"),
        (
            ["generate", "x", "--seed", str(2**70)],
            "seed must be a whole number of at most 9,223,372",
        ),
        (["generate", "x", "--tree", "30,30,10"], "nodes of a tree must be at most 4,096"),
        (["generate", "x", "--tree", "9" * 30], "nodes of a tree must be at most 4,096"),
        (
            ["generate", "x", "--tree", "9" * 9_000],
            "--tree takes numbers, as 4,2,1 or 16, not '9",
        ),
        (["generate", "a\udcff"], "cannot encode this text"),
        (["generate", "x", "--tree", "4,2,1", "--gamma", "7"], "depth 3; leave out --gamma 7"),
        (["generate", "x", "--tree", "4,2,1", "--gamma", "0"], "depth 3; leave out --gamma 0"),
        (["generate", "x", "--tree", ""], "--tree takes numbers, as 4,2,1 or 16, not ''"),
        (["generate", "x", "--layers", "3"], "--layers needs --method early-exit"),
        (["generate", "x", "--tree", "9", "--layers", "3"], "--layers needs --method early-exit"),
        (["generate", "x", "--drawn-children"], "--drawn-children needs a --tree of a given shape"),
        (["generate", "x", "--tree", "9", "--drawn-children"], "a --tree of a given shape"),
        (
            ["generate", "x", "--head", "bundled", "--method", "n-gram"],
            "--head needs --method head",
        ),
        (["generate", "x", "--head", "bundled", "--tree", "4,2"], "--head needs --method head"),
        (
            ["generate", "x", "--draft", "bundled-draft", "--method", "head"],
            "--draft needs --method draft-model or ensemble",
        ),
        (
            ["generate", "x", "--draft-precision", "int8", "--method", "n-gram"],
            "--draft-precision needs --method draft-model, ensemble or quantised-self",
        ),
        (["measure", "--dry-run", "--out", "x.json"], "--dry-run needs --suite"),
        (["measure", "--minutes", "0", "--out", "x.json"], "--minutes needs --suite"),
        (["measure", "--alpha", "0", "--out", "x.json"], "--alpha needs --dialled"),
        (["measure", "--suite", "cpu", "--draft-layers", "2", "--out", "x"], "needs --dialled"),
        (["measure", "--suite", "cpu", "--dialled", "1b", "--out", "x"], "leave out --dialled"),
        (["measure", "--dialled", "1b", "--draft", "x", "--out", "x"], "leave out --draft"),
        (["measure", "--gamma", "-2", "--out", "x.json"], "-2"),
        (["measure", "--prompts", "0", "--out", "x.json"], "--prompts must be a whole number >= 1"),
        (["measure", "--prompts", "-3", "--out", "x.json"], "--prompts"),
        (["measure", "--prompts", "26", "--out", "x.json"], "there are 25 prompts, not 26"),
        (["measure", "--prompts", "9" * 30, "--out", "x.json"], "--prompts must be at most"),
        (["measure", "--out", "."], "it is a folder"),
        (["measure", "--dialled", "1b", "--draft-layers", "0", "--out", "x.json"], "first 0"),
        (
            ["measure", "--suite", "cpu", "--minutes", "-1", "--out", "x"],
            "--minutes must be a",
        ),
        (["calibrate", "--out", "."], "it is a folder"),
        (["train", "--tokens", "-5", "--out", "x"], "--tokens must be above 0, not -5"),
        (["train", "--part", "head", "--out", "nowhere"], "train all parts first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.strip().splitlines()) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "run.json")
    assert main(["measure", "--gamma", "1", "--prompts", "1", "--out", place]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_place_is_tried_before_anything_is_loaded_or_measured(tmp_path, capsys, monkeypatch):
    for command in ("load_pair", "load_checkpoint"):
        monkeypatch.setattr(f"reference.checkpoints.{command}", None)  # it would fail
    monkeypatch.setattr("reference.lab.probes.run_probes", None)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run.json", tmp_path):
        for command in ("measure", "calibrate"):
            assert main([command, "--out", str(place)]) == 2
            assert capsys.readouterr().err.startswith("reference: cannot write")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"caf\xe9", b"\x00\x80"])
def test_standard_input_that_is_no_text_is_refused(content: bytes, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["generate", "-"]) == 2
    assert "standard input is not text in UTF-8" in capsys.readouterr().err


def test_standard_input_that_never_ends_is_not_read(capsys, monkeypatch):
    with open("/dev/zero", encoding="utf-8") as zeros:
        monkeypatch.setattr("sys.stdin", zeros)
        assert main(["generate", "-"]) == 2
    assert "size of standard input in bytes must be at most" in capsys.readouterr().err


def test_the_precisions_are_those_of_the_decoder():
    assert tuple(DTYPES) == PRECISIONS


def test_the_public_names_are_where_they_are_said_to_be():
    for module, names in reference.PLACES.items():
        for name in names:
            place = import_module(f"reference.{module}")
            assert getattr(reference, name) is getattr(place, name)
            assert name in dir(reference)
    assert set(EXTRAS["reference"]) <= set(sys.modules)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        reference.nothing  # noqa: B018


WITHOUT = """
import sys
from importlib import import_module
for library in sys.argv[1].split(","):
    for name in [name for name in sys.modules if name.split(".")[0] in ("reference", library)]:
        del sys.modules[name]
    sys.modules[library] = None  # importing it raises ModuleNotFoundError
    main = import_module("reference.__main__").main
    commands = ["measure --out x"]
    if library == "torch":  # the others are not needed for all of these
        commands += ["generate x", "measure --suite cpu --out x", "calibrate --out x",
                     "train --out x"]
    for command in commands:
        print(library, main(command.split()), file=sys.stderr)
    try:
        import_module("reference").speculate
    except ImportError as error:
        print(error, file=sys.stderr)
    del sys.modules[library]
"""


@pytest.mark.parametrize("libraries", ["torch", "safetensors,tokenizers,tqdm"])
def test_without_a_library_its_extra_is_named_in_one_line(libraries: str, tmp_path):
    """Every command, in a process of its own, where the decoder cannot import the library."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, libraries],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    said = run.stderr.splitlines()
    for library in libraries.split(","):
        line = f"the decoder needs {library}: pip install 'specsim-llm[reference]'"
        tried = 5 if library == "torch" else 1
        assert said.count(f"reference: {line}") == said.count(f"{library} 2") == tried
        assert said.count(line) == (library == "torch"), "of reference.speculate"
    assert "Traceback" not in run.stderr


def test_help_needs_no_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "generate" in capsys.readouterr().out


def in_a_process(arguments: list[str], code: str = "", **options) -> subprocess.CompletedProcess:
    """`python -m reference` in a process of its own, where `code` runs first."""
    start = f"import runpy, sys\n{code}\nrunpy.run_module('reference', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    command = [sys.executable, "-c", start, *arguments]
    return subprocess.run(command, env=environment, **streams, check=False)


NO_TORCH = "sys.modules['torch'] = None  # it takes seconds"


def test_a_terminal_that_knows_few_characters(monkeypatch):
    arguments = ["generate", "é = 1", "--gamma", "0", "--max-new-tokens", "1"]
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2))
    for name, value in (("stdout", out), ("stderr", err), ("argv", ["reference", *arguments])):
        monkeypatch.setattr(sys, name, value)
    assert process() == 0
    err.flush()
    assert err.buffer.getvalue() == b""
    assert out.buffer.getvalue().startswith(rb"\xe9 = 1")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        run = in_a_process(["--help"], NO_TORCH, stdout=full)
    assert run.returncode == 2
    assert run.stderr == b"reference: cannot write the output: No space left on device\n"


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    run = in_a_process(["--help"], NO_TORCH, stdout=writing)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, b"")


def test_an_interrupt_while_modules_are_imported_is_no_traceback():
    code = """
import importlib.abc, os, signal
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
    run = in_a_process(["generate", "x"], code)
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, b"", b"")

"""python -m reference: what it prints, and one clear line for every mistake."""

import json

import pytest

from reference.__main__ import main
from reference.checkpoints import PAIR, load_checkpoint
from reference.heads import save_head, untrained_head
from specsim.evidence import calibration
from specsim.evidence.calibration import Calibration
from specsim.evidence.measurement import Measurement


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
    arguments = ["--gamma", "2", "--prompts", "1", "--max-new-tokens", "12", "--out", str(file)]
    assert main(["measure", *arguments]) == 0
    assert [point.scenario.gamma for point in Measurement.read(file).points] == [0, 2]
    assert "gamma 2" in capsys.readouterr().out


def test_calibrate_writes_a_calibration_file(tmp_path, capsys, monkeypatch):
    from reference.lab import probes

    monkeypatch.setattr(probes, "STACKS", ((64, 2), (128, 1), (192, 2)))
    monkeypatch.setattr(probes, "PAIRS", (((128, 2), (64, 1), 512), ((192, 2), (128, 1), 1024)))
    file = tmp_path / "calibration.json"
    assert main(["calibrate", "--out", str(file), "--dtype", "fp32"]) == 0
    loaded = calibration.load(file)
    assert isinstance(loaded, Calibration)
    assert loaded.system.engine.layer_overhead_s > 0
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
        (["measure", "--gamma", "-2", "--out", "x.json"], "-2"),
        (["train", "--part", "head", "--out", "nowhere"], "train all parts first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, capsys):
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

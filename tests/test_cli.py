"""The command line: the keys of the contract, and one clear line for every mistake."""

import json
import subprocess
import sys

import pytest

import specsim
from specsim import cli

SCENARIO = ["--target", "llama-3.1-8b", "--accelerator", "h200-sxm"]
DRAFT = ["--draft", "llama-3.2-1b", "--alpha", "0.8"]
KEYS = {
    "step_s",
    "tokens_per_s",
    "draft_step_s",
    "verify_step_s",
    "overhead_s",
    "cycle_s",
    "tokens_per_cycle",
    "gamma",
    "speculative_tokens_per_s",
    "speedup",
    "best_gamma",
    "bound",
    "band",
    "breakdown",
    "assumptions",
    "version",
}
SPECULATIVE = KEYS - {
    "step_s",
    "tokens_per_s",
    "bound",
    "band",
    "breakdown",
    "assumptions",
    "version",
}


def predict_json(capsys, *arguments: str) -> dict:
    assert cli.main(["predict", *arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_plain_decoding_has_null_speculative_keys(capsys):
    document = predict_json(capsys, *SCENARIO)
    assert document.keys() >= KEYS
    assert all(document[key] is None for key in SPECULATIVE)
    assert document["tokens_per_s"] == pytest.approx(1 / document["step_s"])
    assert document["band"]["step_s"][0] < document["step_s"] < document["band"]["step_s"][1]


def test_the_best_gamma_is_chosen_and_said(capsys):
    document = predict_json(capsys, *SCENARIO, *DRAFT)
    assert document["gamma"] == document["best_gamma"] > 0
    assert all(document[key] is not None for key in KEYS)
    for gamma in range(9):
        other = predict_json(capsys, *SCENARIO, *DRAFT, "--gamma", str(gamma))
        assert other["speedup"] <= document["speedup"]


def test_the_keys_agree_with_each_other_and_with_python(capsys):
    document = predict_json(
        capsys, *SCENARIO, *DRAFT, "--gamma", "4", "--batch", "8", "--context", "2048"
    )
    prediction = specsim.predict(
        specsim.model("llama-3.1-8b"),
        specsim.DraftModel(specsim.model("llama-3.2-1b")),
        specsim.system("h200-sxm"),
        gamma=4, alpha=0.8, batch=8, context=2048,
    )  # fmt: skip
    for key in (
        "step_s",
        "verify_step_s",
        "cycle_s",
        "tokens_per_cycle",
        "speedup",
        "tokens_per_s",
    ):
        assert document[key] == float(getattr(prediction, key)), key
    assert document["speedup"] == pytest.approx(
        document["speculative_tokens_per_s"] / document["tokens_per_s"]
    )
    assert document["speculative_tokens_per_s"] == pytest.approx(
        8 * document["tokens_per_cycle"] / document["cycle_s"]
    )
    operators = sum(row["seconds"] for row in document["breakdown"])
    assert operators == pytest.approx(float(prediction.step.total_s))
    assert {"name", "flops", "weight_bytes", "kv_bytes", "seconds", "bound"} == document[
        "breakdown"
    ][0].keys()


def test_survival_and_tokens_per_cycle_say_the_same(capsys):
    by_survival = predict_json(
        capsys, *SCENARIO, "--draft", "llama-3.2-1b", "--survival", "0.7,0.5,0.3", "--gamma", "3"
    )
    by_tokens = predict_json(
        capsys, *SCENARIO, "--draft", "llama-3.2-1b", "--tokens-per-cycle", "2.5", "--gamma", "3"
    )
    assert by_survival["speedup"] == pytest.approx(by_tokens["speedup"])


def test_ideal_is_the_roofline(capsys):
    document = predict_json(capsys, *SCENARIO, "--engine", "ideal", "--context", "1")
    assert document["tokens_per_s"] == pytest.approx(319.8, rel=1e-3)
    assert document["bound"] == "weights"


def test_the_same_for_a_person(capsys):
    assert cli.main(["predict", *SCENARIO, *DRAFT]) == 0
    text = capsys.readouterr().out
    assert "speedup" in text
    assert "plain step" in text
    assert "LM head" in text


def test_out_writes_the_document(tmp_path, capsys):
    file = tmp_path / "deep" / "prediction.json"
    document = predict_json(capsys, *SCENARIO, "--out", str(file))
    assert json.loads(file.read_text()) == document


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 128, "vocab_size": 128256,
}  # fmt: skip

MISTAKES = {
    "unknown model": (["--target", "llama-3.1-8x", "--accelerator", "h200-sxm"], "llama-3.1-8b"),
    "unknown accelerator": (["--target", "llama-3.1-8b", "--accelerator", "h20-sxm"], "h200-sxm"),
    "no accelerator": (["--target", "llama-3.1-8b"], "--accelerator"),
    "unknown engine": ([*SCENARIO, "--engine", "vlm"], "vllm"),
    "unknown precision": ([*SCENARIO, "--precision", "int3"], "int4"),
    "negative gamma": ([*SCENARIO, *DRAFT, "--gamma", "-1"], "-1"),
    "broken gamma": ([*SCENARIO, *DRAFT, "--gamma", "few"], "few"),
    "half a gamma": ([*SCENARIO, *DRAFT, "--gamma", "2.5"], "2.5"),
    "alpha above one": ([*SCENARIO, "--draft", "llama-3.2-1b", "--alpha", "1.2"], "1.2"),
    "alpha below zero": ([*SCENARIO, "--draft", "llama-3.2-1b", "--alpha", "-0.1"], "-0.1"),
    "alpha is nan": ([*SCENARIO, "--draft", "llama-3.2-1b", "--alpha", "nan"], "nan"),
    "no acceptance": ([*SCENARIO, "--draft", "llama-3.2-1b"], "--alpha"),
    "two acceptances": ([*SCENARIO, *DRAFT, "--survival", "0.5"], "not allowed"),
    "rising survival": ([*SCENARIO, "--draft", "llama-3.2-1b", "--survival", "0.5,0.6"], "0.6"),
    "tokens without gamma": (
        [*SCENARIO, "--draft", "llama-3.2-1b", "--tokens-per-cycle", "2"],
        "--gamma",
    ),
    "too many tokens": (
        [*SCENARIO, "--draft", "llama-3.2-1b", "--tokens-per-cycle", "9", "--gamma", "3"],
        "[1, 4]",
    ),
    "acceptance without draft": ([*SCENARIO, "--alpha", "0.8"], "--draft"),
    "foreign draft": ([*SCENARIO, "--draft", "qwen3-0.6b", "--alpha", "0.8"], "vocabulary"),
    "no batch": ([*SCENARIO, "--batch", "0"], "batch"),
    "no context": ([*SCENARIO, "--context", "-5"], "context"),
    "missing file": (["--target", "nowhere/config.json", "--accelerator", "h200-sxm"], "nowhere"),
    "no command option": ([*SCENARIO, "--colour"], "--colour"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, capsys):
    arguments, named = MISTAKES[mistake]
    assert status_of(["predict", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def status_of(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as left:
        return left.code


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"model_type": "rwkv"}, "rwkv"),
        ({"num_key_value_heads": 3}, "3"),
        ({"vocab_size": -1}, "vocab_size"),
    ],
)
def test_a_bad_config_is_one_line(tmp_path, capsys, changes, named):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG | changes))
    assert cli.main(["predict", "--target", str(file), "--accelerator", "h200-sxm"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.splitlines()) == 1


def test_a_good_config_predicts(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    assert predict_json(capsys, "--target", str(file), "--accelerator", "t4")["step_s"] > 0


def test_out_to_a_path_that_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.main(["predict", *SCENARIO, "--out", str(blocked / "x.json"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot write" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "arguments", [[], ["predikt"], ["compare", "nowhere.json"], ["compare", "."]]
)
def test_other_mistakes(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status_of(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_predicting_needs_no_torch():
    code = (
        "import sys; from specsim import cli; "
        f"cli.main(['predict', *{SCENARIO!r}, '--json']); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )

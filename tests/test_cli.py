"""The command line: the keys of the contract, and one clear line for every mistake."""

import io
import json
import subprocess
import sys

import pytest

import specsim
from specsim import cli
from specsim.evidence import calibration
from specsim.evidence.calibration import Calibration

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
    "no acceptance": ([*SCENARIO, "--method", "suffix"], "specsim acceptance llama-3.1-8b"),
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
        ({"model_type": "t5"}, "t5"),
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


def test_a_config_of_an_unknown_family_is_read_like_another(tmp_path, capsys):
    file, draft = tmp_path / "new.json", tmp_path / "small.json"
    file.write_text(json.dumps(CONFIG | {"model_type": "new", "num_experts": 8}))
    draft.write_text(json.dumps(CONFIG | {"model_type": "new", "num_hidden_layers": 1}))
    scenario = ["--target", str(file), "--accelerator", "t4"]
    assert cli.main(["predict", *scenario]) == 2
    assert "name that: --like" in capsys.readouterr().err
    known = tmp_path / "config.json"
    known.write_text(json.dumps(CONFIG))
    found = predict_json(capsys, *scenario, "--like", "llama")
    assert (
        found["step_s"]
        == predict_json(capsys, "--target", str(known), "--accelerator", "t4")["step_s"]
    )
    assert found["assumptions"][0] == (
        "This is a guess. new: Read as llama, because its model_type 'new' is not known; not read "
        "and not priced: num_experts."
    )
    both = ["--draft", str(draft), "--alpha", "0.8", "--gamma", "2", "--like", "llama"]
    said = " ".join(predict_json(capsys, *scenario, *both)["assumptions"])
    assert "new: Read as llama" in said
    assert "small: Read as llama" in said
    assert (
        cli.main(["predict", "--target", str(known), "--accelerator", "t4", "--like", "llama"]) == 2
    )
    assert "--like llama has no use" in capsys.readouterr().err


def test_out_to_a_path_that_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli.main(["predict", *SCENARIO, "--out", str(blocked / "x.json"), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot write" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [["predikt"], ["compare", "nowhere.json"], ["compare", "."]])
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


# ------------------------------------------------------------------------------ methods


@pytest.mark.parametrize(
    ("method", "draft"),
    [
        ("n-gram", False), ("suffix", False), ("early-exit", False), ("quantised-self", False),
        ("medusa", False), ("eagle", False), ("eagle-2", False), ("eagle-3", False),
        ("mtp", False), ("tree", False), ("tree", True), ("p-eagle", False), ("dflash", False),
        ("draft-model", True), ("pearl", True), ("ssd", True), ("cascade", True),
    ],
)  # fmt: skip
def test_every_method_predicts(method, draft, capsys):
    options = ["--method", method, "--alpha", "0.8"]
    if draft:
        options += ["--draft", "llama-3.2-1b"]
    document = predict_json(capsys, *SCENARIO, *options)
    assert document.keys() >= KEYS
    assert document["speedup"] > 1
    assert document["lossless"] == (method != "medusa")
    assert (document["speedup_per_device"] < document["speedup"]) == (method in ("pearl", "ssd"))
    assert any(f"method {method} come from the catalog" in s for s in document["assumptions"])


def test_the_method_draft_model_is_the_default(capsys):
    named = predict_json(capsys, *SCENARIO, *DRAFT, "--method", "draft-model")
    plain = predict_json(capsys, *SCENARIO, *DRAFT)
    for key in SPECULATIVE:
        assert named[key] == plain[key]


def test_a_lossy_method_says_so(capsys):
    assert cli.main(["predict", *SCENARIO, "--method", "medusa", "--alpha", "0.8"]) == 0
    assert "not lossless" in capsys.readouterr().out


# ------------------------------------------------------------------------------ plan


def plan_json(capsys, *arguments: str) -> dict:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_a_plan_is_what_predict_says_for_each_batch(capsys):
    planned = plan_json(capsys, *SCENARIO, *DRAFT, "--batches", "1,64", "--context", "2048")
    assert [row["batch"] for row in planned["batches"]] == [1, 64]
    for row in planned["batches"]:
        alone = predict_json(
            capsys, *SCENARIO, *DRAFT, "--batch", str(row["batch"]), "--context", "2048"
        )
        assert row["gamma"] == alone["best_gamma"]
        assert row["speedup"] == pytest.approx(alone["speedup"], rel=1e-9)
        assert row["tokens_per_s"] == pytest.approx(alone["speculative_tokens_per_s"], rel=1e-9)
    # vLLM documents no schedule for a draft model
    assert planned["engine_settings"]["vllm"] == {
        "num_speculative_tokens": planned["batches"][-1]["gamma"]
    }
    assert "meta-llama/Llama-3.2-1B" in planned["commands"]["vllm"]["command"]
    assert planned["crossover_batch"] >= 64
    assert next(iter(planned["sensitivity"])) == "alpha"


def test_a_plan_from_a_survival_stays_within_it(capsys):
    planned = plan_json(
        capsys, *SCENARIO, "--draft", "llama-3.2-1b", "--survival", "0.9,0.8", "--batches", "1,8"
    )
    assert all(row["gamma"] <= 2 for row in planned["batches"])


def test_the_table_of_a_plan_holds_the_numbers_of_its_json(capsys):
    asked = [*SCENARIO, *DRAFT, "--batches", "1,16,200"]
    rows = plan_json(capsys, *asked)["batches"]
    assert cli.main(["plan", *asked]) == 0
    _, page = capsys.readouterr().out.split("\n\n", 1)  # after what was priced
    heads, titles, *lines = page.splitlines()
    assert heads.split()[-1] == "ms/token"
    assert titles.split()[0] == "batch"
    for row, line in zip(rows, lines, strict=False):
        batch, gamma, ties, speedup, tokens_per_s, plain, ms = line.split()[:7]
        assert (int(batch), int(gamma)) == (row["batch"], row["gamma"])
        assert ties == f"{row['least_tied']}…{row['most_tied']}"
        assert float(speedup.removesuffix("x")) == pytest.approx(row["speedup"], abs=0.005)
        assert float(tokens_per_s) == pytest.approx(row["tokens_per_s"], abs=0.5)
        assert float(plain) == pytest.approx(row["plain_tokens_per_s"], abs=0.5)
        # a sequence's share of all tokens per second, turned round, in milliseconds
        assert float(ms) == pytest.approx(1e3 * int(batch) / row["tokens_per_s"], abs=5.1e-4)
    assert len(rows) == 3


def test_a_plan_for_a_person(capsys):
    assert cli.main(["plan", *SCENARIO, "--method", "eagle-3", "--alpha", "0.7"]) == 0
    text = capsys.readouterr().out
    for words in (
        "batch",
        "speedup",
        "num_speculative_tokens_per_batch_size",
        "draft_len_schedule",
    ):
        assert words in text


# ------------------------------------------------------------------------------ diagnose

LOG = (
    "INFO SpecDecoding metrics: Mean acceptance length: 2.92, Accepted: 167 tokens, Drafted: 259 "
    "tokens, Per-position acceptance rate: 0.805, 0.632, 0.483, Avg Draft acceptance rate: 64.5%\n"
)


def diagnose_json(capsys, *arguments: str) -> dict:
    assert cli.main(["diagnose", *arguments, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_diagnose_a_log_and_predict_from_it(tmp_path, capsys):
    file = tmp_path / "server.log"
    file.write_text(LOG)
    found = diagnose_json(capsys, "--log", str(file))
    assert found["tokens_per_cycle"] == pytest.approx(1 + 167 / 87)
    assert found["prediction"] is None
    with_scenario = diagnose_json(capsys, "--log", str(file), *SCENARIO, "--method", "eagle-3")
    assert with_scenario["prediction"]["speedup"] > 1
    assert with_scenario["prediction"]["best_speedup"] >= with_scenario["prediction"]["speedup"]
    assert "limits" in with_scenario["prediction"]["bottleneck"]


def test_diagnose_counters(capsys, monkeypatch):
    found = diagnose_json(capsys, "--accepted", "54", "--drafted", "100", "--gamma", "5")
    assert found["alpha"] == pytest.approx(0.80124, abs=1e-5)
    assert diagnose_json(capsys, "--survival", "0.68,0.39,0.2")["tokens_per_cycle"] == 2.27
    by_length = diagnose_json(capsys, "--tokens-per-cycle", "3.7", "--gamma", "5")
    assert by_length["alpha"] == pytest.approx(found["alpha"])
    monkeypatch.setattr("sys.stdin", io.StringIO(LOG))
    assert diagnose_json(capsys, "--log", "-")["engine"] == "vllm"


def test_diagnose_for_a_person(capsys):
    arguments = ["--accepted", "54", "--drafted", "100", "--gamma", "5", *SCENARIO]
    assert cli.main(["diagnose", *arguments, "--draft", "llama-3.2-1b"]) == 0
    text = capsys.readouterr().out
    assert "alpha" in text
    assert "best gamma" in text


MORE_MISTAKES = {
    "unknown method": (["predict", *SCENARIO, "--method", "eagel", "--alpha", "0.5"], "eagle"),
    "method without draft": (
        ["predict", *SCENARIO, "--method", "ssd", "--alpha", "0.5"],
        "--draft",
    ),
    "method with a draft": (
        ["predict", *SCENARIO, *DRAFT, "--method", "medusa"],
        "leave out the draft",
    ),
    "method without acceptance": (["plan", *SCENARIO, "--method", "eagle"], "specsim acceptance"),
    "too long for medusa": (
        ["predict", *SCENARIO, "--method", "medusa", "--alpha", "0.5", "--gamma", "9"],
        "at most 4",
    ),
    "precision without draft": (["predict", *SCENARIO, "--draft-precision", "int8"], "--draft"),
    "no device": (["predict", *SCENARIO, "--tensor-parallel", "0"], "--tensor-parallel"),
    "plan without draft": (["plan", *SCENARIO], "--draft"),
    "plan of nothing": (["plan", *SCENARIO, *DRAFT, "--batches", "0,4"], "--batches"),
    "plan of falling batches": (["plan", *SCENARIO, *DRAFT, "--batches", "4,1"], "rise"),
    "plan of words": (["plan", *SCENARIO, *DRAFT, "--batches", "few"], "few"),
    "plan without end": (["plan", *SCENARIO, *DRAFT, "--batches", "1,inf"], "inf"),
    "diagnose nothing": (["diagnose"], "--log"),
    "diagnose no cycles": (["diagnose", "--accepted", "5", "--cycles", "0"], "cycles"),
    "diagnose twice": (["diagnose", "--log", "x", "--accepted", "3"], "not both"),
    "diagnose a missing log": (["diagnose", "--log", "nowhere.log"], "nowhere.log"),
    "diagnose too many": (
        ["diagnose", "--accepted", "9", "--drafted", "3", "--gamma", "2"],
        "at most drafted",
    ),
    "diagnose a half": (["diagnose", "--accepted", "9", "--gamma", "2"], "--drafted"),
    "diagnose gamma 0": (["diagnose", "--tokens-per-cycle", "2", "--gamma", "0"], "gamma"),
    "diagnose nan": (["diagnose", "--tokens-per-cycle", "nan", "--gamma", "2"], "nan"),
    "diagnose without alpha": (
        ["diagnose", "--accepted", "3", "--drafted", "9", *SCENARIO, "--draft", "llama-3.2-1b"],
        "--gamma",
    ),
}


@pytest.mark.parametrize("mistake", MORE_MISTAKES)
def test_more_mistakes_are_one_line_and_exit_code_2(mistake, capsys):
    arguments, named = MORE_MISTAKES[mistake]
    assert status_of(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert len(err.strip().splitlines()) == 1


def test_an_unreadable_log_is_one_line(tmp_path, capsys):
    file = tmp_path / "binary.log"
    file.write_bytes(bytes(range(256)) * 10)
    assert cli.main(["diagnose", "--log", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no speculation counters" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("module", ["specsim", "specsim.cli"])
def test_it_runs_as_a_module(module):
    run = subprocess.run(
        [sys.executable, "-m", module, "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == f"specsim {specsim.__version__}"


# ------------------------------------------------------------------------------ several devices


def test_tensor_parallel_divides_the_weights_and_says_so(capsys):
    one = predict_json(capsys, *SCENARIO, *DRAFT, "--engine", "ideal")
    two = predict_json(capsys, *SCENARIO, *DRAFT, "--engine", "ideal", "--tensor-parallel", "2")
    assert 0.5 * one["step_s"] < two["step_s"] < 0.7 * one["step_s"]
    assert "2 devices" in two["assumptions"][0]
    assert any(row["name"] == "all-reduce" for row in two["breakdown"])


def test_the_draft_may_be_split_over_fewer_devices(capsys):
    pair = ["--target", "llama-3.1-70b", "--accelerator", "h100-sxm", *DRAFT, "--gamma", "4"]
    pair += ["--tensor-parallel", "8"]
    together = predict_json(capsys, *pair)
    alone = predict_json(capsys, *pair, "--draft-tp", "1")
    target, machine = specsim.model("llama-3.1-70b"), specsim.system("h100", tensor_parallel=8)
    for devices, document in ((8, together), (1, alone)):
        draft = specsim.DraftModel(specsim.model("llama-3.2-1b"), tensor_parallel=devices)
        found = specsim.predict(target, draft, machine, gamma=4, alpha=0.8)
        assert document["draft_step_s"] == float(found.draft_step_s)
        assert document["cycle_s"] == float(found.cycle_s)
    assert together["draft_step_s"] != alone["draft_step_s"]
    assert together["verify_step_s"] == alone["verify_step_s"]
    assert any("split over 1 of the target's 8 devices" in said for said in alone["assumptions"])
    pearl = predict_json(capsys, *pair, "--draft-tp", "1", "--method", "pearl")
    assert pearl["draft_step_s"] == alone["draft_step_s"]
    plan_json(capsys, *pair[:-4], "--tensor-parallel", "2", "--draft-tp", "1", "--batches", "1,8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([*DRAFT, "--draft-tp", "2"], "within 1 and the target's --tensor-parallel 1, got 2"),
        ([*DRAFT, "--draft-tp", "0"], "within 1 and the target's --tensor-parallel 1, got 0"),
        (["--draft-tp", "1"], "--draft-tp needs a draft"),
        (["--draft-tp", "1", "--method", "n-gram"], "n-gram has no draft model to split"),
    ],
)
def test_a_draft_that_cannot_be_split_so(capsys, options, said):
    assert cli.main(["predict", *SCENARIO, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_percentiles_of_an_answer(capsys):
    document = predict_json(capsys, *SCENARIO, *DRAFT, "--gamma", "5", "--tokens", "64")
    found = document["latency"]
    assert found["more_tokens"] == 64
    each = list(found["time_per_token_s"].values())
    assert each == sorted(each)
    assert each[0] <= found["mean_s"] / 64 * 1.05
    assert found["gap_s"]["p99"] == document["cycle_s"]
    plain = predict_json(capsys, *SCENARIO)
    assert plain["latency"]["gap_s"]["p50"] == plain["step_s"]
    mean = ["--draft", "llama-3.2-1b", "--tokens-per-cycle", "3", "--gamma", "4"]
    assert predict_json(capsys, *SCENARIO, *mean)["latency"] is None
    assert cli.main(["predict", *SCENARIO, *DRAFT, "--gamma", "5"]) == 0
    assert "arrive together with the one before" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["predict", *SCENARIO, "--tokens", "0"]) == 2
    assert "--tokens must be a whole number >= 1, got 0" in capsys.readouterr().err


def test_what_does_not_fit_is_said(capsys):
    big = ["--target", "llama-3.1-70b", "--accelerator", "h100-sxm"]
    document = predict_json(capsys, *big)
    assert document["fits"] is False
    assert "does not fit" in document["assumptions"][0]
    assert predict_json(capsys, *big, "--tensor-parallel", "4")["fits"] is True
    assert predict_json(capsys, *SCENARIO)["memory_bytes"] == pytest.approx(16.1e9, rel=0.02)
    planned = plan_json(
        capsys, *big, "--draft", "llama-3.2-1b", "--alpha", "0.8", "--tensor-parallel", "4",
        "--batches", "1,256", "--context", "8192",
    )  # fmt: skip
    assert [row["fits"] for row in planned["batches"]] == [True, False]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_cache_of_a_calibrated_machine_has_the_format_that_is_asked_for(
    precision, tmp_path, capsys
):
    file = tmp_path / "calibration.json"
    file.write_text(
        json.dumps(calibration.to_json(Calibration(specsim.system("h200-sxm"), (), {})))
    )
    options = ["--target", "llama-3.1-8b", "--engine", str(file), "--precision", precision]

    def kv_bytes(*more: str) -> float:
        rows = predict_json(capsys, *options, *more)["breakdown"]
        return sum(row["kv_bytes"] for row in rows)

    assert kv_bytes("--kv-precision", "fp32") == 4 * kv_bytes("--kv-precision", "fp8")


def test_what_the_catalog_does_not_know_is_said(capsys):
    chip = "snapdragon-8-elite"
    options = ["--target", "llama-3.1-8b", "--accelerator", chip, "--tp", "2"]
    said = " ".join(predict_json(capsys, *options)["assumptions"])
    assert f"Compute unknown: no bf16 rate of {chip}" in said
    assert f"No link between several {chip} is known. Assumed: 2.5 GB/s" in said
    assert f"The memory of {chip} is unknown" in said
    assert "from the catalog (assumed)" in said
    said = " ".join(predict_json(capsys, *SCENARIO, "--engine", "vllm")["assumptions"])
    assert "unknown" not in said
    assert "from the catalog (fitted)" in said


def test_the_parts_that_are_shown_add_up_to_the_step(capsys):
    for engine in ("vllm", "torch-eager"):
        options = ["--target", "deepseek-v2-lite", "--accelerator", "h100", "--engine", engine]
        assert cli.main(["predict", *options]) == 0
        _, page = capsys.readouterr().out.split("\n\n", 1)  # after what was priced
        first, _, *lines = page.splitlines()
        parts = [line for line in lines if line.startswith("  ") and " ms " in line]
        total = sum(float(line.split(" ms")[0].split()[-1]) for line in parts)
        assert total == pytest.approx(float(first.split()[2]), abs=0.0005 * (len(parts) + 1))
        assert len({line.index(" ms") for line in parts}) == 1  # one column, however long a name
        assert any("host: sampling" in line for line in parts)


def test_launches_that_overlap_and_launches_that_add_are_told_apart(capsys):
    options = ["--target", "llama-3.1-8b", "--engine", "torch-eager", "--accelerator"]
    said = {
        name: predict_json(capsys, *options, name)["assumptions"] for name in ("h100", "epyc-9654")
    }
    assert any("a pass takes the longer of that" in sentence for sentence in said["h100"])
    assert any("500 us a layer and 300 us a pass" in sentence for sentence in said["h100"])
    assert any("the launches add to the pass" in sentence for sentence in said["epyc-9654"])
    graphs = predict_json(capsys, *SCENARIO)["assumptions"]
    assert not any("launched one by one" in sentence for sentence in graphs)


def test_a_best_gamma_at_the_edge_of_what_was_looked_at_is_said(capsys):
    at_the_edge = [*SCENARIO, "--draft", "llama-3.2-1b", "--survival", "0.95,0.9"]
    document = predict_json(capsys, *at_the_edge)
    assert document["best_gamma"] == 2
    assert "largest that was looked at, 2" in document["assumptions"][0]
    inside = predict_json(capsys, *SCENARIO, *DRAFT)
    assert not any("looked at" in sentence for sentence in inside["assumptions"])


def test_a_plan_says_what_would_make_it_fit(capsys):
    big = ["--target", "llama-3.1-70b", "--accelerator", "h100-sxm", *DRAFT, "--batches", "1,8"]
    planned = plan_json(capsys, *big)
    assert planned["assumptions"][0].startswith("A batch of 1 does not fit: llama-3.1-70b needs")
    assert "tensor_parallel = 2" in planned["assumptions"][0]


def test_a_draft_whose_heads_do_not_divide_may_be_split_over_fewer(capsys):
    pair = ["--target", "qwen2.5-7b", "--draft", "qwen2.5-0.5b", "--accelerator", "h100"]
    pair += ["--alpha", "0.7", "--tensor-parallel", "4"]
    assert cli.main(["predict", *pair]) == 2
    assert "(--draft-tp splits the draft over fewer)" in capsys.readouterr().err
    assert predict_json(capsys, *pair, "--draft-tp", "2")["speedup"] > 1

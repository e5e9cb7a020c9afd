"""What the catalog has, listed: a line for each row, found by any of its names."""

import json
from pathlib import Path

import pytest

from specsim import catalog, cli, model
from specsim.cli.listing import TABLES
from specsim.drafting.methods import NEED_A_DRAFT, TAKE_A_DRAFT
from specsim.hardware import accelerator


def listed(capsys, *arguments: str) -> list[str]:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def listed_json(capsys, table: str, *arguments: str) -> list[dict]:
    (line,) = listed(capsys, table, *arguments, "--json")
    return json.loads(line)[table]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_one_line_of_at_most_80_columns(capsys, table: str) -> None:
    title, *lines = listed(capsys, table)
    assert title.startswith("name ")
    assert [line.split()[0] for line in lines] == list(catalog.load(table))
    assert max(map(len, [title, *lines])) <= 80
    assert not any("e+" in line for line in lines)


@pytest.mark.parametrize("table", TABLES)
def test_the_columns_are_aligned(capsys, table: str) -> None:
    title, *lines = listed(capsys, table)
    start = title.index(title.split("  ")[-1].strip())  # of the last column
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)


@pytest.mark.parametrize(
    ("table", "text", "name"),
    [
        ("models", "llama-3.1-8b", "llama-3.1-8b"),
        ("models", "LLAMA31 8B", "llama-3.1-8b"),  # case, hyphens and dots aside
        ("models", "meta-llama-3.1-8b-instruct", "llama-3.1-8b"),  # an alias
        ("models", "mistralai/", "mixtral-8x7b"),  # the hub id
        ("accelerators", "Server Edition", "rtx-pro-6000-blackwell-se"),  # the full name
        ("accelerators", "strix halo", "ryzen-ai-max-395"),
        ("engines", "VLLM", "vllm"),
        ("engines", "cuda-batched", "llama.cpp"),
        ("methods", "nextn", "mtp"),
    ],
)
def test_a_row_is_found_by_any_of_its_names(capsys, table: str, text: str, name: str) -> None:
    rows = [row["name"] for row in listed_json(capsys, table, "--like", text)]
    assert name in rows
    assert len(rows) < len(catalog.load(table))


def test_nothing_found_is_one_line_with_the_nearest_names(capsys) -> None:
    assert cli.main(["accelerators", "--like", "rtx-4900"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("specsim: no accelerator is like 'rtx-4900'; nearest: rtx-4090")
    assert cli.main(["models", "--like", "xyzzy"]) == 2
    assert f"specsim models lists all {len(catalog.load('models'))}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "wrong", "command"),
    [
        ("--target", "llama-3.1-9x", "specsim models lists all"),
        ("--target", "xyzzy", "specsim models lists all"),
        ("--accelerator", "h10-sxm", "specsim accelerators lists all"),
        ("--engine", "vlm", "specsim engines lists all"),
        ("--method", "eagel", "specsim methods lists all"),
    ],
)
def test_an_unknown_name_says_which_command_lists_them(capsys, option, wrong, command) -> None:
    known = {"--target": "llama-3.1-8b", "--accelerator": "h200", "--engine": "vllm"}
    words = [word for pair in (known | {option: wrong}).items() for word in pair]
    assert cli.main(["predict", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert command in line


def test_models_are_those_of_the_library(capsys) -> None:
    for row in listed_json(capsys, "models"):
        shape = model(row["name"])
        assert row["context"] == shape.max_context
        assert row["tokenizer"] == shape.tokenizer
        assert (row["active_parameters"] < row["parameters"]) == (shape.experts is not None)
    (row,) = listed_json(capsys, "models", "--like", "qwen3-8b")
    assert row["hub_id"] == "Qwen/Qwen3-8B"
    assert "RedHatAI/Qwen3-8B-speculator.eagle3" in [head["hub"] for head in row["heads"]]


def test_accelerators_are_those_of_the_library(capsys) -> None:
    for row in listed_json(capsys, "accelerators"):
        found = accelerator(row["name"])
        assert row["bandwidth_bytes_per_s"] == found.bandwidth_bytes_per_s
        assert row["memory_bytes"] == found.memory_bytes
        assert (row["bf16_flops_per_s"] or float("inf")) == found.rate("bf16")
    (line,) = [each for each in listed(capsys, "accelerators") if each.startswith("h100-sxm ")]
    assert line.split()[1:6] == ["80", "GB", "3350", "989", "datacentre-gpu"]
    (line,) = [each for each in listed(capsys, "accelerators") if each.startswith("dimensity-9500")]
    assert line.split()[1:4] == ["-", "85", "-"]  # neither memory nor compute is known


def test_engines_say_their_band_and_what_they_were_fitted_to(capsys) -> None:
    lines = {line.split()[0]: line for line in listed(capsys, "engines")}
    assert "±18%" in lines["vllm"]
    assert "2 published rows: hopper; batch 1 to 16" in lines["vllm"]
    assert "19 published rows: ampere, blackwell, hopper" in lines["sglang"]
    assert "none: as torch-eager" in lines["transformers"]


def test_methods_say_what_they_need(capsys) -> None:
    for row in listed_json(capsys, "methods"):
        assert ("a draft model" in row["needs"]) == (row["name"] in TAKE_A_DRAFT), row["name"]
        assert (row["needs"] == "a draft model") == (row["name"] in NEED_A_DRAFT), row["name"]
        trained = any(
            about.get("head")
            for engine in catalog.load("launch").values()
            for method, about in engine["methods"].items()
            if method == row["name"]
        )
        assert not trained or "trained" in row["needs"]
    (line,) = [each for each in listed(capsys, "methods") if each.startswith("eagle-3 ")]
    heads = [head for head in catalog.load("heads").values() if "eagle-3" in head["methods"]]
    assert f"a trained head ({len(heads)} published)" in line


def test_the_documentation_counts_the_rows_as_they_are() -> None:
    text = (Path(__file__).parent.parent / "docs" / "predicting.md").read_text(encoding="utf-8")
    for table in TABLES:
        assert f"{len(catalog.load(table))} {table}" in " ".join(text.split())


def test_tp_is_short_for_tensor_parallel(capsys) -> None:
    words = ["predict", "--target", "llama-3.1-8b", "--accelerator", "h100", "--json"]
    answers = []
    for option in ("--tp", "--tensor-parallel"):
        assert cli.main([*words, option, "2"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["step_s"])
    assert answers[0] == answers[1]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["step_s"] > answers[0]

"""Where a prediction may be trusted less: each reason once with a scenario that it is about, and
once with the nearest that it is not."""

import json
from dataclasses import replace

import pytest

from specsim import DraftModel, catalog, cli, method, model, system
from specsim.planning import captured_tokens, find_cautions

EIGHT, ONE = model("llama-3.1-8b"), model("llama-3.2-1b")
H100 = system("h100-sxm", "vllm")
LLAMA2 = model("llama-2-7b")


def about(target=EIGHT, on=H100, drafter=None, **scenario) -> list[str]:
    return [doubt.sentence for doubt in find_cautions(target, on, drafter, **scenario)]


CASES = {  # what is said -> (a scenario of which it is true, the nearest of which it is not)
    "ships no module": (
        {"drafter": method("mtp", EIGHT)},
        {"target": model("deepseek-v3"), "drafter": method("mtp", model("deepseek-v3"))},
    ),
    "llama-2-7b was made for 4,096 tokens, and 4,097 are priced": (
        {"target": LLAMA2, "context": 4097},
        {"target": LLAMA2, "context": 4096},
    ),
    "tinyllama-1.1b was made for 2,048 tokens": (
        {"target": LLAMA2, "drafter": DraftModel(model("tinyllama-1.1b")), "context": 3000},
        {"target": LLAMA2, "drafter": DraftModel(model("tinyllama-1.1b"), window=512),
         "context": 3000},
    ),
    "only the sizes of their vocabularies were compared": (
        {"target": LLAMA2, "drafter": DraftModel(replace(LLAMA2, name="mine", tokenizer=None))},
        {"drafter": DraftModel(replace(ONE, name="mine", tokenizer=None))},  # told by its size
    ),
    "join 8 devices, and 16 are priced": (
        {"on": system("h100-sxm", "vllm", tensor_parallel=16)},
        {"on": system("h100-sxm", "vllm", tensor_parallel=8)},
    ),
    "No measurement of vllm is from an Apple chip like m4-max": (
        {"on": system("m4-max", "vllm")}, {"on": system("m4-max", "llama.cpp")},
    ),
    "No measurement of sglang is from an edge device like raspberry-pi-5": (
        {"on": system("raspberry-pi-5", "sglang")}, {"on": system("h200", "sglang")},
    ),
    "No measurement of vllm is from ada: its constants come from hopper": (
        {"on": system("rtx-4090", "vllm")}, {"on": system("h200", "vllm")},
    ),
    "A pass of 516 tokens, batch × (γ + 1), is wider than vllm records": (
        {"batch": 129, "gamma": 3}, {"batch": 128, "gamma": 3},
    ),
    "llama-3.1-8b has no experts, and mxfp4-moe stores nothing but experts": (
        {"on": system("h100-sxm", "vllm", "mxfp4-moe")},
        {"on": system("h100-sxm", "vllm", "fp8")},
    ),
    "has no experts": (
        {"target": EIGHT, "on": system("h100-sxm", "ideal", "mxfp4-moe")},
        {"target": model("gpt-oss-20b"), "on": system("h100-sxm", "vllm", "mxfp4-moe")},
    ),
    "q4_k_m is a format of GGUF files, and vllm is not known to run it": (
        {"on": system("h100-sxm", "vllm", "q4_k_m")},
        {"on": system("h100-sxm", "llama.cpp", "q4_k_m")},
    ),
    "mlx-4bit is a format of MLX files": (
        {"on": system("m4-max", "llama.cpp", "mlx-4bit")},
        {"on": system("m4-max", "mlx", "mlx-4bit")},
    ),
    "llama.cpp is not known to run fp8: its GGUF files have q8_0, q4_0": (
        {"on": system("h100-sxm", "llama.cpp", "fp8")},
        {"on": system("h100-sxm", "llama.cpp", "fp16")},
    ),
    "tensorrt-llm runs on NVIDIA's GPUs alone, and mi300x is none": (
        {"on": system("mi300x", "tensorrt-llm")}, {"on": system("mi300x", "vllm")},
    ),
    "NVIDIA's GPUs alone": (
        {"on": system("arc-b580", "tensorrt-llm")}, {"on": system("t4", "tensorrt-llm")},
    ),
    "Outside the rows that vllm was fitted to: 70.6 billion parameters (8.03 measured)": (
        {"target": model("llama-3.1-70b")}, {"target": EIGHT},
    ),
    "a batch of 17 (1 to 16 measured)": ({"batch": 17}, {"batch": 16}),
    "a context of 400 tokens (179 measured)": ({"context": 400}, {"context": 200}),
}  # fmt: skip


@pytest.mark.parametrize("said", CASES)
def test_it_is_said_where_it_is_true_and_nowhere_else(said: str) -> None:
    true, untrue = CASES[said]
    assert any(said in sentence for sentence in about(**true)), about(**true)
    assert not any(said in sentence for sentence in about(**untrue)), about(**untrue)


def test_the_roofline_and_what_was_measured_here_need_no_caution() -> None:
    assert about(on=system("h100-sxm", "ideal"), drafter=DraftModel(ONE), gamma=4) == []
    assert about(on=system("a100-sxm-80gb", "gpt-fast"), target=LLAMA2) == []


def test_guesses_come_first() -> None:
    found = find_cautions(
        EIGHT, system("m4-max", "vllm"), method("mtp", EIGHT), batch=600, context=200_000
    )
    assert [doubt.guess for doubt in found] == [True, True, False, False, False]


def test_no_accelerator_of_the_catalog_is_without_its_kind_or_links() -> None:
    from specsim.planning.cautions import KINDS

    for name, row in catalog.load("accelerators").items():
        assert row["kind"] in KINDS
        joined = "link_devices" in row
        assert joined == ("link_bytes_per_s" in row) or row["kind"] == "tpu" or name == "mi250x"


def test_every_family_of_another_maker_is_known_to_be_one() -> None:
    """Of the families of the catalog, those that are NVIDIA's, by the names of its generations."""
    from specsim.planning.cautions import OTHER_MAKERS

    own = {"volta", "turing", "ampere", "ada", "hopper", "blackwell"}
    families = {row["family"] for row in catalog.load("accelerators").values() if "family" in row}
    assert {each for each in families if not each.startswith(OTHER_MAKERS)} == own


def test_rank_says_them_where_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rank", "--target", "llama-2-7b", "--accelerator", "rtx-4090", "--engine", "vllm",
             "--users", "8", "--methods", "n-gram", "--context", "131072"]  # fmt: skip
    assert cli.main(words) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "NOTHING FITS" in page
    assert "llama-2-7b was made for 4,096 tokens, and 131,072 are priced" in page
    assert "No measurement of vllm is from ada" in page
    assert cli.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"] is None
    assert any("made for 4,096 tokens" in each for each in document["assumptions"])


def test_predict_says_a_guess_before_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--target", "llama-3.1-8b", "--accelerator", "m4-max", "--engine", "vllm"]
    assert cli.main(words) == 0
    _, page = capsys.readouterr().out.split("\n\n", 1)  # after what was priced
    first = " ".join(page.split("\nplain step")[0].split())
    assert first.startswith("This is a guess. No measurement of vllm is from an Apple chip")
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assumptions"][0] == first


def test_plan_marks_the_rows_beyond_the_recorded_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--target", "llama-3.1-8b", "--draft", "llama-3.2-1b", "--accelerator", "h200",
             "--engine", "vllm", "--alpha", "0.8", "--batches", "16,512"]  # fmt: skip
    assert cli.main(words) == 0
    _, page = capsys.readouterr().out.split("\n\n", 1)  # after what was priced
    rows = page.splitlines()[2:4]
    assert [row.endswith("  G") for row in rows] == [False, True]
    assert "G: beyond the recorded graphs" in page


def test_a_pass_as_wide_as_the_widest_graph_is_not_beyond(
    capsys: pytest.CaptureFixture[str],
) -> None:
    widest = captured_tokens(system("h200", "vllm"))
    assert widest is not None
    batches = ",".join(map(str, range(widest // 3, widest // 2 + 9)))  # with one draft each
    words = ["plan", "--target", "llama-3.1-8b", "--draft", "llama-3.2-1b", "--accelerator", "h200",
             "--engine", "vllm", "--survival", "0.9", "--batches", batches, "--json"]  # fmt: skip
    assert cli.main(words) == 0
    rows = json.loads(capsys.readouterr().out)["batches"]
    widths = [row["batch"] * (row["gamma"] + 1) for row in rows]
    assert widest in widths
    assert max(widths) > widest
    assert [row["within_recorded_graphs"] for row in rows] == [width <= widest for width in widths]


def test_the_explorer_says_a_guess_first() -> None:
    pytest.importorskip("ipywidgets")
    from specsim.explorer.scenarios import changed, predict_scenario
    from specsim.explorer.sentences import describe

    assert describe(predict_scenario(changed(accelerator="m4-max"))).startswith("This is a guess.")
    said = describe(predict_scenario(changed(batch=256)))
    assert "wider than vllm records as a CUDA graph" in said

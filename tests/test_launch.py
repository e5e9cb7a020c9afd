"""The command that starts an engine with a plan: whole, with hub ids, and without limits that the
plan did not set; what it needs is said with its source."""

import json
import shlex
import tomllib
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from specsim import catalog, cli, method, model
from specsim.cli.plan import free_share
from specsim.planning import (
    ENGINES_WITH_SETTINGS,
    Deployment,
    Plan,
    ServerSettings,
    fixed_plan,
    launch,
    published_head,
)
from specsim.planning.launching import HEAD, hub_id
from specsim.scenario import Scenario, resolve

METHODS = (
    "draft-model",
    "n-gram",
    "suffix",
    "medusa",
    "eagle",
    "eagle-3",
    "mtp",
    "p-eagle",
    "dflash",
    "pearl",
)
TARGET, DRAFT = "llama-3.1-8b", "llama-3.2-1b"


def planned(batches: list[int], gammas: list[int]) -> Plan:
    nothing, gamma = np.zeros(len(gammas)), np.array(gammas)
    return Plan(np.array(batches), gamma, nothing, gamma, gamma, nothing, nothing, nothing)


def launched(engine: str, name: str | None, plan: Plan, target: str = TARGET, **changes):
    draft = changes.pop("draft", DRAFT if name in ("draft-model", "pearl") else None)
    shape = model(target)
    drafter = None
    if name is not None:
        drafter = method(name, shape, None if draft is None else model(draft))
    deployment = Deployment(target=target, method=name, draft=draft, **changes)
    return launch(engine, deployment, plan, target=shape, drafter=drafter)


def words_of(command: str) -> list[str]:
    return shlex.split(command.splitlines()[-1])


@pytest.mark.parametrize(("engine", "name"), [*product(ENGINES_WITH_SETTINGS, METHODS)])
def test_every_command_starts_the_target_by_its_hub_id_and_limits_nothing(engine, name) -> None:
    found = launched(engine, name, planned([8, 64], [3, 1]), tensor_parallel=2)
    about = catalog.load("launch")[engine]["methods"].get(name)
    head = published_head(TARGET, name, engine) if about and about.get("head") else None
    served = "meta-llama/Llama-3.1-8B" if head is None else head["checkpoint"]
    assert words_of(found.command).count(served) == 1
    assert TARGET not in found.command
    assert DRAFT not in found.command
    for limit in (
        "max-model-len",
        "max-num-seqs",
        "context-length",
        "max_batch_size",
        "max-running",
    ):
        assert limit not in found.command
    if about is None:
        assert any(f"{engine} has no method like {name}" in note for note in found.notes)
        assert "specul" not in found.command
        return
    assert about["name"] in found.command
    assert (HEAD in found.command) == bool(about.get("head") and head is None)
    assert head is None or head["hub"] in found.command
    sources = (about["source"], catalog.load("launch")[engine].get("schedule_source", "-"))
    assert any(source in note for note in found.notes for source in sources)


def test_vllm_gets_json_that_it_documents() -> None:
    found = launched("vllm", "draft-model", planned([8, 64], [3, 3]), tensor_parallel=2)
    assert json.loads(words_of(found.command)[-1]) == {
        "method": "draft_model",
        "model": "meta-llama/Llama-3.2-1B",
        "draft_tensor_parallel_size": 2,
        "num_speculative_tokens": 3,
    }
    assert found.notes[0].startswith("needs vllm 0.15.0 or later")
    head = launched("vllm", "eagle-3", planned([8, 64], [3, 1]))
    assert json.loads(words_of(head.command)[-1]) == {
        "method": "eagle3",
        "model": "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3",
        "num_speculative_tokens": 3,
        "num_speculative_tokens_per_batch_size": [[1, 8, 3], [9, 64, 1]],
    }
    assert head.notes[0].startswith("needs vllm 0.24.0 or later")
    fixed = launched("vllm", "eagle-3", fixed_plan(7, 64))
    assert json.loads(words_of(fixed.command)[-1])["num_speculative_tokens"] == 7
    assert fixed.notes[0].startswith("needs vllm 0.10.0 or later")


def test_one_number_for_several_ranges_says_what_it_stands_for() -> None:
    for engine in ("vllm", "sglang"):
        notes = launched(engine, "draft-model", planned([8, 64, 128], [5, 2, 0])).notes
        (said,) = [note for note in notes if note.startswith("one length")]
        assert "the best of 9 to 64 sequences" in said
        assert "5 at a batch of 1 to 8" in said


def test_what_vllm_refuses_of_a_draft_model_is_said() -> None:
    found = launched("vllm", "draft-model", fixed_plan(3, 1), "qwen2.5-7b", draft="qwen2.5-0.5b")
    assert any("another size: 151936 and 152064" in note for note in found.notes)


def test_tensorrt_llm_gets_a_file_and_sglang_options() -> None:
    found = launched("tensorrt-llm", "draft-model", planned([8, 64], [3, 1]), tensor_parallel=4)
    *file, _, serve = found.command.splitlines()
    assert file[1:] == [
        "speculative_config:",
        "  decoding_type: DraftTarget",
        "  speculative_model: meta-llama/Llama-3.2-1B",
        "  max_draft_len: 3",
        "  draft_len_schedule: {8: 3, 64: 1}",
    ]
    assert "--tp_size 4" in serve
    words = words_of(launched("sglang", "eagle-3", fixed_plan(4, 1)).command)
    assert words[words.index("--speculative-num-draft-tokens") + 1] == "5"
    assert words[words.index("--speculative-algorithm") + 1] == "EAGLE3"


def test_where_speculation_does_not_pay_there_is_none() -> None:
    for engine in ENGINES_WITH_SETTINGS:
        found = launched(engine, "draft-model", planned([1, 32], [0, 0]))
        assert "gains nothing up to a batch of 32" in found.text
        assert "specul" not in found.command
        assert launched(engine, None, fixed_plan(0, 1)).notes == ()


@pytest.mark.parametrize("precision", ["fp8", "fp16", "int4", "bf16", None])
def test_a_format_is_an_option_or_said(precision: str | None) -> None:
    for engine in ENGINES_WITH_SETTINGS:
        found = launched(engine, None, fixed_plan(0, 1), precision=precision)
        option = catalog.load("launch")[engine].get("formats", {}).get(precision)
        assert option is None or option in found.command
        said = any("serve a checkpoint that is stored so" in note for note in found.notes)
        assert said == (option is None and precision not in (None, "bf16"))


def test_every_release_has_a_source_and_every_method_is_the_catalogs() -> None:
    text = (Path(catalog.__file__).parent / "launch.toml").read_text(encoding="utf-8")
    for engine, row in tomllib.loads(text).items():
        assert engine in catalog.load("engines")
        assert row["source"]
        assert ("schedule_source" in row) == any(m.get("schedule") for m in row["methods"].values())
        for name, about in row["methods"].items():
            assert name in catalog.load("methods")
            assert about["source"]


HEADS = catalog.load("heads")


@pytest.mark.parametrize("name", HEADS)
def test_a_published_head_is_for_a_model_and_methods_of_the_catalog(name: str) -> None:
    row = HEADS[name]
    assert row.keys() <= {
        "hub", "target", "checkpoint", "methods", "block_size", "engines", "source", "confidence",
        "notes",
    }  # fmt: skip
    assert row["target"] in catalog.load("models")
    assert row["methods"]
    assert all(each in catalog.load("methods") for each in row["methods"])
    assert set(row.get("engines", ())) <= set(ENGINES_WITH_SETTINGS)
    assert row["confidence"] in {"published", "listed"}
    assert name == catalog.slug(row["hub"])
    assert row["hub"].count("/") == row["checkpoint"].count("/") == 1
    assert row["target"] in catalog.slug(row["checkpoint"])  # that model, or its instruct version


def test_the_head_of_a_command_is_documented_for_the_engine_or_said_not_to_be() -> None:
    found = {
        engine: published_head("llama-3.1-8b", "eagle-3", engine)
        for engine in ENGINES_WITH_SETTINGS
    }
    assert found["vllm"]["hub"] == "RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3"
    assert found["sglang"]["hub"] == "lmsys/SGLang-EAGLE3-Llama-3.1-8B-Instruct-SpecForge"
    assert "engines" not in found["tensorrt-llm"]
    for engine, head in found.items():
        notes = launched(engine, "eagle-3", fixed_plan(3, 8)).notes
        (said,) = [note for note in notes if head["hub"] in note]
        assert "one published head" in said
        assert head["source"] in said
        assert ("not checked" in said) == (engine not in head.get("engines", ()))


def test_a_target_that_the_reader_spells_out_is_served_as_it_is_spelled() -> None:
    own = "Qwen/Qwen3-30B-A3B"
    found = launched("vllm", "eagle-3", fixed_plan(3, 8), "qwen3-30b-a3b")
    assert words_of(found.command)[2] == "Qwen/Qwen3-30B-A3B-Instruct-2507"  # the head's checkpoint
    shape = model("qwen3-30b-a3b")
    kept = launch(
        "vllm", Deployment(target=own, method="eagle-3"), fixed_plan(3, 8),
        target=shape, drafter=method("eagle-3", shape),
    )  # fmt: skip
    assert words_of(kept.command)[2] == own
    assert any("head for Qwen/Qwen3-30B-A3B-Instruct-2507" in note for note in kept.notes)


def test_without_a_published_head_the_reader_fills_it_in() -> None:
    assert published_head("phi-4", "eagle-3", "vllm") is None
    assert published_head("./my-model", "eagle-3", "vllm") is None
    found = launched("vllm", "eagle-3", fixed_plan(3, 8), "phi-4")
    assert HEAD in found.command
    assert any(HEAD in note for note in found.notes)


def test_parallel_drafting_is_an_option_of_vllms_eagle_3() -> None:
    found = launched("vllm", "p-eagle", fixed_plan(5, 8), "gpt-oss-20b")
    assert json.loads(words_of(found.command)[-1]) == {
        "method": "eagle3",
        "model": "amazon/gpt-oss-20b-p-eagle",
        "parallel_drafting": True,
        "num_speculative_tokens": 5,
    }
    assert found.notes[0].startswith("needs vllm 0.16.0 or later")


def test_hub_ids() -> None:
    assert hub_id("qwen3-8b") == "Qwen/Qwen3-8B"
    assert hub_id("./my-model") == "./my-model"


ASKED = ServerSettings(
    kv_precision="fp8", memory_share=0.6, free_share=0.48, max_seqs=64, max_batched_tokens=512,
    kv_tokens=90_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "options", "said"),
    [
        (
            "vllm",
            "--kv-cache-dtype fp8 --gpu-memory-utilization 0.6 --max-num-seqs 64 "
            "--max-num-batched-tokens 512",
            ("KV cache of 90000 tokens: no option of vllm",),
        ),
        (
            "sglang",
            "--kv-cache-dtype fp8_e5m2 --mem-fraction-static 0.6 --max-running-requests 64 "
            "--chunked-prefill-size 512 --max-total-tokens 90000",
            ("--mem-fraction-static is of weights", "--chunked-prefill-size limits"),
        ),
        (
            "tensorrt-llm",
            "--max_batch_size 64 --max_num_tokens 512",
            ("free_gpu_memory_fraction is the cache's share",),
        ),
    ],
)
def test_what_the_plan_was_priced_with_is_set_or_said(engine, options, said) -> None:
    for name, plan in ((None, fixed_plan(0, 1)), ("draft-model", fixed_plan(3, 8))):
        found = launched(engine, name, plan, server=ASKED)
        assert f" {options}" in found.command
        assert [sum(note.startswith(each) for note in found.notes) for each in said] == [1] * len(
            said
        )
        if engine == "tensorrt-llm":  # the file's table counts, and replaces the options' one
            assert "\n".join([
                ".yaml <<'END'", "kv_cache_config:", "  dtype: fp8",
                "  free_gpu_memory_fraction: 0.48", "  max_tokens: 90000", "",
            ]) in found.command  # fmt: skip
            assert ("speculative_config:\n" in found.command) == (name is not None)


def test_a_cache_that_is_the_default_or_has_no_option() -> None:
    def told(kv: str, **changes: str) -> str:
        asked = {"server": ServerSettings(kv_precision=kv)} | changes
        return launched("vllm", None, fixed_plan(0, 1), **asked).text

    plain = launched("vllm", None, fixed_plan(0, 1)).text
    assert [told(kv) for kv in ("auto", "bf16", "fp16")] == [plain] * 3
    assert "KV cache in q8_0: no option of vllm for it is known here" in told("q8_0")
    assert "KV cache in fp32" in told("fp32")
    assert "KV cache" not in told("fp32", precision="fp32")


def test_an_engine_without_a_share_of_all_memory_says_so() -> None:
    asked = ServerSettings(memory_share=0.6)
    found = launched("tensorrt-llm", None, fixed_plan(0, 1), server=asked)
    assert found.notes == ("memory share 0.6: no option of tensorrt-llm for it is known here",)


def test_a_draft_in_another_format_is_said() -> None:
    found = launched("vllm", "draft-model", fixed_plan(3, 8), draft_precision="int4")
    assert "int4: name a draft that is stored so" in found.notes


def test_commands_set_what_their_options_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--target", TARGET, "--accelerator", "h100-sxm", "--engine", "vllm"]
    pair, cache = [*base, "--draft", DRAFT, "--alpha", "0.7"], ["--kv-precision", "fp8"]
    load = ["--rate", "5", "--requests", "20", "--output", "20", "--max-seqs", "64"]
    for command, asked, extra in (
        ("plan", [*pair, "--batches", "1,2", "--memory-share", "0.6"], "memory-utilization 0.6"),
        ("rank", [*base, "--methods", "n-gram", "--memory-share", "0.6"], "utilization 0.6"),
        ("tune", [*pair, *load, "--max-batched-tokens", "512"],
         "--max-num-seqs 64 --max-num-batched-tokens 512"),
    ):  # fmt: skip
        assert cli.main([command, *asked, *cache, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["commands"]["vllm"]["command"]
        assert "--kv-cache-dtype fp8" in found
        assert extra in found


def test_what_the_weights_leave_free() -> None:
    """By hand: 16.06 GB of weights on a card of 80 GB of which 48 may be filled."""
    found = resolve(Scenario(target=TARGET, accelerator="h100-sxm", engine="vllm"))
    assert free_share(found, 0.6) == pytest.approx((48 - 16.06) / (80 - 16.06), rel=1e-3)
    assert free_share(found, 0.1) is None

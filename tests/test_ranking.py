"""Published acceptance rates, and drafts and methods ranked by them for one deployment."""

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specsim
from specsim import catalog, cli
from specsim.acceptance import IID
from specsim.acceptance.published import (
    MEANS,
    models_of,
    published_rates,
    rates_for,
    rates_of,
)
from specsim.catalog import published
from specsim.checks import SpecsimError
from specsim.drafting import method
from specsim.planning.acceptances import acceptance_range, alphas_of
from specsim.planning.ranking import Candidate, rank

ENGINEER = [
    "--target", "llama-3.3-70b", "--precision", "fp8", "--accelerator", "h100", "--tp", "4",
    "--engine", "vllm", "--context", "4096",
]  # fmt: skip
TARGET, DRAFT = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")


@cache
def answer(*words: str) -> dict[str, Any]:
    """What a command prints as JSON; several tests ask the same."""
    with redirect_stdout(io.StringIO()) as printed:
        assert cli.main([*words, "--json"]) == 0
    (line,) = printed.getvalue().splitlines()
    return json.loads(line)


# ------------------------------------------------------------------------------ published rates


def test_every_row_is_read_once() -> None:
    rows = published.rows("acceptance_rates")
    assert sum(rate.rows for rate in published_rates()) == len(rows)
    for rate in published_rates():
        assert (rate.alpha is None) != (rate.tokens_per_cycle is None)
        assert rate.method is None or rate.method in catalog.load("methods")
        assert rate.model is None or rate.model in catalog.load("models")


def test_every_drafter_of_the_catalog_has_rows() -> None:
    rows = {(row["draft_or_method"], row["paper"]) for row in published.rows("acceptance_rates")}
    for about in catalog.load("drafters").values():
        for name in about["names"]:
            papers = {paper for drafter, paper in rows if drafter == name}
            assert papers & set(about.get("papers", papers)), name


def test_a_survival_is_one_rate_and_its_tokens_are_its_sum() -> None:
    (eagle,) = [rate for rate in rates_of("eagle") if not rate.tree]
    assert (eagle.rows, eagle.gamma) == (7, 7)
    assert eagle.tokens_per_cycle == pytest.approx(1 + 0.68 + 0.39 + 0.2 + 0.1 + 0.06 + 0.03 + 0.02)


def test_chains_are_not_mixed_with_trees() -> None:
    assert not any(rate.tree for rate in rates_of("eagle-3"))
    assert all(rate.tree for rate in rates_of("medusa"))  # no chain of it is published
    assert rates_of("suffix") == ()


def test_a_mean_over_tasks_does_not_count_beside_its_tasks() -> None:
    assert not any(rate.task in MEANS for rate in rates_of("dflash"))
    assert any(rate.task in MEANS for rate in published_rates() if rate.method == "dflash")
    assert len(rates_of("dflash")) == 28  # 2 models, 7 tasks, 2 temperatures


def test_the_rates_of_a_target_by_any_of_its_names() -> None:
    for name in ("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct"):
        assert models_of(rates_for(name)) == ["llama-3.3-70b"]
    assert {rate.target for rate in rates_for("t5-xxl")} == {"T5-XXL"}  # of no catalog
    with pytest.raises(SpecsimError, match="no model is called 'xyzzy'"):
        rates_for("xyzzy")


@pytest.mark.parametrize("name", ["eagle-3", "n-gram", "medusa", "p-eagle", "dflash"])
def test_an_alpha_gives_back_the_published_tokens(name: str) -> None:
    drafter = method(name, TARGET)
    for rate, alpha in zip(rates_of(name), alphas_of(drafter, rates_of(name)), strict=True):
        tokens = drafter.acceptance_of(IID(alpha)).tokens_per_cycle(rate.gamma or 0)
        most = drafter.acceptance_of(IID(1.0)).tokens_per_cycle(rate.gamma or 0)
        assert tokens == pytest.approx(min(rate.tokens_per_cycle or 0.0, most), abs=2e-3)


def test_the_range_is_made_of_the_rows_and_of_the_targets_own_where_there_are_any() -> None:
    found = acceptance_range(specsim.DraftModel(DRAFT), "draft-model")
    assert found is not None
    alphas = [
        float(row["value"]) for row in published.rows("acceptance_rates")
        if row["metric"].startswith("alpha") and row["draft_or_method"] not in ("Unigram", "Bigram")
    ]  # fmt: skip
    assert found.rates == len(alphas)
    assert found.alphas == pytest.approx(np.quantile(alphas, [0.1, 0.5, 0.9]))
    own = acceptance_range(method("dflash", specsim.model("qwen3-8b")), "dflash", "qwen3-8b")
    assert own is not None
    assert own.of_target
    assert own.models == ("qwen3-8b",)


# --------------------------------------------------------------------------- no acceptance given


def test_predict_answers_over_the_published_range(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", *ENGINEER, "--batch", "20", "--method", "eagle-3"]
    document = answer(*words)
    rows = document["acceptance_range"]
    assert rows["low"]["speedup"] < rows["middle"]["speedup"] < rows["high"]["speedup"]
    assert document["speedup"] == rows["middle"]["speedup"]
    about = document["published_acceptance"]
    assert about["rates"] == len(rates_of("eagle-3"))
    for row in rows.values():
        given = answer(*words, "--alpha", repr(row["alpha"]))
        assert row["speedup"] == pytest.approx(given["speedup"], rel=1e-12)
        assert row["gamma"] == given["best_gamma"]
    assert "acceptance_range" not in given
    said = document["assumptions"][0]
    assert f"{about['rates']} published rates of eagle-3 ({about['rows']} rows" in said
    assert "gpt-oss-20b" in said
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {part} +alpha", text, flags=re.M) for part in rows)


def test_without_published_rates_the_error_offers_the_command_that_lists_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["predict", *ENGINEER, "--method", "suffix"],
                  ["plan", *ENGINEER, "--method", "eagle-3"]):  # fmt: skip
        assert cli.main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "specsim acceptance llama-3.3-70b" in line


def test_specsim_acceptance(capsys: pytest.CaptureFixture[str]) -> None:
    document = answer("acceptance", "Llama-3.3-70B-Instruct")
    assert document["model"] == "llama-3.3-70b"
    assert len(document["rates"]) == len(rates_for("llama-3.3-70b")) == 18
    predicted = answer("predict", *ENGINEER, "--method", "eagle-3")
    assert (
        document["ranges"]["eagle-3"]["middle"] == predicted["acceptance_range"]["middle"]["alpha"]
    )
    assert cli.main(["acceptance", "llama-3.3-70b", "--method", "eagle-3"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    text = " ".join(text.split())
    for words in ("12 of the", "HumanEval", "6.16-6.52", "specsim diagnose", "measure yours"):
        assert words in text
    assert cli.main(["acceptance", "llama-3.1-8b", "--method", "suffix"]) == 0
    assert "no rate of suffix is published" in capsys.readouterr().out
    for wrong in (["xyzzy"], ["llama-3.1-8b", "--method", "eagel"]):
        assert cli.main(["acceptance", *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# -------------------------------------------------------------------------------------- ranking


def test_the_engineers_case() -> None:
    """Llama-3.3-70B in FP8 on four H100s under vLLM, 20 users of 4,096 tokens: one command."""
    document = answer("rank", *ENGINEER, "--users", "20")
    names = [row["name"] for row in document["ranking"]]
    assert document["best"] == names[0] == "eagle-3"
    assert names[-1] == "plain decoding"
    assert "draft-model llama-3.2-1b" in names
    rates = [row["tokens_per_s"][1] for row in document["ranking"]]
    assert rates == sorted(rates, reverse=True)
    reasons = {each["name"]: each["reason"] for each in document["impossible"]}
    assert reasons["mtp"] == "llama-3.3-70b has no MTP module"
    assert "documents no such method" in reasons["eagle-2"]
    assert "knows no head" in reasons["dflash"]
    priced = [row["method"] for row in document["ranking"]]
    assert set(reasons) | set(priced) >= set(catalog.load("methods")) - {"tree"}
    command = document["commands"]["vllm"]["command"]
    assert command.startswith("vllm serve meta-llama/Llama-3.3-70B-Instruct")
    assert "RedHatAI/Llama-3.3-70B-Instruct-speculator.eagle3" in command
    said = " ".join(document["assumptions"])
    for words in ("Outside the rows that vllm was fitted to", "published rates", "±18%"):
        assert words in said


def test_the_documentation_shows_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "predicting.md").read_text(encoding="utf-8")
    _, _, section = page.partition("## Which draft, which method?")
    commands, table, settings = re.findall(r"^```\n(.*?)^```", section, flags=re.M | re.S)[:3]
    printed = ""
    for command in commands.splitlines():
        assert cli.main(command.split()[1:]) == 0
        printed += capsys.readouterr().out
    for line in (*table.splitlines(), *settings.splitlines()):
        assert line == "…" or line in printed.splitlines()


def test_the_settings_of_the_best_are_those_of_plan() -> None:
    ranked = answer("rank", *ENGINEER, "--users", "20")
    alpha = ranked["ranking"][0]["alpha"][1]
    planned = answer(
        "plan", *ENGINEER, "--method", "eagle-3", "--alpha", repr(alpha), "--users", "20"
    )  # fmt: skip
    assert ranked["commands"] == planned["commands"]
    assert ranked["engine_settings"] == planned["engine_settings"]


def test_a_row_is_what_predict_says() -> None:
    words = ["--users", "20", "--methods", "eagle-3,n-gram", "--price-per-hour", "10"]
    document = answer("rank", *ENGINEER, *words)
    for row in document["ranking"][:2]:
        alone = answer("predict", *ENGINEER, "--batch", "20", "--method", row["method"])
        assert row["gamma"] == alone["best_gamma"]
        assert row["speedup"][1] == pytest.approx(alone["speedup"], rel=1e-12)
        assert row["tokens_per_s"][1] == pytest.approx(alone["speculative_tokens_per_s"], rel=1e-12)
        assert row["memory_bytes"] == pytest.approx(alone["memory_bytes"], rel=1e-12)
        per_million = 10 / 3600 / row["tokens_per_s"][1] * 1e6
        assert row["dollars_per_million"] == pytest.approx(per_million)


def candidates() -> list[Candidate]:
    big, small = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    return [
        Candidate(),
        Candidate(method="draft-model", draft="small", drafter=specsim.DraftModel(small),
                  alphas=(0.6, 0.6, 0.6)),
        Candidate(method="draft-model", draft="big", alphas=(0.999, 0.999, 0.999),
                  drafter=specsim.DraftModel(big, precision="bf16")),
    ]  # fmt: skip


def test_what_does_not_fit_the_memory_is_last_however_fast() -> None:
    """A draft of 16 GB beside 70 B in fp8 overfills one card; a small one fits."""
    target = specsim.model("llama-3.1-70b")
    system = specsim.system("h100-sxm", precision="fp8")
    roomy = replace(system, accelerator=replace(system.accelerator, memory_bytes=1e12))
    free = rank(target, roomy, candidates(), users=1, context=1024)
    assert free[0].candidate.draft == "big"
    tight = rank(target, system, candidates(), users=1, context=1024, usable=1.0)
    assert tight[-1].candidate.draft == "big"
    assert tight[-1].missing is not None
    assert "80.0 GB" in tight[-1].missing
    assert tight[0].candidate.draft == "small"
    assert tight[-1].tokens_per_s[1] > tight[0].tokens_per_s[1]
    assert float(tight[0].memory_bytes) < 80e9


def test_a_latency_limit_comes_before_the_tokens_per_second() -> None:
    system = specsim.system("h100-sxm")
    fast = Candidate(
        method="pearl",
        draft="small",
        drafter=method("pearl", TARGET, DRAFT),
        alphas=(0.6, 0.6, 0.6),
    )  # faster, on a second accelerator
    asked = [*candidates()[:2], fast]
    free = rank(TARGET, system, asked, users=1)
    assert free[0].candidate.method != "pearl"
    by_name = {each.candidate.method: each for each in free}
    assert by_name["pearl"].devices == 2
    assert by_name["pearl"].token_s[1] < min(
        each.token_s[1] for name, each in by_name.items() if name != "pearl"
    )
    limit = float(1e3 * by_name["pearl"].token_s[1] * 1.0001)
    held = rank(TARGET, system, asked, users=1, limits_ms={"tpot": limit})
    assert held[0].candidate.method == "pearl"
    assert [each.misses for each in held] == [(), ("tpot",), ("tpot",)]
    strict = rank(TARGET, system, candidates()[:2], users=64, limits_ms={"ttft": 1e-3, "e2el": 1e9})
    assert [each.misses for each in strict] == [("ttft",), ("ttft",)]


def test_given_acceptances() -> None:
    words = ["rank", *ENGINEER, "--users", "4", "--drafts", "llama-3.2-1b,llama-3.1-8b"]
    document = answer(*words, "--alpha", "0.5", "--acceptance", "llama-3.1-8b=0.99",
                      "--acceptance", "suffix=0.6")  # fmt: skip
    alphas = {row["name"]: row["alpha"] for row in document["ranking"]}
    assert alphas["draft-model llama-3.1-8b"] == [0.99] * 3
    assert alphas["draft-model llama-3.2-1b"] == [0.5] * 3
    assert alphas["suffix"] == [0.6] * 3
    assert "published rates" not in " ".join(document["assumptions"])


MISTAKES = {
    "no users": (["--users", "0"], "--users must be a whole number >= 1"),
    "too many users": (["--users", "9999999"], "--users must be at most"),
    "unknown draft": (["--drafts", "llamx"], "no model is called 'llamx'"),
    "empty draft": (["--drafts", ","], "comma-separated"),
    "unknown method": (["--methods", "eagel"], "no method is called 'eagel'"),
    "no number": (["--acceptance", "eagle-3=x"], "must be a number"),
    "no equals": (["--acceptance", "eagle-3"], "NAME=ALPHA"),
    "above one": (["--acceptance", "eagle-3=2"], "within [0, 1]"),
    "of nobody": (["--acceptance", "x=0.5"], "belongs to no candidate"),
    "alpha above one": (["--alpha", "2"], "--alpha must be within [0, 1]"),
    "unknown limit": (["--slo", "itl:5"], "--slo takes"),
    "negative price": (["--price-per-hour", "-1"], "--price-per-hour must be within"),
    "no memory": (["--memory-share", "0"], "--memory-share must be within"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = MISTAKES[name]
    assert cli.main(["rank", *ENGINEER, *words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert said in line


def test_rank_in_python_refuses_what_it_does_not_know() -> None:
    system = specsim.system("h100-sxm")
    with pytest.raises(SpecsimError, match="limits_ms takes ttft"):
        rank(TARGET, system, candidates(), limits_ms={"itl": 1.0})
    with pytest.raises(SpecsimError, match="no candidate"):
        rank(TARGET, system, [])

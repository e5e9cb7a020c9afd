"""Counters, files, and the comparison with a prediction."""

import json
from pathlib import Path
from typing import Any

import pytest
from printed import check
from scripted import ROOT, SMALL, load, served, spaced

from specsim import cli
from specsim.evidence.client import measure_server
from specsim.evidence.measurement import Measurement
from specsim.evidence.served import read_runs


def page(drafts: int, accepted: int, tokens: int) -> bytes:
    name = 'vllm:spec_decode_num_{}_total{{engine="0",model_name="served"}} {}.0\n'
    counts = {"drafts": drafts, "draft_tokens": 2 * drafts, "accepted_tokens": accepted}
    text = "".join(name.format(*each) for each in counts.items())
    text += f'vllm:generation_tokens_total{{engine="0",model_name="served"}} {tokens}.0\n'
    return text.encode()


def test_the_counters_of_the_run_are_the_difference(tmp_path: Path, capsys: Any) -> None:
    pages = [page(1000, 700, 5000), page(1040, 728, 5080)]
    out, file = tmp_path / "out.json", tmp_path / "measured.json"
    with served(spaced, metrics=lambda k: pages[k]) as server:
        words = ["measure-server", "--url", server.url, "--concurrency", "4", "--requests", "20",
                 "--prompt", "16", "--output", "4", "--no-overhead", "--out", str(out),
                 "--measurement", str(file), "--device", "a100", "--target", "llama-3.1-8b",
                 "--draft", "llama-3.2-1b"]  # fmt: skip
        assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{server.url}/v1/completions, model served (vllm)"
    assert printed.splitlines()[1] == "20 requests, 4 at a time"
    check("measure-server", printed)
    said = "1.700 tokens per cycle, 35.0 % of drafted tokens accepted, 40 drafts"
    assert said in " ".join(printed.split())
    found = json.loads(out.read_text())
    assert found["spec_decode_num_drafts"] == 40
    assert found["spec_decode_acceptance_length"] == pytest.approx(1.7)
    assert found["token_counts"] == {"usage": 80, "chunks": 80, "text": None, "server": 80}
    (run,) = read_runs(out.read_text(), "out.json")
    assert (run.tool, run.engine, run.completed) == ("specsim measure-server", "vllm", 20)
    assert run.latencies["chunk_gap"].called == "ITL"
    (point,) = Measurement.read(file).points
    assert (point.scenario.gamma, point.scenario.mode) == (2, "served")
    assert point.tokens_per_cycle == pytest.approx(1.7)
    assert point.cycle_s is not None

    words = ["compare", "--results", str(out), "--target", "llama-3.1-8b", "--accelerator",
             "h100-sxm", "--draft", "llama-3.2-1b", "--json"]  # fmt: skip
    assert cli.main(words) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    rows = {row["metric"]: row for row in told["rows"]}
    assert set(rows) == {"mean_ttft_s", "mean_tpot_s", "mean_chunk_gap_s", "mean_e2e_s",
                         "output_tokens_per_s", "tokens_per_cycle"}  # fmt: skip
    for row in rows.values():
        assert row["measured"] > 0
        assert row["predicted"] > 0
        assert row["simulated"] > 0
    assert told["predicted_as"]["gamma"] == 2


def test_an_idle_drafter_has_no_acceptance() -> None:
    with served(metrics=lambda _: page(1000, 700, 5000)) as server:
        run = measure_server(server.url, load(), overhead=False)
    assert run.counters is None
    assert run.engine == "vllm"
    assert "spec_decode_num_drafts" not in run.summary


def test_others_that_use_the_server_meanwhile_are_noticed() -> None:
    pages = [page(10, 7, 100), page(50, 35, 400)]
    with served(metrics=lambda k: pages[k]) as server:
        run = measure_server(server.url, load(), overhead=False)
    assert any("own counter grew by 300 tokens" in each for each in run.findings)


def test_the_lists_of_each_request_are_vllms(tmp_path: Path, capsys: Any) -> None:
    with served() as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--save-detailed", "--json"]
        assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    golden = json.loads((ROOT / "tests" / "results" / "vllm-bench.json").read_text())
    missing = golden.keys() - found.keys() - {"rtfx"}
    assert {name for name in missing if not name.startswith("spec_decode")} == set()
    assert found["output_lens"] == [4, 4]
    assert [len(gaps) for gaps in found["itls"]] == [3, 3]
    assert found["generated_texts"] == [" w" * 4] * 2

"""Results of served runs, from every tool, become one record whose latencies name their convention.

tests/results holds excerpts of real results: vLLM 0.32.0 on a CPU with the bundled pair (`vllm
bench serve` as JSON and as printed, and a scrape of another run of that server), and guidellm 0.8.1
against a server that sends three tokens per chunk. The others are in the formats of the tools'
public documentation, with numbers of their own.
"""

import json
import math
from pathlib import Path

import pytest

from specsim import cli
from specsim.checks import SpecsimError
from specsim.evidence.diagnosis import diagnose
from specsim.evidence.served import CONVENTIONS, read_runs

HERE = Path(__file__).parent / "results"
VLLM, BLOCK, GUIDELLM, PAGE = (
    (HERE / name).read_text(encoding="utf-8")
    for name in ("vllm-bench.json", "vllm-bench.txt", "guidellm.json", "vllm-metrics.prom")
)
SGLANG = {  # python/sglang/bench_serving.py: a line of its JSON lines
    "backend": "sglang", "dataset_name": "random", "request_rate": 4.0, "max_concurrency": 8,
    "duration": 50.0, "completed": 100, "total_input_tokens": 12800, "total_output_tokens": 20000,
    "total_output_tokens_retokenized": 19990, "request_throughput": 2.0, "output_throughput": 400.0,
    "mean_e2e_latency_ms": 2100.0, "median_e2e_latency_ms": 2000.0, "mean_ttft_ms": 110.0,
    "median_ttft_ms": 100.0, "p99_ttft_ms": 300.0, "mean_tpot_ms": 10.0, "mean_itl_ms": 10.1,
    "concurrency": 4.2, "accept_length": 2.5,
}  # fmt: skip
AIPERF = {  # aiperf's docs/metrics_reference.md
    "request_count": {"unit": "requests", "avg": 100},
    "request_throughput": {"unit": "requests/sec", "avg": 2.0},
    "request_latency": {"unit": "ms", "avg": 2100.0, "p50": 2000.0, "p90": 2500.0, "p99": 3000.0},
    "time_to_first_token": {"unit": "ms", "avg": 110.0, "p50": 100.0, "p99": 300.0},
    "inter_token_latency": {"unit": "ms", "avg": 10.0, "p50": 9.0},
    "inter_chunk_latency": {"unit": "ms", "avg": 25.0, "p50": 24.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 400.0},
    "output_sequence_length": {"unit": "tokens", "avg": 200.0},
    "input_sequence_length": {"unit": "tokens", "avg": 128.0},
    "benchmark_duration": {"unit": "sec", "avg": 50.0},
    "total_spec_decode_steps": {"unit": "count", "avg": 8000},
    "total_accepted_draft_tokens": {"unit": "tokens", "avg": 12000},
    "total_draft_tokens": {"unit": "tokens", "avg": 24000},
    "pooled_spec_decode_acceptance_histogram": {"0": 2000, "1": 2000, "2": 2000, "3": 2000},
}
AIPERF_CSV = """Metric,avg,min,max,p50,p99
Request Latency (ms),"2,100.00",1000,3100,2000.00,3000.00
Time to First Token (ms),110.00,50,320,100.00,300.00
Inter Token Latency (ms),10.00,5,20,9.00,18.00
Output Sequence Length (tokens),200.00,10,400,200,390
Input Sequence Length (tokens),128.00,128,128,128,128

Metric,Value
Request Count,100.00
Request Throughput (requests/sec),2.00
Output Token Throughput (tokens/sec),400.00
"""


def test_json_and_printed_block_of_one_run_give_the_same_numbers():
    (full,), (shown,) = read_runs(VLLM, "x"), read_runs(BLOCK, "x")
    assert full.tool == shown.tool == "vllm bench serve"
    for run in (full, shown):
        assert (run.completed, run.failed, run.input_tokens, run.output_tokens) == (
            32,
            0,
            1536,
            1536,
        )
        assert run.output_tokens_per_s == pytest.approx(520.85, abs=0.01)
        assert run.context == 48 + 24
        assert run.decoding == pytest.approx(32 * (0.35966 - 0.03714) / 2.949, rel=1e-3)
    assert set(full.latencies) == {"ttft", "tpot", "chunk_gap", "e2e"} == set(shown.latencies)
    for name, each in full.latencies.items():
        assert shown.latencies[name].mean == pytest.approx(each.mean, abs=6e-6)
        assert shown.latencies[name].p99 == pytest.approx(each.p99, abs=6e-6)
    one, two = diagnose(full.counters), diagnose(shown.counters)
    assert one.tokens_per_cycle == two.tokens_per_cycle == 1 + 742 / 786
    assert one.survival == pytest.approx(two.survival, abs=1e-4)


def test_a_page_of_metrics_has_percentiles_by_convention():
    (run,) = read_runs(PAGE, "x")
    assert diagnose(run.counters).tokens_per_cycle == 1 + 5849 / 4456
    gap = run.latencies["chunk_gap"]
    assert gap.mean is None  # the scrape lacks the sum
    # 4456 gaps: 749 up to 10 ms, 4322 up to 25 ms
    assert gap.median == pytest.approx(0.01 + 0.015 * (2228 - 749) / (4322 - 749))
    assert run.mean_output == 10272 / 128


def test_guidellms_names_are_not_vllms():
    (run,) = read_runs(GUIDELLM, "x")
    assert run.latencies["tpot"].called == "inter_token_latency_ms"
    assert run.latencies["tpot"].mean == pytest.approx(1.9497e-3, rel=1e-3)
    assert run.latencies["latency_per_token"].called == "time_per_output_token_ms"
    assert run.latencies["e2e"].mean == pytest.approx(68.59e-3, rel=1e-3)  # in seconds there
    # whole latency / 30 tokens, but for what comes after the last token
    assert run.latencies["latency_per_token"].mean == pytest.approx(0.06859 / 30, rel=0.02)
    assert run.counters is None
    assert "3.00 tokens" in run.cautions[0]


def test_sglangs_client_divides_a_gap_by_the_tokens_of_its_chunk():
    (run,) = read_runs(json.dumps(SGLANG), "x")
    assert (run.engine, run.concurrency) == ("sglang", 4.2)
    assert run.latencies["chunk_gap_per_token"].mean == pytest.approx(0.0101)
    assert run.counters.tokens_per_cycle == 2.5
    (other,) = read_runs(json.dumps(SGLANG | {"mean_itl_ms": 24.8}), "x")  # an older client
    assert other.latencies["chunk_gap"].mean == pytest.approx(0.0248)
    (vague,) = read_runs(json.dumps(SGLANG | {"backend": "vllm", "accept_length": None}), "x")
    assert not {"chunk_gap", "chunk_gap_per_token"} & set(vague.latencies)
    assert "ITL is left out" in vague.cautions[0]
    two = read_runs(f"{json.dumps(SGLANG)}\n{json.dumps(SGLANG | {'completed': 50})}\n"
                    .replace('"request_throughput": 2.0, ', ""), "x")  # fmt: skip
    assert [run.completed for run in two] == [100, 50]


@pytest.mark.parametrize("nested", [False, True])
def test_aiperf(nested):
    (run,) = read_runs(json.dumps({"records": AIPERF} if nested else AIPERF), "x")
    assert run.latencies["tpot"].mean == pytest.approx(0.010)
    assert run.latencies["chunk_gap"].mean == pytest.approx(0.025)
    assert run.latencies["e2e"].p90 == pytest.approx(2.5)
    assert run.decoding == pytest.approx(100 * (2.1 - 0.11) / 50)
    assert diagnose(run.counters).tokens_per_cycle == 2.5
    if not nested:
        assert diagnose(run.counters).survival == pytest.approx((0.75, 0.5, 0.25))
    (table,) = read_runs(AIPERF_CSV, "x")
    assert table.latencies["tpot"].mean == run.latencies["tpot"].mean
    assert table.latencies["tpot"].convention == run.latencies["tpot"].convention
    assert table.completed == 100


TRACES = {
    "mooncake": '{"timestamp": 0, "input_length": 100, "output_length": 50, "hash_ids": [1]}\n'
                '{"timestamp": 5000, "input_length": 300, "output_length": 150, "hash_ids": []}\n'
                '{"timestamp": 10000, "input_length": 200, "output_length": 100, "hash_ids": []}\n',
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,100,50\n"
             "2023-11-16 18:15:51.6805900,300,150\n2023-11-16 18:15:56.6805900,200,100\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                "5,ChatGPT,100,50,150,API\n10,GPT-4,300,150,450,API\n12,GPT-4,900,0,900,API\n"
                "15,GPT-4,200,100,300,API\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,100,50\n5.5,300,150\n"
             "10.5,200,100\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TRACES)
def test_traces_of_one_traffic_are_one_record(name):
    (run,) = read_runs(TRACES[name], "x")
    assert (run.completed, run.input_tokens, run.output_tokens) == (3, 600, 300)
    assert run.duration_s == pytest.approx(10.0)
    assert run.request_rate == pytest.approx(0.2)
    # by steps of decoding: 50 at 125, 150 at 375, 100 at 250
    assert run.context == pytest.approx((50 * 125 + 150 * 375 + 100 * 250) / 300)


def changed(text: str, **values: object) -> str:
    return json.dumps(json.loads(text) | values)


REFUSED = {
    "unknown ITL": ('{"tool": "mine", "mean_itl_ms": 5.0}', "any of four"),
    "unnamed tool": (
        json.dumps({"mean_ttft_ms": 5, "completed": 9, "mean_itl_ms": 4}),
        "any of four",
    ),
    "throughput": (changed(VLLM, output_throughput=900.0), "its totals make 520.85"),
    "order": (changed(VLLM, mean_ttft_ms=900.0), "in requests of"),
    "percentiles": (changed(VLLM, p99_itl_ms=1.0), "percentiles of ITL fall"),
    "negative": (changed(VLLM, duration=-1.0), "must be a number >= 0"),
    "text": (changed(VLLM, duration="long"), "must be a number, not 'long'"),
    "acceptance": (changed(VLLM, spec_decode_accepted_tokens=700), "contradict"),
    "nothing served": (changed(VLLM, completed=0), "no request"),
    "unit": (json.dumps(AIPERF | {"request_latency": {"unit": "fortnight", "avg": 1}}), "no unit"),
    "cut": (VLLM[:-30], "not valid JSON"),
    "trace row": (TRACES["azure"] + "yesterday,5,5\n", "row 4"),
    "trace value": (TRACES["vidur"] + "11,-5,5\n", "row 4"),
    "other": ("a,b\n1,2\n", "no result that specsim knows"),
    "metrics": ("tgi_spec_accepted_total 5\n", "found the metrics tgi_spec_accepted_total"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_result_that_cannot_be_right_is_refused_in_one_line(name):
    text, said = REFUSED[name]
    with pytest.raises(SpecsimError) as refused:
        read_runs(text, "x")
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


# ------------------------------------------------------------------------------ the commands

SCENARIO = ("--target", "llama-3.1-8b", "--accelerator", "h100-sxm")


def compared(capsys, *words):
    assert cli.main(["compare", "--results", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_a_prediction_stands_beside_each_latency_in_its_own_convention(capsys):
    (found,) = compared(capsys, HERE / "vllm-bench.json", *SCENARIO, "--draft", "llama-3.2-1b")
    predicted_as = found["predicted_as"]
    assert (predicted_as["gamma"], predicted_as["engine"], predicted_as["context"]) == (
        2,
        "vllm",
        72,
    )
    assert predicted_as["batch"] == pytest.approx(3.4997, abs=1e-3)
    rows = {row["metric"]: row for row in found["rows"]}
    cycle = rows["mean_chunk_gap_s"]["predicted"]
    assert rows["mean_tpot_s"]["predicted"] == pytest.approx(cycle / (1 + 742 / 786))
    assert rows["tokens_per_cycle"]["measured_per_predicted"] == pytest.approx(1.0)
    factors = found["factors"]
    assert list(factors) == ["tokens per cycle", "load", "cycle", "evenness"]
    product = math.prod(factors.values())
    assert product == pytest.approx(rows["mean_tpot_s"]["measured_per_predicted"])
    assert found["largest_factor"] == "cycle"
    for each in found["run"]["latencies"].values():
        assert each["convention"] in CONVENTIONS.values()


def test_an_acceptance_that_is_given_replaces_the_runs(capsys):
    asked = (*SCENARIO, "--method", "eagle-3", "--alpha", "0.99", "--gamma", "2", "--batch", "8")
    (found,) = compared(capsys, HERE / "vllm-bench.json", *asked)
    assert found["predicted_as"]["batch"] == 8
    assert found["factors"]["tokens per cycle"] > 1.3


@pytest.mark.parametrize(
    ("file", "words", "said"),
    [
        ("vllm-bench.json", (), "give --target"),
        ("vllm-bench.json", SCENARIO, "say how by --draft"),
        ("vllm-metrics.prom", SCENARIO, "give --batch"),
        ("guidellm.json", (*SCENARIO, "--draft", "llama-3.2-1b"), "predicted as plain decoding"),
    ],
)
def test_what_is_missing_for_a_prediction_is_said(capsys, file, words, said):
    (found,) = compared(capsys, HERE / file, *words)
    assert any(said in sentence for sentence in found["findings"])
    assert cli.main(["compare", "--results", str(HERE / file), *words]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert found["run"]["tool"] in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--results FILE"),
        (("x.json", "--results", "y.json"), "not both"),
        (("--results", "nowhere.json"), "nowhere.json"),
        (("--results", str(HERE / "guidellm.json"), "--target", "llama-3.1-8b"), "--accelerator"),
    ],
)
def test_compare_is_told_what_to_compare(capsys, words, said):
    assert cli.main(["compare", *words]) == 2
    assert said in capsys.readouterr().err

"""specsim serve-sim and tune: what they print and refuse, what readers of results make of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import specsim
from specsim import cli, serving
from specsim.evidence.served import read_runs
from specsim.serving.tuning import plan_of, tune

PAIR = ("--target", "llama-3.1-8b", "--draft", "llama-3.2-1b", "--accelerator", "h100-sxm",
        "--engine", "vllm", "--alpha", "0.75")  # fmt: skip
PLAIN = (*PAIR[:2], *PAIR[4:8])
SERVER = serving.Server(
    target=specsim.model("llama-3.1-8b"),
    drafter=specsim.DraftModel(specsim.model("llama-3.2-1b")),
    system=specsim.system("h100-sxm", engine="vllm", precision="auto"),
)
SMALL = ("--requests", "60", "--prompt", "200,0.5", "--output", "40,0.5")


def call(capsys, *words, status=0):
    assert cli.main([str(word) for word in words]) == status
    printed = capsys.readouterr()
    return printed.out if status == 0 else printed.err


def as_json(capsys, *words):
    out = call(capsys, *words, "--json")
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


def test_a_run_in_vllms_names_is_read_as_a_result_of_vllm(capsys, tmp_path):
    path = tmp_path / "sim.json"
    out = call(capsys, "serve-sim", *PAIR, *SMALL, "--rate", 8, "--policy", "fixed:3",
               "--slo", "ttft:500", "tpot:15", "--out", path, "--save-detailed")  # fmt: skip
    assert "\n\nsteady: 8 requests/s offered" in out
    document = json.loads(path.read_text())
    (run,) = read_runs(path.read_text(), "sim.json")
    assert run.completed == 60
    assert run.latencies["chunk_gap"].mean == pytest.approx(document["mean_itl_ms"] / 1e3)
    assert run.counters is not None
    assert run.counters.tokens_per_cycle == pytest.approx(document["spec_decode_acceptance_length"])
    for name in ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"):
        assert len(document[name]) == 60
    assert document["itl_convention"] == "chunk_gap"


def test_the_same_command_prints_the_same_bytes(capsys):
    words = ("serve-sim", *PAIR, *SMALL, "--rate", 8, "--json")
    assert call(capsys, *words) == call(capsys, *words)


def test_several_rates_are_a_table_and_a_list(capsys):
    words = ("serve-sim", *PAIR, *SMALL, "--rate", "2,400", "--policy", "fixed:2")
    runs = as_json(capsys, *words)["runs"]
    assert [run["request_rate"] for run in runs] == [2.0, 400.0]
    assert len(call(capsys, *words).splitlines()) >= 4


def test_a_server_without_a_draft_and_a_closed_loop(capsys):
    found = as_json(capsys, "serve-sim", *PLAIN, *SMALL, "--concurrency", 4)
    assert found["max_concurrency"] == 4
    assert found["spec_decode_num_drafts"] is None
    assert found["gamma_share"] == {"0": 1.0}


def test_a_trace_is_served(capsys, tmp_path):
    path = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 250 * k, "input_length": 100 + k, "output_length": 5} for k in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = as_json(capsys, "serve-sim", *PAIR, "--trace", path, "--requests", 15)
    assert found["completed"] == 15
    assert found["total_input_tokens"] == sum(100 + k for k in range(15))
    assert found["request_rate"] == pytest.approx(4.0)


def test_tokens_per_cycle_are_those_of_the_method(capsys):
    words = (*PAIR[:4], *PAIR[4:8], "--tokens-per-cycle", 2.5, "--policy", "fixed:3")
    found = as_json(capsys, "serve-sim", *words, *SMALL, "--rate", 5, "--seed", 3)
    assert found["spec_decode_acceptance_length"] == pytest.approx(2.5, rel=0.05)


def test_price_and_energy_are_per_token(capsys):
    found = as_json(capsys, "serve-sim", *PAIR, *SMALL, "--rate", 5, "--price-per-hour", 3.6)
    per_second = 3.6 / 3600
    dollars = per_second * found["duration"] / found["total_output_tokens"] * 1e6
    assert found["dollars_per_million"] == pytest.approx(dollars)
    assert found["joules_per_token"] > 150.0 / found["output_throughput"]


def test_a_draft_on_its_own_device_is_paid_for_too():
    load = serving.traffic(rate=5.0, requests=30, prompt=serving.Lengths(50),
                           output=serving.Lengths(30))  # fmt: skip
    beside = specsim.method("pearl", SERVER.target, specsim.model("llama-3.2-1b"))
    server = replace(SERVER, drafter=beside)
    for policy, devices in (("off", 1), ("fixed:2", 2)):
        run = serving.simulate(server, load, policy=policy, alpha=0.7, price_per_hour=3.6)
        assert run.summary["devices"] == devices
        per_token = 3.6 * devices / 3600 / run.summary["output_throughput"]
        assert run.summary["dollars_per_million"] == pytest.approx(per_token * 1e6)


def test_the_end_of_a_short_run_is_said_to_weigh_in_its_rates(capsys):
    words = ("serve-sim", *PLAIN, "--rate", 36, "--slo", "ttft:500")
    found = as_json(capsys, *words, "--requests", 60)
    assert found["request_throughput"] < 20
    (said,) = [each for each in found["assumptions"] if each.startswith("60 requests:")]
    assert said.endswith("36.00 requests/s are served, 36.00 of them good.")
    tail = found["duration"] - 60 / 36
    assert f"answered {tail:.2f} s after the last arrival" in said
    assert said in " ".join(call(capsys, *words, "--requests", 60).split())
    quiet = as_json(capsys, "serve-sim", *PLAIN, *SMALL, "--rate", 0.2)
    assert not any("last arrival" in each for each in quiet["assumptions"])
    closed = as_json(capsys, "serve-sim", *PLAIN, *SMALL, "--concurrency", 4)
    assert not any("last arrival" in each for each in closed["assumptions"])


def test_what_a_longer_run_serves_does_not_hang_on_how_long_it_was():
    for requests in (60, 240):
        load = serving.traffic(rate=36.0, requests=requests, prompt=serving.Lengths(400),
                               output=serving.Lengths(200))  # fmt: skip
        said = serving.simulate(SERVER, load, policy="off", alpha=0.7).sentences[0]
        assert said.startswith(f"{requests} requests:")
        assert said.endswith("36.00 requests/s are served.")


def test_nothing_to_decode_and_nothing_served(capsys):
    one = call(capsys, "serve-sim", *PLAIN, "--rate", 5, "--requests", 20, "--prompt", 1,
               "--output", 1)  # fmt: skip
    assert "policy       off: nothing was decoded; no draft is loaded" in one
    words = ("serve-sim", *PLAIN, *SMALL, "--rate", 5, "--kv-tokens", 10)
    none = call(capsys, *words)
    assert "\n\nrefused: 5 requests/s offered, nothing is served\n60 of 60 requests are" in none
    found = as_json(capsys, *words)
    assert (found["state"], found["completed"]) == ("refused", 0)
    assert "refused" in serving.STATES


def test_what_speaks_against_a_simulation_is_said(capsys):
    small = ("--requests", 20, "--rate", 1, "--output", "20")
    old = ("--target", "llama-2-7b", "--accelerator", "rtx-4090", "--engine", "vllm")
    found = as_json(capsys, "serve-sim", *old, *small, "--prompt", 20_000)["assumptions"]
    assert any("llama-2-7b was made for 4,096 tokens, and 20,020 are" in each for each in found)
    assert any("No measurement of vllm is from ada" in each for each in found)
    apple = ("--accelerator", "m4-max", *PAIR[6:])
    for command, words in (
        ("serve-sim", (*PAIR[:4], *apple, *small, "--policy", "fixed:2")),
        ("serve-sim", (*PAIR[:4], *apple, *small[:2], *small[4:], "--rate", "1,2", "--policy",
                       "off")),
        ("tune", (*PAIR[:4], *apple, *small)),
    ):  # fmt: skip
        page = call(capsys, command, *words).split("\n\n", 1)[1]
        assert page.startswith("This is a guess. No measurement of vllm is from an Apple chip")
        assert page.count("This is a guess. No measurement") == 1
        if "1,2" not in words:
            first = as_json(capsys, command, *words)["assumptions"][0]
            assert first.startswith("This is a guess. No measurement of vllm")


def test_a_simulated_schedule_is_judged_by_the_passes_that_it_made(capsys):
    """Wide passes are those of the gamma that holds for a batch, not of the widest of each."""
    words = ("serve-sim", *PAIR, "--rate", "inf", "--requests", 200, "--prompt", 20,
             "--output", 30)  # fmt: skip
    wide = as_json(capsys, *words, "--policy", "fixed:3")["assumptions"]
    assert any("is wider than vllm records" in each for each in wide)
    off = as_json(capsys, *words, "--policy", "off")["assumptions"]
    assert not any("is wider than vllm records" in each for each in off)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--rate R, --concurrency N or --trace FILE"),
        (("--rate", "0"), "within 1e-06"),
        (("--rate", "nan"), "within 1e-06"),
        (("--rate", "x"), "must be a number"),
        (("--rate", "1", "--requests", "0"), "--requests"),
        (("--rate", "1", "--requests", "999999999"), "at most"),
        (("--rate", "1", "--burstiness", "0"), "--burstiness"),
        (("--concurrency", "0"), "--concurrency"),
        (("--rate", "1", "--seed", "-1"), "seed"),
        (("--rate", "1", "--prompt", "0"), "at least 1 token"),
        (("--rate", "1", "--output", "1,99"), "sigma"),
        (("--rate", "1", "--policy", "always"), "no policy"),
        (("--rate", "1", "--policy", "fixed:5000"), "at most"),
        (("--rate", "1", "--policy", "table:nowhere.json"), "nowhere.json"),
        (("--rate", "1", "--slo", "itl:5"), "--slo takes"),
        (("--rate", "1", "--slo", "ttft:fast"), "milliseconds"),
        (("--rate", "1", "--slo", "ttft:0"), "above 0"),
        (("--rate", "1", "--kv-tokens", "many"), "--kv-tokens"),
        (("--rate", "1", "--kv-tokens", "0"), "--kv-tokens"),
        (("--rate", "1", "--max-seqs", "0"), "--max-seqs"),
        (("--rate", "1", "--max-batched-tokens", "8"), "at least --max-seqs"),
        (("--rate", "1", "--memory-share", "2"), "--memory-share"),
        (("--rate", "1", "--memory-share", "0.1"), "no memory is left"),
        (("--rate", "1", "--prefix-hit", "2"), "--prefix-hit"),
        (("--rate", "1", "--alpha-spread", "0.6"), "spread"),
        (("--rate", "1", "--hysteresis", "-1"), "--hysteresis"),
        (("--rate", "1", "--price-per-hour", "-1"), "--price-per-hour"),
        (("--rate", "1", "--save-detailed"), "--json or --out"),
        (("--rate", "1", "--trace", "x"), "no use with --trace"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--rate", "1", "--output", "9000000"), "a prompt with its answer"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, said):
    message = call(capsys, "serve-sim", *PAIR, *words, status=2)
    assert message.count("\n") == 1
    assert said in message


def test_traces_that_cannot_be_served_are_refused(capsys, tmp_path):
    path = tmp_path / "trace.csv"
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    for rows, said in (("", "no request"), ("0,0,5\n", "0 tokens"), ("-1,3,5\n", "arrival of -1"),
                       ("0,1e9,5\n", "at most"), ("x,1,1\n", "no request")):  # fmt: skip
        path.write_text(header + rows)
        assert said in call(capsys, "serve-sim", *PAIR, "--trace", path, status=2)
    path.write_text("a,b\n1,2\n")
    assert "no trace" in call(capsys, "serve-sim", *PAIR, "--trace", path, status=2)


# ----------------------------------------------------------------------------------------- tune


def test_tune_ranks_policies_and_writes_commands(capsys):
    words = ("tune", *PAIR, *SMALL, "--rate", 10, "--slo", "tpot:15")
    found = as_json(capsys, *words)
    losses = [row["loss"] for row in found["policies"]]
    assert losses[0] == 0.0
    assert found["policies"][0]["policy"] == found["best"]
    names = {row["policy"] for row in found["policies"]}
    assert {"off", "fixed:1", "fixed:8"} <= names
    assert "num_speculative_tokens" in found["commands"]["vllm"]["command"]
    assert set(found["engine_settings"]) == {"vllm", "sglang", "tensorrt-llm"}
    text = call(capsys, *words)
    assert "recommended: " in text
    assert "vllm serve" in text


def test_tune_recommends_no_draft_where_none_pays(capsys):
    words = ("tune", *PAIR[:8], "--alpha", "0.05", *SMALL, "--rate", 10)
    found = as_json(capsys, *words)
    assert found["recommended"] == "off"
    assert found["engine_settings"]["vllm"] == {}
    assert "speculative" not in found["commands"]["vllm"]["command"]


def test_tune_needs_a_draft(capsys):
    assert "needs a draft" in call(capsys, "tune", *PLAIN, "--rate", 1, status=2)


def test_a_server_that_keeps_up_ranks_above_one_that_does_not():
    """Without an SLO: overloaded servers are ranked by tokens, the others by how soon they end."""
    server = replace(SERVER, max_seqs=64)
    load = serving.traffic(rate=22.0, requests=900, prompt=serving.Lengths(400),
                           output=serving.Lengths(200))  # fmt: skip
    chain = serving.Accepting(specsim.acceptance.IID(0.6))
    tuned = tune(server, load, chain, gammas=np.array([2, 8]))
    states = [run.state == "overloaded" for run in tuned.runs]
    assert states == sorted(states)
    assert any(states)
    assert not all(states)
    assert tuned.loss(tuned.runs[-1]) == 1.0
    assert len(tuned.best_static.loop.policy.ranges()) == 1
    assert plan_of(tuned.best.loop.policy).batch[-1] == 64


def test_best_is_never_below_the_best_fixed_gamma():
    """Two points of bench/serving_shape.py: beside capacity, where the choice matters most."""
    slo = serving.Slo(ttft=500, tpot=15)
    for rate, alpha in ((34.0, 0.75), (36.0, 0.45)):
        load = serving.traffic(rate=rate, requests=700, prompt=serving.Lengths(400, 0.8),
                               output=serving.Lengths(200, 0.7))  # fmt: skip
        goodputs = [
            serving.simulate(SERVER, load, policy=name, alpha=alpha, slo=slo).goodput
            for name in ("off", "fixed:1", "fixed:2", "fixed:3")
        ]
        found = serving.simulate(SERVER, load, policy="best", alpha=alpha, slo=slo)
        assert found.goodput >= 0.98 * max(goodputs)


def test_where_every_policy_keeps_the_slo_the_soonest_is_taken():
    load = serving.traffic(rate=2.0, requests=120, prompt=serving.Lengths(400),
                           output=serving.Lengths(100))  # fmt: skip
    slo = serving.Slo(ttft=5000, tpot=100)
    found = serving.simulate(SERVER, load, policy="best", alpha=0.8, slo=slo)
    assert found.loop.policy.drafts
    none = serving.simulate(SERVER, load, policy="best", alpha=0.0, slo=slo)
    assert not none.loop.policy.drafts


def test_results_are_compared_with_a_simulation_of_their_load(capsys):
    file = Path(__file__).parent / "results" / "vllm-bench.json"
    words = ("compare", "--results", file, "--target", "bundled-target", "--draft", "bundled-draft",
             "--engine", "measurements/cpu-2core/calibration.json")  # fmt: skip
    (found,) = as_json(capsys, *words)["results"]
    rows = {row["metric"]: row for row in found["rows"]}
    for metric in ("mean_ttft_s", "mean_tpot_s", "mean_chunk_gap_s", "mean_e2e_s",
                   "output_tokens_per_s", "tokens_per_cycle"):  # fmt: skip
        assert rows[metric]["simulated"] > 0, metric
    assert found["simulated"]["max_concurrency"] == 4
    assert rows["mean_ttft_s"]["simulated"] > rows["mean_ttft_s"]["predicted"]  # it waits
    assert rows["tokens_per_cycle"]["measured_per_simulated"] == pytest.approx(1.0, abs=0.1)
    assert found["factors"]["load"] > 1.0
    assert any("run does not tell" in sentence for sentence in found["findings"])
    text = call(capsys, *words)
    assert "simulated" in text

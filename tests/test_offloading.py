"""Layers in host memory: times and bytes by hand, what a host reaches, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import specsim
from specsim import SpecsimError, catalog
from specsim.cli import main
from specsim.cost import ModelPass, forward_time, step_time
from specsim.cost.placement import offloaded_work
from specsim.drafting import Cascade, DraftModel, EarlyExit, Lookup, Pearl, QuantisedSelf
from specsim.hardware import accelerator, system
from specsim.operators import PRECISIONS, Workload, stored_weight_bytes
from specsim.planning import sensitivity
from specsim.planning.memory import footprint, remedies
from specsim.planning.prefill import prefill_s
from specsim.scenario import Scenario, resolve

EIGHT, ONE, SEVENTY = (specsim.model(f"llama-3{name}") for name in (".1-8b", ".2-1b", ".1-70b"))
# of a layer of Llama-3.1-8B: queries, keys and values, output, gate and up, down
MATRICES = (4096 * 6144, 4096 * 4096, 4096 * 28672, 14336 * 4096)


def card(layers: int = 0, precision: str = "q4_0", **changes):
    return system("rtx-4090", "llama.cpp", precision, offloaded_layers=layers, **changes)


def named(found):
    return {term.name: float(term.seconds) for term in found.terms}


def test_a_step_reads_the_hosts_layers_at_the_hosts_bandwidth():
    """20 layers in 4.5 bits at 73 % of 83.2 GB/s; the cache, 4 KiB a token and layer, at 42 %."""
    seconds = named(step_time(EIGHT, card(20), Workload(context=1000)))
    host = [
        seconds[f"host: {name} projection"] for name in ("qkv", "output", "gate and up", "down")
    ]
    assert_allclose(host, [20 * n * 0.5625 / (0.73 * 83.2e9) for n in MATRICES], rtol=1e-12)
    assert_allclose(seconds["host: attention"], 20 * 1001 * 4096 / (0.42 * 83.2e9), rtol=2e-3)
    # the other twelve at the rate of the card, as in a step without a host
    plain = named(step_time(EIGHT, card(), Workload(context=1000)))
    for name in ("qkv projection", "attention", "down projection"):
        assert_allclose(seconds[name], plain[name] * 12 / 32, rtol=1e-9)
    assert seconds["LM head"] == plain["LM head"]
    assert_allclose(
        seconds["launches and small kernels"], plain["launches and small kernels"] * 12 / 32
    )
    assert_allclose(seconds["host to accelerator"], 20e-6 + 4096 * 2 / 16e9, rtol=1e-12)


def test_a_host_that_verifies_soon_computes():
    """Each row after the first computes again, at 98 % of 2.3 TFLOP/s in Q4_0."""
    five = named(step_time(EIGHT, card(32), Workload(rows=5)))["host: gate and up projection"]
    loading = 32 * MATRICES[2] * 0.5625 / (0.73 * 83.2e9)
    computing = 32 * MATRICES[2] * 2 * 4 / (0.98 * 2.3e12)
    assert_allclose(five, (loading**1.5 + computing**1.5) ** (2 / 3), rtol=1e-9)
    rows = np.array([1, 2, 4, 8, 16, 32])
    host = step_time(EIGHT, card(32), Workload(rows=rows)).total_s
    assert host[5] / host[0] > 3.5
    assert host[4] / host[3] > 1.5
    assert np.all(np.diff(host) > 0)


@pytest.mark.parametrize(
    ("stored", "tokens_per_s"),
    [("bf16", 78.58), ("q8_0", 147.92), ("q4_0", 153.52), ("q4_k_s", 108.40)],
)
def test_a_whole_model_on_the_host_is_as_fast_as_published(stored, tokens_per_s):
    """llama.cpp's pp512 of LLaMA-3.1-8B on a Ryzen 9 7950X (ik_llama.cpp discussion #164)."""
    machine = card(32, stored)
    prompt = Workload(rows=512, context=256.5, logit_rows=1 / 512)
    found = forward_time(offloaded_work(EIGHT, machine, prompt), machine.on_host)
    assert_allclose(512 / found.total_s, tokens_per_s, rtol=0.03)


def test_no_layer_on_the_host_is_the_system_without_one():
    scenario = {"gamma": range(6), "alpha": 0.8}
    one, other = (
        specsim.predict(EIGHT, DraftModel(ONE), machine, **scenario)
        for machine in (card(0), system("rtx-4090", "llama.cpp", "q4_0"))
    )
    assert np.array_equal(one.cycle_s, other.cycle_s)
    assert card(0).host is None
    assert footprint(EIGHT, card(0)) == footprint(EIGHT, system("rtx-4090", "llama.cpp", "q4_0"))


def test_gamma_0_is_the_baseline_and_the_draft_stays_on_the_card():
    found, plain = (
        specsim.predict(EIGHT, DraftModel(ONE), card(n), gamma=range(6), alpha=0.8) for n in (9, 0)
    )
    assert found.speedup[0] == 1.0
    assert np.array_equal(found.draft_s, plain.draft_s)
    assert np.all(found.step_s > 2 * plain.step_s)


def test_every_layer_more_on_the_host_takes_longer():
    steps = [float(step_time(EIGHT, card(n)).total_s) for n in range(33)]
    assert np.all(np.diff(steps) > 0)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-4b", "gpt-oss-20b"])
def test_many_scenarios_at_once_are_priced_as_each_alone(name):
    machine, context = card(10, "bf16"), np.linspace(1, 30000, 3000)
    together = ModelPass(specsim.model(name), machine, Workload(4, 3, context)).seconds
    assert together.shape == (3000,)
    for at in (0, 17, 1500, 2999):
        alone = step_time(specsim.model(name), machine, Workload(4, 3, context[at])).total_s
        assert_allclose(together[at], alone, rtol=1e-9)


def test_the_hosts_bandwidth_may_be_an_array():
    rates = np.array([50e9, 100e9])
    machine = card(8)
    many = replace(machine, host=replace(machine.host, bandwidth_bytes_per_s=rates))
    context = np.linspace(1, 9000, 4096)[:, None]
    both = ModelPass(EIGHT, many, Workload(context=context)).seconds
    for at, rate in enumerate(rates):
        one = replace(machine, host=replace(machine.host, bandwidth_bytes_per_s=float(rate)))
        assert_allclose(both[:, [at]], step_time(EIGHT, one, Workload(context=context)).total_s)


@pytest.mark.parametrize("name", catalog.load("models"))
def test_what_lies_where_adds_up_for_every_model(name):
    target = specsim.model(name)
    layers = (target.num_layers + 1) // 2
    whole, split = (footprint(target, card(n, "bf16"), batch=3, gamma=2) for n in (0, layers))
    assert_allclose(split.weight_bytes + split.host_weight_bytes, whole.weight_bytes, rtol=1e-12)
    assert_allclose(split.kv_bytes + split.host_kv_bytes, whole.kv_bytes, rtol=1e-12)
    assert 0 < split.host_weight_bytes < whole.weight_bytes
    machine = card(layers, "bf16")
    terms = [term for term in step_time(target, machine).terms if term.operator]
    work = ModelPass(target, machine).work
    for count in ("weight_bytes", "kv_bytes", "flops"):
        counts = [float(getattr(term.operator, count)) for term in terms]
        assert min(counts) >= 0
        elementwise = 3 * target.hidden_size  # the last norm, which the host counts too
        assert_allclose(sum(counts), float(getattr(work, count)), rtol=1e-12, atol=elementwise)


def test_memory_by_hand():
    """Ten of 32 layers: their matrices and norms (and the last norm), and their cache."""
    found = footprint(EIGHT, card(10, "bf16"), batch=2, context=1000)
    layer = sum(MATRICES) + 2 * 4096
    assert found.host_weight_bytes == 2 * (10 * layer + 4096)
    assert found.host_kv_bytes == 2 * 1000 * 10 * 4096
    assert found.host_bytes == found.host_weight_bytes + found.host_kv_bytes
    everything = stored_weight_bytes(EIGHT, PRECISIONS["bf16"])
    assert found.weight_bytes == everything - found.host_weight_bytes


def test_a_host_that_is_full_does_not_fit():
    small = replace(card(80).host, memory_bytes=16e9)
    machine = replace(card(80, "q4_k_m"), host=small)
    assert not footprint(SEVENTY, machine).fits
    assert footprint(SEVENTY, replace(machine, host=replace(small, memory_bytes=64e9))).fits


def test_the_fewest_layers_that_make_it_fit_are_a_remedy():
    machine = card(0, "q4_k_m")
    found = [each for each in remedies(SEVENTY, machine) if each.startswith("offloaded")]
    (layers,) = (int(each.split("= ")[1]) for each in found)
    assert 30 < layers < 50
    assert footprint(SEVENTY, card(layers, "q4_k_m")).fits
    assert not footprint(SEVENTY, card(layers - 1, "q4_k_m")).fits
    for other in (system("rtx-4090", "vllm", "int4"), system("m1", "llama.cpp", "q4_k_m")):
        assert not any("offloaded" in each for each in remedies(SEVENTY, other))


def test_the_hosts_bandwidth_moves_the_answer():
    moves = sensitivity(EIGHT, DraftModel(ONE), card(16), gamma=3, alpha=0.7)
    assert moves["host bandwidth"] < 0 < moves["alpha"]
    assert "host bandwidth" not in sensitivity(EIGHT, DraftModel(ONE), card(), gamma=3, alpha=0.7)


def test_a_prompt_is_read_by_the_host_too():
    slow, fast = (float(prefill_s(EIGHT, card(n), prompt=512)) for n in (32, 0))
    assert 512 / 160 < slow < 512 / 145
    assert fast < slow / 20


def test_auto_precision_and_other_formats_keep_the_host():
    machine = replace(system("rtx-4090", "llama.cpp", "auto"), offloaded_layers=4)
    stored = machine.storing(EIGHT)
    assert (stored.offloaded_layers, stored.precision.name) == (4, "bf16")
    assert stored.on_host.engine.compute_efficiency == 0.49
    assert stored.with_precision("q4_0").on_host.engine.compute_efficiency == 0.98


REFUSED = {
    "engine": ({"engine": "vllm"}, "vllm cannot leave layers to the host"),
    "roofline": ({"engine": "ideal"}, "engines that can: llama.cpp"),
    "mlx": ({"engine": "mlx"}, "mlx runs on one memory"),
    "apple": ({"accelerator": "m2-max"}, "m2-max has one memory"),
    "edge": ({"accelerator": "dgx-spark"}, "gains nothing"),
    "a cpu": ({"accelerator": "epyc-9654"}, "epyc-9654 has one memory"),
    "several": ({"tensor_parallel": 2}, "one accelerator, not 2"),
    "too many": ({"offload_layers": 33}, "has 32 layers; 33 cannot be left to the host"),
    "far too many": ({"offload_layers": 10**30}, "--offload-layers must be at most"),
    "negative": ({"offload_layers": -1}, "--offload-layers"),
    "a fraction": ({"offload_layers": 2.5}, "--offload-layers"),
    "text": ({"offload_layers": "many"}, "--offload-layers"),
    "nan": ({"offload_layers": float("nan")}, "--offload-layers"),
    "no cpu": ({"host": "rtx-3090"}, "the host must be a CPU"),
    "unknown host": ({"host": "abacus"}, "no accelerator is called 'abacus'"),
    "host alone": ({"offload_layers": 0, "host": "epyc-9654"}, "--host has no use"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    changes, message = REFUSED[case]
    usual = {"accelerator": "rtx-4090", "engine": "llama.cpp", "offload_layers": 4}
    with pytest.raises(SpecsimError) as refused:
        resolve(Scenario(target="llama-3.1-8b", **(usual | changes)))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("layers", [-1, 2.5, True, "3", float("nan"), 10**30])
def test_hostile_layers_in_python(layers):
    with pytest.raises(SpecsimError, match="offloaded layers"):
        card(layers)


def test_hostile_hosts_in_python():
    with pytest.raises(SpecsimError, match="must be an Accelerator"):
        replace(card(3), host="ryzen")
    with pytest.raises(SpecsimError, match="must be a CPU"):
        replace(card(3), host=accelerator("h100-sxm"))
    with pytest.raises(SpecsimError, match="no fp32 rate"):
        replace(card(3), host=replace(card(3).host, flops_per_s={}))
    with pytest.raises(SpecsimError, match="no layer is left"):
        card(0).on_host  # noqa: B018


@pytest.mark.parametrize(
    "drafter",
    [
        EarlyExit(EIGHT),
        QuantisedSelf(EIGHT),
        Pearl(EarlyExit(EIGHT)),
        Cascade(EarlyExit(EIGHT), Lookup()),
    ],
)
def test_a_draft_of_the_targets_own_layers_is_refused(drafter):
    with pytest.raises(SpecsimError, match="the target's own layers"):
        specsim.predict(EIGHT, drafter, card(3), gamma=2, alpha=0.8)
    specsim.predict(EIGHT, drafter, card(0), gamma=2, alpha=0.8)


def test_more_layers_than_the_model_has_are_refused_everywhere():
    for ask in (step_time, footprint, lambda *a: specsim.predict(a[0], None, a[1])):
        with pytest.raises(SpecsimError, match="16 layers; 17"):
            ask(ONE, card(17))


ASKED = [
    "--target", "llama-3.1-70b", "--draft", "llama-3.2-1b", "--alpha", "0.8",
    "--accelerator", "rtx-4090", "--engine", "llama.cpp", "--precision", "q4_k_m",
    "--offload-layers", "45",
]  # fmt: skip


def test_the_command_line_says_what_lies_where(capsys):
    assert main(["predict", *ASKED, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    said = " ".join(document["assumptions"])
    assert "45 of 80 layers lie in host memory" in said
    assert "-ngl 36" in said
    assert "Optimistic: the host does nothing else" in said
    assert document["fits"] is True
    assert 22e9 < document["host_memory_bytes"] < 25e9
    slow = document["step_s"]
    assert main(["predict", *ASKED, "--host", "epyc-9654", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step_s"] < slow / 3


def test_a_plan_takes_the_same_options(capsys):
    assert main(["plan", *ASKED, "--batches", "1,2"]) == 0
    printed = capsys.readouterr().out
    assert "45 of 80 layers lie in host memory" in printed
    assert "does not fit" not in printed

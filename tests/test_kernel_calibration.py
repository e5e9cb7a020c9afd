"""A GPU's kernels, fitted: the fit recovers a known GPU from the times of its probes."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from specsim.architecture import Architecture
from specsim.checks import SpecsimError
from specsim.cost import forward_time, step_time
from specsim.drafting import DraftModel, Lookup
from specsim.evidence.calibration import (
    CacheProbe,
    KernelProbes,
    ProductProbe,
    StageProbe,
    fit_kernels,
    from_json,
    load_probes,
    probes_from_json,
    probes_to_json,
    to_json,
)
from specsim.evidence.calibration.kernels import (
    error_of_sides,
    errors_on_others,
    stage_s,
    two_errors,
)
from specsim.hardware import Accelerator, EfficiencyTable, Engine, System
from specsim.operators import Workload, forward_work, precision
from specsim.speculation import predict

BANDWIDTH, RATE, ATTENTION_RATE = 4e12, 700e12, 150e12
MATRICES = (
    (512, 768), (1024, 1024), (1536, 3072), (2048, 8192), (8192, 2048), (4096, 8192), (4096, 16384),
    (4096, 32768), (4096, 131072),
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STREAMS, CONTEXTS = (4, 16, 64, 256), (256, 512, 1024, 2048, 4096, 16384)
LAYER_S, PASS_S, CYCLE_S = 30e-6, 50e-6, 80e-6


def product_s(inputs: int, outputs: int, rows: int) -> float:
    """A launch, then the larger of loads and arithmetic."""
    return 2e-6 + max(2 * inputs * outputs / (0.9 * BANDWIDTH), 2 * rows * inputs * outputs / RATE)


def attention_s(streams: int, context: int, rows: int) -> float:
    """Few streams do not fill the GPU."""
    share = min(1.0, streams / 64)
    reading = streams * context * 512 / (0.8 * BANDWIDTH * share)
    return 4e-6 + max(reading, attention_flops(streams, context, rows) / ATTENTION_RATE)


def attention_flops(streams: int, context: int, rows: int) -> float:
    return 4.0 * streams * 4 * rows * context * 128


def shape(hidden: int, layers: int) -> Architecture:
    heads = hidden // 128
    return Architecture(f"{hidden}x{layers}", hidden, layers, heads, max(1, heads // 4), 128,
                        hidden * 3, 48_000 + 16 * hidden)  # fmt: skip


def true_pass_s(model: Architecture, batch: int, rows: int, context: int) -> float:
    """The same GPU, kernel by kernel, without a table."""
    total = LAYER_S * model.num_layers + PASS_S
    work = forward_work(model, Workload(batch=batch, rows=rows, context=context), precision("bf16"))
    for operator in work:
        if operator.kind == "linear":
            elements = float(operator.weight_bytes) / operator.kernels / 2
            total += operator.kernels * product_s(1, elements, batch * rows)
        elif operator.kind == "attention":
            streams = batch * model.num_kv_heads
            total += operator.kernels * attention_s(streams, context, rows)
    return total


def stage(name: str, model: Architecture, gamma: int, batch: int) -> StageProbe:
    probe = StageProbe(name, model, gamma, 1024, 1.0, batch)
    seconds = sum(true_pass_s(model, batch, rows, 1024) for rows in probe.passes)
    return replace(probe, seconds=CYCLE_S if name == "host" else seconds)


@pytest.fixture(scope="module")
def probes() -> KernelProbes:
    products = tuple(
        ProductProbe(i, o, rows, 2.0 * i * o, product_s(i, o, rows))
        for i, o in MATRICES
        for rows in ROWS
    )
    caches = tuple(
        CacheProbe(
            streams, context, rows, 512.0 * streams * context,
            attention_flops(streams, context, rows), attention_s(streams, context, rows),
        )
        for streams in STREAMS
        for context in CONTEXTS
        for rows in (1, 2, 5, 9, 17, 33)
        if streams * context <= 256 * 4096  # the largest do not fit
    )  # fmt: skip
    stages = tuple(
        stage(name, model, gamma, batch)
        for model in (shape(768, 8), shape(1536, 10), shape(3072, 24), shape(5120, 6))
        for gamma in (0, 3, 7)
        for batch in (1, 16)
        for name in ("verify", "host")
    )
    reads = ((1e6, 1e6 / (3 * BANDWIDTH)), (1e9, 1e9 / BANDWIDTH), (4e9, 4e9 / BANDWIDTH))
    return KernelProbes("a gpu", "bf16", reads, products, caches, {"cuda-graphs": stages})


@pytest.fixture(scope="module")
def system(probes) -> System:
    return fit_kernels(probes, "cuda-graphs").system


def test_the_bandwidth_is_that_of_the_memory_and_not_of_the_cache(system):
    assert system.bandwidth_bytes_per_s == pytest.approx(BANDWIDTH)


@pytest.mark.parametrize("batch", [1, 8, 32])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("context", [512, 3000])
def test_models_that_no_probe_had_are_priced_to_a_few_per_cent(system, batch, rows, context):
    model = shape(4096, 32)
    predicted = step_time(model, system, Workload(batch=batch, rows=rows, context=context)).total_s
    assert float(predicted) == pytest.approx(true_pass_s(model, batch, rows, context), rel=0.05)


def test_overheads_come_out_of_the_stages(probes, system):
    assert system.engine.cycle_overhead_s == pytest.approx(CYCLE_S, rel=0.02)
    # attention and products are read off tables at their own sizes, so little is left to the pass
    assert system.engine.layer_overhead_s == pytest.approx(LAYER_S, rel=0.35)
    assert fit_kernels(probes, "cuda-graphs").median_error < 0.02


LAUNCH_S, BEGIN_S = 75e-6, 120e-6  # of a layer and of a pass, by a host that runs ahead


def eager_pass_s(model: Architecture, batch: int, rows: int) -> float:
    return max(true_pass_s(model, batch, rows, 1024), LAUNCH_S * model.num_layers + BEGIN_S)


def test_eager_launches_hide_behind_long_kernels(probes):
    """Small probes wait for their launches, large ones do not; neither do large models."""
    models = (shape(768, 3), shape(1536, 10), shape(3072, 24), shape(6144, 12))
    stages = tuple(
        StageProbe("verify", m, gamma, 1024, eager_pass_s(m, batch, gamma + 1), batch)
        for m in models for gamma in (0, 3, 7) for batch in (1, 16)
    )  # fmt: skip
    stages += tuple(StageProbe("host", models[0], gamma, 1024, CYCLE_S) for gamma in (0, 3, 7))
    waiting = [p.seconds > true_pass_s(p.architecture, p.batch, p.gamma + 1, 1024) for p in stages]
    assert {True, False} == set(waiting[:-3])  # both kinds are there
    ahead = replace(probes, stages={"eager": stages}, host_ahead=True)
    calibration = fit_kernels(ahead, "eager")
    engine = calibration.system.engine
    assert engine.layer_launch_s == pytest.approx(LAUNCH_S, rel=0.02)
    assert engine.pass_launch_s == pytest.approx(BEGIN_S, rel=0.1)
    assert engine.layer_overhead_s == engine.pass_overhead_s == 0.0
    for model in (shape(512, 40), shape(8192, 20)):
        step = step_time(model, calibration.system, Workload(batch=4))
        assert float(step.total_s) == pytest.approx(eager_pass_s(model, 4, 1), rel=0.1)
    # on a device that is its own host the launches add, and there are no others
    adding = fit_kernels(replace(ahead, host_ahead=False), "eager").system.engine
    assert adding.layer_launch_s == adding.pass_launch_s == 0.0
    assert adding.layer_overhead_s > 0


def cycles_of(model: Architecture, gamma: int, batch: int, greedy: bool) -> tuple[StageProbe, ...]:
    """The stages of a cycle of this GPU, where norms of heads take 3 us a layer. Choosing takes 4
    us, and 2e-10 s a token of the vocabulary where it is greedy; by distributions it takes 11 us,
    and the rule 30 us."""
    seconds = dict.fromkeys(("verify", "draft"), 3e-06 * model.num_layers * model.qk_norm)
    choosing = 2e-10 * model.vocab_size if greedy else 11e-6
    seconds["draft"] = gamma * (seconds["draft"] + 4e-6 + choosing)
    seconds["host"] = CYCLE_S + choosing + (gamma > 0) * (20e-6 + (not greedy) * 30e-6)
    found = []
    for name, extra in seconds.items():
        probe = StageProbe(name, model, gamma, 1024, 1.0, batch, greedy=greedy)
        known = sum(true_pass_s(model, batch, rows, 1024) for rows in probe.passes)
        found += [replace(probe, seconds=known + extra)] if gamma or name != "draft" else []
    return tuple(found)


def test_greedy_cycles_tell_what_distributions_take(probes) -> None:
    models = [shape(h, layers) for h, layers in ((768, 8), (1536, 10), (3072, 24), (5120, 6))]
    models += [replace(shape(2048, 16), name="normed", qk_norm=True)]
    stages = tuple(
        stage
        for model in models for gamma in (0, 1, 3, 7)
        for batch, greedy in ((1, False), (16, False), (1, True))
        for stage in cycles_of(model, gamma, batch, greedy)
    )  # fmt: skip
    system = fit_kernels(replace(probes, stages={"cuda-graphs": stages}), "cuda-graphs").system
    engine = system.engine
    assert engine.cycle_overhead_s == pytest.approx(CYCLE_S, rel=0.01)
    assert engine.distribution_overhead_s == pytest.approx(11e-6, rel=0.1)
    assert engine.rule_overhead_s == pytest.approx(30e-6, rel=0.05)
    assert engine.speculation_overhead_s == pytest.approx(20e-6, rel=0.05)
    assert engine.likeliest_overhead_s == pytest.approx(2e-10, rel=0.1)
    assert engine.head_norm_overhead_s == pytest.approx(3e-6, rel=0.3)
    assert engine.head_norm_launch_s == 0
    # a greedy prediction has the one and not the other
    greedy = replace(system, greedy=True)
    drawn_s, chosen_s = (float(each.sampling_s(1, 1, 50_000)) for each in (system, greedy))
    assert drawn_s == pytest.approx(11e-6, rel=0.1)
    assert chosen_s == pytest.approx(1e-5, rel=0.1)
    plain = [predict(models[0], None, system=s, gamma=0) for s in (system, greedy)]
    saved = float(plain[0].step_s - plain[1].step_s)
    vocab = models[0].vocab_size
    assert saved == pytest.approx(11e-6 - 2e-10 * vocab, abs=1e-6)


def test_large_draws_of_several_sequences_and_full_tiles_take_longer(probes) -> None:
    """25 us where 60,000 probabilities of several sequences are drawn from, in two steps; 6 us a
    layer where there are more rows than a tile of eight has."""
    models = [shape(h, layers) for h, layers in ((768, 8), (1536, 10), (3072, 24), (5120, 6))]
    models += [replace(shape(1024, 12), name="small vocabulary", vocab_size=2048)]
    stages = []
    for model, gamma, batch in itertools.product(models, (0, 1, 3), (1, 4, 64)):
        in_blocks = batch > 1 and batch * model.vocab_size >= 60_000
        for probe in (stage(name, model, gamma, batch) for name in ("verify", "host", "draft")):
            extra = sum(6e-6 * (batch * rows > 8) for rows in probe.passes) * model.num_layers
            draws = {"host": 1, "draft": gamma}.get(probe.stage, 0)
            found = replace(probe, seconds=probe.seconds + extra + draws * in_blocks * 25e-6)
            stages += [found] if gamma or probe.stage != "draft" else []
    drawn = replace(probes, stages={"cuda-graphs": tuple(stages)}, drawn_in_blocks_from=60_000.0)
    fitted = fit_kernels(drawn, "cuda-graphs").system
    assert fitted.engine.block_draw_overhead_s == pytest.approx(25e-6, rel=0.05)
    assert fitted.engine.wide_layer_overhead_s == pytest.approx(6e-6, rel=0.2)
    in_one, in_two, alone = (
        float(fitted.sampling_s(rows, rows, vocab))
        for rows, vocab in ((4, 2048), (4, 15_000), (1, 60_000))
    )
    assert in_two - in_one == pytest.approx(25e-6, rel=0.1)
    assert in_two - alone == pytest.approx(25e-6, rel=0.1)
    narrow, wide = (
        forward_time(forward_work(models[0], Workload(rows, 1), fitted.precision), fitted).terms[-1]
        for rows in (8, 9)
    )
    assert float(wide.seconds - narrow.seconds) == pytest.approx(48e-6, rel=0.2)


def test_what_a_cycle_without_drafts_begins_with_is_told_from_the_rest(probes) -> None:
    models = [shape(h, layers) for h, layers in ((768, 8), (1536, 10), (3072, 24))]
    stages = [
        stage(name, model, gamma, batch)
        for model in models for gamma in (0, 1, 3) for batch in (1, 16)
        for name in ("verify", "host", "draft") if gamma or name != "draft"
    ]  # fmt: skip
    stages = [
        replace(each, seconds=each.seconds + 15e-6)
        if (each.stage == "host" and not each.gamma) or each.stage == "draft"
        else each
        for each in stages
    ]
    stages += [StageProbe("begin", model, 0, 1024, 15e-6) for model in models]
    stages += [StageProbe("lookup", model, 3, 1024, 85e-6) for model in models]
    fitted = fit_kernels(replace(probes, stages={"cuda-graphs": tuple(stages)}), "cuda-graphs")
    system = fitted.system
    assert system.engine.begin_overhead_s == pytest.approx(15e-6, rel=0.05)
    assert system.engine.lookup_overhead_s == pytest.approx(70e-6, rel=0.02)
    assert system.engine.cycle_overhead_s == pytest.approx(CYCLE_S, rel=0.02)
    assert system.engine.drafting_overhead_s == pytest.approx(15e-6, rel=0.2)
    plain = predict(models[0], None, system=system, gamma=0)
    assert float(plain.plain_overhead_s) == pytest.approx(CYCLE_S + 15e-6, rel=0.02)
    assert float(plain.overhead_s) == pytest.approx(CYCLE_S + 15e-6, rel=0.02)
    drafted = predict(models[0], Lookup(1.0, 50e-6), system=system, gamma=3, tokens_per_cycle=2)
    assert float(drafted.draft_s) == pytest.approx(65e-6, rel=0.02)
    assert float(drafted.overhead_s) == pytest.approx(CYCLE_S, rel=0.02)


def test_where_no_cycle_was_greedy_distributions_belong_to_every_cycle(system) -> None:
    assert system.engine.distribution_overhead_s == system.engine.rule_overhead_s == 0
    assert system.engine.likeliest_overhead_s == system.engine.head_norm_overhead_s == 0


def test_norms_of_heads_are_launched_by_a_host_that_runs_ahead(probes) -> None:
    """Where launches take longer than the work, they take longer by those of the norms."""
    models = [replace(shape(768, layers), name=f"{layers}") for layers in (3, 6, 12, 24)]
    models = [replace(m, qk_norm=m.num_layers in (6, 24)) for m in models]
    stages = tuple(
        StageProbe(
            "verify", m, gamma, 1024,
            (LAUNCH_S + 20e-6 * m.qk_norm) * m.num_layers + BEGIN_S,
        )
        for m in models for gamma in (0, 3)
    )  # fmt: skip
    ahead = replace(probes, stages={"eager": stages}, host_ahead=True)
    fitted = fit_kernels(ahead, "eager").system
    assert fitted.engine.head_norm_launch_s == pytest.approx(20e-6, rel=0.05)
    assert fitted.engine.head_norm_overhead_s == 0
    normed, plain = (replace(shape(512, 30), qk_norm=has) for has in (True, False))
    seconds = [float(step_time(m, fitted, Workload()).total_s) for m in (normed, plain)]
    assert seconds[0] - seconds[1] == pytest.approx(30 * 20e-6, rel=0.05)


@pytest.mark.parametrize("mode", ["eager", "cuda-graphs"])
def test_each_mode_has_the_attention_that_it_takes(probes, mode: str) -> None:
    """Recorded passes take the fused kernels where they were timed, and torch's where they fit
    not."""
    fast = [replace(p, seconds=p.seconds / 4, is_fused=True) for p in probes.caches if p.rows < 33]
    stages = {mode: probes.stages["cuda-graphs"]}
    both = replace(probes, caches=(*probes.caches, *fast), stages=stages)
    before, after = (
        {
            table.rows: table.table.values
            for table in fit_kernels(each, mode).system.engine.attention_tables
        }
        for each in (replace(probes, stages=stages), both)
    )
    for rows in (1, 2, 5, 9, 17, 33):
        gain = 4 if mode == "cuda-graphs" and rows < 33 else 1
        np.testing.assert_allclose(after[rows], gain * before[rows])


def test_few_streams_are_slower_per_byte(system):
    model = shape(4096, 32)
    one = step_time(model, system, Workload(batch=1, context=16384))
    many = step_time(model, system, Workload(batch=16, context=1024))
    seconds = [
        float(t.seconds) for step in (one, many) for t in step.terms if t.name == "attention"
    ]
    assert seconds[0] > 3 * seconds[1]


def test_matrices_of_equal_bytes_are_averaged(probes):
    slow = tuple(
        replace(p, seconds=4 * p.seconds) if (p.inputs, p.outputs) == (8192, 2048) else p
        for p in probes.products
    )
    before = fit_kernels(probes, "cuda-graphs").system.engine.weight_efficiency
    after = fit_kernels(replace(probes, products=slow), "cuda-graphs").system.engine
    size = list(before.pass_bytes).index(2.0 * 8192 * 2048)
    np.testing.assert_allclose(after.weight_efficiency.values[size], before.values[size] / 2)


def test_it_reads_what_it_wrote(probes, tmp_path):
    calibration = fit_kernels(probes, "cuda-graphs", {"mode": "cuda-graphs"})
    back = from_json(json.loads(json.dumps(to_json(calibration))))
    model = shape(4096, 32)
    seconds = [
        float(step_time(model, c.system, Workload(batch=4)).total_s) for c in (calibration, back)
    ]
    assert seconds[0] == seconds[1]
    assert back.system.engine.kv_efficiency.of == "stream"
    assert back.environment["mode"] == "cuda-graphs"
    document = json.loads(json.dumps(probes_to_json(probes), allow_nan=False))
    assert {"kind", "reads", "products", "caches", "laps", "host_ahead"} <= document.keys()
    assert document["laps"]["cuda-graphs"][0]["lap"] == "verify"  # the keys of written files
    (tmp_path / "probes.json").write_text(json.dumps(document))
    again = load_probes(tmp_path / "probes.json")
    assert again == probes
    assert to_json(fit_kernels(again, "cuda-graphs", {"mode": "cuda-graphs"})) == to_json(
        calibration
    )


def changed(document: dict, *path, to=None) -> dict:
    """A copy with one value replaced, or left out."""
    document = json.loads(json.dumps(document))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return document


@pytest.mark.parametrize(
    ("path", "to", "named"),
    [
        (("kind",), "calibration", "its kind is not kernel-probes"),
        (("kind",), None, "its kind is not kernel-probes"),
        (("products",), None, "products must be a list of timings"),
        (("products",), [], "products must be a list of timings"),
        (("products", 0, "seconds"), 0, "products: seconds must be above 0"),
        (("products", 0, "seconds"), "1", "products: seconds must be above 0"),
        (("products", 0, "rows"), None, "products lacks the field 'rows'"),
        (("caches", 0, "speed"), 1, "caches has an unknown field 'speed'"),
        (("caches", 0), 3, "caches must be a table of fields"),
        (("reads",), [1, 2], "reads must be pairs"),
        (("reads",), "fast", "reads"),
        (("laps",), [], "laps must be a table of modes"),
        (("laps", "cuda-graphs"), 3, "laps: cuda-graphs must be a list"),
        (("laps", "cuda-graphs", 0, "lap"), None, "needs an architecture and a lap"),
        (("laps", "cuda-graphs", 0, "architecture", "num_layers"), -1, "num_layers"),
        (("laps", "cuda-graphs", 0, "seconds"), -1, "seconds must be"),
        (("small",), [1], "small must be a table"),
        (("machine",), None, "lacks the field 'machine'"),
    ],
)
def test_what_is_no_file_of_probes_is_refused_in_a_sentence(probes, path, to, named):
    document = changed(probes_to_json(probes), *path, to=to)
    with pytest.raises(SpecsimError, match=named) as caught:
        probes_from_json(document, "probes.json")
    assert str(caught.value).startswith("probes.json is not a file of a GPU's probes: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], 3, "kernel-probes"])
def test_other_documents_are_no_file_of_probes(document):
    with pytest.raises(SpecsimError, match="is not a file of a GPU's probes"):
        probes_from_json(document)


def test_a_mode_that_was_not_timed_is_refused(probes):
    with pytest.raises(SpecsimError, match="mode 'eager'; choose one of cuda-graphs"):
        fit_kernels(probes, "eager")


def test_between_rows_a_table_of_products_interpolates_the_time():
    engine = EfficiencyTable([1e6], [1, 64, 128], [[1.0, 0.5, 0.25]], of="matrix")
    assert engine.at(1e6, 96) == pytest.approx(1 / 3)  # 2 and 4 units of time: 3 between
    of_pass = EfficiencyTable([1e6], [1, 64, 128], [[1.0, 0.5, 0.25]])
    assert of_pass.at(1e6, 96) == pytest.approx(1 / 3)
    of_streams = EfficiencyTable([1e6], [1, 64, 128], [[1.0, 0.5, 0.25]], of="stream")
    assert of_streams.at(1e6, 96) == pytest.approx(0.375)


def test_a_table_of_kernels_is_asked_by_the_matrix(system):
    table = EfficiencyTable([1e6, 1e9], [1], [[0.1], [1.0]], of="matrix")
    chip = Accelerator("x", 1e12, {"bf16": 1e15})
    tabled = System(chip, Engine("t", weight_efficiency=table), precision("bf16"))
    model = shape(1024, 4)
    step = step_time(model, tabled)
    for term in step.terms:
        if term.operator is not None and term.operator.kind == "linear":
            each = float(term.operator.weight_bytes) / term.operator.kernels
            share = float(table.at(each, 1))
            assert float(term.memory_s) == pytest.approx(
                float(term.operator.weight_bytes) / (share * 1e12)
            )


def probe_of(head_size: int, rows: int, seconds: float) -> CacheProbe:
    """Attention of four streams of 1024 tokens, four heads to a stream."""
    size = 4.0 * 4 * 1024 * head_size
    return CacheProbe(4, 1024, rows, size, 4.0 * size * rows, seconds, head_size)


@pytest.mark.parametrize(
    ("heads", "rows", "seconds"),
    [
        (128, 1, 20e-6),  # one row: its own table
        (128, 2, 25e-6),
        (128, 9, 30e-6),
        (128, 5, 25e-6 + 5e-6 * 3 / 7),  # between
        (128, 16, 30e-6),  # 64 queries: one block still
        (128, 17, 50e-6),  # a block more
        (128, 40, 50e-6 * 40 / 20),  # in proportion
        (64, 1, 15e-6),
        (64, 5, 18e-6 * 20 / 8),  # no wider one was timed
        (96, 1, 20e-6),  # the nearer size, at the bytes per second of its table
    ],
)
def test_attention_is_read_from_the_table_of_its_heads_and_queries(probes, heads, rows, seconds):
    caches = (
        probe_of(128, 1, 20e-6), probe_of(128, 2, 25e-6), probe_of(128, 9, 30e-6),
        probe_of(128, 20, 50e-6), probe_of(64, 1, 15e-6), probe_of(64, 2, 18e-6),
    )  # fmt: skip
    system = fit_kernels(replace(probes, caches=caches), "cuda-graphs").system
    model = Architecture("a", 16 * heads, 1, 16, 4, heads, 64, 1000)
    work = forward_work(model, Workload(rows=rows, context=1024), precision("bf16"))
    read = work["attention"]
    efficiency = float(system.engine.attention_efficiency(read))
    per_byte = 1 / (efficiency * float(system.bandwidth_bytes_per_s))
    size = 4.0 * 4 * 1024 * (128 if heads == 96 else heads)
    assert per_byte * size == pytest.approx(seconds, rel=0.01)


def test_fewer_streams_than_were_timed_take_as_long(system):
    """Each has threads of its own; a rate would let one take a quarter of the time of four."""

    def attention_of(kv_heads: int) -> float:
        model = Architecture("a", 512, 1, 4 * kv_heads, kv_heads, 128, 64, 1000)
        terms = step_time(model, system, Workload(context=1024)).terms
        return next(float(term.seconds) for term in terms if term.name == "attention")

    assert attention_of(1) == pytest.approx(attention_of(4), rel=1e-3)
    assert attention_of(256) > 1.2 * attention_of(4)


def test_weights_in_fewer_bits_are_priced_by_products_of_their_own(probes):
    packed = tuple(
        replace(p, format="int4", weight_bytes=0.265 * p.weight_bytes, seconds=p.seconds / 2)
        for p in probes.products
    )
    system = fit_kernels(
        replace(probes, products=(*probes.products, *packed)), "cuda-graphs"
    ).system
    own, other = system.engine, system.with_precision("int4").engine
    assert other.layer_overhead_s == own.layer_overhead_s
    assert other.attention_tables == own.attention_tables
    size = 2.0 * 2048 * 8192
    seconds = 0.265 * size / (other.weight_efficiency_at(0.265 * size, 1) * BANDWIDTH)
    assert float(seconds) == pytest.approx(product_s(2048, 8192, 1) / 2, rel=1e-6)
    restored = from_json(json.loads(json.dumps(to_json(
        fit_kernels(replace(probes, products=(*probes.products, *packed)), "cuda-graphs")
    )))).system  # fmt: skip
    again = restored.with_precision("int4").engine
    assert np.array_equal(again.weight_efficiency.values, other.weight_efficiency.values)
    assert len(again.attention_tables) == len(own.attention_tables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_tables": 3}, "attention_tables must be a list"),
        ({"attention_tables": [{"head_size": 1}]}, "needs a table of streams"),
    ],
)
def test_tables_of_attention_that_are_none_are_refused(probes, change, message):
    data = to_json(fit_kernels(probes, "cuda-graphs"))
    data["engine"] |= change
    with pytest.raises(SpecsimError, match=message):
        from_json(data)


def test_what_only_a_cpu_has_is_exactly_nothing(system):
    assert system.engine.layer_refill_s == system.engine.cycle_refill_s == 0.0


def test_greedy_decoding_makes_no_distributions(system):
    system = replace(system, engine=replace(system.engine, vocabulary_overhead_s=1e-10))
    assert float(system.sampling_s(1, 1, 100_000)) > 0
    assert float(replace(system, greedy=True).sampling_s(1, 1, 100_000)) == 0


def test_the_band_is_that_of_models_which_the_fit_has_not_seen(probes):
    """A stage costs what the fit says of it; and one model that is slower than the others widen the
    band, however well a fit that has seen it would explain it."""
    stages = probes.stages["cuda-graphs"]
    fitted = fit_kernels(probes, "cuda-graphs")
    priced = [
        stage_s(stage, fitted.system) / stage.seconds - 1
        for stage in stages
        if stage.stage != "host"
    ]
    assert priced == pytest.approx(list(fitted.residuals), abs=1e-9)
    last = max((stage.architecture for stage in stages), key=lambda model: model.hidden_size)
    slower = tuple(
        replace(stage, seconds=1.6 * stage.seconds) if stage.architecture == last else stage
        for stage in stages
    )
    changed = fit_kernels(replace(probes, stages={"cuda-graphs": slower}), "cuda-graphs")
    few, many = fitted.system.engine, changed.system.engine
    assert many.error + many.overhead_error > 0.2 > few.error + few.overhead_error
    assert errors_on_others(fitted.system, stages[:1], False) is None


def test_errors_of_kernels_and_of_overheads_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    shares = rng.uniform(0.02, 0.8, 4000)
    spread = rng.normal(size=(2, 4000)) / 1.2816  # 80 % of a normal lie within 1.28
    errors = np.abs(0.03 * spread[0] + 0.25 * shares * spread[1])
    a, b = two_errors(errors, shares)
    assert (a, b) == (pytest.approx(0.03, rel=0.25), pytest.approx(0.25, rel=0.1))
    for half in (shares < 0.4, shares >= 0.4):
        assert np.mean(errors[half] <= np.hypot(a, b * shares[half])) == pytest.approx(
            0.8, abs=0.03
        )
    assert two_errors(np.full(8, 0.001), np.full(8, 0.5)) == (0.02, 0.0)
    assert two_errors(np.full(8, 0.001), np.full(8, 0.5), 0.04) == (0.04, 0.0)


def test_the_band_is_no_narrower_than_what_the_table_of_products_leaves_out(probes) -> None:
    """Two matrices of 16 MB that differ by 12 % either way: half of that in a layer of four."""

    def product(inputs: int, outputs: int, rows: int, seconds: float) -> ProductProbe:
        return ProductProbe(inputs, outputs, rows, 2.0 * inputs * outputs, seconds)

    pairs = [
        product(*sides, rows, rows * math.exp(sign * 0.12))
        for rows in (1, 8)
        for sides, sign in (((1024, 8192), 1), ((8192, 1024), -1))
    ]
    alone = [product(64, 64, 1, 1.0), product(64, 64, 8, 9.0)]
    assert error_of_sides([*pairs, *alone]) == pytest.approx(0.06)
    assert error_of_sides(alone) == error_of_sides(pairs[:1]) == 0.02

    def fitted(spread: float) -> float:
        products = tuple(
            replace(p, seconds=p.seconds * math.exp(spread if p.inputs > 4096 else -spread))
            if p.inputs * p.outputs == 2048 * 8192 else p
            for p in probes.products
        )  # fmt: skip
        return fit_kernels(replace(probes, products=products), "cuda-graphs").system.engine.error

    assert fitted(0.3) == pytest.approx(0.15, rel=0.01)
    assert fitted(0.0) < 0.075


def test_a_band_is_as_wide_as_the_share_of_overheads_asks(system) -> None:
    """Of a small model, whose passes are mostly overheads, wider than of a large one."""
    known = replace(system, engine=replace(system.engine, error=0.02, overhead_error=0.25))
    small, large, draft = (
        replace(shape(*size), vocab_size=60_000) for size in ((1024, 6), (8192, 40), (768, 8))
    )
    draft, widths = DraftModel(draft), []
    for model in (small, large):
        answer = predict(model, draft, system=known, gamma=3, tokens_per_cycle=2.5)
        low, high = answer.band["step_s"]
        overhead = answer.plain.overhead_s + answer.plain_overhead_s
        half = np.hypot(0.02, 0.25 * overhead / answer.step_s)
        assert float(high / answer.step_s - 1) == pytest.approx(float(half))
        assert float(answer.step_s / low - 1) == pytest.approx(float(half))
        widths.append([float(answer.errors[name]) for name in ("step_s", "cycle_s")])
        assert min(answer.errors["draft_step_s"], answer.errors["cycle_s"]) > 0.02
    assert widths[0] > [3 * width for width in widths[1]]

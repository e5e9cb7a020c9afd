"""The probes of kernels, reduced, on a CPU: all are timed; none has a measured model's shape."""

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from reference import graphs, load_pair, sampling
from reference.chunked_attention import LONG, chunked_from
from reference.lab.kernels import GPU, Grid, Timer, chunks, run_kernel_probes
from reference.lab.kernels import probes as kernel_probes
from reference.lab.kernels import timer as kernel_timer
from reference.lab.kernels.grid import GROUPS, HEAD_SIZE, Cycles, RandomPair
from reference.lab.kernels.probes import probe_architecture
from reference.lab.suites import calibrating
from reference.lab.suites.points import load_suite
from specsim.cost import step_time
from specsim.evidence import calibration
from specsim.evidence.calibration import StageProbe, fit_kernels, probes_to_json
from specsim.operators import Workload

CPU = torch.device("cpu")

SMALL = Grid(
    matrices=((64, 64), (64, 256), (256, 64)),
    rows=(1, 2, 8),
    streams=(4, 8),
    contexts=(64, 256, 512),
    widths=(1, 17),
    small_heads=(1,),
    packed=((128, 64),),
    packed_rows=(1, 8),
    read_bytes=(2**16, 2**20),
    pairs=(RandomPair((96, 2), (48, 1), 500, head_norms=True),),
    cycles=(
        Cycles(1, 20, (0, 2)),
        Cycles(2, 20, (0, 2)),
        Cycles(1, 20, (0, 2), greedy=True),
        Cycles(1, 20, (2,), lookup=True),
    ),
    rounds=1,
    rotated_bytes=1e5,
    most_cache_bytes=1e7,
    vocab_size=1000,
)


@pytest.fixture(scope="module")
def probes():
    return run_kernel_probes(CPU, ["eager"], SMALL)


def test_everything_in_the_grid_is_timed(probes):
    assert len(probes.reads) == len(SMALL.read_bytes)
    assert len(probes.products) == len(SMALL.matrices) * len(SMALL.rows)
    widths = len(SMALL.widths) + len(SMALL.small_heads)
    assert len(probes.caches) == len(SMALL.streams) * len(SMALL.contexts) * widths
    assert {probe.head_size for probe in probes.caches} == {HEAD_SIZE, HEAD_SIZE // 2}
    runs = sum(len(cycles.gammas) for cycles in SMALL.cycles if not cycles.lookup)
    assert len(probes.stages["eager"]) == len(SMALL.pairs) * (3 * runs + 1)
    assert sum(probe.stage == "lookup" for probe in probes.stages["eager"]) == 1
    assert sum(probe.greedy for probe in probes.stages["eager"]) == 6
    assert sum(probe.stage == "begin" for probe in probes.stages["eager"]) == 3
    assert all(probe.architecture.qk_norm for probe in probes.stages["eager"])
    seconds = [p.seconds for p in (*probes.products, *probes.caches, *probes.stages["eager"])]
    assert min(seconds) > 0
    assert min(probes.small.values()) > 0
    assert {"tiny_kernel", "tiny_kernel_eager", "host_round_trip"} <= probes.small.keys()
    for batch, way in itertools.product((1, 4), ("whole", "in_chunks")):
        assert f"attention_{batch}x512_{way}" in probes.small
        assert f"attention_{batch}x256_{way}" not in probes.small, "two chunks of 128 are too short"
    assert probes.chunked_from["eager"] in (512, 1024)
    json.dumps(probes_to_json(probes), allow_nan=False)


def test_they_fit_a_system_that_prices_a_model(probes):
    system = fit_kernels(probes, "eager").system
    model = probe_architecture(256, 4, RandomPair((256, 4), (256, 4), 1000))
    one, many = (
        float(step_time(model, system, Workload(batch=batch)).total_s) for batch in (1, 64)
    )
    assert 0 < one < many


def attention_times(**ratios: tuple[float, float]) -> dict[str, float]:
    """Seconds by name if chunks take `ratios` times as long as the whole, for 1 and 4 texts."""
    seconds = {}
    for window, pair in ratios.items():
        for batch, ratio in zip(chunks.FEW, pair, strict=True):
            seconds[f"attention_{batch}x{window[1:]}_whole"] = 2e-5
            seconds[f"attention_{batch}x{window[1:]}_in_chunks"] = 2e-5 * ratio
    return seconds


@pytest.mark.parametrize(
    ("ratios", "limit"),
    [
        ({"w512": (0.5, 0.9), "w1024": (0.3, 0.5), "w2048": (0.2, 0.3)}, 512),
        ({"w512": (0.8, 1.1), "w1024": (0.3, 0.5), "w2048": (0.2, 0.3)}, 512),  # 0.94 at 8 heads
        ({"w512": (0.9, 1.3), "w1024": (0.3, 0.5), "w2048": (0.2, 0.3)}, 1024),
        ({"w512": (0.5, 0.5), "w1024": (1.2, 1.2), "w2048": (0.2, 0.3)}, 2048),  # from there on
        ({"w512": (1.5, 1.5), "w1024": (1.2, 1.2), "w2048": (1.1, 1.0)}, 4096),  # in none
    ],
)
def test_the_limit_is_the_window_from_which_chunks_are_faster(ratios, limit: int) -> None:
    """A window of 256 cannot be divided, and has no times."""
    assert chunks.chunk_limit(attention_times(**ratios), (256, 512, 1024, 2048)) == limit


def test_caches_and_stages_are_probed_with_the_limit_that_was_found(monkeypatch) -> None:
    """Otherwise a calibration would time other kernels than the decoder's."""
    seen = []
    small = dict.fromkeys(("tiny_kernel", "tiny_kernel_eager", "host_round_trip"), 1.0)
    monkeypatch.setattr(kernel_probes, "read_probes", lambda *_: ())
    monkeypatch.setattr(kernel_probes, "product_probes", lambda *_: ())
    monkeypatch.setattr(kernel_probes, "small_probes", lambda *_: small)
    monkeypatch.setattr(
        kernel_probes, "chunk_probes", lambda *_: attention_times(w256=(2, 2), w512=(0.5, 0.5))
    )
    for name, nothing in (("cache_probes", ()), ("stage_probes", ((), None))):
        monkeypatch.setattr(
            kernel_probes, name, lambda *_, n=nothing: seen.append(chunked_from()) or n
        )
    found = run_kernel_probes(CPU, ["eager"], SMALL)
    assert seen == [512, 512, 512]
    assert found.chunked_from == {"eager": 512}
    assert chunked_from() == LONG


def test_eager_cycles_are_timed_at_the_hosts_usual_pace(monkeypatch) -> None:
    """A burst of other work slows a probe and the pace next to it alike."""
    slow = iter([1] * 4 + [2, 2] + [1] * 8)  # before and after each of seven runs
    last = [1]

    def pace() -> float:
        last[0] = next(slow)
        return 0.002 * last[0]

    def taken(timed, target, drafter, cycles, mode):
        model = target.architecture
        return [StageProbe("verify", model, timed.gamma, 20, 0.01 * last[0], cycles.batch)]

    monkeypatch.setattr(kernel_probes, "stages_of", taken)
    found, usual = kernel_probes.stage_probes(CPU, SMALL, torch.float32, "eager", pace)
    assert usual == 0.002
    assert [probe.seconds for probe in found] == pytest.approx([0.01] * 7)
    again, none = kernel_probes.stage_probes(CPU, SMALL, torch.float32, "eager")
    assert none is None
    assert {probe.seconds for probe in again} == {0.01}


def test_bytes_and_flops_of_attention_are_those_of_its_shape(probes):
    probe = next(p for p in probes.caches if (p.streams, p.context, p.rows) == (8, 256, 17))
    assert probe.kv_bytes == 2 * 8 * 256 * 128 * 2
    assert probe.flops == 4 * 8 * GROUPS * 17 * 256 * 128


def test_what_does_not_fit_is_left_out_and_every_length_is_still_read(probes):
    """A table needs each context at least once."""
    for grid in (GPU, SMALL):
        for context in grid.contexts:
            size = 2 * grid.streams[0] * context * HEAD_SIZE * 2
            assert size <= grid.most_cache_bytes


def test_vocabularies_are_drawn_from_as_those_that_are_measured():
    """In two steps, where several rows draw."""
    pairs = [pair.vocab_size for pair in GPU.pairs]
    sizes = [GPU.vocab_size, *(size for size in pairs if size > 8192)]  # one pair is tiny
    measured = {
        load_suite("gpu").architecture(name).vocab_size for name in ("llama-3.1-8b", "qwen3-4b")
    }
    for size in (*sizes, *measured):
        assert 2 * size >= sampling.LARGE
        assert size % sampling.BLOCK == 0
    assert not measured.intersection(sizes)


def test_no_probe_is_a_shape_that_is_measured():
    suite = load_suite("gpu")
    models = [suite.architecture(p.target) for p in suite.points if p.target != "trained"]
    models += [
        suite.architecture(p.draft) for p in suite.points if p.draft and p.draft_layers is None
    ]
    probed = {size[0] for pair in GPU.pairs for size in (pair.target, pair.draft)}
    matrices = set(GPU.matrices)
    models += [model.architecture for model in load_pair()[:2]]
    for model in {m.name: m for m in models}.values():
        assert model.hidden_size not in probed
        hidden, width = model.hidden_size, model.intermediate_size
        mine = {
            (hidden, model.query_size + 2 * model.kv_size), (model.query_size, hidden),
            (hidden, 2 * width), (width, hidden), (hidden, model.vocab_size),
        }  # fmt: skip
        assert not mine & matrices, model.name
        assert model.num_heads // model.num_kv_heads != GROUPS


def test_the_largest_matrices_reach_beyond_the_models():
    suite = load_suite("gpu")
    largest = max(i * o for i, o in GPU.matrices)
    for name in ("llama-3.2-1b", "qwen3-0.6b", "qwen3-1.7b"):
        shape = suite.architecture(name)
        assert shape.hidden_size * shape.vocab_size <= 1.2 * largest
    widest = max(p.batch * (p.gamma + 1) for p in suite.points)
    assert max(GPU.rows) >= widest


def test_a_call_among_many_is_timed_as_its_share(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(kernel_timer.time, "perf_counter", lambda: next(clock))
    assert Timer(CPU).each([lambda: None] * 4) == 0.25


def test_the_part_writes_a_calibration_that_says_its_mode(tmp_path, monkeypatch, probes):
    monkeypatch.setattr(calibrating, "run_probes", lambda *_: None)
    monkeypatch.setattr(calibrating, "fit", lambda _, about: fit_kernels(probes, "eager", about))
    ((file, fitted),) = calibrating.calibrate(tmp_path, CPU).items()
    assert file == tmp_path / "calibration.json"
    loaded = calibration.load(file)
    assert loaded.environment["mode"] == "eager"
    assert loaded.environment["drift_s"] > 0
    assert loaded.median_error == fitted.median_error


def test_a_gpus_calibration_says_from_where_it_read_in_chunks(tmp_path, monkeypatch, probes):
    """In both modes' files, and in the probes, which can be fitted again."""
    stages, limits = probes.stages["eager"], {"eager": 4096, "cuda-graphs": 1024}
    measured = replace(probes, chunked_from=limits, stages=dict.fromkeys(limits, stages))
    about = calibrating.environment(CPU)
    monkeypatch.setattr(calibrating, "run_kernel_probes", lambda *_: measured)
    monkeypatch.setattr(calibrating, "environment", lambda _: about)
    monkeypatch.setattr(
        calibrating, "DriftProbe", lambda _: SimpleNamespace(now_s=len, step_s=None)
    )
    for file in calibrating.calibrate(tmp_path, torch.device("cuda")):
        found = calibration.load(file).environment
        assert found["chunked_from"] == limits[found["mode"]]
        assert found["drift_s"] == len(found["mode"])
    assert json.loads((tmp_path / "probes.json").read_text())["chunked_from"] == limits


class Timeline:
    """A device that works through what the host has launched, in microseconds of its own: a kernel
    takes 10, and launching anything takes the host 7."""

    def __init__(self):
        self.host = self.device = 0.0

    def launch(self, work: float) -> float:
        """When the device is through with it."""
        self.host += 7
        self.device = max(self.device, self.host) + work
        return self.device

    def event(self, **_) -> SimpleNamespace:
        event = SimpleNamespace()
        event.record = lambda: setattr(event, "at", self.launch(0))
        event.synchronize = lambda: setattr(self, "host", max(self.host, event.at))
        event.elapsed_time = lambda end: (end.at - event.at) / 1e3
        return event


def test_a_launch_is_no_part_of_a_kernels_time(monkeypatch):
    """Of a graph's replay on an idle device the clock would start before the launch is made."""
    line, recorded = Timeline(), []
    graph = SimpleNamespace(replay=lambda: line.launch(10.0 * len(recorded)))
    imitations = {
        "Event": line.event,
        "synchronize": lambda *_: None,
        "CUDAGraph": lambda: graph,
        "graph": lambda _, stream: nullcontext(),
        "current_device": lambda: 0,
        "current_stream": lambda _: SimpleNamespace(wait_stream=lambda _: None),
        "Stream": lambda _: SimpleNamespace(wait_stream=lambda _: None),
        "stream": lambda _: nullcontext(),
        "_sleep": lambda cycles: line.launch(cycles / 2000),
    }
    for name, imitation in imitations.items():
        monkeypatch.setattr(torch.cuda, name, imitation)
    monkeypatch.setattr(graphs, "stream_of", torch.cuda.Stream)  # keeps none for other tests
    calls = [lambda: recorded.append(1)] * 4
    timer = Timer(torch.device("cuda"))
    seconds = timer.each([lambda: None] * 2 + calls)
    assert seconds * 6 == pytest.approx(40e-6)
    monkeypatch.setattr(kernel_timer, "HEAD_START", 0)
    recorded.clear()
    assert timer.each([lambda: None] * 2 + calls) * 6 == pytest.approx(47e-6), "nothing was shown"


@pytest.mark.gpu
def test_on_a_gpu_a_graph_is_faster_than_launching():
    probes = run_kernel_probes(torch.device("cuda"), ["cuda-graphs", "eager"], SMALL)
    assert probes.small["tiny_kernel"] < probes.small["tiny_kernel_eager"]
    for mode in ("cuda-graphs", "eager"):
        assert fit_kernels(probes, mode).system.engine.layer_overhead_s >= 0

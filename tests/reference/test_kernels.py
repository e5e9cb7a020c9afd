"""The probes of kernels, reduced, on the CPU: every one timed, none of a shape that is measured."""

import itertools
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from reference import sampling
from reference.lab import kernels
from reference.lab.kernels import GPU, SMALL, Timer, probe_architecture, run_kernel_probes
from reference.lab.suites import calibrating
from reference.lab.suites.points import load_suite
from specsim.cost import step_time
from specsim.evidence import calibration
from specsim.evidence.calibration import fit_kernels, probes_to_json
from specsim.operators import Workload

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def probes():
    return run_kernel_probes(CPU, ["eager"], SMALL)


def test_everything_in_the_grid_is_timed(probes):
    assert len(probes.reads) == len(SMALL.read_bytes)
    assert len(probes.products) == len(SMALL.matrices) * len(SMALL.rows)
    assert len(probes.caches) == len(SMALL.streams) * len(SMALL.contexts) * len(SMALL.widths)
    arms = len(SMALL.pairs) * len(SMALL.batches) * len(SMALL.prompts)
    assert len(probes.stages["eager"]) == arms * sum(2 + (gamma > 0) for gamma in SMALL.gammas)
    seconds = [p.seconds for p in (*probes.products, *probes.caches, *probes.stages["eager"])]
    assert min(seconds) > 0
    assert min(probes.small.values()) > 0
    assert {"tiny_kernel", "tiny_kernel_eager", "host_round_trip"} <= probes.small.keys()
    for batch, context in itertools.product((1, 4), SMALL.contexts):
        both = {f"attention_{batch}x{context}_{way}" for way in ("whole", "in_chunks")}
        assert both <= probes.small.keys()
    json.dumps(probes_to_json(probes), allow_nan=False)


def test_they_fit_a_system_that_prices_a_model(probes):
    system = fit_kernels(probes, "eager").system
    model = probe_architecture(256, 4, 1000)
    one, many = (
        float(step_time(model, system, Workload(batch=batch)).total_s) for batch in (1, 64)
    )
    assert 0 < one < many


def test_bytes_and_flops_of_attention_are_those_of_its_shape(probes):
    probe = next(p for p in probes.caches if (p.streams, p.context, p.rows) == (8, 256, 17))
    assert probe.kv_bytes == 2 * 8 * 256 * 128 * 2
    assert probe.flops == 4 * 8 * kernels.GROUPS * 17 * 256 * 128


def test_what_does_not_fit_is_left_out_and_every_length_is_still_read(probes):
    """A table needs each context at least once."""
    for grid in (GPU, SMALL):
        for context in grid.contexts:
            size = 2 * grid.streams[0] * context * kernels.HEAD_SIZE * 2
            assert size <= grid.most_cache_bytes


def test_vocabularies_are_drawn_from_as_those_that_are_measured():
    """In two steps, where several rows draw."""
    sizes = [GPU.vocab_size, *(vocab_size for _, _, vocab_size in GPU.pairs)]
    measured = {load_suite("gpu").shape(name).vocab_size for name in ("llama-3.1-8b", "qwen3-4b")}
    for size in (*sizes, *measured):
        assert size >= sampling.LARGE
        assert size % sampling.BLOCK == 0
    assert not measured.intersection(sizes)


def test_no_probe_is_a_shape_that_is_measured():
    suite = load_suite("gpu")
    models = [suite.shape(p.target) for p in suite.points if p.target != "trained"]
    models += [suite.shape(p.draft) for p in suite.points if p.draft and p.draft_layers is None]
    probed = {size[0] for target, draft, _ in GPU.pairs for size in (target, draft)}
    matrices = set(GPU.matrices)
    for model in {m.name: m for m in models}.values():
        assert model.hidden_size not in probed
        hidden, width = model.hidden_size, model.intermediate_size
        mine = {
            (hidden, model.query_size + 2 * model.kv_size), (model.query_size, hidden),
            (hidden, 2 * width), (width, hidden), (hidden, model.vocab_size),
        }  # fmt: skip
        assert not mine & matrices, model.name
        assert model.num_heads // model.num_kv_heads != kernels.GROUPS


def test_the_largest_matrices_reach_beyond_the_models():
    suite = load_suite("gpu")
    largest = max(i * o for i, o in GPU.matrices)
    for name in ("llama-3.2-1b", "qwen3-0.6b", "qwen3-1.7b"):
        shape = suite.shape(name)
        assert shape.hidden_size * shape.vocab_size <= 1.2 * largest
    widest = max(p.batch * (p.gamma + 1) for p in suite.points)
    assert max(GPU.rows) >= widest


def test_a_call_among_many_is_timed_as_its_share(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(kernels.time, "perf_counter", lambda: next(clock))
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
        "graph": lambda _: nullcontext(),
        "_sleep": lambda cycles: line.launch(cycles / 2000),
    }
    for name, imitation in imitations.items():
        monkeypatch.setattr(torch.cuda, name, imitation)
    calls = [lambda: recorded.append(1)] * 4
    timer = Timer(torch.device("cuda"))
    seconds = timer.each([lambda: None] * 2 + calls)
    assert seconds * 6 == pytest.approx(40e-6)
    monkeypatch.setattr(kernels, "HEAD_START", 0)
    recorded.clear()
    assert timer.each([lambda: None] * 2 + calls) * 6 == pytest.approx(47e-6), "nothing was shown"


@pytest.mark.gpu
def test_on_a_gpu_a_graph_is_faster_than_launching():
    probes = run_kernel_probes(torch.device("cuda"), ["cuda-graphs", "eager"], SMALL)
    assert probes.small["tiny_kernel"] < probes.small["tiny_kernel_eager"]
    for mode in ("cuda-graphs", "eager"):
        assert fit_kernels(probes, mode).system.engine.layer_overhead_s >= 0

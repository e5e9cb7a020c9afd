"""What every test file shares: gpu tests skip where there is no CUDA device, and hypothesis gives
the same examples on every run and never fails for being on a slow machine. `make test-slow` sets
SPECSIM_EXAMPLES=fresh, for new examples on every run; a failure then says how to repeat it."""

import gc
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import settings

from specsim.architecture import Architecture, Llama3RopeScaling
from specsim.evidence.measurement import Point, RunConditions, Timing

os.environ["SPECSIM_COMPILED"] = "off"  # what a user has compiled is not what is tested
HERE = Path(__file__).parent
sys.path += map(str, (HERE, HERE / "measure_server"))  # for `printed`, `what_fits`, `scripted`

settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("fresh", deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("SPECSIM_EXAMPLES", "house"))


# Begun first, the longest first, so that no process waits for another at the end.
LONGEST = (
    "test_notebooks.py", "test_bundled_pair.py", "test_explorer.py", "test_device_path.py",
    "test_training.py", "test_decoding.py", "test_demo.py", "test_tree_drafters.py",
    "test_verification.py", "test_graphs.py", "test_artefacts.py", "test_command_line.py",
    "test_drafters.py", "test_validation.py", "test_tree_verification.py", "test_sweep_workers.py",
    "test_serve_compiled.py", "test_serve_engine.py", "test_figures.py", "test_hybrid_trees.py",
    "test_adaptive.py", "test_run_gpu.py", "test_delta_net.py", "test_heads.py",
    "test_tensor_parallel.py", "test_suite_running.py", "test_snippets.py", "test_checkpoints.py",
    "test_explorer_first_click.py", "test_rules.py", "test_suites.py", "test_families.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not cuda_is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


def pytest_configure() -> None:
    """Nothing that collecting thousands of tests makes is garbage: it is not searched, then ..."""
    gc.disable()


def pytest_collection_finish() -> None:
    """... or later, during the tests."""
    gc.freeze()
    gc.enable()


def cuda_is_available() -> bool:
    # Imported here: a run of specsim's own tests has no use for torch.
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def made_point(gamma: int = 2, **changes) -> Point:
    """A point whose cycle is 3 + 2 x 0.5 + 0.4 ms and whose plain step is 2.4 ms."""
    target = Architecture("target", 64, 2, 2, 1, 32, 128, 512)
    draft = Architecture(
        "draft", 32, 1, 1, 1, 32, 64, 512, rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    )
    scenario = RunConditions(
        target=target,
        draft=draft if gamma else None,
        precision="bf16",
        method="draft-model" if gamma else "plain",
        gamma=gamma,
        rule="token",
        temperature=1.0,
        batch=1,
        context=128,
        allocated_context=128,
        mode="eager",
        seed=0,
    )
    verify = 3.0e-3 if gamma else 2.0e-3
    values = {
        "step_s": Timing(2.4e-3, 2.3e-3, 2.6e-3, 100),
        "draft_step_s": Timing(0.5e-3, 0.4e-3, 0.6e-3, 50) if gamma else None,
        "verify_step_s": Timing(verify, 0.9 * verify, 1.1 * verify, 50),
        "cycle_s": Timing(verify + gamma * 0.5e-3 + 0.4e-3, 4e-3, 5e-3, 50),
        "host_s": Timing(0.4e-3, 0.3e-3, 0.5e-3, 50),
        "survival": [0.7, 0.5][:gamma],
        "accepted_histogram": [15, 10, 25][: gamma + 1],
        "tokens_per_cycle": 2.2 if gamma else 1.0,
        "calibration_survival": [0.72, 0.5] if gamma else None,
    }
    return Point(scenario, **(values | changes))


@pytest.fixture(scope="session")
def point() -> Callable[..., Point]:
    """Makes measured points: `point(gamma)`."""
    return made_point


@pytest.fixture(scope="module")
def sketched():
    """An explorer whose panels draw all that they draw, on figures that matplotlib does not render:
    that takes most of the time, and what is drawn can be asked of the figures."""
    pytest.importorskip("ipywidgets")
    from PIL import Image

    from specsim.explorer import Explorer, figure_canvas, live_view

    def pixel(colour: str) -> bytes:
        out = BytesIO()
        Image.new("RGB", (3, 2), colour).save(out, "PNG")
        return out.getvalue()

    curves, axes = pixel("red"), pixel("white")

    class Sketch(figure_canvas.FigureCanvas):
        def freeze(self, shown):
            with figure_canvas.matplotlib.rc_context(figure_canvas.FROZEN):
                self.figure.clear()
                self.panel.freeze(self.figure, shown)
            self._background = "axes"
            self.frozen += 1

        def png(self, shown, freeze=False):
            if freeze or self._background is None or not self.panel.holds(shown):
                self.freeze(shown)
            self.panel.move(shown)
            return curves

        def blank(self):
            return axes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_view, "FigureCanvas", Sketch)
        return Explorer(measurements=None, under_load=False)

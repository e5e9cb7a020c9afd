"""transformers on the same weights as ours, and its time per token next to our plain step."""

import math

import pytest
import torch

from reference.lab.dialled import random_model
from reference.lab.suites import baseline
from reference.lab.suites.measuring import Measurer
from reference.lab.suites.models import Models
from reference.lab.suites.points import PlannedPoint
from reference.lab.suites.variants import Effort
from reference.packing import pack
from specsim.architecture import Architecture, Llama3RopeScaling
from specsim.checks import SpecsimError

SHAPES = {
    "llama": {},
    "tied head": {"tied_head": True},
    "normalised heads": {"qk_norm": True, "tied_head": True},
    "llama 3.1": {"rope_scaling": Llama3RopeScaling(8.0, 1.0, 4.0, 32)},
}
EFFORT = Effort(0.002, 2, 2, 4, 3, 4, 4, 8)


@pytest.fixture(autouse=True, scope="module")
def transformers() -> None:
    """Imported here, not while tests are collected: that takes seconds in every process."""
    pytest.importorskip("transformers")


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_same_model_around_the_same_weights(tiny, name):
    model = tiny(dtype=torch.float32, **SHAPES[name])
    theirs = baseline.their_model(model)
    tokens = torch.arange(2 * 40).view(2, 40) % 61
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=2e-4, rtol=1e-4)
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    assert theirs.lm_head.weight.data_ptr() in ours
    assert theirs.model.layers[1].mlp.down_proj.weight.data_ptr() in ours


def test_random_weights_of_a_suite_are_shared_too():
    """They are made in inference mode, so they cannot have gradients."""
    shape = Architecture("small", 32, 2, 4, 2, 8, 48, 61)
    model = random_model(shape, torch.float32, "cpu", 0)
    assert model.head.weight.is_inference()
    tokens = torch.arange(7)[None]
    with torch.no_grad():
        found = baseline.their_model(model).eval()(tokens).logits
        torch.testing.assert_close(found, model(tokens), atol=1e-4, rtol=1e-4)


def test_packed_weights_cannot_be_shared(tiny):
    with pytest.raises(SpecsimError, match="is packed"):
        baseline.their_model(pack(tiny(dtype=torch.float32)))


@pytest.mark.parametrize("gamma", [0, 2])
def test_a_baselines_point_holds_its_time_per_token_and_our_step(tiny, gamma):
    target, draft = tiny(dtype=torch.float32), tiny(1, dtype=torch.float32, num_layers=1)
    method = "transformers-assisted" if gamma else "transformers-generate"
    planned = PlannedPoint(
        "p", "peer", "tiny", method, gamma, context=24, temperature=0.0, precision="fp32"
    )
    measurer = Measurer(torch.device("cpu"), EFFORT, {})
    point = baseline.measure_baseline(planned, Models(target, draft), measurer, "bundled")
    assert 1 <= point.cycle_s.n <= 3 * EFFORT.rounds
    assert point.tokens_per_s == pytest.approx(1 / point.cycle_s.median)
    assert point.scenario.method == method
    assert point.step_s.median > 0
    assert math.isfinite(point.cycle_s.median)
    assert point.drift is None

"""A server's engine from its plain runs: made with known constants, found again."""

from dataclasses import replace

import numpy as np
import pytest

import specsim
from specsim.checks import SpecsimError
from specsim.evidence.comparison.fitted import fitted_to_server
from specsim.speculation import predict

TARGET, DRAFT = specsim.model("bundled-target"), specsim.model("bundled-draft")
MACHINE = specsim.system("m4-max", engine="llama.cpp", precision="bf16")
HOST_S, SEQUENCE_S = 2e-3, 1.5e-4
SERVER = replace(
    MACHINE,
    engine=replace(
        MACHINE.engine,
        cycle_overhead_s=HOST_S,
        sequence_overhead_s=SEQUENCE_S,
        speculation_overhead_s=HOST_S,  # assumed: once more what a plain step takes
        verified_row_overhead_s=SEQUENCE_S,
    ),
)


def plain(streams: int) -> float:
    """Seconds of a plain step of the server."""
    return float(predict(TARGET, None, SERVER, gamma=0, batch=streams, context=100).step_s)


@pytest.mark.parametrize("loads", [(1, 8), (1, 2, 4, 8), (3, 16)])
def test_the_constants_come_back_and_speculation_follows(loads):
    found = fitted_to_server(MACHINE, TARGET, {each: plain(each) for each in loads}, context=100)
    assert found.engine.cycle_overhead_s == pytest.approx(HOST_S, rel=1e-6)
    assert found.engine.sequence_overhead_s == pytest.approx(SEQUENCE_S, rel=1e-6)
    options = {"gamma": np.arange(5), "alpha": 0.7, "batch": 5, "context": 100}
    one, other = (
        predict(TARGET, specsim.DraftModel(DRAFT), each, **options) for each in (found, SERVER)
    )
    assert one.cycle_s == pytest.approx(other.cycle_s, rel=1e-6)


def test_a_server_that_is_faster_than_the_machine_keeps_its_passes():
    found = fitted_to_server(MACHINE, TARGET, {1: 1e-6, 8: 1e-6}, context=100)
    assert found.engine.cycle_overhead_s == 0
    assert found.engine.sequence_overhead_s == 0


@pytest.mark.parametrize(
    ("loads", "said"),
    [({1: 0.01}, "two plain loads"), ({0: 0.01, 8: 0.01}, "above 0"),
     ({1: 0.01, 8: 0.0}, "above 0"), ({1: 0.01, 8: float("nan")}, "above 0")],
)  # fmt: skip
def test_loads_that_tell_nothing_are_refused(loads, said):
    with pytest.raises(SpecsimError, match=said):
        fitted_to_server(MACHINE, TARGET, loads, context=100)

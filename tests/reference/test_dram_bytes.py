"""The script that counts a GPU's bytes: what it reads of ncu's table, and what it expects."""

import importlib.util
import sys
from pathlib import Path

import pytest

from reference.lab.dialled import architecture_named
from specsim.checks import SpecsimError

SCRIPT = Path(__file__).parents[2] / "measurements" / "dram_bytes.py"
COUNTED = """==PROF== Connected to process 7
"ID","Kernel Name","Stream","dram__bytes_read.sum","dram__bytes_write.sum"
"","","","byte","Kbyte"
"0","spin_kernel","7","512","0"
"1","gemv","7","16,060,000,000","1.5"
"2","sample","7","1,000","0"
"3","gemv","7","15,940,000,000","0.5"
"4","spin_kernel","7","512","0"
"5","gemv","7","7","0"
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("dram_bytes", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dram_bytes"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dram_bytes"]


def test_the_counters_are_added_up_by_kernel_in_bytes_after_each_marker(script) -> None:
    first, second = script.read_counters(COUNTED)
    assert first["gemv"] == {"count": 2.0, "read": 32e9, "written": 2000.0}
    assert first["sample"]["read"] == 1000
    assert second == {"gemv": {"count": 1.0, "read": 7.0, "written": 0.0}}


def test_a_result_stands_beside_what_is_expected(script) -> None:
    child = {"gamma": 0, "emitted": 2, "cycles": 2, "context": 512}
    found = script.result(child, script.read_counters(COUNTED)[0])
    assert found["read_per_token"] == 16_000_000_500
    assert found["read_per_token"] / found["predicted_per_token"] == pytest.approx(1.06, abs=0.01)


def test_a_log_without_counters_is_an_error_that_quotes_it(script) -> None:
    with pytest.raises(SpecsimError, match=r"counted nothing.*ERR_NVGPUCTRPERM"):
        script.read_counters("==ERROR== ERR_NVGPUCTRPERM - no permission\n")


def test_expected_are_the_weights_once_and_the_drafts_passes(script) -> None:
    """A plain step reads all weights but the embedding; a cycle the draft's weights besides, once
    for each drafted token."""
    target, draft = (architecture_named(name) for name in ("8b", "1b"))
    window = 512

    def read(model) -> float:
        embedding = 0 if model.tied_head else model.vocab_size * model.hidden_size
        kv = window * 2 * model.num_layers * model.kv_size
        return 2.0 * (model.parameters - embedding + kv)

    plain = script.predicted(0, window)
    assert plain["cycle"] == pytest.approx(read(target), rel=1e-3)
    assert plain["tokens_per_cycle"] == 1
    for gamma in (2, 4):
        found = script.predicted(gamma, window)
        assert found["cycle"] == pytest.approx(read(target) + gamma * read(draft), rel=2e-3)
        expected = sum(script.ALPHA**k for k in range(gamma + 1))
        assert found["tokens_per_cycle"] == pytest.approx(expected)

"""What `bench/versus_engines.py` makes of the answers of engines; none of them is needed here."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from specsim.checks import SpecsimError

ROOT = Path(__file__).parent.parent
ANSWERS = """
import json, os, signal, sys
print(json.dumps({"version": "1"}), flush=True)
for count, line in enumerate(sys.stdin):
    asked = json.loads(line)
    if asked["drafter"]:
        print(json.dumps({"refused": "it has no drafts"}), flush=True)
    elif count == DIES:
        print("out of", "memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        answer = {"seconds": SECONDS, "tokens": [TOKENS], "dtype": "fp32"}
        print(json.dumps(answer), flush=True)
"""
QUESTIONS = {"plain": {"drafter": ""}, "n-gram": {"drafter": "n-gram"}}


@pytest.fixture(scope="module")
def bench():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location(
        "versus_engines", ROOT / "bench" / "versus_engines.py"
    )
    module = sys.modules["versus_engines"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer(bench, name: str, seconds: float, tokens: tuple[int, ...] = (1, 2, 3, 4), dies: int = -1):
    """An engine that takes so many seconds for a text, refuses drafts, and may die."""
    code = ANSWERS.replace("SECONDS", str(seconds)).replace("TOKENS", str(list(tokens)))
    return bench.Peer(name, [sys.executable, "-S", "-c", code.replace("DIES", str(dies))])


def test_ratios_and_reasons_come_from_the_answers(bench, capsys) -> None:
    with (
        peer(bench, "ours", 2.0) as eager,
        peer(bench, "compiled", 1.0) as compiled,
        peer(bench, "openvino", 1.5, (1, 2, 9, 4)) as other,
        peer(bench, "llama.cpp", 1.5, dies=2) as dying,
    ):
        peers = [eager, compiled, other, dying]
        assert [each.read() for each in peers] == [{"version": "1"}] * 4
        table = bench.measure(peers, QUESTIONS, rounds=2)
    assert len(table["plain"]["ours"].tokens_per_s) == 2  # the round that warms up is not counted
    rows = bench.records("bundled", table, {"ctranslate2": "not installed: no python"})
    plain, drafted = rows
    assert plain["engines"]["ours"]["tokens_per_s"] == 2.0
    assert plain["ours_over"]["openvino"] == {"ours": 0.75, "compiled": 1.5}
    assert plain["engines"]["openvino"]["first_difference"] == [2]
    assert plain["engines"]["compiled"]["first_difference"] == [None]
    assert drafted["engines"]["openvino"] == {"skipped": "it has no drafts"}
    assert drafted["ours_over"] == {}
    # it died in the first counted round: said in a sentence, and there is no speed of it
    said = "llama.cpp was ended by SIGKILL: out of memory"
    assert plain["engines"]["llama.cpp"] == {"skipped": said}
    assert said in capsys.readouterr().out
    text = "\n".join(bench.lines(rows, "fp32"))
    assert "OpenVINO GenAI: ours is faster in 1 of 1 rows; least 1.50x (plain)" in text
    assert "OpenVINO GenAI, plain: 1 of 1 texts differ from ours, first at token 2" in text
    assert "OpenVINO GenAI, n-gram: it has no drafts" in text
    assert "CTranslate2: not installed: no python" in text
    json.dumps(rows, allow_nan=False)


def test_a_peer_that_cannot_start_is_said_in_a_sentence(bench) -> None:
    command = [sys.executable, "-S", "-c", "raise SystemExit('no module named openvino')"]
    said = "openvino ended with 1: no module named openvino"
    with bench.Peer("openvino", command) as silent, pytest.raises(SpecsimError, match=said):
        silent.read()


def test_medians_do_not_follow_one_slow_round(bench) -> None:
    cell = bench.Cell([10.0, 1.0, 12.0], tokens=[[1]])
    record = cell.as_record(cell)
    assert (record["tokens_per_s"], record["low"], record["high"]) == (10.0, 1.0, 12.0)


def test_an_engine_that_is_not_installed_is_skipped_with_the_remedy(bench, tmp_path: Path) -> None:
    python = tmp_path / "openvino" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    found, missing = bench.pythons(tmp_path, ["openvino", "llama.cpp"])
    assert set(found) == {"ours", "compiled", "openvino"}
    assert found["openvino"] == str(python)
    assert "make bench-engines" in missing["llama.cpp"]


def test_texts_of_different_lengths_differ_where_one_ends(bench) -> None:
    assert bench.first_difference([1, 2], [1, 2]) is None
    assert bench.first_difference([1, 2], [1, 3]) == 1
    assert bench.first_difference([1, 2, 3], [1, 2]) == 2

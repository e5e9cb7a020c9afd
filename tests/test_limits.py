"""One number takes neither all memory nor all time: Python, flag, link, file pass one limit."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import specsim
from specsim import cli
from specsim.acceptance.latency import cycles_to_emit
from specsim.acceptance.optimal_trees import best_tree
from specsim.checks import SpecsimError
from specsim.checks.limits import LIMITS, require_limit
from specsim.drafting import DynamicTree, Eagle, Medusa, StaticTree
from specsim.explorer.copying import from_query
from specsim.operators import Workload
from specsim.planning import crossover, plan, sensitivity
from specsim.scenario import Scenario, resolve

TARGET = specsim.model("llama-3.1-8b")
DRAFTER = specsim.method("draft-model", TARGET, specsim.model("llama-3.2-1b"))
SYSTEM = specsim.system("h100-sxm")
ONE = ["--target", "llama-3.1-8b", "--accelerator", "h100-sxm"]
PAIR = [*ONE, "--draft", "llama-3.2-1b", "--alpha", "0.8"]
GOOGOL = "9" * 400


def predict(**asked: Any) -> Any:
    return specsim.predict(TARGET, DRAFTER, SYSTEM, **({"gamma": 4, "alpha": 0.8} | asked))


def model(**changes: Any) -> Any:
    return replace(TARGET, **changes)


IN_PYTHON = {
    "gamma": lambda: predict(gamma=1025),
    "gamma in an array": lambda: predict(gamma=[1, 10**6]),
    "batch": lambda: predict(batch=10**7),
    "batch of 400 digits": lambda: predict(batch=int(GOOGOL)),
    "context": lambda: predict(context=1e12),
    "cells": lambda: predict(batch=np.ones(2_000_001)),
    "cells together": lambda: predict(batch=np.ones((3000, 1)), gamma=np.ones(1000, int)),
    "workload": lambda: Workload(np.ones((3000, 1)), np.ones(1000)),
    "heads": lambda: model(num_heads=10**12),
    "layers": lambda: model(num_layers=10**6),
    "width": lambda: model(hidden_size=10**9),
    "vocabulary": lambda: model(vocab_size=10**12),
    "positions": lambda: model(max_context=10**9),
    "experts": lambda: specsim.architecture.Experts(10**9, 1, 1),
    "nodes": lambda: best_tree([0.5, 0.3], 10**9),
    "children": lambda: best_tree(np.full(2000, 1e-4), 4),
    "depth": lambda: StaticTree(Eagle(TARGET), depth=10**9),
    "width of a tree": lambda: DynamicTree(Eagle(TARGET), children=10**9),
    "Medusa's heads": lambda: Medusa(TARGET, heads=10**9),
    "crossover": lambda: crossover(TARGET, DRAFTER, SYSTEM, most=10**9, alpha=0.8),
    "batches": lambda: plan(TARGET, DRAFTER, SYSTEM, batches=range(1, 20_000), alpha=0.8),
    "exact answer": lambda: cycles_to_emit(10**9, [0.5]),
    "answer": lambda: predict().request(10**9),
    "scenario": lambda: resolve(Scenario(target="llama-3.1-8b", batch=10**30)),
    "devices": lambda: resolve(Scenario(target="llama-3.1-8b", tensor_parallel=10**9)),
    "positions of a survival": lambda: resolve(
        Scenario(target="llama-3.1-8b", survival=(0.5,) * 2000)
    ),
}


@pytest.mark.parametrize("case", IN_PYTHON)
def test_python_passes_the_limits(case: str) -> None:
    with pytest.raises(SpecsimError, match=r"must be at most [\d,]+ \(.+\), got "):
        IN_PYTHON[case]()


ON_THE_COMMAND_LINE = {
    "batches": ["plan", *PAIR, "--batches", "10000000"],
    "many batches": ["plan", *PAIR, "--batches", ",".join(map(str, range(1, 20_000)))],
    "gamma": ["predict", *PAIR, "--gamma", "1000000"],
    "batch": ["predict", *ONE, "--batch", GOOGOL],
    "context": ["predict", *ONE, "--context", "1" + "0" * 30],
    "tokens": ["predict", *ONE, "--tokens", "1" + "0" * 21],
    "devices": ["predict", *ONE, "--tensor-parallel", "100000"],
    "gamma of a log": ["diagnose", "--accepted", "3", "--drafted", "9", "--gamma", "1000000"],
    "survival": ["predict", *ONE, "--method", "eagle-3", "--survival", ",".join(["0.5"] * 2000)],
}


@pytest.mark.parametrize("case", ON_THE_COMMAND_LINE)
def test_flags_pass_the_limits(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ON_THE_COMMAND_LINE[case]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be at most" in line
    assert "object" not in line


@pytest.mark.parametrize(
    "link",
    ["gamma=5000000", "batch=" + "9" * 18, "context=999999999", "tensor_parallel=99999", "alpha=2",
     "alpha=nan", "price_per_hour=inf", "temperature=-1", "survival=nan", "batch=0",
     "batch=" + GOOGOL, "survival=" + "0.5," * 2000 + "0.5"],
)  # fmt: skip
def test_links_pass_the_limits(link: str) -> None:
    with pytest.raises(SpecsimError) as refused:
        from_query(link)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_attention_heads", 10**12), ("num_hidden_layers", 10**12), ("vocab_size", 10**15),
     ("max_position_embeddings", 10**9), ("intermediate_size", 10**15), ("sliding_window", 10**15),
     ("num_key_value_heads", 10**12), ("num_local_experts", 10**12)],
)  # fmt: skip
def test_files_pass_the_limits(field: str, value: int, tmp_path: Any) -> None:
    config = dict(specsim.catalog.lookup("models", "mixtral-8x7b")["config"])
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(SpecsimError, match=rf"{field} must be at most"):
        specsim.model(tmp_path)


def test_what_is_just_allowed_is_allowed() -> None:
    for name, limit in LIMITS.items():
        require_limit(name, limit.most)
        require_limit(name, np.array([1, limit.most]))
        with pytest.raises(SpecsimError, match="must be at most"):
            require_limit(name, limit.most + 1)
    for none in ("text", None, [[1], [1, 2]], np.zeros(0), ["a", None]):
        require_limit("gamma", none)  # other checks refuse them
    assert predict(gamma=1024, batch=10**6).speedup > 0
    given = {"gamma": 4, "alpha": 0.8, "batch": 10**6, "context": 10**8}
    assert sensitivity(TARGET, DRAFTER, SYSTEM, **given).keys() > given.keys() - {"gamma"}


def test_the_largest_gamma_of_an_answer() -> None:
    # a cycle emits 1 or 1025 tokens; four of 1025 end it: the mean of a negative binomial
    assert cycles_to_emit(4096, np.full(1024, 0.5)).mean == pytest.approx(4 / 0.5)


@pytest.mark.parametrize("most", [1, 7, 300, 9000])
def test_a_crossover_in_parts_is_the_one_of_all_batches_together(most: int) -> None:
    over = predict(gamma=np.arange(17), batch=np.arange(1, most + 1)[:, None], context=8192)
    pays = np.flatnonzero(over.speedup.max(axis=-1) > 1.5) + 1
    found = crossover(TARGET, DRAFTER, SYSTEM, most=most, margin=0.5, alpha=0.8, context=8192)
    assert found.batch == (pays[-1] if len(pays) else 0)
    assert found.beyond == (found.batch == most)
    nothing = crossover(TARGET, DRAFTER, SYSTEM, most=most, margin=99.0, alpha=0.8)
    assert (nothing.batch, nothing.beyond) == (0, False)

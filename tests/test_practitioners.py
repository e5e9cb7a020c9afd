"""Questions of practitioners with what they measured: the sign is right, the size in the band.

Where the numbers come from is said beside each; tau is stated, or follows from the accepted share
of the answer, 1 / (1 - f).
"""

from dataclasses import dataclass

import numpy as np
import pytest

from specsim.architecture import model
from specsim.cost import step_time
from specsim.drafting import Drafter, DraftModel, DynamicTree, method
from specsim.hardware import system
from specsim.operators import Workload
from specsim.speculation import predict

SIBLINGS = (0.6, 0.15, 0.08, 0.05, 0.03)


def eagle_tree(target: str, depth: int, children: int) -> Drafter:
    head = method("eagle-3", model(target))
    return DynamicTree(head, SIBLINGS, depth=depth, children=children)


def small(name: str, precision: str) -> Drafter:
    return DraftModel(model(name), precision=precision)


@dataclass(frozen=True)
class Question:
    target: str
    drafter: Drafter
    machine: tuple[str, str, str, int]  # accelerator, engine, precision, devices
    gamma: int
    tokens_per_cycle: float
    plain_tokens_per_s: float
    speedup: float


MOE = "qwen3-30b-a3b"
QUESTIONS = {
    # Tencent/AngelSlim issue #163 and a report of the same set-up on two devices
    "30B-A3B, SGLang, TP2": Question(
        MOE, eagle_tree(MOE, 3, 3), ("h100-sxm", "sglang", "bf16", 2), 3, 1.86, 222, 0.72
    ),
    "30B-A3B, SGLang, TP4": Question(
        MOE, eagle_tree(MOE, 3, 3), ("h100-sxm", "sglang", "bf16", 4), 3, 2.017, 219, 0.78
    ),
    "32B K-quant, llama.cpp, M4 Pro": Question(
        "qwen2.5-32b", small("qwen2.5-3b", "q4_0"), ("m4-pro", "llama.cpp", "q4_k_m", 1),
        16, 6.4, 11, 0.98,
    ),
    "8B, llama.cpp, RTX 3060": Question(
        "llama-3.1-8b", small("llama-3.2-1b", "q8_0"), ("rtx-3060", "llama.cpp", "q8_0", 1),
        5, 4.58, 32.5, 1.71,
    ),
    # lmstudio-ai/mlx-engine issue #113, prompt 1
    "32B 8 bits, MLX, M1 Ultra": Question(
        "qwen2.5-32b", small("qwen2.5-1.5b", "mlx-8bit"), ("m1-ultra", "mlx", "mlx-8bit", 1),
        3, 2.23, 15.1, 0.73,
    ),
}  # fmt: skip
asked = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


@asked
def test_the_sign_is_right_and_the_size_in_the_band(question: Question) -> None:
    chip, engine, precision, devices = question.machine
    machine = system(chip, engine, precision, tensor_parallel=devices)
    found = predict(
        model(question.target), question.drafter, machine,
        gamma=question.gamma, tokens_per_cycle=question.tokens_per_cycle, context=512,
    )  # fmt: skip
    assert not found.cannot_tell
    assert (found.speedup > 1) == (question.speedup > 1), float(found.speedup)
    low, high = found.band["speedup"]
    assert low <= question.speedup <= high, float(found.speedup)
    low, high = found.band["step_s"]
    assert low <= 1 / question.plain_tokens_per_s <= high, float(found.step_s)


def test_a_verification_of_experts_on_a_laptop_costs_several_steps() -> None:
    """30B-A3B in 4 bits on an M5 Max under MLX, passes of 2, 3, 5 and 8 rows against 1."""
    machine = system("m5-max", "mlx", "mlx-4bit")
    rows = np.array([1, 2, 3, 5, 8])
    seconds = step_time(model(MOE), machine, Workload(rows=rows, context=512)).total_s
    measured = np.array([1.59, 1.85, 2.44, 3.32])
    ratio = seconds[1:] / seconds[0] / measured
    wide = 1 + machine.engine.verification_error
    assert np.all((ratio <= wide) & (ratio >= 1 / wide)), ratio


def test_a_plain_step_of_8b_under_sglang() -> None:
    machine = system("h200-sxm", "sglang")
    found = predict(model("qwen3-8b"), None, machine, context=512)
    low, high = found.band["step_s"]
    assert low <= 1 / 186 <= high, float(found.step_s)


def test_an_unknown_rate_of_arithmetic_is_no_promise() -> None:
    """Where nobody published it, more than a few rows have no speedup."""
    target = model("llama-3.1-8b")
    phone = system("dimensity-9500", "llama.cpp", "q4_0")
    found = predict(target, small("llama-3.2-1b", "q4_0"), phone, gamma=[0, 3, 4], alpha=0.8)
    assert found.cannot_tell.tolist() == [False, False, True]

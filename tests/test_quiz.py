"""The questions: each number of each worked answer, each common mistake, and the replies."""

import builtins
import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance import IID
from specsim.checks import SpecsimError
from specsim.course import quiz

# The worked answers as they were first written down by hand, each number to the digits it was
# written with; where it was written down wrong or rounded twice, the comment says so.
WORKED = {
    "why-memory-bound": {"intensity": "1", "ridge": "295"},
    "bytes-per-token": {
        "weight_gb": "15.01",  # 2 x (8.0303 - 0.5253)
        "stored_gb": "16.06",
        "kv_mb_per_token": ".131",  # 2 x 32 layers x 8 heads x 128 x 2 bytes
        "step_ms": "4.480",  # 15.010 GB / 3.35 TB/s
        "compute_ms": ".01518",  # 15.010e9 / 989e12
        "slack": "295",
    },
    "twice-the-flops": {
        "speedup": "1.00",
        "to_h200": "1.43",
        "to_b200": "2.39",
        "a100_tokens_per_s": "135.8",
        "h100_tokens_per_s": "223.2",
        "h200_tokens_per_s": "319.8",
        "b200_tokens_per_s": "533.0",
    },
    "second-gpu": {
        "half_the_bytes_ms": "2.240",
        "all_reduces": "64",
        "all_reduce_ms": ".385",  # 64 x 6 us, and the bytes
        "step_ms": "2.63",
        "speedup": "1.71",
    },
    "flop-utilisation": {"percent": ".34"},
    "ridge-batch": {
        "h100": "295",
        "h200": "206",
        "a100": "153",
        "b200": "281.25",
        "h100_4_bits": "73.8",
        "h100_fp8": "295",
        "sparse": "590",
        "sparse_and_one_flop": "1181",  # noted as 1180, twice the rounded 590
    },
    "attention-intensity": {
        "batch_1": "8",
        "batch_64": "8",
        "kv_gb": "171.8",
        "weight_gb": "139.0",
    },
    "kv-size": {"gb": "2.684", "gib": "2.5", "batch_gb": "42.95", "sharing": "8"},
    # 2 x 7.505e9 x 4096, divided by 989e12 and by 0.6 of it
    "prefill": {"pflop": ".0615", "seconds": ".0622", "seconds_at_60": ".104"},
    "which-latency": {"tpot_ms": "5.421", "zero_gap_percent": "72.9", "end_to_end_ms": "738.481"},
    "output-distribution": {
        "exact_0": ".5",
        "exact_1": ".3",
        "exact_2": ".2",
        "wrong_0": ".35",
        "wrong_1": ".39",
        "wrong_2": ".26",
        "rejected": ".3000",
        "total_variation": ".1500",
    },
    "tokens-per-cycle": {
        "tokens": "3.3616",
        "all_tried": "3.2",
        "without_bonus": "2.3616",
        "ceiling": "4",
    },
    "speedup": {"speedup": "2.8013", "supremum": "5"},
    "best-gamma": {
        "gamma": "8",
        "speedup": "3.0921",
        "real": "7.857",
        "one_over_rejection": "5",
    },
    "alpha-from-a-log": {
        "tokens": "3.70",
        "alpha": ".801",
        "rate": ".54",
        "tokens_if_rate_were_alpha": "2.1",
    },
    "when-it-hurts": {
        "fixed_1": "2.855",
        "fixed_32": "2.855",
        "fixed_64": "2.203",
        "fixed_128": "1.130",
        "fixed_256": ".602",
        "best_1": "3.25",
        "best_32": "3.14",
        "best_64": "2.48",
        "best_128": "1.64",
        "best_256": "1.00",
        "gamma_1": "8",
        "gamma_32": "6",
        "gamma_64": "3",
        "gamma_128": "1",
        "gamma_256": "0",
    },
    "same-output": {},
    "flops-saved": {"flops": "1.51", "ratio": ".018", "gb_per_token": "44.3", "plain_gb": "139.0"},
    "bigger-draft": {
        "c_1b": ".0178",
        "1b_at_70": "2.80",
        "1b_at_75": "3.25",
        "c_8b": ".108",
        "8b_at_80": "2.40",
        "8b_at_85": "2.76",
    },
    "experts": {
        "independent": "3.82",
        # noted as 2.5, which is that of 128 experts; of 256 the same correlation touches 2.58
        "correlated": "2.58",
        "correlated_128": "2.51522",
        # noted as 2.57389 and 2.05453, of a remainder of 1.22781e9 parameters: it is 1.22993e9
        # (see test_the_remainder_of_the_mixture)
        "bytes_at_1": "2.57290",
        "bytes_at_8": "2.05437",
        "bytes_at_64": "1.01566",
    },
    "long-context": {
        "kv_gb_70b": "42.95",
        # by hand: a step (15.010 + 68.719) GB / 4.8 TB/s; a draft step (2.472 + 17.180) GB, or
        # (2.472 + 0.268) GB with a window; tokens per cycle 3.3616
        "window": "2.97",
        "full": "1.73",
        "step_ms": "17.44",
        "window_step_ms": ".571",
        "full_step_ms": "4.094",
    },
    "quantise-or-speculate": {
        "gb_70b": "39.1",
        "fewer_bytes": "3.56",
        "c_before": ".165",
        "c_after": ".585",
        "speedup_before": "1.84",
        "speedup_after": "1.10",
    },
    "which-drafter": {},
    "tree-or-chain": {
        "tree_8": "2.64",
        "chain_8": "2.46",
        "tree_64": "4.01",
        "chain_64": "2.50",
        "chain_limit": "2.5",
    },
    "draft-in-parallel": {"sequential": "1.87", "overlapped": "3.36"},
    "roll-back": {},
    "percentiles": {
        "zero_percent": "73",
        "tpot_ms": "5.42",
        "p99_ms": "20",
        "cycles": "17.9",
        "cycles_sd": "2.3",
        "cycles_p95": "22",
    },
    "benchmark": {},
    "dollars": {
        "step_ms": "13.83",
        "tokens_per_s": "72.3",
        "dollars": "38.4",
        "batch_step_ms": "18.1",
        "batch_tokens_per_s": "3535",
        "batch_dollars": ".79",
        "speculative": "15.4",
        "two_gpus_spare_gb": "18.9",
        "two_gpus_spare_tokens": "57.7e3",
    },
    "eager": {
        "c": ".78",
        "c_bytes": ".08",
        "speedup": ".82",
        "best": "1.01",
        "best_gamma": "1",
    },
    # 72 GB - 16.0605 GB, divided by 131072 bytes; by 1024 and by 8192 tokens
    "paged-cache": {
        "paged": "416.78",
        "reserved": "52.098",
        "without_weights": "536.44",
        "spare_gb": "55.939",
        "tokens": "426784",
    },
    # linear layers 2 x (7.505e9 - the head's .525e9) x 8192, the head once, attention 4 x 4096
    # x 32 layers x 8192 x 4096.5 FLOPs, together 132.26e12, divided by 989e12
    "chunked-prefill": {"whole_ms": "133.7", "chunk_ms": "8.36", "weights_ms": "4.481"},
    # (20 ms x 3.35 TB/s - 15.010 GB) / (2048 x 131072 bytes) = 193.7
    "users-at-a-speed": {"users": "193", "cache_gb": "51.81", "weight_gb": "15.01"},
    "cache-or-weights": {"tokens": "114516", "saved_gb": "7.50", "stored": "122532"},
    # experts 48 x 128 x 3 x 2048 x 768 = 28.991e9 parameters, of which 1 - (15/16)^T are touched;
    # 1.2299e9 others
    "expert-bytes": {"gb_1": "6.08", "gb_8": "25.84", "gb_32": "53.09", "stored_gb": "61.06"},
    # the bytes of 4 tokens and of 1: (2.4603 + 57.982 x (1 - (15/16)^4)) / (2.4603 + 57.982 / 16)
    "experts-and-batch": {"tokens": "2.533", "verify_1": "2.57", "verify_64": "1.02"},
    "four-bit-verification": {
        "four_bits": "2.17",
        "ridge_rows": "73.8",
        "bf16_ridge_rows": "295.2",
    },
    # 16 x 2 x 4 x 256 x 2 bytes x 8192; 48 layers x (48 x 128 x 128 x 4 bytes + a convolution of
    # 3 x 10240 x 2 bytes)
    "hybrid-memory": {"cache_mb": "536.87", "state_mb": "153.9", "mb": "690.8"},
    "hybrid-drafts": {"gb": "12.32", "one_each": "2.463", "cache_gb": "4.295"},
    # 4.0084 tokens / (512 / 295.2 rows)
    "tree-and-batch": {"tree": "2.31", "chain": "2.46", "verify_tree": "1.74"},
    "hard-stretches": {
        "tokens": "3.17992",
        "stationary": "3.81718",
        "iid": "3.41543",
        "starts_hard": ".55780",
    },
    "pooled-alpha": {"pooled": ".75756", "tokens": "3.25195", "tokens_from_pooled": "3.34505"},
    "mean-of-speedups": {"arithmetic": "3.25195", "harmonic": "2.80409", "iid": "2.94117"},
    "open-or-closed": {
        "open": "2.31481",
        "closed": "1.89873",
        "batch_plain": "22.2222",
        "batch_speculative": "9.6",
        "capacity_plain": "20",
        "capacity_speculative": "12",
    },
    "greedy-draft": {
        "sampled_0.25": ".98207",
        "greedy_0.25": ".98168",
        "sampled_2": ".90806",
        "greedy_2": ".45505",
        "filtered_p": ".83953",
        "filtered_both": ".73106",
    },
}
ALL = quiz.questions(follow_ups=True)
NUMERIC = [each for each in ALL if isinstance(each, quiz.Question)]
CHOICES = [each for each in ALL if isinstance(each, quiz.Choice)]


def named(questions):
    return [pytest.param(each, id=each.id) for each in questions]


def half_a_unit_of_the_last_digit(printed: str) -> float:
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


# ------------------------------------------------------------------------------ the forty


def test_there_are_forty_and_the_follow_ups():
    assert len(quiz.questions()) == 40
    assert [each.id for each in ALL] == list(WORKED)
    assert len({each.prompt for each in ALL}) == len(ALL)


@pytest.mark.parametrize("question", named(ALL))
def test_every_worked_number_is_the_one_that_was_written_down(question):
    numbers = question.worked()
    for name, printed in WORKED[question.id].items():
        allowed = half_a_unit_of_the_last_digit(printed) * (1 + 1e-6)
        assert abs(numbers[name] - float(printed)) <= allowed, (name, numbers[name], printed)


@pytest.mark.parametrize("question", named(NUMERIC))
def test_every_answer_is_right_and_every_slip_is_recognised(question):
    assert question.check(question.expected)
    assert question.check(question.expected * (1 + 0.2 * question.tolerance))
    assert question.mistakes
    for mistake, value in question.mistake_values().items():
        answer = question.check(value)
        assert not answer
        assert answer.mistake == mistake
        assert mistake in str(answer)
    assert not question.check(question.expected * 1000)
    assert question.check(question.expected * 1000).mistake is None


@pytest.mark.parametrize("question", named(CHOICES))
def test_every_option_is_commented_on(question):
    assert len(question.options) >= 3
    assert question.check(question.answer)
    for letter, option in question.letters.items():
        answer = question.check(letter)
        assert bool(answer) == (option == question.answer)
        assert question.options[option] in str(answer)
        assert question.check(f"{letter.upper()})") == answer
        assert (answer.mistake is None) == bool(answer)


@pytest.mark.parametrize("question", named(ALL))
def test_every_answer_fits_into_a_line_and_names_its_sources(question):
    assert re.search(r"\w", question.one_line)
    assert "{" not in question.one_line
    assert question.sources
    assert question.section


def test_the_right_choices_are_not_always_the_same_letter():
    right = {next(k for k, v in each.letters.items() if v == each.answer) for each in CHOICES}
    assert len(right) > 1


def test_the_remainder_of_the_mixture():
    """Everything of Qwen3-30B-A3B that is neither expert nor gathered, counted by hand."""
    hidden, layers, heads, kv_heads, head = 2048, 48, 32, 4, 128
    attention = hidden * head * (heads + 2 * kv_heads) + heads * head * hidden
    router, table = hidden * 128, 151936 * hidden
    rest = layers * (attention + router) + table
    norms = layers * (2 * hidden + 2 * head) + hidden
    assert rest + norms == pytest.approx(1.22993e9, abs=5e3)
    experts = layers * 128 * 3 * hidden * 768
    touched = 128 * (1 - (1 - 8 / 128) ** 4) / 128
    ratio = (rest + experts * touched) / (rest + experts * 8 / 128)
    assert quiz.question("experts").worked()["bytes_at_1"] == pytest.approx(ratio, rel=1e-9)


# ------------------------------------------------------------------- your own questions


def tokens(alpha=0.8, gamma=4):
    return float(IID(alpha).tokens_per_cycle(gamma))


OWN = quiz.Question(
    "Tokens per cycle?",
    answer=tokens,
    tolerance=0.02,
    mistakes={"you forget the bonus token": lambda: tokens() - 1, "you give γ": 4.0},
    unit="tokens",
)


def test_your_own_question():
    assert quiz.check(OWN, 3.4)
    assert quiz.check(OWN, "3.4 tokens")
    assert quiz.check(OWN, "3.36")
    assert quiz.check(OWN, 2.36).mistake == "you forget the bonus token"
    assert "too high by a factor of 2.97" in str(quiz.check(OWN, 10))
    assert "too low by 12 %" in str(quiz.check(OWN, 3.0))
    assert str(quiz.check(OWN, -3.0)).endswith("too low.")
    assert quiz.question(OWN) is OWN


def test_the_nearest_is_meant_where_a_slip_lies_within_the_tolerance():
    close = quiz.Question("?", answer=100.0, tolerance=0.1, mistakes={"it is near": 104.0})
    assert quiz.check(close, 101)
    assert not quiz.check(close, 103)
    assert quiz.check(close, 103).mistake == "it is near"
    assert quiz.check(close, 96)


def test_exact_answers_and_zero():
    exact = quiz.Question("?", answer=8.0, tolerance=0.0, mistakes={"it is 1/(1 - α)": 5.0})
    assert quiz.check(exact, 8)
    assert str(quiz.check(exact, 8)) == "Right: 8."
    assert not quiz.check(exact, 8.001)
    assert quiz.check(exact, 5.05).mistake == "it is 1/(1 - α)"
    zero = quiz.Question("?", answer=0.0, tolerance=0.1)
    assert quiz.check(zero, 0.05)
    assert not quiz.check(zero, 0.2)


@given(st.floats(0.01, 1e6), st.floats(0.0, 0.5), st.floats(-2.0, 2.0))
def test_the_tolerance_is_relative(expected, tolerance, deviation):
    question = quiz.Question("?", answer=expected, tolerance=tolerance)
    given_value = expected * (1 + deviation)
    if abs(abs(deviation) - tolerance) > 1e-9:
        assert bool(quiz.check(question, given_value)) == (abs(deviation) <= tolerance)


def test_answers_are_computed_when_asked():
    calls = []
    question = quiz.Question("?", answer=lambda: calls.append(1) or 2.0)
    assert not calls
    assert quiz.check(question, 2)
    assert calls


def test_numpy_numbers_and_thousands():
    big = quiz.Question("?", answer=131072.0, unit="tokens")
    assert quiz.check(big, np.float64(131072))
    assert quiz.check(big, "131,072 tokens")
    assert "131,072 tokens" in str(quiz.check(big, 131072))
    times = quiz.Question("?", answer=2.8, unit="×")
    assert quiz.check(times, "2.8x")
    assert "2.8×" in str(quiz.check(times, "2.8 ×"))
    assert quiz.check(times, "2,8")
    assert quiz.check("kv-size", "2.68 gb")
    assert quiz.check("flop-utilisation", "0.34%")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: quiz.question("kv-siz"), "nearest: kv-size"),
        (lambda: quiz.question("zzzzzz"), "they are: why-memory-bound"),
        (lambda: quiz.check("kv-size", "much"), r"a number \(in GB\), got 'much'"),
        (lambda: quiz.check("kv-size", ""), "must be a number"),
        (lambda: quiz.check("kv-size", "1,2,3"), "must be a number"),
        (lambda: quiz.check("kv-size", float("nan")), "got nan"),
        (lambda: quiz.check("kv-size", "inf"), "got 'inf'"),
        (lambda: quiz.check("kv-size", None), "got None"),
        (lambda: quiz.check("roll-back", "q"), "one of a, b, c, d"),
        (lambda: quiz.Question("?", answer=1.0, tolerance=1.5), r"\[0, 1\), got 1.5"),
        (lambda: quiz.Choice("?", answer="x", options={"y": ""}), "they are: 'y'"),
        (lambda: quiz.check(quiz.Question("?", answer="n"), 1), "there are: none"),
    ],
)
def test_mistakes_are_named(bad, says):
    with pytest.raises(SpecsimError, match=says):
        bad()


# ------------------------------------------------------------------------------- on a page


def test_without_widgets_it_is_text(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("ipywidgets"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    form = quiz.ask("kv-size")
    assert form.box is None
    assert 'quiz.check("kv-size", …)' in form.markdown
    assert "8192 tokens" in str(form)
    assert 'quiz.check("kv-size", …)' in str(form)
    assert "b) " in str(quiz.ask("roll-back"))


def test_the_form_replies():
    pytest.importorskip("ipywidgets")
    form = quiz.ask("tokens-per-cycle")
    row, reply = form.box.children
    text, button = row.children
    button.click()
    assert "first" in reply.value
    for typed, expected in (("3.2", "γα"), ("3.36", "Right"), ("three", "must be a number")):
        text.value = typed
        button.click()
        assert expected in reply.value


def test_a_page_without_a_kernel_shows_the_question_as_text(monkeypatch):
    shown = []
    display = pytest.importorskip("IPython.display")
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(display, "display", lambda what, raw=False: shown.append(what))
    form = quiz.ask("roll-back")
    form._ipython_display_()
    text, box = shown
    assert "- a) the tensors are sliced" in text["text/markdown"]
    assert box is form.box


def test_your_own_question_is_called_as_the_notebook_calls_it(monkeypatch):
    ipython = pytest.importorskip("IPython")
    assert "quiz.check(question, …)" in quiz.ask(OWN).markdown
    shell = SimpleNamespace(user_ns={"_7": OWN, "other": 3, "of_mine": OWN})
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell)
    assert "quiz.check(of_mine, …)" in quiz.ask(OWN).markdown
    assert 'quiz.check("kv-size", …)' in quiz.ask("kv-size").markdown


def test_a_choice_replies():
    pytest.importorskip("ipywidgets")
    row, reply = quiz.ask("roll-back").box.children
    options, button = row.children
    options.value = "a"
    button.click()
    assert "copies the cache" in reply.value
    options.value = "d"
    button.click()
    assert "Right" in reply.value


def test_asking_needs_neither_widgets_nor_torch():
    code = "import sys; from specsim.course import quiz; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "ipywidgets", "IPython"} & set(run.stdout.split())


def test_an_answer_reads_well():
    right = quiz.check("kv-size", 2.68)._repr_markdown_()
    assert right.startswith("✔ Right")
    assert right.endswith("2.68 GB; without GQA 8× that.")
    assert "In one line" not in quiz.check(OWN, 3.36)._repr_markdown_()
    assert "In one line" not in quiz.check("kv-size", 1.34)._repr_markdown_()
    assert (
        quiz.check("kv-size", 21.5)._repr_markdown_().startswith("✘ Not quite: you get 21.5 GB if")
    )


def test_a_worked_answer_is_folded_and_a_wrong_one_is_refused():
    shown = quiz.folded("kv-size", 2.684, "2 × 80 × …")
    text = shown._repr_markdown_()
    assert text.startswith('<details markdown="1">\n<summary>Show the answer</summary>')
    assert text.endswith("</details>")
    assert repr(shown) == "<Show the answer: print it to read it>"
    assert "2 × 80 × …" in str(shown)
    for part in ("2 × 80 × …", "✔ Right (within 3 %): 2.684 GB", "**In one line:**"):
        assert part in text
    with pytest.raises(SpecsimError, match="worked answer of 'kv-size' is wrong: Not quite"):
        quiz.folded("kv-size", 21.5, "…")


def test_sources_are_listed_once_and_papers_are_linked():
    found = quiz.cited()
    assert len(set(found)) == len(found) > 20
    assert "Sequoia, [arXiv:2402.12374](https://arxiv.org/abs/2402.12374)" in found
    assert all("](https://arxiv.org/abs/" in each for each in found if "arXiv" in each)


# ------------------------------------------------------------------------- the walkthrough


def walkthrough() -> str:
    return (Path(__file__).parent.parent / "notebooks" / "08_interview.py").read_text("utf-8")


@pytest.mark.parametrize("question", named(quiz.questions()))
def test_the_walkthrough_asks_then_answers_each_of_the_forty(question):
    """Under a heading with its number: the trap, why it fails, the form, the arithmetic with what
    specsim computes, and the check of it."""
    number = [each.id for each in quiz.questions()].index(question.id) + 1
    part = walkthrough().split(f"### {number}. ")[1].split("\n# ### ")[0]
    places = [
        part.index(words)
        for words in (
            "# **The trap.**",
            "# **Why it fails.**",
            f'quiz.ask("{question.id}")',
            "**Napkin",
            f'quiz.folded("{question.id}", ',
        )
    ]
    assert places == sorted(places)


def test_what_the_walkthrough_computes_is_right():
    """Its cells compute with specsim, not with the quiz: the committed run found them right."""
    path = Path(__file__).parent.parent / "notebooks" / "08_interview.ipynb"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    said = [
        "".join(output["data"].get("text/markdown", []))
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    folded = [text for text in said if "<summary>Show the answer</summary>" in text]
    assert sum("✔ Right" in text for text in folded) == 40  # no answer stands open on the page
    assert not any(text.startswith("✔ Right") for text in said)
    wrong = [text for text in said if text.startswith("✘")]
    assert len(wrong) == 1  # the one that shows, at the top, what a mistake is told

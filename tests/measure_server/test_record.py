"""What a client makes of times and tokens is what vLLM's own client makes of the same; its parts
take bytes however they are cut.

vllm-bench-detailed.json is a result of `vllm bench serve --save-detailed` of
vLLM 0.32.0, without its texts.
"""

import json
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim import serving
from specsim.checks import SpecsimError
from specsim.evidence.client.address import address_of
from specsim.evidence.client.answers import StreamedAnswer
from specsim.evidence.client.events import Events
from specsim.evidence.client.http1 import Chunked, Failure
from specsim.evidence.client.prompts import Prompts, written_prompts
from specsim.evidence.client.run import ServerRun
from specsim.evidence.served import bench

GOLDEN = Path(__file__).with_name("vllm-bench-detailed.json")


def as_measured(golden: dict) -> ServerRun:
    """A run whose answers came at the times that vLLM's client has written."""
    answers = []
    lists = zip(golden["start_times"], golden["ttfts"], golden["itls"], golden["input_lens"],
                golden["output_lens"], strict=True)  # fmt: skip
    for number, (sent, ttft, gaps, read, written) in enumerate(lists):
        answers.append(StreamedAnswer(
            number, sent_s=sent, asked_output=written, usage_input=read, usage_output=written,
            at_s=array("d", sent + ttft + np.cumsum([0.0, *gaps])), text_chunks=len(gaps) + 1,
            finish="length", error=None,
        ))  # fmt: skip
    load = serving.traffic(requests=len(answers), concurrency=4, prompt=serving.Lengths(48),
                           output=serving.Lengths(48))  # fmt: skip
    return ServerRun(url="", model="bundled", chat=False, load=load, answers=tuple(answers),
                     duration_s=golden["duration"], slo={"ttft": 2000, "tpot": 50})  # fmt: skip


def test_the_numbers_are_those_of_vllms_own_client() -> None:
    """Times, tokens and peaks of tests/results/vllm-bench.json, from its lists per request."""
    golden = json.loads(GOLDEN.read_text())
    found = as_measured(golden).to_json(detailed=True)
    compared = 0
    for name, value in golden.items():
        if name in found and isinstance(value, int | float) and not name.startswith("spec_decode"):
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
            compared += 1
    assert compared >= 28, compared
    assert found["ttfts"] == pytest.approx(golden["ttfts"])
    assert found["latencies"] == pytest.approx(golden["latencies"])
    assert [len(gaps) for gaps in found["itls"]] == [len(gaps) for gaps in golden["itls"]]


def test_a_failed_answer_changes_counts_alone() -> None:
    golden = json.loads(GOLDEN.read_text())
    whole, other = as_measured(golden), as_measured(golden)
    worst = max(other.answers, key=lambda each: each.at_s[0] - each.sent_s)
    worst.error = "HTTP 500"
    assert other.summary["completed"] == whole.summary["completed"] - 1
    assert other.summary["failed"] == 1
    kept = np.delete(whole.ttft_s, worst.number)
    assert other.summary["mean_ttft_ms"] == pytest.approx(kept.mean() * 1e3)
    assert other.summary["total_output_tokens"] == whole.summary["total_output_tokens"] - 48


def test_the_record_names_its_tool_and_no_engine() -> None:
    run = as_measured(json.loads(GOLDEN.read_text())).served_run
    assert (run.tool, run.engine) == (bench.CLIENT, None)
    assert run.latencies["e2e"].called == "E2EL"


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 30))
def test_chunked_bodies_are_taken_apart_whatever_their_pieces(
    parts: list[bytes], size: int
) -> None:
    body = b"".join(b"%X;a=b\r\n%s\r\n" % (len(p), p) for p in parts if p) + b"0\r\nA: b\r\n\r\n"
    chunked, found = Chunked(), b""
    for at in range(0, len(body), size):
        found += chunked.feed(body[at : at + size])
    assert found == b"".join(parts)
    assert chunked.done


WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(WORDS, max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 30))
def test_events_are_read_whatever_their_pieces(texts: list[str], line_end: str, size: int) -> None:
    lines = [f": comment{line_end}event: e{line_end}data: {t}{line_end * 2}" for t in texts]
    content, events, found = "".join(lines).encode(), Events(), []
    for at in range(0, len(content), size):
        found += events.feed(content[at : at + size])
    assert found == [("e", text) for text in texts]
    assert events.end() == []


def test_a_stream_that_does_not_end_a_line_is_refused() -> None:
    chunked = Chunked()
    for _ in range(40):
        assert chunked.feed(b"1" * 100) == b""
    with pytest.raises(Failure, match="does not end"):
        chunked.feed(b"1" * 100)


@pytest.mark.parametrize(
    ("url", "shown", "root", "chat"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1", "", None),
        ("http://h:80/", "http://h/v1", "", None),
        ("https://h/v1/", "https://h/v1", "", None),
        ("https://h:8443/a/b/v1/chat/completions", "https://h:8443/a/b/v1", "/a/b", True),
        ("http://[::1]:8000/v1/completions", "http://[::1]:8000/v1", "", False),
    ],
)
def test_an_address_means_the_server(url: str, shown: str, root: str, chat: bool | None) -> None:
    found = address_of(url)
    assert (found.shown, found.root, found.chat) == (shown, root, chat)


def test_words_have_about_as_many_tokens_as_asked() -> None:
    fitted = Prompts(1).fitted((16, 30), (80, 126))  # 1.5 tokens a word, six around them
    assert (fitted.per_word, fitted.fixed) == (1.5, 6.0)
    text = fitted.of(0, 156)
    assert isinstance(text, str)
    assert len(text.split()) == 100
    assert fitted.of(0, 156) == text
    assert fitted.of(1, 156) != text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no prompt"),
        ('{"prompt": 3}', "line 1 of"),
        ('{"prompt": "a"}\n{"prompt": [true]}', "line 2 of"),
        ('{"prompt": "a", "output_tokens": 0}', "whole number >= 1"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p").write_text(content)
    with pytest.raises(SpecsimError, match=said):
        written_prompts(tmp_path / "p")

"""The server through its sockets: the protocol, limits, clients that leave, and the end."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

pytest.importorskip("starlette", reason="pip install 'specsim-llm[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="pip install 'specsim-llm[serve]'")

from reference import DraftModel, NoDrafter, speculate  # noqa: E402
from reference.__main__ import main  # noqa: E402
from reference.checkpoints import PAIR, Tokenizer  # noqa: E402
from reference.serving import app, chat, completions  # noqa: E402
from reference.serving.engine import Engine  # noqa: E402
from reference.serving.metrics import Metrics  # noqa: E402
from reference.serving.slots import Slots  # noqa: E402
from specsim.evidence.served.prometheus import pages  # noqa: E402

ROOT = Path(__file__).parents[2]
TOKENIZER = Tokenizer(PAIR / "target" / "tokenizer.json")
CONTEXT = 96


def open_stream(port: int, **body) -> socket.socket:
    """A client that has asked for a stream and has not read it."""
    data = json.dumps({"stream": True, "temperature": 0} | body).encode()
    client = socket.create_connection(("127.0.0.1", port), 20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


class Running:
    """A server in a thread of this process, with a small random model."""

    LIMITS: ClassVar = completions.Limits(body_bytes=20_000, queue=3, seconds=60.0)

    def __init__(self, target, drafter, slots: int = 2):
        self.target = target
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.slots = Slots(target, drafter, slots, CONTEXT)
        self.started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(drafter)))
        self.thread.start()
        assert self.started.wait(20)

    async def run(self, drafter) -> None:
        self.loop = asyncio.get_running_loop()
        metrics = Metrics("tiny", drafter.gamma)
        self.engine = Engine(
            self.slots, TOKENIZER.decode, metrics, completions.hand_over(self.loop)
        )
        self.service = completions.Service(
            self.engine, TOKENIZER, chat.plain, "tiny", "/tiny", 0, self.LIMITS
        )
        config = uvicorn.Config(
            app.application(self.service), lifespan="off", ws="none", log_level="warning"
        )
        self.server = uvicorn.Server(config)
        self.computing = threading.Thread(target=self.engine.run)
        self.computing.start()
        self.started.set()
        await self.server.serve(sockets=[self.listening])

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.engine.close()
        self.computing.join(20)
        assert not self.thread.is_alive()
        assert not self.computing.is_alive()

    def ask(self, path: str, body=None, raw: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", path, data)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def complete(self, **body) -> dict:
        status, found = self.ask("/v1/completions", {"temperature": 0} | body)
        assert status == 200, found
        return json.loads(found)

    def events(self, path: str = "/v1/completions", **body) -> list:
        options = {"temperature": 0, "stream": True} | body
        status, found = self.ask(path, options)
        assert status == 200, found
        events = found.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-2:]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def open_stream(self, **body) -> socket.socket:
        return open_stream(self.port, **body)

    def counters(self) -> dict[str, float]:
        page = pages(self.ask("/metrics")[1].decode())["vllm"]
        return {
            name: page.total(f"{name}_total") or 0.0
            for name in ("prompt_tokens", "generation_tokens", "request_success")
        }

    def idle(self) -> bool:
        return self.engine.load == (0, 0)

    def wait_until(self, condition, seconds: float = 10.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def running(tiny, perturbed):
    target = tiny(3, dtype=torch.float32, vocab_size=2048, max_context=CONTEXT)
    server = Running(target, DraftModel(perturbed(target, 0.3), 2))
    yield server
    server.close()


def test_a_completion_is_the_decoder_s_text(running) -> None:
    prompt = TOKENIZER.encode("def fibonacci(n):")
    wanted = speculate(running.target, NoDrafter(), prompt, 12).tokens
    for given in ("def fibonacci(n):", prompt, ["def fibonacci(n):"], [prompt]):
        found = running.complete(prompt=given, max_tokens=12)
        assert found["choices"][0]["text"] == TOKENIZER.decode(wanted)
        assert found["choices"][0]["finish_reason"] == "length"
        assert found["usage"] == {
            "prompt_tokens": len(prompt), "completion_tokens": 12,
            "total_tokens": len(prompt) + 12,
        }  # fmt: skip


def test_a_stream_is_the_same_text_and_ends_with_usage(running) -> None:
    whole = running.complete(prompt="import os", max_tokens=20)
    events = running.events(
        prompt="import os", max_tokens=20, stream_options={"include_usage": True}
    )
    *chunks, last = events
    assert "".join(each["choices"][0]["text"] for each in chunks) == whole["choices"][0]["text"]
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert len(chunks) < last["usage"]["completion_tokens"], "usage is not a count of chunks"
    assert [each["choices"][0]["finish_reason"] for each in chunks][-1] == "length"
    assert len({each["id"] for each in events}) == 1
    always = running.events(
        prompt="import os", max_tokens=20, stream_options={"continuous_usage_stats": True}
    )
    counts = [each["usage"]["completion_tokens"] for each in always]
    assert counts == sorted(counts)
    assert counts[-1] == 20


def test_a_chat_has_roles_and_several_texts(running) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "écris 😀"}]}]
    body = {"messages": messages, "max_completion_tokens": 6, "n": 2, "seed": 3, "temperature": 1}
    status, found = running.ask("/v1/chat/completions", body)
    assert status == 200
    texts = [choice["message"]["content"] for choice in json.loads(found)["choices"]]
    events = running.events("/v1/chat/completions", **body)
    assert [each["choices"][0]["delta"].get("role") for each in events[:2]] == ["assistant"] * 2
    streamed = ["", ""]
    for event in events:
        choice = event["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts, "a seed gives the same texts again"
    assert texts[0] != texts[1]


def test_what_benchmarks_send_is_accepted(running) -> None:
    found = running.complete(
        prompt="x = ", max_tokens=8, ignore_eos=True, logprobs=None, repetition_penalty=1.0,
        min_tokens=8, top_p=1, top_k=-1, min_p=0.0, stop=None, best_of=1, n=1, echo=False,
        presence_penalty=0.0, frequency_penalty=0, user="me", some_new_field={"a": [1]},
        logit_bias=None, model="tiny", skip_special_tokens=True,
    )  # fmt: skip
    assert found["usage"]["completion_tokens"] == 8


def test_a_stop_string_split_over_chunks_ends_the_text(running) -> None:
    text = running.complete(prompt="a", max_tokens=30)["choices"][0]["text"]
    for begin in (3, 8):
        stop = text[begin : begin + 9]
        events = running.events(prompt="a", max_tokens=30, stop=[stop, "never"])
        found = "".join(each["choices"][0]["text"] for each in events)
        assert found == text[: text.find(stop)]
        assert events[-1]["choices"][0]["finish_reason"] == "stop"


BAD = [
    (b'{"prompt":', 400, "not valid JSON"),
    (b"[1]", 400, "JSON object"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (b'{"prompt": "\\ud800"}', 400, "cannot read this text"),
    ({"prompt": ""}, 400, "the prompt is empty"),
    ({"prompt": None}, 400, "prompt must be"),
    ({"prompt": [1, "a"]}, 400, "must all be strings"),
    ({"prompt": [5000]}, 400, "between 0 and 2047, not 5000"),
    ({"prompt": "a", "model": "gpt-9"}, 404, "'gpt-9' does not exist; this is 'tiny'"),
    ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be between 1"),
    ({"prompt": "a", "max_tokens": 96}, 400, "maximum context length is 96 tokens"),
    ({"prompt": "a " * 200}, 400, "maximum context length"),
    ({"prompt": "a", "temperature": -1}, 400, "temperature must be between 0 and 100"),
    ({"prompt": "a", "temperature": "hot"}, 400, "temperature must be a number"),
    ({"prompt": "a", "top_p": 0}, 400, "top_p"),
    ({"prompt": "a", "top_k": 1.5}, 400, "whole number"),
    ({"prompt": "a", "repetition_penalty": 0}, 400, "repetition_penalty"),
    ({"prompt": "a", "stop": ""}, 400, "stop may have"),
    ({"prompt": "a", "stop": 3}, 400, "stop must be"),
    ({"prompt": "a", "logprobs": 3}, 400, "logprobs is not offered"),
    ({"prompt": "a", "n": 1000}, 400, "n must be between 1 and 128"),
    ({"prompt": "a", "stream": "yes"}, 400, "stream must be true or false"),
    ({"prompt": "a", "stream_options": 5}, 400, "stream_options must be an object"),
    ({"prompt": "a", "min_tokens": 50}, 400, "min_tokens must be at most 16"),
    ({"prompt": "a", "seed": 0.5}, 400, "seed must be a whole number"),
    ({"prompt": "a" * 30_000}, 413, "at most 20000"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD)
def test_bad_requests_are_answered_in_one_line(running, body, status, words) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, answer = running.ask("/v1/completions", raw=raw)
    error = json.loads(answer)["error"]
    assert (found, error["code"]) == (status, status), answer
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert running.idle()


def test_other_paths(running) -> None:
    assert running.ask("/health")[0] == 200
    model = json.loads(running.ask("/v1/models")[1])["data"][0]
    assert (model["id"], model["root"], model["max_model_len"]) == ("tiny", "/tiny", CONTEXT)
    text = "é = 1  # 日本 😀"
    ids = json.loads(running.ask("/tokenize", {"prompt": text})[1])
    assert ids["tokens"] == TOKENIZER.encode(text)
    assert ids["count"] == len(ids["tokens"])
    back = json.loads(running.ask("/detokenize", {"tokens": ids["tokens"]})[1])
    assert back == {"prompt": text}
    assert running.ask("/v2/nothing")[0] == 404
    assert running.ask("/v1/completions")[0] == 405
    status, answer = running.ask("/v1/chat/completions", {"messages": [{"role": "king"}]})
    assert status == 400
    assert b"system, developer, user" in answer


def test_a_client_that_leaves_frees_its_slot_and_usage_agrees(running) -> None:
    running.wait_until(running.idle)
    before = running.counters()
    seen = [running.complete(prompt="ab cd", max_tokens=5 + i)["usage"] for i in range(3)]
    after = running.counters()
    for name in ("prompt", "completion"):
        counter = "generation_tokens" if name == "completion" else "prompt_tokens"
        total = sum(usage[f"{name}_tokens"] for usage in seen)
        assert after[counter] - before[counter] == total
    clients = [running.open_stream(prompt="a", max_tokens=90) for _ in range(5)]
    assert clients[0].recv(10)  # it has begun
    for client in clients:
        client.close()
    running.wait_until(running.idle)
    assert running.slots.requests == [None, None]
    assert running.complete(prompt="a", max_tokens=3)["usage"]["completion_tokens"] == 3


def test_a_full_queue_refuses_and_the_others_are_served(running, monkeypatch) -> None:
    cycle = running.slots.run_cycle
    go_on = threading.Event()

    def slow():
        go_on.wait(20)
        return cycle()

    monkeypatch.setattr(running.slots, "run_cycle", slow)
    clients = []
    for _ in range(5):  # two in slots, three in the queue
        clients.append(running.open_stream(prompt="a", max_tokens=4))
        count = len(clients)
        running.wait_until(lambda count=count: sum(running.engine.load) == count)
    status, answer = running.ask("/v1/completions", {"prompt": "a"})
    assert status == 429
    assert b"3 requests wait already" in answer
    go_on.set()
    for client in clients:
        text = b""
        while b"[DONE]" not in text:
            text += client.recv(1 << 16)
        client.close()


def test_a_time_limit_ends_a_request_in_words(running, monkeypatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(running.service, "limits", replace(running.LIMITS, seconds=0.0))
    status, answer = running.ask("/v1/completions", {"prompt": "a", "max_tokens": 50})
    assert status == 504
    assert b"time is up" in answer
    assert running.ask("/health")[0] == 200


def test_a_server_that_closes_takes_no_new_request(running, monkeypatch) -> None:
    monkeypatch.setattr(running.service, "closing", True)
    status, answer = running.ask("/v1/completions", {"prompt": "a"})
    assert status == 503
    assert b"shutting down" in answer
    assert running.ask("/health")[0] == 503


def test_planted_a_slot_that_is_not_freed_is_noticed(running, monkeypatch) -> None:
    running.wait_until(running.idle)
    monkeypatch.setattr(running.engine, "cancel", lambda request: None)
    kept = running.slots.run_cycle

    def slow():
        time.sleep(0.02)
        return kept()

    monkeypatch.setattr(running.slots, "run_cycle", slow)
    client = running.open_stream(prompt="a", max_tokens=90)
    client.recv(10)
    client.close()
    with pytest.raises(AssertionError, match="did not come"):
        running.wait_until(running.idle, 0.2)
    monkeypatch.undo()
    running.wait_until(running.idle)


def test_openai_s_client_drives_it(running) -> None:
    openai = pytest.importorskip("openai", reason="pip install openai")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        whole = client.completions.create(
            model="tiny", prompt="import os", max_tokens=9, temperature=0
        )
        parts = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=7,
            stream=True, stream_options={"include_usage": True}, temperature=0,
        )  # fmt: skip
        chunks = list(parts)
        assert whole.usage.completion_tokens == 9
        assert chunks[-1].usage.completion_tokens == 7
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="a")


# The command


@contextlib.contextmanager
def started(*options: str):
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "reference", "serve", "--port", "0", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT
    ) as server:
        try:
            assert server.stdout is not None
            assert select.select([server.stdout], [], [], 120)[0], "it did not start"
            found = re.search(rb"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
            assert found is not None
            yield server, int(found[1])
        finally:
            server.kill()


def test_an_option_without_an_effect_is_refused_at_the_start(capsys) -> None:
    for options, said in (
        (["--layers", "3"], "--layers needs --method early-exit"),
        (["--head", "bundled", "--method", "n-gram"], "--head needs --method head"),
    ):
        assert main(["serve", *options]) == 2
        assert capsys.readouterr().err == f"reference: {said}\n"


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_end_and_exits_with_0(which) -> None:
    body = {"prompt": "def f", "max_tokens": 300, "ignore_eos": True}
    with started("--dtype", "fp32", "--slots", "2") as (server, port):
        client = open_stream(port, stream_options={"include_usage": True}, **body)
        text = client.recv(100)
        server.send_signal(which)
        while part := client.recv(1 << 16):
            text += part
        client.close()
        assert b'"completion_tokens": 300' in text
        assert b"[DONE]" in text
        assert server.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.slow
def test_a_limit_of_time_ends_what_is_left() -> None:
    options = ("--dtype", "fp32", "--shutdown-seconds", "0", "--method", "n-gram")
    with started(*options) as (server, port):
        client = open_stream(port, prompt="def f", max_tokens=490, ignore_eos=True)
        client.recv(100)
        server.terminate()
        assert server.wait(30) == 0
        client.close()

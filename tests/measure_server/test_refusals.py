"""What is refused, each in one line."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    CHUNKED,
    ENDED,
    PEM,
    SMALL,
    Asked,
    Script,
    Send,
    answering,
    event,
    load,
    served,
    stream,
    whole,
    word,
)

from specsim import cli
from specsim.evidence.client import Key, measure_server

SECRET = "sk-a-secret-of-this-test"


def refused(capsys: Any, *words: str) -> str:
    assert cli.main(["measure-server", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return str(captured.err)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (answering(whole({"error": {"message": "no key"}}, 401)), "HTTP 401: no key (no key is in"),
        (answering(whole({"detail": "Not Found"}, 404)), "HTTP 404: Not Found (model 'served'"),
        (answering(whole(b"", 301, more="Location: https://192.0.2.1/\r\n")), "redirects to https"),
        (answering(whole(b"<p>", kind="text/html")), "is text/html, not a stream"),
        (answering(b""), "connection closed without an answer"),
    ],
)
def test_a_server_that_refuses_the_first_request_is_one_line(
    capsys: Any, script: Script, said: str
) -> None:
    with served(script) as server:
        assert said in refused(capsys, "--url", server.url, *SMALL)


def test_a_server_of_something_else_is_one_line(capsys: Any) -> None:
    with served() as server:
        server.site = whole(b"<html>", 200, "text/html")
        said = refused(capsys, "--url", server.url, *SMALL)
    assert "lists no model: is it a server of the OpenAI protocol?" in said
    assert "connection refused; is it running?" in refused(capsys, "--url", server.url, *SMALL)


def test_a_certificate_that_nobody_trusts_is_refused(capsys: Any) -> None:
    with served(tls=True) as server:
        assert "is not trusted" in refused(capsys, "--url", server.url, *SMALL)
        assert server.asked == []
        trust = ssl.create_default_context(cafile=str(PEM))
        run = measure_server(server.url, load(), overhead=False, tls=trust)
        assert run.summary["completed"] == 3
    with served() as server:
        url = server.url.replace("http:", "https:")
        assert "does not speak TLS" in refused(capsys, "--url", url, *SMALL)


def test_the_key_is_sent_and_written_nowhere(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server repeats it in an answer and in an error."""
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("SPECSIM_API_KEY", SECRET)

    async def script(asked: Asked, send: Send) -> Any:
        key = asked.headers["authorization"].removeprefix("Bearer ")
        assert key == SECRET
        if asked.number == 1:
            return await send(whole({"error": {"message": f"{key} is slow"}}, 429))
        return await send(CHUNKED + stream([event(word(key)), *ENDED]))

    out, file = tmp_path / "out.json", tmp_path / "measured.json"
    with served(script) as server:
        words = ["measure-server", "--url", server.url, *SMALL, "--out", str(out), "--json",
                 "--save-detailed", "--measurement", str(file), "--device", "a100",
                 "--target", "llama-3.1-8b"]  # fmt: skip
        assert cli.main(words) == 0
    captured = capsys.readouterr()
    shown = [captured.out, captured.err, out.read_text(), file.read_text()]
    assert not any(SECRET in text for text in shown)
    assert "[key] is slow" in captured.out
    assert SECRET not in repr(Key(SECRET))
    always = answering(whole({"error": {"message": f"wrong key {SECRET}"}}, 401))
    with served(always) as server:
        said = refused(capsys, "--url", server.url, *SMALL)
    assert SECRET not in said
    assert "wrong key [key] (the key in the environment" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--url", "x"), "must be an address"),
        (("--url", "ftp://x"), "must be an address"),
        (("--url", "http://a:b@x"), "must not hold a key"),
        (("--url", "http://x/v1?key=1"), "before any ?"),
        (("--url", "http://x:99999"), "is no address"),
        (("--url", "http://x\r\nA: b"), "is no address"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "nan"), "--timeout"),
        (("--temperature", "-1"), "--temperature"),
        (("--warmup", "-1"), "--warmup"),
        (("--rate", "1,2"), "one rate"),
        (("--requests", "0"), "--requests"),
        (("--slo", "itl:5"), "--slo takes"),
        (("--save-detailed",), "--save-detailed needs"),
        (("--measurement", "x.json"), "needs --device and --target"),
        (("--device", "x"), "has a use with --measurement"),
        (("--out", "/nowhere/\0"), "cannot write"),
        (("--tokenizer", "nowhere.json"), "no such file"),
        (("--prompt", "nowhere.txt"), "no such file"),
        (("--model", " "), "--model must be a name"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_contacted(
    capsys: Any, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("contacted")

    monkeypatch.setattr(asyncio, "open_connection", never)
    assert said in refused(capsys, "--url", "http://127.0.0.1:9", *SMALL, *words)
    assert "give the arrivals" in refused(capsys, "--url", "http://127.0.0.1:9")
    monkeypatch.setenv("SPECSIM_API_KEY", "a\nb")
    assert "no header can" in refused(capsys, "--url", "http://127.0.0.1:9", *SMALL)

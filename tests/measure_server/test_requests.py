"""What is asked of a server: connections, prompts, fields."""

import json
from pathlib import Path
from typing import Any

from scripted import (
    CHUNKED,
    Asked,
    Send,
    after_probe,
    answering,
    event,
    limit_of,
    load,
    measured,
    plain,
    served,
    stream,
    usage,
    whole,
    word,
)

from specsim import cli, serving
from specsim.evidence.client import measure_server


def test_a_connection_that_ended_meanwhile_is_replaced_once() -> None:
    """A server may end an idle connection at any time; the client notices as it asks."""

    async def script(asked: Asked, send: Send) -> Any:
        return await plain(asked, send) if asked.number % 3 else False

    with served(after_probe(script)) as server:
        run = measure_server(server.url, load(6), overhead=False)
        assert len(server.asked) == 1 + 6 + 2
    assert run.failures == {}
    run = measured(answering(b""))
    assert run.failures == {"connection closed without an answer": 3}


def test_connections_are_kept() -> None:
    with served() as server:
        measure_server(server.url, load(30, concurrency=3), overhead=False)
        assert server.most_open <= 4


def test_prompts_are_token_ids_of_exact_length_and_share_no_beginning() -> None:
    with served() as server:
        run = measure_server(server.url, load(5, prompt=serving.Lengths(50)), overhead=False)
        prompts = [asked.body["prompt"] for asked in server.asked[1:]]
    assert [len(each) for each in prompts] == [50] * 5
    assert len({tuple(each[:3]) for each in prompts}) == 5
    assert run.prompts == "token ids"
    body = server.asked[1].body
    assert body["max_tokens"] == 4
    assert body["stream_options"] == {"include_usage": True}
    assert "temperature" not in body
    assert "ignore_eos" not in body


def test_a_server_that_takes_no_ids_gets_words() -> None:
    async def script(asked: Asked, send: Send) -> Any:
        if isinstance(asked.body["prompt"], list):
            return await send(whole({"error": {"message": "prompt must be a string"}}, 400))
        count = limit_of(asked)
        read = 3 + 2 * len(asked.body["prompt"].split())  # two tokens a word, three around them
        events = [event(word())] * count + [event(usage(count, read)), event(b"[DONE]")]
        return await send(CHUNKED + stream(events))

    with served(script) as server:
        run = measure_server(server.url, load(3, prompt=serving.Lengths(103)), overhead=False)
    assert run.prompts == "words"
    assert run.input_tokens.tolist() == [103, 103, 103]
    assert any("takes no token ids" in each for each in run.findings)


def test_a_field_that_is_refused_is_left_out_and_that_is_said() -> None:
    async def script(asked: Asked, send: Send) -> Any:
        for name in ("stream_options", "max_completion_tokens"):
            if name in asked.body:
                said = {"detail": f"Unsupported fields in the request: {{'{name}'}}"}
                return await send(whole(said, 422))
        return await plain(asked, send)

    with served(script) as server:
        run = measure_server(server.url, load(), chat=True, overhead=False)
        body = server.asked[-1].body
    assert run.summary["completed"] == 3
    assert body["max_tokens"] == 4
    assert "stream_options" not in body
    assert sum("The server takes no" in each for each in run.findings) == 2


def test_options_go_into_the_request() -> None:
    with served() as server:
        measure_server(server.url + "/v1/", load(), model="mine", temperature=0.5,
                       ignore_eos=True, warmup=2, overhead=False)  # fmt: skip
        assert len(server.asked) == 6  # the short one, two that warm up, three
        body = server.asked[-1].body
    assert (body["model"], body["temperature"], body["ignore_eos"]) == ("mine", 0.5, True)
    assert body["stream"] is True


def test_the_prompts_of_a_file_are_asked_in_their_order(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "one two"}, {"prompt": [5, 6, 7], "output_tokens": 2}, {"text": "three"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    with served() as server:
        words = ["measure-server", "--url", server.url, "--concurrency", "1", "--prompt", str(file),
                 "--output", "4", "--json", "--no-overhead"]  # fmt: skip
        assert cli.main(words) == 0
        asked = [(a.body["prompt"], limit_of(a)) for a in server.asked[1:]]
    assert asked == [("one two", 4), ([5, 6, 7], 2), ("three", 4)]
    assert json.loads(capsys.readouterr().out)["prompts"] == "of a file"

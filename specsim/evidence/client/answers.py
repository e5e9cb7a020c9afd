"""One answer of a server: what its chunks say, and when they came.

A chunk is an event with `choices`, as vLLM's benchmark counts them (vllm/benchmarks/lib/
endpoint_request_func.py): the first one ends TTFT, also if its text is empty; the gaps between them
are ITL; the last one ends the request.
"""

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specsim.evidence.client.http1 import Failure

MOST_MESSAGE = 200  # characters of what a server says of itself


@dataclass(slots=True)
class StreamedAnswer:
    """What came back for one request. Seconds are those of the clock of the run.

    `error` is None for an answer that ended well, "" while it is not there, else why it failed.
    `at_s` has a time for each chunk. `usage_output` and `usage_input` are the server's own counts.
    """

    number: int
    due_s: float = 0.0
    sent_s: float = 0.0
    asked_input: int = 0
    asked_output: int = 0
    at_s: "array[float]" = field(default_factory=lambda: array("d"))
    text_chunks: int = 0
    first_text_s: float | None = None
    usage_output: int | None = None
    usage_input: int | None = None
    texts: list[str] = field(default_factory=list)
    finish: str | None = None
    done: bool = False
    streamed: bool = True
    error: str | None = ""

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return self.error is None

    @property
    def text(self) -> str:
        """The whole text, reasoning and calls of tools included."""
        return "".join(self.texts)

    def take(self, name: str, data: str, now: float) -> None:
        """Take one event that came at `now`. Raises Failure for an error, and for what is no
        chunk."""
        if data == "[DONE]":
            self.done = True
            return
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            raise Failure(f"malformed stream: an event is no JSON: {data[:60]!r}") from None
        self.take_message(message, now, name)

    def take_message(self, message: Any, now: float, name: str = "") -> None:
        """Take the object of one event, or of an answer that does not stream."""
        if not isinstance(message, dict):
            raise Failure(f"malformed stream: an event is no object: {str(message)[:60]!r}")
        if name == "error" or message.get("error") or message.get("object") == "error":
            raise Failure(f"error in the stream: {said(message)}")
        usage = message.get("usage")
        if isinstance(usage, dict):
            self.usage_output = _count(usage, "completion_tokens", self.usage_output)
            self.usage_input = _count(usage, "prompt_tokens", self.usage_input)
        choices = message.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        choice = choices[0]
        if not isinstance(choice, dict):
            raise Failure("malformed stream: a choice is no object")
        self.at_s.append(now)
        text = text_of(choice)
        if text:
            self.texts.append(text)
            self.text_chunks += 1
            if self.first_text_s is None:
                self.first_text_s = now
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self.finish = finish

    def end(self) -> None:
        """The answer has ended. Raises Failure if it was cut, or brought nothing."""
        if not self.at_s:
            raise Failure("the answer holds no chunk")
        if not self.done and self.finish is None:
            raise Failure("the stream ended without [DONE] and without a finish_reason")
        self.error = None


def _count(usage: Mapping[str, Any], name: str, before: int | None) -> int | None:
    value = usage.get(name)
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
    return value if sound else before


def text_of(choice: Mapping[str, Any]) -> str:
    """All that a choice writes: text, content, reasoning, refusal, calls of tools."""
    text = choice.get("text")
    if isinstance(text, str):
        return text
    delta = choice.get("delta") or choice.get("message")
    if not isinstance(delta, dict):
        return ""
    found = [delta.get(n) for n in ("reasoning_content", "reasoning", "content", "refusal")]
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            found += [function.get("name"), function.get("arguments")]
    if found[0] == found[1]:  # both names for one text
        found[1] = None
    return "".join(part for part in found if isinstance(part, str))


def said(message: Any) -> str:
    """What a server says of an error, in one line."""
    found: Any = message
    for _ in range(3):
        if isinstance(found, dict):
            known = ("error", "message", "detail", "msg", "title")
            found = next((found[n] for n in known if found.get(n)), json.dumps(found)[:999])
        elif isinstance(found, list) and found:
            found = found[0]
    line = " ".join(str(found).split())
    return line if len(line) <= MOST_MESSAGE else f"{line[: MOST_MESSAGE - 2]} …"


def refusal(status: int, reason: str, content: bytes, location: str | None) -> str:
    """Why a request failed, from an answer with a status that is not 200."""
    if 300 <= status < 400:
        where = " ".join((location or "another address").split())[:MOST_MESSAGE]
        return f"HTTP {status}: redirects to {where}, which is not followed: give it as --url"
    text = content.decode("utf-8", "replace")
    try:
        message = said(json.loads(text))
    except (ValueError, RecursionError):
        message = reason if text.lstrip()[:1] == "<" or not text.strip() else said(text)
    return f"HTTP {status}: {message}" if message else f"HTTP {status}"

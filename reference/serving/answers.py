"""The JSON of answers: whole, as chunks of a stream, or an error.

Chunks of a stream differ in their text alone, so what surrounds it is made once per request.
"""

import json
import secrets
import time
from collections.abc import Sequence

from reference.serving.protocol import Ask


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict:
    """The `usage` of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Answer:
    """The JSON of one answer: whole, or as chunks of a stream."""

    def __init__(self, ask: Ask):
        self.ask = ask
        self.id = ("chatcmpl-" if ask.chat else "cmpl-") + secrets.token_hex(12)
        kind = "chat.completion" if ask.chat else "text_completion"
        self.head = {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": ask.model,
        }
        chunk = self.head | ({"object": "chat.completion.chunk"} if ask.chat else {})
        self.chunk_head = json.dumps(chunk)[:-1]
        if ask.chat:
            self.before = [
                f'data: {self.chunk_head}, "choices": [{{"index": {index}, "delta": {{"content": '
                for index in range(len(ask.requests))
            ]
            self.after = '}, "logprobs": null, "finish_reason": null}]}\n\n'
        else:
            self.before = [
                f'data: {self.chunk_head}, "choices": [{{"index": {index}, "text": '
                for index in range(len(ask.requests))
            ]
            self.after = ', "logprobs": null, "finish_reason": null}]}\n\n'

    def chunk(self, index: int, text: str, finish: str | None, emitted: int) -> str:
        """One event of the stream."""
        if finish is None and not self.ask.usage_always:
            return self.before[index] + json.dumps(text) + self.after
        said = {"delta": {"content": text} if text else {}} if self.ask.chat else {"text": text}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        more = {"choices": [choice]}
        if self.ask.usage_always:
            more["usage"] = usage_of(len(self.ask.requests[index].prompt), emitted)
        return f"data: {self.chunk_head}, {json.dumps(more)[1:]}\n\n"

    def first(self) -> str:
        """The roles of a chat, before its text; nothing otherwise."""
        if not self.ask.chat:
            return ""
        return "".join(
            before.removesuffix('"content": ') + '"role": "assistant", "content": ""' + self.after
            for before in self.before
        )

    def last(self, completion_tokens: int) -> str:
        """The usage, if it was asked for, and the end."""
        usage = ""
        if self.ask.usage:
            more = {"choices": [], "usage": usage_of(self.ask.prompt_tokens, completion_tokens)}
            usage = f"data: {self.chunk_head}, {json.dumps(more)[1:]}\n\n"
        return usage + "data: [DONE]\n\n"

    def whole(self, texts: Sequence[str], finishes: Sequence[str], completion_tokens: int) -> dict:
        """The answer that is not a stream."""
        choices = []
        for index, (text, finish) in enumerate(zip(texts, finishes, strict=True)):
            said = {"message": {"role": "assistant", "content": text}}
            choice = {"index": index, **(said if self.ask.chat else {"text": text})}
            choices.append(choice | {"logprobs": None, "finish_reason": finish})
        return self.head | {
            "choices": choices,
            "usage": usage_of(self.ask.prompt_tokens, completion_tokens),
        }


def error_body(status: int, message: str, field: str | None = None) -> dict:
    """The JSON of an error, as OpenAI's and vLLM's."""
    kinds = {404: "NotFoundError", 429: "RateLimitError", 400: "BadRequestError",
             413: "BadRequestError"}  # fmt: skip
    kind = kinds.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": field, "code": status}}

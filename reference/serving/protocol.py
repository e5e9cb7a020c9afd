"""Bodies of OpenAI's protocol: from JSON to requests.

Fields that would change the text and are not offered are refused; all other unknown fields are
accepted and have no effect.
"""

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from reference.sampling import SamplingParameters
from reference.serving.requests import Request
from reference.serving.slots import OWN_STOPS
from specsim.checks import SpecsimError

MOST_STOPS = 16
MOST_TEXTS = 128  # prompts x n of one request
DEFAULT_TOKENS = 16  # of /v1/completions, as OpenAI's
NOT_OFFERED: dict[str, tuple] = {  # fields that would change the answer, and values without effect
    "logprobs": (None, False), "top_logprobs": (None, 0), "echo": (None, False),
    "suffix": (None, ""), "logit_bias": (None, {}), "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0), "use_beam_search": (None, False), "best_of": (None, 1),
    "prompt_logprobs": (None,), "tools": (None, []), "bad_words": (None, []),
    "response_format": (None, {"type": "text"}), "guided_json": (None,), "guided_regex": (None,),
    "structured_outputs": (None,), "prompt_embeds": (None,), "stop_token_ids": (),
}  # fmt: skip


class ProtocolError(Exception):
    """An answer that is an error: its HTTP status, and one line."""

    def __init__(self, status: int, message: str, field: str | None = None):
        super().__init__(message)
        self.status, self.field = status, field


@dataclass(frozen=True, slots=True)
class Ask:
    """What a body asks for: the requests, and the form of the answer."""

    requests: list[Request]
    streams: bool
    usage: bool  # in a last chunk of its own
    usage_always: bool  # in every chunk
    chat: bool
    model: str

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts; once for all `n` texts of a prompt."""
        return sum(len(request.prompt) for request in self.requests if not request.copy)


def read_object(body: bytes) -> dict:
    """The JSON object in a body."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError(400, "the body is not valid JSON") from None
    if not isinstance(found, dict):
        raise ProtocolError(400, "the body must be a JSON object")
    return found


def number(
    body: dict, name: str, least: float, most: float, default: float, whole: bool = False
) -> float:
    """A number of the body within bounds; null is the default."""
    value = body.get(name)
    if value is None:
        return default
    known = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not known:
        raise ProtocolError(400, f"{name} must be a number, not {shown(value)}", name)
    if whole and value != int(value):
        raise ProtocolError(400, f"{name} must be a whole number, not {shown(value)}", name)
    if not least <= value <= most:
        raise ProtocolError(
            400, f"{name} must be between {least:g} and {most:g}, not {shown(value)}", name
        )
    return int(value) if whole else float(value)


def flag(body: dict, name: str) -> bool:
    """A yes or no of the body; null is no."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ProtocolError(400, f"{name} must be true or false, not {shown(value)}", name)
    return bool(value)


def shown(value: object) -> str:
    """A value of the body, short enough for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def prompts_of(body: dict, encode: Callable[[str], list[int]], vocab_size: int) -> list[list[int]]:
    """The prompts of /v1/completions: a string, ids, or a list of either."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [encoded(prompt, encode)]
    if not isinstance(prompt, list) or not prompt:
        raise ProtocolError(
            400, "prompt must be a string, a list of strings, a list of ids, or lists of ids",
            "prompt",
        )  # fmt: skip
    if all(isinstance(part, int) for part in prompt):
        return [checked_ids(prompt, vocab_size)]
    if len(prompt) > MOST_TEXTS:
        raise ProtocolError(400, f"at most {MOST_TEXTS} prompts at once", "prompt")
    if all(isinstance(part, str) for part in prompt):
        return [encoded(part, encode) for part in prompt]
    if all(isinstance(part, list) for part in prompt):
        return [checked_ids(part, vocab_size) for part in prompt]
    raise ProtocolError(400, "the prompts must all be strings, or all be lists of ids", "prompt")


def encoded(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """The ids of a text of the body."""
    try:
        text.encode()  # half a surrogate pair is no text
        return encode(text)
    except (UnicodeEncodeError, SpecsimError) as error:
        raise ProtocolError(400, f"the tokenizer cannot read this text: {error}") from None


def checked_ids(ids: list, vocab_size: int) -> list[int]:
    """The ids, if all are tokens."""
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise ProtocolError(
                400, f"token ids must be between 0 and {vocab_size - 1}, not {shown(token)}"
            )
    return list(ids)


def strings(body: dict, name: str) -> tuple[str, ...]:
    """A string or a list of them."""
    value = body.get(name)
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ProtocolError(400, f"{name} must be a string or a list of strings", name)
    if len(found) > MOST_STOPS or any(not 0 < len(text) <= 200 for text in found):
        raise ProtocolError(
            400, f"{name} may have up to {MOST_STOPS} strings of 1 to 200 characters", name
        )
    return tuple(found)


def sampling_of(body: dict) -> SamplingParameters:
    """How the body samples; temperature 1 by default, as OpenAI's. vLLM's top_k of 0 or -1 is
    none."""
    top_k = number(body, "top_k", -1, 1e9, -1, whole=True)
    temperature = number(body, "temperature", 0, 100, 1.0)
    try:
        return SamplingParameters(
            temperature if temperature >= 1e-2 or not temperature else 1e-2,  # vLLM's lowest, too
            int(top_k) if top_k > 0 else None,
            number(body, "top_p", 0, 1, 1.0),
            number(body, "min_p", 0, 1, 0.0),
            number(body, "repetition_penalty", 0, 100, 1.0),
        )
    except SpecsimError as error:
        raise ProtocolError(400, str(error)) from None


def requests_of(
    body: dict, prompts: list[list[int]], context: int, vocab_size: int, chat: bool, seconds: float
) -> list[Request]:
    """A request for each prompt and each of its `n` texts. Raises ProtocolError for a field that
    is not offered, a value out of range, and a prompt that does not fit the context."""
    for name, harmless in NOT_OFFERED.items():
        if harmless and name in body and body[name] not in harmless:
            raise ProtocolError(400, f"{name} is not offered by this server; leave it out", name)
    copies = int(number(body, "n", 1, MOST_TEXTS, 1, whole=True))
    if copies * len(prompts) > MOST_TEXTS:
        raise ProtocolError(400, f"at most {MOST_TEXTS} texts (prompts x n) at once", "n")
    sampling = sampling_of(body)
    seed = body.get("seed")
    seed = secrets.randbits(62) if seed is None else int(
        number(body, "seed", -(2.0**63), 2.0**63, 0, whole=True)
    )  # fmt: skip
    named = (
        "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    )
    wanted = number(body, named, 1, 1e9, 0, whole=True)
    least = int(number(body, "min_tokens", 0, 1e9, 0, whole=True))
    ids = body.get("stop_token_ids") or []
    if not isinstance(ids, list) or len(ids) > OWN_STOPS:
        raise ProtocolError(
            400, f"stop_token_ids must be a list of at most {OWN_STOPS} ids", "stop_token_ids"
        )
    shared = {
        "sampling": sampling,
        "stop_ids": frozenset(checked_ids(ids, vocab_size)),
        "ignores_end": flag(body, "ignore_eos"),
        "stops": strings(body, "stop"),
        "deadline": time.monotonic() + seconds,
    }
    requests = []
    for prompt in prompts:
        if not prompt:
            raise ProtocolError(400, "the prompt is empty: give at least one token", "prompt")
        room = context - len(prompt)
        most = int(wanted) or (room if chat else min(DEFAULT_TOKENS, room))
        if room < 1 or most > room:
            raise ProtocolError(
                400,
                f"this model's maximum context length is {context} tokens; the prompt has "
                f"{len(prompt)} and {int(wanted) or 1} are to be generated: shorten one of them",
                named,
            )
        if least > most:
            raise ProtocolError(400, f"min_tokens must be at most {most}, not {least}")
        for copy in range(copies):
            own = {"seed": seed + len(requests), "min_tokens": least, "copy": copy}
            requests.append(Request(prompt, most, **own, **shared))
    return requests

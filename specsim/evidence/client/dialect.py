"""What a server understands, found by asking it: its model, token ids or text, optional fields.

Two short requests are sent. A field that a refusal names is left out, or goes by its older name,
and that is said; token ids that are refused become text.
"""

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

from specsim.checks import SpecsimError, quoted
from specsim.evidence.client.address import Address
from specsim.evidence.client.answers import StreamedAnswer, refusal
from specsim.evidence.client.clock import Clock
from specsim.evidence.client.http1 import Connections, Failure
from specsim.evidence.client.prompts import Prompts
from specsim.evidence.client.streams import ask

MOST_BYTES = 2**22  # of a page that is no stream
FEW, MANY = 16, 80  # words, or ids, of the two requests
SHORT = 2  # tokens of their answers
PROBES = 10**9  # the numbers of their prompts: no request of a run has them
TRIES, LISTING_S = 6, 30.0


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to ask a server: its model, its endpoint, and the fields that it takes.

    `options` are sent with each request as they are; `limit` names the field of the longest answer.
    """

    model: str
    chat: bool
    limit: str
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def path(self, address: Address) -> str:
        """The path of the endpoint."""
        return f"{address.base}{'/chat/completions' if self.chat else '/completions'}"

    def body(self, prompt: Any, output_tokens: int) -> bytes:
        """The body of a request."""
        asked: dict[str, Any] = {"model": self.model}
        if self.chat:
            alone = isinstance(prompt, str)
            asked["messages"] = [{"role": "user", "content": prompt}] if alone else prompt
        else:
            asked["prompt"] = prompt
        asked |= {self.limit: output_tokens, "stream": True} | self.options
        return json.dumps(asked, separators=(",", ":")).encode()


def dialect_of(
    model: str, chat: bool, temperature: float | None = None, ignore_eos: bool = False
) -> Dialect:
    """The dialect to begin with: that of vLLM's benchmark."""
    options: dict[str, Any] = {"stream_options": {"include_usage": True}}
    if temperature is not None:
        options["temperature"] = temperature
    if ignore_eos:
        options["ignore_eos"] = True
    return Dialect(model, chat, "max_completion_tokens" if chat else "max_tokens", options)


async def first_model(pool: Connections) -> str:
    """The first model that the server lists. Raises SpecsimError if it lists none."""
    path = f"{pool.address.base}/models"
    url = pool.address.shown + "/models"
    try:
        async with asyncio.timeout(LISTING_S):
            response, content = await pool.fetch("GET", path, MOST_BYTES)
        if response.status != 200:
            raise Failure(refusal(response.status, response.reason, content,
                                  response.headers.get("location")))  # fmt: skip
        listed = json.loads(content)
        models = [each["id"] for each in listed["data"]]
        if not models or not isinstance(models[0], str):
            raise ValueError
    except Failure as failure:
        why = pool.key.hide(str(failure))
        doubt = "is it running" if failure.unreachable else "is it a server of the OpenAI protocol"
        raise SpecsimError(f"{url}: {why}; {doubt}?") from None
    except TimeoutError:
        raise SpecsimError(f"{url} does not answer within {LISTING_S:g} s") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SpecsimError(
            f"{url} lists no model: is it a server of the OpenAI protocol? Give --url its address "
            "up to /v1, or --model"
        ) from None
    return str(models[0])


async def understood(
    pool: Connections, dialect: Dialect, prompts: Prompts, clock: Clock, timeout_s: float
) -> tuple[Dialect, Prompts]:
    """The dialect and the kind of prompts that the server takes, after two short requests.

    Raises SpecsimError if it refuses them, or does not answer.
    """
    if not prompts.written:
        prompts = replace(prompts, as_ids=not dialect.chat)
    for _ in range(TRIES):
        few = await _asked(pool, dialect, prompts, FEW, clock, timeout_s)
        if few.completed and _much_longer(few) and dialect.limit != "max_tokens":
            few.error = f"{dialect.limit} is not kept"
        if few.completed:
            break
        next_one = _without(dialect, few.error or "")
        if next_one is not None:
            dialect = next_one
        elif prompts.as_ids and (few.error or "").startswith(("HTTP 400", "HTTP 422", "HTTP 5")):
            prompts = replace(prompts, as_ids=False)
            dialect = _noting(dialect, "The server takes no token ids: prompts are words.")
        else:
            raise SpecsimError(_refused(pool, dialect, few))
    else:
        raise SpecsimError(_refused(pool, dialect, few))
    if prompts.written or (prompts.as_ids and few.usage_input in (None, FEW)):
        return dialect, prompts
    if prompts.as_ids:
        prompts = replace(prompts, as_ids=False)
        dialect = _noting(
            dialect,
            f"The server counts {few.usage_input} tokens in a prompt of {FEW} token ids: prompts "
            "are words.",
        )
        few = await _asked(pool, dialect, prompts, FEW, clock, timeout_s)
    many = await _asked(pool, dialect, prompts, MANY, clock, timeout_s)
    if few.usage_input and many.usage_input:
        prompts = prompts.fitted((FEW, few.usage_input), (MANY, many.usage_input))
    else:
        dialect = _noting(
            dialect,
            "The server does not count the tokens of prompts: each word is taken as one token.",
        )
    return dialect, prompts


async def _asked(
    pool: Connections, dialect: Dialect, prompts: Prompts, size: int, clock: Clock, timeout_s: float
) -> StreamedAnswer:
    """A short request: `size` words or ids, or the first prompt of the file."""
    answer = StreamedAnswer(size, asked_output=SHORT)
    body = dialect.body(prompts.of(0 if prompts.written else PROBES + size, size), SHORT)
    message = pool.message("POST", dialect.path(pool.address), body)
    await ask(pool, message, answer, clock, timeout_s)
    return answer


def _much_longer(answer: StreamedAnswer) -> bool:
    return answer.text_chunks > SHORT + 2 or (answer.usage_output or 0) > SHORT + 2


def _without(dialect: Dialect, error: str) -> Dialect | None:
    """The dialect without the field that a refusal names; None if it names none."""
    if dialect.limit in error and dialect.limit != "max_tokens":
        note = f"The server takes no {dialect.limit}: max_tokens is sent."
        return _noting(replace(dialect, limit="max_tokens"), note)
    for name in dialect.options:
        if name in error and name != "ignore_eos" and error.startswith(("HTTP 400", "HTTP 422")):
            kept = {key: value for key, value in dialect.options.items() if key != name}
            return _noting(replace(dialect, options=kept), f"The server takes no {name}: left out.")
    return None


def _noting(dialect: Dialect, note: str) -> Dialect:
    return replace(dialect, notes=(*dialect.notes, note))


def _refused(pool: Connections, dialect: Dialect, answer: StreamedAnswer) -> str:
    url = f"{pool.address.shown}{dialect.path(pool.address).removeprefix(pool.address.base)}"
    why = pool.key.hide(answer.error or "no answer")
    remedy = ""
    if why.startswith(("HTTP 401", "HTTP 403")):
        held = "the key in the environment" if pool.key else "no key is in the environment"
        remedy = f" ({held}: SPECSIM_API_KEY or OPENAI_API_KEY)"
    elif why.startswith("HTTP 404"):
        remedy = f" (model {quoted(dialect.model)}; --url is the address up to /v1)"
    return f"{url}: {why}{remedy}"

"""Text as it is decoded, in pieces that are final; stop strings may span several tokens."""

from collections.abc import Iterable, Iterator

from reference.checkpoints import Tokenizer
from reference.decoding import stream
from reference.drafters import Drafter
from reference.transformer import Transformer
from specsim.checks import SpecsimError

UNFINISHED = "\ufffd"  # what a tokenizer returns for part of a character


def stream_text(
    target: Transformer,
    drafter: Drafter,
    prompt: str,
    tokenizer: Tokenizer,
    *,
    stop: str | Iterable[str] = (),
    **options,
) -> Iterator[str]:
    """Continue the text `prompt`, yielding pieces of the new text as they become final.

    The text ends before the first of the `stop` strings, which may begin and end inside tokens. The
    other options are those of `decoding.stream`. Raises SpecsimError for an empty stop string, and
    for whatever `stream` raises it.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise SpecsimError("a stop string must not be empty")
    steps = stream(target, drafter, tokenizer.encode(prompt), **options)
    return pieces(steps, tokenizer, stops)


def pieces(
    steps: Iterable[list[int]], tokenizer: Tokenizer, stops: tuple[str, ...]
) -> Iterator[str]:
    """Decode all tokens so far after each step; hold back what may be the start of a stop."""
    tokens: list[int] = []
    text, told = "", 0
    for step in steps:
        tokens += step
        text = tokenizer.decode(tokens)
        ends = [place for stop in stops if (place := text.find(stop, told)) >= 0]
        if ends:
            text = text[: min(ends)]
            break
        final = len(text) - held_back(text, stops)
        if final > told:
            yield text[told:final]
            told = final
    if text[told:]:
        yield text[told:]


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end are not final: an unfinished character, and before it the
    longest start of a stop string."""
    whole = text.rstrip(UNFINISHED)
    begun = (n for stop in stops for n in range(1, len(stop)) if whole.endswith(stop[:n]))
    return len(text) - len(whole) + max(begun, default=0)

"""What the requests ask: random token ids, random words, or the lines of a file.

Random prompts share no beginning, so that a prefix cache has nothing to give. As token ids, their
length is exact; a server that takes text alone gets common words, about as many tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from specsim.checks import SpecsimError
from specsim.checks.extras import needed
from specsim.checks.files import read_text
from specsim.checks.limits import require_limit

# Without a tokenizer the size of the vocabulary is not known: these ids are in every one, and
# beyond the special tokens at its beginning.
LEAST_ID, MOST_ID = 300, 1000
COMMON = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law car
city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music the of and to in is that for it as
was with be by on not he his but at are this have from or had an they which one you were all her
she there would their we him been has when who will no more if out so up said what its about than
into them can only other new some could these two may first then do any like my now over such our
me even most made after also did many
"""
WORDS = COMMON.split()


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt that somebody wrote: text, token ids or messages of a chat, and, where it is known,
    how many tokens to answer."""

    content: str | tuple[int, ...] | tuple[Mapping[str, Any], ...]
    output_tokens: int | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it is a list of messages."""
        return isinstance(self.content, tuple) and isinstance(self.content[0], Mapping)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer of a file, which counts the tokens of texts."""

    counts: Any

    def count(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        return len(self.counts.encode(text, add_special_tokens=False).ids)

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return int(self.counts.get_vocab_size())


def tokenizer_of(path: str | Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, or in a folder that has one.

    Raises SpecsimError if it cannot be read, MissingExtra if `tokenizers` is not installed.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    text = read_text(file, "json_bytes")
    with needed("--tokenizer"):
        import tokenizers
    try:
        return Tokenizer(tokenizers.Tokenizer.from_str(text))
    except Exception as error:
        raise SpecsimError(
            f"{file} is no tokenizer.json: {' '.join(str(error).split())[:200]}"
        ) from None


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes the prompt of each request: those of a file in their order, else random ones.

    `as_ids`: token ids, else words. A text of `w` words has about `per_word` x w + `fixed` tokens.
    """

    seed: int = 0
    written: tuple[Written, ...] = ()
    as_ids: bool = False
    least_id: int = LEAST_ID
    most_id: int = MOST_ID
    per_word: float = 1.0
    fixed: float = 0.0

    def of(self, number: int, tokens: int) -> str | list[int] | list[Mapping[str, Any]]:
        """The prompt of a request, of `tokens` tokens if it is a random one."""
        if self.written:
            content = self.written[number % len(self.written)].content
            return content if isinstance(content, str) else list(content)  # type: ignore[return-value]
        random = np.random.default_rng([self.seed, 5, number])
        if self.as_ids:
            found: list[int] = random.integers(self.least_id, self.most_id, tokens).tolist()
            return found
        return self.words(max(1, round((tokens - self.fixed) / self.per_word)), random)

    def words(self, count: int, random: np.random.Generator) -> str:
        """So many random words."""
        return " ".join(WORDS[k] for k in random.integers(0, len(WORDS), count).tolist())

    def fitted(self, few: tuple[int, int], many: tuple[int, int]) -> "Prompts":
        """With the tokens of a word as two texts, each of (words, tokens), show them."""
        per_word = (many[1] - few[1]) / (many[0] - few[0])
        if not 0.2 <= per_word <= 20.0:
            return self
        return replace(self, per_word=per_word, fixed=max(0.0, few[1] - per_word * few[0]))


def is_lengths(text: str) -> bool:
    """Whether a file of --prompt holds lengths, a number in each line, and no prompts."""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and all(line.split(",")[0].strip().isdecimal() for line in lines[:1000])


def written_prompts(path: str | Path) -> tuple[Written, ...]:
    """The prompts of a file: a text in each line, or a JSON object in each line with `prompt` (a
    text or token ids), `text` or `messages`, and perhaps `output_tokens` or `max_tokens`.

    Raises SpecsimError for a file that holds none, with the number of the line that is wrong.
    """
    text = read_text(path, "log_bytes")
    lines = [line for line in text.splitlines() if line.strip()]
    require_limit("requests", len(lines), f"the prompts of {path}")
    if not lines:
        raise SpecsimError(f"{path} holds no prompt")
    if not all(line.lstrip()[:1] == "{" for line in lines):
        return tuple(Written(line) for line in lines)
    return tuple(_written(line, f"line {n} of {path}") for n, line in enumerate(lines, 1))


def _written(line: str, place: str) -> Written:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise SpecsimError(f"{place} is not valid JSON") from None
    found = next((data[n] for n in ("prompt", "messages", "text") if data.get(n)), None)
    limits = [data[n] for n in ("output_tokens", "max_tokens") if data.get(n) is not None]
    tokens = limits[0] if limits else None
    if tokens is not None:
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise SpecsimError(f"{place}: output_tokens must be a whole number >= 1")
        require_limit("tokens", tokens, f"output_tokens in {place}")
    if isinstance(found, str):
        return Written(found, tokens)
    if isinstance(found, list) and found and _all_are(found, int):
        return Written(tuple(found), tokens)
    if isinstance(found, list) and found and _all_are(found, dict):
        return Written(tuple(found), tokens)
    raise SpecsimError(
        f"{place} needs prompt (a text or token ids), text, or messages (a list of objects)"
    )


def _all_are(values: Sequence[Any], kind: type) -> bool:
    return all(isinstance(value, kind) and not isinstance(value, bool) for value in values)

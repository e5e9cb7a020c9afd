"""The Jinja environment that templates of chats are written for: what transformers gives them."""

import json
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's words, for training; here they
    are text like any other."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> nodes.Node:
        """The block, with a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def chat_environment() -> ImmutableSandboxedEnvironment:
    """A sandbox with the blocks, functions and filters that a template may use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": now_as}
    environment.filters["tojson"] = to_json
    return environment


def refuse(message: str) -> None:
    """The template's own error."""
    raise TemplateError(message)


def now_as(form: str) -> str:
    """Today's date or the time, in the form of strftime."""
    return datetime.now().strftime(form)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes what HTML reserves, and sorts keys."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )

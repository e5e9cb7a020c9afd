"""From the messages of a chat to the text of a prompt: by the model's template, or a plain one."""

import json
from collections.abc import Callable
from pathlib import Path

from reference.serving.protocol import ProtocolError
from specsim.checks import SpecsimError
from specsim.checks.files import read_json

Render = Callable[[list[dict]], str]
ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_MESSAGES = 1000


def plain(messages: list[dict]) -> str:
    """A line for each message, "role: content", and the assistant's turn."""
    lines = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n".join([*lines, "assistant:"])


def template_of(folder: Path) -> tuple[Render, str]:
    """How chats with the checkpoint in `folder` are written, and a sentence that says so."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    source = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several by name
        named = {each.get("name"): each.get("template") for each in source}
        source = named.get("default")
    if not isinstance(source, str):
        return plain, "the tokenizer has no chat template: chats are plain lines, 'role: content'"
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return plain, "jinja2 is not installed: chats are plain lines, not the model's template"
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise SpecsimError(f"{folder}: the chat template cannot be read: {error}") from None
    tokens = {name: _token(settings.get(name)) for name in ("bos_token", "eos_token")}

    def render(messages: list[dict]) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=True, **tokens)
        except (TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(400, f"the chat template refuses this: {error}") from None

    return render, f"chats use the template of {folder.name}"


def _refuse(message: str) -> None:
    raise ValueError(message)


def _token(value: object) -> str:
    """A special token of tokenizer_config.json: a string, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def messages_of(body: dict) -> list[dict]:
    """The messages of a body, their parts of text joined."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_MESSAGES:
        raise ProtocolError(
            400, f"messages must be a list of 1 to {MOST_MESSAGES} messages", "messages"
        )
    found = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise ProtocolError(
                400, f"each message needs a role: one of {', '.join(ROLES)}", "messages"
            )
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            if len(parts) != len(content) or not all(isinstance(part, str) for part in parts):
                raise ProtocolError(400, "only parts of text are offered in messages", "messages")
            content = "".join(parts)
        if content is None:
            content = ""
        if not isinstance(content, str):
            raise ProtocolError(400, "a message's content must be text", "messages")
        found.append({"role": role, "content": content})
    return found

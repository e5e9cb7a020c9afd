"""From the messages of a chat to the text of a prompt: by the model's template, or a plain one."""

from collections.abc import Callable
from pathlib import Path

from reference.serving.protocol import ProtocolError
from reference.weights import in_one_line
from specsim.checks import SpecsimError
from specsim.checks.files import read_bytes, read_json

Render = Callable[[list[dict]], str]
ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_MESSAGES = 1000


def plain(messages: list[dict]) -> str:
    """A line for each message, "role: content", and the assistant's turn."""
    lines = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n".join([*lines, "assistant:"])


def template_of(folder: Path) -> tuple[Render, str]:
    """How chats with the checkpoint in `folder` are written, and a sentence that says so.

    Raises SpecsimError for a template that cannot be read, or a file that should hold one.
    """
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    source = source_of(folder / "chat_template.jinja", config, settings)
    if source is None:
        return plain, "the tokenizer has no chat template: chats are plain lines, 'role: content'"
    try:
        from reference.serving.templates import chat_environment
    except ImportError:
        return plain, "jinja2 is not installed: chats are plain lines, not the model's template"
    try:
        template = chat_environment().from_string(source)
    except Exception as error:  # Jinja's, or Python's for what Jinja makes of it
        raise SpecsimError(
            f"{folder}: the chat template cannot be read: {in_one_line(error)}"
        ) from None
    given: dict[str, object] = {"add_generation_prompt": True, "tools": None, "documents": None}
    given |= {name: _token(settings.get(name)) for name in ("bos_token", "eos_token")}

    def render(messages: list[dict]) -> str:
        try:
            return template.render(messages=messages, **given)
        except Exception as error:  # a template is a program, which may raise anything
            raise ProtocolError(
                400, f"the chat template refuses this: {in_one_line(error)}"
            ) from None

    return render, f"chats use the template of {folder.name}"


def source_of(file: Path, config: Path, settings: dict) -> str | None:
    """The template in `file`, or else in the `settings` that `config` holds; None if neither has
    one. Raises SpecsimError for something else in its place."""
    if file.is_file():
        try:
            return read_bytes(file).decode("utf-8")
        except UnicodeDecodeError as error:
            raise SpecsimError(f"{file} is not text in UTF-8: {error.reason}") from None
    source = settings.get("chat_template")
    named = source if isinstance(source, list) else [{"name": "default", "template": source}]
    for each in named:
        if not isinstance(each, dict) or not isinstance(each.get("template"), str | None):
            raise SpecsimError(
                f"{config}: chat_template must be a text, or a list of objects with name and "
                f"template, not {source!r:.100}"
            )
    return next((each["template"] for each in named if each.get("name") == "default"), None)


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

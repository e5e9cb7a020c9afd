"""Where a server is, and the key that it asks for; the key is shown nowhere."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from specsim.checks import SpecsimError, quoted

KEYS = ("SPECSIM_API_KEY", "OPENAI_API_KEY")  # variables of the environment, the first one counts
LOCAL = ("localhost", "127.0.0.1", "::1")
ENDPOINTS = {"/chat/completions": True, "/completions": False}  # and whether it is a chat


@dataclass(frozen=True, slots=True)
class Address:
    """A server: `root` is the path that it is mounted at, `base` that of its OpenAI protocol.

    `chat` is what the address itself says of its endpoint, None where it names none.
    """

    secure: bool
    host: str
    port: int
    root: str
    base: str
    chat: bool | None

    @property
    def netloc(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address for a person."""
        return f"{'https' if self.secure else 'http'}://{self.netloc}{self.base}"


def address_of(url: str) -> Address:
    """The server that an address such as http://127.0.0.1:8000, with or without /v1, means.

    Raises SpecsimError for what is no such address, and for one with a password or a query in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # ValueError for a port that is no number
    except ValueError as error:
        raise SpecsimError(f"--url {quoted(url)} is no address: {error}") from None
    sound = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or port == 0 or not sound:
        raise SpecsimError(
            f"--url must be an address such as http://127.0.0.1:8000, not {quoted(url)}"
        )
    if parts.username is not None or parts.password is not None:
        raise SpecsimError(f"--url must not hold a key: give it as {KEYS[0]} in the environment")
    if parts.query or parts.fragment:
        raise SpecsimError("--url must end before any ? or #: it is the address up to /v1")
    path, chat = parts.path.rstrip("/"), None
    for end, is_chat in ENDPOINTS.items():
        if path.endswith(end):
            path, chat = path.removesuffix(end), is_chat
            break
    root = path.removesuffix("/v1")
    base = path if path.endswith("/v1") else f"{path}/v1"
    secure = parts.scheme == "https"
    return Address(secure, host, port or (443 if secure else 80), root, base, chat)


class Key:
    """The key of a server. It goes into one header; its text and its repr are `a key`."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        value = value or None
        if value is not None and not (value.isascii() and value.isprintable()):
            raise SpecsimError(
                f"the key in {' or '.join(KEYS)} holds characters that no header can: give it "
                "without line ends"
            )
        self._value = value

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> "Key":
        """The key that the environment holds, if any."""
        held = os.environ if environment is None else environment
        return cls(next((held[name] for name in KEYS if held.get(name)), None))

    def __bool__(self) -> bool:
        return self._value is not None

    def __repr__(self) -> str:
        return "a key" if self else "no key"

    @property
    def header(self) -> str:
        """The line of the header, or nothing."""
        return f"Authorization: Bearer {self._value}\r\n" if self else ""

    def hide(self, text: str) -> str:
        """A text of the server without the key, which it may repeat."""
        return text if self._value is None else text.replace(self._value, "[key]")

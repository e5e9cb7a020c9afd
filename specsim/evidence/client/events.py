"""Server-sent events, taken from bytes as they come: any line end, any cut, comments, names.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from specsim.evidence.client.http1 import Failure

MOST = 2**24  # bytes of one event


class Events:
    """Reads the events of one stream.

    Characters may be cut anywhere: an event is decoded whole. Lines end by LF, CR LF or CR.
    """

    __slots__ = ("_after_return", "_data", "_name", "_rest")

    def __init__(self) -> None:
        self._rest, self._name, self._after_return = b"", b"", False
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[tuple[str, str]]:
        """(name, data) of each event that ends in the next bytes; most have no name."""
        if self._after_return and piece[:1] == b"\n":
            piece = piece[1:]
            self._after_return = False
        if not piece:
            return []
        self._after_return = piece[-1:] == b"\r"
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MOST:
            raise Failure("malformed stream: an event does not end")
        return [event for line in lines if (event := self._line(line)) is not None]

    def end(self) -> list[tuple[str, str]]:
        """The event that the end of the stream ends: some servers leave out its empty line."""
        found = [self._line(self._rest), self._line(b"")]
        self._rest = b""
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> tuple[str, str] | None:
        if not line:
            return self._event()
        field, colon, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif field == b"error":  # llama.cpp once wrote `error: {…}`
            self._name, self._data = b"error", [value.removeprefix(b" ")]
        elif field and field not in (b"id", b"retry") and colon and line[:1] in b"{[<":
            shown = line[:60].decode("utf-8", "replace")
            raise Failure(f"malformed stream: a line that is no event: {shown!r}")
        return None

    def _event(self) -> tuple[str, str] | None:
        data, name = self._data, self._name
        self._data, self._name = [], b""
        if not data:
            return None
        try:
            return name.decode(), b"\n".join(data).decode()
        except UnicodeDecodeError:
            raise Failure("malformed stream: an event is not text in UTF-8") from None

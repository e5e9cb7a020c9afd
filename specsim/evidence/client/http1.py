"""HTTP/1.1 over asyncio streams: what a benchmark needs, and nothing between it and the socket.

A body is read as it comes: of a known length, in chunks, or up to the end of the connection, plain
or packed by gzip. Connections are kept and used again. Redirections are not followed.
"""

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from specsim.evidence.client.address import Address, Key

PIECE = 2**16  # bytes of one read
HANDSHAKE_S = 10.0
MOST_HEADERS, MOST_PIECE, MOST_SIZE_LINE = 200, 2**26, 2**12
BREAKS = (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)


class Failure(Exception):
    """Why a request failed, in a few words that others may share. `unreachable`: no connection."""

    def __init__(self, reason: str, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


class Chunked:
    """Takes chunked transfer coding apart, whatever pieces it comes in."""

    __slots__ = ("_left", "_line", "_state", "done")

    def __init__(self) -> None:
        self._left, self._line, self._state, self.done = 0, b"", "size", False

    def feed(self, data: bytes) -> bytes:
        """The content in the next bytes. Raises Failure for what is not chunked."""
        found = []
        while data and not self.done:
            if self._state == "data":
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                found.append(part)
                if not self._left:
                    self._state = "after"
                continue
            line, end, data = data.partition(b"\n")
            self._line += line
            if len(self._line) > MOST_SIZE_LINE:
                raise Failure("malformed HTTP: a line of the chunked body does not end")
            if end:
                self._ended_line(self._line.strip())
                self._line = b""
        return found[0] if len(found) == 1 else b"".join(found)

    def _ended_line(self, line: bytes) -> None:
        if self._state == "size":
            digits = line.partition(b";")[0].strip()
            try:
                if not digits or len(digits) > 12 or not digits.isalnum():
                    raise ValueError
                self._left = int(digits, 16)
            except ValueError:
                raise Failure("malformed HTTP: a chunk without its size") from None
            self._state = "data" if self._left else "trailer"
        elif self._state == "after":
            if line:
                raise Failure("malformed HTTP: a chunk is longer than its size")
            self._state = "size"
        elif not line:  # the trailer ends
            self.done = True


@dataclass(slots=True)
class Response:
    """The head of an answer, and its body as it comes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    _connection: "Connection"
    whole: bool = False  # the body has been read to its end
    _closes: bool = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The decoded body, a piece for each read that brings one."""
        unpack = _unpacker(self.headers.get("content-encoding", ""))
        coding = self.headers.get("transfer-encoding", "").lower()
        chunked = Chunked() if "chunked" in coding else None
        length = None if chunked else self._length()
        self._closes = chunked is None and length is None
        read = self._connection.read
        while not (chunked.done if chunked else length == 0):
            data = await read()
            if not data:
                if not self._closes:
                    raise Failure("connection closed in the middle of the answer")
                break
            if chunked:
                data = chunked.feed(data)
            elif length is not None:
                data = data[:length]
                length -= len(data)
            if unpack is not None:
                data = _unpacked(unpack, data)
            if data:
                yield data
        self.whole = True

    def _length(self) -> int | None:
        if self.status in (204, 304):
            return 0
        told = self.headers.get("content-length")
        if told is None:
            return None
        if not told.isdecimal() or len(told) > 15:
            raise Failure("malformed HTTP: a Content-Length that is no number")
        return int(told)

    async def content(self, most: int) -> bytes:
        """The whole body, of at most so many bytes. Raises Failure for more."""
        found, size = [], 0
        async for piece in self.pieces():
            size += len(piece)
            if size > most:
                raise Failure(f"the answer is longer than {most:,} bytes")
            found.append(piece)
        return b"".join(found)

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request."""
        kept = self.headers.get("connection", "").lower()
        return self.whole and not self._closes and "close" not in kept


def _unpacker(coding: str) -> "zlib._Decompress | None":
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise Failure(f"the answer is packed by {coding[:20]!r}, though it was asked for unpacked")


def _unpacked(unpack: "zlib._Decompress", data: bytes) -> bytes:
    try:
        found = unpack.decompress(data, MOST_PIECE)
    except zlib.error:
        raise Failure("malformed HTTP: the packed answer is damaged") from None
    if unpack.unconsumed_tail:
        raise Failure("a packed answer expands too much")
    return found


class Connection:
    """One connection to the server, used for one request after another."""

    __slots__ = ("_reader", "_writer", "used")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self.used = reader, writer, False

    async def read(self) -> bytes:
        """What has come; nothing at the end of the connection."""
        try:
            return await self._reader.read(PIECE)
        except BREAKS:
            raise Failure("connection reset") from None

    async def ask(self, message: bytes) -> Response:
        """Send a request; the head of its answer. Raises Failure; with no reason in it, the
        connection had ended before it was used again."""
        stale = self.used
        self.used = True
        try:
            self._writer.write(message)
            first = await self._reader.readline()
            if not first:
                raise Failure("" if stale else "connection closed without an answer")
            return await self._head(first)
        except BREAKS:
            raise Failure("" if stale else "connection reset") from None
        except ValueError:  # a line beyond the limit of the reader
            raise Failure("malformed HTTP: a line of the head does not end") from None

    async def _head(self, line: bytes) -> Response:
        while True:
            version, _, rest = line.decode("latin-1").strip().partition(" ")
            code, _, reason = rest.partition(" ")
            if not version.startswith("HTTP/1.") or not code.isdecimal() or len(code) != 3:
                raise Failure("malformed HTTP: this is no web server")
            headers: dict[str, str] = {}
            for _ in range(MOST_HEADERS):
                line = await self._reader.readline()
                if line in (b"\r\n", b"\n"):
                    break
                name, colon, value = line.decode("latin-1").partition(":")
                if not colon:
                    raise Failure("malformed HTTP: a header without a colon")
                headers[name.strip().lower()] = value.strip()
            else:
                raise Failure("malformed HTTP: the head does not end")
            if code[0] != "1":  # 100 Continue is followed by the answer
                if version == "HTTP/1.0":
                    headers.setdefault("connection", "close")
                return Response(int(code), reason, headers, self)
            line = await self._reader.readline()

    @property
    def open(self) -> bool:
        """Whether the other side has not ended it, as far as this side knows."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    def end(self) -> None:
        """End it at once."""
        self._writer.transport.abort()


@dataclass(slots=True)
class Connections:
    """Connections to one server, and to no other."""

    address: Address
    key: Key
    tls: ssl.SSLContext | None = None
    idle: list[Connection] = field(default_factory=list)
    opened: int = 0

    def message(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole request as bytes."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.address.netloc}\r\n{self.key.header}"
            "User-Agent: specsim\r\nAccept: text/event-stream, application/json, text/plain\r\n"
            "Accept-Encoding: identity\r\n"
        )
        if method == "POST":
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode("latin-1") + b"\r\n" + body

    async def ask(self, message: bytes) -> tuple[Connection, Response]:
        """Send a request over a free connection, or a new one. A connection that turns out to have
        ended since its last use is replaced once."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.open:
                connection.end()
                continue
            try:
                return connection, await connection.ask(message)
            except Failure as failure:
                connection.end()
                if str(failure):
                    raise
            except BaseException:
                connection.end()
                raise
        connection = await self._connected()
        try:
            return connection, await connection.ask(message)
        except BaseException:
            connection.end()
            raise

    def give_back(self, connection: Connection, response: Response) -> None:
        """Keep the connection if it can take another request, else end it."""
        if response.reusable and connection.open:
            self.idle.append(connection)
        else:
            connection.end()

    async def fetch(self, method: str, path: str, most: int, body: bytes = b"") -> tuple[
        Response, bytes
    ]:  # fmt: skip
        """A whole answer."""
        connection, response = await self.ask(self.message(method, path, body))
        try:
            content = await response.content(most)
        except BaseException:
            connection.end()
            raise
        self.give_back(connection, response)
        return response, content

    async def _connected(self) -> Connection:
        try:
            streams = await asyncio.open_connection(
                self.address.host, self.address.port, ssl=self._tls(), limit=PIECE,
                ssl_handshake_timeout=HANDSHAKE_S if self.address.secure else None,
            )  # fmt: skip
        except ssl.SSLCertVerificationError as error:
            raise Failure(
                f"the certificate of {self.address.host} is not trusted ({error.verify_message}); "
                "SSL_CERT_FILE names a file of further ones to trust",
                unreachable=True,
            ) from None
        except ssl.SSLError:
            raise Failure("the server does not speak TLS: try http://", unreachable=True) from None
        except ConnectionAbortedError:  # no handshake in time
            raise Failure("the server does not speak TLS: try http://", unreachable=True) from None
        except ConnectionRefusedError:
            raise Failure("connection refused", unreachable=True) from None
        except (socket.gaierror, UnicodeError):
            raise Failure(f"no host is called {self.address.host}", unreachable=True) from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Failure(f"no connection: {why}", unreachable=True) from None
        self.opened += 1
        return Connection(*streams)

    def _tls(self) -> ssl.SSLContext | None:
        if not self.address.secure:
            return None
        if self.tls is None:
            self.tls = ssl.create_default_context()
        return self.tls

    def end(self) -> None:
        """End all connections that are free."""
        while self.idle:
            self.idle.pop().end()

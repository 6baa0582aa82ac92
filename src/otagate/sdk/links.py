"""The two links of docs/protocol.md on Trio: messages and chunks in and out, whatever carries them.

One task uses a link. `receive` may be cancelled without losing anything; a cancelled `send` leaves half a
frame behind, so that the link can only be closed. `heard_at` is when bytes of the gateway last arrived: one
frame may take longer than a heartbeat, and a pong waits behind it.
"""

import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import trio
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.trio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from otagate import limits
from otagate.errors import OtagateError
from otagate.wire import codec, decoder
from otagate.wire.constants import SUBPROTOCOL, TCP_PREFACE, WEBSOCKET_PATH, CloseCode, Opcode

OPEN_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0  # a gateway that takes nothing for so long is dead
CLOSE_TIMEOUT_S = 1.0
RECEIVE_BYTES = 64 * limits.KIB
CHUNK_MESSAGE_BYTES_MAX = limits.chunk_header_bytes + limits.chunk_bytes_max

Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]


class LinkLost(OtagateError):  # noqa: N818 - an event, not a mistake
    """The connection could not be made, or is over; `code` is the close code, 1006 without one."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})" if reason else str(code))
        self.code = code
        self.reason = reason


class Link(Protocol):
    """What the client needs of a connection."""

    @property
    def heard_at(self) -> float:
        """Trio time at which the last bytes of the gateway arrived."""

    async def receive(self) -> str | bytes:
        """The next message: text as str, a chunk as bytes. LinkLost at the end."""

    async def send(self, message: bytes) -> None:
        """Send one text message. LinkLost if it cannot leave."""

    async def ping(self) -> None:
        """Send a ping; its pong counts as heard. LinkLost if it cannot leave."""

    async def close(self, code: int = CloseCode.NORMAL) -> None:
        """Take leave in the link's way, within about CLOSE_TIMEOUT_S; never fails."""


def parse_url(url: str) -> SplitResult:
    """The parts of a device URL. ValueError, in words for whoever typed it."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "tcp", "tls") or not parts.hostname:
        raise ValueError(f"{url!r} is none of ws://, wss://, tcp://, tls:// HOST:PORT")
    if parts.scheme in ("tcp", "tls") and (parts.port is None or parts.path.strip("/")):
        raise ValueError(f"{url!r} needs a port and no path")
    return parts


async def dial_tcp(host: str, port: int) -> trio.abc.Stream:
    """The default way to a gateway."""
    return await trio.open_tcp_stream(host, port)


@contextlib.asynccontextmanager
async def open_link(
    url: str, dial: Dial = dial_tcp, context: ssl.SSLContext | None = None
) -> AsyncGenerator[Link, None]:
    """A link to ws://, wss://, tcp:// or tls:// HOST:PORT, closed at the end. LinkLost: none came about."""
    parts = parse_url(url)
    stream = _HeardStream(await _open_stream(parts, dial, context))
    opening = _open_websocket(parts, stream) if parts.scheme in ("ws", "wss") else _open_tcp(stream)
    async with opening as link:
        try:
            yield link
        finally:
            with trio.CancelScope(shield=True):
                await link.close()


async def _open_stream(parts: SplitResult, dial: Dial, context: ssl.SSLContext | None) -> trio.abc.Stream:
    assert parts.hostname is not None
    secure = parts.scheme in ("wss", "tls")
    try:
        with trio.fail_after(OPEN_TIMEOUT_S):
            stream = await dial(parts.hostname, parts.port or (443 if secure else 80))
            if secure:
                context = context or ssl.create_default_context()
                stream = trio.SSLStream(stream, context, server_hostname=parts.hostname)
                await stream.do_handshake()
            return stream
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise LinkLost(CloseCode.ABNORMAL, f"cannot reach {parts.netloc}: {_words(error)}") from error


class _HeardStream(trio.abc.Stream):
    """The stream below; remembers when bytes arrived last."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.heard_at = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.heard_at = trio.current_time()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


# -- WebSocket -------------------------------------------------------------------------------------


class _WebSocketLink:
    def __init__(self, connection: ClientConnection, stream: _HeardStream) -> None:
        self._connection = connection
        self._stream = stream

    @property
    def heard_at(self) -> float:
        return self._stream.heard_at

    async def receive(self) -> str | bytes:
        with _loss():
            return await self._connection.recv()

    async def send(self, message: bytes) -> None:
        with _loss(), trio.fail_after(SEND_TIMEOUT_S):
            await self._connection.send(message, text=True)

    async def ping(self) -> None:
        with _loss(), trio.fail_after(SEND_TIMEOUT_S):
            await self._connection.ping()

    async def close(self, code: int = CloseCode.NORMAL) -> None:
        await self._connection.aclose(code)


@contextlib.asynccontextmanager
async def _open_websocket(parts: SplitResult, stream: _HeardStream) -> AsyncGenerator[Link, None]:
    query = f"?{parts.query}" if parts.query else ""
    opening = connect(
        f"ws://{parts.netloc}{parts.path or WEBSOCKET_PATH}{query}",  # TLS, if any, is below the stream
        stream=stream,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
        user_agent_header=None,
        open_timeout=OPEN_TIMEOUT_S,
        ping_interval=None,
        close_timeout=CLOSE_TIMEOUT_S,
        max_size=CHUNK_MESSAGE_BYTES_MAX,
        max_queue=2,  # of chunks: the rest waits in the kernel
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(opening)
        except (WebSocketException, OSError, EOFError, trio.BrokenResourceError) as error:
            raise LinkLost(CloseCode.ABNORMAL, f"no WebSocket at {parts.netloc}: {_words(error)}") from error
        yield _WebSocketLink(connection, stream)


# -- raw TCP ---------------------------------------------------------------------------------------


class _TcpLink:
    def __init__(self, stream: _HeardStream) -> None:
        self._stream = stream
        self._decoder = decoder.Decoder(decoder.Link.TCP, from_client=False)
        self._events: deque[decoder.Event] = deque()

    @property
    def heard_at(self) -> float:
        return self._stream.heard_at

    async def receive(self) -> str | bytes:
        while True:
            while not self._events:
                await self._receive_some()
            match self._events.popleft():
                case decoder.Text(payload):
                    return payload.decode()
                case decoder.Binary(payload):
                    return payload
                case decoder.Ping(payload):
                    with trio.CancelScope(shield=True):  # the caller's cancellation must not cut the frame
                        await self._send_frame(Opcode.PONG, payload)
                case decoder.Close(code, reason):
                    raise LinkLost(code, reason.decode())
                case decoder.Broken(code, message):
                    raise LinkLost(code, f"the gateway broke the protocol: {message}")

    async def _receive_some(self) -> None:
        with _loss():
            data = await self._stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise LinkLost(CloseCode.ABNORMAL, "the gateway closed the connection")
        self._events.extend(self._decoder.receive_data(data))

    async def send(self, message: bytes) -> None:
        await self._send_frame(Opcode.TEXT, message)

    async def ping(self) -> None:
        await self._send_frame(Opcode.PING, b"")

    async def _send_frame(self, opcode: int, payload: bytes) -> None:
        with _loss(), trio.fail_after(SEND_TIMEOUT_S):
            await self._stream.send_all(codec.encode_tcp_frame(opcode, payload))

    async def close(self, code: int = CloseCode.NORMAL) -> None:
        with contextlib.suppress(LinkLost), trio.move_on_after(CLOSE_TIMEOUT_S):
            await self._send_frame(Opcode.CLOSE, code.to_bytes(2, "big"))
        await trio.aclose_forcefully(self._stream)


@contextlib.asynccontextmanager
async def _open_tcp(stream: _HeardStream) -> AsyncGenerator[Link, None]:
    async with stream:
        link = _TcpLink(stream)
        with _loss(), trio.fail_after(SEND_TIMEOUT_S):
            await stream.send_all(TCP_PREFACE)
        yield link


# -- both ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _loss() -> Generator[None, None, None]:
    """Whatever says that the connection is over becomes LinkLost."""
    try:
        yield
    except ConnectionClosed as error:
        received = error.rcvd
        if received is not None:
            raise LinkLost(received.code, received.reason) from error
        raise LinkLost(CloseCode.ABNORMAL, "the connection was lost") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as error:
        raise LinkLost(CloseCode.ABNORMAL, f"the connection was lost: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """What a person wants to read: the root of the matter, without class names if it has words."""
    while isinstance(error, trio.BrokenResourceError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

"""One operator's connection: hypercorn's HTTP/1.1 with what the open world needs on top.

hypercorn drives h11 and the application by a queue: its reader puts pieces of the body (at most
`max_app_queue_size` of 64 KiB: so a body is never held whole), the application takes them. Four things follow
from that which are mended here:

- It says 100 Continue before the application has seen the head. Here the application's first call of
  `receive` says it, so a refused upload is not sent at all.
- A reader whose piece nobody takes waits for ever, and the connection with it. So whatever the application
  leaves of the body is taken here, and thrown away, until hypercorn has closed its side.
- Closing a socket with unread data resets it, and the client loses the answer. So after an early answer the
  rest of the body is taken for `limits.admin_linger_ms` before the close.
- A send is shielded from cancellation, and a client that stopped reading would hold up a shutdown. Here it
  is not.

Below TLS there are two more waits on the client, each with a bound: the handshake has the time of a request's
head, and our close_notify `limits.admin_close_ms`, after which the socket is closed without.

It speaks HTTP/1 only: an upgrade to h2c or WebSocket is ignored, as a server may (RFC 9110 section 7.8). A
head that a proxy in front may have understood in another way than we would is refused (`fault_of`). No error
of one connection leaves it: `handle` is the last line.
"""

import re
from collections.abc import Callable
from typing import Any

import h11
import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from otagate import limits, logs
from otagate.admin.exchange import Receive, Scope, Send, standard_headers
from otagate.admin.faults import ErrorBody, ErrorDetails

log = logs.get("admin")

_WHOLE_URL = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HEAD_END = re.compile(rb"\n\r?\n")
_ODD_LINE = re.compile(rb"(?<!\r)\n|\n[ \t]")
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Connection(TCPServer):
    """hypercorn's connection on Trio, with `Http1` as its only protocol.

    `note_known` is called with the token's number when the peer has shown that it may ask something of us.
    """

    _client_ended = False  # it will send no other request: nothing to be idle for

    def __init__(
        self, app: Any, config: Config, context: Any, stream: Any, note_known: Callable[[int], None]
    ) -> None:
        super().__init__(app, config, context, ConnectionState({"note_known": note_known}), stream)

    async def handle(self) -> None:
        """Serve until either side closes. Only cancellation leaves."""
        try:
            await self.run()
        except* _BROKEN:
            pass
        except* Exception as error:
            log.failure("connection_failed", error)

    async def run(self) -> None:
        secured = isinstance(self.stream, trio.SSLStream)
        socket = (self.stream.transport_stream if secured else self.stream).socket
        try:
            if secured and not await self._shake_hands():
                return
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup() as tasks:
                self._task_group = tasks
                protocol: Any = Http1(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    self.state,
                    secured,
                    client,
                    server,
                    self.protocol_send,
                )
                self.protocol = protocol
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
                self._client_ended = True
                await self.idle_task.stop()
        finally:
            await self._close()

    async def _shake_hands(self) -> bool:
        """The TLS handshake. False: it took too long, or the server stops."""
        done = False
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                with trio.move_on_after(self.config.keep_alive_timeout):
                    await self.context.terminated.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            await self.stream.do_handshake()
            done = True
            nursery.cancel_scope.cancel()
        return done

    async def _close(self) -> None:
        with trio.move_on_after(limits.admin_close_ms / 1000):
            await super()._close()

    async def _initiate_server_close(self) -> None:
        with trio.move_on_after(limits.admin_close_ms / 1000):
            await super()._initiate_server_close()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            waits_in_vain = isinstance(event, Updated) and event.idle and self._client_ended
            await super().protocol_send(Closed() if waits_in_vain else event)
            return
        async with self.send_lock:
            try:
                await self.stream.send_all(event.data)
            # Busy: with the lock held, the one other sender is the close, which says that we have ended
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await self.protocol.handle(Closed())


class PatientH11(h11.Connection):
    """h11's connection, which keeps from hypercorn what it would meet in haste."""

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        return False

    def next_event(self) -> Any:
        """What comes behind a request that is the last is not looked at (RFC 9112 section 9.6).

        To h11 it is an error, for which hypercorn would close at once and lose the rest of the answer. To
        us a head is one whose lines others may see elsewhere; h11 mends it and tells nobody.
        """
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        if self.their_state is h11.IDLE and has_odd_lines(self.trailing_data[0]):
            raise h11.RemoteProtocolError("folded lines, or line ends without CR", error_status_hint=400)
        return super().next_event()

    def receive_data(self, data: bytes) -> None:
        """Nor is it kept."""
        if self.their_state is not h11.MUST_CLOSE:
            super().receive_data(data)

    @property
    def client_waits(self) -> bool:
        """Whether the client holds its body back until it is asked for (RFC 9110 section 10.1.1)."""
        return super().they_are_waiting_for_100_continue

    @property
    def answers_head(self) -> bool:
        """Whether the answer under way has no body, whatever its head says."""
        return bool(self._request_method == b"HEAD")


class Http1(H11Protocol):
    """hypercorn's HTTP/1.1, each request in a `Turn`."""

    connection: PatientH11

    def __init__(self, app: Any, config: Config, *rest: Any) -> None:
        super().__init__(app, config, *rest)
        self.connection = PatientH11(h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_size)

    async def _create_stream(self, request: h11.Request) -> None:
        fault = fault_of(request)
        if fault is not None:
            await self._send_error_response(fault)
            await self.send(Closed())
            return
        target, headers = origin_form(request)
        turn: Any = Turn(self, self.app, request)
        self.stream = HTTPStream(
            turn.run,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _check_protocol(self, event: h11.Request) -> None:
        """No upgrade to HTTP/2."""

    async def _send_error_response(self, status_code: int) -> None:
        """The answer to a request that cannot be read, in the form that every error has."""
        error = ErrorDetails("malformed", "This is not a request of HTTP/1.1 that can be served.")
        body = msgspec.json.encode(ErrorBody(error))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *((name.encode(), value.encode()) for name, value in standard_headers(self.ssl).items()),
            *self.config.response_headers("h11"),
        ]
        response = h11.Response(status_code=status_code, headers=headers)
        events: list[H11SendableEvent] = [response, h11.Data(data=body), h11.EndOfMessage()]
        if self.connection.answers_head:
            del events[1]
        # In one piece: the application, which may be answering too, must not come in between.
        await self.send(RawData(b"".join(self.connection.send(event) or b"" for event in events)))

    async def ask_for_body(self) -> None:
        """Say 100 Continue, if the client waits for it."""
        if self.connection.client_waits:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))


def has_odd_lines(data: bytes) -> bool:
    """Whether the head in front, if all of it is there, has a line that is folded or ends in LF alone.

    A server may mend both (RFC 9112 sections 2.2 and 5.2), and one may see a field where another sees none.
    """
    end = _HEAD_END.search(data)
    return end is not None and _ODD_LINE.search(data, 0, end.end()) is not None


def fault_of(request: h11.Request) -> int | None:
    """The status for a head that is not served; None for any other.

    Requests are smuggled with a length beside chunks, and with chunks in HTTP/1.0 (RFC 9112 section 6.1).
    """
    if request.http_version not in (b"1.0", b"1.1"):
        return 505
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        return 400
    # h11 has its own bound, but a head that arrives in one piece it takes as long as it is
    size = sum(len(name) + len(value) for name, value in request.headers) + len(request.target)
    is_large = (
        size + len(request.method) > limits.admin_head_bytes_max or len(names) > limits.admin_headers_max
    )
    return 431 if is_large else None


def origin_form(request: h11.Request) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The target as path and query, and the headers.

    A target may be a whole URL: then its authority counts, whatever Host says (RFC 9112 section 3.2.2).
    """
    headers = list(request.headers)
    url = _WHOLE_URL.fullmatch(request.target)
    if url is None:
        return request.target, headers
    path = url[2] if url[2].startswith(b"/") else b"/" + url[2]
    return path, [(b"host", url[1]), *(header for header in headers if header[0] != b"host")]


class Turn:
    """One request on its way through the application: nothing of its body is left behind."""

    def __init__(self, protocol: Http1, app: Any, request: h11.Request) -> None:
        self._protocol = protocol
        self._app = app
        names = [name for name, _ in request.headers]
        self._body_ended = b"content-length" not in names and b"transfer-encoding" not in names
        self._refused = False  # answered while the client still held its body back
        self._receive: Receive
        self._send: Send

    async def run(self, scope: Scope, receive: Receive, send: Send, *threads: Any) -> None:
        """The application, as hypercorn calls it."""
        self._receive, self._send = receive, send
        await self._app(scope, self._ask, self._answer, *threads)
        await self._settle(None)  # ends what the application broke off; nothing after a whole answer

    async def _ask(self) -> Any:
        await self._protocol.ask_for_body()
        return await self._take()

    async def _take(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_ended = True
        return message

    async def _answer(self, message: Any) -> None:
        if message["type"] == "http.response.start" and not self._body_ended:
            self._refused = self._protocol.connection.client_waits
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not self._body_ended:
            await self._send({**message, "more_body": True})
            if not self._refused:
                with trio.move_on_after(limits.admin_linger_ms / 1000):
                    await self._discard()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        if last:
            await self._settle(message)
        else:
            await self._send(message)

    async def _discard(self) -> None:
        while not self._body_ended:
            await self._take()

    async def _settle(self, message: Any) -> None:
        """Send the last message, while taking what the reader still brings: it must not wait for us."""
        if self._body_ended:
            await self._send(message)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discard)
            await self._send(message)
            nursery.cancel_scope.cancel()

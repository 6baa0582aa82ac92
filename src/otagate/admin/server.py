"""The admin listener: hypercorn's connections on a socket that the caller has bound, below TLS if it says so.

There are few places for connections. Whoever has shown a good token or cookie keeps one; strangers have what
is left, and when there is none the one who has been there for longest makes room. Of one token so many are
kept and no more; what it has beyond are a stranger's. So nobody who merely connects, however slowly or often,
shuts operators out, nor does one operator the others.

Shutdown: nothing is accepted any more, idle connections close at once, a running request has
`limits.admin_graceful_timeout_ms`. A client that stopped reading holds nothing up: its send is cancelled
then, and TCP_USER_TIMEOUT ends it earlier in a gateway that keeps running.
"""

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from otagate import limits, logs
from otagate.admin.app import build
from otagate.admin.connection import Connection
from otagate.admin.facade import Service

log = logs.get("admin")


async def serve(
    service: Service,
    listener_fd: int,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    tls: Callable[[], ssl.SSLContext | None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve operators until `shutdown_trigger` returns and their requests have ended.

    `listener_fd` is a bound TCP socket; it is taken over and closed at the end. `tls` is asked for each new
    connection, and says None for clear text. `task_status` is told once it accepts. Raises nothing that a
    client can cause.
    """
    listener = _listener(listener_fd)
    application: Any = build(service)
    app = ASGIWrapper(application)
    config, context = _config(), WorkerContext(None)
    places = Places(limits.admin_connections_max)

    async def handle(stream: Any) -> None:
        with places.take() as note_known:
            if note_known is None:
                return
            secrets = tls()
            if secrets is not None:
                stream = trio.SSLStream(stream, secrets, server_side=True)
            await Connection(app, config, context, stream, note_known).handle()

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:

            async def accept() -> None:
                await trio.serve_listeners(handle, [listener], handler_nursery=connections)

            accepting.start_soon(accept)
            task_status.started()
            await shutdown_trigger()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + limits.admin_graceful_timeout_ms / 1000


class Places:
    """The places for connections; strangers in the order in which they came."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._taken = 0
        self._strangers: dict[trio.CancelScope, None] = {}
        self._known: Counter[int] = Counter()  # by token

    @contextmanager
    def take(self) -> Iterator[Callable[[int], None] | None]:
        """A place while inside, left early if another needs it; what is given is to be called when the peer
        has shown a token. None: there is no place, nor a stranger in one."""
        if self._taken >= self._places_max and not self._make_room():
            yield None
            return
        self._taken += 1
        known: list[int] = []
        with trio.CancelScope() as place:

            def note_known(token: int) -> None:
                if place in self._strangers and self._known[token] < limits.admin_connections_per_token_max:
                    del self._strangers[place]
                    self._known[token] += 1
                    known.append(token)

            self._strangers[place] = None
            try:
                yield note_known
            finally:
                self._strangers.pop(place, None)
                self._known.subtract(known)
                if not place.cancel_called:  # else its place has been given away
                    self._taken -= 1

    def _make_room(self) -> bool:
        """Show the eldest stranger the door, if there is one."""
        oldest = next(iter(self._strangers), None)
        log.limited("operator_refused", connections=self._taken, known=oldest is None)
        if oldest is None:
            return False
        del self._strangers[oldest]
        oldest.cancel()
        self._taken -= 1
        return True


def _listener(fd: int) -> trio.SocketListener:
    """The socket, listening; what it is set to here each accepted connection inherits."""
    sock = socket.socket(fileno=fd)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.admin_tcp_user_timeout_ms)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    sock.listen(limits.admin_connections_max)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("otagate.admin")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.admin_head_bytes_max
    config.max_app_queue_size = limits.admin_body_pieces_max
    config.keep_alive_timeout = limits.admin_idle_timeout_s
    return config

"""One HTTP exchange on ASGI: the body pulled piece by piece, the answer pushed piece by piece.

The body is never held as a whole unless `read` is asked to, and never past a bound: a declared length is
refused before a byte is taken, an undeclared one (chunked) as soon as it passes. A body that stalls is given
up, and a client that leaves raises `Gone`, which nobody but the dispatcher catches: so every `async with` on
the way out cleans up, and a half-sent upload leaves nothing.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from otagate import limits
from otagate.admin.faults import BodyTimeout, UnsupportedMediaType
from otagate.errors import Malformed, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

#: On every answer. An answer about devices is out of date as soon as it is given, and holds secrets; it is no
#: page, nor part of another site's.
STANDARD_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
#: On every answer below TLS (RFC 6797): for a year browsers come here by https alone.
SECURE_HEADERS = {"strict-transport-security": "max-age=31536000"}


def standard_headers(is_secure: bool) -> dict[str, str]:
    """Of every answer, and below TLS."""
    return STANDARD_HEADERS | (SECURE_HEADERS if is_secure else {})


def _ignore(token: int) -> None:
    """Without a connection of ours below, nobody wants to know."""


class Gone(Exception):
    """The client went away in the middle of its request."""


class Exchange:
    """A request and its answer. `headers` are lower-case; of a repeated header the values are joined."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.query: bytes = scope["query_string"]
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        client = scope.get("client")
        #: Of the peer of the connection; what a proxy says of others is hearsay.
        self.address: str = client[0] if client else ""
        self.is_secure = scope.get("scheme") == "https"
        #: Go out with the answer, whatever it is.
        self.more_headers: dict[str, str] = {}
        #: To be called with the token of who asks, once proved: the connection is no stranger's any more.
        self.note_known: Callable[[int], None] = scope.get("state", {}).get("note_known", _ignore)
        self.started = False
        self.status = 0  # of the answer, once it has begun
        self._finishing = False
        self._receive = receive
        self._send = send
        self._body_bytes = 0  # taken so far
        self._body_bytes_left = 0
        self._body_began_s: float | None = None
        self._body_ended = False

    # -- the body ----------------------------------------------------------------------------------

    @property
    def media_type(self) -> str | None:
        """The Content-Type without its parameters, lower-case; None when there is none."""
        text = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return text or None

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body that is not empty."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    def may_exceed(self, size: int) -> bool:
        """Whether the head leaves it open, or says, that the body is longer."""
        declared = self.headers.get("content-length", "")
        return not declared.isdecimal() or len(declared) > 18 or int(declared) > size

    def allow_body(self, bytes_max: int) -> None:
        """Permit a body of so many bytes, as it is.

        At once TooLarge when the head declares more, and UnsupportedMediaType when it says that the body is
        packed: what a client means by the bytes is not what would be kept of them.
        """
        if self.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise UnsupportedMediaType("The body has to come as it is.", field="Content-Encoding")
        declared = self.headers.get("content-length")
        if declared is not None:
            if not (declared.isascii() and declared.isdigit()):
                raise Malformed("Content-Length is not a number.", field="Content-Length")
            if len(declared) > 18 or int(declared) > bytes_max:
                raise TooLarge(f"The body is larger than {bytes_max} bytes.")
        self._body_bytes_left = bytes_max

    async def piece(self) -> bytes:
        """The next bytes of the body, none at its end. Raises Gone, BodyTimeout, TooLarge."""
        while not self._body_ended:
            with trio.move_on_after(self._patience_s()) as patience:
                message = await self._receive()
            if patience.cancelled_caught:
                raise BodyTimeout("The rest of the body did not arrive, or came too slowly.")
            if message["type"] == "http.disconnect":
                raise Gone
            self._body_ended = not message.get("more_body", False)
            data: bytes = message.get("body", b"")
            if data:
                self._body_bytes += len(data)
                self._body_bytes_left -= len(data)
                if self._body_bytes_left < 0:
                    raise TooLarge("The body is larger than it may be.")
                return data
        return b""

    def _patience_s(self) -> float:
        """For the next bytes: the time of a stall, unless the body as a whole comes too slowly."""
        now_s, stall_s = trio.current_time(), limits.admin_body_stall_ms / 1000
        if self._body_began_s is None:
            self._body_began_s = now_s
        allowed_s = stall_s + self._body_bytes / limits.admin_body_bytes_per_s_min
        return max(min(stall_s, self._body_began_s + allowed_s - now_s), 0.0)

    async def read(self, bytes_max: int) -> bytes:
        """The whole body of at most so many bytes. Raises as `piece`."""
        self.allow_body(bytes_max)
        body = bytearray()
        while piece := await self.piece():
            body += piece
        return bytes(body)

    # -- the answer --------------------------------------------------------------------------------

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head; `headers` override the standard ones."""
        merged = standard_headers(self.is_secure) | self.more_headers | dict(headers)
        self.started = True
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in merged.items()],
            }
        )

    async def write(self, data: bytes) -> None:
        """Send the next bytes; returns when the client's link has taken them."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Send the last bytes. An answer that is not finished reads as broken off."""
        self._finishing = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole answer; JSON unless `headers` say otherwise. HEAD gets the head of it."""
        standard = {"content-type": "application/json", "content-length": str(len(body))} if body else {}
        await self.start(status, (standard | dict(headers)).items())
        await self.finish(b"" if self.method == "HEAD" else body)

    @asynccontextmanager
    async def while_connected(self) -> AsyncIterator[None]:
        """Cancel what runs inside once the client is gone. Only after the whole body was read."""
        raised: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            try:
                yield
            except Exception as error:  # on its way out the nursery would make a group of it
                raised = error
            nursery.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # The end of the answer reads like this too. What makes the connection idle must not be cancelled:
        # it would have no idle time-out, and nothing would end it at shutdown.
        if not self._finishing:
            scope.cancel()

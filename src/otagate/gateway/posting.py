"""One attempt to tell a webhook something: a signed POST, bounded in time and in what is read of the answer.

The signature covers the time and the body: `X-Otagate-Signature: t=<unix>,v1=<hex>`, where v1 is the
HMAC-SHA256 of "<t>.<body>" under the webhook's secret. Redirects are not followed (what is signed for one
place is not for another), no proxy of the environment is used, and any answer but 2xx is a failure. Servers
of https are judged by the certificates that this machine trusts.
"""

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import h11
import trio
from msgspec import Struct

from otagate import __version__, limits
from otagate.errors import Invalid
from otagate.store.operators import Webhook
from otagate.store.sealing import Sealer, SealError, about_webhook


class Result(Struct, frozen=True):
    """How an attempt went: `status` of the answer, or `error` when there was none."""

    status: int | None = None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has taken it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """Why it was not delivered."""
        return self.error or f"answered {self.status}"


_TOO_LATE = f"no answer within {limits.webhook_timeout_ms // 1000} s"


class Poster:
    """Makes attempts, each on a connection of its own."""

    def __init__(self, sealer: Sealer, unix_s: Callable[[], float] = time.time) -> None:
        self._sealer = sealer
        self._unix_s = unix_s
        self._trust: ssl.SSLContext | None = None

    async def post(self, webhook: Webhook, delivery: str, event: str, body: bytes) -> Result:
        """One attempt. Raises nothing that a receiver can cause."""
        try:
            secret = self._sealer.open(webhook.sealed, about_webhook(webhook.url))
        except SealError:  # somebody wrote to the store
            return Result(error="its secret in the store cannot be read")
        headers = {
            "host": urlsplit(webhook.url).netloc,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            "user-agent": f"otagate/{__version__}",
            "x-otagate-event": event,
            "x-otagate-delivery": delivery,
            "x-otagate-signature": signature(secret, int(self._unix_s()), body),
        }
        results: list[Result] = []
        with trio.move_on_after(limits.webhook_timeout_ms / 1000):
            try:
                async with await self._connect(webhook.url) as stream:
                    await _exchange(stream, webhook.url, headers, body, results.append)
            except Exception as error:  # of the network, of TLS, of h11, of names that do not resolve
                if not results:
                    results.append(Result(error=_words(error)))
        return results[0] if results else Result(error=_TOO_LATE)

    async def _connect(self, url: str) -> trio.abc.Stream:
        parts = urlsplit(url)
        assert parts.hostname is not None, "checked_url has seen to it"
        is_secure = parts.scheme == "https"
        stream = await trio.open_tcp_stream(parts.hostname, parts.port or (443 if is_secure else 80))
        if not is_secure:
            return stream
        if self._trust is None:  # reads files for tens of milliseconds: not on the loop, and once
            self._trust = await trio.to_thread.run_sync(ssl.create_default_context)
        return trio.SSLStream(stream, self._trust, server_hostname=parts.hostname, https_compatible=True)


def _words(error: BaseException) -> str:
    """What an error says; of one that says nothing, its cause."""
    if not str(error) and error.__cause__ is not None:
        return _words(error.__cause__)
    return str(error) or type(error).__name__


async def _exchange(
    stream: trio.abc.Stream,
    url: str,
    headers: dict[str, str],
    body: bytes,
    settle: Callable[[Result], None],
) -> None:
    """Send the request; `settle` as soon as the answer's status is known. What follows it is read to its end,
    so that the receiver is not cut off, but not past a bound."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="POST", target=target, headers=list(headers.items()))
    await stream.send_all(
        (connection.send(request) or b"")
        + (connection.send(h11.Data(data=body)) or b"")
        + (connection.send(h11.EndOfMessage()) or b"")
    )
    read_bytes = 0
    while read_bytes <= limits.webhook_response_bytes_max:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(limits.webhook_response_bytes_max)
            read_bytes += len(data)
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.Response):
            settle(Result(event.status_code))
        elif isinstance(event, h11.EndOfMessage):
            return


def signature(secret: str, unix_s: int, body: bytes) -> str:
    """The header that proves who sends."""
    digest = hmac.digest(secret.encode(), b"%d." % unix_s + body, hashlib.sha256).hex()
    return f"t={unix_s},v1={digest}"


def checked_url(url: str) -> str:
    """The URL, if a webhook may have it; Invalid. Where it leads is for the administrator to know."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or not (url.isascii() and url.isprintable()) or " " in url:
        raise Invalid("This is no http or https URL in ASCII.", field="url")
    if parts.username is not None or parts.password is not None:
        raise Invalid("A URL with a user or a password is not taken: verify the signature.", field="url")
    return url

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
from types import TracebackType
from urllib.parse import urlsplit

import httpx
import trio
from msgspec import Struct

from otagate import __version__, limits
from otagate.errors import Invalid
from otagate.store.operators import Webhook


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


class Poster:
    """Makes attempts over kept connections; to be closed."""

    def __init__(self, unix_s: Callable[[], float] = time.time) -> None:
        self._unix_s = unix_s
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "Poster":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            with trio.CancelScope(shield=True):
                await self._client.aclose()

    async def post(self, webhook: Webhook, delivery: str, event: str, body: bytes) -> Result:
        """One attempt. Raises nothing that a receiver can cause."""
        with trio.move_on_after(limits.webhook_timeout_ms / 1000):
            try:
                client = await self._opened()
                return await self._exchange(client, webhook, delivery, event, body)
            except Exception as error:  # of three libraries, and of names that do not resolve
                return Result(error=str(error) or type(error).__name__)
        return Result(error=f"no answer within {limits.webhook_timeout_ms // 1000} s")

    async def _opened(self) -> httpx.AsyncClient:
        """The client. Reading certificates takes tens of milliseconds: in a thread, and once needed."""
        if self._client is None:
            context = await trio.to_thread.run_sync(ssl.create_default_context)
            if self._client is None:  # nobody else was faster
                self._client = httpx.AsyncClient(verify=context, trust_env=False, timeout=None)  # noqa: S113
        return self._client

    async def _exchange(
        self, client: httpx.AsyncClient, webhook: Webhook, delivery: str, event: str, body: bytes
    ) -> Result:
        headers = {
            "content-type": "application/json",
            "user-agent": f"otagate/{__version__}",
            "x-otagate-event": event,
            "x-otagate-delivery": delivery,
            "x-otagate-signature": signature(webhook.secret, int(self._unix_s()), body),
        }
        async with client.stream("POST", webhook.url, content=body, headers=headers) as response:
            read = 0
            async for piece in response.aiter_raw():
                read += len(piece)
                if read > limits.webhook_response_bytes_max:
                    break  # the status is known; the connection is given up
            return Result(response.status_code)


def signature(secret: str, unix_s: int, body: bytes) -> str:
    """The header that proves who sends."""
    digest = hmac.digest(secret.encode(), b"%d." % unix_s + body, hashlib.sha256).hex()
    return f"t={unix_s},v1={digest}"


def checked_url(url: str) -> str:
    """The URL, if a webhook may have it; Invalid. Where it leads is for the administrator to know."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_sound = False
    if not is_sound or not (url.isascii() and url.isprintable()) or " " in url:
        raise Invalid("This is no http or https URL in ASCII.", field="url")
    if parts.username is not None or parts.password is not None:
        raise Invalid("A URL with a user or a password is not taken: verify the signature.", field="url")
    return url

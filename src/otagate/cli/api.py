"""The admin API for commands: one place that knows addresses, tokens, pages and how refusals read.

Rules live in the gateway: nothing is checked here, what is refused there is shown as it was said.
"""

import argparse
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from otagate.cli.exits import CommandError, Exit

DEFAULT_URL = "http://127.0.0.1:7780"
DEFAULT_TOKEN_PATH = Path("otagate-data/admin-token")
PAGE_ITEMS = 1000
TIMEOUT = httpx.Timeout(30.0, read=120.0)
DETAILS_SHOWN = 10

Json = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--url, --token, --ca and --json."""
    group = parser.add_argument_group("gateway")
    group.add_argument("--url", help=f"of the admin listener (OTAGATE_URL; default {DEFAULT_URL})")
    group.add_argument(
        "--token", help=f"admin token (OTAGATE_TOKEN; default: what {DEFAULT_TOKEN_PATH} holds)"
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        help="authorities that https:// URLs trust (OTAGATE_CA; default: those of this machine)",
    )
    group.add_argument("--json", action="store_true", help="the API's JSON; one object a line for lists")


def path(*parts: str) -> str:
    """A path below /api/v1, each part quoted. CommandError for what would lead elsewhere."""
    for part in parts:
        if part in ("", ".", ".."):  # clients and proxies resolve dots, quoted or not
            raise CommandError(f"there is nothing named {part!r}", Exit.USAGE)
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)


class Api:
    """Requests to one gateway. Every method raises CommandError with a line for people."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        if token is not None and not (token.isascii() and token.isprintable()):
            raise CommandError("the token is not one line of printable ASCII characters", Exit.USAGE)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._client = httpx.Client(
                base_url=url, headers=headers, timeout=TIMEOUT, verify=_trust(url, ca), trust_env=False
            )
            base = self._client.base_url
            base.host.encode("idna")  # as will be done to connect
            if base.userinfo or base.query or base.fragment:
                raise CommandError(
                    "--url has a user, a query or a fragment: it names a place alone", Exit.USAGE
                )
        except (httpx.InvalidURL, ValueError) as error:
            raise CommandError(f"{url!r} is no URL: {error}", Exit.USAGE) from error
        self._url = url

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Api":
        """For --url, --token and --ca, or what stands for them."""
        url = arguments.url or os.environ.get("OTAGATE_URL") or DEFAULT_URL
        token = arguments.token or os.environ.get("OTAGATE_TOKEN") or _token_beside()
        return cls(url, token, arguments.ca or os.environ.get("OTAGATE_CA") or None)

    def __enter__(self) -> "Api":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, target: str, query: Mapping[str, Any] | None = None) -> Json:
        """One object."""
        return self.call("GET", target, query=query)

    def call(
        self, method: str, target: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Json:
        """One request with a JSON body, one JSON answer ({} for none)."""
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        with self._stream(method, target, query=query, content=content, headers=headers) as response:
            return _decode(response.read())

    def send(
        self,
        target: str,
        pieces: Iterable[bytes],
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
    ) -> Json:
        """POST a body piece by piece."""
        with self._stream("POST", target, query=query, content=pieces, headers=headers) as response:
            return _decode(response.read())

    @contextmanager
    def exchange(
        self, method: str, target: str, *, pieces: Iterable[bytes] | None = None, **options: Any
    ) -> Iterator[httpx.Response]:
        """A request whose answer is read piece by piece, within `with`."""
        with self._stream(method, target, content=pieces, **options) as response:
            yield response

    def items(
        self, target: str, query: Mapping[str, Any] | None = None, limit: int | None = None
    ) -> Iterator[Json]:
        """All items of a list, page after page; at most `limit`."""
        given = 0
        cursor = None
        while True:
            size = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - given)
            page = self.get(target, {**(query or {}), "cursor": cursor, "limit": size})
            if not (isinstance(page.get("items"), list) and "next" in page):
                raise CommandError(
                    f"what answers at {self._url} is no gateway: this is no list", Exit.INTERNAL
                )
            yield from page["items"]
            given += len(page["items"])
            cursor = page["next"]
            if cursor is None or given == limit:
                return

    @contextmanager
    def _stream(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, Any] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        params = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        try:
            with self._client.stream(
                method, target, params=params, content=content, headers=headers
            ) as response:
                if response.status_code >= 400:
                    raise _refusal(response.status_code, response.read())
                yield response
        except httpx.UnsupportedProtocol as error:
            raise CommandError(f"{self._url!r} is no URL: {error}", Exit.USAGE) from error
        except httpx.ConnectError as error:
            raise CommandError(
                f"cannot reach the gateway at {self._url}: {error}", Exit.UNREACHABLE
            ) from error
        except httpx.HTTPError as error:
            words = str(error) or type(error).__name__
            raise CommandError(f"lost the gateway at {self._url}: {words}", Exit.UNREACHABLE) from error


def _trust(url: str, ca: str | None) -> ssl.SSLContext | bool:
    """Who may vouch for the gateway."""
    if not url.lower().startswith("https:"):
        return False  # nobody is asked
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise CommandError(f"cannot use --ca {ca}: {error.strerror}", Exit.USAGE) from error


def _token_beside() -> str | None:
    try:
        return DEFAULT_TOKEN_PATH.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _decode(body: bytes) -> Json:
    if not body:
        return {}
    try:
        decoded: Json = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise CommandError(f"the answer is not JSON: {error}", Exit.INTERNAL) from error
    if not isinstance(decoded, dict):
        raise CommandError("the answer is no JSON object", Exit.INTERNAL)
    return decoded


def _refusal(status: int, body: bytes) -> CommandError:
    """`code: message (field)`, then the first details, one a line."""
    exit_code = Exit.INTERNAL if status >= 500 and status != 507 else Exit.REFUSED
    try:
        error = msgspec.json.decode(body)["error"]
        line = f"{error['code']}: {error['message']}"
        if error.get("field"):
            line += f" ({error['field']})"
        details = error.get("details")
    except (msgspec.DecodeError, KeyError, TypeError):
        words = " ".join(body[:200].decode("utf-8", "replace").split())
        return CommandError(f"the gateway answered {status}: {words}", exit_code)
    if isinstance(details, dict):  # the one list in it, if any, is what matters
        details = next((value for value in details.values() if isinstance(value, list)), None)
    if isinstance(details, list):
        shown = [_detail(detail) for detail in details[:DETAILS_SHOWN]]
        rest = [f"… and {len(details) - DETAILS_SHOWN} more"] if len(details) > DETAILS_SHOWN else []
        line = "\n  ".join([line, *shown, *rest])
    return CommandError(line, exit_code)


def _detail(detail: Any) -> str:
    if not isinstance(detail, dict):
        return str(detail)
    words = detail.get("message") or detail.get("reason") or str(detail)
    return f"{detail['identifier']}: {words}" if "identifier" in detail else words

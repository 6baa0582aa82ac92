"""Who makes a request: a bearer token, or the cookie of a console session; and whether they may.

A cookie travels with whatever a browser sends here, so it alone proves nothing about who wants the request. A
request that leans on it is refused when its Origin is another place than its Host, and, unless it only reads,
when it does not repeat the session's second secret in X-CSRF-Token, which no other site can know. A bearer
token is sent by those alone who have it: with one the cookie is not looked at.
"""

import hmac
import re
from urllib.parse import urlsplit

from otagate.admin.exchange import Exchange
from otagate.admin.facade import Service
from otagate.admin.faults import Csrf
from otagate.admin.operations import Call, Operation
from otagate.admin.queries import NoQuery
from otagate.errors import Forbidden, Unauthorized
from otagate.gateway.access import Identity, Role
from otagate.gateway.acts import Act
from otagate.gateway.views_operators import LoginRequest, SessionView

COOKIE = "otagate_session"
#: Below TLS. A browser takes it from nobody but this very host (RFC 6265bis section 4.1.3.2): no other host
#: of the same domain can put a session of its own in its place.
SECURE_COOKIE = f"__Host-{COOKIE}"
CSRF_HEADER = "x-csrf-token"

_VALUE = "=([A-Za-z0-9_-]{1,100})"
_COOKIE, _SECURE_COOKIE = (
    re.compile(rf"(?:^|[;,])\s*{name}{_VALUE}\s*(?=[;,]|$)") for name in (COOKIE, SECURE_COOKIE)
)
_READING = ("GET", "HEAD")
#: Who makes a request that needs no token.
_ANYBODY = Identity(0, "", Role.VIEWER, b"")


def admit(service: Service, operation: Operation, exchange: Exchange) -> Act:
    """Who makes this request. Unauthorized, Forbidden, Csrf, TooManyAttempts."""
    if operation.public:
        return Act(_ANYBODY, exchange.address)
    identity = identify(service, exchange)
    if identity.role < operation.role:
        raise Forbidden(
            f"This needs a token of role {operation.role.label}; this one is of role {identity.role.label}."
        )
    return Act(identity, exchange.address)


def identify(service: Service, exchange: Exchange) -> Identity:
    """By the token (RFC 6750 section 2.1), else by the cookie."""
    authorization = exchange.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            identity = service.access.authenticate(token.strip(), exchange.address)
            exchange.note_known(identity.token)
            return identity
    else:
        cookie = _session_cookie(exchange)
        if cookie is not None:
            identity = _identify_session(service, exchange, cookie)
            exchange.note_known(identity.token)
            return identity
    raise Unauthorized("This needs a token: Authorization: Bearer TOKEN.")


def _session_cookie(exchange: Exchange) -> str | None:
    """Behind a proxy that ends TLS only the browser knows which of the two it should be."""
    cookies = exchange.headers.get("cookie", "")
    found = _SECURE_COOKIE.search(cookies) or (None if exchange.is_secure else _COOKIE.search(cookies))
    return found and found[1]


def _identify_session(service: Service, exchange: Exchange, cookie: str) -> Identity:
    check_origin(exchange)
    identity = service.access.session(cookie)
    assert identity.session is not None
    given = exchange.headers.get(CSRF_HEADER, "").encode("latin-1")
    if exchange.method not in _READING and not hmac.compare_digest(given, identity.session.csrf.encode()):
        raise Csrf("With a session's cookie this needs its csrf in X-CSRF-Token.", field="X-CSRF-Token")
    return identity


def check_origin(exchange: Exchange) -> None:
    """Csrf when a page of another place makes the request (RFC 6454 section 7).

    Of requests that carry no Origin, as for an image or a script, browsers tell in Sec-Fetch-Site (W3C Fetch
    Metadata); a page of another port of this host is `same-site`, which SameSite lets through.
    """
    origin = exchange.headers.get("origin")
    if origin is not None:
        scheme, host = _parts_of(origin)
        is_here = bool(host) and host == exchange.headers.get("host", "").lower()
        if not is_here or (exchange.is_secure and scheme != "https"):
            raise Csrf("A page of another origin may not do this.", field="Origin")
    if exchange.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Csrf("A page of another origin may not do this.", field="Sec-Fetch-Site")


def _parts_of(origin: str) -> tuple[str, str]:
    """Scheme and host of an origin; nothing for what is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc.lower()


# -- sessions ------------------------------------------------------------------------------------------


async def log_in(call: Call[NoQuery, LoginRequest]) -> SessionView:
    """POST /session: the cookie goes out with the answer."""
    exchange = call.exchange
    check_origin(exchange)
    cookie, session = call.service.access.open_session(call.body.token, exchange.address)
    # behind a proxy that ends TLS only the browser knows how it came here
    by_tls = exchange.is_secure or exchange.headers.get("origin", "").startswith("https://")
    _set_cookie(exchange, by_tls, cookie)
    return call.service.session(session)


async def show_session(call: Call[NoQuery, None]) -> SessionView:
    """GET /session: for a page that was loaded anew. A bearer token has no session."""
    session = call.by.identity.session
    if session is None:
        raise Unauthorized("There is no session: this request bears a token.")
    return call.service.session(session)


async def log_out(call: Call[NoQuery, None]) -> None:
    """DELETE /session."""
    session = call.by.identity.session
    if session is None:
        raise Unauthorized("There is no session: this request bears a token.")
    call.service.access.close_session(session)
    by_tls = SECURE_COOKIE in call.exchange.headers.get("cookie", "")
    _set_cookie(call.exchange, by_tls, "", "; Max-Age=0")


def _set_cookie(exchange: Exchange, by_tls: bool, value: str, age: str = "") -> None:
    name, secure = (SECURE_COOKIE, "; Secure") if by_tls else (COOKIE, "")
    exchange.more_headers["set-cookie"] = f"{name}={value}{age}; HttpOnly; SameSite=Strict; Path=/{secure}"

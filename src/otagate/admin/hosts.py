"""Which names are this gateway's: against DNS rebinding.

A page of evil.example may have its name point at 127.0.0.1 from one moment to the next; to the browser of an
operator who looks at it, this gateway is then a part of that site, and the page reads what needs no token.
The one thing that gives it away is the Host that the browser sends. An address as Host is no such trick
(nobody can make it point elsewhere), nor is localhost, which browsers do not look up. Any other name must be
in `admin.hosts`; below TLS, with none there, the certificate decides: no browser asks for evil.example here
and takes a certificate of another name.

Who brings a token is asked for no name: no page of another site has one, and a session's cookie stays with
the name that it was set under. So programs are never locked out, and what is listed are names for browsers,
probes and scrapers.
"""

import ipaddress
import re

from otagate.admin.exchange import Exchange
from otagate.admin.faults import Misdirected

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{0,5})?")


def check_host(exchange: Exchange, names: frozenset[str]) -> None:
    """Misdirected when the request is for another host. In HTTP/1.0 there may be none; browsers name one."""
    host = exchange.headers.get("host")
    if host is None or (exchange.is_secure and not names):
        return
    match = _HOST.fullmatch(host)
    if match is None or not _is_ours(match[1].lower().removesuffix("."), names):
        raise Misdirected(
            "This Host is no name of the gateway; an administrator adds names with the setting admin.hosts.",
            field="Host",
        )


def _is_ours(name: str, names: frozenset[str]) -> bool:
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

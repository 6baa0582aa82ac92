"""What can be measured of a gateway, each under a short name."""

from collections.abc import Callable

from ..measure import Bench, Result
from ..report import Report
from .connections import idle, login
from .digests import hashing
from .growth import curve
from .reports import durable, report
from .scale import big, mixed
from .tls import tls, tls_table
from .upgrades import campaign, push, stream

Scenario = Callable[..., list[Result]]

SCENARIOS: dict[str, Scenario] = {
    "idle": idle,
    "login": login,
    "report": report,
    "durable": durable,
    "stream": stream,
    "push": push,
    "campaign": campaign,
    "big": big,
    "mixed": mixed,
    "curve": curve,
    "hashing": hashing,
    "tls": tls,
}
# Of those whose figures stand in a page: what is written into it.
TABLES: dict[str, Callable[[Report], list[str]]] = {"tls": tls_table}

__all__ = [
    "SCENARIOS",
    "TABLES",
    "Bench",
    "Scenario",
    "big",
    "campaign",
    "curve",
    "durable",
    "hashing",
    "idle",
    "login",
    "mixed",
    "push",
    "report",
    "stream",
    "tls",
    "tls_table",
]

"""Conditional requests (RFC 9110 section 13) on what has a path of its own.

The entity tag is strong: a digest of the representation, byte for byte. Two that would change one thing at
the same time wait for each other (`Doors`), so what If-Match was compared with is what is changed. Only
requests of operators wait so; what a device does meanwhile is not theirs to overwrite.
"""

import hashlib
from weakref import WeakValueDictionary

import trio
from msgspec.structs import replace

from otagate.admin.exchange import Exchange
from otagate.admin.faults import PreconditionFailed
from otagate.admin.images import matches_none
from otagate.admin.operations import Call, Operation
from otagate.gateway.acts import encode

CHANGING = ("PATCH", "DELETE")


class Doors:
    """One lock for each path that somebody is changing."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def of(self, path: str) -> trio.Lock:
        """The lock of a path."""
        lock = self._locks.get(path)
        if lock is None:
            self._locks[path] = lock = trio.Lock()
        return lock


def etag_of(body: bytes) -> str:
    """The entity tag of a representation."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


async def check_match(shown: Operation, call: Call[object, object]) -> None:
    """PreconditionFailed unless If-Match, if there is one, names what `shown` shows now. NotFound."""
    header = call.exchange.headers.get("if-match")
    if header is None:
        return
    current = await shown.handler(replace(call, query=shown.query(), body=None))
    tags = [tag.strip() for tag in header.split(",")]
    if "*" not in tags and etag_of(encode(current)) not in tags:
        raise PreconditionFailed("It is not any more what If-Match says.", field="If-Match")


async def answer_single(exchange: Exchange, status: int, body: bytes) -> None:
    """A representation with its tag, or 304 when the client has it."""
    etag = etag_of(body)
    if matches_none(exchange.headers.get("if-none-match"), etag):
        await exchange.answer(304, headers=[("etag", etag)])
    else:
        await exchange.answer(status, body, [("etag", etag)])

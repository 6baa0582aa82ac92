"""Requests that are sent again under an Idempotency-Key; gateway/acts.py has the theory."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from otagate import limits
from otagate.admin.exchange import Exchange
from otagate.admin.facade import Service
from otagate.admin.faults import KeyReused
from otagate.admin.operations import Operation
from otagate.errors import Invalid
from otagate.gateway.acts import Act, Repeatable

HEADER = "Idempotency-Key"


@asynccontextmanager
async def repeatable(
    service: Service, operation: Operation, exchange: Exchange, path: str, by: Act
) -> AsyncIterator[Act]:
    """The act as one that keeps its answer, if the request has a key and the operation knows of such.

    Invalid; Conflict while a request with this key is under way.
    """
    key = exchange.headers.get(HEADER.lower())
    if key is None or not operation.repeatable:
        yield by
        return
    if not 1 <= len(key) <= limits.idempotency_key_chars_max or not (key.isascii() and key.isprintable()):
        raise Invalid("A key is 1 to 255 printable ASCII characters.", field=HEADER)
    if operation.body is not None and exchange.media_type in operation.streams:
        raise Invalid("Many at once take no key: send them again, what is there is a conflict.", field=HEADER)
    request = f"{exchange.method} {path}?".encode() + exchange.query
    status = operation.replies[0].status
    async with service.repeats.begin(by.identity, key, request, status) as again:
        yield Act(by.identity, by.address, again)


def note_body(by: Act, data: bytes) -> None:
    """The body was read; it is part of what the request is."""
    if by.repeatable is not None:
        by.repeatable.content = hashlib.sha256(data).hexdigest()


async def replay(exchange: Exchange, again: Repeatable) -> None:
    """Give the kept answer once more. KeyReused when it answers another request."""
    assert again.kept is not None
    if not again.is_same:
        raise KeyReused("This key came with another request before.", field=HEADER)
    headers = {"idempotent-replayed": "true"}
    await exchange.answer(again.kept.status, again.open(), headers.items())

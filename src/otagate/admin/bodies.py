"""JSON bodies: read as a whole and decoded. Large ones are few at a time, or 256 of them would take 4 GiB."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from otagate import limits
from otagate.admin import faults
from otagate.admin.exchange import Exchange
from otagate.admin.operations import JSON, Operation
from otagate.admin.repeating import note_body
from otagate.errors import Busy
from otagate.gateway.acts import Act


class LargeBodies:
    """Places for bodies that may be longer than `limits.json_body_bytes_max`, while they are read."""

    def __init__(self) -> None:
        self._by_token: Counter[int] = Counter()

    @contextmanager
    def place(self, token: int) -> Iterator[None]:
        """Take one of the places, and of those that a token may have. Busy."""
        own = self._by_token[token]
        if own >= limits.large_bodies_per_token_max or self._by_token.total() >= limits.large_bodies_max:
            raise Busy(
                f"Of bodies over {limits.json_body_bytes_max} bytes {limits.large_bodies_max} are read "
                f"at a time, {limits.large_bodies_per_token_max} of one token; send this again."
            )
        self._by_token[token] += 1
        try:
            yield
        finally:
            self._by_token[token] -= 1


async def read_body(operation: Operation, exchange: Exchange, by: Act, large: LargeBodies) -> object:
    """The decoded JSON body; None when there is none, or when the handler reads it itself."""
    media = exchange.media_type
    if operation.takes_nothing and exchange.has_body:
        await _read_nothing(exchange)
        return None
    if operation.body is None or media in operation.streams:
        return None
    if media not in (JSON, None):
        accepted = ", ".join((JSON, *operation.streams))
        raise faults.UnsupportedMediaType(f"The body may be {accepted}.", field="Content-Type")
    if operation.body_bytes_max and exchange.may_exceed(limits.json_body_bytes_max):
        with large.place(by.identity.token):
            data = await exchange.read(operation.body_bytes_max)
    else:
        data = await exchange.read(limits.json_body_bytes_max)
    note_body(by, data)
    return _decode(data, operation.body)


class Nothing(Struct, forbid_unknown_fields=True):
    """What some clients send for no body: `{}`."""


async def _read_nothing(exchange: Exchange) -> None:
    """A field is refused here too: who gives POST …/secret a secret must not believe that it was taken."""
    data = await exchange.read(limits.json_body_bytes_max)
    if data:
        _decode(data, Nothing)


def _decode(data: bytes, type: type[Struct]) -> object:
    try:
        return msgspec.json.decode(data, type=type)
    except (ValueError, RecursionError) as error:
        raise faults.refusal(error) from error

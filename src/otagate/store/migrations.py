"""Schemas of the store, and how a former one is carried forward: in one transaction, at the first opening.

1   the first; the hash of the only token, of role admin, is the setting `admin_token_sha256`
2   tables of operators; that token is the token "first". An otagate that knows schema 1 alone would
    take the setting at its word and revoked tokens for good ones, so it must not open such a store.
3   products with signing keys, firmware and batches with signatures: fields at the ends of their records,
    which read as absent where a former otagate wrote them. Nothing is rewritten; one that knows schema 2
    alone would not heed a product's demand for signatures.
4   secrets of devices and webhooks are sealed (bytes where the clear text stood); META has the key's id, and
    FREED_SECRETS_KEY until the file is rid of the pages that held the clear text
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from otagate import limits
from otagate.store import records, tables
from otagate.store.changes_operators import TOKEN_NUMBERS
from otagate.store.operators import ADMIN, Token
from otagate.store.sealing import Sealer, about_device, about_webhook
from otagate.store.tables import Transaction, View, u64_key

FIRST_TOKEN: Final = "first"  # noqa: S105 - a name, no secret
_TOKEN_SETTING: Final = b"admin_token_sha256"


def migrate(transaction: Transaction, schema: int, load_sealer: Callable[[], Sealer]) -> None:
    """Carry a store of `schema`, below SCHEMA_VERSION, forward to it."""
    assert 1 <= schema < tables.SCHEMA_VERSION
    if schema < 2:
        _to_2(transaction)
    if schema < 4:
        _to_4(transaction, load_sealer())
    transaction.put(tables.META, tables.SCHEMA_KEY, u64_key.pack(tables.SCHEMA_VERSION))


def _to_2(transaction: Transaction) -> None:
    digest = transaction.get(tables.SETTINGS, _TOKEN_SETTING)
    if digest is None:
        return
    now_ms = time.time_ns() // 1_000_000
    token = Token(1, FIRST_TOKEN, ADMIN, digest, now_ms)
    transaction.put(tables.TOKENS, u64_key.pack(1), records.pack_token(token))
    transaction.put(tables.META, TOKEN_NUMBERS, u64_key.pack(1))
    transaction.delete(tables.SETTINGS, _TOKEN_SETTING)


def _to_4(transaction: Transaction, sealer: Sealer) -> None:
    """Secrets, which were text, are sealed."""
    rewrite_secrets(transaction, sealer.seal)
    transaction.put(tables.META, tables.SEALING_KEY_ID_KEY, sealer.key_id)
    transaction.put(tables.META, tables.FREED_SECRETS_KEY, b"")


def rewrite_secrets(transaction: Transaction, renew: Callable[[Any, str], bytes]) -> None:
    """Put `renew(secret, about)` for each secret as it stands.

    One that is empty stays so: a deleted device's, or one that was dropped with a lost key.
    """

    def renew_device(fields: list[Any]) -> None:
        fields[4] = renew(fields[4], about_device(fields[1], fields[2])) if fields[4] else b""

    def renew_webhook(fields: list[Any]) -> None:
        fields[3] = renew(fields[3], about_webhook(fields[1])) if fields[3] else b""

    _rewrite(transaction, tables.DEVICES, renew_device)
    _rewrite(transaction, tables.OWNERS, renew_device)
    _rewrite(transaction, tables.WEBHOOKS, renew_webhook)


def seals(view: View) -> Iterator[tuple[bytes, str]]:
    """Each sealed secret of a store of this schema, and what it is bound to."""
    for table in (tables.DEVICES, tables.OWNERS):
        for _, value in tables.scan(view, table, b""):
            if len(value) != tables.u32_key.size:
                fields = msgspec.msgpack.decode(value[1:])
                if fields[4]:
                    yield fields[4], about_device(fields[1], fields[2])
    for _, value in tables.scan(view, tables.WEBHOOKS, b""):
        fields = msgspec.msgpack.decode(value[1:])
        if fields[3]:
            yield fields[3], about_webhook(fields[1])


def _rewrite(transaction: Transaction, table: str, change: Callable[[list[Any]], None]) -> None:
    """Change the fields of each record of a table, a slice at a time: no cursor sees what is written."""
    start = b""
    while True:
        slice_ = list(islice(tables.scan(transaction, table, start), limits.scan_rows_max))
        for key, value in slice_:
            if len(value) == tables.u32_key.size:
                continue  # of OWNERS: the product of a device that was not deleted
            fields = msgspec.msgpack.decode(value[1:])
            change(fields)
            transaction.put(table, key, value[:1] + msgspec.msgpack.encode(fields))
        if len(slice_) < limits.scan_rows_max:
            return
        start = slice_[-1][0] + b"\0"

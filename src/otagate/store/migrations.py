"""Schemas of the store, and how a former one is carried forward: in one transaction, at the first opening.

1   the first; the hash of the only token, of role admin, is the setting `admin_token_sha256`
2   tables of operators; that token is the token "first". An otagate that knows schema 1 alone would
    take the setting at its word and revoked tokens for good ones, so it must not open such a store.
3   products with signing keys, firmware and batches with signatures: fields at the ends of their records,
    which read as absent where a former otagate wrote them. Nothing is rewritten; one that knows schema 2
    alone would not heed a product's demand for signatures.
"""

import time
from typing import Final

from otagate.store import records, tables
from otagate.store.changes_operators import TOKEN_NUMBERS
from otagate.store.operators import ADMIN, Token
from otagate.store.tables import Transaction, u64_key

FIRST_TOKEN: Final = "first"  # noqa: S105 - a name, no secret
_TOKEN_SETTING: Final = b"admin_token_sha256"


def migrate(transaction: Transaction, schema: int) -> None:
    """Carry a store of `schema`, below SCHEMA_VERSION, forward to it."""
    assert 1 <= schema < tables.SCHEMA_VERSION
    if schema < 2:
        _to_2(transaction)
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

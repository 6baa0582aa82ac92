"""The audit log's chain: what an entry is on disk, how it is hashed, and when the chain is whole.

An entry is the canonical JSON of its fields (names sorted, no white space, UTF-8), among them `previous`,
the hash of the entry before it. Its own hash is the SHA-256 of that JSON, so whoever has an export can
compute it: take a line, leave `hash` out, sort the names, and hash that. Whatever is changed, taken out of
the middle or put in breaks the chain from there on. The number and the hash of the last entry stand in the
table meta too; whoever can write all of the store can still write a chain of their own, and what then tells
is an export, or the last hash, kept elsewhere.

On disk: the hash (32 bytes), the JSON.
"""

import hashlib
from typing import Any, Final

import msgspec

from otagate.store.operators import AuditEntry

HASH_BYTES: Final = 32
FIRST_PREVIOUS: Final = "0" * (2 * HASH_BYTES)

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


def pack(fields: dict[str, Any]) -> bytes:
    """The value on disk of an entry with these fields: all of AuditEntry but `hash`."""
    json = _encode(fields)
    return hashlib.sha256(json).digest() + json


def hash_of(value: bytes) -> str:
    """The hash that a value carries, hex."""
    return value[:HASH_BYTES].hex()


def unpack(value: bytes) -> AuditEntry:
    """The entry of a value that `pack` made."""
    return AuditEntry(**_decode(value[HASH_BYTES:]), hash=hash_of(value))


def is_intact(number: int, value: bytes, previous: str) -> bool:
    """Whether this is entry `number`, unchanged, behind one whose hash is `previous`."""
    json = value[HASH_BYTES:]
    if hashlib.sha256(json).digest() != value[:HASH_BYTES]:
        return False
    try:
        fields = _decode(json)
    except msgspec.DecodeError:
        return False
    return bool(fields["number"] == number and fields["previous"] == previous)

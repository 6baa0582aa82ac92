"""The shape of the store below its engines: named tables of ordered keys, and what a transaction offers.

Theory. An engine is an ordered key-value transaction and nothing else; every rule of the domain is written
once, above it (`snapshot`, `reads`, `draft`, `changes`). The vocabulary is LMDB's, because the durable
engine is the fast one: `get`, `put`, and a cursor that seeks.

Keys are big-endian numbers and bytes, so that their order is the order of numbers. Tables:

    meta               name → u64                              schema, newest time, last numbers given
    settings           name → bytes                            the gateway's own small values
    products           key → record                            with how many devices and firmware it has
    devices            product u32, number u64 → record        in registration order within a product
    owners             number u64 → product u32                or, for a deleted device, its last record
    names              product u32, identifier → number u64    unique in the product
    firmware           number u64 → record
    firmware_names     name → number u64                       unique
    firmware_versions  product u32, version → number u64       unique in the product
    firmware_uses      firmware u64, batch u64 → nothing       batches that keep it from being deleted
    firmware_batches   firmware u64, batch u64 → nothing       all its batches
    images             SHA-256 → u32                           how many records name these bytes
    batches            number u64 → record
    counts             batch u64 → 7 x u32                     one per state
    unfinished         batch u64 → slices u32, rewritten u32   batches that somebody still works on
    members            batch u64, slice u32 → numbers          devices of a slice, ascending
    upgrades           device u64, batch u64 → packed row      so one put claims a device, and a seek finds
                                                               its newest row

For operators (`operators`):

    tokens             number u64 → record
    audit              number u64 → hash, JSON                 a chain (`audit`); its last hash is in meta
    answers            SHA-256 → record                        of requests that may be sent again
    answer_times       ms u64, SHA-256 → nothing               the oldest of them first
    webhooks           number u64 → record
    outbox             webhook u64, number u64 → record        what each is to be told, in order
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, Protocol

META: Final = "meta"
SETTINGS: Final = "settings"
PRODUCTS: Final = "products"
DEVICES: Final = "devices"
OWNERS: Final = "owners"
NAMES: Final = "names"
FIRMWARE: Final = "firmware"
FIRMWARE_NAMES: Final = "firmware_names"
FIRMWARE_VERSIONS: Final = "firmware_versions"
FIRMWARE_USES: Final = "firmware_uses"
FIRMWARE_BATCHES: Final = "firmware_batches"
IMAGES: Final = "images"
BATCHES: Final = "batches"
COUNTS: Final = "counts"
UNFINISHED: Final = "unfinished"
MEMBERS: Final = "members"
UPGRADES: Final = "upgrades"
TOKENS: Final = "tokens"
AUDIT: Final = "audit"
ANSWERS: Final = "answers"
ANSWER_TIMES: Final = "answer_times"
WEBHOOKS: Final = "webhooks"
OUTBOX: Final = "outbox"

TABLES: Final = (
    META,
    SETTINGS,
    PRODUCTS,
    DEVICES,
    OWNERS,
    NAMES,
    FIRMWARE,
    FIRMWARE_NAMES,
    FIRMWARE_VERSIONS,
    FIRMWARE_USES,
    FIRMWARE_BATCHES,
    IMAGES,
    BATCHES,
    COUNTS,
    UNFINISHED,
    MEMBERS,
    UPGRADES,
    TOKENS,
    AUDIT,
    ANSWERS,
    ANSWER_TIMES,
    WEBHOOKS,
    OUTBOX,
)

SCHEMA_VERSION: Final = 4  # what each is, and how a former one is carried forward: `migrations`
SCHEMA_KEY: Final = b"schema"
SEALING_KEY_ID_KEY: Final = b"sealing_key_id"
FREED_SECRETS_KEY: Final = b"freed_secrets"  # there, while freed pages may hold secrets of before
NEWEST_TIME_KEY: Final = b"newest_time"
AUDIT_HEAD_KEY: Final = b"audit_head"  # the hash of the last entry
KEPT_ANSWERS_KEY: Final = b"kept_answers"  # how many there are

u32_key: Final = Struct(">I")
u64_key: Final = Struct(">Q")
device_key: Final = Struct(">IQ")  # product, number
pair_key: Final = Struct(">QQ")  # (device, batch), (firmware, batch) or (webhook, delivery)
slice_key: Final = Struct(">QI")  # batch, slice
progress_value: Final = Struct(">II")  # slices, rewritten
counts_value: Final = Struct(">7I")

NUMBER_MAX: Final = 2**63 - 1


class Cursor(Protocol):
    """A place in one table. `True` means that it stands on an item; keys and values are copies."""

    def set_range(self, key: bytes, /) -> bool:
        """Stand on the first key that is not below `key`."""
        ...

    def next(self) -> bool: ...
    def prev(self) -> bool: ...
    def last(self) -> bool: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...
    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Items from where it stands, ascending."""
        ...

    def iterprev(self, keys: bool = True, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Items from where it stands, descending."""
        ...


class View(Protocol):
    """One transaction that reads: everything it shows is of one moment."""

    def get(self, table: str, key: bytes) -> bytes | None: ...
    def cursor(self, table: str) -> Cursor: ...


class Transaction(View, Protocol):
    """One transaction that writes, and reads its own writes."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def put_many(self, table: str, items: Sequence[tuple[bytes, bytes]]) -> None: ...
    def delete(self, table: str, key: bytes) -> None: ...


def scan(view: View, table: str, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Items from `start` on, ascending, while their keys begin with `prefix`."""
    cursor = view.cursor(table)
    if cursor.set_range(start):
        for item in cursor.iternext():
            if not item[0].startswith(prefix):
                return
            yield item


def scan_back(view: View, table: str, before: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Items below `before`, descending, while their keys begin with `prefix`."""
    cursor = view.cursor(table)
    if cursor.prev() if cursor.set_range(before) else cursor.last():
        for item in cursor.iterprev():
            if not item[0].startswith(prefix):
                return
            yield item


def has_prefix(view: View, table: str, prefix: bytes) -> bool:
    """Whether any key begins with `prefix`."""
    cursor = view.cursor(table)
    return cursor.set_range(prefix) and cursor.key().startswith(prefix)


def number_of_id(letter: str, id: str) -> int | None:
    """The number in an id as `id_of_number` makes them; None for anything else."""
    digits = id[1:]
    if not id.startswith(letter) or not (digits.isascii() and digits.isdecimal()) or digits[0] == "0":
        return None
    number = int(digits) if len(digits) < 20 else NUMBER_MAX + 1
    return number if number <= NUMBER_MAX else None


def id_of_number(letter: str, number: int) -> str:
    """ "b1" for batches, "f1" for firmware; "t1" for tokens, "w1" for webhooks."""
    return f"{letter}{number}"

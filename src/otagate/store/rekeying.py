"""`otagate key`: whether a key file opens a store, and another key for all its secrets.

Theory. A rotation is one transaction: every secret is opened under the old key and sealed under the new one,
and with them go the key's id and an entry of the audit log. Before it the new key's file is durable; after it
the store's file is written anew without the pages that held the old seals, which, as after a migration
(`lmdb.without_freed_pages`), the next opening makes up for. So at every moment exactly one of the two files
opens the whole store, whatever is killed, and the store says which. The old file is left where it is.

A gateway that runs holds the folder's lock, so there is no rotation beside one. A check needs no lock.
"""

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
from msgspec import Struct

from otagate import limits
from otagate.errors import StoreError
from otagate.store import changes, tables
from otagate.store.lmdb import (
    FolderLock,
    LmdbTransaction,
    check_schema,
    open_environment,
    open_tables,
    view_folder,
    without_freed_pages,
)
from otagate.store.migrations import rewrite_secrets, seals
from otagate.store.operators import Audited, AuditNote, TouchTokens
from otagate.store.sealing import Sealer, SealError, load_sealer

NAMED_MAX = 5  # of what does not open, in a message
ACTOR = "otagate key"


class Opened(Struct, frozen=True):
    """What a check found: the key's id (hex), how many secrets open, and what the others belong to."""

    key: str
    secrets: int
    damaged: list[str]


class Rotation(Struct, frozen=True):
    """What a rotation did: ids of the keys (hex), how many secrets were sealed anew, and how many dropped."""

    was: str
    now: str
    secrets: int
    devices_dropped: int
    webhooks_dropped: int


def check_key(data_dir: Path, key_file: Path) -> Opened:
    """Open every secret of a data folder, also beside the gateway. StoreError: no store, or not its key."""
    with view_folder(data_dir) as view:
        sealer = load_sealer(key_file, _key_id(view))
        secrets = 0
        damaged = []
        for sealed, about in seals(view):
            try:
                sealer.open(sealed, about)
                secrets += 1
            except SealError:
                damaged.append(about)
    return Opened(short(sealer.key_id), secrets, damaged)


def rotate_key(
    data_dir: Path, key_file: Path, new_file: Path, *, lost: bool = False, map_bytes: int = limits.map_bytes
) -> Rotation:
    """Seal all secrets under the key in `new_file`, which is made if it is missing.

    `lost`: `key_file` may be missing or wrong, and a secret that does not open is dropped. Without it, such
    a one is a StoreError, as are a folder in use, no store, one of a former schema, and the key in use.
    """
    path = data_dir / "store"
    if not (path / "data.mdb").is_file():
        raise StoreError(f"there is no store in {data_dir}")
    lock = FolderLock(data_dir)
    try:
        environment = open_environment(path, map_bytes)
        try:
            _check_current(environment, path)
            rotation = _rotate(environment, path, key_file, new_file, lost=lost)
        except lmdb.Error as error:
            environment.close()
            raise StoreError(f"cannot write the store in {path}: {error}; nothing was changed") from error
        except BaseException:
            environment.close()
            raise
        with closing(without_freed_pages(environment, path, map_bytes)):
            return rotation
    finally:
        lock.release()


def _rotate(
    environment: lmdb.Environment, path: Path, key_file: Path, new_file: Path, *, lost: bool
) -> Rotation:
    """The transaction, from the keys to the commit."""
    handles = open_tables(environment, path, None)
    with environment.begin() as txn:
        key_id = _key_id(LmdbTransaction(txn, handles))
    old = _old_sealer(key_file, key_id, lost=lost)
    new = load_sealer(new_file, None)
    if new.key_id == key_id:
        raise StoreError(f"the store is sealed under the key in {new_file} already: name another file")
    counts: Counter[str] = Counter()

    def renew(sealed: Any, about: str) -> bytes:
        secret = _opened(old, sealed, about)
        if secret is not None:
            counts["sealed"] += 1
            return new.seal(secret, about)
        if not lost:
            raise StoreError(
                f"the secret of {about} does not open: it was changed in the store. Nothing was changed; "
                "`otagate key check` names all such, and --lost drops them"
            )
        counts[about.partition(" ")[0]] += 1
        return b""

    with environment.begin(write=True) as txn:
        transaction = LmdbTransaction(txn, handles)
        rewrite_secrets(transaction, renew)
        transaction.put(tables.META, tables.SEALING_KEY_ID_KEY, new.key_id)
        transaction.put(tables.META, tables.FREED_SECRETS_KEY, b"")
        rotation = Rotation(
            short(key_id), short(new.key_id), counts["sealed"], counts["device"], counts["webhook"]
        )
        changes.apply(transaction, [_told(rotation)])
    return rotation


def _check_current(environment: lmdb.Environment, path: Path) -> None:
    if check_schema(environment, path) < tables.SCHEMA_VERSION:
        raise StoreError(f"{path} has a former schema: start the gateway once before")


def _opened(sealer: Sealer | None, sealed: bytes, about: str) -> str | None:
    try:
        return None if sealer is None else sealer.open(sealed, about)
    except SealError:
        return None


def _old_sealer(key_file: Path, key_id: bytes, *, lost: bool) -> Sealer | None:
    """The sealer of what is there; None if its key is lost."""
    try:
        return load_sealer(key_file, key_id)
    except StoreError:
        if lost:
            return None
        raise


def _told(rotation: Rotation) -> Audited:
    """The entry of the audit log; with it nothing else changes."""
    details = {
        "was": rotation.was,
        "secrets": rotation.secrets,
        "dropped": rotation.devices_dropped + rotation.webhooks_dropped,
    }

    def note(_: object) -> AuditNote:
        return AuditNote(rotation.now, details)

    now_ms = time.time_ns() // 1_000_000
    return Audited(TouchTokens([]), now_ms, ACTOR, "admin", "", "key.rotate", note)


def _key_id(view: tables.View) -> bytes:
    key_id = view.get(tables.META, tables.SEALING_KEY_ID_KEY)
    assert key_id is not None, "a store of this schema says under which key it seals"
    return key_id


def short(key_id: bytes) -> str:
    """A key's id as it is shown."""
    return key_id.hex()[:8]

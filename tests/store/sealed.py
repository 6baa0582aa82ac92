"""Stores with secrets in them, those secrets read back, and a store as it was before they were sealed."""

from pathlib import Path

import lmdb
import msgspec
from builders import T0, one, product

from otagate import limits
from otagate.store import tables
from otagate.store.interface import AddWebhook, DeleteDevice, NewDevice, RegisterDevices
from otagate.store.lmdb import LmdbStore, open_store
from otagate.store.sealing import KEY_FILE, about_device, about_webhook

CLEAR = "a secret that nobody may find"
HOOK = "http://127.0.0.1/hook"


def opened(data_dir: Path, key_file: Path | None = None) -> LmdbStore:
    return open_store(data_dir, key_file=key_file, map_bytes=64 * limits.MIB, reserve_bytes=4096)


def sealed(store: LmdbStore, identifier: str) -> NewDevice:
    return NewDevice(identifier, "n", store.sealer.seal(CLEAR, about_device("lamp", identifier)))


async def filled(data_dir: Path, key_file: Path | None = None) -> LmdbStore:
    """Devices d0 to d2 and a webhook, each with a secret; d0 is deleted."""
    store = opened(data_dir, key_file)
    await one(store, product())
    await one(store, RegisterDevices("lamp", [sealed(store, f"d{number}") for number in range(3)], T0))
    await one(store, AddWebhook(HOOK, ("batch_ended",), store.sealer.seal(CLEAR, about_webhook(HOOK)), T0))
    await one(store, DeleteDevice("lamp", "d0"))
    return store


async def secrets_of(store: LmdbStore) -> list[str]:
    found = await store.lookup_devices([("lamp", "d1"), ("lamp", "d2")])
    devices = [
        store.sealer.open(each.sealed, about_device("lamp", each.identifier)) for each in found if each
    ]
    return devices + [
        store.sealer.open(each.sealed, about_webhook(each.url)) for each in await store.webhooks()
    ]


def bytes_of(folder: Path) -> bytes:
    """All that stands in the files of a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def as_schema_2(data_dir: Path) -> None:
    """As it was before: the clear text where the seal stands, and no key."""
    store = await filled(data_dir)
    await store.close()
    (data_dir / KEY_FILE).unlink()
    places = {"devices": 4, "owners": 4, "webhooks": 3}
    with lmdb.open(str(data_dir / "store"), max_dbs=30) as environment:
        handles = {name: environment.open_db(name.encode()) for name in ("meta", *places)}
        with environment.begin(write=True) as txn:
            for name, place in places.items():
                for key, value in list(txn.cursor(handles[name])):
                    if len(value) > 4:
                        fields = msgspec.msgpack.decode(value[1:])
                        fields[place] = CLEAR if fields[place] else ""
                        txn.put(key, value[:1] + msgspec.msgpack.encode(fields), db=handles[name])
            txn.put(tables.SCHEMA_KEY, tables.u64_key.pack(2), db=handles["meta"])
            txn.delete(tables.SEALING_KEY_ID_KEY, db=handles["meta"])

"""Secrets at rest: what opens and what does not, the key file, stores from before there was one."""

import errno
import os
from pathlib import Path

import lmdb
import msgspec
import pytest
from builders import T0, one, product

from otagate import limits
from otagate.errors import StoreError
from otagate.store import tables
from otagate.store.backup import back_up, restore
from otagate.store.interface import AddWebhook, DeleteDevice, NewDevice, RegisterDevices
from otagate.store.lmdb import LmdbStore, open_store
from otagate.store.sealing import KEY_FILE, Sealer, SealError, about_device, about_webhook, load_sealer

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


# -- seals -----------------------------------------------------------------------------------------


def test_a_seal_opens_where_it_belongs() -> None:
    sealer = Sealer(os.urandom(32))
    one_seal, another = sealer.seal(CLEAR, "device lamp/d1"), sealer.seal(CLEAR, "device lamp/d1")
    assert one_seal != another
    assert sealer.open(one_seal, "device lamp/d1") == sealer.open(another, "device lamp/d1") == CLEAR
    assert CLEAR.encode() not in one_seal
    assert len(one_seal) == len(CLEAR) + 29
    for wrong in (one_seal[:-1], one_seal[:12], b"", b"\2" + one_seal[1:], one_seal[:-1] + b"?"):
        with pytest.raises(SealError):
            sealer.open(wrong, "device lamp/d1")
    with pytest.raises(SealError):
        sealer.open(one_seal, "device lamp/d2")
    with pytest.raises(SealError):
        Sealer(os.urandom(32)).open(one_seal, "device lamp/d1")


# -- the key file ----------------------------------------------------------------------------------


async def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    store = await filled(data_dir)
    await store.close()
    path = data_dir / KEY_FILE
    key = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(key) == 65
    store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()
    assert path.read_text() == key
    assert CLEAR.encode() not in bytes_of(data_dir)
    assert bytes.fromhex(key) not in bytes_of(data_dir / "store")
    assert key.strip().encode() not in bytes_of(data_dir / "store")


async def test_a_configured_key_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "keys"
    elsewhere.mkdir()
    store = await filled(tmp_path / "data", elsewhere / "k")
    await store.close()
    assert not (tmp_path / "data" / KEY_FILE).exists()
    store = opened(tmp_path / "data", elsewhere / "k")
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is missing: the secrets in the store are sealed under the key"),
        ("f" * 64 + "\n", "holds the key .* sealed under the key .*: put that one there"),
        ("short", "is no key file"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "cannot read the key file"),
    ],
)
async def test_another_key_is_refused_at_the_start(tmp_path: Path, text: str | None, told: str) -> None:
    data_dir = tmp_path / "data"
    await (await filled(data_dir)).close()
    path = data_dir / KEY_FILE
    key = path.read_text()
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(2):
        with pytest.raises(StoreError, match=told):
            opened(data_dir)
    assert not (text is None and path.exists()), "a lost key is not made anew"
    path.write_text(key)
    store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()


def test_a_key_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot make the key file"):
        load_sealer(tmp_path / "none" / "key", None)


# -- backups, and stores from before -------------------------------------------------------------------


async def test_a_backup_has_no_secret_and_no_key(tmp_path: Path) -> None:
    data_dir, copy, again = tmp_path / "data", tmp_path / "copy", tmp_path / "again"
    await (await filled(data_dir)).close()
    key = (data_dir / KEY_FILE).read_bytes()
    back_up(data_dir, copy)
    assert {path.name for path in copy.iterdir()} == {"store", "images", "backup.json"}
    assert key.strip() not in bytes_of(copy)
    assert CLEAR.encode() not in bytes_of(copy)
    restore(copy, again)
    with pytest.raises(StoreError, match="is missing"):
        opened(again)
    (again / KEY_FILE).write_bytes(key)
    store = opened(again)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()


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


async def test_secrets_of_a_former_store_are_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slice by slice; and what was freed goes with the file that it was freed in."""
    monkeypatch.setattr(limits, "scan_rows_max", 2)
    data_dir = tmp_path / "data"
    await as_schema_2(data_dir)
    assert CLEAR.encode() in bytes_of(data_dir)
    for _ in range(2):
        store = opened(data_dir)
        assert await secrets_of(store) == [CLEAR] * 3
        await store.close()
        assert CLEAR.encode() not in bytes_of(data_dir)
    assert (data_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("moment", ["shutil.copymode", "sync_folder"])
async def test_a_start_that_ends_before_freed_pages_are_gone_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The secrets are sealed and committed; the file that held them is replaced at the next start."""

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    data_dir = tmp_path / "data"
    await as_schema_2(data_dir)
    with monkeypatch.context() as patched:
        patched.setattr(f"otagate.store.lmdb.{moment}", ends)
        with pytest.raises(KeyboardInterrupt):
            opened(data_dir)
    if moment == "shutil.copymode":
        assert CLEAR.encode() in (data_dir / "store" / "data.mdb").read_bytes()
    store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()
    assert CLEAR.encode() not in bytes_of(data_dir)


async def test_without_room_for_a_new_file_the_next_start_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data_dir = tmp_path / "data"
    await as_schema_2(data_dir)
    with monkeypatch.context() as patched:
        patched.setattr("otagate.store.lmdb.shutil.copymode", no_room)
        store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()
    assert CLEAR.encode() in bytes_of(data_dir)
    await opened(data_dir).close()
    assert CLEAR.encode() not in bytes_of(data_dir)


async def test_a_former_backup_is_sealed_when_it_is_restored(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    await as_schema_2(data_dir)
    former = tmp_path / "former"
    (former / "images").mkdir(parents=True)
    (former / "store").mkdir()
    (former / "store" / "data.mdb").write_bytes((data_dir / "store" / "data.mdb").read_bytes())
    (former / "backup.json").write_text("{}")
    restore(former, tmp_path / "again")
    store = opened(tmp_path / "again")
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()

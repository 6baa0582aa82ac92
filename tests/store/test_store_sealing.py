"""Secrets at rest: what opens and what does not, the key file, stores from before there was one."""

import errno
import gzip
import os
from pathlib import Path

import pytest
from sealed import CLEAR, as_schema_2, bytes_of, filled, opened, secrets_of

from otagate import limits
from otagate.errors import StoreError
from otagate.store.backup import back_up, restore
from otagate.store.check import check_invariants
from otagate.store.sealing import KEY_FILE, Sealer, SealError, load_sealer
from otagate.upgrade.model import State

FORMER = Path(__file__).parent / "former"

# -- seals -----------------------------------------------------------------------------------------


def test_a_seal_opens_where_it_belongs() -> None:
    sealer = Sealer(os.urandom(32))
    one_seal, another = sealer.seal(CLEAR, "device lamp/d1"), sealer.seal(CLEAR, "device lamp/d1")
    assert one_seal != another
    assert sealer.open(one_seal, "device lamp/d1") == sealer.open(another, "device lamp/d1") == CLEAR
    assert CLEAR.encode() not in one_seal
    assert len(one_seal) == len(CLEAR) + 29
    changed = one_seal[:-1] + bytes([one_seal[-1] ^ 1])
    for wrong in (one_seal[:-1], one_seal[:12], b"", b"\2" + one_seal[1:], changed):
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


@pytest.mark.parametrize("schema", [2, 3])
async def test_a_store_that_a_former_otagate_wrote(tmp_path: Path, schema: int) -> None:
    """Its bytes as they were left: d1 is being upgraded, d2 is to be, d3 was deleted; a webhook, a token."""
    data_dir = tmp_path / "data"
    (data_dir / "store").mkdir(parents=True)
    written = gzip.decompress((FORMER / f"schema_{schema}.mdb.gz").read_bytes())
    assert CLEAR.encode() in written
    (data_dir / "store" / "data.mdb").write_bytes(written)
    for _ in range(2):
        store = opened(data_dir)
        assert await secrets_of(store) == [CLEAR] * 3
        (d1, d2, d3) = await store.lookup_devices([("lamp", name) for name in ("d1", "d2", "d3")])
        assert (d1 and d1.version, d2 and d2.name, d3) == ("1.0", "kitchen", None)
        upgrades = (await store.scan_upgrades(1, limit=9)).upgrades
        assert [found.upgrade.row.state for found in upgrades] == [State.PUSHED, State.TO_BE_PUSHED]
        assert [each.action for each in (await store.list_audit(limit=9)).entries] == ["device.rename"]
        assert (await store.check_audit()).first_broken is None
        assert [token.name for token in await store.tokens()] == ["first"]
        assert check_invariants(store) == []
        await store.close()
        assert CLEAR.encode() not in bytes_of(data_dir)

"""Another key for all secrets: whatever happens meanwhile, one of two key files opens all of them."""

import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest
from sealed import CLEAR, as_schema_2, bytes_of, filled, opened, secrets_of

from otagate.errors import StoreError
from otagate.store.check import check_invariants
from otagate.store.rekeying import check_key, rotate_key
from otagate.store.sealing import KEY_FILE

SIGKILL = -9

#: Does what `sys.argv` says with a folder, and kills itself when it comes to a function of this name.
ENDS_AT = """
import importlib, os, signal, sys
from pathlib import Path

module, name, what, folder = sys.argv[1:]
setattr(importlib.import_module(module), name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
if what == "rotate":
    from otagate.store.rekeying import rotate_key
    rotate_key(Path(folder), Path(folder, "secret-key"), Path(folder, "new"))
else:
    from otagate.store.lmdb import open_store
    open_store(folder, map_bytes=2**26, reserve_bytes=4096)
"""


def killed(at: str, what: str, folder: Path) -> None:
    """Run `what` in another process, which is gone when it comes to `at`."""
    module, _, name = at.rpartition(".")
    command = [sys.executable, "-c", ENDS_AT, module, name, what, str(folder)]
    assert subprocess.run(command, check=False).returncode == SIGKILL


def spoil(data_dir: Path, identifier: str | None) -> None:
    """Change the secret of a device in the store; None: of the webhook."""
    table, place = ("webhooks", 3) if identifier is None else ("devices", 4)
    with lmdb.open(str(data_dir / "store"), max_dbs=30) as environment:
        handle = environment.open_db(table.encode())
        with environment.begin(write=True) as txn:
            for key, value in list(txn.cursor(handle)):
                fields = msgspec.msgpack.decode(value[1:])
                if identifier in (None, fields[2]):
                    fields[place] = fields[place][:-1] + bytes([fields[place][-1] ^ 1])
                    txn.put(key, value[:1] + msgspec.msgpack.encode(fields), db=handle)


async def seals_in(data_dir: Path) -> list[bytes]:
    """The secrets of the two devices as they are sealed."""
    store = opened(data_dir)
    seals = [each.sealed for each in await store.lookup_devices([("lamp", "d1"), ("lamp", "d2")]) if each]
    await store.close()
    assert [seal in bytes_of(data_dir) for seal in seals] == [True, True]
    return seals


async def test_another_key(tmp_path: Path) -> None:
    data_dir, old, new = tmp_path / "data", tmp_path / "data" / KEY_FILE, tmp_path / "new"
    await (await filled(data_dir)).close()
    was = check_key(data_dir, old)
    assert (was.secrets, was.damaged) == (3, [])
    seals = await seals_in(data_dir)
    made = rotate_key(data_dir, old, new)
    assert (made.was, made.secrets, made.devices_dropped, made.webhooks_dropped) == (was.key, 3, 0, 0)
    assert new.stat().st_mode & 0o777 == 0o600
    assert check_key(data_dir, new).key == made.now
    with pytest.raises(StoreError, match=rf"holds the key {made.was}, .* under the key {made.now}"):
        check_key(data_dir, old)
    assert not any(seal in bytes_of(data_dir) for seal in seals), "the file is rid of the old seals"
    store = opened(data_dir, new)
    assert await secrets_of(store) == [CLEAR] * 3
    (entry,) = (await store.list_audit(limit=9)).entries
    assert (entry.actor, entry.action, entry.target) == ("otagate key", "key.rotate", made.now)
    assert entry.details == {"was": made.was, "secrets": 3, "dropped": 0}
    assert check_invariants(store) == []
    await store.close()


async def test_a_lost_key(tmp_path: Path) -> None:
    """What does not open is dropped; the device is there, and a new secret of it opens."""
    data_dir, key_file = tmp_path / "data", tmp_path / "data" / KEY_FILE
    await (await filled(data_dir)).close()
    key_file.unlink()
    with pytest.raises(StoreError, match="is missing"):
        rotate_key(data_dir, key_file, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    made = rotate_key(data_dir, key_file, key_file, lost=True)
    assert (made.secrets, made.devices_dropped, made.webhooks_dropped) == (0, 2, 1)
    assert check_key(data_dir, key_file).secrets == 0
    store = opened(data_dir)
    assert [each.sealed for each in await store.lookup_devices([("lamp", "d1")]) if each] == [b""]
    assert check_invariants(store) == []
    await store.close()
    again = rotate_key(data_dir, key_file, tmp_path / "another")
    assert (again.secrets, again.devices_dropped) == (0, 0)


@pytest.mark.parametrize(("identifier", "about"), [("d2", "device lamp/d2"), (None, "webhook http")])
async def test_what_was_changed_in_the_store(tmp_path: Path, identifier: str | None, about: str) -> None:
    """It is named; a rotation refuses it, or drops it alone."""
    data_dir, old, new = tmp_path / "data", tmp_path / "data" / KEY_FILE, tmp_path / "new"
    await (await filled(data_dir)).close()
    spoil(data_dir, identifier)
    found = check_key(data_dir, old)
    assert found.secrets == 2
    assert [name.startswith(about) for name in found.damaged] == [True]
    with pytest.raises(StoreError, match=rf"the secret of {about}.* does not open"):
        rotate_key(data_dir, old, new)
    assert check_key(data_dir, old) == found, "nothing was changed"
    made = rotate_key(data_dir, old, new, lost=True)
    assert (made.secrets, made.devices_dropped + made.webhooks_dropped) == (2, 1)
    assert check_key(data_dir, new).damaged == []


async def test_what_a_rotation_refuses(tmp_path: Path) -> None:
    data_dir, key_file = tmp_path / "data", tmp_path / "data" / KEY_FILE
    with pytest.raises(StoreError, match=r"there is no store in"):
        rotate_key(data_dir, key_file, tmp_path / "new")
    store = await filled(data_dir)
    with pytest.raises(StoreError, match="is in use by another otagate"):
        rotate_key(data_dir, key_file, tmp_path / "new")
    await store.close()
    with pytest.raises(StoreError, match=r"under the key in .* already"):
        rotate_key(data_dir, key_file, key_file)
    (tmp_path / "none").write_text("none\n")
    with pytest.raises(StoreError, match="is no key file"):
        rotate_key(data_dir, key_file, tmp_path / "none")
    await as_schema_2(tmp_path / "former")
    with pytest.raises(StoreError, match="former schema"):
        rotate_key(tmp_path / "former", key_file, tmp_path / "new")
    store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("otagate.store.rekeying.rewrite_secrets", KEY_FILE),
        ("otagate.store.rekeying._told", KEY_FILE),
        ("otagate.store.rekeying.without_freed_pages", "new"),
        ("otagate.store.lmdb.sync_folder", "new"),
    ],
)
async def test_a_rotation_that_is_killed(tmp_path: Path, at: str, opens: str) -> None:
    """Exactly one key opens the store, and it opens everything; and the rotation can be done again."""
    data_dir = tmp_path / "data"
    await (await filled(data_dir)).close()
    seals = await seals_in(data_dir)
    killed(at, "rotate", data_dir)
    other = {KEY_FILE: "new", "new": KEY_FILE}[opens]
    assert check_key(data_dir, data_dir / opens).secrets == 3
    with pytest.raises(StoreError, match="sealed under the key"):
        opened(data_dir, data_dir / other)
    store = opened(data_dir, data_dir / opens)
    assert await secrets_of(store) == [CLEAR] * 3
    await store.close()
    kept = opens == KEY_FILE
    assert [seal in bytes_of(data_dir) for seal in seals] == [kept, kept], "what was freed is gone"
    assert rotate_key(data_dir, data_dir / opens, data_dir / other).secrets == 3


@pytest.mark.parametrize(
    "at",
    [
        "otagate.store.migrations.rewrite_secrets",
        "otagate.store.lmdb.without_freed_pages",
        "otagate.store.lmdb.sync_folder",
    ],
)
async def test_a_migration_that_is_killed(tmp_path: Path, at: str) -> None:
    data_dir = tmp_path / "data"
    await as_schema_2(data_dir)
    killed(at, "open", data_dir)
    store = opened(data_dir)
    assert await secrets_of(store) == [CLEAR] * 3
    assert check_invariants(store) == []
    await store.close()
    assert CLEAR.encode() not in bytes_of(data_dir)

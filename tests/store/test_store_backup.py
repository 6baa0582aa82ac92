"""Backups: of a store that is written to, of damaged ones, and back again."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest
import trio
from builders import firmware, fleet, move, one, open_batch, product, register, row

from otagate import limits
from otagate.errors import SchemaTooNew, StoreError
from otagate.store import backup, tables
from otagate.store.check import check, check_progress, moments
from otagate.store.interface import DeleteFirmware, Transitioned
from otagate.store.lmdb import LmdbStore, open_store, view_folder
from otagate.store.tables import u64_key
from otagate.upgrade.model import State

BYTES = [bytes([number]) * 10 for number in range(3)]
DIGESTS = [hashlib.sha256(data).hexdigest() for data in BYTES]


def put_image(data_dir: Path, number: int) -> Path:
    """An image where blobs keep it."""
    path = data_dir / "images" / DIGESTS[number][:2] / DIGESTS[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BYTES[number])
    return path


def open_small(data_dir: Path) -> LmdbStore:
    return open_store(data_dir, map_bytes=64 * limits.MIB, reserve_bytes=4096)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A product, two firmware with images, a batch in progress; an image that nobody names; a token."""
    path = tmp_path / "data"
    trio.run(fill, path)
    for number in range(3):
        put_image(path, number)
    (path / "admin-token").write_text("clear text\n")
    return path


async def fill(path: Path) -> None:
    store = open_small(path)
    await fleet(store, 6)
    await one(store, firmware("a", "3.0", sha256=DIGESTS[0]))
    await one(store, firmware("b", "4.0", sha256=DIGESTS[1]))
    await one(store, DeleteFirmware("f1"))
    await open_batch(store, [1, 2], [3], firmware="f2")
    await store.commit([move(1, row(State.PUSHED))])
    await store.close()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """otagate in a process of its own: one process may open a store only once."""
    command = [sys.executable, "-P", "-m", "otagate", *map(str, arguments)]
    environ = os.environ | {"PYTHONPATH": str(Path(backup.__file__).parents[2])}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def images(*numbers: int) -> set[str]:
    return {f"images/{DIGESTS[number][:2]}/{DIGESTS[number]}" for number in numbers}


def test_there_and_back(data_dir: Path, tmp_path: Path) -> None:
    made = backup.back_up(data_dir, tmp_path / "copy")
    assert (made.schema, made.images, made.bytes) == (tables.SCHEMA_VERSION, 2, 20)
    assert names(tmp_path / "copy") == {"backup.json", "store/data.mdb", *images(0, 1)}, (
        "no clear text, no lock"
    )
    assert msgspec.json.decode((tmp_path / "copy" / "backup.json").read_bytes(), type=backup.Manifest) == made
    assert backup.restore(tmp_path / "copy", tmp_path / "new") == made
    assert names(tmp_path / "new") == {"store/data.mdb", *images(0, 1)}
    assert not list(tmp_path.glob("*.partial"))
    with view_folder(tmp_path / "new") as view:
        assert check(view) == []
        assert moments(view)[1, 1] == (State.PUSHED, 1)


def test_images_are_linked_and_restored_as_copies(data_dir: Path, tmp_path: Path) -> None:
    backup.back_up(data_dir, tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "new")
    (name,) = images(0)
    inodes = {folder: (tmp_path / folder / name).stat().st_ino for folder in ("data", "copy", "new")}
    assert inodes["data"] == inodes["copy"] != inodes["new"]


def test_where_links_are_not_possible(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    backup.back_up(data_dir, tmp_path / "copy")
    for name in images(0, 1):
        assert (tmp_path / "copy" / name).read_bytes() == (data_dir / name).read_bytes()
        assert (tmp_path / "copy" / name).stat().st_nlink == 1


async def test_while_it_is_written_to(data_dir: Path, tmp_path: Path) -> None:
    """Commits go on during the copy, which is one moment of them."""
    store = open_small(data_dir)
    states = (State.PUSHED, State.TO_BE_UPGRADED, State.UPGRADING)
    copied: subprocess.CompletedProcess[str] | None = None
    commits = 0

    async def write_on(task_status: trio.TaskStatus[None]) -> None:
        nonlocal commits
        at = State.TO_BE_PUSHED
        while copied is None:
            to = states[min(commits, 2)]
            moved = move(2, row(to, progress=commits % 100), at, int(commits > 0))
            assert isinstance((await store.commit([register(f"n{commits}"), moved]))[1], Transitioned)
            at = to
            commits += 1
            if commits == 5:
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(write_on)
        with store.view() as view:
            before = moments(view)
        copied = await trio.to_thread.run_sync(run, "backup", tmp_path / "copy", "--data", data_dir)
    assert copied.returncode == 0, copied.stderr
    assert "2 images of 20 bytes; checked" in copied.stdout
    with store.view() as view:
        after = moments(view)
    await store.close()
    with view_folder(tmp_path / "copy") as view:
        assert check(view) == []
        assert check_progress(before, moments(view)) == []
        assert check_progress(moments(view), after) == []
    assert commits > 5


async def test_an_image_that_comes_and_one_that_goes_meanwhile(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firmware c is uploaded after the images were linked; a is deleted before the store is copied, then b
    right after."""
    copy_store = backup._copy_store
    turns = 0

    def busy(source: Path, partial: Path) -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            change(data_dir, product("other"), firmware("c", "5.0", sha256=DIGESTS[2]), DeleteFirmware("f3"))
            put_image(data_dir, 2)
            shutil.rmtree(partial / "images" / DIGESTS[2][:2], ignore_errors=True)
            (data_dir / next(iter(images(1)))).unlink()
        copy_store(source, partial)

    monkeypatch.setattr(backup, "_copy_store", busy)
    made = await trio.to_thread.run_sync(backup.back_up, data_dir, tmp_path / "copy")
    assert made.images == 2
    assert names(tmp_path / "copy") == {"backup.json", "store/data.mdb", *images(0, 2)}


def change(data_dir: Path, *changes: object) -> None:
    """Commit these in between, on a store of its own."""

    async def commit() -> None:
        store = open_small(data_dir)
        for one_change in changes:
            await one(store, one_change)  # type: ignore[arg-type]
        await store.close()

    trio.run(commit)


def test_an_image_that_goes_right_after_the_copy(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store = backup._copy_store
    turns = 0

    def late(source: Path, partial: Path) -> None:
        nonlocal turns
        turns += 1
        copy_store(source, partial)
        if turns == 1:
            # as if it had arrived after the links, and were deleted after the copy
            shutil.rmtree(partial / "images" / DIGESTS[1][:2])
            (data_dir / next(iter(images(1)))).unlink()
            change(data_dir, DeleteFirmware("f3"))

    monkeypatch.setattr(backup, "_copy_store", late)
    assert backup.back_up(data_dir, tmp_path / "copy").images == 1
    assert turns == 2


# -- refusals ----------------------------------------------------------------------------------------


def test_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        backup.back_up(tmp_path, tmp_path / "copy")
    with pytest.raises(StoreError, match="is no backup"):
        backup.restore(tmp_path, tmp_path / "new")


def test_nothing_is_overwritten(data_dir: Path, tmp_path: Path) -> None:
    backup.back_up(data_dir, tmp_path / "copy")
    with pytest.raises(StoreError, match="exists already"):
        backup.back_up(data_dir, tmp_path / "copy")
    with pytest.raises(StoreError, match="is not empty"):
        backup.restore(tmp_path / "copy", data_dir)
    (tmp_path / "empty").mkdir()
    backup.restore(tmp_path / "copy", tmp_path / "empty")
    assert names(tmp_path / "empty") == names(data_dir) - {
        "admin-token",
        "lock",
        "reserve",
        "secret-key",
    } - images(2) - {"store/lock.mdb"}


def test_a_missing_image(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / next(iter(images(0)))).unlink()
    with pytest.raises(StoreError, match="is missing"):
        backup.back_up(data_dir, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_damaged_images(data_dir: Path, tmp_path: Path) -> None:
    backup.back_up(data_dir, tmp_path / "copy")
    image = tmp_path / "copy" / next(iter(images(0)))
    image.unlink()
    image.write_bytes(b"others")
    with pytest.raises(StoreError, match="has other bytes"):
        backup.restore(tmp_path / "copy", tmp_path / "new")
    image.unlink()
    with pytest.raises(StoreError, match=r"damaged: image .* is missing"):
        backup.restore(tmp_path / "copy", tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


def test_a_damaged_store(data_dir: Path, tmp_path: Path) -> None:
    backup.back_up(data_dir, tmp_path / "copy")
    write(tmp_path / "copy", tables.COUNTS, u64_key.pack(1), tables.counts_value.pack(9, 0, 0, 0, 0, 0, 0))
    with pytest.raises(StoreError, match="the copy is damaged: counts of b1"):
        backup.restore(tmp_path / "copy", tmp_path / "new")
    (tmp_path / "copy" / "store" / "data.mdb").write_bytes(b"no store at all" * 1000)
    with pytest.raises(StoreError):
        backup.restore(tmp_path / "copy", tmp_path / "new")


def test_of_a_newer_otagate(data_dir: Path, tmp_path: Path) -> None:
    backup.back_up(data_dir, tmp_path / "copy")
    write(tmp_path / "copy", tables.META, tables.SCHEMA_KEY, u64_key.pack(tables.SCHEMA_VERSION + 1))
    with pytest.raises(SchemaTooNew):
        backup.restore(tmp_path / "copy", tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


def write(folder: Path, table: str, key: bytes, value: bytes) -> None:
    """Change a store by hand."""
    with lmdb.open(str(folder / "store"), max_dbs=50, map_size=2**26) as environment:
        handle = environment.open_db(table.encode())
        with environment.begin(write=True) as txn:
            txn.put(key, value, db=handle)


def test_the_command_line(data_dir: Path, tmp_path: Path) -> None:
    done = run("backup", tmp_path / "copy", "--data", data_dir)
    assert done.returncode == 0, done.stderr
    done = run("restore", tmp_path / "copy", "--data", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'new'}: the store as of 2023-11-14T")
    again = run("restore", tmp_path / "copy", "--data", tmp_path / "new")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "is not empty" in again.stderr

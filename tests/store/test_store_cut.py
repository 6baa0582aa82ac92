"""A store whose file was cut short: a sentence, where LMDB would end the process with a signal."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from builders import one, product, register
from lmdb.verify import VerifyError, verify

from otagate import limits
from otagate.errors import StoreError
from otagate.store.backup import back_up
from otagate.store.cut import is_cut
from otagate.store.interface import DeleteDevice, PutSetting
from otagate.store.lmdb import LmdbStore, open_store

PAGE = 4096
LARGE = 17 * PAGE  # of a value with pages of its own; more than 16 bits can say

OPEN_AND_READ = """
import sys
from otagate.errors import StoreError
from otagate.store.check import check_invariants
from otagate.store.lmdb import open_store
try:
    store = open_store(sys.argv[1], map_bytes=2**26, reserve_bytes=4096)
except StoreError as error:
    sys.exit(str(error))
sys.exit(bool(check_invariants(store)))
"""


def opened(data_dir: Path) -> LmdbStore:
    return open_store(data_dir, map_bytes=64 * limits.MIB, reserve_bytes=4096)


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    """A data folder with some hundreds of devices, freed pages, and large values in the middle and last."""
    data_dir = tmp_path / "data"
    store = opened(data_dir)
    await store.commit([product(), register(*(f"d{place}" for place in range(300)))])
    await one(store, PutSetting("large", b"x" * LARGE))
    await one(store, register(*(f"e{place}" for place in range(400))))
    for place in range(0, 400, 2):
        await one(store, DeleteDevice("lamp", f"e{place}"))
    await one(store, PutSetting("last", b"y" * LARGE))
    await store.close()
    return data_dir


def file_of(data_dir: Path) -> Path:
    return data_dir / "store" / "data.mdb"


def cut(file: Path, length: int) -> None:
    with file.open("r+b") as opened_file:
        opened_file.truncate(length)


def told(file: Path) -> str:
    return f"{file} was cut short: part of what the store wrote there is missing. Nothing was changed; "


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, which may die."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


CUTS: dict[str, Callable[[int], int]] = {
    "within the first meta page": lambda size: 100,
    "after the first page": lambda size: PAGE,
    "within the second meta page": lambda size: PAGE + 200,
    "after the meta pages": lambda size: 2 * PAGE,
    "after the first pages": lambda size: 5 * PAGE,
    "at half": lambda size: size // 2 // PAGE * PAGE,
    "within a page": lambda size: size // 2 // PAGE * PAGE + 1000,
    "before the last page": lambda size: size - PAGE,
    "before the last byte": lambda size: size - 1,
}


@pytest.mark.parametrize("where", CUTS)
async def test_a_store_that_was_cut_short_is_refused(data_dir: Path, where: str) -> None:
    file = file_of(data_dir)
    cut(file, CUTS[where](file.stat().st_size))
    left = file.read_bytes()
    reading = run("-m", "otagate.store.check", str(data_dir))
    writing = run("-c", OPEN_AND_READ, str(data_dir))
    assert (reading.returncode, writing.returncode) == (2, 1), reading.stderr + writing.stderr
    for child in (reading, writing):
        assert child.stderr.startswith(told(file))
        assert child.stderr.count("\n") == 1
    assert file.read_bytes() == left


async def test_every_cut_is_seen_that_the_verifier_sees(data_dir: Path) -> None:
    """LMDB's own verifier reads all pages but the later ones of a large value, and no map."""
    file = file_of(data_dir)
    assert verify(str(file)) == []
    assert not is_cut(file)
    for pages in reversed(range(1, file.stat().st_size // PAGE)):
        cut(file, pages * PAGE)
        try:
            findings = verify(str(file))
        except VerifyError as error:
            findings = [str(error)]
        assert is_cut(file) or not findings, pages


async def test_each_page_of_a_large_value_counts(data_dir: Path) -> None:
    file = file_of(data_dir)
    whole = file.read_bytes()
    assert whole.rstrip(b"\0").endswith(b"y" * LARGE)
    pages = len(whole) // PAGE
    for lost in range(1, 1 + LARGE // PAGE):
        cut(file, (pages - lost) * PAGE)
        assert is_cut(file)


def test_a_leaf_at_the_end_counts(tmp_path: Path) -> None:
    file = tmp_path / "data.mdb"
    with (
        lmdb.open(str(tmp_path), max_dbs=1, lib_version=0) as environment,
        environment.begin(write=True) as txn,
    ):
        table = environment.open_db(b"table", txn)
        for number in range(1000):
            txn.put(b"%04d" % number, b"value", db=table)
    assert file.read_bytes().rindex(b"0999") > file.stat().st_size - PAGE
    assert not is_cut(file)
    cut(file, file.stat().st_size - PAGE)
    assert is_cut(file)


def test_the_list_of_freed_pages_counts(tmp_path: Path) -> None:
    """No reader misses it, but the next writer dies of it."""
    file = tmp_path / "data.mdb"
    with lmdb.open(str(tmp_path), lib_version=0) as environment:
        for value in (b"old", b"new"):
            with environment.begin(write=True) as txn:
                txn.put(b"key", value)
    whole = file.read_bytes()
    assert b"new" in whole[:-PAGE]
    assert b"new" not in whole[-PAGE:]
    assert not is_cut(file)
    cut(file, len(whole) - PAGE)
    assert is_cut(file)


async def test_a_page_of_nonsense_raises_nothing(data_dir: Path) -> None:
    file = file_of(data_dir)
    whole = file.read_bytes()
    cut(file, len(whole) - PAGE)
    for start in range(2 * PAGE, len(whole) - PAGE, PAGE):
        with file.open("r+b", buffering=0) as opened_file:
            os.pwrite(opened_file.fileno(), b"\xff" * PAGE, start)
            assert is_cut(file)
            os.pwrite(opened_file.fileno(), whole[start : start + PAGE], start)


async def test_a_file_without_its_freed_pages_at_the_end_is_whole(data_dir: Path) -> None:
    """Pages that a transaction took and gave back are never written, but counted."""
    file = file_of(data_dir)
    with (
        lmdb.open(str(file.parent), max_dbs=30, map_size=2**26) as environment,
        environment.begin(write=True) as txn,
    ):
        meta = environment.open_db(b"meta", txn)
        txn.put(b"too large", bytes(100 * PAGE), db=meta)
        txn.delete(b"too large", db=meta)
    with lmdb.open(str(file.parent), readonly=True) as environment:
        assert file.stat().st_size < environment.info()["last_pgno"] * PAGE
    assert run("-m", "otagate.store.check", str(data_dir)).returncode == 0
    assert run("-c", OPEN_AND_READ, str(data_dir)).returncode == 0
    store = opened(data_dir)
    assert run("-m", "otagate.store.check", str(data_dir)).returncode == 0  # beside a writer
    await one(store, PutSetting("more", b"z" * LARGE))
    assert await store.get_setting("more") == b"z" * LARGE
    await store.close()
    assert not is_cut(file)


async def test_every_command_says_so(data_dir: Path, tmp_path: Path) -> None:
    file = file_of(data_dir)
    backup = tmp_path / "backup"
    back_up(data_dir, backup)
    cut(file, file.stat().st_size // 2)
    inside = backup / "store" / "data.mdb"
    cut(inside, inside.stat().st_size // 2)
    data = ("--data", str(data_dir))
    listening = ("--device-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
    for arguments, named in (
        (("serve", *data, *listening), file),
        (("backup", str(tmp_path / "other"), *data), file),
        (("key", "check", *data), file),
        (("key", "rotate", str(tmp_path / "new-key"), *data), file),
        (("restore", str(backup), "--data", str(tmp_path / "new")), inside),
    ):
        child = run("-m", "otagate", *arguments)
        assert child.returncode > 0, arguments
        assert told(named) in child.stderr
        assert "Traceback" not in child.stderr
    assert sorted(os.listdir(tmp_path)) == ["backup", "data"]  # neither half a copy nor a key is left


async def test_what_is_no_store_was_not_cut_short(data_dir: Path) -> None:
    file = file_of(data_dir)
    file.write_bytes(b"not a store" * 10)
    with pytest.raises(StoreError, match="cannot open the store in"):
        opened(data_dir)

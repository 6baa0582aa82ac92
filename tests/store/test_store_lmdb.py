"""What only the durable engine promises: it lasts, it is opened once, and it stops when the disk fails."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio
from builders import T0, fleet, move, one, open_batch, product, register, row

from otagate import limits
from otagate.errors import CommitFailed, Conflict, NotFound, SchemaTooNew, StoreError
from otagate.store import lmdb as engine
from otagate.store import stretches, tables
from otagate.store.check import check_invariants, main
from otagate.store.interface import DeleteDevice, DeleteProduct, PutSetting, Store, Transitioned
from otagate.store.lmdb import LmdbStore, open_store, view_folder
from otagate.store.operators import AddToken
from otagate.upgrade.model import State

MAP_BYTES = 64 * limits.MIB


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def opened(data_dir: Path, **options: int) -> LmdbStore:
    return open_store(data_dir, **({"map_bytes": MAP_BYTES, "reserve_bytes": 4096} | options))


async def test_what_was_committed_is_there_after_a_restart(data_dir: Path) -> None:
    store: Store = opened(data_dir)
    await store.commit([product(), register("d1")])
    await store.close()
    await store.close()
    store = opened(data_dir)
    assert [device and device.identifier for device in await store.devices_by_number([1])] == ["d1"]
    (again,) = await one(store, register("d2"))  # type: ignore[arg-type]
    assert again.number == 2
    await store.close()


async def test_a_key_that_is_too_long_is_not_there(data_dir: Path) -> None:
    """Parts of URLs are looked up as they are: LMDB keeps no key of over 511 bytes, but looks for any."""
    store = opened(data_dir)
    await store.commit([product(), register("d1")])
    long = "a" * 5_000
    assert await store.get_product(long) is None
    for change in (DeleteProduct(long), DeleteDevice("lamp", long), register("d2", product=long)):
        assert isinstance(await one(store, change), NotFound)
    await store.close()


async def test_a_second_process_is_refused(data_dir: Path) -> None:
    store = opened(data_dir)
    program = "import sys; from otagate.store.lmdb import open_store; open_store(sys.argv[1])"
    result = await trio.run_process(
        [sys.executable, "-c", program, str(data_dir)], check=False, capture_stderr=True
    )
    assert result.returncode == 1
    assert f"is in use by another otagate (process {os.getpid()})".encode() in result.stderr
    with pytest.raises(StoreError, match="is in use"):
        opened(data_dir)
    await store.close()
    await opened(data_dir).close()


async def test_a_newer_schema_is_refused_with_both_versions(data_dir: Path) -> None:
    await opened(data_dir).close()
    with lmdb.open(str(data_dir / "store"), max_dbs=1) as environment, environment.begin(write=True) as txn:
        meta = environment.open_db(b"meta", txn)
        txn.put(tables.SCHEMA_KEY, tables.u64_key.pack(tables.SCHEMA_VERSION + 6), db=meta)
    known = tables.SCHEMA_VERSION
    told = f"has schema {known + 6} and this otagate knows schema {known}: run the otagate"
    for _ in range(2):  # the refusal lets go of the lock
        with pytest.raises(SchemaTooNew, match=told):
            opened(data_dir)


async def test_what_is_no_store_is_refused_by_name(data_dir: Path) -> None:
    (data_dir / "store").mkdir(parents=True)
    (data_dir / "store" / "data.mdb").write_bytes(b"not a store" * 1000)
    with pytest.raises(StoreError, match=str(data_dir / "store")):
        opened(data_dir)


@pytest.mark.parametrize("sign", ["images", "admin-token"])
@pytest.mark.parametrize("left", ["nothing", "pages", "no file"])
async def test_an_emptied_store_is_not_begun_anew(data_dir: Path, sign: str, left: str) -> None:
    file = data_dir / "store" / "data.mdb"
    file.parent.mkdir(parents=True)
    if left == "nothing":
        file.touch()
    elif left == "pages":  # as a refused start leaves it
        lmdb.open(str(file.parent)).close()
    (data_dir / sign).mkdir()
    told = f"{file} holds nothing, and {data_dir / sign} shows that a store was there: restore a backup"
    for _ in range(2):
        with pytest.raises(StoreError, match=told):
            opened(data_dir)
    with pytest.raises(StoreError, match=told), view_folder(data_dir):
        pass
    assert not (data_dir / "secret-key").exists()


@pytest.mark.parametrize("left", ["nothing", "pages"])
async def test_a_first_start_that_was_cut_short_goes_on(
    data_dir: Path, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data_dir / "store" / "data.mdb"
    file.parent.mkdir(parents=True)
    file.touch()
    if left == "pages":
        lmdb.open(str(file.parent)).close()
    assert main([str(data_dir)]) == 2
    assert capsys.readouterr().err == f"{file} holds nothing: `otagate serve` makes a store of it\n"
    store = opened(data_dir)
    await store.close()
    assert main([str(data_dir)]) == 0


async def test_a_full_map_is_fail_stop_and_the_group_is_gone(data_dir: Path) -> None:
    store = opened(data_dir, map_bytes=limits.MIB)
    await one(store, product())
    group = [register("d1"), *(PutSetting(f"s{place}", b"x" * 100_000) for place in range(20))]
    with pytest.raises(CommitFailed, match=rf"commit to {data_dir}/store failed: .*MAP_FULL"):
        await store.commit(group)
    with pytest.raises(CommitFailed, match="MAP_FULL"):
        await one(store, product("fan"))
    assert await store.count_devices("lamp") == 0  # what was there before can be read
    await store.close()
    store = opened(data_dir)
    assert [found.key for found in await store.list_products()] == ["lamp"]
    assert await store.count_devices("lamp") == 0
    await store.close()


class _FailingCommit:
    """An environment whose transactions cannot be committed."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin(self, *, write: bool = False) -> Any:
        txn = self._environment.begin(write=write)
        return _FailingTransaction(txn) if write else txn


class _FailingTransaction:
    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def __enter__(self) -> Any:
        return self._txn

    def __exit__(self, *exc: object) -> None:
        self._txn.abort()
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(5)}")


async def test_a_disk_error_is_named_with_the_path(data_dir: Path) -> None:
    store = opened(data_dir)
    await one(store, product())
    store._environment = _FailingCommit(store._environment)  # type: ignore[assignment]
    with pytest.raises(CommitFailed, match=rf"{data_dir}/store failed: mdb_txn_commit: Input/output error"):
        await one(store, product("fan"))
    assert await store.get_product("fan") is None
    await store.close()


class _Panic:
    """An environment after a fatal error."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin(self, *, write: bool = False) -> Any:
        raise lmdb.PanicError("mdb_txn_renew: MDB_PANIC")


async def test_a_reader_that_learns_of_a_failure_first_says_so(data_dir: Path) -> None:
    """Between the failure of the meta page and the writer's word on it, which names the cause."""
    store = opened(data_dir)
    environment = store._environment
    store._environment = _Panic(environment)  # type: ignore[assignment]
    with pytest.raises(StoreError, match=rf"cannot read the store in {data_dir}/store: .*MDB_PANIC"):
        await store.get_product("lamp")
    store._environment = _FailingCommit(environment)  # type: ignore[assignment]
    with pytest.raises(CommitFailed):
        await one(store, product())
    store._environment = _Panic(environment)  # type: ignore[assignment]
    with pytest.raises(CommitFailed, match="Input/output error"):
        await store.get_product("lamp")
    await store.close()


async def test_a_broken_assert_takes_its_whole_group_along(data_dir: Path) -> None:
    store = opened(data_dir)
    await fleet(store)
    await open_batch(store, [1, 2])
    ended = row(State.SUCCEEDED)
    with pytest.raises(AssertionError, match="never changes"):
        await store.commit([move(1, ended), move(1, row(State.PUSHED), State.SUCCEEDED, 1)])
    assert [upgrade and upgrade.row.state for upgrade in await store.upgrades([(1, 1)])] == [
        State.TO_BE_PUSHED
    ]
    assert check_invariants(store) == []
    await store.close()


async def test_a_cancelled_commit_is_waited_for(data_dir: Path) -> None:
    store = opened(data_dir)
    with trio.CancelScope() as scope:
        scope.cancel()
        assert type(await one(store, product())).__name__ == "Product"
    assert await store.get_product("lamp") is not None
    await store.close()


async def test_commits_run_on_one_thread_and_scans_on_others(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {"commit": set(), "scan": set()}

    def noting(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **keywords: Any) -> Any:
            threads[kind].add(threading.get_ident())
            return function(*arguments, **keywords)

        return noted

    monkeypatch.setattr(engine.LmdbStore, "_write", noting("commit", engine.LmdbStore._write))
    monkeypatch.setattr(engine.LmdbStore, "_read", noting("scan", engine.LmdbStore._read))
    store = opened(data_dir)
    await fleet(store)
    for _ in range(3):
        await one(store, PutSetting("a", b""))
        await store.scan_devices("lamp", limit=9)
    assert len(threads["commit"]) == 1
    assert threads["scan"] & (threads["commit"] | {threading.get_ident()}) == set()
    await store.close()


async def test_a_crowded_writer_has_the_loop_stand_still(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood: list[int] = []
    stand = stretches._Standstill._stand

    def noting(self: stretches._Standstill) -> None:
        stood.append(threading.get_ident())
        stand(self)

    monkeypatch.setattr(stretches._Standstill, "_stand", noting)
    monkeypatch.setattr(stretches, "CROWDED_NS", 10**15)
    store = opened(data_dir)
    await fleet(store, 300)
    await open_batch(store, list(range(1, 301)))
    stood.clear()
    store._stretches._crowded_until_ns = 2**62
    moves = [move(device, row(State.PUSHED)) for device in range(1, 301)]
    assert await store.commit(moves) == [Transitioned()] * 300
    assert set(stood) == {threading.get_ident()}
    await store.close()


def test_a_writer_kept_waiting_notices_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the two clocks: time that passes without being computed in."""
    now_ns, computed_ns = [0], [0]
    monkeypatch.setattr(stretches.time, "monotonic_ns", lambda: now_ns[0])
    monkeypatch.setattr(stretches.time, "thread_time_ns", lambda: computed_ns[0])

    class Group:
        def __init__(self, steps: int, step_ns: int, computing_ns: int) -> None:
            self.steps, self.step_ns, self.computing_ns = steps, step_ns, computing_ns

        def go_on(self, number: int) -> bool:
            now_ns[0] += self.step_ns
            computed_ns[0] += self.computing_ns
            self.steps -= 1
            return self.steps > 0

    class Gone:
        asked = 0

        def run_sync_soon(self, function: object) -> None:
            self.asked += 1
            raise trio.RunFinishedError

    writer, loop = stretches.Stretches(), Gone()
    writer.apply(Group(100, 40_000, 40_000), loop)  # type: ignore[arg-type]
    assert loop.asked == 0
    writer.apply(Group(1, 400_000, 40_000), loop)  # type: ignore[arg-type]
    assert loop.asked == 0
    writer.apply(Group(60, 40_000, 40_000), loop)  # type: ignore[arg-type]
    assert loop.asked == 3  # a stretch each millisecond
    now_ns[0] += stretches.CROWDED_NS
    writer.apply(Group(60, 40_000, 40_000), loop)  # type: ignore[arg-type]
    assert loop.asked == 3


# -- room --------------------------------------------------------------------------------------------------


async def test_the_reserve_is_given_away_on_a_full_disk_and_kept_again_when_there_is_room(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = data_dir / "reserve"
    await opened(data_dir).close()
    assert reserve.stat().st_size == 4096
    assert reserve.stat().st_blocks * 512 >= 4096
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_free_bytes", lambda path: 100)
        await opened(data_dir).close()
    assert not reserve.exists()
    await opened(data_dir).close()
    assert reserve.exists()


# -- kill -9 -------------------------------------------------------------------------------------------------

WRITER = """
import sys, trio
from otagate.store.interface import CreateProduct, NewDevice, RegisterDevices
from otagate.store.lmdb import open_store

async def main():
    store = open_store(sys.argv[1], map_bytes=1 << 26, reserve_bytes=4096)
    await store.commit([CreateProduct("lamp", "Lamp", "secret", 1)])
    number = 0
    while True:
        group = [
            RegisterDevices("lamp", [NewDevice(f"d{number}-{place}", "n", b"s")], 1) for place in range(5)
        ]
        group.insert(2, CreateProduct("lamp", "Lamp", "secret", 1))
        await store.commit(group)
        number += 1
        print(number, flush=True)

trio.run(main)
"""


@pytest.mark.parametrize("lines", [1, 7, 23])
async def test_a_killed_writer_leaves_whole_groups_and_nothing_it_told_is_lost(
    data_dir: Path, lines: int
) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 (killed below; its lines are what we wait for)
        [sys.executable, "-c", WRITER, str(data_dir)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    told = 0
    with process.stdout as output:
        for _ in range(lines):
            told = int(output.readline())
        process.send_signal(signal.SIGKILL)
        for line in output:
            told = int(line) if line.endswith(b"\n") else told
    process.wait()
    store = opened(data_dir)
    found = await store.count_devices("lamp")
    assert found % 5 == 0
    assert found // 5 in (told, told + 1)
    assert check_invariants(store) == []
    assert type(await one(store, product())) is Conflict
    await store.close()
    verify = await trio.run_process(
        [sys.executable, "-m", "lmdb", "verify", "-e", str(data_dir / "store")], capture_stdout=True
    )
    assert b"OK" in verify.stdout
    assert main([str(data_dir)]) == 0


async def test_the_first_schema_is_carried_forward(data_dir: Path) -> None:
    """A store as the first schema left it: no tables of operators, the admin token as a setting."""
    store = opened(data_dir)
    await one(store, product())
    await one(store, PutSetting("admin_token_sha256", b"h" * 32))
    await store.close()
    with lmdb.open(str(data_dir / "store"), max_dbs=30) as environment:
        for name in (tables.TOKENS, tables.AUDIT, tables.ANSWERS, tables.WEBHOOKS, tables.OUTBOX):
            handle = environment.open_db(name.encode())
            with environment.begin(write=True) as txn:
                txn.drop(handle)
        meta = environment.open_db(b"meta")
        with environment.begin(write=True) as txn:
            txn.put(tables.SCHEMA_KEY, tables.u64_key.pack(1), db=meta)
    with pytest.raises(StoreError, match="has schema 1: `otagate serve` carries it forward"):
        view_folder(data_dir).__enter__()
    for _ in range(2):
        store = opened(data_dir)
        (token,) = await store.tokens()
        assert (token.id, token.name, token.role, token.sha256) == ("t1", "first", "admin", b"h" * 32)
        assert token.created_at_ms > 0
        assert await store.get_setting("admin_token_sha256") is None
        assert await store.get_product("lamp") is not None
        assert check_invariants(store) == []
        await store.close()
    store = opened(data_dir)
    assert (await one(store, AddToken("new", "viewer", b"n" * 32, T0))).id == "t2"
    await store.close()

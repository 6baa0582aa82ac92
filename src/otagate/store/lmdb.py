"""The durable engine: LMDB with sync on, one writer thread, reads from mapped pages.

Theory. LMDB gives one writer at a time and readers that never wait for it. All commits go through one
thread of our own, which begins and commits a transaction inside one function: LMDB's writer lock belongs
to a thread, and a transaction that another thread finished would hang the next writer for ever. A commit is
on the disk when `commit` returns. Single records are read on the caller's thread, inline (a transaction and
a look-up cost about 2 µs, a hop to another thread 100); scans run in a few threads of their own.

Fail-stop: after a failed commit nobody knows which of our pages the disk holds, so this store takes no
further commit; the next start reads what is there.

How the writer gets along with a loop that computes is told in `stretches`.

Invariants: no transaction, cursor or page leaves this module; no read transaction lives across an await; a
folder is open once (flock on DATA/lock), because two writers that decide by what they remember would
overwrite each other's decisions though LMDB kept the pages whole.
"""

import fcntl
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import lmdb
import outcome
import trio

from otagate import limits, logs
from otagate.errors import CommitFailed, SchemaTooNew, StoreError
from otagate.store import changes as rules
from otagate.store import tables
from otagate.store.cut import is_cut
from otagate.store.engine import Engine
from otagate.store.interface import Change, Outcome, Sizes
from otagate.store.migrations import migrate
from otagate.store.reads import Budget
from otagate.store.sealing import KEY_FILE, load_sealer, sync_folder
from otagate.store.snapshot import Snapshot
from otagate.store.stretches import Stretches, tune
from otagate.store.tables import View, u64_key

log = logs.get("store")
T = TypeVar("T")

READERS_MAX = 126  # slots of the lock file; we use SCAN_THREADS + 1, tools that look in use one each
SCAN_THREADS = 2
FORMER_LIFE = ("images", "admin-token")  # of a data folder in which a gateway has served


class LmdbTransaction:
    """tables.Transaction over one LMDB transaction."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: "lmdb.Transaction[bytes]", handles: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = handles

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key."""
        return self._txn.get(key, None, self._tables[table])

    def cursor(self, table: str) -> tables.Cursor:
        """A cursor that stands nowhere yet."""
        return cast(tables.Cursor, self._txn.cursor(self._tables[table]))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Write one item."""
        self._txn.put(key, value, db=self._tables[table])

    def put_many(self, table: str, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Write items."""
        if items:
            self._txn.cursor(self._tables[table]).putmulti(items)

    def delete(self, table: str, key: bytes) -> None:
        """Delete one item, if it is there."""
        self._txn.delete(key, b"", self._tables[table])


class FolderLock:
    """DATA/lock, held for the life of a store; the kernel lets go of it however the process ends."""

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise StoreError(
                f"{data_dir} is in use by another otagate (process {owner or 'unknown'}); "
                "stop that one, or give this one another --data"
            ) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._descriptor)
            raise StoreError(f"cannot write {path}: {error.strerror}") from error

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)


def _free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class _Reserve:
    """DATA/reserve: room kept so that a store can still be opened, and cleared up, on a full disk."""

    def __init__(self, data_dir: Path, size: int) -> None:
        self._path = data_dir / "reserve"
        self._size = size

    def free_if_needed(self) -> None:
        """Give the room away if there is hardly any other."""
        if self._path.exists() and _free_bytes(self._path.parent) < self._size:
            self._path.unlink()
            log.warning("disk_full", freed=str(self._path))

    def keep(self) -> None:
        """Take the room (again) when there is enough of it."""
        if self._path.exists() or _free_bytes(self._path.parent) < 2 * self._size:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.warning("reserve_not_kept", path=str(self._path), error=error)


def check_schema(environment: lmdb.Environment, path: Path) -> int:
    """The schema of the store, 0 of a new one. SchemaTooNew if it is a later one than ours."""
    with environment.begin() as txn:
        try:
            meta = environment.open_db(tables.META.encode(), txn, create=False)
        except lmdb.NotFoundError:
            return 0
        value = txn.get(tables.SCHEMA_KEY, None, meta)
    found: int = 0 if value is None else u64_key.unpack(value)[0]
    if found > tables.SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema {found} and this otagate knows schema {tables.SCHEMA_VERSION}: "
            "run the otagate that wrote it, or a newer one, or restore a backup from before the upgrade"
        )
    return found


def refuse_empty(path: Path, *, readonly: bool) -> None:
    """StoreError for a store in `path` that holds nothing, unless it may be made there.

    LMDB takes an empty file for a new store. What FORMER_LIFE names is made after a store's first commit, so
    it is not there when a first start was cut short.
    """
    file = path / "data.mdb"
    for name in FORMER_LIFE:
        if (path.parent / name).exists():
            raise StoreError(
                f"{file} holds nothing, and {path.parent / name} shows that a store was there: restore a "
                "backup to a new folder (otagate restore), or begin a new store in another one (--data)"
            )
    if readonly:
        raise StoreError(f"{file} holds nothing: `otagate serve` makes a store of it")


def refuse_cut(path: Path) -> None:
    """StoreError for a store in `path` whose file was cut short; LMDB would die of what is not there."""
    file = path / "data.mdb"
    if is_cut(file):
        raise StoreError(
            f"{file} was cut short: part of what the store wrote there is missing. Nothing was changed; "
            "restore a backup to a new folder (otagate restore), or begin a new store in another one (--data)"
        )


def open_environment(path: Path, map_bytes: int, *, readonly: bool = False) -> lmdb.Environment:
    """The LMDB environment of a store in `path`; StoreError names the cause."""
    try:
        if readonly and (path / "data.mdb").stat().st_size == 0:
            refuse_empty(path, readonly=True)
        environment = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(tables.TABLES),
            max_readers=READERS_MAX,
            max_spare_txns=SCAN_THREADS + 1,
            readonly=readonly,
            create=not readonly,
            mode=0o700,
            readahead=False,  # rows of a fleet are read at random
            lib_version=0,
        )
        try:
            with environment.begin():  # beside a writer: see is_cut. Touches no page but the meta pages
                refuse_cut(path)
        except BaseException:
            environment.close()
            raise
    except (OSError, lmdb.Error) as error:
        if isinstance(error, lmdb.InvalidError):  # also of one that ends before LMDB's second meta page
            refuse_cut(path)
        raise StoreError(f"cannot open the store in {path}: {error}") from error
    return environment


def open_tables(
    environment: lmdb.Environment, path: Path, key_file: Path | None, *, readonly: bool = False
) -> dict[str, Any]:
    """Handles of all tables, made if they are missing; a former schema is carried forward.

    `key_file`: under whose key a new store, and one that had nothing sealed, begins to seal.
    """
    try:
        schema = check_schema(environment, path)
        if not schema:
            refuse_empty(path, readonly=readonly)
        if readonly and schema < tables.SCHEMA_VERSION:
            raise StoreError(f"{path} has schema {schema}: `otagate serve` carries it forward when it starts")
        handles = {name: environment.open_db(name.encode(), create=not readonly) for name in tables.TABLES}
        if schema < tables.SCHEMA_VERSION:
            with environment.begin(write=True) as txn:
                transaction = LmdbTransaction(txn, handles)
                assert key_file is not None
                if schema:
                    migrate(transaction, schema, partial(load_sealer, key_file, None))
                    log.info("schema_carried_forward", was=schema, now=tables.SCHEMA_VERSION)
                else:
                    sealer = load_sealer(key_file, None)
                    transaction.put(tables.META, tables.SEALING_KEY_ID_KEY, sealer.key_id)
                    transaction.put(tables.META, tables.SCHEMA_KEY, u64_key.pack(tables.SCHEMA_VERSION))
    except lmdb.Error as error:
        raise StoreError(f"cannot read the store in {path}: {error}") from error
    return handles


@contextmanager
def view_folder(data_dir: Path) -> Iterator[View]:
    """A read transaction over the store of a data folder, also beside the gateway that runs on it."""
    path = data_dir / "store"
    environment = open_environment(path, limits.map_bytes, readonly=True)
    try:
        handles = open_tables(environment, path, None, readonly=True)
        with environment.begin() as txn:
            yield LmdbTransaction(txn, handles)
    finally:
        environment.close()


def without_freed_pages(environment: lmdb.Environment, path: Path, map_bytes: int) -> lmdb.Environment:
    """The store in a new file, without the pages that secrets were freed from. Closes the one given.

    The old file bears the mark until the new one takes its name, so a start that is killed is made up for by
    the next; and so is one that found no room. The lock file goes first, because it counts the commits of the
    old file: whoever reads that one meanwhile keeps both, and we begin with neither.
    """
    folder = path / "compact"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        environment.copy(str(folder), compact=True)
        shutil.copymode(path / "data.mdb", folder / "data.mdb")
        with closing(open_environment(folder, map_bytes)) as copy:
            meta = copy.open_db(tables.META.encode())
            with copy.begin(write=True) as txn:
                txn.delete(tables.FREED_SECRETS_KEY, db=meta)
        environment.close()
        (path / "lock.mdb").unlink()
        (folder / "data.mdb").rename(path / "data.mdb")
        sync_folder(path)
    except (OSError, lmdb.Error, StoreError) as error:
        log.warning("freed_secrets_kept", path=str(path), error=str(error))
        environment.close()
    shutil.rmtree(folder, ignore_errors=True)
    return open_environment(path, map_bytes)


class LmdbStore(Engine):
    """A store in a folder; made by `open_store`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        key_file: Path | None = None,
        map_bytes: int = limits.map_bytes,
        reserve_bytes: int = limits.reserve_file_bytes,
    ) -> None:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {data_dir}: {error.strerror}") from error
        self._path = data_dir / "store"
        self._lock = FolderLock(data_dir)
        try:
            reserve = _Reserve(data_dir, reserve_bytes)
            reserve.free_if_needed()
            self._environment = open_environment(self._path, map_bytes)
            try:
                self._open_tables(data_dir / (key_file or KEY_FILE), map_bytes)
                reserve.keep()
            except BaseException:
                self._environment.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._failure: CommitFailed | None = None
        self._stretches = Stretches()
        self._closed = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._scan_limiter: trio.CapacityLimiter | None = None
        self._writer = threading.Thread(target=self._write_jobs, name="otagate-store", daemon=True)
        self._writer.start()

    def _open_tables(self, key_file: Path, map_bytes: int) -> None:
        self._tables = open_tables(self._environment, self._path, key_file)
        with self.view() as view:
            key_id = view.get(tables.META, tables.SEALING_KEY_ID_KEY)
            freed_secrets = view.get(tables.META, tables.FREED_SECRETS_KEY) is not None
        assert key_id is not None, "a store of this schema says under which key it seals"
        self.sealer = load_sealer(key_file, key_id)
        if freed_secrets:
            self._environment = without_freed_pages(self._environment, self._path, map_bytes)
            self._tables = open_tables(self._environment, self._path, key_file)

    # -- reads

    @contextmanager
    def view(self) -> Iterator[View]:
        """One read transaction; py-lmdb keeps the last one to renew, so this costs about 1 µs.

        Raises StoreError: LMDB refuses everything from the moment at which its meta page could not be
        written, and a reader may learn of it before the writer's thread has said what failed.
        """
        try:
            transaction = self._environment.begin()
        except lmdb.Error as error:
            raise self._failure or StoreError(f"cannot read the store in {self._path}: {error}") from error
        with transaction as txn:
            yield LmdbTransaction(txn, self._tables)

    async def _scan(self, read: Callable[[Snapshot, Budget], T]) -> T:
        if self._scan_limiter is None:
            self._scan_limiter = trio.CapacityLimiter(SCAN_THREADS)
        return await trio.to_thread.run_sync(self._read, read, limiter=self._scan_limiter)

    # -- commits

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Apply a group in one durable transaction (interface.Store.commit).

        A cancellation waits for the result: what was handed to the writer is going to happen.
        """
        if self._failure is not None:
            raise self._failure
        assert not self._closed
        job = _Job(changes)
        self._jobs.put(job)
        result: list[Outcome] = await trio.lowlevel.wait_task_rescheduled(_cannot_be_cancelled)
        return result

    def _write_jobs(self) -> None:
        """The writer thread: one job after the other, until None comes."""
        while (job := self._jobs.get()) is not None:
            job.finish(outcome.capture(self._write, job))

    def _write(self, job: "_Job") -> list[Outcome]:
        """Begin to commit, on this thread alone."""
        if self._failure is not None:
            raise self._failure
        try:
            with self._environment.begin(write=True) as txn:
                application = rules.Application(LmdbTransaction(txn, self._tables), job.changes)
                self._stretches.apply(application, job.token)
        except lmdb.Error as error:
            # LMDB tells EIO of a write that a full disk cut short: say how much is left.
            left = _free_bytes(self._path)
            self._failure = CommitFailed(
                f"a commit to {self._path} failed: {error} (the disk has {left} bytes left)"
            )
            raise self._failure from error
        return application.outcomes

    def sizes(self) -> Sizes:
        """How full the map is."""
        known = self._environment.info()
        used = (known["last_pgno"] + 1) * self._environment.stat()["psize"]
        return Sizes(known["map_size"], used)

    async def close(self) -> None:
        """Let the writer finish, close the environment, give the folder free. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._writer.join)
        self._environment.close()
        self._lock.release()


class _Job:
    """A group on its way to the writer, and the task that waits for it."""

    __slots__ = ("_task", "changes", "token")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self._task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()

    def finish(self, result: outcome.Outcome[list[Outcome]]) -> None:
        """Called on the writer thread."""
        try:
            self.token.run_sync_soon(trio.lowlevel.reschedule, self._task, result)
        except trio.RunFinishedError:
            log.warning("commit_after_loop")


def _cannot_be_cancelled(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def open_store(
    data_dir: str | os.PathLike[str], *, key_file: Path | None = None, **options: int
) -> LmdbStore:
    """Open (or make) the store of a data folder. Call it after any fork, and `close` it.

    `key_file` (store/sealing.py) is taken from the data folder unless it is absolute. Options: `map_bytes`,
    `reserve_bytes`. Shortens the interpreter's switch interval (`stretches.tune`).
    Raises StoreError: in use, unreadable, sealed under another key; SchemaTooNew.
    """
    tune()
    return LmdbStore(Path(data_dir), key_file=key_file, **options)

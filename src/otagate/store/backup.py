"""Copies of a data folder: taken beside the gateway that runs on it, checked, and put back.

Theory. LMDB lets other processes read while one writes, and copies a moment of itself: so a backup needs
nothing of the gateway, and the gateway does not notice it but for the disk. (A request to the gateway would
have it write to a path that somebody sends over the network; reading beside it needs the rights of its files,
and these are what a backup is about.)

Images are another matter: they come and go while the store is copied. A file under images/ never changes, so
a hard link keeps it. The order makes the copy whole:

1. link every image that is there;
2. copy the store: one moment T;
3. link what T names and step 1 did not see: it arrived in between. If it is gone already, its record was
   deleted after T: begin again at 2, with a later T;
4. drop the links that T does not name.

Then the copy is checked as the store's checker does it, and every image is hashed. A backup stands under its
name only when all of that is done. Where a link is not possible (another file system), bytes are copied.

While the store is copied its freed pages cannot be used again, so its file may grow by what is written
meanwhile. A copy that was killed leaves that in force until the next one begins, or the gateway starts.

What a backup holds: store/data.mdb, images/, backup.json. Not the key file: secrets in the store are sealed
under it, and whoever has the backup alone has none of them. Nor the clear text of the first admin token: its
hash, as those of all tokens, is in the store.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

import otagate
from otagate import limits
from otagate.errors import StoreError
from otagate.store import check, reads
from otagate.store.blobs import DIGEST
from otagate.store.lmdb import check_schema, open_environment, open_tables, view_folder
from otagate.store.reads import Budget
from otagate.store.sealing import KEY_FILE
from otagate.store.snapshot import Snapshot
from otagate.times import rfc3339

MANIFEST = "backup.json"
ATTEMPTS_MAX = 10  # a store whose firmware is deleted faster than it can be copied
FINDINGS_SHOWN = 5


class Manifest(Struct, frozen=True):
    """What a backup says of itself. `at`: the newest time in its store."""

    otagate: str
    schema: int
    at: str | None
    images: int
    bytes: int


def back_up(data_dir: Path, target: Path) -> Manifest:
    """Copy a data folder to `target`, which must not exist. StoreError says why it cannot be; then nothing
    stands there."""
    if not (data_dir / "store" / "data.mdb").exists():
        raise StoreError(f"there is no store in {data_dir}")
    if target.exists():
        raise StoreError(f"{target} exists already: a backup is a new folder")
    partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "images").mkdir(mode=0o700, parents=True)
        named = _copy_both(data_dir, partial)
        manifest = _checked(partial, named)
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        _sync_all(partial)
        partial.rename(target)
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"cannot back up to {target}: {error}") from error
    except StoreError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def restore(source: Path, data_dir: Path, key_file: Path | None = None) -> Manifest:
    """Make a data folder of a backup. StoreError: it is none, is damaged, or `data_dir` is not empty.

    The backup stays as it is: its bytes are copied, and a former schema is carried forward in the copy.
    `key_file`: as for `open_store`; it is needed, or made, where secrets were not sealed yet.
    SchemaTooNew: a newer otagate wrote it.
    """
    if not (source / MANIFEST).is_file():
        raise StoreError(f"{source} is no backup: it has no {MANIFEST}")
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StoreError(f"{data_dir} is not empty: a backup is restored to a new folder")
    _schema(source)
    partial = data_dir.with_name(f"{data_dir.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "store").mkdir(mode=0o700, parents=True)
        shutil.copyfile(source / "store" / "data.mdb", partial / "store" / "data.mdb")
        for image in sorted((source / "images").glob("??/*")):
            _place(image, partial, link=False)
        _carry_forward(partial, partial / (key_file or KEY_FILE))
        manifest = _checked(partial, _named(partial))
        _sync_all(partial)
        partial.rename(data_dir)
        _sync(data_dir.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(f"cannot restore {source} to {data_dir}: {error}") from error
    except StoreError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


# -- the two halves, as of one moment ------------------------------------------------------------------


def _copy_both(data_dir: Path, partial: Path) -> set[str]:
    """Steps 1 to 4; the digests of the images that the copy names."""
    for image in (data_dir / "images").glob("??/*"):
        if DIGEST.fullmatch(image.name):
            with suppress(FileNotFoundError):  # deleted in this very moment
                _place(image, partial)
    for _ in range(ATTEMPTS_MAX):
        _copy_store(data_dir, partial)
        named = _named(partial)
        if all(_is_there_or_placed(sha256, data_dir, partial) for sha256 in named):
            for image in list((partial / "images").glob("??/*")):
                if image.name not in named:
                    image.unlink()
            return named
    raise StoreError(f"an image that the store in {data_dir} names is missing: the gateway's log says which")


def _copy_store(data_dir: Path, partial: Path) -> None:
    folder = partial / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    environment = open_environment(data_dir / "store", limits.map_bytes, readonly=True)
    try:
        environment.reader_check()  # what a killed reader left keeps pages from being used again
        environment.copy(str(folder), compact=True)
    finally:
        environment.close()


def _is_there_or_placed(sha256: str, data_dir: Path, partial: Path) -> bool:
    name = Path("images") / sha256[:2] / sha256
    if not (partial / name).exists():
        try:
            _place(data_dir / name, partial)
        except FileNotFoundError:
            return False
    return True


def _place(image: Path, partial: Path, *, link: bool = True) -> None:
    """The same image below another folder: a link if it can be, else a copy."""
    target = partial / "images" / image.parent.name / image.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if link:
        with suppress(OSError):  # another file system, or one without links
            target.hardlink_to(image)
            return
    shutil.copyfile(image, target)
    target.chmod(0o600)


# -- checking ------------------------------------------------------------------------------------------


def _checked(folder: Path, named: Iterable[str]) -> Manifest:
    """What the copy is; StoreError when its store or an image of it is damaged."""
    schema = _schema(folder)
    with view_folder(folder) as view:
        at = rfc3339(reads.newest_time_ms(Snapshot(view)))
        try:
            findings = check.check(view)
        except Exception as error:  # a record that cannot even be read: there are many ways to say so
            findings = [f"a record cannot be read ({error!r})"]
    images = total = 0
    for sha256 in sorted(named):
        path = folder / "images" / sha256[:2] / sha256
        images += 1
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                total += file.tell()
        except FileNotFoundError:
            findings.append(f"image {sha256} is missing")
        else:
            if found != sha256:
                findings.append(f"image {sha256} has other bytes, whose SHA-256 is {found}")
    (folder / "store" / "lock.mdb").unlink(missing_ok=True)
    if findings:
        more = f" (and {len(findings) - FINDINGS_SHOWN} more)" if len(findings) > FINDINGS_SHOWN else ""
        raise StoreError(f"the copy is damaged: {'; '.join(findings[:FINDINGS_SHOWN])}{more}")
    return Manifest(otagate.__version__, schema, at, images, total)


def _named(folder: Path) -> set[str]:
    with view_folder(folder) as view:
        return reads.images(Snapshot(view), Budget(timed=False))


def _schema(folder: Path) -> int:
    """The schema of its store. SchemaTooNew."""
    path = folder / "store"
    environment = open_environment(path, limits.map_bytes, readonly=True)
    try:
        return check_schema(environment, path)
    finally:
        environment.close()


def _carry_forward(folder: Path, key_file: Path) -> None:
    """A former schema, to this otagate's."""
    environment = open_environment(folder / "store", limits.map_bytes)
    try:
        open_tables(environment, folder / "store", key_file)
    finally:
        environment.close()


# -- to the disk ---------------------------------------------------------------------------------------


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

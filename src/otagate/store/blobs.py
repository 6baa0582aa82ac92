"""Images as files, named after what is in them: DATA/images/aa/<SHA-256>.

Theory. An image arrives in DATA/incoming, hashed while it is written, off the loop. Only when every byte is
on the disk is it renamed to its digest; the folder is synced after that, and only then may a record name
it. So a file under images/ is always whole, whatever moment the power fails in, and two records of the
same bytes share one file.

A file goes when no record names it any more. Records and files change at different moments, so:

1. from `finish` until `release` a digest is *pending*: a record of it may be on its way, nobody unlinks it;
2. placing, releasing and unlinking happen one at a time, and who unlinks asks the store again, then;
3. what a crash leaves over (arrived, but never named) is swept at the next start, before the first upload.

An error of the disk costs the upload that meets it, and nobody else.
"""

import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from typing import TypeVar

import trio
from msgspec import Struct

from otagate import limits, logs
from otagate.errors import Invalid, NoRoom, StoreError, TooLarge
from otagate.hashing import ImageHasher

log = logs.get("store")
T = TypeVar("T")

PIECE_BYTES = limits.MIB  # handed to a worker thread at a time: 100 MB cost 100 hops
DIGEST = re.compile(r"[0-9a-f]{64}")


class Image(Struct, frozen=True, gc=False):
    """Bytes that are safely on the disk. Digests in lower-case hex."""

    sha256: str
    md5: str
    size: int


class Blobs:
    """The images of a data folder.

    `is_used`: whether a record names a digest (the store's image_used). Without it `unlink_if_unused`
    believes its caller, and `release` leaves to the next start what no record came to name.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        disk_free_min: int = limits.disk_free_min_bytes,
        is_used: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        self._images = Path(data_dir) / "images"
        self._incoming = Path(data_dir) / "incoming"
        self._disk_free_min = disk_free_min
        self._is_used = is_used
        self._pending: Counter[str] = Counter()
        self._moving = trio.Lock()

    async def open(self) -> None:
        """Make the folders, and clear away what was still arriving when the last process ended."""
        await trio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        try:
            for folder in (self._images, self._incoming):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._incoming.iterdir():
                path.unlink()
        except OSError as error:
            raise StoreError(f"cannot use {error.filename}: {error.strerror}") from error

    def path(self, sha256: str) -> Path:
        """Where an image is, if it is there."""
        assert DIGEST.fullmatch(sha256)
        return self._images / sha256[:2] / sha256

    def check_room(self) -> None:
        """NoRoom when the disk has less than `disk_free_min` left."""
        status = os.statvfs(self._images)
        free = status.f_bavail * status.f_frsize
        if free < self._disk_free_min:
            raise NoRoom(f"the disk has {free} bytes left and {self._disk_free_min} must stay free")

    @asynccontextmanager
    async def upload(self, size_max: int = limits.image_bytes_max) -> "AsyncIterator[Upload]":
        """Receive an image; nothing of it remains unless it was finished. NoRoom."""
        self.check_room()
        upload = Upload(self, size_max)
        await upload.start(self._incoming)
        try:
            yield upload
        finally:
            with trio.CancelScope(shield=True):
                await upload.discard()

    async def place(self, incoming: Path, sha256: str) -> None:
        """Give a file that is whole and synced its name; its digest is pending from now on."""
        self._pending[sha256] += 1
        try:
            async with self._moving:
                await trio.to_thread.run_sync(self._place, incoming, self.path(sha256))
        except BaseException:
            self._forget(sha256)
            raise

    def _place(self, incoming: Path, path: Path) -> None:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                _sync_folder(self._images)
            except OSError:
                path.parent.rmdir()  # or the next image of this folder would believe that it is on the disk
                raise
        # Also over a file of that name: these bytes were hashed just now, those a year ago.
        incoming.replace(path)
        _sync_folder(path.parent)

    async def release(self, sha256: str) -> None:
        """The record of a finished upload is committed, or never will be: unlink the image in that case."""
        with trio.CancelScope(shield=True):
            async with self._moving:
                self._forget(sha256)
                if self._is_used is not None:
                    await self._unlink_if_unused(sha256)

    def _forget(self, sha256: str) -> None:
        assert self._pending[sha256] > 0, "released more often than finished"
        self._pending[sha256] -= 1
        if not self._pending[sha256]:
            del self._pending[sha256]

    async def unlink_if_unused(self, sha256: str) -> bool:
        """Unlink an image that no record names (any more); False if one does, may soon, or the disk fails."""
        async with self._moving:
            return await self._unlink_if_unused(sha256)

    async def _unlink_if_unused(self, sha256: str) -> bool:
        if self._is_used is not None and await self._is_used(sha256):
            return False
        if sha256 in self._pending:
            return False
        path = self.path(sha256)
        try:
            await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))
        except OSError as error:  # it takes room until the next start sweeps it, and that is all
            log.warning("image_not_unlinked", path=str(path), error=error)
            return False
        return True

    async def sweep(self, referenced: Set[str]) -> int:
        """At a start: unlink every image that is not among `referenced`; how many. Logs those that lack."""
        async with self._moving:
            return await trio.to_thread.run_sync(self._sweep, referenced, frozenset(self._pending))

    def _sweep(self, referenced: Set[str], pending: Set[str]) -> int:
        removed = 0
        found = set()
        for path in self._images.glob("??/*"):
            if path.name in referenced:
                found.add(path.name)
            elif DIGEST.fullmatch(path.name) and path.name not in pending:
                path.unlink()
                removed += 1
        for sha256 in sorted(referenced - found):
            log.error("image_missing", sha256=sha256, path=str(self.path(sha256)))
        if removed:
            log.info("orphans_removed", images=removed)
        return removed


class Upload:
    """An image that is arriving."""

    def __init__(self, blobs: Blobs, size_max: int) -> None:
        self._blobs = blobs
        self._size_max = size_max
        self._size = 0
        self._hasher = ImageHasher(None)
        self._piece = bytearray()
        self._descriptor = -1
        self._path: Path | None = None

    async def start(self, incoming: Path) -> None:
        """Make the file that the bytes go to."""
        self._descriptor, name = await self._on_disk(partial(mkstemp, dir=incoming))
        self._path = Path(name)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Further bytes. TooLarge above the bound, NoRoom when the disk refuses them."""
        self._size += len(data)
        if self._size > self._size_max:
            raise TooLarge(f"an image has at most {self._size_max} bytes")
        rest = memoryview(data)
        while rest:
            taken = rest[: PIECE_BYTES - len(self._piece)]
            self._piece += taken
            rest = rest[len(taken) :]
            if len(self._piece) == PIECE_BYTES:
                await self._write_piece()

    async def _write_piece(self) -> None:
        piece, self._piece = self._piece, bytearray()
        await self._on_disk(partial(self._write, piece))

    def _write(self, piece: bytearray) -> None:
        self._blobs.check_room()  # for each piece: what others write meanwhile counts, too
        self._hasher.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    async def finish(self, md5: str | None = None, sha256: str | None = None) -> Image:
        """All bytes are here: put the image in its place, pending until `Blobs.release`.

        `md5`, `sha256`: what the sender says they are, lower-case hex. Invalid when they are not, and for
        an image of 0 bytes.
        """
        assert self._path is not None, "finished twice"
        if not self._size:
            raise Invalid("an image has at least 1 byte")
        if self._piece:
            await self._write_piece()
        image = Image(self._hasher.sha256, self._hasher.md5, self._size)
        for field, said, is_ in (("md5", md5, image.md5), ("sha256", sha256, image.sha256)):
            if said is not None and said != is_:
                raise Invalid(f"the {field} of the bytes that arrived is {is_}, not {said}", field=field)
        await self._on_disk(partial(os.fsync, self._descriptor))
        try:
            await self._blobs.place(self._path, image.sha256)
        except OSError as error:
            raise _no_room(error) from error
        self._path = None
        return image

    async def discard(self) -> None:
        """Close the file, and unlink it unless it was finished."""
        await trio.to_thread.run_sync(self._discard)

    def _discard(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._path is not None:
            with suppress(OSError):  # the next start sweeps it
                self._path.unlink(missing_ok=True)
            self._path = None

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """Work on a worker thread; what the disk refuses is told to this upload's sender."""
        try:
            return await trio.to_thread.run_sync(work)
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> NoRoom:
    log.warning("upload_refused_by_disk", error=error)
    return NoRoom(f"the disk does not take the image: {error.strerror}")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Downloads: what a `fetch` may stream, the images behind it, and which attempt each one belongs to.

The plane streams; this room decides. A fetch is allowed for the firmware of the device's own running
upgrade. Before the first one of an image at a chunk size, a worker thread computes the digests of all its
chunks, which also brings the file's pages into memory: the loop never reads a page of a file first. The
digest of a chunk that is cut short by an odd offset or length is computed the same way, for that fetch.

An image has a number for the plane, as long as a batch in progress uses it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import trio

from otagate import hashing, logs, plane
from otagate.gateway.outbox import Outbox
from otagate.wire import messages
from otagate.wire.constants import ErrorCode

log = logs.get("transfers")


class _Image:
    """An open image: its number for the plane, and the chunk sizes whose digests the plane has."""

    __slots__ = ("number", "path", "preparing", "ready", "size")

    def __init__(self, number: int, path: Path, size: int) -> None:
        self.number = number
        self.path = path
        self.size = size
        self.ready: set[int] = set()
        self.preparing: dict[int, trio.Event] = {}


class Download:
    """The download of one device: at most one, on its newest session.

    `streaming`: the plane was told. Until then, what it tells of this transfer is about an older one: a
    device may use a number again. `wanted`, until its digests are there: image, offset, end, chunk size.
    """

    __slots__ = ("attempt", "batch", "conn", "device", "sha256", "started", "streaming", "transfer", "wanted")

    def __init__(self, device: int, conn: int, transfer: int, batch: int, attempt: int) -> None:
        self.device = device
        self.conn = conn
        self.transfer = transfer
        self.batch = batch
        self.attempt = attempt
        self.sha256 = ""
        self.streaming = False
        self.started = False
        self.wanted: tuple[_Image, int, int, int] | None = None


class Transfers:
    """Starts and stops downloads. `path_of(sha256)` names an image's file; `nursery` runs preparations."""

    def __init__(self, outbox: Outbox, path_of: Callable[[str], Path], nursery: trio.Nursery) -> None:
        self._outbox = outbox
        self._path_of = path_of
        self._nursery = nursery
        self._images: dict[str, _Image] = {}
        self._last_number = 0
        self.downloads: dict[int, Download] = {}
        self._preparing: set[int] = set()  # devices whose download is being prepared

    # -- devices ---------------------------------------------------------------------------------

    def begin(
        self, download: Download, sha256: str, size: int, offset: int, end: int, chunk_bytes: int
    ) -> None:
        """Stream [offset, end) of an image to the device; replaces its download before, if any.

        The caller has checked the request: offset < end <= size, a chunk size of the protocol.
        """
        download.sha256 = sha256
        before = self.downloads.get(download.device)
        self.downloads[download.device] = download
        image = self._images.get(sha256)
        if image is None:
            self._last_number += 1
            image = _Image(self._last_number, self._path_of(sha256), size)
            self._images[sha256] = image
            self._outbox.command(plane.IMAGE, image.number, os.fsencode(image.path), size)
        regular = offset % chunk_bytes == 0 and (end == size or end % chunk_bytes == 0)
        if regular and chunk_bytes in image.ready:
            self._stream(download, image, offset, end, chunk_bytes, 0, 0)
        else:
            if before is not None and before.streaming:
                # nobody wants it any more, and it would be nobody's if this one is stopped before it begins
                self._outbox.command(plane.STOP, before.conn, before.transfer)
            download.wanted = image, offset, end, chunk_bytes
            if download.device not in self._preparing:
                self._preparing.add(download.device)
                self._nursery.start_soon(self._prepare, download.device)

    def _stream(
        self, download: Download, image: _Image, offset: int, end: int, chunk_bytes: int, head: int, tail: int
    ) -> None:
        download.streaming = True
        self._outbox.command(
            plane.STREAM, download.conn, download.transfer, image.number, offset, end, chunk_bytes, head, tail
        )

    async def _prepare(self, device: int) -> None:
        """Prepare the device's download, then the one that took its place meanwhile: one task for each
        device, however fast it fetches."""
        try:
            while (download := self.downloads.get(device)) is not None and not download.streaming:
                await self._prepare_download(download)
        finally:
            self._preparing.discard(device)

    async def _prepare_download(self, download: Download) -> None:
        assert download.wanted is not None
        image, offset, end, chunk_bytes = download.wanted
        try:
            await self._prepare_digests(image, chunk_bytes)
            head, tail = await self._odd_digests(image, offset, end, chunk_bytes)
        except (OSError, ValueError) as error:
            log.error("image_unreadable", path=image.path.name, error=str(error))
            if self.downloads.get(download.device) is download:
                del self.downloads[download.device]
                self._send_internal(download)
                self._outbox.flush()
            return
        # a stop, a newer fetch, a cancel or the end of the session took its place meanwhile
        if self.downloads.get(download.device) is download:
            self._stream(download, image, offset, end, chunk_bytes, head, tail)
            self._outbox.flush()

    async def _prepare_digests(self, image: _Image, chunk_bytes: int) -> None:
        while chunk_bytes not in image.ready:
            under_way = image.preparing.get(chunk_bytes)
            if under_way is not None:
                await under_way.wait()  # and look again: it may have failed, then it is our turn
                continue
            done = image.preparing[chunk_bytes] = trio.Event()
            try:
                table = await trio.to_thread.run_sync(_digests_of, image.path, image.size, chunk_bytes)
                self._outbox.command(plane.DIGESTS, image.number, chunk_bytes, table)
                image.ready.add(chunk_bytes)
            finally:
                del image.preparing[chunk_bytes]
                done.set()

    async def _odd_digests(self, image: _Image, offset: int, end: int, chunk_bytes: int) -> tuple[int, int]:
        """xxh32 of the first and the last chunk where they are cut short (0 where the table has them)."""
        first_end = min(end, (offset // chunk_bytes + 1) * chunk_bytes)
        last_start = max(offset, (end - 1) // chunk_bytes * chunk_bytes)
        head = tail = 0
        if offset % chunk_bytes or (first_end == end and end % chunk_bytes and end != image.size):
            head = await trio.to_thread.run_sync(_digest_of_range, image.path, offset, first_end)
        if last_start > offset and end % chunk_bytes and end != image.size:
            tail = await trio.to_thread.run_sync(_digest_of_range, image.path, last_start, end)
        return head, tail

    def _send_internal(self, download: Download) -> None:
        self._outbox.send(
            download.conn,
            messages.Error(
                code=ErrorCode.INTERNAL, message="the image cannot be read", transfer=download.transfer
            ),
        )

    def started(self, device: int, conn: int, transfer: int) -> Download | None:
        """The first chunk began to leave: the download that it belongs to."""
        download = self._current(device, conn, transfer)
        if download is None or not download.streaming:
            return None
        download.started = True
        return download

    def ended(self, device: int, conn: int, transfer: int, reason: int) -> None:
        """The plane has no more to do for this transfer."""
        download = self._current(device, conn, transfer)
        if download is None or not download.streaming or reason in (plane.REPLACED, plane.STOPPED):
            return  # about an older one: what is replaced or stopped is nobody's download any more
        del self.downloads[device]
        if reason == plane.FAILED:
            log.error("transfer_failed", device=device)
            self.forget_image(download.sha256)  # the next fetch opens it anew: it may be mended by then
            self._send_internal(download)

    def _current(self, device: int, conn: int, transfer: int) -> Download | None:
        download = self.downloads.get(device)
        if download is None or download.conn != conn or download.transfer != transfer:
            return None
        return download

    def stop(self, device: int, conn: int, transfer: int) -> None:
        """The device wants no more of this transfer."""
        if self._current(device, conn, transfer) is not None:
            del self.downloads[device]
            self._outbox.command(plane.STOP, conn, transfer)

    def stop_attempt(self, device: int, batch: int, attempt: int) -> None:
        """The attempt is over: what streams for it stops."""
        download = self.downloads.get(device)
        if download is not None and download.batch == batch and download.attempt == attempt:
            del self.downloads[device]
            self._outbox.command(plane.STOP, download.conn, download.transfer)

    def session_ended(self, device: int) -> None:
        """The session is gone, and its download with it."""
        self.downloads.pop(device, None)

    def waits_for_slot(self, device: int) -> bool:
        """Whether the device fetched and its first chunk has not left yet."""
        download = self.downloads.get(device)
        return download is not None and not download.started

    # -- images ----------------------------------------------------------------------------------

    def forget_image(self, sha256: str) -> None:
        """No batch in progress uses it any more."""
        image = self._images.pop(sha256, None)
        if image is not None:
            self._outbox.command(plane.DROP_IMAGE, image.number)
            self._outbox.flush()


def _digests_of(path: Path, size: int, chunk_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return hashing.chunk_digests_of_file(descriptor, size, chunk_bytes)
    finally:
        os.close(descriptor)


def _digest_of_range(path: Path, start: int, end: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return hashing.xxh32_of_file(descriptor, start, end - start)
    finally:
        os.close(descriptor)

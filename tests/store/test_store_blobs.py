"""Images: whole or not there, one upload's trouble is its own, and nothing is unlinked that is needed."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from otagate import limits
from otagate.errors import Invalid, NoRoom, StoreError, TooLarge
from otagate.store import blobs as module
from otagate.store.blobs import Blobs, Image

PIECE = module.PIECE_BYTES


def files(folder: Path) -> list[str]:
    """Names of all files, by their path below the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def named(data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"images/{sha256[:2]}/{sha256}"


async def put(blobs: Blobs, *chunks: bytes) -> Image:
    async with blobs.upload() as upload:
        for chunk in chunks:
            await upload.write(chunk)
        return await upload.finish()


@pytest.fixture
async def blobs(tmp_path: Path) -> Blobs:
    found = Blobs(tmp_path, 0)
    await found.open()
    return found


@pytest.mark.parametrize(
    "chunks",
    [
        [b"x"],
        [b"", b"one", b"", b"two"],
        [b"a" * PIECE],
        [b"a" * (PIECE - 1), b"bc"],
        [bytes(range(256)) * (PIECE * 5 // 512)],
        [b"z" * 65536] * 33,
    ],
    ids=len,
)
async def test_an_image_arrives_whole(blobs: Blobs, tmp_path: Path, chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    image = await put(blobs, *chunks)
    assert image == Image(hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest(), len(data))
    assert files(tmp_path) == [named(data)]
    assert blobs.path(image.sha256).read_bytes() == data
    await blobs.release(image.sha256)
    assert files(tmp_path) == [named(data)]


async def test_the_same_bytes_share_a_file(blobs: Blobs, tmp_path: Path) -> None:
    await put(blobs, b"same")
    blobs.path(hashlib.sha256(b"same").hexdigest()).write_bytes(b"rot")
    await put(blobs, b"sa", b"me")
    assert files(tmp_path) == [named(b"same")]
    assert (tmp_path / named(b"same")).read_bytes() == b"same"


async def test_what_is_not_finished_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    async with blobs.upload() as upload:
        await upload.write(b"x" * (2 * PIECE + 1))
        assert len(files(tmp_path)) == 1
    assert files(tmp_path) == []

    async def fail() -> None:
        async with blobs.upload() as upload:
            await upload.write(b"x" * (2 * PIECE + 1))
            raise ValueError("the sender went away")

    with pytest.raises(ValueError, match="went away"):
        await fail()
    with trio.CancelScope() as scope:
        async with blobs.upload() as upload:
            scope.cancel()
            await upload.write(b"x" * PIECE)
    assert scope.cancelled_caught
    assert files(tmp_path) == []


async def test_an_image_has_a_byte_at_least(blobs: Blobs, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        await put(blobs, b"")
    assert files(tmp_path) == []


async def test_an_image_that_is_too_large_is_refused_as_soon_as_it_is_known(
    blobs: Blobs, tmp_path: Path
) -> None:
    async with blobs.upload(10) as upload:
        await upload.write(b"x" * 10)
        with pytest.raises(TooLarge, match="at most 10 bytes"):
            await upload.write(b"x")
    async with blobs.upload(10) as upload:
        await upload.write(b"x" * 10)
        assert (await upload.finish()).size == 10
    assert files(tmp_path) == [named(b"x" * 10)]


@pytest.mark.parametrize("said", [{"md5": "0" * 32}, {"sha256": "0" * 64}], ids=str)
async def test_bytes_that_are_not_what_the_sender_says(
    blobs: Blobs, tmp_path: Path, said: dict[str, str]
) -> None:
    async with blobs.upload() as upload:
        await upload.write(b"x")
        with pytest.raises(Invalid) as caught:
            await upload.finish(**said)
    assert caught.value.field == next(iter(said))
    assert files(tmp_path) == []


# -- the disk --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_disk_that_refuses_costs_that_upload_only(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    async with blobs.upload() as other:
        await other.write(b"o" * PIECE)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, call, refuse)
            with pytest.raises(NoRoom, match=os.strerror(code)):
                await put(blobs, b"x" * PIECE)
        assert len(files(tmp_path)) == 1
        await other.finish()
    assert files(tmp_path) == [named(b"o" * PIECE)]


async def test_a_folder_that_may_not_be_on_the_disk_is_made_anew(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_sync_folder", refuse)
        with pytest.raises(NoRoom, match=os.strerror(errno.EIO)):
            await put(blobs, b"x")
    assert list((tmp_path / "images").iterdir()) == []
    await put(blobs, b"x")
    assert files(tmp_path) == [named(b"x")]


async def test_an_upload_stops_when_others_have_filled_the_disk(blobs: Blobs) -> None:
    async with blobs.upload() as upload:
        await upload.write(b"x" * PIECE)
        blobs._disk_free_min = 2**62
        with pytest.raises(NoRoom, match="must stay free"):
            await upload.write(b"x" * PIECE)


async def test_an_image_that_cannot_be_unlinked_stays(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    sha256 = (await put(blobs, b"x")).sha256
    await blobs.release(sha256)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert not await blobs.unlink_if_unused(sha256)
    assert files(tmp_path) == [named(b"x")]
    assert await blobs.unlink_if_unused(sha256)


async def test_a_write_that_takes_less_is_gone_on_with(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(module.os, "write", lambda descriptor, data: write(descriptor, data[:100_000]))
    data = os.urandom(PIECE + 5)
    await put(blobs, data)
    assert (tmp_path / named(data)).read_bytes() == data


async def test_no_upload_begins_below_the_room_that_must_stay(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 2**62)
    await blobs.open()
    with pytest.raises(NoRoom, match=f"{2**62} must stay free"):
        await put(blobs, b"x")
    with pytest.raises(NoRoom):
        blobs.check_room()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(StoreError, match=str(tmp_path / "images")):
        await Blobs(tmp_path).open()


async def test_few_hops_and_little_memory(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    write = module.Upload._write
    monkeypatch.setattr(
        module.Upload, "_write", lambda self, piece: (pieces.append(len(piece)), write(self, piece))
    )
    await put(blobs, *[b"x" * 65536] * 160)
    assert pieces == [limits.MIB] * 10


# -- who is needed -----------------------------------------------------------------------------------------


async def test_a_start_sweeps_what_a_crash_left(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "incoming" / "half").write_bytes(b"x")
    kept = await put(blobs, b"kept")
    orphan = await put(blobs, b"orphan")
    blobs = Blobs(tmp_path)  # the next process
    await blobs.open()
    (tmp_path / "images" / "aa").mkdir()
    (tmp_path / "images" / "aa" / "readme").write_bytes(b"not ours")
    pending = await put(blobs, b"pending")
    assert await blobs.sweep({kept.sha256, "0" * 64}) == 1
    assert files(tmp_path) == sorted(["images/aa/readme", named(b"kept"), named(b"pending")])
    assert not blobs.path(orphan.sha256).exists()
    assert blobs.path(pending.sha256).exists()


async def test_pending_bytes_are_not_unlinked(blobs: Blobs) -> None:
    image = await put(blobs, b"x")
    again = await put(blobs, b"x")
    assert again == image
    for _ in range(2):
        assert not await blobs.unlink_if_unused(image.sha256)
        await blobs.release(image.sha256)
    assert blobs.path(image.sha256).exists()
    assert await blobs.unlink_if_unused(image.sha256)
    assert not blobs.path(image.sha256).exists()
    assert await blobs.unlink_if_unused(image.sha256)  # already gone is as good
    with pytest.raises(AssertionError, match="released more often"):
        await blobs.release(image.sha256)


async def test_the_store_is_asked_again_before_an_unlink(tmp_path: Path) -> None:
    used: set[str] = set()

    async def is_used(sha256: str) -> bool:
        await trio.lowlevel.checkpoint()
        return sha256 in used

    blobs = Blobs(tmp_path, 0, is_used)
    await blobs.open()
    refused = await put(blobs, b"its record was refused")
    await blobs.release(refused.sha256)
    assert files(tmp_path) == []
    image = await put(blobs, b"x")
    used.add(image.sha256)
    await blobs.release(image.sha256)
    assert not await blobs.unlink_if_unused(image.sha256)
    used.clear()
    assert await blobs.unlink_if_unused(image.sha256)
    assert files(tmp_path) == []


async def test_an_upload_that_finishes_during_an_unlink_stays(tmp_path: Path) -> None:
    asked, answer = trio.Event(), trio.Event()

    async def is_used(sha256: str) -> bool:
        asked.set()
        await answer.wait()
        return False

    blobs = Blobs(tmp_path, 0, is_used)
    await blobs.open()
    async with trio.open_nursery() as nursery:
        sha256 = hashlib.sha256(b"x").hexdigest()
        nursery.start_soon(blobs.unlink_if_unused, sha256)
        await asked.wait()
        nursery.start_soon(put, blobs, b"x")
        await trio.testing.wait_all_tasks_blocked()
        answer.set()
    assert files(tmp_path) == [named(b"x")]

"""The compiled digests against hashlib and xxhash."""

import array
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from otagate.hashing import ImageHasher, chunk_digests_of_file, xxh32, xxh32_of_file

NOISE = hashlib.shake_128(b"otagate").digest(700_001)
VECTORS = [  # of the xxHash specification's reference implementation, seed 0
    (b"", 0x02CC5D05),
    (b"a", 0x550D7456),
    (b"abc", 0x32D153FF),
    (b"Nobody inspects the spammish repetition", 0xE2293B2F),
]


def table_of(data: bytes, chunk_size: int) -> bytes:
    return b"".join(xxhash.xxh32_digest(data[i : i + chunk_size]) for i in range(0, len(data), chunk_size))


@pytest.fixture
def noise_fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "image"
    path.write_bytes(NOISE)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("data", "digest"), VECTORS)
def test_xxh32_vectors(data: bytes, digest: int) -> None:
    assert xxh32(data) == digest


def test_xxh32_of_every_length_and_alignment() -> None:
    for size in [*range(130), 4095, 4096, 4097, 65536, 262144]:
        for start in (0, 1, 2, 3, 7):
            piece = memoryview(NOISE)[start : start + size]
            assert xxh32(piece) == xxhash.xxh32_intdigest(piece)


@given(st.binary(max_size=300))
def test_xxh32_of_anything(data: bytes) -> None:
    assert xxh32(data) == xxhash.xxh32_intdigest(data)


@pytest.mark.parametrize("chunk_size", [1, 15, 16, 17, 256, 1000, 65536, 262144, 2**32 - 1])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5_000])
@pytest.mark.parametrize("piece", [1, 16, 300, 5_000])
def test_image_in_one_pass(chunk_size: int, size: int, piece: int) -> None:
    hasher = ImageHasher(chunk_size)
    data = NOISE[:size]
    for start in range(0, size, piece):
        hasher.update(data[start : start + piece])
    assert hasher.size == size
    assert hasher.md5 == hashlib.md5(data).hexdigest()
    assert hasher.sha256 == hashlib.sha256(data).hexdigest()
    assert hasher.chunk_digests == table_of(data, chunk_size)


@pytest.mark.parametrize("chunk_size", [256, 65536, 262144])
def test_large_image(chunk_size: int) -> None:
    hasher = ImageHasher(chunk_size)
    hasher.update(NOISE)
    assert hasher.md5 == hashlib.md5(NOISE).hexdigest()
    assert hasher.sha256 == hashlib.sha256(NOISE).hexdigest()
    assert hasher.chunk_digests == table_of(NOISE, chunk_size)


@given(st.lists(st.integers(0, 90_000), max_size=6), st.sampled_from([256, 1000, 65536]))
def test_digests_may_be_read_between_updates(sizes: list[int], chunk_size: int) -> None:
    hasher = ImageHasher(chunk_size)
    end = 0
    for size in sizes:
        hasher.update(NOISE[end : end + size])
        end += size
        assert hasher.md5 == hashlib.md5(NOISE[:end]).hexdigest()
        assert hasher.sha256 == hashlib.sha256(NOISE[:end]).hexdigest()
        assert hasher.chunk_digests == table_of(NOISE[:end], chunk_size)


def test_without_chunks() -> None:
    hasher = ImageHasher(None)
    hasher.update(NOISE)
    assert hasher.chunk_digests == b""
    assert hasher.sha256 == hashlib.sha256(NOISE).hexdigest()


def test_nothing_was_hashed_yet() -> None:
    hasher = ImageHasher()
    assert (hasher.size, hasher.chunk_digests) == (0, b"")
    assert hasher.md5 == hashlib.md5(b"").hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"abc" * 100),
        memoryview(b"abc" * 100)[3:200],
        array.array("I", range(100)),
        memoryview(bytes(64)).cast("d"),
        memoryview(bytes(64)).cast("B", (8, 8)),
    ],
)
def test_any_contiguous_buffer(data: bytes) -> None:
    hasher = ImageHasher(256)
    hasher.update(data)
    raw = bytes(memoryview(data).cast("B")) if not isinstance(data, bytes) else data
    assert hasher.md5 == hashlib.md5(raw).hexdigest()
    assert xxh32(data) == xxhash.xxh32_intdigest(raw)


def test_buffer_with_gaps_is_refused() -> None:
    hasher = ImageHasher()
    with pytest.raises(BufferError):
        hasher.update(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError):
        hasher.update("text")  # type: ignore[arg-type]
    hasher.update(b"goes on")
    assert hasher.md5 == hashlib.md5(b"goes on").hexdigest()


@pytest.mark.parametrize("chunk_size", [0, -1, 2**32])
def test_bad_chunk_size_is_refused(chunk_size: int) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        ImageHasher(chunk_size)


def test_one_thread_at_a_time() -> None:
    """A second thread is refused while the first hashes, and the first one's digest is right."""
    hasher = ImageHasher()
    data = bytes(64 * 2**20)
    thread = threading.Thread(target=hasher.update, args=(data,))
    thread.start()
    refused = False
    while thread.is_alive() and not refused:
        try:
            _ = hasher.md5
        except RuntimeError:
            refused = True
    thread.join()
    assert refused
    assert hasher.md5 == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("chunk_size", [1000, 256, 4096, 65536, 262144, 2**31])
@pytest.mark.parametrize("size", [0, 1, 256, 65536, 262144, 262145, len(NOISE)])
def test_chunks_of_file(noise_fd: int, size: int, chunk_size: int) -> None:
    os.lseek(noise_fd, 17, os.SEEK_SET)
    assert chunk_digests_of_file(noise_fd, size, chunk_size) == table_of(NOISE[:size], chunk_size)
    assert os.lseek(noise_fd, 0, os.SEEK_CUR) == 17


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (1, 255), (99, 65_437), (len(NOISE) - 3, 3), (5, 600_000)]
)
def test_xxh32_of_a_piece_of_a_file(noise_fd: int, offset: int, size: int) -> None:
    assert xxh32_of_file(noise_fd, offset, size) == xxhash.xxh32_intdigest(NOISE[offset : offset + size])


def test_file_shorter_than_its_size(noise_fd: int) -> None:
    with pytest.raises(ValueError, match="shorter"):
        chunk_digests_of_file(noise_fd, len(NOISE) + 1, 65536)
    with pytest.raises(ValueError, match="shorter"):
        xxh32_of_file(noise_fd, len(NOISE), 1)


def test_unreadable_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError, match="directory") as caught:
        chunk_digests_of_file(fd, 1, 256)
    assert caught.value.errno == errno.EISDIR
    os.close(fd)
    with pytest.raises(OSError, match="descriptor") as caught:
        chunk_digests_of_file(fd, 1, 256)
    assert caught.value.errno == errno.EBADF


def test_numbers_out_of_range(noise_fd: int) -> None:
    for size, chunk_size in ((-1, 256), (2**48, 256), (1, 0)):
        with pytest.raises(ValueError, match="at least"):
            chunk_digests_of_file(noise_fd, size, chunk_size)
    with pytest.raises(ValueError, match="at least"):
        xxh32_of_file(noise_fd, 0, 0)

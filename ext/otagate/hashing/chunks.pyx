"""xxh32 and the digests of an image's chunks.

XXH32 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) is four lanes of 32-bit multiply and rotate over
16-byte stripes, and a tail. Every chunk of a transfer carries the xxh32 of its data; since chunks are cut at
absolute multiples of the chunk size, the digests of an image are computed once per chunk size and serve
every device. The gateway does so in a worker thread that never holds the GIL while it reads the file, and so
brings the file's pages into the cache before the loop sends them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.types cimport off_t
from posix.unistd cimport pread

import os

cdef extern from *:
    """
    #define PRIME32_1 0x9E3779B1U
    #define PRIME32_2 0x85EBCA77U
    #define PRIME32_3 0xC2B2AE3DU
    #define PRIME32_4 0x27D4EB2FU
    #define PRIME32_5 0x165667B1U

    /* Keeps a lane in a register of its own: compilers put the four lanes into one vector, whose 32-bit
       multiply baseline x86-64 lacks, and are then six times as slow. */
    static inline uint32_t keep_scalar(uint32_t lane) { __asm__("" : "+r"(lane)); return lane; }
    """
    const uint32_t PRIME32_1, PRIME32_2, PRIME32_3, PRIME32_4, PRIME32_5
    uint32_t keep_scalar(uint32_t lane) nogil

cdef enum:
    READ_BYTES = 256 * 1024  # fits the second-level cache

cdef int64_t FILE_END = <int64_t>1 << 48  # far above any image, and no sum with it overflows


# -- xxh32 -----------------------------------------------------------------------------------------

cdef inline uint32_t rotate_left(uint32_t value, int bits) noexcept nogil:
    return value << bits | value >> (32 - bits)


cdef inline uint32_t load_little_endian(const uint8_t* data) noexcept nogil:
    return data[0] | data[1] << 8 | data[2] << 16 | <uint32_t>data[3] << 24


cdef inline uint32_t stir(uint32_t lane, const uint8_t* data) noexcept nogil:
    return keep_scalar(rotate_left(lane + load_little_endian(data) * PRIME32_2, 13) * PRIME32_1)


cdef void stir_stripes(uint32_t* lanes, const uint8_t* data, size_t stripes) noexcept nogil:
    cdef uint32_t first = lanes[0]
    cdef uint32_t second = lanes[1]
    cdef uint32_t third = lanes[2]
    cdef uint32_t fourth = lanes[3]
    cdef size_t i
    for i in range(stripes):
        first = stir(first, data)
        second = stir(second, data + 4)
        third = stir(third, data + 8)
        fourth = stir(fourth, data + 12)
        data += 16
    lanes[0] = first
    lanes[1] = second
    lanes[2] = third
    lanes[3] = fourth


cdef void xxh32_begin(Xxh32* state) noexcept nogil:
    state.lanes[0] = PRIME32_1 + PRIME32_2
    state.lanes[1] = PRIME32_2
    state.lanes[2] = 0
    state.lanes[3] = 0 - PRIME32_1
    state.size = 0


cdef void xxh32_feed(Xxh32* state, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t held = state.size & 15
    cdef size_t missing = 16 - held
    cdef size_t stripes
    if size == 0:
        return
    state.size += size
    if held:
        if size < missing:
            memcpy(state.pending + held, data, size)
            return
        memcpy(state.pending + held, data, missing)
        stir_stripes(state.lanes, state.pending, 1)
        data += missing
        size -= missing
    stripes = size // 16
    stir_stripes(state.lanes, data, stripes)
    memcpy(state.pending, data + stripes * 16, size - stripes * 16)


cdef uint32_t xxh32_digest(const Xxh32* state) noexcept nogil:
    cdef uint32_t hashed
    cdef size_t held = state.size & 15
    cdef size_t i = 0
    if state.size >= 16:
        hashed = rotate_left(state.lanes[0], 1) + rotate_left(state.lanes[1], 7) \
            + rotate_left(state.lanes[2], 12) + rotate_left(state.lanes[3], 18)
    else:
        hashed = PRIME32_5
    hashed += <uint32_t>state.size
    while i + 4 <= held:
        hashed = rotate_left(hashed + load_little_endian(state.pending + i) * PRIME32_3, 17) * PRIME32_4
        i += 4
    while i < held:
        hashed = rotate_left(hashed + state.pending[i] * PRIME32_5, 11) * PRIME32_1
        i += 1
    hashed = (hashed ^ hashed >> 15) * PRIME32_2
    hashed = (hashed ^ hashed >> 13) * PRIME32_3
    return hashed ^ hashed >> 16


cdef uint32_t xxh32_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef Xxh32 state
    xxh32_begin(&state)
    xxh32_feed(&state, data, size)
    return xxh32_digest(&state)


# -- chunks ----------------------------------------------------------------------------------------

cdef void chunks_begin(ChunkDigests* digests, uint32_t chunk_size, uint8_t* out) noexcept nogil:
    xxh32_begin(&digests.chunk)
    digests.chunk_size = chunk_size
    digests.out = out


cdef void chunks_finish(ChunkDigests* digests) noexcept nogil:
    cdef uint32_t digest
    if digests.chunk.size == 0:
        return
    digest = xxh32_digest(&digests.chunk)
    digests.out[0] = <uint8_t>(digest >> 24)
    digests.out[1] = <uint8_t>(digest >> 16)
    digests.out[2] = <uint8_t>(digest >> 8)
    digests.out[3] = <uint8_t>digest
    digests.out += 4
    xxh32_begin(&digests.chunk)


cdef void chunks_feed(ChunkDigests* digests, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t piece
    while size:
        piece = digests.chunk_size - digests.chunk.size
        if piece > size:
            piece = size
        xxh32_feed(&digests.chunk, data, piece)
        data += piece
        size -= piece
        if digests.chunk.size == digests.chunk_size:
            chunks_finish(digests)


# -- files -----------------------------------------------------------------------------------------

cdef enum:
    FILE_WHOLE = 0
    FILE_SHORTER = -1  # positive: an errno


cdef int feed_range(int fd, int64_t offset, int64_t end, ChunkDigests* digests, uint8_t* buffer) noexcept nogil:
    """Feeds the bytes [offset, end) of a file, READ_BYTES at a time."""
    cdef ssize_t got
    while offset < end:
        got = pread(fd, buffer, min(<int64_t>READ_BYTES, end - offset), <off_t>offset)
        if got > 0:
            chunks_feed(digests, buffer, got)
            offset += got
        elif got == 0:
            return FILE_SHORTER
        elif errno != EINTR:
            return errno
    return FILE_WHOLE


cdef int digest_range(
    int fd, int64_t offset, int64_t end, uint32_t chunk_size, uint8_t* out
) except? -2:
    """Writes the digests of a file's chunks, counted from `offset`; the GIL is released for all of it."""
    cdef ChunkDigests digests
    cdef int outcome
    cdef uint8_t* buffer = <uint8_t*>malloc(READ_BYTES)
    if buffer == NULL:
        raise MemoryError
    with nogil:
        chunks_begin(&digests, chunk_size, out)
        outcome = feed_range(fd, offset, end, &digests, buffer)
        chunks_finish(&digests)
        free(buffer)
    if outcome == FILE_SHORTER:
        raise ValueError("the file is shorter than its size")
    if outcome != FILE_WHOLE:
        raise OSError(outcome, os.strerror(outcome))
    return 0


def chunk_digests_of_file(int fd, int64_t size, uint32_t chunk_size):
    """The xxh32 of each chunk of a file's first `size` bytes, 4 bytes big-endian each, the last chunk short.

    Reads with pread and moves no file offset; the GIL is released for the whole of it. Raises OSError with
    its errno, ValueError if the file is shorter than `size` or a number is out of range.
    """
    if not 0 <= size < FILE_END or chunk_size == 0:
        raise ValueError("size is from 0 to 2**48 - 1 and chunk_size at least 1")
    table = PyBytes_FromStringAndSize(NULL, ((size + chunk_size - 1) // chunk_size) * 4)
    digest_range(fd, 0, size, chunk_size, <uint8_t*>PyBytes_AS_STRING(table))
    return table


def xxh32_of_file(int fd, int64_t offset, uint32_t size):
    """The xxh32 of `size` bytes (at least 1) of a file from `offset`: of the irregular first or last chunk of
    a transfer. As chunk_digests_of_file otherwise."""
    cdef uint8_t out[4]
    if not 0 <= offset < FILE_END or size == 0:
        raise ValueError("offset is from 0 to 2**48 - 1 and size at least 1")
    digest_range(fd, offset, offset + size, size, out)
    return <uint32_t>out[0] << 24 | out[1] << 16 | out[2] << 8 | out[3]


def xxh32(data):
    """XXH32 with seed 0 of any contiguous buffer."""
    cdef Py_buffer view
    cdef uint32_t digest
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < 4096:  # shorter than a hand-over of the GIL
            digest = xxh32_of(<const uint8_t*>view.buf, view.len)
        else:
            with nogil:
                digest = xxh32_of(<const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return digest

"""Chunks of a download: order and xxh32 at once, MD5 when enough devices have bytes to fill the lanes.

Bytes wait for the lanes where they were received. So a buffer is not written again before `flush_hashes`, and
nobody looks at a device's MD5 while `last_job` says that bytes of it wait.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from otagate.bench.common cimport line_push, protocol_error
from otagate.bench.state cimport JOBS_MAX, Device, Download, Engine
from otagate.hashing.chunks cimport xxh32_begin, xxh32_digest, xxh32_feed
from otagate.hashing.lanes cimport Md5Job, md5_begin, md5_digest, md5_feed_many


cdef void download_begin(Engine* engine, Device* device) noexcept nogil:
    if device.download.last_job != NULL:
        flush_hashes(engine)
    device.download.offset = 0
    device.download.finished = 0
    md5_begin(&device.download.md5)


cdef uint64_t big_endian(const uint8_t* data, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | data[i]
    return value


cdef bint chunk_begin(Engine* engine, Device* device, const uint8_t* header, uint64_t size) noexcept nogil:
    cdef Download* download = &device.download
    cdef uint64_t offset = big_endian(header + 8, 8)
    cdef uint64_t expected
    download.ignored = big_endian(header, 4) != download.transfer
    download.chunk_left = size
    if download.ignored:
        return True
    expected = min(
        engine.settings.chunk_size - offset % engine.settings.chunk_size, device.upgrade.size - offset
    )
    if offset != download.offset or offset >= device.upgrade.size or size != expected:
        engine.counters.chunk_errors += 1
        protocol_error(engine, b"a chunk of wrong place or length")
        return False
    download.chunk_xxh32 = <uint32_t>big_endian(header + 4, 4)
    xxh32_begin(&download.xxh32)
    return True


cdef void add_job(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef Md5Job* job
    if engine.job_count == JOBS_MAX:
        flush_hashes(engine)
    job = &engine.jobs[engine.job_count]
    engine.job_count += 1
    job.md5 = &device.download.md5
    job.data = data
    job.size = size
    job.next = NULL
    if device.download.last_job != NULL:
        device.download.last_job.next = job
    else:
        engine.heads[engine.head_count] = job
        engine.owners[engine.head_count] = device
        engine.head_count += 1
    device.download.last_job = job


cdef void chunk_data(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil:
    cdef Download* download = &device.download
    download.chunk_left -= size
    engine.counters.image_bytes += size
    if download.ignored:
        return
    download.offset += size
    if engine.settings.verify and data != NULL:
        xxh32_feed(&download.xxh32, data, size)
        add_job(engine, device, data, size)
    if download.chunk_left:
        return
    engine.counters.chunks += 1
    if engine.settings.verify and xxh32_digest(&download.xxh32) != download.chunk_xxh32:
        engine.counters.chunk_errors += 1
    if download.offset == device.upgrade.size:
        download.finished = 1
        if download.last_job == NULL:
            judge_soon(engine, device)


cdef void judge_soon(Engine* engine, Device* device) noexcept nogil:
    device.download.finished = 2
    line_push(&engine.finished, <uint32_t>(device - engine.devices))


cdef void flush_hashes(Engine* engine) noexcept nogil:
    cdef uint32_t i
    cdef Device* device
    md5_feed_many(engine.heads, engine.head_count)
    for i in range(engine.head_count):
        device = engine.owners[i]
        device.download.last_job = NULL
        if device.download.finished == 1:
            judge_soon(engine, device)
    engine.head_count = 0
    engine.job_count = 0


cdef bint md5_is_right(Device* device) noexcept nogil:
    cdef uint8_t digest[16]
    md5_digest(&device.download.md5, digest)
    return memcmp(digest, device.upgrade.md5, 16) == 0

# MD5 of many streams at once, a stream in each lane of the processor's vectors. Nothing here allocates, keeps a
# pointer past a call or takes the GIL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Md5:
    uint32_t state[4]
    uint64_t size               # bytes fed so far
    uint8_t pending[64]         # the last size % 64 bytes, not yet in the state

cdef struct Md5Job:
    Md5* md5
    const uint8_t* data         # the stream's next bytes
    size_t size
    Md5Job* next                # the bytes behind these, of the same stream

cdef void md5_begin(Md5* md5) noexcept nogil

# Feeds every job and those chained behind it. No two of `jobs` may be of one stream.
cdef void md5_feed_many(Md5Job** jobs, size_t count) noexcept nogil

# 16 bytes; the stream can be fed on.
cdef void md5_digest(const Md5* md5, uint8_t* out) noexcept nogil

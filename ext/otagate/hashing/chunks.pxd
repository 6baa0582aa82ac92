# xxh32 (seed 0), whole or bit by bit, and the digests of an image's chunks. Nothing here allocates, keeps a
# pointer past a call (but ChunkDigests.out, which its owner keeps large enough) or takes the GIL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Xxh32:
    uint32_t lanes[4]
    uint64_t size               # bytes fed so far
    uint8_t pending[16]         # the last size % 16 bytes, not yet in the lanes

cdef struct ChunkDigests:
    Xxh32 chunk                 # of the chunk being fed
    uint32_t chunk_size
    uint8_t* out                # where the next digest goes: 4 bytes big-endian, as on the wire

cdef uint32_t xxh32_of(const uint8_t* data, size_t size) noexcept nogil

cdef void xxh32_begin(Xxh32* state) noexcept nogil
cdef void xxh32_feed(Xxh32* state, const uint8_t* data, size_t size) noexcept nogil
cdef uint32_t xxh32_digest(const Xxh32* state) noexcept nogil   # the state can be fed on

# Chunks are cut at multiples of chunk_size from the first byte fed. chunks_feed writes the digest of each
# chunk that it completes; chunks_finish that of the last, short one, if there is one.
cdef void chunks_begin(ChunkDigests* digests, uint32_t chunk_size, uint8_t* out) noexcept nogil
cdef void chunks_feed(ChunkDigests* digests, const uint8_t* data, size_t size) noexcept nogil
cdef void chunks_finish(ChunkDigests* digests) noexcept nogil

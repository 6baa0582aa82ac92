# Chunks of a download: their order, their xxh32, and the MD5 over all.

from libc.stdint cimport uint8_t, uint64_t

from otagate.bench.state cimport Device, Engine

cdef void download_begin(Engine* engine, Device* device) noexcept nogil     # from the first byte

# The header of a chunk with `size` bytes of data. False: it must not come here, and was counted.
cdef bint chunk_begin(Engine* engine, Device* device, const uint8_t* header, uint64_t size) noexcept nogil
# The next bytes of its data, which stay where they are until flush_hashes; data NULL: they were dropped unread.
cdef void chunk_data(Engine* engine, Device* device, const uint8_t* data, size_t size) noexcept nogil

# Runs the lanes. Downloads that are complete get on the line `finished`.
cdef void flush_hashes(Engine* engine) noexcept nogil
cdef bint md5_is_right(Device* device) noexcept nogil

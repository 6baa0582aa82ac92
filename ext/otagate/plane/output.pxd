# Queues of frames to be written, in pooled blocks.

from libc.stdint cimport uint8_t, uint64_t

from otagate.plane.state cimport Connection, Core

# Queues bytes as they are, or as one frame of the connection's link. 0, or -1: no memory, nothing queued.
cdef int queue_bytes(Core* core, Connection* connection, const uint8_t* data, uint64_t size) noexcept nogil
cdef int queue_frame(
    Core* core, Connection* connection, uint8_t opcode, const uint8_t* payload, uint64_t size) noexcept nogil

# Writes the queue. 0: all of it; else TRANSPORT_AGAIN or TRANSPORT_LOST.
cdef ssize_t flush(Core* core, Connection* connection) noexcept nogil
cdef void drop_output(Core* core, Connection* connection) noexcept nogil
cdef void destroy_pool(Core* core) noexcept nogil

# What Python orders. A stale number, and a connection that is being closed, are passed over.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from otagate.plane.state cimport Core, Job

cdef void order_send(
    Core* core, uint64_t number, uint8_t opcode, const uint8_t* payload, uint64_t size) noexcept nogil
cdef void order_admit(Core* core, uint64_t number, uint64_t device) noexcept nogil
cdef void order_retry(Core* core, uint64_t number) noexcept nogil
cdef void order_stream(Core* core, uint64_t number, uint64_t image, Job* job) noexcept nogil
cdef void order_stop(Core* core, uint64_t number, int64_t transfer) noexcept nogil
cdef void order_close(
    Core* core, uint64_t number, uint16_t code, const uint8_t* reason, uint64_t size) noexcept nogil
# Writes to all connections that were ordered something: at most one send each.
cdef void flush_touched(Core* core) noexcept nogil

# The only calls that move bytes of a link. What they return if not a number of bytes: Outcome in state.

from libc.stdint cimport uint8_t, uint64_t

from otagate.plane.state cimport Connection, Core
from otagate.plane.system cimport iovec

cdef ssize_t receive(
    Core* core, Connection* connection, uint8_t* buffer, size_t size) noexcept nogil    # 0: the peer's FIN
cdef ssize_t send_vector(
    Core* core, Connection* connection, iovec* vector, size_t count, bint more) noexcept nogil
cdef ssize_t send_file(
    Core* core, Connection* connection, int fd, uint64_t offset, size_t size) noexcept nogil

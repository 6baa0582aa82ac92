# The only calls that move bytes through a socket.

from libc.stdint cimport uint8_t, uint64_t

from otagate.plane.state cimport Connection, Core
from otagate.plane.system cimport iovec

# What each returns if it is not a number of bytes.
cdef enum:
    TRANSPORT_AGAIN = -1                # the kernel will say when to go on
    TRANSPORT_LOST = -2                 # the connection is gone
    TRANSPORT_UNREADABLE = -3           # the file is: truncated, or an error of its disk

cdef ssize_t receive(
    Core* core, Connection* connection, uint8_t* buffer, size_t size) noexcept nogil    # 0: the peer's FIN
cdef ssize_t send_vector(
    Core* core, Connection* connection, iovec* vector, size_t count, bint more) noexcept nogil
cdef ssize_t send_file(
    Core* core, Connection* connection, int fd, uint64_t offset, size_t size) noexcept nogil

# First bytes: which link, its handshake, our challenge.

from libc.stdint cimport uint8_t

from otagate.plane.state cimport Connection, Core

# Takes what it can of the first bytes of a connection (`fresh` of them just arrived), and returns how many.
cdef size_t take_opening(
    Core* core, Connection* connection, uint8_t* data, size_t size, size_t fresh) noexcept nogil

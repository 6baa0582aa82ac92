# How long the messages of a handshake may be.

from libc.stdint cimport uint8_t

from otagate.plane.state cimport Flight

# Follows these bytes from the client, which come next. False: they announce a message that is too long.
cdef bint follow(Flight* flight, const uint8_t* data, size_t size) noexcept nogil

# PROXY headers, and who may send them.

from libc.stdint cimport uint8_t

from otagate.plane.state cimport Connection, Core
from otagate.plane.system cimport sockaddr_storage

# What was taken of a header, if not its bytes.
cdef enum:
    PROXY_MORE = 0                      # it is not whole yet
    PROXY_REFUSED = -1                  # broken, or from somebody who may not
    PROXY_MEMORY = -2
    PROXY_CROWDED = -3                  # too many strangers of the address that it names

# May speak for others.
cdef bint is_trusted(Core* core, const sockaddr_storage* address) noexcept nogil
# Keeps the address for whom it speaks, and counts the stranger behind it.
cdef int take_proxy_header(
    Core* core, Connection* connection, const uint8_t* data, size_t size) noexcept nogil

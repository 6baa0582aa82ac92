# PROXY headers, and who may send them.

from libc.stdint cimport uint8_t

from otagate.plane.state cimport Connection, Core

# What was taken of a header, if not its bytes.
cdef enum:
    PROXY_MORE = 0                      # it is not whole yet
    PROXY_REFUSED = -1                  # broken, or from somebody who may not
    PROXY_MEMORY = -2

cdef int take_proxy_header(
    Core* core, Connection* connection, const uint8_t* data, size_t size) noexcept nogil

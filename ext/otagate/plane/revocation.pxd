# Ends connections whose certificate was revoked.

from libc.stdint cimport uint8_t, uint32_t

from otagate.plane.state cimport Core

# `lists`: CRLs, PEM. Python is told CLOSED of those that it admitted. 0, or -1: no memory, and none has ended.
cdef int end_revoked(Core* core, const uint8_t* lists, uint32_t size) noexcept nogil

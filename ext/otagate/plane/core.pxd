# The plane's life and its turns.

from libc.stdint cimport int64_t

from otagate.plane.state cimport Bounds, Core

cdef Core* create_core(const Bounds* bounds, int* failure) noexcept nogil   # NULL, and an errno
cdef void destroy_core(Core* core) noexcept nogil                       # closes every descriptor
# One drain; its events wait in core.events.
cdef void run(Core* core, int64_t budget_ns) noexcept nogil

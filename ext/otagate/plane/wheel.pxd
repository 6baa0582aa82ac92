# The clock, and the wheel of deadlines.

from libc.stdint cimport int64_t, uint32_t

from otagate.plane.state cimport Connection, Core

cdef enum:
    FOREVER = 0x7FFFFFFF                # milliseconds; a deadline that never comes


cdef inline int64_t age_ms(Core* core, uint32_t then) noexcept nogil:
    """Milliseconds since a time noted in a connection; right for 49 days."""
    return <uint32_t>(<uint32_t>core.now_ms - then)


cdef int create_wheel(Core* core) noexcept nogil                        # 0, or -1
cdef void destroy_wheel(Core* core) noexcept nogil
cdef void read_clock(Core* core) noexcept nogil
cdef void schedule(Core* core, Connection* connection, int64_t left_ms) noexcept nogil
cdef void unschedule(Core* core, Connection* connection) noexcept nogil
cdef void turn_wheel(Core* core) noexcept nogil                         # those due: flag DUE, ready list
cdef void arm_timer(Core* core) noexcept nogil                          # the descriptor: readable in a tick
cdef void wake(Core* core) noexcept nogil                               # readable at once
cdef void set_alarm(Core* core, int64_t ns) noexcept nogil              # readable then, beside that; 1 or more

# Slots of connections, their numbers, and the ready list.

from libc.stdint cimport uint32_t, uint64_t

from otagate.plane.state cimport Connection, Core, Line, SLOT_BITS


cdef inline uint32_t slot_of(Core* core, Connection* connection) noexcept nogil:
    return <uint32_t>(connection - core.connections)


cdef inline uint64_t number_of(Core* core, Connection* connection) noexcept nogil:
    """What Python calls it. Positive, below 2**52."""
    return slot_of(core, connection) | <uint64_t>connection.generation << SLOT_BITS


cdef inline bint has_turns(Core* core) noexcept nogil:
    return core.ready.count > 0 or core.streaming.count > 0 or core.shaking.count > 0


cdef int create_table(Core* core) noexcept nogil                        # 0, or -1: no memory
cdef void destroy_table(Core* core) noexcept nogil
cdef Connection* find(Core* core, uint64_t number) noexcept nogil       # NULL: stale, or never given
cdef Connection* claim(Core* core) noexcept nogil                       # NULL: all slots are taken
cdef void release(Core* core, Connection* connection) noexcept nogil
cdef void enqueue(Core* core, Connection* connection) noexcept nogil    # once: a second time does nothing
cdef Connection* dequeue(Core* core, Line* line) noexcept nogil         # NULL: a free slot, skip it
cdef void touch(Core* core, Connection* connection) noexcept nogil      # once, too
cdef Connection* untouch(Core* core) noexcept nogil                     # NULL: likewise

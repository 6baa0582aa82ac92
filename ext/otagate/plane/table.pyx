"""Slots of connections, their numbers, and the ready list.

All slots are one mapping made at the start, as large as `connections_max` asks, so a connection never
moves and a pointer to it stays good for as long as the connection lives. The kernel gives pages as slots
are first used, and the slot freed last is used next, so few connections touch few pages.

Python and epoll name a connection by slot and generation. The generation grows whenever a slot is freed,
so a number that outlived its connection finds nothing: `find` is the one door, and who holds a number
rather than a pointer goes through it.

The ready list is a queue of slots that wait for a turn, linked through the slots themselves; those in a TLS
handshake, and those that have but a file to send, wait in lines of their own, so that nobody else waits behind
them. Invariant: a slot is on one of the three exactly if QUEUED is set. A connection that ends stays on it
(one cannot take a link from the middle), and so QUEUED and `ready_next` belong to the slot: they outlive the
connection, and a new one in the same slot may get a turn that it did not ask for, which finds nothing to do.
The list of touched connections (those that one `apply` writes to) is made in the same way.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from otagate.plane.state cimport (
    PHASE_FREE, QUEUED, READABLE, SHAKING, SLOT_BITS, SLOT_MASK, TOUCHED, Connection, Core, Line,
)
from otagate.plane.system cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)


cdef size_t table_bytes(Core* core) noexcept nogil:
    return (<size_t>core.bounds.connections_max + 1) * sizeof(Connection)


cdef int create_table(Core* core) noexcept nogil:
    cdef void* memory = mmap(
        NULL, table_bytes(core), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if memory == MAP_FAILED:
        return -1
    core.connections = <Connection*>memory
    return 0


cdef void destroy_table(Core* core) noexcept nogil:
    if core.connections != NULL:
        munmap(core.connections, table_bytes(core))
        core.connections = NULL


cdef Connection* find(Core* core, uint64_t number) noexcept nogil:
    cdef uint32_t slot = number & SLOT_MASK
    cdef Connection* connection = core.connections + slot
    if slot == 0 or slot > core.slots_used:
        return NULL
    if connection.phase == PHASE_FREE or connection.generation != number >> SLOT_BITS:
        return NULL
    return connection


cdef Connection* claim(Core* core) noexcept nogil:
    cdef Connection* connection
    if core.free_slot:
        connection = core.connections + core.free_slot
        core.free_slot = connection.wheel_next
        connection.wheel_next = 0
    elif core.slots_used < core.bounds.connections_max:
        core.slots_used += 1
        connection = core.connections + core.slots_used
        connection.generation = 1
    else:
        return NULL
    core.count += 1
    return connection


cdef void release(Core* core, Connection* connection) noexcept nogil:
    cdef uint32_t generation = connection.generation + 1
    cdef uint32_t ready_next = connection.ready_next
    cdef uint32_t touched_next = connection.touched_next
    cdef uint32_t listed = connection.flags & (QUEUED | TOUCHED)
    memset(connection, 0, sizeof(Connection))
    connection.generation = generation if generation else 1
    connection.ready_next = ready_next
    connection.touched_next = touched_next
    connection.flags = <uint16_t>listed
    connection.wheel_next = core.free_slot
    core.free_slot = slot_of(core, connection)
    core.count -= 1


cdef Line* line_of(Core* core, Connection* connection) noexcept nogil:
    if connection.flags & SHAKING:
        return &core.shaking
    if connection.transfer != NULL and connection.transfer.running and not connection.flags & READABLE:
        return &core.streaming
    return &core.ready


cdef void enqueue(Core* core, Connection* connection) noexcept nogil:
    cdef uint32_t slot = slot_of(core, connection)
    cdef Line* line = line_of(core, connection)
    if connection.flags & QUEUED:
        return
    connection.flags |= QUEUED
    connection.ready_next = 0
    if line.last:
        core.connections[line.last].ready_next = slot
    else:
        line.first = slot
    line.last = slot
    line.count += 1


cdef Connection* dequeue(Core* core, Line* line) noexcept nogil:
    cdef Connection* connection = core.connections + line.first
    line.first = connection.ready_next
    if line.first == 0:
        line.last = 0
    line.count -= 1
    connection.flags &= ~QUEUED
    return connection if connection.phase != PHASE_FREE else NULL


cdef void touch(Core* core, Connection* connection) noexcept nogil:
    cdef uint32_t slot = slot_of(core, connection)
    if connection.flags & TOUCHED:
        return
    connection.flags |= TOUCHED
    connection.touched_next = 0
    if core.touched_last:
        core.connections[core.touched_last].touched_next = slot
    else:
        core.touched_first = slot
    core.touched_last = slot


cdef Connection* untouch(Core* core) noexcept nogil:
    cdef Connection* connection = core.connections + core.touched_first
    core.touched_first = connection.touched_next
    if core.touched_first == 0:
        core.touched_last = 0
    connection.flags &= ~TOUCHED
    return connection if connection.phase != PHASE_FREE else NULL

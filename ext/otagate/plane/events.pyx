"""What Python will be told: a vector of events, and an arena for the payloads of one drain.

Events are pushed without the GIL and made into tuples at the end of the drain, all at once. Payloads up to
ARENA_MESSAGE_BYTES_MAX are copied one behind another into the arena, which starts anew with each drain;
larger ones, and those that came in parts, have memory of their own, which the event owns.

Invariant: events with a payload are pushed only in a drain, and only while fewer than `events_max` events
wait. So they are all among the first `events_max`, every drain hands all of them out, and the arena (with
room for that many) is free again at the next. Events without payload, which `apply` may push in any
number, may wait for several drains.

An event that cannot be stored for want of memory would leave Python with a connection that never ends, so
that is fail-stop.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from otagate.plane.state cimport (
    ARENA_MESSAGE_BYTES_MAX, EVENT_CLOSED, Connection, Core, Event,
)
from otagate.plane.system cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from otagate.plane.table cimport number_of


cdef int create_events(Core* core) noexcept nogil:
    cdef void* memory
    core.events_capacity = core.bounds.events_max
    core.events = <Event*>malloc(core.events_capacity * sizeof(Event))
    core.arena_size = <uint64_t>core.bounds.events_max * ARENA_MESSAGE_BYTES_MAX
    memory = mmap(
        NULL, core.arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    core.arena = NULL if memory == MAP_FAILED else <uint8_t*>memory
    return -1 if core.events == NULL or core.arena == NULL else 0


cdef void destroy_events(Core* core) noexcept nogil:
    if core.events != NULL:
        forget_events(core, core.events_size)
    free(core.events)
    core.events = NULL
    if core.arena != NULL:
        munmap(core.arena, core.arena_size)
        core.arena = NULL


cdef Event* push_blank(Core* core, uint16_t kind) noexcept nogil:
    cdef Event* event
    if core.events_size == core.events_capacity:
        core.events_capacity *= 2
        core.events = <Event*>realloc(core.events, core.events_capacity * sizeof(Event))
        if core.events == NULL:
            abort()
    event = core.events + core.events_size
    core.events_size += 1
    memset(event, 0, sizeof(Event))
    event.kind = kind
    return event


cdef Event* push(Core* core, Connection* connection, uint16_t kind) noexcept nogil:
    cdef Event* event = push_blank(core, kind)
    event.connection = number_of(core, connection)
    event.identity = connection.identity
    return event


cdef void push_message(
    Core* core, Connection* connection, uint16_t kind, const uint8_t* payload, uint64_t size
) noexcept nogil:
    cdef Event* event = push(core, connection, kind)
    event.payload = core.arena + core.arena_used
    event.size = size
    memcpy(event.payload, payload, size)
    core.arena_used += size


cdef void push_gathered(
    Core* core, Connection* connection, uint16_t kind, uint8_t* payload, uint64_t size
) noexcept nogil:
    cdef Event* event = push(core, connection, kind)
    event.payload = payload
    event.size = size
    event.owned = True


cdef void push_closed(Core* core, uint64_t number, uint64_t device, uint16_t code) noexcept nogil:
    cdef Event* event = push_blank(core, EVENT_CLOSED)
    event.connection = number
    event.identity.device = device
    event.code = code


cdef void push_transfer(
    Core* core, Connection* connection, uint16_t kind, uint32_t transfer, uint16_t reason
) noexcept nogil:
    cdef Event* event = push(core, connection, kind)
    event.transfer = transfer
    event.code = reason


cdef void forget_events(Core* core, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if core.events[i].owned:
            free(core.events[i].payload)
    core.events_size -= count
    memmove(core.events, core.events + count, core.events_size * sizeof(Event))

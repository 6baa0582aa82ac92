# What Python will be told: a vector of events, and an arena for the payloads of one drain.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from otagate.plane.state cimport Connection, Core

cdef int create_events(Core* core) noexcept nogil                       # 0, or -1: no memory
cdef void destroy_events(Core* core) noexcept nogil

# `payload`, of at most ARENA_MESSAGE_BYTES_MAX, is copied …
cdef void push_message(
    Core* core, Connection* connection, uint16_t kind, const uint8_t* payload, uint64_t size) noexcept nogil
# … or handed over: malloc'ed by the caller, freed by events.
cdef void push_gathered(
    Core* core, Connection* connection, uint16_t kind, uint8_t* payload, uint64_t size) noexcept nogil
cdef void push_closed(Core* core, uint64_t number, uint64_t device, uint16_t code) noexcept nogil
cdef void push_transfer(
    Core* core, Connection* connection, uint16_t kind, uint32_t transfer, uint16_t reason) noexcept nogil

# Forgets the first `count` events, which Python has, and frees the payloads they owned.
cdef void forget_events(Core* core, uint32_t count) noexcept nogil

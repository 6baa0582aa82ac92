"""How many connections of one address have not logged in yet.

A fleet sits behind one address, so an address may have any number of sessions. What it may not do is fill
the table with connections that say nothing: those that have not logged in are counted by address (IPv6:
by /64, which is what one customer is given), and above the bound a new one is closed as it is accepted.

The counts are buckets, found by a hash with a key of this process. Two addresses may share one: then they
share the bound. That costs a fixed 128 KiB, and nobody can make it more; nobody outside can choose to share.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from otagate.plane.state cimport STRANGER_BUCKETS, Connection, Core
from otagate.plane.system cimport (
    AF_INET, AF_INET6, getrandom, sockaddr_in, sockaddr_in6, sockaddr_storage,
)

cdef const char* MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"  # ::ffff:0:0/96, an IPv4 address


cdef int create_strangers(Core* core) noexcept nogil:
    core.strangers = <uint16_t*>calloc(STRANGER_BUCKETS, sizeof(uint16_t))
    if core.strangers == NULL:
        return -1
    return 0 if getrandom(&core.strangers_key, 8, 0) == 8 else -1


cdef void destroy_strangers(Core* core) noexcept nogil:
    free(core.strangers)
    core.strangers = NULL


cdef uint16_t bucket_of(Core* core, const sockaddr_storage* address) noexcept nogil:
    """1 to 65535; 0: an address of another family, which is not counted."""
    cdef uint32_t narrow
    cdef uint64_t mixed = 0
    cdef uint8_t* wide
    if address.ss_family == AF_INET:
        mixed = (<const sockaddr_in*>address).sin_addr.s_addr
    elif address.ss_family == AF_INET6:
        wide = (<sockaddr_in6*>address).sin6_addr.s6_addr
        if memcmp(wide, MAPPED, 12) == 0:
            memcpy(&narrow, wide + 12, 4)
            mixed = narrow
        else:
            memcpy(&mixed, wide, 8)
    else:
        return 0
    mixed ^= core.strangers_key  # then the finalizer of splitmix64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9ULL
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBULL
    mixed ^= mixed >> 31
    return <uint16_t>(1 + mixed % (STRANGER_BUCKETS - 1))


cdef bint find_bucket(Core* core, const sockaddr_storage* address, uint16_t* bucket) noexcept nogil:
    bucket[0] = bucket_of(core, address)
    return bucket[0] == 0 or core.strangers[bucket[0]] < core.bounds.strangers_per_address_max


cdef void count_stranger(Core* core, Connection* connection, uint16_t bucket) noexcept nogil:
    connection.stranger = bucket
    if bucket:
        core.strangers[bucket] += 1


cdef void forget_stranger(Core* core, Connection* connection) noexcept nogil:
    if connection.stranger:
        core.strangers[connection.stranger] -= 1
        connection.stranger = 0

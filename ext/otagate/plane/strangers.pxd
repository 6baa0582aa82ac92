from libc.stdint cimport uint16_t

from otagate.plane.state cimport Connection, Core
from otagate.plane.system cimport sockaddr_storage

cdef int create_strangers(Core* core) noexcept nogil
cdef void destroy_strangers(Core* core) noexcept nogil

# Its address's bucket (0: not counted) goes to `bucket`. False: too many are there.
cdef bint find_bucket(Core* core, const sockaddr_storage* address, uint16_t* bucket) noexcept nogil
cdef void count_stranger(Core* core, Connection* connection, uint16_t bucket) noexcept nogil
# It has logged in, or is gone. May be called again.
cdef void forget_stranger(Core* core, Connection* connection) noexcept nogil

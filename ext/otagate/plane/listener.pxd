# Listening sockets, and their rest.

from libc.stdint cimport uint64_t

from otagate.plane.state cimport Core, Security

# What epoll's data holds if it is not the number of a connection (those are below 2**52).
cdef inline uint64_t tag_of_timer() noexcept nogil:
    return <uint64_t>1 << 62

cdef inline uint64_t tag_of_alarm() noexcept nogil:
    return <uint64_t>1 << 61

cdef inline uint64_t tag_of_listener(int index) noexcept nogil:
    return <uint64_t>1 << 63 | <uint64_t>index

cdef int add_listener(Core* core, int fd, Security security) noexcept nogil    # 0: it owns fd; else an errno
cdef void drop_listeners(Core* core) noexcept nogil
cdef void rest(Core* core) noexcept nogil                               # accept nothing for now
cdef void rouse(Core* core) noexcept nogil                              # try again, if there is room

"""Listening sockets, and their rest.

Listeners are level-triggered: what an accept batch leaves behind is reported again by the next poll. When
nothing more can be accepted (`connections_max`, or no descriptor or memory left) a level-triggered listener
would be reported for ever, so all listeners leave epoll: they rest. They are tried again whenever a
connection ends, and at each tick of the timer, in case the want was not of our making.

Invariant: a listener is in epoll exactly if `resting` is false.
"""

from libc.errno cimport ENOSPC, errno
from libc.string cimport memset
from posix.unistd cimport close

from otagate.plane.state cimport LISTENERS_MAX, Core, Security
from otagate.plane.system cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, epoll_ctl, epoll_event


cdef int watch(Core* core, int index) noexcept nogil:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u64 = tag_of_listener(index)
    return epoll_ctl(core.epoll, EPOLL_CTL_ADD, core.listeners[index].fd, &event)


cdef int add_listener(Core* core, int fd, Security security) noexcept nogil:
    cdef int index = 0
    while index < LISTENERS_MAX and core.listeners[index].fd >= 0:
        index += 1
    if index == LISTENERS_MAX:
        return ENOSPC
    core.listeners[index].fd = fd
    core.listeners[index].security = security
    if not core.resting and watch(core, index) < 0:
        core.listeners[index].fd = -1
        return errno
    return 0


cdef void drop_listeners(Core* core) noexcept nogil:
    cdef int index
    for index in range(LISTENERS_MAX):
        if core.listeners[index].fd >= 0:
            # The caller's descriptor keeps the socket open, so closing ours would not take it out of epoll.
            if not core.resting:
                epoll_ctl(core.epoll, EPOLL_CTL_DEL, core.listeners[index].fd, NULL)
            close(core.listeners[index].fd)
            core.listeners[index].fd = -1
    core.resting = False


cdef void rest(Core* core) noexcept nogil:
    cdef int index
    if core.resting:
        return
    core.resting = True
    for index in range(LISTENERS_MAX):
        if core.listeners[index].fd >= 0:
            epoll_ctl(core.epoll, EPOLL_CTL_DEL, core.listeners[index].fd, NULL)


cdef void rouse(Core* core) noexcept nogil:
    cdef int index
    if not core.resting or core.count >= core.bounds.connections_max:
        return
    core.resting = False
    for index in range(LISTENERS_MAX):
        if core.listeners[index].fd >= 0 and watch(core, index) < 0:
            rest(core)
            return

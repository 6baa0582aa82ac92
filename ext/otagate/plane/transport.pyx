"""The only calls that move bytes of a link: receive, send, sendfile.

The layer below the frames (TLS) has its place here and nowhere else: everything above speaks of bytes of the
link, of AGAIN, of a peer that is gone. A caller goes on until it is told AGAIN, or until fewer bytes moved
than asked for; both mean that an edge from epoll will follow. (A file may also move in smaller pieces than
were asked for.)

No write can raise SIGPIPE: send is told MSG_NOSIGNAL, and CPython ignores the signal, which sendfile has no
flag for.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EIO, EOVERFLOW, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from posix.types cimport off_t

from otagate.plane.state cimport (
    TRANSPORT_AGAIN, TRANSPORT_LOST, TRANSPORT_UNREADABLE,
    Connection, Core,
)
from otagate.plane.system cimport MSG_MORE, MSG_NOSIGNAL, iovec, msghdr, recv, sendfile, sendmsg
from otagate.plane.tls cimport is_secured, receive_opened, send_file_sealed, send_sealed


cdef ssize_t receive(Core* core, Connection* connection, uint8_t* buffer, size_t size) noexcept nogil:
    cdef ssize_t received
    if is_secured(connection):
        return receive_opened(core, connection, buffer, size)
    while True:
        received = recv(connection.fd, buffer, size, 0)
        if received >= 0:
            core.counters.bytes_in += <uint64_t>received
            return received
        if errno == EAGAIN:
            return TRANSPORT_AGAIN
        if errno != EINTR:
            return TRANSPORT_LOST


cdef void limit_vector(iovec* vector, size_t* count, size_t bytes_max) noexcept nogil:
    """Cuts a vector short: a test's way to stop a write at any byte."""
    cdef size_t i
    for i in range(count[0]):
        if vector[i].iov_len >= bytes_max:
            vector[i].iov_len = bytes_max
            count[0] = i + 1
            return
        bytes_max -= vector[i].iov_len


cdef ssize_t send_vector(
    Core* core, Connection* connection, iovec* vector, size_t count, bint more
) noexcept nogil:
    cdef msghdr message
    cdef ssize_t sent
    if is_secured(connection):
        return send_sealed(core, connection, vector, count, more)
    if core.write_bytes_max:
        limit_vector(vector, &count, core.write_bytes_max)
    memset(&message, 0, sizeof(message))
    message.msg_iov = vector
    message.msg_iovlen = count
    while True:
        sent = sendmsg(connection.fd, &message, MSG_NOSIGNAL | (MSG_MORE if more else 0))
        if sent >= 0:
            core.counters.bytes_out += <uint64_t>sent
            return sent
        if errno == EAGAIN:
            return TRANSPORT_AGAIN
        if errno != EINTR:
            return TRANSPORT_LOST


cdef ssize_t send_file(
    Core* core, Connection* connection, int fd, uint64_t offset, size_t size
) noexcept nogil:
    cdef off_t position = <off_t>offset
    cdef ssize_t sent
    if is_secured(connection):
        return send_file_sealed(core, connection, fd, offset, size)
    if core.write_bytes_max:
        size = min(size, <size_t>core.write_bytes_max)
    while True:
        sent = sendfile(connection.fd, fd, &position, size)
        if sent > 0:
            core.counters.bytes_out += <uint64_t>sent
            core.counters.bytes_streamed += <uint64_t>sent
            return sent
        if sent == 0:  # the file ends here
            return TRANSPORT_UNREADABLE
        if errno == EAGAIN:
            return TRANSPORT_AGAIN
        if errno in (EIO, EINVAL, EBADF, EOVERFLOW):
            return TRANSPORT_UNREADABLE
        if errno != EINTR:
            return TRANSPORT_LOST
